"""The pictures of lesson 09, panoptic quality: small maps of numbers, scenes with verdicts, prices.

A small map is drawn cell by cell with its number in it; `hues` are the palette's places for the
numbers 1, 2, …, and 0 is white.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from lessons.kit.data import Category, Sample, Segments
from lessons.kit.draw import (
    INK,
    PALE,
    PALETTE,
    captioned,
    draw_image,
    draw_legend,
    draw_panoptic,
    draw_segments,
)

BLUE, ORANGE = "#0072B2", "#D55E00"
SHEEP_AND_MEADOW = {1: 1, 7: 6}  # by class; the hues of the palette
VERDICTS = {  # fill and mark
    "matched": ((0.34, 0.71, 0.91), "✓"),
    "false positive": ((0.84, 0.37, 0.0), "✗"),
    "not judged": ((0.8, 0.47, 0.65), "–"),
    "missed": ((0.94, 0.89, 0.26), "!"),
}
CLEAR = [withStroke(linewidth=2, foreground="white")]
Map = Int[Tensor, "h w"]


def crisp(figure: Figure, caption: str) -> captioned:
    """A figure whose pixels are drawn as they are: sharper here, and half as many bytes."""
    for ax in figure.axes:
        for image in ax.images:
            image.set_interpolation("nearest")
    return captioned(figure, caption)


def a_scene(sample: Sample, answer: Segments, categories: Sequence[Category]) -> captioned:
    """An image, its panoptic truth and an answer."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    draw_image(sample.image, title="image", ax=axes[0])
    draw_panoptic(sample.segments, categories, title="truth", ax=axes[1])
    draw_panoptic(answer, categories, title="answer", ax=axes[2])
    draw_legend(categories, axes[2])
    figure.tight_layout(w_pad=0.4)
    return crisp(
        figure,
        "A scene, its panoptic truth and the answer of an imaginary system. The hue is the class, "
        "the shade tells things of one class apart. Black is void in the truth, no answer in the "
        "answer.",
    )


# ---------------------------------------------------------------- small maps


def cells(ax: Axes, values: Map, title: str, hues: Mapping[int, int]) -> None:
    """A small map with its numbers; number i has the hue hues[i], 0 none."""
    values = np.asarray(values)
    for (i, j), value in np.ndenumerate(values):
        color = PALETTE[hues[int(value)]] if value else "white"
        ax.add_patch(plt.Rectangle((j, i), 1, 1, fc=color, alpha=0.5, ec="none"))
        ax.text(j + 0.5, i + 0.5, value, ha="center", va="center", size=9)
    ax.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0), aspect="equal")
    ax.set_title(title, fontsize=9)
    ax.add_patch(plt.Rectangle((0, 0), *values.shape[::-1], fill=False, ec=PALE))
    ax.axis("off")


def two_labels(class_of: Map, number_of: Map) -> captioned:
    """The lecture's Y of the letter image: class label and instance label of each pixel."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.3))
    cells(axes[0], class_of, "class label: 1 sheep, 7 meadow", SHEEP_AND_MEADOW)
    cells(axes[1], number_of, "instance label", {1: 4, 2: 5})
    figure.tight_layout()
    return captioned(
        figure,
        "Two numbers in each pixel, 0 for void. Instance labels begin anew in each class, so the "
        "first sheep and the meadow are both number 1.",
    )


def ids(values: Map, names: Sequence[str]) -> captioned:
    """A map of ids and the list beside it."""
    figure, ax = plt.subplots(figsize=(3.6, 2.3))
    cells(ax, values, "", {1: 1, 2: 2, 3: 6})
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names, start=1))
    return captioned(figure, f"One number for each pixel, and a list: {listed}. 0 is void.")


def truth_and_answer(truth: Map, answer: Map) -> captioned:
    """The letter image: ids of both sides."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.3))
    cells(axes[0], truth, "truth: 1, 2 sheep, 3 meadow, 0 void", {1: 1, 2: 2, 3: 6})
    cells(axes[1], answer, "answer: 1, 2, 3 sheep, 4 meadow", {1: 1, 2: 2, 3: 0, 4: 6})
    figure.tight_layout()
    return captioned(figure, "Two sheep and a meadow, and an answer with three sheep.")


def overlaps(
    table: Int[np.ndarray, "rows columns"], rows: Sequence[str], columns: Sequence[str]
) -> captioned:
    """A table of overlaps, with its sums at the right and below."""
    figure, ax = plt.subplots(figsize=(5.4, 3))
    ax.imshow(table, cmap="Blues", vmax=2 * table.max(), aspect="auto")
    for (i, j), count in np.ndenumerate(table):
        ax.text(j, i, count, ha="center", va="center", color=INK if count else PALE)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    for i, area in enumerate(table.sum(1)):
        ax.text(len(columns) - 0.35, i, f"= {area}", va="center", color=BLUE)
    for j, area in enumerate(table.sum(0)):
        ax.text(j, len(rows) - 0.3, f"= {area}", ha="center", va="center", color=BLUE)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set(xlabel="true segment", ylabel="predicted segment")
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return captioned(
        figure,
        "All pixels by pairs of segments; blue, the sums. A row sums to the area of a predicted "
        "segment, a column to that of a true one. The first column is void.",
    )


def not_unique(one: Map, halves: Map, twice: Map) -> captioned:
    """One sheep, its two halves, and two masks that overlap (3: in both)."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.2))
    cells(axes[0], one, "truth: one sheep", {1: 1})
    cells(axes[1], halves, "two halves", {1: 1, 2: 2})
    cells(axes[2], twice, "two masks (3: in both)", {1: 1, 2: 2, 3: 3})
    figure.tight_layout()
    return captioned(
        figure, "A sheep of eight pixels, and two answers with two segments each (0: none)."
    )


# ---------------------------------------------------------------- scenes


def void_and_crowd(
    with_crowd: Sample, with_void: Segments, void: Bool[Tensor, "h w"], kinds: Sequence[Category]
) -> captioned:
    """A scene with a crowd, and the void of another one, enlarged."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1))
    draw_image(with_crowd.image, title="image", ax=axes[0])
    options = {"labels": False, "title": "truth; hatched, the crowd"}
    draw_segments(with_crowd.image, with_crowd.segments, kinds, ax=axes[1], **options)
    draw_panoptic(with_void, kinds, title="truth of another, enlarged", ax=axes[2])
    place = void.nonzero().float().mean(0).tolist()
    top, left = (
        min(max(at - 16, 0), size - 32) for at, size in zip(place, void.shape, strict=True)
    )
    axes[2].set(xlim=(left, left + 32), ylim=(top + 32, top))
    figure.tight_layout(w_pad=0.4)
    return crisp(
        figure,
        f"Left and middle: a scene with a distant flock, a crowd. Right: {int(void.sum())} pixels "
        "of void, in black, where a thing shows so little that it got no segment.",
    )


def draw_verdicts(
    ax: Axes,
    image: Float[Tensor, "3 h w"],
    shown: Segments,
    verdicts: Sequence[str],
    categories: Sequence[Category],
    title: str,
) -> None:
    """Segments over a grey image in the colours of their verdicts, the larger ones marked."""
    colors = np.array([VERDICTS[each][0] for each in verdicts]).reshape(-1, 3)
    grey = image.mean(0, keepdim=True).expand(3, -1, -1) * 0.5 + 0.5
    options = {"labels": False, "fill": 0.75, "title": title}
    draw_segments(grey, shown, categories, colors=colors, ax=ax, **options)
    for mask, verdict in zip(shown.masks, verdicts, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        if len(rows) < 40:
            continue
        middle = ((rows - rows.float().mean()) ** 2 + (columns - columns.float().mean()) ** 2).min(
            0
        )
        y, x = rows[middle.indices] + 0.5, columns[middle.indices] + 0.5
        mark = VERDICTS[verdict][1]
        ax.text(x, y, mark, ha="center", va="center", size=9, path_effects=CLEAR)


def with_verdicts(prediction: Segments, target: Segments, found) -> tuple[Segments, list[str]]:
    """The predicted segments over the missed ones, and a verdict for each, from its matches."""
    missed = target[found.false_negative]
    words = np.full(len(prediction), "not judged", dtype=object)
    words[found.predicted.numpy()] = "matched"
    words[found.false_positive.numpy()] = "false positive"
    masks = torch.cat([missed.masks, prediction.masks])
    labels = torch.cat([missed.labels, prediction.labels])
    return Segments(masks, labels), ["missed"] * len(missed) + words.tolist()


def verdicts(
    samples: Sequence[Sample],
    predictions: Sequence[Segments],
    found: Sequence,
    titles: Sequence[str],
    categories: Sequence[Category],
) -> captioned:
    """Every predicted segment with its verdict, and the true ones that nobody matched."""
    figure, axes = plt.subplots(1, len(samples), figsize=(8.4, 3.1))
    for ax, sample, answer, matches, title in zip(
        axes, samples, predictions, found, titles, strict=True
    ):
        shown, words = with_verdicts(answer, sample.segments, matches)
        draw_verdicts(ax, sample.image, shown, words, categories, title)
    figure.tight_layout(w_pad=0.4)
    return crisp(
        figure,
        "✓ blue: matched. ✗ orange: false positive. – pink: mostly in void or crowd, not judged. "
        "! yellow: a true segment without a match (what shows of it).",
    )


def moved(
    image: Float[Tensor, "3 h w"],
    thing: str,
    one: Segments,
    true: Bool[Tensor, "h w"],
    shift: int,
    iou: Sequence[float],
    pq: Sequence[float],
    categories: Sequence[Category],
) -> captioned:
    """A segment moved to the right, and IoU and PQ of all shifts up to this one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.7), width_ratios=(1, 1.25))
    matched = iou[shift] > 0.5
    verdict = "matched" if matched else "false positive"
    draw_verdicts(left, image, one, [verdict], categories, f"moved by {shift} pixels")
    h, w = true.shape
    grid = np.arange(w) + 0.5, np.arange(h) + 0.5
    left.contour(*grid, true, [0.5], colors=INK, linewidths=1.4, linestyles="--")
    open_ = {"markerfacecolor": "none", "ms": 8}
    right.plot(iou[: shift + 1], "s:", color=ORANGE, label=f"IoU of the {thing}", **open_)
    last = sum(value > 0.5 for value in iou)  # of the matches; behind it lies the cliff
    for shifts in (range(min(last, shift + 1)), range(last, shift + 1)):
        right.plot(shifts, [pq[s] for s in shifts], "o-", ms=4, color=BLUE)
    right.plot([], [], "o-", ms=4, color=BLUE, label=f"PQ of the class {thing}")
    right.axhline(0.5, color=PALE, lw=1)
    right.set(xlim=(-1, len(iou)), ylim=(0, 1.05), xlabel="shift (pixels)")
    right.legend(loc="lower left" if pq[shift] > 0.5 and iou[shift] > 0.4 else "upper right")
    figure.tight_layout()
    return crisp(
        figure,
        f"The {thing} moved by {shift} pixels; dashed, where it truly is. IoU {iou[shift]:.3f}, "
        f"PQ of its class {pq[shift]:.3f}: {'a match' if matched else 'no match'}.",
    )


def in_pieces(
    sample: Sample, cut: Segments, found, name: str, pq: float, categories: Sequence[Category]
) -> captioned:
    """A scene's truth, and an answer in which a segment was cut into its connected pieces."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.3))
    draw_panoptic(sample.segments, categories, title=f"truth: one {name}", ax=axes[0])
    title = f"by pieces: PQ of {name} {pq:.2f}"
    draw_verdicts(
        axes[1], sample.image, *with_verdicts(cut, sample.segments, found), categories, title
    )
    figure.tight_layout(w_pad=0.4)
    return crisp(
        figure,
        f"The {name} answered piece by piece. The largest piece matches (✓); each other one is a "
        "false positive (✗), right as its pixels are.",
    )


def pngs(pictures: Mapping[str, UInt8[Tensor, "h w 3"]]) -> captioned:
    """Panoptic PNGs as a viewer of images shows them."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(6, 3.1))
    for ax, (title, rgb) in zip(axes, pictures.items(), strict=True):
        ax.imshow(rgb)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    figure.tight_layout(w_pad=0.4)
    return crisp(figure, "Two PNGs with the same segments. A metric reads both alike.")


# ---------------------------------------------------------------- curves and bars


def cliffs(curves: Mapping[str, Float[np.ndarray, "shifts 2"]], heights: Mapping[str, float]):
    """IoU and PQ by shift for several things, and how high each cliff is."""
    figure, axes = plt.subplots(1, len(curves), figsize=(8.6, 2.7), sharey=True)
    for ax, (thing, curve) in zip(axes, curves.items(), strict=True):
        last = int((curve[:, 0] > 0.5).sum()) - 1
        ax.plot(curve[:, 0], ":", color=ORANGE, label="IoU")
        for part in (slice(0, last + 1), slice(last + 1, None)):
            ax.plot(np.arange(len(curve))[part], curve[part, 1], "-", color=BLUE)
        ax.plot([last, last + 1], curve[last : last + 2, 1], "o", color=BLUE, ms=4)
        ax.plot([], [], "-", color=BLUE, label="PQ of its class")
        ax.axhline(0.5, color=PALE, lw=1)
        ax.set(ylim=(0, 1.05), xlabel="shift (pixels)")
        ax.set_title(f"{thing}: cliff {heights[thing]:.3f}", fontsize=9)
    axes[0].legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    return captioned(
        figure,
        "IoU glides through ½. PQ falls there: the dots are the last match and the next pixel.",
    )


def missed_row(sides: Sequence[int], pq: Sequence[float]) -> captioned:
    """The PQ of a square whose first row is missing, by its side."""
    figure, ax = plt.subplots(figsize=(5.6, 2.6))
    ax.plot(sides, pq, "o-")
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xlabel="side of the square (pixels)", ylabel="PQ", ylim=(-0.04, 1.08))
    ax.set_xticks(sides[::2], sides[::2])
    for k, place in ((0, (8, 2)), (1, (8, -4)), (len(sides) // 2, (4, -14)), (-1, (-10, -14))):
        text = f"{pq[k]:.3f}"
        ax.annotate(text, (sides[k], pq[k]), xytext=place, textcoords="offset points", size=9)
    return captioned(figure, "The same mistake, one row of pixels, by the size of the thing.")


def prices(price: Mapping[str, float]) -> captioned:
    """What single mistakes cost, the cheapest at the bottom."""
    ordered = sorted(price, key=price.get)
    figure, ax = plt.subplots(figsize=(6.4, 2.5))
    ax.barh(ordered, [price[name] for name in ordered], color="#56B4E9")
    for name in ordered:
        ax.text(price[name] + 0.003, name, f"{price[name]:.3f}", va="center", size=9)
    ax.set(xlabel="what it costs: 1 − PQ of the class", xlim=(0, 0.19))
    ax.grid(axis="y", visible=False)
    return captioned(figure, "Prices of single mistakes among ten things of a class.")
