# Built by `lessons build` from solutions/06_centroid_offsets.ipynb: edit that, not this.
"""Homework 06: votes and vectors.

Three exercises and a stretch: a centre that is never outside of its instance, a vector field that
is mirrored and turned as it should be, a loss in which small things count as much as large ones,
and centres without a histogram.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lessons.centroid_offsets import centroid_offsets, instance_centroids, pixel_centres


def inner_centres(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """The pixel centre of each mask with the least sum of squared distances to all its pixels."""
    grid = pixel_centres(tuple(masks.shape[1:]), masks.device)
    centres = instance_centroids(masks)  # NaN where a mask is empty, and that remains
    for k, mask in enumerate(masks):
        if mask.any():
            # Σ‖x − m‖² = Σ‖x − C‖² + |S| ‖C − m‖²; the mixed sum is 0
            places = grid[:, mask].T
            centres[k] = places[(places - centres[k]).square().sum(dim=1).argmin()]
    return centres


def turn_offsets(
    offsets: Float[Tensor, "2 h w"], mirror: bool, quarters: int
) -> Float[Tensor, "2 _ _"]:
    """The offsets of the mirrored (if `mirror`), then turned image: places and arrows."""
    dx, dy = offsets
    if mirror:
        dx, dy = -dx.flip(1), dy.flip(1)
    for _ in range(quarters % 4):
        # what pointed to the right points up, what pointed down points to the right
        dx, dy = dy.rot90(1, (0, 1)), -dx.rot90(1, (0, 1))
    return torch.stack([dx, dy])


def balanced_offset_loss(
    offsets: Float[Tensor, "b 2 h w"], masks: Sequence[Bool[Tensor, "_ h w"]]
) -> Float[Tensor, ""]:
    """‖x_i + o_i − C_k‖ in pixels: the mean over each instance, then over all of the batch."""
    means = []
    for said, own in zip(offsets, masks, strict=True):
        miss = torch.linalg.vector_norm(said - centroid_offsets(own)[0], dim=0)
        means += [miss[mask].mean() for mask in own if mask.any()]
    return torch.stack(means).mean() if means else offsets.sum() * 0


def mean_shift(votes: Float[Tensor, "p 2"], radius: float, steps: int) -> Float[Tensor, "p 2"]:
    """Where walkers from every vote stand after `steps` moves to the mean of the votes nearby."""
    walkers = votes
    for _ in range(steps):
        distance = torch.cdist(walkers, votes, compute_mode="donot_use_mm_for_euclid_dist")
        near = (distance <= radius).to(votes)
        walkers = near @ votes / near.sum(dim=1, keepdim=True)
    return walkers
