"""Spoiled ground truth: the same for the same generator, things only, spoiled as was asked."""

import copy

import numpy as np
import pytest
import torch

from lessons.kit.data import Category, Sample, Segments, areas, boxes, empty_segments, things
from lessons.kit.data.imperfect import imperfect_detections
from lessons.kit.data.scenes import CATEGORIES, Scenes

KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("tree", True, (0, 158, 115)),
    Category("meadow", False, (153, 187, 85)),
]
UNSPOILED = {"drop": 0, "double": 0, "relabel": 0, "shift": 0}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    scenes = Scenes.validation(size=(48, 64))
    return [scenes[index] for index in range(30)]


def spoil(sample, seed=0, categories=CATEGORIES, **options):
    return imperfect_detections(sample, categories, np.random.default_rng(seed), **options)


def one_sheep(rows, columns, size=(100, 200)) -> Sample:
    """A sheep in the middle of an image, on nothing."""
    h, w = size
    masks = torch.zeros(1, h, w, dtype=torch.bool)
    top, left = (h - rows) // 2, (w - columns) // 2
    masks[0, top : top + rows, left : left + columns] = True
    return Sample(torch.zeros(3, h, w), Segments(masks, torch.tensor([0])))


def same(first, second):
    return all(
        getattr(first, name).equal(getattr(second, name)) for name in ("masks", "labels", "scores")
    )


def pairs(segments) -> list[tuple[int, list]]:
    return list(zip(segments.labels.tolist(), segments.masks.tolist(), strict=True))


def test_detections_are_the_same_for_the_same_generator(samples):
    for sample in samples:
        assert same(spoil(sample, 3), spoil(sample, 3))
    first, second = spoil(samples[0], 3), spoil(samples[0], 4)
    assert len(first) != len(second) or not same(first, second)


def test_no_other_source_of_chance_is_used_or_disturbed(samples):
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = spoil(samples[0])
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.get_rng_state().equal(before[1])
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(first, spoil(samples[0]))


def test_the_generator_goes_on_from_image_to_image(samples):
    rng = np.random.default_rng(0)
    first, second = (imperfect_detections(samples[0], CATEGORIES, rng) for _ in range(2))
    assert len(first) != len(second) or not same(first, second)


def test_detections_have_scores_in_0_to_1_and_labels_of_things(samples):
    scores = []
    for seed, sample in enumerate(samples):
        found = spoil(sample, seed, relabel=0.9, shift=0.3)
        assert found.masks.shape[1:] == sample.segments.masks.shape[1:]
        assert found.masks.dtype == torch.bool and found.is_crowd is None
        assert found.labels.dtype == torch.int64 and found.scores.dtype == torch.float32
        assert all(CATEGORIES[label].is_thing for label in found.labels)
        assert ((found.scores > 0) & (found.scores <= 1)).all()
        scores += found.scores.tolist()
        scores += spoil(sample, seed, **UNSPOILED).scores.tolist()
    assert min(scores) < 0.1 and max(scores) == 1
    assert [round(score, 2) for score in scores] == pytest.approx(scores)  # so that some tie


def test_things_need_not_be_the_first_categories():
    turned = [KINDS[2], KINDS[0], KINDS[1]]
    sample = one_sheep(20, 20)
    sample = Sample(sample.image, Segments(sample.segments.masks, torch.tensor([2])))
    labels = [spoil(sample, seed, turned, drop=0, relabel=1).labels.tolist() for seed in range(40)]
    assert {label for found in labels for label in found} == {1, 2}


def test_the_sample_is_left_as_it_was(samples):
    before = copy.deepcopy(samples[0])
    found = spoil(samples[0], **UNSPOILED)
    found.masks[:] = False
    found.labels[:] = 0
    assert samples[0].image.equal(before.image)
    for name in ("masks", "labels", "is_crowd"):
        assert getattr(samples[0].segments, name).equal(getattr(before.segments, name))


def test_unspoiled_detections_are_the_things_in_another_order(samples):
    in_order = []
    for sample in samples:
        truth = pairs(things(sample.segments, CATEGORIES))
        found = pairs(spoil(sample, **UNSPOILED))
        assert sorted(truth) == sorted(found)  # crowds included, stuff not
        in_order.append(truth == found)
    assert any(sample.segments.is_crowd.any() for sample in samples)
    assert not all(in_order)


def test_what_is_dropped_is_gone(samples):
    for sample in samples[:3]:
        found = spoil(sample, drop=1)
        assert len(found) == 0 and found.masks.shape == (0, 48, 64)
        assert found.scores is not None and found.scores.shape == (0,)
    counts = [
        (len(spoil(s, k, drop=0.5, double=0)), len(things(s.segments, CATEGORIES)))
        for k, s in enumerate(samples)
    ]
    found, there = np.sum(counts, axis=0)
    assert 0.4 < found / there < 0.6


def test_an_image_without_things_has_no_detections():
    for segments in (
        empty_segments((48, 64)),
        Segments(torch.ones(1, 48, 64, dtype=torch.bool), torch.tensor([2])),
    ):
        found = spoil(Sample(torch.zeros(3, 48, 64), segments), categories=KINDS)
        assert len(found) == 0 and found.masks.shape == (0, 48, 64) and found.scores.shape == (0,)


def test_what_is_doubled_is_found_twice(samples):
    for sample in samples:
        count = len(things(sample.segments, CATEGORIES))
        assert len(spoil(sample, drop=0, double=1)) == 2 * count
        assert len(spoil(sample, drop=0, double=0)) == count


def test_a_moved_mask_keeps_its_shape_where_it_stays_in_the_image():
    sample = one_sheep(20, 50)
    sample.segments.masks[0, 40:45, 80:100] = False  # a bite, so that it has a shape
    offsets = []
    for seed in range(200):
        found = spoil(sample, seed, KINDS, drop=0, double=0, relabel=0, shift=0.1)
        x0, y0, x1, y1 = (boxes(found) - boxes(sample.segments))[0].int().tolist()
        assert (x0, y0) == (x1, y1)
        assert found.masks[0].equal(sample.segments.masks[0].roll((y0, x0), (0, 1)))
        offsets.append((y0, x0))
    rows, columns = np.std(offsets, axis=0)
    assert rows == pytest.approx(0.1 * 20, rel=0.25)  # a share of the box, not of the image
    assert columns == pytest.approx(0.1 * 50, rel=0.25)
    assert np.abs(np.mean(offsets, axis=0)).max() < 1


def test_what_leaves_the_image_is_lost():
    sample = one_sheep(10, 14, size=(10, 16))
    lost = 0
    for seed in range(100):
        found = spoil(sample, seed, KINDS, drop=0, double=0, relabel=0, shift=1.5)
        (area,) = areas(found).tolist()
        if area:
            x0, y0, x1, y1 = boxes(found)[0].int().tolist()
            assert area == (x1 - x0) * (y1 - y0)
            assert (y0 == 0 or y1 == 10) and (x1 - x0 == 14 or x0 == 0 or x1 == 16)
        lost += area == 0
    assert 0 < lost < 100


def test_scores_are_higher_for_what_was_moved_less():
    sample = one_sheep(30, 30)
    truth = sample.segments.masks[0]
    overlaps_and_scores = []
    for seed in range(200):
        found = spoil(sample, seed, KINDS, drop=0, double=0, shift=0.2)
        overlaps_and_scores.append((int((found.masks[0] & truth).sum()), float(found.scores[0])))
    assert np.corrcoef(np.array(overlaps_and_scores).T)[0, 1] > 0.5
