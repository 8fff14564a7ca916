"""Homework 16: the exercises on OneFormer, and the mistakes that are known by name."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.homework.answers.oneformer import (
    contrastive_gradient,
    fair_contrastive_loss,
    gathered_losses,
    things_only,
)
from lessons.kit.data import Category, Segments, is_crowd
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.set_prediction import task_targets

# ---------------------------------------------------------------- 1. fair_contrastive_loss


def batches_with_twins(generator: torch.Generator) -> Iterator[tuple]:
    """Batches with two and three equal texts, a batch of one, and all texts the same."""
    cosines = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.8, 0.5], [0.0, 0.6, 0.7]])
    yield cosines, torch.tensor([0, 1, 1]), 0.5
    for text, temperature, dtype in (
        ([0, 1, 1, 2, 3], 0.2, torch.float64),
        ([4, 2, 4, 0, 4, 2], 0.5, torch.float32),
        ([3, 3], 0.1, torch.float64),
        ([0], 0.3, torch.float32),
        ([0, 1, 2, 3], 0.25, torch.float64),
    ):
        b = len(text)
        cosines = 2 * torch.rand(b, b, generator=generator, dtype=dtype) - 1
        yield cosines, torch.tensor(text), temperature


def fair(
    which="others",
    directions=(1.0, 1.0),
    mean=True,
    fill=-torch.inf,
    scale=lambda cosines, temperature: cosines / temperature,
):
    """`fair_contrastive_loss` with one of its parts exchanged."""

    def loss(cosines, text, temperature):
        own = torch.arange(len(text))
        same = text[:, None] == text
        if which == "others":
            same = same & (own[:, None] != own)
        elif which == "none":
            same = torch.zeros_like(same)
        logits = scale(cosines, temperature).masked_fill(same, fill)
        how = "mean" if mean else "sum"
        by_row = F.cross_entropy(logits, own, reduction=how)
        by_column = F.cross_entropy(logits.T, own, reduction=how)
        return directions[0] * by_row + directions[1] * by_column

    return loss


@mistake(
    "shared between twins",
    "You share the 1 among the twins. That is a fine idea, too, but then the loss cannot "
    "be 0. Here they stand neither above nor below the fraction bar.",
)
def shared_between_twins(cosines, text, temperature):
    same = (text[:, None] == text).to(cosines.dtype)
    wanted, logits = same / same.sum(dim=1, keepdim=True), cosines / temperature
    return F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)


@mistake(
    "twins are right, too",
    "You count the twins above the fraction bar, as if each were the image's own text. "
    "Here they stand neither above nor below.",
)
def twins_are_right(cosines, text, temperature):
    same, powers = text[:, None] == text, (cosines / temperature).exp()
    right = powers.where(same, 0)
    return sum(-(right.sum(dim) / powers.sum(dim)).log().mean() for dim in (0, 1))


@mistake(
    "the rows twice",
    "You take the rows twice. The second direction goes down the columns: a text looks "
    "among the queries.",
)
def rows_twice(cosines, text, temperature):
    logits = cosines / temperature
    own = torch.arange(len(text))
    same = (text[:, None] == text) & (own[:, None] != own)
    return 2 * F.cross_entropy(logits.masked_fill(same, -torch.inf), own)


@mistake(
    "the text's number as place",
    "The target of a cross-entropy is a place in the row. You give it the number of the "
    "text: where does image i find its own?",
)
def text_as_place(cosines, text, temperature):
    own = torch.arange(len(text))
    same = (text[:, None] == text) & (own[:, None] != own)
    logits = (cosines / temperature).masked_fill(same, -torch.inf)
    return F.cross_entropy(logits, text) + F.cross_entropy(logits.T, text)


def twins_have_a_cosine(cosine):
    """The twins' cosine is exchanged, and divided by the temperature with the others."""

    def loss(cosines, text, temperature):
        own = torch.arange(len(text))
        same = (text[:, None] == text) & (own[:, None] != own)
        logits = cosines.masked_fill(same, cosine) / temperature
        return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)

    return loss


@mistake(
    "twins are dropped",
    "You leave the second of two equal images out of the batch altogether. It is still to "
    "find its text among all the others.",
)
def twins_are_dropped(cosines, text, temperature):
    first = torch.tensor([k for k, t in enumerate(text.tolist()) if t not in text[:k].tolist()])
    logits = cosines[first][:, first] / temperature
    own = torch.arange(len(first))
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)


@mistake(
    "the diagonal is gone below",
    "Below the fraction bar the image's own text is missing. An image has the same text "
    "as itself, but it is no twin of itself.",
)
def own_left_out_below(cosines, text, temperature):
    logits = cosines / temperature
    same = text[:, None] == text
    own = logits.diagonal()
    below = logits.masked_fill(same, -torch.inf)
    return (below.logsumexp(1) - own).mean() + (below.logsumexp(0) - own).mean()


def as_a_tensor(function, cosines, text, temperature):
    """The loss, which must be something that has a gradient."""
    loss = function(cosines, text, temperature)
    if not isinstance(loss, Tensor):
        raise TypeError(f"a loss must be a tensor, a {type(loss).__name__} has no gradient")
    return loss


FAIR = Exercise(
    fair_contrastive_loss,
    batches_with_twins,
    points=4,
    minutes=20,
    call=as_a_tensor,
    mistakes=[
        mistake(
            "twins are rivals",
            "This is the lesson's loss: images with the same text still compete. Which entries of "
            "a row must go?",
        )(fair("none")),
        mistake(
            "the diagonal is masked, too",
            "Your loss is infinite. An image has the same text as itself, and so its own entry is "
            "gone, above the fraction bar and below. Is an image its own twin?",
        )(fair("all")),
        own_left_out_below,
        mistake(
            "a cosine of 0",
            "You set the twins' entries to 0. A softmax still counts exp(0) = 1 for each. Which "
            "number has an exponential of 0?",
        )(fair(fill=0.0)),
        mistake(
            "a cosine of -1",
            "You set the twins' cosines to −1, the smallest that there is. They are then weak "
            "rivals, but rivals: exp(−1 / τ) is not 0.",
        )(twins_have_a_cosine(-1.0)),
        twins_are_right,
        text_as_place,
        shared_between_twins,
        twins_are_dropped,
        mistake("one direction", "The rows are right. The texts look for their images, too.")(
            fair(directions=(1.0, 0.0))
        ),
        rows_twice,
        mistake(
            "the mean of both directions",
            "Your loss is half as large as it should be. The directions are added.",
        )(fair(directions=(0.5, 0.5))),
        mistake(
            "the sum over the batch",
            "Your loss grows with the batch: each direction is a mean over the images.",
        )(fair(mean=False)),
        mistake(
            "times the temperature",
            "You multiply by the temperature. A cold temperature should make differences larger.",
        )(fair(scale=lambda cosines, temperature: cosines * temperature)),
        mistake(
            "no temperature",
            "Your loss does not depend on the temperature. Where does it stand in the formula?",
        )(fair(scale=lambda cosines, temperature: cosines)),
    ],
)

# ---------------------------------------------------------------- 2. gathered_losses


def several_processes(generator: torch.Generator) -> Iterator[tuple]:
    """Unit vectors on one to four processes, with one to three images each."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    texts = torch.tensor([[0.6, 0.8], [0.8, -0.6]]).double()
    yield list(queries.split(1)), list(texts.split(1)), 0.5
    for count, m, c, temperature in (
        (3, 2, 5, 0.3),
        (4, 1, 6, 0.2),
        (1, 3, 4, 0.5),
        (2, 3, 8, 1.0),
    ):
        draw = [
            [
                F.normalize(torch.randn(m, c, generator=generator).double(), dim=1)
                for _ in range(count)
            ]
            for _ in range(2)
        ]
        yield *draw, temperature


def gathered(
    offset=lambda rank, m: rank * m,
    against="all",
    swap=False,
    columns_against_own=False,
    directions=(1.0, 1.0),
    parts=lambda loss, m, count: loss,
):
    """`gathered_losses` with one of its parts exchanged."""

    def losses(queries, texts, temperature):
        found = []
        everything = torch.cat(list(queries)), torch.cat(list(texts))
        for rank, (q, t) in enumerate(zip(queries, texts, strict=True)):
            m = len(q)
            all_queries, all_texts = everything if against == "all" else (q, t)
            own = torch.arange(m) + (offset(rank, m) if against == "all" else 0)
            rows, columns = q @ all_texts.T / temperature, t @ all_queries.T / temperature
            if swap:
                rows, columns = q @ all_queries.T / temperature, t @ all_texts.T / temperature
            by_row, by_column = F.cross_entropy(rows, own), F.cross_entropy(columns, own)
            if columns_against_own:
                by_column = F.cross_entropy(t @ q.T / temperature, torch.arange(m))
            loss = directions[0] * by_row + directions[1] * by_column
            found.append(parts(loss, m, len(queries)))
        return torch.stack(found)

    return losses


@mistake(
    "everybody the whole",
    "Each process computes the loss of the whole batch. The mean is right, but a process "
    "was to answer for its own images only.",
)
def everybody_the_whole(queries, texts, temperature):
    logits = torch.cat(list(queries)) @ torch.cat(list(texts)).T / temperature
    own = torch.arange(len(logits))
    loss = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
    return loss.expand(len(queries))


GATHERED = Exercise(
    gathered_losses,
    several_processes,
    points=4,
    minutes=20,
    mistakes=[
        mistake(
            "the first process's places",
            "The first process is right. Where does the second one's first image stand among all "
            "images? Not in place 0.",
        )(gathered(offset=lambda rank, m: 0)),
        mistake(
            "the rank as place",
            "Your places go up by one from process to process. How many images lie before those "
            "of process r?",
        )(gathered(offset=lambda rank, m: rank)),
        mistake(
            "nothing is gathered",
            "Each process competes only with itself, so with one image it learns nothing. Who are "
            "the rivals?",
        )(gathered(against="own")),
        mistake(
            "queries with queries",
            "You compare queries with queries and texts with texts. A query looks for a text.",
        )(gathered(swap=True)),
        mistake(
            "one direction", "The queries find their texts. The texts look for their queries, too."
        )(gathered(directions=(1.0, 0.0))),
        mistake(
            "the rows twice",
            "You take the rows twice. The second direction goes from a process's own texts to the "
            "queries of everybody.",
        )(gathered(directions=(2.0, 0.0))),
        mistake(
            "the columns of the own rows",
            "Your rows are right. But your texts look only among the process's own queries: those "
            "of the others are missing below the fraction bar.",
        )(gathered(columns_against_own=True)),
        mistake(
            "the mean of both directions",
            "Your losses are half as large as they should be. The directions are added.",
        )(gathered(directions=(0.5, 0.5))),
        mistake(
            "one number",
            "This is the mean over the processes, the loss of the whole batch. Return what each "
            "process computes, before anybody takes a mean.",
        )(lambda queries, texts, temperature: gathered()(queries, texts, temperature).mean()),
        mistake(
            "the sum over the images",
            "Your losses are sums over a process's images. A mean was asked for.",
        )(gathered(parts=lambda loss, m, count: loss * m)),
        mistake(
            "already divided",
            "Your losses add up to that of the whole batch. Training takes their mean: what comes "
            "out then?",
        )(gathered(parts=lambda loss, m, count: loss / count)),
        everybody_the_whole,
    ],
)

# ---------------------------------------------------------------- 3. things_only

KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("tree", True, (0, 158, 115)),
    Category("house", True, (213, 94, 0)),
    Category("sky", False, (166, 216, 245)),
    Category("lake", False, (0, 114, 178)),
]


def small_images(generator: torch.Generator) -> Iterator[tuple]:
    """Things and stuff in no order, with crowds; only stuff; nothing; more than there is room."""
    tiny = torch.tensor([[[True, False]], [[False, True]]])
    yield Segments(tiny, torch.tensor([1, 0])), KINDS, 2
    for labels, crowd, count in (
        ([3, 1, 0, 0, 4, 1], [0, 0, 0, 1, 0, 0], 5),
        ([2, 0, 2, 3], [0, 0, 0, 0], 4),
        ([0, 0, 1, 4], [1, 1, 0, 0], 3),
        ([4, 3], [0, 0], 2),
        ([], [], 2),
        ([2, 1, 0, 2, 3], [0, 0, 0, 0, 0], 2),
    ):
        n = len(labels)
        owner = torch.randint(n + 1, (5, 7), generator=generator)
        yield (
            Segments(
                owner == torch.arange(n)[:, None, None],
                torch.tensor(labels, dtype=torch.int64),
                is_crowd=torch.tensor(crowd, dtype=torch.bool),
            ),
            KINDS,
            count,
        )


def things(
    crowds=True,
    united=True,
    stuff=False,
    order=lambda labels: sorted(set(labels)),
    padding="a things photo",
    cut=True,
    for_each_instance=False,
    with_padding=True,
):
    """`things_only` with one of its parts exchanged."""

    def task(segments: Segments, categories: Sequence[Category], count: int):
        if not crowds:
            segments = segments[~is_crowd(segments)]
        wanted = [k for k in segments.labels.tolist() if stuff or categories[k].is_thing]
        labels = order(wanted)
        masks = [segments.masks[segments.labels == k].any(dim=0) for k in labels]
        targets = Segments(
            torch.stack(masks) if masks else segments.masks[:0],
            torch.tensor(labels, dtype=torch.int64),
        )
        if not united:
            kept = torch.tensor([categories[k].is_thing for k in segments.labels.tolist()])
            index = kept.nonzero()[:, 0] if len(kept) else torch.zeros(0, dtype=torch.int64)
            index = index[segments.labels[index].argsort(stable=True)]
            targets = Segments(segments.masks[index], segments.labels[index])
        said = targets.labels.tolist() if not for_each_instance else sorted(wanted)
        sentences = [f"a photo with a {categories[k].name}" for k in said]
        sentences = sentences[:count] if cut else sentences
        fill = [padding] * (count - len(sentences)) if with_padding else []
        return targets, sentences + fill

    return task


def in_order_of_appearance(labels: list[int]) -> list[int]:
    return list(dict.fromkeys(labels))


@mistake(
    "lesson 12's instances",
    "These are the targets of the task instance: they count, and the crowds are missing. "
    "Which of lesson 12's tasks has one mask for each class?",
)
def instances_of_lesson_12(segments: Segments, categories: Sequence[Category], count: int):
    num_things = sum(category.is_thing for category in categories)
    targets = task_targets(segments, "instance", num_things)
    sentences = [f"a photo with a {categories[k].name}" for k in targets.labels.tolist()][:count]
    return targets, sentences + ["a things photo"] * (count - len(sentences))


@mistake(
    "classes that are not there",
    "You name every thing class, whether the image has it or not. What would a network "
    "learn from an empty mask?",
)
def all_classes(segments: Segments, categories: Sequence[Category], count: int):
    labels = [k for k, category in enumerate(categories) if category.is_thing]
    masks = [(segments.masks & (segments.labels == k)[:, None, None]).any(dim=0) for k in labels]
    sentences = [f"a photo with a {categories[k].name}" for k in labels][:count]
    sentences += ["a things photo"] * (count - len(sentences))
    return Segments(torch.stack(masks), torch.tensor(labels)), sentences


@mistake(
    "the segments cut to the list",
    "`count` is the length of the list of sentences. The targets are not cut: every class "
    "is to be found, also one that has no sentence.",
)
def cut_to_count(segments: Segments, categories: Sequence[Category], count: int):
    targets, sentences = things()(segments, categories, count)
    return targets[:count], sentences


def as_pairs(function, segments: Segments, categories: Sequence[Category], count: int):
    """Targets and sentences in what can be compared."""
    pair = function(segments, categories, count)
    parts = list(pair) if isinstance(pair, list | tuple) else [pair]
    kinds = [type(part).__name__ for part in parts]
    if kinds not in (["Segments", "list"], ["Segments", "tuple"]):
        raise TypeError(f"two things must be returned, Segments and a list, not {', '.join(kinds)}")
    return {"targets": parts[0], "sentences": list(parts[1])}


THINGS = Exercise(
    things_only,
    small_images,
    points=3,
    minutes=15,
    call=as_pairs,
    mistakes=[
        mistake(
            "instances",
            "These are the instances: your task counts. There was to be one mask for each class.",
        )(things(united=False)),
        instances_of_lesson_12,
        all_classes,
        cut_to_count,
        mistake("semantic", "Your targets hold sky and lake. Which classes are countable?")(
            things(stuff=True)
        ),
        mistake(
            "crowds left out",
            "You leave the crowds out. One cannot count them, but here nobody counts.",
        )(things(crowds=False)),
        mistake(
            "the order of the segments",
            "Your classes stand in the order in which they appear in the image. The lists of two "
            "images must be comparable.",
        )(things(order=in_order_of_appearance)),
        mistake(
            "a sentence for each instance",
            "The targets are right. But you say a sentence for each instance, and so tell the "
            "network to count.",
        )(things(for_each_instance=True)),
        mistake(
            "an instance photo",
            "Your padding names another task. How shall the texts tell the two apart?",
        )(things(padding="an instance photo")),
        mistake(
            "too many sentences",
            "Where an image has more classes than there is room, your list is too long.",
        )(things(cut=False)),
        mistake(
            "no padding", "The list must have `count` entries for every image: what fills it up?"
        )(things(with_padding=False)),
    ],
)

# ---------------------------------------------------------------- 4. contrastive_gradient


def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Cosines of one to six images."""
    for b, temperature in ((2, 0.5), (4, 0.2), (1, 0.3), (6, 1.5)):
        yield 2 * torch.rand(b, b, generator=generator, dtype=torch.float64) - 1, temperature


def gradient(
    own=2.0,
    dims=(1, 0),
    sign=1.0,
    by_batch=True,
    by_temperature=True,
    weights=(1.0, 1.0),
):
    """`contrastive_gradient` with one of its parts exchanged."""

    def slope(cosines, temperature):
        logits, b = cosines / temperature, len(cosines)
        r, s = logits.softmax(dim=dims[0]), logits.softmax(dim=dims[1])
        total = weights[0] * r + weights[1] * s - own * torch.eye(b, dtype=cosines.dtype)
        return sign * total / (b if by_batch else 1) / (temperature if by_temperature else 1)

    return slope


@mistake(
    "a softmax without the temperature",
    "Your softmax is that of the cosines. In the loss it is taken of the cosines divided "
    "by the temperature.",
)
def without_temperature(cosines, temperature):
    return gradient()(cosines, 1.0) / temperature


@mistake(
    "times the temperature",
    "You multiply by the temperature. What is the derivative of c / τ with respect to c?",
)
def times_temperature(cosines, temperature):
    return gradient(by_temperature=False)(cosines, temperature) * temperature


@mistake(
    "minus 2 everywhere",
    "The diagonal is right. You subtract the 2 from all entries, but only the image's own "
    "text stands above the fraction bar.",
)
def twos_everywhere(cosines, temperature):
    logits, b = cosines / temperature, len(cosines)
    return (logits.softmax(dim=0) + logits.softmax(dim=1) - 2) / (b * temperature)


@mistake(
    "columns in rows",
    "The texts' softmax is right, but it lies on its side: entry (i, j) belongs to query i "
    "and text j in both halves.",
)
def column_transposed(cosines, temperature):
    logits, b = cosines / temperature, len(cosines)
    r, s = logits.softmax(dim=1), logits.T.softmax(dim=1)
    return (r + s - 2 * torch.eye(b, dtype=cosines.dtype)) / (b * temperature)


def by_hand(function, cosines, temperature):
    """The gradient as it is written: autograd is switched off."""
    with torch.no_grad():
        return function(cosines, temperature)


SLOPE = Exercise(
    contrastive_gradient,
    batches,
    points=4,
    minutes=25,
    stretch=True,
    call=by_hand,
    mistakes=[
        mistake(
            "the temperature forgotten",
            "This is the gradient with respect to the logits c / τ. What does the chain rule add?",
        )(gradient(by_temperature=False)),
        mistake(
            "the mean forgotten",
            "The loss is a mean over the batch. Your gradient is that of a sum.",
        )(gradient(by_batch=False)),
        mistake(
            "one identity",
            "Your entries add up to more than 0. Adding a number to all cosines changes no "
            "softmax, so they must add up to 0: how often is each image's own entry wanted?",
        )(gradient(own=1.0)),
        mistake("one direction", "The queries' half is right. The texts' half is missing.")(
            gradient(own=1.0, weights=(1.0, 0.0))
        ),
        mistake(
            "the rows twice",
            "You take the softmax of the rows twice. The texts choose among the queries: along "
            "which axis?",
        )(gradient(dims=(1, 1))),
        column_transposed,
        without_temperature,
        times_temperature,
        twos_everywhere,
        mistake(
            "the mean of both directions",
            "Your gradient is half as large as it should be. The directions are added.",
        )(gradient(own=1.0, weights=(0.5, 0.5))),
        mistake(
            "the other sign",
            "This is the direction in which the loss falls. The gradient points uphill.",
        )(gradient(sign=-1.0)),
    ],
)

homework = Homework("Homework 16: OneFormer", [FAIR, GATHERED, THINGS, SLOPE])
check, score_board = homework.check, homework.score_board
