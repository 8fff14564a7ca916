"""Lesson 15: a training step against transformers' Mask2Former, its parts, and its memory."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers.models.mask2former import modeling_mask2former as reference

from bench.timing import report, side_by_side, wait
from lessons.deformable_attention import DeformableAttention, cell_centres
from lessons.kit.data import is_crowd
from lessons.kit.data.scenes import Scenes
from lessons.kit.models.images import batch_images
from lessons.kit.peers import mask2former as peer
from lessons.kit.peers import whole
from lessons.mask2former import Mask2Former, match_at_points, point_losses

IMAGES, CLASSES, THINGS, HEADS, POINTS = 8, 8, 4, 4, 1024
SIZES = {"channels": 64, "heads": HEADS, "hidden": 256, "encoder_hidden": 256}
SIZES |= {"num_queries": 24, "decoder_layers": 3, "encoder_layers": 2}
PEER = "transformers"


def main(device: str = "cpu") -> None:
    training_step(device)
    if device == "cpu":
        losses()
        deformable_attention()


def batch(device: str = "cpu") -> tuple[list[Tensor], list]:
    """Eight scenes of 128×128 without their crowds, which neither learns."""
    samples = [Scenes.train()[index] for index in range(IMAGES)]
    segments = [s.segments[~is_crowd(s.segments)].to(device) for s in samples]
    return [s.image.to(device) for s in samples], segments


# ---------------------------------------------------------------- the training step


def training_step(device: str) -> None:
    """Forward and backward, 24 queries, 3 decoder and 2 encoder layers, d = 64, 1,024 points.

    transformers has its own ResNet with the widths of ours (BatchNorm, where ours has GroupNorm).
    """
    images, segments = batch(device)
    torch.manual_seed(0)
    ours = Mask2Former(CLASSES, THINGS, num_points=POINTS, heads=HEADS).to(device).train()
    like_ours = whole.resnet_like(ours.backbone.channels)
    theirs = whole.mask2former(CLASSES, like_ours, SIZES, POINTS)
    theirs = theirs.to(device).train()
    pixels, _ = batch_images(images, ours.mean, ours.std)
    pixels, (masks, labels) = pixels.contiguous(), peer.their_targets(segments)

    def step() -> None:
        ours.zero_grad()
        sum(ours(images, segments).values()).backward()
        wait(device)

    def their_step() -> None:
        theirs.zero_grad()
        theirs(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss.backward()
        wait(device)

    ways: dict[str, Callable] = {PEER: their_step, "ours": step}
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (theirs, ours)]
    print(f" training step on {device}, {IMAGES} scenes of 128 × 128, parameters (M): {sizes}")
    report(side_by_side(ways, repeats=9), peer=PEER, target=0.8)
    peaks = {name: peak_memory(way, device) for name, way in ways.items()}
    for name, peak in peaks.items():
        ratio = f"{peak / peaks[PEER]:5.2f} of {PEER}"
        print(f"  {name:<28}{peak / 2**20:9.1f} MB at most {ratio}  (asked for: ≤ 1)")


def peak_memory(step: Callable, device: str) -> int:
    """Bytes of tensors that a step holds at most beyond those that were there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


# ---------------------------------------------------------------- parts


def losses() -> None:
    """Matching and losses of the four outputs, with gradients."""
    _, segments = batch()
    generator = torch.Generator().manual_seed(0)
    answers = [
        (
            torch.randn(IMAGES, 24, CLASSES + 1, generator=generator).requires_grad_(),
            torch.randn(IMAGES, 24, 32, 32, generator=generator).requires_grad_(),
        )
        for _ in range(4)
    ]
    weights = Mask2Former(CLASSES, THINGS).weights
    config = reference.Mask2FormerConfig(num_labels=CLASSES, train_num_points=POINTS)
    criterion, truth = reference.Mask2FormerLoss(config, {}), peer.their_targets(segments)

    def theirs() -> None:
        sum(
            sum(criterion(masks, classes, *truth).values()) for classes, masks in answers
        ).backward()

    def ours() -> None:
        total = 0
        for z in answers:
            matches = match_at_points(*z, segments, POINTS, weights)
            total += sum(point_losses(*z, segments, matches, POINTS, weights).values())
        total.backward()

    print(f" matching and losses, {sum(map(len, segments))} segments, {POINTS} points")
    report(side_by_side({PEER: theirs, "ours": ours}, repeats=9), peer=PEER)


def deformable_attention() -> None:
    """All cells of strides 32, 16 and 8, with gradients; a batch of small images, a large one."""
    for b, side in ((IMAGES, 128), (1, 512)):
        sizes = [(side // stride, side // stride) for stride in (32, 16, 8)]
        references = torch.cat([cell_centres(size) for size in sizes])
        cells = torch.randn(b, len(references), 64, requires_grad=True)
        module = reference.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention
        attention = peer.randomised(module(64, HEADS, 3, 4))
        own = DeformableAttention(64, heads=HEADS)
        peer.transplant_deformable(attention, own)
        where = {
            "reference_points": references[None, :, None].expand(b, -1, 3, -1),
            "spatial_shapes_list": sizes,
        }

        def theirs(attention=attention, cells=cells, where=where) -> None:
            attention(cells, encoder_hidden_states=cells, **where)[0].sum().backward()

        def ours(own=own, cells=cells, references=references, sizes=sizes) -> None:
            own(cells, references, cells, sizes).sum().backward()

        print(f" deformable attention, {b} × {len(references)} cells of {side} × {side} pixels")
        report(side_by_side({PEER: theirs, "ours": ours}, repeats=9), peer=PEER)


if __name__ == "__main__":
    main()
