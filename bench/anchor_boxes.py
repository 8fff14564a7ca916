"""Lesson 02 against torchvision: time of the overlap and of NMS."""

import torch
import torchvision

from bench.timing import report, side_by_side
from lessons.anchor_boxes import box_iou, nms


def main() -> None:
    for g, n in ((10, 4080), (10, 100_000), (500, 4000)):
        boxes, _, _ = detections(g)
        others, _, _ = detections(n)
        assert torch.equal(box_iou(boxes, others), torchvision.ops.box_iou(boxes, others))
        print(f" overlap of {g} × {n} boxes")
        compare(box_iou, torchvision.ops.box_iou, boxes, others, target=1.0)
    for count in (100, 500, 1000, 2000, 5000):
        for threshold in (0.5, 0.7):
            boxes, scores, groups = detections(count)
            kept = nms(boxes, scores, threshold)
            assert torch.equal(kept, torchvision.ops.nms(boxes, scores, threshold))
            print(f" {count} boxes, NMS at {threshold}: {len(kept)} kept")
            target = 1.0 if count >= 1000 else None
            compare(nms, torchvision.ops.nms, boxes, scores, threshold, target=target)
    boxes, scores, groups = detections(2000)
    print(" 2000 boxes in 4 groups, NMS at 0.7")
    report(
        side_by_side(
            {
                "torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, groups, 0.7),
                "nms": lambda: nms(boxes, scores, 0.7, groups),
            }
        ),
        peer="torchvision",
        target=1.0,
    )


def compare(ours, theirs, *arguments, target: float | None) -> None:
    ways = {"torchvision": lambda: theirs(*arguments), ours.__name__: lambda: ours(*arguments)}
    report(side_by_side(ways, repeats=21), peer="torchvision", target=target)


def detections(count: int, things: int = 12, size: int = 128):
    """Boxes around a dozen things with noise of 15 % of their size; scores; four groups."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(things, 4, generator=generator)
    sides = 8 + 40 * numbers[:, 2:]
    corner = numbers[:, :2] * (size - sides)
    chosen = torch.randint(things, (count,), generator=generator)
    noise = 0.15 * torch.randn(count, 4, generator=generator) * sides[chosen].repeat(1, 2)
    boxes = torch.cat([corner, corner + sides], dim=1)[chosen] + noise
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    scores = torch.rand(count, generator=generator)
    return torch.cat([low, high + 1], dim=1), scores, chosen % 4
