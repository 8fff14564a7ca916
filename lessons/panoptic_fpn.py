# Built by `lessons build` from notebooks/10_panoptic_fpn.ipynb: edit that, not this.
"""Panoptic FPN.

You build one network that gives every pixel its class and every thing its number, from a detector,
a map of classes, and a rule for who owns a pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.average_precision import evaluate_instances
from lessons.kit.data import VOID, Category, Segments, semantic_map
from lessons.kit.data.checks import as_many, at_least, between, checked, labels_in, shares
from lessons.kit.models.backbone import Backbone, group_norm
from lessons.kit.models.images import batch_images, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.mask_rcnn import MaskRCNN, mask_loss, mask_scores, paste_masks
from lessons.panoptic_quality import panoptic_quality
from lessons.region_proposals import FeaturePyramid


@checked
def count_pixels(
    predicted: Integer[Tensor, "h w"], true: Integer[Tensor, "h w"], num_classes: int
) -> Int[np.ndarray, "rows columns"]:
    """The confusion matrix of one image: row i, column j counts pixels of class i called j.

    The last row is void in the truth, the last column void in the prediction. Raises ValueError
    for maps of two sizes and for a label that is neither one of 0 … K−1 nor 255 (void).
    """
    side, maps = num_classes + 1, []
    for name, labels in (("predicted", predicted), ("true", true)):
        labels = labels.long()
        labels_in(labels[labels != VOID], num_classes, name)
        maps.append(labels.clamp(max=num_classes).cpu().numpy())  # void comes last
    pairs = maps[1] * side + maps[0]
    return np.bincount(pairs.ravel(), minlength=side**2).reshape(side, side)


@checked
def class_iou(counts: Int[np.ndarray, "side side"]) -> Float[np.ndarray, "k"]:
    """The IoU of each class from a confusion matrix whose last row and column are void.

    Row i, column j counts the pixels of class i that were called j. Void in the truth is not
    judged, void in the prediction is a miss. NaN for a class that neither has.
    """
    judged = counts[:-1]
    hit = judged.diagonal()
    union = judged.sum(axis=1) + judged[:, :-1].sum(axis=0) - hit
    with np.errstate(invalid="ignore"):
        return hit / union


def evaluate_semantic(
    predictions: Sequence[Int[Tensor, "_ _"]],
    targets: Sequence[Segments],
    categories: Sequence[Category],
) -> dict[str, float | dict]:
    """Mean IoU and pixel accuracy of a data set, from maps of classes.

    A class's IoU is that of its pixels in all images together; `miou` is the mean over the
    classes that occur in truth or prediction, `per_class` has by name each one's `iou`. Void
    pixels of the truth are not judged; void (255) in the prediction is wrong. NaN where there
    is nothing to average. Raises ValueError, naming the image, for a prediction of another size
    or with a label that is no category.
    """
    as_many(len(targets), predictions=predictions)
    k = len(categories)
    counts = np.zeros((k + 1, k + 1), dtype=np.int64)
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        try:
            counts += count_pixels(prediction, semantic_map(target), k)
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from None
    iou, judged = class_iou(counts), counts[:k].sum()
    present = iou[~np.isnan(iou)]
    return {
        "miou": float(present.mean()) if len(present) else float("nan"),
        "pixel_accuracy": counts.diagonal()[:k].sum() / judged if judged else float("nan"),
        "per_class": {c.name: {"iou": float(x)} for c, x in zip(categories, iou, strict=True)},
    }


class SemanticBranch(nn.Module):
    """Class logits at a pyramid's finest stride, from all its levels (Kirillov et al. 2019).

    Each level goes through 3×3 convolutions with GroupNorm and ReLU, with a bilinear doubling
    after each until it has the finest size (the finest has one convolution and no doubling);
    the sum of the levels goes through a 1×1 convolution. The paper's `hidden` is 128.
    """

    def __init__(self, channels: int, num_classes: int, hidden: int = 64, levels: int = 4):
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(levels):
            layers: list[nn.Module] = []
            for number in range(max(level, 1)):
                inside = channels if number == 0 else hidden
                layers += [nn.Conv2d(inside, hidden, 3, padding=1, bias=False)]
                layers += [group_norm(hidden), nn.ReLU(inplace=True)]
                layers += [nn.Upsample(scale_factor=2, mode="bilinear")] if level else []
            self.levels.append(nn.Sequential(*layers))
        self.classes = nn.Conv2d(hidden, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)

    @checked
    def forward(self, features: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "b k h w"]:
        """Logits of the size of `features[0]`; every level is half as large as the one before."""
        as_many(len(self.levels), "levels", features=features)
        total = sum(level(x) for level, x in zip(self.levels, features, strict=True))
        return self.classes(total)


@checked
def thing_or_stuff(labels: Integer[Tensor, "h w"], num_things: int) -> Int[Tensor, "h w"]:
    """What the semantic branch should say: 0 for any thing, then the stuff; void stays 255."""
    labels = labels.long()  # a uint8 cannot be below 0
    channel = (labels - num_things + 1).clamp(min=0)
    return torch.where(labels == VOID, VOID, channel)


@checked
def semantic_loss(
    logits: Float[Tensor, "b k h w"], targets: Integer[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """L_sem: cross-entropy, the mean over the pixels that are not void; 0 where there are none."""
    targets = targets.long()
    total = F.cross_entropy(in_full_precision(logits), targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp(min=1)


@checked
def claim_pixels(
    masks: Bool[Tensor, "n h w"],
    scores: Float[Tensor, "n"],
    score_threshold: float,
    overlap_threshold: float,
) -> tuple[Bool[np.ndarray, "h w"], list[np.ndarray], list[int]]:
    """Rules 1 and 2: the pixels that stay free, what each kept mask gets, and which are kept.

    The surest first. Left out are a score below `score_threshold`, a mask of which more than
    `overlap_threshold` is taken, and one without a free pixel.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    masks, scores = masks.cpu().numpy(), scores.tolist()
    free, claimed, kept = np.ones(masks.shape[1:], dtype=bool), [], []
    for k in order:
        visible = masks[k] & free
        area, left = np.count_nonzero(masks[k]), np.count_nonzero(visible)
        if scores[k] >= score_threshold and left and (area - left) / area <= overlap_threshold:
            free &= ~visible
            claimed.append(visible)
            kept.append(k)
    return free, claimed, kept


@checked
def merge_panoptic(
    instances: Segments,
    semantic: Integer[Tensor, "h w"],
    *,
    num_things: int,
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
) -> Segments:
    """One disjoint answer from a detector's masks and a map of classes (Kirillov et al. 2019).

    Instances claim their pixels, best score first. One below `score_threshold` is left out, and
    one of which more than `overlap_threshold` is taken already. Then every stuff class of
    `semantic` (labels ≥ `num_things`, not void) gets what is still free, if that is at least
    `stuff_area` pixels. Equal to panopticapi's combine script, but for segments that are left
    without a pixel: those are dropped. The result lists the instances in their order, then the
    stuff by label, with a score of 1.

    Raises ValueError for two sizes, for instances without scores, and for those that are no
    thing.
    """
    labels_in(instances.labels, num_things, "instances.labels")
    limits = {"score_threshold": score_threshold, "overlap_threshold": overlap_threshold}
    shares(**limits)
    if instances.scores is None:
        raise ValueError("instances must have scores: the best claims its pixels first")
    if instances.size != semantic.shape:
        sizes = f"{tuple(instances.size)}, the size of the masks, not {tuple(semantic.shape)}"
        raise ValueError(f"semantic must be {sizes}")
    free, claimed, kept = claim_pixels(instances.masks, instances.scores, **limits)
    classes = semantic.long().cpu().numpy()
    found, counts = np.unique(classes[free], return_counts=True)
    large = (found >= num_things) & (found != VOID) & (counts >= stuff_area)
    stuff = found[large].tolist()
    claimed += [free & (classes == label) for label in stuff]
    masks = np.stack(claimed) if claimed else np.zeros((0, *classes.shape), dtype=bool)
    labels, scores = instances.labels[kept], instances.scores[kept]
    return Segments(
        torch.from_numpy(masks).to(labels.device),
        torch.cat([labels, labels.new_tensor(stuff)]),
        torch.cat([scores, scores.new_ones(len(stuff))]),
    )


@checked
def classes_of_pixels(
    logits: Float[Tensor, "k h w"], instances: Segments, num_things: int
) -> Int[Tensor, "h w"]:
    """The class 0 … K−1 of each pixel, from the branch's logits ("thing" first, then the stuff).

    Where the branch says "thing", the class is that of the best instance that covers the pixel
    (`instances`, best first), and the best stuff class where none does.
    """
    stuff = logits[1:].argmax(dim=0) + num_things
    classes = stuff.clone()
    for k in reversed(range(len(instances))):  # the best is written last
        classes[instances.masks[k]] = instances.labels[k]
    return torch.where(logits.argmax(dim=0) == 0, classes, stuff)


METRICS = {
    "predict_panoptic": panoptic_quality,
    "predict_instances": evaluate_instances,
    "predict_semantic": evaluate_semantic,
}

NARROW = (16, 48, 64, 80)  # channels of a backbone; two, with pyramids, count as much as one


class PanopticFPN(MaskRCNN):
    """Mask R-CNN and a semantic branch on one feature pyramid (Kirillov et al. 2019).

    `num_classes` counts all categories, `num_things` those that come first. The keywords of
    `MaskRCNN` mean what they mean there. Crowds are no targets of the detector, but thing pixels
    for the branch. Raises ValueError, naming it, for a setting that is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        num_things: int,
        *,
        semantic_weight: float = 0.5,  # λ_s of the joint loss
        panoptic_score: float = 0.5,  # least score of an instance in the merge
        panoptic_overlap: float = 0.5,  # share of it that may be taken already
        stuff_share: float = 1 / 75,  # least area of stuff in the merge, of the image's pixels
        semantic_branch: nn.Module | None = None,
        semantic_backbone: nn.Module | None = None,  # for a branch with a network of its own
        channels: int = 64,  # here begin those of MaskRCNN
        mask_size: int = 28,
        levels: Sequence[int] = (0, 1, 2, 3),
        canonical_size: float = 56,
        samples: int = 64,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        sampling_ratio: int = 2,
        aligned: bool = True,
        backbone: nn.Module | None = None,
        pyramid: nn.Module | None = None,
        rpn: nn.Module | None = None,
        box_head: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        roi_align: Callable | None = None,
        mask_targets: Callable | None = None,
        mask_loss: Callable = mask_loss,
        mask_scores: Callable = mask_scores,
        paste_masks: Callable = paste_masks,
    ):
        at_least(2, num_classes=num_classes)
        between(1, num_classes - 1, num_things=num_things)
        shares(panoptic_score=panoptic_score, panoptic_overlap=panoptic_overlap)
        shares(stuff_share=stuff_share)
        if not semantic_weight >= 0:
            raise ValueError(f"semantic_weight must be at least 0, not {semantic_weight}")
        super().__init__(
            num_things,
            channels=channels,
            mask_size=mask_size,
            levels=levels,
            canonical_size=canonical_size,
            samples=samples,
            positive_fraction=positive_fraction,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            backbone=backbone,
            pyramid=pyramid,
            rpn=rpn,
            box_head=box_head,
            mask_head=mask_head,
            roi_align=roi_align,
            mask_targets=mask_targets,
            mask_loss=mask_loss,
            mask_scores=mask_scores,
            paste_masks=paste_masks,
        )
        self.num_classes, self.num_things = num_classes, num_things
        self.semantic_weight, self.stuff_share = semantic_weight, stuff_share
        self.panoptic_score, self.panoptic_overlap = panoptic_score, panoptic_overlap
        self.semantic_branch = semantic_branch or SemanticBranch(
            channels, num_classes - num_things + 1
        )
        self.semantic_backbone = semantic_backbone
        self.semantic_pyramid = semantic_backbone and FeaturePyramid(
            semantic_backbone.channels, channels
        )

    def semantic_logits(
        self, batch: Float[Tensor, "b 3 h w"], features: Sequence[Float[Tensor, "b c _ _"]]
    ) -> Float[Tensor, "b k h w"]:
        """The branch's logits at the batch's size, from these features unless it has its own."""
        features = features[: len(self.backbone.strides)]  # an extra level is for proposals only
        if self.semantic_backbone is not None:
            features = self.semantic_pyramid(self.semantic_backbone(batch))
        return F.interpolate(self.semantic_branch(features), size=batch.shape[-2:], mode="bilinear")

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The detector's five losses, and `semantic`, weighted: their sum is the joint loss."""
        batch, sizes = batch_images(images, self.mean, self.std)
        features = self.pyramid(self.backbone(batch))
        losses = self.instance_losses(features, tuple(batch.shape[-2:]), sizes, segments)
        logits = self.semantic_logits(batch, features)
        targets = torch.full_like(logits[:, 0], VOID, dtype=torch.int64)  # the padding too is void
        for target, own, (h, w) in zip(targets, segments, sizes, strict=True):
            target[:h, :w] = thing_or_stuff(semantic_map(own), self.num_things)
        return losses | {"semantic": self.semantic_weight * semantic_loss(logits, targets)}

    @torch.no_grad()
    def answers(
        self, images: Sequence[Float[Tensor, "3 _ _"]]
    ) -> tuple[list[Segments], list[Float[Tensor, "k _ _"]]]:
        """What both branches say of each image: its instances, and the logits of its pixels."""
        batch, sizes = batch_images(images, self.mean, self.std)
        features = self.pyramid(self.backbone(batch))
        found = self.detect(features, tuple(batch.shape[-2:]), sizes)
        logits = self.semantic_logits(batch, features)
        own = [each[:, :h, :w] for each, (h, w) in zip(logits, sizes, strict=True)]
        return self.paste_detections(found, sizes), own

    @checked
    def merge(self, found: Segments, logits: Float[Tensor, "k h w"]) -> Segments:
        """One image's instances and logits as one answer, with this model's thresholds."""
        return merge_panoptic(
            found,
            logits.argmax(dim=0) + self.num_things - 1,  # "thing" is below all stuff
            num_things=self.num_things,
            score_threshold=self.panoptic_score,
            overlap_threshold=self.panoptic_overlap,
            stuff_area=round(self.stuff_share * logits[0].numel()),
        )

    def predict_semantic(
        self, images: Sequence[Float[Tensor, "3 _ _"]]
    ) -> list[Int[Tensor, "_ _"]]:
        """The class 0 … K−1 of each pixel; the detector says which thing it is."""
        pairs = zip(*self.answers(images), strict=True)
        return [classes_of_pixels(logits, found, self.num_things) for found, logits in pairs]

    def predict_panoptic(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """Disjoint segments of each image: both answers merged."""
        pairs = zip(*self.answers(images), strict=True)
        return [self.merge(found, logits) for found, logits in pairs]


def recipe(data: str = "scenes", shared: bool = True, **options: Any) -> Recipe:
    """How Panoptic FPN is trained: `fit(recipe())`, or `lessons train panoptic_fpn`.

    With shared=False the two branches have a backbone and a pyramid each, narrower ones, so that
    both systems have as many parameters; other options are PanopticFPN's keywords.
    """
    kinds = categories(data)
    things = sum(category.is_thing for category in kinds)
    if not isinstance(shared, bool):
        raise ValueError(f"shared must be True or False, not {shared!r}")

    def model() -> PanopticFPN:
        separate = () if shared else ("backbone", "semantic_backbone")
        own = {name: Backbone(NARROW) for name in separate}
        return PanopticFPN(len(kinds), things, **own, **options)

    return Recipe(
        system="panoptic_fpn",
        model=model,
        metrics=METRICS,
        budgets=_budgets(data),
        data=data,
        options={"shared": shared, **options},
    )


def _budgets(data: str) -> dict[str, Budget]:
    if data == "four_scenes":
        return by_heart(Budget(190, batch=2, size=64, learning_rate=2e-3))
    if data == "ten_coco":
        ten = Budget(1500, batch=2, size=256, mirror=False, learning_rate=2e-3)
        tiny = replace(ten, steps=4, size=64)
        return {"test": tiny, "quick": replace(ten, steps=60), "full": ten}
    return from_full(Budget(6000, batch=16, evaluations=6, learning_rate=2e-3))
