"""Recall: three questions at the beginning of a lesson, from those before it, and their answers.

`recall("04")` asks one question of the last lesson, one of the third before and one of the sixth
before, of those that there are. `recall("04", a=…, b=…)` says of each answer whether it is right;
`...` stands for one that is not given yet. A wrong answer gets a pointer first, then a hint, and
at the third different attempt the answer. Before the first lesson, `recall("00")` asks what one
should know.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.homework import parts, questions
from lessons.kit.homework.questions import Question

BEFORE = (1, 3, 6)  # how many lessons before; a lesson's first question is for the next one, …
FIRST = "00"  # the lesson before which there is none
LETTERS = "abcdefgh"
_MISSES: dict[tuple[str, str], list[str]] = {}


@dataclass(frozen=True)
class Asked:
    """The questions of a lesson, as they are shown: each by its letter."""

    lesson: str
    questions: Mapping[str, Question]
    debts: str = ""

    def __repr__(self) -> str:
        return "\n\n".join([self.debts] * bool(self.debts) + [*map(self.text, self.questions)])

    def text(self, letter: str) -> str:
        """A question in Markdown."""
        question = self.questions[letter]
        origin = f", from lesson {question.number}" if question.number else ""
        lines = [f"**{letter}**{origin}. {question.text.strip()}"]
        if question.options:
            lines.append("\n".join(f"{n}. {o}" for n, o in enumerate(question.options, start=1)))
        if question.code:
            lines.append(f"```python\n{question.code.strip()}\n```")
        if question.kind == "line":
            lines.append(f'The answer is the line that belongs at `____`, as text: `{letter}="…"`.')
        return "\n\n".join(lines)

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        if self.debts:
            display(Markdown(self.debts))
        for letter, question in self.questions.items():
            display(Markdown(self.text(letter)))
            picture = picture_of(question)
            if picture is not None:
                display(picture)


def recall(lesson: str | int, **answers: object) -> Asked | None:
    """Ask the questions of a lesson, or say of each answer whether it is right.

    Raises LessonsError for an answer without a question, and where no lesson before this one has
    questions.
    """
    number = str(lesson).zfill(2)
    asked = questions_for(number)
    if not answers:
        return Asked(number, asked, _debts())
    for letter in answers:
        if letter not in asked:
            raise LessonsError(f"recall {number} asks {', '.join(asked)}: there is no {letter!r}")
    for letter, question in asked.items():
        print(_line(letter, question, answers.get(letter, ...)))
    return None


def questions_for(number: str) -> dict[str, Question]:
    """The questions that a lesson begins with, by letter."""
    if number == FIRST:
        return dict(zip(LETTERS, questions.prerequisites(), strict=False))
    there = questions.read_all()
    wanted = [
        there[each][place]
        for place, before in enumerate(BEFORE)
        if number.isdecimal() and (each := f"{int(number) - before:02}") in there
    ]
    if not wanted:
        raise LessonsError(
            f"there is nothing to recall for lesson {number}: {', '.join(there)} have"
        )
    return dict(zip(LETTERS, wanted, strict=False))


def _line(letter: str, question: Question, answer: object) -> str:
    """What is said of an answer: one line."""
    if isinstance(answer, EllipsisType):
        return f"○ {letter}: not answered yet"
    if slip := question.form(answer):  # no attempt: it does not lead to more help
        return f"✗ {letter}: {slip}"
    said = question.judged(answer)
    if said is None:
        return f"✓ {letter}"
    seen = _MISSES.setdefault((question.lesson, question.id), [])
    if repr(answer) not in seen:
        seen.append(repr(answer))
    said = f"{said}." if said and said[-1] not in ".?!" else said
    line = f"✗ {letter}: " + f"{said} " * bool(said)
    if len(seen) >= 3:
        return line + question.why.strip()
    if len(seen) == 2:
        line += f"{question.hint.strip()} "
    return line + f"Look again at {question.pointer()}."


def _debts() -> str:
    """The turns that are owed, in a sentence; "" where there are none, and outside of my/."""
    owed = parts.owed() if places.at_work() else {}
    if not owed:
        return ""
    names = ", ".join(f"`{name}` ({lesson}, since {day})" for (lesson, name), day in owed.items())
    return f"You still owe: {names}."


# ---------------------------------------------------------------- pictures


def picture_of(question: Question) -> Any:
    """The captioned picture of a question, None where it has none."""
    if question.figure:
        module, _, name = question.figure.partition(".")
        return getattr(importlib.import_module(f"lessons.figures.{module}"), name)()
    if not question.panel:
        return None
    from lessons.kit.draw import captioned, plt

    count = len(question.panel)
    figure, axes = plt.subplots(1, count, figsize=(3.2 * count, 2.6), squeeze=False)
    far = [_extent(panel) for panel in question.panel]
    for ax, panel in zip(axes.flat, question.panel, strict=True):
        _draw(ax, panel, max(x for x, _ in far), max(y for _, y in far))
    figure.tight_layout()
    return captioned(figure, question.caption)


def _extent(panel: Mapping[str, Any]) -> tuple[float, float]:
    """How wide and how high a panel is, in cells."""
    grid, boxes = panel.get("grid", []), panel.get("boxes", [])
    if grid:
        return len(grid[0]), len(grid)
    return max(box[2] for box in boxes) + 1, max(box[3] for box in boxes) + 1


def _draw(ax: Any, panel: Mapping[str, Any], width: float, height: float) -> None:
    """A grid with its numbers, and boxes over it; all in cells, the first corner 0, 0."""
    from lessons.kit.draw import INK, PALETTE

    grid: Sequence[Sequence[float]] = panel.get("grid", [])
    boxes: Sequence[Sequence[float]] = panel.get("boxes", [])
    names: Sequence[str] = panel.get("names", [""] * len(boxes))
    columns: Sequence[str] = panel.get("columns", [])
    if grid:
        ax.imshow(grid, extent=(0, width, height, 0), cmap="Blues", alpha=0.6)
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            ax.text(column + 0.5, row + 0.5, f"{value:g}", ha="center", va="center", color=INK)
    for k, ((x0, y0, x1, y1), name) in enumerate(zip(boxes, names, strict=True)):
        color, style = PALETTE[(k + 4) % len(PALETTE)], "-" if k == 0 else "--"
        ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], style, color=color)
        ax.text(x0 + 0.2, y1 - 0.2 - 0.9 * k, name, va="bottom", color=color)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", title=panel.get("title", ""))
    ax.set_xticks([column + 0.5 for column in range(len(columns))], columns)
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)
