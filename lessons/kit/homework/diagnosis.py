"""Which mistake it is, where no known one fits: a search among small alterations.

An alteration explains an answer if the answer does what the alteration does, on every input that
tells the alteration from the reference (two at least), and if no input is left where the answer
is wrong and the alteration right. Only an answer's own errors are passed over, and inputs with
nothing in them that it gets right: they are often treated apart. The alterations are always the
same and come in the same order, so every machine says the same.
"""

import contextlib
import copy
import io
import itertools
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessons.kit.homework import alterations, hints
from lessons.kit.homework.compare import difference
from lessons.kit.homework.edits import Edit, counted, edited, names_in
from lessons.kit.homework.exercise import Exercise
from lessons.kit.homework.sandbox import Outcome, seed_everything
from lessons.kit.homework.words import as_array, describe, one_line, parts_of

TURNS = 200_000  # of the loops of all edits of an answer: a slow answer is not waited for


@dataclass(frozen=True)
class Diagnosis:
    """What an answer does instead of the right thing.

    `hint` points to the property, `place` to the line of the answer (empty where no single edit
    makes it right); `detail` says it plainly, for a teacher. `step` is "arguments", "result",
    "edit" (of the reference) or "own" (an edit of the answer).
    """

    step: str
    kind: str
    hint: str
    detail: str
    place: str = ""
    line: int = 0


@dataclass
class _Known:
    """What an exercise's alterations come to, computed when they are first needed."""

    of_arguments: list[alterations.Alteration]
    counted: Callable  # the reference, cut off where an altered argument makes it run for ever
    edits: list[Edit]
    outcomes: dict[tuple[str, int, int], Outcome] = field(default_factory=dict)


_KNOWN: dict[int, tuple[Exercise, _Known]] = {}


@dataclass
class Case:
    """An answer on trial: the inputs, what was expected and what came."""

    exercise: Exercise
    inputs: list[tuple]
    names: Sequence[str]
    expected: Sequence[Outcome]
    outcomes: Sequence[Outcome]

    def differs(self, a: Outcome, b: Outcome) -> bool:
        """Whether two outcomes are two different things."""
        if a.error is not None or b.error is not None:
            return a.error is not b.error
        return difference(a.value, b.value, self.exercise.tolerance) is not None

    @cached_property
    def order(self) -> list[int]:
        """The inputs, those that the answer got wrong first."""
        wrong = self.wrong
        return wrong + [i for i in range(len(self.inputs)) if i not in set(wrong)]

    @cached_property
    def wrong(self) -> list[int]:
        """The inputs on which the answer returned one thing and the reference another."""
        pairs = enumerate(zip(self.expected, self.outcomes, strict=True))
        returned = [(i, a, b) for i, (a, b) in pairs if a.error is None and b.error is None]
        return [i for i, a, b in returned if self.differs(a, b)]


def diagnose(case: Case, submission: Callable) -> Diagnosis | None:
    """Which alteration of the reference, or of the answer, explains the answer; None if none."""
    found = None
    if len(case.wrong) >= 2:
        known = _known(case)
        found = (
            _always_the_same(case, everywhere=True)
            or _by_arguments(case, known)
            or _by_result(case)
            or _by_edits(case, known, names_in(submission))
            or _always_the_same(case, everywhere=False)
        )
    own = _by_own_edits(case, submission)
    if own is None and found is not None and found.kind == "name":
        return None  # without a place it says too little
    if found is None or own is None:
        return found or own
    return Diagnosis(found.step, found.kind, found.hint, found.detail, own.place, own.line)


def _known(case: Case) -> _Known:
    key = id(case.exercise)
    if key not in _KNOWN or _KNOWN[key][0] is not case.exercise:
        ways = list(alterations.of_arguments(case.names, case.inputs))
        reference, measure = case.exercise.reference, _measure(case)
        known = _Known(ways, counted(reference, measure), edited(reference, measure))
        _KNOWN[key] = case.exercise, known
    return _KNOWN[key][1]


def _measure(case: Case) -> Callable[[Callable], None]:
    def measure(function: Callable) -> None:
        for arguments in case.inputs:
            run_one(case.exercise, function, arguments)

    return measure


def run_one(exercise: Exercise, function: Callable, arguments: tuple) -> Outcome:
    """One call on a copy of its arguments, in this thread; what it prints is lost."""
    seed_everything()
    try:
        given = copy.deepcopy(arguments)
        with contextlib.redirect_stdout(io.StringIO()):
            return Outcome(exercise.call(function, *given), given)
    except Exception as error:
        said = traceback.format_exception_only(error)[0]
        return Outcome(None, (), type(error), one_line(said))


def _explains(case: Case, outcome_on: Callable[[int], Outcome | None]) -> bool:
    """Whether an alteration, given by what comes of each input, explains the answer.

    Where the answer is wrong, and that is on two inputs at least, it must do the same.
    """
    for i in case.order:
        given = case.outcomes[i]
        if given.error is not None or case.expected[i].error is not None:
            continue
        outcome = outcome_on(i)
        same = outcome is not None and not case.differs(outcome, given)
        if not same and (i in case.wrong or not _is_degenerate(case.inputs[i])):
            return False
    return True


def _is_degenerate(arguments: tuple) -> bool:
    """Whether one of the arguments has nothing in it: no entry, or none that is not 0."""
    arrays = [as_array(argument) for argument in arguments]
    return any(a is not None and a.ndim and not a.any() for a in arrays)


# ---------------------------------------------------------------- the steps


def _always_the_same(case: Case, everywhere: bool) -> Diagnosis | None:
    """One value, on all inputs or wherever the answer is wrong, and different ones are expected."""
    returned = [i for i, outcome in enumerate(case.outcomes) if outcome.error is None]
    places = returned if everywhere else case.wrong
    given = [case.outcomes[i] for i in places]
    expected = [case.expected[i] for i in case.wrong]
    if not any(case.differs(expected[0], other) for other in expected[1:]):
        return None
    if not any(case.differs(given[0], other) for other in given[1:]):
        value = describe(given[0].value)
        hint = hints.RESULT["always the same"].format(value=value)
        return Diagnosis("result", "always the same", hint, f"always {value}")
    arrays = [as_array(outcome.value) for outcome in given]
    if all(a is not None for a in arrays):
        numbers = np.unique(np.concatenate([np.ravel(a) for a in arrays]))
        if len(numbers) == 1:
            hint = hints.RESULT["all numbers alike"].format(value=describe(numbers[0]))
            return Diagnosis("result", "all numbers alike", hint, f"all {numbers[0]}")
    return None


def _by_arguments(case: Case, known: _Known) -> Diagnosis | None:
    for number, way in enumerate(known.of_arguments):

        def outcome_on(i: int, number=number, way=way) -> Outcome | None:
            key = "arguments", number, i
            if key not in known.outcomes:
                try:
                    changed = way.change(copy.deepcopy(case.inputs[i]))
                except Exception:  # it does not fit this input
                    known.outcomes[key] = Outcome(None, (), alterations.NotHereError)
                else:
                    known.outcomes[key] = run_one(case.exercise, known.counted, changed)
            return known.outcomes[key]

        if _explains(case, outcome_on):
            hint = hints.ARGUMENTS[way.kind].format(about=way.about)
            return Diagnosis("arguments", way.kind, hint, way.detail)
    return None


def _by_result(case: Case) -> Diagnosis | None:
    for part in _parts(case):
        for way in alterations.of_result():

            def outcome_on(i: int, way=way, part=part) -> Outcome | None:
                expected = case.expected[i]
                if expected.error is not None:
                    return expected
                try:
                    return Outcome(_altered(expected.value, way.change, part))
                except Exception:
                    return expected  # it has no such result

            if _explains(case, outcome_on):
                return Diagnosis("result", way.kind, hints.RESULT[way.kind], way.detail)
    return _by_exchange(case) or _by_factor(case)


def _parts(case: Case) -> Iterator[int | None]:
    """The whole result, or each part of a tuple of results, or all parts."""
    yield None
    lengths = {
        len(o.value) for o in case.expected if o.error is None and isinstance(o.value, tuple)
    }
    if len(lengths) == 1:
        yield from range(next(iter(lengths)))
    yield -1


def _altered(value: Any, change: Callable, part: int | None) -> Any:
    if part is None:
        return _like(value, change(value))
    if not isinstance(value, tuple | list):
        raise alterations.NotHereError
    changed = (_like(v, change(v)) if part in (-1, k) else v for k, v in enumerate(value))
    return type(value)(changed)


def _like(value: Any, array: np.ndarray | np.generic) -> Any:
    """An array as what the value was: a tensor, a number."""
    if isinstance(value, Tensor):
        return torch.from_numpy(np.array(array))  # one without strides, also of a single number
    return array if isinstance(value, np.ndarray) else np.asarray(array).item()


def _by_exchange(case: Case) -> Diagnosis | None:
    values = [o.value for o in case.expected if o.error is None]
    if not values or not all(isinstance(v, tuple) and len(v) == len(values[0]) for v in values):
        return None
    for a, b in itertools.combinations(range(len(values[0])), 2):

        def outcome_on(i: int, a=a, b=b) -> Outcome:
            expected = case.expected[i]
            if expected.error is not None:
                return expected
            new = list(expected.value)
            new[a], new[b] = new[b], new[a]
            return Outcome(tuple(new))

        if _explains(case, outcome_on):
            kind = "results exchanged"
            detail = f"results {a + 1} and {b + 1} exchanged"
            return Diagnosis("result", kind, hints.RESULT[kind], detail)
    return None


def _by_factor(case: Case) -> Diagnosis | None:
    pairs = [
        (a.value, b.value)
        for a, b in zip(case.expected, case.outcomes, strict=True)
        if a.error is None and b.error is None
    ]
    for one, other in _pairs_of_parts(pairs):
        found = alterations.factor_of(one, other)
        if found is not None:
            kind, number = found
            return Diagnosis("result", kind, hints.of_factor(kind, number), f"{kind} {number:.5g}")
        kind = alterations.factor_of_each(one, other)
        if kind is not None:
            return Diagnosis("result", kind, hints.RESULT[kind], f"{kind} of the results")
    return None


def _pairs_of_parts(pairs: list[tuple[Any, Any]]) -> Iterator[tuple[list, list]]:
    """Expected and given values; of tuples the only part that is wrong anywhere."""
    expected, given = [a for a, _ in pairs], [b for _, b in pairs]
    parts = [(parts_of(a), parts_of(b)) for a, b in pairs]
    if all(a is None for a, _ in parts):
        yield expected, given
    elif all(a is not None and b is not None and a.keys() == b.keys() for a, b in parts):
        keys = list(parts[0][0])
        wrong = [
            key for key in keys if any(a.get(key) is not None and
            difference(a[key], b[key], 1e-6) for a, b in parts)
        ]  # fmt: skip
        if len(wrong) == 1 and all(wrong[0] in a for a, _ in parts):
            yield [a[wrong[0]] for a, _ in parts], [b[wrong[0]] for _, b in parts]


def _by_edits(case: Case, known: _Known, source: str) -> Diagnosis | None:
    """Edits of the reference that do what the answer does; the simplest is said."""
    explaining = []
    for number, edit in enumerate(known.edits):

        def outcome_on(i: int, number=number, edit=edit) -> Outcome:
            key = "edit", number, i
            if key not in known.outcomes:
                known.outcomes[key] = run_one(case.exercise, edit.function, case.inputs[i])
            return known.outcomes[key]

        if not _is_there(edit, source) and _explains(case, outcome_on):
            explaining.append(edit)
    if not explaining:
        return None
    best = min(explaining, key=lambda edit: hints.RANK[edit.kind])
    detail = f"as the reference with its line {best.line}: {best.change}"
    return Diagnosis("edit", best.kind, hints.EDITS[best.kind], detail)


def _is_there(edit: Edit, source: str) -> bool:
    """Whether an edit leaves out a call that the answer makes: then that is not what it lacks."""
    called = re.match(r"[\w.]*?(\w+)\(\) left out", edit.change)
    return edit.kind == "step" and called is not None and called[1] in source


def _by_own_edits(case: Case, submission: Callable) -> Diagnosis | None:
    """Edits of the answer that make it right on every input."""
    right = []
    for edit in edited(submission, _measure(case), TURNS):

        def is_right(i: int, edit=edit) -> bool:
            outcome = run_one(case.exercise, edit.function, case.inputs[i])
            return not case.differs(case.expected[i], outcome)

        if all(map(is_right, case.order)):
            right.append(edit)
    if not right:
        return None
    lines = sorted({edit.line for edit in right})
    # Where several lines would do, the first ones often make up for a mistake in the last.
    kinds = [edit.kind for edit in right if edit.line == lines[-1]]
    in_line = [edit for edit in right if edit.line == lines[-1]]
    best = min(in_line, key=lambda edit: hints.RANK[edit.kind])
    place = hints.of_place(best.line, kinds)
    detail = f"its line {best.line}: {best.change} makes it right ({len(lines)} lines would do)"
    return Diagnosis("own", best.kind, place, detail, place, best.line)
