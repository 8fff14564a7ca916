"""The pictures of lesson 02, anchor boxes and the suppression of near duplicates."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from lessons.figures.boxes import density, outline
from lessons.kit.draw import INK, PALE, PALETTE, captioned, draw_box, draw_image

BLUE, ORANGE, GREEN, PINK, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#F0E442"
Box = Sequence[float] | Float[Tensor, "4"]


def true_boxes(
    image: Float[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"], labels: Int[Tensor, "n"]
) -> captioned:
    """An image beside its true boxes, a colour for each class."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.1))
    draw_image(image, ax=left, title="what goes in")
    draw_image(image, ax=right, title=f"what is to come out: {len(boxes)} boxes")
    for k in labels.unique().tolist():
        outline(right, boxes[labels == k], PALETTE[k])
    return captioned(figure, "A scene and the boxes of its things. One colour is one class.")


def overlap(p: Box, g: Box, both: Box) -> captioned:
    """Two boxes on a grid, and the box in which they overlap."""
    figure, ax = plt.subplots(figsize=(3.4, 3.4))
    ax.add_patch(plt.Rectangle(both[:2], both[2] - both[0], both[3] - both[1], fc=GREEN, alpha=0.3))
    draw_box(ax, p, BLUE)
    draw_box(ax, g, ORANGE, dashed=True)
    ax.text(p[0] + 0.12, p[1] + 0.15, "p", color=BLUE, size=13, va="top")
    ax.text(g[2] - 0.12, g[3] - 0.15, "g", color=ORANGE, size=13, ha="right", va="bottom")
    low, high = min(*p, *g) - 1, max(*p, *g) + 1
    ticks = range(int(low), int(high) + 1)
    ax.set(xlim=(low, high), ylim=(high, low), xticks=ticks, yticks=ticks, aspect="equal")
    return captioned(figure, "Two boxes overlap in a box (green): no pixel has to be counted.")


def encoded(
    anchor: Box, boxes: Mapping[str, Box], codes: Mapping[str, Sequence[float]]
) -> captioned:
    """An anchor, and boxes with the four numbers that lead to each."""
    figure, axes = plt.subplots(1, len(boxes), figsize=(9, 3.3))
    for ax, (name, box) in zip(axes, boxes.items(), strict=True):
        draw_box(ax, anchor, PALE, dashed=True)
        draw_box(ax, box, BLUE)
        for (x0, y0, x1, y1), color in ((anchor, PALE), (box, BLUE)):
            ax.plot((x0 + x1) / 2, (y0 + y1) / 2, "o", color=color, ms=5)
        ax.set(xlim=(-4, 44), ylim=(58, 2), aspect="equal", title=name)
        ax.set_xlabel("  ".join(f"{t:.2f}".replace("-", "−") for t in codes[name]), size=9)
    axes[0].set_ylabel("y (pixels)")
    figure.tight_layout()
    return captioned(
        figure,
        "The anchor (dashed) and boxes that are encoded from it. Below each: t_x, t_y, t_w, t_h.",
    )


def anchors(
    image: Float[Tensor, "3 h w"],
    strides: Sequence[int],
    at_one_cell: Sequence[Float[Tensor, "a 4"]],
    counts: Sequence[int],
) -> captioned:
    """The centres of all anchors, level by level, and the anchors of one cell of each."""
    figure, axes = plt.subplots(1, len(strides), figsize=(10, 3.1))
    h, w = image.shape[1:]
    for ax, stride, boxes, count in zip(axes, strides, at_one_cell, counts, strict=True):
        draw_image(0.5 + 0.5 * image, ax=ax, title=f"stride {stride}: {count} anchors")
        y, x = np.mgrid[0:h:stride, 0:w:stride] - 0.5
        ax.plot(x.ravel(), y.ravel(), ".", color=INK, ms=1.2 if stride < 8 else 3, alpha=0.6)
        outline(ax, boxes, ORANGE, 1.6)
        ax.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))
    figure.tight_layout(w_pad=0.4)
    return captioned(
        figure,
        "Dots: the places where anchors are centred. Orange: the three anchors of one of them; "
        "those of stride 32 reach out of the image.",
    )


def best_fits(
    image: Float[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"], best: Float[Tensor, "n 4"],
    fits: Sequence[float], levels: Sequence[int],
) -> captioned:  # fmt: skip
    """True boxes with the best of all anchors for each, in a cut-out around it."""
    figure, axes = plt.subplots(1, len(boxes), figsize=(9, 3))
    for ax, box, anchor, fit, stride in zip(axes, boxes, best, fits, levels, strict=True):
        draw_image(image, ax=ax, title=f"stride {stride}, IoU {fit:.2f}")
        outline(ax, box[None], BLUE, 2)
        outline(ax, anchor[None], ORANGE, 2, "--")
        x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
        ax.set(xlim=(x - 26, x + 26), ylim=(y + 26, y - 26))
    figure.tight_layout()
    return captioned(figure, "True boxes (blue) and the best of all anchors for each (dashed).")


def duplicates(
    image: Float[Tensor, "3 h w"], boxes: Float[Tensor, "n 4"], true: Float[Tensor, "m 4"]
) -> captioned:
    """Many boxes as a density, beside the true ones."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.1))
    draw_image(image, ax=left, title=f"{len(true)} things")
    outline(left, true, BLUE)
    density(image, boxes, right, title=f"{len(boxes)} boxes")
    figure.tight_layout()
    return captioned(
        figure,
        "Near duplicates, imagined: each thing is found twelve times. The more boxes have a side "
        "at a place, the darker it is.",
    )


def chain(boxes: Float[Tensor, "n 4"], scores: Sequence[float], names: str) -> captioned:
    """Boxes with their scores, apart enough to be told from one another."""
    figure, ax = plt.subplots(figsize=(6.4, 2.8))
    colors, styles = (BLUE, ORANGE, GREEN, INK), ("-", "--", "-.", ":")
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        y0, y1 = y0 + 3 * (k % 3), y1 + 3 * (k % 3)
        draw = plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, lw=2)
        ax.add_patch(draw).set(edgecolor=colors[k % 4], linestyle=styles[k % 4])
        ax.text(x1 - 0.4, y1 - 0.4, f"{names[k]} {scores[k]:.1f}", color=colors[k % 4],
                ha="right", va="bottom", size=9)  # fmt: skip
    ax.set(xlim=(-2, 44), ylim=(18, -2), yticks=(), xlabel="x (pixels)")
    return captioned(
        figure,
        "Four boxes of equal height with their scores (drawn below one another, so that their "
        "sides can be told apart).",
    )


def outcome(
    image: Float[Tensor, "3 h w"],
    before: Float[Tensor, "n 4"],
    found: Float[Tensor, "a 4"],
    again: Float[Tensor, "b 4"],
    lost: Float[Tensor, "c 4"],
    words: str,
) -> captioned:
    """Boxes before NMS, and after it: things found, found again, and lost."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.1))
    density(image, before, axes[0], title=f"{len(before)} boxes before NMS")
    draw_image(image, ax=axes[1], title=f"{len(found) + len(again)} boxes after it")
    outline(axes[1], found, BLUE)
    outline(axes[1], again, ORANGE, 1.6, "--")
    outline(axes[1], lost, YELLOW, 2.4, ":")
    figure.subplots_adjust(0, 0, 1, 0.92, wspace=0.04)  # faster than tight_layout
    duplicates = "1 duplicate" if len(again) == 1 else f"{len(again)} duplicates"
    return captioned(
        figure, f"{words} {len(found)} things found (blue), {duplicates} (orange, dashed), "
        f"{len(lost)} lost (yellow, dotted).",
    )  # fmt: skip


KINDS = {
    "every thing once": GREEN,
    "duplicates": "#E69F00",
    "things lost": "#56B4E9",
    "both": PINK,
}


def map_of_thresholds(
    nms_thresholds: Sequence[float],
    score_thresholds: Sequence[float],
    again: Int[Tensor, "s t"],
    lost: Int[Tensor, "s t"],
    caption: str,
) -> captioned:
    """What each pair of thresholds does: a row for each score, a column for each of NMS."""
    figure, ax = plt.subplots(figsize=(7, 3.6))
    kind = (again > 0).int() + 2 * (lost > 0).int()
    x, y = (
        (values[0], values[-1], values[1] - values[0])
        for values in (nms_thresholds, score_thresholds)
    )
    extent = (x[0] - x[2] / 2, x[1] + x[2] / 2, y[0] - y[2] / 2, y[1] + y[2] / 2)
    colors = ListedColormap(list(KINDS.values()))
    ax.imshow(kind, cmap=colors, vmin=0, vmax=3, extent=extent, origin="lower", aspect="auto",
              interpolation="nearest")  # fmt: skip
    exact = (kind == 0).nonzero().tolist()
    ax.plot([nms_thresholds[t] for _, t in exact], [score_thresholds[s] for s, _ in exact], "k.",
            ms=5)  # fmt: skip
    ax.set(xlabel="NMS threshold", ylabel="score threshold")
    ax.grid(False)
    legend_of_kinds(ax)
    return captioned(figure, caption)


def legend_of_kinds(ax: Axes) -> None:
    """What the colours of a map of thresholds mean; the wanted one has a dot."""
    handles = [
        plt.Line2D([], [], marker="s", ls="", ms=9, color=color, label=name)
        for name, color in KINDS.items()
    ]
    handles[0].set(markeredgecolor="black")
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5))


def close_pairs(
    images: Sequence[Float[Tensor, "3 h w"]],
    pairs: Sequence[Float[Tensor, "2 4"]],
    overlaps: Sequence[float],
) -> captioned:
    """Pairs of true boxes that overlap most, each in a cut-out around it."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(9, 3.2))
    for ax, image, pair, iou in zip(axes, images, pairs, overlaps, strict=True):
        draw_image(image, ax=ax, title=f"IoU {iou:.2f}")
        outline(ax, pair[:1], BLUE, 2)
        outline(ax, pair[1:], ORANGE, 2, "--")
        x, y = ((pair[:, :2] + pair[:, 2:]) / 4).sum(0).tolist()
        ax.set(xlim=(x - 32, x + 32), ylim=(y + 32, y - 32))
    figure.tight_layout()
    return captioned(
        figure,
        "The three pairs of one class whose true boxes overlap most. NMS at 0.7 keeps one of each.",
    )
