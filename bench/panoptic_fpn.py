"""Lesson 10: the merge beside panopticapi, mIoU beside torchmetrics, what a branch costs."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.timing import at_hand, report, side_by_side
from lessons.kit.data import Category, DataSet, Segments, semantic_map
from lessons.kit.data.imperfect import imperfect_detections, imperfect_panoptic
from lessons.kit.data.real import CocoPanoptic
from lessons.kit.data.scenes import Scenes
from lessons.kit.peers.coco import (
    combine_files,
    combine_panoptic,
    write_combine_inputs,
)
from lessons.kit.peers.semantic import torchmetrics_confusion
from lessons.mask_rcnn import MaskRCNN
from lessons.panoptic_fpn import (
    PanopticFPN,
    count_pixels,
    evaluate_semantic,
    merge_panoptic,
    recipe,
)

SEEDS = 20


def main() -> None:
    sources = {"50 scenes": Scenes.validation, "50 COCO images": CocoPanoptic}
    for name, data in at_hand(sources):
        measure(name, data)
    networks()


def measure(name: str, data: DataSet) -> None:
    samples = [data[i] for i in range(50)]
    kinds = data.categories
    area = round(np.prod(samples[0].segments.size) / 75)
    different = 0
    for seed in reversed(range(SEEDS)):  # seed 0 stays, and is timed
        rng = np.random.default_rng(seed)
        some = samples if seed == 0 else samples[seed::10]
        found = [imperfect_detections(each, kinds, rng) for each in some]
        classes = [semantic_map(imperfect_panoptic(each, kinds, rng)) for each in some]
        ours = merge_all(found, classes, kinds, area)
        script = combine_panoptic(found, classes, kinds, 0.5, 0.5, area)
        for mine, theirs in zip(ours, script, strict=True):
            same = mine.masks.equal(theirs.masks) and mine.labels.equal(theirs.labels)
            different += not same
    print(f" {name}: {different} merges of {SEEDS} seeds differ from panopticapi's  (asked for: 0)")
    with tempfile.TemporaryDirectory() as folder:
        files = write_combine_inputs(Path(folder), found, classes, kinds)
        ways = {
            "panopticapi": partial(combine_files, files, 0.5, 0.5, area),
            "merge_panoptic from masks": partial(merge_all, found, classes, kinds, area),
        }
        report(side_by_side(ways, repeats=5), peer="panopticapi")

    targets = [each.segments for each in samples]
    true = [semantic_map(each) for each in targets]
    k = len(kinds)
    ways = {
        "torchmetrics": partial(torchmetrics_confusion, classes, true, k),
        "count_pixels from maps": partial(count_all, classes, true, k),
        "evaluate_semantic": partial(evaluate_semantic, classes, targets, kinds),
    }
    assert (count_all(classes, true, k) == torchmetrics_confusion(classes, true, k).numpy()).all()
    print(f" {name}: confusion matrix of {k} classes, equal")
    report(side_by_side(ways, repeats=5), peer="torchmetrics")


def merge_all(
    found: list[Segments], classes: list[torch.Tensor], kinds: list[Category], area: int
) -> list[Segments]:
    things = sum(kind.is_thing for kind in kinds)
    return [
        merge_panoptic(a, b, num_things=things, stuff_area=area)
        for a, b in zip(found, classes, strict=True)
    ]


def count_all(found: list[torch.Tensor], true: list[torch.Tensor], k: int) -> np.ndarray:
    return sum(count_pixels(a, b, k) for a, b in zip(found, true, strict=True))


def networks() -> None:
    """A training step and an image at inference: what the branch and the merge add."""
    torch.manual_seed(0)
    samples = [Scenes.train()[i] for i in range(8)]
    images, targets = [s.image for s in samples], [s.segments for s in samples]
    models = {
        "Mask R-CNN": MaskRCNN(4),
        "Panoptic FPN": PanopticFPN(8, 4),
        "two networks": recipe(shared=False).model(),
    }
    for name, model in models.items():
        print(f"  {name:<28}{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

    def step(model):
        model.train().zero_grad()
        sum(model(images, targets).values()).backward()

    print(" a training step, 8 scenes of 128×128")
    ways = {name: partial(step, model) for name, model in models.items()}
    report(side_by_side(ways, repeats=5), peer="Mask R-CNN")

    def answer(model):
        predict = getattr(model.eval(), "predict_panoptic", model.predict_instances)
        predict(images)

    print(" inference, 8 scenes of 128×128, untrained: most detections are noise")
    ways = {name: partial(answer, model) for name, model in models.items()}
    report(side_by_side(ways, repeats=5), peer="Mask R-CNN")


if __name__ == "__main__":
    main()
