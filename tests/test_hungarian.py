"""Hungarian matching equals scipy's least cost, with a proof by prices; ∅ changes no pair."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lessons.hungarian import finite_costs, hungarian, pad_with_no_object, shortest_augmenting_paths

KINDS = {
    "uniform": lambda rng, size: rng.random(size),
    "normal": lambda rng, size: 100 * rng.normal(size=size),
    "ties": lambda rng, size: rng.integers(0, 3, size),
    "whole, both signs": lambda rng, size: rng.integers(-50, 51, size),
    "negative": lambda rng, size: -1 - rng.random(size),
    "equal rows": lambda rng, size: np.tile(rng.random(size[1]), (size[0], 1)),
    "equal columns": lambda rng, size: np.tile(rng.random((size[0], 1)), (1, size[1])),
    "yes or no": lambda rng, size: rng.random(size) < 0.3,
    "of many sizes": lambda rng, size: 10.0 ** rng.uniform(-6, 6, size),
    "a table": lambda rng, size: np.outer(*(np.arange(1, side + 1) for side in size)),
}


def assert_matching(cost, rows, columns):
    """Pairs of rows in order, no column twice, as many as there can be."""
    assert rows.dtype == columns.dtype == torch.int64
    assert len(rows) == len(columns) == min(cost.shape)
    assert rows.equal(rows.unique()) and len(columns.unique()) == len(columns)


def assert_least(cost, rows, columns):
    c = np.asarray(cost, dtype=float)
    found, least = c[rows, columns].sum(), c[linear_sum_assignment(c)].sum()
    assert abs(found - least) <= 1e-12 * len(rows) * np.abs(c).max(initial=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_matrices_like_scipy(kind):
    """100 of each kind, rectangular both ways, up to 100×100."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    for trial in range(100):
        most = 100 if trial % 10 == 0 else 30
        size = tuple(rng.integers(1, most + 1, 2))
        size = (100, 100) if trial == 0 else size
        cost = KINDS[kind](rng, size)
        rows, columns = hungarian(cost)
        assert_matching(cost, rows, columns)
        assert_least(cost, rows, columns)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prices_prove_it(kind):
    """Dual feasible, tight where matched, 0 where single: so their sum is the least cost."""
    rng = np.random.default_rng(sum(map(ord, kind)) + 1)
    for _ in range(30):
        n, m = np.sort(rng.integers(1, 40, 2))
        c = KINDS[kind](rng, (n, m)).astype(float)
        columns, u, v = shortest_augmenting_paths(c)
        close = 1e-12 * n * np.abs(c).max()
        assert (c - u[:, None] - v >= -close).all()
        assert np.abs(c - u[:, None] - v)[np.arange(n), columns].max() <= close
        assert (v <= 0).all() and (v[np.setdiff1d(np.arange(m), columns)] == 0).all()
        assert abs(u.sum() + v.sum() - c[linear_sum_assignment(c)].sum()) <= n * close


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_no_permutation_is_cheaper(seed, n, m, most):
    cost = torch.randint(-most, most + 1, (n, m), generator=torch.Generator().manual_seed(seed))
    rows, columns = hungarian(cost)
    short = cost if n <= m else cost.T
    every = permutations(range(max(n, m)), min(n, m))
    assert cost[rows, columns].sum() == min(short[range(len(p)), list(p)].sum() for p in every)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_nothing_to_match(size):
    for cost in (torch.zeros(size), np.zeros(size)):
        rows, columns = hungarian(cost)
        assert rows.shape == columns.shape == (0,) and rows.dtype == columns.dtype == torch.int64


def test_one_row_one_column():
    assert [each.tolist() for each in hungarian(torch.tensor([[3.0, 1, 2]]))] == [[0], [1]]
    assert [each.tolist() for each in hungarian(torch.tensor([[3.0], [1], [2]]))] == [[1], [0]]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.int8,
        torch.uint8,
        torch.int64,
        torch.bool,
    ],
)
def test_any_real_type(dtype):
    cost = torch.randint(0, 100, (6, 9)).to(dtype)
    assert_least(cost.double(), *hungarian(cost))


def test_tensors_of_every_layout_and_arrays_are_alike():
    cost = torch.randn(12, 7, dtype=torch.float64)
    expected = torch.stack(hungarian(cost))
    array = cost.numpy()
    backwards = np.ascontiguousarray(array[::-1])[::-1]  # a negative stride
    alike = (cost.T.contiguous().T, cost.clone().requires_grad_(), array, backwards)
    for each in (*alike, np.asfortranarray(array)):
        assert torch.stack(hungarian(each)).equal(expected)


def test_the_costs_stay_as_they_were():
    cost = torch.randn(9, 9, dtype=torch.float64)
    before = cost.clone()
    hungarian(cost)
    hungarian(cost.numpy())
    assert cost.equal(before)


def test_transposed_costs_give_the_same_pairs():
    cost = torch.rand(8, 13, dtype=torch.float64)
    pairs = set(zip(*(each.tolist() for each in hungarian(cost)), strict=True))
    turned = set(zip(*(each.tolist() for each in hungarian(cost.T)), strict=True))
    assert turned == {(j, i) for i, j in pairs}


def test_the_same_ties_the_same_pairs():
    cost = torch.randint(0, 2, (20, 20))
    first = torch.stack(hungarian(cost))
    assert all(torch.stack(hungarian(cost.clone())).equal(first) for _ in range(3))


def test_whole_numbers_are_exact():
    cost = torch.randint(-(2**40), 2**40, (15, 20))
    rows, columns = hungarian(cost)
    _, u, v = shortest_augmenting_paths(finite_costs(cost))
    assert cost[rows, columns].sum() == int(u.sum() + v.sum())


# ---------------------------------------------------------------- no object


@given(st.integers(0, 10**6), st.integers(0, 12), st.floats(-20, 20))
@settings(max_examples=60, deadline=None)
def test_no_object_changes_no_real_pair(seed, q, no_object_cost):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(0, q + 1, (), generator=generator))
    cost = torch.randn(q, n, generator=generator, dtype=torch.float64)
    padded = pad_with_no_object(cost, no_object_cost)
    assert padded.shape == (q, q) and padded[:, :n].equal(cost)
    assert (padded[:, n:] == no_object_cost).all()
    rows, columns = hungarian(padded)
    assert rows.equal(torch.arange(q))
    real = columns < n
    assert torch.stack((rows[real], columns[real])).equal(torch.stack(hungarian(cost)))


def test_no_object_keeps_precision_and_gradient():
    cost = torch.rand(5, 3, dtype=torch.float32, requires_grad=True)
    padded = pad_with_no_object(cost)
    assert padded.dtype == torch.float32 and not padded[:, 3:].any()
    (gradient,) = torch.autograd.grad(padded.sum(), cost)
    assert (gradient == 1).all()
