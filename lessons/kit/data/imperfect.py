"""Predictions without a model: the ground truth, spoiled in the ways in which models fail.

Metrics can then be taught, tested and timed before anything is trained.
"""

import math
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
    lie in (0, 1], are higher for what was moved less, and are rounded so that some tie. Raises
    ValueError for a probability outside of [0, 1] and a displacement below 0.
    """
    _check(shift, drop=drop, double=double, relabel=relabel)
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


def imperfect_panoptic(
    sample: Sample,
    categories: Sequence[Category],
    rng: np.random.Generator,
    *,
    drop: float = 0.12,
    split: float = 0.12,
    relabel: float = 0.1,
    void: float = 0.12,
    shift: float = 0.04,
) -> Segments:
    """A panoptic prediction: each segment of the truth moved, dropped, split, relabelled, holed.

    The probabilities are for each segment, crowds included. `shift` is the standard deviation
    of a segment's displacement as a share of its box (what touches the image's edge still does),
    `split` cuts it in two at a column, `relabel` gives it any class at random, `void` leaves a
    third of its rows without an answer. The result is disjoint (things lie over stuff, else a
    later segment over an earlier one), also where the truth is void, in random order, and without
    scores; what has lost all its pixels is gone. Raises ValueError as `imperfect_detections`.
    """
    _check(shift, drop=drop, split=split, relabel=relabel, void=void)
    truth = sample.segments
    painted = np.zeros(truth.size, dtype=np.int32)  # 0 where there is no answer
    labels: list[int] = []
    kinds, corners = truth.labels.tolist(), boxes(truth).int().tolist()
    h, w = truth.size
    for k in sorted(range(len(truth)), key=lambda k: categories[kinds[k]].is_thing):
        mask, label, (x0, y0, x1, y1) = truth.masks[k].numpy(), kinds[k], corners[k]
        dropped, cut, renamed, holed = rng.random(4) < (drop, split, relabel, void)
        dy, dx = rng.normal(0, shift, 2) * (y1 - y0, x1 - x0)
        column, row, other = rng.random(3)
        if dropped:
            continue
        rows = (np.arange(h) - round(dy)).clip(0, h - 1)
        moved = mask[rows[:, None], (np.arange(w) - round(dx)).clip(0, w - 1)]
        if holed:
            top = y0 + round(dy) + int(row * (y1 - y0) * 2 / 3)
            moved[max(top, 0) : max(top, 0) + (y1 - y0 + 2) // 3] = False
        labels.append(int(other * len(categories)) if renamed else label)
        painted[moved] = len(labels)
        if cut:
            labels.append(labels[-1])
            middle = max(x0 + round(dx) + int(column * (x1 - x0)), 0)
            moved[:, :middle] = False
            painted[moved] = len(labels)
    there = rng.permutation(np.unique(painted[painted > 0]))
    if not len(there):
        return empty_segments(truth.size)
    masks = torch.from_numpy(painted == there[:, None, None])
    return Segments(masks, torch.tensor([labels[k - 1] for k in there]))


def _check(shift: float, **probabilities: float) -> None:
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be a probability, 0 … 1, not {value}")
    if not 0 <= shift < math.inf:
        raise ValueError(f"shift must be at least 0 of a box, and finite, not {shift}")


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
