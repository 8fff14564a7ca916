"""Where and how a value differs from the expected one."""

import numpy as np

from lessons.kit.homework.words import KINDS, as_array, describe, kind_of, numbers, parts_of


def difference(
    expected: object, value: object, tolerance: float | int, place: str = ""
) -> str | None:
    """Where and how a value differs from the expected one, in words, or None.

    Precision, and list or tuple, are all the same; type, shape and kind (bool, int, float) are
    not. A tensor without dimensions does for a number, but a number not for a tensor: what comes
    next calls its methods. NaN equals NaN.
    """
    at = f"at result{place}, " if place else ""
    a, b = as_array(expected), as_array(value)
    types = [kind_of(expected), kind_of(value)]
    if types == ["a tensor", "a number"]:
        return f"{at}a number where a tensor is expected, and what comes next uses it as a tensor"
    if a is not None and b is not None and (types[0] == types[1] or a.ndim == b.ndim == 0):
        if a.shape != b.shape:
            return f"{at}shape {b.shape} where {a.shape} is expected"
        kinds = KINDS[a.dtype.kind], KINDS[b.dtype.kind]
        if kinds[0] != kinds[1] and not (kinds[0] == "float" and type(value) is int):
            return f"{at}{kinds[1]} where {kinds[0]} is expected"
        found = _largest_difference(a, b, tolerance)
        return found and at + found
    parts, own = parts_of(expected), parts_of(value)
    sequences = isinstance(expected, list | tuple) and isinstance(value, list | tuple)
    if types[0] != types[1] and not sequences:
        return f"{at}{types[1]} where {types[0]} is expected"
    if parts is None or own is None:
        if expected is value or (a is None and b is None and expected == value):
            return None
        return f"{at}{describe(value)} where {describe(expected)} is expected"
    if len(parts) != len(own):
        return f"{at}length {len(own)} where {len(parts)} is expected"
    if parts.keys() != own.keys():
        return f"{at}{describe(list(own))} where {describe(list(parts))} is expected"
    found = (difference(parts[key], own[key], tolerance, place + key) for key in parts)
    return next(filter(None, found), None)


def _largest_difference(
    expected: np.ndarray, value: np.ndarray, tolerance: float | int
) -> str | None:
    if expected.dtype.kind in "fc":
        wrong = ~np.isclose(value, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        wrong = value != expected
    if not wrong.any():
        return None
    with np.errstate(invalid="ignore"):
        gaps = np.abs(np.subtract(value, expected, dtype=complex))
    gaps = np.where(wrong, np.where(np.isnan(gaps), np.inf, gaps), -1)
    index = np.unravel_index(gaps.argmax(), gaps.shape)
    digits = [numbers(value[index]), numbers(expected[index])]
    if digits[0] == digits[1]:  # as many as tell them apart
        digits = [repr(value[index].item()), repr(expected[index].item())]
    found = f"{digits[0]} where {digits[1]} is expected"
    if expected.dtype.kind != "b" and np.isfinite(gaps[index]):
        found = f"largest difference {gaps[index]:.3g}, {found}"
    if wrong.size > 1:
        at = ", ".join(map(str, index))
        found += f" at [{at}], {wrong.sum()} of {wrong.size} entries differ"
    if {str(value.dtype), str(expected.dtype)} == {"float32", "float64"}:
        found += f"; and it is {value.dtype} where {expected.dtype} is expected"
    return found
