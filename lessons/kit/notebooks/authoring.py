"""One source, built: notebooks become the package, solutions become the homework.

- `notebooks/NN_NAME.ipynb`: its `#| export` cells become `lessons/NAME.py`; of its turns
  (`#| your turn`), those that are not exported become `lessons/homework/answers/NAME_turns.py`.
- `solutions/NN_NAME.ipynb`: becomes `notebooks/homework/NN_NAME.ipynb`, the solutions replaced
  by stubs; its `#| export` cells become `lessons/homework/answers/NAME.py`.

Directives (`#| export`, `#| your turn`) are the first lines of a cell. The markers are
nbgrader's (`### BEGIN SOLUTION`, `### END SOLUTION`), each on a line of its own. What is nearly
one of them stops the build, and so does whatever is seen to hand out a solution: a function of
the homework that is no stub, a solution that is repeated in another cell or in prose, a cell
that only its metadata calls a solution. Everything is computed before anything is written, so
a mistake in one notebook leaves every file as it was.

A notebook may come from any editor (JupyterLab, VS Code, Colab; nbformat 3 or 4, lines that end
as on Windows, cells without ids or with the same one): `read_notebook` brings it into one form,
or says in one sentence why it cannot. What is built has that form. The notebook itself stays as
the editor saved it until `lessons run --save`, which writes that form with the outputs.
"""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lessons.kit.errors import LessonsError
from lessons.kit.guard import write_whole
from lessons.kit.notebooks.cells import (
    EXPORT,
    TURN,
    code_cells_of,
    defined_names,
    parse,
    without_lines,
)
from lessons.kit.notebooks.handing_out import exercises_of, strip_solutions, without_markers
from lessons.kit.notebooks.joining import (
    methods_in,
    own_methods,
    with_method,
    without_method_of,
)
from lessons.kit.notebooks.reading import read_notebook
from lessons.kit.notebooks.turns import turns_module
from lessons.kit.places import ROOT

MARK = "# Built by `lessons build` from "
ANSWERS, TURNS = "lessons/homework/answers", "_turns.py"


def build(root: Path = ROOT, check: bool = False) -> list[Path]:
    """Build what is stale and return it; with `check`, change nothing and only return it.

    Raises LessonsError, naming notebook and cell, where a notebook breaks a rule of the
    house, and naming the file where a built file's notebook is gone: nothing is deleted.
    """
    wanted = _wanted_files(root)
    for path in _built_files(root):
        if path not in wanted:
            raise LessonsError(_of_no_notebook(root, path))
    stale = sorted(path for path, text in wanted.items() if _read(path) != text)
    if not check:
        for path in stale:
            write_whole(path, wanted[path])
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

    for path in _notebooks(root / "notebooks"):
        name, source = lesson_name(path), path.relative_to(root).as_posix()
        lesson = read_notebook(path)
        module = export_module(lesson, source)
        if module:
            want(root / "lessons" / f"{name}.py", module)
        turns = turns_module(lesson, source, f"lessons.{name}")
        if turns:
            head = f'{MARK}{source}: edit that, not this.\n"""The turns of {name} outside of it."""'
            want(root / ANSWERS / f"{name}{TURNS}", _formatted(f"{head}\n\n{turns}"))
    for path in _notebooks(root / "solutions"):
        name, source = lesson_name(path), path.relative_to(root).as_posix()
        solution = read_notebook(path)
        answers = export_module(solution, source)
        if answers:
            want(root / ANSWERS / f"{name}.py", answers)
        exercises = exercises_of(root / "lessons/homework" / f"{name}.py")
        handed_out = strip_solutions(solution, source, exercises)
        want(root / "notebooks/homework" / path.name, nbformat.writes(handed_out) + "\n")
    return wanted


def lesson_name(path: Path) -> str:
    """`04_roi_align.ipynb` → `roi_align`. Raises LessonsError for another form of name."""
    match = re.fullmatch(r"\d\d_([a-z][a-z0-9_]*)", path.stem)
    if not match:
        raise LessonsError(f"{path.name} must be named as in 04_roi_align.ipynb")
    return match[1]


# ---------------------------------------------------------------- notebook → module


def export_module(notebook: NotebookNode, source: str) -> str | None:
    """The module that the exported cells make, or None where nothing is exported.

    The docstring is the notebook's title and first sentence, the imports are gathered at
    the top; a method that a later cell adds (`@method_of(Class)`) stands in its class, in the
    order of the cells. `source` names the notebook in the module's first line and in errors.
    """
    cells = [cell for cell in code_cells_of(notebook, source) if EXPORT in cell.directives]
    if not cells:
        return None
    imports, bodies, homes, classes = [], [], {}, {}
    for cell in cells:
        _, text = without_markers(cell)
        tree = parse(text, cell.where)
        methods = {node: owner for owner, node in methods_in(tree, cell.where)}
        whole = {f"{owner}.{node.name}" for node, owner in methods.items()} | own_methods(tree)
        for name in sorted(whole | (defined_names(tree) - {node.name for node in methods})):
            if name in homes:
                raise LessonsError(f"{cell.where} exports {name} again, it stands in {homes[name]}")
            homes[name] = cell.where.rstrip(",")
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imports += filter(None, map(without_method_of, nodes))
        classes |= {n.name: len(bodies) for n in tree.body if isinstance(n, ast.ClassDef)}
        for node, owner in methods.items():
            if owner not in classes or classes[owner] == len(bodies):
                raise LessonsError(
                    f"{cell.where} adds {node.name} to {owner}, which no cell before it exports"
                )
            place = classes[owner]
            bodies[place] = with_method(bodies[place], owner, text, node)
        bodies.append(without_lines(text, [*nodes, *methods]))
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


def _title_and_first_sentence(notebook: NotebookNode, source: str) -> tuple[str, str]:
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


# ---------------------------------------------------------------- files


def _read(path: Path) -> str | None:
    """The text of a built file, or None; one that is no UTF-8 is as good as stale."""
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.exists() else None


def _is_built(path: Path) -> bool:
    return (_read(path) or "").startswith(MARK)


def _notebooks(folder: Path) -> list[Path]:
    """The notebooks of a folder; what is hidden is an editor's."""
    return sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))


def _built_files(root: Path) -> list[Path]:
    """What an earlier build left: marked modules, and every handed-out notebook."""
    folders = (root / "lessons", root / ANSWERS)
    modules = [path for folder in folders for path in folder.glob("*.py") if _is_built(path)]
    return modules + _notebooks(root / "notebooks/homework")


def _of_no_notebook(root: Path, path: Path) -> str:
    """What to say of a file that looks built and that no notebook builds."""
    name = path.relative_to(root).as_posix()
    if path.suffix == ".ipynb":
        return f"{name} was built from a notebook that is gone, or is yours: move it away"
    turns = path.name.endswith(TURNS)
    folder = "solutions" if path.parent.name == "answers" and not turns else "notebooks"
    for source in _notebooks(root / folder):
        if lesson_name(source) == path.name.removesuffix(TURNS).removesuffix(".py"):
            return (
                f"{name} was built from {folder}/{source.name}, where no cell begins with "
                f"`{TURN if turns else EXPORT}` any more: mark one, or delete the module"
            )
    return f"{name} was built from a notebook that is gone: take it away"
