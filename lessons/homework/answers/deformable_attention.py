# Built by `lessons build` from solutions/14_deformable_attention.ipynb: edit that, not this.
"""Homework 14: Deformable attention.

One exercise: deformable attention without `grid_sample`, corner by corner.
"""

from jaxtyping import Float
from torch import Tensor


def deform(
    values: Float[Tensor, "h w c"],
    references: Float[Tensor, "q 2"],
    offsets: Float[Tensor, "q k 2"],
    weights: Float[Tensor, "q k"],
) -> Float[Tensor, "q c"]:
    """What each query gathers from the map at its places."""
    h, w, _ = values.shape
    place = references[:, None] * references.new_tensor([w, h]) - 0.5 + offsets
    low = place.floor()
    beyond = place - low  # how far it is to the next cell
    out = values.new_zeros(len(references), values.shape[2])
    for right in (0, 1):
        for down in (0, 1):
            j, i = low[..., 0].long() + right, low[..., 1].long() + down
            near = (beyond[..., 0] if right else 1 - beyond[..., 0]) * (
                beyond[..., 1] if down else 1 - beyond[..., 1]
            )
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            found = values[i.clamp(0, h - 1), j.clamp(0, w - 1)]
            out = out + ((weights * near * inside)[..., None] * found).sum(dim=1)
    return out
