"""Lesson 04 against torchvision's operators: equality over seeds, time and memory."""

import math

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torchvision import ops

from bench.timing import report, side_by_side, wait
from lessons.roi_align import roi_align, roi_pool

SEEDS = 100
SHAPES = (  # features, bins, boxes an image
    ((8, 64, 32, 32), 7, 128),
    ((8, 64, 32, 32), 14, 128),
    ((4, 128, 64, 64), 7, 128),
    ((2, 256, 200, 200), 7, 128),
)
STRIDE = 4


def main(device: str = "cpu") -> None:
    if device == "cpu":
        print(f" largest difference over {SEEDS} seeds, values and gradients: {equality():.1e}")
    for name, options in (
        ("2 × 2 samples", (2, False)),
        ("2 × 2 samples, aligned", (2, True)),
        ("adaptive, aligned", (-1, True)),
    ):
        compare(name, roi_align, ops.roi_align, options, device)
    compare("roi_pool", roi_pool, ops.roi_pool, (), device)
    if device == "cpu":
        masks()


def boxes_for(shape: tuple[int, ...], count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` boxes an image, from a twelfth to five sixths of the map's sides."""
    b, _, h, w = shape
    side = STRIDE * torch.tensor([w, h])
    size = torch.exp(2.3 * torch.rand(b * count, 2, generator=generator)) * side / 12
    centre = torch.rand(b * count, 2, generator=generator) * side
    corners = (centre - size / 2).clamp(min=0), (centre + size / 2).minimum(side)
    return torch.cat([torch.arange(b).repeat_interleave(count)[:, None], *corners], 1)


def equality() -> float:
    worst = 0.0
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(2, 8, 20, 27, generator=generator, requires_grad=True)
        rois = boxes_for(features.shape, 30, generator)
        rois[:, 1:] += 20 * torch.randn(60, 1, generator=generator)  # some beyond the edges
        for arguments in ((2, False), (3, True), (-1, False), (-1, True)):
            worst = max(worst, difference(roi_align, ops.roi_align, features, rois, arguments))
        worst = max(worst, difference(roi_pool, ops.roi_pool, features, rois, ()))
    return worst


def difference(ours, theirs, features, rois, arguments) -> float:
    y, expected = (each(features, rois, (7, 5), 1 / STRIDE, *arguments) for each in (ours, theirs))
    error = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad(each, features, error)[0] for each in (y, expected)]
    pairs = ((y, expected), gradients)
    return max((mine - reference).abs().max().item() for mine, reference in pairs)


def compare(name: str, ours, theirs, arguments: tuple, device: str) -> None:
    """Forward and forward + backward at all shapes, and the geometric means of the ratios."""
    ratios: dict[str, list[float]] = {"forward": [], "forward + backward": []}
    for shape, bins, count in SHAPES:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(shape, generator=generator).to(device).requires_grad_()
        rois = boxes_for(shape, count, generator).to(device)
        error = torch.randn(len(rois), shape[1], bins, bins, generator=generator).to(device)

        def forward(way, features=features, rois=rois, bins=bins):
            with torch.no_grad():
                way(features, rois, bins, 1 / STRIDE, *arguments)
            wait(device)

        def both(way, features=features, rois=rois, bins=bins, error=error):
            out = way(features, rois, bins, 1 / STRIDE, *arguments)
            torch.autograd.grad(out, features, error)
            wait(device)

        for what, run in (("forward", forward), ("forward + backward", both)):
            ways = {"torchvision": lambda r=run: r(theirs), "ours": lambda r=run: r(ours)}
            seconds = side_by_side(ways, repeats=5)
            size = "×".join(map(str, shape))
            print(f" {name}, {what} on {device}, {size}, {bins} × {bins} bins")
            report(seconds, peer="torchvision", target=1.0 if "2 × 2" in name else None)
            pairs = np.array(seconds["ours"]) / np.array(seconds["torchvision"])
            ratios[what].append(float(np.median(pairs)))
        if device != "cpu":
            continue
        peaks = [peak_bytes(lambda w=way, b=both: b(w)) / 2**20 for way in (theirs, ours)]
        print(f"  memory at the peak, in MiB: torchvision {peaks[0]:.0f}, ours {peaks[1]:.0f}")
    for what, values in ratios.items():
        goal = "  (asked for: ≤ 0.25)" if what == "forward + backward" and "2 × 2" in name else ""
        mean = math.exp(np.log(values).mean())
        print(f" {name}: geometric mean of {what} {mean:.2f} of torchvision{goal}")


def peak_bytes(run) -> int:
    """The most memory that is allocated at once on top of what there was."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def masks() -> None:
    """Mask targets: one channel, one box for each image, 28 × 28."""
    generator = torch.Generator().manual_seed(0)
    maps = (torch.rand(128, 1, 128, 128, generator=generator) > 0.5).float()
    corner = 80 * torch.rand(128, 2, generator=generator)
    boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(128, 2, generator=generator)], 1)
    rois = torch.cat([torch.arange(128.0)[:, None], boxes], 1)
    for ratio in (1, 2, -1):
        print(f" mask targets, 128 maps of 128 × 128, sampling_ratio {ratio}")
        ways = {
            "torchvision": lambda r=ratio: ops.roi_align(maps, rois, 28, 1.0, r),
            "ours": lambda r=ratio: roi_align(maps, rois, 28, 1.0, r),
        }
        report(side_by_side(ways, repeats=15), peer="torchvision")


if __name__ == "__main__":
    main()
