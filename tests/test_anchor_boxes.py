"""Lesson 02 against torchvision, on random and on awkward inputs."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import _utils as peer
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from lessons.anchor_boxes import (
    LARGEST_GROWTH,
    box_iou,
    decode_boxes,
    encode_boxes,
    largest_float,
    make_anchors,
    nms,
    survivors,
)

many = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def random_boxes(n, seed, size=60.0, whole=False):
    """Boxes with an area, many overlapping; `whole` pixels make ties and duplicates."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * size
    sides = 2 + torch.rand(n, 2, generator=generator) * size / 2
    boxes = torch.cat([corner, corner + sides], dim=1)
    return boxes.div(4).round().mul(4) + torch.tensor([0.0, 0, 4, 4]) if whole else boxes


# ---------------------------------------------------------------- box_iou


@given(st.integers(0, 20), st.integers(0, 20), seeds, st.booleans(), st.booleans(), st.booleans())
@many
def test_iou_equals_torchvision_in_every_bit(n, m, seed, whole, double, tiny):
    kind = torch.float64 if double else torch.float32
    unit = 1 / 4096 if tiny else 1  # a unit in which the image is small
    boxes = unit * random_boxes(n, seed, whole=whole).to(kind)
    others = unit * random_boxes(m, seed + 1, whole=whole).to(kind)
    assert torch.equal(box_iou(boxes, others), torchvision.ops.box_iou(boxes, others))


def test_iou_of_batches_is_that_of_each():
    boxes, others = random_boxes(12, 0).view(3, 4, 4), random_boxes(15, 1).view(3, 5, 4)
    each = torch.stack([box_iou(a, b) for a, b in zip(boxes, others, strict=True)])
    assert torch.equal(box_iou(boxes, others), each)


def test_iou_without_area_is_zero_and_never_nan():
    point, box = torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[0.0, 0, 10, 10]])
    assert box_iou(point, point).item() == box_iou(point, box).item() == 0


def test_iou_changes_no_argument_and_has_the_right_gradient():
    boxes, others = random_boxes(4, 0).double(), random_boxes(3, 1).double()
    before = boxes.clone(), others.clone()
    box_iou(boxes, others)
    assert torch.equal(boxes, before[0]) and torch.equal(others, before[1])
    arguments = boxes.requires_grad_(), others.requires_grad_()
    assert torch.autograd.gradcheck(box_iou, arguments)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_iou_of_half_precision_is_computed_in_full(kind):
    boxes = (random_boxes(6, 0, whole=True)).to(kind)
    iou = box_iou(boxes, boxes)
    assert iou.dtype == torch.float32 and torch.equal(iou, box_iou(boxes.float(), boxes.float()))


# ---------------------------------------------------------------- the box code


@given(st.integers(0, 12), seeds, st.sampled_from([(1, 1, 1, 1), (10.0, 10.0, 5.0, 5.0)]))
@many
def test_code_equals_torchvision_and_goes_back(n, seed, weights):
    boxes, anchors = random_boxes(n, seed), random_boxes(n, seed + 1)
    coder = peer.BoxCoder(weights)
    code = encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(code, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode_boxes(code, anchors, weights), boxes, atol=1e-4, rtol=1e-4)
    wild = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * 30
    torch.testing.assert_close(
        decode_boxes(wild, anchors, weights), coder.decode_single(wild, anchors)
    )


def test_code_of_several_classes_shares_the_anchor():
    anchors, deltas = random_boxes(7, 0), torch.randn(7, 3, 4)
    expected = peer.BoxCoder((10, 10, 5, 5)).decode_single(deltas.flatten(1), anchors)
    found = decode_boxes(deltas, anchors[:, None], (10, 10, 5, 5))
    torch.testing.assert_close(found.flatten(1), expected)


def test_growth_has_a_limit():
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    x0, y0, x1, y1 = decode_boxes(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), anchor)[0].tolist()
    assert x1 - x0 == pytest.approx(625) and y1 - y0 == pytest.approx(1250)
    assert pytest.approx(1000 / 16) == math.exp(LARGEST_GROWTH)


# ---------------------------------------------------------------- anchors


@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4),
    st.lists(st.floats(3, 600), min_size=1, max_size=3),
    st.lists(st.floats(0.2, 5), min_size=1, max_size=4),
    st.integers(20, 300),
    st.integers(20, 300),
)
@many
def test_anchors_equal_torchvision(grid, sizes, ratios, height, width):
    strides = [(height // h, width // w) for h, w in grid]
    ours = make_anchors(grid, strides, [sizes] * len(grid), ratios)
    generator = AnchorGenerator((tuple(sizes),) * len(grid), (tuple(ratios),) * len(grid))
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    theirs = generator(images, [torch.zeros(1, 2, *size) for size in grid])[0]
    assert [len(level) for level in ours] == [h * w * len(sizes) * len(ratios) for h, w in grid]
    assert torch.equal(torch.cat(ours), theirs)


def test_one_number_is_a_stride_both_ways_and_one_size():
    (one,) = make_anchors([(2, 3)], [8], [12])
    (other,) = make_anchors([(2, 3)], [(8, 8)], [[12.0]])
    assert torch.equal(one, other)


# ---------------------------------------------------------------- nms


def one_group_at_a_time(boxes, scores, threshold, groups):
    """torchvision's `batched_nms` for many boxes: without moved coordinates, so exact."""
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for group in groups.unique():
        mine = (groups == group).nonzero()[:, 0]
        kept[mine[torchvision.ops.nms(boxes[mine], scores[mine], threshold)]] = True
    index = kept.nonzero()[:, 0]
    return index[scores[index].argsort(descending=True, stable=True)]


@given(
    st.integers(0, 320),
    seeds,
    st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 1.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, 3, 40]),
)
@settings(max_examples=150, deadline=None)
def test_nms_equals_torchvision(n, seed, threshold, whole, ties, groups):
    boxes = random_boxes(n, seed, size=40.0, whole=whole)
    scores = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    scores = (scores * 5).round() if ties else scores
    if groups is None:
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert torch.equal(nms(boxes, scores, threshold), expected)
    else:
        groups = torch.randint(groups, (n,), generator=torch.Generator().manual_seed(seed))
        expected = one_group_at_a_time(boxes, scores, threshold, groups)
        assert torch.equal(nms(boxes, scores, threshold, groups), expected)


def test_nms_of_many_in_groups_equals_batched_nms():
    boxes = random_boxes(1500, 0)
    scores = torch.randperm(1500).float()  # no two alike: torchvision orders those at random
    groups = torch.arange(1500) % 5
    expected = torchvision.ops.batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(nms(boxes, scores, 0.5, groups), expected)


def test_nms_at_a_threshold_that_is_an_iou():
    """3 of 10 pixels: torchvision compares the 32-bit quotient with the 64-bit threshold."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1], [0, 0, 5, 1], [0, 0, 7, 1], [0, 0, 6, 1]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        assert largest_float(threshold, torch.float64) == threshold
        for pair in ([0, 1], [0, 2], [0, 3], [0, 4]):
            for each in (boxes[pair], boxes[pair].double()):
                expected = torchvision.ops.nms(each, scores[pair].to(each), threshold)
                assert torch.equal(nms(each, scores[pair], threshold), expected)
    assert largest_float(0.3, torch.float32) < 0.3


def test_nms_of_equal_boxes_keeps_the_first_of_the_best():
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(300, 1)
    scores = torch.zeros(300)
    scores[[7, 200]] = 1
    assert nms(boxes, scores, 0.5).tolist() == [7]
    assert nms(boxes, scores, 1.0).tolist() == torchvision.ops.nms(boxes, scores, 1.0).tolist()


def test_nms_without_area_and_of_nothing():
    points = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [0, 0, 10, 0]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert torch.equal(nms(points, scores, 0.0), torchvision.ops.nms(points, scores, 0.0))
    none = torch.zeros(0, dtype=torch.int64)
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5, none).dtype == torch.int64


def test_nms_follows_a_chain_through_several_steps():
    """Each box suppresses only the next: every second one survives, over blocks of 128."""
    start = 10.0 * torch.arange(500)
    boxes = torch.stack([start, 0 * start, start + 15, 0 * start + 10], dim=1)
    scores = torch.linspace(1, 0, 500)
    assert nms(boxes, scores, 0.19).tolist() == list(range(0, 500, 2))
    assert survivors(box_iou(boxes[:9], boxes[:9]) > 0.19).tolist() == [True, False] * 4 + [True]


# ---------------------------------------------------------------- odd numbers, integers

ODD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_with_odd_boxes_is_torchvisions(odd, threshold):
    """A box with a NaN overlaps nothing: it is kept and takes no other with it."""
    boxes = random_boxes(400, 40)
    for k in range(0, 400, 23):
        boxes[k, k % 4] = odd
    scores = torch.rand(400)
    assert nms(boxes, scores, threshold).equal(torchvision.ops.nms(boxes, scores, threshold))
    groups = torch.randint(3, (400,))
    expected = torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, groups, threshold)
    assert nms(boxes, scores, threshold, groups).equal(expected)


@pytest.mark.parametrize("odd", ODD)
def test_nms_with_odd_scores_is_torchvisions(odd):
    boxes, scores = random_boxes(300, 40), torch.rand(300)
    scores[::50] = odd
    assert nms(boxes, scores, 0.5).equal(torchvision.ops.nms(boxes, scores, 0.5))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_boxes_of_integers_overlap_as_those_of_floats(dtype):
    boxes = random_boxes(50, 60).round()
    whole = boxes.to(dtype)
    assert box_iou(whole, whole).equal(box_iou(boxes, boxes))
    assert nms(whole, torch.arange(50.0), 0.5).equal(nms(boxes, torch.arange(50.0), 0.5))
    if dtype != torch.uint8:  # torchvision's areas of bytes wrap
        expected = torchvision.ops.box_iou(whole, whole)
        torch.testing.assert_close(box_iou(whole, whole), expected.nan_to_num())


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def whole_boxes(n, seed, dtype):
    """Boxes of integers, with an area; the first is as large as the type (or ±1000) allows."""
    limits = torch.iinfo(dtype) if dtype in INTEGERS else torch.iinfo(torch.int8)
    low, high = max(limits.min, -1000), min(limits.max, 1000)
    middle, generator = (low + high) // 2, torch.Generator().manual_seed(seed)
    start = torch.randint(low, middle, (n, 2), generator=generator)
    end = torch.randint(middle, high, (n, 2), generator=generator)
    start[:1], end[:1] = low, high
    return torch.cat([start, end], dim=1).to(dtype)


@given(st.integers(0, 9), st.integers(0, 9), seeds, st.sampled_from(INTEGERS))
@many
def test_iou_of_integers_equals_torchvision(n, m, seed, dtype):
    boxes, others = whole_boxes(n, seed, dtype), whole_boxes(m, seed + 1, dtype)
    # As int64, in which no difference overflows: torchvision's of two int8 does.
    assert torch.equal(box_iou(boxes, others), torchvision.ops.box_iou(boxes.long(), others.long()))
    assert torch.equal(box_iou(boxes, others.double()), box_iou(boxes.double(), others.double()))


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", [(10, 10, 5, 5), (0.5, 0.25, 0.1, 3.0)])
def test_the_code_of_any_type_is_that_of_floats(dtype, weights):
    boxes, anchors = whole_boxes(9, 0, dtype), whole_boxes(9, 1, dtype)
    coder = peer.BoxCoder(weights)
    code = encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(code, coder.encode_single(boxes.float(), anchors.float()))
    expected = coder.decode_single(code, anchors.float())
    torch.testing.assert_close(decode_boxes(code, anchors, weights), expected)
    steps = torch.randint(0, 4, (9, 4), generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = coder.decode_single(steps.float(), anchors.float())
    torch.testing.assert_close(decode_boxes(steps, anchors, weights), expected)


SPOILT = st.lists(st.tuples(seeds, st.sampled_from(ODD)), max_size=6)


def spoil(values, places):
    for place, value in places:
        values.view(-1)[place % values.numel()] = value
    return values


@given(st.integers(1, 9), seeds, SPOILT)
@many
def test_what_is_no_number_is_compared_and_decoded_as_by_torchvision(n, seed, places):
    boxes, others = spoil(random_boxes(n, seed), places), random_boxes(n, seed + 1)
    found, expected = box_iou(boxes, others), torchvision.ops.box_iou(boxes, others)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    deltas = spoil(torch.randn(n, 4), places)
    expected = peer.BoxCoder((1, 1, 1, 1)).decode_single(deltas, others)
    torch.testing.assert_close(decode_boxes(deltas, others), expected, equal_nan=True)


@given(
    st.integers(1, 300),
    seeds,
    SPOILT,
    SPOILT,
    st.sampled_from([0.0, 0.3, 0.5, 1.0, math.nan]),
    st.sampled_from([None, 1, 3]),
)
@settings(max_examples=100, deadline=None)
def test_nms_of_what_is_no_number(n, seed, corners, values, threshold, groups):
    boxes = spoil(random_boxes(n, seed, size=40.0), corners)
    scores = spoil(torch.rand(n, generator=torch.Generator().manual_seed(seed)), values)
    if groups is None:
        expected = torchvision.ops.nms(boxes, scores, threshold)
        assert torch.equal(nms(boxes, scores, threshold), expected)
    else:
        groups = torch.randint(groups, (n,), generator=torch.Generator().manual_seed(seed))
        expected = one_group_at_a_time(boxes, scores, threshold, groups)
        assert torch.equal(nms(boxes, scores, threshold, groups), expected)
        assert torch.equal(nms(boxes, scores, threshold, groups.byte()), expected)
