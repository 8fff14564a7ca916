"""`lessons mine`: the recorded weights run by the student's own functions.

A package is built from what passed (`parts.py`, `assembly.py`), and a process of its own measures
the recorded system with it, beside another that measures it with the course's (`trial.py`).
"""

import importlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lessons.kit import places
from lessons.kit.data import Segments, things
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.guard import held
from lessons.kit.homework import assembly, parts
from lessons.kit.homework.assembly import Place
from lessons.kit.training import runs

COUNT = 40  # images: with and without the student's functions 10 to 16 s on one core
SECONDS = 300  # until a process is taken for one that hangs
GRACE = 120  # … and for how much longer it is waited for: it has to start, too
NO_TURN = "None of its functions is a turn yet, so none can be yours."
BEGIN = (
    "Nothing in it is yours yet. Begin with lessons start {number} and write a function at "
    "*Your turn*: what passes its check is kept in my/parts and stands here as yours."
)


@dataclass(frozen=True)
class Row:
    """A part of a system: whose it is, and how often it was called while it was measured."""

    lesson: str
    name: str
    whose: str  # "yours", "reference" or "owed"
    calls: int | None = None


@dataclass(frozen=True)
class Mine:
    """A system with the student's functions: a row a part, the scores beside the reference's.

    Where nothing of it is the student's, there are no scores and `begin` says how to begin.
    """

    system: str
    rows: Sequence[Row]
    images: int = 0
    yours: Mapping[str, float] | None = None
    reference: Mapping[str, float] | None = None
    picture: Path | None = None
    begin: str = ""

    def __repr__(self) -> str:
        cells = [("lesson", "function", "", "" if self.yours is None else "calls")]
        for row in self.rows:
            lesson = f"{number_of(row.lesson)} {row.lesson}".strip()
            calls = "" if row.calls is None else f"{row.calls:,}"
            cells.append((lesson, row.name, row.whose, calls))
        lines = [f"{self.system}, with what you wrote", *_columns(cells, "<<<>")]
        if not self.rows:
            return self.begin
        if self.yours is None or self.reference is None:
            return "\n".join([*lines, "", self.begin])
        numbers = [(f"the recorded weights, {self.images} held-out images", "yours", "reference")]
        for key in self.reference:
            both = self.yours.get(key, math.nan), self.reference[key]
            numbers.append((key, *(f"{value:.3f}" for value in both)))
        lines += ["", *_columns(numbers, "<>>")]
        if self.picture is not None:
            lines += ["", f"{places.shown(self.picture)}: truth, the reference's answer, yours"]
        return "\n".join(lines)

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display

        print(self)
        if self.picture is not None:
            caption = f"Truth, {self.system} with the reference's parts, and with yours."
            display(Image(self.picture, alt=caption))


def mine(system: str, count: int | None = COUNT, seconds: float | int = SECONDS) -> Mine:
    """A recorded system with the student's functions, as the last line of a notebook's cell.

    Outside of my/, where a notebook is read and not worked in, nothing is the student's.
    """
    return measure(system, count, seconds, parts.kept() if places.at_work() else ())


def measure(
    system: str,
    count: int | None = COUNT,
    seconds: float | int = SECONDS,
    own: Sequence[parts.Part] | None = None,
) -> Mine:
    """Build the package from the student's parts, measure a system with it, draw one picture.

    `count` are the first held-out images, all if None. The built modules and the picture lie in
    my/build. Raises LessonsError, naming the part, where a part of the student's raises, is still
    running after `seconds`, or keeps a module from being imported; and where there is no such
    recorded system.
    """
    if system not in systems():
        raise LessonsError(f"there is no recorded system {system!r}: {', '.join(systems())}")
    own = parts.kept() if own is None else own
    rows = _rows(system, own)
    if not any(row.whose == "yours" for row in rows):
        begin = BEGIN.format(number=number_of(rows[0].lesson) or "NN") if rows else NO_TURN
        return Mine(system, rows, begin=f"{system}: {begin}")
    home = assembly.folder().parent
    with held(home):
        built = assembly.build(own)
        both = _both(system, count, seconds, home)
        yours, reference = (_read(each, built, seconds) for each in both)
        rows = [
            Row(r.lesson, r.name, r.whose, yours["calls"].get(f"{r.lesson}/{r.name}", 0))
            if r.whose == "yours"
            else r
            for r in rows
        ]
        picture = home / f"{system}.png"
        picture.write_bytes(_picture(system, count, reference, both))
        for each in both:
            for kind in ("json", "pt", "hung"):
                Path(f"{each}.{kind}").unlink(missing_ok=True)
    return Mine(system, rows, yours["images"], _numbers(yours), _numbers(reference), picture)


def systems() -> list[str]:
    """The systems whose weights the course has recorded."""
    found = [name for name in runs.names() if (runs.find(name) / "weights.safetensors").is_file()]
    return [name for name in found if runs.read(name)["system"] == name]


def systems_of(own: Sequence[parts.Part]) -> list[str]:
    """Those of them in which one of these parts stands."""
    names = {(part.lesson, part.name) for part in own}
    return [system for system in systems() if names & set(assembly.reached(system))]


def number_of(lesson: str) -> str:
    """A lesson's number, "04"; "" where the notebooks are not at hand."""
    found = (places.ROOT / "notebooks").glob(f"[0-9][0-9]_{lesson}.ipynb")
    return next((path.name[:2] for path in found), "")


def _rows(system: str, own: Sequence[parts.Part]) -> list[Row]:
    """The parts of a system that a student writes: the turns of its lessons, and what is kept."""
    reached = assembly.reached(system)
    turns = {lesson: _turns_of(lesson) for lesson, _ in reached}
    yours, debts = {(part.lesson, part.name) for part in own}, parts.owed()
    rows = [
        Row(*each, "yours" if each in yours else "owed" if each in debts else "reference")
        for each in reached
        if each in yours or each[1] in turns[each[0]]
    ]
    return sorted(rows, key=lambda row: (number_of(row.lesson), row.lesson))


def _turns_of(lesson: str) -> set[str]:
    """The names of a lesson's turns; a lesson may have no homework module, or no turns."""
    try:
        module = importlib.import_module(f"lessons.homework.{lesson}")
    except ModuleNotFoundError as error:
        if error.name != f"lessons.homework.{lesson}":
            raise
        return set()
    return set(getattr(module.homework, "turns", ()))


def _numbers(said: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are printed, and the loss of a training step."""
    scores = {key: said["scores"][key] for key in runs.MAIN_SCORES if key in said["scores"]}
    numbers = scores | {"loss of one step": sum(_float(x) for x in said["losses"].values())}
    return {key: _float(value) for key, value in numbers.items()}


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _columns(cells: Sequence[tuple[str, ...]], sides: str) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip()


# ---------------------------------------------------------------- the two processes


def _both(system: str, count: int | None, seconds: float | int, home: Path) -> tuple[Path, Path]:
    """Measure a system with the student's modules and without, side by side, and wait for both."""
    yours, reference = home / f".{system}_yours", home / f".{system}_reference"
    processes = []
    try:
        for out, built in ((yours, str(assembly.folder())), (reference, "")):
            for kind in ("json", "pt", "hung"):
                Path(f"{out}.{kind}").unlink(missing_ok=True)
            processes.append(_start(system, count, seconds, str(out), built))
        end = time.monotonic() + seconds + GRACE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            if not Path(f"{yours}.pt").is_file():  # it failed: nothing to compare
                break
    finally:  # also at Ctrl-C
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return yours, reference


def _start(*arguments: Any) -> subprocess.Popen:
    """One process; what it prints is the student's functions', and nobody asked for it."""
    paths = [str(places.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 2) // 2))
    code = f"from lessons.kit.homework import trial; trial.main(*{arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code],  # -B: a module built anew is never one remembered
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": threads,
            "MPLBACKEND": "agg",
        },
    )


def _read(out: Path, built: Sequence[Place], seconds: float | int) -> dict[str, Any]:
    """What a process found. Raises LessonsError where it came to no end."""
    try:
        said = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {}
    if "scores" in said:
        return said
    if said.get("ours"):
        raise LessonsError(said["ours"])
    yours = out.name.endswith("_yours")
    hung = re.findall(r'File "(.+)", line (\d+)', _text(Path(f"{out}.hung")))
    frames = said.get("frames") or [(name, int(line)) for name, line in hung]
    part = _part_in(frames, built) if yours else None
    where = f"your {part.name} ({places.shown(part.path)})" if part else "the system"
    if "error" in said:
        what = f"{where} stops with {said['error']}"
    elif hung:
        what = f"{where} was still running after {seconds:g} s: measure fewer images (--count)"
    else:
        what = "its process ended without a word"
    if yours and part is None:
        names = ", ".join(dict.fromkeys(place.part.name for place in built))
        what += f": of these one returns what its check never asked for, or ends it: {names}"
    raise LessonsError(what)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _part_in(frames: Sequence[Sequence], built: Sequence[Place]) -> parts.Part | None:
    """The part that is deepest in a traceback, whose frames come innermost first."""
    for name, line in frames:
        for place in built:
            if place.module == Path(name) and place.first <= int(line or 0) <= place.last:
                return place.part
    return None


# ---------------------------------------------------------------- the picture


def _picture(
    system: str, count: int | None, said: Mapping[str, Any], both: Sequence[Path]
) -> bytes:
    """One held-out image: the truth, the reference's answer and the student's, as a PNG."""
    from lessons.kit.draw import captioned, side_by_side

    report = runs.read(system)
    images = data_set(report["data"], "validation", report["size"], count)
    sample, kinds = images[said["shown"]], images.categories
    yours, reference = (torch.load(f"{out}.pt", weights_only=True) for out in both)
    truth = sample.segments if said["stuff"] else things(sample.segments, kinds)
    answers = {"truth": truth}
    for title, answer in (("the reference's parts", reference), ("yours", yours)):
        likely = slice(None) if answer["scores"] is None else answer["scores"] > 0.5
        answers[title] = Segments(answer["masks"][likely], answer["labels"][likely])
    figure = side_by_side(sample.image, answers, kinds)
    caption = f"{system} with its recorded weights: truth, the reference's parts, and yours."
    return captioned(figure, caption).png()
