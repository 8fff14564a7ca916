# Built by `lessons build` from solutions/16_oneformer.ipynb: edit that, not this.
"""Homework 16: OneFormer.

Three exercises and a stretch look closer at the contrastive loss, and teach the model a task that
nobody trained.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lessons.kit.data import Category, Segments


def fair_contrastive_loss(
    cosines: Float[Tensor, "b b"], text: Int[Tensor, "b"], temperature: float
) -> Float[Tensor, ""]:
    """The contrastive loss of a batch in which images with equal texts are no rivals."""
    own = torch.arange(len(text))
    same = (text[:, None] == text) & (own[:, None] != own)
    logits = (cosines / temperature).masked_fill(same, -torch.inf)
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)


def gathered_losses(
    queries: Sequence[Float[Tensor, "m c"]],
    texts: Sequence[Float[Tensor, "m c"]],
    temperature: float,
) -> Float[Tensor, "processes"]:
    """Each process's contrastive loss of its own images, among those of all processes."""
    all_queries, all_texts = torch.cat(list(queries)), torch.cat(list(texts))
    losses = []
    for rank, (q, t) in enumerate(zip(queries, texts, strict=True)):
        own = rank * len(q) + torch.arange(len(q))
        rows, columns = q @ all_texts.T / temperature, t @ all_queries.T / temperature
        losses.append(F.cross_entropy(rows, own) + F.cross_entropy(columns, own))
    return torch.stack(losses)


def things_only(
    segments: Segments, categories: Sequence[Category], count: int
) -> tuple[Segments, list[str]]:
    """Targets and sentences of the task "things only"."""
    labels = [k for k in segments.labels.unique().tolist() if categories[k].is_thing]
    masks = [segments.masks[segments.labels == k].any(dim=0) for k in labels]
    targets = Segments(
        torch.stack(masks) if masks else segments.masks[:0],
        torch.tensor(labels, dtype=torch.int64),
    )
    sentences = [f"a photo with a {categories[k].name}" for k in labels][:count]
    return targets, sentences + ["a things photo"] * (count - len(sentences))


def contrastive_gradient(cosines: Float[Tensor, "b b"], temperature: float) -> Float[Tensor, "b b"]:
    """The gradient of the contrastive loss with respect to the cosines of a batch."""
    logits = cosines / temperature
    r, s = logits.softmax(dim=1), logits.softmax(dim=0)
    return (r + s - 2 * torch.eye(len(cosines), dtype=cosines.dtype)) / (len(cosines) * temperature)
