# Built by `lessons build` from notebooks/04_roi_align.ipynb: edit that, not this.
"""The turns of roi_align outside of it."""

from collections.abc import Sequence
from math import ceil, floor

import torch
from jaxtyping import Float
from torch import Tensor


def pool_by_loops(
    f: Float[Tensor, "h w"], box: Sequence[float], bins: int
) -> Float[Tensor, "bins bins"]:
    """RoI Pooling of one box (x0, y0, x1, y1 in cells) on a map with one channel.

    The rounded box lies inside the map.
    """
    x0, y0, x1, y1 = (floor(side + 0.5) for side in box)  # to whole cells
    rows, columns = (y1 - y0 + 1) / bins, (x1 - x0 + 1) / bins  # of a bin
    y = torch.zeros(bins, bins)
    for i in range(bins):
        for j in range(bins):
            top, bottom = y0 + floor(i * rows), y0 + ceil((i + 1) * rows)
            left, right = x0 + floor(j * columns), x0 + ceil((j + 1) * columns)
            y[i, j] = f[top:bottom, left:right].max()
    return y


def bilinear(f: Float[Tensor, "h w"], y: float, x: float) -> Float[Tensor, ""]:
    """The map between its cells, at row y and column x: 0 ≤ y < h − 1 and 0 ≤ x < w − 1."""
    top, left = floor(y), floor(x)
    dy, dx = y - top, x - left
    above = (1 - dx) * f[top, left] + dx * f[top, left + 1]
    below = (1 - dx) * f[top + 1, left] + dx * f[top + 1, left + 1]
    return (1 - dy) * above + dy * below


def align_bin(
    f: Float[Tensor, "h w"], y0: float, x0: float, height: float, width: float, n: int
) -> Float[Tensor, ""]:
    """The mean of the map at n × n regular points of a bin, which lies inside the map."""
    total = torch.zeros(())
    for a in range(n):
        for b in range(n):
            total = total + bilinear(f, y0 + (a + 0.5) / n * height, x0 + (b + 0.5) / n * width)
    return total / n**2
