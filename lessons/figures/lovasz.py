"""The pictures of lesson 07, the Lovász hinge.

Orange and `o` are pixels of the object, blue and `s` pixels of the ground. An order is a sequence
of pixels, the one that goes wrong first at its head.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.proj3d import proj_transform
from torch import Tensor

from lessons.kit.data import Category, Segments
from lessons.kit.draw import INK, PALE, PALETTE, captioned, draw_segments

OBJECT, GROUND, SKY = PALETTE[0], PALETTE[4], PALETTE[1]
LETTERS = "abcdefgh"
LOSSES = (("s-", GROUND), ("^--", SKY), ("D-.", PALETTE[6]), ("o-", OBJECT))


def pixel_color(pixel: int, Y: set[int]) -> str:
    return OBJECT if pixel in Y else GROUND


def two_answers(
    image: Float[Tensor, "3 h w"],
    answers: Mapping[str, Bool[Tensor, "h w"]],
    categories: Sequence[Category],
) -> captioned:
    """One sheep under several answers, each with its title."""
    figure, axes = plt.subplots(1, len(answers), figsize=(8.4, 3.2))
    for ax, (title, mask) in zip(axes, answers.items(), strict=True):
        one = Segments(mask[None], mask.new_zeros(1).long())
        draw_segments(image, one, categories, labels=False, title=title, ax=ax)
        ax.set(xlim=(33, 97), ylim=(128, 64))
    return captioned(
        figure,
        "One sheep and two answers. Of the two, the one that never saw the sheep has fewer wrong "
        "pixels.",
    )


def staircases(
    walks: Mapping[str, tuple[Sequence[int], Sequence[Fraction]]], Y: set[int]
) -> captioned:
    """The Jaccard loss while pixels go wrong: for each title an order and its steps."""
    figure, axes = plt.subplots(1, len(walks), figsize=(9.6, 3), sharey=True)
    for ax, (title, (order, steps)) in zip(axes, walks.items(), strict=True):
        tops = np.cumsum([0, *map(float, steps)])
        for k, (pixel, step) in enumerate(zip(order, steps, strict=True)):
            color = pixel_color(pixel, Y)
            hatch = None if pixel in Y else "///"
            ax.bar(k + 0.5, float(step), 1, tops[k], color=color, hatch=hatch, ec="white", lw=0)
            ax.text(k + 0.5, tops[k + 1] + 0.02, step, size=8.5, color=color, ha="center")
        ax.stairs(tops[1:], range(len(tops)), baseline=None, color=INK, lw=1.2)
        ax.plot([0, 0], [0, tops[1]], color=INK, lw=1.2)
        ax.set(title=title, xticks=[k + 0.5 for k in range(len(order))], xticklabels=order)
        ax.set(xlabel="pixel that goes wrong", xlim=(-0.1, len(order) + 0.1), ylim=(0, 1.12))
        ax.grid(False)
    axes[0].set_ylabel("Jaccard loss")
    figure.tight_layout()
    return captioned(
        figure,
        "The Jaccard loss climbs from 0 to 1 as pixels go wrong. Orange: pixels of the object; "
        "blue, hatched: of the ground. The number on a step is its height.",
    )


def two_pixels(
    surfaces: Mapping[str, Float[Tensor, "n n"]],
    corners: Mapping[str, Mapping[tuple[int, int], Fraction]],
) -> captioned:
    """The extension over the square of two errors: row y, column x; and the values at corners."""
    figure = plt.figure(figsize=(8.4, 5))
    for k, (title, surface) in enumerate(surfaces.items()):
        z, at = surface.numpy(), np.linspace(0, 1, len(surface))
        x, y = np.meshgrid(at, at)
        ax = figure.add_subplot(2, 3, k + 1, projection="3d", computed_zorder=False)
        ax.plot_surface(x, y, z, cmap="cividis", vmin=0, vmax=1, rstride=2, cstride=2, alpha=0.9)
        ax.plot(at, at, np.diagonal(z), color="white", lw=1.5, zorder=4)
        flat = figure.add_subplot(2, 3, k + 4, aspect="equal")
        flat.contourf(x, y, z, np.linspace(0, 1, 11), cmap="cividis")
        flat.contour(x, y, z, np.linspace(0, 1, 11), colors="white", linewidths=0.7)
        flat.plot([0, 1], [0, 1], "--", color="white", lw=1)
        for (i, j), value in corners[title].items():
            ax.plot([i], [j], [float(value)], "o", color=OBJECT, ms=6, zorder=5)
            lift = 0.13 if i or j else -0.27
            ax.text(i, j, float(value) + lift, value, ha="center", weight="bold", zorder=6)
            flat.plot(i, j, "o", color=OBJECT, ms=7, clip_on=False, zorder=5)
        ax.set(title=title, zlim=(0, 1), xticks=[0, 1], yticks=[0, 1], zticks=[0, 1])
        ax.set(xticklabels=[], yticklabels=[])
        ax.set_xlabel("pixel 0", size=9, labelpad=-12)
        ax.set_ylabel("pixel 1", size=9, labelpad=-12)
        ax.view_init(24, -118)
        flat.set(xticks=[0, 1], yticks=[0, 1], xlabel="error of pixel 0", ylabel="of pixel 1")
        flat.grid(False)
    figure.subplots_adjust(hspace=0.15, wspace=0.25)
    return captioned(
        figure,
        "The Lovász extension of the Jaccard loss for two pixels, from the side and from above. "
        "Dots: the corners, where it is the Jaccard loss itself. If it bends, then along the "
        "diagonal, where the order of the errors changes.",
    )


# Where the number of each corner of the cube stands beside it, in points.
BESIDE = {
    (0, 0, 0): (-9, -4),
    (1, 0, 0): (0, -13),
    (0, 1, 0): (-10, 4),
    (1, 1, 0): (10, -5),
    (0, 0, 1): (-13, 0),
    (1, 0, 1): (11, -11),
    (0, 1, 1): (0, 5),
    (1, 1, 1): (8, 2),
}


def six_orders(walks: Mapping[tuple[int, ...], Sequence[Fraction]]) -> captioned:
    """The piece of the cube that each order of three pixels owns, and J at its four corners."""
    figure = plt.figure(figsize=(8, 5.2))
    edges = [e for e in combinations(BESIDE, 2) if np.abs(np.subtract(*e)).sum() == 1]
    for k, (order, values) in enumerate(walks.items()):
        ax = figure.add_subplot(2, 3, k + 1, projection="3d", proj_type="ortho")
        corners = [tuple(int(i in order[:step]) for i in range(3)) for step in range(4)]
        for edge in edges:
            ax.plot(*zip(*edge, strict=True), color=PALE, lw=0.8)
        faces = list(combinations(corners, 3))
        ax.add_collection3d(Poly3DCollection(faces, fc=SKY, ec="none", alpha=0.35))
        ax.plot(*zip(*corners, strict=True), "o-", color=OBJECT, lw=2.4, ms=5)
        ax.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
        ax.set_axis_off()
        ax.view_init(22, -62)
        ax.set_box_aspect((1, 1, 1), zoom=0.92)
        for corner, value in zip(corners, values, strict=True):
            x, y, _ = proj_transform(*corner, ax.get_proj())
            ax.annotate(str(value), (x, y), BESIDE[corner], textcoords="offset points",
                        ha="center", weight="bold")  # fmt: skip
        title = "$" + r" \geq ".join(f"m_{pixel}" for pixel in order) + "$"
        ax.set_title(title, loc="center", y=1.1)
    figure.subplots_adjust(left=0, right=1, bottom=0.02, top=0.93, wspace=0, hspace=0.16)
    return captioned(
        figure,
        "Three pixels; pixel 0, whose error grows to the right, is the object, 1 (backwards) and "
        "2 (upwards) are ground. An order is a walk along three edges (orange) from no pixel wrong "
        "to all wrong; its four corners, with the Jaccard loss at each, span its piece of the "
        "cube (blue).",
    )


def envelopes(
    t: Float[Tensor, "n"],
    curves: Mapping[str, tuple[Float[Tensor, "orders n"], Float[Tensor, "n"]]],
) -> captioned:
    """Along a line: the linear function of each order, and the extension."""
    figure, axes = plt.subplots(1, len(curves), figsize=(8.4, 3), sharey=True)
    for ax, (title, (lines, values)) in zip(axes, curves.items(), strict=True):
        ax.plot(t, lines.T, color=SKY, lw=0.8)
        ax.plot(t, values, color=OBJECT, lw=2.6)
        ax.set(title=title, xlabel="along the line")
    axes[0].set_ylabel("loss")
    figure.tight_layout()
    return captioned(
        figure,
        "Thin: the linear functions of the 24 orders of four pixels. Thick: the extension along "
        "the line. For the Jaccard loss it is their upper envelope.",
    )


Bars = tuple[Sequence[int], Sequence[float], Sequence[float]]  # pixels in order, heights, widths


def draw_bars(ax: Axes, bars: Bars, Y: set[int], marked: int | None = None) -> None:
    """A bar for each pixel: as high as its error, as wide as its step."""
    start = 0.0
    for pixel, height, width in zip(*bars, strict=True):
        color, hatch = pixel_color(pixel, Y), None if pixel in Y else "///"
        edge, line = (INK, 2.2) if pixel == marked else ("white", 1)
        front = 2 + (pixel == marked)
        ax.bar(start, height, width, align="edge", color=color, hatch=hatch, ec=edge, lw=line,
               zorder=front)  # fmt: skip
        if width > 0.02:
            ax.text(start + width / 2, height + 0.03, LETTERS[pixel], ha="center", color=color)
        start += width
    ax.set(xlim=(-0.01, 1.02), xlabel="Jaccard loss of the pixels so far", ylabel="error")
    ax.grid(False)


def area_cut_twice(
    bars: Bars, layers: Sequence[tuple[set[int], float, float, float]], Y: set[int]
) -> captioned:
    """The loss as bars, and as layers: the set, its lower and upper height, its Jaccard loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.1), sharey=True)
    draw_bars(left, bars, Y)
    for above, low, high, J in layers:
        right.bar(0, high - low, J, low, align="edge", color=PALETTE[6], ec="white", lw=1.5)
        name = f"J({', '.join(LETTERS[i] for i in sorted(above))})"
        right.text(0.02, (high + low) / 2, name, va="center", size=8, color="white")
    left.set(title="bars: Σ error × step", ylim=(0, 1.5))
    right.set(title="layers: Σ thickness × J", xlabel="Jaccard loss of the set")
    right.grid(False)
    figure.tight_layout()
    return captioned(
        figure,
        "The loss of five pixels as an area, cut in two ways. Orange: object; blue, hatched: "
        "ground.",
    )


def weights_on_a_mask(
    mask: Bool[Tensor, "h w"],
    logits: Float[Tensor, "h w"],
    errors: Float[Tensor, "h w"],
    weights: Float[Tensor, "h w"],
) -> captioned:
    """Logits, errors and weights of one mask, the truth outlined."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9))
    pictures = (
        (logits, "PuOr_r", "logits F", 3),
        (errors, "magma", "errors m", None),
        (1000 * weights, "magma", "weights w, × 1000", None),
    )
    for ax, (picture, cmap, title, most) in zip(axes, pictures, strict=True):
        shown = ax.imshow(picture, cmap=cmap, vmin=-most if most else 0, vmax=most)
        ax.contour(mask, [0.5], colors=SKY, linewidths=1.4)
        ax.set(title=title, xticks=[], yticks=[], xlim=(42, 92), ylim=(120, 74))
        ax.grid(False)
        figure.colorbar(shown, ax=ax, fraction=0.042, pad=0.03)
    return captioned(
        figure,
        "The sheep's outline in blue. Large weights go to large errors, and to pixels of the "
        "object; small errors in the background weigh next to nothing.",
    )


def one_error_moves(
    pixel: int,
    errors: Float[Tensor, "p"],
    bars: Bars,
    curve: tuple[Float[Tensor, "n"], Float[Tensor, "n"]],
    loss: float,
    slope: float,
    Y: set[int],
) -> captioned:
    """The bars of all pixels, and the loss against the error of one of them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.1))
    draw_bars(left, bars, Y, marked=pixel)
    left.set(ylim=(0, 2.25), title=f"area {loss:.3f}")
    right.plot(*curve, color=INK)
    marker = "o" if pixel in Y else "s"
    right.plot(errors[pixel], loss, marker, color=pixel_color(pixel, Y), ms=9)
    for other in set(range(len(errors))) - {pixel}:
        right.axvline(errors[other], color=PALE, lw=1, ls=":")
        right.text(errors[other], 2.03, LETTERS[other], ha="center", color=pixel_color(other, Y))
    right.set(xlabel=f"error of {LETTERS[pixel]}", ylabel="loss", ylim=(0.4, 2))
    right.grid(False)
    figure.tight_layout()
    return captioned(
        figure,
        f"The error of {LETTERS[pixel]} is {errors[pixel]:.2f}; here the curve's slope, the weight "
        f"of {LETTERS[pixel]} and the width of its bar, is {slope:.3f}. Dotted: the errors of the "
        "others.",
    )


def by_size(
    shares: Sequence[float], ious: Mapping[str, Mapping[str, Float[Tensor, "shares seeds"]]]
) -> captioned:
    """IoU against the object's share of the image: for each title the seeds of each loss."""
    figure, axes = plt.subplots(1, len(ious), figsize=(9.6, 3.4), sharey=True)
    for ax, (title, of_losses) in zip(axes, ious.items(), strict=True):
        for k, (name, each) in enumerate(of_losses.items()):
            style, color = LOSSES[k]
            x = np.arange(len(shares)) + 0.08 * (k - 1.5)
            ax.plot(x, each.mean(1), style, color=color, label=name, ms=6)
            ax.plot(x + 0.03, each, ".", color=color, ms=4, alpha=0.7)
        ax.set(title=title, ylim=(-0.03, 1), xlabel="the object's share of the image")
        ax.set(xticks=range(len(shares)), xticklabels=[f"{share:.1%}" for share in shares])
    axes[0].set_ylabel("IoU on held-out images")
    axes[0].legend(loc="lower left")
    figure.tight_layout()
    seeds = each.shape[1]
    return captioned(
        figure,
        f"IoU against the size of the object. Lines: the mean of {seeds} seeds; dots: each seed.",
    )


def answers(
    image: Float[Tensor, "h w"],
    mask: Bool[Tensor, "h w"],
    logits: Mapping[str, Float[Tensor, "h w"]],
) -> captioned:
    """One image and what each loss's network says of it; the titles come with the logits."""
    figure, axes = plt.subplots(1, 1 + len(logits), figsize=(9.6, 2.3))
    axes[0].imshow(image, cmap="gray", vmin=-1, vmax=2)
    axes[0].set_title("image", size=9)
    for ax, (title, picture) in zip(axes[1:], logits.items(), strict=True):
        ax.imshow(picture, cmap="gray", vmin=-4, vmax=4)
        if (picture > 0).any():
            ax.contour(picture, [0], colors=[OBJECT], linewidths=1.8)
        ax.set_title(title, size=9)
    for ax in axes:
        ax.contour(mask, [0.5], colors=SKY, linewidths=1.4, linestyles=":")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    figure.tight_layout()
    return captioned(
        figure,
        "One held-out image, and the logits of the four networks of the first seed, from −4 "
        "(black) to 4 (white), with the IoU of what they paint. Dotted blue: the truth; orange: "
        "where the logit is 0.",
    )
