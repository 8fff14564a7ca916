"""torchvision's Mask R-CNN built to be compared with the course's: same backbone, same weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lessons.kit.data import Segments, boxes, is_crowd

EVERYTHING = {
    "rpn_batch_size_per_image": 10**6,
    "box_batch_size_per_image": 10**6,
    "box_positive_fraction": 0.5,
}
"""torchvision's settings with which nothing is left to chance: it learns from all boxes."""
LOSSES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "cls": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
"""The five losses: the course's name of each, and torchvision's."""


class PyramidBackbone(nn.Module):
    """A backbone with torchvision's feature pyramid on it, as torchvision's detectors want it."""

    def __init__(self, backbone: nn.Module, channels: int, extra_level: bool = False):
        super().__init__()
        extra = LastLevelMaxPool() if extra_level else None
        self.body = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels, channels, extra)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        return self.fpn({str(level): x for level, x in enumerate(features)})


class ResNetBody(nn.Module):
    """The ResNet-50 in one of torchvision's detectors, as the course's models want a backbone."""

    channels, strides = (256, 512, 1024, 2048), (4, 8, 16, 32)

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.body(images).values())


def torchvision_mask_rcnn(
    backbone: nn.Module,
    num_classes: int,
    side: int,
    channels: int = 64,
    hidden: int = 128,
    mask_layers: tuple[int, ...] = (64, 64),
    anchors: tuple[int, ...] = (12, 24, 48, 96),
    canonical_size: int = 224,
    **settings: Any,
) -> MaskRCNN:
    """torchvision's Mask R-CNN on a backbone; images whose short side is `side` are not resized.

    `num_classes` counts the things, without background. With five `anchors` the pyramid has the
    extra pooled level, for proposals only. `settings` are torchvision's own.
    """
    levels = [str(level) for level in range(4)]
    pools = (
        MultiScaleRoIAlign(levels, size, 2, canonical_scale=canonical_size) for size in (7, 14)
    )
    return MaskRCNN(
        PyramidBackbone(backbone, channels, len(anchors) > len(levels)),
        min_size=side,
        max_size=100 * side,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in anchors), ((0.5, 1.0, 2.0),) * len(anchors)
        ),
        box_roi_pool=next(pools),
        box_head=TwoMLPHead(channels * 49, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
        mask_roi_pool=next(pools),
        mask_head=MaskRCNNHeads(channels, mask_layers, dilation=1),
        mask_predictor=MaskRCNNPredictor(mask_layers[-1], mask_layers[-1], num_classes + 1),
        **settings,
    )


def published_mask_rcnn(**settings: Any) -> MaskRCNN:
    """torchvision's `maskrcnn_resnet50_fpn` as published, but with random weights.

    The norms of its ResNet-50 are frozen, as they are with the public weights. `settings` are
    torchvision's own; see `make_sure` for random weights that detect something.
    """
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91, **settings)
    model.backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
    return model


def in_our_names(
    theirs: MaskRCNN,
    ours: nn.Module,
    values: Callable[[nn.Module], Mapping[str, Tensor]] = nn.Module.state_dict,
) -> dict[str, Tensor]:
    """torchvision's weights under the names that they have in the course's Mask R-CNN.

    Or other `values` of theirs, such as the gradients by name. torchvision has a box and a mask
    for the background too, which nothing ever uses: they are left out.
    """
    heads = theirs.roi_heads
    box, mask = heads.box_predictor, heads.mask_predictor
    donors = {
        "backbone": [(theirs.backbone.body, 0)],
        "pyramid": [(theirs.backbone.fpn, 0)],
        "rpn": [(theirs.rpn, 0)],
        "box_head": [(heads.box_head, 0), (box.cls_score, 0), (box.bbox_pred, 4)],
        "mask_head": [(heads.mask_head, 0), (mask.conv5_mask, 0), (mask.mask_fcn_logits, 1)],
    }
    named = {}
    for part, modules in donors.items():
        names = values(ours.get_submodule(part))
        given = [
            each[skipped:] if skipped else each
            for module, skipped in modules
            for each in values(module).values()
        ]
        named |= {f"{part}.{name}": each for name, each in zip(names, given, strict=True)}
    return named


def transplant(theirs: MaskRCNN, ours: nn.Module) -> None:
    """Give the course's Mask R-CNN the weights of torchvision's."""
    ours.load_state_dict(in_our_names(theirs, ours))


@torch.no_grad()
def make_sure(model: MaskRCNN, images: Sequence[Tensor]) -> None:
    """Change a `published_mask_rcnn` with random weights so that it detects things in images.

    As they are drawn, all boxes have nearly the same score, below every threshold. So the last
    norm of each residual block is multiplied by 0.5 (the sums of the blocks do not grow), the
    last layers of the proposals by 30 (objectness) and 7 (boxes), those of the heads by 60
    (classes), 7 (boxes) and 10 (masks); and the classes' biases take away each one's mean over
    the proposals, so that not the same one wins in every box.
    """
    for name, norm in model.backbone.body.named_modules():
        if name.endswith("bn3"):
            norm.weight *= 0.5
    heads, proposals = model.roi_heads, model.rpn.head
    box, mask = heads.box_predictor, heads.mask_predictor
    last = {proposals.cls_logits: 30, proposals.bbox_pred: 7}
    last |= {box.cls_score: 60, box.bbox_pred: 7, mask.mask_fcn_logits: 10}
    for layer, factor in last.items():
        layer.weight *= factor
    logits = []
    watch = box.cls_score.register_forward_hook(lambda *call: logits.append(call[2]))
    model.eval()(list(images))
    watch.remove()
    box.cls_score.bias -= torch.cat(logits).mean(dim=0)


@torch.no_grad()
def detect_unpasted(model: MaskRCNN, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """torchvision's boxes, labels, scores and masks (n, m, m) of each image, before it pastes."""
    found = []
    watch = model.roi_heads.register_forward_hook(lambda *call: found.extend(map(dict, call[2][0])))
    model.eval()(list(images))
    watch.remove()
    return [each | {"masks": each["masks"][:, 0]} for each in found]


def largest_differences(
    theirs: MaskRCNN, ours: nn.Module, images: Sequence[Tensor], segments: Sequence[Segments]
) -> dict[str, float]:
    """How far the losses of the two are apart, and what they detect: by name, at most.

    Raises ValueError where they do not detect as many things.
    """
    things = [own[(own.labels < ours.num_things) & ~is_crowd(own)] for own in segments]
    targets = [
        {"boxes": boxes(own), "labels": own.labels + 1, "masks": own.masks.byte()} for own in things
    ]
    wanted, losses = theirs.train()(list(images), targets), ours.train()(images, segments)
    apart = {f"loss {name}": abs(losses[name] - wanted[LOSSES[name]]).item() for name in LOSSES}
    detected = detect_unpasted(theirs, images)
    with torch.no_grad():
        found = ours.eval().detect(*ours.features(images))
    for number, each in enumerate(detected):
        own = found.rois[:, 0] == number
        if int(own.sum()) != len(each["labels"]):
            raise ValueError(
                f"image {number}: {int(own.sum())} detections, not {len(each['labels'])}"
            )
        pairs = {
            "boxes": found.rois[own, 1:],
            "scores": found.scores[own],
            "labels": found.labels[own] + 1,
            "masks": found.masks[own],
        }
        for name, mine in pairs.items():
            here = (mine - each[name]).abs().max().item()
            apart[name] = max(here, apart.get(name, 0.0))
    return apart
