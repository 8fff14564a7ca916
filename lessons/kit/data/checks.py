"""Arguments are checked at the door: `@checked` reads the shapes that the signature states.

A taught function says in its annotations what it takes, `targets: Float[Tensor, "n p"]`, and
with `@checked` a call that breaks this ends in one ValueError that names the argument. So its
body holds no checks of its own, or one line from this file for what no shape says (a range of
labels, a share).
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

_MISSING = object()


def checked(function: Callable) -> Callable:
    """The same function, whose arguments must have the shapes and dtypes that it states.

    What is checked: arguments annotated with jaxtyping's types of tensors, alone, optional
    (`| None`), in a sequence (`Sequence[…]`, `list[…]`, `tuple[…, ...]`), or several of these,
    of which the first that the value is says the shape. A letter stands for one size in all
    arguments of a call, in the order of the signature; `_` for any size, `...` and `*name` for
    any number of sizes, `k+1` for one more than k, `#k` for 1 or k. Everything else is left to
    Python. Nothing is checked while torch compiles or exports. A call with two tensors takes
    some microseconds more.

    Raises ValueError, one sentence: "targets must be float (n, p) = (3, 40) as logits, not
    float (3, 41)".
    """
    signature = inspect.signature(function)
    plan = []
    for place, parameter in enumerate(signature.parameters.values()):
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        spec = _spec(parameter.annotation)
        if spec is not None and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            plan.append((place if positional else None, parameter.name, spec))

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not torch.compiler.is_compiling():
            sizes: dict[str, tuple[Any, str]] = {}  # by letter: the size, and who gave it
            count = len(arguments)
            for place, name, spec in plan:
                if place is not None and place < count:
                    spec(name, arguments[place], sizes)
                elif (value := options.get(name, _MISSING)) is not _MISSING:
                    spec(name, value, sizes)
        return function(*arguments, **options)

    return call


def _spec(annotation: Any) -> Callable[[str, Any, dict], None] | None:
    """What checks an argument with this annotation; None where there is nothing to check."""
    if hasattr(annotation, "dim_str") and hasattr(annotation, "dtypes"):
        return _Array(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kinds = [_spec(part) for part in parts if part is not NoneType]
        if not all(kinds):  # one of them is left to Python
            return None
        inner = kinds[0] if len(kinds) == 1 else _Either(kinds)
        if NoneType not in parts:
            return inner
        return lambda name, value, sizes: value is None or inner(name, value, sizes)
    if origin in (list, Sequence, tuple) and (len(parts) == 1 or parts[1:] == (...,)):
        inner = _spec(parts[0])
        return inner and _Many(inner)
    return None


class _Many:
    """A sequence, each of whose entries is checked."""

    def __init__(self, each: Callable):
        self.each = each

    def takes(self, values: Any) -> bool:
        return isinstance(values, Sequence) and not isinstance(values, Tensor | np.ndarray | str)

    def words(self, name: str, sizes: dict) -> tuple[str, str, str]:
        return "", "a list", "of tensors"

    def __call__(self, name: str, values: Any, sizes: dict) -> None:
        if not self.takes(values):
            raise ValueError(f"{name} must be a list of tensors, not {describe(values)}")
        for index, value in enumerate(values):
            self.each(f"{name}[{index}]", value, sizes)


class _Either:
    """Several kinds: the first that the value is says what shape it must have."""

    def __init__(self, kinds: Sequence):
        self.kinds = kinds

    def __call__(self, name: str, value: Any, sizes: dict) -> None:
        for kind in self.kinds:
            if kind.takes(value):
                kind(name, value, sizes)
                return
        wanted: dict[tuple[str, str], list[str]] = {}
        for kind in self.kinds:
            noun, word, shape = kind.words(name, sizes)
            wanted.setdefault((noun, shape), []).append(word)
        words = [f"{noun}{' or '.join(kinds)} {shape}" for (noun, shape), kinds in wanted.items()]
        raise ValueError(f"{name} must be {' or '.join(words)}, not {describe(value)}")


class _Array:
    """A tensor or array of a kind and a shape."""

    def __init__(self, annotation: Any):
        self.type = annotation.array_type
        self.dims = annotation.dim_str.split()
        names = annotation.dtypes if isinstance(annotation.dtypes, Sequence) else ()  # Shaped: any
        self.kind = _kind_of_names(names) if names else ""
        if self.type is Tensor:  # looked up as they are, without making text of a dtype
            self.dtypes = {
                d for n in names if isinstance(d := getattr(torch, n, None), torch.dtype)
            }
        else:
            self.dtypes = {np.dtype(n) for n in names if hasattr(np, n)}
            self.dtypes |= {dtype.newbyteorder() for dtype in self.dtypes}
        stars = [i for i, dim in enumerate(self.dims) if dim == "..." or dim[0] == "*"]
        self.star = stars[0] if stars else None
        self.plan = [_plan_of(dim) for dim in self.dims]

    def takes(self, value: Any) -> bool:
        known = self.dtypes
        return isinstance(value, self.type) and (not known or value.dtype in known)

    def __call__(self, name: str, value: Any, sizes: dict) -> None:
        if not self.takes(value) or not self.fits(name, value.shape, sizes):
            raise self.error(name, value, sizes)

    def fits(self, name: str, shape: tuple, sizes: dict) -> bool:
        if self.star is not None:
            end = len(shape) - (len(self.plan) - self.star - 1)
            if end < self.star:
                return False
            shape = (*shape[: self.star], shape[self.star : end], *shape[end:])
        if len(shape) != len(self.plan):
            return False
        for (letter, is_number, may_be_1), size in zip(self.plan, shape, strict=False):
            if letter is None or (may_be_1 and size == 1):
                continue
            known = sizes.get(letter)
            if known is not None:
                if known[0] != size:
                    return False
            elif is_number and (wanted := _number(letter, sizes)) is not None:
                if wanted != size:
                    return False
            else:
                sizes[letter] = (size, name)
        return True

    def words(self, name: str, sizes: dict) -> tuple[str, str, str]:
        """What it is if no tensor, its kind, and its shape with the sizes that are known."""
        noun = "" if self.type is Tensor else "a NumPy array, "
        if not self.dims:
            return noun, f"one {self.kind}".strip(), "number"
        wanted = _tuple([_broadcast(dim, dim[1:]) for dim in self.dims])
        letters = [dim.removeprefix("#") for dim in self.dims if dim.removeprefix("#") in sizes]
        if letters:
            wanted += f" = {_tuple([_size_of(dim, sizes) for dim in self.dims])}"
            givers = [sizes[dim][1] for dim in letters if sizes[dim][1] != name]
            wanted += f" as {givers[0]}" if givers else ""
        return noun, self.kind, wanted

    def error(self, name: str, value: Any, sizes: dict) -> ValueError:
        noun, kind, shape = self.words(name, sizes)
        wanted = f"{kind} {shape}".strip()
        return ValueError(f"{name} must be {noun}{wanted}, not {describe(value)}")


def _plan_of(dim: str) -> tuple[str | None, bool, bool]:
    """The letter of a dim if it has one, whether that is a number or a sum, whether 1 will do."""
    if dim in ("_", "...") or dim.startswith("*#"):
        return None, False, False
    letter = dim.removeprefix("#")
    return letter, not letter.removeprefix("*").isidentifier(), dim[0] == "#"


def _tuple(words: Sequence[str]) -> str:
    words = [word for word in words if word]  # *name may be no sizes at all
    return f"({words[0]},)" if len(words) == 1 else f"({', '.join(words)})"


def _broadcast(dim: str, size: str) -> str:
    return f"1 or {size}" if dim[0] == "#" else dim


def _number(dim: str, sizes: dict) -> int | None:
    """The size that a dim stands for, if it is a number, or one more or less than a known one."""
    if dim.isdecimal():
        return int(dim)
    for sign in "+-":
        letter, found, step = dim.partition(sign)
        if found and letter in sizes and step.isdecimal():
            return sizes[letter][0] + int(sign + step)
    return None


def _size_of(dim: str, sizes: dict) -> str:
    if dim[0] == "#":
        return _broadcast(dim, _size_of(dim[1:], sizes))
    if dim in sizes:
        size = sizes[dim][0]
        return ", ".join(map(str, size)) if isinstance(size, tuple) else str(size)
    number = _number(dim, sizes)
    return dim if number is None else str(number)


def _kind_of_names(names: Iterable[str]) -> str:
    first = next(iter(names))
    if len(set(names)) == 1 and first != "bool":
        return first
    if {"float32", "int32"} <= set(names):
        return "real"
    return next((word for word in ("bool", "float") if word in first), "integer").replace(
        "bool", "boolean"
    )


def describe(value: object) -> str:
    """A value in a few words: "float (3, 41)", "uint8 (4,) in NumPy", "list"."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        kind = {"float32": "float", "bool": "boolean"}.get(kind, kind)
        return f"{kind} {tuple(value.shape)}" if value.ndim else f"one {kind} number"
    if isinstance(value, np.ndarray):
        return f"a NumPy array, {value.dtype} {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"


# ---------------------------------------------------------------- what no shape says


def labels_in(labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """Raises ValueError where a label is none of 0 … num_classes − 1."""
    labels = labels.long()  # not every type can be compared, and to uint8 300 is 44
    low, high = torch.stack(labels.aminmax()).tolist() if labels.numel() else (0, -1)
    if low < 0 or high >= num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        raise ValueError(
            f"{name} must be 0 … {num_classes - 1}, the {num_classes} classes, not {int(wrong[0])}"
        )


def ids_in(ids: Tensor, largest: int, name: str = "ids") -> None:
    """Raises ValueError where an id is none of 0 … largest."""
    low, high = torch.stack(ids.long().aminmax()).tolist() if ids.numel() else (0, 0)
    if low < 0 or high > largest:
        raise ValueError(f"{name} must be 0 … {largest}, not {low} … {high}")


def shares(*, below_one: bool = False, **values: float) -> None:
    """Raises ValueError where a number is not between 0 and 1; the keyword is its name.

    With `below_one` also where it is 1.
    """
    for name, value in values.items():
        if not 0 <= value <= 1 or (below_one and value == 1):
            wanted = "at least 0 and below 1" if below_one else "between 0 and 1"
            raise ValueError(f"{name} must be {wanted}, not {value}")


def positive(**values: float | Tensor) -> None:
    """Raises ValueError where a number, or one in a tensor, is not above 0 and finite."""
    for name, value in values.items():
        fine = (value > 0) & (value < math.inf)
        if not (fine.all() if isinstance(value, Tensor) else fine):
            wrong = value[~fine][0].item() if isinstance(value, Tensor) else value
            raise ValueError(f"{name} must be positive and finite, not {wrong}")


def finite(**values: Tensor) -> None:
    """Raises ValueError where a number in a tensor is NaN or infinite; the keyword is its name."""
    for name, numbers in values.items():
        fine = numbers.isfinite()
        if not fine.all():
            place = tuple((~fine).nonzero()[0].tolist())
            raise ValueError(
                f"{name} must be finite, not {numbers[place].item()} at {place}: "
                "a network that says so has diverged"
            )


def at_least(smallest: int, /, **values: object) -> None:
    """Raises ValueError where a whole number is below `smallest`; the keyword is its name."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            raise ValueError(f"{name} must be a whole number of at least {smallest}, not {value}")


def between(smallest: int, largest: int, /, **values: object) -> None:
    """Raises ValueError where a whole number is not in smallest … largest; the keyword names it."""
    for name, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not smallest <= value <= largest:
            raise ValueError(f"{name} must be in {smallest} … {largest}, not {value}")


def one_of(words: Iterable[str], /, **values: object) -> None:
    """Raises ValueError where a value is none of some words; the keyword is its name."""
    for name, value in values.items():
        if value not in [*words]:
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")


def as_many(count: int, what: str = "images", /, **lists: Sequence) -> None:
    """Raises ValueError where a list has not `count` entries, one for each image (or level, …)."""
    for name, values in lists.items():
        if len(values) != count:
            raise ValueError(
                f"{name} must have one entry for each of {count} {what}, not {len(values)}"
            )


def things_first(categories: Sequence, num_classes: int, num_things: int) -> None:
    """Raises ValueError where categories are not `num_classes`, the things first."""
    is_thing = [category.is_thing for category in categories]
    if is_thing != [k < num_things for k in range(num_classes)]:
        wanted = f"{num_classes} with {num_things} things, things first"
        given = f"{len(is_thing)} with {sum(is_thing)} things"
        raise ValueError(f"categories must be {wanted}, not {given} or in another order")
