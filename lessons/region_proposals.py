# Built by `lessons build` from notebooks/03_region_proposals.ipynb: edit that, not this.
"""Region proposals.

You build the network that looks at every anchor and says whether something is there and how to
move.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.anchor_boxes import (
    RATIOS,
    Sizes,
    box_iou,
    decode_boxes,
    encode_boxes,
    make_anchors,
    nms,
)
from lessons.kit.data.checks import as_many, at_least, checked, shares
from lessons.kit.models.images import in_full_precision


def top_down_step(
    fine: Float[Tensor, "b c h w"], coarse: Float[Tensor, "b c _ _"]
) -> Float[Tensor, "b c h w"]:
    """A level of the pyramid: the fine map plus the coarse one, its cells repeated.

    The fine map has twice as many rows and columns as the coarse one, or one less than that.
    """
    return fine + F.interpolate(coarse, size=fine.shape[-2:])


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

    @checked
    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> list[Float[Tensor, "b c _ _"]]:
        """One map for each of the `features`, finest first, and the extra one."""
        if len(features) != len(self.lateral):
            raise ValueError(
                f"{len(features)} features for a pyramid of {len(self.lateral)} levels"
            )
        levels = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        for k in reversed(range(len(levels) - 1)):  # from the coarsest down
            levels[k] = top_down_step(levels[k], levels[k + 1])
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

    @checked
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


BACKGROUND, NEITHER = -1, -2


@checked
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
    if iou.sum().isnan():
        raise ValueError("iou holds NaN: a box is no box")
    if iou.numel() == 0:
        return torch.full(iou.shape[1:], BACKGROUND, device=iou.device)
    best, favourite = iou.max(dim=0)
    matches = favourite.where(best >= foreground, NEITHER)
    matches = matches.where(best >= background, BACKGROUND)
    if keep_best:
        top = iou.amax(dim=1, keepdim=True)
        matches = torch.where(((iou == top) & (top > 0)).any(dim=0), favourite, matches)
    return matches


@checked
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


@checked
def proposal_losses(
    logits: Float[Tensor, "b n"],
    deltas: Float[Tensor, "b n 4"],
    anchors: Float[Tensor, "n 4"],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    *,
    foreground: float,
    background: float,
    samples: int,
    positive_fraction: float,
) -> dict[str, Tensor]:
    """`objectness` and `rpn_box` of images that show `boxes` (after Ren et al. 2015, eq. 1).

    Cross-entropy, mean over the sampled anchors; smooth L1 with β = 1/9 of the positive ones'
    deltas, its sum divided by the number of all sampled ones. Raises ValueError for a true box
    without area.
    """
    as_many(len(logits), boxes=boxes)
    chosen, labels, targets = [], [], []
    for i, true in enumerate(boxes):
        if not (true[:, 2:] > true[:, :2]).all():
            raise ValueError(f"image {i}: a true box has no area")
        matches = match_boxes(box_iou(true, anchors), foreground, background, keep_best=True)
        positive, negative = sample_boxes(matches, samples, positive_fraction)
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
@checked
def select_proposals(
    logits: Float[Tensor, "b n"],
    deltas: Float[Tensor, "b n 4"],
    anchors: Sequence[Float[Tensor, "_ 4"]],
    image_sizes: Sequence[tuple[int, int]],
    *,
    candidates: int,
    proposals: int,
    nms_threshold: float,
    min_size: float,
    score_threshold: float,
) -> list[Float[Tensor, "_ 4"]]:
    """The proposals of each image, best first: decoded, clipped to the image, without duplicates.

    `anchors` by level. The best `candidates` of each level are kept, what is too small or too
    improbable goes, then NMS within each level, and the best `proposals` of all.
    """
    as_many(len(logits), image_sizes=image_sizes)
    chosen, level, first = [], [], 0
    for number, boxes in enumerate(anchors):
        count = min(candidates, len(boxes))
        # The best of this level, by their numbers among all anchors:
        best = logits[:, first : first + len(boxes)].topk(count, dim=1).indices
        chosen.append(first + best)
        level += [number] * count
        first += len(boxes)
    chosen, level = torch.cat(chosen, dim=1), torch.tensor(level, device=logits.device)
    scores = logits.gather(1, chosen).sigmoid()
    deltas = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))  # of the candidates
    # Their boxes, cut off at the edges of each image:
    boxes = decode_boxes(deltas, torch.cat(list(anchors))[chosen])
    edge = boxes.new_tensor([(w, h, w, h) for h, w in image_sizes])[:, None]
    boxes = torch.minimum(boxes.clamp(min=0), edge)
    large = (boxes[..., 2:] - boxes[..., :2] >= min_size).all(dim=-1)
    good, answer = large & (scores >= score_threshold), []
    for mine, score, ok in zip(boxes, scores, good, strict=True):
        # The best of those that NMS leaves within each level:
        kept = nms(mine[ok], score[ok], nms_threshold, level[ok])
        answer.append(mine[ok][kept[:proposals]])
    return answer


class RegionProposalNetwork(nn.Module):
    """Boxes that may hold something, of no class yet (Ren et al. 2015, torchvision's rules).

    `sizes` are the anchors', in pixels, by level of the features, which are `channels` wide.
    torchvision's numbers, at 800 pixels, stand in brackets. Raises ValueError for a setting out
    of its range.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sizes = (12, 24, 48, 96),  # [32, 64, 128, 256, 512]
        ratios: Sequence[float] = RATIOS,  # height / width
        *,
        foreground: float = 0.7,  # IoU from which on an anchor is positive
        background: float = 0.3,  # IoU below which it is negative
        samples: int = 128,  # anchors of an image in the loss [256] …
        positive_fraction: float = 0.5,  # … and how many of them may be positive
        candidates_train: int = 200,  # best anchors of each level that become boxes [2000]
        candidates_eval: int = 200,  # [1000]
        nms_threshold: float = 0.7,  # within a level
        proposals_train: int = 200,  # best boxes of an image after NMS [2000]
        proposals_eval: int = 100,  # [1000]
        min_size: float = 1e-3,  # a shorter side is no box, in pixels
        score_threshold: float = 0.0,  # least probability of a proposal
    ):
        super().__init__()
        shares(foreground=foreground, background=background, positive_fraction=positive_fraction)
        shares(nms_threshold=nms_threshold, score_threshold=score_threshold)
        at_least(1, samples=samples)
        at_least(1, candidates_train=candidates_train, candidates_eval=candidates_eval)
        at_least(1, proposals_train=proposals_train, proposals_eval=proposals_eval)
        if not min_size >= 0:
            raise ValueError(f"min_size must be at least 0, not {min_size}")
        counts = {1 if isinstance(size, int | float) else len(size) for size in sizes}
        if len(counts) != 1:
            raise ValueError(f"every level needs equally many anchor sizes, not {sizes}")
        self.sizes, self.ratios = sizes, ratios
        self.foreground, self.background = foreground, background
        self.samples, self.positive_fraction = samples, positive_fraction
        self.candidates_train, self.candidates_eval = candidates_train, candidates_eval
        self.nms_threshold = nms_threshold
        self.proposals_train, self.proposals_eval = proposals_train, proposals_eval
        self.min_size, self.score_threshold = min_size, score_threshold
        self.head = ProposalHead(channels, counts.pop() * len(ratios))

    def anchors_of(
        self, features: Sequence[Float[Tensor, "b c _ _"]], batch_size_px: tuple[int, int]
    ) -> list[Float[Tensor, "_ 4"]]:
        """The anchors by level; a stride is the batch's size // the features' size."""
        if len(features) != len(self.sizes):
            raise ValueError(
                f"{len(features)} levels of features for {len(self.sizes)} anchor sizes"
            )
        cells = [(x.shape[-2], x.shape[-1]) for x in features]
        strides = [(batch_size_px[0] // h, batch_size_px[1] // w) for h, w in cells]
        return make_anchors(cells, strides, self.sizes, self.ratios, features[0].device)

    @checked
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
        anchors = self.anchors_of(features, batch_size_px)
        logits, deltas = self.head(features)
        found = select_proposals(
            logits,
            deltas,
            anchors,
            image_sizes,
            candidates=self.candidates_train if self.training else self.candidates_eval,
            proposals=self.proposals_train if self.training else self.proposals_eval,
            nms_threshold=self.nms_threshold,
            min_size=self.min_size,
            score_threshold=self.score_threshold,
        )
        if boxes is None:
            return found, {}
        losses = proposal_losses(
            logits,
            deltas,
            torch.cat(anchors),
            boxes,
            foreground=self.foreground,
            background=self.background,
            samples=self.samples,
            positive_fraction=self.positive_fraction,
        )
        return found, losses
