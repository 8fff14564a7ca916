"""torchvision's Mask R-CNN built to be compared with the course's: same backbone, same weights."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign


class PyramidBackbone(nn.Module):
    """A backbone with torchvision's feature pyramid on it, as torchvision's detectors want it."""

    def __init__(self, backbone: nn.Module, channels: int):
        super().__init__()
        self.body = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels, channels)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        return self.fpn({str(level): x for level, x in enumerate(features)})


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

    `num_classes` counts the things, without background. `settings` are torchvision's own.
    """
    levels = [str(level) for level in range(4)]
    pools = (
        MultiScaleRoIAlign(levels, size, 2, canonical_scale=canonical_size) for size in (7, 14)
    )
    return MaskRCNN(
        PyramidBackbone(backbone, channels),
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


def transplant(theirs: MaskRCNN, ours: nn.Module) -> None:
    """Give the course's Mask R-CNN the weights of torchvision's.

    torchvision has a box and a mask for the background too, which nothing ever uses.
    """
    heads = theirs.roi_heads
    deltas, masks = heads.box_predictor.bbox_pred, heads.mask_predictor.mask_fcn_logits
    donors = {
        ours.backbone: theirs.backbone.body.state_dict(),
        ours.pyramid: theirs.backbone.fpn.state_dict(),
        ours.rpn: theirs.rpn.state_dict(),
        ours.box_head: heads.box_head.state_dict()
        | {f"classes.{k}": v for k, v in heads.box_predictor.cls_score.state_dict().items()}
        | {f"deltas.{k}": v[4:] for k, v in deltas.state_dict().items()},
        ours.mask_head: heads.mask_head.state_dict()
        | {f"up.{k}": v for k, v in heads.mask_predictor.conv5_mask.state_dict().items()}
        | {f"masks.{k}": v[1:] for k, v in masks.state_dict().items()},
    }
    for part, state in donors.items():
        names = part.state_dict()
        part.load_state_dict(dict(zip(names, state.values(), strict=True)))
