"""The failing case of a check as a student sees it: tiny values whole, maps side by side."""

import html
from base64 import b64encode

import matplotlib.pyplot as plt
import numpy as np

from lessons.kit.draw import captioned
from lessons.kit.homework.exercise import Failing
from lessons.kit.homework.words import as_array, describe, parts_of

WHOLE = 60  # numbers at most that are printed
ROWS = 3  # maps at most that are drawn


def draw(failing: Failing) -> captioned | None:
    """Expected, got and their difference, for each map that differs; None where there is none.

    A map has two axes of at least three entries; of a stack the map with the most wrong entries
    is shown.
    """
    maps = list(_maps(failing.expected, failing.got, ""))[:ROWS]
    if not maps:
        return None
    figure, axes = plt.subplots(len(maps), 3, figsize=(7, 2.4 * len(maps)), squeeze=False)
    for row, (name, expected, got) in zip(axes, maps, strict=True):
        low, high = _range(np.stack([expected, got]))
        for ax, values, title in zip(row[:2], (expected, got), ("expected", "got"), strict=True):
            ax.imshow(values, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
            ax.set_title(f"{title}{name}", fontsize=9)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            gap = np.where(np.isclose(got, expected, equal_nan=True), 0.0, got - expected)
        reach = max(abs(end) for end in _range(gap)) or 1.0
        gap = np.clip(np.nan_to_num(gap, nan=reach), -reach, reach)
        row[2].imshow(gap, vmin=-reach, vmax=reach, cmap="RdBu", interpolation="nearest")
        row[2].set_title("got − expected", fontsize=9)
        for ax in row:
            ax.set_xticks([]), ax.set_yticks([])
    caption = "Where the result differs: blue is too large, red too small, white is right."
    return captioned(figure, caption)


def as_html(failing: Failing) -> str:
    """The arguments, what was expected and what came, and the maps below."""
    rows = failing.arguments | {"expected": failing.expected, "got": failing.got}
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td><pre>{html.escape(whole(value))}</pre></td></tr>"
        for name, value in rows.items()
    )
    picture = draw(failing)
    if picture is None:
        return f"<table>{body}</table>"
    data, alt = b64encode(picture.png()).decode(), html.escape(picture.caption)
    return f'<table>{body}</table><img alt="{alt}" src="data:image/png;base64,{data}" width="560">'


def whole(value: object) -> str:
    """A value with all its numbers where they are few, in lines; otherwise in a few words."""
    array = as_array(value)
    if array is not None and array.ndim and 0 < array.size <= WHOLE:
        return np.array2string(array, precision=4, suppress_small=True, separator=", ")
    parts = parts_of(value)
    if array is None and parts and len(parts) <= WHOLE:
        return "\n".join(f"{key}: {whole(part)}" for key, part in parts.items())
    return describe(value)


def _maps(expected: object, got: object, name: str):
    """Name, expected and got of each pair of maps that differ, in results of any nesting."""
    a, b = as_array(expected), as_array(got)
    if a is not None and b is not None:
        if a.shape == b.shape and a.ndim in (2, 3) and min(a.shape[-2:]) >= 3 and a.size:
            a, b = a.astype(float), b.astype(float)
            wrong = ~np.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
            if a.ndim == 3 and wrong.any():
                worst = int(wrong.sum((1, 2)).argmax())
                a, b, wrong, name = a[worst], b[worst], wrong[worst], f"{name}[{worst}]"
            if wrong.any():
                yield name, a, b
        return
    one, other = parts_of(expected), parts_of(got)
    if one is not None and other is not None:
        for key in one:
            if key in other:
                yield from _maps(one[key], other[key], name + key)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite number."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
