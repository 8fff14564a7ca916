# Built by `lessons build` from notebooks/01_average_precision.ipynb: edit that, not this.
"""Average precision of masks.

You build the number that ranks instance segmentation systems, from the overlap of two masks up to
COCO's AP.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

from lessons.kit.data import Category, Segments, areas, is_crowd
from lessons.kit.data.checks import checked, shares
from lessons.kit.data.pairs import all_comparable
from lessons.kit.data.pixels import pixel_counts


@checked
def mask_iou(
    predictions: Bool[Tensor, "n h w"],
    targets: Bool[Tensor, "m h w"],
    is_crowd: Bool[Tensor, "m"] | Integer[Tensor, "m"] | None = None,
) -> Float[Tensor, "n m"]:
    """Intersection over union of every predicted with every true mask, exact, in float64.

    Against a crowd it is |p ∩ g| / |p|, the share of the prediction inside (pycocotools'
    `iscrowd`). Two empty masks have 0. Raises ValueError where the sizes differ.
    """
    intersection, p, g = pixel_counts(predictions, targets)  # (n, m), (n,), (m,)
    union = p[:, None] + g - intersection
    if is_crowd is not None:
        union = torch.where(is_crowd.bool().cpu(), p[:, None], union)
    return intersection / union.clamp(min=1).double()


def match_detections(
    iou: Float[Tensor, "d g"],
    thresholds: Float[Tensor, "t"],
    ignored: Bool[Tensor, "*r g"] | Integer[Tensor, "*r g"] | None = None,
    is_crowd: Bool[Tensor, "g"] | Integer[Tensor, "g"] | None = None,
) -> Int[Tensor, "*r t d"]:
    """The thing that each detection takes, or −1, by COCO's greedy rule (`evaluateImg`).

    Rows of `iou` are detections, best score first. Each takes the free thing of highest
    IoU ≥ threshold; of equal ones the last; an ignored one only if no other will do. A crowd
    is never used up. An IoU that is NaN is never enough. `ignored` may have leading dimensions,
    each matched for itself.
    """
    num_detections, num_things = iou.shape
    none = torch.zeros(num_things, dtype=torch.bool)
    ignored = (none if ignored is None else ignored.bool()).cpu().numpy()
    crowd = (none if is_crowd is None else is_crowd.bool()).cpu().numpy()
    # The steps are many and tiny, and there numpy is quicker than torch.
    overlap, thresholds = iou.cpu().numpy(), thresholds.cpu().numpy()
    enough = overlap[:, None] >= thresholds[:, None]  # d t g
    bonus = np.where(ignored, 0, 2)[..., None, :]  # *r 1 g
    free = np.ones((*ignored.shape[:-1], len(thresholds), num_things), dtype=bool)  # *r t g
    matches = np.full((*free.shape[:-1], num_detections), -1)
    for d in enough.any(axis=(1, 2)).nonzero()[0]:  # the others match nothing
        allowed = (free | crowd) & enough[d]
        rank = np.where(allowed, overlap[d] + bonus, -1)
        best = num_things - 1 - rank[..., ::-1].argmax(-1)  # of equal ones the last
        matches[..., d] = np.where(rank.max(-1) >= 0, best, -1)
        free &= matches[..., d, None] != np.arange(num_things)
    return torch.from_numpy(matches)


@checked
def precision_recall(
    true_positive: Bool[Tensor, "*r d"],
    false_positive: Bool[Tensor, "*r d"],
    num_targets: Int[Tensor, "*#r 1"] | int,
) -> tuple[Float[Tensor, "*r d"], Float[Tensor, "*r d"]]:
    """Precision and recall after each of the d ranks, best score first, in float64.

    A detection that is neither true nor false (it lies in a crowd) changes nothing. Before
    the first that counts, precision is 0. Without targets, recall is NaN.
    """
    tp, fp = true_positive.double().cumsum(-1), false_positive.double().cumsum(-1)
    return tp / (tp + fp).clamp(min=1), tp / num_targets


RECALLS = torch.from_numpy(np.linspace(0, 1, 101))


@checked
def average_precision(
    precision: Float[Tensor, "*r d"], recall: Float[Tensor, "*r d"]
) -> Float[Tensor, "*r"]:
    """Mean over RECALLS of the best precision at that recall or any higher one.

    `precision` and `recall` are by rank; recall never falls. A recall that is never reached
    counts as precision 0, so no detections give 0; no targets (recall is NaN) give NaN. Leading
    dimensions are rankings of their own (pycocotools `accumulate`).
    """
    envelope = precision.flip(-1).cummax(-1).values.flip(-1)
    recalls = RECALLS.expand(*recall.shape[:-1], -1).contiguous()
    first = torch.searchsorted(recall.contiguous(), recalls)  # the first rank that gets there
    readings = F.pad(envelope, (0, 1)).gather(-1, first)
    return readings.mean(-1).masked_fill(recall.isnan().any(-1), math.nan)


THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
AREA_RANGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}


@dataclass
class Judged:
    """One image's detections, best first: r ranges of area, t thresholds, k classes."""

    scores: Float[Tensor, "d"]
    labels: Int[Tensor, "d"]
    true_positive: Bool[Tensor, "r t d"]
    false_positive: Bool[Tensor, "r t d"]
    num_targets: Int[Tensor, "k r"]


def judge_image(
    found: Segments,
    truth: Segments,
    classes: Int[Tensor, "k"],
    thresholds: Float[Tensor, "t"],
    ranges: Float[Tensor, "r 2"],
) -> Judged:
    """Match one image's detections, best first, with its things. A range includes both its ends."""

    def outside(segments):
        area = areas(segments)
        return (area < ranges[:, :1]) | (area > ranges[:, 1:])

    crowd = is_crowd(truth)
    ignored = crowd | outside(truth)  # r g
    iou = mask_iou(found.masks, truth.masks, crowd)
    iou[found.labels[:, None] != truth.labels] = math.nan  # another class
    matches = match_detections(iou, thresholds, ignored, crowd)  # r t d
    nothing, by_range = matches < 0, torch.arange(len(ranges))[:, None, None]
    took_ignored = F.pad(ignored, (0, 1))[by_range, matches]  # −1 is the last column: False
    neutral = took_ignored | (nothing & outside(found)[:, None])
    counts = (truth.labels == classes[:, None])[:, None] & ~ignored  # k r g
    hit, false = ~nothing & ~neutral, nothing & ~neutral
    return Judged(found.scores.double(), found.labels, hit, false, counts.sum(-1))


def best_detections(
    prediction: Segments, classes: Int[Tensor, "k"], max_detections: int
) -> Segments:
    """The detections of these classes, best score first, at most so many of each."""
    order = prediction.scores.argsort(descending=True, stable=True)
    labels = prediction.labels[order]
    better = (labels[:, None] == labels).tril(-1).sum(1)  # of its own class
    return prediction[order[(better < max_detections) & torch.isin(labels, classes)]]


def class_average_precisions(
    images: Sequence[Judged], classes: Int[Tensor, "k"]
) -> Float[Tensor, "k r t"]:
    """AP of each class over all images; NaN where a range of areas has no target."""
    order = torch.cat([image.scores for image in images]).argsort(descending=True, stable=True)
    labels = torch.cat([image.labels for image in images])[order]
    hit = torch.cat([image.true_positive for image in images], dim=-1)[..., order]
    false = torch.cat([image.false_positive for image in images], dim=-1)[..., order]
    num_targets = torch.stack([image.num_targets for image in images]).sum(0)[..., None]  # k r 1
    ap = torch.zeros(len(classes), *hit.shape[:2], dtype=torch.float64)
    for row, k, count in zip(ap, classes, num_targets, strict=True):
        mine = labels == k
        curve = precision_recall(hit[..., mine], false[..., mine], count[..., None])
        row[:] = average_precision(*curve)
    return ap.masked_fill(num_targets == 0, math.nan)


def evaluate_instances(
    predictions: Sequence[Segments],
    targets: Sequence[Segments],
    categories: Sequence[Category],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    area_ranges: Mapping[str, tuple[float, float]] = AREA_RANGES,
    max_detections: int = 100,
) -> dict:
    """COCO's mask AP of a data set, over its thing classes (pycocotools `COCOeval`, "segm").

    Returns `ap`, `ap50`, `ap75` and `ap_RANGE` for each area range (in pixels, of the masks),
    and `per_class`, the same by name. NaN where there is nothing to average. Stuff is left
    out on both sides. Raises ValueError for a threshold that is not in [0, 1] and, naming the
    image, for predictions without scores, of another size, or with a label that is no category.
    """
    for threshold in thresholds:
        shares(thresholds=threshold)
    all_comparable(predictions, targets, len(categories), scored=True)
    classes = torch.tensor([k for k, c in enumerate(categories) if c.is_thing], dtype=torch.int64)
    cuts = torch.tensor(thresholds, dtype=torch.float64)
    ranges = torch.tensor([(0, math.inf), *area_ranges.values()], dtype=torch.float64)
    images = []
    for prediction, target in zip(predictions, targets, strict=True):
        found, truth = (
            best_detections(prediction.to("cpu"), classes, max_detections),
            target.to("cpu"),
        )
        truth = truth[torch.isin(truth.labels, classes)]
        images.append(judge_image(found, truth, classes, cuts, ranges))
    ap = torch.full((len(classes), len(ranges), len(cuts)), math.nan, dtype=torch.float64)
    if images:
        ap = class_average_precisions(images, classes)
    names = [categories[k].name for k in classes]
    per_class = {
        name: summary(row, thresholds, area_ranges) for name, row in zip(names, ap, strict=True)
    }
    return summary(ap, thresholds, area_ranges) | {"per_class": per_class}


def summary(
    ap: Float[Tensor, "*k r t"], thresholds: Sequence[float], area_ranges: Mapping[str, object]
) -> dict[str, float]:
    """The named means of a table of APs by (class,) area range and threshold."""
    named = {"ap": ap[..., 0, :]}
    for percent in (50, 75):
        at = [i for i, t in enumerate(thresholds) if math.isclose(t, percent / 100)]
        named[f"ap{percent}"] = ap[..., 0, at]
    named |= {f"ap_{name}": ap[..., i, :] for i, name in enumerate(area_ranges, start=1)}
    return {name: values.nanmean().item() for name, values in named.items()}
