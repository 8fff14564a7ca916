# Built by `lessons build` from solutions/08_spatial_embedding.ipynb: edit that, not this.
"""Homework 08: spatial embeddings.

Three exercises and a stretch change the membership φ in each of its parts: who says the bandwidth,
what shape the hill has, how the centre learns, and how the ellipse lies.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lessons.spatial_embedding import bandwidth, membership


def second_opinion(
    embeddings: Float[Tensor, "2 h w"],
    s: Float[Tensor, "d h w"],
    foreground: Bool[Tensor, "h w"],
    best: tuple[int, int],
) -> Bool[Tensor, "h w"]:
    """The members of the instance at pixel `best`, by the bandwidth that they agree on."""
    row, column = best
    centre = embeddings[:, row, column]
    asked = (membership(embeddings, centre, bandwidth(s[:, row, column])) > 0.5) & foreground
    s_k = s[:, asked].mean(dim=1)  # of s, as in training, not of σ
    return (membership(embeddings, centre, bandwidth(s_k)) > 0.5) & foreground


def hinge_membership(
    embeddings: Float[Tensor, "2 h w"], centre: Float[Tensor, "2"], sigma: Float[Tensor, "d"]
) -> Float[Tensor, "h w"]:
    """A membership with straight flanks: ½ where the Gaussian of that sigma is ½."""
    margin = math.sqrt(2 * math.log(2))  # in σ: where exp(−d² / 2) = ½
    away = (embeddings - centre[:, None, None]) / sigma[:, None, None]
    return (1 - torch.linalg.vector_norm(away, dim=0) / margin / 2).relu()


def centre_gradient(
    embeddings: Float[Tensor, "2 h w"],
    mask: Bool[Tensor, "h w"],
    sigma: Float[Tensor, "2"],
    error: Float[Tensor, "h w"],
) -> Float[Tensor, "2 h w"]:
    """The gradient of the loss with respect to the embeddings, the centre being their mean."""
    centre = embeddings[:, mask].mean(dim=1)
    away = (embeddings - centre[:, None, None]) / sigma.square()[:, None, None]
    pull = error * membership(embeddings, centre, sigma) * away  # what C hears from each pixel
    return mask * pull.sum(dim=(1, 2), keepdim=True) / mask.sum() - pull


def tilted_numbers(covariance: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 3"]:
    """s_x, s_y and t of the ellipses with these covariances, in rows."""
    M = torch.linalg.inv(covariance) / 2  # AᵀA = ((a² + t², t b), (t b, b²))
    b = M[:, 1, 1].sqrt()
    t = M[:, 0, 1] / b
    a = (M[:, 0, 0] - t.square()).sqrt()
    return torch.stack([a.log() / 5, b.log() / 5, t], dim=1)
