"""Lesson 02 against torchvision: time of the overlap, of NMS and of a training step's proposals."""

import torch
import torchvision
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as Reference
from torchvision.models.detection.rpn import RPNHead

from bench.timing import report, side_by_side
from lessons.faster_rcnn import RATIOS, RegionProposalNetwork, box_iou, nms

SIZES = (12, 24, 48, 96)


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
    proposals()


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


def proposals(batch: int = 8, channels: int = 64) -> None:
    """A step of the proposal network at the course's size, backwards included."""
    torch.manual_seed(0)
    anchors = AnchorGenerator(tuple((size,) for size in SIZES), (RATIOS,) * 4)
    counts = {"training": 200, "testing": 200}, {"training": 200, "testing": 100}
    theirs = Reference(anchors, RPNHead(channels, 3), 0.7, 0.3, 128, 0.5, *counts, 0.7)
    ours = RegionProposalNetwork(channels, SIZES)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    features = [torch.randn(batch, channels, side, side) for side in (32, 16, 8, 4)]
    sizes = [(128, 128)] * batch
    boxes = [detections(12)[0] for _ in range(batch)]
    images = ImageList(torch.zeros(batch, 3, 128, 128), sizes)
    targets = [{"boxes": true} for true in boxes]

    def their_step():
        sum(theirs(images, dict(enumerate(features)), targets)[1].values()).backward()

    def our_step():
        sum(ours(features, (128, 128), sizes, boxes)[1].values()).backward()

    print(f" a training step of the proposal network, {batch} images")
    report(side_by_side({"torchvision": their_step, "ours": our_step}), "torchvision", target=1.0)
