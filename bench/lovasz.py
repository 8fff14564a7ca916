"""Lesson 07 against kornia's Lovász hinge: equality over seeds, and time, at once and in a loop."""

import torch
from kornia.losses import lovasz_hinge_loss
from torch.nn import functional as F

from bench.timing import report, side_by_side
from lessons.lovasz import lovasz_hinge

SEEDS = 300
MASKS, SIDE = 80, 128


def main() -> None:
    value, gradient = equality()
    print(f" largest difference over {SEEDS} seeds: values {value:.1e}, gradients {gradient:.1e}")
    for name, spread in (("at the start, logits near 0", 0.5), ("later, logits up to ±5", 5.0)):
        logits, labels = masks(spread)
        for kind in (labels, labels.float()):
            speed(name, logits, kind)


def equality() -> tuple[float, float]:
    """Values and gradients against kornia's, in float32, objects of all sizes."""
    values = gradients = 0.0
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(6, 40, 50, generator=generator)
        logits.requires_grad_()
        share = torch.rand(6, 1, 1, generator=generator)
        labels = torch.rand(6, 40, 50, generator=generator) < share * (share > 0.2)
        pairs = []
        for loss in (
            lovasz_hinge(logits, labels).mean(),
            lovasz_hinge_loss(logits[:, None], labels),
        ):
            pairs.append((loss, torch.autograd.grad(loss, logits)[0]))
        (ours, mine), (theirs, reference) = pairs
        values = max(values, (ours - theirs).abs().item())
        gradients = max(gradients, (mine - reference).abs().max().item())
    return values, gradients


def masks(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs, and logits that are right in most pixels where `spread` is large."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(1, MASKS, 8, 8, generator=generator)
    field = F.interpolate(smooth, SIDE, mode="bicubic")[0] - 0.8
    noise = torch.randn(MASKS, SIDE, SIDE, generator=generator)
    logits = spread * (field + 0.5 * noise).clamp(-1, 1) + 0.01 * noise
    return logits.requires_grad_(), field > 0


def speed(name: str, logits: torch.Tensor, labels: torch.Tensor) -> None:
    def both(loss):
        return torch.autograd.grad(loss, logits)

    def one_by_one(way):
        return torch.stack([way(slice(k, k + 1)) for k in range(MASKS)]).mean()

    def ours(k=slice(None)):
        return lovasz_hinge(logits[k], labels[k]).mean()

    def kornia(k=slice(None)):
        return lovasz_hinge_loss(logits[k, None], labels[k])

    kind = str(labels.dtype).removeprefix("torch.")
    print(f" {MASKS} masks of {SIDE} × {SIDE}, {kind} labels, forward + backward, {name}")
    ways = {
        "kornia, all at once": lambda: both(kornia()),
        "ours, all at once": lambda: both(ours()),
        "kornia, mask by mask": lambda: both(one_by_one(kornia)),
        "ours, mask by mask": lambda: both(one_by_one(ours)),
    }
    seconds = side_by_side(ways, repeats=9)
    peers = (
        ("kornia, all at once", 1.0),
        ("kornia, mask by mask", 0.5),
        ("ours, mask by mask", None),
    )
    for peer, target in peers:
        pair = {way: seconds[way] for way in (peer, "ours, all at once")}
        report(pair, peer, target)


if __name__ == "__main__":
    main()
