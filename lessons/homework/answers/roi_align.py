# Built by `lessons build` from solutions/04_roi_align.ipynb: edit that, not this.
"""Homework 04: RoIAlign.

Three exercises and a stretch read between the cells in other ways: by matrix products, by moving
the box, backwards, and with a box that is turned.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def axis_matrix(
    start: float, size: float, bins: int, n: int, length: int
) -> Float[Tensor, "bins length"]:
    """The weights of each bin on each cell of an axis, in float64."""
    at = start + (torch.arange(bins * n, dtype=torch.float64) + 0.5) * size / (bins * n)
    counts = (at >= -1) & (at <= length)
    distance = at.clamp(0, length - 1)[:, None] - torch.arange(length)
    weights = (1 - distance.abs()).clamp(min=0) * counts[:, None]
    return weights.view(bins, n, length).mean(1)


def shifted_boxes(boxes: Float[Tensor, "n 4"], spatial_scale: float) -> Float[Tensor, "n 4"]:
    """Boxes for `aligned=False` that give the result of `aligned=True` for `boxes`."""
    return boxes - 0.5 / spatial_scale  # half a cell, in pixels


def send_back(
    error: Float[Tensor, "bins bins"], box: tuple, n: int, h: int, w: int
) -> Float[Tensor, "h w"]:
    """The gradient of RoIAlign with respect to the map, for one box and one channel."""
    bins = len(error)
    x0, y0, x1, y1 = box
    heard = torch.zeros(h, w, dtype=error.dtype)
    for row in range(bins * n):
        for column in range(bins * n):
            at_y = y0 + (row + 0.5) * (y1 - y0) / (bins * n)
            at_x = x0 + (column + 0.5) * (x1 - x0) / (bins * n)
            share = error[row // n, column // n] / n**2
            for p in {int(at_y), min(int(at_y) + 1, h - 1)}:  # on the last row there is one
                for q in {int(at_x), min(int(at_x) + 1, w - 1)}:
                    weight = (1 - abs(at_y - p)) * (1 - abs(at_x - q))
                    heard[p, q] += share * weight
    return heard


def rotated_align(
    features: Float[Tensor, "c h w"], centre: tuple, size: tuple, angle: float, bins: int, n: int
) -> Float[Tensor, "c bins bins"]:
    """RoIAlign of a box that is turned by `angle` about its centre."""
    h, w = features.shape[1:]
    steps = (torch.arange(bins * n, dtype=features.dtype) + 0.5) / (bins * n) - 0.5
    v, u = torch.meshgrid(steps * size[1], steps * size[0], indexing="ij")
    cos, sin = torch.tensor(angle).double().cos().item(), torch.tensor(angle).double().sin().item()
    x, y = centre[0] + u * cos - v * sin, centre[1] + u * sin + v * cos
    grid = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)  # centres of the outer cells
    read = F.grid_sample(features[None], grid[None], align_corners=True)
    return F.avg_pool2d(read, n)[0]
