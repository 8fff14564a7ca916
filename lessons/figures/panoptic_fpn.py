"""The pictures of lesson 10, Panoptic FPN.

A map of classes holds a label for each pixel; in those of the branch 0 … K_t − 1 stand for any
thing. Void is 255.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Integer
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from lessons.kit.data import VOID, Category, Sample, Segments
from lessons.kit.draw import captioned, draw_curves, draw_image, draw_panoptic, draw_segments

BLUE, ORANGE, PINK = "#0072B2", "#D55E00", "#CC79A7"
GREY = (0.6, 0.6, 0.6)
OWNERS = (ORANGE, "#5D3A9B", "#332211", PINK)  # none is the colour of a class of stuff
Map = Integer[Tensor, "h w"]


def _unscored(instances: Segments) -> Segments:
    return Segments(instances.masks, instances.labels)


def _instances(ax: Axes, image: Tensor, found: Segments, kinds: Sequence, title: str) -> None:
    draw_segments(image, _unscored(found), kinds, labels=False, title=title, ax=ax)


def _classes(ax: Axes, classes: Map, kinds: Sequence[Category], title: str) -> None:
    """Things grey, stuff in its colours, void black."""
    num_things = sum(kind.is_thing for kind in kinds)
    colors = [GREY] * num_things + [np.array(k.color) / 255 for k in kinds[num_things:]]
    index = np.where(classes == VOID, len(kinds), classes)
    ax.imshow(np.array([*colors, (0, 0, 0)])[index], interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")


def whole_way(
    image: Float[Tensor, "3 h w"],
    found: Segments,
    classes: Map,
    merged: Segments,
    kinds: Sequence[Category],
) -> captioned:
    """The image, what the detector finds, the branch's map, and both merged."""
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.8))
    draw_image(image, title="image", ax=axes[0])
    _instances(axes[1], image, found, kinds, f"{len(found)} instances")
    _classes(axes[2], classes, kinds, "thing, or which stuff")
    draw_panoptic(merged, kinds, title=f"merged: {len(merged)} segments", ax=axes[3])
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure,
        "From left to right: an image; what the detector finds, masks that may overlap; for each "
        "pixel which stuff it is, or grey for a thing; both merged into one disjoint answer.",
    )


def two_maps(
    true: Map, found: Map, letters: str, colors: Sequence[tuple[int, int, int]]
) -> captioned:
    """Truth and prediction, small enough to count; a dot is void."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.4))
    for ax, classes, title in zip(axes, (true, found), ("truth", "prediction"), strict=True):
        for (i, j), k in np.ndenumerate(classes.numpy()):
            color = "white" if k == VOID else np.array(colors[k]) / 255
            ax.add_patch(plt.Rectangle((j, i), 1, 1, fc=color, alpha=0.55, ec="#C8C8C8"))
            letter = "·" if k == VOID else letters[k]
            ax.text(j + 0.5, i + 0.5, letter, ha="center", va="center")
        height, width = classes.shape
        ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", title=title)
        ax.axis("off")
    figure.tight_layout()
    return captioned(
        figure,
        "s is sheep, t tree, m meadow. The dots of the truth (left) are void and ask nothing; the "
        "dot of the prediction (right) is a pixel without an answer: a miss.",
    )


def branch_target(sample: Sample, target: Map, kinds: Sequence[Category]) -> captioned:
    """An image, its segments, and what the branch should say (0 is any thing, then the stuff)."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3))
    draw_image(sample.image, title="image", ax=axes[0])
    draw_segments(sample.image, sample.segments, kinds, labels=False, title="truth", ax=axes[1])
    num_things = sum(kind.is_thing for kind in kinds)
    shown = np.where(target == VOID, VOID, target + num_things - 1)
    _classes(axes[2], shown, kinds, "the branch's target")
    figure.tight_layout()
    return captioned(
        figure,
        "A scene with a distant flock (hatched: a crowd). In the branch's target everything "
        "countable is grey, the flock too; nothing of the numbers is left.",
    )


def toy(
    masks: Bool[Tensor, "n h w"],
    scores: Float[Tensor, "n"],
    classes: Map,
    kinds: Sequence[Category],
    owner: Mapping[tuple[int, int], int | str] | None = None,
) -> captioned:
    """Rectangles over a small map; with `owner` (an instance or a class) also who got what."""
    figure, axes = plt.subplots(1, 2 + (owner is not None), figsize=(9.6, 2.1))
    height, width = classes.shape
    for k, (mask, score) in enumerate(zip(masks, scores.tolist(), strict=True)):
        rows, columns = np.nonzero(mask.numpy())
        y, x, h, w = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
        look = {"ec": OWNERS[k], "lw": 2, "ls": ("-", "--", "-.", ":")[k]}
        inset = 0.06 * k  # where two share a side, both are seen
        sides = (x + inset, y + inset), w - 2 * inset, h - 2 * inset
        axes[0].add_patch(plt.Rectangle(*sides, fc=OWNERS[k], alpha=0.18))
        axes[0].add_patch(plt.Rectangle(*sides, fill=False, **look))
        at = (x + w - 0.2, y + h - 0.2) if k else (x + 0.15, y + 0.5)
        aside = {"ha": "right" if k else "left", "va": "bottom" if k else "center"}
        axes[0].text(*at, f"{score:.1f}", color=OWNERS[k], size=8, **aside)
    axes[0].set_title("four instances, their scores")
    _classes(axes[1], classes, kinds, "thing (grey), lake, meadow")
    if owner is not None:
        owned = np.zeros((height, width, 3))
        stuff = {kind.name: np.array(kind.color) / 255 for kind in kinds}
        for at, who in owner.items():
            owned[at] = stuff[who] if isinstance(who, str) else to_rgb(OWNERS[who])
        axes[2].imshow(owned)
        axes[2].set_title("who owns what; black: void")
    for ax, shift in zip(axes, (0, -0.5, -0.5), strict=False):
        ax.hlines([i + shift for i in range(height + 1)], shift, width + shift, "#BBBBBB", lw=0.5)
        ax.vlines([j + shift for j in range(width + 1)], shift, height + shift, "#BBBBBB", lw=0.5)
        ax.set(xlim=(shift, width + shift), ylim=(height + shift, shift), aspect="equal")
        ax.axis("off")
    figure.tight_layout()
    said = (
        "Work out who gets what: score at least ½, at most half taken, stuff from four pixels on."
        if owner is None
        else "The second instance keeps what the first has left of it. The third lies under both "
        "and goes; the fourth is not sure enough, so the meadow has its pixels. Three pixels of "
        "lake are fewer than four and stay black."
    )
    return captioned(figure, said)


def steps(
    image: Float[Tensor, "3 h w"],
    instances: Segments,
    merged: Mapping[str, Segments],
    kinds: Sequence[Category],
    left_out: tuple[int, int],
) -> captioned:
    """The merge of a scene, step by step; `left_out` are instances, and pixels of stuff."""
    figure, axes = plt.subplots(1, 1 + len(merged), figsize=(11, 2.7))
    _instances(axes[0], image, instances, kinds, f"{len(instances)} instances")
    for ax, (title, answer) in zip(axes[1:], merged.items(), strict=True):
        draw_panoptic(answer, kinds, title=f"{title}: {len(answer)}", ax=ax)
    figure.tight_layout(w_pad=0.4)
    one = left_out[0] == 1
    return captioned(
        figure,
        f"A crowded scene, step by step, with the number of segments. {left_out[0]} of the sure "
        f"instances {'is' if one else 'are'} mostly taken and left out; {left_out[1]} pixels of "
        "stuff belong to a class with too few of them. Black is void: nobody's pixel.",
    )


def played(
    image: Float[Tensor, "3 h w"],
    instances: Segments,
    merged: Segments,
    truth: Segments,
    kinds: Sequence[Category],
    pq: float,
    sheep: float,
) -> captioned:
    """One scene merged with the numbers of the moment."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3))
    _instances(axes[0], image, instances, kinds, f"{len(instances)} instances")
    draw_panoptic(merged, kinds, title=f"merged: {len(merged)} segments", ax=axes[1])
    draw_panoptic(truth, kinds, title=f"truth: {len(truth)} segments", ax=axes[2])
    figure.tight_layout()
    return captioned(figure, f"PQ of this scene {pq:.3f}, of its sheep alone {sheep:.3f}.")


def three_answers(
    image: Float[Tensor, "3 h w"],
    instances: Segments,
    classes: Map,
    merged: Segments,
    kinds: Sequence[Category],
) -> captioned:
    """Instances, classes of all eight kinds, and the panoptic answer."""
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.8))
    draw_image(image, title="image", ax=axes[0])
    _instances(axes[1], image, instances, kinds, "predict_instances")
    axes[2].imshow(np.array([k.color for k in kinds])[classes] / 255, interpolation="nearest")
    axes[2].set_title("predict_semantic")
    axes[2].axis("off")
    draw_panoptic(merged, kinds, title="predict_panoptic", ax=axes[3])
    figure.tight_layout(w_pad=0.6)
    return captioned(
        figure,
        "Three answers of one network. The map of classes has all eight classes and no numbers; "
        "the instances have numbers and no stuff.",
    )


def losses(history: Sequence[Mapping], title: str) -> captioned:
    """Five of the six losses of a run, `semantic` with its weight."""
    at = [row["step"] for row in history]
    terms = ("objectness", "cls", "box", "mask", "semantic")
    curves = {term: (at, [row[term] for row in history]) for term in terms}
    return captioned(
        draw_curves(curves, xlabel="step", ylabel="loss", title=title).figure,
        "Five of the six losses, without the proposals' boxes; the semantic one with its weight.",
    )


def answers(
    samples: Mapping[str, Sample],
    said: Sequence[Segments],
    pq: Sequence[float],
    kinds: Sequence[Category],
) -> captioned:
    """Scenes by name, their truth, and what a model says of them."""
    figure, axes = plt.subplots(3, len(samples), figsize=(6.6, 6.9))
    for column, (name, each), answer, own in zip(axes.T, samples.items(), said, pq, strict=True):
        draw_image(each.image, title=name, ax=column[0])
        draw_panoptic(each.segments, kinds, title="truth", ax=column[1])
        draw_panoptic(answer, kinds, title=f"answer: PQ {own:.2f}", ax=column[2])
    figure.tight_layout(w_pad=0.5)
    return captioned(
        figure,
        "Held-out scenes, their truth and the recorded model's answer. The hue is the class, the "
        "shade tells things apart; black is void in the truth, and no answer below. A crowd "
        "(hatched) is no target of the detector; to PQ it is no miss.",
    )


def sweeps(
    measured: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    usual: Mapping[str, float],
) -> captioned:
    """PQ against one threshold at a time, for detections with NMS and without it."""
    figure, axes = plt.subplots(1, len(measured), figsize=(9.6, 2.8), sharey=True)
    looks = {"with NMS": ("o-", BLUE), "without NMS": ("s--", ORANGE)}
    for ax, (name, (values, curves)) in zip(axes, measured.items(), strict=True):
        for label, pq in curves.items():
            style, color = looks[label]
            ax.plot(values, pq, style, color=color, ms=4, label=label)
        ax.axvline(usual[name], color="#8A8A8A", lw=1, ls=":")
        ax.set(xlabel=name)
    axes[0].set(ylabel="PQ", ylim=(0, 1))
    axes[0].legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    return captioned(
        figure,
        "PQ on crowded scenes when one threshold of the merge moves; dotted: where it stands.",
    )
