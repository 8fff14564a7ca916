"""The runs to be made: those that runs.toml lists, and one as the command line says it."""

import ast
import importlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.training.recipe import Budget, Recipe, differences

Own = Recipe | Callable[..., Recipe] | None
"""A notebook's own recipe, or the function that makes it; None for the package's."""


@dataclass(frozen=True)
class Plan:
    """A run that is to be made, as runs.toml or the command line says it."""

    name: str
    system: str
    data: str = "scenes"
    budget: str = "full"
    seed: int = 0
    options: Mapping[str, Any] | None = None  # of the recipe
    changes: Mapping[str, Any] | None = None  # of the budget: steps, batch, …
    weights: bool = True
    title: str = ""  # what it is, for the table of the README

    def recipe(self, own: Own = None) -> Recipe:
        """The lesson's recipe, or a notebook's own, with this run's options and budget.

        Raises LessonsError naming the system, option or budget that does not exist.
        """
        made = recipe_of(self.system, self.data, self.options or {}, own)
        known = {entry.name for entry in fields(Budget)}
        for option in self.changes or {}:
            if option not in known:
                raise LessonsError(f"a budget has no {option!r}, it has {', '.join(sorted(known))}")
        return made.with_budget(self.budget, **(self.changes or {}))


def recipe_of(system: str, data: str, options: Mapping[str, Any], own: Own = None) -> Recipe:
    """A lesson's recipe, found by its module's name; the model is built once to see that it can.

    With an `own` recipe, or the function that makes it, that one. Raises LessonsError where it
    is of another system or data set, or has other options.
    """
    try:
        made = own if isinstance(own, Recipe) else (own or _function_of(system))(data, **options)
        if not isinstance(made, Recipe):
            raise LessonsError(f"recipe must be a Recipe or make one, not a {type(made).__name__}")
        if own:
            _must_agree(made, system, data, options, whole=made is own)
        made.model()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        # Of a notebook's own code the reader wants to see the line that failed.
        raise LessonsError(f"{system} cannot be made with {dict(options)}: {what}") from (
            error if own else None
        )
    return made


def _must_agree(made: Recipe, system: str, data: str, options: Mapping, whole: bool) -> None:
    """Of a recipe that was made elsewhere, the `whole` of its options counts."""
    said = {"system": system, "data": data, **options}
    here = {"system": made.system, "data": made.data, **made.options}
    if not whole:
        here = {key: value for key, value in here.items() if key in said}
    said, here = (json.loads(json.dumps(each, default=repr)) for each in (said, here))
    if found := differences(here, said):
        raise LessonsError(f"the recipe is not that of the run: {found}")


def _function_of(system: str) -> Callable[..., Recipe]:
    """The `recipe` of the lesson's module."""
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
    return module.recipe


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
