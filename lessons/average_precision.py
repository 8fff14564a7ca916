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
from jaxtyping import Bool, Float, Int, Integer, UInt64
from torch import Tensor

from lessons.kit.data import Category, Segments, is_crowd
from lessons.kit.data.checks import checked, shares
from lessons.kit.data.pairs import all_comparable


def pack_bits(masks: Bool[Tensor, "n h w"]) -> UInt64[np.ndarray, "n words"]:
    """Each mask as a row of 64-bit words, one bit a pixel, the last word filled up with zeros."""
    packed = np.packbits(masks.flatten(1).cpu().numpy(), axis=1)
    whole = math.ceil(packed.shape[1] / 8) * 8  # bytes, up to a whole number of words
    filled = np.zeros((len(packed), whole), dtype=np.uint8)
    filled[:, : packed.shape[1]] = packed
    return filled.view(np.uint64)


def count_bits(words: UInt64[np.ndarray, "*n words"]) -> Int[np.ndarray, "*n"]:
    """The number of pixels of each packed mask."""
    return np.bitwise_count(words).sum(-1, dtype=np.int64)


def packed_iou(
    predictions: UInt64[np.ndarray, "n words"],
    targets: UInt64[np.ndarray, "m words"],
    is_crowd: Bool[Tensor, "m"] | Integer[Tensor, "m"] | None = None,
) -> Float[Tensor, "n m"]:
    """`mask_iou` of masks that are packed already."""
    shape = len(predictions), len(targets)
    intersection = np.zeros(shape, dtype=np.int64)
    for row, prediction in zip(intersection, predictions, strict=True):
        row[:] = count_bits(prediction & targets)
    area = count_bits(predictions)[:, None]
    union = area + count_bits(targets) - intersection
    if is_crowd is not None:
        union = np.where(is_crowd.bool().cpu().numpy(), area, union)
    return torch.from_numpy(intersection / np.maximum(union, 1))


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
    return packed_iou(pack_bits(predictions), pack_bits(targets), is_crowd)


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
    if ignored is None:
        ignored = torch.zeros(num_things, dtype=torch.bool)
    if is_crowd is None:
        is_crowd = torch.zeros(num_things, dtype=torch.bool)
    matches = torch.full((*ignored.shape[:-1], len(thresholds), num_detections), -1)
    if num_things == 0:
        return matches
    # The steps are many and tiny, and there numpy is quicker than torch.
    overlap, crowd = iou.cpu().numpy(), is_crowd.bool().cpu().numpy()
    enough = overlap[:, None] >= thresholds.cpu().numpy()[:, None]  # d t g
    bonus = np.where(ignored.cpu().numpy(), 0, 2)[..., None, :]  # *r 1 g: those that count first
    free = np.ones((*matches.shape[:-1], num_things), dtype=bool)
    for d in enough.any(axis=(1, 2)).nonzero()[0]:
        rank = np.where((free | crowd) & enough[d], overlap[d] + bonus, -1)  # *r t g, −1: no
        best = num_things - 1 - rank[..., ::-1].argmax(-1)  # of equal ones the last
        found = rank.max(-1) >= 0
        matches[..., d] = torch.from_numpy(np.where(found, best, -1))
        free &= ~(found[..., None] & (best[..., None] == np.arange(num_things)))  # now taken
    return matches


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
    """Mean of the envelope's precision at the recalls 0, 0.01, …, 1 (pycocotools `accumulate`).

    `precision` and `recall` are by rank; recall never falls. No detections give 0, no targets
    (recall is NaN) give NaN.
    """
    envelope = precision.flip(-1).cummax(-1).values.flip(-1)
    readable = torch.cat([envelope, envelope.new_zeros(*envelope.shape[:-1], 1)], dim=-1)
    recalls = RECALLS.expand(*recall.shape[:-1], -1).contiguous()
    first = torch.searchsorted(recall.contiguous(), recalls)  # the first rank that gets there
    return readable.gather(-1, first).mean(-1).masked_fill(recall.isnan().any(-1), math.nan)


THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
AREA_RANGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}


@dataclass
class Judged:
    """The detections of one class in one image, best first: r ranges of area, t thresholds."""

    scores: Float[Tensor, "d"]
    true_positive: Bool[Tensor, "r t d"]
    false_positive: Bool[Tensor, "r t d"]
    num_targets: Int[Tensor, "r"]


def judge_image(
    prediction: Segments,
    target: Segments,
    classes: Sequence[int],
    thresholds: Float[Tensor, "t"],
    ranges: Float[Tensor, "r 2"],
    max_detections: int,
) -> dict[int, Judged]:
    """Match one image's detections with its things, by class. A range includes both its ends."""
    found, true, crowd = (
        pack_bits(prediction.masks),
        pack_bits(target.masks),
        is_crowd(target).cpu(),
    )
    low, high = ranges[:, :1], ranges[:, 1:]

    def outside(words):
        area = torch.from_numpy(count_bits(words))
        return (area < low) | (area > high)

    judged = {}
    order = prediction.scores.cpu().double().argsort(descending=True, stable=True)
    ranked, labels = prediction.labels.cpu()[order], target.labels.cpu()
    for k in set(classes) & (set(ranked.tolist()) | set(labels.tolist())):
        mine, theirs = order[ranked == k][:max_detections], (labels == k).nonzero()[:, 0]
        d, g = found[mine.numpy()], true[theirs.numpy()]
        ignored = crowd[theirs] | outside(g)  # r g
        iou = packed_iou(d, g, crowd[theirs])
        matches = match_detections(iou, thresholds, ignored, crowd[theirs])  # r t d
        hit = matches >= 0
        # Neither true nor false: it took an ignored thing, or nothing and has another size.
        nothing = ignored.new_zeros(len(ranges), 1)
        table = torch.cat([ignored, nothing], dim=1)[:, None].expand(-1, len(thresholds), -1)
        took_ignored = table.gather(2, torch.where(hit, matches, len(g)))
        neutral = torch.where(hit, took_ignored, outside(d)[:, None])
        scores = prediction.scores.cpu()[mine].double()
        judged[k] = Judged(scores, hit & ~neutral, ~hit & ~neutral, (~ignored).sum(1))
    return judged


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
    classes = [k for k, category in enumerate(categories) if category.is_thing]
    ranges = torch.tensor([(0, math.inf), *area_ranges.values()], dtype=torch.float64)
    cuts = torch.tensor(thresholds, dtype=torch.float64)
    images = [
        judge_image(prediction, target, classes, cuts, ranges, max_detections)
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    ap = torch.full((len(classes), len(ranges), len(cuts)), math.nan, dtype=torch.float64)
    for row, k in zip(ap, classes, strict=True):
        parts = [image[k] for image in images if k in image]
        if parts:
            row[:] = class_average_precision(parts)
    per_class = {
        categories[k].name: summary(row, thresholds, area_ranges)
        for row, k in zip(ap, classes, strict=True)
    }
    return summary(ap, thresholds, area_ranges) | {"per_class": per_class}


def class_average_precision(parts: Sequence[Judged]) -> Float[Tensor, "r t"]:
    """AP of one class over all images; NaN where a range of areas has no target."""
    order = torch.cat([part.scores for part in parts]).argsort(descending=True, stable=True)
    true_positive = torch.cat([part.true_positive for part in parts], dim=-1)[..., order]
    false_positive = torch.cat([part.false_positive for part in parts], dim=-1)[..., order]
    num_targets = torch.stack([part.num_targets for part in parts]).sum(0)
    curve = precision_recall(true_positive, false_positive, num_targets[:, None, None])
    ap = average_precision(*curve)
    return ap.masked_fill(num_targets[:, None] == 0, math.nan)


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
