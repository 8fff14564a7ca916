"""Help on request, after the hints: the answer's lines to order, the answer, and a near case."""

import ast
import inspect
import random
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from lessons.kit.homework.compare import difference
from lessons.kit.homework.diagnosis import run_one
from lessons.kit.homework.edits import names_in, source_of
from lessons.kit.homework.exercise import Exercise
from lessons.kit.homework.sandbox import Outcome, untouched
from lessons.kit.homework.verdict import given, prepared
from lessons.kit.homework.words import describe


def lines(exercise: Exercise, submission: Callable | None = None) -> list[str]:
    """The statements of the reference, without their indentation, in an order of their own.

    Those that the submission has, too, are left out, as long as any are left. The order is the
    same every time, and never the right one where there are two lines.
    """
    right = _statements(source_of(exercise.plain or exercise.reference))
    there: list[str] = []
    with suppress(OSError, TypeError, SyntaxError):
        there = _statements(textwrap.dedent(inspect.getsource(submission)))
    right = [line for line in right if line not in there] or right
    shuffled = list(right)
    random.Random(exercise.name).shuffle(shuffled)
    return shuffled if shuffled != right else shuffled[1:] + shuffled[:1]


def _statements(source: str) -> list[str]:
    """The lines of a function's body as Python writes them, without docstring and indentation."""
    definition = ast.parse(source).body[0]
    if ast.get_docstring(definition) is not None:
        definition.body = definition.body[1:]
    return [line.strip() for part in definition.body for line in ast.unparse(part).splitlines()]


def answer(exercise: Exercise) -> str:
    """The answer as it is written."""
    if exercise.plain is None:
        return names_in(exercise.reference).rstrip()
    return names_in(exercise.plain).rstrip().replace(exercise.plain.__name__, exercise.name, 1)


def near_case(exercise: Exercise) -> tuple[str, str] | None:
    """An input close to the first one, and what the reference makes of it, both in words.

    The first change of an argument with which the result is another; where there is none, the
    second input; None where that is an error.
    """
    with untouched():
        inputs, expected = prepared(exercise)
        for arguments in _near(inputs[0]):
            found: Outcome = run_one(exercise, exercise.reference, arguments)
            other = found.error is None and difference(
                expected[0].value, found.value, exercise.tolerance
            )
            if other:
                return given(exercise, arguments), describe(found.value)
        if len(inputs) > 1 and expected[1].error is None:
            return given(exercise, inputs[1]), describe(expected[1].value)
    return None


def _near(arguments: tuple) -> Iterator[tuple]:
    """The arguments with one of them changed a little."""
    for change in (_rolled, _first_changed, _more):
        for place, value in enumerate(arguments):
            changed = _changed(value, change)
            if changed is not None:
                yield (*arguments[:place], changed, *arguments[place + 1 :])


def _changed(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """A tensor, an array, those of a list, or a number with a change; None for anything else."""
    if isinstance(value, Tensor):
        return change(value) if value.numel() else None
    if isinstance(value, np.ndarray):
        return change(torch.from_numpy(value)).numpy() if value.size else None
    if isinstance(value, list):
        return [_changed(part, change) for part in value]
    if change is _more and isinstance(value, int | float) and not isinstance(value, bool):
        return value + 1
    return None


def _rolled(value: Tensor) -> Tensor:
    return value.roll(1, -1)


def _first_changed(value: Tensor) -> Tensor:
    new = value.clone()
    new.view(-1)[0] = ~new.view(-1)[0] if value.dtype == torch.bool else new.view(-1)[0] + 1
    return new


def _more(value: Tensor) -> Tensor:
    return ~value if value.dtype == torch.bool else value + 1
