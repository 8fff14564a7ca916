"""`f = check(f)`: a lesson's exercises, what became of each, and the score board."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from lessons.kit.homework.exercise import Exercise
from lessons.kit.homework.verdict import judge
from lessons.kit.homework.words import describe


class Homework:
    """The exercises of a lesson and how far the student has come.

    Raises ValueError where two exercises have one name.
    """

    def __init__(self, title: str, exercises: Sequence[Exercise]):
        self.title = title
        self.exercises = {exercise.name: exercise for exercise in exercises}
        if len(self.exercises) < len(exercises):
            raise ValueError(f"{title}: two exercises have one name")
        self.states = dict.fromkeys(self.exercises, "to do")

    def exercise(self, name: str) -> Exercise:
        """The exercise of that name. Raises KeyError where there is none."""
        if name not in self.exercises:
            raise KeyError(f"no exercise {name}; there are {', '.join(self.exercises)}")
        return self.exercises[name]

    def check(self, submission: object) -> object:
        """Compare a submission with the reference of its name and print one line about it.

        Returns the submission if it is right, the reference if not, and what is no exercise
        unchanged.
        """
        name = getattr(submission, "__name__", None)
        if not callable(submission) or name not in self.exercises:
            what = name if callable(submission) and name else describe(submission)
            print(f"✗ {what} is not an exercise: these are {', '.join(self.exercises)}")
            return submission
        exercise = self.exercises[name]
        if submission is exercise.reference:  # left by an earlier check: judging it says nothing
            print(f"○ {name}: this is the reference; run the cell that defines yours first")
            return submission
        verdict = judge(exercise, submission)
        self.states[name] = verdict.state
        print("\n│ ".join([verdict.message, *verdict.printed]))
        return submission if verdict.state == "passed" else exercise.reference

    def score_board(self) -> "ScoreBoard":
        """The exercises with points, minutes and state, as they stand now."""
        exercises = self.exercises.values()
        return ScoreBoard(self.title, [(each, self.states[each.name]) for each in exercises])


@dataclass(frozen=True)
class ScoreBoard:
    """A table of the exercises, as text and as HTML."""

    title: str
    rows: list[tuple[Exercise, str]]

    def _cells(self) -> list[tuple[str, str, str, str]]:
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

    def __repr__(self) -> str:
        cells = self._cells()
        first, second, third, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = [f"{a:{first}}  {b:>{second}}  {c:>{third}}  {d}".rstrip() for a, b, c, d in cells]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        rows = [map(html.escape, row) for row in self._cells()]
        body = "".join("<tr><td>" + "</td><td>".join(row) + "</td></tr>" for row in rows)
        return f"<table><caption>{html.escape(self.title)}</caption>{body}</table>"
