"""What a student has written: the turns that passed, in `my/parts/`, and those that are owed.

A part is the text of the cell in which a function passed its check, as
`my/parts/LESSON/FUNCTION.py`; `lessons mine` builds a package from them. A turn that fell back on
the reference is a debt until it passes: `my/parts/owed.json` says since when.

Nothing here raises, and nothing is written but where a student works, in a notebook below `my/`:
where a folder cannot be written to, a check still says its line.
"""

import ast
import builtins
import inspect
import json
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.guard import write_whole
from lessons.kit.names import bound, imported, statements, taken, text_of

OWED = "owed.json"
CONSTANTS = bool | int | float | complex | str | bytes | None


@dataclass(frozen=True)
class Part:
    """A function that a student wrote, and the text of its cell."""

    lesson: str
    name: str
    path: Path
    text: str


def folder() -> Path:
    """Where the parts lie."""
    return places.my() / "parts"


def settle(lesson: str, submission: Callable, passed: bool) -> None:
    """What a check of a turn leaves: the part is kept, or owed and so said below figures."""
    if not places.at_work():
        return
    from lessons.kit import draw  # matplotlib: nobody needs it before

    name = submission.__name__
    if passed:
        keep(lesson, submission)
        draw.OWED.discard(name)
    else:
        owe(lesson, name)
        draw.OWED.add(name)


def keep(lesson: str, submission: Callable) -> bool:
    """Write the cell of a function that passed to my/parts/LESSON/FUNCTION.py, whole or not at all.

    Before it stands what the function takes from other cells of the notebook: imports, helpers,
    constants. Says whether it is kept; a debt that it was is paid then. Nothing is kept where no
    cell is found that defines it.
    """
    if not places.at_work():
        return False
    try:
        text = _whole_text(lesson, inspect.unwrap(submission))
        if text is None:
            return False
        write_whole(folder() / lesson / f"{submission.__name__}.py", text)
    except (LessonsError, OSError, SyntaxError, ValueError, TypeError, AttributeError):
        return False
    paid = f"{lesson}/{submission.__name__}"
    _write_owed({each: day for each, day in _read_owed().items() if each != paid})
    return True


def owe(lesson: str, name: str) -> None:
    """A turn that did not pass: the reference stands in for it, from today if not before."""
    if places.at_work():
        there = _read_owed()
        _write_owed({**there, f"{lesson}/{name}": there.get(f"{lesson}/{name}", f"{date.today()}")})


def kept() -> list[Part]:
    """All parts that are there, by lesson and name."""
    found = []
    for path in sorted(folder().glob("[!._]*/[!._]*.py")):
        if path.stem.isidentifier() and path.parent.name.isidentifier():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
            found.append(Part(path.parent.name, path.stem, path, text))
    return found


def read(lesson: str, name: str) -> str:
    """The text of a part. Raises LessonsError where there is none."""
    for part in kept():
        if (part.lesson, part.name) == (lesson, name):
            return part.text
    raise LessonsError(f"{places.shown(folder() / lesson / name)}.py is not there: nothing is kept")


def owed() -> dict[tuple[str, str], str]:
    """The turns that are owed, (lesson, function), and since which day; none that is kept."""
    mine = {(part.lesson, part.name) for part in kept()}
    debts = {tuple(each.partition("/")[::2]): day for each, day in _read_owed().items()}
    return {each: day for each, day in sorted(debts.items()) if each not in mine}


def _read_owed() -> dict[str, str]:
    """What the file says; one that is damaged says nothing."""
    try:
        said = json.loads((folder() / OWED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in said.items()} if isinstance(said, dict) else {}


def _write_owed(debts: dict[str, str]) -> None:
    if debts == _read_owed():
        return
    try:
        write_whole(folder() / OWED, json.dumps(dict(sorted(debts.items())), indent=1) + "\n")
    except LessonsError:
        return


# ---------------------------------------------------------------- the text of a part


def _whole_text(lesson: str, function: Callable) -> str | None:
    """The text of a function's cell, after what it takes from others; None where there is none."""
    text = _cell_of(function)
    found = statements(ast.parse(text), function.__name__)
    if found is None:
        return None
    others = _from_other_cells([found[0], *found[1]], function.__globals__, names_of(lesson))
    return "\n\n\n".join([*others, text.strip("\n")]) + "\n"


def _cell_of(function: Callable) -> str:
    return "".join(linecache.getlines(function.__code__.co_filename))


def names_of(lesson: str) -> frozenset[str]:
    """What a lesson's module binds: a part that stands in it finds these there."""
    path = places.ROOT / "lessons" / f"{lesson}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return frozenset()
    return frozenset(name for node in tree.body for name in bound(node))


def _from_other_cells(nodes: list[ast.stmt], values: dict, known: frozenset[str]) -> list[str]:
    """Code for what these statements look up in the notebook and no lesson's module has."""
    there = {name for node in nodes for name in bound(node)} | known | set(vars(builtins))
    lines = []
    for name in sorted({name for node in nodes for name in taken(node)} - there):
        if name not in values:
            continue
        said, defined = _as_code(name, values[name])
        if defined is not None:
            lines += _from_other_cells([defined], values, known | there)
        lines += [said] if said else []
    return list(dict.fromkeys(lines))


def _as_code(name: str, value: Any) -> tuple[str, ast.stmt | None]:
    """A statement that binds the name to the value, and its tree where that takes others."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}", None
    home, own = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if home not in (None, "__main__", "builtins") and isinstance(own, str):
        return f"from {home} import {own} as {name}", None
    if callable(value) and own == name:
        code = getattr(inspect.unwrap(value), "__code__", None)
        text = "".join(linecache.getlines(code.co_filename)) if code else inspect.getsource(value)
        for node in ast.parse(text).body:
            if name in bound(node) and not imported(node):
                return "\n".join(text_of(node, text.split("\n"))), node
    is_plain = isinstance(value, CONSTANTS) or (
        isinstance(value, tuple) and all(isinstance(each, CONSTANTS) for each in value)
    )
    return (f"{name} = {value!r}" if is_plain else ""), None
