"""The pictures of lesson 03: feature maps, the pyramid, targets and answers of anchors."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from torch import Tensor

from lessons.figures.boxes import density, outline
from lessons.kit.draw import INK, PALE, PALETTE, captioned, draw_image

BLUE, ORANGE, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#F0E442"
STRIDES = (4, 8, 16, 32)


def channels(
    image: Float[Tensor, "3 h w"], maps: Sequence[Float[Tensor, "_ _"]], names: Sequence[str]
) -> captioned:
    """An image, and one channel of each of some feature maps: as it is, cell by cell."""
    figure, axes = plt.subplots(1, len(maps) + 1, figsize=(10, 2.5))
    draw_image(image, ax=axes[0], title="the image")
    for ax, values, name in zip(axes[1:], maps, names, strict=True):
        ax.imshow(values, cmap="magma", interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=name)
    return captioned(
        figure,
        "One channel of each feature map of the trained backbone, that of lesson 05's Mask R-CNN.",
    )


def which_channel(maps: Float[Tensor, "k h w"], numbers: Sequence[int]) -> captioned:
    """Some channels of one feature map, with their numbers."""
    figure, axes = plt.subplots(2, len(maps) // 2, figsize=(9.4, 3.1))
    for ax, values, number in zip(axes.flat, maps, numbers, strict=True):
        ax.imshow(values, cmap="magma", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"channel {number}", size=9)
    figure.tight_layout(h_pad=1.2, w_pad=0.4)
    return captioned(
        figure, "Some channels of one map, each on a scale of its own. Bright is large."
    )


def alike(
    image: Float[Tensor, "3 h w"],
    point: tuple[int, int],
    maps: Mapping[str, Float[Tensor, "_ _"]],
    caption: str,
) -> captioned:
    """An image with a dot, and how alike each cell of some maps is to the one at the dot."""
    figure, axes = plt.subplots(1, len(maps) + 1, figsize=(2 * len(maps) + 2, 2.5))
    draw_image(image, ax=axes[0], title="the image")
    axes[0].plot(*point, "o", color=ORANGE, mec="white", ms=7)
    for ax, (name, values) in zip(axes[1:], maps.items(), strict=True):
        ax.imshow(values, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=name)
    return captioned(figure, caption)


def top_down(
    fine: Float[Tensor, "h w"], coarse: Float[Tensor, "a b"], merged: Float[Tensor, "h w"]
) -> captioned:
    """A fine map, a coarse one with its cells as large as they are in the image, and their sum."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.8))
    top = float(merged.max()) * 1.6
    for ax, values, name in zip(
        axes, (fine, coarse, merged), ("fine", "coarse", "merged"), strict=True
    ):
        h, w = values.shape
        ax.imshow(values, cmap="Blues", vmin=0, vmax=top, extent=(0, 4, 4, 0))
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                at = (j + 0.5) * 4 / w, (i + 0.5) * 4 / h
                ax.text(*at, f"{value:.0f}", ha="center", va="center", size=11)
        ax.set(xticks=[4 * j / w for j in range(w + 1)], yticks=[4 * i / h for i in range(h + 1)],
               xticklabels=[], yticklabels=[], title=name)  # fmt: skip
        ax.grid(visible=True, color=PALE, lw=0.8)
        ax.set_axisbelow(False)
        ax.tick_params(length=0)
    return captioned(
        figure, "Each coarse cell is repeated over the cells that it covers, and added."
    )


def readers(
    before: Sequence[float], after: Sequence[float], names: tuple[str, str], strides: Sequence[int]
) -> captioned:
    """How well a line through the features finds the sheep, by stride, on two kinds of maps."""
    figure, ax = plt.subplots(figsize=(5.6, 3))
    for values, name, style, color in (
        (before, names[0], "s--", ORANGE),
        (after, names[1], "o-", BLUE),
    ):
        ax.plot(strides, values, style, color=color, label=name)
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xticks=strides, xlabel="stride (pixels)", ylabel="IoU of the sheep", ylim=(0, 1))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.legend()
    return captioned(
        figure,
        "How well a linear reader tells from each cell whether it is sheep, on scenes that it has "
        "not seen.",
    )


def heat_by_level(
    image: Float[Tensor, "3 h w"],
    levels: Sequence[Float[Tensor, "_ _"]],
    caption: str,
    boxes: Float[Tensor, "n 4"] | None = None,
    chosen: Sequence[Bool[Tensor, "_ _"]] | None = None,
) -> captioned:
    """A number from 0 to 1 for each cell of each level, over the image; chosen cells have a dot."""
    figure, axes = plt.subplots(1, len(levels) + 1, figsize=(10.6, 2.7))
    draw_image(image, ax=axes[0], title="the image")
    if boxes is not None:
        outline(axes[0], boxes, BLUE)
    h, w = image.shape[1:]
    grey = image.mean(0, keepdim=True).expand(3, -1, -1)
    for k, (ax, values) in enumerate(zip(axes[1:], levels, strict=True)):
        stride = h // values.shape[0]
        draw_image(0.5 + 0.5 * grey, ax=ax, title=f"stride {stride}: max {values.max():.2f}")
        # Anchors are centred on the corners of cells: cell (0, 0) lies around the image's corner.
        extent = (-stride / 2 - 0.5, w - stride / 2 - 0.5, h - stride / 2 - 0.5, -stride / 2 - 0.5)
        shown = mpl.colormaps["inferno"](values.numpy())
        shown[..., 3] = np.minimum(2 * values.numpy(), 0.85)
        ax.imshow(shown, extent=extent, interpolation="nearest")
        if chosen is not None:
            y, x = (chosen[k].nonzero() * stride - 0.5).T
            ax.plot(x, y, "o", color="#56B4E9", mec="white", mew=0.7, ms=4.5)
        if boxes is not None:
            outline(ax, boxes, BLUE, 1.4)
        ax.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))
    figure.tight_layout(w_pad=0.3)
    return captioned(figure, caption)


def sizes_by_level(sizes: Sequence[Float[Tensor, "_"]], names: Sequence[str]) -> captioned:
    """How large the things are that each level takes."""
    figure, ax = plt.subplots(figsize=(6.5, 3))
    ax.hist([part.numpy() for part in sizes], bins=range(0, 72, 3), stacked=True,
            color=PALETTE[: len(sizes)], label=names, edgecolor="white", lw=0.4)  # fmt: skip
    ax.set(xlabel="√area of the true box (pixels)", ylabel="things")
    ax.legend()
    return captioned(
        figure, "All things of the 200 validation scenes, by size and by the level that takes them."
    )


def matched(
    image: Float[Tensor, "3 h w"],
    true: Float[Tensor, "n 4"],
    by_threshold: Sequence[Float[Tensor, "_ 4"]],
    by_rule_4: Sequence[Float[Tensor, "_ 4"]],
) -> captioned:
    """True boxes and the anchors that are to find each: by the threshold alone, and in any case."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.3))
    for ax, anchors, title in (
        (axes[0], by_threshold, "by the threshold alone"),
        (axes[1], by_rule_4, "with the best of each thing"),
    ):
        taken = sum(len(each) > 0 for each in anchors)
        draw_image(0.6 + 0.4 * image, ax=ax, title=f"{title}: {taken} of {len(true)}")
        for k, (box, mine) in enumerate(zip(true, anchors, strict=True)):
            outline(ax, mine, PALETTE[k % len(PALETTE)], 1, "--")
            outline(ax, box[None][: len(mine)], PALETTE[k % len(PALETTE)], 2.2)
        without = true[[len(mine) == 0 for mine in anchors]]  # last, so that nothing covers them
        outline(ax, without, "white", 3)
        outline(ax, without, INK, 1.6, ":")
    figure.tight_layout()
    return captioned(
        figure,
        "True boxes that some anchor is to find (seven colours in turn, their anchors dashed) and "
        "those that go without (black dots on white).",
    )


def sampled(
    image: Float[Tensor, "3 h w"],
    true: Float[Tensor, "n 4"],
    positive: Float[Tensor, "p 4"],
    negative: Float[Tensor, "q 4"],
) -> captioned:
    """One sample for the loss: its positive anchors as boxes, the negative ones as a density."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.3))
    draw_image(0.5 + 0.5 * image, ax=axes[0], title=f"{len(positive)} positive anchors")
    outline(axes[0], true, BLUE, 2)
    outline(axes[0], positive, ORANGE, 1, "--")
    density(image, negative, axes[1], f"{len(negative)} background anchors", full=5)
    outline(axes[1], true, BLUE, 1.2)
    figure.tight_layout()
    return captioned(figure, "One sample: what the loss looks at in this step. Blue: true boxes.")


def before_and_after(
    image: Float[Tensor, "3 h w"], stages: Mapping[str, Float[Tensor, "_ 4"]], caption: str
) -> captioned:
    """Many boxes, and what is left of them, as densities."""
    figure, axes = plt.subplots(1, len(stages), figsize=(3.4 * len(stages), 3.7))
    for ax, (name, boxes) in zip(axes, stages.items(), strict=True):
        density(image, boxes, ax, f"{name}: {len(boxes)}", full=max(5, len(boxes) / 60))
    figure.tight_layout()
    return captioned(figure, caption)


def found(
    image: Float[Tensor, "3 h w"],
    before: Float[Tensor, "n 4"],
    kept: Float[Tensor, "k 4"],
    thing: Int[Tensor, "k"],
    again: Bool[Tensor, "k"],
    true: Float[Tensor, "g 4"],
    words: str,
) -> captioned:
    """Boxes before NMS, and those kept, each on a thing (−1: none), for the first time or again."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.1))
    density(image, before, axes[0], f"{len(before)} boxes before NMS", full=10)
    draw_image(image, ax=axes[1], title=f"{len(kept)} boxes after it")
    once, lost = (thing >= 0) & ~again, [k for k in range(len(true)) if k not in thing]
    outline(axes[1], kept[thing < 0], INK, 2)
    outline(axes[1], kept[thing < 0], "white", 1, ":")
    outline(axes[1], kept[once], BLUE)
    outline(axes[1], kept[again], ORANGE, 1.4, "--")
    outline(axes[1], true[lost], YELLOW, 2.4, ":")
    figure.subplots_adjust(0, 0, 1, 0.92, wspace=0.04)  # faster than tight_layout
    return captioned(
        figure,
        f"{words} {once.sum()} things found (blue), {len(lost)} lost (yellow, dotted), "
        f"{again.sum()} duplicates (orange, dashed), {(thing < 0).sum()} boxes on nothing (white "
        "on black).",
    )


def recalls(
    thresholds: Sequence[float], by_top: Mapping[str, Sequence[float]], caption: str
) -> captioned:
    """Recall by NMS threshold, for lists of some lengths; the names stand at the curves' ends."""
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    styles = zip(
        by_top.items(), ("o-", "s--", "^-.", "D:"), (BLUE, ORANGE, GREEN, INK), strict=False
    )
    for (name, values), style, color in styles:
        ax.plot(thresholds, values, style, color=color, ms=4, label=name)
    ax.set(xlabel="NMS threshold (1: no NMS)", ylabel="recall at IoU 0.5", ylim=(0, 1.02))
    ax.legend(loc="lower left")
    return captioned(figure, caption)


def curves(ax: Axes, caption: str) -> captioned:
    """Curves of losses, on a logarithmic scale."""
    ax.set(yscale="log")
    return captioned(ax.figure, caption)
