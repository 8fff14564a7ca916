"""Every widget of the lessons in a real browser: each control is moved, the picture follows.

A widget's cell stands in a notebook of its own, behind what it needs of the cells before it.
Without a Chromium these tests are skipped, unless LESSONS_BROWSER=required says that they must
not be.
"""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from reduced import needed_for

from lessons.kit.notebooks.reading import METADATA, read_notebook

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = os.environ.get("LESSONS_BROWSER") == "required"
FRAME_SECONDS = 20  # far more than any takes: a machine may be busy

try:
    from lab import CHROMIUM, Notebook, browsed, jupyterlab

    MISSING = "" if CHROMIUM else "no chromium is installed"
except ImportError as error:  # playwright
    MISSING = str(error)
if MISSING and not REQUIRED:
    pytest.skip(f"widgets are not tried in a browser: {MISSING}", allow_module_level=True)


def widgets():
    """Each cell that plays, by its notebook and place: the code cells of a notebook up to it."""
    found = {}
    for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb")):
        cells = [c.source for c in read_notebook(path).cells if c.cell_type == "code"]
        for k, text in enumerate(cells):
            calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
            if any(getattr(call.func, "id", "") == "play" for call in calls):
                found[f"{path.stem}-{k}"] = cells[: k + 1]
    return found


WIDGETS = widgets()

FAILING = """import matplotlib.pyplot as plt
from lessons.kit.draw import captioned
from lessons.kit.notebooks.widgets import play, slide


def draw(sheep, tall):
    figure, ax = plt.subplots(figsize=(4, 6 if tall else 3))
    if sheep == 2:
        raise ValueError("two sheep\\nare a problem")
    ax.plot([0, sheep], [0, 1])
    return captioned(figure, f"{sheep} sheep.")


play(draw, sheep=slide(1, 0, 3), tall=False)"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab in a browser, and the folder that it serves."""
    assert not MISSING, MISSING
    folder = tmp_path_factory.mktemp("browser") / "served"
    folder.mkdir()
    with jupyterlab(folder) as address, browsed(address) as page:
        yield page, folder


@pytest.fixture
def open_(lab, request):
    """Opens a notebook of these cells in JupyterLab; it ends with the test, its kernel too."""
    page, folder = lab

    def open_(cells):
        notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=METADATA)
        path = folder / f"{request.node.originalname}_{len([*folder.iterdir()])}.ipynb"
        nbformat.write(notebook, path)
        opened = Notebook(page, path.name)
        request.addfinalizer(opened.close)
        return opened

    return open_


def test_all_lessons_with_a_widget_are_found():
    assert len(WIDGETS) >= 15 and {name[:2] for name in WIDGETS} >= {"00", "05", "10", "17"}


@pytest.mark.parametrize("name", WIDGETS)
def test_every_control_draws_another_picture(name, open_, record_property):
    cells = WIDGETS[name]
    notebook = open_(needed_for(cells, len(cells) - 1))
    notebook.run()
    assert len(notebook.pictures()) == 1
    seconds = []
    for control in notebook.controls.all():
        seconds.append(notebook.move(control))
        assert notebook.errors() == [] and len(notebook.pictures()) == 1
    record_property("frames", f"{name}: {', '.join(f'{s:.2f}' for s in seconds)} s")
    assert seconds and max(seconds) < FRAME_SECONDS
    assert notebook.complaints == []


def test_a_drawing_that_fails_says_so_and_the_next_one_is_drawn(open_):
    notebook = open_([FAILING])
    notebook.run()
    slider, box = notebook.controls.all()
    first = notebook.pictures()
    slider.press("ArrowRight")
    failed = notebook.last.locator(".lessons-failed")
    failed.wait_for()
    called = "draw(sheep=2, tall=False)"
    assert failed.inner_text() == f"{called} failed: ValueError: two sheep"
    assert notebook.pictures() == first
    slider.press("ArrowRight")
    failed.wait_for(state="detached")
    assert len(notebook.pictures()) == 1 and notebook.pictures() != first
    box.click()
    notebook.page.wait_for_function("document.querySelector('.lessons-picture').height > 400")
    assert notebook.errors() == [] and notebook.complaints == []
