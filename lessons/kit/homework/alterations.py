"""The reference misused, and its result altered: what an answer may look like without being right.

Every alteration has a kind, whose sentence points without solving (`kit/homework/hints.py`), and
what it tells a teacher. The arguments' come first: two exchanged, one ignored, a pair read the
other way round. Then the result's: transposed, negated, a factor, squared, sorted, …
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessons.kit.homework.words import as_array


@dataclass(frozen=True)
class Alteration:
    """`kind` chooses the sentence, `about` fills it; `detail` is for a teacher."""

    kind: str
    about: str
    detail: str
    change: Callable[[Any], Any]


class NotHereError(Exception):
    """The alteration does not fit these arguments or this result."""


# ---------------------------------------------------------------- arguments


def of_arguments(names: Sequence[str], inputs: Sequence[tuple]) -> Iterator[Alteration]:
    """The ways to read the arguments wrongly; each changes a tuple of arguments."""
    shared = min(map(len, inputs))  # what is left to its default somewhere is left alone
    for place, name in enumerate(names[:shared]):
        values = [arguments[place] for arguments in inputs]
        for kind, detail, change in _of_values(values):
            yield Alteration(kind, f"`{name}`", f"{name}: {detail}", _at(place, change))
    for a, b in itertools.combinations(range(shared), 2):
        if all(_alike(arguments[a], arguments[b]) for arguments in inputs):
            about = f"`{names[a]}` and `{names[b]}`"
            yield Alteration("arguments exchanged", about, about, _exchange(a, b))


def _alike(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.ndim == b.ndim and a.dtype == b.dtype
    return type(a) is type(b) and isinstance(a, bool | int | float | list | tuple | np.ndarray)


def _exchange(a: int, b: int) -> Callable:
    def change(arguments: tuple) -> tuple:
        new = list(arguments)
        new[a], new[b] = new[b], new[a]
        return tuple(new)

    return change


def _at(place: int, change: Callable) -> Callable:
    def at_place(arguments: tuple) -> tuple:
        new = list(arguments)
        new[place] = change(new[place])
        return tuple(new)

    return at_place


def _of_values(values: Sequence[object]) -> Iterator[tuple[str, str, Callable]]:
    """Kind, detail and change of one argument, by what it is in all inputs."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        yield "always 1", "taken as 1", lambda v: type(v)(1)
        yield "always 0", "taken as 0", lambda v: type(v)(0)
        yield "negative", "negative", lambda v: -v
        yield "inverse", "inverse", lambda v: 1 / v
        yield "squared", "squared", lambda v: v**2
        yield "halved", "halved", lambda v: type(v)(v / 2)
        yield "doubled", "doubled", lambda v: 2 * v
        if all(isinstance(v, int) for v in values):
            yield "one less", "one less", lambda v: v - 1
            yield "one more", "one more", lambda v: v + 1
        return
    if not all(isinstance(v, Tensor) for v in values):
        return
    tensors = [v for v in values if isinstance(v, Tensor)]
    if all(v.dtype == torch.bool for v in tensors):
        yield "inverted", "inverted", lambda v: ~v
        yield "all true", "all true", torch.ones_like
        yield "all false", "all false", torch.zeros_like
    elif all(v.is_floating_point() for v in tensors):
        yield "negated argument", "negated", lambda v: -v
        yield "sigmoid once more", "sigmoid", torch.sigmoid
        yield "softmax once more", "softmax, last axis", lambda v: v.softmax(-1)
        yield "thresholded", "above 0", lambda v: (v > 0).to(v)
        yield "thresholded", "above ½", lambda v: (v > 0.5).to(v)
        yield "all alike", "all 1", torch.ones_like
        yield "all 0", "all 0", torch.zeros_like
        yield "squared", "squared", lambda v: v**2
    else:
        yield "all alike", "all 0", torch.zeros_like
    if all(v.ndim >= 1 and v.shape[-1] in (2, 4) for v in tensors):
        yield "x for y", "x and y exchanged", _x_for_y
    if all(v.ndim >= 1 and v.shape[-1] == 4 for v in tensors):
        yield "sizes for corners", "read as x, y, width, height", _as_sizes
    if all(v.ndim >= 2 for v in tensors):
        yield "rows for columns", "transposed", lambda v: v.mT
    if all(v.ndim >= 1 for v in tensors):
        yield "backwards", "reversed", lambda v: v.flip(0)
    if all(v.ndim >= 2 for v in tensors):
        yield "only the first", "only the first", _only_first


def _x_for_y(v: Tensor) -> Tensor:
    order = [1, 0] if v.shape[-1] == 2 else [1, 0, 3, 2]
    return v[..., order]


def _as_sizes(v: Tensor) -> Tensor:
    return torch.cat([v[..., :2], v[..., :2] + v[..., 2:]], dim=-1)


def _only_first(v: Tensor) -> Tensor:
    if len(v) < 2:
        raise NotHereError
    return v[:1].expand_as(v).clone()


# ---------------------------------------------------------------- results


def of_result() -> Iterator[Alteration]:
    """The ways to alter a right result, or one part of it."""
    for kind, detail, change in (
        ("rows and columns exchanged", "transposed", lambda v: _array(v, 2).swapaxes(-1, -2)),
        ("in reverse order", "reversed", lambda v: _array(v, 1)[::-1]),
        ("in reverse order", "reversed along the last axis", lambda v: _array(v, 2)[..., ::-1]),
        ("the sign is turned", "negated", lambda v: -_numbers(v)),
        ("one minus", "1 − it", lambda v: 1 - _numbers(v)),
        ("true for false", "inverted", lambda v: ~_bools(v)),
        ("squared result", "squared", lambda v: _floats(v) ** 2),
        ("root of the result", "square root", lambda v: np.sqrt(_floats(v))),
        ("logarithm of the result", "logarithm", lambda v: np.log(_floats(v))),
        ("logarithm of the result", "exponential", lambda v: np.exp(_floats(v))),
        ("inverse of the result", "1 / it", lambda v: 1 / _floats(v)),
        ("sorted", "sorted", lambda v: np.sort(_array(v, 1), axis=-1)),
        ("sorted", "sorted, falling", lambda v: -np.sort(-_numbers(_array(v, 1)), axis=-1)),
        ("sigmoid once more", "sigmoid", lambda v: 1 / (1 + np.exp(-_floats(v)))),
        ("rounded", "rounded", lambda v: np.round(_floats(v))),
        ("clamped", "at least 0", lambda v: np.maximum(_floats(v), 0)),
        ("clamped", "at most 1", lambda v: np.minimum(_floats(v), 1)),
        ("absolute", "absolute value", lambda v: np.abs(_floats(v))),
        ("added up", "running sum", lambda v: np.cumsum(_numbers(_array(v, 1)), axis=-1)),
    ):
        yield Alteration(kind, "", detail, change)


def _array(value: object, least: int) -> np.ndarray:
    array = as_array(value)
    if array is None or array.ndim < least or array.shape[-1] < 2:
        raise NotHereError
    return array


def _numbers(value: object) -> np.ndarray:
    array = as_array(value)
    if array is None or array.dtype.kind == "b":
        raise NotHereError
    return array.astype(float) if array.dtype.kind == "f" else array.astype(np.int64)


def _floats(value: object) -> np.ndarray:
    array = as_array(value)
    if array is None or array.dtype.kind != "f":
        raise NotHereError
    return array.astype(float)


def _bools(value: object) -> np.ndarray:
    array = as_array(value)
    if array is None or array.dtype.kind != "b":
        raise NotHereError
    return array


def factor_of(expected: Sequence[object], given: Sequence[object]) -> tuple[str, float] | None:
    """A constant that all given numbers are larger by: ("factor" or "offset", which), or None.

    At least two different numbers must say so; zeros and infinities must agree.
    """
    pairs = [(as_array(a), as_array(b)) for a, b in zip(expected, given, strict=True)]
    if any(a is None or b is None or a.shape != b.shape for a, b in pairs):
        return None
    if any(a.dtype.kind not in "fi" or b.dtype.kind not in "fi" for a, b in pairs):
        return None
    a = np.concatenate([np.ravel(x).astype(float) for x, _ in pairs])
    b = np.concatenate([np.ravel(y).astype(float) for _, y in pairs])
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(np.isnan(a), np.isnan(b)) or len(np.unique(a[finite])) < 2:
        return None
    a, b = a[finite], b[finite]
    there = np.abs(a) > 1e-9
    if np.allclose(b[~there], 0, atol=1e-9) and there.sum() >= 2:
        ratio = b[there] / a[there]
        if np.allclose(ratio, ratio[0], rtol=1e-4) and abs(ratio[0] - 1) > 1e-3 and ratio[0] > 0:
            return "factor", float(np.median(ratio))
    gap = b - a
    scale = max(1.0, float(np.abs(a).max()))
    if np.allclose(gap, gap[0], atol=1e-5 * scale) and abs(gap[0]) > 1e-3:
        return "offset", float(np.median(gap))
    return None


def factor_of_each(expected: Sequence[object], given: Sequence[object]) -> str | None:
    """The kind where each result is off by a factor of its own, the same for all its numbers.

    "factor of each", or "sign of some" where each factor is 1 or −1; else None.
    """
    factors = []
    for one, other in zip(expected, given, strict=True):
        a, b = as_array(one), as_array(other)
        if a is None or b is None or a.shape != b.shape or a.dtype.kind != "f":
            return None
        there = np.isfinite(a) & (np.abs(a) > 1e-9)
        if there.sum() < 2 or len(np.unique(a[there])) < 2:
            continue
        with np.errstate(all="ignore"):
            ratio = np.asarray(b, dtype=float)[there] / a[there]
        if not np.allclose(ratio, ratio[0], rtol=1e-4) or not np.isfinite(ratio[0]):
            return None
        if not np.allclose(np.asarray(b, dtype=float)[~there], a[~there], equal_nan=True):
            return None
        factors.append(ratio[0])
    if len(factors) < 2 or all(abs(f - 1) < 1e-3 for f in factors):
        return None
    if all(abs(abs(f) - 1) < 1e-3 for f in factors):
        return "sign of some"
    return "factor of each" if all(f > 1e-6 for f in factors) else None
