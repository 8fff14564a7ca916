"""Lesson 01 against pycocotools, digit by digit, and against itself written as loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lessons.average_precision import (
    AREA_RANGES,
    average_precision,
    evaluate_instances,
    mask_iou,
    match_detections,
    precision_recall,
)
from lessons.kit.data import Category, Segments, empty_segments
from lessons.kit.data.imperfect import imperfect_detections
from lessons.kit.data.pixels import AT_ONCE, count_bits, packed, pixel_counts
from lessons.kit.peers.coco import coco_evaluate, coco_mask_iou

SEEDS = (0, 1, 2)  # twenty in the benchmark


def assert_equal_to_pycocotools(predictions, targets, categories):
    """Every number, the classes' included, to 1e-9; NaN where pycocotools has none."""
    ours = evaluate_instances(predictions, targets, categories)
    theirs = coco_evaluate(predictions, targets, categories)
    assert ours.keys() == theirs.keys()
    assert ours["per_class"].keys() == theirs["per_class"].keys()
    pairs = [(ours, theirs)] + [
        (ours["per_class"][k], theirs["per_class"][k]) for k in ours["per_class"]
    ]
    for mine, reference in pairs:
        for name in (*[f"ap_{size}" for size in AREA_RANGES], "ap", "ap50", "ap75"):
            assert mine[name] == pytest.approx(reference[name], abs=1e-9, nan_ok=True), name
    return ours


def spoiled(samples, categories, seed, **options):
    rng = np.random.default_rng(seed)
    return [imperfect_detections(sample, categories, rng, **options) for sample in samples]


# ---------------------------------------------------------------- whole data sets


@pytest.mark.parametrize("seed", SEEDS)
def test_ap_equals_pycocotools_on_coco(coco, coco_samples, seed):
    targets = [sample.segments for sample in coco_samples]
    assert any(target.is_crowd.any() for target in targets)
    detections = spoiled(coco_samples, coco.categories, seed)
    result = assert_equal_to_pycocotools(detections, targets, coco.categories)
    assert 0.05 < result["ap"] < result["ap50"] < 0.95
    assert any(math.isnan(row["ap"]) for row in result["per_class"].values())  # absent classes


@pytest.mark.parametrize("seed", SEEDS)
def test_ap_equals_pycocotools_on_scenes(scenes, seed):
    samples = [scenes[i] for i in range(20 * seed, 20 * seed + 20)]
    targets = [sample.segments for sample in samples]
    for options in ({}, {"shift": 0.03, "double": 1.0}, {"relabel": 0.8}):
        detections = spoiled(samples, scenes.categories, seed, **options)
        assert_equal_to_pycocotools(detections, targets, scenes.categories)


def test_ap_equals_pycocotools_on_nuclei(nuclei):
    samples = [nuclei[i] for i in range(12)]
    detections = spoiled(samples, nuclei.categories, 0)
    targets = [sample.segments for sample in samples]
    assert_equal_to_pycocotools(detections, targets, nuclei.categories)


def test_more_than_a_hundred_detections_of_a_class(nuclei):
    crowded = max((nuclei[i] for i in range(40)), key=lambda sample: len(sample.segments))
    found = spoiled([crowded], nuclei.categories, 0, drop=0, double=1, shift=0.01)
    assert len(found[0]) > 100
    result = assert_equal_to_pycocotools(found, [crowded.segments], nuclei.categories)
    more = evaluate_instances(
        found, [crowded.segments], nuclei.categories, max_detections=len(found[0])
    )
    assert more["ap"] != result["ap"]


def test_perfect_predictions_have_one(scenes):
    samples = [scenes[i] for i in range(10)]
    found = spoiled(samples, scenes.categories, 0, drop=0, double=0, relabel=0, shift=0)
    result = evaluate_instances(found, [s.segments for s in samples], scenes.categories)
    assert result["ap"] == result["ap50"] == result["ap_small"] == 1


# ---------------------------------------------------------------- the edges


def test_no_predictions(scenes):
    samples = [scenes[i] for i in range(5)]
    nothing = [empty_segments(s.segments.size, with_scores=True) for s in samples]
    targets = [s.segments for s in samples]
    assert assert_equal_to_pycocotools(nothing, targets, scenes.categories)["ap"] == 0


def test_an_image_without_ground_truth(scenes):
    samples = [scenes[i] for i in range(4)]
    found = spoiled(samples, scenes.categories, 0, shift=0.02)
    targets = [s.segments for s in samples[:3]] + [samples[3].segments[:0]]
    with_false = assert_equal_to_pycocotools(found, targets, scenes.categories)
    alone = evaluate_instances(found[:3], targets[:3], scenes.categories)
    assert with_false["ap"] < alone["ap"]


def test_one_class_is_missing(scenes):
    samples = [scenes[i] for i in range(8)]
    found = spoiled(samples, scenes.categories, 0)
    targets = [s.segments[s.segments.labels != 2] for s in samples]  # no house anywhere
    result = assert_equal_to_pycocotools(found, targets, scenes.categories)
    assert math.isnan(result["per_class"]["house"]["ap"]) and result["ap"] > 0


def test_nothing_at_all_is_nan(scenes):
    nothing = empty_segments((8, 8), with_scores=True)
    result = evaluate_instances([nothing], [empty_segments((8, 8))], scenes.categories)
    assert math.isnan(result["ap"]) and math.isnan(result["per_class"]["sheep"]["ap50"])
    assert math.isnan(evaluate_instances([], [], scenes.categories)["ap"])


def test_equal_scores_keep_the_order_in_which_they_came(scenes):
    samples = [scenes[i] for i in range(10)]
    found = spoiled(samples, scenes.categories, 1, double=1)
    tied = [Segments(d.masks, d.labels, torch.full((len(d),), 0.5)) for d in found]
    assert_equal_to_pycocotools(tied, [s.segments for s in samples], scenes.categories)


def test_things_exactly_at_the_edges_of_the_area_ranges():
    masks = torch.zeros(4, 128, 128, dtype=torch.bool)
    for mask, side in zip(masks, (31, 32, 33, 96), strict=True):
        mask[:side, :side] = True
    kinds = [Category("square", True, (0, 0, 0))]
    targets = [Segments(mask[None], torch.tensor([0])) for mask in masks]
    found = [Segments(mask[None], torch.tensor([0]), torch.tensor([0.5])) for mask in masks]
    found[2] = Segments(masks[1:2], torch.tensor([0]), torch.tensor([0.9]))
    assert_equal_to_pycocotools(found, targets, kinds)


def test_other_thresholds_and_area_ranges(scenes):
    samples = [scenes[i] for i in range(10)]
    found, targets = spoiled(samples, scenes.categories, 0), [s.segments for s in samples]
    result = evaluate_instances(
        found, targets, scenes.categories, thresholds=[0.3], area_ranges={"tiny": (0, 100)}
    )
    assert result["ap"] > evaluate_instances(found, targets, scenes.categories)["ap50"]
    assert math.isnan(result["ap50"]) and "ap_small" not in result and 0 < result["ap_tiny"] < 1


def test_stuff_does_not_count(scenes):
    samples = [scenes[i] for i in range(6)]
    found, targets = spoiled(samples, scenes.categories, 0), [s.segments for s in samples]
    with_stuff = [
        Segments(
            torch.cat([d.masks, t.masks]),
            torch.cat([d.labels, torch.full_like(t.labels, 4)]),
            torch.cat([d.scores, torch.ones(len(t))]),
        )
        for d, t in zip(found, targets, strict=True)
    ]
    expected = evaluate_instances(found, targets, scenes.categories)
    assert evaluate_instances(with_stuff, targets, scenes.categories)["ap"] == expected["ap"]


# ---------------------------------------------------------------- the parts

masks = arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9))


@given(masks, st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_mask_iou_equals_pycocotools_and_loops(array, count, random):
    predictions = torch.from_numpy(array)
    targets = torch.zeros(count, *predictions.shape[1:], dtype=torch.bool)
    for mask in targets:
        mask.view(-1)[: random.randint(0, mask.numel())] = True
    crowd = torch.tensor([random.random() < 0.5 for _ in range(count)], dtype=torch.bool)
    iou = mask_iou(predictions, targets, crowd)
    assert iou.shape == (len(predictions), count) and iou.dtype == torch.float64
    if count:
        torch.testing.assert_close(iou, coco_mask_iou(predictions, targets, crowd), atol=0, rtol=0)
    for a, p in enumerate(predictions):
        for b, g in enumerate(targets):
            either = p if crowd[b] else p | g
            expected = int((p & g).sum()) / max(int(either.sum()), 1)
            assert iou[a, b].item() == expected


@given(masks)
@settings(max_examples=40, deadline=None)
def test_packed_masks_have_as_many_bits_as_pixels(array):
    words = packed(torch.from_numpy(array))
    assert count_bits(words).tolist() == array.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize(
    "n, m, h, w", [(7, 5, 40, 50), (3, 30, 200, 301), (0, 2, 4, 4), (2, 0, 4, 4)]
)
def test_counts_of_pixels_equal_a_matrix_product(n, m, h, w):
    """Small masks are counted all in one step, large ones in several; some are empty."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(count, h, w, generator=generator) > 0.6 for count in (n, m))
    a[:1], b[:1] = False, False
    a[1:2, : h // 2] = False
    if n == 3:
        assert packed(b).size * n > AT_ONCE
    rows, others = a.flatten(1).double(), b.flatten(1).double()
    expected = rows @ others.T, rows.sum(1), others.sum(1)
    for count, wanted in zip(pixel_counts(a, b), expected, strict=True):
        assert count.dtype == torch.int64 and count.equal(wanted.long())


def test_masks_of_no_pixels_share_none():
    nothing = torch.zeros(2, 0, 4, dtype=torch.bool)
    assert [count.sum().item() for count in pixel_counts(nothing, nothing)] == [0, 0, 0]
    assert mask_iou(nothing, nothing).tolist() == [[0, 0], [0, 0]]


def greedy_by_loops(iou, threshold, ignored, crowd):
    """COCO's rule for one threshold, one detection and one thing at a time."""
    taken, matches = set(), []
    for row in iou:
        best = -1
        for wanted in (False, True):  # things that count first, ignored ones only then
            for g, overlap in enumerate(row):
                free = g not in taken or crowd[g]
                enough = overlap >= max(threshold, row[best] if best >= 0 else 0)
                if ignored[g] == wanted and free and enough:
                    best = g
            if best >= 0:
                break
        matches.append(best)
        taken.add(best)
    return matches


@pytest.mark.parametrize("seed", range(30))
def test_matching_equals_the_rule_written_as_loops(seed):
    rng = np.random.default_rng(seed)
    d, g, r = rng.integers(0, 8), rng.integers(0, 6), 3
    iou = torch.from_numpy(rng.integers(0, 11, (d, g)) / 10)  # many equal, some at a threshold
    crowd = torch.from_numpy(rng.random(g) < 0.3)
    ignored = torch.from_numpy(rng.random((r, g)) < 0.4) | crowd
    thresholds = torch.tensor([0.3, 0.5, 1.0], dtype=torch.float64)
    matches = match_detections(iou, thresholds, ignored, crowd)
    assert matches.shape == (r, 3, d)
    for i in range(r):
        for j, threshold in enumerate(thresholds.tolist()):
            expected = greedy_by_loops(iou.tolist(), threshold, ignored[i].tolist(), crowd)
            assert matches[i, j].tolist() == expected


def test_matching_needs_no_crowds_and_nothing_ignored():
    iou = torch.tensor([[0.9, 0.6], [0.8, 0.0], [0.7, 0.6]]).double()
    assert match_detections(iou, torch.tensor([0.5]).double()).tolist() == [[0, -1, 1]]


def test_a_detection_that_does_not_count_changes_nothing():
    true = torch.tensor([True, False, True])
    false = torch.tensor([False, False, False])
    precision, recall = precision_recall(true, false, 4)
    assert precision.tolist() == [1, 1, 1] and recall.tolist() == [0.25, 0.25, 0.5]
    late, _ = precision_recall(torch.tensor([False, True]), torch.tensor([False, False]), 1)
    assert late.tolist() == [0, 1]


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_average_precision_equals_its_definition(verdicts, missed):
    hits = torch.tensor(verdicts, dtype=torch.bool)
    targets = int(hits.sum()) + missed
    if targets == 0:
        return
    precision, recall = precision_recall(hits, ~hits, targets)
    readings = [
        max(
            (p for p, r in zip(precision.tolist(), recall.tolist(), strict=True) if r >= at),
            default=0,
        )
        for at in np.linspace(0, 1, 101)
    ]
    assert average_precision(precision, recall).item() == pytest.approx(
        np.mean(readings), abs=1e-12
    )


def test_no_detections_have_an_average_precision_of_zero():
    nothing = torch.zeros(3, 0, dtype=torch.float64)
    assert average_precision(nothing, nothing).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_crowds_of_0_and_1_are_crowds(dtype):
    """As COCO's JSON has them: `~` of the integer 1 is −2, which is true."""
    masks = torch.rand(4, 8, 8) > 0.5
    crowd = torch.tensor([0, 1, 0, 1])
    expected = mask_iou(masks[:2], masks, crowd.bool())
    assert mask_iou(masks[:2], masks, crowd.to(dtype)).equal(expected)
    iou, thresholds = torch.rand(6, 4), torch.tensor([0.3, 0.6])
    found = match_detections(iou, thresholds, crowd.to(dtype), crowd.to(dtype))
    assert found.equal(match_detections(iou, thresholds, crowd.bool(), crowd.bool()))


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_an_iou_that_is_nan_is_never_enough(seed, d, g, count):
    """It matches nothing, and keeps no detection from what it does overlap."""
    generator = torch.Generator().manual_seed(seed)
    iou = torch.rand(d, g, generator=generator, dtype=torch.float64)
    iou.view(-1)[torch.randint(d * g, (count,), generator=generator)] = math.nan
    ignored, crowd = torch.rand(2, g, generator=generator) < 0.3
    arguments = torch.tensor([0.2, 0.5]).double(), ignored, crowd
    assert match_detections(iou, *arguments).equal(match_detections(iou.nan_to_num(0), *arguments))


def test_at_a_threshold_of_zero_even_an_ignored_thing_is_taken():
    iou = torch.zeros(1, 1, dtype=torch.float64)
    for ignored in (False, True):
        assert match_detections(iou, iou[0], torch.tensor([ignored])).item() == 0


def test_without_targets_the_average_precision_is_nan():
    false = torch.tensor([True, True])
    curve = precision_recall(~false, false, 0)
    assert average_precision(*curve).isnan()


def test_a_hundred_detections_of_an_image_count():
    """As COCO has it: the hundred best; one that comes after them is not looked at."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4] = True
    truth = [Segments(mask, torch.tensor([0]))]
    kinds = [Category("sheep", True, (0, 0, 0))]
    for wrong, ap in ((99, 1 / 100), (100, 0.0)):
        found = Segments(
            torch.cat([~mask.expand(wrong, -1, -1), mask]),
            torch.zeros(wrong + 1, dtype=torch.int64),
            torch.linspace(1, 0.1, wrong + 1),
        )
        assert evaluate_instances([found], truth, kinds)["ap"] == pytest.approx(ap)
