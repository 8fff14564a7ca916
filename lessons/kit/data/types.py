"""The shared words: an image's answer is a set of (class, mask) pairs.

`Segments` is that set, `Sample` an image with its set, `Category` the name of a class.
What can be computed from the masks (boxes, areas, the semantic map) is a function here and
is never stored beside them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

VOID = 255
"""The label of a pixel that belongs to no segment, in a semantic map."""

INTEGERS = tuple(
    getattr(torch, f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)
)
ROUNDING = 1e-3  # that an image's values may lie outside [0, 1]: resizing rounds


@dataclass(frozen=True)
class Category:
    """A class: its name, whether it is countable (a thing) or not (stuff), and its colour."""

    name: str
    is_thing: bool
    color: tuple[int, int, int]  # RGB, 0 … 255


@dataclass
class Segments:
    """n (class, mask) pairs of one image: the ground truth {(c_k, m_k)} or a prediction.

    `labels` are 0 … K−1, an index into the data set's categories. `scores` belong to
    predictions, `is_crowd` (a group too dense to be told apart) to ground truth. Masks and
    crowds of 0 and 1, as in COCO's files, become boolean; labels of any integer type, int64.
    Raises ValueError, naming the field, for any other type or value, where the fields do not
    have the same length n, and where they are on two devices.
    """

    masks: Bool[Tensor, "n h w"]
    labels: Int[Tensor, "n"]
    scores: Float[Tensor, "n"] | None = None
    is_crowd: Bool[Tensor, "n"] | None = None

    def __post_init__(self):
        masks = self.masks
        kinds = (torch.bool, *INTEGERS)
        if not isinstance(masks, Tensor) or masks.ndim != 3 or masks.dtype not in kinds:
            raise ValueError(
                f"masks must be a boolean tensor of shape (n, h, w), not {_describe(masks)}"
            )
        for name in ("labels", "scores", "is_crowd"):
            value = getattr(self, name)
            if value is None and name != "labels":
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a tensor, not {_describe(value)}")
            if tuple(value.shape) != (len(masks),):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(masks)} masks, "
                    f"not the shape {tuple(value.shape)}"
                )
            if value.device != masks.device:
                raise ValueError(
                    f"{name} must be on the masks' device, {masks.device}, not {value.device}"
                )
        if self.labels.dtype not in INTEGERS:
            raise ValueError(f"labels must be integers, not {_kind(self.labels)}")
        self.masks, self.labels = _yes_or_no("masks", masks), self.labels.long()
        if self.scores is not None and not self.scores.is_floating_point():
            raise ValueError(f"scores must be floating-point numbers, not {_kind(self.scores)}")
        if self.is_crowd is not None:
            self.is_crowd = _yes_or_no("is_crowd", self.is_crowd)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Segments":
        """The chosen segments: a slice, a list of indices, an index or a boolean tensor."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        return Segments(**{k: None if v is None else v[index] for k, v in chosen.items()})

    @property
    def size(self) -> tuple[int, int]:
        """The image's height and width in pixels."""
        return self.masks.shape[1], self.masks.shape[2]

    def to(self, device: torch.device | str) -> "Segments":
        """The same segments on another device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return Segments(**{k: None if v is None else v.to(device) for k, v in moved.items()})


@dataclass
class Sample:
    """One pair (x_i, y_i) of the training set D.

    The segments are disjoint; a pixel of no segment is void. Raises ValueError for an image
    that is none, where the masks have another size than the image, and where they overlap
    (`flatten_overlaps` mends that).
    """

    image: Float[Tensor, "3 h w"]  # RGB in [0, 1]
    segments: Segments

    def __post_init__(self):
        check_images([self.image], "image")
        if self.segments.size != tuple(self.image.shape[1:]):
            raise ValueError(
                f"the masks are {_by(self.segments.size)} pixels "
                f"but the image is {_by(self.image.shape[1:])}"
            )
        shared = int((self.segments.masks.sum(0, dtype=torch.int16) > 1).sum())
        if shared:
            raise ValueError(
                f"the segments of a sample must be disjoint, {shared} pixels are in two: "
                "flatten_overlaps(segments) leaves each pixel to one"
            )


@runtime_checkable
class DataSet(Protocol):
    """A sequence of samples that knows its categories, things before stuff."""

    categories: list[Category]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...


def check_images(images: Any, name: str = "images[{}]", device: torch.device | None = None) -> None:
    """Raises ValueError for the first that is no image: float RGB (3, h, w) in [0, 1].

    `name` is what the message calls it, {} its place; `device` is where all have to be. Values
    that a GPU holds are looked at only where no gradient is asked for: to look is to wait for
    the GPU. A prediction waits anyway; a step of the training would lose time, and its samples
    were checked before.
    """
    for i, image in enumerate(images):
        if (
            not isinstance(image, Tensor)
            or image.ndim != 3
            or len(image) != 3
            or not image.numel()
            or not image.is_floating_point()
        ):
            raise ValueError(
                f"{name.format(i)} must be a float tensor (3, h, w) of RGB in [0, 1], "
                f"not {_describe(image)}"
            )
        if device not in (None, image.device):
            raise ValueError(
                f"{name.format(i)} must be on the model's device, {device}, not {image.device}"
            )
    if torch.compiler.is_compiling() or not all(_can_look_at(image) for image in images):
        return
    ends = torch.stack([end for image in images for end in image.detach().aminmax()]).tolist()
    for i, (low, high) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # both are NaN where a value is
            found = "NaN" if low != low else f"values from {low:.4g} to {high:.4g}"
            raise ValueError(f"{name.format(i)} must be RGB in [0, 1], but has {found}")


def empty_segments(size: tuple[int, int], with_scores: bool = False) -> Segments:
    """No segments at all, of an image of `size` (height, width)."""
    return Segments(
        masks=torch.zeros(0, *size, dtype=torch.bool),
        labels=torch.zeros(0, dtype=torch.int64),
        scores=torch.zeros(0) if with_scores else None,
    )


def boxes(segments: Segments) -> Float[Tensor, "n 4"]:
    """The smallest box around each mask: x0, y0, x1, y1 in pixels, the far edges exclusive.

    Pixel (row i, column j) covers [j, j+1] × [i, i+1], so a single pixel has a box of
    area 1. An empty mask has the box 0, 0, 0, 0.
    """
    masks = segments.masks
    sides = []
    for hit in (masks.any(dim=1), masks.any(dim=2)):  # columns, then rows
        hit = hit.to(torch.uint8)
        first = hit.argmax(dim=1) if hit.numel() else hit.new_zeros(len(hit), dtype=torch.int64)
        last = hit.shape[1] - hit.flip(1).argmax(dim=1) if hit.numel() else first
        sides.append((first, last))
    (x0, x1), (y0, y1) = sides
    found = masks.flatten(1).any(dim=1)
    return torch.stack([x0, y0, x1, y1], dim=1).float() * found[:, None]


def areas(segments: Segments) -> Int[Tensor, "n"]:
    """The number of pixels of each mask."""
    if segments.masks.device.type != "cpu":
        return segments.masks.flatten(1).sum(dim=1)
    counts = [np.count_nonzero(mask) for mask in segments.masks.numpy()]  # a tenth of sum's time
    return torch.tensor(counts, dtype=torch.int64)


def is_crowd(segments: Segments) -> Bool[Tensor, "n"]:
    """Which segments are crowds; none where the field is absent."""
    if segments.is_crowd is None:
        return torch.zeros(len(segments), dtype=torch.bool, device=segments.masks.device)
    return segments.is_crowd


def things(segments: Segments, categories: Sequence[Category]) -> Segments:
    """Only the segments of countable classes."""
    return segments[_is_thing(segments, categories)]


def stuff(segments: Segments, categories: Sequence[Category]) -> Segments:
    """Only the segments of uncountable classes."""
    return segments[~_is_thing(segments, categories)]


def semantic_map(segments: Segments) -> Int[Tensor, "h w"]:
    """The class of each pixel, and VOID (255) where there is no segment.

    Where masks overlap the last segment wins.
    """
    classes = torch.full(segments.size, VOID, dtype=torch.int64, device=segments.masks.device)
    for mask, label in zip(segments.masks, segments.labels, strict=True):
        if classes.is_cuda:
            classes.masked_fill_(mask, label)
        else:  # the same memory, in a quarter of the time
            np.copyto(classes.numpy(), label.numpy(), where=mask.numpy())
    return classes


def flatten_overlaps(segments: Segments, top: str = "smaller") -> Segments:
    """The same segments without overlap: a pixel of several is left to the one on top.

    That is the "smaller" one (what lies before a large thing is rarely as large; of equal ones
    the later), or the "later" one of the list. The order stays; a segment that is left without
    a pixel is dropped. Raises ValueError for another `top`.
    """
    if top not in ("smaller", "later"):
        raise ValueError(f"top must be smaller or later, not {top!r}")
    order = torch.arange(len(segments), device=segments.masks.device)
    if top == "smaller":
        order = areas(segments).argsort(descending=True, stable=True)
    painted = torch.full(segments.size, -1, device=order.device)
    for k in order.tolist():
        painted[segments.masks[k]] = k
    masks = painted == torch.arange(len(segments), device=order.device)[:, None, None]
    return replace(segments, masks=masks)[masks.flatten(1).any(dim=1)]


def _is_thing(segments: Segments, categories: Sequence[Category]) -> Bool[Tensor, "n"]:
    unknown = segments.labels[(segments.labels < 0) | (segments.labels >= len(categories))]
    if len(unknown):
        raise ValueError(
            f"label {int(unknown[0])} is not one of the {len(categories)} categories "
            f"(0 … {len(categories) - 1})"
        )
    table = torch.tensor([category.is_thing for category in categories], dtype=torch.bool)
    return table.to(segments.labels.device)[segments.labels]


def _yes_or_no(name: str, values: Tensor) -> Bool[Tensor, "*any"]:
    """Boolean values, or integers that are 0 or 1, as boolean ones."""
    if values.dtype == torch.bool:
        return values
    if values.dtype not in INTEGERS:
        raise ValueError(f"{name} must be boolean, not {_kind(values)}")
    wrong = values[(values != 0) & (values != 1)]
    if len(wrong):
        raise ValueError(f"{name} must be boolean, or 0 and 1, not {int(wrong[0])}")
    return values.bool()


def _can_look_at(image: Tensor) -> bool:
    return image.device.type == "cpu" or (image.is_cuda and not torch.is_grad_enabled())


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]}"


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{_kind(value)} of shape {tuple(value.shape)}"
    return type(value).__name__


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
