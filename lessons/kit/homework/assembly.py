"""A package with the student's functions in place of the reference's, built from source.

Names are never bound anew in a module that is loaded: a model captures its parts when it is
defined. So `my/build/lessons/NAME.py` is the course's module with the definition of each part
replaced by the student's, and who imports it gets the student's.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.guard import write_whole
from lessons.kit.homework.parts import Part
from lessons.kit.names import bound, imported, statements, text_of

COUNTED = "from lessons.kit.homework.trial import counted"


@dataclass(frozen=True)
class Place:
    """Where a part stands in a built module, by lines, to be found again in a traceback."""

    part: Part
    module: Path
    first: int
    last: int


def folder() -> Path:
    """Where the package is built."""
    return places.my() / "build" / "lessons"


def source(lesson: str) -> Path:
    """The course's module of a lesson."""
    return places.ROOT / "lessons" / f"{lesson}.py"


def build(parts: Sequence[Part]) -> list[Place]:
    """Write the modules that have a part of the student's; no other module is there afterwards.

    A part that the lesson's module does not define is left out. Raises LessonsError, naming the
    part, where its text cannot be used, and where the modules cannot be written.
    """
    texts: dict[str, str] = {}
    used = [part for part in parts if part.name in functions_of(part.lesson)]
    for part in used:
        text = texts.get(part.lesson) or source(part.lesson).read_text(encoding="utf-8")
        texts[part.lesson] = _with_part(text, part)
    for old in folder().glob("*.py") if folder().is_dir() else ():
        if old.stem not in texts:
            old.unlink()
    for lesson, text in texts.items():
        _, _, rest = text.partition("\n")
        texts[lesson] = (
            f"# Built by `lessons mine` from lessons/{lesson}.py and your parts.\n{rest}"
        )
        write_whole(folder() / f"{lesson}.py", texts[lesson])
    return [place for part in used for place in _places_of(part, texts[part.lesson])]


def functions_of(lesson: str) -> set[str]:
    """The functions that a lesson's module defines; none where there is no such module."""
    return {node.name for node in _tree(lesson).body if isinstance(node, ast.FunctionDef)}


def reached(system: str) -> list[tuple[str, str]]:
    """The functions of lessons that a system is made of, (lesson, function).

    They are all that its own module defines, what it imports from other lessons, and what these
    use in turn, by name.
    """
    seen: set[tuple[str, str]] = set()
    definitions = cache(_definitions)
    ahead = [(system, name) for name in definitions(system)]
    while ahead:
        lesson, name = ahead.pop()
        there = definitions(lesson)
        if (lesson, name) in seen or name not in there:
            continue
        seen.add((lesson, name))
        for node in there[name]:
            if name in imported(node):
                home, own = _of_lesson(imported(node)[name])
                ahead += [(home, each) for each in ([own] if own else definitions(home))]
            else:
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                ahead += [(lesson, each) for each in names & there.keys()]
    functions = cache(functions_of)
    return sorted((lesson, name) for lesson, name in seen if name in functions(lesson))


def _definitions(lesson: str) -> dict[str, list[ast.stmt]]:
    """The names that a lesson's module binds, and where; none where there is no such module."""
    found: dict[str, list[ast.stmt]] = {}
    for node in _tree(lesson).body:
        for name in bound(node):
            found.setdefault(name, []).append(node)
    return found


def _of_lesson(line: str) -> tuple[str, str]:
    """The lesson that an import takes a name from, and the name; "" for the module itself."""
    (node,) = ast.parse(line).body
    home = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    package, _, rest = (home + node.names[0].name).partition(".")
    lesson, _, own = rest.partition(".")
    return (lesson, own) if package == "lessons" else ("", "")


def _tree(lesson: str) -> ast.Module:
    path = source(lesson)
    return ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")


# ---------------------------------------------------------------- one part in a module


def _with_part(text: str, part: Part) -> str:
    """The module's text with one function replaced by the student's, counted when it is called."""
    tree, lines = ast.parse(text), text.split("\n")
    try:
        cell = ast.parse(part.text)
    except (SyntaxError, ValueError) as error:
        raise LessonsError(f"{places.shown(part.path)} does not parse: {error}") from None
    found = statements(cell, part.name)
    if found is None:
        raise LessonsError(f"{places.shown(part.path)} does not define {part.name}: check it again")
    function, needed = found
    there = {line for node in tree.body for line in imported(node).values()}
    needed = [node for node in needed if not imported(node) or set(imported(node).values()) - there]
    if any("*" in imported(node) for node in cell.body):
        raise LessonsError(
            f"{places.shown(part.path)} has an import *: name what it imports, and check it again"
        )
    says = [f"# Yours, from my/parts/{part.lesson}/{part.name}.py"]
    own = [f'@counted("{part.lesson}/{part.name}")', *text_of(function, part.text.split("\n"))]
    body = says + (own if not needed else _nested(part, function, needed, own))
    (old,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == part.name]
    first = old.end_lineno - len(text_of(old, lines))
    lines[first : old.end_lineno] = body
    if COUNTED not in lines:
        last_import = max(n.end_lineno for n in tree.body if imported(n))
        lines.insert(last_import, COUNTED)
    return "\n".join(lines)


def _nested(
    part: Part, function: ast.FunctionDef, needed: list[ast.stmt], own: list[str]
) -> list[str]:
    """The function with its helpers, inside a function of its own: no name meets another."""
    cell, local = part.text.split("\n"), {name for node in needed for name in bound(node)}
    around, name = f"_yours_{part.name}", part.name
    lines = [f"def {around}():"]
    for node in [*needed, function]:
        text = own if node is function else text_of(node, cell)
        head = len(text) - (node.end_lineno - node.lineno + 1)  # decorators and the counter
        first = node.lineno - head
        inside, shared = set(_inside_strings(node)), _global_lines(node, local)
        for number, line in enumerate(text, start=first):
            lines.append(shared.get(number) or (line if number in inside else f"    {line}"))
    return [*lines, f"    return {name}", "", "", f"{name} = {around}()"]


def _inside_strings(node: ast.stmt) -> Iterator[int]:
    """The numbers of lines that begin inside a string: they must stay as they are."""
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr) or (
            isinstance(each, ast.Constant) and isinstance(each.value, str | bytes)
        ):
            yield from range(each.lineno + 1, each.end_lineno + 1)


def _global_lines(node: ast.stmt, local: set[str]) -> dict[int, str]:
    """`global x` of a name that now stands around the function: it becomes `nonlocal x`."""
    return {
        each.lineno: f"{' ' * (each.col_offset + 4)}nonlocal {', '.join(each.names)}"
        for each in ast.walk(node)
        if isinstance(each, ast.Global) and set(each.names) <= local
    }


def _places_of(part: Part, text: str) -> Iterator[Place]:
    """Where the part stands in the built text."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in (part.name, f"_yours_{part.name}"):
            first = node.end_lineno - len(text_of(node, text.split("\n"))) + 1
            yield Place(part, folder() / f"{part.lesson}.py", first, node.end_lineno)
