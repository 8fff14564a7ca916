"""The data sets that have a name on the command line: a thin table over `DataSet`."""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from lessons.kit.data.memory import AsNeeded, InMemory
from lessons.kit.data.real import (
    NUCLEI_SPLITS,
    Chosen,
    CocoPanoptic,
    Nuclei,
    PennFudan,
    Smaller,
    coco_folder,
    coco_splits,
    pennfudan_split,
)
from lessons.kit.data.scenes import Scenes
from lessons.kit.data.types import Category, DataSet
from lessons.kit.errors import LessonsError

FORMS = (
    "scenes, scenes:SEED, four_scenes, wide_scenes, nuclei, nuclei:all, nuclei:PATH, pennfudan, "
    "pennfudan:PATH, coco, coco:PATH, ten_coco"
)
"""The names, as the command line's help and its errors say them."""


def data_set(name: str, split: str = "train", size: int = 128, count: int | None = None) -> DataSet:
    """A split of a data set by name, at most its first `count` samples.

    `name` is "scenes", "wide_scenes" (with things of very different sizes), "nuclei",
    "pennfudan" or "coco", whose splits share no image, or
    "four_scenes" or "ten_coco" (the first four scenes, the first ten COCO images), which are
    the same in both splits: they are there to be learned by heart. "scenes:SEED" are 200 scenes
    of another seed, "nuclei:all" every nuclei image that is there, "nuclei:PATH",
    "pennfudan:PATH" and "coco:PATH" a folder laid out as that data set: each of them is
    measured whole, and there is nothing in it to train on. `split` is "train" or "validation".
    `size` is that of scenes, and of the longer side of ten_coco: other real images keep theirs.
    Scenes are drawn at once, real images are read when they are asked for.

    Raises LessonsError for an unknown name, where images are missing and for the training
    split of what is measured whole.
    """
    if split not in ("train", "validation"):
        raise LessonsError(f"{split!r} is no split: choose train or validation")
    # The name means other images where these are others.
    return _data_set(_absolute(name), split, size, count, os.environ.get("LESSONS_DATA"))


@lru_cache(maxsize=8)
def _data_set(name: str, split: str, size: int, count: int | None, root: str | None) -> DataSet:
    try:
        source = _source(name, split, size)
    except ValueError as error:
        raise LessonsError(f"{name} cannot be had: {error}") from None
    total = len(source) if count is None else min(count, len(source))
    if total == 0:
        raise LessonsError(f"the {split} split of {name} has no images")
    return InMemory(source, total) if isinstance(source, Scenes) else AsNeeded(source, total)


data_set.cache_clear = _data_set.cache_clear


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
    """The categories of a data set by name, things first; only COCO has to be there for them."""
    known, kinds = _REMEMBERED.get((None, ()))
    if name == known:
        return list(kinds)
    kind, _, rest = _parsed(_absolute(name))
    if kind in ("coco", "ten_coco"):
        return _coco_categories(rest)
    return _CATEGORIES[kind]


def _source(name: str, split: str, size: int) -> DataSet:
    """The data set itself, nothing read or drawn yet."""
    kind, colon, rest = _parsed(name)
    if not colon:
        return _SPLIT[kind](split == "train", size)
    if kind == "scenes" or split != "train":
        source = _WHOLE[kind](rest, size)
    if split == "train":
        raise LessonsError(
            f"{name} is measured whole, there is nothing in it to train on: train on {kind}, or "
            "give fit() your own `train` and `validation`"
        )
    return source


def _absolute(name: str) -> str:
    """The name with its path, if it has one, made absolute."""
    kind, colon, rest = name.partition(":")
    if not (colon and rest) or kind not in _WHOLE or kind == "scenes" or name == "nuclei:all":
        return name
    try:
        return f"{kind}:{Path(rest).expanduser().absolute()}"
    except (RuntimeError, OSError) as error:  # ~nobody, or a working folder that is gone
        raise LessonsError(f"{name}: the path cannot be found ({error})") from None


def _parsed(name: str) -> tuple[str, str, str]:
    """A name's kind, its colon and what follows. Raises LessonsError for an unknown one."""
    kind, colon, rest = name.partition(":")
    if kind not in (_WHOLE if colon else _SPLIT) or (colon and not rest):
        raise LessonsError(f"{name!r} is no data set: choose {FORMS}")
    return kind, colon, rest


def _scenes_of(seed: str, size: int) -> Scenes:
    if not (seed.isascii() and seed.isdecimal()):
        raise LessonsError(f"scenes:{seed}: a seed is a whole number, as in scenes:7")
    # The train split is series 0, the held-out one series 1; a number of more than 32 bits
    # would be cut in two by NumPy's generator and could begin as one of them.
    if not 2 <= int(seed) < 2**32:
        raise LessonsError(
            f"scenes:{seed}: choose a seed from 2 to {2**32 - 1}, 0 is the scenes that are "
            "trained on and 1 those that are held out"
        )
    return Scenes(int(seed), 200, size)


def _nuclei_of(path: str, size: int) -> DataSet:
    nuclei = Nuclei("all") if path == "all" else Nuclei("all", folder=path)
    return _told("nuclei", path, nuclei, set(nuclei.names) & set(NUCLEI_SPLITS["train"]))


def _pennfudan_of(path: str, size: int) -> DataSet:
    people = PennFudan("all", folder=path)
    originals = [name for name in people.names if re.match("(Fudan|Penn)Ped[0-9]{5}$", name)]
    trained_on = [name for name in originals if pennfudan_split(name) == "train"]
    return _told("pennfudan", path, people, trained_on)


def _coco_of(path: str, size: int) -> DataSet:
    """The official held-out split where it is there, else the other."""
    split = (coco_splits(Path(path)) or ["val2017"])[-1]
    coco = _open_coco(Path(path), split)
    return _told("coco", path, coco, coco.names if split == "train2017" else ())


def _told(kind: str, path: str, source: DataSet, trained_on: Collection[str]) -> DataSet:
    """The source; where images of it are in the training split of `kind`, that is said."""
    if trained_on:
        _say(
            f"{kind}:{path}: {len(trained_on)} of its {len(source)} images are those that {kind} "
            "is trained on"
        )
    return source


def _coco(training: bool, size: int) -> DataSet:
    """The official splits; where only one is there, every fifth of its images is held out."""
    folder = coco_folder()
    there = coco_splits(folder)
    if len(there) != 1:
        return _open_coco(folder, "train2017" if training else "val2017")
    coco = _open_coco(folder, there[0])
    held_out = range(0, len(coco), 5)
    _say(
        f"coco: only {there[0]} is in {folder}, so every fifth of its images by id is held out "
        f"({len(held_out)} of {len(coco)}) and never trained on"
    )
    return Chosen(coco, [i for i in range(len(coco)) if (i in held_out) != training])


def _coco_categories(path: str) -> list[Category]:
    folder = Path(path) if path else coco_folder()
    return _open_coco(folder, (coco_splits(folder) or ["train2017"])[-1]).categories


@lru_cache(maxsize=2)
def _open_coco(folder: Path, split: str) -> CocoPanoptic:
    return CocoPanoptic(split, folder=folder)


@lru_cache(maxsize=64)
def _say(line: str) -> None:
    """Print a line once, where it does not disturb what a command prints."""
    print(line, file=sys.stderr)


_SPLIT: dict[str, Callable[[bool, int], DataSet]] = {
    "scenes": lambda training, size: (
        Scenes.train(size=size) if training else Scenes.validation(size=size)
    ),
    "four_scenes": lambda training, size: Scenes.train(4, size=size),
    "wide_scenes": lambda training, size: (
        Scenes.train(size=size, wide=True) if training else Scenes.validation(size=size, wide=True)
    ),
    "nuclei": lambda training, size: Nuclei("train" if training else "test"),
    "pennfudan": lambda training, size: PennFudan("train" if training else "test"),
    "coco": _coco,
    "ten_coco": lambda training, size: Smaller(_open_coco(coco_folder(), "train2017"), size, 10),
}
_WHOLE: dict[str, Callable[[str, int], DataSet]] = {
    "scenes": _scenes_of,
    "nuclei": _nuclei_of,
    "pennfudan": _pennfudan_of,
    "coco": _coco_of,
}
_CATEGORIES = {
    "scenes": Scenes.categories,
    "four_scenes": Scenes.categories,
    "wide_scenes": Scenes.categories,
    "nuclei": Nuclei.categories,
    "pennfudan": PennFudan.categories,
}
