"""One source, built: notebooks become the package, solutions become the homework.

- `notebooks/NN_NAME.ipynb`: its `#| export` cells become `lessons/NAME.py`.
- `solutions/NN_NAME.ipynb`: becomes `notebooks/homework/NN_NAME.ipynb`, the solutions replaced
  by stubs; its `#| export` cells become `lessons/homework/answers/NAME.py`.

The markers are nbgrader's (`### BEGIN SOLUTION`, `### END SOLUTION`). Everything is computed
before anything is written, so a mistake in one notebook leaves every file as it was.
"""

import ast
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lessons.kit.errors import LessonsError
from lessons.kit.places import ROOT

EXPORT = "#| export"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = 'raise NotImplementedError("your turn")'
MARK = "# Built by `lessons build` from "


def build(root: Path = ROOT, check: bool = False) -> list[Path]:
    """Build what is stale and return it; with `check`, change nothing and only return it.

    Raises LessonsError, naming notebook and cell, where a notebook breaks a rule of the
    house, and naming the file where a built file's notebook is gone: nothing is deleted.
    """
    wanted = _wanted_files(root)
    for path in _built_files(root):
        if path not in wanted:
            raise LessonsError(
                f"{path.relative_to(root)} was built from a notebook that is gone: delete it"
            )
    stale = sorted(path for path, text in wanted.items() if _read(path) != text)
    if not check:
        for path in stale:
            _write_whole(path, wanted[path])
    return stale


def _wanted_files(root: Path) -> dict[Path, str]:
    """The text of every built file, by path."""
    wanted = {}

    def want(path: Path, text: str) -> None:
        if path.suffix == ".py" and path.exists() and not _is_built(path):
            raise LessonsError(
                f"{path.relative_to(root)} is written by hand, a build would replace it"
            )
        if path in wanted:
            raise LessonsError(
                f"two notebooks build {path.relative_to(root)}, give one another name"
            )
        wanted[path] = text

    for path in sorted((root / "notebooks").glob("*.ipynb")):
        module = export_module(read_notebook(path), path.relative_to(root).as_posix())
        if module:
            want(root / "lessons" / f"{lesson_name(path)}.py", module)
    for path in sorted((root / "solutions").glob("*.ipynb")):
        source = path.relative_to(root).as_posix()
        solution = read_notebook(path)
        answers = export_module(solution, source)
        if answers:
            want(root / "lessons/homework/answers" / f"{lesson_name(path)}.py", answers)
        handed_out = strip_solutions(solution, source)
        want(root / "notebooks/homework" / path.name, nbformat.writes(handed_out) + "\n")
    return wanted


def lesson_name(path: Path) -> str:
    """`03_roi_align.ipynb` → `roi_align`. Raises LessonsError for another form of name."""
    match = re.fullmatch(r"\d\d_([a-z][a-z0-9_]*)", path.stem)
    if not match:
        raise LessonsError(f"{path.name} must be named as in 03_roi_align.ipynb")
    return match[1]


# ---------------------------------------------------------------- notebook → module


def export_module(notebook: nbformat.NotebookNode, source: str) -> str | None:
    """The module that the exported cells make, or None where nothing is exported.

    The docstring is the notebook's title and first sentence, the imports are gathered at
    the top. `source` names the notebook in the module's first line and in errors.
    """
    cells = []
    for cell in _code_cells(notebook, source):
        if cell.text.split("\n", 1)[0].rstrip() == EXPORT:
            cells.append(Cell(cell.text.removeprefix(EXPORT), cell.where))
    if not cells:
        return None
    imports, bodies, homes = [], [], {}
    for cell in cells:
        _, text = _without_markers(cell)
        tree = _parse(text, cell.where)
        for name in _defined_names(tree):
            if name in homes:
                raise LessonsError(f"{cell.where} exports {name} again, it stands in {homes[name]}")
            homes[name] = cell.where.rstrip(",")
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imports += [ast.unparse(node) for node in nodes]
        bodies.append(_without_lines(text, nodes))
    title, sentence = _title_and_first_sentence(notebook, source)
    head = f'{MARK}{source}: edit that, not this.\n"""{title}.\n\n{sentence}\n"""'
    return _formatted("\n\n".join([head, "\n".join(imports), *bodies]))


def _formatted(text: str) -> str:
    """The module as ruff writes it: imports sorted and merged, blank lines where they belong."""
    first_party = 'lint.isort.known-first-party = ["lessons"]'
    for command in (
        ["check", "--quiet", "--select", "I", "--fix", "--config", first_party],
        ["format"],
    ):
        options = ["--isolated", "--line-length", "100", "--stdin-filename", "lesson.py", "-"]
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *options],
            input=text.encode(),
            capture_output=True,
        )
        if run.returncode:
            raise LessonsError(f"ruff failed (make run installs it): {run.stderr.decode().strip()}")
        text = run.stdout.decode()
    return text


def _title_and_first_sentence(notebook: nbformat.NotebookNode, source: str) -> tuple[str, str]:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            match = re.match(r"# +([^\n]+)\n+(.+?[.!?])(?=\s|$)", cell.source, re.DOTALL)
            if match:
                sentence = textwrap.fill(re.sub(r"\*+(\S.*?)\*+", r"\1", match[2]), 99)
                return match[1].strip().rstrip("."), sentence
            break
    raise LessonsError(
        f"{source} must begin with a title (# …) and a sentence that ends in a full stop"
    )


# ---------------------------------------------------------------- solution → homework


def strip_solutions(solution: nbformat.NotebookNode, source: str) -> nbformat.NotebookNode:
    """The notebook as handed out: stubs for the solutions, no outputs, the same cell ids."""
    asked: set[str] = set()
    cells = _code_cells(solution, source)
    stubs = {}
    for cell in cells:
        stub, whole = _without_markers(cell)
        if stub != whole:
            asked |= _defined_names(_parse(whole, cell.where))
        stubs[cell.where] = stub.removeprefix(EXPORT).lstrip("\n")
    kernel = {k: v for k, v in solution.metadata.items() if k == "kernelspec"}
    handed_out = nbformat.v4.new_notebook(metadata=kernel | {"language_info": {"name": "python"}})
    remaining = iter(cells)
    for original in solution.cells:
        cell = nbformat.from_dict(original)
        cell.metadata = {
            k: v for k, v in cell.metadata.items() if k not in ("execution", "nbgrader")
        }
        if cell.cell_type == "code":
            where = next(remaining).where
            cell.source, cell.outputs, cell.execution_count = stubs[where], [], None
            _forbid_imports_of(asked, cell.source, where)
        handed_out.cells.append(cell)
    return handed_out


def _without_markers(cell: "Cell") -> tuple[str, str]:
    """A cell as a stub and as a whole: the marked lines replaced, the markers taken out."""
    stub, whole, inside = [], [], False
    for line in cell.text.split("\n"):
        marker = line.strip()
        if marker in (BEGIN, END):
            if inside == (marker == BEGIN):
                raise LessonsError(f"{cell.where} has a {marker} without its partner")
            inside = marker == BEGIN
            if inside:
                stub.append(line.replace(BEGIN, STUB))
        else:
            whole.append(line)
            if not inside:
                stub.append(line)
    if inside:
        raise LessonsError(f"{cell.where} has a {BEGIN} without its partner")
    return "\n".join(stub), "\n".join(whole)


def _forbid_imports_of(asked: set[str], text: str, where: str) -> None:
    """A homework must not import what it asks for, nor the module of the answers."""
    modules = set()  # names under which this cell knows a module of ours
    for node in ast.walk(_parse(text, where)):
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
        if found:
            raise LessonsError(
                f"{where} imports what the homework asks for: {', '.join(sorted(found))}"
            )


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


# ---------------------------------------------------------------- cells, files


@dataclass(frozen=True)
class Cell:
    """The text of a code cell and the words that name it in an error."""

    text: str
    where: str


def _code_cells(notebook: nbformat.NotebookNode, source: str) -> list[Cell]:
    return [
        Cell(cell.source, f"{source}, cell {number} ({cell.id}),")
        for number, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code"
    ]


def _parse(text: str, where: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        number = error.lineno or 1
        line = text.split("\n")[number - 1].strip()
        if re.match(r"[%!?]|.*\?$", line):
            raise LessonsError(f"{where} has a magic in line {number}: {line}") from None
        raise LessonsError(f"{where} does not parse, line {number}: {error.msg}: {line}") from None


def _defined_names(tree: ast.Module) -> set[str]:
    """The names that the top level of a cell binds, imports apart."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def _without_lines(text: str, nodes: list[ast.stmt]) -> str:
    taken = {n for node in nodes for n in range(node.lineno, node.end_lineno + 1)}
    kept = [line for n, line in enumerate(text.split("\n"), start=1) if n not in taken]
    return "\n".join(kept).strip("\n").rstrip()


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook in a file. Raises LessonsError, naming the file, where there is none."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise LessonsError(f"{path} is not a notebook that can be read: {error}") from None


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _is_built(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith(MARK)


def _built_files(root: Path) -> list[Path]:
    """What an earlier build left: marked modules, and every handed-out notebook."""
    folders = (root / "lessons", root / "lessons/homework/answers")
    modules = [path for folder in folders for path in folder.glob("*.py") if _is_built(path)]
    return modules + list((root / "notebooks/homework").glob("*.ipynb"))


def _write_whole(path: Path, text: str) -> None:
    """Write beside the goal, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)
