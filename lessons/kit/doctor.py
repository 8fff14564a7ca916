"""What is installed, which device, which data: the first thing to ask when something is wrong."""

import importlib
import platform
import sys
from collections.abc import Callable, Sized
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lessons.kit import places
from lessons.kit.errors import LessonsError

IMPORTED = {"pillow": "PIL"}  # where the package's name is not the module's


def examine(console: Console | None = None) -> None:
    """Print versions, device, folders and data; raise LessonsError naming what is missing."""
    console = console or Console()
    table = Table(title=f"Python {platform.python_version()} on {platform.platform()}")
    for heading in ("package", "installed", "needed", "state"):
        table.add_column(heading)
    broken = []
    for needed in map(Requirement, requires("lessons") or []):
        if needed.marker and not needed.marker.evaluate({"extra": "test"}):
            continue
        optional = needed.marker is not None
        found, state = _state(needed, optional)
        if state != "ok" and not optional:
            broken.append(needed.name)
        colour = "green" if state == "ok" else "yellow" if optional else "red"
        table.add_row(needed.name, found, str(needed.specifier), f"[{colour}]{state}[/]")
    console.print(table)
    if "torch" not in broken:
        console.print(f"device   {_device()}")
    for line in _folders():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not broken:  # the data sets could not be imported
        for line in _data():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if broken:
        raise LessonsError(
            f"missing or broken: {', '.join(broken)}; install with "
            f"{Path(sys.executable).name} -m pip install -c constraints.txt -e ."
        )
    console.print("All that the lessons need is here.")


def _state(needed: Requirement, optional: bool) -> tuple[str, str]:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return "–", "missing, only for make test" if optional else "missing"
    if not needed.specifier.contains(found, prereleases=True):
        return found, "too old"
    if not optional:
        try:
            importlib.import_module(IMPORTED.get(needed.name, needed.name))
        except Exception as error:  # a broken pair of torch and torchvision raises many kinds
            first = (str(error) or type(error).__name__).strip().splitlines()[0]
            return found, f"cannot be imported: {escape(first)}"
    return found, "ok"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB (CUDA {torch.version.cuda})"
    return f"CPU, {torch.get_num_threads()} threads (no CUDA device found)"


def _folders() -> list[str]:
    my = places.my()
    here = places.is_clone(places.ROOT)
    return [
        f"course   {places.ROOT}{'' if here else ': the package alone, without its notebooks'}",
        f"my       {my}{'' if my.is_dir() else ': not there yet, lessons start 00 makes it'}",
    ]


def _data() -> list[str]:
    from lessons.kit.data.download import ARCHIVES, data_root
    from lessons.kit.data.real import CocoPanoptic, Nuclei, PennFudan, coco_folder, coco_splits

    root, splits = data_root(), coco_splits(coco_folder())
    lines = ["scenes   drawn on the fly, nothing to download", f"real     looked for in {root}"]
    for name, load in (("nuclei", Nuclei), ("pennfudan", PennFudan)):
        get = f"not found: lessons download {name}"
        there = (root / ARCHIVES[name].folder).exists()
        lines.append(f"  {name:<10} {_count(lambda load=load: load('all')) if there else get}")
    for split in splits:
        lines.append(f"  coco       {_count(lambda split=split: CocoPanoptic(split))} in {split}")
    if not splits:
        lines.append("  coco       not found: optional, unpacked to coco/")
    return lines


def _count(load: Callable[[], Sized]) -> str:
    """How many images a data set has, or what is wrong with it."""
    try:
        return f"{len(load())} images"
    except LessonsError as error:
        return f"cannot be used: {error}"
