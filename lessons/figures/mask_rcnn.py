"""The pictures of lesson 05, Mask R-CNN.

Boxes are x0, y0, x1, y1 in pixels of the image, whose first pixel covers 0 to 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F

from lessons.kit.data import Category, Sample, Segments, boxes, is_crowd
from lessons.kit.draw import (
    captioned,
    draw_box,
    draw_curves,
    draw_image,
    draw_segments,
    segment_colors,
    side_by_side,
)

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
Box = Sequence[float] | Float[Tensor, "4"]


def whole_way(
    image: Float[Tensor, "3 h w"],
    proposals: Float[Tensor, "_ 4"],
    found: Any,
    answer: Segments,
    kinds: Sequence[Category],
    most: int = 40,
) -> captioned:
    """The best proposals, the boxes that are left (`Detections`), their masks, the pasted answer.

    Of what is found, what has a score above ½.
    """
    sure = found.scores > 0.5
    proposals, boxes, masks = proposals[:most], found.rois[sure, 1:], found.masks[sure]
    answer = answer[answer.scores > 0.5]
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.8))
    for ax, shown, title, color in (
        (axes[0], proposals, f"the best {len(proposals)} proposals", ORANGE),
        (axes[1], boxes, f"{len(boxes)} boxes with a class", BLUE),
    ):
        draw_image(image, title=title, ax=ax)
        for box in shown:
            draw_box(ax, box - 0.5, color)
    wide = 4
    tiles = F.pad(masks[: wide**2], (2, 2, 2, 2), value=0.5)
    tiles = torch.cat([tiles, tiles.new_full((wide**2 - len(tiles), *tiles.shape[1:]), 0.5)])
    rows = [torch.cat(list(row), dim=1) for row in tiles.split(wide)]
    _soft(axes[2], torch.cat(rows), f"a mask of {masks.shape[1]}×{masks.shape[2]} for each")
    draw_segments(image, answer, kinds, labels=False, title="pasted into the image", ax=axes[3])
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure,
        "One image on its way through a trained Mask R-CNN: boxes that may hold something; boxes "
        "with a class; a small mask for each box; each mask stretched over its box and cut at ½.",
    )


def _soft(ax: Axes, mask: Float[Tensor, "h w"], title: str) -> None:
    """A mask of probabilities: black is 0, white is 1."""
    ax.imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")


def gradients(pushed: Mapping[str, Float[Tensor, "_"]], own: int) -> captioned:
    """How much each channel of the mask head hears of one RoI of class `own`, by loss."""
    figure, axes = plt.subplots(1, len(pushed), figsize=(7.6, 2.7), sharey=True)
    for ax, (name, values) in zip(axes, pushed.items(), strict=True):
        labels = [f"class {k + 1}" for k in range(4)] + ["background"] * (len(values) - 4)
        colors = [ORANGE if k == own else BLUE for k in range(len(values))]
        bars = ax.bar(
            labels,
            values,
            color=colors,
            hatch=["" if k == own else "//" for k in range(len(values))],
            edgecolor="white",
        )
        ax.bar_label(bars, fmt="%.2f", size=8)
        ax.set(title=name, ylim=(0, 1.15 * max(float(v.max()) for v in pushed.values())))
        ax.tick_params(axis="x", rotation=30)
    axes[0].set_ylabel("sum of |gradient|")
    return captioned(
        figure,
        f"Who hears of one RoI whose class is {own + 1}? With a sigmoid that class's mask alone; "
        "with a softmax every mask, and the background.",
    )


def target(
    sample: Sample, mask: Bool[Tensor, "h w"], box: Box, proposal: Box, w: Float[Tensor, "m m"]
) -> captioned:
    """A thing, its true box, a proposal that misses it a little, and the target in the proposal."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.4))
    draw_image(sample.image, ax=left)
    left.contour(mask.float(), [0.5], colors=["white"], linewidths=1.5)
    draw_box(left, [float(side) - 0.5 for side in box], BLUE)
    draw_box(left, [float(side) - 0.5 for side in proposal], ORANGE, dashed=True)
    _zoom(left, box, 9)
    left.set_title("solid: the true box; dashed: the proposal")
    _soft(right, w, f"the target in the proposal, {len(w)}×{len(w)}")
    return captioned(
        figure,
        "A sheep with its outline, its true box, and a proposal that misses it by a few pixels. "
        "The target is the true mask inside the proposal: what the box cuts off, nobody paints.",
    )


def _zoom(ax: Axes, box: Box, margin: float) -> None:
    x0, y0, x1, y1 = (float(side) for side in box)
    ax.set(xlim=(x0 - margin, x1 + margin), ylim=(y1 + margin, y0 - margin))


def resolution(
    image: Float[Tensor, "3 h w"],
    mask: Bool[Tensor, "h w"],
    box: Box,
    small: Float[Tensor, "m m"],
    back: Bool[Tensor, "h w"],
    error: float,
) -> captioned:
    """A perfect mask of m×m cells: what the head would say, and what is wrong when it is pasted."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
    draw_image(image, title="the truth", ax=axes[0])
    axes[0].contour(mask.float(), [0.5], colors=["white"], linewidths=1.5)
    _soft(axes[1], small, f"what a perfect head says, {len(small)}×{len(small)}")
    _against(axes[2], back, mask, "pasted back")
    for ax in (axes[0], axes[2]):
        _zoom(ax, box, 5)
    width, height = (float(box[k + 2] - box[k]) for k in (0, 1))
    return captioned(
        figure,
        f"Error at the outline {error:.3f}: m = {len(small)}, a thing of {width:.0f}×{height:.0f} "
        "pixels. Orange: painted and not true; blue: true and not painted.",
    )


def _against(ax: Axes, found: Bool[Tensor, "h w"], truth: Bool[Tensor, "h w"], title: str) -> None:
    """A mask in grey, what it has too much in orange, what it misses in blue."""
    color = torch.ones(*truth.shape, 3)
    for where, value in (
        (found & truth, "#B8B8B8"),
        (found & ~truth, ORANGE),
        (truth & ~found, BLUE),
    ):
        color[where] = torch.tensor([int(value[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    ax.imshow(color, interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")


def beside(
    image: Float[Tensor, "3 h w"],
    truth: Bool[Tensor, "h w"],
    box: Box,
    answers: Mapping[str, tuple[Bool[Tensor, "h w"], float]],
) -> captioned:
    """Several masks of one thing with their errors at the outline."""
    figure, axes = plt.subplots(1, 1 + len(answers), figsize=(9.6, 3))
    draw_image(image, title="the truth", ax=axes[0])
    axes[0].contour(truth.float(), [0.5], colors=["white"], linewidths=1.5)
    for ax, (name, (mask, error)) in zip(axes[1:], answers.items(), strict=True):
        _against(ax, mask, truth, f"{name}: {error:.3f}")
    for ax in axes:
        _zoom(ax, box, 4)
    return captioned(
        figure,
        "The largest sheep of the scene and the error at its outline. Orange: painted and not "
        "true; blue: true and not painted.",
    )


def ceilings(
    perfect: Mapping[int, float],
    trained: Mapping[int, float],
    recorded: tuple[int, float],
    stride_4: float,
    steps: int,
) -> captioned:
    """Error at outlines by the number of cells: perfect masks, trained heads, and a fixed grid."""
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    ax.plot(list(perfect), list(perfect.values()), "o-", color=BLUE, label="perfect masks")
    name = f"a head trained for {steps} steps"
    ax.plot(list(trained), list(trained.values()), "s--", color=ORANGE, label=name)
    ax.plot(*recorded, "D", color=PINK, ms=8, label="the recorded model, true boxes")
    ax.axhline(stride_4, color=GREEN, ls=":", label="perfect masks at stride 4")
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xticks=list(perfect), xlabel="m, cells along a box", ylabel="error at outlines", ylim=0)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return captioned(
        figure,
        "The share of pixels at true outlines that are wrong. What lies between the solid line and "
        "a trained head at the same m is not the resolution's.",
    )


def duplicates(image: Float[Tensor, "3 h w"], thing: Segments, found: Segments) -> captioned:
    """A thing that is found twice: both detections, and what each has too much and too little."""
    figure, axes = plt.subplots(1, 1 + len(found), figsize=(2.7 * (1 + len(found)), 2.6))
    draw_image(image, title="the detections' boxes", ax=axes[0])
    axes[0].contour(thing.masks[0].float(), [0.5], colors=["white"], linewidths=1.5)
    frame = boxes(
        Segments(torch.cat([thing.masks, found.masks]), torch.zeros(1 + len(found)).long())
    )
    for color, dashed, box in zip((BLUE, ORANGE), (False, True), frame[1:], strict=False):
        draw_box(axes[0], box, color, dashed=dashed)
    for k, ax in enumerate(axes[1:]):
        _against(ax, found.masks[k], thing.masks[0], f"score {found.scores[k]:.2f}")
    around = (*frame[:, :2].amin(0).tolist(), *frame[:, 2:].amax(0).tolist())
    for ax in axes:
        _zoom(ax, around, 6)
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure,
        "A near duplicate that is still there after NMS at 0.7: two detections of one thing "
        "(outlined), around their masks a box each, blue and dashed orange. To the right, of each: "
        "orange is painted and not true, blue true and not painted.",
    )


def mistakes(
    sample: Sample, answers: Mapping[str, Segments], kinds: Sequence[Category]
) -> captioned:
    """One scene under the right settings and under wrong ones."""
    sure = {name: answer[answer.scores > 0.5] for name, answer in answers.items()}
    figure = side_by_side(sample.image, sure, kinds, labels=False)
    return captioned(figure, "One held-out scene, as the recorded model answers it, and spoilt.")


TERMS = ("objectness", "rpn_box", "cls", "box", "mask")


def losses(history: Sequence[Mapping[str, float]], title: str) -> captioned:
    """The five losses of a run by step."""
    steps = [row["step"] for row in history]
    curves = {term: (steps, [row[term] for row in history]) for term in TERMS}
    ax = draw_curves(curves, xlabel="step", ylabel="loss", title=title)
    return captioned(ax.figure, "The five losses of a run.")


def answers(
    samples: Sequence[Sample],
    truths: Sequence[Segments],
    found: Sequence[Segments],
    kinds: Sequence[Category],
    overlaps: Sequence[Float[Tensor, "_ _"]],
) -> captioned:
    """Ground truth above, predictions below, both of a thing in one colour.

    `overlaps` are the IoUs of what is found with what is true.
    """
    figure, axes = plt.subplots(2, len(samples), figsize=(8.4, 4.9))
    rows = zip(axes.T, samples, truths, found, overlaps, strict=True)
    for column, sample, truth, answer, overlap in rows:
        own = segment_colors(truth, kinds)
        colors = np.ones((len(answer), 3))  # white: found where there is nothing
        for k in range(len(answer)):
            if overlap.shape[1] and overlap[k].max() >= 0.5:
                colors[k] = own[int(overlap[k].argmax())]
        draw_segments(sample.image, truth, kinds, labels=False, ax=column[0])
        draw_segments(sample.image, answer, kinds, labels=False, colors=colors, ax=column[1])
        missed = truth[(overlap < 0.5).all(0) & ~is_crowd(truth)]
        for mask in missed.masks:
            column[1].contour(mask.float(), [0.5], colors=["black"], linewidths=1.6)
    for row, title in zip(axes, ("ground truth", "prediction"), strict=True):
        row[0].set_title(title, loc="left")
    figure.tight_layout(w_pad=0.6, h_pad=1.2)
    return captioned(
        figure,
        "Held-out scenes: the ground truth above, below what the recorded model says with a score "
        "above ½, in the colour of the thing that it is on (white: on none); a thing that nobody "
        "finds is outlined in black. A hatched flock is a crowd, which is no target.",
    )
