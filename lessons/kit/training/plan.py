"""The runs to be made: those that runs.toml lists, and one as the command line says it."""

import ast
import importlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.training.recipe import Budget, Recipe


@dataclass(frozen=True)
class Plan:
    """A run that is to be recorded, as runs.toml says it."""

    name: str
    system: str
    data: str = "scenes"
    budget: str = "full"
    seed: int = 0
    options: Mapping[str, Any] | None = None  # of the recipe
    changes: Mapping[str, Any] | None = None  # of the budget: steps, batch, …
    weights: bool = True
    title: str = ""  # what it is, for the table of the README

    def recipe(self) -> Recipe:
        """The lesson's recipe with this run's options and budget.

        Raises LessonsError naming the system, option or budget that does not exist.
        """
        made = recipe_of(self.system, self.data, self.options or {})
        known = {entry.name for entry in fields(Budget)}
        for option in self.changes or {}:
            if option not in known:
                raise LessonsError(f"a budget has no {option!r}, it has {', '.join(sorted(known))}")
        return made.with_budget(self.budget, **(self.changes or {}))


def recipe_of(system: str, data: str, options: Mapping[str, Any]) -> Recipe:
    """A lesson's recipe, found by its module's name; the model is built once to see that it can."""
    if not system.isidentifier() or system.startswith("_"):
        raise LessonsError(f"there is no system {system!r}: {systems_in_words()}")
    try:
        module = importlib.import_module(f"lessons.{system}")
    except ModuleNotFoundError as error:
        if error.name != f"lessons.{system}":
            raise
        raise LessonsError(f"there is no system {system!r}: {systems_in_words()}") from None
    if not hasattr(module, "recipe"):
        raise LessonsError(f"{system} trains no model: {systems_in_words()}")
    try:
        made = module.recipe(data, **options)
        made.model()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise LessonsError(f"{system} cannot be made with {dict(options)}: {what}") from None
    return made


def systems_in_words() -> str:
    names = []
    for path in sorted((places.ROOT / "lessons").glob("*.py")):
        if "\ndef recipe(" in path.read_text(encoding="utf-8"):
            names.append(path.stem)
    return f"choose {', '.join(names)}" if names else "no lesson trains one yet"


def plans() -> dict[str, Plan]:
    """The runs that the course records, by name."""
    with open(places.RECORDED / "runs.toml", "rb") as file:
        return {name: Plan(name=name, **entry) for name, entry in tomllib.load(file).items()}


def plan(
    name: str,
    system: str,
    data: str = "scenes",
    budget: str = "full",
    seed: int = 0,
    changes: Sequence[str] = (),
    weights: bool = True,
) -> Plan:
    """A run as the command line says it; `changes` are "option=value".

    An option that is a field of `Budget` changes the budget, any other goes to the recipe.
    Raises LessonsError for a name that is no folder's and a change without "=".
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise LessonsError(f"{name!r} cannot name a run: letters, digits, _ and - only")
    options, parts = {}, {}
    budget_fields = {entry.name for entry in fields(Budget)}
    for change in changes:
        option, equals, text = change.partition("=")
        if not equals or not option.isidentifier():
            raise LessonsError(f"--set takes option=value, not {change!r}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = text
        (parts if option in budget_fields else options)[option] = value
    return Plan(name, system, data, budget, seed, options, parts, weights)
