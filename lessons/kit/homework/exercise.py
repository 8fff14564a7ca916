"""What a student is asked to write, and the wrong answers that are known."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer, and a hint that leads to the insight without giving the solution."""

    name: str
    function: Callable
    hint: str

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def mistake(name: str, hint: str) -> Callable[[Callable], Mistake]:
    """`@mistake("sum for mean", "Each row is too heavy …")` makes a known mistake of a function."""
    return lambda function: Mistake(name, function, hint)


@dataclass(frozen=True)
class Exercise:
    """What a student is asked to write: the reference's `__name__` is the exercise's name.

    The homework's bring points, a lesson's turns none.

    `inputs` yields tuples of arguments, drawn with the generator that it is given. `tolerance`
    is absolute and relative. `seconds` limits the processor time for all inputs together. `call`
    says how a submission is used, where more than its value counts (a module, a gradient); it must
    return what can be compared: tensors, arrays, numbers, strings, None, and lists, tuples,
    dicts and dataclasses of them. `forbidden` are functions that the text does not allow, as
    "torch.autograd.grad"; "loops" stands for loops and comprehensions. `plain` is the answer that
    is shown on request, where the reference is a faster one than the text asks for.
    """

    reference: Callable
    inputs: Callable[[torch.Generator], Iterable[tuple]]
    mistakes: Sequence[Mistake] = ()
    points: int = 0
    minutes: int = 8
    stretch: bool = False
    tolerance: float | int = 1e-5
    seconds: float | int = 10.0
    forbidden: Sequence[str] = ()
    call: Callable = lambda function, *arguments: function(*arguments)
    plain: Callable | None = None

    @property
    def name(self) -> str:
        return self.reference.__name__


@dataclass(frozen=True)
class Failing:
    """The smallest input that a submission gets wrong: by name, what was expected, what came."""

    arguments: dict[str, object]
    expected: object
    got: object

    def _repr_html_(self) -> str:
        from lessons.kit.homework.pictures import as_html  # only who looks needs the drawing

        return as_html(self)


@dataclass(frozen=True)
class Verdict:
    """The judgement on a submission: "passed", "to do" or "wrong", and the line that says so.

    A wrong one has the failing case in its `message`; `hint` and `place` are for later attempts.
    """

    state: str
    message: str
    mistake: Mistake | None = None
    printed: tuple[str, ...] = ()  # the first lines that the submission printed
    hint: str = ""  # the property that is wrong, in a sentence that points to it
    place: str = ""  # the line where a small change makes it right
    diagnosis: str = ""  # what the answer does, plainly: for a teacher, never shown to a student
    failing: Failing | None = None
