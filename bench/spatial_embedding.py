"""Lesson 08: the clustering at two megapixels, a step's sort, and inference against Mask R-CNN."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.timing import report, side_by_side
from lessons.kit.data import Segments, is_crowd
from lessons.kit.data.scenes import Scenes
from lessons.kit.training.recorded import load_model
from lessons.lovasz import largest_first, lovasz_hinge
from lessons.mask_rcnn import paste_masks
from lessons.spatial_embedding import (
    SpatialEmbeddingNet,
    bandwidth,
    cluster_classes,
    cluster_pixels,
    membership,
    pixel_grid,
)

T, IMAGES = 4, 8


def main() -> None:
    clustering()
    sorting()
    for side in (128, 256):
        inference(side)


# ---------------------------------------------------------------- clustering


def clustering() -> None:
    """50 discs that cover a fifth of 1024×2048 pixels, against the published steps.

    These over the whole image, and over the foreground's pixels in one row.
    """
    maps = discs()
    found = {}

    def compressed():
        found["ours"] = cluster_pixels(*maps, smallest=128)

    def full():
        found["full image"] = cluster_full_image(*maps, smallest=128)

    def foreground_only():
        place = (maps[2] > 0.5).flatten()
        rows = [values.flatten(-2)[..., None, place] for values in maps]
        found["foreground"] = cluster_full_image(*rows, smallest=128)

    ways = {"full image": full, "its foreground only": foreground_only, "ours": compressed}
    seconds = side_by_side(ways, repeats=3)
    assert torch.equal(found["foreground"][1], found["ours"][1])
    (ours, scores), (theirs, _) = found["ours"], found["full image"]
    assert torch.equal(ours, theirs) and len(scores) == 50
    share = (maps[2] > 0.5).float().mean()
    print(f" cluster_pixels, 1024 × 2048, {len(scores)} instances on {share:.0%} of the image")
    report(seconds, peer="full image")


def discs(h: int = 1024, w: int = 2048) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with a noise of 3 pixels, σ of 10 pixels, seeds that fall off from the centre."""
    generator = torch.Generator().manual_seed(0)
    x = pixel_grid((h, w), 1.0)
    step = torch.tensor([w / 10, h / 5])[:, None, None]
    C = ((x / step).floor() + 0.5) * step
    distance = (x - C).norm(dim=0)
    inside = distance < math.sqrt(0.2 * h * w / 50 / math.pi)
    noise = 3 * torch.randn(2, h, w, generator=generator)
    seeds = torch.where(inside, 1 - distance / 1000, 0.1)
    return torch.where(inside, C + noise, x), torch.full((1, h, w), 10.0), seeds


def cluster_full_image(
    embeddings: Tensor,
    sigma: Tensor,
    seeds: Tensor,
    foreground: float = 0.5,
    threshold: float = 0.5,
    smallest: int = 8,
) -> tuple[Tensor, Tensor]:
    """The published algorithm, each step over all pixels of the image."""
    candidates = seeds > foreground
    unclustered = candidates.clone()
    instances = torch.full(seeds.shape, -1)
    scores: list[float] = []
    while unclustered.any():
        best = int((seeds * unclustered).argmax())
        y, x = divmod(best, seeds.shape[1])
        if seeds[y, x] < threshold:
            break
        members = (membership(embeddings, embeddings[:, y, x], sigma[:, y, x]) > 0.5) & candidates
        fresh = members & unclustered
        if members.sum() >= smallest and 2 * fresh.sum() > members.sum():
            instances[fresh] = len(scores)
            scores.append(float(seeds[y, x]))
        unclustered &= ~members
    return instances, torch.tensor(scores)


# ---------------------------------------------------------------- the training step


def sorting() -> None:
    """What the Lovász hinge and its sort cost in a training step with about 80 instances."""
    torch.manual_seed(0)
    model = SpatialEmbeddingNet(T)
    samples = [Scenes.train()[index] for index in range(IMAGES)]
    images, segments = [s.image for s in samples], [s.segments for s in samples]
    masks = torch.cat([things(answer).masks for answer in segments])
    phi = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def step():
        model.zero_grad()
        sum(model(images, segments).values()).backward()

    def hinge():
        torch.autograd.grad(lovasz_hinge(2 * phi - 1, masks).sum(), phi)

    def sort():
        with torch.no_grad():
            largest_first((1 - (2 * phi - 1) * (2 * masks.float() - 1)).relu().flatten(1))

    ways = {"training step": step, "Lovász hinge and gradient": hinge, "its sort": sort}
    print(f" training step, {IMAGES} scenes of 128 × 128 with {len(masks)} instances")
    report(side_by_side(ways, repeats=5), peer="training step")


def things(answer: Segments) -> Segments:
    return answer[(answer.labels < T) & ~is_crowd(answer)]


# ---------------------------------------------------------------- inference


@torch.no_grad()
def inference(side: int) -> None:
    """Images a second of the recorded systems; the forward pass, and what comes after it.

    Both were trained at 128×128. At 256×256 they find too many instances, which costs time: the
    numbers stand beside it.
    """
    scenes = [Scenes.validation(size=side)[index] for index in range(IMAGES)]
    images = [sample.image for sample in scenes]
    rcnn, net = load_model("mask_rcnn"), load_model("spatial_embedding")
    embeddings, s, seeds, _ = net.maps(images)
    sigma, limits = bandwidth(s), (net.foreground, net.threshold, net.smallest)
    found: dict[str, int] = {}

    def cluster() -> None:
        found["SpatialEmbeddingNet"] = sum(
            len(cluster_classes(*maps, *limits))
            for maps in zip(embeddings, sigma, seeds, strict=True)
        )

    features = rcnn.features(images)
    seen = rcnn.detect(*features)
    found["MaskRCNN"] = len(seen.scores)

    def paste() -> None:
        for i in range(IMAGES):
            own = seen.rois[:, 0] == i
            paste_masks(seen.masks[own], seen.rois[own, 1:], (side, side))

    ways: dict[str, Callable] = {
        "R-CNN: backbone, pyramid": lambda: rcnn.features(images),
        "R-CNN: boxes, NMS, heads": lambda: rcnn.detect(*features),
        "R-CNN: pasting": paste,
        "embedding: forward": lambda: net.maps(images),
        "embedding: clustering": cluster,
    }
    seconds = side_by_side(ways, repeats=5)
    parts = {way: np.array(times) for way, times in seconds.items()}
    totals = {
        name: np.sum([times for way, times in parts.items() if way.startswith(name)], axis=0)
        for name in ("R-CNN", "embedding")
    }
    print(f" inference, {IMAGES} scenes of {side} × {side}, instances found: {found}")
    report({**seconds, **{name: times.tolist() for name, times in totals.items()}}, peer="R-CNN")
    for name, way in (("R-CNN", "R-CNN: backbone, pyramid"), ("embedding", "embedding: forward")):
        share = 1 - np.median(parts[way] / totals[name])
        rate = IMAGES / np.median(totals[name])
        print(f"  {name}: {rate:.1f} images/s, {share:.0%} of the time after the first line")


if __name__ == "__main__":
    main()
