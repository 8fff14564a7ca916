# Built by `lessons build` from notebooks/06_centroid_offsets.ipynb: edit that, not this.
"""Centroid offsets.

You let every pixel point at the centre of its thing, collect the votes, and get masks without a
single box.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from lessons.average_precision import AREA_RANGES, evaluate_instances
from lessons.kit.data import Segments, empty_segments, is_crowd
from lessons.kit.data.checks import at_least, checked, finite, positive
from lessons.kit.models.backbone import Backbone, group_norm
from lessons.kit.models.images import MEAN, STD, batch_images, batch_segments, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full


@checked
def instance_centroids(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """C_k = 1/|S_k| Σ x: the mean (x, y) of each mask's pixel centres, in pixels.

    An empty mask has no centre: NaN. Raises ValueError where the masks are not boolean (n, h, w).
    """
    k, row, column = masks.nonzero(as_tuple=True)  # every pixel of every S_k
    total = [torch.bincount(k, at.double() + 0.5, len(masks)) for at in (column, row)]
    return torch.stack(total, dim=1).float() / torch.bincount(k, minlength=len(masks))[:, None]


@checked
def centroid_offsets(
    masks: Bool[Tensor, "n h w"],
) -> tuple[Float[Tensor, "2 h w"], Bool[Tensor, "h w"]]:
    """C_k − x_i = (dx, dy) for every pixel of an instance, in pixels, and which pixels those are.

    Pixels of no instance get 0. Raises ValueError where the masks are not boolean (n, h, w)
    and where two of them share a pixel, which cannot point at both.
    """
    centroids = instance_centroids(masks)
    k, row, column = masks.nonzero(as_tuple=True)
    foreground = torch.zeros(masks.shape[1:], dtype=torch.bool, device=masks.device)
    foreground[row, column] = True
    if shared := len(k) - int(foreground.sum()):
        raise ValueError(f"masks must be disjoint, {shared} pixels are in more than one")
    offsets = centroids.new_zeros(2, *foreground.shape)
    offsets[0, row, column] = centroids[k, 0] - column - 0.5
    offsets[1, row, column] = centroids[k, 1] - row - 0.5
    return offsets, foreground


@checked
def offset_loss(
    offsets: Float[Tensor, "b 2 h w"],
    targets: Float[Tensor, "b 2 h w"],
    foreground: Bool[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """‖x_i + o_i − C_k‖, in pixels: the mean over the foreground's pixels, 0 where there are none.

    `targets` are C_k − x_i. An offset that is NaN makes the loss NaN, and `fit` stops there.
    Raises ValueError where the shapes do not fit and where `foreground` is not boolean.
    """
    distance = torch.linalg.vector_norm(offsets - targets, dim=1)[foreground]
    return distance.sum() / max(len(distance), 1)


def vote_density(
    votes: Float[Tensor, "p 2"], size: tuple[int, int], radius: int = 2
) -> Float[Tensor, "h w"]:
    """D: the number of votes at each pixel, those up to 2·`radius` pixels away counting less.

    Votes (x, y) outside of the image of `size` (height, width) are lost.
    """
    height, width = size
    inside = ((votes >= 0) & (votes < votes.new_tensor([width, height]))).all(dim=1)
    column, row = votes[inside].long().unbind(dim=1)
    density = torch.bincount(row * width + column, minlength=height * width).double()
    side = 2 * radius + 1
    density = F.pad(density.view(1, 1, height, width), [2 * radius] * 4)
    for box in ((side, 1), (1, side)) * 2:
        density = F.avg_pool2d(density, box, 1)  # a box twice is a hat
    return density[0, 0] * side**2  # n votes in one pixel make a peak of n


@checked
def find_centres(
    votes: Float[Tensor, "p 2"], size: tuple[int, int], radius: int = 2, least: float = 6.0
) -> Float[Tensor, "n 2"]:
    """Where votes gather, in pixels: the peaks of their density, most votes first.

    A peak is the densest pixel within 2·`radius` pixels along both axes (of equal ones the
    first), of `least` votes at least, rounded. So two centres are never nearer to each other
    than that. Votes outside the image of `size` (height, width) are lost. Raises ValueError
    where votes are not finite (p, 2) or the radius is negative.
    """
    finite(votes=votes)
    at_least(0, radius=radius)
    density, reach = vote_density(votes, size, radius), 2 * radius
    place = torch.arange(density.numel(), device=votes.device).view(size)
    ranked = (density - 1e-9 * place)[None]  # no two are equal
    densest = F.max_pool2d(ranked, (2 * reach + 1, 1), 1, (reach, 0))
    densest = F.max_pool2d(densest, (1, 2 * reach + 1), 1, (0, reach))
    row, column = torch.where(((ranked == densest) & (density > least - 0.5))[0])
    order = ranked[0, row, column].argsort(descending=True)
    return torch.stack([column, row], dim=1)[order].to(votes) + 0.5


@checked
def group_by_centroid(
    votes: Float[Tensor, "p 2"], centres: Float[Tensor, "n 2"]
) -> Int[Tensor, "p"]:
    """The number of the centre that is nearest to each vote x_i + o_i; −1 without centres.

    Of centres that are equally near the first. Raises ValueError where `votes` or `centres`
    are not finite (p, 2).
    """
    finite(votes=votes, centres=centres)
    if not len(centres):
        return torch.full((len(votes),), -1, dtype=torch.int64, device=votes.device)
    return torch.cdist(votes, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)


def pixel_centres(
    size: tuple[int, int], device: torch.device | str = "cpu"
) -> Float[Tensor, "2 h w"]:
    """x_i of every pixel: its centre (x, y) in pixels; that of the first is (½, ½)."""
    y = torch.arange(size[0], device=device) + 0.5
    x = torch.arange(size[1], device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


@checked
def instances_from_votes(
    votes: Float[Tensor, "2 h w"],
    probability: Float[Tensor, "k1 h w"],
    find_centres: Callable = find_centres,
    smallest: int = 8,
) -> Segments:
    """The instances that the votes x_i + o_i of an image make, best first; disjoint.

    `probability` is that of each class, background first. A pixel belongs to its likeliest
    class and votes with the pixels of that class. The score is the mean probability of the
    class; instances of fewer than `smallest` pixels are dropped.
    """
    classes = probability.max(dim=0).indices  # several times as fast as argmax
    masks, labels, scores = [], [], []
    for label in [number - 1 for number in classes.unique().tolist() if number]:
        inside = classes == label + 1
        own = votes[:, inside].T
        group = group_by_centroid(own, find_centres(own, tuple(inside.shape)))
        for number in range(int(group.max()) + 1):
            mask = torch.zeros_like(inside)
            mask[inside] = group == number
            if int(mask.sum()) >= smallest:
                masks.append(mask)
                labels.append(label)
                scores.append(probability[label + 1][mask].mean())
    if not masks:
        return empty_segments(tuple(classes.shape), with_scores=True).to(votes.device)
    labels = torch.tensor(labels, device=votes.device)
    answer = Segments(torch.stack(masks), labels, torch.stack(scores))
    return answer[answer.scores.argsort(descending=True, stable=True)]


class PixelFeatures(nn.Module):
    """A feature vector for every pixel: the backbone's, brought back up to the image's size.

    From the coarsest map on, each is enlarged twofold, joined by the next finer one and mixed
    by a 3×3 convolution (a U-Net, Ronneberger et al. 2015). Finer than the backbone's stride of
    4 are two small maps of the image itself, which see the outlines. `channels` are the widths
    at strides 1, 2, 4, 8 and 16. The images' sides are multiples of 32.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 64, 64),
        backbone: nn.Module | None = None,
    ):
        super().__init__()
        self.backbone = backbone or Backbone()
        self.channels = channels[0]
        mix = partial(Conv2dNormActivation, norm_layer=group_norm)  # 3×3, then ReLU
        self.fine, self.detail = mix(3, channels[0]), mix(channels[0], channels[1], stride=2)
        finer = [*channels[:2], *self.backbone.channels[:-1]]
        coarser = [*channels[1:], self.backbone.channels[-1]]
        self.lateral = nn.ModuleList(
            nn.Conv2d(inside, width, 1) for inside, width in zip(finer, channels, strict=True)
        )
        self.mix = nn.ModuleList(
            mix(inside + width, width) for inside, width in zip(coarser, channels, strict=True)
        )

    @checked
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Features at stride 1."""
        fine = self.fine(images)
        *finer, x = fine, self.detail(fine), *self.backbone(images)
        for level in range(len(finer) - 1, -1, -1):
            x = F.interpolate(x, size=finer[level].shape[-2:], mode="bilinear", align_corners=False)
            x = self.mix[level](torch.cat([x, self.lateral[level](finer[level])], dim=1))
        return x


def instance_targets(
    segments: Sequence[Segments],
    num_classes: int,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> tuple[list[Segments], Bool[Tensor, "b h w"]]:
    """The things of each image, padded to the batch's `size`, and the pixels that count.

    Crowds are no targets, and their pixels count as little as the padding does: an answer
    there is neither right nor wrong.
    `sizes` are the images' own, (height, width). Raises ValueError for segments of others.
    """
    targets, counted = [], []
    for answer, (h, w) in zip(batch_segments(segments, sizes), sizes, strict=True):
        crowd = is_crowd(answer)
        padding = (0, size[1] - w, 0, size[0] - h)
        thing = answer[(answer.labels < num_classes) & ~crowd]
        targets.append(replace(thing, masks=F.pad(thing.masks, padding)))
        counted.append(F.pad(~answer.masks[crowd].any(dim=0), padding))
    return targets, torch.stack(counted)


class OffsetNet(nn.Module):
    """Every pixel says what it belongs to and points at its instance's centre.

    `num_classes` counts the things: other segments are no targets, crowds neither. An output of
    1 points `reach` pixels away; instances of fewer than `smallest` pixels are dropped. Raises
    ValueError for a number that cannot be.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        features: nn.Module | None = None,
        offset_loss: Callable = offset_loss,
        find_centres: Callable = find_centres,
        reach: float = 4.0,
        offset_weight: float = 0.05,
        smallest: int = 8,
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, smallest=smallest)
        positive(reach=reach, offset_weight=offset_weight)
        self.num_classes, self.reach, self.smallest = num_classes, reach, smallest
        self.offset_weight = offset_weight
        self.features = features or PixelFeatures()
        self.head = nn.Conv2d(self.features.channels, 2 + 1 + num_classes, 1)
        self.offset_loss, self.find_centres = offset_loss, find_centres
        for name, values in {"mean": MEAN, "std": STD}.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def maps(
        self, images: Sequence[Float[Tensor, "3 _ _"]]
    ) -> tuple[Float[Tensor, "b 2 h w"], Float[Tensor, "b k1 h w"], list[tuple[int, int]]]:
        """Of every pixel of the padded batch: o_i in pixels, and its class logits.

        Background is class 0. The third are the images' own sizes, (height, width).
        """
        batch, sizes = batch_images(images, self.mean, self.std)
        answer = in_full_precision(self.head(self.features(batch)))
        return self.reach * answer[:, :2], answer[:, 2:], sizes

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: cls, the cross-entropy of the pixels that count, and offset, weighted."""
        offsets, logits, sizes = self.maps(images)
        size = tuple(logits.shape[-2:])
        targets, counted = instance_targets(segments, self.num_classes, sizes, size)
        wanted, foreground, classes = [], [], []
        for target in targets:
            offset, inside = centroid_offsets(target.masks)
            wanted.append(offset)
            foreground.append(inside)
            classes.append((target.masks * (target.labels + 1)[:, None, None]).sum(dim=0))
        cls = F.cross_entropy(logits, torch.stack(classes), reduction="none")[counted]
        miss = self.offset_loss(offsets, torch.stack(wanted), torch.stack(foreground))
        return {"cls": cls.sum() / max(len(cls), 1), "offset": self.offset_weight * miss}

    @torch.no_grad()
    def predict_instances(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """Disjoint masks, best first; the score is the mean probability of the class.

        Raises ValueError where the network's answer is not finite.
        """
        offsets, logits, sizes = self.maps(images)
        answers = []
        for offset, logit, (h, w) in zip(offsets, logits, sizes, strict=True):
            finite(offsets=offset, logits=logit)
            votes = pixel_centres((h, w), offset.device).to(offset) + offset[:, :h, :w]
            probability = logit[:, :h, :w].softmax(dim=0)
            settings = self.find_centres, self.smallest
            answers.append(instances_from_votes(votes, probability, *settings))
        return answers


SIDES = {"below_10": (0, 10**2), "10_to_20": (10**2, 20**2), "above_20": (20**2, math.inf)}
evaluate_by_size = partial(evaluate_instances, area_ranges={**AREA_RANGES, **SIDES})


def recipe(data: str = "scenes", **options: Any) -> Recipe:
    """How the network of plain offsets is trained; `options` are OffsetNet's keywords."""
    things = sum(category.is_thing for category in categories(data))
    if data == "four_scenes":
        few = Budget(300, batch=2, size=64, learning_rate=4e-3, warm_up=0.3, clip=20.0)
        budgets = by_heart(few)
    else:
        full = Budget(
            6000, batch=16, evaluations=6, learning_rate=5e-3, clip=20.0, turn=data == "nuclei"
        )
        budgets = from_full(full)
    return Recipe(
        system="centroid_offsets",
        model=lambda: OffsetNet(things, **options),
        metrics={"predict_instances": evaluate_by_size},
        budgets=budgets,
        data=data,
        options=options,
    )
