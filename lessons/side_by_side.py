# Built by `lessons build` from notebooks/17_side_by_side.ipynb: edit that, not this.
"""Side by side.

You put all systems of the course on the same held-out images and see what each is worth: scores,
seconds, parameters, memory, and above all which mistakes each of them makes.
"""

import math
import statistics
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lessons.average_precision import evaluate_instances, mask_iou
from lessons.kit.data import VOID, Category, DataSet, Segments, areas, is_crowd
from lessons.kit.data.checks import checked
from lessons.kit.data.pairs import all_comparable, comparable
from lessons.kit.training import predict
from lessons.mask_rcnn import boundary_error
from lessons.panoptic_fpn import evaluate_semantic, merge_panoptic
from lessons.panoptic_quality import panoptic_quality

COLUMNS = {  # of a row: its heading and how it is written
    "name": ("system", "{}"),
    "ap": ("AP", "{:.3f}"),
    "ap50": ("AP50", "{:.3f}"),
    "pq": ("PQ", "{:.3f}"),
    "sq": ("SQ", "{:.3f}"),
    "rq": ("RQ", "{:.3f}"),
    "pq_things": ("PQ of things", "{:.3f}"),
    "miou": ("mIoU", "{:.3f}"),
    "parameters": ("parameters", "{:,}"),
    "images_per_second": ("images/s, one by one", "{:.1f}"),
    "images_per_second_of_8": ("images/s, in batches of 8", "{:.1f}"),
    "peak_memory": ("peak memory", "{:.0f} MB"),
    "seconds": ("trained for", "{:.0f} s"),
    "device": ("trained on", "{}"),
}


def as_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows of numbers as a Markdown table; a dash stands for what is absent, None or NaN.

    `columns` are by default all of `COLUMNS` that some row has. ValueError without rows.
    """
    if not rows:
        raise ValueError("rows is empty: there is nothing to compare")
    chosen = columns or [key for key in COLUMNS if any(key in row for row in rows)]
    heads = [COLUMNS.get(key, (key.replace("_", " "), "")) for key in chosen]
    words = [any(isinstance(row.get(key), str) for row in rows) for key in chosen]
    lines = [[head for head, _ in heads], [["---:", "---"][word] for word in words]]
    for row in rows:
        cells = []
        for key, (_, form) in zip(chosen, heads, strict=True):
            value = row.get(key)
            absent = value is None or value != value  # NaN is not even itself
            form = form or ("{:.2f}" if isinstance(value, float) else "{}")
            value = value / 2**20 if key == "peak_memory" and not absent else value
            cells.append("–" if absent else form.format(value))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def merge_things(instances: Segments, num_things: int, score_threshold: float = 0.5) -> Segments:
    """A detector's disjoint answer: lesson 10's merge, without any stuff.

    The best score claims its pixels first; one below `score_threshold` is left out, and one of
    which more than half is taken already. Raises ValueError where the scores are missing.
    """
    nothing = torch.full(instances.size, VOID, device=instances.masks.device)
    return merge_panoptic(
        instances, nothing, num_things=num_things, score_threshold=score_threshold
    )


@dataclass
class Answers:
    """What a system says of the images of a data set; `classes` where it has a semantic answer."""

    instances: list[Segments]  # things with scores, may overlap
    panoptic: list[Segments]  # disjoint
    classes: list[Int[Tensor, "_ _"]] | None
    knows_stuff: bool


def answers_of(model: nn.Module, data: DataSet, batch: int = 8) -> Answers:
    """All that a system can say of a data set, each prediction made once, on the CPU.

    Without `predict_panoptic` it is `merge_things` of the instances. Raises ValueError for a
    model that has no `predict_instances`.
    """
    if not hasattr(model, "predict_instances"):
        raise ValueError(f"model {type(model).__name__} has no predict_instances")
    instances = predict(model, data, "predict_instances", batch)
    knows_stuff = hasattr(model, "predict_panoptic")
    if knows_stuff:
        panoptic = predict(model, data, "predict_panoptic", batch)
    else:
        count = sum(category.is_thing for category in data.categories)
        panoptic = [merge_things(found, count) for found in instances]
    semantic = hasattr(model, "predict_semantic")
    classes = predict(model, data, "predict_semantic", batch) if semantic else None
    return Answers(instances, panoptic, classes, knows_stuff)


def scores_of(
    answers: Answers, targets: Sequence[Segments], categories: Sequence[Category]
) -> dict[str, float]:
    """AP, AP50, PQ, SQ, RQ, PQ of things, and mIoU; NaN for what the system has no answer to.

    PQ, SQ and RQ of a system without stuff count where the data has none either.
    """
    found = evaluate_instances(answers.instances, targets, categories)
    quality = panoptic_quality(answers.panoptic, targets, categories)
    whole = answers.knows_stuff or all(category.is_thing for category in categories)
    row = {key: float(found[key]) for key in ("ap", "ap50")}
    row |= {key: quality[key] if whole else math.nan for key in ("pq", "sq", "rq")}
    row["pq_things"] = quality["pq_things"]
    row["miou"] = math.nan
    if answers.classes:
        row["miou"] = evaluate_semantic(answers.classes, targets, categories)["miou"]
    return row


def main_answer(model: nn.Module) -> str:
    """The method that is timed: `predict_panoptic` where there is one."""
    known = ("predict_panoptic", "predict_instances")
    for method in known:
        if hasattr(model, method):
            return method
    raise ValueError(f"model {type(model).__name__} has neither {known[0]} nor {known[1]}")


def images_per_second(
    model: nn.Module, images: Sequence[Float[Tensor, "3 _ _"]], batch: int = 1, repeats: int = 3
) -> float:
    """How many images a second the model answers, `batch` at a time: the median of `repeats`.

    One batch before the clock starts warms up; a GPU is waited for. Raises ValueError without
    images and for a batch or repeats below 1.
    """
    if not len(images) or batch < 1 or repeats < 1:
        raise ValueError("images must not be empty, batch and repeats must be at least 1")
    answer = getattr(model, main_answer(model))
    on_gpu = next(model.parameters()).is_cuda
    seconds = []
    answer(images[:batch])
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for first in range(0, len(images), batch):
            answer(images[first : first + batch])
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return len(images) / statistics.median(seconds)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside `with LiveMemory() as memory`.

    `memory.peak` is the most that was alive at one time. Views share their tensor's storage and
    count once. What an operation needs inside itself, and NumPy's arrays, are not seen.
    """

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if torch.is_tensor(tensor) and id(tensor.untyped_storage()) not in given:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._strike_off, key)

    def _strike_off(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def peak_memory(model: nn.Module, images: Sequence[Float[Tensor, "3 _ _"]]) -> int:
    """Bytes of the tensors that an answer to these images needs at most, weights not counted."""
    answer = getattr(model, main_answer(model))
    if next(model.parameters()).is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        answer(images)
        return torch.cuda.max_memory_allocated() - before
    with LiveMemory() as memory:
        answer(images)
    return memory.peak


def compare(
    models: Mapping[str, nn.Module],
    data: DataSet,
    *,
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    answers: Mapping[str, Answers] | None = None,
    timed: int = 8,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """One row of numbers for each model: quality, size, speed, memory, and training.

    `ap` … `miou` as in `scores_of`; `parameters`; `images_per_second` one by one and
    `images_per_second_of_8` in batches, over the first `timed` images (none: left out);
    `peak_memory` in bytes, of one image; `seconds`, `steps` and `device` of the training, from
    `reports`. `answers` spares predictions that were made already. `as_table` writes the rows.
    Raises ValueError without models or images, and for a name in `reports` or `answers` that is
    no model's.
    """
    if not models or not len(data):
        raise ValueError("models and data must not be empty")
    for called, given in (("reports", reports or {}), ("answers", answers or {})):
        if unknown := [name for name in given if name not in models]:
            raise ValueError(f"{called} has {unknown[0]!r}, which is none of the models")
    targets = [data[i].segments for i in range(len(data))]
    rows = []
    for name, model in models.items():
        said = (answers or {}).get(name) or answers_of(model, data)
        row = {"name": name, **scores_of(said, targets, data.categories)}
        row["parameters"] = sum(p.numel() for p in model.parameters())
        if timed > 0:
            device = next(model.parameters()).device
            images = [data[i].image.to(device) for i in range(min(timed, len(data)))]
            row["images_per_second"] = images_per_second(model, images, 1, repeats)
            row["images_per_second_of_8"] = images_per_second(model, images, 8, repeats)
            row["peak_memory"] = peak_memory(model, images[:1])
        report = (reports or {}).get(name, {})
        rows.append(row | {k: report[k] for k in ("seconds", "steps", "device") if k in report})
    return rows


@dataclass
class Errors:
    """The mistakes of one image, by index of the predicted or the true segments."""

    found: list[tuple[int, int]] = field(default_factory=list)  # (predicted, true)
    duplicates: list[tuple[int, int]] = field(default_factory=list)  # two predicted
    split: list[int] = field(default_factory=list)  # true
    merged: list[int] = field(default_factory=list)  # predicted
    wrong_class: list[int] = field(default_factory=list)  # true
    missed: list[int] = field(default_factory=list)  # true
    invented: list[int] = field(default_factory=list)  # predicted
    blunt: list[float] = field(default_factory=list)  # boundary error of each found pair


@checked
def intersections(
    first: Bool[Tensor, "n h w"], second: Bool[Tensor, "m h w"]
) -> Float[Tensor, "n m"]:
    """How many pixels each of the first masks shares with each of the second, exact."""
    return first.flatten(1).double() @ second.flatten(1).double().T


@checked
def different(masks: Bool[Tensor, "n h w"]) -> int:
    """How many of the masks are left if of every pair with IoU > ½ the later one is dropped."""
    iou = mask_iou(masks, masks)
    kept: list[int] = []
    for k in range(len(masks)):
        if not (iou[k, kept] > 0.5).any():
            kept.append(k)
    return len(kept)


def find_errors(
    prediction: Segments,
    target: Segments,
    categories: Sequence[Category],
    score_threshold: float = 0.5,
) -> Errors:
    """What is wrong with the things of one image: see `Errors` and lesson 17's table.

    Only things with a score of at least `score_threshold` are looked at. Crowds of the target
    must not be found, and excuse what lies in them. Raises ValueError where the prediction has
    no scores or another size, and for a label that is no category.
    """
    comparable(prediction, target, len(categories), scored=True)
    thing = torch.tensor([category.is_thing for category in categories])
    sure = thing[prediction.labels] & (prediction.scores >= score_threshold)
    chosen = torch.where(sure & (areas(prediction) > 0))[0]
    true = torch.where(thing[target.labels] & (areas(target) > 0) & ~is_crowd(target))[0]
    p, g = prediction[chosen], target[true]
    iou = mask_iou(p.masks, g.masks)
    same = p.labels[:, None] == g.labels
    errors = Errors()
    _judge_things(errors, p, g, iou, same)
    _judge_answers(errors, p, target, iou)

    errors.found = [(int(chosen[a]), int(true[b])) for a, b in errors.found]
    errors.duplicates = [(int(chosen[a]), int(chosen[b])) for a, b in errors.duplicates]
    for name in ("split", "wrong_class", "missed", "merged", "invented"):
        index = chosen if name in ("merged", "invented") else true
        setattr(errors, name, index[getattr(errors, name)].tolist())
    return errors


def _judge_things(
    errors: Errors, p: Segments, g: Segments, iou: Float[Tensor, "n m"], same: Bool[Tensor, "n m"]
) -> None:
    """Fill in what became of each true thing: found, of the wrong class, missed, split."""
    both = intersections(p.masks, g.masks)
    pieces = same & (2 * both > areas(p)[:, None]) & (10 * both >= areas(g))
    for k in range(len(g)):
        own = torch.where(same[:, k], iou[:, k], 0)
        if len(p) and own.max() > 0.5:
            errors.found.append((int(own.argmax()), k))
        elif (iou[~same[:, k], k] > 0.5).any():
            errors.wrong_class.append(k)
        else:
            errors.missed.append(k)
        if different(p.masks[pieces[:, k]]) > 1:
            errors.split.append(k)
    if errors.found:
        a, b = (list(side) for side in zip(*errors.found, strict=True))
        errors.blunt = boundary_error(p.masks[a], g.masks[b]).tolist()


def _judge_answers(
    errors: Errors, p: Segments, target: Segments, iou: Float[Tensor, "n m"]
) -> None:
    """Fill in what is wrong with the answers: duplicates, merged, invented."""
    close = (mask_iou(p.masks, p.masks) > 0.5) & (p.labels[:, None] == p.labels)
    errors.duplicates = [(a, b) for a, b in close.triu(1).nonzero().tolist()]
    true = (areas(target) > 0) & ~is_crowd(target)
    for k in range(len(p)):
        kind = target.labels == p.labels[k]  # crowds too
        shared = intersections(p.masks[k : k + 1], target.masks)[0]
        if (kind & true & (2 * shared > areas(target))).sum() > 1:
            errors.merged.append(k)
        on_kind = (p.masks[k] & target.masks[kind].any(0)).sum()
        if 2 * on_kind <= p.masks[k].sum() and not (iou[k] > 0.5).any():
            errors.invented.append(k)


SIZES = {"below_10": (0, 10), "10_to_20": (10, 20), "above_20": (20, math.inf)}  # √area, pixels


def count_errors(
    predictions: Sequence[Segments],
    targets: Sequence[Segments],
    categories: Sequence[Category],
    score_threshold: float = 0.5,
) -> dict[str, float]:
    """The mistakes of a data set, by `find_errors`.

    `things` are the true ones, `duplicates` … `invented` are counts, `blunt` is the mean boundary
    error of what is found, `recall` and `recall_below_10`, … the share of the true things that
    is found, by the square root of their area; NaN where there is none. Raises ValueError for
    lists of two lengths.
    """
    all_comparable(predictions, targets, len(categories), scored=True)
    kinds = ("duplicates", "split", "merged", "wrong_class", "missed", "invented")
    counts, blunt, sizes, hits = dict.fromkeys(kinds, 0), [], [], []
    for prediction, target in zip(predictions, targets, strict=True):
        errors = find_errors(prediction, target, categories, score_threshold)
        for kind in kinds:
            counts[kind] += len(getattr(errors, kind))
        blunt += [value for value in errors.blunt if not math.isnan(value)]
        found = {k for _, k in errors.found}
        for k in sorted(found.union(errors.missed, errors.wrong_class)):
            sizes.append(float(target.masks[k].sum()) ** 0.5)
            hits.append(k in found)

    def share(low: float, high: float) -> float:
        own = [hit for hit, size in zip(hits, sizes, strict=True) if low <= size < high]
        return sum(own) / len(own) if own else math.nan

    row: dict[str, float] = {"things": len(sizes), **counts}
    row["blunt"] = sum(blunt) / len(blunt) if blunt else math.nan
    row["recall"] = share(0, math.inf)
    return row | {f"recall_{name}": share(*limits) for name, limits in SIZES.items()}
