"""Questions of recall: read from `lessons/homework/recall/NAME.toml`, and answers judged.

A file has the lesson's `number` and `title` and, in the order in which later lessons ask them,
three `[[question]]`: what the next lesson asks, the third after, and the sixth after. Each has an
`id`, a `kind`, its `text` in Markdown, the `answer`, a `hint` for the second miss, `why` for the
third, and `[[question.wrong]]`: an `answer` that is to be expected, and what to `say` to it. `see`
names a heading of the lesson. `prerequisites.toml`, with questions on what one should know before
the first lesson, has no number. By kind:

- "number": worked out by hand, right within `tolerance`.
- "choice": the number of one of the `options`, counted from 1.
- "line": a line of `code`, in the place of `____`. It is right if the function does on all
  `inputs` (Python, with the names of `code`) what it does with the `answer`.

A picture is small data, `[[question.panel]]` with `title`, `grid`, `boxes` (xyxy, in cells) and
their `names`, and a `caption`; or a function of `lessons/figures/`, as `figure =
"roi_align.staircase"`.
"""

import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.homework.exercise import Exercise, Mistake
from lessons.kit.homework.verdict import judge
from lessons.kit.homework.words import describe, one_line

KINDS = ("number", "choice", "line")
BLANK = "____"


@dataclass(frozen=True)
class Question:
    """A question of a lesson, and all that is said about answers to it."""

    lesson: str  # its module
    number: str
    title: str
    id: str
    kind: str
    text: str
    answer: float | str
    hint: str
    why: str
    wrong: Sequence[Mapping[str, Any]]
    see: str = ""
    tolerance: float = 0.0
    options: Sequence[str] = ()
    code: str = ""
    inputs: str = ""
    panel: Sequence[Mapping[str, Any]] = ()
    caption: str = ""
    figure: str = ""
    _exercises: list[Exercise] = field(default_factory=list, repr=False, compare=False)

    def pointer(self) -> str:
        """Where to look again."""
        if not self.number:  # what one should know before the first lesson
            return f"*{self.see}*, at the end of this notebook"
        section = f", *{self.see}*" if self.see else ""
        return f"lesson {self.number} ({self.title}{section})"

    def form(self, answer: object) -> str:
        """What kind of answer is asked for, where this is another; "" where it is one."""
        if self.kind == "number":
            fits = isinstance(answer, Real) and not isinstance(answer, bool) and answer == answer
            return "" if fits else f"a number is asked for, as 0.25 or 1/3, not {describe(answer)}"
        if self.kind == "choice":
            fits = type(answer) is int and 1 <= answer <= len(self.options)
            return "" if fits else f"the number of an answer is asked for, 1 to {len(self.options)}"
        fits = isinstance(answer, str) and answer.strip()
        return "" if fits else "a line of code is asked for, in quotation marks"

    def judged(self, answer: object) -> str | None:
        """None for a right answer, else what to say to it; "" where nothing is known of it.

        The answer is of the form that is asked for.
        """
        return {"number": self._number, "choice": self._choice, "line": self._line}[self.kind](
            answer
        )

    def _number(self, answer: object) -> str | None:
        near = [w for w in self.wrong if abs(answer - w["answer"]) <= self.tolerance]
        if abs(answer - self.answer) <= self.tolerance:
            return None
        return near[0]["say"] if near else ""

    def _choice(self, answer: object) -> str | None:
        said = {w["answer"]: w["say"] for w in self.wrong}
        return None if answer == self.answer else said.get(answer, "")

    def _line(self, answer: object) -> str | None:
        try:
            function = self.function(answer)
        except SyntaxError as error:
            return f"it does not parse: {error.msg}"
        except Exception as error:  # a line at the top level may do anything
            return f"it stops with {one_line(repr(error))}"
        verdict = judge(self.exercise(), function, search=False)
        if verdict.state == "passed":
            return None
        if verdict.mistake is not None:
            return verdict.mistake.hint
        return verdict.message.partition(": ")[2]

    def exercise(self) -> Exercise:
        """The line as an exercise: the function with the answer, its inputs, known mistakes."""
        if not self._exercises:
            mistakes = [
                Mistake(w["answer"], self.function(w["answer"]), w["say"]) for w in self.wrong
            ]
            reference = self.function(self.answer)
            inputs = eval(self.inputs, dict(reference.__globals__))
            self._exercises.append(
                Exercise(reference, lambda generator: inputs, mistakes, points=1, minutes=1)
            )
        return self._exercises[0]

    def function(self, line: str) -> Callable:
        """The function of the code with a line, or several, in the place of the blank."""
        (blank,) = [each for each in self.code.split("\n") if each.strip() == BLANK]
        indent = blank[: blank.index(BLANK)]
        line = textwrap.indent(textwrap.dedent(line).strip("\n"), indent)
        names: dict[str, Any] = {}
        exec(compile(self.code.replace(blank, line), f"<recall {self.id}>", "exec"), names)
        return [each for each in names.values() if getattr(each, "__globals__", 0) is names][-1]


def folder() -> Path:
    """Where the questions lie, a file a lesson."""
    return places.ROOT / "lessons" / "homework" / "recall"


def read_all() -> dict[str, list[Question]]:
    """The questions by the lesson's number. Raises LessonsError, naming a file that is damaged."""
    found = [read(path) for path in sorted(folder().glob("*.toml"))]
    return {asked[0].number: asked for asked in sorted(found, key=lambda asked: asked[0].number)}


def prerequisites() -> list[Question]:
    """What one should know before the first lesson. Raises LessonsError as `read_all`."""
    return read(folder().parent / "prerequisites.toml")


def read(path: Path) -> list[Question]:
    """The questions of a file. Raises LessonsError, naming it, where it is damaged."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        head = {"lesson": path.stem, "number": said["number"], "title": said["title"]}
        questions = [Question(**head, **entry) for entry in said["question"]]
        if not questions:
            raise ValueError("it asks nothing")
        for question in questions:
            _must_be_whole(question)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LessonsError(f"{places.shown(path)} is damaged: {error}") from None
    return questions


def _must_be_whole(question: Question) -> None:
    """Raise ValueError, naming the question, where something is missing that its kind needs."""
    needs = {"number": ["tolerance"], "choice": ["options"], "line": ["code", "inputs"]}
    if question.kind not in KINDS:
        raise ValueError(f"{question.id} is of no kind: {', '.join(KINDS)}")
    pictured = ["caption"] if question.panel else []
    for name in ("text", "hint", "why", "wrong", *needs[question.kind], *pictured):
        if not getattr(question, name):
            raise ValueError(f"{question.id} has no {name}")
    for wrong in question.wrong:
        if not {"answer", "say"} <= wrong.keys():
            raise ValueError(f"{question.id} has a wrong answer without `answer` and `say`")
