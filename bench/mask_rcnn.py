"""Mask R-CNN, ours and torchvision's: a training step in turns, memory, and the published size.

In a step both have the same backbone, image size, batch, anchors, proposals and numbers of
samples, and the heads of torchvision; so the convolutions are the same, and what differs is
everything else. At the published size the two are compared answer by answer: the largest
differences are printed.
"""

import copy
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from bench.timing import at_hand, report, side_by_side, wait
from lessons.kit.data import Segments, boxes, is_crowd, things
from lessons.kit.data.real import CocoPanoptic
from lessons.kit.data.scenes import Scenes
from lessons.kit.models.backbone import Backbone
from lessons.kit.peers.mask_rcnn import (
    LOSSES,
    ResNetBody,
    detect_unpasted,
    make_sure,
    published_mask_rcnn,
    torchvision_mask_rcnn,
    transplant,
)
from lessons.mask_rcnn import BoxHead, MaskHead, MaskRCNN, choose_level
from lessons.region_proposals import FeaturePyramid, RegionProposalNetwork

T, BATCH, SIDE = 4, 8, 128
PROPOSALS, SAMPLES = 200, 64


def main(device: str = "cpu") -> None:
    for backbone, side, batch in ((Backbone(), SIDE, BATCH), (Backbone(), 2 * SIDE, 2)):
        ways = steps(side, batch, backbone, device)
        print(f" training step on {device}, {batch} scenes of {side}×{side}")
        report(side_by_side(ways), peer="torchvision", target=0.75)
        if device == "cpu":
            memory(side, batch)
    if device == "cpu":
        for name, (image, segments) in photographs():
            published(name, image, segments)


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
        aligned=False,
        samples=SAMPLES,
    )
    transplant(theirs, ours)
    samples = [Scenes.train(size=side)[index] for index in range(batch)]
    images = [s.image.to(device) for s in samples]
    segments = [s.segments.to(device) for s in samples]
    theirs, ours = theirs.to(device), ours.to(device)
    targets = [as_torchvision(s[(s.labels < T) & ~is_crowd(s)]) for s in segments]
    return {
        "torchvision": lambda: step(theirs.train(), images, targets, device),
        "MaskRCNN": lambda: step(ours.train(), images, segments, device),
    }


def as_torchvision(thing: Segments) -> dict[str, torch.Tensor]:
    return {"boxes": boxes(thing), "labels": thing.labels + 1, "masks": thing.masks.byte()}


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


SHORT_SIDE, THINGS = 800, 90
ALL = 10**6


def photographs() -> Iterator[tuple[str, tuple[torch.Tensor, Segments]]]:
    """One photograph of COCO with its things, 800 pixels high; a scene where there is none."""
    scenes = {"a scene": lambda: Scenes.validation((SHORT_SIDE, 1066))}
    found = list(at_hand({"a photograph": CocoPanoptic})) or list(at_hand(scenes))
    for name, data in found:
        sample = data[0]
        thing = things(sample.segments, data.categories)
        thing = thing[~is_crowd(thing)]
        scale = SHORT_SIDE / min(thing.size)
        size = [round(scale * side) for side in thing.size]
        image = F.interpolate(sample.image[None], size=size, mode="bilinear", antialias=True)[0]
        masks = F.interpolate(thing.masks[:, None].float(), size=size)[:, 0] > 0
        yield name, (image.clamp(0, 1), Segments(masks, thing.labels))


def published(name: str, image: torch.Tensor, segments: Segments) -> None:
    """torchvision's `maskrcnn_resnet50_fpn` of 91 classes, and ours with its weights.

    The weights are random, the last layers' enlarged until something is detected (`make_sure`).
    Both learn from all of their anchors and RoIs, so that nothing is left to chance.
    """
    torch.manual_seed(0)
    theirs = published_mask_rcnn(
        min_size=SHORT_SIDE,
        max_size=2 * SHORT_SIDE,
        rpn_batch_size_per_image=ALL,
        box_batch_size_per_image=ALL,
        box_positive_fraction=0.5,
    )
    make_sure(theirs, [image])
    body = ResNetBody(copy.deepcopy(theirs.backbone.body))
    ours = MaskRCNN(
        THINGS,
        channels=256,
        canonical_size=224,
        samples=ALL,
        positive_fraction=0.5,
        aligned=False,
        backbone=body,
        pyramid=FeaturePyramid(body.channels, 256, extra_level=True),
        rpn=RegionProposalNetwork(
            256,
            (32, 64, 128, 256, 512),
            samples=ALL,
            candidates_train=2000,
            candidates_eval=1000,
            proposals_train=2000,
            proposals_eval=1000,
        ),
        box_head=BoxHead(256, THINGS, hidden=1024, norm=False),
        mask_head=MaskHead(256, THINGS, hidden=256, depth=4, norm=False),
    )
    transplant(theirs, ours)
    size = sum(weight.numel() for weight in ours.parameters()) / 1e6
    print(f" published size, {size:.1f} M weights, {name} of {image.shape[1]}×{image.shape[2]}")
    (wanted,) = detect_unpasted(theirs, [image])
    with torch.no_grad():
        found = ours.eval().detect(*ours.features([image]))
        image = image.double()  # in float32 rounding drops another of 2,000 proposals now and then
        reference = theirs.double().train()([image], [as_torchvision(segments)])
        losses = ours.double().train()([image], [segments])
    levels = choose_level(found.rois, ours.levels, ours.canonical_size).bincount(minlength=4)
    sure = f"{len(wanted['labels'])} detections of {len(wanted['labels'].unique())} classes"
    print(
        f"  torchvision: {sure}, scores {wanted['scores'][-1]:.2f} … {wanted['scores'][0]:.2f}, ",
        end="",
    )
    print(f"from the pyramid's levels {levels.tolist()}")
    same = int((found.labels + 1 == wanted["labels"]).sum())
    print(f"  ours: {len(found.labels)} detections, {same} labels equal; largest differences:")
    for what, mine in {
        "boxes": found.rois[:, 1:],
        "scores": found.scores,
        "masks": found.masks,
    }.items():
        print(f"  {what:<28}{(mine - wanted[what]).abs().max():9.1e}")
    for what, their_name in LOSSES.items():
        difference = abs(losses[what] - reference[their_name])
        print(f"  {f'loss {what} ({losses[what]:.3g})':<28}{difference:9.1e}")
