"""A training step of Mask R-CNN, ours and torchvision's: time in turns, and memory.

Both have the same backbone, image size, batch, anchors, proposals and numbers of samples, and
the heads of torchvision; so the convolutions are the same, and what differs is everything else.
"""

import copy
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from bench.timing import report, side_by_side, wait
from lessons.kit.data import boxes, is_crowd
from lessons.kit.data.scenes import Scenes
from lessons.kit.models.backbone import Backbone
from lessons.kit.peers.mask_rcnn import torchvision_mask_rcnn, transplant
from lessons.mask_rcnn import BoxHead, MaskHead, MaskRCNN, mask_targets
from lessons.region_proposals import RegionProposalNetwork
from lessons.roi_align import roi_align

T, BATCH, SIDE = 4, 8, 128
PROPOSALS, SAMPLES = 200, 64


def main(device: str = "cpu") -> None:
    for backbone, side, batch in ((Backbone(), SIDE, BATCH), (Backbone(), 2 * SIDE, 2)):
        ways = steps(side, batch, backbone, device)
        print(f" training step on {device}, {batch} scenes of {side}×{side}")
        report(side_by_side(ways), peer="torchvision", target=0.8)
        if device == "cpu":
            memory(side, batch)


def steps(
    side: int, batch: int, backbone: torch.nn.Module, device: str = "cpu"
) -> dict[str, Callable]:
    """A step of each: losses, gradients, no update."""
    torch.manual_seed(0)
    theirs = torchvision_mask_rcnn(
        copy.deepcopy(backbone),
        T,
        side,
        canonical_size=56,
        rpn_batch_size_per_image=128,
        rpn_pre_nms_top_n_train=PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        box_batch_size_per_image=SAMPLES,
    )
    ours = MaskRCNN(
        T,
        backbone=backbone,
        rpn=RegionProposalNetwork(64, candidates_train=PROPOSALS, proposals_train=PROPOSALS),
        box_head=BoxHead(64, T, norm=False),
        mask_head=MaskHead(64, T, norm=False),
        roi_align=partial(roi_align, sampling_ratio=2),
        mask_targets=partial(mask_targets, aligned=False),
        samples=SAMPLES,
    )
    transplant(theirs, ours)
    samples = [Scenes.train(size=side)[index] for index in range(batch)]
    images = [s.image.to(device) for s in samples]
    segments = [s.segments.to(device) for s in samples]
    theirs, ours = theirs.to(device), ours.to(device)
    targets = []
    for answer in segments:
        thing = answer[(answer.labels < T) & ~is_crowd(answer)]
        targets.append(
            {"boxes": boxes(thing), "labels": thing.labels + 1, "masks": thing.masks.byte()}
        )
    return {
        "torchvision": lambda: step(theirs.train(), images, targets, device),
        "MaskRCNN": lambda: step(ours.train(), images, segments, device),
    }


def step(model: torch.nn.Module, images: list, targets: list, device: str) -> None:
    model.zero_grad()
    sum(model(images, targets).values()).backward()
    wait(device)


def memory(side: int, batch: int) -> None:
    """The most bytes of tensors that a step holds at a time, above what it starts with."""
    peak = {}
    for name, way in steps(side, batch, Backbone()).items():
        way()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            way()
        events = watched.profiler.kineto_results.events()
        sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
        peak[name] = max(accumulate(sizes)) / 2**20
    ratio = peak["MaskRCNN"] / peak["torchvision"]
    print(f"  memory of a step: torchvision {peak['torchvision']:.0f} MB, ", end="")
    print(f"MaskRCNN {peak['MaskRCNN']:.0f} MB, {ratio:.2f} of it  (asked for: ≤ 1)")
