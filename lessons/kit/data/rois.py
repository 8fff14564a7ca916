"""Regions of interest in one form: boxes with the index of their image in front."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor

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

    Boxes come as such rows or as a list with one tensor (x0, y0, x1, y1) for each image. Images
    are counted in float32 at least: in bfloat16 image 257 would be image 256. Raises ValueError
    where a shape, an image's index, a box, the output size or the scale cannot be right.
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
