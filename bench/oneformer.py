"""Lesson 16 against transformers: the largest differences over seeds, and time."""

import torch

from bench.timing import report, side_by_side
from lessons.kit.data.scenes import Scenes
from lessons.kit.peers import oneformer as peer
from lessons.mask2former import Mask2Former
from lessons.oneformer import (
    OneFormer,
    TextEncoder,
    TextMapper,
    Tokeniser,
    contrastive_loss,
    task_sentences,
)
from lessons.set_prediction import TASKS

SEEDS = 300
IMAGES = 8


def main() -> None:
    samples = [Scenes.train()[i] for i in range(IMAGES)]
    kinds = Scenes.train().categories
    tokens = sentences_of(samples, kinds)
    theirs, ours = mappers(Tokeniser([kind.name for kind in kinds]))
    with torch.no_grad():
        gap = (theirs(tokens) - ours(tokens)).abs().max()
    print(f" text mapper, {IMAGES} images: largest difference {gap:.1e}")
    print(f" contrastive loss, {SEEDS} seeds: largest relative difference {loss_gap():.1e}")

    print(f" text mapper of {IMAGES} images with 20 sentences, forward and backward")
    ways = {
        "transformers": lambda: theirs(tokens).sum().backward(),
        "ours": lambda: ours(tokens).sum().backward(),
    }
    report(side_by_side(ways), peer="transformers")

    print(" contrastive loss of 32 images with 24 queries of 64 numbers, forward and backward")
    queries, texts = (torch.randn(32, 24, 64, requires_grad=True) for _ in range(2))
    criterion = peer.their_loss()
    ways = {
        "transformers": lambda: criterion.loss_contrastive(queries, texts)[
            "loss_contrastive"
        ].backward(),
        "ours": lambda: contrastive_loss(queries, texts, 0.07).backward(),
    }
    report(side_by_side(ways, repeats=31), peer="transformers")

    print(f" a training step of {IMAGES} scenes of 128×128, and a panoptic answer to them")
    nets = {"Mask2Former": Mask2Former(8, 4), "OneFormer": OneFormer(8, 4, categories=kinds)}
    images, segments = [s.image for s in samples], [s.segments for s in samples]
    for name in ("a step", "an answer"):
        ways = {
            f"{kind}, {name}": (
                (lambda net=net: sum(net(images, segments).values()).backward())
                if name == "a step"
                else (lambda net=net: net.predict_panoptic(images))
            )
            for kind, net in nets.items()
        }
        report(side_by_side(ways, repeats=5), peer=f"Mask2Former, {name}")


def sentences_of(samples, kinds) -> torch.Tensor:
    """The tokens of a batch, one task after another."""
    tokenise = Tokeniser([kind.name for kind in kinds])
    lists = [
        task_sentences(sample.segments, TASKS[k % 3], kinds, 20) for k, sample in enumerate(samples)
    ]
    return torch.stack([tokenise(sentences) for sentences in lists])


def mappers(tokenise: Tokeniser) -> tuple[torch.nn.Module, torch.nn.Module]:
    """transformers' text mapper and ours with its weights."""
    theirs = peer.their_text_mapper(words=len(tokenise.words), length=tokenise.length)
    encoder = TextEncoder(len(tokenise.words), tokenise.length, 64, 2, heads=1, causal=False)
    ours = TextMapper(encoder, 64, contexts=4)
    peer.transplant_text_mapper(theirs, ours)
    return theirs, ours


def loss_gap() -> float:
    """Batches of 1 to 12, temperatures of 0.01 to 1."""
    worst = 0.0
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        b, temperature = 1 + seed % 12, float(10 ** (-2 * torch.rand(())))
        texts = torch.randn(b, 6, 16)
        queries = texts + torch.randn(b, 6, 16)
        criterion = peer.their_loss(temperature)
        with torch.no_grad():
            theirs = criterion.loss_contrastive(queries, texts)["loss_contrastive"].item()
        ours = contrastive_loss(queries, texts, temperature).item()
        worst = max(worst, abs(ours - theirs) / max(1.0, abs(theirs)))
    return worst


if __name__ == "__main__":
    main()
