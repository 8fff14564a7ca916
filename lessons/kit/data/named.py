"""The data sets that have a name on the command line, and samples kept in memory as bytes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lessons.kit.data.types import Category, DataSet, Sample, Segments, is_crowd
from lessons.kit.errors import LessonsError


@lru_cache(maxsize=8)
def data_set(name: str, split: str = "train", size: int = 128, count: int | None = None) -> DataSet:
    """A split of a data set by name, kept in memory as bytes: image, ids, labels.

    `name` is "scenes", "four_scenes" (the same four in both splits, for overfitting),
    "nuclei", "pennfudan", "coco" or "ten_coco" (the first ten COCO images, the same in both
    splits); "scenes:SEED" are scenes of another seed. `split` is "train" or "validation".
    `size` is that of scenes, and of the longer side of ten_coco: other real images keep theirs.
    Raises LessonsError for an unknown name and where images are missing.
    """
    if split not in ("train", "validation"):
        raise LessonsError(f"{split!r} is no split: choose train or validation")
    try:
        source = _source(name, split, size)
    except ValueError as error:
        raise LessonsError(f"{name} cannot be had: {error}") from None
    total = len(source) if count is None else min(count, len(source))
    if total == 0:
        raise LessonsError(f"the {split} split of {name} has no images")
    return InMemory(source, total)


_REMEMBERED: ContextVar[tuple[str, Sequence[Category]]] = ContextVar("_REMEMBERED")


@contextmanager
def remembered(name: str, kinds: Sequence[Category]) -> Iterator[None]:
    """Within it the categories of a data set are these: as a run that knew its images says."""
    token = _REMEMBERED.set((name, kinds))
    try:
        yield
    finally:
        _REMEMBERED.reset(token)


def categories(name: str) -> list[Category]:
    """The categories of a data set by name, things first."""
    known, kinds = _REMEMBERED.get((None, ()))
    if name == known:
        return list(kinds)
    return _source(name, "validation", 128).categories


def _source(name: str, split: str, size: int) -> DataSet:
    """The data set itself, nothing read or drawn yet."""
    from lessons.kit.data.real import CocoPanoptic, Nuclei, PennFudan, Smaller
    from lessons.kit.data.scenes import Scenes

    training = split == "train"
    kind, _, seed = name.partition(":")
    if kind == "scenes" and seed:
        if not seed.isdecimal():
            raise LessonsError(f"scenes:{seed}: a seed is a whole number, as in scenes:7")
        return Scenes(int(seed), 200, size)
    if name == "scenes":
        return Scenes.train(size=size) if training else Scenes.validation(size=size)
    if name == "four_scenes":
        return Scenes.train(4, size=size)
    if name == "nuclei":
        return Nuclei("train" if training else "test")
    if name == "pennfudan":
        return PennFudan()
    if name == "coco":
        return CocoPanoptic()
    if name == "ten_coco":
        return Smaller(CocoPanoptic(), size, 10)
    known = "scenes, scenes:SEED, four_scenes, nuclei, pennfudan, coco, ten_coco"
    raise LessonsError(f"{name!r} is no data set: choose {known}")


def workers() -> int:
    """How many processes make data ready."""
    return min(os.cpu_count() or 1, 8)


class InMemory(Dataset):
    """A data set read (or drawn) once, each sample in bytes: its image and its map of ids.

    A scene of 128×128 takes 65 kB, a tenth of its tensors.
    """

    def __init__(self, source: DataSet, count: int):
        self.categories = source.categories
        alone = count < 64 or torch.get_num_threads() == 1
        loader = DataLoader(
            _Packed(source, count),
            batch_size=None,
            num_workers=0 if alone else workers(),
            generator=torch.Generator(),  # a loader draws a number: not the caller's
        )
        # Copied, because what a worker hands over keeps a file open.
        self.packed = [tuple(part.clone() for part in sample) for sample in loader]

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Sample:
        image, ids, labels, crowd = self.packed[index]
        masks = ids == torch.arange(1, len(labels) + 1, dtype=ids.dtype)[:, None, None]
        return Sample(image.float() / 255, Segments(masks, labels, is_crowd=crowd))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


class _Packed(Dataset):
    """Each sample of a source as (image uint8, ids int16, labels, is_crowd)."""

    def __init__(self, source: DataSet, count: int):
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        sample = self.source[index]
        segments = sample.segments
        ids = torch.zeros(segments.size, dtype=torch.int16)
        for k, mask in enumerate(segments.masks, start=1):
            ids[mask] = k
        image = (sample.image * 255).round().to(torch.uint8)
        return image, ids, segments.labels, is_crowd(segments)
