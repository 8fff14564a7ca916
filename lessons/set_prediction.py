# Built by `lessons build` from notebooks/12_set_prediction.ipynb: edit that, not this.
"""Set prediction.

You build the loss between two sets: what one pair of a prediction and a segment costs, who answers
for whom, and what each query then hears.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace

import torch
from jaxtyping import Float, Int, Integer, Shaped
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from lessons.kit.data import Segments, is_crowd
from lessons.kit.data.checks import as_many, checked, labels_in, one_of
from lessons.kit.models.images import in_full_precision
from lessons.kit.models.processes import per_process

TASKS = ("panoptic", "instance", "semantic")


def task_targets(segments: Segments, task: str, num_things: int) -> Segments:
    """z^gt of one task, all from the panoptic annotation: what a query may be asked to say.

    "panoptic": every segment. "instance": the things. "semantic": one mask for each class, all
    its segments together, crowds too. Elsewhere crowds are left out. Raises ValueError for
    another task.
    """
    one_of(TASKS, task=task)
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


@checked
def focal_loss(
    logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"], alpha: float = 0.25
) -> Float[Tensor, "n"]:
    """Cross-entropy of each pixel, times (1 − p_t)², mean over the pixels (Lin et al. 2017).

    `targets` are 0 or 1. What is right already counts next to nothing; `alpha` weighs the mask
    against its outside. Raises ValueError for two shapes.
    """
    wrong = logits * (1 - 2 * targets)  # the logit of 1 − p_t
    loss = wrong.sigmoid().square() * F.softplus(wrong)
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return torch.linalg.vecdot(loss, weight) / logits.shape[1]


@checked
def dice_loss(logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]) -> Float[Tensor, "n"]:
    """1 − (2 Σ m·g + 1) / (Σ m + Σ g + 1), of soft masks m = σ(logits) (Milletari et al. 2016).

    Raises ValueError for two shapes.
    """
    masks = logits.sigmoid()
    both = (masks * targets).sum(dim=1)
    return 1 - (2 * both + 1) / (masks.sum(dim=1) + targets.sum(dim=1) + 1)


@checked
def pairwise_focal(
    logits: Float[Tensor, "q p"], targets: Float[Tensor, "n p"], alpha: float = 0.25
) -> Float[Tensor, "q n"]:
    """The focal loss of every query against every segment: one matrix product."""
    probability = logits.sigmoid()
    inside = alpha * (1 - probability).square() * F.softplus(-logits)
    outside = (1 - alpha) * probability.square() * F.softplus(logits)
    return ((inside - outside) @ targets.T + outside.sum(dim=1, keepdim=True)) / logits.shape[1]


@checked
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


@checked
def matching_cost(
    class_logits: Float[Tensor, "q k1"],
    mask_logits: Float[Tensor, "q p"],
    labels: Integer[Tensor, "n"],
    masks: Shaped[Tensor, "n p"],
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
    labels_in(labels, class_logits.shape[1] - 1)
    mask_logits = in_full_precision(mask_logits)
    masks = masks.to(mask_logits)
    with torch.autocast(mask_logits.device.type, enabled=False):  # sums over thousands of pixels
        probability = in_full_precision(class_logits).softmax(dim=1)[:, labels.long()]
        by_class = -probability.clamp(min=1e-30).log() if logarithm else -probability
        by_mask = weights.mask * mask_cost(mask_logits, masks)
        by_dice = weights.dice * pairwise_dice(mask_logits, masks)
    return weights.classes * by_class + by_mask + by_dice


@checked
def assign(cost: Float[Tensor, "q n"]) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """The cheapest one-to-one matching: queries and their segments, m = min(q, n) pairs.

    By scipy, on the CPU. Raises ValueError where a cost is not finite.
    """
    if not torch.isfinite(cost).all():
        raise ValueError("the matching cost is not finite: training has diverged")
    queries, segments = linear_sum_assignment(cost.cpu().numpy())
    return tuple(torch.from_numpy(each).to(cost.device) for each in (queries, segments))


@checked
def match_segments_to_queries(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    weights: Weights = Weights(),
    mask_cost: Callable = pairwise_focal,
    logarithm: bool = False,
) -> list[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]]:
    """σ̂ of each image: the queries that answer for a segment, and which.

    Masks are compared at the size of `mask_logits`, the truth by its nearest pixels; the rest is
    as in `matching_cost`. With more segments than queries the costliest go without. Raises
    ValueError for another number of targets.
    """
    as_many(len(class_logits), targets=targets)
    matches = []
    for classes, masks, target in zip(
        class_logits.detach(), mask_logits.detach(), targets, strict=True
    ):
        true = F.interpolate(target.masks[:, None].float(), masks.shape[-2:])[:, 0]
        pair = masks.flatten(1), target.labels, true.flatten(1)
        matches.append(assign(matching_cost(classes, *pair, weights, mask_cost, logarithm)))
    return matches


@checked
def class_loss(
    class_logits: Float[Tensor, "b q k1"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
    no_object: float = 0.1,
) -> Float[Tensor, ""]:
    """−log p(c^gt) of all queries, mean weighted by 1, and by `no_object` where c^gt is ∅.

    Raises ValueError for a label that is no class and where lists do not fit the batch.
    """
    as_many(len(class_logits), targets=targets, matches=matches)
    num_classes = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], num_classes, device=class_logits.device)
    for row, target, (queries, segments) in zip(wanted, targets, matches, strict=True):
        labels_in(target.labels, num_classes)
        row[queries] = target.labels[segments]
    logits = in_full_precision(class_logits).flatten(0, 1)
    weight = logits.new_tensor([1.0] * num_classes + [no_object])
    loss = F.cross_entropy(logits, wanted.flatten(), weight, reduction="sum")
    return loss / per_process(weight[wanted].sum(), len(targets))


@checked
def matched_masks(
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    matches: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]],
) -> tuple[Float[Tensor, "m h w"], Float[Tensor, "m _ _"]]:
    """The masks of the matched queries of a batch, and the true ones that they are to be.

    Raises ValueError where lists do not fit the batch and where the targets are not all of one
    size.
    """
    as_many(len(mask_logits), targets=targets, matches=matches)
    sizes = {target.size for target in targets}
    if len(sizes) > 1:
        raise ValueError(f"targets must be of one size, as by pad_masks, not {sorted(sizes)}")
    found = [masks[queries] for masks, (queries, _) in zip(mask_logits, matches, strict=True)]
    true = [target.masks[chosen] for target, (_, chosen) in zip(targets, matches, strict=True)]
    found = in_full_precision(torch.cat(found))
    return found, torch.cat(true).to(found)


@checked
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
    over the matched pairs and divided by the number of segments; without segments they are 0.
    Raises ValueError where lists do not fit the batch, sizes differ, or a label is
    no class.
    """
    by_class = class_loss(class_logits, targets, matches, weights.no_object)
    found, true = matched_masks(mask_logits, targets, matches)
    if not len(found):
        return {"classes": weights.classes * by_class, "mask": found.sum(), "dice": found.sum()}
    count = per_process(sum(len(target) for target in targets), len(targets))
    with torch.autocast(found.device.type, enabled=False):  # sums over thousands of pixels
        found = F.interpolate(found[None], true.shape[-2:], mode="bilinear")[0]
        found, true = found.flatten(1), true.flatten(1)
        by_mask, by_dice = mask_loss(found, true).sum(), dice_loss(found, true).sum()
    return {
        "classes": weights.classes * by_class,
        "mask": weights.mask * by_mask / count,
        "dice": weights.dice * by_dice / count,
    }


def sum_of_layers(layers: Iterable[dict[str, Float[Tensor, ""]]]) -> dict[str, Float[Tensor, ""]]:
    """The losses of several layers, added up term by term."""
    total: dict[str, Tensor] = {}
    for losses in layers:
        for name, loss in losses.items():
            total[name] = total.get(name, 0) + loss
    return total
