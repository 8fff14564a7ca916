"""Lesson 06: targets and grouping against plain loops, and what is spent after the network."""

import numpy as np
import torch

from bench.timing import report, side_by_side
from lessons.centroid_offsets import (
    OffsetNet,
    centroid_offsets,
    find_centres,
    group_by_centroid,
    instance_centroids,
    pixel_centres,
)
from lessons.kit.data import is_crowd, things
from lessons.kit.data.scenes import CATEGORIES, scene

SIZES = (((128, 128), 12, 5), ((1024, 2048), 50, 3))  # (height, width), instances, turns
NOISE = 2.0  # pixels, of every vote


def main() -> None:
    for size, count, turns in SIZES:
        masks = discs(size, count)
        share = masks.any(dim=0).float().mean()
        print(f" {size[0]} × {size[1]}, {count} instances on {share:.0%} of the image")
        targets(masks, turns)
        grouping(masks, turns)
    network()


def discs(size: tuple[int, int], count: int) -> torch.Tensor:
    """Masks of discs that cover about a fifth of the image, the later before the earlier."""
    generator = torch.Generator().manual_seed(0)
    x, y = pixel_centres(size)
    radius = (0.22 * size[0] * size[1] / count / np.pi) ** 0.5
    ids = torch.zeros(size, dtype=torch.int64)
    for k in range(1, count + 1):
        cx, cy = (torch.rand(2, generator=generator) * torch.tensor(size[::-1])).tolist()
        ids[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = k
    return ids == torch.arange(1, count + 1)[:, None, None]


def targets(masks: torch.Tensor, turns: int) -> None:
    """`instance_centroids` and `centroid_offsets`, against loops over the pixels."""
    ours, loops = centroid_offsets(masks)[0], offsets_by_loops(masks)
    worst = (ours - torch.from_numpy(loops).float()).abs().max().item()
    ways = {
        "loops": lambda: offsets_by_loops(masks),
        "dense: masks times grid": lambda: dense_offsets(masks),
        "centroid_offsets": lambda: centroid_offsets(masks),
        "instance_centroids": lambda: instance_centroids(masks),
    }
    print(f"  targets: largest difference from the loops {worst:.1e} pixels")
    report(side_by_side(ways, turns), peer="loops")


def offsets_by_loops(masks: torch.Tensor) -> np.ndarray:
    offsets = np.zeros((2, *masks.shape[1:]))
    for mask in masks:
        places = [(j + 0.5, i + 0.5) for i, j in mask.nonzero().tolist()]
        if places:
            cx = sum(x for x, _ in places) / len(places)
            cy = sum(y for _, y in places) / len(places)
        for x, y in places:
            offsets[0, int(y), int(x)] = cx - x
            offsets[1, int(y), int(x)] = cy - y
    return offsets


def dense_offsets(masks: torch.Tensor) -> torch.Tensor:
    """With every pixel of the image for every mask: two lines, and n·h·w numbers."""
    grid, members = pixel_centres(tuple(masks.shape[1:])), masks.float()
    centroids = torch.einsum("nhw,chw->nc", members, grid) / members.sum(dim=(1, 2))[:, None]
    return torch.einsum("nhw,nc->chw", members, centroids) - grid * masks.any(dim=0)


def grouping(masks: torch.Tensor, turns: int) -> None:
    """`find_centres` and `group_by_centroid` on true votes with noise, and a loop over them."""
    offsets, foreground = centroid_offsets(masks)
    generator = torch.Generator().manual_seed(0)
    votes = (pixel_centres(tuple(foreground.shape)) + offsets)[:, foreground].T.contiguous()
    votes += NOISE * torch.randn(votes.shape, generator=generator)
    size = tuple(foreground.shape)
    centres = find_centres(votes, size)
    as_lists = votes.tolist(), centres.tolist()
    assert group_by_centroid(votes, centres).tolist()[:1000] == nearest_by_loops(
        as_lists[0][:1000], as_lists[1]
    )
    print(f"  grouping: {len(votes)} votes, {len(centres)} centres found")
    ways = {
        "loops (nearest)": lambda: nearest_by_loops(*as_lists),
        "find_centres": lambda: find_centres(votes, size),
        "group_by_centroid": lambda: group_by_centroid(votes, centres),
        "both": lambda: group_by_centroid(votes, find_centres(votes, size)),
    }
    report(side_by_side(ways, turns), peer="loops (nearest)")


def nearest_by_loops(votes: list, centres: list) -> list[int]:
    groups = []
    for x, y in votes:
        distances = [(x - cx) ** 2 + (y - cy) ** 2 for cx, cy in centres]
        groups.append(distances.index(min(distances)))
    return groups


def network() -> None:
    """A training step's targets and a prediction's grouping beside the network itself."""
    torch.manual_seed(0)
    net = OffsetNet(4).eval()
    samples = [scene(1, index) for index in range(8)]
    images, segments = [s.image for s in samples], [s.segments for s in samples]
    masks = [thing[~is_crowd(thing)].masks for s in segments for thing in [things(s, CATEGORIES)]]

    def forward():
        with torch.no_grad():
            net.maps(images)

    ways = {
        "forward pass": forward,
        "targets of the batch": lambda: [centroid_offsets(own) for own in masks],
        "training step": lambda: sum(net(images, segments).values()).backward(),
    }
    print(f" 8 scenes of 128 × 128, {sum(map(len, masks))} things")
    report(side_by_side(ways, repeats=5), peer="forward pass")


if __name__ == "__main__":
    main()
