"""The pictures of lesson 08, spatial embeddings.

Embeddings, centres and bandwidths are in pixels of the image, whose first pixel covers 0 to 1.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from lessons.kit.data import Category, Sample, Segments
from lessons.kit.draw import (
    INK,
    captioned,
    draw_curves,
    draw_image,
    draw_segments,
    instance_colors,
)

BLUE, ORANGE, PINK = "#0072B2", "#D55E00", "#CC79A7"
MARGIN = 1.1774  # φ = ½ at so many σ


def clouds(
    image: Float[Tensor, "3 h w"],
    masks: Bool[Tensor, "n h w"],
    ends: Mapping[str, Float[Tensor, "2 h w"]],
) -> captioned:
    """An image with its true things, and where their pixels point by each of some models."""
    figure, axes = plt.subplots(1, len(ends) + 1, figsize=(3.1 * len(ends) + 3.1, 3.4))
    colors = instance_colors(len(masks))
    draw_image(image, title="the image, with its true things", ax=axes[0])
    for mask, color in zip(masks, colors, strict=True):
        axes[0].contour(mask.float(), [0.5], colors=[color], linewidths=1.6)
    for ax, (name, points) in zip(axes[1:], ends.items(), strict=True):
        draw_image(image * 0.25 + 0.75, title=f"{name}: where the pixels point", ax=ax)
        for mask, color in zip(masks, colors, strict=True):
            _dots(ax, points[:, mask], color)
    _frame(axes, image)
    figure.tight_layout(w_pad=0.5)
    return captioned(
        figure,
        "Each dot is a pixel, drawn where its arrow ends, in the colour of its true thing. The "
        "dots of one thing make a cloud.",
        colours=256,
    )


def hills(
    image: Float[Tensor, "3 h w"],
    mask: Bool[Tensor, "h w"],
    phis: Sequence[Float[Tensor, "h w"]],
    sigmas: Sequence[float],
) -> captioned:
    """An image with one thing, and φ around its centre for some bandwidths."""
    figure, axes = plt.subplots(1, len(phis) + 1, figsize=(10, 2.4))
    draw_image(image, title="the sheep", ax=axes[0])
    for ax, phi, sigma in zip(axes[1:], phis, sigmas, strict=True):
        ax.imshow(phi, cmap="magma", vmin=0, vmax=1)
        ax.contour(phi, [0.5], colors=["white"], linewidths=1.6)
        ax.set_title(f"φ, σ = {sigma:.0f} pixels")
        ax.axis("off")
    for ax in axes:
        ax.contour(mask.float(), [0.5], colors=["#56B4E9"], linewidths=1.4, linestyles="--")
        ax.grid(visible=False)
        _zoom(ax, mask, 14)
    figure.tight_layout(w_pad=0.4)
    return captioned(
        figure,
        "φ around the centre of a sheep (dashed), from 0, dark, to 1, bright. White: φ = ½.",
        colours=256,
    )


def two_sheep(
    image: Float[Tensor, "3 h w"],
    masks: Bool[Tensor, "2 h w"],
    ends: Float[Tensor, "2 h w"],
    sigmas: Float[Tensor, "2"],
    found: Bool[Tensor, "n h w"],
    iou: Float[Tensor, "2"],
    pull: float,
) -> captioned:
    """Two sheep: where their pixels point, with the margin of each, and what clustering finds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5))
    draw_image(image * 0.25 + 0.75, title="where the pixels point", ax=left)
    for mask, sigma, color in zip(masks, sigmas, (BLUE, ORANGE), strict=True):
        _dots(left, ends[:, mask], color, 3)
        _ring(left, ends[:, mask].mean(1), MARGIN * float(sigma), INK)
    answer = Segments(found, torch.zeros(len(found), dtype=torch.int64))
    title = f"{len(found)} cluster{'s' * (len(found) != 1)}"
    draw_segments(image, answer, [_SHEEP], labels=False, title=title, ax=right)
    for ax in (left, right):
        _zoom(ax, masks.any(0), 12)
    figure.tight_layout()
    return captioned(
        figure,
        f"Pull {pull:.1f}, σ {sigmas[0]:.1f} and {sigmas[1]:.1f} pixels. IoU: {iou[0]:.2f} of the "
        f"large sheep, {iou[1]:.2f} of the small one. Dashed: φ = ½.",
        colours=256,
    )


_SHEEP = Category("sheep", True, (240, 228, 66))


def forces(
    image: Float[Tensor, "3 h w"],
    masks: Bool[Tensor, "2 h w"],
    force: Float[Tensor, "2 h w"],
    centres: Float[Tensor, "2 2"],
    margin: float,
) -> captioned:
    """Where each pixel's embedding is asked to go, and the margins of two things."""
    figure, ax = plt.subplots(figsize=(6.2, 4.8))
    draw_image(image * 0.3 + 0.7, ax=ax)
    length = force.norm(dim=0)
    for mask, color in zip((*masks, ~masks.any(0)), (BLUE, ORANGE, INK), strict=True):
        y, x = torch.where(mask & (length > 0.05 * length.max()))
        arrows = 4 * force[:, y, x] / length.max()  # the longest is 4 pixels long
        ax.quiver(x, y, *arrows, color=color, angles="xy", scale_units="xy", scale=1, width=0.004)
    for centre, color in zip(centres, (BLUE, ORANGE), strict=True):
        _ring(ax, centre, margin, color)
    _zoom(ax, masks.any(0), 10)
    return captioned(
        figure,
        "What the loss on φ asks of each pixel. Blue and orange arrows: pixels of the two sheep. "
        "Dark arrows: pixels of neither. Dashed: the margins, φ = ½.",
        colours=256,
    )


def film(
    image: Float[Tensor, "3 h w"],
    seeds: Float[Tensor, "h w"],
    ends: Float[Tensor, "2 h w"],
    sigma: Float[Tensor, "_ h w"],
    instances: Int[Tensor, "h w"],
    scores: Float[Tensor, "n"],
    steps: int = 4,
) -> captioned:
    """The first clusters of a class: the seeds that are left, and the members with their margin."""
    figure, axes = plt.subplots(2, steps, figsize=(10.4, 3.6))
    rest, colors = seeds.clone(), instance_colors(len(scores))
    for k, (above, below) in enumerate(axes.T[: len(scores)]):
        y, x = divmod(int((rest * (instances == k)).argmax()), rest.shape[1])
        above.imshow(rest, cmap="magma", vmin=0, vmax=1)
        above.plot(x, y, "o", ms=9, mfc="none", mec="#56B4E9", mew=2)
        above.set_title(f"{k + 1}: highest seed {scores[k]:.2f}")
        draw_image(image * 0.25 + 0.75, ax=below)
        for j in range(k + 1):
            _dots(below, ends[:, instances == j], colors[j], 2)
        axis = 2 * MARGIN * sigma[:, y, x].expand(2)
        at = (ends[:, y, x] - 0.5).tolist()
        below.add_patch(Ellipse(at, *axis.tolist(), fill=False, color=INK))
        rest = rest.masked_fill(instances == k, 0)
    h, w = seeds.shape
    for ax in axes.flat:
        ax.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, h / 2))
        ax.axis("off")
        ax.grid(visible=False)
    figure.tight_layout()
    return captioned(
        figure,
        f"The first {steps} sheep of a flock. Above: the seeds that are left, the highest one "
        "circled. Below: where the members point, and the margin of the seed that collected them.",
        colours=256,
    )


def twice_as_large(
    images: Mapping[int, Float[Tensor, "3 _ _"]],
    answers: Mapping[int, Segments],
    kinds: Sequence[Category],
) -> captioned:
    """One scene at several sizes, and what a model says of each."""
    figure, axes = plt.subplots(1, len(images), figsize=(3.6 * len(images), 3.8))
    for ax, side in zip(axes, images, strict=True):
        answer = answers[side]
        title = f"{side} pixels: {len(answer)} answers"
        draw_segments(images[side], answer, kinds, labels=False, title=title, ax=ax)
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure, "The same scene, at the size of the training and at twice that size.", colours=256
    )


def losses(history: Sequence[Mapping[str, float]], title: str) -> captioned:
    """The three losses of a run."""
    steps = [row["step"] for row in history]
    terms = ("instance", "variance", "seed")
    curves = {term: (steps, [row[term] for row in history]) for term in terms}
    figure = draw_curves(curves, xlabel="step", ylabel="loss", title=title).figure
    return captioned(figure, f"{title}: instance, variance and seed.")


def answers(
    samples: Sequence[Sample],
    truth: Sequence[Segments],
    said: Sequence[Segments],
    kinds: Sequence[Category],
) -> captioned:
    """Scenes with their true things, and with what a model says."""
    figure, axes = plt.subplots(1, 2 * len(samples), figsize=(5 * len(samples), 2.9))
    for k, (sample, true, answer) in enumerate(zip(samples, truth, said, strict=True)):
        for ax, segments, title in (
            (axes[2 * k], true, f"{len(true)} true things"),
            (axes[2 * k + 1], answer, f"{len(answer)} answers"),
        ):
            draw_segments(sample.image, segments, kinds, labels=False, title=title, ax=ax)
    figure.tight_layout(w_pad=0.4)
    return captioned(
        figure,
        "Held-out scenes: the true things, and what the model says with a score above .7. A colour "
        "is a thing, not a class. A crowd, a distant flock, is no target and has no colour.",
        colours=256,
    )


def sigmas(
    radius: Float[Tensor, "n"],
    sigma: Float[Tensor, "n"],
    shape: Float[Tensor, "n"],
    shape_of_sigma: Float[Tensor, "n"],
    labels: Float[Tensor, "n"],
    names: Sequence[str],
) -> captioned:
    """The size and the shape of true things, and of the σ that their pixels say."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.9))
    for k, (name, marker) in enumerate(zip(names, "osD^", strict=False)):
        own = labels == k
        left.plot(radius[own], sigma[own], marker, ms=4, alpha=0.6, label=name)
        right.plot(shape[own], shape_of_sigma[own], marker, ms=4, alpha=0.6)
    left.set(xlabel="radius of a disc of the thing's area (pixels)", ylabel="σ (pixels)")
    left.legend(title=None)
    right.set(xlabel="height / width of the thing", ylabel="σ of y / σ of x")
    right.set(xscale="log", yscale="log", xlim=(0.3, 4), ylim=(0.5, 4))
    for axis in (right.xaxis, right.yaxis):
        axis.set(ticks=[0.5, 1, 2, 4], ticklabels=["½", "1", "2", "4"])
        axis.set_minor_locator(plt.NullLocator())
    figure.tight_layout()
    return captioned(
        figure,
        "Each mark is a true thing of a held-out scene. Left: its size, and the σ that its pixels "
        "say (the geometric mean of the two axes). Right: its shape, and the shape of its ellipse.",
    )


def where_time_goes(
    took: Mapping[tuple[str, int, str], float],
    systems: Sequence[str],
    parts: Sequence[str],
    sides: Sequence[int],
) -> captioned:
    """Where the time of each system goes, in milliseconds, for images of some sizes."""
    figure, axes = plt.subplots(1, len(sides), figsize=(9.4, 2.5), sharey=True)
    looks = zip(parts, (BLUE, "#56B4E9", ORANGE), ("", "..", "//"), strict=True)
    for part, color, hatch in looks:
        for ax, side in zip(axes, sides, strict=True):
            before = parts[: parts.index(part)]
            start = [sum(took[name, side, p] for p in before) for name in systems]
            wide = [took[name, side, part] for name in systems]
            ax.barh(systems, wide, left=start, color=color, hatch=hatch, ec="white", label=part)
            ax.set(title=f"{side} × {side} pixels", xlabel="milliseconds an image")
            ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return captioned(figure, "Medians. The two scales differ.")


def _ring(ax: Axes, centre: Float[Tensor, "2"], radius: float, color: str) -> None:
    """A dashed circle that can be seen on anything."""
    for look in ({"color": "white", "lw": 3.5}, {"color": color, "lw": 1.6, "ls": "--"}):
        ax.add_patch(plt.Circle((centre - 0.5).tolist(), radius, fill=False, **look))


def _zoom(ax: Axes, mask: Bool[Tensor, "h w"], margin: int) -> None:
    """The part of the image around a mask."""
    (h, w), (y, x) = mask.shape, torch.where(mask)
    left, right = max(int(x.min()) - margin, 0), min(int(x.max()) + margin, w - 1)
    top, bottom = max(int(y.min()) - margin, 0), min(int(y.max()) + margin, h - 1)
    ax.set(xlim=(left - 0.5, right + 0.5), ylim=(bottom + 0.5, top - 0.5))


def _dots(ax: Axes, points: Float[Tensor, "2 p"], color: object, size: float = 2.5) -> None:
    ax.scatter(*(points - 0.5), s=size, color=color, linewidths=0)


def _frame(axes: Sequence[Axes], image: Float[Tensor, "3 h w"]) -> None:
    """All of the image, and nothing beside it."""
    h, w = image.shape[1:]
    for ax in axes:
        ax.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))
        ax.axis("off")
        ax.grid(visible=False)
