"""What is installed, which device, which data: the first thing to ask when something is wrong."""

import importlib
import platform
import sys
from collections.abc import Callable, Sized
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lessons.kit import places
from lessons.kit.errors import LessonsError

BARE = "panopticapi-lite"  # the course's, too, and comes without its dependencies
IMPORTED = {"pillow": "PIL", BARE: "panopticapi"}  # where the package's name is not the module's
TESTED = "Programming Language :: Python :: "  # the classifiers that name the Pythons in use
PURPOSES = {"": "", "course": "the notebooks", "test": "make test"}
"""What each extra of pyproject.toml is needed for, "" being what is always needed."""


def examine(console: Console | None = None) -> None:
    """Print versions, device, folders and data; raise LessonsError naming what is missing."""
    console = console or Console()
    table = Table(title=f"Python {platform.python_version()} on {platform.platform()}")
    for heading in ("package", "installed", "needed", "state"):
        table.add_column(heading)
    table.add_row("Python", platform.python_version(), *_python())
    bad: dict[str, list[Requirement]] = {extra: [] for extra in PURPOSES}
    for needed, extra in _needed():
        # The rest builds on the core; what the tests compare with need not be loaded.
        load = extra == "" or (extra == "course" and not bad[""])
        found, state = _state(needed, extra, load)
        if state != "ok":
            bad[extra].append(needed)
        colour = "green" if state == "ok" else "yellow" if extra else "red"
        table.add_row(needed.name, found, str(needed.specifier), f"[{colour}]{state}[/]")
    console.print(table)
    broken = [needed.name for needed in bad[""]]
    if "torch" not in broken:
        console.print(f"device   {_device()}")
    for line in _folders():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not broken:  # the data sets could not be imported
        for line in _data():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for extra in ("course", "test"):
        if bad[extra]:
            line = f"For {PURPOSES[extra]}: {_install(bad[extra], extra)}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if broken:
        raise LessonsError(
            f"missing or broken: {', '.join(broken)}; install with {_install(bad[''])}"
        )
    console.print(f"All that the {'package needs' if bad['course'] else 'lessons need'} is here.")


def _python() -> tuple[str, str]:
    """The Pythons that will do, and whether this one is among those that the course was run on."""
    about = metadata("lessons")
    this, needed = platform.python_version(), about["Requires-Python"]
    if not SpecifierSet(needed).contains(this, prereleases=True):
        return needed, "[red]too old[/]"
    tested = [
        name.removeprefix(TESTED)
        for name in about.get_all("Classifier", [])
        if name.startswith(TESTED)
    ]
    if this.rsplit(".", 1)[0] not in tested:
        return needed, f"[yellow]the course was run on {', '.join(tested)}[/]"
    return needed, "[green]ok[/]"


def _needed() -> list[tuple[Requirement, str]]:
    """Each package that is needed, and the extra of pyproject.toml that names it."""
    found = []
    for needed in map(Requirement, requires("lessons") or []):
        if needed.name == "lessons":  # an extra that contains another
            continue
        marker = needed.marker
        for extra in PURPOSES:
            if marker is None or marker.evaluate({"extra": extra}):
                found.append((needed, extra))
                break
    return [*found, (Requirement(BARE), "course")]


def _install(missing: list[Requirement], extra: str = "") -> str:
    """What installs the missing: in a clone its pins, elsewhere the core's packages by name."""
    pip = f"{Path(sys.executable).name} -m pip install"
    clone = places.is_clone(places.ROOT)
    if not clone and not extra:
        return " ".join([pip, *(f'"{needed.name}{needed.specifier}"' for needed in missing)])
    line = f"{pip} -c constraints.txt -e " + (f'".[{extra}]"' if extra else ".")
    if extra == "course":
        line += f", then {pip} -c constraints.txt --no-deps {BARE}"
    return line if clone else f"clone the course, and there {line}"


def _state(needed: Requirement, extra: str, load: bool) -> tuple[str, str]:
    only = f", only for {PURPOSES[extra]}" if extra else ""
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return "–", f"missing{only}"
    if not needed.specifier.contains(found, prereleases=True):
        return found, f"too old{only}"
    if load:
        try:
            importlib.import_module(IMPORTED.get(needed.name, needed.name))
        except Exception as error:  # a broken pair of torch and torchvision raises many kinds
            first = (str(error) or type(error).__name__).strip().splitlines()[0]
            return found, f"cannot be imported{only}: {escape(first)}"
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
