"""The cells of a notebook: their directives and markers, and what is nearly one and is refused."""

import ast
import re
import unicodedata
from dataclasses import dataclass
from itertools import takewhile

from nbformat import NotebookNode

from lessons.kit.errors import LessonsError

DIRECTIVES = EXPORT, TURN = "#| export", "#| your turn"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


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


def code_cells_of(notebook: NotebookNode, source: str) -> list[Cell]:
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
    line = folded(line)
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
            rf"#\W*{BAR}\W*{KNOWN}", folded(line)
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
    code, sign, comment = folded(line).partition("#")
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


def folded(text: str) -> str:
    """Lower case, in plain letters and blanks, without what cannot be seen."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def parse(text: str, where: str) -> ast.Module:
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


def defined_names(tree: ast.Module) -> set[str]:
    """The names that the top level of a cell binds, imports apart."""
    names = set()
    for node in tree.body:
        if isinstance(node, DEFINITIONS):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def _first_line(node: ast.stmt) -> int:
    """Its own, or that of its first decorator."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def without_lines(text: str, nodes: list[ast.stmt]) -> str:
    starts = {id(node): _first_line(node) for node in nodes}
    taken = {n for node in nodes for n in range(starts[id(node)], node.end_lineno + 1)}
    kept = [line for n, line in enumerate(text.split("\n"), start=1) if n not in taken]
    return "\n".join(kept).strip("\n").rstrip()
