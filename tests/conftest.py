"""Shapes and types of `lessons` are checked at run time: jaxtyping's annotations, by beartype.

The tests in bad_input/ run with JAXTYPING_DISABLE=1 and see the messages that a user sees.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

if not os.environ.get("JAXTYPING_DISABLE"):
    install_import_hook("lessons", "typecheck.check")


@pytest.fixture(autouse=True)
def same_numbers():
    """A test draws the same numbers every time, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_figure_left():
    """A test finds no figure that another one left open."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def nobody_s_work(monkeypatch, tmp_path_factory):
    """No test sees the folder my/ of whoever runs the tests, or writes there."""
    monkeypatch.setenv("LESSONS_MY", str(tmp_path_factory.getbasetemp() / "my"))


@pytest.fixture(scope="session")
def coco():
    """The 100 COCO images with their panoptic annotations, where they are at hand."""
    from lessons.kit.data.real import CocoPanoptic
    from lessons.kit.errors import LessonsError

    try:
        return CocoPanoptic()
    except LessonsError as error:
        pytest.skip(f"no COCO images: {error}")


@pytest.fixture(scope="module")
def coco_samples(coco):
    """The COCO images as samples, read once for a file of tests."""
    return list(coco)


@pytest.fixture(scope="module")
def scenes():
    """The held-out scenes."""
    from lessons.kit.data.scenes import Scenes

    return Scenes.validation()


@pytest.fixture(scope="session")
def nuclei():
    """The nuclei images, where they are at hand."""
    from lessons.kit.data.real import Nuclei
    from lessons.kit.errors import LessonsError

    try:
        return Nuclei("all")
    except LessonsError as error:
        pytest.skip(f"no nuclei images: {error}")


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone's folder."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def lessons(monkeypatch, capsys):
    """Run `lessons …` in this process; the exit code, what it printed and its errors."""
    from rich.console import Console

    from lessons.kit import cli

    monkeypatch.setattr(cli, "console", Console(width=200))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lessons", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for records, others for checkpoints and the user's, and lessons.tiny as a system."""
    import tiny_training

    from lessons.kit import places

    monkeypatch.setattr(places, "RECORDED", tmp_path / "recorded")
    monkeypatch.setattr(places, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setenv("LESSONS_MY", str(tmp_path / "my"))
    monkeypatch.setitem(sys.modules, "lessons.tiny", tiny_training)
    places.RECORDED.mkdir()
    return places.RECORDED


def pytest_terminal_summary(terminalreporter):
    """The times of widgets' frames, which tests/browser takes and does not judge."""
    kept = (
        line
        for report in terminalreporter.stats.get("passed", ())
        for name, line in report.user_properties
        if name == "frames"
    )
    for line in kept:
        terminalreporter.write_line(f"a frame in the browser, {line}")
