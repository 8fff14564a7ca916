"""The pictures of lesson 04, RoI Pooling and RoIAlign.

Maps are drawn with the centre of cell (row i, column j) at the point x = j, y = i; boxes are
x0, y0, x1, y1 in cells.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from torch import Tensor

from lessons.kit.draw import INK, PALE, captioned, draw_box, draw_image

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
CLEAR = [withStroke(linewidth=2, foreground="white")]  # a number that a line crosses
Box = Sequence[float] | Float[Tensor, "4"]


def box_on_cells(image: Float[Tensor, "3 h w"], box: Box, stride: int) -> captioned:
    """An image, the cells of a feature map over it, and a box in pixels."""
    ax = draw_image(image)
    for edge in range(0, image.shape[1] + 1, stride):
        ax.axhline(edge - 0.5, color="white", lw=0.7)
        ax.axvline(edge - 0.5, color="white", lw=0.7)
    draw_box(ax, [float(side) - 0.5 for side in box], color=ORANGE)
    return captioned(
        ax.figure,
        f"A sheep, its box, and the cells of a feature map of stride {stride} laid over the image. "
        "No side of the box falls on a border between cells.",
    )


def pooled(f: Float[Tensor, "h w"], box: Box, used: Box, y: Float[Tensor, "i j"]) -> captioned:
    """A map, the box, the whole cells that are used, and what they give."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3), width_ratios=(2, 1))
    numbers(left, f)
    draw_box(left, box, BLUE)
    draw_box(left, used, ORANGE, dashed=True)
    left.set_title("blue: the box; orange: the cells used")
    numbers(right, y)
    right.set_title("2 × 2 maxima")
    return captioned(figure, "RoI Pooling of one box into 2 × 2 bins. Whole cells replace the box.")


def numbers(
    ax: Axes, f: Float[Tensor, "h w"], fmt: str = "{:.0f}", top: float = 0, lift: float = 0
) -> None:
    """A map with its numbers written into the cells, `lift` above their middle."""
    ax.imshow(f, cmap="Greys", vmin=0, vmax=2 * (top or float(f.max())), interpolation="nearest")
    for i, row in enumerate(f.tolist()):
        for j, value in enumerate(row):
            ax.text(
                j, i - lift, fmt.format(value), ha="center", va="center", size=9, path_effects=CLEAR
            )
    ax.set(xticks=range(f.shape[1]), yticks=range(f.shape[0]))
    ax.grid(False)


def slide(
    steps: Float[Tensor, "n"], curves: Mapping[str, Float[Tensor, "n"]], caption: str
) -> captioned:
    """One output while the box moves: a staircase has upright risers, what is smooth a line."""
    figure, ax = plt.subplots(figsize=(6, 2.8))
    for (name, values), color in zip(curves.items(), (ORANGE, BLUE), strict=False):
        stairs = name == "RoI Pooling"
        style = {"drawstyle": "steps-mid"} if stairs else {"ls": "--"}
        ax.plot(steps, values, color=color, **style, label=name)
        ax.plot(steps, values, "o" if stairs else "s", color=color, ms=4)
    ax.set(xlabel="how far the box has moved (cells)", ylabel="one output")
    ax.legend()
    return captioned(figure, caption)


def four_areas(f: Float[Tensor, "h w"], y: float, x: float) -> captioned:
    """The point (y, x) between four cells, and the four rectangles that it cuts out."""
    top, left = int(y), int(x)
    figure, ax = plt.subplots(figsize=(4, 3.7))
    cells = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
    for (p, q), color in zip(cells, (BLUE, ORANGE, GREEN, PINK), strict=True):
        ax.text(q, p, f"{f[p, q]:.0f}", ha="center", va="center", size=16, color=color, weight=700)
        x1, y1 = 2 * left + 1 - q, 2 * top + 1 - p  # the cell in the opposite corner
        corner, wide, high = (min(x, x1), min(y, y1)), abs(x - x1), abs(y - y1)
        ax.add_patch(plt.Rectangle(corner, wide, high, color=color, alpha=0.35, lw=0))
        at = corner[0] + wide / 2, corner[1] + high / 2
        ax.text(*at, f"{high:g}\n× {wide:g}", ha="center", va="center", size=8)
    ax.plot(x, y, "o", color=INK)
    ax.grid(False)
    ax.set(xlim=(left - 0.2, left + 1.2), ylim=(top + 1.2, top - 0.2))
    ax.set(xticks=(left, left + 1), yticks=(top, top + 1), aspect="equal", xlabel="x", ylabel="y")
    return captioned(
        figure,
        "A point between four cells. A cell's number has the colour of the area that is its "
        "weight: the rectangle on the other side of the point. The nearer the cell, the larger.",
    )


def two_conventions() -> captioned:
    """Where `aligned=True` and `aligned=False` take the centres of cells 0 to 4 to be."""
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 3.9))
    for ax, half, title in zip(axes, (0.5, 0.0), ("aligned=True", "aligned=False"), strict=True):
        for q in range(5):
            ax.add_patch(plt.Rectangle((q + half - 0.5, 0), 1, 1, fill=False, ec=PALE))
            ax.plot(q + half, 0.5, "o", color=BLUE, ms=8)
            ax.text(q + half + 0.17, 0.66, q, ha="center")
        ax.add_patch(plt.Rectangle((1, 0.1), 2, 0.8, fill=False, ec=ORANGE, lw=2))
        ax.plot([1.5, 2.5], [0.5, 0.5], "x", color=ORANGE, ms=9, mew=2)
        ax.set(xlim=(-0.7, 5.2), ylim=(-0.1, 1.15), yticks=(), title=title, aspect="equal")
        ax.axvline(0, color=INK, lw=1)
        ax.grid(False)
    axes[1].set_xlabel("cells, counted from the image's left edge (black line)")
    figure.tight_layout(h_pad=1.5)
    return captioned(
        figure,
        "Blue: where each convention takes the centres of cells 0 to 4 to be. The orange box "
        "reaches from 1 to 3; its two bins are sampled at the crosses. Above they hit cells 1 and "
        "2, below they fall between two cells.",
    )


def beyond_the_edge(at: Float[Tensor, "n"], read: Float[Tensor, "n"]) -> captioned:
    """What a sample reads from a map of ones, four cells wide, at the places `at`."""
    figure, ax = plt.subplots(figsize=(6, 1.9))
    ax.axvspan(-0.5, 3.5, color="#E69F00", alpha=0.25, lw=0)
    ax.plot(at, read, "o", ms=4)
    ax.set(xlabel="x of the sample (cells)", ylabel="what is read", yticks=(0, 1))
    return captioned(
        figure,
        "A map of ones, four cells wide (shaded). It goes on for one cell beyond the outermost "
        "centres, at 0 and 3, and is 0 from there on.",
    )


def empty_box(wide: Float[Tensor, "2 2"], point: Float[Tensor, "2 2"]) -> captioned:
    """What a box without area reads from the ramp, with either convention."""
    figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.4))
    for ax, answer, name in zip(
        axes, (wide, point), ("aligned=False", "aligned=True"), strict=True
    ):
        numbers(ax, answer, "{:.2f}", top=float(wide.max()))
        ax.set_title(name)
    return captioned(
        figure,
        "The empty box at x = 2, y = 1 of the ramp (row 2, column 3 holds 23). Left: it is taken "
        "for a box of one cell. Right: all samples fall on one point.",
    )


def one_bright_cell(f: Float[Tensor, "h w"], box: Box, heard: Mapping[int, float]) -> captioned:
    """A map with one bright cell, a box of 2 × 2 bins, and n samples a bin and axis."""
    figure, axes = plt.subplots(1, len(heard), figsize=(6.4, 3.2))
    for ax, (n, total) in zip(axes, heard.items(), strict=True):
        at = [float(box[0] + (k + 0.5) * (box[2] - box[0]) / (2 * n)) for k in range(2 * n)]
        ax.imshow(f, cmap="Greys_r")
        for x in at:
            ax.plot([x] * len(at), at, ".", color=ORANGE, ms=4)
        draw_box(ax, box, "#56B4E9")
        ax.set_title(f"n = {n}: the outputs sum to {total:.3f}", fontsize=9)
        ax.grid(False)
    return captioned(
        figure,
        f"A box of {box[2] - box[0]:.0f} × {box[3] - box[1]:.0f} cells in 2 × 2 bins. With few "
        "samples (left) all of them miss the one bright cell; with a sample for each cell of a bin "
        "one hears it.",
    )


def weights_of_a_bin(weights: Float[Tensor, "h w"], bin_: Box) -> captioned:
    """The weight of each cell in one output, and the bin."""
    figure, ax = plt.subplots(figsize=(4.4, 3.4))
    numbers(ax, weights, "{:.2f}", lift=0.22)
    draw_box(ax, bin_, ORANGE)
    return captioned(
        figure,
        f"The weights of the first bin (orange): {int((weights > 0).sum())} cells, summing to "
        f"{weights.sum():.2f}.",
    )


def both_answers(
    f: Float[Tensor, "h w"],
    box: Box,
    used: Box,
    samples: int,
    weights: Float[Tensor, "h w"],
    align: Float[Tensor, "i j"],
    pool: Float[Tensor, "i j"],
) -> captioned:
    """A box on a map, with what pooling uses and align reads, and both answers."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), width_ratios=(2, 1, 1))
    numbers(axes[0], f, lift=0.22)
    for p, row in enumerate(weights.tolist()):
        for q, weight in enumerate(row):
            patch = plt.Rectangle((q - 0.5, p - 0.5), 1, 1, color=GREEN, lw=0)
            axes[0].add_patch(patch).set_alpha(min(1, weight))
    x0, y0, x1, y1 = (float(side) for side in box)
    steps = [(k + 0.5) / (2 * samples) for k in range(2 * samples)]
    for y in steps:
        xs = [x0 + x * (x1 - x0) for x in steps]
        axes[0].plot(xs, [y0 + y * (y1 - y0)] * len(xs), ".", color=BLUE)
    draw_box(axes[0], box, BLUE)
    draw_box(axes[0], used, ORANGE, dashed=True)
    axes[0].set(xlim=(-0.8, f.shape[1] + 0.2), ylim=(f.shape[0] + 0.2, -0.8))
    for ax, answer, name in ((axes[1], align, "RoIAlign"), (axes[2], pool, "RoI Pooling")):
        numbers(ax, answer, "{:.2f}", top=float(f.max()))
        ax.set_title(name)
    more = float((align - pool).max())
    return captioned(
        figure,
        f"RoIAlign minus RoI Pooling is {more:+.2f} at most. Blue: the box and its samples; "
        "orange: the cells that pooling uses; green: the weights of the first bin.",
    )


def who_hears(
    told: Mapping[str, Float[Tensor, "h w"]], box: Box, top: float | None = None
) -> captioned:
    """The gradient of one output with respect to the map, for each operator."""
    figure, axes = plt.subplots(1, len(told), figsize=(6.6, 3.2))
    for ax, (name, gradient) in zip(axes, told.items(), strict=True):
        ax.imshow(gradient, cmap="Blues", vmin=0, vmax=top or float(gradient.max()))
        draw_box(ax, box, ORANGE)
        x0, y0, x1, y1 = (float(side) for side in box)
        ax.plot([(x0 + x1) / 2] * 2, [y0, y1], color=ORANGE, lw=1, ls=":")
        ax.plot([x0, x1], [(y0 + y1) / 2] * 2, color=ORANGE, lw=1, ls=":")
        cells = int((gradient > 0).sum())
        ax.set_title(f"{name}: {cells} cell{'s' * (cells > 1)}, sum {gradient.sum():.2f}")
        ax.grid(False)
    return captioned(
        figure, "The gradient of the upper right output; the dotted lines part the four bins."
    )


def reading_errors(
    strides: Sequence[int], errors: Mapping[str, Sequence[float]], blind: float
) -> captioned:
    """How far off the place of a box is read from its features, by stride."""
    figure, ax = plt.subplots(figsize=(5.6, 3.2))
    for (name, values), style, color in zip(
        errors.items(), ("o-", "^:", "s--"), (ORANGE, PINK, BLUE), strict=True
    ):
        ax.plot(strides, values, style, color=color, label=name)
    ax.axhline(blind, color=INK, lw=1, ls=":", label="always answering 0")
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xticks=strides, xlabel="stride (pixels)", ylabel="error of the shift (pixels)", ylim=0)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.legend(loc="lower right")
    return captioned(
        figure,
        "How well a small network reads from the features of a box how far it was moved, on "
        "scenes that it has not seen.",
    )
