"""The shared types: how segments are chosen and moved, and what is computed from their masks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from lessons.kit.data import (
    VOID,
    Category,
    Sample,
    Segments,
    areas,
    boxes,
    empty_segments,
    flatten_overlaps,
    is_crowd,
    semantic_map,
    stuff,
    things,
)
from lessons.kit.data.download import data_root

KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("tree", True, (0, 158, 115)),
    Category("meadow", False, (153, 187, 85)),
]


def segments_of(masks, labels=None) -> Segments:
    masks = torch.as_tensor(np.array(masks, dtype=bool))
    labels = range(len(masks)) if labels is None else labels
    return Segments(masks, torch.tensor(list(labels), dtype=torch.int64))


@pytest.fixture
def four() -> Segments:
    """Four disjoint segments of 2×3 pixels with every field, each told by its label."""
    masks = torch.zeros(4, 2, 3, dtype=torch.bool)
    for k, pixel in enumerate([(0, 0), (0, 1), (1, 1), (1, 2)]):
        masks[k][pixel] = True
    crowd = torch.tensor([False, True, False, True])
    return Segments(masks, torch.tensor([2, 0, 1, 0]), torch.tensor([0.4, 0.3, 0.2, 0.1]), crowd)


# A few masks of any small size, sparse ones and empty ones among them.
sizes = st.tuples(st.integers(0, 4), st.integers(1, 7), st.integers(1, 7))
masks_of_any_size = arrays(bool, sizes, fill=st.nothing())
often = settings(max_examples=100, deadline=None)


# ---------------------------------------------------------------- boxes and areas


@often
@given(masks_of_any_size)
def test_boxes_are_those_of_a_loop_over_the_pixels(masks):
    expected = []
    for mask in masks:
        pixels = [(i, j) for i, row in enumerate(mask) for j, hit in enumerate(row) if hit]
        rows, columns = zip(*pixels, strict=True) if pixels else ((0, -1), (0, -1))
        if pixels:
            expected.append([min(columns), min(rows), max(columns) + 1, max(rows) + 1])
        else:
            expected.append([0, 0, 0, 0])
    assert boxes(segments_of(masks)).tolist() == expected


@often
@given(masks_of_any_size)
def test_boxes_and_areas_are_those_of_pycocotools(masks):
    segments = segments_of(masks)
    runs = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    xywh = torch.tensor(np.array(coco_mask.toBbox(runs))).reshape(-1, 4)
    corners = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
    assert torch.equal(boxes(segments).double(), corners)
    assert areas(segments).tolist() == [int(coco_mask.area(run)) for run in runs]


def test_the_far_edge_of_a_box_is_exclusive():
    masks = torch.zeros(1, 4, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    assert boxes(segments_of(masks)).tolist() == [[2, 1, 6, 3]]


@pytest.mark.parametrize("row, column", [(0, 0), (0, 8), (4, 0), (4, 8), (2, 3)])
def test_a_single_pixel_has_a_box_of_area_1(row, column):
    masks = torch.zeros(1, 5, 9, dtype=torch.bool)
    masks[0, row, column] = True
    x0, y0, x1, y1 = boxes(segments_of(masks))[0].tolist()
    assert (x0, y0) == (column, row) and (x1 - x0) * (y1 - y0) == 1


def test_a_full_mask_has_the_box_of_its_image():
    assert boxes(segments_of(np.ones((1, 480, 640)))).tolist() == [[0, 0, 640, 480]]


def test_an_empty_mask_has_the_box_of_zeros_and_does_not_disturb_the_others():
    masks = np.zeros((3, 3, 5))
    masks[1, 2, 4] = 1
    assert boxes(segments_of(masks)).tolist() == [[0, 0, 0, 0], [4, 2, 5, 3], [0, 0, 0, 0]]
    assert areas(segments_of(masks)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("size", [(3, 5), (0, 0), (0, 5), (3, 0)])
def test_no_masks_have_no_boxes_no_areas_and_a_void_map(size):
    segments = empty_segments(size)
    assert len(segments) == 0 and segments.size == size
    assert segments.scores is None and segments.is_crowd is None
    assert boxes(segments).shape == (0, 4) and boxes(segments).dtype == torch.float32
    assert areas(segments).shape == (0,) and areas(segments).dtype == torch.int64
    assert semantic_map(segments).shape == size and (semantic_map(segments) == VOID).all()
    assert len(things(segments, KINDS)) == len(stuff(segments, KINDS)) == 0


def test_empty_segments_may_be_predictions():
    scores = empty_segments((3, 5), with_scores=True).scores
    assert scores is not None and scores.shape == (0,) and scores.dtype == torch.float32


@pytest.mark.parametrize("size", [(0, 5), (3, 0)])
def test_masks_without_pixels_have_boxes_of_zeros(size):
    assert boxes(segments_of(np.zeros((2, *size)))).tolist() == [[0] * 4] * 2


# ---------------------------------------------------------------- classes


def test_things_and_stuff_part_the_segments_and_keep_their_order(four):
    assert things(four, KINDS).labels.tolist() == [0, 1, 0]
    assert things(four, KINDS).scores.tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert things(four, KINDS).masks.equal(four.masks[1:])
    assert stuff(four, KINDS).labels.tolist() == [2]
    assert stuff(four, KINDS).masks.equal(four.masks[:1])


def test_things_need_not_stand_before_stuff(four):
    turned = [KINDS[2], KINDS[1], KINDS[0]]  # now 0 is stuff and 2 a thing
    assert things(four, turned).labels.tolist() == [2, 1]
    assert stuff(four, turned).labels.tolist() == [0, 0]


def test_the_semantic_map_has_each_pixels_class_and_255_for_void(four):
    assert VOID == 255
    assert semantic_map(four).tolist() == [[2, 0, VOID], [VOID, 1, 0]]
    assert semantic_map(four).dtype == torch.int64


def test_in_the_semantic_map_the_last_of_two_masks_wins():
    masks = [[[1, 1, 0]], [[0, 1, 1]]]
    assert semantic_map(segments_of(masks, [4, 7])).tolist() == [[4, 7, 7]]
    assert semantic_map(segments_of(masks[::-1], [7, 4])).tolist() == [[4, 4, 7]]


def test_nothing_is_a_crowd_where_the_field_is_absent(four):
    assert is_crowd(four).tolist() == [False, True, False, True]
    absent = is_crowd(replace(four, is_crowd=None))
    assert absent.tolist() == [False] * 4 and absent.dtype == torch.bool
    assert is_crowd(empty_segments((3, 5))).shape == (0,)


# ---------------------------------------------------------------- choosing and moving


CHOICES = {
    "a slice": (slice(1, 3), [1, 2]),
    "a slice with a step": (slice(None, None, 2), [0, 2]),
    "an empty slice": (slice(2, 2), []),
    "a list": ([3, 0], [3, 0]),
    "a list with one twice": ([1, 1], [1, 1]),
    "a list from the end": ([-1], [3]),
    "an empty list": ([], []),
    "a list of booleans": ([False, True, False, True], [1, 3]),
    "indices": (torch.tensor([2, 1]), [2, 1]),
    "booleans": (torch.tensor([True, False, False, True]), [0, 3]),
    "no booleans": (torch.zeros(4, dtype=torch.bool), []),
}


@pytest.mark.parametrize("index, expected", CHOICES.values(), ids=CHOICES.keys())
def test_every_field_is_chosen_by(four, index, expected):
    chosen = four[index]
    assert len(chosen) == len(expected) and chosen.size == four.size
    for name in ("masks", "labels", "scores", "is_crowd"):
        before = getattr(four, name)
        assert getattr(chosen, name).tolist() == [before[k].tolist() for k in expected]


def test_what_is_absent_stays_absent_in_a_choice(four):
    chosen = replace(four, scores=None, is_crowd=None)[1:]
    assert chosen.scores is None and chosen.is_crowd is None


def test_segments_know_their_number_and_size(four):
    assert len(four) == 4
    assert four.size == (2, 3)  # height, then width


def test_moving_to_a_device_moves_every_field(four):
    moved = four.to("meta")  # a device that every machine has
    for name in ("masks", "labels", "scores", "is_crowd"):
        before, after = getattr(four, name), getattr(moved, name)
        assert after.device.type == "meta" and before.device.type == "cpu"
        assert after.shape == before.shape and after.dtype == before.dtype
    assert replace(four, scores=None, is_crowd=None).to("meta").scores is None
    assert four.to(torch.device("cpu")).masks.equal(four.masks)


# ---------------------------------------------------------------- samples


def test_the_segments_of_a_sample_may_leave_pixels_void(four):
    sample = Sample(torch.rand(3, 2, 3), four)
    assert sample.segments is four
    assert not four.masks.any(0).all()


def test_a_sample_may_have_no_segments():
    assert len(Sample(torch.rand(3, 4, 6), empty_segments((4, 6))).segments) == 0


def test_more_than_255_disjoint_segments_are_still_disjoint():
    masks = torch.eye(300, dtype=torch.bool).reshape(300, 15, 20)
    Sample(torch.rand(3, 15, 20), segments_of(masks))
    with pytest.raises(ValueError, match="300 pixels are in two"):
        masks = torch.ones(512, 15, 20, dtype=torch.bool)  # 512 is 0 in eight bits
        Sample(torch.rand(3, 15, 20), segments_of(masks))


# ---------------------------------------------------------------- overlapping segments


def overlapping() -> Segments:
    """A large, a middle and a small mask in a row, with all fields; the middle is in between."""
    masks = [[[1, 1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1, 0]], [[0, 0, 0, 1, 0, 0]], [[1, 0, 0, 0, 0, 0]]]
    crowd = torch.tensor([False, True, False, False])
    whole = segments_of(masks, [3, 1, 2, 0])
    return replace(whole, scores=torch.tensor([0.9, 0.8, 0.7, 0.6]), is_crowd=crowd)


def owners(segments: Segments) -> list[int]:
    """The label of each pixel of the only row, VOID where there is none."""
    assert (segments.masks.sum(0) <= 1).all()
    return semantic_map(segments)[0].tolist()


def test_a_pixel_of_two_segments_is_left_to_the_one_on_top():
    assert owners(flatten_overlaps(overlapping())) == [0, 3, 1, 2, 1, VOID]
    turned = overlapping()[[3, 2, 1, 0]]
    assert owners(flatten_overlaps(turned)) == [0, 3, 1, 2, 1, VOID]
    assert owners(flatten_overlaps(overlapping(), top="later")) == [0, 3, 1, 2, 1, VOID]
    assert owners(flatten_overlaps(turned, top="later")) == [3, 3, 3, 3, 1, VOID]


def test_of_equal_ones_the_later_is_on_top():
    two = segments_of([[[1, 1, 0]], [[0, 1, 1]]], [4, 7])
    assert owners(flatten_overlaps(two)) == owners(flatten_overlaps(two, "later")) == [4, 7, 7]


def test_a_segment_that_is_covered_is_dropped_with_all_its_fields():
    flat = flatten_overlaps(overlapping()[[3, 2, 1, 0]], top="later")
    assert flat.labels.tolist() == [1, 3]
    assert flat.scores.tolist() == pytest.approx([0.8, 0.9])
    assert flat.is_crowd.tolist() == [True, False]


def test_flat_segments_stay_as_they_are(four):
    for top in ("smaller", "later"):
        flat = flatten_overlaps(four, top)
        for name in ("masks", "labels", "scores", "is_crowd"):
            assert getattr(flat, name).equal(getattr(four, name))
        assert len(flatten_overlaps(empty_segments((3, 5)), top)) == 0


@often
@given(masks_of_any_size)
def test_flattened_segments_cover_what_they_covered(masks):
    segments = segments_of(masks)
    for top in ("smaller", "later"):
        flat = flatten_overlaps(segments, top)
        assert flat.masks.any(0).equal(segments.masks.any(0))
        assert (flat.masks.sum(0) <= 1).all() and flat.masks.flatten(1).any(1).all()
        for mask, label in zip(flat.masks, flat.labels, strict=True):
            assert not (mask & ~segments.masks[label]).any()


def test_every_photograph_of_the_balloon_sample_becomes_a_sample():
    """35 of its 74 have polygons that overlap."""
    root = data_root() / "balloon"
    if not root.exists():
        pytest.skip("no balloon images")
    overlap = 0
    for path in (root / "train", root / "val"):
        for entry in json.loads((path / "via_region_data.json").read_text()).values():
            with Image.open(path / entry["filename"]) as photograph:
                width, height = photograph.size
            masks = []
            for region in entry["regions"].values():
                shape, canvas = region["shape_attributes"], Image.new("1", (width, height))
                corners = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
                ImageDraw.Draw(canvas).polygon(list(corners), fill=1)
                masks.append(np.array(canvas))
            balloons, image = segments_of(masks, [0] * len(masks)), torch.zeros(3, height, width)
            try:
                Sample(image, balloons)
            except ValueError as error:
                assert "flatten_overlaps" in str(error)
                overlap += 1
            flat = Sample(image, flatten_overlaps(balloons)).segments
            assert flat.masks.any(0).equal(balloons.masks.any(0))
    assert 30 <= overlap <= 40  # how a polygon's edge is drawn decides on a few
