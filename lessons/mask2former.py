# Built by `lessons build` from notebooks/15_mask2former.ipynb: edit that, not this.
"""Mask2Former.

You build the network that made one architecture the best at all three kinds of segmentation:
queries that look only where they have painted, at finer and finer features, and that learn at
points instead of pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.data import Segments
from lessons.kit.models.backbone import group_norm
from lessons.kit.models.images import batch_images, batch_segments, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.maskformer import (
    METRICS,
    OF_TASK,
    DecoderLayer,
    MaskFormer,
    PixelDecoder,
    Weights,
    assign,
    class_loss,
    conv_block,
    dice_loss,
    feed_forward,
    mask_classification_loss,
    match_segments_to_queries,
    matching_cost,
    must_be_as_many,
    must_be_task,
    pad_masks,
    sine_positions,
    task_targets,
)


@torch.no_grad()
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


def sample_points(
    maps: Float[Tensor, "n *c h w"], points: Float[Tensor, "n p 2"]
) -> Float[Tensor, "n *c p"]:
    """The maps' values at points (x, y) in [0, 1], bilinear; zeros lie around a map.

    The centre of the first of w cells is at 0.5 / w, so a point means the same place in maps of
    any size. Raises ValueError where maps and points do not fit.
    """
    if maps.ndim not in (3, 4) or 0 in maps.shape[-2:]:
        raise ValueError(f"maps must be (n, h, w) or (n, c, h, w), not {tuple(maps.shape)}")
    if points.ndim != 3 or points.shape[2] != 2 or len(points) != len(maps):
        wanted = f"({len(maps)}, p, 2), an x and a y for each point of each map"
        raise ValueError(f"points must be {wanted}, not {tuple(points.shape)}")
    channels = maps if maps.ndim == 4 else maps[:, None]
    points = points.to(maps)
    found = F.grid_sample(channels, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]
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
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    return torch.rand(n, count, 2, device=device, generator=generator)


@torch.no_grad()
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
    if count < 1 or oversampling < 1 or not 0 <= importance <= 1:
        given = f"{count}, {oversampling} and {importance}"
        raise ValueError(
            f"count and oversampling must be at least 1, importance in [0, 1], not {given}"
        )
    n, hard = len(logits), int(importance * count)
    candidates = uniform_points(n, int(oversampling * count), logits.device, generator)
    sureness = sample_points(logits, candidates).abs()
    hardest = sureness.topk(hard, dim=1, largest=False, sorted=False).indices
    points = candidates.gather(1, hardest[:, :, None].expand(-1, -1, 2))
    if hard == count:
        return points
    return torch.cat([points, uniform_points(n, count - hard, logits.device, generator)], dim=1)


def cross_entropy(
    logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]
) -> Float[Tensor, "n"]:
    """The binary cross-entropy of each mask, mean over its points."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def pairwise_cross_entropy(
    logits: Float[Tensor, "q p"], targets: Float[Tensor, "n p"]
) -> Float[Tensor, "q n"]:
    """The cross-entropy of every query against every segment: one matrix product."""
    return (F.softplus(logits).sum(dim=1, keepdim=True) - logits @ targets.T) / logits.shape[1]


@torch.no_grad()
def match_at_points(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    count: int,
    weights: Weights,
    logarithm: bool = False,
) -> list[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]]:
    """Queries and their segments for each image, by L_match at `count` uniform points.

    All masks of an image are compared at the same points. Raises ValueError where a cost is not
    finite and for another number of targets.
    """
    must_be_as_many(len(class_logits), targets=targets, mask_logits=mask_logits)
    how, matches = (weights, pairwise_cross_entropy, logarithm), []
    for classes, masks, target in zip(class_logits, mask_logits, targets, strict=True):
        points = uniform_points(1, count, masks.device)
        found = sample_points(in_full_precision(masks)[None], points)[0]
        true = sample_points(target.masks[None].to(found), points)[0]
        cost = matching_cost(classes, found, target.labels, true, *how)
        matches.append(assign(cost))
    return matches


WEIGHTS = Weights(classes=2.0, mask=5.0, dice=5.0)  # of cost and losses


def point_losses(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
    count: int,
    weights: Weights,
) -> dict[str, Float[Tensor, ""]]:
    """L_mask-cls with its mask terms at `count` points of each matched mask's own.

    The terms are `classes`, `mask` (cross-entropy) and `dice`, weighted, as in lesson 13. Raises
    ValueError for another number of targets or matches.
    """
    must_be_as_many(len(mask_logits), targets=targets, matches=matches)
    pairs = list(zip(mask_logits, targets, matches, strict=True))
    found = in_full_precision(torch.cat([masks[queries] for masks, _, (queries, _) in pairs]))
    true = torch.cat([target.masks[chosen] for _, target, (_, chosen) in pairs]).to(found)
    points = importance_points(found, count)
    logits, wanted = sample_points(found, points), sample_points(true, points)
    number = max(1, sum(len(target) for target in targets))
    return {
        "classes": weights.classes * class_loss(class_logits, targets, matches, weights.no_object),
        "mask": weights.mask * cross_entropy(logits, wanted).sum() / number,
        "dice": weights.dice * dice_loss(logits, wanted).sum() / number,
    }


def star(heads: int, levels: int, points: int) -> Float[Tensor, "heads levels points 2"]:
    """The first offsets: a direction for each head, one cell farther for each point."""
    angle = 2 * math.pi * torch.arange(heads) / heads
    way = torch.stack([angle.cos(), angle.sin()], dim=1)
    way = way / way.abs().amax(dim=1, keepdim=True)  # on a square
    return (way[:, None] * torch.arange(1, points + 1)[:, None])[:, None].repeat(1, levels, 1, 1)


def cell_centres(size: tuple[int, int], device: torch.device | str = "cpu") -> Float[Tensor, "s 2"]:
    """(x, y) in [0, 1] of the centre of each cell of a map, row by row."""
    y, x = ((torch.arange(side, device=device) + 0.5) / side for side in size)
    return torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=2).flatten(0, 1)


def gather_levels(
    values: Float[Tensor, "n c s"],
    sizes: Sequence[tuple[int, int]],
    places: Float[Tensor, "n l p q 2"],
    weights: Float[Tensor, "n l p q"],
) -> Float[Tensor, "n c q"]:
    """Σ_l Σ_k A · V^l(place): weighted bilinear lookups, (x, y) from −1 to 1; zeros around a map.

    The cells of all maps stand in one row; the axis in memory order is that of the queries,
    along which all sums and products run.
    """
    out, first = values.new_zeros(()), 0
    for level, (h, w) in enumerate(sizes):
        part = values[:, :, first : first + h * w].unflatten(2, (h, w))
        found = F.grid_sample(part, places[:, level], align_corners=False)
        out = out + (found * weights[:, None, level]).sum(dim=2)
        first += h * w
    return out


class DeformableLooks(nn.Module):
    """The layers of `DeformableAttention`, and where they make it look."""

    def __init__(self, channels: int, levels: int = 3, heads: int = 4, points: int = 4):
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads must divide the {channels} channels, {heads} does not")
        self.counts = heads, levels, points
        self.value, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for parameter in (self.offsets.weight, *self.weights.parameters()):
            nn.init.zeros_(parameter)
        self.offsets.bias.data = star(heads, levels, points).flatten()

    def looks(
        self,
        queries: Float[Tensor, "b n c"],
        references: Float[Tensor, "n 2"],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[Float[Tensor, "bh l p n 2"], Float[Tensor, "bh l p n"]]:
        """Where each head of each query looks, (x, y) from −1 to 1, and the weights A."""
        heads, levels, points = self.counts
        step = queries.new_tensor([(2 / w, 2 / h) for h, w in sizes])  # of one cell
        step = step[:, None].expand(heads, levels, points, 2).reshape(-1)
        offsets = (self.offsets(queries) * step).unflatten(2, (-1, 2))
        places = ((2 * references - 1)[:, None] + offsets).transpose(1, 2)
        weights = self.weights(queries).mT.unflatten(1, (heads, -1)).softmax(dim=2)
        shape = -1, levels, points, len(references)
        return places.reshape(*shape, 2), weights.reshape(shape)


class DeformableAttention(DeformableLooks):
    """Each query gathers values at a few places of its own choice, on several maps.

    Zhu et al. 2021, eq. 3. The maps' cells stand in one row, map after map. Raises ValueError
    where heads do not divide the channels and where the `sizes` are not those of the cells.
    """

    def forward(
        self,
        queries: Float[Tensor, "b n c"],
        references: Float[Tensor, "n 2"],
        cells: Float[Tensor, "b s c"],
        sizes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "b n c"]:
        """What the queries, at `references` (x, y) in [0, 1], gather from maps of `sizes`."""
        if len(sizes) != self.counts[1] or sum(h * w for h, w in sizes) != cells.shape[1]:
            given = f"{list(sizes)} for {cells.shape[1]} cells and {self.counts[1]} levels"
            raise ValueError(f"sizes must be those of the maps, not {given}")
        places, weights = self.looks(queries, references, sizes)
        values = in_full_precision(self.value(cells))
        values = values.mT.reshape(len(places), -1, cells.shape[1])
        out = gather_levels(values, sizes, places.to(values), weights.to(values))
        return self.out(out.reshape(len(queries), -1, len(references)).mT.to(queries))


class DeformableLayer(nn.Module):
    """Deformable attention of the cells to all maps, two linear layers; norm after each."""

    def __init__(self, channels: int, levels: int, heads: int, hidden: int):
        super().__init__()
        self.attention = DeformableAttention(channels, levels, heads)
        self.feed_forward = feed_forward(channels, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(
        self,
        x: Float[Tensor, "b s c"],
        positions: Float[Tensor, "s c"],
        references: Float[Tensor, "s 2"],
        sizes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "b s c"]:
        """The cells after they have looked around."""
        x = self.norms[0](x + self.attention(x + positions, references, x, sizes))
        return self.norms[1](x + self.feed_forward(x))


class PyramidPixelDecoder(PixelDecoder):
    """Lesson 13's pixel decoder, which says its coarser maps, too."""

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], Float[Tensor, "b c h w"]]:
        """Maps of strides 32, 16 and 8, and the pixel embeddings at stride 4."""
        x, levels = self.blocks[0](features[-1]), []
        finer = zip(self.blocks[1:], reversed(self.lateral), features[-2::-1], strict=True)
        for block, lateral, feature in finer:
            levels.append(x)
            x = block(F.interpolate(x, feature.shape[-2:]) + lateral(feature))
        return levels, self.embed(x)


class DeformablePixelDecoder(nn.Module):
    """Deformable attention on strides 32, 16 and 8, then one step of a pyramid to stride 4."""

    def __init__(self, inside: Sequence[int], channels: int, heads: int, hidden: int, layers: int):
        super().__init__()
        coarse = list(reversed(inside[1:]))
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), group_norm(channels)) for width in coarse
        )
        self.level = nn.Parameter(torch.randn(len(coarse), channels))
        self.layers = nn.ModuleList(
            DeformableLayer(channels, len(coarse), heads, hidden) for _ in range(layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(inside[0], channels, 1, bias=False), group_norm(channels)
        )
        self.block = conv_block(channels, channels)
        self.embed = nn.Conv2d(channels, channels, 1)

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], Float[Tensor, "b c h w"]]:
        """Maps of strides 32, 16 and 8, and the pixel embeddings at stride 4."""
        finest, *coarse = features
        maps = [layer(x) for layer, x in zip(self.project, reversed(coarse), strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        x = torch.cat([each.flatten(2) for each in maps], dim=2).mT
        places = [sine_positions(size, x.shape[2], x.device).to(self.level) for size in sizes]
        positions = torch.cat([p + v for p, v in zip(places, self.level, strict=True)])
        references = torch.cat([cell_centres(size, x.device) for size in sizes])
        for layer in self.layers:
            x = layer(x, positions, references, sizes)
        parts = x.split([h * w for h, w in sizes], dim=1)
        levels = [part.mT.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        larger = F.interpolate(levels[-1], finest.shape[-2:], mode="bilinear")
        return levels, self.embed(self.block(self.lateral(finest) + larger))


class Mask2FormerParts(MaskFormer):
    """A MaskFormer with parts exchanged: see `Mask2Former`."""

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
        num_points: int = 1024,
        encoder_layers: int = 2,
        weights: Weights = WEIGHTS,
        **options: Any,
    ):
        super().__init__(num_classes, num_things, weights=weights, **options)
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, not {num_points}")
        self.masked_attention, self.high_resolution = masked_attention, high_resolution
        self.points, self.num_points = points, num_points
        s, inside = self.settings, self.backbone.channels
        sizes = s.channels, s.heads, s.hidden
        self.decoder = nn.ModuleList(
            MaskedDecoderLayer(*sizes, cross_first) for _ in range(s.decoder_layers)
        )
        if deformable:
            self.pixel_decoder = DeformablePixelDecoder(inside, *sizes, encoder_layers)
        else:
            self.pixel_decoder = PyramidPixelDecoder(inside, s.channels)
        if deformable or high_resolution:
            self.project = None  # the pixel decoder's maps are read instead
        vectors = {"queries": s.num_queries * learned_queries, "level": 3 * high_resolution}
        for name, count in vectors.items():
            value = nn.Parameter(torch.randn(count, s.channels)) if count else None
            self.register_parameter(name, value)


class Mask2FormerLayers(Mask2FormerParts):
    """The way from the backbone's features to the answers: see `Mask2Former`."""

    def image_cells(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[list[tuple[Tensor, Tensor, tuple[int, int]]], Float[Tensor, "b c h w"]]:
        """What the layers read in turns, each level's cells, positions and size; E_pixel."""
        levels, pixels = self.pixel_decoder(features)
        if self.project is not None:
            levels = [self.project(features[-1])]
        elif not self.high_resolution:
            levels = levels[:1]
        read = []
        for number, level in enumerate(levels):
            size, image = (level.shape[2], level.shape[3]), level.flatten(2).mT
            if self.level is not None:
                image = image + self.level[number]
            places = sine_positions(size, image.shape[2], image.device)
            read.append((image, places.to(self.query_positions), size))
        return read, pixels

    def decode(
        self, batch: Float[Tensor, "b 3 h w"]
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Bool[Tensor, "b q _ _"] | None]]:
        """z of the raw queries and of each layer, and what each layer must not look at."""
        read, pixels = self.image_cells(self.backbone(batch))
        start = torch.zeros_like(self.query_positions) if self.queries is None else self.queries
        x = start.expand(len(batch), -1, -1)
        answers = [] if self.queries is None else [self.head(x, pixels)]
        forbidden: list[Tensor | None] = []
        for number, layer in enumerate(self.decoder):
            image, places, size = read[number % len(read)]  # stride 32, 16, 8, 32, …
            blocked = None
            if self.masked_attention and answers:
                blocked = attention_mask(answers[-1][1], size)
            x = layer(x, self.query_positions, image, places, blocked)
            answers.append(self.head(x, pixels))
            forbidden.append(None if blocked is None else blocked[:, 0].unflatten(2, size))
        return answers, forbidden


class Mask2Former(Mask2FormerLayers):
    """Mask2Former (Cheng et al. 2022): MaskFormer with six improvements, each a switch.

    `num_classes` counts all K classes, `num_things` those that are counted. `num_points` are
    those of an image in the matching and of a mask in the loss. With all switches off it is
    lesson 13's MaskFormer with another loss on the masks; its keywords are known here too.
    """

    def layers(self, batch: Float[Tensor, "b 3 h w"]) -> list[tuple[Tensor, Tensor]]:
        """z of the raw queries and of each layer: class logits and mask logits at stride 4."""
        return self.decode(batch)[0]

    def losses(
        self, z: tuple[Tensor, Tensor], targets: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of one layer, matched anew."""
        if self.points:
            how = self.num_points, self.weights, self.logarithm
            matches = match_at_points(*z, targets, *how)
            return point_losses(*z, targets, matches, self.num_points, self.weights)
        cost = {"weights": self.weights, "logarithm": self.logarithm}
        cost["mask_cost"] = pairwise_cross_entropy
        matches = match_segments_to_queries(*z, targets, **cost)
        return mask_classification_loss(*z, targets, matches, self.weights, cross_entropy)

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: classes, mask, dice, each summed over the raw queries and the layers."""
        batch, sizes = batch_images(images, self.mean, self.std)
        segments = batch_segments(segments, sizes)
        size = (batch.shape[2], batch.shape[3])
        targets = [pad_masks(task_targets(s, self.task, self.num_things), size) for s in segments]
        total: dict[str, Tensor] = {}
        for z in self.layers(batch):
            for name, loss in self.losses(z, targets).items():
                total[name] = total.get(name, 0) + loss
        return total


def recipe(data: str = "scenes", task: str = "panoptic", **options: Any) -> Recipe:
    """How Mask2Former is trained: `fit(recipe())`, or `lessons train mask2former`.

    `options` are Mask2Former's keywords, as masked_attention=False or num_queries=40.
    """
    must_be_task(task)
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
