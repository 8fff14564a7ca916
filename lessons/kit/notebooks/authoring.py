"""One source, built: notebooks become the package, solutions become the homework.

- `notebooks/NN_NAME.ipynb`: its `#| export` cells become `lessons/NAME.py`.
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
import contextlib
import html
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import takewhile
from keyword import iskeyword
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lessons.kit.errors import LessonsError
from lessons.kit.places import ROOT

DIRECTIVES = EXPORT, TURN = "#| export", "#| your turn"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = 'raise NotImplementedError("your turn")'
MARK = "# Built by `lessons build` from "
ANSWERS = "lessons.homework.answers"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


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

    for path in _notebooks(root / "notebooks"):
        module = export_module(read_notebook(path), path.relative_to(root).as_posix())
        if module:
            want(root / "lessons" / f"{lesson_name(path)}.py", module)
    for path in _notebooks(root / "solutions"):
        name, source = lesson_name(path), path.relative_to(root).as_posix()
        solution = read_notebook(path)
        answers = export_module(solution, source)
        if answers:
            want(root / "lessons/homework/answers" / f"{name}.py", answers)
        exercises = exercises_of(root / "lessons/homework" / f"{name}.py")
        handed_out = strip_solutions(solution, source, exercises)
        want(root / "notebooks/homework" / path.name, nbformat.writes(handed_out) + "\n")
    return wanted


def lesson_name(path: Path) -> str:
    """`03_roi_align.ipynb` → `roi_align`. Raises LessonsError for another form of name."""
    match = re.fullmatch(r"\d\d_([a-z][a-z0-9_]*)", path.stem)
    if not match:
        raise LessonsError(f"{path.name} must be named as in 03_roi_align.ipynb")
    return match[1]


# ---------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """A cell's text, blank lines in place of its directives, and the words that name it."""

    text: str
    where: str
    kind: str
    directives: tuple[str, ...] = ()

    @property
    def marked(self) -> bool:
        """Whether it holds a solution, or one of the two markers at least."""
        lines = (line.strip(" \t") for line in self.text.split("\n"))
        return self.kind == "code" and any(line in (BEGIN, END) for line in lines)


def _cells(notebook: NotebookNode, source: str) -> list[Cell]:
    """All cells. Raises LessonsError for what is nearly a directive or nearly a marker."""
    cells = []
    for number, cell in enumerate(notebook.cells, start=1):
        where, lines = f"{source}, cell {number} ({cell.id}),", cell.source.split("\n")
        directives = _directives(lines, where) if cell.cell_type == "code" else ()
        for line in lines:
            _refuse_near_markers(line, cell.cell_type, where)
        text = "\n".join([""] * len(directives) + lines[len(directives) :])
        cells.append(Cell(text, where, cell.cell_type, directives))
    return cells


def _directives(lines: list[str], where: str) -> tuple[str, ...]:
    """The directives at the head of a code cell."""
    known = [line.rstrip(" \t") for line in lines]
    head = tuple(takewhile(lambda line: line in DIRECTIVES, known))
    near = next((line for line in lines[len(head) :] if _is_nearly_a_directive(line)), None)
    if head not in ((), (EXPORT,), (TURN,), (EXPORT, TURN)):
        near = head[-1]
    if near:
        raise LessonsError(
            f"{where} has {near.strip()!r}: the directives are `{EXPORT}` and, after it or alone, "
            f"`{TURN}`, each once and written so, as the cell's first lines"
        )
    return head


def _is_nearly_a_directive(line: str) -> bool:
    """`#|export`, `# | export`, `#| Export`, `#! export`, `# export`, and any other `#| …`."""
    line = _folded(line)
    return bool(
        re.match(rf"[#\s]*#!?\s*{BAR}", line)
        or re.search(rf"#\W*{BAR}\W*{KNOWN}", line)
        or re.fullmatch(rf"[#\s]*#\W*([il1]\s+)?{KNOWN}\W*", line)
    )


BAR, KNOWN = "[|¦│ǀ]", r"(export|your\W*turn)\b"


def _refuse_near_markers(line: str, kind: str, where: str) -> None:
    """A line that is meant to be a marker, or a directive, and would do nothing."""
    if kind != "code":
        if _is_nearly_a_marker(line, in_prose=True) or re.search(
            rf"#\W*{BAR}\W*{KNOWN}", _folded(line)
        ):
            raise LessonsError(
                f"{where} is a {kind} cell with {line.strip()!r}: make it a code cell"
            )
    elif line.strip(" \t") not in (BEGIN, END) and _is_nearly_a_marker(line):
        raise LessonsError(
            f"{where} has {line.strip()!r}: a solution stands between the lines `{BEGIN}` and "
            f"`{END}`, written so, with nothing else on the line"
        )


def _is_nearly_a_marker(line: str, in_prose: bool = False) -> bool:
    """Begin and solution in one comment, or alone on a line; mistyped or turned round."""
    code, sign, comment = _folded(line).partition("#")
    if not (sign or in_prose) and re.search(r"[=(\[]", code):
        return False  # begin_solution = 1
    words = re.findall("[a-z]+", comment if sign else code)
    for word in words:  # BEGIN_SOLUTION is two words already, BeginSolution is one
        if any(_borders(word[:i]) and _solves(word[i:]) for i in range(3, len(word) - 5)):
            return True
    pairs = list(zip(words, words[1:], strict=False))
    few = len(words) < 4
    if in_prose or not sign:
        pairs = pairs[:1] if few or sign else []
    else:
        both = {"solution", "solutions"} & set(words) and BORDERS & set(words)
        if both or words in (["solution"], ["solutions"]) or (not code.strip() and words in ALONE):
            return True
    others = {"answer", "answers", "hidden", "mark"} if few else set()
    return any(
        _borders(a) and (_solves(b) or b in others) or _solves(a) and _borders(b) for a, b in pairs
    )


ALONE = (["begin"], ["end"])
BORDERS = {"begin", "begins", "start", "starts", "end", "ends", "stop", "edn", "ned", "ende"}


def _borders(word: str) -> bool:
    return word in BORDERS or _resembles(word, "begin")


def _solves(word: str) -> bool:
    return _resembles(word, "solution") or _resembles(word, "solutions")


def _resembles(word: str, other: str) -> bool:
    """Whether one letter is wrong, missing, too many, or two have changed places."""

    def shorter(text: str) -> set[str]:
        return {text} | {text[:i] + text[i + 1 :] for i in range(len(text))}

    return bool(shorter(word) & shorter(other))


def _folded(text: str) -> str:
    """Lower case, in plain letters and blanks, without what cannot be seen."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def _parse(text: str, where: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        number = error.lineno or 1
        line = (text.split("\n")[number - 1 :] or [""])[0].strip()
        if re.match(r"[%!?]|.*\?$", line):
            raise LessonsError(f"{where} has a magic in line {number}: {line}") from None
        raise LessonsError(f"{where} does not parse, line {number}: {error.msg}: {line}") from None
    except (ValueError, RecursionError) as error:  # null bytes, a thousand brackets
        raise LessonsError(f"{where} does not parse: {error}") from None


def _defined_names(tree: ast.Module) -> set[str]:
    """The names that the top level of a cell binds, imports apart."""
    names = set()
    for node in tree.body:
        if isinstance(node, DEFINITIONS):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def _without_lines(text: str, nodes: list[ast.stmt]) -> str:
    taken = {n for node in nodes for n in range(node.lineno, node.end_lineno + 1)}
    kept = [line for n, line in enumerate(text.split("\n"), start=1) if n not in taken]
    return "\n".join(kept).strip("\n").rstrip()


# ---------------------------------------------------------------- notebook → module


def export_module(notebook: NotebookNode, source: str) -> str | None:
    """The module that the exported cells make, or None where nothing is exported.

    The docstring is the notebook's title and first sentence, the imports are gathered at
    the top. `source` names the notebook in the module's first line and in errors.
    """
    cells = [cell for cell in _cells(notebook, source) if EXPORT in cell.directives]
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


# ---------------------------------------------------------------- solution → homework


def strip_solutions(
    solution: NotebookNode, source: str, exercises: Set[str] = frozenset()
) -> NotebookNode:
    """The notebook as handed out: stubs for the solutions, no outputs, the same cell ids.

    `exercises` names the functions that the homework asks for, beside those that the notebook
    itself hands to `check`. Raises LessonsError, naming the cell, where a solution is seen to
    be handed out.
    """
    cells = _cells(solution, source)
    stubs = []
    for cell, original in zip(cells, solution.cells, strict=True):
        if original.get("attachments"):
            picture = min(original.attachments)
            raise LessonsError(f"{cell.where} has {picture!r} pasted in: draw it in a code cell")
        if TURN in cell.directives:
            raise LessonsError(f"{cell.where} has a `{TURN}`, which belongs in a lesson")
        if not cell.marked:
            _refuse_marks_of_others(original, cell.where)
        stubs.append(Cell(_stub(cell) if cell.marked else cell.text, cell.where, cell.kind))
    code = [stub for stub in stubs if stub.kind == "code"]
    asked = exercises | _refuse_answers(exercises, code, source)
    _refuse_repetitions(cells, stubs)
    _refuse_helpers(asked, cells, code)
    for cell in cells:
        if cell.marked:
            asked |= _defined_names(_parse(_without_markers(cell)[1], cell.where))
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


def _stub(cell: Cell) -> str:
    """A marked cell as handed out. Raises LessonsError where a marker does not do its work."""
    stub, whole = _without_markers(cell)
    added = _stubs_in(_parse(stub, cell.where)) - _stubs_in(_parse(whole, cell.where))
    if added != stub.count(STUB) - whole.count(STUB):
        raise LessonsError(f"{cell.where} has a {BEGIN} inside a string")
    if not all(_words(_without_comments(text)) for text in _solutions(cell)):
        raise LessonsError(f"{cell.where} has no code between {BEGIN} and {END}")
    return stub


def _without_markers(cell: Cell) -> tuple[str, str]:
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
        for node in _outside_of_functions(_parse(cell.text, cell.where))
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
        for node in ast.walk(_parse(cell.text, cell.where)):
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
        tree = _parse(stub.text, stub.where)
        if not _stubs_in(tree):
            helpers |= dict.fromkeys(_defined_names(tree) - asked, stub.where)
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


# ---------------------------------------------------------------- files


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in a file, whatever editor saved it, in one form.

    That is nbformat 4.5 with the metadata of a Python notebook, lines that end in \\n, and an id
    for each cell: its own (Colab keeps it in the metadata) or, where it has none or a cell above
    has the same, one made of its first words. Cells keep their metadata and outputs. Raises
    LessonsError, naming the file and, where one is to blame, the cell.
    """
    try:
        notebook = _from_json(path)
        for number, cell in enumerate(notebook.cells, start=1):
            try:
                _tidy(cell)
            except UnicodeEncodeError:
                raise _UnreadableError(f"cell {number} has half a character") from None
            except (AttributeError, TypeError):
                raise _UnreadableError(f"cell {number} is no cell of a notebook") from None
        _give_ids(notebook.cells)
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        place = [*error.relative_path, None, None, None]
        where = f"cell {place[1] + 1}" if place[0] == "cells" and place[1] is not None else "it"
        reason = f"{where} is not as nbformat 4.5 wants it: {error.message.splitlines()[0][:200]}"
        reason += " (clear its outputs)" if "outputs" in place else ""
    except _UnreadableError as error:
        reason = str(error)
    except (AttributeError, KeyError, TypeError):
        reason = "it is not built as a notebook is"
    else:
        return notebook
    raise LessonsError(f"{path} is not a notebook that can be read: {reason}")


class _UnreadableError(Exception):
    """Why a file is no notebook, as the end of a sentence."""


def _from_json(path: Path) -> NotebookNode:
    """A file's notebook in nbformat 4.5, its cells as they are."""
    if path.is_dir():
        raise _UnreadableError("it is a folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _UnreadableError((error.strerror or "it cannot be opened").lower()) from None
    if not data.strip():
        raise _UnreadableError("it is empty")
    try:
        raw = json.loads(data)
    except UnicodeDecodeError:
        raise _UnreadableError("it is not a text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise _UnreadableError(
            f"it is no JSON or half of one, line {error.lineno}: {error.msg}"
        ) from None
    except (RecursionError, ValueError):
        raise _UnreadableError("its brackets or its numbers have no end") from None
    version = raw.get("nbformat") if isinstance(raw, dict) else None
    if version not in (3, 4):
        raise _UnreadableError(
            f"it is in nbformat {version}, save it in nbformat 4" if version else "it is other JSON"
        )
    if version == 3:
        raw = nbformat.convert(nbformat.v3.nbjson.to_notebook(raw), 4)
        for cell in raw.cells:
            del cell["id"]  # drawn at random
    notebook = nbformat.v4.nbjson.JSONReader().to_notebook(raw)
    kernel = notebook.metadata.get("kernelspec") or {}
    language = kernel.get("language") or (notebook.metadata.get("language_info") or {}).get("name")
    language = language or "python"
    if not re.fullmatch(r"i?python\d*", language.casefold()):
        raise _UnreadableError(f"it is written in {language}, not in Python")
    return nbformat.from_dict(
        {"cells": notebook.cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    )


def _tidy(cell: NotebookNode) -> None:
    """Keep of a cell what belongs to its kind, with lines that end in \\n."""
    own = {"code": ("outputs", "execution_count")}.get(cell.cell_type, ("attachments",))
    for key in cell.keys() - {"id", "cell_type", "metadata", "source", *own}:
        del cell[key]
    if cell.cell_type == "code":
        cell.outputs = cell.get("outputs") or []
        cell.setdefault("execution_count", None)
    elif not cell.get("attachments"):
        cell.pop("attachments", None)
    cell.source = cell.source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    cell.source.encode()  # half a character cannot be written


def _give_ids(cells: list[NotebookNode]) -> None:
    """An id for each cell that has none, no valid one, or that of a cell above."""
    taken = set()
    nameless = []
    for cell in cells:
        name = cell.get("id", cell.metadata.get("id"))
        if (
            isinstance(name, str)
            and re.fullmatch(r"[\w-]{1,64}", name, re.ASCII)
            and name not in taken
        ):
            taken.add(name)
            cell.id = name
        else:
            nameless.append(cell)
    for cell in nameless:
        # of what is handed out, before the solution, and not of the directives
        text = "\n".join(x for x in cell.source.split(BEGIN)[0].split("\n") if x not in DIRECTIVES)
        first = "-".join(re.findall("[a-z0-9]+", _folded(text))[:4])[:56] or "cell"
        cell.id = next(
            name
            for n in itertools.count(1)
            if (name := f"{first}-{n}" if n > 1 else first) not in taken
        )
        taken.add(cell.id)


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
    folders = (root / "lessons", root / "lessons/homework/answers")
    modules = [path for folder in folders for path in folder.glob("*.py") if _is_built(path)]
    return modules + _notebooks(root / "notebooks/homework")


def _of_no_notebook(root: Path, path: Path) -> str:
    """What to say of a file that looks built and that no notebook builds."""
    name = path.relative_to(root).as_posix()
    if path.suffix == ".ipynb":
        return f"{name} was built from a notebook that is gone, or is yours: move it away"
    folder = "solutions" if path.parent.name == "answers" else "notebooks"
    for source in _notebooks(root / folder):
        if lesson_name(source) == path.stem:
            return (
                f"{name} was built from {folder}/{source.name}, where no cell begins with "
                f"`{EXPORT}` any more: mark one, or delete the module"
            )
    return f"{name} was built from a notebook that is gone: take it away"


def _write_whole(path: Path, text: str) -> None:
    """Write beside the goal, then rename: a reader never sees half a file."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise LessonsError(f"{path} cannot be written: {error.strerror or error}") from None
