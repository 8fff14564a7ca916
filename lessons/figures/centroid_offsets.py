"""The pictures of lesson 06: votes for centres, their density, and the masks that they make.

Points are x, y in pixels of the image, whose first pixel covers 0 to 1. Offsets are (2, h, w).
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from torch import Tensor

from lessons.kit.data import Category, Segments
from lessons.kit.draw import (
    INK,
    PALE,
    captioned,
    draw_box,
    draw_curves,
    draw_image,
    draw_segments,
    instance_colors,
)

BLUE, ORANGE, YELLOW, SKY = "#0072B2", "#D55E00", "#F0E442", "#56B4E9"
STAR = {"marker": "*", "ls": "none", "mfc": "white", "mec": INK}
CLEAR = [withStroke(linewidth=2, foreground="white")]
Window = tuple[float, float, float, float]  # x0, y0, x1, y1


def arrows(
    ax: Axes,
    offsets: Float[Tensor, "2 h w"],
    masks: Bool[Tensor, "n h w"],
    step: int,
    colors: Sequence | None = None,
    width: float = 0.004,
) -> None:
    """An arrow at every `step`-th pixel of each mask, in the mask's colour."""
    colors = instance_colors(len(masks)) if colors is None else colors
    for mask, color in zip(masks, colors, strict=True):
        row, column = torch.where(mask)
        some = (row % step == step // 2) & (column % step == step // 2)
        row, column = row[some], column[some]
        ax.quiver(column + 0.5, row + 0.5, *offsets[:, row, column], color=color, width=width,
                  angles="xy", scale_units="xy", scale=1, headwidth=4)  # fmt: skip


def window(ax: Axes, view: Window) -> None:
    """Show only this part of a picture."""
    ax.set(xlim=view[::2], ylim=(view[3], view[1]), xticks=[], yticks=[])


def what_a_network_says(
    image: Float[Tensor, "3 h w"],
    offsets: Float[Tensor, "2 h w"],
    inside: Bool[Tensor, "h w"],
) -> captioned:
    """An image and the two maps dx and dy, on the pixels that are some thing."""
    h, w = inside.shape
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.8), width_ratios=(1, 1.18, 1.18))
    draw_image(image, ax=axes[0], title="the image")
    axes[0].images[0].set_extent((0, w, h, 0))
    for ax, values, title in zip(axes[1:], offsets, ("dx", "dy"), strict=True):
        shown = np.where(inside, values, np.nan)
        ax.set_facecolor("#555555")
        drawn = ax.imshow(shown, cmap="PuOr_r", vmin=-16, vmax=16, interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=title)
        ax.grid(False)
        figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, ticks=(-16, -8, 0, 8, 16))
    figure.tight_layout(w_pad=0.8)
    return captioned(
        figure,
        "What a trained network says of an image that it has not seen: how far it is from each "
        "pixel to the centre of its thing, in pixels. dx: orange is to the right, purple to the "
        "left; dy: orange is down, purple up. Grey: no thing.",
    )


def toy_arrows(
    picture: Sequence[str],
    centres: Float[Tensor, "n 2"],
    offsets: Float[Tensor, "2 h w"],
    masks: Bool[Tensor, "n h w"],
) -> captioned:
    """The image of letters, its offsets as arrows, and the centres."""
    figure, ax = plt.subplots(figsize=(4.2, 3.2))
    h, w = len(picture), len(picture[0])
    for i, row in enumerate(picture):
        for j, letter in enumerate(row):
            ax.text(j + 0.12, i + 0.24, letter, color=PALE, size=11, ha="center", va="center")
    arrows(ax, offsets, masks, 1, (BLUE, ORANGE), width=0.012)
    ax.plot(*centres.T, ms=13, **STAR)
    ax.set(xlim=(0, w), ylim=(h, 0), xticks=range(w + 1), yticks=range(h + 1), aspect="equal")
    ax.set(xlabel="x (pixels)", ylabel="y (pixels)")
    return captioned(
        figure,
        "The offset of each pixel, from the pixel's centre to the instance's (star). Where A and B "
        "touch, the arrows part.",
    )


def toy_density(
    density: Float[Tensor, "h w"], votes: Sequence[tuple[float, float]], caption: str
) -> captioned:
    """The density of a few votes, its numbers written into the pixels, and the votes as dots."""
    h, w = density.shape
    figure, ax = plt.subplots(figsize=(7, 3.4))
    ax.imshow(density, cmap="Blues", vmax=2 * float(density.max()), extent=(0, w, h, 0))
    for i, row in enumerate(density.tolist()):
        for j, value in enumerate(row):
            if value:
                ax.text(j + 0.5, i + 0.2, f"{value:.2f}", ha="center", va="center", size=7)
    ax.plot(*zip(*votes, strict=True), "o", color=ORANGE, ms=4, clip_on=False)
    ax.set(xticks=range(w + 1), yticks=range(h + 1), xlim=(0, w), ylim=(h, 0))
    ax.set(xlabel="x (pixels)", ylabel="y (pixels)")
    return captioned(figure, caption)


def curves(
    named: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    caption: str,
    bottom: float = 0,
    top: float | None = None,
) -> captioned:
    """Named curves (x, y) from `bottom` on."""
    ax = draw_curves(named, xlabel=xlabel, ylabel=ylabel, ax=plt.subplots(figsize=(5.6, 3))[1])
    ax.set_ylim(bottom, top)
    return captioned(ax.figure, caption)


def losses(history: Sequence[Mapping[str, float]], caption: str) -> captioned:
    """The two losses of a run, step by step, on a logarithmic scale."""
    steps = [row["step"] for row in history]
    terms = {term: (steps, [row[term] for row in history]) for term in ("cls", "offset")}
    ax = draw_curves(terms, xlabel="step", ylabel="loss", ax=plt.subplots(figsize=(5.6, 2.7))[1])
    ax.set_yscale("log")
    return captioned(ax.figure, caption)


def one_vote(
    image: Float[Tensor, "3 h w"],
    place: Float[Tensor, "2"],
    vote: Float[Tensor, "2"],
    votes: Float[Tensor, "p 2"],
    true: Float[Tensor, "n 2"],
    found: Float[Tensor, "m 2"],
    joined: int,
    words: str,
    view: Window,
) -> captioned:
    """A pixel's arrow over the image and over all votes, the centres found and the true ones."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
    axes[0].imshow(0.8 * image.permute(1, 2, 0), extent=(0, image.shape[2], image.shape[1], 0))
    axes[1].plot(*votes.T, ".", color=PALE, ms=1.5, alpha=0.6)
    axes[1].plot(*true.T, "x", color=BLUE, ms=8, mew=1.6)
    way = {"arrowstyle": "->", "color": ORANGE, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    for ax in axes:
        ax.plot(*found.T, ms=9, **STAR)
        ax.plot(*found[joined], ms=15, **{**STAR, "mfc": YELLOW})
        ax.annotate("", vote.tolist(), place.tolist(), arrowprops=way, annotation_clip=False)
        x, y = place.tolist()
        draw_box(ax, (x - 0.5, y - 0.5, x + 0.5, y + 0.5), ORANGE)
        window(ax, view)
        ax.set_aspect("equal")
        ax.grid(False)
    axes[0].set_title("the pixel (box) and its vote (arrow)")
    axes[1].set_title("all votes of the flock, and what is found")
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.9, wspace=0.04)
    return captioned(
        figure,
        f"{words} Stars: centres that are found, yellow the one that the pixel joins. Crosses: "
        "the true centres.",
    )


def border(
    x: Float[Tensor, "n"], group: Int[Tensor, "n"], loss: Float[Tensor, "n"], at: Sequence[float]
) -> captioned:
    """A vote that wanders from one centre to another: its group, and its part of the loss."""
    figure, axes = plt.subplots(2, 1, figsize=(6.2, 3.4), sharex=True)
    axes[0].plot(x, group, color=ORANGE, drawstyle="steps-mid")
    axes[0].set(yticks=(0, 1), yticklabels="AB", ylim=(-0.2, 1.6), title="the group that it joins")
    axes[1].plot(x, loss, color=BLUE)
    axes[1].set(
        xlabel="x of the vote (pixels)", title="its part of the loss (pixels)", ylim=(0, 16)
    )
    for ax in axes:
        ax.axvline(sum(at) / 2, color=INK, lw=1, ls=":")
        for place, name in zip(at, "AB", strict=True):
            ax.axvline(place, color="#BBBBBB", lw=1)
            ax.text(place + 0.2, ax.get_ylim()[1] * 0.97, f"$C_{name}$", va="top")
    figure.tight_layout()
    return captioned(
        figure,
        "A pixel of A whose vote wanders past C_A and C_B. The mask changes at the dotted line and "
        "nowhere else; the loss passes that line without a sign.",
    )


def same_loss(
    image: Float[Tensor, "3 h w"],
    masks: Bool[Tensor, "2 h w"],
    centres: Float[Tensor, "2 2"],
    networks: Mapping[str, tuple[Float[Tensor, "2 h w"], float, Segments]],
    kinds: Sequence[Category],
    view: Window,
) -> captioned:
    """Two instances and what some networks say of them: (offsets, loss, the masks that come out).

    Above the arrows, below the masks.
    """
    figure, axes = plt.subplots(2, len(networks), figsize=(7.4, 4.1))
    for column, (name, (offsets, loss, answer)) in zip(axes.T, networks.items(), strict=True):
        draw_image(0.45 + 0.4 * image, ax=column[0], title=f"{name}: loss {loss:.2f}")
        column[0].images[0].set_extent((0, image.shape[2], image.shape[1], 0))
        arrows(column[0], offsets, masks, 3, (BLUE, ORANGE), width=0.005)
        column[0].plot(*centres.T, ms=10, **STAR)
        title = f"{len(answer)} mask{'s' * (len(answer) != 1)}"
        draw_segments(0.8 * image, answer, kinds, labels=False, title=title, ax=column[1])
        for ax in column:
            window(ax, view)
    figure.tight_layout(w_pad=0.5)
    return captioned(
        figure,
        "Two sheep, three networks whose votes all miss by the same distance. Above what the "
        "pixels of the two sheep say (blue and orange) and the true centres (stars), below the "
        "masks that come out.",
    )


def cut(
    views: Sequence[tuple[Float[Tensor, "3 h w"], Bool[Tensor, "h w"], Float[Tensor, "2 h w"]]],
    centres: Sequence[Float[Tensor, "2"]],
) -> captioned:
    """Things that something stands before: image, mask and offsets of each."""
    figure, axes = plt.subplots(1, len(views), figsize=(6.4, 2.4))
    for ax, (image, mask, offsets), centre in zip(axes, views, centres, strict=True):
        h, w = mask.shape
        tint = torch.tensor([0.84, 0.37, 0.0])[:, None, None]
        draw_image(torch.where(mask, 0.6 * image + 0.4 * tint, 0.8 * image), ax=ax)
        ax.images[0].set_extent((0, w, h, 0))
        arrows(ax, offsets, mask[None], 5, ["white"], width=0.006)
        ax.plot(*centre, ms=12, **STAR)
        row, column = torch.where(mask)
        half = max(int(row.max() - row.min()), int(column.max() - column.min())) / 2 + 8
        x, y = float(column.float().mean()), float(row.max() + row.min()) / 2
        window(ax, (x - half, y - half, x + half, y + half))
    figure.tight_layout()
    return captioned(
        figure,
        "Things (orange) that something stands before. Many arrows cross what they do not belong "
        "to, and the centre (star) may lie on something else.",
    )


def rings(
    masks: Bool[Tensor, "2 h w"],
    offsets: Float[Tensor, "2 h w"],
    centre: Float[Tensor, "2"],
    found: Bool[Tensor, "m h w"],
) -> captioned:
    """A ring and a disc with their arrows, and what is found."""
    figure, axes = plt.subplots(1, 2, figsize=(5, 2.6))
    for ax, parts, title in zip(axes, (masks, found), ("truth: 2", f"found: {len(found)}"),
                                strict=True):  # fmt: skip
        shown = np.ones((*masks.shape[1:], 3))
        for mask, color in zip(parts, (SKY, "#E69F00"), strict=False):
            shown[mask] = plt.matplotlib.colors.to_rgb(color)
        ax.imshow(shown, extent=(0, masks.shape[2], masks.shape[1], 0))
        ax.set(xticks=[], yticks=[], title=title)
        ax.grid(False)
    arrows(axes[0], offsets, masks, 4, (INK, INK), width=0.006)
    axes[0].plot(*centre, ms=10, **STAR)
    return captioned(
        figure, "A ring and a disc in its hole. All arrows end in one point, and there is one peak."
    )


def answers(
    rows: Sequence[tuple[Float[Tensor, "3 h w"], Segments, Float[Tensor, "2 h w"], Segments]],
    centres: Sequence[Float[Tensor, "_ 2"]],
    kinds: Sequence[Category],
    views: Sequence[Window],
) -> captioned:
    """For each image the true instances with the network's arrows and their centres; its masks."""
    figure, axes = plt.subplots(2, len(rows), figsize=(6.6, 4.4))
    for column, row, own_centres, view in zip(axes.T, rows, centres, views, strict=True):
        image, own, offsets, answer = row
        draw_segments(0.45 + 0.4 * image, own, kinds, fill=0, labels=False, ax=column[0])
        arrows(column[0], offsets, own.masks, 4, width=0.005)
        column[0].plot(*own_centres.T, "+", color="white", ms=9, mew=3.4)
        column[0].plot(*own_centres.T, "+", color=INK, ms=8, mew=1.6)
        draw_segments(image, answer, kinds, labels=False, ax=column[1])
        column[0].set_title("the network's arrows, true centres (+)")
        column[1].set_title("the masks that come out")
        for ax in column:
            window(ax, view)
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure, "Parts of two held-out scenes. Colours number the things, above and below apart."
    )
