"""Samples as bytes: drawn scenes all at once, real images as they are needed, in bounded memory."""

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lessons.kit.data.types import DataSet, Sample, Segments, is_crowd
from lessons.kit.errors import LessonsError

Packed = tuple[Tensor, Tensor, Tensor, Tensor]
"""A sample as (image uint8, ids int16, labels, is_crowd): 5 bytes a pixel."""


def workers() -> int:
    """How many processes make data ready."""
    return min(os.cpu_count() or 1, 8)


class _Samples(Dataset):
    """The first `count` samples of a source; each is what its bytes say, kept or not."""

    def __init__(self, source: DataSet, count: int):
        self.source, self.count, self.categories = source, count, source.categories

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return _unpack(self.packed_at(range(self.count)[index]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self.count))

    def packed_at(self, index: int) -> Packed:
        return _pack(self.source[index])


class InMemory(_Samples):
    """A data set drawn (or read) once, whole: for scenes, which are slower to draw than to keep.

    A scene of 128×128 takes 65 kB, a tenth of its tensors.
    """

    def __init__(self, source: DataSet, count: int):
        super().__init__(source, count)
        alone = count < 64 or torch.get_num_threads() == 1
        loader = DataLoader(
            _Bytes(_Samples(source, count)),
            batch_size=None,
            num_workers=0 if alone else workers(),
            generator=torch.Generator(),  # a loader draws a number: not the caller's
        )
        # Copied, because what a worker hands over keeps a file open.
        self.packed = [tuple(part.clone() for part in sample) for sample in loader]

    def packed_at(self, index: int) -> Packed:
        return self.packed[index]


class AsNeeded(_Samples):
    """A data set whose samples are read when they are asked for; the first to come are kept.

    All that a process keeps of all its data sets has room in `room()` bytes; what finds none is
    read anew each time. First come, first kept: every image comes once an epoch, so to throw
    out the oldest would throw out the next to be asked for.
    """

    def __init__(self, source: DataSet, count: int):
        super().__init__(source, count)
        self.kept: dict[int, Packed] = {}
        self.bytes = 0
        _ALIVE.add(self)
        if hasattr(source, "names"):
            self.names = source.names[:count]
        if hasattr(source, "category_ids"):
            self.category_ids = source.category_ids

    def packed_at(self, index: int) -> Packed:
        packed = self.kept.get(index)
        if packed is None:
            packed = super().packed_at(index)
            size = sum(part.nbytes for part in packed)
            if sum(other.bytes for other in _ALIVE) + size <= room() // _Share.processes:
                self.kept[index] = packed
                self.bytes += size
        return packed

    def __getstate__(self) -> dict:
        return self.__dict__ | {"kept": {}, "bytes": 0}  # another process reads its own

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        _ALIVE.add(self)


class First(Sequence[Sample]):
    """The first `count` samples of a data set, all if None, as they are."""

    def __init__(self, source: DataSet, count: int | None = None):
        self.source, self.categories = source, source.categories
        self.count = len(source) if count is None else min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.source[range(self.count)[index]]


def room() -> int:
    """Bytes for the images that are kept, in all processes: $LESSONS_CACHE megabytes, or 1000.

    Raises LessonsError where that is no whole number.
    """
    said = os.environ.get("LESSONS_CACHE") or "1000"
    if not (said.isascii() and said.isdecimal()):
        raise LessonsError(
            f"LESSONS_CACHE is {said!r}: name the megabytes for images in memory, as in 1000"
        )
    return int(said) * 10**6


_ALIVE: weakref.WeakSet[AsNeeded] = weakref.WeakSet()


class _Share:
    processes = 1  # that have an equal part of the room, this one and its workers


@contextmanager
def shared_by(processes: int) -> Iterator[None]:
    """Within it this process, and each that it starts, keeps its equal part of `room()`."""
    before, _Share.processes = _Share.processes, processes
    try:
        yield
    finally:
        _Share.processes = before


def start_worker(processes: int, number: int) -> None:
    """What a loader's worker does first, which may know nothing of `shared_by`."""
    _Share.processes = processes


class _Bytes(Dataset):
    """The samples of a data set, packed."""

    def __init__(self, samples: _Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Packed:
        if index >= len(self):
            raise IndexError(index)
        return self.samples.packed_at(index)


def _pack(sample: Sample) -> Packed:
    segments = sample.segments
    ids = torch.zeros(segments.size, dtype=torch.int16)
    for k, mask in enumerate(segments.masks, start=1):
        ids[mask] = k
    image = (sample.image * 255).round().to(torch.uint8)
    return image, ids, segments.labels, is_crowd(segments)


def _unpack(packed: Packed) -> Sample:
    image, ids, labels, crowd = packed
    masks = ids == torch.arange(1, len(labels) + 1, dtype=ids.dtype)[:, None, None]
    return Sample(image.float() / 255, Segments(masks, labels, is_crowd=crowd))
