"""What cannot be judged is named: the image, the side, the segments, what was found there."""

import json

import numpy as np
import pytest
import torch

from lessons.kit.data import Category, Segments, empty_segments
from lessons.kit.data.panoptic_files import write_panoptic
from lessons.panoptic_quality import (
    count_overlaps,
    ids_to_rgb,
    match_segments,
    panoptic_map,
    panoptic_quality,
    rgb_to_ids,
)

KINDS = [Category("sheep", True, (0, 0, 0)), Category("meadow", False, (0, 255, 0))]


def segments(size=(8, 8), label=0):
    return Segments(torch.ones(1, *size, dtype=torch.bool), torch.tensor([label]))


def overlapping():
    """Three segments; 1 and 2 have six pixels in common."""
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :2], masks[1, 3:6, :4], masks[2, 4:, 1:] = True, True, True
    return Segments(masks, torch.tensor([0, 0, 1]))


WRONG = {
    "another size": (
        segments((8, 9)),
        segments(),
        r"image 1: predicted masks are \(8, 9\), true ones \(8, 8\)",
    ),
    "unknown predicted label": (
        segments(label=2),
        segments(),
        "image 1: predicted labels must be 0 … 1, the 2 classes, not 2",
    ),
    "unknown true label": (
        segments(),
        segments(label=-1),
        "image 1: true labels must be 0 … 1, the 2 classes, not -1",
    ),
    "overlapping prediction": (
        overlapping(),
        segments(),
        "image 1: predicted segments 1 and 2 overlap in 6 pixels: a panoptic answer gives each",
    ),
    "overlapping truth": (
        segments(),
        overlapping(),
        "image 1: true segments 1 and 2 overlap in 6 pixels",
    ),
}


@pytest.mark.parametrize("prediction, target, message", WRONG.values(), ids=WRONG.keys())
def test_the_image_is_named(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        panoptic_quality([segments(), prediction], [segments(), target], KINDS)


def test_as_many_predictions_as_targets():
    with pytest.raises(ValueError, match="2 predictions for 1 targets"):
        panoptic_quality([segments(), segments()], [segments()], KINDS)


def test_segments_that_overlap_have_no_map_and_no_matches():
    with pytest.raises(ValueError, match="^segments 1 and 2 overlap in 6 pixels"):
        panoptic_map(overlapping())
    with pytest.raises(ValueError, match="^predicted segments 1 and 2 overlap"):
        match_segments(overlapping(), segments())


def test_segments_of_two_sizes_have_no_matches():
    with pytest.raises(ValueError, match=r"^predicted masks are \(8, 9\), true ones \(8, 8\)$"):
        match_segments(segments((8, 9)), segments())


@pytest.mark.parametrize("id_", (256**3, -1))
def test_an_id_without_a_colour(id_):
    ids = torch.zeros(2, 3, 4, dtype=torch.int64)
    ids[1, 2, 3] = id_
    where = rf"id {id_} at row 2, column 3 does not fit into three bytes \(0 … 16777215\)"
    with pytest.raises(ValueError, match="image 1: " + where):
        ids_to_rgb(ids)
    with pytest.raises(ValueError, match="^" + where):
        ids_to_rgb(ids[1])


def test_colours_are_three_bytes():
    with pytest.raises(ValueError, match=r"rgb must be uint8 .*, not float \(4, 5, 3\)"):
        rgb_to_ids(torch.rand(4, 5, 3))
    with pytest.raises(ValueError, match=r"rgb must be uint8 .*, not uint8 \(4, 5, 4\)"):
        rgb_to_ids(torch.zeros(4, 5, 4, dtype=torch.uint8))


def test_ids_that_no_segment_has():
    ids = torch.tensor([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="predicted ids must be 0 … 2, not 0 … 3"):
        count_overlaps(ids, ids, 2, 3)
    with pytest.raises(ValueError, match="true ids must be 0 … 3, not -1 … 2"):
        count_overlaps(ids, ids - 1, 3, 3)
    with pytest.raises(
        ValueError, match=r"true must be integer .* = \(2, 2\) as predicted, not .* \(1, 2\)"
    ):
        count_overlaps(ids, ids[:1], 3, 3)


FILES = {
    "overlap": (overlapping(), {}, "image 1: segments must be disjoint, 6 pixels are in two"),
    "label": (segments(label=2), {}, "image 1: label 2 is none of 2 categories"),
    "large id": (
        segments(),
        {"ids": [torch.tensor([5]), torch.tensor([256**3])]},
        "image 1: id 16777216 is not one of 1 … 16777215",
    ),
    "id of void": (
        segments(),
        {"ids": [torch.tensor([5]), torch.tensor([0])]},
        "image 1: id 0 is not one of 1 …",
    ),
    "half an id": (
        segments(),
        {"ids": [torch.tensor([5]), torch.tensor([1.5])]},
        "image 1: id 1.5 is not one of 1 …",
    ),
    "too few ids": (
        segments(),
        {"ids": [torch.tensor([5]), torch.tensor([], dtype=torch.int64)]},
        "image 1: ids must be 1 different ones",
    ),
    "one name twice": (segments(), {"names": ["a", "a"]}, "names must be 2 different ones"),
    "too few names": (segments(), {"names": ["a"]}, "names must be 2 different ones"),
}


@pytest.mark.parametrize("answer, options, message", FILES.values(), ids=FILES.keys())
def test_what_the_format_cannot_hold(tmp_path, answer, options, message):
    with pytest.raises(ValueError, match=message):
        write_panoptic(tmp_path / "answers.json", [segments(), answer], KINDS, **options)
    assert not (tmp_path / "answers.json").exists()


def test_nothing_is_no_mistake():
    nothing = empty_segments((8, 8))
    assert panoptic_quality([nothing], [segments()], KINDS)["pq"] == 0


def test_categories_may_be_numpys(tmp_path):
    ids = np.array([7, 3])
    path = write_panoptic(tmp_path / "a.json", [segments()], KINDS, category_ids=ids)
    assert [category["id"] for category in json.loads(path.read_text())["categories"]] == [7, 3]
    with pytest.raises(TypeError, match="float"):
        write_panoptic(tmp_path / "b.json", [segments()], KINDS, category_ids=ids + 0.5)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_are_different_ones_one_for_each_image(tmp_path, names):
    with pytest.raises(ValueError, match="^names must be 2 different ones, one for each image$"):
        write_panoptic(tmp_path / "a.json", [segments(), segments()], KINDS, names=names)
