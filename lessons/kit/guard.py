"""What a bad day must not break: a command that is stopped, two at once, a disk that is full."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lessons.kit.errors import LessonsError

INTERRUPTED = 130
"""The exit code of a command that was stopped, as a shell's."""

NO_ROOM = {
    errno.ENOSPC: "the disk is full: make room, then run the command again",
    errno.EDQUOT: "your share of the disk is full: make room, then run the command again",
    errno.EROFS: "the disk is read-only: let $LESSONS_MY or a clone of your own lie elsewhere",
    errno.EACCES: "you may not write there: let $LESSONS_MY or a clone of your own lie elsewhere",
    errno.EPERM: "you may not write there: let $LESSONS_MY or a clone of your own lie elsewhere",
}


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; no `except Exception` on the way takes it for an error."""


def stop_on_signals() -> None:
    """Raise `Stopped` at Ctrl-C and SIGTERM; the second one ends the process at once."""

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        raise Stopped

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)


def in_words(error: OSError, path: Path | None = None) -> str:
    """A disk that cannot be written to, in one sentence that names the file."""
    where = path or error.filename2 or error.filename or "nothing"
    why = NO_ROOM.get(error.errno or 0) or error.strerror or str(error)
    return f"{where} cannot be written: {why}"


def write_whole(path: Path, text: str) -> None:
    """Write beside the goal, then rename: nobody ever sees half a file.

    Raises LessonsError where it cannot be written; what was there is there still.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise LessonsError(in_words(error, path)) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Work in a folder alone: a second command is told who works there.

    The lock is the operating system's, so that one whose holder was killed is free. Raises
    LessonsError where the folder is held or cannot be written to.
    """
    lock, note = FileLock(folder / ".lock"), folder / ".held"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        with suppress(OSError):
            raise LessonsError(
                f"{folder} is in use by {note.read_text(encoding='utf-8').strip()}: wait until it "
                "has ended, or stop it"
            ) from None
        raise LessonsError(f"{folder} is in use by another command: wait for it") from None
    except OSError as error:
        raise LessonsError(in_words(error)) from error
    try:
        command = " ".join(["lessons", *sys.argv[1:]])
        write_whole(note, f"{command} (process {os.getpid()}, since {datetime.now():%H:%M})\n")
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()
