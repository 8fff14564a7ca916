"""The ledger: the claims of claims.toml, the runs of their arms, and what these say.

A claim compares two arms. An arm is a training, made with several seeds; its runs lie together in
lessons/recorded/claims/ARM.json, without weights. Where an arm is also a run of runs.toml
(`recorded`), that one is its seed 0, and if anybody keeps weights it does.
"""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.training.plan import Plan
from lessons.kit.training.runs import is_cpu_run, names, read
from lessons.kit.training.verdict import Verdict, judge, spread

HIGHER, LOWER = "higher", "lower"
MECHANISM = [{"says", "measure", "of", limit} for limit in ("least", "most")]
NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "pq": "PQ", "miou": "mIoU"}


@dataclass(frozen=True)
class Arm:
    """One of the trainings that a claim compares; every seed of it is made alike."""

    name: str
    title: str
    system: str
    minutes: float  # of a run on one thread, measured
    data: str = "scenes"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the recipe
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the full budget
    recorded: str = ""  # the run of runs.toml that is its seed 0
    held_out: str = ""  # scenes to tune on: what an arm is measured by where it is not `data`'s

    def plan(self, seed: int) -> Plan:
        """The run of one seed."""
        name = f"{self.name}-{seed}"
        how = self.system, self.data, "full", seed, self.options, self.changes
        return Plan(name, *how, weights=False, title=self.title)


@dataclass(frozen=True)
class Claim:
    """A sentence, and the comparison that can show it: the first arm is better than the second."""

    name: str
    says: str  # the lecture's sentence
    lesson: str  # "04"
    arms: tuple[Arm, ...]  # two
    measure: str  # a score, a check or a loss; or one of them minus another
    margin: float  # a smaller difference does not matter; stated before the runs
    seeds: int
    priority: int
    better: str = HIGHER
    mechanism: Mapping[str, Any] = field(default_factory=dict)  # says, measure, of, least or most
    published: str = ""
    titles: tuple[str, ...] = ()  # of the arms in this claim, where their own say something else


@dataclass(frozen=True)
class Tuning:
    """A setting that is chosen before a claim is judged: of one seed, on scenes of no claim."""

    name: str
    says: str  # what is chosen among what
    arms: tuple[Arm, ...]
    measure: str
    seed: int
    priority: int


@dataclass(frozen=True)
class Row:
    """What the runs say of a claim.

    `values` has, by seed, the measure of both arms; `acted` whether the mechanism did, None where
    no run tells; `mechanism` is its number; `scenes` the spread over scenes.
    """

    claim: Claim
    values: Mapping[int, tuple[float, float]]
    verdict: Verdict
    scenes: float
    mechanism: float
    acted: bool | None


def claims(folder: Path | None = None) -> dict[str, Claim]:
    """The claims of claims.toml by name, the most important first.

    Raises LessonsError naming the claim or arm that is not as it must be.
    """
    return dict(_read(folder)[0])


def tunings(folder: Path | None = None) -> dict[str, Tuning]:
    """The tunings of claims.toml by name, the most important first."""
    return dict(_read(folder)[1])


def _read(folder: Path | None) -> tuple[dict[str, Claim], dict[str, Tuning]]:
    path = (folder or places.RECORDED) / "claims.toml"
    return _read_file(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_file(path: Path, _changed: int) -> tuple[dict[str, Claim], dict[str, Tuning]]:
    with open(path, "rb") as file:
        said = tomllib.load(file)
    try:
        arms = {name: Arm(name=name, **entry) for name, entry in said["arms"].items()}
    except TypeError as error:
        raise LessonsError(f"{path.name}: an arm cannot be read: {error}") from None
    made = []
    for kind, section in ((Claim, "claims"), (Tuning, "tuning")):
        found = []
        for name, entry in said.get(section, {}).items():
            try:
                own = tuple(arms[arm] for arm in entry.pop("arms"))
                entry |= {"titles": tuple(entry["titles"])} if "titles" in entry else {}
                found.append(kind(name=name, arms=own, **entry))
            except (KeyError, TypeError) as error:
                raise LessonsError(f"{path.name}: {section} {name}: {error!r}") from None
        made.append({each.name: each for each in sorted(found, key=lambda each: each.priority)})
    for claim in made[0].values():
        _must_be_whole(path.name, claim)
    return tuple(made)


def _must_be_whole(file: str, claim: Claim) -> None:
    """Raise LessonsError where a claim of the file cannot be judged."""
    wrong = ""
    if len(claim.arms) != 2 or claim.arms[0] == claim.arms[1]:
        wrong = "compares two arms"
    elif len(claim.titles) not in (0, 2):
        wrong = "has two titles, one of each arm, or none"
    elif claim.better not in (HIGHER, LOWER):
        wrong = f"is {HIGHER} or {LOWER}, not {claim.better!r}"
    elif not claim.margin > 0 or claim.seeds < 1:
        wrong = "has a margin above 0 and at least one seed"
    elif claim.mechanism and claim.mechanism.keys() not in MECHANISM:
        wrong = "has a mechanism of says, measure, of, and least or most"
    if wrong:
        raise LessonsError(f"{file}: a claim {wrong}, see {claim.name}")


def claim_named(name: str) -> Claim:
    """One claim. Raises LessonsError with near names where there is none of that name."""
    known = claims()
    if name not in known:
        near = ", ".join(get_close_matches(name, known, n=3))
        hint = f", do you mean {near}?" if near else ": lessons claims lists them"
        raise LessonsError(f"there is no claim {name!r}{hint}")
    return known[name]


def runs_file(arm: Arm) -> Path:
    """Where the runs of an arm lie."""
    return places.RECORDED / "claims" / f"{arm.name}.json"


def runs_of(arm: Arm) -> dict[int, dict[str, Any]]:
    """The runs of an arm that are there, by seed; each with scores, checks, losses, …"""
    found = {}
    if arm.recorded in names():
        report = read(arm.recorded)
        if _is_of(report, arm):
            found[report["seed"]] = {**report, "losses": report["history"][-1]}
    path = runs_file(arm)
    if path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            found |= {run["seed"]: {**kept["settings"], **run} for run in kept["runs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise LessonsError(f"{path} is damaged: {error!r}") from None
    return dict(sorted(found.items()))


def _is_of(report: Mapping[str, Any], arm: Arm) -> bool:
    """Whether a recorded run is one of the arm: a run that was made anew elsewhere may be longer.

    That the arm says all that differs from the recipe is a test's business.
    """
    options = {**report["options"], **arm.options} == report["options"]
    same = (report["system"], report["data"]) == (arm.system, arm.data)
    return same and options and all(report[key] == value for key, value in arm.changes.items())


def value(run: Mapping[str, Any], measure: str) -> float:
    """A score, check or last loss of a run, or one minus another; NaN where it has none."""
    first, minus, second = measure.partition(" - ")
    if minus:
        return value(run, first) - value(run, second)
    for place in ("scores", "checks", "losses"):
        if (number := run.get(place, {}).get(measure)) is not None:
            return float(number)
    return math.nan


def row(claim: Claim) -> Row:
    """What the runs that are there say of a claim."""
    first, second = (runs_of(arm) for arm in claim.arms)
    both = [seed for seed in first if seed in second and _alike(first[seed], second[seed])]
    sign = 1 if claim.better == HIGHER else -1
    values, scenes = {}, []
    for seed in both:
        pair = value(first[seed], claim.measure), value(second[seed], claim.measure)
        if all(math.isfinite(number) for number in pair):
            values[seed] = pair
            drawn = [
                run.get("resampled", {}).get(claim.measure) for run in _at(seed, first, second)
            ]
            if all(drawn):
                scenes.append([_less(*pair) for pair in zip(*drawn, strict=True)])
    verdict = judge([sign * (a - b) for a, b in values.values()], claim.margin)
    number = _mechanism(claim.mechanism, first, second, both)
    said, acted = claim.mechanism, None
    if math.isfinite(number):
        acted = number >= said["least"] if "least" in said else number <= said["most"]
    return Row(claim, values, verdict, spread(scenes), number, acted)


def _less(one: float | None, other: float | None) -> float:
    """The difference of two scores, NaN where one could not be averaged."""
    return math.nan if one is None or other is None else one - other


def _at(seed: int, *arms: Mapping[int, Mapping]) -> list[Mapping]:
    return [runs[seed] for runs in arms]


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two runs were made on the same kind of machine."""
    return is_cpu_run(first) == is_cpu_run(second)


def _mechanism(
    said: Mapping[str, Any], first: Mapping, second: Mapping, both: Sequence[int]
) -> float:
    """The number that tells whether the mechanism acted, the mean over seeds; NaN without any."""
    if not said:
        return math.nan
    numbers = []
    for seed in both:
        one, other = (value(run, said["measure"]) for run in _at(seed, first, second))
        numbers.append({"first": one, "second": other, "difference": one - other}[said["of"]])
    numbers = [number for number in numbers if math.isfinite(number)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def rows() -> list[Row]:
    """The whole ledger, the most important claims first."""
    return [row(claim) for claim in claims().values()]


def measure_in_words(measure: str) -> str:
    """ "AP75" of "ap75"; other measures as they are, with spaces."""
    return NAMES.get(measure, measure.replace("_", " "))
