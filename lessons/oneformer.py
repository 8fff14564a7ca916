# Built by `lessons build` from notebooks/16_oneformer.ipynb: edit that, not this.
"""OneFormer.

You build one network that does semantic, instance and panoptic segmentation with the same weights:
a sentence tells it which, and a loss between queries and sentences is to teach it to listen.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.data import Category, Segments
from lessons.kit.data.checks import at_least, between, checked, labels_in, one_of, things_first
from lessons.kit.models.images import batch_images, batch_segments, in_full_precision
from lessons.kit.training import Budget, Recipe, by_heart, categories, from_full
from lessons.mask2former import WEIGHTS, Mask2Former
from lessons.maskformer import (
    METRICS,
    Attention,
    DecoderLayer,
    image_cells,
    instance_inference,
    of_each_image,
    panoptic_inference,
    semantic_inference,
)
from lessons.set_prediction import TASKS, Weights, pad_masks, sum_of_layers, task_targets


def draw_tasks(count: int, tasks: Sequence[str] = TASKS) -> list[str]:
    """A task for each of `count` images, all equally likely, by torch's global generator.

    Raises ValueError where there is no task to draw and for one that is unknown.
    """
    if not tasks:
        raise ValueError("tasks must name at least one task, it is empty")
    for task in tasks:
        one_of(TASKS, task=task)
    return [tasks[i] for i in torch.randint(len(tasks), (count,)).tolist()]


def task_sentences(
    segments: Segments, task: str, categories: Sequence[Category], count: int
) -> list[str]:
    """What an image holds for a task, in `count` sentences (Jain et al. 2023, section 3.1).

    "a photo with a sheep" for each mask of the task, in the order of the classes, then
    "a panoptic photo" (or "an instance photo", "a semantic photo") until there are enough; what
    is too many is left out. Raises ValueError for another task, a count below 1 and a label
    that is no category.
    """
    one_of(TASKS, task=task)
    at_least(1, count=count)
    num_things = sum(category.is_thing for category in categories)
    labels = task_targets(segments, task, num_things).labels
    labels_in(labels, len(categories))
    names = [categories[label].name for label in labels.sort().values.tolist()]
    sentences = [f"a photo with a {name}" for name in names][:count]
    padding = f"{'an' if task == 'instance' else 'a'} {task} photo"
    return sentences + [padding] * (count - len(sentences))


class Tokeniser:
    """Sentences as rows of numbers: a word, a number; start, end and padding have their own.

    It knows the words of this course's sentences and those of the categories' `names`. Padding
    is 0 and the end the largest number, so that arg max finds it, as with CLIP's.
    """

    def __init__(self, names: Sequence[str]):
        sentences = ["a an photo with the task is", *TASKS, *names]
        found = dict.fromkeys(word for sentence in sentences for word in words_of(sentence))
        self.words = ["·", *found, "<", ">"]  # padding first, then words, start and end
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.length = 6 + max((len(words_of(name)) for name in names), default=1)

    def __call__(self, sentences: Sequence[str]) -> Int[Tensor, "n t"]:
        """The numbers of each sentence. Raises ValueError for an unknown word and a long one."""
        rows = torch.zeros(len(sentences), self.length, dtype=torch.int64)
        for row, sentence in zip(rows, sentences, strict=True):
            words = words_of(sentence)
            for word in words:
                if word not in self.numbers:
                    raise ValueError(f"{word!r} in {sentence!r} is not in the vocabulary")
            if len(words) + 2 > self.length:
                raise ValueError(f"{sentence!r} is longer than {self.length - 2} words")
            numbers = [self.numbers[word] for word in ["<", *words, ">"]]
            row[: len(numbers)] = torch.tensor(numbers)
        return rows


def words_of(sentence: str) -> list[str]:
    """The words of a sentence in small letters; all but letters and digits divides them."""
    letters = (c if c.isalnum() else " " for c in sentence.lower())
    return "".join(letters).split()


def multilayer(inside: int, channels: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them."""
    return nn.Sequential(
        nn.Linear(inside, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
    )


class TaskToken(nn.Module):
    """The sentence "the task is …" as one vector: the mean of its words, then two layers."""

    def __init__(self, words: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(words, channels, padding_idx=0)
        self.layers = multilayer(channels, channels)

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        """A vector for each sentence of numbers."""
        count = (tokens > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.layers(self.embedding(tokens).sum(dim=1) / count)


class QuickGELU(nn.Module):
    """x · σ(1.702 x), CLIP's fast neighbour of the GELU."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The same shape, each number bent."""
        return x * (1.702 * x).sigmoid()


class TextLayer(nn.Module):
    """Self-attention of the words, then two linear layers; the norm stands before each."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "n t c"], allowed: Bool[Tensor, "n _ t t"] | None
    ) -> Float[Tensor, "n t c"]:
        """The words after they have looked at those that are allowed."""
        read = self.norms[0](x)
        x = x + self.attention(read, read, read, allowed)
        return x + self.feed_forward(self.norms[1](x))


class TextEncoder(nn.Module):
    """A sentence as one vector: a transformer over its words, read off at the end's place.

    As CLIP's (Radford et al. 2021). With `causal` a word looks at itself and at those before it.
    Raises ValueError for a size below 1.
    """

    def __init__(
        self, words: int, length: int, width: int, layers: int, heads: int, causal: bool = True
    ):
        super().__init__()
        at_least(1, words=words, length=length, width=width, layers=layers)
        self.causal = causal
        self.embedding = nn.Embedding(words, width)
        self.positions = nn.Parameter(0.1 * torch.randn(length, width))
        self.layers = nn.ModuleList(TextLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n c"]:
        """A vector for each sentence of numbers. Raises ValueError for one that is too long."""
        n, t = tokens.shape
        if t > len(self.positions):
            raise ValueError(f"tokens must be at most {len(self.positions)} a sentence, not {t}")
        allowed = None
        if self.causal:
            earlier = torch.ones(t, t, dtype=torch.bool, device=tokens.device).tril()
            allowed = earlier.expand(n, 1, t, t)
        x = self.embedding(tokens) + self.positions[:t]
        for layer in self.layers:
            x = layer(x, allowed)
        return self.norm(x)[torch.arange(n, device=tokens.device), tokens.argmax(dim=1)]


class TextMapper(nn.Module):
    """The text queries of an image: its sentences, encoded and projected, and learned contexts.

    Equal sentences of a batch are encoded once. Raises ValueError for `contexts` below 0.
    """

    def __init__(self, encoder: TextEncoder, channels: int, contexts: int):
        super().__init__()
        at_least(0, contexts=contexts)
        self.encoder = encoder
        self.project = multilayer(encoder.positions.shape[1], channels)
        self.contexts = nn.Parameter(torch.randn(contexts, channels))

    def forward(self, tokens: Int[Tensor, "b n t"]) -> Float[Tensor, "b q c"]:
        """q = n + contexts vectors for each image."""
        different, which = tokens.flatten(0, 1).unique(dim=0, return_inverse=True)
        texts = self.project(self.encoder(different))[which].unflatten(0, tokens.shape[:2])
        return torch.cat([texts, self.contexts.expand(len(tokens), -1, -1)], dim=1)


@checked
def contrastive_loss(
    queries: Float[Tensor, "b q c"],
    texts: Float[Tensor, "b q c"],
    temperature: Float[Tensor, ""] | float = 0.07,
) -> Float[Tensor, ""]:
    """Each image's queries find their own texts among those of the batch, and the other way round.

    An image is one vector of q · c numbers and length 1; cross-entropies over the cosines divided
    by the `temperature` (at least 0.01). Jain et al. 2023, eq. 2; 0 for a batch of one; a process
    compares its own images only. Raises ValueError for two shapes, an empty batch and a
    temperature that is not above 0.
    """
    if not len(queries):
        raise ValueError("queries of no image: a batch needs at least one")
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    with torch.autocast(queries.device.type, enabled=False):
        images, sentences = (
            F.normalize(in_full_precision(each).flatten(1), dim=1) for each in (queries, texts)
        )
        logits = images @ sentences.T * torch.as_tensor(1 / temperature).clamp(max=100)
        own = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)


def unnamed(num_classes: int, num_things: int) -> list[Category]:
    """Categories "class 0", "class 1", …"""
    return [Category(f"class {k}", k < num_things, (0, 0, 0)) for k in range(num_classes)]


class OneFormer(Mask2Former):
    """OneFormer (Jain et al. 2023): one Mask2Former for all three tasks, told by a sentence.

    `categories` have the names of the K classes, things first. `tasks` are those that are drawn
    in training. Without `contrastive` there is no text, with `task_token=False` the model is not
    told its task; a module in its place makes vectors of sentences of numbers. The published code
    and its weights exchange values and positions on the way into the query layers: that is
    `exchanged`. All else is as in lesson 15, its switches on. Raises ValueError for a setting
    that cannot be.
    """

    def __init__(
        self,
        num_classes: int,
        num_things: int,
        *,
        categories: Sequence[Category] | None = None,
        tasks: Sequence[str] = TASKS,
        contrastive: bool = True,
        task_token: nn.Module | bool = True,
        exchanged: bool = False,
        backbone: nn.Module | None = None,
        pixel_decoder: nn.Module | None = None,
        decoder: nn.ModuleList | None = None,
        head: nn.Module | None = None,
        query_layers: int = 2,
        contexts: int = 4,  # the paper's: 16
        text_layers: int = 2,  # 6
        text_heads: int = 4,
        contrastive_weight: float = 0.5,
        num_points: int = 1024,  # 12544
        num_queries: int = 24,  # 150
        channels: int = 64,  # 256
        heads: int = 4,  # 8
        hidden: int = 256,  # 2048
        decoder_layers: int = 3,  # 9
        encoder_layers: int = 2,  # 6
        encoder_hidden: int = 256,  # 1024
        groups: int | None = None,  # of GroupNorm, None: 16 channels each; 32
        weights: Weights = WEIGHTS,
        score_threshold: float = 0.5,  # 0.8
        overlap_threshold: float = 0.8,
    ):
        super().__init__(
            num_classes,
            num_things,
            learned_queries=False,
            backbone=backbone,
            pixel_decoder=pixel_decoder,
            decoder=decoder,
            head=head,
            num_points=num_points,
            num_queries=num_queries,
            channels=channels,
            heads=heads,
            hidden=hidden,
            decoder_layers=decoder_layers,
            encoder_layers=encoder_layers,
            encoder_hidden=encoder_hidden,
            groups=groups,
            weights=weights,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
        )
        draw_tasks(0, tasks)
        at_least(1, query_layers=query_layers)
        between(0, num_queries - 1, contexts=contexts)
        self.categories = list(categories or unnamed(num_classes, num_things))
        things_first(self.categories, num_classes, num_things)
        self.tasks, self.contrastive_weight = tuple(tasks), contrastive_weight
        self.texts, self.exchanged = num_queries - contexts, exchanged
        self.tokenise = Tokeniser([category.name for category in self.categories])
        words, length = len(self.tokenise.words), self.tokenise.length
        self.task_token = TaskToken(words, channels) if task_token is True else task_token or None
        self.query_image = nn.Conv2d(channels, channels, 1)
        self.query_layers = nn.ModuleList(
            DecoderLayer(channels, heads, hidden) for _ in range(query_layers)
        )
        self.query_norm = nn.LayerNorm(channels)
        self.text_mapper, self.log_temperature = None, None
        if contrastive:
            encoder = TextEncoder(words, length, channels, text_layers, text_heads)
            self.text_mapper = TextMapper(encoder, channels, contexts)
            self.log_temperature = nn.Parameter(torch.tensor(0.07).log())

    def start(
        self, pixels: Float[Tensor, "b c h w"], tasks: Sequence[str]
    ) -> Float[Tensor, "b q c"]:
        """The queries before the decoder: copies of the task token that have seen the image.

        The last one is the task token itself. Without it all start from zeros.
        """
        positions, token = self.query_positions, None
        if self.task_token is None:
            x = torch.zeros_like(positions).expand(len(pixels), -1, -1)
        else:
            sentences = self.tokenise([f"the task is {task}" for task in tasks])
            token = self.head.norm(self.task_token(sentences.to(pixels.device)))[:, None]
            positions = positions[:-1]
            x = token.expand(-1, len(positions), -1)
        image, places = image_cells(self.query_image(pixels))
        if self.exchanged:
            image, places = places.expand_as(image), image
        for layer in self.query_layers:
            x = layer(x, positions, image, places)
        x = self.query_norm(x)
        return x if token is None else torch.cat([x, token], dim=1)

    def decode(
        self, batch: Float[Tensor, "b 3 h w"], tasks: Sequence[str] | None = None
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Bool[Tensor, "b q _ _"] | None]]:
        """What `refine` says of a batch; the task of each image is "panoptic" if none is given."""
        maps, pixels = self.read_maps(self.backbone(batch))
        return self.refine(self.start(pixels, tasks or ["panoptic"] * len(batch)), maps, pixels)

    @torch.no_grad()
    def predict(
        self, images: Sequence[Float[Tensor, "3 _ _"]], layer: int = -1, task: str = "panoptic"
    ) -> list[tuple[Float[Tensor, "q k1"], Float[Tensor, "q _ _"]]]:
        """z of one layer, asked with one task's token; the mask logits at the image's size."""
        one_of(TASKS, task=task)
        batch, sizes = batch_images(images, self.mean, self.std)
        answers, _ = self.decode(batch, [task] * len(images))
        return of_each_image(answers[layer], batch.shape[-2:], sizes)

    def predict_semantic(
        self, images: Sequence[Float[Tensor, "3 _ _"]], task: str = "semantic"
    ) -> list[Int[Tensor, "_ _"]]:
        """The class of each pixel of each image; `task` is the token that is given."""
        return [semantic_inference(*z) for z in self.predict(images, task=task)]

    def predict_panoptic(
        self, images: Sequence[Float[Tensor, "3 _ _"]], task: str = "panoptic"
    ) -> list[Segments]:
        """Disjoint segments of each image, with scores; `task` is the token that is given."""
        limits = self.num_things, self.score_threshold, self.overlap_threshold
        return [panoptic_inference(*z, *limits) for z in self.predict(images, task=task)]

    def predict_instances(
        self, images: Sequence[Float[Tensor, "3 _ _"]], task: str = "instance"
    ) -> list[Segments]:
        """The things of each image, best first; `task` is the token that is given."""
        return [instance_inference(*z, self.num_things) for z in self.predict(images, task=task)]

    def forward(
        self, images: Sequence[Float[Tensor, "3 _ _"]], segments: Sequence[Segments]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses: classes, mask, dice as in lesson 15, and contrastive; a task an image."""
        batch, sizes = batch_images(images, self.mean, self.std)
        segments = batch_segments(segments, sizes)
        tasks, size = draw_tasks(len(images), self.tasks), (batch.shape[2], batch.shape[3])
        targets = [
            pad_masks(task_targets(own, task, self.num_things), size)
            for own, task in zip(segments, tasks, strict=True)
        ]
        maps, pixels = self.read_maps(self.backbone(batch))
        queries = self.start(pixels, tasks)
        answers, _ = self.refine(queries, maps, pixels)
        total = sum_of_layers(self.losses(z, targets) for z in answers)
        if self.text_mapper is not None:
            texts = self.text_mapper(self.text_tokens(segments, tasks).to(pixels.device))
            loss = contrastive_loss(queries, texts, self.log_temperature.exp())
            total["contrastive"] = self.contrastive_weight * loss
        return total

    def text_tokens(
        self, segments: Sequence[Segments], tasks: Sequence[str]
    ) -> Int[Tensor, "b n t"]:
        """The sentences of each image for its task, as numbers."""
        lists = [
            task_sentences(own, task, self.categories, self.texts)
            for own, task in zip(segments, tasks, strict=True)
        ]
        return torch.stack([self.tokenise(sentences) for sentences in lists])


def recipe(data: str = "scenes", **options: Any) -> Recipe:
    """How OneFormer is trained: `fit(recipe())`, or `lessons train oneformer`.

    `options` are OneFormer's keywords, as contrastive=False, task_token=False or
    tasks=("panoptic",). Each metric is measured with its own task's token.
    """
    kinds = categories(data)
    things = sum(category.is_thing for category in kinds)
    full = Budget(6000, batch=16, evaluations=6, learning_rate=2e-3, clip=1.0)
    if data == "four_scenes":
        budgets = by_heart(replace(full, steps=260, batch=2, size=64), steps=900, batch=4)
    else:
        budgets = from_full(replace(full, turn=data == "nuclei"))
    return Recipe(
        system="oneformer",
        model=lambda: OneFormer(len(kinds), things, categories=kinds, **options),
        metrics=METRICS,
        budgets=budgets,
        data=data,
        options=options,
    )
