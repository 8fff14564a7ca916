# Built by `lessons build` from notebooks/00_start_here.ipynb: edit that, not this.
"""The turns of start_here outside of it."""

import torch
from jaxtyping import Bool, Int
from scipy import ndimage
from torch import Tensor


def connected_patches(classes: Int[Tensor, "h w"], label: int) -> Bool[Tensor, "n h w"]:
    """A mask for each connected patch of the pixels whose class is `label`.

    Neighbours share a side. The first patch is the one that comes first, row by row.
    """
    numbers, count = ndimage.label(classes == label)
    each = torch.arange(1, count + 1)[:, None, None]
    return torch.from_numpy(numbers) == each
