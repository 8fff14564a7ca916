"""Whole models at their published size on ResNet-50, with transformers' random weights."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from lessons.kit.data.scenes import Scenes
from lessons.kit.errors import LessonsError
from lessons.kit.models.images import batch_images
from lessons.kit.peers import whole
from lessons.kit.training import data_set
from lessons.mask2former import Mask2Former
from lessons.maskformer import MaskFormer
from lessons.oneformer import OneFormer, Tokeniser

CLASSES, THINGS = 133, 80
TASK = "panoptic"


def main() -> None:
    image, what = photograph()
    print(f" random weights on ResNet-50, {what} of {image.shape[1]}×{image.shape[2]}:")
    print(f" {'':<12}  parameters (M)  largest difference: classes, masks  (of the largest)")
    for name, build in {"MaskFormer": of_maskformer, "Mask2Former": of_mask2former,
                        "OneFormer": of_oneformer}.items():  # fmt: skip
        torch.manual_seed(0)
        theirs, ours, answer = build()
        with torch.no_grad():
            pixels, _ = batch_images([image], ours.mean, ours.std)
            z, said = answer(pixels.contiguous())
        pairs = [(z[0], said.class_queries_logits), (z[1], said.masks_queries_logits)]
        gaps = [(a - b).abs().max().item() for a, b in pairs]
        sizes = [b.abs().max().item() for _, b in pairs]
        counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (theirs, ours)]
        print(
            f"  {name:<12} {counts[0]:6.2f} {counts[1]:6.2f}    "
            + "  ".join(f"{gap:.1e} ({size:.1f})" for gap, size in zip(gaps, sizes, strict=True))
        )


def photograph() -> tuple[torch.Tensor, str]:
    """A photograph of COCO, or a scene where there is none."""
    try:
        return data_set("coco", "validation", None, 1)[0].image, "a photograph"
    except LessonsError:
        return Scenes(0, 1, 512)[0].image, "a scene"


def of_maskformer() -> tuple[nn.Module, nn.Module, Callable]:
    sizes = whole.PUBLISHED | {"decoder_layers": 6}
    theirs = whole.maskformer(CLASSES, whole.resnet(published=True), sizes).eval()
    plain = {k: v for k, v in sizes.items() if not k.startswith("encoder")}
    ours = MaskFormer(CLASSES, THINGS, groups=whole.GROUPS, backbone=body(theirs), **plain).eval()
    whole.transplant_maskformer(theirs, ours)
    return theirs, ours, lambda pixels: (ours.layers(pixels)[-1], theirs(pixel_values=pixels))


def of_mask2former() -> tuple[nn.Module, nn.Module, Callable]:
    sizes = whole.PUBLISHED
    theirs = whole.mask2former(CLASSES, whole.resnet(published=True), sizes).eval()
    ours = Mask2Former(CLASSES, THINGS, groups=whole.GROUPS, backbone=body(theirs), **sizes).eval()
    whole.transplant_mask2former(theirs, ours)
    return theirs, ours, lambda pixels: (ours.layers(pixels)[-1], theirs(pixel_values=pixels))


def of_oneformer() -> tuple[nn.Module, nn.Module, Callable]:
    """With the exchange of values and positions that the published code has."""
    sizes, names = whole.PUBLISHED | {"num_queries": 150}, [f"class {k}" for k in range(CLASSES)]
    tokenise = Tokeniser(names)
    theirs = whole.oneformer(
        CLASSES,
        whole.resnet(published=True),
        sizes,
        words=len(tokenise.words),
        length=tokenise.length,
        contexts=16,
        text_layers=6,
    ).eval()
    ours = OneFormer(
        CLASSES,
        THINGS,
        backbone=body(theirs),
        task_token=whole.TheirTaskToken(theirs.model.task_encoder),
        exchanged=True,
        contexts=16,
        text_layers=6,
        groups=whole.GROUPS,
        **sizes,
    ).eval()
    ours.text_mapper.encoder.causal = False
    whole.transplant_oneformer(theirs, ours)
    theirs.model.is_training = False  # an answer needs no text
    token = tokenise([f"the task is {TASK}"])
    return (
        theirs,
        ours,
        lambda pixels: (
            ours.decode(pixels, [TASK])[0][-1],
            theirs(pixel_values=pixels, task_inputs=token),
        ),
    )


def body(theirs: nn.Module) -> nn.Module:
    return whole.BackboneOf(copy.deepcopy(theirs.model.pixel_level_module.encoder))


if __name__ == "__main__":
    main()
