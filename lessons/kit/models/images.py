"""From images and segments to a batch: what every system of the course does first."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from lessons.kit.data import Segments, check_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


def in_full_precision(values: Real[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The same numbers in float32 where they are shorter: bfloat16 cannot hold 257 pixels.

    Integers become float32 too, float64 stays.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def batch_images(
    images: Sequence[Float[Tensor, "3 _ _"]],
    mean: Float[Tensor, "3 1 1"],
    std: Float[Tensor, "3 1 1"],
    multiple: int = 32,
) -> tuple[Float[Tensor, "b 3 h w"], list[tuple[int, int]]]:
    """The normalised images in one tensor, zeros up to a multiple of 32 pixels, and their sizes.

    Images may be of any floating-point type: the batch has that of `mean`, which is the model's.
    Raises ValueError, naming the image, where there is none or where one is no RGB in [0, 1]
    (see `check_images`) or on another device than the model.
    """
    must_be_list("images", images)
    if not images:
        raise ValueError("no images: a batch needs at least one")
    check_images(images, device=mean.device)
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (
        math.ceil(max(side) / multiple) * multiple for side in zip(*sizes, strict=True)
    )
    batch = mean.new_zeros(len(images), 3, height, width)
    for place, image, (h, w) in zip(batch, images, sizes, strict=True):
        place[:, :h, :w] = (image - mean) / std
    return batch.contiguous(memory_format=torch.channels_last), sizes  # what convolutions like best


def batch_segments(
    segments: Sequence[Segments], sizes: Sequence[tuple[int, int]]
) -> list[Segments]:
    """What a batch of images is to learn: the segments of each, without empty masks.

    An empty mask is no segment: nobody can find it. So every system drops it, here. `sizes` are
    the images' own, (height, width). Raises ValueError where there are not as many segments as
    images, those of another image, or a label below 0.
    """
    must_be_list("segments", segments)
    if len(segments) != len(sizes):
        raise ValueError(f"segments of {len(segments)} images for {len(sizes)} images")
    for i, (own, (h, w)) in enumerate(zip(segments, sizes, strict=True)):
        if not isinstance(own, Segments):
            raise ValueError(f"segments[{i}] must be Segments, not {type(own).__name__}")
        if own.size != (h, w):
            found = f"{own.size[0]}×{own.size[1]}"
            raise ValueError(f"image {i} is {h}×{w} pixels, but its segments are {found}")
    looks = [torch.stack([own.masks.flatten(1).any(dim=1), own.labels >= 0]) for own in segments]
    looks = iter(torch.cat(looks, dim=1).T.tolist())  # one wait for a GPU
    kept = []
    for i, own in enumerate(segments):
        visible = []
        for k in range(len(own)):
            seen, known = next(looks)
            if not known:
                raise ValueError(
                    f"image {i}: label {int(own.labels[k])} is below 0, the first class"
                )
            visible += [k] * seen
        kept.append(own if len(visible) == len(own) else own[visible])
    return kept


def batch_masks(
    segments: Sequence[Segments], size: tuple[int, int]
) -> Bool[Tensor, "n height width"]:
    """The masks of all images in one stack; up to `size` each repeats its outermost pixels."""
    stack = []
    for masks in (own.masks for own in segments):
        for axis, side in ((1, size[0]), (2, size[1])):
            if (here := masks.shape[axis]) < side:
                last = masks.narrow(axis, here - 1, 1)
                masks = torch.cat([masks, *[last] * (side - here)], dim=axis)
        stack.append(masks)
    return torch.cat(stack)


def must_be_list(name: str, values: Any) -> None:
    """Raises ValueError where values are not a list, one entry an image: a tensor is none."""
    if not isinstance(values, Sequence):
        found = type(values).__name__
        if isinstance(values, Tensor):
            found = f"a tensor of shape {tuple(values.shape)}"
        raise ValueError(f"{name} must be a list with one entry for each image, not {found}")
