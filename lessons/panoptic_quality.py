# Built by `lessons build` from notebooks/09_panoptic_quality.ipynb: edit that, not this.
"""Panoptic quality.

You build the number that ranks panoptic systems, from a table of overlaps to PQ, SQ and RQ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor

from lessons.kit.data import Category, Segments, is_crowd
from lessons.kit.data.checks import checked, ids_in
from lessons.kit.data.pairs import all_comparable, comparable


def panoptic_map(segments: Segments, called: str = "segments") -> Int[Tensor, "h w"]:
    """The id of each pixel: i + 1 in segment i, 0 where there is no segment (void).

    Raises ValueError where two segments overlap; `called` is their name in that message.
    """
    masks = segments.masks.cpu().numpy()
    ids = np.zeros(segments.size, dtype=np.int32)
    for i, mask in enumerate(masks):
        ids[mask] = i + 1
    if np.count_nonzero(masks) > np.count_nonzero(ids):
        row, column = np.argwhere(masks.sum(0) > 1)[0]
        first, second = masks[:, row, column].nonzero()[0][:2].tolist()
        shared = np.count_nonzero(masks[first] & masks[second])
        raise ValueError(
            f"{called} {first} and {second} overlap in {shared} pixels: "
            "a panoptic answer gives each pixel to one segment"
        )
    return torch.from_numpy(ids)


@checked
def count_overlaps(
    predicted: Integer[Tensor, "h w"],
    true: Integer[Tensor, "h w"],
    num_predicted: int,
    num_true: int,
) -> Int[np.ndarray, "rows columns"]:
    """The pixels of each pair of ids: row i + 1 is predicted segment i, row 0 is none.

    The columns are the true segments in the same way, column 0 is void. Raises ValueError for
    maps of two sizes and for an id that is not one of 0 … n.
    """
    predicted, true = predicted.long(), true.long()  # products do not fit into small integers
    ids_in(predicted, num_predicted, "predicted ids")
    ids_in(true, num_true, "true ids")
    predicted, true = predicted.cpu().numpy(), true.cpu().numpy()
    rows, columns = num_predicted + 1, num_true + 1
    pairs = predicted * columns + true
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def is_match(
    overlaps: Int[np.ndarray, "rows columns"],
    predicted_labels: Integer[np.ndarray, "p"],
    true_labels: Integer[np.ndarray, "g"],
    is_crowd: Bool[np.ndarray, "g"],
) -> Bool[np.ndarray, "p g"]:
    """Which pairs match: one class, no crowd, and IoU > ½, void taken out of the prediction.

    `overlaps` is `count_overlaps`' table, with a row and a column more than there are segments.
    """
    both, in_void = overlaps[1:, 1:], overlaps[1:, 0]
    predicted, true = overlaps[1:].sum(1), overlaps[:, 1:].sum(0)
    union = (predicted - in_void)[:, None] + true - both
    same_class = predicted_labels[:, None] == true_labels
    return same_class & ~is_crowd & (2 * both > union)


@dataclass
class Matches:
    """How an image's prediction fits its truth, by index of the segments."""

    predicted: Int[Tensor, "m"]  # the matched pairs, true positives …
    true: Int[Tensor, "m"]
    iou: Float[Tensor, "m"]  # … and how well each fits
    false_positive: Bool[Tensor, "p"]
    false_negative: Bool[Tensor, "g"]


def match_overlaps(
    overlaps: Integer[np.ndarray, "rows columns"],
    predicted_labels: Integer[np.ndarray, "p"],
    true_labels: Integer[np.ndarray, "g"],
    is_crowd: Bool[np.ndarray, "g"] | Integer[np.ndarray, "g"],
) -> Matches:
    """Matches of one image from its table of overlaps (Kirillov et al. 2019; panopticapi).

    What lies to more than half in void and the (last) crowd of its class is no false positive.
    """
    overlaps, is_crowd = overlaps.astype(np.int64), is_crowd.astype(bool)
    matched = is_match(overlaps, predicted_labels, true_labels, is_crowd)
    both, in_void = overlaps[1:, 1:], overlaps[1:, 0]
    area, true_area = overlaps[1:].sum(1), overlaps[:, 1:].sum(0)

    unjudged = in_void.copy()
    crowds = (is_crowd & (true_area > 0)).nonzero()[0]
    last_crowd = {int(true_labels[g]): g for g in crowds}
    for label, g in last_crowd.items():
        unjudged += both[:, g] * (predicted_labels == label)
    false_positive = ~matched.any(1) & (2 * unjudged <= area) & (area > 0)
    false_negative = ~matched.any(0) & ~is_crowd & (true_area > 0)

    p, g = matched.nonzero()
    iou = both[p, g] / (area[p] - in_void[p] + true_area[g] - both[p, g])
    return Matches(*map(torch.from_numpy, (p, g, iou, false_positive, false_negative)))


def match_segments(prediction: Segments, target: Segments) -> Matches:
    """Which predicted segment answers which true one: the matching of panoptic quality.

    At most one for each, both ways, because the segments of each side are disjoint. Raises
    ValueError where they are not, or where the two sizes differ.
    """
    comparable(prediction, target)
    overlaps = count_overlaps(
        panoptic_map(prediction, "predicted segments"),
        panoptic_map(target, "true segments"),
        len(prediction),
        len(target),
    )
    labels = prediction.labels.cpu().numpy(), target.labels.cpu().numpy()
    return match_overlaps(overlaps, *labels, is_crowd(target).cpu().numpy())


def class_quality(
    iou: Float[np.ndarray, "k"],
    tp: Float[np.ndarray, "k"],
    fp: Float[np.ndarray, "k"],
    fn: Float[np.ndarray, "k"],
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """PQ, SQ and RQ of k classes, from the sum of IoU of the matches and the counts of verdicts.

    A class without a match has 0 in all three; one with no count at all has NaN in all three.
    """
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        denominator = tp + fp / 2 + fn / 2
        sq = np.where(denominator > 0, iou / np.maximum(tp, 1), np.nan)
        return iou / denominator, sq, tp / denominator


def count_by_class(
    matches: Matches,
    predicted_labels: Int[np.ndarray, "p"],
    true_labels: Int[np.ndarray, "g"],
    num_classes: int,
) -> Float[np.ndarray, "4 k"]:
    """One image's sum of IoU, true positives, false positives and false negatives by class."""
    found = true_labels[matches.true.numpy()]
    false = predicted_labels[matches.false_positive.numpy()]
    missed = true_labels[matches.false_negative.numpy()]
    weighted = np.bincount(found, matches.iou.numpy(), minlength=num_classes)
    counts = [np.bincount(labels, minlength=num_classes) for labels in (found, false, missed)]
    return np.stack([weighted, *counts]).astype(np.float64)


def quality_of_counts(
    counts: Float[np.ndarray, "4 k"], categories: Sequence[Category]
) -> dict[str, float | dict]:
    """PQ, SQ and RQ, their means, and the counts by class; NaN where there is nothing."""
    quality = dict(zip(("pq", "sq", "rq"), class_quality(*counts), strict=True))
    occurs = counts[1:].sum(0) > 0
    is_thing = np.array([category.is_thing for category in categories], dtype=bool)
    result = {}
    for ending, chosen in (("", is_thing | True), ("_things", is_thing), ("_stuff", ~is_thing)):
        for name, values in quality.items():
            values = values[chosen & occurs]
            result[name + ending] = float(values.mean()) if len(values) else float("nan")
    result["per_class"] = {
        category.name: {name: float(values[k]) for name, values in quality.items()}
        | dict(zip(("tp", "fp", "fn"), counts[1:, k].astype(int).tolist(), strict=True))
        for k, category in enumerate(categories)
    }
    return result


def panoptic_quality(
    predictions: Sequence[Segments], targets: Sequence[Segments], categories: Sequence[Category]
) -> dict[str, float | dict]:
    """Panoptic quality of a data set (Kirillov et al. 2019), equal to panopticapi's.

    Returns `pq`, `sq` and `rq`, means over the classes that occur, the same over things
    (`pq_things`, …) and stuff (`pq_stuff`, …), and `per_class`: by name pq, sq, rq and the
    counts tp, fp, fn. NaN where there is nothing to average. Scores are not looked at. Raises
    ValueError, naming the image, for a prediction of another size, with a label that is no
    category, or with segments that overlap.
    """
    all_comparable(predictions, targets, len(categories))
    counts = np.zeros((4, len(categories)))
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        labels = [side.labels.cpu().numpy() for side in (prediction, target)]
        try:
            matches = match_segments(prediction, target)
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from None
        counts += count_by_class(matches, *labels, len(categories))
    return quality_of_counts(counts, categories)


@checked
def ids_to_rgb(ids: Integer[Tensor, "*b h w"]) -> UInt8[Tensor, "*b h w 3"]:
    """Ids as the three bytes of a colour, id = R + 256·G + 256²·B (COCO's panoptic PNG).

    Raises ValueError for an id that is not one of 0 … 256³ − 1, naming the image where there
    are several.
    """
    ids = ids.long()  # 256² does not fit into a small integer
    wrong = (ids < 0) | (ids >= 256**3)
    if wrong.any():
        *image, row, column = wrong.nonzero()[0].tolist()
        where = f"image {image[-1]}: " if image else ""
        raise ValueError(
            f"{where}id {int(ids[wrong][0])} at row {row}, column {column} does not fit into "
            f"three bytes (0 … {256**3 - 1})"
        )
    return torch.stack([ids % 256, ids // 256 % 256, ids // 256**2], -1).to(torch.uint8)


@checked
def rgb_to_ids(rgb: UInt8[Tensor, "*b h w 3"]) -> Int[Tensor, "*b h w"]:
    """The ids that the colours of a panoptic PNG stand for, R + 256·G + 256²·B.

    Raises ValueError for what is not three bytes a pixel.
    """
    red, green, blue = rgb.int().unbind(-1)
    return red + 256 * green + 256**2 * blue
