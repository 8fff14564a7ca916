# Built by `lessons build` from notebooks/04_roi_align.ipynb: edit that, not this.
"""RoI Pooling and RoIAlign.

You turn a box of any size into a small grid of features that moves when the box moves.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lessons.kit.data.rois import Boxes, to_rois


def cells_along(
    start: Float[Tensor, "n"], size: Float[Tensor, "n"], samples: int, bins: int, length: int
) -> tuple[Int[Tensor, "n bins k"], Float[Tensor, "n bins k"]]:
    """The two cells around each sample of each bin along an axis, and their weights.

    `start` and `size` are in cells, with the centre of cell 0 at 0; k is 2 · samples.
    """
    i, a = (torch.arange(each, device=start.device) for each in (bins, samples))
    start, step, n = start[:, None, None], size[:, None, None] / bins, max(samples, 1)
    at = start + i[:, None] * step + (a + 0.5) * step / n  # n bins samples
    counts = (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = at.floor()
    cells = torch.stack([low, (low + 1).clamp(max=length - 1)], -1).int()
    weights = torch.stack([1 - (at - low), at - low], -1) * counts[..., None] / n
    return cells.flatten(2), weights.flatten(2)


def roi_align(
    features: Float[Tensor, "b c h w"],
    boxes: Boxes,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Float[Tensor, "n c ph pw"]:
    """The mean of bilinear samples in each of ph × pw bins of each box (He et al. 2017).

    A bin has `sampling_ratio`² samples; 0 or less takes ⌈size / bins⌉ along each axis. With
    `aligned` the centre of cell 0 is half a cell from the image's corner, else it is on it.
    Equal to `torchvision.ops.roi_align`; but the boxes' values are looked at, so meta tensors and
    `torch.export` will not do. Raises ValueError as `to_rois` does.
    """
    rois, ph, pw = to_rois(features, boxes, output_size, spatial_scale)
    b, c, h, w = features.shape
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)  # in cells
    size = corners[:, 2:] - corners[:, :2]
    size = size if aligned else size.clamp(min=1)
    samples = (size / size.new_tensor([pw, ph])).ceil().clamp(min=0).int()
    if sampling_ratio > 0:
        samples = torch.full_like(samples, sampling_ratio)
    cells, weights = [samples[:0, 0]], [size[:0, 0]]
    kinds, kind = samples.unique(dim=0, return_inverse=True)
    for k, (n_x, n_y) in enumerate(kinds.tolist()):  # boxes with as many samples, together
        these = kind == k
        columns, across = cells_along(corners[these, 0], size[these, 0], n_x, pw, w)
        rows, down = cells_along(corners[these, 1], size[these, 1], n_y, ph, h)
        rows = rows + rois[these, :1, None].int() * h  # numbered through all images
        cells.append((rows[:, :, None, :, None] * w + columns[:, None, :, None, :]).flatten())
        weights.append((down[:, :, None, :, None] * across[:, None, :, None, :]).flatten())
    order = kind.argsort(stable=True)
    entries = (4 * samples[order].prod(1)).repeat_interleave(ph * pw)  # of each bag
    out = F.embedding_bag(
        torch.cat(cells),
        features.permute(0, 2, 3, 1).reshape(-1, c),  # a row for each cell
        (entries.cumsum(0) - entries).int(),  # where each bag begins
        mode="sum",
        per_sample_weights=torch.cat(weights).to(features),
    )
    out = out.view(len(rois), ph, pw, c).permute(0, 3, 1, 2)
    return out if len(kinds) < 2 else out[order.argsort()]  # back in the boxes' order


def bin_edges(
    first: Float[Tensor, "n"], last: Float[Tensor, "n"], bins: int, length: int
) -> tuple[Int[Tensor, "n bins"], Int[Tensor, "n bins"]]:
    """First cell and number of cells of each bin along one axis, cut off at the map's edges."""
    size = (last - first + 1).clamp(min=1)[:, None] / bins
    i = torch.arange(bins, device=first.device)
    start = ((i * size).floor() + first[:, None]).clamp(0, length).long()
    stop = (((i + 1) * size).ceil() + first[:, None]).clamp(0, length).long()
    return start, stop - start


def roi_pool(
    features: Float[Tensor, "b c h w"],
    boxes: Boxes,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Float[Tensor, "n c ph pw"]:
    """The maximum of the features in each of ph × pw bins of each box (Girshick 2015).

    Corners are rounded to whole cells, bins are rounded outwards, an empty bin is 0. NaN is
    never the maximum: a bin of nothing else is −∞, where torchvision has −3.4e38.
    Equal to `torchvision.ops.roi_pool`; but the boxes' values are looked at, so meta tensors and
    `torch.export` will not do. Raises ValueError as `to_rois` does.
    """
    rois, ph, pw = to_rois(features, boxes, output_size, spatial_scale)
    b, c, h, w = features.shape
    exact = rois[:, 1:] * spatial_scale
    x0, y0, x1, y1 = (exact.trunc() + (2 * exact.frac()).trunc()).unbind(1)  # ½: away from 0
    top, height = bin_edges(y0, y1, ph, h)
    left, width = bin_edges(x0, x1, pw, w)
    first = ((rois[:, :1].long() * h + top)[:, :, None] * w + left[:, None]).flatten()
    entries = (height[:, :, None] * width[:, None]).flatten()
    width = width[:, None].expand(-1, ph, -1).flatten()
    starts = entries.cumsum(0) - entries
    bag = torch.repeat_interleave(entries)  # the bin that each entry is in
    k = torch.arange(len(bag), device=bag.device) - starts[bag]
    cells = first[bag] + k // width[bag] * w + k % width[bag]
    table = features.permute(0, 2, 3, 1).reshape(-1, c)
    table = table.nan_to_num(-math.inf, math.inf, -math.inf)  # NaN is never the largest
    out = F.embedding_bag(cells, table, starts, mode="max")
    return out.view(len(rois), ph, pw, c).permute(0, 3, 1, 2)
