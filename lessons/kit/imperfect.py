"""Predictions without a model: the ground truth, spoiled in the ways in which models fail.

Metrics can then be taught, tested and timed before anything is trained.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lessons.kit.data import Category, Sample, Segments, boxes, empty_segments, things


def imperfect_detections(
    sample: Sample,
    categories: Sequence[Category],
    rng: np.random.Generator,
    *,
    drop: float = 0.15,
    double: float = 0.25,
    relabel: float = 0.1,
    shift: float = 0.08,
) -> Segments:
    """Detections of an image's things: moved, dropped, doubled, relabelled and re-scored.

    `drop`, `double` and `relabel` are probabilities for each thing, crowds included; `shift`
    is the standard deviation of a detection's displacement as a share of its box. Scores
    lie in (0, 1], are higher for what was moved less, and are rounded so that some tie.
    """
    truth = things(sample.segments, categories)
    classes = [k for k, category in enumerate(categories) if category.is_thing]
    masks, labels, scores = [], [], []
    sides = boxes(truth)[:, 2:] - boxes(truth)[:, :2]
    for mask, label, (width, height) in zip(truth.masks, truth.labels.tolist(), sides, strict=True):
        if rng.random() < drop:
            continue
        for _ in range(1 + (rng.random() < double)):
            dx, dy = rng.normal(0, shift, 2)
            masks.append(_moved(mask, round(dy * height.item()), round(dx * width.item())))
            labels.append(int(rng.choice(classes)) if rng.random() < relabel else label)
            quality = 0.9 - 2 * np.hypot(dx, dy) + rng.normal(0, 0.12)
            scores.append(round(float(np.clip(quality, 0.01, 1)), 2))
    if not masks:
        return empty_segments(truth.size, with_scores=True)
    order = rng.permutation(len(masks)).tolist()
    return Segments(torch.stack(masks), torch.tensor(labels), torch.tensor(scores))[order]


def _moved(mask: Tensor, rows: int, columns: int) -> Tensor:
    """The mask moved down and right; what leaves the image is lost."""
    h, w = mask.shape
    moved = torch.zeros_like(mask)
    top, left = max(rows, 0), max(columns, 0)
    bottom, right = min(h, h + rows), min(w, w + columns)
    if top < bottom and left < right:
        moved[top:bottom, left:right] = mask[
            top - rows : bottom - rows, left - columns : right - columns
        ]
    return moved
