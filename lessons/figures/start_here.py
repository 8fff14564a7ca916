"""The pictures of lesson 00, start here, and the map of the course."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import torch
from IPython.display import Markdown
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from lessons.kit import places
from lessons.kit.data import Category, Sample, Segments, things
from lessons.kit.draw import (
    INK,
    captioned,
    draw_grid,
    draw_image,
    draw_legend,
    draw_panoptic,
    draw_segments,
)

BLUE, ORANGE = "#0072B2", "#D55E00"


def crisp(figure: Figure, caption: str) -> captioned:
    """A figure whose pixels are drawn as they are: sharper here, and half as many bytes."""
    for ax in figure.axes:
        for image in ax.images:
            image.set_interpolation("nearest")
    return captioned(figure, caption)


def four_scenes(samples: Sequence[Sample], categories: Sequence[Category]) -> captioned:
    """Four images, without their answers."""
    return crisp(
        draw_grid(samples, categories, fill=0, outline=False, labels=False),
        "Four drawn scenes. Sheep stand in flocks and hide one another, trees stand before houses, "
        "balloons before mountains.",
    )


def three_tasks(sample: Sample, categories: Sequence[Category], caption: str) -> captioned:
    """An image and what is true of it under each of the three tasks."""
    image, segments = sample.image, sample.segments
    ratio = image.shape[1] / image.shape[2]
    rows, columns, wide = (1, 4, 1.8) if ratio > 1.2 else (2, 2, 3.1)
    size = columns * wide + 1.5, rows * (wide * ratio + 0.35)  # beside them is the legend
    axes = plt.subplots(rows, columns, figsize=size)[1].flat
    draw_image(image, title="image", ax=axes[0])
    draw_semantic(segments, categories, axes[1])
    seen = things(segments, categories)
    draw_segments(image, seen, categories, title="instance", ax=axes[2])
    draw_panoptic(segments, categories, title="panoptic", ax=axes[3])
    shown = [categories[k] for k in segments.labels.unique().tolist()]
    draw_legend(shown, axes[columns - 1])
    axes[0].figure.tight_layout(w_pad=0.4)
    return crisp(axes[0].figure, caption)


def draw_semantic(segments: Segments, categories: Sequence[Category], ax: plt.Axes) -> None:
    """The class of each pixel, by its colour."""
    colors = torch.tensor([c.color for c in categories])[segments.labels].numpy() / 255
    options = {"fill": 1, "outline": False, "labels": False, "title": "semantic"}
    draw_segments(None, segments, categories, colors=colors, ax=ax, **options)


def draw_things(
    segments: Segments, categories: Sequence[Category], title: str, ax: plt.Axes
) -> None:
    """Things over black, each in a colour that only keeps it apart from its neighbours."""
    options = {"fill": 1, "outline": False, "labels": False}
    draw_segments(None, segments, categories, title=title, ax=ax, **options)


def patches(
    number: int, sample: Sample, found: Segments, categories: Sequence[Category], ap: float
) -> captioned:
    """The things of a scene, its semantic map, and the patches that the map was cut into."""
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 3))
    seen = things(sample.segments, categories)
    whole = seen[~seen.is_crowd]
    draw_segments(sample.image, whole, categories, labels=False, title="things", ax=axes[0])
    draw_semantic(sample.segments, categories, axes[1])
    draw_panoptic(found, categories, title="patches", ax=axes[2])
    figure.tight_layout(w_pad=0.4)
    return crisp(
        figure,
        f"Scene {number}: {len(whole)} things, {len(found)} patches of the true semantic map, "
        f"AP {ap:.2f}. In the patches a class has its colour and each patch a shade of it.",
    )


def crowd(number: int, sample: Sample, categories: Sequence[Category]) -> captioned:
    """A scene with a crowd, and its segments."""
    figure, axes = plt.subplots(1, 2, figsize=(6, 3.3))
    draw_image(sample.image, title=f"scene {number}", ax=axes[0])
    flock = sample.segments[sample.segments.is_crowd]
    draw_segments(
        sample.image, flock, categories, labels=False, title="its crowd, hatched", ax=axes[1]
    )
    figure.tight_layout()
    return crisp(
        figure,
        "A scene with a crowd, the hatched region: a flock so far away that nobody marked its "
        "sheep one by one. Its other segments are not drawn.",
    )


def all_answers(
    image: Float[Tensor, "3 h w"],
    truth: Segments,
    answers: Mapping[str, Segments],
    categories: Sequence[Category],
    caption: str,
    true_categories: Sequence[Category] = (),
) -> captioned:
    """An image, the truth (maybe of other categories) and the answer of every system."""
    ratio = image.shape[1] / image.shape[2]
    columns, wide = (5, 1.6) if ratio > 1.2 else (3, 2.25)
    rows = -(-(len(answers) + 2) // columns)
    size = columns * wide, rows * (wide * ratio + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size)
    for ax in axes.flat:
        ax.axis("off")
    draw_image(image, title="image", ax=axes.flat[0])
    draw_panoptic(truth, true_categories or categories, title="the truth", ax=axes.flat[1])
    for (title, answer), ax in zip(answers.items(), axes.flat[2:], strict=False):
        if all(categories[k].is_thing for k in answer.labels.tolist()):
            draw_things(answer, categories, title, ax)
        else:
            draw_panoptic(answer, categories, title=title, ax=ax)
    figure.tight_layout(w_pad=0.4, h_pad=1.2)
    return crisp(figure, caption)


def duel(
    number: int,
    truth: Segments,
    answers: Mapping[str, Segments],
    ap: Mapping[str, float],
    categories: Sequence[Category],
) -> captioned:
    """A scene's things and two answers, with the AP of each."""
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 3))
    shown = {"things": things(truth, categories)} | {
        f"{name}: AP {ap[name]:.3f}": answers[name] for name in answers
    }
    for (title, segments), ax in zip(shown.items(), axes, strict=True):
        draw_things(segments, categories, title, ax)
    figure.tight_layout(w_pad=0.4)
    first, second = ap
    more = ap[first] - ap[second]
    return crisp(
        figure,
        f"Scene {number}: AP of {first} minus AP of {second} is {more:+.3f}. A crowd, hatched, "
        "need not be found.",
    )


def two_scores(scores: Mapping[str, Float[Tensor, "n"]]) -> captioned:
    """The AP of two systems, a dot a scene."""
    (first, x), (second, y) = scores.items()
    figure, ax = plt.subplots(figsize=(4, 3.8))
    better = x > y
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
    ax.plot(x[better], y[better], "o", color=BLUE, label=f"{first} is better")
    ax.plot(x[~better], y[~better], "s", color=ORANGE, label=f"{second} is better")
    low = float(min(x.min(), y.min())) - 0.03
    ax.set(xlim=(low, 1), ylim=(low, 1), xlabel=f"AP of {first}", ylabel=f"AP of {second}")
    ax.set_aspect("equal")
    ax.legend(loc="upper left")
    return crisp(figure, f"A dot a scene, {len(x)} scenes: below the line {first} is better.")


COURSE = (
    ("average_precision", "Metrics: AP", "COCO's AP at pixel level"),
    ("anchor_boxes", "Object detection recap", "overlap of boxes, their code, anchors, NMS"),
    ("region_proposals", "", "matching, feature pyramid, the network that proposes boxes"),
    ("roi_align", "RoI Align", "RoI Pooling, RoIAlign, their gradients"),
    ("mask_rcnn", "Mask R-CNN, its loss", "the heads, L_cls + L_box + L_mask"),
    ("centroid_offsets", "Spatial embedding", "pixels that point at their centre"),
    ("lovasz", "Lovász hinge", "the convex surrogate of the Jaccard loss"),
    ("spatial_embedding", "Embeddings and bandwidth", "φ, learned σ, clustering"),
    ("panoptic_quality", "Panoptic segmentation: PQ", "the format, matching, SQ · RQ"),
    ("panoptic_fpn", "Panoptic FPN", "two branches and the merge"),
    ("hungarian", "MaskFormer: matching", "the best assignment, “no object”"),
    ("set_prediction", "MaskFormer: z, z^gt, the loss", "what a pair costs, the match, the loss"),
    ("maskformer", "MaskFormer", "attention, the network, inference"),
    ("deformable_attention", "Mask2Former: pixel decoder", "a few places for all (optional)"),
    ("mask2former", "Mask2Former", "masked attention, points, finer features"),
    ("oneformer", "OneFormer", "task token, text, contrastive loss"),
    ("side_by_side", "(all)", "every system on the same images"),
)


def course_map() -> Markdown:
    """The lessons, the section of the lecture, what is built, and the time that each says."""
    rows = ["| Lesson | Section of the lecture | What you build | Time |", "|---|---|---|---|"]
    for number, (name, section, built) in enumerate(COURSE, start=1):
        file = f"{number:02}_{name}.ipynb"
        title = f"{number:02} {name.replace('_', ' ')}"
        time = stated_time(places.ROOT / "notebooks" / file)
        rows.append(f"| [{title}]({file}) | {section} | {built} | {time} |")
    rows.append("| 18 photographs (to come) | | pretrained backbones, images of your own | |")
    return Markdown("\n".join(rows))


def stated_time(path: Path) -> str:
    """What the head of a lesson says of its time; "" where the lesson is not there."""
    if not path.is_file():
        return ""
    head = nbformat.read(path, 4).cells[0].source
    said = re.search(r"\*\*Time\*\* \|(.*)\|", head)
    words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", said[1]) if said else ""
    return words.replace(", then the homework", "").strip()
