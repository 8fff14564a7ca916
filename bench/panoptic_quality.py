"""Lesson 09 against panopticapi: equality over twenty seeds, and time on one core."""

import contextlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench.average_precision import largest_difference
from bench.timing import at_hand, report, side_by_side
from lessons.kit.data import Category, DataSet, Segments, is_crowd
from lessons.kit.data.imperfect import imperfect_panoptic
from lessons.kit.data.panoptic_files import write_panoptic
from lessons.kit.data.real import CocoPanoptic
from lessons.kit.data.scenes import Scenes
from lessons.kit.peers.coco import score_panoptic_files
from lessons.panoptic_quality import (
    count_by_class,
    count_overlaps,
    match_overlaps,
    panoptic_map,
    panoptic_quality,
    quality_of_counts,
)

SEEDS = 20
os.environ.setdefault("RAYON_NUM_THREADS", "1")  # hotcoco on one core, as the others


def main() -> None:
    sources = {"200 scenes": Scenes.validation, "100 COCO images": CocoPanoptic}
    for name, data in at_hand(sources):
        with tempfile.TemporaryDirectory() as folder:
            measure(name, data, Path(folder))


def measure(name: str, data: DataSet, folder: Path) -> None:
    samples = [data[i] for i in range(min(len(data), 200))]
    targets = [sample.segments for sample in samples]
    true = write_panoptic(folder / "true.json", targets, data.categories)
    worst = 0.0
    for seed in reversed(range(SEEDS)):  # the files of seed 0 stay, and are timed
        rng = np.random.default_rng(seed)
        answers = [imperfect_panoptic(sample, data.categories, rng) for sample in samples]
        found = write_panoptic(folder / "found.json", answers, data.categories)
        ours = panoptic_quality(answers, targets, data.categories)
        worst = max(worst, largest_difference(ours, score_panoptic_files(found, true)))
    print(f" {name}: largest difference over {SEEDS} seeds {worst:.1e}  (asked for: ≤ 1e-9)")
    from_maps = with_maps(answers, targets, data.categories)
    assert largest_difference(from_maps(), ours) == 0
    peer = {"panopticapi": partial(score_panoptic_files, found, true)}
    ways = {"panoptic_quality from maps": from_maps}
    goal = 0.1 if name.endswith("images") else None
    report(side_by_side(peer | ways), peer="panopticapi", target=goal)
    more = {"panoptic_quality from masks": partial(panoptic_quality, answers, targets)}
    more = {key: partial(way, data.categories) for key, way in more.items()}
    if importlib.util.find_spec("hotcoco"):
        more["hotcoco, from files"] = partial(hotcoco, found, true)
    else:
        print("  hotcoco (Rust, for information) is not installed: pip install --no-deps hotcoco")
    report(side_by_side(peer | more), peer="panopticapi")
    if importlib.util.find_spec("hotcoco"):
        pq = hotcoco(found, true)
        print(f"  hotcoco's PQ differs by {abs(pq - ours['pq']):.1e}")


def with_maps(
    answers: list[Segments], targets: list[Segments], categories: list[Category]
) -> Callable[[], dict]:
    """PQ of these images, their maps of ids in memory already."""
    images = []
    for answer, target in zip(answers, targets, strict=True):
        maps = panoptic_map(answer), panoptic_map(target)
        labels = answer.labels.numpy(), target.labels.numpy()
        images.append((maps, labels, is_crowd(target).numpy()))

    def score() -> dict:
        counts = np.zeros((4, len(categories)))
        for maps, labels, crowd in images:
            overlaps = count_overlaps(*maps, len(labels[0]), len(labels[1]))
            matches = match_overlaps(overlaps, *labels, crowd)
            counts += count_by_class(matches, *labels, len(categories))
        return quality_of_counts(counts, categories)

    return score


def hotcoco(found: Path, true: Path) -> float:
    """The PQ that hotcoco reads and scores from the same files."""
    from hotcoco.panoptic import PanopticEval

    folders = {"gt_folder": true.with_suffix(""), "pred_folder": found.with_suffix("")}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = PanopticEval(true, found, **folders)
        evaluation.evaluate()
        evaluation.summarize()
    return float(evaluation.stats[0])
