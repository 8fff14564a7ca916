# Built by `lessons build` from solutions/11_hungarian.ipynb: edit that, not this.
"""Homework 11: Hungarian matching.

Three exercises and a stretch ask what else the matching can tell you: some pairs are forbidden,
any price list is a bound, the second-best matching says how sure the first one is, and buyers at
an auction find it without a search.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lessons.hungarian import hungarian


def match_allowed(
    cost: Float[Tensor, "n m"], allowed: Bool[Tensor, "n m"]
) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """As many allowed pairs as possible, and of these the cheapest: rows and columns."""
    spread = cost.max() - cost.min() + 1
    forbidden = cost.max() + min(cost.shape) * spread
    rows, columns = hungarian(torch.where(allowed, cost, forbidden))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def price_bound(cost: Float[Tensor, "n m"], v: Float[Tensor, "m"]) -> Float[Tensor, ""]:
    """The best lower bound of the least total cost that the columns' prices v give, n ≤ m."""
    v = v.clamp(max=0)
    return (cost - v).amin(dim=1).sum() + v.sum()


def margin(cost: Float[Tensor, "n m"]) -> float:
    """By how much the second-best matching is dearer than the best."""
    rows, columns = hungarian(cost)
    best = cost[rows, columns].sum()
    spread = cost.max() - cost.min() + 1
    gaps = [float("inf")]
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        without = cost.clone()
        without[i, j] = cost.max() + min(cost.shape) * spread
        pairs = hungarian(without)
        if not ((pairs[0] == i) & (pairs[1] == j)).any():
            gaps.append((cost[pairs].sum() - best).item())
    return min(gaps)


def auction(
    cost: Float[Tensor, "n m"], epsilon: float
) -> tuple[Int[Tensor, "n"], Float[Tensor, "m"]]:
    """The column of each row, found by bidding, and the prices at the end."""
    n, m = cost.shape
    prices = cost.new_zeros(m)
    column_of, row_of = [-1] * n, [-1] * m
    while -1 in column_of:
        i = column_of.index(-1)
        paid = cost[i] + prices
        j = int(paid.argmin())
        least, second = paid.topk(2, largest=False).values
        prices[j] += second - least + epsilon
        if row_of[j] >= 0:
            column_of[row_of[j]] = -1
        column_of[i], row_of[j] = j, i
    return torch.tensor(column_of, dtype=torch.int64), prices
