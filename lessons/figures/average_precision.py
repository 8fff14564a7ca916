"""The pictures of lesson 01: overlaps, who takes which thing, curves, and a cut of the ranking.

A verdict on a detection is a colour: blue a hit, orange false, grey in a crowd; a thing that was
missed is yellow.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from torch import Tensor, cat

from lessons.kit.data import Category, Segments, boxes
from lessons.kit.draw import INK, PALE, captioned, draw_segments, side_by_side

BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
HIT, FALSE, MISSED, NEUTRAL = (to_rgb(c) for c in (SKY, ORANGE, "#F0E442", "#999999"))


def one_scene(
    image: Float[Tensor, "3 h w"],
    truth: Segments,
    found: Segments,
    categories: Sequence[Category],
) -> captioned:
    """An image, its things, and detections with their scores."""
    answers = {"image": None, "ground truth": truth, "detections": found}
    figure = side_by_side(image, answers, categories)
    figure.set_size_inches(8, 2.9)
    return captioned(
        figure,
        "One drawn scene, its ground truth, and the detections of an imaginary system with their "
        "scores. Two things are missed, one is found twice, some stand a little off. How good is "
        "this system?",
    )


def overlap(p: Bool[Tensor, "h w"], g: Bool[Tensor, "h w"], both: int, either: int) -> captioned:
    """Two masks on one grid, and how many pixels both and either of them have."""
    kinds = ListedColormap(["#F2F2F2", SKY, "#E69F00", INK])
    figure, ax = plt.subplots(figsize=(3.4, 2.8))
    ax.pcolormesh(p.int() + 2 * g.int(), cmap=kinds, vmin=0, vmax=3, edgecolor="white")
    ax.set(title=f"IoU = {both} / {either} = {both / either:.3f}", aspect="equal")
    ax.axis("off")
    ax.invert_yaxis()
    return captioned(
        figure,
        "Blue: only p. Orange: only g. Black: both. A shift by a third of the side in each "
        "direction already brings the IoU below one third.",
    )


def who_takes_what(
    iou: Float[Tensor, "d g"],
    thresholds: Float[Tensor, "t"],
    matches: Int[Tensor, "t d"],
) -> captioned:
    """The matrix of IoUs for each threshold, with a frame around each match."""
    figure, axes = plt.subplots(1, len(thresholds), figsize=(2.2 * len(thresholds), 2.6))
    for ax, threshold, row in zip(axes, thresholds.tolist(), matches.tolist(), strict=True):
        ax.imshow(iou, cmap="Greys", vmin=0, vmax=2)
        for d, values in enumerate(iou.tolist()):
            for g, value in enumerate(values):
                ax.text(g, d, f"{value:.1f}", ha="center", va="center", color=INK)
            if row[d] >= 0:
                frame = (row[d] - 0.42, d - 0.42), 0.84, 0.84
                ax.add_patch(plt.Rectangle(*frame, fill=False, ec=BLUE, lw=2.5))
        ax.set(xticks=range(iou.shape[1]), yticks=range(len(iou)), title=f"t = {threshold:.2f}")
        ax.set(xlabel="thing", ylabel="detection" if ax is axes[0] else "")
        ax.grid(False)
    figure.tight_layout()
    return captioned(
        figure,
        "IoUs of three detections, the best score at the top, with two things. A frame: this "
        "detection takes this thing. A row without a frame is a false positive.",
    )


def verdict(
    ax: Axes,
    image: Float[Tensor, "3 h w"],
    found: Segments,
    hit: Bool[Tensor, "d"],
    false: Bool[Tensor, "d"],
    missed: Segments,
    categories: Sequence[Category],
) -> None:
    """The detections in the colours of their verdicts, and the things that were missed."""
    kinds = [HIT if h else FALSE if f else NEUTRAL for h, f in zip(hit, false, strict=True)]
    everything = Segments(cat([missed.masks, found.masks]), cat([missed.labels, found.labels]))
    colors = np.array([MISSED] * len(missed) + kinds).reshape(-1, 3)
    draw_segments(image, everything, categories, colors=colors, fill=0.65, labels=False, ax=ax)


def verdicts(scenes: Sequence[tuple], categories: Sequence[Category]) -> captioned:
    """A picture for each scene, which is what `verdict` takes between `ax` and `categories`."""
    figure, axes = plt.subplots(1, len(scenes), figsize=(8, 8 / len(scenes)))
    for ax, scene in zip(axes, scenes, strict=True):
        verdict(ax, *scene, categories)
    figure.tight_layout(w_pad=0.5)
    return captioned(
        figure,
        "Blue: detections that found a thing of their class at IoU 0.5. Orange: false positives, "
        "a wrong class among them. Yellow: things that were missed. Grey: inside a crowd, neither "
        "right nor wrong.",
    )


def curve(
    precision: Float[Tensor, "d"],
    recall: Float[Tensor, "d"],
    recalls: Float[Tensor, "n"],
    readings: Float[Tensor, "n"],
) -> captioned:
    """Precision after each rank, and what is read at each recall."""
    figure, ax = plt.subplots(figsize=(6, 3.4))
    ax.fill_between(recalls, readings, step="pre", color=SKY, alpha=0.3, lw=0)
    ax.plot(recall, precision, "o--", color=ORANGE, lw=1.2, label="precision after each rank")
    ax.plot(recalls, readings, ".", color=BLUE, ms=4, label="the envelope at 101 recalls")
    falls = [False, *(precision.diff() < 0).tolist()]
    for rank, (r, p) in enumerate(zip(recall.tolist(), precision.tolist(), strict=True)):
        above = (5, -12) if falls[rank] else (5, 4)
        ax.annotate(rank + 1, (r, p), above, textcoords="offset points", size=9, color=ORANGE)
    ax.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.04, 1.08))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.06))
    return captioned(
        figure,
        "The ranking of six. The orange zigzag is what was measured, rank by rank; the blue dots "
        f"are the 101 readings of the envelope. Their mean, {readings.mean():.4f}, is the average "
        "precision. One of five things was never found, so the last fifth reads 0.",
    )


def by_threshold(
    thresholds: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    means: Mapping[str, float],
    mean: float,
) -> captioned:
    """AP at each threshold by class and in the mean; and each class's mean over thresholds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    styles = ("o-", "s--", "^-.", "D:")
    colors = (BLUE, ORANGE, "#009E73", "#CC79A7")
    for k, (name, values) in enumerate(curves.items()):
        last = k == len(curves) - 1
        style = {"color": INK, "lw": 2.5} if last else {"color": colors[k], "ms": 4, "lw": 1.4}
        left.plot(thresholds, values, "-" if last else styles[k], label=name, **style)
    left.set(xlabel="IoU threshold t", ylabel="AP at t", ylim=(-0.03, 1))
    left.legend()
    right.barh(list(means), list(means.values()), color=SKY)
    right.axvline(mean, color=INK, ls="--")
    right.invert_yaxis()
    right.set(xlabel="AP, mean over t (dashed: mean over classes)", xlim=(0, 1))
    figure.tight_layout(w_pad=2)
    return captioned(
        figure,
        "Left: AP falls as the threshold rises, because these detections are misplaced by a few "
        "pixels. Right: the mean over thresholds for each class.",
    )


def operating_point(
    scene: tuple,
    categories: Sequence[Category],
    curve: tuple[Float[Tensor, "d"], Float[Tensor, "d"]],
    at: int,
    caption: str,
) -> captioned:
    """What a cut leaves of one scene, and its place on the curve (precision, recall).

    `scene` is what `verdict` takes; `at` is the number of detections above the cut.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6))
    verdict(left, *scene, categories)
    precision, recall = curve
    right.plot(recall, precision, color=BLUE, lw=1.4)
    if at:
        right.plot(recall[at - 1], precision[at - 1], "o", ms=10, color=ORANGE)
    right.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.05))
    right.set_title("all scenes")
    figure.tight_layout()
    return captioned(figure, caption)


def boxes_and_masks(
    by_mask: Float[Tensor, "n"], by_box: Float[Tensor, "n"], box_only: Bool[Tensor, "n"]
) -> captioned:
    """The two IoUs of each pair, and the pairs that match by their boxes only."""
    figure, ax = plt.subplots(figsize=(4.6, 4.2))
    ax.axhline(0.5, color=PALE, lw=0.8, ls=":")
    ax.axvline(0.5, color=PALE, lw=0.8, ls=":")
    ax.plot([0, 1], [0, 1], color=INK, lw=0.8)
    ax.plot(by_mask[~box_only], by_box[~box_only], ".", ms=4, color=PALE)
    ax.plot(by_mask[box_only], by_box[box_only], "x", ms=5, color=ORANGE)
    ax.set(xlabel="IoU of the masks", ylabel="IoU of the boxes", aspect="equal")
    ax.grid(False)
    return captioned(
        figure,
        "Every overlapping pair of a detection and a thing of its class. Crosses: pairs that match "
        "at 0.5 (dotted) by their boxes and do not by their masks. Boxes are blind to what happens "
        "inside them.",
    )


def a_crowd_in_pieces(
    image: Float[Tensor, "3 h w"],
    truth: Segments,
    found: Segments,
    categories: Sequence[Category],
) -> captioned:
    """A scene with a crowd, and an answer that reports pieces of it."""
    x0, y0, x1, y1 = boxes(truth[truth.is_crowd])[0].tolist()
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.9))
    for ax, answer in zip(axes, (truth, found), strict=True):
        draw_segments(image, answer, categories, fill=0.7, labels=False, ax=ax)
        ax.set(xlim=(x0 - 12, x1 + 12), ylim=(y1 + 22, y0 - 12))
    axes[0].set_title("ground truth")
    axes[1].set_title("a careful system")
    figure.tight_layout(w_pad=0.5)
    return captioned(
        figure,
        "A part of a scene. Left: the hatched flock is a crowd. Right: the things around it are "
        "found exactly, and three pieces of the flock are reported as sheep.",
    )
