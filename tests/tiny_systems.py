"""The seven systems of the course at a size that learns nothing and runs in milliseconds."""

from lessons.centroid_offsets import OffsetNet, PixelFeatures
from lessons.kit.models.backbone import Backbone
from lessons.mask2former import Mask2Former
from lessons.mask_rcnn import MaskRCNN
from lessons.maskformer import MaskFormer
from lessons.oneformer import OneFormer
from lessons.panoptic_fpn import PanopticFPN
from lessons.spatial_embedding import SpatialEmbeddingNet

PREDICTIONS = ("predict_instances", "predict_panoptic", "predict_semantic")
# They answer with something before they have learned anything.
QUERIES = {"num_queries": 6, "channels": 16, "hidden": 16, "heads": 2, "decoder_layers": 2}
QUERIES |= {"score_threshold": 0.0, "overlap_threshold": 0.0}
BOXES = {"channels": 16, "score_threshold": 0.0, "max_detections": 5}


def narrow() -> Backbone:
    """The thinnest backbone there is."""
    return Backbone((16, 16, 16, 16), (1, 1, 1, 1))


def pixels() -> PixelFeatures:
    """Features for every pixel, 16 of them."""
    return PixelFeatures((16,) * 5, narrow())


def offset_net() -> OffsetNet:
    """An OffsetNet that takes every pixel for one of a sheep."""
    model = OffsetNet(4, features=pixels())
    model.head.bias.data[3] = 5.0
    return model


SYSTEMS = {
    "mask_rcnn": lambda: MaskRCNN(4, backbone=narrow(), **BOXES),
    "centroid_offsets": offset_net,
    "spatial_embedding": lambda: SpatialEmbeddingNet(
        4, features=pixels(), foreground=0.0, threshold=0.0
    ),
    "panoptic_fpn": lambda: PanopticFPN(8, 4, backbone=narrow(), panoptic_score=0.0, **BOXES),
    "maskformer": lambda: MaskFormer(8, 4, backbone=narrow(), encoder_layers=1, **QUERIES),
    "mask2former": lambda: Mask2Former(8, 4, backbone=narrow(), num_points=32, **QUERIES),
    "oneformer": lambda: OneFormer(8, 4, backbone=narrow(), num_points=32, contexts=2, **QUERIES),
}
