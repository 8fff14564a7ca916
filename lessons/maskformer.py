# Built by `lessons build` from notebooks/13_maskformer.ipynb: edit that, not this.
"""MaskFormer.

You build the network that answers with a set of (class, mask) pairs, train it by matching that set
with the truth, and read three kinds of segmentation off one output.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.data import Segments, is_crowd
from lessons.kit.models.backbone import Backbone, group_norm
from lessons.kit.models.images import MEAN, STD, batch_images, batch_segments, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.panoptic_fpn import METRICS

TASKS = ("panoptic", "instance", "semantic")


def must_be_task(task: str) -> None:
    """Raises ValueError for a word that is none of `TASKS`."""
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")


def task_targets(segments: Segments, task: str, num_things: int) -> Segments:
    """z^gt of one task, all from the panoptic annotation: what a query may be asked to say.

    "panoptic": every segment. "instance": the things. "semantic": one mask for each class, all
    its segments together, crowds too. Elsewhere crowds are left out. Raises ValueError for
    another task.
    """
    must_be_task(task)
    if task == "semantic":
        labels = segments.labels.unique()
        masks = [segments.masks[segments.labels == label].any(dim=0) for label in labels]
        return Segments(torch.stack(masks) if masks else segments.masks[:0], labels)
    wanted = ~is_crowd(segments)
    if task == "instance":
        wanted = wanted & (segments.labels < num_things)
    return Segments(segments.masks[wanted], segments.labels[wanted])


def pad_masks(segments: Segments, size: tuple[int, int]) -> Segments:
    """The same segments in a larger image; what is added belongs to none.

    Raises ValueError for a size that is smaller than the image.
    """
    (h, w), (height, width) = segments.size, size
    if height < h or width < w:
        raise ValueError(f"size must be at least {segments.size}, the masks', not {tuple(size)}")
    return replace(segments, masks=F.pad(segments.masks, (0, width - w, 0, height - h)))


def focal_loss(
    logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"], alpha: float = 0.25
) -> Float[Tensor, "n"]:
    """Cross-entropy of each pixel, times (1 − p_t)², mean over the pixels (Lin et al. 2017).

    `targets` are 0 or 1. What is right already counts next to nothing; `alpha` weighs the mask
    against its outside. Raises ValueError for two shapes.
    """
    must_be_one_shape(logits, targets)
    wrong = logits * (1 - 2 * targets)  # the logit of 1 − p_t
    loss = wrong.sigmoid().square() * F.softplus(wrong)
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return torch.linalg.vecdot(loss, weight) / logits.shape[1]


def dice_loss(logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]) -> Float[Tensor, "n"]:
    """1 − (2 Σ m·g + 1) / (Σ m + Σ g + 1), of soft masks m = σ(logits) (Milletari et al. 2016).

    Raises ValueError for two shapes.
    """
    must_be_one_shape(logits, targets)
    masks = logits.sigmoid()
    both = (masks * targets).sum(dim=1)
    return 1 - (2 * both + 1) / (masks.sum(dim=1) + targets.sum(dim=1) + 1)


def must_be_one_shape(logits: Tensor, targets: Tensor) -> None:
    """Raises ValueError where targets are not of the logits' shape (n, p)."""
    if logits.ndim != 2 or logits.shape != targets.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"logits and targets must both be (n, p), not {shapes}")


def pairwise_focal(
    logits: Float[Tensor, "q p"], targets: Float[Tensor, "n p"], alpha: float = 0.25
) -> Float[Tensor, "q n"]:
    """The focal loss of every query against every segment: one matrix product."""
    probability = logits.sigmoid()
    inside = alpha * (1 - probability).square() * F.softplus(-logits)
    outside = (1 - alpha) * probability.square() * F.softplus(logits)
    return ((inside - outside) @ targets.T + outside.sum(dim=1, keepdim=True)) / logits.shape[1]


def pairwise_dice(
    logits: Float[Tensor, "q p"], targets: Float[Tensor, "n p"]
) -> Float[Tensor, "q n"]:
    """The dice loss of every query against every segment: one matrix product."""
    masks = logits.sigmoid()
    both = masks @ targets.T
    return 1 - (2 * both + 1) / (masks.sum(dim=1)[:, None] + targets.sum(dim=1) + 1)


@dataclass(frozen=True)
class Weights:
    """How much each term counts, in cost and loss alike. Raises ValueError for one below 0."""

    classes: float = 1.0
    mask: float = 20.0
    dice: float = 1.0
    no_object: float = 0.1  # of a query that is to say ∅, in the loss

    def __post_init__(self):
        if not all(weight >= 0 for weight in astuple(self)):
            raise ValueError(f"weights must be at least 0, not {astuple(self)}")


def must_be_classes(labels: Int[Tensor, "n"], num_classes: int) -> None:
    """Raises ValueError for a label that is none of 0 … K−1: nobody is asked for ∅."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(f"labels must be 0 … {num_classes - 1}, not {int(wrong[0])}")


def matching_cost(
    class_logits: Float[Tensor, "q k1"],
    mask_logits: Float[Tensor, "q p"],
    labels: Int[Tensor, "n"],
    masks: Float[Tensor, "n p"],
    weights: Weights = Weights(),
    mask_cost: Callable = pairwise_focal,
    logarithm: bool = False,
) -> Float[Tensor, "q n"]:
    """L_match of every query with every segment: −p(c) + L_mask (Cheng et al. 2021).

    `class_logits` has ∅ last; `masks` are 0 or 1 at the same p pixels (or points) as
    `mask_logits`. `mask_cost` is the first part of L_mask, of all pairs; dice is the second.
    With `logarithm` the class counts as −log p(c), which is not commensurate with L_mask.
    Raises ValueError where shapes do not fit and for a label that is no class.
    """
    q, p, n = len(class_logits), mask_logits.shape[-1], len(labels)
    if mask_logits.shape != (q, p) or masks.shape != (n, p):
        shapes = f"{tuple(mask_logits.shape)} and {tuple(masks.shape)}"
        raise ValueError(
            f"mask_logits and masks must be ({q}, p) and ({n}, p) for {q} queries and {n} labels, "
            f"not {shapes}"
        )
    mask_logits = in_full_precision(mask_logits)
    labels, masks = labels.long(), masks.to(mask_logits)
    must_be_classes(labels, class_logits.shape[1] - 1)
    with torch.autocast(mask_logits.device.type, enabled=False):  # sums over thousands of pixels
        probability = in_full_precision(class_logits).softmax(dim=1)[:, labels]
        by_class = -probability.clamp(min=1e-30).log() if logarithm else -probability
        by_mask = weights.mask * mask_cost(mask_logits, masks)
        by_dice = weights.dice * pairwise_dice(mask_logits, masks)
    return weights.classes * by_class + by_mask + by_dice


def assign(cost: Float[Tensor, "q n"]) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """The cheapest one-to-one matching: queries and their segments, m = min(q, n) pairs.

    By scipy, on the CPU. Raises ValueError where a cost is not finite.
    """
    if not torch.isfinite(cost).all():
        raise ValueError("the matching cost is not finite: training has diverged")
    queries, segments = linear_sum_assignment(cost.cpu().numpy())
    return tuple(torch.from_numpy(each).to(cost.device) for each in (queries, segments))


def match_segments_to_queries(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    **how: Any,
) -> list[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]]:
    """σ̂ of each image: the queries that answer for a segment, and which.

    Masks are compared at the size of `mask_logits`, the truth by its nearest pixels; `how` is
    what `matching_cost` takes. With more segments than queries the costliest go without.
    Raises ValueError for another number of targets.
    """
    must_be_as_many(len(class_logits), targets=targets, mask_logits=mask_logits)
    matches = []
    for classes, masks, target in zip(
        class_logits.detach(), mask_logits.detach(), targets, strict=True
    ):
        true = F.interpolate(target.masks[:, None].float(), masks.shape[-2:])[:, 0]
        cost = matching_cost(classes, masks.flatten(1), target.labels, true.flatten(1), **how)
        matches.append(assign(cost))
    return matches


def must_be_as_many(count: int, **lists: Any) -> None:
    """Raises ValueError for a list that has not `count` entries."""
    for name, each in lists.items():
        if len(each) != count:
            raise ValueError(f"{name} must have {count} entries, not {len(each)}")


def class_loss(
    class_logits: Float[Tensor, "b q k1"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
    no_object: float = 0.1,
) -> Float[Tensor, ""]:
    """−log p(c^gt) of all queries, mean weighted by 1, and by `no_object` where c^gt is ∅.

    Raises ValueError for a label that is no class and where lists do not fit the batch.
    """
    num_classes = class_logits.shape[-1] - 1
    must_be_as_many(len(class_logits), targets=targets, matches=matches)
    wanted = torch.full(class_logits.shape[:2], num_classes, device=class_logits.device)
    for row, target, (queries, segments) in zip(wanted, targets, matches, strict=True):
        must_be_classes(target.labels, num_classes)
        row[queries] = target.labels[segments]
    logits = in_full_precision(class_logits).flatten(0, 1)
    weight = logits.new_tensor([1.0] * num_classes + [no_object])
    loss = F.cross_entropy(logits, wanted.flatten(), weight, reduction="sum")
    return loss / weight[wanted].sum().clamp(min=1e-6)  # all may be ∅, and weigh 0


def matched_masks(
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
) -> tuple[Float[Tensor, "m h w"], Float[Tensor, "m _ _"]]:
    """The masks of the matched queries of a batch, and the true ones that they are to be.

    Raises ValueError where the targets are not all of one size.
    """
    must_be_as_many(len(mask_logits), targets=targets, matches=matches)
    sizes = {target.size for target in targets}
    if len(sizes) > 1:
        raise ValueError(f"targets must be of one size, as by pad_masks, not {sorted(sizes)}")
    found = [masks[queries] for masks, (queries, _) in zip(mask_logits, matches, strict=True)]
    true = [target.masks[chosen] for target, (_, chosen) in zip(targets, matches, strict=True)]
    found = in_full_precision(torch.cat(found))
    return found, torch.cat(true).to(found)


def mask_classification_loss(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
    weights: Weights = Weights(),
    mask_loss: Callable = focal_loss,
) -> dict[str, Float[Tensor, ""]]:
    """L_mask-cls of a batch: its terms `classes`, `mask` and `dice`, weighted.

    Masks are enlarged to the targets' size (all of one size) first. The mask terms are summed
    over the matched pairs and divided by the number of segments, at least 1; without segments
    they are 0. Raises ValueError where lists do not fit the batch, sizes differ, or a label is
    no class.
    """
    by_class = class_loss(class_logits, targets, matches, weights.no_object)
    found, true = matched_masks(mask_logits, targets, matches)
    if not len(found):
        return {"classes": weights.classes * by_class, "mask": found.sum(), "dice": found.sum()}
    count = max(1, sum(len(target) for target in targets))
    with torch.autocast(found.device.type, enabled=False):  # sums over thousands of pixels
        found = F.interpolate(found[None], true.shape[-2:], mode="bilinear")[0]
        found, true = found.flatten(1), true.flatten(1)
        by_mask, by_dice = mask_loss(found, true).sum(), dice_loss(found, true).sum()
    return {
        "classes": weights.classes * by_class,
        "mask": weights.mask * by_mask / count,
        "dice": weights.dice * by_dice / count,
    }


class PixelDecoder(nn.Module):
    """A feature pyramid with norms that ends in E_pixel, the pixel embeddings at stride 4.

    `inside` are the channels of the features, fine to coarse.
    """

    def __init__(self, inside: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), group_norm(channels))
            for width in inside[:-1]
        )
        self.blocks = nn.ModuleList(
            conv_block(width, channels) for width in [inside[-1]] + [channels] * (len(inside) - 1)
        )
        self.embed = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """Pixel embeddings from the backbone's features, fine to coarse."""
        if len(features) != len(self.blocks):
            raise ValueError(f"{len(features)} features for {len(self.blocks)} levels")
        x = self.blocks[0](features[-1])
        for block, lateral, finer in zip(
            self.blocks[1:], reversed(self.lateral), features[-2::-1], strict=True
        ):
            x = block(F.interpolate(x, finer.shape[-2:]) + lateral(finer))
        return self.embed(x)


def conv_block(inside: int, channels: int) -> nn.Sequential:
    """3×3 convolution, GroupNorm, ReLU."""
    conv = nn.Conv2d(inside, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, group_norm(channels), nn.ReLU(inplace=True))


class Attention(nn.Module):
    """Attention with several heads (Vaswani et al. 2017): each query a mean of the values.

    Raises ValueError for channels that the heads cannot share.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"channels ({channels}) must be a multiple of heads ({heads})")
        self.heads = heads
        self.to_query, self.to_key, self.to_value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )
        for layer in (self.to_query, self.to_key, self.to_value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        queries: Float[Tensor, "b q c"],
        keys: Float[Tensor, "b s c"],
        values: Float[Tensor, "b s c"],
        allowed: Bool[Tensor, "b _ q s"] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """What the queries take from the values; `allowed` says which they may look at."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in zip(
                (self.to_query, self.to_key, self.to_value), (queries, keys, values), strict=True
            )
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


def sine_positions(
    size: tuple[int, int], channels: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "hw c"]:
    """Where each cell is, as sines and cosines of its y, then of its x (Carion et al. 2020).

    The side of the map is 2π. Raises ValueError for channels that are no multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, not {channels}")
    frequency = 10000 ** (-torch.arange(0, channels // 2, 2, device=device) / (channels // 2))
    halves = []
    for side in size:
        place = 2 * math.pi * torch.arange(1, side + 1, device=device) / (side + 1e-6)
        angle = place[:, None] * frequency
        halves.append(torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1))
    y, x = halves
    both = torch.cat([y[:, None].expand(-1, size[1], -1), x[None].expand(size[0], -1, -1)], dim=2)
    return both.flatten(0, 1)


class EncoderLayer(nn.Module):
    """Self-attention of the image's cells, then the two linear layers; norm after each."""

    def __init__(self, channels: int, heads: int, hidden: int):
        super().__init__()
        self.self_attention = Attention(channels, heads)
        self.feed_forward = feed_forward(channels, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "b s c"], positions: Float[Tensor, "s c"]
    ) -> Float[Tensor, "b s c"]:
        """The cells after they have looked at one another."""
        placed = x + positions
        x = self.norms[0](x + self.self_attention(placed, placed, x))
        return self.norms[1](x + self.feed_forward(x))


def feed_forward(channels: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them, on each token alone."""
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
    )


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the image, two linear layers.

    Norm after each. `positions` of the queries are learned and added wherever they ask or are
    asked; those of the image only to its keys.
    """

    def __init__(self, channels: int, heads: int, hidden: int):
        super().__init__()
        self.self_attention = Attention(channels, heads)
        self.cross_attention = Attention(channels, heads)
        self.feed_forward = feed_forward(channels, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "b q c"],
        query_positions: Float[Tensor, "q c"],
        image: Float[Tensor, "b s c"],
        image_positions: Float[Tensor, "s c"],
    ) -> Float[Tensor, "b q c"]:
        """The queries after one more look at one another and at the image."""
        x, placed = queries, queries + query_positions
        x = self.norms[0](x + self.self_attention(placed, placed, x))
        looked = self.cross_attention(x + query_positions, image + image_positions, image)
        x = self.norms[1](x + looked)
        return self.norms[2](x + self.feed_forward(x))


class MaskHead(nn.Module):
    """What a query says: K + 1 class logits, ∅ last, and a mask by dot products with E_pixel."""

    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.classes = nn.Linear(channels, num_classes + 1)
        self.embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
        )

    def forward(
        self, queries: Float[Tensor, "b q c"], pixels: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b q k1"], Float[Tensor, "b q h w"]]:
        """Class logits and mask logits."""
        queries = self.norm(queries)
        return self.classes(queries), torch.einsum("bqc,bchw->bqhw", self.embed(queries), pixels)


@dataclass(frozen=True)
class Settings:
    """The numbers of a `MaskFormer`; the paper's in brackets.

    Raises ValueError for a count that is too small and a threshold that is not in [0, 1].
    """

    num_queries: int = 24  # [100]
    channels: int = 64  # of queries and pixel embeddings [256]
    decoder_layers: int = 3  # [6]
    encoder_layers: int = 0  # [0, and 6 in the panoptic models]
    heads: int = 4  # [8]
    hidden: int = 256  # of the linear layers [2048]
    score_threshold: float = 0.5  # of a panoptic segment [0.8] …
    overlap_threshold: float = 0.8  # … and the share of its mask that it keeps

    def __post_init__(self):
        for name in ("num_queries", "channels", "decoder_layers", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers must be at least 0, not {self.encoder_layers}")
        if self.channels % 16:  # GroupNorm's groups
            raise ValueError(f"channels must be a multiple of 16, not {self.channels}")
        thresholds = ("score_threshold", "overlap_threshold")
        must_be_shares(**{name: getattr(self, name) for name in thresholds})


def must_be_shares(**values: float) -> None:
    """Raises ValueError for a number that is not in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], not {value}")


def must_be_things(num_things: int, num_classes: int) -> None:
    """Raises ValueError for a number of things that K classes cannot have."""
    if not 0 <= num_things <= num_classes:
        raise ValueError(f"num_things must be in 0 … {num_classes}, not {num_things}")


class MaskFormerModules(nn.Module):
    """The modules that a `MaskFormer` is made of."""

    def __init__(
        self,
        num_classes: int,
        num_things: int,
        *,
        task: str = "panoptic",
        backbone: nn.Module | None = None,
        weights: Weights = Weights(),
        logarithm: bool = False,
        **settings: Any,
    ):
        super().__init__()
        must_be_task(task)
        must_be_things(num_things, num_classes)
        s = self.settings = Settings(**settings)
        self.num_classes, self.num_things, self.task = num_classes, num_things, task
        self.weights, self.logarithm = weights, logarithm
        self.backbone = backbone or Backbone()
        coarse = self.backbone.channels[-1]
        self.project = nn.Conv2d(coarse, s.channels, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(s.channels, s.heads, s.hidden) for _ in range(s.encoder_layers)
        )
        widths = [*self.backbone.channels[:-1], s.channels if s.encoder_layers else coarse]
        self.pixel_decoder = PixelDecoder(widths, s.channels)
        self.query_positions = nn.Parameter(torch.randn(s.num_queries, s.channels))
        self.decoder = nn.ModuleList(
            DecoderLayer(s.channels, s.heads, s.hidden) for _ in range(s.decoder_layers)
        )
        self.head = MaskHead(num_classes, s.channels)
        for name, values in {"mean": MEAN, "std": STD}.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)


class MaskFormerParts(MaskFormerModules):
    """The way of a batch through the modules."""

    def layers(self, batch: Float[Tensor, "b 3 h w"]) -> list[tuple[Tensor, Tensor]]:
        """z after each decoder layer: class logits (b, q, K + 1) and mask logits at stride 4."""
        *fine, coarse = self.backbone(batch)
        x = self.project(coarse)
        size = tuple(x.shape[-2:])
        places = sine_positions(size, x.shape[1], x.device).to(self.query_positions)
        image = x.flatten(2).mT
        for layer in self.encoder:
            image = layer(image, places)
        if len(self.encoder):
            coarse = image.mT.unflatten(2, size)
        pixels = self.pixel_decoder([*fine, coarse])
        queries = torch.zeros_like(self.query_positions).expand(len(x), -1, -1)
        answers = []
        for layer in self.decoder:
            queries = layer(queries, self.query_positions, image, places)
            answers.append(self.head(queries, pixels))
        return answers

    @torch.no_grad()
    def predict(
        self, images: Sequence[Float[Tensor, "3 _ _"]], layer: int = -1
    ) -> list[tuple[Float[Tensor, "q k1"], Float[Tensor, "q _ _"]]]:
        """z of one layer, the last, for each image, the mask logits at the image's size."""
        batch, sizes = batch_images(images, self.mean, self.std)
        classes, masks = self.layers(batch)[layer]
        masks = F.interpolate(in_full_precision(masks), batch.shape[-2:], mode="bilinear")
        return [(c, m[:, :h, :w]) for c, m, (h, w) in zip(classes, masks, sizes, strict=True)]


def semantic_inference(
    class_logits: Float[Tensor, "q k1"], mask_logits: Float[Tensor, "q h w"]
) -> Int[Tensor, "h w"]:
    """The class of each pixel, arg max_c Σ_i p_i(c) · m_i[h, w], without ∅."""
    must_be_as_many(len(class_logits), mask_logits=mask_logits)
    probability = in_full_precision(class_logits).softmax(dim=1)[:, :-1]
    masks = in_full_precision(mask_logits).sigmoid()
    return torch.einsum("qk,qhw->khw", probability, masks).argmax(0)


def merge_stuff(segments: Segments, num_things: int) -> Segments:
    """The same with one segment for each stuff class, its best score kept; things come first."""
    masks, labels, scores = segments.masks, segments.labels, segments.scores
    things = labels < num_things
    kinds = labels[~things].unique()
    merged = [labels == kind for kind in kinds]
    return Segments(
        torch.cat([masks[things], *(masks[same].any(dim=0, keepdim=True) for same in merged)]),
        torch.cat([labels[things], kinds]),
        torch.cat([scores[things], *(scores[same].amax(dim=0, keepdim=True) for same in merged)]),
    )


def panoptic_inference(
    class_logits: Float[Tensor, "q k1"],
    mask_logits: Float[Tensor, "q h w"],
    num_things: int,
    score_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    mask_threshold: float = 0.0,
) -> Segments:
    """Each pixel to the dominant pair, arg max over i with c_i ≠ ∅ of p_i(c_i) · m_i[h, w].

    In practice a pair is asked for a score p_i(c_i) above `score_threshold`; a segment that is
    left with less than `overlap_threshold` of its own mask (m ≥ ½) is dropped; a pixel where the
    winner's m is below `mask_threshold` is void. With thresholds 0 it is the formula. The stuff
    segments of one class are one. Raises ValueError for a threshold that is not in [0, 1].
    """
    must_be_as_many(len(class_logits), mask_logits=mask_logits)
    must_be_things(num_things, class_logits.shape[1] - 1)
    thresholds = {"score_threshold": score_threshold, "overlap_threshold": overlap_threshold}
    must_be_shares(**thresholds, mask_threshold=mask_threshold)
    scores, labels = in_full_precision(class_logits).softmax(dim=1).max(dim=1)
    kept = (labels < class_logits.shape[1] - 1) & (scores > score_threshold)
    scores, labels = scores[kept], labels[kept]
    soft = in_full_precision(mask_logits[kept]).sigmoid()
    if not len(scores):
        return Segments(soft > 1, labels, scores)
    winner = (scores[:, None, None] * soft).argmax(dim=0)
    own = winner == torch.arange(len(scores), device=winner.device)[:, None, None]
    own &= soft >= mask_threshold
    area, whole = own.flatten(1).sum(dim=1), (soft >= 0.5).flatten(1).sum(dim=1)
    kept = (area > 0) & (area >= overlap_threshold * whole)
    if overlap_threshold > 0:
        kept &= whole > 0
    return merge_stuff(Segments(own[kept], labels[kept], scores[kept]), num_things)


def instance_inference(
    class_logits: Float[Tensor, "q k1"],
    mask_logits: Float[Tensor, "q h w"],
    num_things: int,
    most: int = 100,
) -> Segments:
    """The `most` best pairs of a query and a thing class; masks m > ½ may overlap, best first.

    The score is p_i(c) times the mean of m over the mask: a mask that is sure of itself ranks
    higher. Pairs with an empty mask are dropped. Raises ValueError for `most` below 1.
    """
    must_be_as_many(len(class_logits), mask_logits=mask_logits)
    must_be_things(num_things, class_logits.shape[1] - 1)
    if most < 1:
        raise ValueError(f"most must be at least 1, not {most}")
    probability = in_full_precision(class_logits).softmax(dim=1)[:, :num_things]
    scores, index = probability.flatten().topk(min(most, probability.numel()))
    queries, labels = index // max(num_things, 1), index % max(num_things, 1)
    masks = mask_logits > 0
    area = masks.flatten(1).sum(dim=1)
    total = (in_full_precision(mask_logits).sigmoid() * masks).flatten(1).sum(dim=1)
    sure = total / area.clamp(min=1)
    answer = Segments(masks[queries], labels, scores * sure[queries])[area[queries] > 0]
    return answer[answer.scores.argsort(descending=True, stable=True)]


class MaskFormer(MaskFormerParts):
    """MaskFormer (Cheng et al. 2021): a set of (class, mask) pairs, each said by a query.

    `num_classes` counts all K classes, `num_things` those that are counted. `task` says what it
    learns: "panoptic", "instance" or "semantic". Other keywords are a `backbone`, `weights` of
    cost and loss, `logarithm` in the matching cost, and the fields of `Settings`.
    """

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: classes, mask, dice, each summed over the layers, each layer matched anew."""
        batch, sizes = batch_images(images, self.mean, self.std)
        segments = batch_segments(segments, sizes)
        size, how = tuple(batch.shape[-2:]), {"weights": self.weights, "logarithm": self.logarithm}
        targets = [pad_masks(task_targets(s, self.task, self.num_things), size) for s in segments]
        total: dict[str, Tensor] = {}
        for z in self.layers(batch):
            matches = match_segments_to_queries(*z, targets, **how)
            for name, loss in mask_classification_loss(*z, targets, matches, self.weights).items():
                total[name] = total.get(name, 0) + loss
        return total

    def predict_semantic(
        self, images: Sequence[Float[Tensor, "3 _ _"]]
    ) -> list[Int[Tensor, "_ _"]]:
        """The class of each pixel of each image."""
        return [semantic_inference(*z) for z in self.predict(images)]

    def predict_panoptic(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """Disjoint segments of each image, with scores."""
        s = self.settings
        limits = self.num_things, s.score_threshold, s.overlap_threshold
        return [panoptic_inference(*z, *limits) for z in self.predict(images)]

    def predict_instances(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """The things of each image, best first; they may overlap."""
        return [instance_inference(*z, self.num_things) for z in self.predict(images)]


OF_TASK = {
    "panoptic": list(METRICS),
    "instance": ["predict_instances"],
    "semantic": ["predict_semantic"],
}


def recipe(data: str = "scenes", task: str = "panoptic", **options: Any) -> Recipe:
    """How MaskFormer is trained: `fit(recipe())`, or `lessons train maskformer`.

    `task` is what it learns and is measured by: "panoptic" (by all three metrics), "instance" or
    "semantic". `options` are MaskFormer's keywords, as encoder_layers=2.
    """
    must_be_task(task)
    kinds = categories(data)
    things = sum(category.is_thing for category in kinds)
    full = Budget(6000, batch=16, evaluations=6, learning_rate=1e-3, clip=5.0)
    if data == "four_scenes":
        budgets = by_heart(replace(full, steps=300, batch=2, size=64))
    else:
        budgets = from_full(replace(full, turn=data == "nuclei"), steps=220)
    return Recipe(
        system="maskformer",
        model=lambda: MaskFormer(len(kinds), things, task=task, **options),
        metrics={name: METRICS[name] for name in OF_TASK[task]},
        budgets=budgets,
        data=data,
        options={"task": task, **options},
    )
