"""Lesson 01 against pycocotools: equality over twenty seeds, and time from the same masks."""

import numpy as np

from bench.timing import at_hand, report, side_by_side
from lessons.average_precision import evaluate_instances, mask_iou
from lessons.kit.data import DataSet, things
from lessons.kit.data.imperfect import imperfect_detections
from lessons.kit.data.real import CocoPanoptic, Nuclei
from lessons.kit.data.scenes import Scenes
from lessons.kit.peers.coco import coco_evaluate, coco_mask_iou

SEEDS = 20


def main() -> None:
    data_sets = {"200 scenes": lambda: Scenes.validation(), "nuclei test": lambda: Nuclei("test")}
    data_sets["100 COCO images"] = CocoPanoptic
    for name, data in at_hand(data_sets):
        measure(name, data)


def measure(name: str, data: DataSet) -> None:
    samples = [data[i] for i in range(min(len(data), 200))]
    targets = [sample.segments for sample in samples]
    answers = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        answers.append([imperfect_detections(s, data.categories, rng) for s in samples])
    worst = max(
        largest_difference(
            evaluate_instances(answer, targets, data.categories),
            coco_evaluate(answer, targets, data.categories),
        )
        for answer in answers
    )
    print(f" {name}: largest difference over {SEEDS} seeds {worst:.1e}  (asked for: ≤ 1e-9)")
    detections = answers[0]
    report(
        side_by_side(
            {
                "pycocotools": lambda: coco_evaluate(detections, targets, data.categories),
                "evaluate_instances": lambda: evaluate_instances(
                    detections, targets, data.categories
                ),
            }
        ),
        peer="pycocotools",
        target=1.0,
    )
    truth = [things(target, data.categories).masks for target in targets]
    pairs = [(d.masks, t) for d, t in zip(detections, truth, strict=True)]
    report(
        side_by_side(
            {
                "pycocotools": lambda: [coco_mask_iou(d, t) for d, t in pairs],
                "mask_iou": lambda: [mask_iou(d, t) for d, t in pairs],
            }
        ),
        peer="pycocotools",
    )


def largest_difference(ours: dict, theirs: dict) -> float:
    """Over all numbers, the classes' too; infinite where only one of the two is NaN."""
    rows = [(ours, theirs)]
    rows += [(ours["per_class"][name], theirs["per_class"][name]) for name in theirs["per_class"]]
    worst = 0.0
    for mine, reference in rows:
        for name, value in reference.items():
            if name != "per_class" and not (np.isnan(value) and np.isnan(mine[name])):
                worst = max(worst, np.nan_to_num(abs(value - mine[name]), nan=np.inf))
    return worst
