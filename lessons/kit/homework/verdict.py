"""The judgement on a submission: right, wrong and which known mistake, or to do."""

import inspect
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from lessons.kit.homework.compare import difference
from lessons.kit.homework.exercise import Exercise, Mistake, Verdict
from lessons.kit.homework.sandbox import (
    SEED,
    SHOWN_LINES,
    Outcome,
    Run,
    run_all,
    untouched,
)
from lessons.kit.homework.words import as_array, describe, parts_of, with_article

YOUR_TURN = "NotImplementedError: your turn"  # what the stubs raise


def judge(exercise: Exercise, submission: Callable) -> Verdict:
    """Compare a submission with the reference and, if it is wrong, with the known mistakes.

    Prints nothing and leaves the random states, the default dtype and the warnings as they were.
    Raises ValueError where the exercise has no inputs and TypeError where they are not tuples.
    """
    with untouched():
        inputs = list(exercise.inputs(torch.Generator().manual_seed(SEED)))
        if not inputs:
            raise ValueError(f"{exercise.name}: inputs yields nothing to check with")
        if not all(isinstance(arguments, tuple) for arguments in inputs):
            raise TypeError(f"{exercise.name}: inputs must yield tuples of arguments")
        return _verdict(exercise, inputs, run_all(exercise, submission, inputs, exercise.seconds))


def _verdict(exercise: Exercise, inputs: list[tuple], run: Run) -> Verdict:
    state, line, mistake = _findings(exercise, inputs, run)
    if run.printed.count > SHOWN_LINES:
        count = f"more than {SHOWN_LINES}" if run.stopped else run.printed.count
        line += f"; it printed {count} lines"
    if mistake is not None:
        line += f". Known mistake, {mistake.name}: {mistake.hint}"
    return Verdict(state, line, mistake, tuple(run.printed.shown()))


def _findings(exercise: Exercise, inputs: list[tuple], run: Run) -> tuple[str, str, Mistake | None]:
    name, points = exercise.name, f"{exercise.points} point{'s' * (exercise.points != 1)}"
    if run.stopped:
        given = _given(exercise, inputs[len(run.outcomes)])
        line = f"✗ {name}: {given}it was still running after {exercise.seconds:g} s"
        if run.abandoned:
            line += " and cannot be stopped: restart the kernel to get rid of it"
        return "wrong", line, None
    # PyTorch raises NotImplementedError too, with a text: that is an attempt, not a stub.
    unwritten = [re.match(r"NotImplementedError( \(|$)", outcome.text) for outcome in run.outcomes]
    if all(unwritten) or any(outcome.text.startswith(YOUR_TURN) for outcome in run.outcomes):
        return "to do", f"○ {name}: to do ({points}, about {exercise.minutes} minutes)", None
    expected = run_all(exercise, exercise.reference, inputs).outcomes
    for arguments, wanted, outcome in zip(inputs, expected, run.outcomes, strict=True):
        problem = _problem(exercise, wanted, outcome)
        if problem:
            line = f"✗ {name}: {_given(exercise, arguments)}{problem}"
            return "wrong", line, _known_mistake(exercise, inputs, expected, run.outcomes)
    return "passed", f"✓ {name}: passed, {exercise.points} of {points}", None


def _known_mistake(
    exercise: Exercise,
    inputs: list[tuple],
    expected: Sequence["Outcome"],
    outcomes: Sequence["Outcome"],
) -> Mistake | None:
    """The known mistake with the same outcome on every input, or else on every telling one.

    Telling are the inputs on which the mistake itself is wrong and the submission returned
    something; two at least. So an empty input that is mishandled too does not hide a mistake.
    """
    runs = [(each, run_all(exercise, each.function, inputs).outcomes) for each in exercise.mistakes]
    for mistake, wrong in runs:
        pairs = zip(wrong, outcomes, strict=True)
        if not any(_problem(exercise, *pair) for pair in pairs):
            return mistake
    for mistake, wrong in runs:
        telling = [
            (bad, outcome)
            for bad, wanted, outcome in zip(wrong, expected, outcomes, strict=True)
            if outcome.error is None and _problem(exercise, wanted, bad)
        ]
        if len(telling) >= 2 and not any(_problem(exercise, *pair) for pair in telling):
            return mistake
    return None


def _problem(exercise: Exercise, expected: Outcome, outcome: Outcome) -> str | None:
    """What is wrong with an outcome, in words, or None."""
    wanted = with_article(expected.error.__name__) if expected.error else describe(expected.value)
    if outcome.error is not None:
        names = [kind.__name__ for kind in outcome.error.__mro__]  # a notebook's class is its own
        if expected.error and expected.error.__name__ in names:
            return None
        return f"expected {wanted}, but it raised {outcome.text}"
    if expected.error:
        return f"expected {wanted}, got {describe(outcome.value)}"
    found = difference(expected.value, outcome.value, exercise.tolerance)
    if found:
        return f"expected {wanted}, got {describe(outcome.value)}: {found}"
    arguments = zip(expected.arguments, outcome.arguments, strict=True)
    for name, pair in zip(_names(exercise, expected.arguments), arguments, strict=True):
        if difference(*map(_data, pair), tolerance=0):
            return f"it changes {name or 'an argument'} in place: work on a copy"
    return None


def _data(argument: object) -> object:
    """The part of an argument that a function must not change."""
    if isinstance(argument, nn.Module):
        return dict(argument.state_dict())
    is_data = as_array(argument) is not None or parts_of(argument) is not None
    return argument if is_data else None


# Words


def _names(exercise: Exercise, arguments: tuple) -> list[str]:
    """What the arguments are called by `call` or the reference; empty where it does not say."""
    parameters = list(inspect.signature(exercise.call).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        parameters = list(inspect.signature(exercise.reference).parameters.values())
    names = [parameter.name for parameter in parameters[: len(arguments)]]
    return names if len(names) == len(arguments) else [""] * len(arguments)


def _given(exercise: Exercise, arguments: tuple) -> str:
    named = zip(_names(exercise, arguments), map(describe, arguments), strict=True)
    given = ", ".join(f"{name} = {words}" if name else words for name, words in named)
    return f"given {given}, " if given else ""
