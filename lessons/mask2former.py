# Built by `lessons build` from notebooks/15_mask2former.ipynb: edit that, not this.
"""Mask2Former.

You build the network that made one architecture the best at all three kinds of segmentation:
queries that look only where they have painted, at finer and finer features, and that learn at
points instead of pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.deformable_attention import DeformablePixelDecoder
from lessons.kit.data import Segments
from lessons.kit.data.checks import as_many, at_least, checked, one_of, shares
from lessons.kit.models.backbone import Backbone, Finer
from lessons.kit.models.images import in_full_precision
from lessons.kit.models.processes import per_process
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.maskformer import METRICS, OF_TASK, DecoderLayer, MaskFormer, image_cells
from lessons.set_prediction import (
    TASKS,
    Weights,
    assign,
    class_loss,
    dice_loss,
    mask_classification_loss,
    match_segments_to_queries,
    matched_masks,
    matching_cost,
)


@torch.no_grad()
@checked
def attention_mask(
    mask_logits: Float[Tensor, "b q h w"], size: tuple[int, int], num_heads: int = 1
) -> Bool[Tensor, "b heads q cells"]:
    """Which cells of a feature map of `size` each query must not look at (Cheng et al. 2022).

    True where its mask, resized bilinearly, is below ½; the same for every head; no gradient.
    A query whose mask is below ½ everywhere may look everywhere: a softmax over nothing is NaN.
    Raises ValueError for a size without cells.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be a height and a width of at least 1, not {tuple(size)}")
    resized = F.interpolate(in_full_precision(mask_logits), size, mode="bilinear")
    blocked = (resized.sigmoid() < 0.5).flatten(2)
    blocked &= ~blocked.all(dim=2, keepdim=True)
    return blocked[:, None].expand(-1, num_heads, -1, -1)


class MaskedDecoderLayer(DecoderLayer):
    """Masked cross-attention, self-attention, two linear layers; norm after each.

    With `cross_first=False` the queries look at one another first, as in lesson 13.
    """

    def __init__(self, channels: int, heads: int, hidden: int, cross_first: bool = True):
        super().__init__(channels, heads, hidden)
        self.cross_first = cross_first

    def forward(
        self,
        queries: Float[Tensor, "b q c"],
        query_positions: Float[Tensor, "... q c"],
        image: Float[Tensor, "b s c"],
        image_positions: Float[Tensor, "... s c"],
        blocked: Bool[Tensor, "b _ q s"] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """X_l from X_{l−1}; `blocked` says which cells a query must not look at."""

        def look(x: Tensor) -> Tensor:
            allowed = None if blocked is None else ~blocked
            asked = x + query_positions
            return x + self.cross_attention(asked, image + image_positions, image, allowed)

        def talk(x: Tensor) -> Tensor:
            asked = x + query_positions
            return x + self.self_attention(asked, asked, x)

        if self.cross_first:
            x = self.norms[0](talk(self.norms[1](look(queries))))
        else:
            x = self.norms[1](look(self.norms[0](talk(queries))))
        return self.norms[2](x + self.feed_forward(x))


@checked
def sample_points(
    maps: Float[Tensor, "n *c h w"], points: Float[Tensor, "n p 2"]
) -> Float[Tensor, "n *c p"]:
    """The maps' values at points (x, y) in [0, 1], bilinear; zeros lie around a map.

    Maps are (n, h, w) or (n, c, h, w). The centre of the first of w cells is at 0.5 / w, so a
    point means the same place in maps of any size. Raises ValueError where maps and points do
    not fit.
    """
    if maps.ndim > 4 or 0 in maps.shape[-2:]:
        shape = tuple(maps.shape)
        raise ValueError(f"maps must be (n, h, w) or (n, c, h, w) with cells, not {shape}")
    channels = maps if maps.ndim == 4 else maps[:, None]
    where = 2 * points.to(maps)[:, :, None] - 1
    found = F.grid_sample(channels, where, align_corners=False)[..., 0]
    return found if maps.ndim == 4 else found[:, 0]


def uniform_points(
    n: int,
    count: int,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n p 2"]:
    """`count` points for each of n maps, anywhere in [0, 1]² alike.

    Raises ValueError for a count below 1.
    """
    at_least(1, count=count)
    return torch.rand(n, count, 2, device=device, generator=generator)


@torch.no_grad()
@checked
def importance_points(
    logits: Float[Tensor, "n h w"],
    count: int,
    oversampling: float = 3.0,
    importance: float = 0.75,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n p 2"]:
    """`count` points for each mask, most of them where it is unsure (Kirillov et al. 2020).

    Of `oversampling` times as many uniform candidates those with the smallest |logit| become
    the share `importance` of the points; the others are uniform. Raises ValueError for a count
    below 1, an oversampling below 1 and a share outside of [0, 1].
    """
    at_least(1, count=count)
    shares(importance=importance)
    if not oversampling >= 1:
        raise ValueError(f"oversampling must be at least 1, not {oversampling}")
    n, hard = len(logits), int(importance * count)
    candidates = uniform_points(n, int(oversampling * count), logits.device, generator)
    sureness = sample_points(logits, candidates).abs()
    hardest = sureness.topk(hard, dim=1, largest=False, sorted=False).indices
    points = candidates.gather(1, hardest[:, :, None].expand(-1, -1, 2))
    if hard == count:
        return points
    return torch.cat([points, uniform_points(n, count - hard, logits.device, generator)], dim=1)


@checked
def cross_entropy(
    logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]
) -> Float[Tensor, "n"]:
    """The binary cross-entropy of each mask, mean over its points."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


@checked
def pairwise_cross_entropy(
    logits: Float[Tensor, "q p"], targets: Float[Tensor, "n p"]
) -> Float[Tensor, "q n"]:
    """The cross-entropy of every query against every segment: one matrix product."""
    return (F.softplus(logits).sum(dim=1, keepdim=True) - logits @ targets.T) / logits.shape[1]


WEIGHTS = Weights(classes=2.0, mask=5.0, dice=5.0)  # of cost and losses


@torch.no_grad()
@checked
def match_at_points(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    count: int,
    weights: Weights = WEIGHTS,
    logarithm: bool = False,
) -> list[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]]:
    """Queries and their segments for each image, by L_match at `count` uniform points.

    All masks of an image are compared at the same points. Raises ValueError where a cost is not
    finite and for another number of targets.
    """
    as_many(len(class_logits), targets=targets)
    how, matches = (weights, pairwise_cross_entropy, logarithm), []
    for classes, masks, target in zip(class_logits, mask_logits, targets, strict=True):
        points = uniform_points(1, count, masks.device)
        found = sample_points(in_full_precision(masks)[None], points)[0]
        true = sample_points(target.masks[None].to(found), points)[0]
        cost = matching_cost(classes, found, target.labels, true, *how)
        matches.append(assign(cost))
    return matches


@checked
def point_losses(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
    count: int,
    weights: Weights = WEIGHTS,
    importance: float = 0.75,
) -> dict[str, Float[Tensor, ""]]:
    """L_mask-cls with its mask terms at `count` points of each matched mask's own.

    The terms are `classes`, `mask` (cross-entropy) and `dice`, weighted, as in lesson 12. Raises
    ValueError where lists do not fit the batch or the targets are not of one size.
    """
    found, true = matched_masks(mask_logits, targets, matches)
    points = importance_points(found, count, importance=importance)
    logits, wanted = sample_points(found, points), sample_points(true, points)
    number = per_process(sum(len(target) for target in targets), len(targets))
    return {
        "classes": weights.classes * class_loss(class_logits, targets, matches, weights.no_object),
        "mask": weights.mask * cross_entropy(logits, wanted).sum() / number,
        "dice": weights.dice * dice_loss(logits, wanted).sum() / number,
    }


class Mask2Former(MaskFormer):
    """Mask2Former (Cheng et al. 2022): MaskFormer with six improvements, each a switch.

    `num_points` are those of an image in the matching and of a mask in the loss. With all
    switches off it is lesson 13's MaskFormer with another loss on the masks. The parts and the
    other settings are as there. Raises ValueError for a setting that cannot be.
    """

    def __init__(
        self,
        num_classes: int,
        num_things: int,
        *,
        masked_attention: bool = True,
        cross_first: bool = True,
        learned_queries: bool = True,
        high_resolution: bool = True,
        points: bool = True,
        deformable: bool = True,
        task: str = "panoptic",
        backbone: nn.Module | None = None,
        pixel_decoder: nn.Module | None = None,
        decoder: nn.ModuleList | None = None,
        head: nn.Module | None = None,
        matching_points: bool = True,  # with `points`: the matching looks at them too …
        importance: float = 0.75,  # … and such a share of the loss's are where a mask is unsure
        finer: bool = False,  # the layers read strides 16, 8 and 4 instead of 32, 16 and 8
        num_points: int = 1024,  # the paper's: 12544
        num_queries: int = 24,  # 100
        channels: int = 64,  # 256
        heads: int = 4,  # 8
        hidden: int = 256,  # of a decoder layer's two linear layers; 2048
        decoder_layers: int = 3,  # 9
        encoder_layers: int = 2,  # of deformable attention; 6
        encoder_hidden: int = 256,  # 1024
        groups: int | None = None,  # of GroupNorm, None: 16 channels each; 32
        weights: Weights = WEIGHTS,
        logarithm: bool = False,
        score_threshold: float = 0.5,  # 0.8
        overlap_threshold: float = 0.8,
    ):
        at_least(1, num_points=num_points)
        at_least(0, encoder_layers=encoder_layers)
        shares(importance=importance)
        backbone, project = backbone or Backbone(), None
        if finer:
            backbone = Finer(backbone)
        if deformable or high_resolution:
            project = nn.Identity()  # the pixel decoder's own maps are read
        if pixel_decoder is None and deformable:
            pixel_decoder = DeformablePixelDecoder(
                backbone.channels, channels, heads, encoder_hidden, encoder_layers, groups
            )
        decoder = decoder or nn.ModuleList(
            MaskedDecoderLayer(channels, heads, hidden, cross_first) for _ in range(decoder_layers)
        )
        super().__init__(
            num_classes,
            num_things,
            task=task,
            backbone=backbone,
            project=project,
            pixel_decoder=pixel_decoder,
            decoder=decoder,
            head=head,
            num_queries=num_queries,
            channels=channels,
            heads=heads,
            hidden=hidden,
            decoder_layers=decoder_layers,
            groups=groups,
            weights=weights,
            logarithm=logarithm,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
        )
        self.masked_attention, self.high_resolution = masked_attention, high_resolution
        self.deformable, self.points, self.num_points = deformable, points, num_points
        self.matching_points, self.importance = matching_points, importance
        self.queries, self.level = None, None
        if learned_queries:
            self.queries = nn.Parameter(torch.randn(num_queries, channels))
        if high_resolution:
            self.level = nn.Parameter(torch.randn(len(backbone.channels) - 1, channels))

    def read_maps(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], Float[Tensor, "b c h w"]]:
        """The maps that the layers read in turns, coarse to fine, and E_pixel."""
        if not (self.deformable or self.high_resolution):
            return MaskFormer.read_maps(self, features)
        maps, pixels = self.pixel_decoder(features)
        return (maps if self.high_resolution else maps[:1]), pixels

    def refine(
        self,
        queries: Float[Tensor, "b q c"],
        maps: Sequence[Float[Tensor, "b c _ _"]],
        pixels: Float[Tensor, "b c h w"],
        raw: bool = True,
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Bool[Tensor, "b q _ _"] | None]]:
        """z of the raw queries (if wanted) and of each layer; what each must not look at."""
        read = [image_cells(x) for x in maps]
        if self.level is not None:
            read = [
                (x + level, places) for (x, places), level in zip(read, self.level, strict=True)
            ]
        answers, forbidden = [self.head(queries, pixels)] if raw else [], []
        for number, layer in enumerate(self.decoder):
            turn, blocked = number % len(maps), None  # stride 32, 16, 8, 32, …
            size = (maps[turn].shape[2], maps[turn].shape[3])
            if self.masked_attention and answers:
                blocked = attention_mask(answers[-1][1], size)
            queries = layer(queries, self.query_positions, *read[turn], blocked)
            answers.append(self.head(queries, pixels))
            forbidden.append(None if blocked is None else blocked[:, 0].unflatten(2, size))
        return answers, forbidden

    def decode(
        self, batch: Float[Tensor, "b 3 h w"]
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Bool[Tensor, "b q _ _"] | None]]:
        """What `refine` says of a batch, from learned queries or silent zeros."""
        learned = self.queries is not None
        first = self.queries if learned else torch.zeros_like(self.query_positions)
        maps, pixels = self.read_maps(self.backbone(batch))
        return self.refine(first.expand(len(batch), -1, -1), maps, pixels, raw=learned)

    def layers(self, batch: Float[Tensor, "b 3 h w"]) -> list[tuple[Tensor, Tensor]]:
        """z of the raw queries and of each layer: class logits and mask logits at stride 4."""
        return self.decode(batch)[0]

    def losses(
        self, z: tuple[Tensor, Tensor], targets: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of one layer, matched anew."""
        how = self.weights, pairwise_cross_entropy, self.logarithm
        if self.points:
            matching = self.num_points, self.weights, self.logarithm
            if self.matching_points:
                matches = match_at_points(*z, targets, *matching)
            else:
                matches = match_segments_to_queries(*z, targets, *how)
            looking = self.num_points, self.weights, self.importance
            return point_losses(*z, targets, matches, *looking)
        matches = match_segments_to_queries(*z, targets, *how)
        return mask_classification_loss(*z, targets, matches, self.weights, cross_entropy)


def recipe(data: str = "scenes", task: str = "panoptic", **options: Any) -> Recipe:
    """How Mask2Former is trained: `fit(recipe())`, or `lessons train mask2former`.

    `options` are Mask2Former's keywords, as masked_attention=False or num_queries=40.
    """
    one_of(TASKS, task=task)
    kinds = categories(data)
    things = sum(category.is_thing for category in kinds)
    full = Budget(6000, batch=16, evaluations=6, learning_rate=2e-3, clip=1.0)
    if data == "four_scenes":
        budgets = by_heart(replace(full, steps=260, batch=2, size=64))
    elif data == "ten_coco":
        few = replace(full, steps=1500, batch=2, size=320, mirror=False, evaluations=1)
        tiny = replace(few, steps=4, batch=1, size=64, count=2, validated=2)
        budgets = {"test": tiny, "quick": replace(few, steps=60), "full": few}
    else:
        budgets = from_full(replace(full, turn=data == "nuclei"))
    return Recipe(
        system="mask2former",
        model=lambda: Mask2Former(len(kinds), things, task=task, **options),
        metrics={name: METRICS[name] for name in OF_TASK[task]},
        budgets=budgets,
        data=data,
        options={"task": task, **options},
    )
