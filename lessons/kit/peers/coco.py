"""pycocotools and panopticapi behind this course's types.

Each function converts, calls the published package, and converts back; nothing is computed
here.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from lessons.kit.data import Category, Segments, is_crowd
from lessons.kit.data.panoptic_files import masks_of_ids, write_panoptic


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


def write_combine_inputs(
    folder: Path | str,
    instances: Sequence[Segments],
    semantic: Sequence[Int[Tensor, "_ _"]],
    categories: Sequence[Category],
) -> Path:
    """What panopticapi's combine script reads: four JSON files in `folder`, which is returned.

    A segment's category is its label + 1; of the maps of classes only the stuff is written.
    """
    folder = Path(folder)
    tables: dict[str, list | dict] = {"instances": [], "semantic": [], "images": {"images": []}}
    tables["categories"] = [
        {"id": k, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
        for k, c in enumerate(categories, start=1)
    ]
    for image, (found, classes) in enumerate(zip(instances, semantic, strict=True)):
        stuff = [k for k, c in enumerate(categories) if not c.is_thing and (classes == k).any()]
        h, w = classes.shape
        row = {"id": image, "file_name": f"{image:06d}.jpg", "height": h, "width": w}
        tables["images"]["images"].append(row)
        regions = torch.stack([classes == k for k in stuff]) if stuff else found.masks[:0]
        for name, masks, labels, scores in (
            ("instances", found.masks, found.labels.tolist(), found.scores.double().tolist()),
            ("semantic", regions, stuff, [1.0] * len(stuff)),
        ):
            codes = coco_encode(masks) if len(masks) else []
            for code, label, score in zip(codes, labels, scores, strict=True):
                code = {**code, "counts": code["counts"].decode()}
                place = {"image_id": image, "category_id": label + 1, "score": score}
                tables[name].append(place | {"segmentation": code})
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(table))
    return folder


def combine_files(
    folder: Path, score_threshold: float, overlap_threshold: float, stuff_area: int
) -> Path:
    """panopticapi's combine script on such files, on a single core; the JSON that it writes."""
    from panopticapi import combine_semantic_and_instance_predictions as script

    def single_core(img_id2img, *arguments):
        return script.combine_to_panoptic_single_core(0, list(img_id2img), img_id2img, *arguments)

    names = ("semantic", "instances", "images", "categories")
    files = [str(folder / f"{name}.json") for name in names]
    result = folder / "combined.json"
    limits = score_threshold, overlap_threshold, stuff_area
    with (
        mock.patch.object(script, "combine_to_panoptic_multi_core", single_core),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        script.combine_predictions(*files, None, str(result), *limits)
    return result


def combine_panoptic(
    instances: Sequence[Segments],
    semantic: Sequence[Int[Tensor, "_ _"]],
    categories: Sequence[Category],
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> list[Segments]:
    """panopticapi's combine script as `merge_panoptic` is called, but for a list of images.

    The answers come without scores; segments that the script left without a pixel are dropped.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = write_combine_inputs(name, instances, semantic, categories)
        path = combine_files(folder, score_threshold, overlap_threshold, stuff_area)
        answers = []
        for row in json.loads(path.read_bytes())["annotations"]:
            rgb = np.array(Image.open(path.with_suffix("") / row["file_name"]))
            ids = [segment["id"] for segment in row["segments_info"]]
            labels = [segment["category_id"] - 1 for segment in row["segments_info"]]
            masks, _ = masks_of_ids(rgb, np.array(ids, dtype=np.int64))
            labels = torch.tensor(labels, dtype=torch.int64)
            answer = Segments(torch.from_numpy(masks), labels)
            answers.append(answer[answer.masks.flatten(1).any(dim=1)])
    return answers


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if len(present) else float("nan")


def _nothing(truth: COCO) -> COCO:
    """No detections: `loadRes` cannot read an empty list."""
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing
