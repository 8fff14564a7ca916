"""The Lovász hinge equals kornia's, a brute-force extension and the Jaccard loss at corners."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.losses import lovasz_hinge_loss
from scipy.optimize import linprog

from lessons.average_precision import mask_iou
from lessons.lovasz import jaccard_loss, lovasz_gradient, lovasz_hinge


def sets_of(p):
    """All 2^p sets of p pixels, one in each row."""
    return torch.tensor(list(product((False, True), repeat=p)))


def jaccard_of_sets(labels):
    """1 − IoU of the prediction that is wrong in each of the sets, from its definition."""
    wrong = sets_of(len(labels)).numpy()
    labels = labels.numpy()
    prediction = wrong ^ labels
    union = (prediction | labels).sum(1)
    iou = np.where(union > 0, (prediction & labels).sum(1) / np.maximum(union, 1), 1.0)
    return 1 - iou


def tightest_convex(errors, labels):
    """The largest convex function below the Jaccard loss, and its gradient, over all sets.

    The dual linear program: the largest Σ w·m with w(M) ≤ J(M) for every set M and equality
    for all pixels together. No order, no sorting.
    """
    sets, J = sets_of(len(labels)).double().numpy(), jaccard_of_sets(labels)
    found = linprog(
        -errors.numpy(),
        A_ub=sets[:-1],
        b_ub=J[:-1],
        A_eq=sets[-1:],  # all pixels
        b_eq=J[-1:],
        bounds=(None, None),
    )
    assert found.success
    return -found.fun, found.x


def logits_with(errors, labels):
    return (1 - errors) * (2 * labels.to(errors) - 1)


@st.composite
def cases(draw, most=8, dtype=torch.float64):
    """Logits and bool labels of a few masks: random, empty, full, and all pixels alike."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    n, p = draw(st.integers(1, 4)), draw(st.integers(1, most))
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
    scale = draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    logits = scale * torch.randn(n, p, generator=generator, dtype=dtype)
    return logits, torch.rand(n, p, generator=generator) < share


@given(cases())
@settings(max_examples=60, deadline=None)
def test_the_hinge_is_the_tightest_convex_function_over_all_subsets(case):
    logits, labels = case
    logits.requires_grad_()
    loss = lovasz_hinge(logits, labels)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for k in range(len(logits)):
        y = labels[k]
        errors = (1 - logits[k] * (2 * y.double() - 1)).relu().detach()
        value, _ = tightest_convex(errors, y)
        assert loss[k].item() == pytest.approx(value, abs=1e-6)
        # The weights are a vertex of the same program: no set weighs more than its Jaccard loss.
        weights = gradient[k].abs()
        assert (sets_of(len(y)).double() @ weights <= torch.tensor(jaccard_of_sets(y)) + 1e-6).all()
        assert (weights * errors).sum().item() == pytest.approx(value, abs=1e-6)
        sign = -(2 * y.double() - 1)
        assert ((gradient[k] * sign)[errors > 0] >= 0).all() and not gradient[k][errors == 0].any()


@pytest.mark.parametrize("p", [1, 3, 5, 8])
def test_gradients_are_those_of_the_brute_force(p):
    """Without ties the gradient is unique."""
    generator = torch.Generator().manual_seed(p)
    for labels in torch.rand(6, p, generator=generator) < 0.5:
        logits = torch.randn(1, p, generator=generator, dtype=torch.float64) / 3  # all in error
        logits.clamp_(-0.9, 0.9).requires_grad_()
        (gradient,) = torch.autograd.grad(lovasz_hinge(logits, labels[None]).sum(), logits)
        errors = (1 - logits[0] * (2 * labels.double() - 1)).detach()
        _, weights = tightest_convex(errors, labels)
        expected = -torch.tensor(weights) * (2 * labels.double() - 1)
        torch.testing.assert_close(gradient[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("p", range(1, 9))
def test_it_is_the_jaccard_loss_at_every_corner(p):
    wrong = sets_of(p)
    for labels in sets_of(p)[:: max(1, 2**p // 32)]:
        rows = labels.expand(len(wrong), -1)
        expected = torch.tensor(jaccard_of_sets(labels))
        torch.testing.assert_close(jaccard_loss(wrong, rows).double(), expected)
        at_corner = lovasz_hinge(logits_with(wrong.double(), rows), rows)
        torch.testing.assert_close(at_corner, expected, atol=1e-12, rtol=0)


@given(cases(most=300, dtype=torch.float32), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=100, deadline=None)
def test_it_equals_kornia_in_value_and_gradient(case, dtype):
    logits, labels = case
    logits = logits.to(dtype).requires_grad_()
    kinds = (labels, labels.int(), labels.to(torch.uint8), labels.long(), labels.float())
    expected = lovasz_hinge_loss(logits[:, None, :, None], labels[..., None])
    (reference,) = torch.autograd.grad(expected, logits)
    errors = (1 - logits * (2 * labels.to(dtype) - 1)).detach()
    unique = errors.unique().numel() == errors.numel()
    for kind in kinds:
        loss = lovasz_hinge(logits, kind)
        assert loss.shape == logits.shape[:1] and loss.dtype == dtype
        torch.testing.assert_close(loss.mean(), expected, atol=1e-6, rtol=1e-6)
        (gradient,) = torch.autograd.grad(loss.mean(), logits)
        if unique:  # on a tie there is more than one gradient
            torch.testing.assert_close(gradient, reference, atol=1e-6, rtol=0)


def test_images_of_any_size_and_layout():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 17, 23, generator=generator)
    labels = torch.rand(5, 17, 23, generator=generator) < 0.3
    expected = lovasz_hinge(logits.flatten(1), labels.flatten(1))
    torch.testing.assert_close(lovasz_hinge(logits, labels), expected)
    turned = logits.mT.contiguous().mT
    torch.testing.assert_close(lovasz_hinge(turned, labels), expected)
    torch.testing.assert_close(lovasz_hinge(logits[:, None], labels[:, None]), expected)
    one_pixel_each = lovasz_hinge(logits[:, 0, 0], labels[:, 0, 0])
    torch.testing.assert_close(one_pixel_each, lovasz_hinge(logits[:, :1, 0], labels[:, :1, 0]))


def test_masks_do_not_hear_of_one_another():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 50, generator=generator)
    labels = torch.rand(4, 50, generator=generator) < torch.tensor([[0.1], [0.9], [0.0], [1.0]])
    alone = [lovasz_hinge(logits[k : k + 1], labels[k : k + 1]) for k in range(4)]
    torch.testing.assert_close(lovasz_hinge(logits, labels), torch.cat(alone))


def test_without_an_object_the_largest_error_counts():
    logits = torch.tensor([[0.3, -2.0, 1.5, 0.0], [-3.0, -2.0, -1.5, -1.0]], requires_grad=True)
    loss = lovasz_hinge(logits, torch.zeros(2, 4, dtype=torch.bool))
    assert loss.tolist() == [2.5, 0.0]
    loss.sum().backward()
    assert logits.grad.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_full_mask_is_the_mean_hinge():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    expected = (1 - logits).relu().mean(1)
    torch.testing.assert_close(lovasz_hinge(logits, torch.ones(3, 40)), expected)


@pytest.mark.parametrize("shape", [(0, 8, 9), (0, 0), (0,), (3, 0, 5)])
def test_no_masks_and_no_pixels(shape):
    logits = torch.zeros(shape, requires_grad=True)
    loss = lovasz_hinge(logits, torch.zeros(shape, dtype=torch.bool))
    assert loss.shape == shape[:1] and not loss.any()
    loss.sum().backward()
    assert logits.grad.shape == shape
    assert jaccard_loss(torch.zeros(shape), torch.zeros(shape)).tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 300, 300, generator=generator).to(dtype).requires_grad_()
    labels = torch.rand(2, 300, 300, generator=generator) < 0.2
    loss = lovasz_hinge(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, lovasz_hinge(logits.float(), labels))
    loss.sum().backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_nan_is_passed_on_and_stays_in_its_mask():
    logits = torch.zeros(2, 5)
    logits[0, 2] = float("nan")
    loss = lovasz_hinge(logits, torch.tensor([[True, False, True, False, False]] * 2))
    assert loss[0].isnan() and loss[1] == 1


@given(cases(most=12))
@settings(max_examples=60, deadline=None)
def test_it_is_never_below_the_jaccard_loss_of_the_painted_mask(case):
    logits, labels = case
    wrong = (logits > 0) ^ labels
    assert (lovasz_hinge(logits, labels) >= jaccard_loss(wrong, labels).double() - 1e-6).all()


def test_it_is_convex_in_the_logits():
    generator = torch.Generator().manual_seed(0)
    a, b = 2 * torch.randn(2, 5000, 9, generator=generator, dtype=torch.float64)
    labels = torch.rand(5000, 9, generator=generator) < 0.4
    ends = (lovasz_hinge(a, labels) + lovasz_hinge(b, labels)) / 2
    assert (lovasz_hinge((a + b) / 2, labels) <= ends + 1e-12).all()


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(3, 12, generator=generator) < 0.4
    assert torch.autograd.gradcheck(lambda x: lovasz_hinge(x, labels), logits)


@pytest.mark.parametrize("p", [1, 2, 5, 7])
def test_steps_are_differences_of_the_jaccard_loss(p):
    labels = sets_of(p)
    found = lovasz_gradient(labels.double())
    wrong = torch.ones(p, p).tril().bool()  # the first pixel, the first two, …
    for row, y in zip(found, labels, strict=True):
        values = jaccard_loss(wrong, y.expand(p, -1)).double()
        torch.testing.assert_close(row, values.diff(prepend=torch.zeros(1)), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(2**p, dtype=torch.float64))


def test_steps_of_a_large_image_are_exact_in_float32():
    """Differences of neighbouring Jaccard losses would keep two digits."""
    labels = torch.rand(1, 2**20, generator=torch.Generator().manual_seed(0)) < 0.2
    expected = lovasz_gradient(labels.double())
    torch.testing.assert_close(
        lovasz_gradient(labels.float()).double(), expected, rtol=1e-6, atol=0
    )


def test_the_jaccard_loss_is_one_minus_the_iou_of_lesson_01():
    generator = torch.Generator().manual_seed(0)
    truth, painted = torch.rand(2, 20, 9, 11, generator=generator) < 0.4
    expected = 1 - mask_iou(painted, truth).diagonal()
    for kind in (torch.bool, torch.int32, torch.float64):
        found = jaccard_loss((painted ^ truth).to(kind), truth.to(kind))
        torch.testing.assert_close(found.double(), expected)


def test_what_goes_in_is_left_as_it_was():
    logits, labels = torch.randn(2, 9), torch.ones(2, 9)
    before = logits.clone()
    lovasz_hinge(logits, labels)
    assert torch.equal(logits, before) and (labels == 1).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_the_gradient_takes_labels_of_any_type(dtype):
    labels = torch.rand(3, 300, generator=torch.Generator().manual_seed(0)) > 0.7
    steps = lovasz_gradient(labels.to(dtype))
    assert steps.dtype == torch.float32
    assert torch.equal(steps, lovasz_gradient(labels.float()))


def test_infinite_logits_cost_nothing_where_right_and_no_number_where_wrong():
    labels, logits = torch.tensor([[1, 0, 0]]), torch.tensor([[math.inf, -math.inf, -2.0]])
    assert lovasz_hinge(logits, labels).item() == 0
    assert not lovasz_hinge(-logits, labels).isfinite()
