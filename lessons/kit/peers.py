"""The reference implementations behind this course's types: what lessons, tests and
benchmarks compare with. Each function converts, calls the published package, and converts
back; nothing is computed here.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from lessons.kit.data import Category, Segments, is_crowd
from lessons.kit.panoptic_files import write_panoptic


def coco_encode(masks: Bool[Tensor, "n h w"]) -> list[dict]:
    """Run-length encodings, which pycocotools works on."""
    columns_first = np.asfortranarray(masks.permute(1, 2, 0).numpy())
    return coco_mask.encode(columns_first)


def coco_mask_iou(
    predictions: Bool[Tensor, "n h w"],
    targets: Bool[Tensor, "m h w"],
    is_crowd: Bool[Tensor, "m"] | None = None,
) -> Float[Tensor, "n m"]:
    """pycocotools' IoU of masks, encoding included."""
    crowd = [0] * len(targets) if is_crowd is None else is_crowd.int().tolist()
    iou = coco_mask.iou(coco_encode(predictions), coco_encode(targets), crowd)
    return torch.from_numpy(np.asarray(iou).reshape(len(predictions), len(targets)))


def coco_evaluate(
    predictions: Sequence[Segments],
    targets: Sequence[Segments],
    categories: Sequence[Category],
    first_id: int = 1,
) -> dict:
    """pycocotools' COCOeval ("segm") from boolean masks, named as `evaluate_instances` does.

    NaN where pycocotools says −1. `first_id` is the id of the first annotation.
    """
    classes = [k for k, category in enumerate(categories) if category.is_thing]
    annotations, results = [], []
    for image_id, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        rows = zip(coco_encode(target.masks), target.labels.tolist(), is_crowd(target), strict=True)
        for code, label, crowd in rows:
            if label in classes:
                annotation = {"segmentation": code, "area": float(coco_mask.area(code))}
                place = {"image_id": image_id, "category_id": label, "iscrowd": int(crowd)}
                annotations.append({"id": first_id + len(annotations)} | place | annotation)
        codes = coco_encode(prediction.masks)
        for code, label, score in zip(
            codes, prediction.labels.tolist(), prediction.scores.tolist(), strict=True
        ):
            place = {"image_id": image_id, "category_id": label}
            results.append(place | {"segmentation": code, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [
                {"id": i, "height": t.size[0], "width": t.size[1]} for i, t in enumerate(targets)
            ],
            "categories": [{"id": k, "name": categories[k].name} for k in classes],
            "annotations": annotations,
        }
        truth.createIndex()
        found = truth.loadRes(results) if results else _nothing(truth)
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # threshold, recall, class, area range

    def named(table: np.ndarray) -> dict[str, float]:
        parts = {"ap": table[..., 0], "ap50": table[0, ..., 0], "ap75": table[5, ..., 0]}
        parts |= {
            f"ap_{name}": table[..., i] for i, name in enumerate(("small", "medium", "large"), 1)
        }
        return {name: _mean(part) for name, part in parts.items()}

    by_class = {categories[k].name: named(precision[:, :, i]) for i, k in enumerate(classes)}
    return named(precision) | {"per_class": by_class}


def coco_panoptic_quality(
    predictions: Sequence[Segments], targets: Sequence[Segments], categories: Sequence[Category]
) -> dict:
    """panopticapi's PQ, named as `panoptic_quality` does: files are written, then scored."""
    with tempfile.TemporaryDirectory() as folder:
        truth = write_panoptic(Path(folder, "truth.json"), targets, categories)
        found = write_panoptic(Path(folder, "found.json"), predictions, categories)
        return score_panoptic_files(found, truth)


def score_panoptic_files(prediction: Path | str, truth: Path | str) -> dict:
    """panopticapi's PQ of files in COCO's panoptic format, on a single core.

    Returns `pq`, `sq`, `rq`, the same for things and stuff, and `per_class` by name, with the
    counts; NaN where panopticapi divides by zero or reports a class that does not exist as 0.
    """
    from panopticapi.evaluation import pq_compute_single_core

    prediction, truth = Path(prediction), Path(truth)
    table = json.loads(truth.read_bytes())
    answers = json.loads(prediction.read_bytes())["annotations"]
    by_image = {answer["image_id"]: answer for answer in answers}
    pairs = [(image, by_image[image["image_id"]]) for image in table["annotations"]]
    kinds = {category["id"]: category for category in table["categories"]}
    folders = truth.with_suffix(""), prediction.with_suffix("")
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = pq_compute_single_core(0, pairs, *map(str, folders), kinds)
    result = {}
    for ending, is_thing in (("", None), ("_things", True), ("_stuff", False)):
        try:
            mean, _ = statistics.pq_average(kinds, isthing=is_thing)
        except ZeroDivisionError:
            mean = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
        result |= {name + ending: float(mean[name]) for name in ("pq", "sq", "rq")}
    result["per_class"] = {}
    for id_, kind in kinds.items():
        counts = {name: int(getattr(statistics[id_], name)) for name in ("tp", "fp", "fn")}
        row = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
        if any(counts.values()):
            row, _ = statistics.pq_average({id_: kind}, isthing=None)
        numbers = {name: float(row[name]) for name in ("pq", "sq", "rq")}
        result["per_class"][kind["name"]] = numbers | counts
    return result


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if len(present) else float("nan")


def _nothing(truth: COCO) -> COCO:
    """No detections: `loadRes` cannot read an empty list."""
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing
