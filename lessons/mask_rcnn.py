# Built by `lessons build` from notebooks/05_mask_rcnn.ipynb: edit that, not this.
"""Mask R-CNN.

You build the system that finds each thing with a box and then paints it with a mask, and you
measure how much of a blunt mask is resolution and how much was not learned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.anchor_boxes import box_iou, decode_boxes, encode_boxes, nms
from lessons.average_precision import evaluate_instances
from lessons.kit.data import Segments, boxes, is_crowd
from lessons.kit.data.checks import as_many, at_least, checked, labels_in, one_of, shares
from lessons.kit.models.backbone import Backbone, group_norm
from lessons.kit.models.images import (
    MEAN,
    STD,
    batch_images,
    batch_masks,
    batch_segments,
    in_full_precision,
)
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.region_proposals import (
    FeaturePyramid,
    RegionProposalNetwork,
    match_boxes,
    sample_boxes,
)
from lessons.roi_align import roi_align, roi_pool


@checked
def mask_loss(
    logits: Float[Tensor, "n k m m"], targets: Float[Tensor, "n m m"], labels: Integer[Tensor, "n"]
) -> Float[Tensor, ""]:
    """L_mask: binary cross-entropy of the mask of the true class u, mean over pixels and RoIs.

    The other K − 1 masks of a RoI hear nothing of it (He et al. 2017, section 3). `targets` are
    in [0, 1], `labels` 0 … K−1. Without RoIs it is 0.
    """
    labels_in(labels, logits.shape[1])
    if not len(logits):
        return logits.sum() * 0
    own = logits[torch.arange(len(labels), device=labels.device), labels.long()]  # s^u before σ
    return F.binary_cross_entropy_with_logits(in_full_precision(own), targets)


@checked
def mask_scores(
    logits: Float[Tensor, "n k m m"], labels: Integer[Tensor, "n"]
) -> Float[Tensor, "n m m"]:
    """s^u: the sigmoid of the mask of each detection's class."""
    labels_in(labels, logits.shape[1])
    own = logits[torch.arange(len(labels), device=labels.device), labels.long()]
    return in_full_precision(own).sigmoid()


@checked
def softmax_mask_scores(
    logits: Float[Tensor, "n k m m"], labels: Integer[Tensor, "n"]
) -> Float[Tensor, "n m m"]:
    """The probability of each detection's class against all others and the background."""
    labels_in(labels, logits.shape[1] - 1)
    probability = in_full_precision(logits).softmax(dim=1)
    return probability[torch.arange(len(labels), device=labels.device), labels.long()]


@checked
def softmax_mask_loss(
    logits: Float[Tensor, "n k m m"], targets: Float[Tensor, "n m m"], labels: Integer[Tensor, "n"]
) -> Float[Tensor, ""]:
    """The rival: every pixel is one of the classes or, last channel, background.

    Soft targets w share the pixel: w for the class, 1 − w for the background.
    """
    labels_in(labels, logits.shape[1] - 1)
    if not len(logits):
        return logits.sum() * 0
    log = in_full_precision(logits).log_softmax(dim=1)
    own = log[torch.arange(len(labels), device=labels.device), labels.long()]
    return -(targets * own + (1 - targets) * log[:, -1]).mean()


@checked
def mask_targets(
    masks: Bool[Tensor, "g h w"],
    boxes: Float[Tensor, "n 4"],
    matches: Integer[Tensor, "n"],
    size: int,
    aligned: bool = True,
) -> Float[Tensor, "n m m"]:
    """What the mask head should say in each box: its object's mask, cropped to size×size.

    `matches` names the mask of each box. The crop is RoIAlign's, so the values at the edge are
    soft. torchvision crops with aligned=False, half a pixel away.
    """
    rois = torch.cat([matches[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), rois, size, aligned=aligned)[:, 0]


@checked
def paste_masks(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], size: tuple[int, int]
) -> Float[Tensor, "n h w"]:
    """Each m×m mask, stretched over its box in an image of `size` (height, width).

    It fades within half a cell beyond the box, and is 0 further out.

    Pixel centres are looked up bilinearly (detectron2's convention, where torchvision rounds
    boxes to whole pixels). Bilinear weights are a product of one along y and one along x, so
    pasting is two matrix products. A box without area is taken for a very thin one.
    """
    m, along = masks.shape[-1], []
    for axis, pixels in ((1, size[0]), (0, size[1])):  # y, then x
        start, end = boxes[:, axis], boxes[:, axis + 2]
        centres = torch.arange(pixels, device=boxes.device) + 0.5
        cells = torch.arange(m, device=boxes.device)
        inside = (centres - start[:, None]) / (end - start).clamp(min=1e-6)[:, None]  # 0 … 1
        weights = (1 - (inside[:, :, None] * m - 0.5 - cells).abs()).clamp(min=0)
        along.append(weights.to(masks))
    return along[0] @ masks @ along[1].mT


@checked
def boundary_error(
    found: Bool[Tensor, "n h w"], truth: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n"]:
    """The share of the pixels at each true outline (one on each side) that are wrong.

    NaN for a truth without an outline: nothing, or the whole image.
    """
    solid = truth[:, None].float()
    near = F.max_pool2d(solid, 3, 1, 1) - -F.max_pool2d(-solid, 3, 1, 1)  # dilation − erosion
    wrong = (found != truth)[:, None] * near
    return wrong.sum(dim=(1, 2, 3)) / near.sum(dim=(1, 2, 3))


class BoxHead(nn.Module):
    """Two fully connected layers on the pooled features, then K + 1 classes and K boxes.

    With `norm`, LayerNorm after each, so that it learns in fewer steps. torchvision has none.
    """

    def __init__(
        self, channels: int, num_classes: int, pooled: int = 7, hidden: int = 128, norm: bool = True
    ):
        super().__init__()
        self.pooled, layers = pooled, [nn.Flatten()]
        for inside in (channels * pooled * pooled, hidden):
            layers += [nn.Linear(inside, hidden)]
            layers += [nn.LayerNorm(hidden)] if norm else []
            layers += [nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.classes = nn.Linear(hidden, num_classes + 1)  # background is number 0
        self.deltas = nn.Linear(hidden, num_classes * 4)

    def forward(
        self, pooled: Float[Tensor, "n c p p"]
    ) -> tuple[Float[Tensor, "n k1"], Float[Tensor, "n k 4"]]:
        """Class logits, background first, and the box code for each of the K classes."""
        x = self.layers(pooled)
        return self.classes(x), self.deltas(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """Convolutions, a 2×2 deconvolution that doubles the size, and a mask for each class.

    With `norm`, GroupNorm after each convolution. The paper has depth 4 and no norm.
    """

    def __init__(
        self, channels: int, num_masks: int, hidden: int = 64, depth: int = 2, norm: bool = True
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Conv2d(hidden if number else channels, hidden, 3, padding=1)]
            layers += [group_norm(hidden)] if norm else []
            layers += [nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(hidden, hidden, 2, stride=2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(hidden, num_masks, 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, pooled: Float[Tensor, "n c p p"]) -> Float[Tensor, "n k m m"]:
        """Mask logits at m = 2p."""
        return self.layers(pooled)


BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass
class Detections:
    """What the heads say of a batch, before the masks are pasted; an image's best first."""

    rois: Float[Tensor, "d 5"]  # image, x0, y0, x1, y1 in pixels
    labels: Int[Tensor, "d"]
    scores: Float[Tensor, "d"]
    masks: Float[Tensor, "d m m"]  # s^u, in [0, 1]


class MaskRCNN(nn.Module):
    """Mask R-CNN on a feature pyramid (He et al. 2017; Lin et al. 2017).

    `num_classes` counts the things: segments with other labels are no targets, crowds neither.
    Every part is a keyword. A `backbone` has `.channels` and `.strides`. The `rpn` sees all maps
    of the `pyramid`, also an extra one; RoIs are pooled from `levels`. If given, `roi_align` (as
    `roi_pool`) is called with features, RoIs, output size and scale, and `mask_targets` with
    masks, boxes, matches and size: without `sampling_ratio` and `aligned`.

    Raises ValueError, naming it, for a setting that is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 64,  # of the pyramid [256]
        mask_size: int = 28,  # m: the mask head's output is m×m
        levels: Sequence[int] = (0, 1, 2, 3),  # of the pyramid that RoIs are pooled from
        canonical_size: float = 56,  # side in pixels of a box that belongs to stride 16 [224]
        samples: int = 64,  # RoIs of an image in the losses [512] …
        positive_fraction: float = 0.25,  # … and how many of them may be positive
        score_threshold: float = 0.05,  # least score of a detection
        nms_threshold: float = 0.5,  # within a class
        max_detections: int = 100,  # of an image
        sampling_ratio: int = 2,  # RoIAlign reads each bin at so many places along each axis
        aligned: bool = True,  # pixel centres are at ½, for RoIAlign and mask targets [False]
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
        super().__init__()
        at_least(1, num_classes=num_classes, samples=samples, max_detections=max_detections)
        shares(positive_fraction=positive_fraction)
        shares(score_threshold=score_threshold, nms_threshold=nms_threshold)
        at_least(2, mask_size=mask_size)
        if mask_size % 2:
            raise ValueError(f"mask_size must be even, not {mask_size}")
        if not canonical_size > 0:
            raise ValueError(f"canonical_size must be above 0, not {canonical_size}")
        self.num_classes = self.num_things = num_classes  # a detector knows nothing but things
        self.channels, self.mask_size = channels, mask_size
        self.levels, self.canonical_size = levels, canonical_size
        self.samples, self.positive_fraction = samples, positive_fraction
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.sampling_ratio, self.aligned = sampling_ratio, aligned
        self.backbone = backbone or Backbone()
        own = list(range(len(self.backbone.strides)))
        if not levels or list(levels) != own[levels[0] : levels[-1] + 1]:
            raise ValueError(f"levels must be neighbours among {own}, finest first, not {levels}")
        self.pyramid = pyramid or FeaturePyramid(self.backbone.channels, channels)
        self.rpn = rpn or RegionProposalNetwork(channels, candidates_eval=400, proposals_eval=300)
        self.box_head = box_head or BoxHead(channels, num_classes)
        self.mask_head = mask_head or MaskHead(channels, num_classes)
        self.roi_align, self.mask_targets, self.mask_loss = roi_align, mask_targets, mask_loss
        self.mask_scores, self.paste_masks = mask_scores, paste_masks
        for name, values in {"mean": MEAN, "std": STD}.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def instance_losses(
        self,
        features: Sequence[Float[Tensor, "b c _ _"]],
        batch_size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        segments: Sequence[Segments],
    ) -> dict[str, Float[Tensor, ""]]:
        """The five losses of a pyramid's features: objectness, rpn_box, and L_cls, L_box, L_mask.

        `batch_size` is that of the padded batch, `sizes` are the images' own, (height, width).
        """
        segments = batch_segments(segments, sizes)
        things = [s[(s.labels < self.num_things) & ~is_crowd(s)] for s in segments]
        true_boxes, labels = [boxes(s) for s in things], [s.labels for s in things]
        proposals, losses = self.rpn(features, batch_size, sizes, true_boxes)
        sample = sample_rois(proposals, true_boxes, labels, self.samples, self.positive_fraction)

        p, t = self.box_head(self.pool(features, sample.rois, self.box_head.pooled))
        losses["cls"] = F.cross_entropy(in_full_precision(p), sample.u)  # L_cls(p, u)

        some = torch.where(sample.u >= 1)[0]  # [u ≥ 1]
        rois, u, v = sample.rois[some], sample.u[some] - 1, sample.v[some]
        t_u = in_full_precision(t[some, u])
        distance = F.smooth_l1_loss(t_u, v, beta=1 / 9, reduction="sum")
        losses["box"] = distance / len(sample.u)  # L_box(t^u, v)

        f = self.mask_head(self.pool(features, rois, self.mask_size // 2))
        crop = self.mask_targets or partial(mask_targets, aligned=self.aligned)
        masks = batch_masks(things, batch_size)
        w = crop(masks, rois[:, 1:], sample.matches[some], self.mask_size)
        losses["mask"] = self.mask_loss(f, w, u)  # L_mask(s^u, w)
        return losses

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: objectness, rpn_box, cls, box, mask."""
        features, batch_size, sizes = self.features(images)
        return self.instance_losses(features, batch_size, sizes, segments)

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Float[Tensor, "b c _ _"]],
        batch_size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
    ) -> Detections:
        """Boxes, labels, scores and small masks, found in the features of a pyramid."""
        proposals, _ = self.rpn(features, batch_size, sizes)
        rois = torch.cat([F.pad(found, (1, 0), value=i) for i, found in enumerate(proposals)])
        p, t = self.box_head(self.pool(features, rois, self.box_head.pooled))
        limits = self.score_threshold, self.nms_threshold, self.max_detections
        rois, labels, scores = choose_detections(p, t, rois, sizes, *limits)
        f = self.mask_head(self.pool(features, rois, self.mask_size // 2))
        return Detections(rois, labels, scores, self.mask_scores(f, labels))

    def paste_detections(
        self, found: Detections, sizes: Sequence[tuple[int, int]]
    ) -> list[Segments]:
        """Each image's detections as masks of its size, best first; they may overlap."""
        answers = []
        for number, size in enumerate(sizes):
            own = torch.where(found.rois[:, 0] == number)[0]
            soft = self.paste_masks(found.masks[own], found.rois[own, 1:], size)
            answer = Segments(soft >= 0.5, found.labels[own], found.scores[own])
            answers.append(answer[answer.masks.flatten(1).any(dim=1)])
        return answers

    @torch.no_grad()
    def predict_instances(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """Masks (threshold ½), labels and scores of each image, best first; they may overlap."""
        features, batch_size, sizes = self.features(images)
        return self.paste_detections(self.detect(features, batch_size, sizes), sizes)

    def features(
        self, images: Sequence[Float[Tensor, "3 _ _"]]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], tuple[int, int], list[tuple[int, int]]]:
        """The pyramid of the batched images, the batch's size, and the images' own."""
        batch, sizes = batch_images(images, self.mean, self.std)
        return self.pyramid(self.backbone(batch)), tuple(batch.shape[-2:]), sizes

    def pool(
        self, features: Sequence[Float[Tensor, "b c _ _"]], rois: Float[Tensor, "n 5"], size: int
    ) -> Float[Tensor, "n c p p"]:
        """The RoIs' features, size×size."""
        samples = {"sampling_ratio": self.sampling_ratio, "aligned": self.aligned}
        align = self.roi_align or partial(roi_align, **samples)
        where = self.backbone.strides, self.levels, self.canonical_size
        return pool_pyramid(features, rois, size, align, *where)


@checked
def choose_level(
    rois: Float[Tensor, "n 5"], levels: Sequence[int], canonical_size: float
) -> Int[Tensor, "n"]:
    """The pyramid level of each RoI: a box of `canonical_size` pixels belongs to stride 16.

    Half the size is one level finer (Lin et al. 2017, eq. 1). Level 0 has stride 4; the result
    is limited to `levels`.
    """
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = torch.floor(2 + torch.log2(area.sqrt() / canonical_size) + 1e-6)
    return level.clamp(levels[0], levels[-1]).long()


@checked
def pool_pyramid(
    features: Sequence[Float[Tensor, "b c _ _"]],
    rois: Float[Tensor, "n 5"],
    size: int,
    roi_align: Callable,
    strides: Sequence[int],
    levels: Sequence[int],
    canonical_size: float,
) -> Float[Tensor, "n c p p"]:
    """Each RoI's features, size×size, from the level that suits its area."""
    level = choose_level(rois, levels, canonical_size)
    order, pooled = [], []
    for number in levels:
        here = torch.where(level == number)[0]
        order.append(here)
        pooled.append(roi_align(features[number], rois[here], size, 1 / strides[number]))
    return torch.cat(pooled)[torch.cat(order).argsort()]


@dataclass
class RoISample:
    """RoIs to learn from, of all images of a batch: their class, their box code, their object."""

    rois: Float[Tensor, "n 5"]  # image, x0, y0, x1, y1
    u: Int[Tensor, "n"]  # class: 0 is background, k + 1 is label k
    v: Float[Tensor, "n 4"]  # the code of the object's box; 0 for background
    matches: Int[Tensor, "n"]  # the object's number, through all images; −1 for background


@checked
def sample_rois(
    proposals: Sequence[Float[Tensor, "_ 4"]],
    true_boxes: Sequence[Float[Tensor, "_ 4"]],
    labels: Sequence[Integer[Tensor, "_"]],
    count: int,
    positive_fraction: float,
) -> RoISample:
    """`count` RoIs of each image, positives (IoU ≥ ½ with an object) up to a fraction.

    The true boxes join the proposals, so that there is something to learn from at the start.
    """
    as_many(len(proposals), true_boxes=true_boxes, labels=labels)
    parts, before = [], 0
    for i, (found, truth) in enumerate(zip(proposals, true_boxes, strict=True)):
        found = torch.cat([found, truth])
        matches = match_boxes(box_iou(truth, found), 0.5, 0.5)
        positives, negatives = sample_boxes(matches, count, positive_fraction)
        index, own = torch.cat([positives, negatives]), matches[positives]
        u, v = torch.zeros_like(index), torch.zeros_like(found[index])
        u[: len(own)] = labels[i][own].long() + 1
        v[: len(own)] = encode_boxes(truth[own], found[positives], BOX_WEIGHTS)
        match = torch.cat([own + before, torch.full_like(negatives, -1)])
        parts.append((F.pad(found[index], (1, 0), value=i), u, v, match))
        before += len(truth)
    return RoISample(*(torch.cat(column) for column in zip(*parts, strict=True)))


@checked
def choose_detections(
    logits: Float[Tensor, "n k1"],
    codes: Float[Tensor, "n k1-1 4"],
    rois: Float[Tensor, "n 5"],
    sizes: Sequence[tuple[int, int]],
    score_threshold: float,
    nms_threshold: float,
    most: int,
) -> tuple[Float[Tensor, "d 5"], Int[Tensor, "d"], Float[Tensor, "d"]]:
    """The refined boxes that pass threshold and NMS, with labels and scores; an image's best first.

    Every class of every RoI is a candidate of its own; NMS is done within image and class, and
    an image keeps `most` at most.
    """
    probability = in_full_precision(logits).softmax(dim=1)[:, 1:]
    roi, label = torch.where(probability > score_threshold)
    score, image = probability[roi, label], rois[roi, 0]
    corners = decode_boxes(in_full_precision(codes[roi, label]), rois[roi, 1:], BOX_WEIGHTS)
    edge = corners.new_tensor([(w, h, w, h) for h, w in sizes])[image.long()]
    corners = torch.minimum(corners.clamp(min=0), edge)
    wide = torch.where((corners[:, 2:] - corners[:, :2] >= 1e-2).all(dim=1))[0]
    group = image[wide].long() * logits.shape[1] + label[wide]
    kept = wide[nms(corners[wide], score[wide], nms_threshold, group)]
    kept = torch.cat([kept[image[kept] == number][:most] for number in range(len(sizes))])
    return torch.cat([image[kept, None], corners[kept]], dim=1), label[kept], score[kept]


def recipe(
    data: str = "scenes", roi: str = "align", mask: str = "sigmoid", **options: Any
) -> Recipe:
    """How Mask R-CNN is trained: `fit(recipe())`, or `lessons train mask_rcnn`.

    `roi` is "align" or "pool", `mask` is "sigmoid" (a mask for each class) or "softmax" (the
    classes compete); other options are MaskRCNN's keywords, as mask_size=56.
    """
    things = sum(category.is_thing for category in categories(data))
    one_of(("align", "pool"), roi=roi)
    one_of(("sigmoid", "softmax"), mask=mask)

    def model() -> MaskRCNN:
        parts = dict(options)
        if roi == "pool":
            parts["roi_align"] = roi_pool
        if mask == "softmax":
            parts |= {"mask_loss": softmax_mask_loss, "mask_scores": softmax_mask_scores}
            parts["mask_head"] = MaskHead(64, things + 1)
        return MaskRCNN(things, **parts)

    few = Budget(190, batch=2, size=64, learning_rate=2e-3)
    full = Budget(6000, batch=16, evaluations=6, learning_rate=2e-3, turn=data == "nuclei")
    budgets = by_heart(few) if data == "four_scenes" else from_full(full)
    return Recipe(
        system="mask_rcnn",
        model=model,
        metrics={"predict_instances": evaluate_instances},
        budgets=budgets,
        data=data,
        options={"roi": roi, "mask": mask, **options},
    )
