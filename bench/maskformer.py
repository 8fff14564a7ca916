"""Lesson 13 against transformers: equality over seeds, the time of matching, loss, a layer and a
training step with the same modules.
"""

from collections.abc import Callable

import torch

from bench.timing import report, side_by_side
from lessons.kit.data import Segments
from lessons.kit.data.scenes import Scenes
from lessons.kit.peers.maskformer import transformers_decoder_layer, transformers_maskformer
from lessons.maskformer import DecoderLayer, MaskFormer
from lessons.set_prediction import (
    mask_classification_loss,
    match_segments_to_queries,
    pad_masks,
    task_targets,
)

SEEDS, BATCH, QUERIES, CLASSES = 100, 8, 24, 8


def main() -> None:
    print(f" largest difference over {SEEDS} seeds, losses and gradients: {equality():.1e}")
    for queries, count, size in ((24, 12, 128), (100, 20, 256)):
        losses(queries, count, size)
    layer()
    step()


def drawn(
    seed: int, queries: int, count: int, size: int, batch: int = BATCH
) -> tuple[torch.Tensor, torch.Tensor, list[Segments]]:
    """Random answers at stride 4, and random targets of up to `count` segments."""
    generator = torch.Generator().manual_seed(seed)
    side = size // 4
    class_logits = torch.randn(batch, queries, CLASSES + 1, generator=generator)
    mask_logits = 3 * torch.randn(batch, queries, side, side, generator=generator)
    targets = []
    for _ in range(batch):
        n = int(torch.randint(count // 2, count + 1, (), generator=generator))
        masks = torch.rand(n, size, size, generator=generator) > 0.7
        targets.append(Segments(masks, torch.randint(CLASSES, (n,), generator=generator)))
    return class_logits, mask_logits, targets


def ours(class_logits, mask_logits, targets) -> torch.Tensor:
    matches = match_segments_to_queries(class_logits, mask_logits, targets)
    return sum(mask_classification_loss(class_logits, mask_logits, targets, matches).values())


def theirs(class_logits, mask_logits, targets) -> torch.Tensor:
    return sum(transformers_maskformer(class_logits, mask_logits, targets)[1].values())


def equality() -> float:
    worst = 0.0
    for seed in range(SEEDS):
        *z, targets = drawn(seed, 9, 12, 32, batch=2)  # some have more segments than queries
        z = [each.requires_grad_() for each in z]
        values = [way(*z, targets) for way in (ours, theirs)]
        gradients = [torch.autograd.grad(value, z) for value in values]
        pairs = [tuple(values), *zip(*gradients, strict=True)]
        worst = max(worst, *((a - b).abs().max().item() for a, b in pairs))
    return worst


def losses(queries: int, count: int, size: int) -> None:
    """Matching, loss and gradients of a batch."""
    *z, targets = drawn(0, queries, count, size)
    z = [each.requires_grad_() for each in z]

    def run(way: Callable) -> None:
        torch.autograd.grad(way(*z, targets), z)

    print(f" matching, loss, gradient: {BATCH} images of {size}×{size}, {queries} queries")
    print("  (transformers matches twice here, once for its answer: one matching is taken off)")
    seconds = side_by_side({"transformers": lambda: run(theirs), "ours": lambda: run(ours)})
    *_, own = drawn(0, queries, count, size)
    matching = side_by_side(
        {"both": lambda: match_segments_to_queries(*(x.detach() for x in z), own)}
    )
    extra = sorted(matching["both"])[len(matching["both"]) // 2]
    seconds["transformers"] = [each - extra for each in seconds["transformers"]]
    report(seconds, peer="transformers", target=1.0)


def layer() -> None:
    """A decoder layer, forward and backward."""
    torch.manual_seed(0)
    own = DecoderLayer(64, heads=4, hidden=256)
    peer = transformers_decoder_layer(own, heads=4)
    queries, learned = torch.randn(BATCH, QUERIES, 64), torch.randn(QUERIES, 64)
    image, places = torch.randn(BATCH, 64, 64), torch.randn(64, 64)

    def run_theirs() -> None:
        out = peer(
            queries,
            object_queries_position_embeddings=learned,
            encoder_hidden_states=image,
            spatial_position_embeddings=places,
        )
        out.sum().backward()

    ways = {
        "transformers": run_theirs,
        "ours": lambda: own(queries, learned, image, places).sum().backward(),
    }
    print(f" decoder layer, forward and backward: {BATCH} images, {QUERIES} queries, 64 cells")
    report(side_by_side(ways, repeats=21), peer="transformers", target=1.0)


def step() -> None:
    """A training step of the whole model: with its own loss, and with transformers' loss."""
    torch.manual_seed(0)
    model = MaskFormer(CLASSES, 4)
    samples = [Scenes.train()[index] for index in range(BATCH)]
    images = [(sample.image - model.mean) / model.std for sample in samples]
    batch, size = torch.stack(images), tuple(images[0].shape[1:])
    targets = [pad_masks(task_targets(s.segments, "panoptic", 4), size) for s in samples]

    def run(loss: Callable) -> None:
        model.zero_grad()
        sum(loss(*z, targets) for z in model.layers(batch)).backward()

    def forward_backward() -> None:
        model.zero_grad()
        sum(classes.sum() + masks.sum() for classes, masks in model.layers(batch)).backward()

    print(f" training step, {BATCH} scenes of 128×128: the share of matching and loss")
    seconds = side_by_side(
        {"network alone": forward_backward, "with matching and loss": lambda: run(ours)}
    )
    report(seconds, peer="network alone")


if __name__ == "__main__":
    main()
