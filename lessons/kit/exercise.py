"""The homework's machinery: `f = check(f)` under a stub compares it with the reference.

`check` prints one line and returns the student's function if it is right, the reference if
not, so that the notebook always runs to its end. A submission runs in a thread of its own on
copies of the inputs, under a time limit. One thing it cannot survive: a call into C that never
returns and never lets another thread run (`sum(range(10**12))`) holds up the whole kernel.
"""

import copy
import ctypes
import html
import inspect
import linecache
import random
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SEED = 0
SHOWN_LINES = 20  # of what a submission prints
SHOWN_ELEMENTS = 8  # larger tensors are described by type and shape
YOUR_TURN = "NotImplementedError: your turn"  # what the stubs raise
KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer, and a hint that leads to the insight without giving the solution."""

    name: str
    function: Callable
    hint: str


@dataclass(frozen=True)
class Exercise:
    """What a student is asked to write: the reference's `__name__` is the exercise's name.

    `inputs` yields tuples of arguments, drawn with the generator that it is given. `tolerance`
    is absolute and relative. `seconds` is the time limit for all inputs together. `call` says
    how a submission is used, where more than its value counts (a module, a gradient); it must
    return what can be compared: tensors, arrays, numbers, strings, None, and lists, tuples,
    dicts and dataclasses of them. Raises ValueError for fewer than two known mistakes.
    """

    reference: Callable
    inputs: Callable[[torch.Generator], Iterable[tuple]]
    mistakes: Sequence[Mistake]
    points: int
    minutes: int
    stretch: bool = False
    tolerance: float | int = 1e-6
    seconds: float | int = 10.0
    call: Callable = lambda function, *arguments: function(*arguments)

    def __post_init__(self):
        if len(self.mistakes) < 2:
            raise ValueError(f"{self.name} needs two known mistakes, not {len(self.mistakes)}")

    @property
    def name(self) -> str:
        return self.reference.__name__


@dataclass(frozen=True)
class Verdict:
    """The judgement on a submission: "passed", "to do" or "wrong", and the line that says so."""

    state: str
    message: str
    mistake: Mistake | None = None
    printed: tuple[str, ...] = ()  # the first lines that the submission printed


class Homework:
    """The exercises of a lesson and how far the student has come.

    Raises ValueError where two exercises have one name.
    """

    def __init__(self, title: str, exercises: Sequence[Exercise]):
        self.title = title
        self.exercises = {exercise.name: exercise for exercise in exercises}
        if len(self.exercises) < len(exercises):
            raise ValueError(f"{title}: two exercises have one name")
        self.states = dict.fromkeys(self.exercises, "to do")

    def exercise(self, name: str) -> Exercise:
        """The exercise of that name. Raises KeyError where there is none."""
        if name not in self.exercises:
            raise KeyError(f"no exercise {name}; there are {', '.join(self.exercises)}")
        return self.exercises[name]

    def check(self, submission: object) -> object:
        """Compare a submission with the reference of its name and print one line about it.

        Returns the submission if it is right, the reference if not, and what is no exercise
        unchanged.
        """
        name = getattr(submission, "__name__", None)
        if not callable(submission) or name not in self.exercises:
            what = name if callable(submission) and name else _describe(submission)
            print(f"✗ {what} is not an exercise: these are {', '.join(self.exercises)}")
            return submission
        exercise = self.exercises[name]
        if submission is exercise.reference:  # left by an earlier check: judging it says nothing
            print(f"○ {name}: this is the reference; run the cell that defines yours first")
            return submission
        verdict = judge(exercise, submission)
        self.states[name] = verdict.state
        print("\n│ ".join([verdict.message, *verdict.printed]))
        return submission if verdict.state == "passed" else exercise.reference

    def score_board(self) -> "ScoreBoard":
        """The exercises with points, minutes and state, as they stand now."""
        exercises = self.exercises.values()
        return ScoreBoard(self.title, [(each, self.states[each.name]) for each in exercises])


@dataclass(frozen=True)
class ScoreBoard:
    """A table of the exercises, as text and as HTML."""

    title: str
    rows: list[tuple[Exercise, str]]

    def _cells(self) -> list[tuple[str, str, str, str]]:
        cells = [("exercise", "points", "minutes", "state")]
        for exercise, state in self.rows:
            points = f"{exercise.points if state == 'passed' else 0} of {exercise.points}"
            name = exercise.name + " (stretch)" * exercise.stretch
            cells.append((name, points, str(exercise.minutes), state))
        for total, stretch in (("total", False), ("total (stretch)", True)):
            counted = [(each, state) for each, state in self.rows if each.stretch is stretch]
            if counted:
                reached = sum(each.points for each, state in counted if state == "passed")
                points = f"{reached} of {sum(each.points for each, _ in counted)}"
                cells.append((total, points, str(sum(each.minutes for each, _ in counted)), ""))
        return cells

    def __repr__(self) -> str:
        cells = self._cells()
        first, second, third, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = [f"{a:{first}}  {b:>{second}}  {c:>{third}}  {d}".rstrip() for a, b, c, d in cells]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        rows = [map(html.escape, row) for row in self._cells()]
        body = "".join("<tr><td>" + "</td><td>".join(row) + "</td></tr>" for row in rows)
        return f"<table><caption>{html.escape(self.title)}</caption>{body}</table>"


def judge(exercise: Exercise, submission: Callable) -> Verdict:
    """Compare a submission with the reference and, if it is wrong, with the known mistakes.

    Prints nothing and leaves the random states, the default dtype and the warnings as they were.
    Raises ValueError where the exercise has no inputs and TypeError where they are not tuples.
    """
    with _untouched():
        inputs = list(exercise.inputs(torch.Generator().manual_seed(SEED)))
        if not inputs:
            raise ValueError(f"{exercise.name}: inputs yields nothing to check with")
        if not all(isinstance(arguments, tuple) for arguments in inputs):
            raise TypeError(f"{exercise.name}: inputs must yield tuples of arguments")
        return _verdict(exercise, inputs, _run(exercise, submission, inputs, exercise.seconds))


def _verdict(exercise: Exercise, inputs: list[tuple], run: "_Run") -> Verdict:
    state, line, mistake = _findings(exercise, inputs, run)
    if run.printed.count > SHOWN_LINES:
        count = f"more than {SHOWN_LINES}" if run.stopped else run.printed.count
        line += f"; it printed {count} lines"
    if mistake is not None:
        line += f". Known mistake, {mistake.name}: {mistake.hint}"
    return Verdict(state, line, mistake, tuple(run.printed.shown()))


def _findings(
    exercise: Exercise, inputs: list[tuple], run: "_Run"
) -> tuple[str, str, Mistake | None]:
    name, points = exercise.name, f"{exercise.points} point{'s' * (exercise.points != 1)}"
    if run.stopped:
        given = _given(exercise, inputs[len(run.outcomes)])
        line = f"✗ {name}: {given}it was still running after {exercise.seconds:g} s"
        if run.abandoned:
            line += " and cannot be stopped: restart the kernel to get rid of it"
        return "wrong", line, None
    # PyTorch raises NotImplementedError too, with a text: that is an attempt, not a stub.
    unwritten = [re.match(r"NotImplementedError( \(|$)", outcome.text) for outcome in run.outcomes]
    if all(unwritten) or any(outcome.text.startswith(YOUR_TURN) for outcome in run.outcomes):
        return "to do", f"○ {name}: to do ({points}, about {exercise.minutes} minutes)", None
    expected = _run(exercise, exercise.reference, inputs).outcomes
    for arguments, wanted, outcome in zip(inputs, expected, run.outcomes, strict=True):
        problem = _problem(exercise, wanted, outcome)
        if problem:
            line = f"✗ {name}: {_given(exercise, arguments)}{problem}"
            return "wrong", line, _known_mistake(exercise, inputs, expected, run.outcomes)
    return "passed", f"✓ {name}: passed, {exercise.points} of {points}", None


def _known_mistake(
    exercise: Exercise,
    inputs: list[tuple],
    expected: Sequence["_Outcome"],
    outcomes: Sequence["_Outcome"],
) -> Mistake | None:
    """The known mistake with the same outcome on every input, or else on every telling one.

    Telling are the inputs on which the mistake itself is wrong and the submission returned
    something; two at least. So an empty input that is mishandled too does not hide a mistake.
    """
    runs = [(each, _run(exercise, each.function, inputs).outcomes) for each in exercise.mistakes]
    for mistake, wrong in runs:
        pairs = zip(wrong, outcomes, strict=True)
        if not any(_problem(exercise, *pair) for pair in pairs):
            return mistake
    for mistake, wrong in runs:
        telling = [
            (bad, outcome)
            for bad, wanted, outcome in zip(wrong, expected, outcomes, strict=True)
            if outcome.error is None and _problem(exercise, wanted, bad)
        ]
        if len(telling) >= 2 and not any(_problem(exercise, *pair) for pair in telling):
            return mistake
    return None


# Running a function that may do anything


class _TimeUp(SystemExit):
    """Raised in a submission's thread when its time is up (threads end silently by SystemExit)."""


@dataclass(frozen=True)
class _Outcome:
    """What came of one call: a value, or an exception and what it said."""

    value: object = None
    arguments: tuple = ()  # as the call left them
    error: type[BaseException] | None = None
    text: str = ""


class _Printed:
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
    """A standard stream, except for what one thread prints."""

    def __init__(self, stream: Any, thread: threading.Thread, printed: _Printed):
        self._stream, self._thread, self._printed = stream, thread, printed

    def write(self, text: str) -> int:
        own = threading.current_thread() is self._thread
        return (self._printed if own else self._stream).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass(frozen=True)
class _Run:
    outcomes: list[_Outcome]
    printed: _Printed
    stopped: bool
    abandoned: bool


def _run(
    exercise: Exercise, function: Callable, inputs: list[tuple], seconds: float | int = np.inf
) -> _Run:
    """Call a function on a copy of each input, in a thread that is stopped after `seconds`."""
    outcomes: list[_Outcome] = []
    copies = [copy.deepcopy(arguments) for arguments in inputs]
    time_up, finished = threading.Event(), threading.Event()
    namespace = _namespace(function)

    def work():
        for arguments in copies:
            _seed()
            try:
                outcome = _Outcome(exercise.call(function, *arguments), arguments)
            except BaseException as error:
                said = traceback.format_exception_only(error)[0]
                outcome = _Outcome(
                    None, (), type(error), _one_line(said) + _place(error, namespace)
                )
            if time_up.is_set():  # also if the function turned _TimeUp into something else
                return
            outcomes.append(outcome)
        finished.set()

    thread = threading.Thread(target=work, daemon=True)
    printed = _Printed()
    with _untouched(), _without_exit(namespace), _captured(thread, printed):
        thread.start()
        try:
            _wait(thread, finished, seconds)
        finally:  # also on the user's KeyboardInterrupt
            time_up.set()
            _wait(thread, finished, 1, _TimeUp)
    done = list(outcomes)
    return _Run(done, printed, len(done) < len(inputs), thread.is_alive())


def _wait(
    thread: threading.Thread,
    finished: threading.Event,
    seconds: float | int,
    error: type[BaseException] | None = None,
):
    """Wait for a thread, and raise an error in it again and again: it may be caught there.

    Not by `thread.join`: interrupted, it takes a running thread for dead (Python 3.11). And not
    in one go, because on Windows Ctrl-C is heard only between two waits.
    """
    end = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < end:
        if error is not None:
            ident = ctypes.c_ulong(thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(error))
        finished.wait(0.05 if error is None else 0.002)


@contextmanager
def _untouched() -> Iterator[None]:
    """Restore random states, default dtype and warnings; the grad mode is each thread's own."""
    dtype = torch.get_default_dtype()
    states = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _seed()
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(states[0])
            random.setstate(states[1])


def _seed():
    torch.default_generator.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


@contextmanager
def _captured(thread: threading.Thread, printed: _Printed) -> Iterator[None]:
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
    source = _one_line(linecache.getline(code.co_filename, line))
    place = f"line {line - code.co_firstlineno + 1} of {code.co_name}"
    return f" ({place}: {source})" if source else f" ({place})"


# Comparing


def _problem(exercise: Exercise, expected: _Outcome, outcome: _Outcome) -> str | None:
    """What is wrong with an outcome, in words, or None."""
    wanted = _an(expected.error.__name__) if expected.error else _describe(expected.value)
    if outcome.error is not None:
        names = [kind.__name__ for kind in outcome.error.__mro__]  # a notebook's class is its own
        if expected.error and expected.error.__name__ in names:
            return None
        return f"expected {wanted}, but it raised {outcome.text}"
    if expected.error:
        return f"expected {wanted}, got {_describe(outcome.value)}"
    found = difference(expected.value, outcome.value, exercise.tolerance)
    if found:
        return f"expected {wanted}, got {_describe(outcome.value)}: {found}"
    arguments = zip(expected.arguments, outcome.arguments, strict=True)
    for name, pair in zip(_names(exercise, expected.arguments), arguments, strict=True):
        if difference(*map(_data, pair), tolerance=0):
            return f"it changes {name or 'an argument'} in place: work on a copy"
    return None


def difference(
    expected: object, value: object, tolerance: float | int, place: str = ""
) -> str | None:
    """Where and how a value differs from the expected one, in words, or None.

    Precision, list or tuple, and number or tensor without dimensions are all the same; type,
    shape and kind (bool, int, float) are not. NaN equals NaN.
    """
    at = f"at result{place}, " if place else ""
    a, b = _array(expected), _array(value)
    types = [_type(expected), _type(value)]
    if a is not None and b is not None and (types[0] == types[1] or a.ndim == b.ndim == 0):
        if a.shape != b.shape:
            return f"{at}shape {b.shape} where {a.shape} is expected"
        kinds = KINDS[a.dtype.kind], KINDS[b.dtype.kind]
        if kinds[0] != kinds[1] and not (kinds[0] == "float" and type(value) is int):
            return f"{at}{kinds[1]} where {kinds[0]} is expected"
        found = _largest_difference(a, b, tolerance)
        return found and at + found
    parts, own = _parts(expected), _parts(value)
    sequences = isinstance(expected, list | tuple) and isinstance(value, list | tuple)
    if types[0] != types[1] and not sequences:
        return f"{at}{types[1]} where {types[0]} is expected"
    if parts is None or own is None:
        if expected is value or (a is None and b is None and expected == value):
            return None
        return f"{at}{_describe(value)} where {_describe(expected)} is expected"
    if len(parts) != len(own):
        return f"{at}length {len(own)} where {len(parts)} is expected"
    if parts.keys() != own.keys():
        return f"{at}{_describe(list(own))} where {_describe(list(parts))} is expected"
    found = (difference(parts[key], own[key], tolerance, place + key) for key in parts)
    return next(filter(None, found), None)


def _largest_difference(
    expected: np.ndarray, value: np.ndarray, tolerance: float | int
) -> str | None:
    if expected.dtype.kind in "fc":
        wrong = ~np.isclose(value, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        wrong = value != expected
    if not wrong.any():
        return None
    with np.errstate(invalid="ignore"):
        gaps = np.abs(np.subtract(value, expected, dtype=complex))
    gaps = np.where(wrong, np.where(np.isnan(gaps), np.inf, gaps), -1)
    index = np.unravel_index(gaps.argmax(), gaps.shape)
    found = f"{_numbers(value[index])} where {_numbers(expected[index])} is expected"
    if expected.dtype.kind != "b" and np.isfinite(gaps[index]):
        found = f"largest difference {gaps[index]:.3g}, {found}"
    if wrong.size > 1:
        at = ", ".join(map(str, index))
        found += f" at [{at}], {wrong.sum()} of {wrong.size} entries differ"
    return found


def _array(value: object) -> np.ndarray | None:
    """Numbers as an array; None for what is not made of numbers."""
    if isinstance(value, Tensor):
        try:
            value = value.detach().cpu().to_dense().resolve_conj().resolve_neg()
            return (value.double() if value.is_floating_point() else value).numpy()
        except Exception:  # a tensor without data, a nested one …
            return None
    is_number = isinstance(value, bool | int | float | complex | np.ndarray | np.generic)
    array = np.asarray(value) if is_number else None
    return array if is_number and array.dtype.kind in KINDS else None


def _parts(value: object) -> dict[str, object] | None:
    """What a list, tuple, mapping or dataclass consists of; None for anything else."""
    if isinstance(value, list | tuple):
        return {f"[{index}]": part for index, part in enumerate(value)}
    if isinstance(value, Mapping):
        return {f"[{key!r}]": part for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {f".{field.name}": getattr(value, field.name, None) for field in fields(value)}
    return None


def _data(argument: object) -> object:
    """The part of an argument that a function must not change."""
    if isinstance(argument, nn.Module):
        return dict(argument.state_dict())
    is_data = _array(argument) is not None or _parts(argument) is not None
    return argument if is_data else None


# Words


def _names(exercise: Exercise, arguments: tuple) -> list[str]:
    """What the arguments are called by `call` or the reference; empty where it does not say."""
    parameters = list(inspect.signature(exercise.call).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        parameters = list(inspect.signature(exercise.reference).parameters.values())
    names = [parameter.name for parameter in parameters[: len(arguments)]]
    return names if len(names) == len(arguments) else [""] * len(arguments)


def _given(exercise: Exercise, arguments: tuple) -> str:
    named = zip(_names(exercise, arguments), map(_describe, arguments), strict=True)
    given = ", ".join(f"{name} = {words}" if name else words for name, words in named)
    return f"given {given}, " if given else ""


def _describe(value: object, depth: int = 0) -> str:
    """A value in a few words: itself when small, otherwise its type and shape."""
    array, parts = _array(value), _parts(value)
    if array is not None:
        small = array.ndim == 0 or 0 < array.size <= SHOWN_ELEMENTS
        kind = "" if small else str(value.dtype).removeprefix("torch.")
        return _numbers(array) if small else f"{kind} {array.shape}"
    if isinstance(value, str):
        return _one_line(repr(value), 60)
    if parts is None or depth == 2 or len(parts) > SHOWN_ELEMENTS:
        return _type(value)
    words = {key.strip("[.]'"): _describe(part, depth + 1) for key, part in parts.items()}
    if isinstance(value, list | tuple):
        text = ", ".join(words.values())
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    return f"{type(value).__name__}({', '.join(f'{key}={words[key]}' for key in words)})"


def _type(value: object) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, np.ndarray):
        return "a numpy array"
    if isinstance(value, bool | int | float | complex | np.generic):
        return "a number"
    return "None" if value is None else _an(type(value).__name__)


def _numbers(array: np.ndarray | np.generic) -> str:
    if array.ndim:
        return "[" + ", ".join(map(_numbers, array)) + "]"
    if array.dtype.kind != "f":
        return str(array)
    text = f"{array:.4g}"
    return text if set(text) & set(".en") else text + "."


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"


def _one_line(text: str, length: int = 200) -> str:
    """One short line without memory addresses, which differ from run to run."""
    text = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
