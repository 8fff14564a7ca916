# Built by `lessons build` from notebooks/14_deformable_attention.ipynb: edit that, not this.
"""Deformable attention.

You build attention that compares no query with any key: each cell looks at a few places of its own
choice, on several maps.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.models.backbone import group_norm
from lessons.kit.models.images import in_full_precision
from lessons.maskformer import conv_block, feed_forward, sine_positions


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


class DeformableAttention(nn.Module):
    """Each query gathers values at a few places of its own choice, on several maps.

    Zhu et al. 2021, eq. 3. The maps' cells stand in one row, map after map. Raises ValueError
    where heads do not divide the channels and where the `sizes` are not those of the cells.
    """

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


class DeformablePixelDecoder(nn.Module):
    """Deformable attention on strides 32, 16 and 8, then one step of a pyramid to stride 4.

    `inside` are the channels of the features, fine to coarse; `hidden` is the width of a layer's
    two linear layers, `groups` those of GroupNorm (None: 16 channels a group). As transformers'
    `Mask2FormerPixelDecoder`.
    """

    def __init__(
        self,
        inside: Sequence[int],
        channels: int,
        heads: int,
        hidden: int,
        layers: int,
        groups: int | None = None,
    ):
        super().__init__()
        coarse = list(reversed(inside[1:]))
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), group_norm(channels, groups))
            for width in coarse
        )
        self.level = nn.Parameter(torch.randn(len(coarse), channels))
        self.layers = nn.ModuleList(
            DeformableLayer(channels, len(coarse), heads, hidden) for _ in range(layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(inside[0], channels, 1, bias=False), group_norm(channels, groups)
        )
        self.block = conv_block(channels, channels, groups)
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
