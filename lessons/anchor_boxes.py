# Built by `lessons build` from notebooks/02_anchor_boxes.ipynb: edit that, not this.
"""Anchor boxes.

You lay thousands of fixed boxes over an image and say every other box from them.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Integer, Real
from torch import Tensor

from lessons.kit.data.checks import checked
from lessons.kit.models.images import in_full_precision


@checked
def box_iou(
    boxes: Real[Tensor, "*b n 4"], others: Real[Tensor, "*b m 4"]
) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every box with every other (torchvision's `box_iou`).

    Boxes are x0, y0, x1, y1 in any unit, x0 ≤ x1 and y0 ≤ y1; half precision and integers are
    computed in float32. Two boxes without area have 0, where torchvision has NaN.
    """
    boxes, others = in_full_precision(boxes), in_full_precision(others)
    # Each coordinate is a row of its own, and … _() writes over its input: see the lesson's end.
    x0, y0, x1, y1 = boxes.mT.contiguous()[..., None].unbind(-3)  # each *b n 1
    u0, v0, u1, v1 = others.mT.contiguous()[..., None, :].unbind(-3)  # each *b 1 m
    width = torch.minimum(x1, u1).sub_(torch.maximum(x0, u0)).clamp_(min=0)
    height = torch.minimum(y1, v1).sub_(torch.maximum(y0, v0)).clamp_(min=0)
    both = width.mul_(height)
    either = ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)).sub_(both)
    return both.div_(either.clamp_(min=torch.finfo(both.dtype).tiny))


def centres_and_sizes(boxes: Real[Tensor, "*n 4"]) -> tuple[Tensor, Tensor]:
    """(x, y) of the centre and (width, height) of boxes, each (*n, 2), in at least float32."""
    boxes = in_full_precision(boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    size = high - low
    return low + 0.5 * size, size


@checked
def encode_boxes(
    boxes: Real[Tensor, "*n 4"],
    anchors: Real[Tensor, "*#n 4"],
    weights: Sequence[float] = (1, 1, 1, 1),
) -> Float[Tensor, "*n 4"]:
    """The way from each anchor to its box (torchvision's `BoxCoder.encode`).

    (wx·Δx/w, wy·Δy/h, ww·log(w'/w), wh·log(h'/h)), with w, h of the anchor and w', h' of the
    box; both need an area. `anchors` may be broadcast.
    """
    (centre, size), (start, scale) = centres_and_sizes(boxes), centres_and_sizes(anchors)
    moved, grown = (centre - start) / scale, torch.log(size / scale)
    return torch.cat([moved, grown], dim=-1) * moved.new_tensor(weights)


LARGEST_GROWTH = math.log(1000 / 16)


@checked
def decode_boxes(
    deltas: Real[Tensor, "*n 4"],
    anchors: Real[Tensor, "*#n 4"],
    weights: Sequence[float] = (1, 1, 1, 1),
) -> Float[Tensor, "*n 4"]:
    """The boxes that `encode_boxes` would send to `deltas` (torchvision's `BoxCoder.decode`).

    `anchors` may be broadcast, (n, 1, 4) to (n, k, 4). A side grows at most by exp(LARGEST_GROWTH).
    """
    start, scale = centres_and_sizes(anchors)
    moved, grown = (deltas / scale.new_tensor(weights)).split(2, dim=-1)
    centre = moved * scale + start
    half = 0.5 * (grown.clamp(max=LARGEST_GROWTH).exp() * scale)
    return torch.cat([centre - half, centre + half], dim=-1)


RATIOS = (0.5, 1.0, 2.0)
Sizes = Sequence[float | Sequence[float]]  # one or several for each level


def make_anchors(
    feature_sizes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[int, int] | int],
    sizes: Sizes,
    ratios: Sequence[float] = RATIOS,
    device: torch.device | str | None = None,
) -> list[Float[Tensor, "hwa 4"]]:
    """The anchors of each level, row by row, a at each cell (torchvision's `AnchorGenerator`).

    Level i has the cells `feature_sizes[i]` (rows, columns), `strides[i]` pixels apart (down,
    right), and anchors of area size² and height/width ratio for each ratio and each of its
    `sizes[i]`, the sizes running faster. Cell (0, 0) is centred on pixel corner (0, 0), and
    corners are rounded to whole pixels. Raises ValueError where the lengths differ.
    """
    if not len(feature_sizes) == len(strides) == len(sizes):
        raise ValueError(
            f"{len(feature_sizes)} feature sizes, {len(strides)} strides and {len(sizes)} anchor "
            "sizes: one of each for every level"
        )
    levels = []
    for (h, w), stride, size in zip(feature_sizes, strides, sizes, strict=True):
        down, right = (stride, stride) if isinstance(stride, int) else stride
        several = [size] if isinstance(size, int | float) else list(size)
        size = torch.tensor(several, device=device).float()
        root = torch.tensor(list(ratios), device=device).sqrt()[:, None]  # a ratio is h / w
        width, height = (size * (1 / root)).flatten(), (size * root).flatten()
        around = (torch.stack([-width, -height, width, height], dim=1) / 2).round()  # a 4
        y, x = torch.arange(h, device=device) * down, torch.arange(w, device=device) * right
        y, x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([x, y, x, y], dim=-1)  # h w 4
        levels.append((centre[:, :, None] + around).flatten(0, 2))
    return levels


def survivors(overlaps: Bool[Tensor, "n n"]) -> Bool[Tensor, "n"]:
    """Of boxes in order, best first: those that no survivor before them overlaps."""
    before = overlaps.float().triu(1)  # entry i, j: i would suppress j
    alive = before.new_ones(len(before))
    while True:
        spared = (alive @ before == 0).to(before)
        if torch.equal(spared, alive):
            return alive.bool()
        alive = spared


def largest_float(value: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is not above `value`: IoU > both is the same question."""
    nearest = torch.tensor(value, dtype=dtype)
    below = torch.nextafter(nearest, nearest.new_tensor(-math.inf))
    return (nearest if nearest.item() <= value else below).item()


@checked
def nms(
    boxes: Real[Tensor, "n 4"],
    scores: Real[Tensor, "n"],
    iou_threshold: float,
    groups: Integer[Tensor, "n"] | None = None,
) -> Int[Tensor, "kept"]:
    """The boxes that no better kept box overlaps by more than the threshold, best first.

    Boxes of different `groups` (a class, a level, an image) do not suppress one another. Of
    equal scores the first counts as better. Exactly torchvision's `nms` on a CPU, of each group:
    a box that is NaN is kept and suppresses none. Memory grows with n, not with n².
    """
    boxes = in_full_precision(boxes)
    limit = largest_float(iou_threshold, boxes.dtype)
    size = 512 if boxes.is_cuda else 128  # boxes decided in one step

    def overlap(a, b):
        close = box_iou(boxes[a], boxes[b]) > limit  # never where the IoU is NaN
        return close if groups is None else close & (groups[a, None] == groups[b])

    order = scores.argsort(descending=True, stable=True)
    rest = order if groups is None else order[groups[order].argsort(stable=True)]
    kept = torch.zeros_like(scores, dtype=torch.bool)
    while len(rest):
        block, rest = rest[:size], rest[size:]
        block = block[survivors(overlap(block, block))]
        kept[block] = True
        end = len(rest) if groups is None else int((groups[rest] <= groups[block[-1]]).sum())
        if end:  # the boxes that this step's can suppress
            alive = ~overlap(block, rest[:end]).any(dim=0)
            rest = torch.cat([rest[:end][alive], rest[end:]])
    return order[kept[order]]
