"""What cannot be matched is named in one sentence."""

import numpy as np
import pytest
import torch

from lessons.hungarian import hungarian, pad_with_no_object


def with_entry(value):
    cost = torch.rand(4, 6, dtype=torch.float64)
    cost[2, 3] = value
    return cost


WRONG = {
    "NaN": (with_entry(float("nan")), "cost is nan at row 2, column 3: the training has diverged"),
    "+inf": (with_entry(float("inf")), "cost is inf at row 2, column 3: the training has diverged"),
    "-inf": (with_entry(-float("inf")), "cost is -inf at row 2, column 3: the training has div"),
    "beyond sums": (with_entry(1e305), "cost is 1e.305 at row 2, column 3: too large"),
    "a vector": (torch.zeros(5), r"cost must be real \(n, m\), not float \(5,\)"),
    "a batch": (torch.zeros(2, 3, 4), r"cost must be .*\(2, 3, 4\)"),
    "a list": ([[1.0, 2.0]], r"cost must be real .*, real or boolean \(n, m\), not a list"),
    "complex": (torch.zeros(2, 3, dtype=torch.complex64), "cost must be real .*complex64"),
    "complex array": (np.zeros((2, 3), complex), "cost must be real .*complex128"),
    "words": (np.array([["a", "b"]]), "cost must be real .*<U1"),
    "objects": (np.array([[None, 1]]), "cost must be real .*object"),
}


@pytest.mark.parametrize("cost, message", WRONG.values(), ids=WRONG.keys())
def test_the_cost_is_named(cost, message):
    with pytest.raises(ValueError, match=message):
        hungarian(cost)


@pytest.mark.parametrize("cost", [with_entry(float("nan")), with_entry(float("inf"))])
def test_the_entry_is_named_in_the_callers_order(cost):
    """Also where the matching is found on the transposed costs, and in an array."""
    for each in (cost.T.contiguous(), cost.T.numpy(), cost.T.half()):
        with pytest.raises(ValueError, match="at row 3, column 2"):
            hungarian(each)


def test_more_segments_than_queries_leave_no_room():
    with pytest.raises(ValueError, match=r"cost has more segments \(5\) than queries \(4\)"):
        pad_with_no_object(torch.zeros(4, 5))


@pytest.mark.parametrize("cost", [torch.zeros(4), torch.zeros(4, 3, dtype=torch.int64)])
def test_what_cannot_be_padded(cost):
    with pytest.raises(ValueError, match=r"cost must be float \(q, n\), not "):
        pad_with_no_object(cost)


def test_a_cost_of_no_object_that_is_nan():
    with pytest.raises(ValueError, match="cost is nan at row 0, column 1"):
        hungarian(pad_with_no_object(torch.zeros(3, 1), float("nan")))
