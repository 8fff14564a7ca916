"""A solution becomes what is handed out: stubs for the answers, and no answer anywhere else."""

import ast
import html
import re
from collections.abc import Iterator, Set
from keyword import iskeyword
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks.cells import (
    BEGIN,
    DEFINITIONS,
    END,
    TURN,
    Cell,
    code_cells_of,
    defined_names,
    parse,
)
from lessons.kit.notebooks.reading import METADATA

STUB = 'raise NotImplementedError("your turn")'
ANSWERS = "lessons.homework.answers"


def strip_solutions(
    solution: NotebookNode, source: str, exercises: Set[str] = frozenset()
) -> NotebookNode:
    """The notebook as handed out: stubs for the solutions, no outputs, the same cell ids.

    `exercises` names the functions that the homework asks for, beside those that the notebook
    itself hands to `check`. Raises LessonsError, naming the cell, where a solution is seen to
    be handed out.
    """
    cells = code_cells_of(solution, source)
    stubs = []
    for cell, original in zip(cells, solution.cells, strict=True):
        if original.get("attachments"):
            picture = min(original.attachments)
            raise LessonsError(f"{cell.where} has {picture!r} pasted in: draw it in a code cell")
        if TURN in cell.directives:
            raise LessonsError(f"{cell.where} has a `{TURN}`, which belongs in a lesson")
        if not cell.marked:
            _refuse_marks_of_others(original, cell.where)
        stubs.append(Cell(stub_of(cell) if cell.marked else cell.text, cell.where, cell.kind))
    code = [stub for stub in stubs if stub.kind == "code"]
    asked = exercises | _refuse_answers(exercises, code, source)
    _refuse_repetitions(cells, stubs)
    _refuse_helpers(asked, cells, code)
    for cell in cells:
        if cell.marked:
            asked |= defined_names(parse(without_markers(cell)[1], cell.where))
    for stub in code:
        _forbid_imports_of(asked, stub.text, stub.where)
    handed_out = nbformat.v4.new_notebook(metadata=METADATA)
    for stub, original in zip(stubs, solution.cells, strict=True):
        new = getattr(nbformat.v4, f"new_{stub.kind}_cell")
        tags = [tag for tag in original.metadata.get("tags", []) if tag.startswith("nbval-")]
        metadata = {"tags": tags} if tags else {}
        handed_out.cells.append(new(stub.text.lstrip("\n"), id=original.id, metadata=metadata))
    return handed_out


def exercises_of(path: Path) -> set[str]:
    """The exercises of `lessons/homework/NAME.py` that stand in the solutions, without import.

    They are what it takes from `lessons.homework.answers.NAME` and hands to `Exercise`.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except FileNotFoundError:
        return set()
    except (OSError, SyntaxError, ValueError) as error:
        raise LessonsError(f"{path} cannot be read: {error}") from None
    answers = {}  # what it calls them → what they are called
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == f"{ANSWERS}.{path.stem}":
            answers |= {alias.asname or alias.name: alias.name for alias in node.names}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node.func) == "Exercise":
            given = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "reference")]
            names |= {ast.unparse(value) for value in given}
    return {answers[name] for name in names & answers.keys()}


def stub_of(cell: Cell) -> str:
    """A marked cell as handed out. Raises LessonsError where a marker does not do its work."""
    stub, whole = without_markers(cell)
    added = _stubs_in(parse(stub, cell.where)) - _stubs_in(parse(whole, cell.where))
    if added != stub.count(STUB) - whole.count(STUB):
        raise LessonsError(f"{cell.where} has a {BEGIN} inside a string")
    if not all(_words(_without_comments(text)) for text in _solutions(cell)):
        raise LessonsError(f"{cell.where} has no code between {BEGIN} and {END}")
    return stub


def without_markers(cell: Cell) -> tuple[str, str]:
    """A cell as a stub and as a whole: the marked lines replaced, the markers taken out."""
    stub, whole, inside = [], [], False
    for line in cell.text.split("\n"):
        marker = line.strip(" \t")
        if marker in (BEGIN, END):
            if inside == (marker == BEGIN):
                raise LessonsError(f"{cell.where} has a {marker} without its partner")
            inside = marker == BEGIN
            if inside:
                stub.append(line.replace(BEGIN, STUB).rstrip(" \t"))
        else:
            whole.append(line)
            if not inside:
                stub.append(line)
    if inside:
        raise LessonsError(f"{cell.where} has a {BEGIN} without its partner")
    return "\n".join(stub), "\n".join(whole)


def _solutions(cell: Cell) -> list[str]:
    """The texts between the markers."""
    parts = re.split(rf"^[ \t]*(?:{BEGIN}|{END})[ \t]*$", cell.text, flags=re.MULTILINE)
    return parts[1::2]


def _stubs_in(tree: ast.AST) -> int:
    return sum(
        isinstance(node, ast.Raise) and ast.unparse(node) == ast.unparse(ast.parse(STUB))
        for node in ast.walk(tree)
    )


# What would hand out a solution. What can be decided is refused; the rest is the author's.


def _refuse_marks_of_others(cell: NotebookNode, where: str) -> None:
    """A cell that only a tag or another tool's metadata calls a solution."""
    nbgrader = cell.metadata.get("nbgrader")
    marks = [
        key for key in ("solution", "task") if isinstance(nbgrader, dict) and nbgrader.get(key)
    ]
    marks += [tag for tag in cell.metadata.get("tags", []) if re.search("(?i)solution|answer", tag)]
    marks += [key for key in cell.metadata if "solution" in key.casefold()]
    if marks:
        raise LessonsError(
            f"{where} is called {marks[0]!r} in its metadata and has no {BEGIN}: it would be "
            "handed out whole"
        )


def _refuse_answers(exercises: Set[str], cells: list[Cell], source: str) -> set[str]:
    """Each exercise is defined, always as a stub, and gets no other value than its check.

    Returns the functions that the notebook hands to `check`: they are exercises too.
    """
    nodes = [
        (node, cell.where)
        for cell in cells
        for node in _outside_of_functions(parse(cell.text, cell.where))
    ]
    names = {"check"} | {
        alias.asname
        for node, _ in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lessons.homework")
        for alias in node.names
        if alias.name == "check" and alias.asname
    }

    def is_check(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and _last_name(node.func) in names

    defined = {node.name for node, _ in nodes if isinstance(node, DEFINITIONS)}
    checked = set()
    for cell in cells:
        for node in ast.walk(parse(cell.text, cell.where)):
            if isinstance(node, DEFINITIONS):
                if any(_last_name(decorator) in names for decorator in node.decorator_list):
                    checked.add(node.name)
            elif isinstance(node, ast.Call):
                inside = [n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Lambda)]
                given = {n.id for n in inside if isinstance(n, ast.Name)}
                if is_check(node) and any(isinstance(n, ast.Lambda) for n in inside):
                    raise LessonsError(f"{cell.where} checks a lambda, which would be handed out")
                if is_check(node):
                    checked |= {n.id for n in node.args[:1] if isinstance(n, ast.Name)}
                if is_check(node) or given & names:  # check(function=f), map(check, [f])
                    checked |= given & defined

    stubs, wanted = set(), exercises | checked
    for node, where in nodes:
        if isinstance(node, DEFINITIONS) and node.name in wanted:
            if not _stubs_in(node):
                raise LessonsError(
                    f"{where} would hand out {node.name}: its solution must stand between "
                    f"{BEGIN} and {END}"
                )
            stubs.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inside = [n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            bound = {n.id for n in inside if isinstance(n.ctx, ast.Store)}
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            if bound & wanted and not all(map(is_check, values)):
                name = min(bound & wanted)
                raise LessonsError(f"{where} gives {name} another value than check({name})")
    if wanted - stubs:
        raise LessonsError(
            f"{source} asks for {min(wanted - stubs)}, which no code cell defines with a solution "
            f"between {BEGIN} and {END}"
        )
    return checked


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _outside_of_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that bind names of the notebook, not local ones."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, DEFINITIONS | ast.Lambda):
            yield from _outside_of_functions(node)


def _refuse_repetitions(cells: list[Cell], stubs: list[Cell]) -> None:
    """A solution that stands elsewhere too: in a cell, a docstring, a comment, in prose.

    A repetition is a row of more than half of a solution's words and signs, or of forty of
    them, imports and comments apart; of fewer than six it cannot be told. With other names for
    its variables it is a row of three quarters, and of twenty at least.
    """
    readings = []
    for stub in stubs:
        text = html.unescape(stub.text)
        for words in (_words(text.replace("#", " ")), _words(_without_comments(text))):
            readings.append((stub.where, f" {' '.join(words)} ", f" {' '.join(_shape(words))} "))
    for cell, solution in _all_solutions(cells):
        words = _words(solution)
        rows = _rows(words, min(40, max(6, len(words) // 2 + 1)))
        shapes = _rows(_shape(words), max(20, len(words) * 3 // 4 + 1))
        for where, text, shape in readings:
            found = [row for row in rows if row in text] or [row for row in shapes if row in shape]
            if found:
                raise LessonsError(
                    f"{where} would hand out a part of the solution in {cell.where.rstrip(',')}: "
                    f"{found[0].strip()}"
                )


def _rows(words: list[str], length: int) -> list[str]:
    """All rows of so many words."""
    return [f" {' '.join(words[i : i + length])} " for i in range(len(words) - length + 1)]


def _shape(words: list[str]) -> list[str]:
    """Words of code with one name for all variables: not for attributes, calls and keywords."""
    around = zip(["", *words], words, [*words[1:], ""], strict=False)
    return [
        "x" if word.isidentifier() and not (iskeyword(word) or a == "." or z == "(") else word
        for a, word, z in around
    ]


def _refuse_helpers(asked: Set[str], cells: list[Cell], stubs: list[Cell]) -> None:
    """A solution that only calls what another cell defines, or a helper named like an answer."""
    helpers = {}
    for stub in stubs:
        tree = parse(stub.text, stub.where)
        if not _stubs_in(tree):
            helpers |= dict.fromkeys(defined_names(tree) - asked, stub.where)
    for cell, solution in _all_solutions(cells):
        call = re.fullmatch(r"\s*(?:return\s+)?(\w+)\([\w\s,.=*]*\)\s*", solution)
        for name in helpers.keys() & set(_words(solution)):
            telling = re.search("(?i)answer|solution", name) or any(one in name for one in asked)
            if telling or (call and call[1] == name):
                raise LessonsError(
                    f"{helpers[name]} would hand out {name}, of which the solution in "
                    f"{cell.where.rstrip(',')} is made"
                )


def _all_solutions(cells: list[Cell]) -> Iterator[tuple[Cell, str]]:
    """Each solution's code, imports and comments apart, with its cell."""
    for cell in cells:
        if cell.marked:
            for text in map(_without_comments, _solutions(cell)):
                yield cell, re.sub(r"(?m)^\s*(from\s.*|)import\s.*", "", text)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _without_comments(text: str) -> str:
    return re.sub(r"#.*", "", text)


def _forbid_imports_of(asked: set[str], text: str, where: str) -> None:
    """A homework must not import what it asks for, nor the module of the answers."""
    modules = set()  # names under which this cell knows a module of ours
    for node in ast.walk(parse(text, where)):
        found = set()
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lessons"):
            found = asked & {alias.name for alias in node.names}
            modules |= {alias.asname or alias.name for alias in node.names}
            if "answers" in f"{node.module}.{'.'.join(alias.name for alias in node.names)}".split(
                "."
            ):
                found = {"the answers"}
            elif any(alias.name == "*" for alias in node.names):
                found = {f"everything from {node.module}"}
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.startswith("lessons")]
            modules |= {alias.asname or "lessons" for alias in ours}
            if any("answers" in alias.name.split(".") for alias in ours):
                found = {"the answers"}
        elif isinstance(node, ast.Attribute) and node.attr in asked and _root(node) in modules:
            found = {node.attr}
        elif isinstance(node, ast.Constant) and re.search(r"homework.answers", str(node.value)):
            found = {"the answers"}
        if found:
            raise LessonsError(
                f"{where} imports what the homework asks for: {', '.join(sorted(found))}"
            )


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
