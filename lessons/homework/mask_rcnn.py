"""Lesson 05 and its homework: turns and exercises on masks, and the known mistakes."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.homework.answers.mask_rcnn import (
    agnostic_parts,
    batch_mask_loss,
    refine_masks,
    rescore,
)
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.mask_rcnn import (
    MaskHead,
    mask_loss,
    mask_scores,
    mask_targets,
    paste_masks,
    softmax_mask_loss,
    softmax_mask_scores,
)
from lessons.roi_align import roi_align

# ---------------------------------------------------------------- your turn: mask_loss


def maps_and_targets(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Soft targets; the last class, one class, one RoI, none; logits of −200 and 200."""
    logits = torch.tensor([[[[1.0]], [[-2.0]]], [[[0.5]], [[3.0]]]])
    yield logits, torch.tensor([[[1.0]], [[0.0]]]), torch.tensor([1, 0])
    for n, k, m, dtype in (
        (4, 3, 5, torch.float32),
        (3, 3, 3, torch.float64),
        (2, 5, 4, torch.float32),
        (1, 4, 6, torch.float32),
        (5, 1, 2, torch.float32),
        (0, 4, 7, torch.float32),
    ):
        logits = 3 * torch.randn(n, k, m, m, generator=generator)
        targets = torch.rand(n, m, m, generator=generator)
        labels = torch.randint(0, k, (n,), generator=generator)
        labels[-1:] = k - 1
        yield logits.to(dtype), targets.to(dtype), labels
    yield logits.new_tensor([[[[-200.0, 4], [3, 200]]] * 2]), torch.eye(2)[None], torch.tensor([1])


def gradients(value: Tensor, logits: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a loss, zero where the logits are not heard of."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return [torch.zeros_like(each) for each in logits]
    found = torch.autograd.grad(value.sum(), list(logits), allow_unused=True)
    return [
        torch.zeros_like(each) if grad is None else grad
        for each, grad in zip(logits, found, strict=True)
    ]


def of_one(
    function: Callable, logits: Tensor, targets: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The loss, whether it hangs on the logits, and its gradient."""
    leaf = logits.clone().requires_grad_()
    value = function(leaf, targets, labels)
    graph = isinstance(value, Tensor) and value.requires_grad
    return {"loss": value, "graph": graph, "gradient": gradients(value, [leaf])[0].float()}


def masked(reduce=torch.mean, every=False, shift=0):
    """The loss with another reduction, of all the masks, or of another class's."""

    def loss(logits, targets, labels):
        if not len(logits):
            return logits.sum() * 0
        number = (labels.long() + shift) % logits.shape[1]
        maps = logits if every else logits[torch.arange(len(labels)), number]
        w = targets[:, None].expand_as(logits) if every else targets
        return reduce(F.binary_cross_entropy_with_logits(maps.float(), w.float(), reduction="none"))

    return loss


def one_hot(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    if not len(logits):
        return logits.sum() * 0
    w = torch.zeros_like(logits)
    w[torch.arange(len(labels)), labels.long()] = targets.to(w)
    return F.binary_cross_entropy_with_logits(logits, w)


def by_probability(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """The formula as it stands, with a sigmoid and two logarithms."""
    if not len(logits):
        return logits.sum() * 0
    s = logits[torch.arange(len(labels)), labels.long()].float().sigmoid()
    return -(targets * s.log() + (1 - targets) * (1 - s).log()).mean()


def cut_off(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    if not len(logits):
        return logits.sum() * 0
    own = logits[torch.arange(len(labels)), labels.long()]
    return F.binary_cross_entropy(own.sigmoid(), targets)


LOSS = Exercise(
    mask_loss,
    maps_and_targets,
    minutes=5,
    tolerance=1e-5,
    call=of_one,
    mistakes=[
        mistake(
            "all masks learn",
            "All K masks of a RoI hear of its target. Which one does the loss look at?",
        )(masked(every=True)),
        mistake(
            "labels taken for u",
            "You look at the map of a neighbouring class: labels count from 0 here, and so do the "
            "maps.",
        )(masked(shift=-1)),
        mistake(
            "the map of the next class",
            "You look at the map of a neighbouring class: labels count from 0 here, and so do the "
            "maps.",
        )(masked(shift=1)),
        mistake(
            "one-hot targets for all masks",
            "All K masks hear of the target in yours, the others that they should say nothing. The "
            "loss looks at one of them and leaves the others alone.",
        )(one_hot),
        mistake(
            "the mean over RoIs alone",
            "You divide by the number of RoIs. The mean goes over their pixels, too.",
        )(masked(reduce=lambda losses: losses.sum() / len(losses))),
        mistake(
            "the sum over all",
            "You add up where a mean is asked for: what stands before the sum in the formula?",
        )(masked(reduce=torch.sum)),
        mistake(
            "NaN without RoIs",
            "Right, except where there is no RoI: the mean of nothing is NaN, and one NaN spoils "
            "the weights.",
        )(
            lambda logits, targets, labels: F.binary_cross_entropy_with_logits(
                logits[torch.arange(len(labels)), labels.long()].float(), targets.float()
            )
        ),
        mistake(
            "a 0 without a graph",
            "Right, but without RoIs your 0 hangs on nothing: backward() fails there, and on a GPU "
            "it lies elsewhere. Make it of the logits, as their sum times 0.",
        )(lambda logits, *more: mask_loss(logits, *more) if len(logits) else torch.tensor(0.0)),
        mistake(
            "log of 0",
            "Right, but for logits far from 0: there σ(x) is 0 or 1 in the computer, and its log "
            "is not finite. Which form of the cross-entropy takes logits?",
        )(by_probability),
        mistake(
            "log cut off",
            "Right, but for logits far from 0: F.binary_cross_entropy cuts the log off there. "
            "Which form of the cross-entropy takes logits?",
        )(cut_off),
    ],
)


# ---------------------------------------------------------------- your turn: mask_targets


def masks_and_boxes(generator: torch.Generator) -> Iterator[tuple]:
    """One mask for several boxes; partly outside, high, one, none; both conventions; double."""
    yield torch.eye(3).bool()[None], torch.tensor([[0.5, 0.0, 2.5, 3.0]]), torch.tensor([0]), 2
    for g, n, (h, w), size, aligned, dtype in (
        (3, 4, (9, 12), 3, True, torch.int64),
        (2, 5, (12, 7), 2, False, torch.int32),
        (4, 3, (10, 10), 5, True, torch.int64),
        (1, 1, (6, 8), 1, True, torch.int64),
        (2, 0, (6, 8), 4, True, torch.int64),
    ):
        masks = torch.rand(g, h, w, generator=generator) < 0.5
        corner = torch.rand(n, 2, generator=generator) * torch.tensor([w, h]) * 0.6 - 1
        side = 1 + torch.rand(n, 2, generator=generator) * torch.tensor([w, h]) * 0.6
        matches = torch.randint(0, g, (n,), generator=generator).to(dtype)
        yield masks, torch.cat([corner, corner + side], 1), matches, size, aligned
    masks = torch.rand(2, 20, 20, generator=generator) < 0.5
    boxes = torch.tensor([[2.0, 3.0, 17.5, 9.0], [0.0, 1.0, 6.0, 19.0]], dtype=torch.float64)
    yield masks, boxes, torch.tensor([1, 0]), 4, True


def cropped(masks, boxes, matches, size, aligned=True, ratio=-1, of=lambda rois: rois):
    rois = of(torch.cat([matches[:, None].to(boxes), boxes], dim=1))
    return roi_align(masks[:, None].to(boxes), rois, size, 1.0, ratio, aligned)[:, 0]


def counted_from_0(rois):
    return torch.cat([torch.arange(len(rois))[:, None].to(rois), rois[:, 1:]], dim=1)


TARGETS = Exercise(
    mask_targets,
    masks_and_boxes,
    minutes=7,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "aligned forgotten",
            "Half a pixel off where aligned is True. Whose default is False?",
        )(
            lambda masks, boxes, matches, size, aligned=True: cropped(
                masks, boxes, matches, size, False
            )
        ),
        mistake(
            "always aligned",
            "Half a pixel off where aligned is False: pass it on.",
        )(
            lambda masks, boxes, matches, size, aligned=True: cropped(
                masks, boxes, matches, size, True
            )
        ),
        mistake(
            "the number of the box for that of the mask",
            "You read box i from mask i. Which mask is box i's: what do `matches` say?",
        )(
            lambda masks, boxes, matches, size, aligned=True: cropped(
                masks, boxes, matches, size, aligned, of=counted_from_0
            )
        ),
        mistake(
            "hard targets",
            "You round the targets to 0 and 1. At the outline ½ is an answer.",
        )(
            lambda masks, boxes, matches, size, aligned=True: (
                cropped(masks, boxes, matches, size, aligned) >= 0.5
            ).to(boxes)
        ),
        mistake(
            "the channel is kept",
            "One dimension too many: RoIAlign returns (n, 1, m, m) for one channel.",
        )(
            lambda masks, boxes, matches, size, aligned=True: cropped(
                masks, boxes, matches, size, aligned
            )[:, None]
        ),
        mistake(
            "few samples",
            "Almost: you fix the number of samples. Where a bin covers many pixels, some of them "
            "are skipped; the default reads them all.",
        )(
            lambda masks, boxes, matches, size, aligned=True: cropped(
                masks, boxes, matches, size, aligned, 2
            )
        ),
    ],
)

# ---------------------------------------------------------------- your turn: paste_masks


def masks_to_paste(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Wide and high boxes, partly outside; m from 1 to 7; one without area; none; double."""
    yield torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]), torch.tensor([[0.5, 0.0, 4.0, 3.0]]), (2, 4)
    for n, m, (h, w), dtype in (
        (3, 4, (9, 13), torch.float32),
        (2, 7, (14, 6), torch.float32),
        (4, 1, (8, 8), torch.float32),
        (2, 3, (5, 11), torch.float64),
        (0, 4, (6, 7), torch.float32),
    ):
        corner = torch.rand(n, 2, generator=generator) * torch.tensor([w, h]) * 0.7 - 2
        side = 0.5 + torch.rand(n, 2, generator=generator) * torch.tensor([w, h])
        masks = torch.rand(n, m, m, generator=generator).to(dtype)
        yield masks, torch.cat([corner, corner + side], 1), (h, w)
    empty = torch.tensor([[2.5, 1.0, 2.5, 6.0], [1.0, 3.2, 6.0, 3.2]])
    yield torch.rand(2, 3, 3, generator=generator), empty, (7, 9)


def hat(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def pasted(centre=0.5, shift=0.5, cells=0, ends=True, weigh=hat, turned=False, least=1e-6):
    """Pasting with another place of the pixels, another unit or another weight."""

    def paste(masks, boxes, size):
        m, along = masks.shape[-1], []
        for axis, pixels in ((1, size[0]), (0, size[1])):
            start, end = boxes[:, axis, None], boxes[:, axis + 2, None]
            inside = (torch.arange(pixels) + centre - start) / (end - start).clamp(min=least)
            place = inside * (m + cells) - shift
            place = place if ends else place.clamp(0, m - 1)
            along.append(weigh(place[:, :, None] - torch.arange(m)).to(masks))
        return along[0] @ (masks.mT if turned else masks) @ along[1].mT

    return paste


PASTE = Exercise(
    paste_masks,
    masks_to_paste,
    minutes=12,
    tolerance=1e-4,
    mistakes=[
        mistake(
            "pixels at their corners",
            "Half a pixel off: pixel x has its centre at x + ½, which is what `centres` holds.",
        )(pasted(centre=0.0)),
        mistake(
            "half a pixel twice",
            "Half a pixel off: `centres` is x + ½ already.",
        )(pasted(centre=1.0)),
        mistake(
            "without the absolute value",
            "Right on one side of each cell. How far is a pixel from a cell on its other side?",
        )(pasted(weigh=lambda distance: (1 - distance).clamp(min=0))),
        mistake(
            "weights below 0",
            "A cell that is further away than one cell has a weight below 0 in yours: it hears "
            "nothing, max(0, …).",
        )(pasted(weigh=lambda distance: 1 - distance.abs())),
        mistake(
            "cells at their corners",
            "Half a cell off: in the mask the centre of cell 0 is at 0, and the box begins half a "
            "cell before it.",
        )(pasted(shift=0)),
        mistake(
            "m − 1 for m",
            "Your outer cells have their centres on the box's sides. A box holds m whole cells.",
        )(pasted(cells=-1, shift=0)),
        mistake(
            "the nearest cell",
            "Each pixel reads one cell in yours. Between two cells it should read both: how much "
            "of each?",
        )(pasted(weigh=lambda distance: (distance.abs() <= 0.5).float())),
        mistake(
            "the outermost cell goes on",
            "Right inside. Beyond the outermost cells' centres your mask goes on for ever, but "
            "nothing is there: with the formula's weights it fades.",
        )(pasted(ends=False)),
        mistake(
            "a box without area",
            "Right, but for a box of width or height 0: by what do you divide there?",
        )(pasted(least=0)),
        mistake(
            "rows and columns exchanged",
            "The right numbers, turned: which axis do the rows of a mask run along?",
        )(pasted(turned=True)),
    ],
)

# ---------------------------------------------------------------- homework 1. agnostic_parts


def pooled_rois(generator: torch.Generator) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Pooled features, soft targets and labels of several classes; one RoI, none, two types."""
    targets = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    yield 1, torch.tensor([[[[2.0]]]]), targets, torch.tensor([3])
    for n, channels, size, dtype in (
        (5, 16, 7, torch.float32),
        (3, 64, 4, torch.float32),
        (2, 32, 5, torch.float64),
        (1, 16, 3, torch.float32),
        (0, 16, 7, torch.float32),
    ):
        pooled = torch.randn(n, channels, size, size, generator=generator).to(dtype)
        targets = torch.rand(n, 2 * size, 2 * size, generator=generator).to(dtype)
        labels = torch.randint(0, 4, (n,), generator=generator)
        labels[-1:] = 3  # so that somebody always asks for a mask that is not there
        yield channels, pooled, targets, labels


PARTS = ("mask_head", "mask_loss", "mask_scores")


def use_parts(
    function: Callable, channels: int, pooled: Tensor, targets: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """What the three parts say, with the same weights in everybody's head."""
    parts = function(channels)
    if not isinstance(parts, Mapping) or set(parts) != set(PARTS):
        keys = ", ".join(map(str, parts)) if isinstance(parts, Mapping) else ""
        got = (
            f"one with {keys or 'nothing'}" if isinstance(parts, Mapping) else type(parts).__name__
        )
        raise TypeError(f"a dict with {', '.join(PARTS)} is asked for, not {got}")
    head, loss, scores = (parts[name] for name in PARTS)
    if not isinstance(head, nn.Module):
        raise TypeError("mask_head must be a module, as MaskHead(...) makes it")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in head.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * (2 / max(weight[0].numel(), 8)) ** 0.5)
        logits = head.to(pooled.dtype)(pooled)
    logits.requires_grad_()
    value = loss(logits, targets, labels)
    return {
        "mask_head": logits.detach(),
        "mask_loss": value,
        "gradient": gradients(value, [logits])[0],
        "mask_scores": scores(logits.detach(), labels),
    }


def agnostic(loss=None, scores=None):
    """`agnostic_parts` with one of the functions exchanged."""

    def parts(channels):
        right = agnostic_parts(channels)
        return right | {
            "mask_loss": loss or right["mask_loss"],
            "mask_scores": scores or right["mask_scores"],
        }

    return parts


@mistake(
    "a second mask for the background",
    "Your head paints two masks that compete. With a sigmoid one is enough: what is left "
    "of 1 is the background.",
)
def with_background(channels):
    return {
        "mask_head": MaskHead(channels, 2),
        "mask_loss": lambda logits, targets, labels: softmax_mask_loss(logits, targets, labels * 0),
        "mask_scores": lambda logits, labels: softmax_mask_scores(logits, labels * 0),
    }


def right_loss(logits, targets, labels):
    return mask_loss(logits, targets, labels * 0)


def every_pair_loss(logits, targets, labels):
    if not len(logits):
        return logits.sum() * 0
    s = logits.sigmoid()  # (n, 1, m, m) beside (n, m, m)
    return -(targets * s.log() + (1 - targets) * (1 - s).log()).mean()


def nan_loss(logits, targets, labels):
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets)


def summed_loss(logits, targets, labels):
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="sum")


def pixels_summed_loss(logits, targets, labels):
    return right_loss(logits, targets, labels) * targets[0:1].numel()


def hard_loss(logits, targets, labels):
    return right_loss(logits, (targets >= 0.5).to(targets), labels)


def probability_loss(logits, targets, labels):
    return right_loss(logits.sigmoid(), targets, labels)


def squeezed_loss(logits, targets, labels):
    return F.binary_cross_entropy_with_logits(logits.squeeze(), targets)


def channel_kept_loss(logits, targets, labels):
    return F.binary_cross_entropy_with_logits(logits, targets)


def logits_for_scores(logits, labels):
    return logits[:, 0]


def channel_kept(logits, labels):
    return logits.sigmoid()


def squeezed(logits, labels):
    return logits.squeeze().sigmoid()


def softmax_scores(logits, labels):
    return logits.softmax(dim=1)[:, 0]


def hard_scores(logits, labels):
    return (logits[:, 0] >= 0).to(logits)


AGNOSTIC = Exercise(
    agnostic_parts,
    pooled_rois,
    points=3,
    minutes=15,
    tolerance=1e-5,
    call=use_parts,
    mistakes=[
        mistake(
            "a mask is looked up by class",
            "The loss or the scores still ask for the mask of the class. How many masks has a RoI "
            "now, and which number has the only one?",
        )(agnostic(mask_loss, mask_scores)),
        mistake(
            "every RoI against every target",
            "Your loss compares each RoI with the targets of all RoIs: (n, 1, m, m) beside "
            "(n, m, m) is broadcast. What shape has the product?",
        )(agnostic(loss=every_pair_loss)),
        mistake(
            "NaN without RoIs",
            "Right except where there are no RoIs: the mean of nothing. A batch without "
            "positives would end the training.",
        )(agnostic(loss=nan_loss)),
        mistake(
            "the sum over all",
            "You add up where a mean is asked for. With 28×28 masks this term would drown the "
            "other four.",
        )(agnostic(loss=summed_loss)),
        mistake(
            "the sum over the pixels",
            "Your loss grows with the size of the masks. What stands before the sum over the "
            "pixels in the lecture's formula?",
        )(agnostic(loss=pixels_summed_loss)),
        mistake(
            "a sigmoid too many",
            "Your loss squeezes the logits twice. Which form of the cross-entropy takes "
            "probabilities, and which logits?",
        )(agnostic(loss=probability_loss)),
        with_background,
        mistake(
            "the channel is kept in the loss",
            "The logits have a dimension that the targets do not have. Which of its entries is the "
            "RoI's only mask?",
        )(agnostic(loss=channel_kept_loss)),
        mistake(
            "squeeze() in the loss takes the RoI too",
            "Right for several RoIs: which dimensions of (1, 1, m, m) does squeeze() remove?",
        )(agnostic(loss=squeezed_loss, scores=squeezed)),
        mistake(
            "logits for scores",
            "The loss is right. Your scores leave 0 … 1: what makes a probability of a logit?",
        )(agnostic(scores=logits_for_scores)),
        mistake(
            "the channel is kept",
            "The loss is right. Your scores have one dimension too many: paste_masks wants one "
            "m×m mask for each detection.",
        )(agnostic(scores=channel_kept)),
        mistake(
            "squeeze() takes the RoI too",
            "Right, except for a single RoI: which dimensions of (1, 1, m, m) does squeeze() "
            "remove?",
        )(agnostic(scores=squeezed)),
        mistake(
            "a softmax over one mask",
            "The loss is right. Your scores are all 1: with whom does a single mask compete in a "
            "softmax?",
        )(agnostic(scores=softmax_scores)),
        mistake(
            "scores that are cut at ½",
            "The loss is right. Your scores are only 0 and 1. The threshold comes after pasting; "
            "before it the soft edge says where the outline runs.",
        )(agnostic(scores=hard_scores)),
    ],
)

# ---------------------------------------------------------------- homework 2. batch_mask_loss


def batches(
    generator: torch.Generator,
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """Batches of 1 to 4 images with all shares of positives; some have none, some no RoIs."""
    logits = torch.tensor([1.0, -2.0, 3.0, 0.5]).view(2, 2, 1, 1)
    yield [logits], [torch.tensor([[[1.0]], [[0.0]]])], [torch.tensor([2, 0])]
    for classes, size, counts, positives, dtype in (
        (4, 7, (8, 8), (1, 6), torch.float32),
        (3, 4, (5, 9, 2), (4, 2, 1), torch.float64),
        (6, 5, (3, 12, 6, 4), (2, 3, 5, 1), torch.float32),
        (4, 3, (7,), (3,), torch.float32),
        (1, 6, (4, 3), (3, 1), torch.float32),
        (4, 5, (6, 5, 0), (4, 0, 0), torch.float32),
        (4, 5, (6, 3), (0, 0), torch.float32),
        (2, 4, (0,), (0,), torch.float32),
    ):
        batch = [], [], []
        for n, some in zip(counts, positives, strict=True):
            u = torch.zeros(n, dtype=torch.int64)
            u[:some] = torch.randint(1, classes + 1, (some,), generator=generator)
            u[:1] = classes if some else 0  # the last class occurs
            u = u[torch.randperm(n, generator=generator)]
            worse = 3 * torch.rand(n, 1, 1, 1, generator=generator)
            logits = worse * torch.randn(n, classes, size, size, generator=generator)
            targets = torch.rand(n, size, size, generator=generator)
            targets = targets * (u >= 1)[:, None, None]
            for column, value in zip(batch, (logits.to(dtype), targets.to(dtype), u), strict=True):
                column.append(value)
        yield batch
    large = 50 * torch.randn(1, 2, 9, 9, generator=generator)
    yield [large], [torch.zeros(1, 9, 9)], [torch.tensor([0])]


def learn_from(
    function: Callable, logits: list[Tensor], targets: list[Tensor], u: list[Tensor]
) -> dict[str, Tensor | list[Tensor]]:
    """The loss of a batch and its gradient."""
    leaves = [each.clone().requires_grad_() for each in logits]
    value = function(leaves, targets, u)
    return {"loss": value, "gradient": gradients(value, leaves)}


def averaged(classes=False, background=False, images=False):
    """The loss with some of the colleague's three averages left as they were.

    Right where an image has no positives: there the ways of being wrong are too many.
    """

    def loss(logits, targets, u):
        if not all((each >= 1).any() for each in u):
            return batch_mask_loss(logits, targets, u)
        sums, counts = [], []
        for f, w, each in zip(logits, targets, u, strict=True):
            sums.append(batch_mask_loss([f], [w], [each]) * (each >= 1).sum())
            number = len(each) if background else int((each >= 1).sum())
            counts.append(number * (f.shape[1] if classes else 1))
        if images:
            return torch.stack([a / b for a, b in zip(sums, counts, strict=True)]).mean()
        return sum(sums) / sum(counts)

    return loss


@mistake(
    "NaN without positives",
    "Right except where nobody is positive: 0 divided by 0.",
)
def with_nan(logits, targets, u):
    f, w, each = (torch.cat(list(column)) for column in (logits, targets, u))
    positive = torch.where(each >= 1)[0]
    return F.binary_cross_entropy_with_logits(f[positive, each[positive] - 1], w[positive])


@mistake(
    "no gradient",
    "The number is right, but the logits never hear of it. What do .item(), .detach() "
    "and torch.tensor(…) leave of the graph?",
)
def without_gradient(logits, targets, u):
    return batch_mask_loss(logits, targets, u).detach()


@mistake(
    "mask number u",
    "Your positives are compared with the mask of the next class, and the last class has "
    "none. What is u of label 0?",
)
def number_of_u(logits, targets, u):
    f, w, each = (torch.cat(list(column)) for column in (logits, targets, u))
    positive = each >= 1
    return mask_loss(f[positive], w[positive], each[positive])


@mistake(
    "background teaches the last class",
    "Background RoIs count in yours, as empty masks of the last class: index 0 − 1 does "
    "not fail in Python.",
)
def background_learns(logits, targets, u):
    f, w, each = (torch.cat(list(column)) for column in (logits, targets, u))
    return mask_loss(f, w, (each - 1) % f.shape[1])


@mistake(
    "background teaches label 0",
    "Background RoIs count in yours, as empty masks of label 0. [u ≥ 1] means that they "
    "have no mask loss at all.",
)
def background_is_empty(logits, targets, u):
    f, w, each = (torch.cat(list(column)) for column in (logits, targets, u))
    return mask_loss(f, w, (each - 1).clamp(min=0))


@mistake(
    "divided by the number of images",
    "You add up the RoIs of an image and divide by the images: an image with many things "
    "weighs more than the formula's N allows. What does N count?",
)
def over_images(logits, targets, u):
    count = sum((each >= 1).sum() for each in u)
    return batch_mask_loss(logits, targets, u) * count / len(u)


@mistake(
    "the sum over the pixels",
    "Your loss grows with the size of the masks. What stands before the sum over the pixels?",
)
def pixels_summed(logits, targets, u):
    return batch_mask_loss(logits, targets, u) * targets[0].shape[-1] ** 2


@mistake(
    "a sum, not a mean",
    "You add up all pixels of all positives. By how many must the sum be divided?",
)
def all_summed(logits, targets, u):
    count = sum((each >= 1).sum() for each in u)
    return pixels_summed(logits, targets, u) * count


BATCH = Exercise(
    batch_mask_loss,
    batches,
    points=4,
    minutes=20,
    tolerance=1e-5,
    call=learn_from,
    mistakes=[
        mistake(
            "all three averages",
            "This is still the colleague's number. Change one thing at a time: for each "
            "experiment, by which count does the loss divide that it should not know of?",
        )(averaged(True, True, True)),
        mistake(
            "the classes and the background",
            "The images are mended, two of three remain: which experiments still move?",
        )(averaged(classes=True, background=True)),
        mistake(
            "the classes and the images",
            "The background is mended, two of three remain: which experiments still move?",
        )(averaged(classes=True, images=True)),
        mistake(
            "the background and the images",
            "The classes are mended, two of three remain: which experiments still move?",
        )(averaged(background=True, images=True)),
        mistake(
            "averaged over the masks of all classes",
            "One left: classes that never occur make your loss smaller. How many masks of a RoI "
            "have something to learn?",
        )(averaged(classes=True)),
        mistake(
            "averaged over background too",
            "One left: background adds nothing to your sum. Does it count in what you divide by?",
        )(averaged(background=True)),
        mistake(
            "a mean of the images' means",
            "One left: a RoI that is alone in its image weighs as much as six that share one. In "
            "the formula, is there a mean for each image?",
        )(averaged(images=True)),
        over_images,
        with_nan,
        without_gradient,
        number_of_u,
        background_learns,
        background_is_empty,
        pixels_summed,
        all_summed,
    ],
)

# ---------------------------------------------------------------- homework 3. rescore


def soft_masks(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Soft masks, some rounded so that they equal ½, some empty, some certain; one, none."""
    column = torch.tensor([[1.0, 0.8, 0.5, 0.2, 0.0]])
    yield column[None], torch.tensor([0.9])
    for n, h, w, dtype in (
        (4, 9, 13, torch.float32),
        (6, 12, 7, torch.float64),
        (1, 5, 5, torch.float32),
    ):
        steepness = 1 + 4 * torch.rand(n, 1, 1, generator=generator)
        rows, columns = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
        size = 0.3 + 0.6 * torch.rand(n, 1, 1, generator=generator)
        noise = torch.randn(n, h, w, generator=generator)
        soft = (steepness * (size - rows.square() - columns.square()) + noise / 2).sigmoid()
        yield soft.to(dtype), torch.rand(n, generator=generator).to(dtype)
    tenths = torch.randint(0, 11, (5, 6, 8), generator=generator) / 10
    yield tenths, torch.rand(5, generator=generator)
    certain = torch.zeros(3, 4, 6)
    certain[0, 1:3, 2:5] = 1
    certain[1] = 0.3
    yield certain, torch.tensor([0.8, 0.7, 0.6])
    yield torch.zeros(0, 5, 7), torch.zeros(0)


def quotient(above, below, strict=False):
    """`rescore` with another quotient of the sums inside and outside and of the area."""

    def score(soft, scores):
        inside = soft > 0.5 if strict else soft >= 0.5
        true = (soft * inside).flatten(1).sum(1)
        missed = (soft * ~inside).flatten(1).sum(1)
        area = inside.flatten(1).sum(1)
        numbers = true, missed, area.to(true)
        found = scores * above(*numbers) / below(*numbers).clamp(min=1e-6)
        return found * (area > 0)  # nothing in P: all know that this is 0

    return score


@mistake(
    "the mean of all pixels",
    "You average over the whole image, so a small thing can never be good. Which pixels "
    "are in the intersection, which in the union?",
)
def mean_of_all(soft, scores):
    return scores * soft.flatten(1).mean(dim=1)


@mistake(
    "the mask believes itself",
    "Your scores have not changed: a mask that is cut at ½ agrees with itself. Where do "
    "the probabilities of the pixels come in?",
)
def mask_believed(soft, scores):
    return scores * (soft >= 0.5).flatten(1).any(dim=1)


@mistake(
    "without the score",
    "This is the expected IoU. A perfect mask of a thing that is not there needs the "
    "class's score too.",
)
def score_forgotten(soft, scores):
    return rescore(soft, torch.ones_like(scores))


@mistake(
    "NaN for nothing",
    "Right, except for a mask that is 0 everywhere: 0 divided by 0.",
)
def nan_for_nothing(soft, scores):
    some = soft.flatten(1).any(dim=1)
    return (rescore(soft, scores) / some).where(some, torch.nan)


@mistake(
    "one number for all",
    "You sum over all masks together. Each has its own IoU: over which dimensions is the sum?",
)
def one_for_all(soft, scores):
    inside = soft >= 0.5
    union = (soft * ~inside).sum() + inside.sum()
    return scores * (soft * inside).sum() / union.clamp(min=1e-6)


@mistake(
    "two soft masks",
    "You compare the soft mask with itself. The answer P is hard: a pixel is in it or "
    "not, and the thing is what is uncertain.",
)
def not_thresholded(soft, scores):
    both = soft.square().flatten(1).sum(1)
    either = (2 * soft - soft.square()).flatten(1).sum(1)
    return scores * both / either.clamp(min=1e-6)


RESCORE = Exercise(
    rescore,
    soft_masks,
    points=4,
    minutes=20,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "the mean inside of the mask",
            "You average the probability inside of P, as MaskFormer does: that is the share of P "
            "that is true. What may the mask have missed?",
        )(quotient(lambda true, missed, area: true, lambda true, missed, area: area)),
        mean_of_all,
        mistake(
            "what is false inside is forgotten",
            "You divide by the expected size of the thing. A pixel of P that is not of the thing "
            "is in the union too.",
        )(quotient(lambda true, missed, area: true, lambda true, missed, area: true + missed)),
        mistake(
            "the intersection counts twice",
            "The size of P plus the size of the thing is more than their union. What did you "
            "count twice?",
        )(
            quotient(
                lambda true, missed, area: true, lambda true, missed, area: area + true + missed
            )
        ),
        mistake(
            "the overlap of Dice",
            "That is Dice's overlap, 2|A ∩ B| / (|A| + |B|), a monotonic relative. The IoU was "
            "asked for.",
        )(
            quotient(
                lambda true, missed, area: 2 * true, lambda true, missed, area: area + true + missed
            )
        ),
        mistake(
            "what lies outside of P in the intersection",
            "You divide the expected size of the thing by the size of P. What of the thing lies "
            "in P, and what is only in the union?",
        )(quotient(lambda true, missed, area: true + missed, lambda true, missed, area: area)),
        mask_believed,
        score_forgotten,
        nan_for_nothing,
        one_for_all,
        not_thresholded,
    ],
)

# ---------------------------------------------------------------- homework 4. refine_masks


class PointHead:
    """A wavy point head, another for each RoI, that notes for how many points it was asked."""

    def __init__(self, frequency: float, dtype: torch.dtype):
        self.frequency, self.dtype, self.asked = frequency, dtype, []

    def __call__(self, points: Tensor) -> Tensor:
        self.asked.append(points.shape[1])
        x, y = points.to(self.dtype).unbind(dim=-1)
        roi = torch.arange(len(points), device=points.device)[:, None]
        return 4 * torch.sin(self.frequency * x + roi) * torch.cos(7 * y) + x - 2 * y


def coarse_masks(generator: torch.Generator) -> Iterator[tuple[Tensor, PointHead, int, int]]:
    """Random logits; fewer and more points than cells, no step, one RoI, none.

    With these numbers of points no cut goes through cells that a known mistake makes equal.
    """
    yield torch.tensor([[[0.5]]]), PointHead(5.0, torch.float32), 4, 1
    for n, size, count, steps, dtype in (
        (2, 4, 12, 1, torch.float32),
        (3, 7, 44, 2, torch.float32),
        (2, 5, 48, 3, torch.float64),
        (1, 3, 8, 2, torch.float32),
        (2, 2, 48, 2, torch.float32),
        (2, 6, 12, 0, torch.float32),
        (0, 4, 8, 2, torch.float32),
    ):
        logits = 3 * torch.randn(n, size, size, generator=generator).to(dtype)
        yield logits, PointHead(5.0 + size, dtype), count, steps


def ask_points(
    function: Callable, logits: Tensor, point_head: PointHead, count: int, steps: int
) -> dict[str, Tensor | list[int]]:
    """The refined masks, and for how many points each call of the head asked."""
    masks = function(logits, point_head, count, steps)
    return {"masks": masks, "points asked": list(point_head.asked)}


def refined(
    uncertainty=torch.abs,
    centre=0.5,
    swapped=False,
    in_cells=False,
    centred=False,
    added=False,
    everywhere=False,
    **resize,
):
    """`refine_masks` with one of its parts exchanged."""
    how = {"mode": "bilinear", "align_corners": False} | resize

    def masks(logits, point_head, count, steps):
        for _ in range(steps):
            logits = F.interpolate(logits[:, None], scale_factor=2, **how)[:, 0]
            m = logits.shape[-1]
            flat = logits.flatten(1)
            cells = uncertainty(flat).topk(min(count, m * m), largest=False).indices
            every = torch.arange(m * m).expand(len(flat), -1)
            asked = every if everywhere else cells
            points = torch.stack([asked % m, asked // m], dim=-1).to(flat) + centre
            points = points.flip(-1) if swapped else points
            points = points if in_cells else points / m
            answers = point_head(2 * points - 1 if centred else points)
            answers = answers.gather(1, cells) if everywhere else answers
            new = flat.scatter_add(1, cells, answers) if added else flat.scatter(1, cells, answers)
            logits = new.unflatten(1, (m, m))
        return logits

    return masks


@mistake(
    "refined once, at the end",
    "Right for one step. You bring the mask to its last size first and refine only at the "
    "end: the later steps are to be interpolated from better numbers.",
)
def refined_once(logits, point_head, count, steps):
    if not steps:
        return logits
    m = logits.shape[-1] * 2**steps
    flat = F.interpolate(logits[:, None], size=(m, m), mode="bilinear")[:, 0].flatten(1)
    cells = flat.abs().topk(min(count, m * m), largest=False).indices
    points = (torch.stack([cells % m, cells // m], dim=-1) + 0.5) / m
    return flat.scatter(1, cells, point_head(points)).unflatten(1, (m, m))


@mistake(
    "a call for each mask",
    "You call the head once for each mask. It takes the points of all masks together, "
    "(n, p, 2), and tells the masks apart by their place.",
)
def refined_in_turn(logits, point_head, count, steps):
    for _ in range(steps):
        doubled = [refine_masks(each[None], point_head, count, 1) for each in logits]
        size = 2 * logits.shape[-1]
        logits = torch.cat(doubled) if doubled else logits.new_zeros(0, size, size)
    return logits


REFINE = Exercise(
    refine_masks,
    coarse_masks,
    points=4,
    minutes=30,
    stretch=True,
    tolerance=1e-5,
    call=ask_points,
    mistakes=[
        mistake(
            "the most certain cells",
            "You ask where the mask is already sure. Which logit is a probability of ½?",
        )(refined(lambda flat: -flat.abs())),
        mistake(
            "the lowest logits",
            "You ask where the logits are lowest: that is deep in the background, and certain.",
        )(refined(lambda flat: flat)),
        mistake(
            "the highest logits",
            "You ask where the logits are highest: that is deep inside, and certain.",
        )(refined(lambda flat: -flat)),
        mistake(
            "the corner of the cell",
            "The right cells, but the head looks at their upper left corners. Where in the box is "
            "the centre of cell 0?",
        )(refined(centre=0)),
        mistake(
            "x and y exchanged",
            "The right cells, but your points are mirrored on the diagonal. A point is (x, y): is "
            "a cell's row its x?",
        )(refined(swapped=True)),
        mistake(
            "points in cells",
            "Your points are counted in cells. The head wants them in the box, from 0 to 1.",
        )(refined(in_cells=True)),
        mistake(
            "points from −1 to 1",
            "Your points run from −1 to 1, as grid_sample wants them. The head wants them from 0 "
            "to 1.",
        )(refined(centred=True)),
        refined_in_turn,
        mistake(
            "answers are added",
            "You add the head's answer to the upsampled logit. It is a better answer, not a "
            "correction.",
        )(refined(added=True)),
        refined_once,
        mistake(
            "nearest neighbours",
            "You double the size by repeating cells. Bilinear was asked for: what does it do for "
            "the outline?",
        )(refined(mode="nearest", align_corners=None)),
        mistake(
            "aligned corners",
            "You keep the outer cells' centres in place. The box stays the same, not the centres: "
            "what is align_corners?",
        )(refined(align_corners=True)),
        mistake(
            "asked everywhere",
            "The masks are right, but you asked for every cell and threw most answers away. How "
            "many points does a step need?",
        )(refined(everywhere=True)),
    ],
)

homework = Homework(
    "Homework 05: masks", [AGNOSTIC, BATCH, RESCORE, REFINE], turns=[LOSS, TARGETS, PASTE]
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
