# Built by `lessons build` from notebooks/13_maskformer.ipynb: edit that, not this.
"""MaskFormer.

You build the network that answers with a set of (class, mask) pairs, train it with the loss of
lesson 12, and read three kinds of segmentation off one output.
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
from lessons.kit.data.checks import at_least, between, checked, one_of, shares
from lessons.kit.models.backbone import Backbone, group_norm
from lessons.kit.models.images import MEAN, STD, batch_images, batch_segments, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.panoptic_fpn import METRICS
from lessons.set_prediction import (
    TASKS,
    Weights,
    mask_classification_loss,
    match_segments_to_queries,
    pad_masks,
    sum_of_layers,
    task_targets,
)


class PixelDecoder(nn.Module):
    """A feature pyramid with norms that ends in E_pixel, the pixel embeddings at stride 4.

    `inside` are the channels of the features, fine to coarse; `groups` those of GroupNorm (None:
    16 channels a group). As transformers' `MaskFormerPixelDecoder`.
    """

    def __init__(self, inside: Sequence[int], channels: int, groups: int | None = None):
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), group_norm(channels, groups))
            for width in inside[:-1]
        )
        self.blocks = nn.ModuleList(
            conv_block(width, channels, groups)
            for width in [inside[-1]] + [channels] * (len(inside) - 1)
        )
        self.embed = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], Float[Tensor, "b c h w"]]:
        """Its maps but the finest, coarse to fine, and E_pixel; `features` are fine to coarse.

        Raises ValueError for another number of features.
        """
        if len(features) != len(self.blocks):
            raise ValueError(f"{len(features)} features for {len(self.blocks)} levels")
        x, maps = self.blocks[0](features[-1]), []
        finer = zip(self.blocks[1:], reversed(self.lateral), features[-2::-1], strict=True)
        for block, lateral, feature in finer:
            maps.append(x)
            x = block(F.interpolate(x, feature.shape[-2:]) + lateral(feature))
        return maps, self.embed(x)


def conv_block(inside: int, channels: int, groups: int | None = None) -> nn.Sequential:
    """3×3 convolution, GroupNorm, ReLU."""
    conv = nn.Conv2d(inside, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, group_norm(channels, groups), nn.ReLU(inplace=True))


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


def image_cells(
    x: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b hw c"], Float[Tensor, "hw c"]]:
    """The cells of a map in one row, line by line, and their positions."""
    places = sine_positions((x.shape[2], x.shape[3]), x.shape[1], x.device)
    return x.flatten(2).mT, places.to(x)


def feed_forward(channels: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them, on each token alone."""
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
    )


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
        image_positions: Float[Tensor, "... s c"],
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


class MaskFormer(nn.Module):
    """MaskFormer (Cheng et al. 2021): a set of (class, mask) pairs, each said by a query.

    `num_classes` counts all K classes, `num_things` those that are counted and come first. `task`
    says what it learns: "panoptic", "instance" or "semantic". `weights` are those of cost and
    loss; with `logarithm` the class counts as −log p in the cost.

    Parts: a `backbone` with `.channels`; `project` brings its coarsest map to the queries'
    channels; the `pixel_decoder` makes maps and E_pixel of its features; `decoder` is a list of
    layers; the `head` says what a query says. Raises ValueError for a setting that cannot be.
    """

    def __init__(
        self,
        num_classes: int,
        num_things: int,
        *,
        task: str = "panoptic",
        backbone: nn.Module | None = None,
        project: nn.Module | None = None,
        pixel_decoder: nn.Module | None = None,
        decoder: nn.ModuleList | None = None,
        head: nn.Module | None = None,
        num_queries: int = 24,  # the paper's: 100
        channels: int = 64,  # of queries and pixel embeddings; 256
        heads: int = 4,  # 8
        hidden: int = 256,  # of a layer's two linear layers; 2048
        decoder_layers: int = 3,  # 6
        encoder_layers: int = 0,  # 0, and 6 in the panoptic models
        encoder_hidden: int = 256,  # 2048
        groups: int | None = None,  # of GroupNorm, None: 16 channels each; 32
        weights: Weights = Weights(),
        logarithm: bool = False,
        score_threshold: float = 0.5,  # of a panoptic segment; 0.8 …
        overlap_threshold: float = 0.8,  # … and the share of its mask that it keeps
    ):
        super().__init__()
        one_of(TASKS, task=task)
        between(0, num_classes, num_things=num_things)
        at_least(1, num_queries=num_queries, channels=channels, hidden=hidden)
        at_least(1, heads=heads, decoder_layers=decoder_layers, encoder_hidden=encoder_hidden)
        at_least(0, encoder_layers=encoder_layers)
        shares(score_threshold=score_threshold, overlap_threshold=overlap_threshold)
        self.num_classes, self.num_things, self.task = num_classes, num_things, task
        self.weights, self.logarithm = weights, logarithm
        self.score_threshold, self.overlap_threshold = score_threshold, overlap_threshold
        self.backbone = backbone or Backbone()
        *fine, coarse = self.backbone.channels
        self.project = project or nn.Conv2d(coarse, channels, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(channels, heads, encoder_hidden) for _ in range(encoder_layers)
        )
        self.pixel_decoder = pixel_decoder or PixelDecoder(
            [*fine, channels if encoder_layers else coarse], channels, groups
        )
        self.query_positions = nn.Parameter(torch.randn(num_queries, channels))
        self.decoder = decoder or nn.ModuleList(
            DecoderLayer(channels, heads, hidden) for _ in range(decoder_layers)
        )
        self.head = head or MaskHead(num_classes, channels)
        for name, values in {"mean": MEAN, "std": STD}.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def read_maps(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[list[Float[Tensor, "b c _ _"]], Float[Tensor, "b c h w"]]:
        """The maps that the decoder looks at, here one of stride 32, and E_pixel."""
        *fine, coarse = features
        x = self.project(coarse)
        if not len(self.encoder):
            return [x], self.pixel_decoder(features)[1]
        image, places = image_cells(x)
        for layer in self.encoder:
            image = layer(image, places)
        x = image.mT.unflatten(2, x.shape[-2:])
        return [x], self.pixel_decoder([*fine, x])[1]

    def layers(self, batch: Float[Tensor, "b 3 h w"]) -> list[tuple[Tensor, Tensor]]:
        """z after each decoder layer: class logits (b, q, K + 1) and mask logits at stride 4."""
        (x,), pixels = self.read_maps(self.backbone(batch))
        image, places = image_cells(x)
        queries = torch.zeros_like(self.query_positions).expand(len(x), -1, -1)
        answers = []
        for layer in self.decoder:
            queries = layer(queries, self.query_positions, image, places)
            answers.append(self.head(queries, pixels))
        return answers

    def losses(
        self, z: tuple[Tensor, Tensor], targets: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of one layer, matched anew."""
        how = {"weights": self.weights, "logarithm": self.logarithm}
        matches = match_segments_to_queries(*z, targets, **how)
        return mask_classification_loss(*z, targets, matches, self.weights)

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: classes, mask, dice, each summed over the layers."""
        batch, sizes = batch_images(images, self.mean, self.std)
        segments, size = batch_segments(segments, sizes), (batch.shape[2], batch.shape[3])
        targets = [pad_masks(task_targets(s, self.task, self.num_things), size) for s in segments]
        return sum_of_layers(self.losses(z, targets) for z in self.layers(batch))

    @torch.no_grad()
    def predict(
        self, images: Sequence[Float[Tensor, "3 _ _"]], layer: int = -1
    ) -> list[tuple[Float[Tensor, "q k1"], Float[Tensor, "q _ _"]]]:
        """z of one layer, the last, for each image, the mask logits at the image's size."""
        batch, sizes = batch_images(images, self.mean, self.std)
        return of_each_image(self.layers(batch)[layer], batch.shape[-2:], sizes)

    def predict_semantic(
        self, images: Sequence[Float[Tensor, "3 _ _"]]
    ) -> list[Int[Tensor, "_ _"]]:
        """The class of each pixel of each image."""
        return [semantic_inference(*z) for z in self.predict(images)]

    def predict_panoptic(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """Disjoint segments of each image, with scores."""
        limits = self.num_things, self.score_threshold, self.overlap_threshold
        return [panoptic_inference(*z, *limits) for z in self.predict(images)]

    def predict_instances(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """The things of each image, best first; they may overlap."""
        return [instance_inference(*z, self.num_things) for z in self.predict(images)]


@checked
def semantic_inference(
    class_logits: Float[Tensor, "q k1"], mask_logits: Float[Tensor, "q h w"]
) -> Int[Tensor, "h w"]:
    """The class of each pixel, arg max_c Σ_i p_i(c) · m_i[h, w], without ∅."""
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


@checked
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
    between(0, class_logits.shape[1] - 1, num_things=num_things)
    shares(score_threshold=score_threshold, overlap_threshold=overlap_threshold)
    shares(mask_threshold=mask_threshold)
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


@checked
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
    between(0, class_logits.shape[1] - 1, num_things=num_things)
    at_least(1, most=most)
    probability = in_full_precision(class_logits).softmax(dim=1)[:, :num_things]
    scores, index = probability.flatten().topk(min(most, probability.numel()))
    queries, labels = index // max(num_things, 1), index % max(num_things, 1)
    masks = mask_logits > 0
    area = masks.flatten(1).sum(dim=1)
    total = (in_full_precision(mask_logits).sigmoid() * masks).flatten(1).sum(dim=1)
    sure = total / area.clamp(min=1)
    answer = Segments(masks[queries], labels, scores * sure[queries])[area[queries] > 0]
    return answer[answer.scores.argsort(descending=True, stable=True)]


def of_each_image(
    z: tuple[Float[Tensor, "b q k1"], Float[Tensor, "b q _ _"]],
    size: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
) -> list[tuple[Float[Tensor, "q k1"], Float[Tensor, "q _ _"]]]:
    """z of a batch of `size` image by image, the mask logits at the `sizes` of the images."""
    classes, masks = z
    masks = F.interpolate(in_full_precision(masks), size, mode="bilinear")
    return [(c, m[:, :h, :w]) for c, m, (h, w) in zip(classes, masks, sizes, strict=True)]


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
    one_of(TASKS, task=task)
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
