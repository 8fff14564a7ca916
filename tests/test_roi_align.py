"""RoI Pooling and RoIAlign equal torchvision's operators in value and gradient."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision import ops

from lessons.roi_align import cells_along, roi_align, roi_pool


@st.composite
def cases(draw):
    """Features, rois, arguments; boxes inside, across edges, far outside, inverted, empty."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    b, c, h, w = (draw(st.integers(1, most)) for most in (3, 5, 16, 19))
    n, scale = draw(st.integers(0, 9)), draw(st.sampled_from([1.0, 0.5, 0.25, 1 / 3]))
    features = torch.randn(b, c, h, w, generator=generator, dtype=dtype)
    layout = draw(st.sampled_from(["contiguous", "channels last", "every other row"]))
    if layout == "channels last":
        features = features.to(memory_format=torch.channels_last)
    if layout == "every other row":
        features = torch.randn(b, c, 2 * h, w, generator=generator, dtype=dtype)[:, :, ::2]
    side = torch.tensor([w, h, w, h], dtype=dtype) / scale
    reach, shift = draw(st.sampled_from([(1.0, 0.0), (1.6, 0.3), (4.0, 1.5)]))
    boxes = (reach * torch.rand(n, 4, generator=generator, dtype=dtype) - shift) * side
    kind = draw(st.sampled_from(["ordered", "any order", "whole cells", "half cells", "empty"]))
    if kind != "any order":
        boxes = torch.cat(
            [boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], 1
        )
    if kind == "whole cells":
        boxes = (boxes * scale).round() / scale
    if kind == "half cells":  # where rounding is a matter of convention
        boxes = ((boxes * scale).floor() + 0.5) / scale
    if kind == "empty":
        boxes[:, 2:] = boxes[:, :2]
    image = torch.randint(b, (n, 1), generator=generator)
    output_size = draw(st.sampled_from([1, 3, (2, 5), (7, 4)]))
    return features, torch.cat([image.to(dtype), boxes], 1), output_size, scale, kind


def assert_equal(ours, theirs, features, rois, *arguments):
    inputs = [features.detach().clone(memory_format=torch.preserve_format) for _ in range(2)]
    y, expected = (
        function(x.requires_grad_(), rois, *arguments)
        for function, x in zip((ours, theirs), inputs, strict=True)
    )
    assert y.dtype == features.dtype
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-5)
    error = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad(v, x, error)[0] for v, x in zip((y, expected), inputs, strict=True)
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)


@given(cases(), st.integers(-1, 4), st.booleans())
@settings(max_examples=120, deadline=None)
def test_roi_align_equals_torchvision(case, ratio, aligned):
    features, rois, output_size, scale, kind = case
    if kind == "any order" and aligned and ratio <= 0:
        return  # torchvision asks for a negative number of samples and fails
    assert_equal(roi_align, ops.roi_align, features, rois, output_size, scale, ratio, aligned)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_roi_pool_equals_torchvision(case):
    features, rois, output_size, scale, _ = case
    assert_equal(roi_pool, ops.roi_pool, features, rois, output_size, scale)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("ratio", [2, -1])
@pytest.mark.parametrize("aligned", [False, True])
def test_gradcheck(c, ratio, aligned):
    features = torch.randn(2, c, 6, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor(
        [[0, 0.3, 0.7, 4.1, 5.2], [1, -2.0, 1.0, 3.0, 9.0], [0, 2, 2, 2, 2]]
    ).double()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, (2, 3), 0.9, ratio, aligned), features
    )
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, (2, 3), 0.9), features)


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
def test_a_list_of_boxes_is_one_tensor_with_the_image_in_front(pool):
    features = torch.randn(3, 2, 8, 9)
    lists = [torch.tensor([[1.0, 2, 6, 7]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 3, 5]] * 2)]
    image = torch.tensor([[0.0], [2], [2]])
    rois = torch.cat([image, torch.cat(lists)], 1)
    assert torch.equal(pool(features, lists, 3), pool(features, rois, 3))
    torch.testing.assert_close(
        pool(features, lists, 3), getattr(ops, pool.__name__)(features, lists, 3)
    )


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize("c", [1, 4])
def test_no_boxes(pool, c):
    features = torch.randn(2, c, 8, 9, requires_grad=True)
    for nothing in ([torch.zeros(0, 4)] * 2, torch.zeros(0, 5)):
        out = pool(features, nothing, (2, 3))
        assert out.shape == (0, c, 2, 3)
        (gradient,) = torch.autograd.grad(out.sum(), features)
        assert not gradient.any()
    assert pool(features[:0], [], 2).shape == (0, c, 2, 2)


def test_inverted_boxes_with_adaptive_sampling_have_no_samples():
    features = torch.ones(1, 2, 8, 8)
    inverted = torch.tensor([[0, 6.0, 1, 2, 5], [0, 6, 5, 2, 1], [0, 1, 1, 5, 5]])
    out = roi_align(features, inverted, 2, aligned=True)
    assert not out[:2].any() and (out[2] == 1).all()


@pytest.mark.parametrize("ratio", [1, 2, -1])
def test_masks_on_maps_of_their_own(ratio):
    """Mask targets: one channel, one box for each image."""
    masks = (torch.rand(12, 1, 40, 33, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    corner = torch.rand(12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 15
    boxes = torch.cat([corner, corner + 2 + corner.flip(1)], 1)
    rois = torch.cat([torch.arange(12)[:, None].double(), boxes], 1)
    assert_equal(roi_align, ops.roi_align, masks, rois, 28, 1.0, ratio, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("c", [1, 6])
def test_half_precision_keeps_the_boxes_exact(dtype, c):
    features = torch.randn(2, c, 32, 32, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0, 101.3, 90.7, 230.9, 243.1], [1, 3.3, 4.4, 77.7, 66.6]])
    expected = roi_align(features.to(dtype).float(), rois, 7, 1 / 8, 2)
    low = features.to(dtype).requires_grad_()
    out = roi_align(low, rois, 7, 1 / 8, 2)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.02)
    out.sum().backward()
    assert low.grad.dtype == dtype and abs(low.grad.float().sum() - 2 * 49 * c) < 3 * c
    assert roi_pool(low, rois, 7, 1 / 8).dtype == dtype


def test_an_aligned_box_reads_its_own_place():
    """A map that holds its own coordinates gives the centres of the bins, at each stride."""
    for stride in (2, 4, 8):
        x = (torch.arange(64 // stride) * stride + stride / 2).expand(1, 1, 64 // stride, -1)
        found = roi_align(x, torch.tensor([[0, 10.0, 10.0, 38.0, 50.0]]), 7, 1 / stride, 2, True)
        torch.testing.assert_close(found[0, 0, 0], 10 + 4 * (torch.arange(7) + 0.5))


@given(st.floats(-3, 9), st.floats(0, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_weights_of_an_axis_are_those_of_its_samples(start, size, bins, n, length):
    start_and_size = torch.tensor([[start], [size]], dtype=torch.float64)
    cells, weights = cells_along(*start_and_size, n, bins, length)
    expected = torch.zeros(bins, length, dtype=torch.float64)
    for i in range(bins):
        for a in range(n):
            at = start + i * (size / bins) + (a + 0.5) * (size / bins) / n
            if -1 <= at <= length:
                at = min(max(at, 0), length - 1)
                for p in {int(at), min(int(at) + 1, length - 1)}:
                    expected[i, p] += (1 - abs(at - p)) / n
    found = torch.zeros_like(expected).scatter_add(1, cells[0].long(), weights[0])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_a_second_derivative_is_refused_not_wrong():
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    out = roi_align(features, torch.tensor([[0, 0.0, 0, 4, 4]]), 2).square().sum()
    (first,) = torch.autograd.grad(out, features, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        first.sum().backward()


# ---------------------------------------------------------------- what is no number


@given(cases(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(-1, 3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_cell_that_is_no_number_spoils_only_what_reads_it(case, value, ratio, aligned):
    features, rois, output_size, scale, _ = case
    assume(features.shape[1] > 1)  # of one channel, whole rows are multiplied
    side = torch.tensor([features.shape[3], features.shape[2]]) / scale
    low, high = rois[:, 1:3].minimum(rois[:, 3:]), rois[:, 1:3].maximum(rois[:, 3:])
    # A sample outside weighs 0 there as here, and reads another cell; so does a box without area.
    inside = (low >= 1).all(1) & (high + 2 / scale <= side).all(1) & (low < high).all(1)
    rois = torch.cat([rois[:, :1], low, high], 1)[inside]
    bad = torch.rand(features.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    spoilt = features.masked_fill(bad, value)
    arguments = rois, output_size, scale, ratio, aligned
    out, expected = roi_align(spoilt, *arguments), ops.roi_align(spoilt, *arguments)
    right = expected.isfinite()
    torch.testing.assert_close(out[right], expected[right], atol=2e-5, rtol=1e-5)
    read = ops.roi_align(bad.to(features), *arguments) > 1e-6
    assert not out[read].isfinite().any()


@pytest.mark.parametrize("c", [2, 3])
@pytest.mark.parametrize("ratio", [2, -1])
def test_a_nan_in_a_corner_leaves_a_box_elsewhere_alone(c, ratio):
    features = torch.ones(1, c, 10, 10)
    features[..., 0, 0] = features[..., 9, 9] = features[..., 4, 0] = math.nan
    features.requires_grad_()
    out = roi_align(features, torch.tensor([[0, 2.3, 2.2, 7.1, 6.4]]), 3, 1.0, ratio, True)
    assert out.isfinite().all()
    out.sum().backward()
    assert features.grad.sum().item() == pytest.approx(9 * c)


@given(cases(), st.sampled_from([math.nan, math.inf, -math.inf]))
@settings(max_examples=60, deadline=None)
def test_nan_is_never_the_maximum(case, value):
    features, rois, output_size, scale, _ = case
    bad = torch.rand(features.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    spoilt = features.masked_fill(bad, value)
    expected = ops.roi_pool(spoilt, rois, output_size, scale)
    expected[expected == torch.finfo(torch.float32).min] = -math.inf  # where nothing is a number
    assert torch.equal(roi_pool(spoilt, rois, output_size, scale), expected)


# ---------------------------------------------------------------- types


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int64])
def test_boxes_of_integers_are_those_of_floats(pool, dtype):
    features = torch.randn(2, 3, 40, 40)
    rois = torch.tensor([[0, 3, 2, 90, 77], [1, 5, 5, 6, 120], [1, 0, 0, 127, 127]])
    expected = getattr(ops, pool.__name__)(features, rois.float(), 4, 0.3)
    torch.testing.assert_close(pool(features, rois.to(dtype), 4, 0.3), expected)
    lists = [rois[:1, 1:].to(dtype), rois[1:, 1:].to(dtype)]
    torch.testing.assert_close(pool(features, lists, 4, 0.3), expected)


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bfloat16, torch.float16])
def test_the_number_of_an_image_does_not_depend_on_the_type_of_its_boxes(pool, dtype):
    n = 2100 if dtype is torch.float16 else 300
    features = torch.arange(n).view(n, 1, 1, 1).expand(n, 2, 4, 4).float()
    out = pool(features, [torch.tensor([[0, 0, 3, 3]], dtype=dtype)] * n, 1)
    torch.testing.assert_close(out[:, 0, 0, 0], torch.arange(n).float())


# ---------------------------------------------------------------- without values


class Pool(torch.nn.Module):
    def __init__(self, pool, *arguments):
        super().__init__()
        self.pool, self.arguments = pool, arguments

    def forward(self, features, boxes):
        return self.pool(features, boxes, (2, 3), 0.5, *self.arguments)


EVERY = [(roi_align, (2, True)), (roi_align, ()), (roi_pool, ())]
BOXES = torch.tensor([[0, 1.0, 2, 9, 8], [1, 0, 0, 15, 15], [1, 3, 3, 4, 4]])
