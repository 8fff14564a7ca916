# Built by `lessons build` from notebooks/08_spatial_embedding.ipynb: edit that, not this.
"""Spatial embedding.

You build the network that lets every pixel point at its thing and say how far from the centre a
pixel may land and still belong to it, train both through one loss, and read the things off by
clustering.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lessons.centroid_offsets import (
    PixelFeatures,
    evaluate_by_size,
    instance_targets,
    pixel_centres,
)
from lessons.kit.data import Segments
from lessons.kit.data.checks import as_many, at_least, checked, finite, one_of, positive, shares
from lessons.kit.models.images import MEAN, STD, batch_images, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.lovasz import lovasz_hinge


@checked
def membership(
    embeddings: Float[Tensor, "2 h w"], centre: Float[Tensor, "*n 2"], sigma: Float[Tensor, "*n #2"]
) -> Float[Tensor, "*n h w"]:
    """φ_k: the probability that each pixel belongs to the instance at `centre`.

    Neven et al. 2019, eq. 5:
    φ(e) = exp(−‖(e − centre) / σ‖² / 2): 1 at the centre, ½ at a distance of σ√(2 ln 2).
    `sigma` has 1 number (a circle) or 2 (an ellipse along the axes). `embeddings`, `centre`
    and `sigma` share one unit. Raises ValueError where the shapes do not fit.
    """
    distance = (embeddings - centre[..., None, None]) / sigma[..., None, None]
    return torch.exp(distance.square().sum(dim=-3) / -2)


def pixel_grid(
    size: tuple[int, int], unit: float | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "2 h w"]:
    """x_i of every pixel: its centre (x, y), in units of `unit` pixels.

    Without a `unit` the longer side of the image is 1. A network that sees crops and whole
    images needs one that is the same for all.
    """
    return pixel_centres(size, device) / (max(size) if unit is None else unit)


@torch.no_grad()
@checked
def cluster_pixels(
    embeddings: Float[Tensor, "2 h w"],
    sigma: Float[Tensor, "#2 h w"],
    seeds: Float[Tensor, "h w"],
    foreground: float = 0.5,
    threshold: float = 0.5,
    smallest: int = 8,
) -> tuple[Int[Tensor, "h w"], Float[Tensor, "n"]]:
    """Instances of one class, one after the other: a map of numbers, −1 where none is, and scores.

    Pixels with a seed above `foreground` take part. The highest seed left, down to `threshold`,
    says an instance's centre, bandwidth and score; its members have φ > ½. Accepted with
    `smallest` members, more than half of them free, it takes the free ones; accepted or not,
    members are no seeds any more. Raises ValueError for maps or numbers that cannot be.
    """
    finite(embeddings=embeddings, seeds=seeds)
    positive(sigma=sigma, smallest=smallest)
    shares(below_one=True, foreground=foreground, threshold=threshold)
    place = torch.where(seeds.flatten() > foreground)[0]
    e, width = embeddings.flatten(1)[:, place], sigma.flatten(1)[:, place]
    rest = seeds.flatten()[place]  # the seeds that are left
    number, scores = torch.full_like(place, -1), []
    free = torch.ones_like(place, dtype=torch.bool)
    while len(rest):
        score, best = rest.max(dim=0)
        if score <= 0 or score < threshold:
            break
        distance = (e - e[:, best, None]) / width[:, best, None]
        members = torch.where(distance.square().sum(dim=0) < 2 * math.log(2))[0]  # φ > ½
        taken = members[free[members]]
        if len(members) >= smallest and 2 * len(taken) > len(members):
            number[taken] = len(scores)
            scores.append(score.item())
        free[members] = False
        rest[members] = 0
    instances = torch.full(seeds.shape, -1, dtype=torch.int64, device=seeds.device)
    instances.view(-1)[place] = number
    return instances, torch.tensor(scores, device=seeds.device)


def bandwidth(s: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """σ of what the network says: exp(10 s) = 1 / (2σ²)."""
    return torch.exp(-5 * s) / math.sqrt(2)


@checked
def mean_over(masks: Bool[Tensor, "n h w"], values: Float[Tensor, "c h w"]) -> Float[Tensor, "n c"]:
    """The mean of some values over the pixels of each mask; NaN for an empty one."""
    members = masks.flatten(1).to(values)
    with torch.autocast(values.device.type, enabled=False):  # bfloat16 is off by ⅓ of a pixel
        total = members @ values.flatten(1).T
    return total / members.sum(dim=1, keepdim=True)


@checked
def centroid(
    masks: Bool[Tensor, "n h w"], embeddings: Float[Tensor, "2 h w"], grid: Float[Tensor, "2 h w"]
) -> Float[Tensor, "n 2"]:
    """C_k as in the lecture: the mean place of the instance's pixels."""
    return mean_over(masks, grid)


@checked
def mean_embedding(
    masks: Bool[Tensor, "n h w"], embeddings: Float[Tensor, "2 h w"], grid: Float[Tensor, "2 h w"]
) -> Float[Tensor, "n 2"]:
    """C_k that can be learned: the mean of where its pixels point (Neven et al. 2019)."""
    return mean_over(masks, embeddings)


@checked
def lovasz_loss(phi: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n"]:
    """The Lovász hinge of each φ_k; φ = ½ is the border, so 2φ − 1 is the logit."""
    return lovasz_hinge(2 * phi - 1, masks)


@checked
def instance_terms(
    embeddings: Float[Tensor, "2 h w"],
    s: Float[Tensor, "d h w"],
    target: Segments,
    grid: Float[Tensor, "2 h w"],
    centre: Callable,
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n"]]:
    """φ_k of each of an image's true instances, and how much s varies inside of it.

    The instance's bandwidth is that of the mean s_k of its pixels; the variance is the mean of
    (s_i − s_k)².
    """
    masks = target.masks
    s_k = mean_over(masks, s)  # n d
    phi = membership(embeddings, centre(masks, embeddings, grid), bandwidth(s_k))
    deviation = (s - s_k.detach()[:, :, None, None]).square().mean(dim=1)
    variance = (deviation * masks).flatten(1).sum(dim=1) / masks.flatten(1).sum(dim=1)
    return phi, variance


@checked
def seed_loss(
    seeds: Float[Tensor, "k h w"],
    phi: Float[Tensor, "n h w"],
    target: Segments,
    counted: Bool[Tensor, "h w"],
    foreground_weight: float = 10.0,
) -> Float[Tensor, ""]:
    """Each class's seed map should be φ_k on its instances, and 0 elsewhere.

    Squared error; the foreground counts `foreground_weight` times, φ learns nothing from it, and
    the sum is divided by the number of pixels.
    """
    wanted = torch.zeros_like(seeds)
    weight = torch.ones_like(seeds)
    for mask, label, own in zip(target.masks, target.labels, phi.detach(), strict=True):
        wanted[label] = torch.where(mask, own, wanted[label])
        weight[label] = torch.where(mask, foreground_weight, weight[label])
    error = weight * (seeds - wanted).square() * counted
    return error.sum() / counted.numel()


@checked
def embedding_losses(
    embeddings: Float[Tensor, "b 2 h w"],
    s: Float[Tensor, "b d h w"],
    seeds: Float[Tensor, "b k h w"],
    targets: Sequence[Segments],
    counted: Bool[Tensor, "b h w"],
    unit: float,
    centre: Callable = mean_embedding,
    membership_loss: Callable = lovasz_loss,
) -> dict[str, Float[Tensor, ""]]:
    """instance, variance and seed, in the published weights 1, 10 and 1.

    The first two are means over all instances of the batch (0 without any), the third over its
    images. Outside of `counted` (padding, crowds) nothing is right or wrong.
    """
    as_many(len(seeds), targets=targets)
    size = tuple(seeds.shape[-2:])
    if any(target.size != size for target in targets):
        raise ValueError(f"targets must be padded to the size of the maps, {size[0]}×{size[1]}")
    grid = pixel_grid(size, unit, seeds.device).to(embeddings)
    phis, variances, seed = [], [], []
    for e, s_i, seed_map, target, inside in zip(
        embeddings, s, seeds, targets, counted, strict=True
    ):
        phi, variance = instance_terms(e, s_i, target, grid, centre)
        phis.append(phi * inside)
        variances.append(variance)
        seed.append(seed_loss(seed_map, phi, target, inside))
    phi = torch.cat(phis)
    instance = membership_loss(phi, torch.cat([target.masks for target in targets]))
    count = max(len(phi), 1)
    return {
        "instance": instance.sum() / count,
        "variance": 10 * torch.cat(variances).sum() / count,
        "seed": torch.stack(seed).mean(),
    }


WIDTH_OF_SIGMA = {"ellipse": 2, "circle": 1, "shared": 0, "fixed": 0}  # numbers that a pixel says


def pixel_head(channels: int, values: int, num_classes: int) -> nn.Conv2d:
    """A 1×1 convolution to some values, near 0 at first, and class scores, low at first."""
    head = nn.Conv2d(channels, values + num_classes, 1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    nn.init.constant_(head.bias[-num_classes:], -2.0)  # most pixels are background
    return head


class SpatialEmbeddingNet(nn.Module):
    """Joint learning of spatial embeddings and clustering bandwidth (Neven et al. 2019).

    `num_classes` counts the things. `centre` makes C_k of masks, embeddings and grid,
    `membership_loss` compares φ with masks. The numbers in brackets are those of the published
    code. Raises ValueError for a number that cannot be, and for a `sigma` that is none.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        features: nn.Module | None = None,
        centre: Callable = mean_embedding,
        membership_loss: Callable = lovasz_loss,
        instance_weight: float = 1.0,  # of membership_loss, beside variance and seed
        sigma: str = "ellipse",  # "ellipse" or "circle" (of every pixel), "shared" or "fixed"
        unit: float = 64.0,  # length in pixels that embeddings are measured in [1024]
        radius: float = 12.0,  # where φ is ½ before anything is learned, in pixels
        foreground: float = 0.4,  # least seed of a pixel that takes part [0.5] …
        threshold: float = 0.4,  # … and of one that makes an instance [0.9]
        smallest: int = 8,  # pixels of an instance [128, of 2 million]
    ):
        super().__init__()
        one_of(WIDTH_OF_SIGMA, sigma=sigma)
        at_least(1, num_classes=num_classes, smallest=smallest)
        positive(unit=unit, radius=radius, instance_weight=instance_weight)
        shares(below_one=True, foreground=foreground, threshold=threshold)
        self.num_classes, self.sigma, self.unit, self.radius = num_classes, sigma, unit, radius
        self.foreground, self.threshold, self.smallest = foreground, threshold, smallest
        self.centre, self.membership_loss = centre, membership_loss
        self.instance_weight = instance_weight
        self.width = WIDTH_OF_SIGMA[sigma]
        self.features = features or PixelFeatures()
        self.head = pixel_head(self.features.channels, 2 + self.width, num_classes)
        self.s = nn.Parameter(torch.zeros(())) if sigma == "shared" else None
        start = math.log(math.log(2) * (unit / radius) ** 2) / 10
        for name, values in {"mean": MEAN, "std": STD, "start": (start,)}.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def maps(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> tuple[Tensor, Tensor, Tensor, list]:
        """Embeddings (b, 2, h, w), s (b, d, h, w), seeds (b, k, h, w), and the images' sizes."""
        batch, sizes = batch_images(images, self.mean, self.std)
        said = in_full_precision(self.head(self.features(batch)))
        o, s, seeds = said.split([2, self.width, self.num_classes], dim=1)
        if not self.width:
            s = torch.zeros_like(o[:, :1]) + (0 if self.s is None else self.s)
        grid = pixel_grid(tuple(said.shape[-2:]), self.unit, said.device).to(said)
        embeddings = grid + (o / 4).tanh()
        return embeddings, self.start + s / 4, seeds.sigmoid(), sizes

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: instance, variance, seed."""
        *maps, sizes = self.maps(images)
        size = tuple(maps[0].shape[-2:])
        targets, counted = instance_targets(segments, self.num_classes, sizes, size)
        how = self.unit, self.centre, self.membership_loss
        losses = embedding_losses(*maps, targets, counted, *how)
        return losses | {"instance": self.instance_weight * losses["instance"]}

    @torch.no_grad()
    def predict_instances(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Segments]:
        """Masks, labels and scores of each image, best first; masks of one class are disjoint.

        Raises ValueError where the network's maps are not finite.
        """
        embeddings, s, seeds, sizes = self.maps(images)
        finite(embeddings=embeddings, s=s, seeds=seeds)
        limits = self.foreground, self.threshold, self.smallest
        return [
            cluster_classes(e[:, :h, :w], sigma[:, :h, :w], seed[:, :h, :w], *limits)
            for e, sigma, seed, (h, w) in zip(embeddings, bandwidth(s), seeds, sizes, strict=True)
        ]


@checked
def cluster_classes(
    embeddings: Float[Tensor, "2 h w"],
    sigma: Float[Tensor, "#2 h w"],
    seeds: Float[Tensor, "k h w"],
    *limits: float,
) -> Segments:
    """The instances of all classes of an image, best first; `limits` are `cluster_pixels`'."""
    masks, labels, scores = [], [], []
    for label, seed in enumerate(seeds):
        instances, found = cluster_pixels(embeddings, sigma, seed, *limits)
        numbers = torch.arange(len(found), device=found.device)
        masks.append(instances == numbers[:, None, None])
        labels.append(torch.full_like(numbers, label))
        scores.append(found)
    answer = Segments(torch.cat(masks), torch.cat(labels), torch.cat(scores))
    return answer[answer.scores.argsort(descending=True, stable=True)]


@checked
def cross_entropy_loss(
    phi: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n"]:
    """The rival: binary cross-entropy of each φ_k, the mean over all pixels of the image."""
    right = torch.where(masks, phi, 1 - phi)
    return -right.clamp(1e-6, 1 - 1e-6).log().flatten(1).mean(dim=1)


@checked
def balanced_cross_entropy_loss(
    phi: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n"]:
    """The same, half of it the mean over the instance, half that over the rest of the image."""
    error = -torch.where(masks, phi, 1 - phi).clamp(1e-6, 1 - 1e-6).log()
    inside, outside = (
        (error * part).flatten(1).sum(dim=1) / part.flatten(1).sum(dim=1).clamp(min=1)
        for part in (masks, ~masks)
    )
    return (inside + outside) / 2


@checked
def soft_dice_loss(phi: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n"]:
    """1 − (2 Σ φ·m + 1) / (Σ φ + Σ m + 1), of an overlap too (Milletari et al. 2016)."""
    both, total = (phi * masks).flatten(1).sum(dim=1), (phi + masks.float()).flatten(1).sum(dim=1)
    return 1 - (2 * both + 1) / (total + 1)


def recipe(
    data: str = "scenes", centre: str = "embedding", loss: str = "lovasz", **options: Any
) -> Recipe:
    """How the spatial embedding is trained: `fit(recipe())`, or `lessons train spatial_embedding`.

    `centre` is "embedding" (learned) or "centroid", `loss` is "lovasz", "cross_entropy",
    "balanced" (cross-entropy) or "dice"; other options are SpatialEmbeddingNet's keywords, as
    sigma="circle".
    """
    things = sum(category.is_thing for category in categories(data))
    centres = {"embedding": mean_embedding, "centroid": centroid}
    losses = {"lovasz": lovasz_loss, "cross_entropy": cross_entropy_loss}
    losses |= {"balanced": balanced_cross_entropy_loss, "dice": soft_dice_loss}
    one_of(centres, centre=centre)
    one_of(losses, loss=loss)
    parts = {"centre": centres[centre], "membership_loss": losses[loss], **options}
    full = Budget(6000, batch=16, evaluations=6, learning_rate=2e-3, clip=20.0)
    if data == "four_scenes":
        budgets = by_heart(replace(full, steps=320, batch=2, size=64))
    else:
        budgets = from_full(replace(full, turn=data == "nuclei"))
    return Recipe(
        system="spatial_embedding",
        model=lambda: SpatialEmbeddingNet(things, **parts),
        metrics={"predict_instances": evaluate_by_size},
        budgets=budgets,
        data=data,
        options={"centre": centre, "loss": loss, **options},
    )
