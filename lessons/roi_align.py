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


def weighted_cells(
    features: Float[Tensor, "b c h w"], groups: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> Float[Tensor, "n c ph pw"]:
    """The weighted sum of each bag of cells: a bin's rows times its columns.

    A group is of boxes with as many samples: rows (n, ph, k), numbered through all images, their
    weights, columns (n, pw, m) and theirs.
    """
    c, w = features.shape[1], features.shape[3]
    cells, weights, entries = [], [], []
    for rows, down, columns, across in groups:
        bags = rows[:, :, None, :, None] * w + columns[:, None, :, None, :]  # n ph pw k m
        cells.append(bags.flatten())
        weights.append((down[:, :, None, :, None] * across[:, None, :, None, :]).flatten())
        entries.append(cells[-1].new_full((bags.shape[:3].numel(),), bags.shape[3:].numel()))
    entries = torch.cat(entries)  # of each bag
    out = F.embedding_bag(
        torch.cat(cells),
        features.permute(0, 2, 3, 1).reshape(-1, c),  # a row for each cell
        (entries.cumsum(0) - entries).int(),  # where each bag begins
        mode="sum",
        per_sample_weights=torch.cat(weights),
    )
    return out.view(-1, rows.shape[1], columns.shape[1], c).permute(0, 3, 1, 2)


def weighted_rows(
    features: Float[Tensor, "b 1 h w"], groups: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> Float[Tensor, "n 1 ph pw"]:
    """The same for maps with one channel: sums of whole rows, then one matrix for the columns.

    A cell that is NaN spoils its row.
    """
    w, out = features.shape[3], []
    for rows, down, columns, across in groups:
        n, ph, k = rows.shape
        starts, table = k * torch.arange(n * ph, device=rows.device), features.reshape(-1, w)
        lines = F.embedding_bag(
            rows.flatten(), table, starts.int(), mode="sum", per_sample_weights=down.flatten()
        )
        matrix = lines.new_zeros(n, columns.shape[1], w).scatter_add_(2, columns.long(), across)
        out.append(lines.view(n, 1, ph, w) @ matrix[:, None].mT)
    return torch.cat(out)


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
    if len(rois) == 0:
        return features.sum() * features.new_zeros(0, c, ph, pw)
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)  # in cells
    size = corners[:, 2:] - corners[:, :2]
    size = size if aligned else size.clamp(min=1)
    samples = (size / size.new_tensor([pw, ph])).ceil().clamp(min=0).int()
    if sampling_ratio > 0:
        samples = torch.full_like(samples, sampling_ratio)
    kinds, kind = samples.unique(dim=0, return_inverse=True)
    groups = []
    for k, (n_x, n_y) in enumerate(kinds.tolist()):  # boxes with as many samples, together
        these = kind == k
        rows, down = cells_along(corners[these, 1], size[these, 1], n_y, ph, h)
        rows = rows + rois[these, :1, None].int() * h  # numbered through all images
        columns, across = cells_along(corners[these, 0], size[these, 0], n_x, pw, w)
        groups.append((rows, down.to(features), columns, across.to(features)))
    out = (weighted_rows if c == 1 else weighted_cells)(features, groups)
    order = kind.argsort(stable=True)  # the boxes as they lie in `out`, group by group
    return out if len(groups) == 1 else out[order.argsort()]


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
    # To whole cells, ½ away from 0; torch.round takes ½ to the even number.
    x0, y0, x1, y1 = (exact.trunc() + (2 * exact.frac()).trunc()).unbind(1)
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
    with torch.no_grad():  # mode 2 is the maximum; F.embedding_bag does not say which cell it was
        _, _, _, winner = torch.embedding_bag(table, cells, starts, mode=2)
    out = table.gather(0, winner.long().clamp(min=0)).masked_fill((entries == 0)[:, None], 0)
    return out.view(len(rois), ph, pw, c).permute(0, 3, 1, 2)
