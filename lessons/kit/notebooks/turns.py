"""Your turn: the cells of a lesson that the student writes, and the copy in which they are blank.

A turn is one function with a docstring in a cell that begins with `#| your turn` (after
`#| export`, where it belongs to the package). The code cell behind it hands it to `check`. In the
student's copy the body behind the docstring is the stub; where the cell has the markers of a
solution, only what stands between them is (gaps in given code).
"""

import ast
import builtins
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

from nbformat import NotebookNode

from lessons.kit.errors import LessonsError
from lessons.kit.names import imported, taken
from lessons.kit.notebooks.cells import (
    EXPORT,
    TURN,
    Cell,
    code_cells_of,
    defined_names,
    parse,
    without_lines,
)
from lessons.kit.notebooks.handing_out import STUB, stub_of, without_markers
from lessons.kit.notebooks.joining import METHOD_OF


@dataclass(frozen=True)
class Turn:
    """One function that the student writes: its cell and the cell's place in the notebook."""

    name: str
    cell: Cell
    place: int
    function: ast.FunctionDef

    @property
    def exported(self) -> bool:
        return EXPORT in self.cell.directives

    def blank(self) -> str:
        """The cell's text in the student's copy, its directives included."""
        lines = self.cell.text.split("\n")
        if self.cell.marked:
            lines = stub_of(self.cell).split("\n")
        else:
            docstring = self.function.body[0]
            lines = [*lines[: docstring.end_lineno], " " * docstring.col_offset + STUB]
        return "\n".join([*self.cell.directives, *lines[len(self.cell.directives) :]])


def turns_of(notebook: NotebookNode, source: str) -> list[Turn]:
    """The turns of a lesson, in order.

    Raises LessonsError, naming the cell, where one is not a function with a docstring, or where
    the code cell behind it does not check it; and where a solution is marked in another cell.
    """
    cells = code_cells_of(notebook, source)
    turns = []
    for place, cell in enumerate(cells):
        if TURN in cell.directives:
            function = _function_in(cell)
            turns.append(Turn(function.name, cell, place, function))
            _refuse_unchecked(turns[-1], cells[place + 1 :])
        elif cell.marked:
            raise LessonsError(f"{cell.where} marks a solution, which belongs below `{TURN}`")
    names = [turn.name for turn in turns]
    for turn in turns:
        if names.count(turn.name) > 1:
            raise LessonsError(f"{turn.cell.where} asks for {turn.name}, as another cell does")
    return turns


def with_blanks(notebook: NotebookNode, source: str) -> NotebookNode:
    """The lesson as the student begins it: each turn a stub. The notebook itself stays."""
    copy = deepcopy(notebook)
    for turn in turns_of(notebook, source):
        copy.cells[turn.place].source = turn.blank()
    return copy


def turns_module(notebook: NotebookNode, source: str, module: str) -> str | None:
    """The code of the turns that are not exported, or None where there are none.

    It imports what they use of the lesson's imports and, from `module`, of its exports. Raises
    LessonsError where one uses what a cell defines without exporting it.
    """
    turns = [turn for turn in turns_of(notebook, source) if not turn.exported]
    if not turns:
        return None
    mine, imports, bodies = {turn.name for turn in turns}, [], []
    for turn in turns:
        known = dict(_names_before(notebook, source, turn.place, module))
        text = without_markers(turn.cell)[1]
        tree = parse(text, turn.cell.where)
        outside = {name for node in tree.body for name in taken(node) if not imported(node)}
        for name in sorted(outside - mine - set(vars(builtins))):
            if name not in known:
                raise LessonsError(
                    f"{turn.cell.where} uses {name}, which a turn can only import: export it, or "
                    "make it an argument"
                )
            imports.append(known[name])
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        bodies.append(without_lines(text, nodes))
    return "\n\n".join(["\n".join(dict.fromkeys(imports)), *bodies])


def _function_in(cell: Cell) -> ast.FunctionDef:
    """The one function of a turn's cell; imports may stand beside it."""
    tree = parse(without_markers(cell)[1] if cell.marked else cell.text, cell.where)
    nodes = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if len(nodes) != 1 or not isinstance(nodes[0], ast.FunctionDef):
        raise LessonsError(f"{cell.where} must hold one function and nothing else: `{TURN}`")
    (function,) = nodes
    if any(METHOD_OF in ast.unparse(each) for each in function.decorator_list):
        raise LessonsError(f"{cell.where} has a method, and a turn is a function: `{TURN}`")
    if not ast.get_docstring(function) or len(function.body) < 2:
        raise LessonsError(f"{cell.where} needs a docstring and a body in {function.name}")
    return function


def _refuse_unchecked(turn: Turn, behind: list[Cell]) -> None:
    """The next code cell must say `f = check(f)`."""
    code = next((cell for cell in behind if cell.kind == "code"), None)
    wanted = f"{turn.name} = check({turn.name})"
    said = map(ast.unparse, parse(code.text, code.where).body) if code else ()
    if wanted not in said:
        raise LessonsError(f"{turn.cell.where} is not checked: the next code cell must {wanted}")


def _names_before(
    notebook: NotebookNode, source: str, place: int, module: str
) -> Iterator[tuple[str, str]]:
    """What the cells up to this one import or export: name and the import that brings it."""
    for cell in code_cells_of(notebook, source)[: place + 1]:
        if cell.kind != "code":
            continue
        tree = parse(without_markers(cell)[1], cell.where)
        for node in ast.walk(tree):
            yield from imported(node).items()
        if EXPORT in cell.directives:
            for name in defined_names(tree):
                yield name, f"from {module} import {name}"
