"""The judgement on a submission: right, wrong and which mistake, or to do."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from lessons.kit.homework.compare import difference
from lessons.kit.homework.diagnosis import Case, diagnose
from lessons.kit.homework.edits import has_loops
from lessons.kit.homework.exercise import Exercise, Failing, Mistake, Verdict
from lessons.kit.homework.sandbox import (
    SEED,
    SHOWN_LINES,
    WAITING,
    Outcome,
    Run,
    out_of_reach,
    run_all,
    untouched,
)
from lessons.kit.homework.words import as_array, describe, parts_of, with_article

YOUR_TURN = "NotImplementedError: your turn"  # what the stubs raise


_PREPARED: dict[int, tuple[Exercise, list[tuple], list[Outcome]]] = {}


def prepared(exercise: Exercise) -> tuple[list[tuple], list[Outcome]]:
    """The inputs and what the reference makes of them, computed once: before a submission runs.

    So nothing that a submission breaks (a library's function, a module's variable) can change
    what is expected. Raises ValueError where the exercise has no inputs and TypeError where they
    are not tuples.
    """
    known = _PREPARED.get(id(exercise))
    if known is None or known[0] is not exercise:
        inputs = list(exercise.inputs(torch.Generator().manual_seed(SEED)))
        if not inputs:
            raise ValueError(f"{exercise.name}: inputs yields nothing to check with")
        if not all(isinstance(arguments, tuple) for arguments in inputs):
            raise TypeError(f"{exercise.name}: inputs must yield tuples of arguments")
        expected = run_all(exercise, exercise.reference, inputs).outcomes
        known = _PREPARED[id(exercise)] = exercise, inputs, expected
    return known[1], known[2]


IN_PLACE = "in place: work on a copy"


def judge(exercise: Exercise, submission: Callable, search: bool = True) -> Verdict:
    """Compare a submission with the reference and, if it is wrong, look for the mistake.

    Without `search` only among the known ones.

    Prints nothing and leaves the random states, the default dtype, the warnings and the working
    directory as they were. Raises ValueError where the exercise has no inputs and TypeError where
    they are not tuples.
    """
    with untouched():
        return _judged(
            exercise, submission, search
        )  # what is left of the run is lost in here, unheard


def _judged(exercise: Exercise, submission: Callable, search: bool) -> Verdict:
    inputs, expected = prepared(exercise)
    if "loops" in exercise.forbidden and has_loops(submission):
        line = f"✗ {exercise.name}: it has a loop, and the text asks for none"
        hint = "Which operation does it for all at once?"
        return Verdict("wrong", line, hint=hint, diagnosis="a loop where none is allowed")
    libraries = [name for name in exercise.forbidden if name != "loops"]
    with out_of_reach(libraries, submission):
        run = run_all(exercise, submission, inputs, exercise.seconds)
        verdict = _verdict(exercise, submission if search else None, inputs, expected, run)
    line = verdict.message
    if run.printed.count > SHOWN_LINES:
        count = f"more than {SHOWN_LINES}" if run.stopped else run.printed.count
        line += f"; it printed {count} lines"
    return replace(verdict, message=line, printed=tuple(run.printed.shown()))


def _verdict(
    exercise: Exercise,
    submission: Callable | None,
    inputs: list[tuple],
    expected: list[Outcome],
    run: Run,
) -> Verdict:
    name = exercise.name
    if run.stopped:
        words = given(exercise, inputs[len(run.outcomes)])
        line = f"✗ {name}: {words}it was still running after {exercise.seconds:g} s"
        if not run.working:
            line = f"✗ {name}: {words}it was still waiting after {WAITING * exercise.seconds:g} s"
        if run.abandoned:
            line += " and cannot be stopped: restart the kernel to get rid of it"
        return Verdict("wrong", line)
    # PyTorch raises NotImplementedError too, with a text: that is an attempt, not a stub.
    unwritten = [re.match(r"NotImplementedError( \(|$)", outcome.text) for outcome in run.outcomes]
    if all(unwritten) or any(outcome.text.startswith(YOUR_TURN) for outcome in run.outcomes):
        points = f"{exercise.points} point{'s' * (exercise.points != 1)}, " * (exercise.points > 0)
        return Verdict("to do", f"○ {name}: to do ({points}about {exercise.minutes} minutes)")
    for arguments, wanted, outcome in zip(inputs, expected, run.outcomes, strict=True):
        problem = _problem(exercise, wanted, outcome)
        if problem:
            line = f"✗ {name}: {given(exercise, arguments)}{problem}"
            failing = Failing(
                _by_name(exercise, arguments), _kept(wanted.value), _kept(outcome.value)
            )
            verdict = Verdict("wrong", line, failing=failing)
            if problem.endswith(IN_PLACE):  # the sentence is the diagnosis
                submission = None
            return _explained(verdict, exercise, submission, inputs, expected, run.outcomes)
    of = f", {exercise.points} of {exercise.points} point{'s' * (exercise.points != 1)}"
    return Verdict("passed", f"✓ {name}: passed{of * (exercise.points > 0)}")


def _explained(
    verdict: Verdict,
    exercise: Exercise,
    submission: Callable | None,
    inputs: list[tuple],
    expected: list[Outcome],
    outcomes: list[Outcome],
) -> Verdict:
    """The verdict with what is known of the mistake: the list first, then the search."""
    mistake = _known_mistake(exercise, inputs, expected, outcomes)
    names = list(_by_name(exercise, inputs[0]))
    found = None
    if submission is not None:
        found = diagnose(Case(exercise, inputs, names, expected, outcomes), submission)
    place = found.place if found else ""
    if mistake is not None:
        about = f"known mistake: {mistake.name}"
        return replace(verdict, mistake=mistake, hint=mistake.hint, place=place, diagnosis=about)
    if found is None:
        return verdict
    return replace(verdict, hint=found.hint, place=place, diagnosis=found.detail)


def _kept(value: object) -> object:
    """A value as it is kept for the student: data itself, of anything else the words."""
    is_data = as_array(value) is not None or parts_of(value) is not None or value is None
    return value if is_data else describe(value)


def _by_name(exercise: Exercise, arguments: tuple) -> dict[str, object]:
    named = zip(_names(exercise, arguments), arguments, strict=True)
    return {name or f"argument {k}": value for k, (name, value) in enumerate(named, start=1)}


def _known_mistake(
    exercise: Exercise,
    inputs: list[tuple],
    expected: Sequence["Outcome"],
    outcomes: Sequence["Outcome"],
) -> Mistake | None:
    """The known mistake with the same outcome on every input, or else on every telling one.

    Telling are the inputs on which the mistake itself is wrong and the submission returned
    something; two at least, and none may be left on which only the submission is wrong. So an
    empty input that raises does not hide a mistake.
    """
    runs = _runs_of_mistakes(exercise, inputs)
    for mistake, wrong in runs:
        pairs = zip(wrong, outcomes, strict=True)
        if not any(_problem(exercise, *pair) for pair in pairs):
            return mistake
    for mistake, wrong in runs:
        telling = 0
        for bad, wanted, outcome in zip(wrong, expected, outcomes, strict=True):
            if outcome.error is not None:
                continue
            differs = _problem(exercise, wanted, bad)
            if differs and not _problem(exercise, bad, outcome):
                telling += 1
            elif differs or (wanted.error is None and _problem(exercise, wanted, outcome)):
                break  # it does something else, or is wrong where the mistake is right
        else:
            if telling >= 2:
                return mistake
    return None


_MISTAKES: dict[int, tuple[Exercise, list[tuple[Mistake, list[Outcome]]]]] = {}


def _runs_of_mistakes(
    exercise: Exercise, inputs: list[tuple]
) -> list[tuple[Mistake, list[Outcome]]]:
    """What each known mistake makes of the inputs, computed once."""
    known = _MISTAKES.get(id(exercise))
    if known is None or known[0] is not exercise:
        runs = [(m, run_all(exercise, m.function, inputs).outcomes) for m in exercise.mistakes]
        known = _MISTAKES[id(exercise)] = exercise, runs
    return known[1]


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
    for whose, right, value in _told_apart(exercise, expected.value, outcome.value):
        found = difference(right, value, exercise.tolerance)
        if found:
            return f"{whose}expected {describe(right)}, got {describe(value)}: {found}"
    arguments = zip(expected.arguments, outcome.arguments, strict=True)
    for name, pair in zip(_names(exercise, expected.arguments), arguments, strict=True):
        if difference(*map(_data, pair), tolerance=0):
            return f"it changes {name or 'an argument'} {IN_PLACE}"
    return None


def _told_apart(
    exercise: Exercise, right: object, value: object
) -> Iterator[tuple[str, object, object]]:
    """What is compared: the results, or one by one what `call` looks at, with its name."""
    named = (
        isinstance(right, Mapping) and isinstance(value, Mapping) and right.keys() == value.keys()
    )
    if not named or exercise.call.__name__ == "<lambda>":
        yield "", right, value
        return
    for name in right:
        yield f"the {name}: ", right[name], value[name]


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


def given(exercise: Exercise, arguments: tuple) -> str:
    """The arguments by name, in words: "given x = 3, "; nothing where there are none."""
    named = zip(_names(exercise, arguments), map(describe, arguments), strict=True)
    said = ", ".join(f"{name} = {words}" if name else words for name, words in named)
    return f"given {said}, " if said else ""
