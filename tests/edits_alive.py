"""The edits of a reference (step d of the diagnosis) that all its inputs let pass."""

import difflib

from lessons.kit.homework.diagnosis import Case, run_one
from lessons.kit.homework.edits import Edit, edited, source_of
from lessons.kit.homework.exercise import Exercise
from lessons.kit.homework.sandbox import untouched
from lessons.kit.homework.verdict import prepared


def alive(exercise: Exercise) -> tuple[int, dict[tuple[str, str, str], str]]:
    """How many edits there are, and those that are right on every input.

    An edit is named by kind, line and what the line becomes, as Python prints them: numbers of
    lines and layout may change.
    """
    with untouched():
        inputs, expected = prepared(exercise)
        case = Case(exercise, inputs, [], expected, expected)

        def measure(function):
            for arguments in inputs:
                run_one(exercise, function, arguments)

        def is_right(edit: Edit) -> bool:
            return not any(
                case.differs(wanted, run_one(exercise, edit.function, arguments))
                for wanted, arguments in zip(expected, inputs, strict=True)
            )

        edits = edited(exercise.reference, measure)
        whole = source_of(exercise.reference)
        names = {(edit.kind, *change(whole, edit.source)): edit.change for edit in edits
                 if is_right(edit)}  # fmt: skip
    return len(edits), names


def change(before: str, after: str) -> tuple[str, str]:
    """The lines that differ."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return tuple(
        " ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
