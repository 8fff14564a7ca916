"""What pip is told: pins that every Python can install, and a core that needs nothing of Jupyter.

Read from what is installed here; no network is needed. Whether a wheel exists for each Python
cannot be known so: the Pythons named were installed and run.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import (
    PackageNotFoundError,
    metadata,
    packages_distributions,
    requires,
    version,
)
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from lessons.kit import doctor, places

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if (pin := Requirement(line))
}
PYTHONS = ("3.11.2", "3.12.0", "3.13.0", "3.14.0")
"""The oldest of each that the README names; 3.11.2 is Debian 12's own."""
BARE = "panopticapi-lite"  # installed without its dependencies
CUDA = re.compile(r"nvidia-|cuda-|triton$|setuptools$")
"""torch names the exact versions of CUDA's packages itself; setuptools is the builder's."""


def needed(requirements, python=None):
    """All packages that these need, by name: {name: [(who asks, the requirement)]}."""
    environment = {} if python is None else {"python_version": python.rpartition(".")[0]}
    if python is not None:
        environment["python_full_version"] = python
    found, waiting = {}, [("lessons", Requirement(line), {""}) for line in requirements]
    seen = set()
    while waiting:
        asking, requirement, extras = waiting.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate(environment | {"extra": e}) for e in extras):
            continue
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras | {""})
        if name == "lessons":
            waiting += [("lessons", Requirement(r), {""}) for e in wanted if e for r in EXTRAS[e]]
            continue
        found.setdefault(name, []).append((asking, requirement))
        if (name, wanted) not in seen and name != BARE:
            seen.add((name, wanted))
            try:
                more = requires(name) or []
            except PackageNotFoundError:  # needed on another Python only
                more = []
            waiting += [(name, Requirement(line), wanted) for line in more]
    return found


ALL = [*PROJECT["dependencies"], *EXTRAS["test"], BARE]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_admits_every_python_that_is_named(python):
    refusing = {}
    for name in PINS.keys() & needed(ALL).keys():  # what only another Python needs is not here
        pin = PINS[name]
        assert pin.specifier.contains(Version(version(name)).public), f"{pin} is not installed"
        admitted = metadata(name)["Requires-Python"]
        if admitted and not SpecifierSet(admitted).contains(python):
            refusing[str(pin)] = admitted
    assert refusing == {}


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_that_is_needed_is_pinned_in_a_version_that_is_wanted(python):
    for name, asked in needed(ALL, python).items():
        for who, requirement in asked:
            assert name in PINS or CUDA.match(name), f"{who} needs {requirement}"
            if name in PINS:
                (pinned,) = PINS[name].specifier
                assert requirement.specifier.contains(pinned.version, prereleases=True), who


def test_every_pin_is_needed_and_names_one_version_and_nothing_else():
    assert sorted({*PINS}.difference(*(needed(ALL, python) for python in PYTHONS))) == []
    for pin in PINS.values():
        assert [part.operator for part in pin.specifier] == ["=="] and pin.url is None


# ---------------------------------------------------------------- the core

ROOMS = (
    "lessons.kit.notebooks",
    "lessons.kit.peers",
    "lessons.kit.draw",
    "lessons.kit.homework.pictures",
    "lessons.figures",
)
"""What belongs to the course: notebooks, the references they compare with, pictures."""

CORE = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder

blocked, rooms = map(tuple, json.loads(sys.argv.pop(1)))


class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Core
"""

IMPORT_ALL = """
import lessons


def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name not in rooms and module.name != "lessons.__main__":
            found.append(module.name)
            loaded = importlib.import_module(module.name)
            if module.ispkg:
                walk(loaded)


found = []
walk(lessons)
print(json.dumps(found))
"""

COMMAND = """
from lessons.kit.cli import main
main()
"""


def in_the_core(code, *arguments, **environment):
    """Run code where nothing can be imported but the core's own dependencies and Python."""
    core = needed(PROJECT["dependencies"]).keys() | {"lessons"}
    blocked = [
        module
        for module, owners in packages_distributions().items()
        if core.isdisjoint(map(canonicalize_name, owners))
    ]
    assert {"IPython", "ipywidgets", "nbformat", "jupyterlab", "pytest", "beartype"} <= {*blocked}
    command = [sys.executable, "-c", CORE + code, json.dumps([blocked, ROOMS]), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment, cwd=ROOT
    )


def test_every_module_of_the_core_can_be_imported_without_jupyter_and_the_tests_packages():
    run = in_the_core(IMPORT_ALL)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    lessons = {path.stem[3:] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    built = {f"lessons.{name}" for name in lessons if (ROOT / f"lessons/{name}.py").exists()}
    assert built and built <= {*found}
    assert {"lessons.kit.cli", "lessons.kit.doctor", "lessons.kit.data.download"} <= {*found}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["results"], "mask_rcnn"),
        (["evaluate", "mask_rcnn", "--count", "2"], "ap50"),
        (["doctor"], "All that the package needs is here."),
    ],
)
def test_a_command_that_needs_no_jupyter(tmp_path, arguments, says):
    run = in_the_core(COMMAND, *arguments, COLUMNS="200", LESSONS_MY=str(tmp_path))
    assert run.returncode == 0 and run.stderr == "" and says in run.stdout, run


@pytest.mark.parametrize("arguments", [["run", "10"], ["build", "--check"]])
def test_a_command_that_needs_jupyter_says_how_to_install_it(arguments):
    run = in_the_core(COMMAND, *arguments)
    assert run.returncode == 1 and run.stdout == "" and run.stderr.count("\n") == 1
    assert run.stderr.startswith("lessons: the notebooks need ipywidgets, jupyterlab, nbformat, ")
    assert 'pip install -c constraints.txt -e ".[course]"' in run.stderr


def test_the_doctor_names_what_each_extra_lacks():
    run = in_the_core(COMMAND, "doctor", COLUMNS="200")
    rows = {line.split()[1]: line for line in run.stdout.splitlines() if line.startswith("│")}
    assert " ok " in rows["Python"] and " ok " in rows["torch"] and " ok " in rows["pooch"]
    for name in ("jupyterlab", "ipywidgets", "kornia", "panopticapi-lite"):
        assert "cannot be imported, only for the notebooks" in rows[name]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("For the notebooks: ")]
    assert 'pip install -c constraints.txt -e ".[course]", then ' in line
    assert "pip install -c constraints.txt --no-deps panopticapi-lite" in line


def test_the_doctor_outside_a_clone_names_packages_for_the_core_and_a_clone_for_the_rest(
    lessons, monkeypatch, tmp_path
):
    def find(name):
        if name in ("pooch", "jupyterlab", "pytest"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", find)
    monkeypatch.setattr(places, "ROOT", tmp_path)
    code, printed, errors = lessons("doctor")
    assert code == 1 and errors.startswith("lessons: missing or broken: pooch; install with ")
    assert errors.endswith('-m pip install "pooch>=1.8"\n')
    for purpose, extra in (("the notebooks", "course"), ("make test", "test")):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"For {purpose}: ")]
        assert "clone the course, and there " in line
        assert f'-m pip install -c constraints.txt -e ".[{extra}]"' in line


@pytest.mark.parametrize(
    "python, state", [("3.13.5", "ok"), ("3.10.13", "too old"), ("3.14.1", "3.11, 3.12, 3.13")]
)
def test_the_doctor_knows_the_pythons(lessons, monkeypatch, python, state):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: python)
    _, printed, _ = lessons("doctor")
    (row,) = [line for line in printed.splitlines() if "│ Python " in line]
    assert python in row and ">=3.11" in row and state in row
