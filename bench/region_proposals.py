"""Lesson 03 against torchvision: time of the proposals of a training step."""

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as Reference
from torchvision.models.detection.rpn import RPNHead

from bench.anchor_boxes import detections
from bench.timing import report, side_by_side
from lessons.anchor_boxes import RATIOS
from lessons.region_proposals import RegionProposalNetwork

SIZES = (12, 24, 48, 96)


def main(batch: int = 8, channels: int = 64) -> None:
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
