"""Running a function that may do anything: in a thread of its own, on copies, for a time."""

import contextlib
import copy
import ctypes
import inspect
import linecache
import os
import pkgutil
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from lessons.kit.homework.exercise import Exercise
from lessons.kit.homework.words import one_line

SEED = 0
SHOWN_LINES = 20  # of what a submission prints
WAITING = 6  # times the limit on processor time: whoever sleeps or waits is not waited for longer


class _TimeUp(SystemExit):
    """Raised in a submission's thread when its time is up (threads end silently by SystemExit)."""


@dataclass(frozen=True)
class Outcome:
    """What came of one call: a value, or an exception and what it said."""

    value: object = None
    arguments: tuple = ()  # as the call left them
    error: type[BaseException] | None = None
    text: str = ""


class Printed:
    """Counts the lines that are written to it and keeps the first."""

    def __init__(self):
        self.count = 0
        self._text = ""

    def write(self, text: str) -> int:
        if len(self._text) < 200 * SHOWN_LINES:
            self._text += text
        self.count += text.count("\n")
        return len(text)

    def shown(self) -> list[str]:
        """The lines, shortened; none where there are too many."""
        lines = self._text.splitlines()
        return [line[:200] for line in lines] if self.count <= SHOWN_LINES else []


class _Stream:
    """A standard stream, except for what one thread prints. It cannot be closed."""

    def __init__(self, stream: Any, thread: threading.Thread, printed: Printed):
        self._stream, self._thread, self._printed = stream, thread, printed

    def write(self, text: str) -> int:
        own = threading.current_thread() is self._thread
        return (self._printed if own else self._stream).write(text)

    def close(self) -> None:
        """Nothing: what comes after still has to be printed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass(frozen=True)
class Run:
    outcomes: list[Outcome]
    printed: Printed
    stopped: bool
    abandoned: bool
    working: bool = True  # what was stopped had used up its processor time; else it waited


def run_all(
    exercise: Exercise, function: Callable, inputs: list[tuple], seconds: float | int = np.inf
) -> Run:
    """Call a function on a copy of each input, in a thread that is stopped after `seconds`.

    They are the thread's own seconds of processor time, so that neither a busy machine nor a
    slow disk counts; one that sleeps is stopped after `WAITING` times as many by the clock.
    """
    outcomes: list[Outcome] = []
    clock = Clock()
    copies = [copy.deepcopy(arguments) for arguments in inputs]
    time_up, finished = threading.Event(), threading.Event()
    namespace = _namespace(function)

    def work():
        clock.begin()
        for arguments in copies:
            seed_everything()
            try:
                outcome = Outcome(exercise.call(function, *arguments), arguments)
            except BaseException as error:
                said = traceback.format_exception_only(error)[0]
                outcome = Outcome(None, (), type(error), one_line(said) + _place(error, namespace))
            if time_up.is_set():  # also if the function turned _TimeUp into something else
                return
            outcomes.append(outcome)
        finished.set()

    thread = threading.Thread(target=work, daemon=True)
    printed = Printed()
    with untouched(), _without_exit(namespace), _captured(thread, printed):
        thread.start()
        try:
            _wait(thread, finished, WAITING * seconds, until=lambda: clock.now() >= seconds)
        finally:  # also on the user's KeyboardInterrupt
            working = clock.now() >= seconds
            time_up.set()
            _wait(thread, finished, 1, _TimeUp)
    done = list(outcomes)
    return Run(done, printed, len(done) < len(inputs), thread.is_alive(), working)


class Clock:
    """Seconds of processor time of the thread that began it.

    Where a thread has no clock that others can read (macOS, Windows), those of the process.
    """

    def __init__(self):
        self._read: Callable[[], float] = lambda: 0.0
        self._start = self._last = 0.0

    def begin(self) -> None:
        """Read from now on the time of the thread that calls this."""
        self._read = time.process_time
        if hasattr(time, "pthread_getcpuclockid"):
            number = time.pthread_getcpuclockid(threading.get_ident())
            self._read = partial(time.clock_gettime, number)
        self._start = self._read()

    def now(self) -> float:
        """The seconds so far; of a thread that has ended the last that were read."""
        with contextlib.suppress(OSError):
            self._last = self._read() - self._start
        return self._last


def _wait(
    thread: threading.Thread,
    finished: threading.Event,
    seconds: float | int,
    error: type[BaseException] | None = None,
    until: Callable[[], bool] = lambda: False,
):
    """Wait for a thread, and raise an error in it again and again: it may be caught there.

    Not by `thread.join`: interrupted, it takes a running thread for dead (Python 3.11). And not
    in one go, because on Windows Ctrl-C is heard only between two waits.
    """
    end = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < end and not until():
        if error is not None:
            ident = ctypes.c_ulong(thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(error))
        finished.wait(0.05 if error is None else 0.002)


@contextmanager
def untouched() -> Iterator[None]:
    """Restore random states, default dtype, warnings and the working directory; no alarm is left.

    The grad mode is each thread's own.
    """
    dtype, folder, alarm = torch.get_default_dtype(), _folder(), _alarm()
    states = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed_everything()
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(states[0])
            random.setstate(states[1])
            if folder is not None and _folder() != folder:
                os.chdir(folder)
            if not alarm and _alarm():
                signal.setitimer(signal.ITIMER_REAL, 0)


def _alarm() -> bool:
    """Whether an alarm is set; on Windows there are none."""
    return hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _folder() -> str | None:
    """The working directory; None where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None


def seed_everything():
    torch.default_generator.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


@contextmanager
def _captured(thread: threading.Thread, printed: Printed) -> Iterator[None]:
    """Keep what the thread prints; a thread that cannot be stopped stays captured."""
    streams = {name: _Stream(getattr(sys, name), thread, printed) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in streams.items():
            if not thread.is_alive():
                setattr(sys, name, stream._stream)


class NotAllowedError(Exception):
    """What the text of an exercise forbids was called."""


@contextmanager
def out_of_reach(names: Sequence[str], function: Callable) -> Iterator[None]:
    """Functions of libraries and lessons raise NotAllowedError, also under a name of the notebook.

    A name is "module.function" or "module.Class.method".
    """
    namespace, undo = _namespace(function), []

    def replace(owner: Any, attribute: str, value: Any) -> None:
        if isinstance(owner, dict):
            undo.append(partial(owner.__setitem__, attribute, owner[attribute]))
            owner[attribute] = value
        else:
            undo.append(partial(setattr, owner, attribute, getattr(owner, attribute)))
            setattr(owner, attribute, value)

    try:
        for name in names:
            place, _, attribute = name.rpartition(".")
            owner = pkgutil.resolve_name(place)
            original = getattr(owner, attribute)

            def refuse(*arguments: Any, name=attribute, **options: Any) -> None:
                raise NotAllowedError(f"{name} is not allowed in this exercise")

            replace(owner, attribute, refuse)
            for own in [key for key, value in namespace.items() if value is original]:
                replace(namespace, own, refuse)
        yield
    finally:
        for each in reversed(undo):
            each()


@contextmanager
def _without_exit(namespace: dict) -> Iterator[None]:
    """In a notebook exit() and quit() end the kernel: let them raise SystemExit instead."""
    shadowed = {"exit", "quit"} - {
        name
        for name, value in namespace.items()
        if type(value).__module__ != "IPython.core.autocall"  # a variable of the student's own
    }
    kept = {name: namespace.pop(name) for name in shadowed if name in namespace}
    namespace.update(dict.fromkeys(shadowed, sys.exit))
    try:
        yield
    finally:
        for name in shadowed:
            namespace.pop(name, None)
        namespace.update(kept)


def _namespace(function: Callable) -> dict:
    """The globals of the notebook or module that a function or a class was written in."""
    function = inspect.unwrap(function)
    module = sys.modules.get(getattr(function, "__module__", None))
    return getattr(function, "__globals__", vars(module) if module else {})


def _place(error: BaseException, namespace: dict) -> str:
    """The last line of the student's own code in the traceback, counted from its `def`."""
    frames = traceback.walk_tb(error.__traceback__)
    own = [(frame.f_code, line) for frame, line in frames if frame.f_globals is namespace]
    if not own:
        return ""
    code, line = own[-1]
    source = one_line(linecache.getline(code.co_filename, line))
    place = f"line {line - code.co_firstlineno + 1} of {code.co_name}"
    return f" ({place}: {source})" if source else f" ({place})"
