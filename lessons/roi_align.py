# Built by `lessons build` from notebooks/04_roi_align.ipynb: edit that, not this.
"""RoI Pooling and RoIAlign.

You turn a box of any size into a small grid of features that moves when the box moves.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.nn import functional as F

from lessons.kit.data.checks import as_many, checked, positive

Boxes = Real[Tensor, "n 5"] | Sequence[Real[Tensor, "_ 4"]]


@checked
def to_rois(
    features: Float[Tensor, "b c h w"],
    boxes: Boxes,
    output_size: int | Sequence[int],
    spatial_scale: float,
) -> tuple[Float[Tensor, "n 5"], int, int]:
    """All boxes as rows (image, x0, y0, x1, y1), and the output's height and width.

    Raises ValueError where a shape, an image's index, a box, the output size or the scale cannot
    be right.
    """
    if 0 in features.shape[1:]:
        raise ValueError(f"features must have channels and cells, not {tuple(features.shape)}")
    positive(spatial_scale=spatial_scale)
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"output_size must be one or two positive numbers, not {output_size}")
    b, rois = features.shape[0], boxes
    if not isinstance(boxes, Tensor):
        as_many(b, boxes=boxes)
        rows = [
            torch.cat([torch.full_like(box[:, :1], i, dtype=torch.float32), box], 1)
            for i, box in enumerate(boxes)
        ]
        rois = torch.cat(rows) if rows else features.new_zeros(0, 5)
    rois = rois.detach().to(torch.promote_types(rois.dtype, torch.float32))
    places = (rois * spatial_scale).abs() < 1e18  # no NaN, and no sum of them overflows
    wrong = ~(places.all(1) & (rois[:, 0] >= 0) & (rois[:, 0] < b))
    if wrong.any():
        raise ValueError(f"boxes holds {rois[wrong][0].tolist()}: no box in one of {b} images")
    return rois, *size


def cells_along(
    start: Float[Tensor, "n"],
    size: Float[Tensor, "n"],
    samples: Float[Tensor, "n"],
    bins: int,
    length: int,
) -> tuple[Int[Tensor, "n bins k"], Float[Tensor, "n bins k"]]:
    """The cells of an axis that each bin reads, and their weights; unused places weigh 0.

    `start` and `size` are in cells, with the centre of cell 0 at 0.
    """
    most = int(samples.max().clamp(min=1)) if len(samples) else 1
    start, step, samples = (each[:, None, None] for each in (start, size / bins, samples))
    a = torch.arange(most, device=start.device)
    at = start + torch.arange(bins, device=start.device)[:, None] * step  # n bins 1
    at = at + (a.minimum(samples - 1) + 0.5) * step / samples.clamp(min=1)  # n bins most
    counts = (at >= -1) & (at <= length) & (a < samples)
    at = at.clamp(0, length - 1)
    low = at.floor()
    weights = torch.stack([1 - (at - low), at - low], -1)  # of the cells low and low + 1
    weights = weights * (counts / samples.clamp(min=1))[..., None]
    return merge_equal(low.int(), weights, length)


def merge_equal(
    low: Int[Tensor, "n bins s"], weights: Float[Tensor, "n bins s 2"], length: int
) -> tuple[Int[Tensor, "n bins k"], Float[Tensor, "n bins k"]]:
    """The cells low and low + 1 of each sample, those that are equal as one entry.

    An unused place has the cell of the first: a NaN elsewhere, times its weight 0, would be NaN.
    """
    step = low.diff(dim=-1)  # to the next sample: the same two cells, one new cell, or two
    step = torch.where(step < 0, 2, step.clamp(max=2))
    place = F.pad(step, (1, 0)).cumsum(-1)
    place = torch.stack([place, place + 1], -1).flatten(2)
    cells = torch.stack([low, (low + 1).clamp(max=length - 1)], -1).flatten(2)
    k = int(place.max()) + 1 if len(place) else 1
    merged = weights.new_zeros(*place.shape[:2], k).scatter_add_(-1, place, weights.flatten(2))
    return cells[..., :1].expand(merged.shape).scatter(-1, place, cells), merged


def bags_of(
    rows: Int[Tensor, "n ph k"],
    row_weights: Float[Tensor, "n ph k"],
    columns: Int[Tensor, "n pw m"],
    column_weights: Float[Tensor, "n pw m"],
) -> tuple[Int[Tensor, "e"], Float[Tensor, "e"], Int[Tensor, "bags"]]:
    """Each row with each column: cells and weights of all bags, and where each bag starts."""
    cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # n ph pw k m
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    entries = rows.shape[2] * columns.shape[2]
    starts = torch.arange(0, cells.numel(), entries, dtype=torch.int32, device=cells.device)
    return cells.flatten(), weights.flatten(), starts


def bags_by_size(
    rows: Int[Tensor, "n ph k"],
    row_weights: Float[Tensor, "n ph k"],
    columns: Int[Tensor, "n pw m"],
    column_weights: Float[Tensor, "n pw m"],
) -> tuple[Int[Tensor, "e"], Float[Tensor, "e"], Int[Tensor, "bags"], Int[Tensor, "n"]]:
    """`bags_of` without unused places, boxes of one size of bag together; and their order."""
    k, m = last_used(row_weights), last_used(column_weights)
    sizes, number = torch.stack([k, m], 1).unique(dim=0, return_inverse=True)
    order = number.argsort(stable=True)
    parts, filled = [], 0
    members = order.split(number.bincount(minlength=len(sizes)).tolist())
    for (k, m), these in zip(sizes.tolist(), members, strict=True):
        y = rows[these, :, :k], row_weights[these, :, :k]
        x = columns[these, :, :m], column_weights[these, :, :m]
        cells, weights, starts = bags_of(*y, *x)
        parts.append((cells, weights, starts + filled))
        filled += len(cells)
    return *(torch.cat(each) for each in zip(*parts, strict=True)), order


class WeightedSum(torch.autograd.Function):
    """For each bag of entries the sum of table[cells] · weights; bag i begins at starts[i].

    `bags()` returns cells, weights and starts; it is called again for the gradient.
    """

    @staticmethod
    def forward(ctx, table, bags):
        ctx.bags, ctx.rows = bags, len(table)
        cells, weights, starts = bags()
        return F.embedding_bag(cells, table, starts, mode="sum", per_sample_weights=weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, error):
        cells, weights, starts = ctx.bags()
        entries = starts.diff(append=starts.new_tensor([len(cells)]))
        bag = torch.arange(len(starts), dtype=torch.int32, device=starts.device)
        bag = bag.repeat_interleave(entries)  # the bag that each entry is in
        cells, order = cells.sort()
        row = torch.arange(ctx.rows, dtype=cells.dtype, device=cells.device)
        starts = torch.searchsorted(cells, row, out_int32=True)  # now a bag for each row
        bag, weights = bag[order], weights[order]
        del cells, order  # large, and done with
        gradient = F.embedding_bag(
            bag, error.contiguous(), starts, mode="sum", per_sample_weights=weights
        )
        return gradient, None


def last_used(weights: Float[Tensor, "n bins k"]) -> Int[Tensor, "n"]:
    """How many places each box needs: up to the last one that weighs anything, at least 1."""
    places = torch.arange(1, weights.shape[2] + 1, device=weights.device)
    return ((weights != 0) * places).amax((1, 2)).clamp(min=1)


def align_one_channel(
    features: Float[Tensor, "b 1 h w"],
    rows: Int[Tensor, "n ph k"],
    row_weights: Float[Tensor, "n ph k"],
    columns: Int[Tensor, "n pw m"],
    column_weights: Float[Tensor, "n pw m"],
) -> Float[Tensor, "n 1 ph pw"]:
    """RoIAlign of maps with one channel; `rows` are numbered through all images.

    Whole rows are multiplied, by weights that are mostly 0: a cell that is NaN spoils its row.
    """
    (n, ph, k), pw, w = rows.shape, columns.shape[1], features.shape[3]
    starts = torch.arange(0, rows.numel(), k, dtype=torch.int32, device=rows.device)
    table = features.reshape(-1, w)
    bags = rows.flatten(), row_weights.flatten(), starts
    lines = WeightedSum.apply(table, lambda: bags)
    matrix = features.new_zeros(n, pw, w).scatter_add_(2, columns.long(), column_weights)
    return (lines.view(n, ph, w) @ matrix.mT)[:, None]


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
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)
    size = corners[:, 2:] - corners[:, :2]
    size = size if aligned else size.clamp(min=1)
    samples = torch.full_like(size, sampling_ratio)
    if sampling_ratio <= 0:
        samples = (size / size.new_tensor([pw, ph])).ceil()
    columns, column_weights = cells_along(corners[:, 0], size[:, 0], samples[:, 0], pw, w)
    rows, row_weights = cells_along(corners[:, 1], size[:, 1], samples[:, 1], ph, h)
    column_weights, row_weights = (each.to(features) for each in (column_weights, row_weights))
    rows = rows + rois[:, :1, None].int() * h  # numbered through all images
    if c == 1:
        return align_one_channel(features, rows, row_weights, columns, column_weights)
    table = features.permute(0, 2, 3, 1).reshape(-1, c)  # a row for each cell
    axes = rows * w, row_weights, columns, column_weights
    if sampling_ratio > 0 or len(rois) == 0:
        out = WeightedSum.apply(table, partial(bags_of, *axes)).view(len(rois), ph, pw, c)
    else:
        *bags, order = bags_by_size(*axes)
        out = WeightedSum.apply(table, lambda: bags).view(len(rois), ph, pw, c)
        out = out.index_select(0, order.argsort())
    return out.permute(0, 3, 1, 2)


class Largest(torch.autograd.Function):
    """For each bag of entries the maximum of table[cells], channel by channel; 0 if empty."""

    @staticmethod
    def forward(ctx, table, cells, starts, entries):
        table = table.nan_to_num(-math.inf, math.inf, -math.inf)  # NaN is never the largest
        # As F.embedding_bag, which keeps to itself which cell was the largest. Mode 2: max.
        out, _, _, winner = torch.embedding_bag(table, cells, starts, False, 2)
        ctx.save_for_backward(winner, entries)
        ctx.rows = len(table)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, error):
        winner, entries = ctx.saved_tensors
        gradient = error.new_zeros(ctx.rows, error.shape[1])
        heard = error * (entries > 0)[:, None]
        return gradient.scatter_add_(0, winner.long().clamp(min=0), heard), None, None, None


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
    out = Largest.apply(table, cells, starts, entries).view(len(rois), ph, pw, c)
    return out.permute(0, 3, 1, 2)
