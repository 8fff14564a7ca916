"""`f = check(f)`: a lesson's exercises, what became of each, and the score board."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lessons.kit.homework import attempts, later, parts
from lessons.kit.homework.exercise import Exercise, Failing
from lessons.kit.homework.verdict import judge
from lessons.kit.homework.words import describe

ANSWER = 3  # different attempts, and the answer is shown on request


class Homework:
    """The exercises of a lesson's homework, its turns, and how far the student has come.

    Raises ValueError where two exercises have one name, and where a turn has points.
    """

    def __init__(self, title: str, exercises: Sequence[Exercise], turns: Sequence[Exercise] = ()):
        self.title = title
        self.turns = {turn.name: turn for turn in turns}
        self.exercises = {exercise.name: exercise for exercise in exercises}
        self.asked = self.turns | self.exercises
        if len(self.asked) < len(exercises) + len(turns):
            raise ValueError(f"{title}: two exercises have one name")
        if any(turn.points for turn in turns):
            raise ValueError(f"{title}: a turn has points, which are the homework's")
        self.states = dict.fromkeys(self.asked, "to do")
        self.check = Check(self)

    @property
    def lesson(self) -> str:
        """The lesson's module, as `roi_align`: where the references stand."""
        reference = next(iter(self.asked.values())).reference
        return reference.__module__.rpartition(".")[2].removesuffix("_turns")

    def exercise(self, name: str) -> Exercise:
        """The exercise of that name. Raises KeyError where there is none."""
        if name not in self.asked:
            raise KeyError(f"no exercise {name}; there are {', '.join(self.asked)}")
        return self.asked[name]

    def score_board(self) -> "ScoreBoard":
        """The exercises with points, minutes and state, as they stand now."""
        exercises = self.exercises.values()
        return ScoreBoard(self.title, [(each, self.states[each.name]) for each in exercises])

    def your_turns(self) -> "ScoreBoard":
        """The lesson's turns with minutes and state: what did not pass is the reference's yet."""
        turns = self.turns.values()
        return ScoreBoard("Your turns", [(each, self.states[each.name]) for each in turns])


def ended(sentence: str) -> str:
    """The sentence with its full stop, if it has no sign at its end, and a blank for the next."""
    return sentence + ("" if sentence[-1] in ".?!" else ".") + " "


class Check:
    """`f = check(f)`: one line about `f`; the function if it is right, the reference if not.

    Help comes by attempts, so that the machine does not think for the student: first the failing
    case, at the second different attempt the property that is wrong, at the third the line of the
    answer, and from the fourth on it says that `check.lines(name)` gives the lines of the answer to
    be put in order and `check.answer(name)` the answer. What parses alike is no other attempt.
    `check.last` is the last failing case: `arguments` by name, `expected` and `got`; a notebook
    shows it with its maps drawn.
    """

    def __init__(self, homework: Homework):
        self.homework = homework
        self.last: Failing | None = None
        self._attempts: dict[str, list[str]] = {}
        self._latest: dict[str, Callable] = {}

    def __call__(self, submission: object) -> object:
        """Compare a submission with the reference of its name and print one line about it.

        Returns the submission if it is right, the reference if not, and what is no exercise
        unchanged.
        """
        exercises = self.homework.asked
        name = getattr(submission, "__name__", None)
        if not callable(submission) or name not in exercises:
            what = name if callable(submission) and name else describe(submission)
            print(f"✗ {what} is not an exercise: these are {', '.join(exercises)}")
            return submission
        exercise = exercises[name]
        if submission is exercise.reference:  # left by an earlier check: judging it says nothing
            print(f"○ {name}: this is the reference; run the cell that defines yours first")
            return submission
        verdict = judge(exercise, submission)
        self._latest[name] = submission
        self.homework.states[name] = verdict.state
        level = self._level(name, submission) if verdict.state == "wrong" else 0
        line = verdict.message
        for needed, help_ in ((2, verdict.hint), (3, verdict.place)):
            if help_ and level >= needed and help_ not in line:
                line = ended(line) + help_
        more = f'more help: check.lines("{name}"), check.answer("{name}")'
        if level == 1 and re.search(r"= (float|int|bool)\d* \(", line):
            line = ended(line) + "check.last shows this case whole."
        print("\n│ ".join([line, *verdict.printed, *[more] * (level > ANSWER)]))
        self.last = verdict.failing
        attempts.log(self.homework.title, name, verdict, level)
        if name in self.homework.turns:
            parts.settle(self.homework.lesson, submission, verdict.state == "passed")
        return submission if verdict.state == "passed" else exercise.reference

    def lines(self, name: str) -> None:
        """Print the lines of the answer that the last attempt lacks, to be put in order.

        Raises KeyError where there is no such exercise.
        """
        print("\n".join(later.lines(self.homework.exercise(name), self._latest.get(name))))

    def answer(self, name: str) -> None:
        """Print the answer, after some different attempts, and a near case to try it on.

        Raises KeyError where there is no such exercise.
        """
        exercise = self.homework.exercise(name)
        missing = ANSWER - len(self._attempts.get(name, []))
        if missing > 0 and self.homework.states[name] != "passed":
            tries = "one more attempt" if missing == 1 else f"{missing} more different attempts"
            print(f"○ {name}: the answer comes after {tries}; check.lines helps before")
            return
        print(later.answer(exercise))
        near = later.near_case(exercise)
        if near is not None:
            print(f'\n○ now {near[0]}what does it return? check.near("{name}") says it')

    def near(self, name: str) -> None:
        """Print what the near case of `answer` returns. Raises KeyError for no exercise."""
        near = later.near_case(self.homework.exercise(name))
        print(f"○ {name}: {near[0]}it returns {near[1]}" if near else f"○ {name}: no near case")

    def _level(self, name: str, submission: Callable) -> int:
        """How many different wrong attempts there were at an exercise, this one included."""
        seen = self._attempts.setdefault(name, [])
        form = attempts.form_of(submission)
        if form not in seen:
            seen.append(form)
        return len(seen)


@dataclass(frozen=True)
class ScoreBoard:
    """A table of the exercises, as text and as HTML."""

    title: str
    rows: list[tuple[Exercise, str]]

    def _cells(self) -> list[tuple[str, ...]]:
        if not any(exercise.points for exercise, _ in self.rows):
            return self._turns()
        cells = [("exercise", "points", "minutes", "state")]
        for exercise, state in self.rows:
            points = f"{exercise.points if state == 'passed' else 0} of {exercise.points}"
            name = exercise.name + " (stretch)" * exercise.stretch
            cells.append((name, points, str(exercise.minutes), state))
        for total, stretch in (("total", False), ("total (stretch)", True)):
            counted = [(each, state) for each, state in self.rows if each.stretch is stretch]
            if counted:
                reached = sum(each.points for each, state in counted if state == "passed")
                points = f"{reached} of {sum(each.points for each, _ in counted)}"
                cells.append((total, points, str(sum(each.minutes for each, _ in counted)), ""))
        return cells

    def _turns(self) -> list[tuple[str, ...]]:
        rows = [
            (turn.name, str(turn.minutes), "yours" if state == "passed" else f"owed ({state})")
            for turn, state in self.rows
        ]
        return [("turn", "minutes", "state"), *rows]

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for first, *numbers, last in cells:
            aligned = (f"{n:>{w}}" for n, w in zip(numbers, widths[1:-1], strict=True))
            lines.append("  ".join([f"{first:{widths[0]}}", *aligned, last]).rstrip())
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        rows = [map(html.escape, row) for row in self._cells()]
        body = "".join("<tr><td>" + "</td><td>".join(row) + "</td></tr>" for row in rows)
        return f"<table><caption>{html.escape(self.title)}</caption>{body}</table>"
