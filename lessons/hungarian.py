# Built by `lessons build` from notebooks/11_hungarian.ipynb: edit that, not this.
"""Hungarian matching.

You build the algorithm that decides which prediction answers for which true segment: the one-to-
one matching of least total cost, found in polynomial time, with a proof of its optimality that
grows along with it.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from lessons.kit.data.checks import checked


def search(
    c: Float[np.ndarray, "n m"],
    u: Float[np.ndarray, "n"],
    v: Float[np.ndarray, "m"],
    row_of: Int[np.ndarray, "m"],
    new: int,
) -> tuple[list[int], list[float], int, float, Int[np.ndarray, "m"]]:
    """The shortest path from a single row to a free column (Dijkstra; lengths are slacks).

    Returns the columns of the tree and the height of each, the free column and its height, and
    the row that each column was reached by.
    """
    distance, reached_by = np.full(len(v), np.inf), np.full(len(v), new)
    price, tree, heights = v.copy(), [], []  # price: v, or −inf in columns of the tree
    i, height = new, 0.0
    while True:
        through = c[i] - price
        through += height - u[i]
        reached_by[through < distance] = i
        np.minimum(distance, through, out=distance)
        j = int(distance.argmin())
        height = float(distance[j])
        if row_of[j] < 0:
            return tree, heights, j, height, reached_by
        tree.append(j)
        heights.append(height)
        distance[j], price[j] = np.inf, -np.inf
        i = row_of[j]


def shortest_augmenting_paths(
    c: Float[np.ndarray, "n m"],
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    """The column of each row in the cheapest matching, n ≤ m, and the prices u, v that prove it.

    u_i + v_j ≤ c_ij everywhere, with equality for the matched pairs; v ≤ 0, and v = 0 in columns
    without a row. So Σu + Σv is the least total cost.
    """
    n, m = c.shape
    column_of, row_of = np.full(n, -1), np.full(m, -1)
    if n == 0:
        return column_of, np.zeros(0), np.zeros(m)
    u, v, single = c.min(axis=1), np.zeros(m), []
    for i, j in enumerate(c.argmin(axis=1).tolist()):
        if row_of[j] < 0:
            column_of[i], row_of[j] = j, i
        else:
            single.append(i)
    for new in single:
        tree, heights, j, height, reached_by = search(c, u, v, row_of, new)
        rise = height - np.array(heights)
        u[new] += height
        u[row_of[tree]] += rise
        v[tree] -= rise
        i = -1
        while i != new:  # swap the path, from its free end
            i = reached_by[j]
            row_of[j], column_of[i], j = i, j, column_of[i]
    return column_of, u, v


Costs = (
    Real[Tensor, "n m"] | Bool[Tensor, "n m"] | Real[np.ndarray, "n m"] | Bool[np.ndarray, "n m"]
)
LARGEST = 1e300
"""Costs beyond this, of either sign, would overflow in a sum."""


@checked
def hungarian(cost: Costs) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """The one-to-one matching of least total cost: k = min(n, m) pairs (row, column).

    Both are int64 on the CPU, sorted by row, like `scipy.optimize.linear_sum_assignment`'s.
    Costs may have any sign and any real type; sums are in float64. Of several matchings with
    the same total it is always the same one, though perhaps not scipy's. It takes at most
    min(n, m)² · max(n, m) steps. Raises ValueError for costs that are not a matrix of finite
    numbers, naming the entry: in a training NaN and infinity mean that it has diverged. (scipy
    takes +inf for a forbidden pair; give such a pair a large cost.)
    (Kuhn 1955; with shortest augmenting paths: Jonker and Volgenant 1987.)
    """
    c = finite_costs(cost)
    if c.shape[0] <= c.shape[1]:
        columns, _, _ = shortest_augmenting_paths(c)
        return torch.arange(len(columns)), torch.from_numpy(columns)
    rows, _, _ = shortest_augmenting_paths(np.ascontiguousarray(c.T))
    order = rows.argsort()
    return torch.from_numpy(rows[order]), torch.from_numpy(order)


def finite_costs(cost: Costs) -> Float[np.ndarray, "n m"]:
    """Costs in float64. Raises ValueError where one is not finite, or too large for a sum."""
    values = cost.detach().cpu().double() if isinstance(cost, Tensor) else cost
    c = np.asarray(values, dtype=np.float64)
    wrong = ~(np.abs(c) <= LARGEST)  # also where it is NaN
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = c[row, column]
        reason = "too large to be added up" if np.isfinite(value) else "the training has diverged"
        raise ValueError(f"cost is {value} at row {row}, column {column}: {reason}")
    return c


@checked
def pad_with_no_object(
    cost: Float[Tensor, "q n"], no_object_cost: float = 0.0
) -> Float[Tensor, "q q"]:
    """Costs with a column of `no_object_cost` for each query that finds no segment: a square.

    Columns 0 … n−1 are the segments as they were, all others are ∅. Raises ValueError where
    there are more segments than queries: then nobody is left for ∅, and `hungarian` of the
    costs as they are leaves some segments without a query.
    """
    q, n = cost.shape
    if n > q:
        raise ValueError(f"cost has more segments ({n}) than queries ({q}): no room for ∅")
    return torch.cat([cost, cost.new_full((q, q - n), no_object_cost)], dim=1)
