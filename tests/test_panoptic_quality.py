"""Lesson 09 against panopticapi, number by number and count by count, and against loops."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from panopticapi.utils import id2rgb, rgb2id

from lessons.kit.data import Category, Sample, Segments, empty_segments
from lessons.kit.data.imperfect import imperfect_panoptic
from lessons.kit.data.panoptic_files import read_panoptic, write_panoptic
from lessons.kit.peers.coco import coco_panoptic_quality, score_panoptic_files
from lessons.panoptic_quality import (
    count_overlaps,
    ids_to_rgb,
    match_overlaps,
    match_segments,
    panoptic_map,
    panoptic_quality,
    rgb_to_ids,
)

SEEDS = (0, 1, 2)  # twenty in the benchmark
PARTS = [name + ending for ending in ("", "_things", "_stuff") for name in ("pq", "sq", "rq")]
SHEEP, HOUSE, MEADOW, LAKE = range(4)
KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("house", True, (213, 94, 0)),
    Category("meadow", False, (153, 187, 85)),
    Category("lake", False, (0, 114, 178)),
]


def assert_same_numbers(ours, theirs):
    """Every mean and every class to 1e-9, counts exactly; NaN where there is nothing."""
    assert ours.keys() == theirs.keys() == {*PARTS, "per_class"}
    for name in PARTS:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9, nan_ok=True), name
    assert ours["per_class"].keys() == theirs["per_class"].keys()
    for name, row in theirs["per_class"].items():
        assert ours["per_class"][name] == pytest.approx(row, abs=1e-9, nan_ok=True), name
        for count in ("tp", "fp", "fn"):
            assert ours["per_class"][name][count] == row[count], (name, count)


def assert_equal_to_panopticapi(predictions, targets, categories):
    ours = panoptic_quality(predictions, targets, categories)
    assert_same_numbers(ours, coco_panoptic_quality(predictions, targets, categories))
    return ours


def spoiled(samples, categories, seed, **options):
    rng = np.random.default_rng(seed)
    return [imperfect_panoptic(sample, categories, rng, **options) for sample in samples]


def from_ids(ids, labels, crowd=None):
    """Segments from a map: id i + 1 has labels[i]."""
    masks = torch.as_tensor(ids) == torch.arange(1, len(labels) + 1)[:, None, None]
    crowd = None if crowd is None else torch.tensor(crowd, dtype=torch.bool)
    return Segments(masks, torch.tensor(labels, dtype=torch.int64), is_crowd=crowd)


@pytest.fixture(scope="module")
def coco_truth(coco, coco_samples, tmp_path_factory):
    """The true segments of the COCO images, written once."""
    targets = [sample.segments for sample in coco_samples]
    folder = tmp_path_factory.mktemp("coco")
    return targets, write_panoptic(folder / "true.json", targets, coco.categories)


# ---------------------------------------------------------------- whole data sets


@pytest.mark.parametrize("seed", SEEDS)
def test_pq_equals_panopticapi_on_coco(coco, coco_samples, coco_truth, seed, tmp_path):
    targets, true = coco_truth
    predictions = spoiled(coco_samples, coco.categories, seed)
    assert any(target.is_crowd.any() for target in targets)
    assert any((panoptic_map(target) == 0).any() for target in targets)
    assert any((panoptic_map(prediction) == 0).any() for prediction in predictions)
    found = write_panoptic(tmp_path / "found.json", predictions, coco.categories)
    result = panoptic_quality(predictions, targets, coco.categories)
    assert_same_numbers(result, score_panoptic_files(found, true))
    assert 0.2 < result["pq"] < 0.8
    assert any(math.isnan(row["pq"]) for row in result["per_class"].values())  # absent classes


@pytest.mark.parametrize("seed", SEEDS)
def test_pq_equals_panopticapi_on_scenes(scenes, seed):
    samples = [scenes[i] for i in range(20 * seed, 20 * seed + 20)]
    targets = [sample.segments for sample in samples]
    for options in ({}, {"shift": 0.15}, {"split": 0.9, "void": 0}, {"relabel": 0.6, "drop": 0.4}):
        predictions = spoiled(samples, scenes.categories, seed, **options)
        assert_equal_to_panopticapi(predictions, targets, scenes.categories)


@pytest.mark.parametrize("seed", range(6))
def test_pq_equals_panopticapi_on_noise(seed):
    """Small images of blocks with every rule at its edge: halves, void, several crowds a class."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(60):
        h, w = rng.integers(2, 7, 2)
        true_ids = rng.integers(0, 5, (h, w)).repeat(2, 0).repeat(2, 1)
        ids = np.where(
            rng.random((2 * h, 2 * w)) < 0.6, true_ids, rng.integers(0, 5, (2 * h, 2 * w))
        )
        truth = from_ids(true_ids, rng.integers(0, 3, 4).tolist(), (rng.random(4) < 0.4).tolist())
        labels = np.where(rng.random(4) < 0.8, truth.labels, rng.integers(0, 3, 4)).tolist()
        predictions.append(from_ids(ids, labels))
        targets.append(truth)
    result = assert_equal_to_panopticapi(predictions, targets, KINDS)
    assert 0 < result["pq"] < 1 and math.isnan(result["per_class"]["lake"]["pq"])
    assert all(result["per_class"]["sheep"][count] > 0 for count in ("tp", "fp", "fn"))


def test_the_order_of_segments_does_not_count(scenes):
    samples = [scenes[i] for i in range(10)]
    targets = [sample.segments for sample in samples]
    predictions = spoiled(samples, scenes.categories, 0)
    turned = [p[torch.arange(len(p)).flip(0)] for p in predictions]
    expected = panoptic_quality(predictions, targets, scenes.categories)
    assert_same_numbers(panoptic_quality(turned, targets, scenes.categories), expected)


def test_perfect_predictions_have_one_and_crowds_need_no_answer(scenes):
    targets = [scenes[i].segments for i in range(12)]
    assert any(target.is_crowd.any() for target in targets)
    for predictions in (targets, [target[~target.is_crowd] for target in targets]):
        result = assert_equal_to_panopticapi(predictions, targets, scenes.categories)
        assert [result[name] for name in PARTS] == [1] * 9


def test_the_product_holds_for_each_class_and_not_for_the_means(scenes):
    samples = [scenes[i] for i in range(20)]
    predictions = spoiled(samples, scenes.categories, 0)
    result = panoptic_quality(predictions, [s.segments for s in samples], scenes.categories)
    for row in result["per_class"].values():
        assert row["sq"] * row["rq"] == pytest.approx(row["pq"], abs=1e-12)
    assert abs(result["sq"] * result["rq"] - result["pq"]) > 1e-3


def test_files_are_scored_to_the_same_numbers_and_read_again(scenes, tmp_path):
    samples = [scenes[i] for i in range(12)]
    targets = [sample.segments for sample in samples]
    predictions = spoiled(samples, scenes.categories, 4)
    found = write_panoptic(tmp_path / "found.json", predictions, scenes.categories)
    true = write_panoptic(tmp_path / "true.json", targets, scenes.categories)
    expected = panoptic_quality(predictions, targets, scenes.categories)
    assert_same_numbers(score_panoptic_files(found, true), expected)
    (read, kinds), (read_true, _) = read_panoptic(found), read_panoptic(true)
    assert kinds == scenes.categories
    assert panoptic_quality(read, read_true, kinds) == expected


# ---------------------------------------------------------------- the edges


def one_class(ids, true_ids, labels=None, true_labels=None, crowd=None):
    """The sheep's row for one image of a row of pixels; all is sheep unless it is said."""
    count, true_count = max(ids, default=0), max(true_ids, default=0)
    prediction = from_ids([ids], labels or [SHEEP] * count)
    target = from_ids([true_ids], true_labels or [SHEEP] * true_count, crowd)
    result = assert_equal_to_panopticapi([prediction], [target], KINDS)
    row = result["per_class"]["sheep"]
    return row["tp"], row["fp"], row["fn"]


def test_exactly_half_is_no_match():
    assert one_class([1, 1, 0, 0], [1, 1, 1, 1]) == (0, 1, 1)
    assert one_class([1, 1, 1, 0], [1, 1, 1, 1]) == (1, 0, 0)
    assert one_class([1, 1, 2, 2], [1, 1, 1, 1]) == (0, 2, 1)


def test_void_is_taken_out_of_the_prediction():
    assert one_class([1, 1, 1, 1, 1], [1, 1, 0, 0, 0]) == (1, 0, 0)  # 2 / 2 and not 2 / 5
    assert one_class([1, 1, 1, 0, 2], [1, 1, 1, 1, 0]) == (1, 0, 0)  # all in void: not judged


def test_exactly_half_in_void_is_judged():
    meadow = [MEADOW]
    assert one_class([1, 1, 1, 1], [0, 0, 1, 1], true_labels=meadow) == (0, 1, 0)
    assert one_class([1, 1, 1, 1], [0, 0, 0, 1], true_labels=meadow) == (0, 0, 0)


def test_a_crowd_forgives_its_own_class_and_is_never_matched_or_missed():
    assert one_class([1, 1, 1, 0], [1, 1, 1, 1], crowd=[True]) == (0, 0, 0)
    assert one_class([0, 0, 0, 0], [1, 1, 1, 1], crowd=[True]) == (0, 0, 0)
    house = [HOUSE]
    assert one_class([1, 1, 1, 0], [1, 1, 1, 1], true_labels=house, crowd=[True]) == (0, 1, 0)


def test_void_and_crowd_are_added():
    assert one_class([1, 1, 1, 1], [0, 1, 2, 2], true_labels=[0, 2], crowd=[1, 0]) == (0, 1, 0)
    assert one_class([1] * 5, [0, 1, 1, 2, 2], true_labels=[0, 2], crowd=[1, 0]) == (0, 0, 0)


def test_of_several_crowds_of_a_class_the_last_counts_as_in_panopticapi():
    assert one_class([1, 1, 1, 1], [1, 1, 1, 2], crowd=[1, 1]) == (0, 1, 0)
    assert one_class([1, 1, 1, 1], [1, 2, 2, 2], crowd=[1, 1]) == (0, 0, 0)


def test_another_class_is_wrong_and_missing():
    prediction, target = from_ids([[1, 1, 1]], [HOUSE]), from_ids([[1, 1, 1]], [SHEEP])
    result = assert_equal_to_panopticapi([prediction], [target], KINDS)
    assert result["per_class"]["house"]["fp"] == result["per_class"]["sheep"]["fn"] == 1
    assert result["pq"] == result["sq"] == 0


def test_where_nothing_is_to_be_averaged_there_is_nan():
    nothing = empty_segments((4, 5))
    for sides in (([], []), ([nothing], [nothing])):
        result = panoptic_quality(*sides, KINDS)
        assert all(math.isnan(result[name]) for name in PARTS)
        assert result["per_class"]["sheep"]["tp"] == 0
        assert math.isnan(result["per_class"]["sheep"]["sq"])
    only = from_ids([[1, 1, 2]], [SHEEP, HOUSE])
    result = assert_equal_to_panopticapi([only], [only], KINDS)
    assert result["pq"] == result["pq_things"] == 1 and math.isnan(result["pq_stuff"])


def test_no_prediction_and_no_truth():
    nothing, something = empty_segments((1, 4)), from_ids([[1, 1, 2, 2]], [SHEEP, MEADOW])
    missed = assert_equal_to_panopticapi([nothing], [something], KINDS)
    assert missed["pq"] == missed["sq"] == missed["rq"] == 0
    assert missed["per_class"]["sheep"]["fn"] == 1
    in_void = assert_equal_to_panopticapi([something], [nothing], KINDS)
    assert math.isnan(in_void["pq"])  # all of it lies in void


def test_a_mask_without_a_pixel_is_no_segment():
    with_empty = from_ids([[1, 1, 3, 3]], [SHEEP, SHEEP, MEADOW])
    without = with_empty[[0, 2]]
    for prediction, target in ((with_empty, without), (without, with_empty)):
        assert assert_equal_to_panopticapi([prediction], [target], KINDS)["pq"] == 1


def test_counts_are_summed_over_the_images_before_they_are_divided():
    good, bad = from_ids([[1, 1, 1, 1]], [SHEEP]), from_ids([[1, 1, 1, 1]], [MEADOW])
    targets = [good, good, from_ids([[1, 1, 1, 1]], [MEADOW])]
    result = assert_equal_to_panopticapi([good, good, good], targets, KINDS)
    assert result["per_class"]["sheep"]["pq"] == 2 / 2.5
    assert result["pq"] == pytest.approx((2 / 2.5 + 0) / 2)
    assert panoptic_quality([good, good, bad], targets, KINDS)["pq"] == 1


def test_scores_are_not_looked_at():
    one = from_ids([[1, 1, 2, 2]], [SHEEP, MEADOW])
    scored = Segments(one.masks, one.labels, torch.tensor([0.1, float("nan")]))
    assert panoptic_quality([scored], [one], KINDS)["pq"] == 1


# ---------------------------------------------------------------- the parts


def matches_by_loops(prediction, target):
    void = ~target.masks.any(0)
    crowd = torch.zeros(len(target)) if target.is_crowd is None else target.is_crowd
    found = {}
    for a, p in enumerate(prediction.masks):
        for b, g in enumerate(target.masks):
            both, either = int((p & g).sum()), int(((p & ~void) | g).sum())
            same = prediction.labels[a] == target.labels[b] and not crowd[b]
            if same and either and both / either > 0.5:
                found[a, b] = both / either
    return found


@pytest.mark.parametrize("seed", range(20))
def test_matches_equal_loops_and_are_unique(seed):
    rng = np.random.default_rng(seed)
    true_ids = rng.integers(0, 4, (4, 5)).repeat(2, 0)
    ids = np.where(rng.random((8, 5)) < 0.75, true_ids, rng.integers(0, 4, (8, 5)))
    target = from_ids(true_ids, rng.integers(0, 2, 3).tolist(), (rng.random(3) < 0.2).tolist())
    prediction = from_ids(ids, target.labels.tolist())
    found = match_segments(prediction, target)
    pairs = list(zip(found.predicted.tolist(), found.true.tolist(), strict=True))
    expected = matches_by_loops(prediction, target)
    assert dict(zip(pairs, found.iou.tolist(), strict=True)) == pytest.approx(expected)
    assert len(set(found.predicted.tolist())) == len(set(found.true.tolist())) == len(pairs)
    assert not found.false_positive[found.predicted].any()
    assert not found.false_negative[found.true].any()


def test_every_pair_of_small_images_has_a_unique_matching():
    labels = torch.zeros(2, dtype=torch.int64)
    images = [
        Segments(torch.tensor(ids)[None] == torch.arange(1, 3)[:, None, None], labels)
        for ids in product(range(3), repeat=3)
    ]
    for prediction, target in product(images, images):
        found = match_segments(prediction, target)
        assert found.predicted.unique().numel() == found.true.unique().numel() == len(found.iou)
        assert (found.iou > 0.5).all()


def test_the_overlaps_sum_to_the_pixels():
    rng = np.random.default_rng(0)
    ids, true_ids = (torch.from_numpy(rng.integers(0, n, (9, 13))) for n in (4, 6))
    table = count_overlaps(ids, true_ids, 3, 5)
    assert table.shape == (4, 6)
    for i, j in product(range(4), range(6)):
        assert table[i, j] == ((ids == i) & (true_ids == j)).sum()


def test_a_map_and_its_segments_are_one_another(scenes):
    segments = scenes[3].segments
    ids = panoptic_map(segments)
    assert ids.shape == segments.size and ids.dtype == torch.int32
    for i, mask in enumerate(segments.masks):
        assert mask.equal(ids == i + 1)
    assert (ids == 0).equal(~segments.masks.any(0))


def test_a_map_of_more_than_255_segments():
    masks = torch.eye(400, dtype=torch.bool).view(400, 20, 20)
    ids = panoptic_map(Segments(masks, torch.zeros(400, dtype=torch.int64)))
    assert ids.flatten().tolist() == list(range(1, 401))


def test_ids_and_colours_equal_panopticapi():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(256**3, (3, 17, 23), generator=generator)
    ids[0, 0, :5] = torch.tensor([0, 255, 256, 65536, 256**3 - 1])
    rgb = ids_to_rgb(ids)
    assert rgb.dtype == torch.uint8 and rgb.shape == (3, 17, 23, 3)
    for each, colours in zip(ids.numpy(), rgb.numpy(), strict=True):
        assert (id2rgb(each) == colours).all() and (rgb2id(colours) == each).all()
    assert rgb_to_ids(rgb).equal(ids.int())
    assert rgb_to_ids(ids_to_rgb(ids[0])).equal(ids[0].int())


def test_samples_of_the_tests_are_samples(scenes):
    """What is spoiled stays a sample: disjoint, of its size."""
    for seed in range(5):
        sample = scenes[seed]
        Sample(
            sample.image, imperfect_panoptic(sample, scenes.categories, np.random.default_rng(seed))
        )


# ---------------------------------------------------------------- small integers

SMALL = (torch.uint8, torch.int8, torch.int16, torch.int32)


@pytest.mark.parametrize("dtype", SMALL)
def test_overlaps_are_counted_in_any_integer_type(dtype):
    """Products of ids do not fit into a byte: 20 ids a map have up to 440 pairs."""
    predicted, true = torch.randint(0, 21, (2, 64, 64))
    expected = count_overlaps(predicted, true, 20, 20)
    assert np.array_equal(count_overlaps(predicted.to(dtype), true.to(dtype), 20, 20), expected)
    assert np.array_equal(count_overlaps(predicted.to(dtype), true, 300, 20)[:21], expected)
    assert expected[3, 5] == ((predicted == 3) & (true == 5)).sum()


@pytest.mark.parametrize("dtype", SMALL)
def test_colours_of_ids_in_any_integer_type(dtype):
    ids = torch.tensor([[0, 1], [100, 127]])
    assert ids_to_rgb(ids.to(dtype)).equal(ids_to_rgb(ids))
    assert rgb_to_ids(ids_to_rgb(ids.to(dtype))).tolist() == ids.tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_a_table_of_overlaps_is_judged_in_any_integer_type(kind):
    """200 + 200 pixels are no 144, and a crowd of 0 and 1 is no index."""
    table = np.array([[0, 0, 10], [0, 200, 0], [5, 0, 100]])
    labels, crowd = np.array([1, 0]), np.array([0, 1])
    expected = match_overlaps(table, labels, labels, crowd.astype(bool))
    found = match_overlaps(table.astype(kind), labels.astype(kind), labels, crowd.astype(kind))
    assert expected.predicted.tolist() == found.predicted.tolist() == [0]
    assert expected.iou.tolist() == found.iou.tolist() == [1.0]
    assert expected.false_positive.equal(found.false_positive)
    assert expected.false_negative.equal(found.false_negative)
