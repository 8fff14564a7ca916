# Built by `lessons build` from notebooks/02_faster_rcnn.ipynb: edit that, not this.
"""Faster R-CNN, from boxes to proposals.

You build the half of Faster R-CNN that says where something is: boxes and their code, anchors,
matching, non-maximum suppression, a feature pyramid, and the network that proposes boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer, Real
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.models.images import in_full_precision


def box_iou(
    boxes: Real[Tensor, "*b n 4"], others: Real[Tensor, "*b m 4"]
) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every box with every other (torchvision's `box_iou`).

    Boxes are x0, y0, x1, y1 in any unit, x0 ≤ x1 and y0 ≤ y1; half precision and integers are
    computed in float32. Two boxes without area have 0, where torchvision has NaN.
    """
    boxes, others = in_full_precision(boxes), in_full_precision(others)
    # One contiguous row for each coordinate, and in place: memory is what takes the time here.
    x0, y0, x1, y1 = boxes.mT.contiguous()[..., None].unbind(-3)  # each *b n 1
    u0, v0, u1, v1 = others.mT.contiguous()[..., None, :].unbind(-3)  # each *b 1 m
    width = torch.minimum(x1, u1).sub_(torch.maximum(x0, u0)).clamp_(min=0)
    height = torch.minimum(y1, v1).sub_(torch.maximum(y0, v0)).clamp_(min=0)
    both = width.mul_(height)
    either = ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)).sub_(both)
    return both.div_(either.clamp_(min=torch.finfo(both.dtype).tiny))


LARGEST_GROWTH = math.log(1000 / 16)


def centres_and_sizes(boxes: Real[Tensor, "*n 4"]) -> tuple[Tensor, Tensor]:
    """(x, y) of the centre and (width, height) of boxes, each (*n, 2), in at least float32."""
    boxes = in_full_precision(boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    size = high - low
    return low + 0.5 * size, size


def encode_boxes(
    boxes: Real[Tensor, "*n 4"],
    anchors: Real[Tensor, "*#n 4"],
    weights: Sequence[float] = (1, 1, 1, 1),
) -> Float[Tensor, "*n 4"]:
    """The way from each anchor to its box (torchvision's `BoxCoder.encode`).

    (wx·Δx/w, wy·Δy/h, ww·log(w'/w), wh·log(h'/h)), with w, h of the anchor and w', h' of the
    box; both need an area. `anchors` may be broadcast.
    """
    (centre, size), (start, scale) = centres_and_sizes(boxes), centres_and_sizes(anchors)
    moved, grown = (centre - start) / scale, torch.log(size / scale)
    return torch.cat([moved, grown], dim=-1) * moved.new_tensor(weights)


def decode_boxes(
    deltas: Real[Tensor, "*n 4"],
    anchors: Real[Tensor, "*#n 4"],
    weights: Sequence[float] = (1, 1, 1, 1),
) -> Float[Tensor, "*n 4"]:
    """The boxes that `encode_boxes` would send to `deltas` (torchvision's `BoxCoder.decode`).

    `anchors` may be broadcast, (n, 1, 4) to (n, k, 4). A side grows at most by exp(LARGEST_GROWTH).
    """
    start, scale = centres_and_sizes(anchors)
    moved, grown = (deltas / scale.new_tensor(weights)).split(2, dim=-1)
    centre = moved * scale + start
    half = 0.5 * (grown.clamp(max=LARGEST_GROWTH).exp() * scale)
    return torch.cat([centre - half, centre + half], dim=-1)


RATIOS = (0.5, 1.0, 2.0)
Sizes = Sequence[float | Sequence[float]]  # one or several for each level


def make_anchors(
    feature_sizes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[int, int] | int],
    sizes: Sizes,
    ratios: Sequence[float] = RATIOS,
    device: torch.device | str | None = None,
) -> list[Float[Tensor, "hwa 4"]]:
    """The anchors of each level, row by row, a at each cell (torchvision's `AnchorGenerator`).

    Level i has the cells `feature_sizes[i]` (rows, columns), `strides[i]` pixels apart (down,
    right), and anchors of area size² and height/width ratio for each ratio and each of its
    `sizes[i]`, the sizes running faster. Cell (0, 0) is centred on pixel corner (0, 0), and
    corners are rounded to whole pixels. Raises ValueError where the lengths differ.
    """
    if not len(feature_sizes) == len(strides) == len(sizes):
        raise ValueError(
            f"{len(feature_sizes)} feature sizes, {len(strides)} strides and {len(sizes)} anchor "
            "sizes: one of each for every level"
        )
    levels = []
    for (h, w), stride, size in zip(feature_sizes, strides, sizes, strict=True):
        down, right = (stride, stride) if isinstance(stride, int) else stride
        size = torch.tensor(
            [size] if isinstance(size, int | float) else list(size), device=device
        ).float()
        root = torch.tensor(list(ratios), device=device).sqrt()[:, None]  # a ratio is h / w
        width, height = (size * (1 / root)).flatten(), (size * root).flatten()
        around = (torch.stack([-width, -height, width, height], dim=1) / 2).round()  # a 4
        y, x = torch.arange(h, device=device) * down, torch.arange(w, device=device) * right
        y, x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([x, y, x, y], dim=-1)  # h w 4
        levels.append((centre[:, :, None] + around).flatten(0, 2))
    return levels


BACKGROUND, NEITHER = -1, -2


def match_boxes(
    iou: Float[Tensor, "g n"], foreground: float, background: float, keep_best: bool = False
) -> Int[Tensor, "n"]:
    """For each of n boxes the true one it is to find, −1: background, −2: neither.

    A box takes the true one of highest IoU (of equal ones the first) if that is at least
    `foreground`; below `background` it is background. With `keep_best` the best boxes of each
    true one, all of equal IoU, are taken whatever the threshold: they take the true one that they
    themselves overlap most (torchvision's `Matcher` with `allow_low_quality_matches`; but a true
    box that no box meets takes none). Raises ValueError for NaN, and for background above
    foreground.
    """
    if not background <= foreground:
        raise ValueError(f"background {background} must not be above foreground {foreground}")
    if len(iou) == 0:
        return torch.full(iou.shape[1:], BACKGROUND, device=iou.device)
    best, favourite = iou.max(dim=0)
    if best.isnan().any():
        raise ValueError("iou holds NaN: a box is no box")
    matches = favourite.where(best >= foreground, NEITHER)
    matches = matches.where(best >= background, BACKGROUND)
    if keep_best and iou.shape[1]:
        top = iou.amax(dim=1, keepdim=True)
        matches = torch.where(((iou == top) & (top > 0)).any(dim=0), favourite, matches)
    return matches


def sample_boxes(
    matches: Int[Tensor, "n"],
    count: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "p"], Int[Tensor, "q"]]:
    """`count` boxes for the loss: the indices of p positives and of q negatives, at random.

    `matches` are `match_boxes`'. At most int(count · positive_fraction) are positive, the rest
    negative; fewer where there are not enough, and all, in their order, where none is too many
    (torchvision's `BalancedPositiveNegativeSampler`).
    """
    positives, negatives = (matches >= 0).nonzero()[:, 0], (matches == BACKGROUND).nonzero()[:, 0]
    positives = choose(positives, int(count * positive_fraction), generator)
    return positives, choose(negatives, count - len(positives), generator)


def choose(
    indices: Int[Tensor, "n"], count: int, generator: torch.Generator | None = None
) -> Int[Tensor, "m"]:
    """`count` of the indices at random, or all of them where there are no more."""
    if len(indices) <= count:
        return indices
    device = indices.device if generator is None else generator.device
    order = torch.randperm(len(indices), generator=generator, device=device)[:count]
    return indices[order.to(indices.device)]


def survivors(overlaps: Bool[Tensor, "n n"]) -> Bool[Tensor, "n"]:
    """Of boxes in order, best first: those that no survivor before them overlaps."""
    before = overlaps.float().triu(1)  # entry i, j: i would suppress j
    alive = before.new_ones(len(before))
    while True:
        spared = (alive @ before == 0).to(before)
        if torch.equal(spared, alive):
            return alive.bool()
        alive = spared


def largest_float(value: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is not above `value`: IoU > both is the same question."""
    nearest = torch.tensor(value, dtype=dtype)
    below = torch.nextafter(nearest, nearest.new_tensor(-math.inf))
    return (nearest if nearest.item() <= value else below).item()


def nms(
    boxes: Real[Tensor, "n 4"],
    scores: Real[Tensor, "n"],
    iou_threshold: float,
    groups: Integer[Tensor, "n"] | None = None,
) -> Int[Tensor, "kept"]:
    """The boxes that no better kept box overlaps by more than the threshold, best first.

    Boxes of different `groups` (a class, a level, an image) do not suppress one another. Of
    equal scores the first counts as better. Exactly torchvision's `nms` on a CPU, of each group:
    a box that is NaN is kept and suppresses none. Memory grows with n, not with n².
    """
    if not len(boxes) == len(scores) == (len(scores) if groups is None else len(groups)):
        raise ValueError(f"{len(boxes)} boxes need as many scores and as many groups")
    boxes = in_full_precision(boxes)
    limit = largest_float(iou_threshold, boxes.dtype)
    size = 512 if boxes.is_cuda else 128  # boxes decided in one step

    def overlap(a, b):
        close = box_iou(boxes[a], boxes[b]) > limit  # never where the IoU is NaN
        return close if groups is None else close & (groups[a, None] == groups[b])

    order = scores.argsort(descending=True, stable=True)
    rest = order if groups is None else order[groups[order].argsort(stable=True)]
    kept = torch.zeros_like(scores, dtype=torch.bool)
    while len(rest):
        block, rest = rest[:size], rest[size:]
        block = block[survivors(overlap(block, block))]
        kept[block] = True
        end = len(rest) if groups is None else int((groups[rest] <= groups[block[-1]]).sum())
        if end:  # the boxes that this step's can suppress
            alive = ~overlap(block, rest[:end]).any(dim=0)
            rest = torch.cat([rest[:end][alive], rest[end:]])
    return order[kept[order]]


class FeaturePyramid(nn.Module):
    """Features of one width at every level, the coarse ones added to the finer (Lin et al. 2017).

    `in_channels` are those of the backbone's levels, finest first. With `extra_level` the
    coarsest map, every second cell of it, follows as one level more. Equal to torchvision's
    `FeaturePyramidNetwork`, with its parameters in the same order.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, extra_level: bool = False):
        super().__init__()
        self.extra_level = extra_level
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        for conv in (*self.lateral, *self.output):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> list[Float[Tensor, "b c _ _"]]:
        """One map for each of the `features`, finest first, and the extra one."""
        if len(features) != len(self.lateral):
            raise ValueError(
                f"{len(features)} features for a pyramid of {len(self.lateral)} levels"
            )
        levels = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for fine, coarse in zip(
            range(len(levels) - 2, -1, -1), range(len(levels) - 1, 0, -1), strict=True
        ):
            levels[fine] = levels[fine] + F.interpolate(
                levels[coarse], size=levels[fine].shape[-2:]
            )
        outputs = [conv(x) for conv, x in zip(self.output, levels, strict=True)]
        return outputs + [F.max_pool2d(outputs[-1], 1, stride=2)] * self.extra_level


class ProposalHead(nn.Module):
    """At every cell of every level, for each of its anchors: is it an object, and how to move it.

    The same weights at all levels (torchvision's `RPNHead`, its parameters in the same order).
    """

    def __init__(self, channels: int, num_anchors: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        for conv in self.children():
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(
        self, features: Sequence[Float[Tensor, "b c _ _"]]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n 4"]]:
        """Logits and deltas of all n anchors, in `make_anchors`' order, in float32."""
        hidden = [F.relu(self.conv(x)) for x in features]
        logits = [self.objectness(x).permute(0, 2, 3, 1).flatten(1) for x in hidden]
        deltas = [
            self.deltas(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for x in hidden
        ]
        return in_full_precision(torch.cat(logits, 1)), in_full_precision(torch.cat(deltas, 1))


@dataclass(frozen=True)
class ProposalSettings:
    """The numbers of a `RegionProposalNetwork`; torchvision's, at 800 pixels, in brackets."""

    foreground: float = 0.7  # IoU from which on an anchor is positive
    background: float = 0.3  # IoU below which it is negative
    samples: int = 128  # anchors of an image in the loss [256] …
    positive_fraction: float = 0.5  # … and how many of them may be positive
    candidates_train: int = 200  # best anchors of each level that become boxes [2000]
    candidates_eval: int = 200  # [1000]
    nms_threshold: float = 0.7  # within a level
    proposals_train: int = 200  # best boxes of an image after NMS [2000]
    proposals_eval: int = 100  # [1000]
    min_size: float = 1e-3  # a shorter side is no box, in pixels
    score_threshold: float = 0.0  # least probability of a proposal

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, not {value}")

    def counts(self, training: bool) -> tuple[int, int]:
        """How many candidates of a level and proposals of an image."""
        if training:
            return self.candidates_train, self.proposals_train
        return self.candidates_eval, self.proposals_eval


def proposal_losses(
    logits: Float[Tensor, "b n"],
    deltas: Float[Tensor, "b n 4"],
    anchors: Float[Tensor, "n 4"],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    settings: ProposalSettings,
) -> dict[str, Tensor]:
    """`objectness` and `rpn_box` of images that show `boxes` (after Ren et al. 2015, eq. 1).

    Cross-entropy, mean over the sampled anchors; smooth L1 with β = 1/9 of the positive ones'
    deltas, its sum divided by the number of all sampled ones.
    """
    chosen, labels, targets = [], [], []
    for i, true in enumerate(boxes):
        iou = box_iou(true, anchors)
        matches = match_boxes(iou, settings.foreground, settings.background, keep_best=True)
        positive, negative = sample_boxes(matches, settings.samples, settings.positive_fraction)
        targets.append(encode_boxes(true[matches[positive]], anchors[positive]))
        chosen += [positive + i * len(anchors), negative + i * len(anchors)]
        labels += [torch.ones_like(positive), torch.zeros_like(negative)]
    chosen, labels = torch.cat(chosen), torch.cat(labels)
    found = deltas.flatten(0, 1)[chosen[labels == 1]]
    box_loss = F.smooth_l1_loss(found, torch.cat(targets), beta=1 / 9, reduction="sum")
    scores = logits.flatten()[chosen]
    return {
        "objectness": F.binary_cross_entropy_with_logits(scores, labels.to(scores)),
        "rpn_box": box_loss / len(chosen),
    }


@torch.no_grad()
def select_proposals(
    logits: Float[Tensor, "b n"],
    deltas: Float[Tensor, "b n 4"],
    anchors: Sequence[Float[Tensor, "_ 4"]],
    image_sizes: Sequence[tuple[int, int]],
    candidates: int,
    proposals: int,
    settings: ProposalSettings,
) -> list[Float[Tensor, "_ 4"]]:
    """The proposals of each image, best first: decoded, clipped to the image, without duplicates.

    `anchors` by level. The best `candidates` of each level are kept, what is too small or too
    improbable goes, then NMS within each level, and the best `proposals` of all.
    """
    chosen, level, first = [], [], 0
    for number, boxes in enumerate(anchors):
        count = min(candidates, len(boxes))
        chosen.append(logits[:, first : first + len(boxes)].topk(count, dim=1).indices + first)
        level += [number] * count
        first += len(boxes)
    chosen, level = torch.cat(chosen, dim=1), torch.tensor(level, device=logits.device)
    scores = logits.gather(1, chosen).sigmoid()
    deltas = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
    boxes = decode_boxes(deltas, torch.cat(list(anchors))[chosen])
    edge = boxes.new_tensor([(w, h, w, h) for h, w in image_sizes])[:, None]
    boxes = torch.minimum(boxes.clamp(min=0), edge)
    large = (boxes[..., 2:] - boxes[..., :2] >= settings.min_size).all(dim=-1)
    good, answer = large & (scores >= settings.score_threshold), []
    for mine, score, ok in zip(boxes, scores, good, strict=True):
        kept = nms(mine[ok], score[ok], settings.nms_threshold, level[ok])
        answer.append(mine[ok][kept[:proposals]])
    return answer


class AnchorGrid:
    """`make_anchors` for the features at hand, made once for equal ones."""

    def __init__(self, sizes: Sizes, ratios: Sequence[float]):
        counts = {1 if isinstance(size, int | float) else len(size) for size in sizes}
        if len(counts) != 1:
            raise ValueError(f"every level needs equally many anchor sizes, not {sizes}")
        self.sizes, self.ratios, self.at_a_cell = sizes, ratios, counts.pop() * len(ratios)
        self.made = None, []  # for which features, and the anchors

    def __call__(
        self, features: Sequence[Float[Tensor, "b c _ _"]], batch_size_px: tuple[int, int]
    ) -> list[Float[Tensor, "_ 4"]]:
        """The anchors by level; a stride is the batch's size // the features' size."""
        shapes = [tuple(x.shape[-2:]) for x in features]
        key = shapes, tuple(batch_size_px), features[0].device
        if self.made[0] != key:
            strides = [(batch_size_px[0] // h, batch_size_px[1] // w) for h, w in shapes]
            self.made = key, make_anchors(shapes, strides, self.sizes, self.ratios, key[2])
        return self.made[1]


def check_batch(
    features: Sequence[Tensor],
    sizes: Sizes,
    image_sizes: Sequence[tuple[int, int]],
    boxes: Sequence[Tensor] | None,
) -> None:
    """Raise ValueError, in words, where the parts of a batch do not belong together."""
    if len(features) != len(sizes):
        raise ValueError(f"{len(features)} levels of features for {len(sizes)} anchor sizes")
    if len(image_sizes) != len(features[0]):
        raise ValueError(f"{len(image_sizes)} image sizes for {len(features[0])} images")
    if boxes is not None and len(boxes) != len(image_sizes):
        raise ValueError(f"true boxes of {len(boxes)} images for {len(image_sizes)} images")
    for i, true in enumerate(boxes or []):
        if not (true[:, 2:] > true[:, :2]).all():
            raise ValueError(f"image {i}: a true box has no area")


class RegionProposalNetwork(nn.Module):
    """Boxes that may hold something, of no class yet (Ren et al. 2015, torchvision's rules).

    `sizes` are the anchors', in pixels, by level of the features, which are `channels` wide.
    Keywords are the fields of `ProposalSettings`.
    """

    def __init__(self, channels: int, sizes: Sizes = (12, 24, 48, 96), ratios=RATIOS, **settings):
        super().__init__()
        self.settings, self.anchors = ProposalSettings(**settings), AnchorGrid(sizes, ratios)
        self.head = ProposalHead(channels, self.anchors.at_a_cell)

    def forward(
        self,
        features: Sequence[Float[Tensor, "b c _ _"]],
        batch_size_px: tuple[int, int],
        image_sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Float[Tensor, "_ 4"]] | None = None,
    ) -> tuple[list[Float[Tensor, "_ 4"]], dict[str, Tensor]]:
        """The proposals of each image, best first, and the losses if the true `boxes` are given.

        `batch_size_px` is the padded (h, w) of the batch, `image_sizes` each image's own: no
        proposal leaves its image. Proposals carry no gradient. Raises ValueError where the
        numbers of levels or of images differ, or a true box has no area.
        """
        check_batch(features, self.anchors.sizes, image_sizes, boxes)
        logits, deltas = self.head(features)
        anchors, settings = self.anchors(features, batch_size_px), self.settings
        counts = settings.counts(self.training)
        proposals = select_proposals(logits, deltas, anchors, image_sizes, *counts, settings)
        if boxes is None:
            return proposals, {}
        return proposals, proposal_losses(logits, deltas, torch.cat(anchors), boxes, settings)
