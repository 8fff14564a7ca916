"""Drawings to play with: what a notebook stores, the grid, the frames, and what goes wrong."""

import io

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from rich.console import Console
from tiny_notebooks import KERNEL, write_notebook

from lessons.kit.draw import captioned
from lessons.kit.errors import LessonsError
from lessons.kit.notebooks import widgets
from lessons.kit.notebooks.executing import execute
from lessons.kit.notebooks.running import run_lessons, save_outputs
from lessons.kit.notebooks.widgets import choose, play, slide

DRAW = """import matplotlib.pyplot as plt
from lessons.kit.draw import captioned
from lessons.kit.notebooks.widgets import choose, play, slide


def draw(sheep, wolf=False):
    figure, ax = plt.subplots(figsize=(4, 3))
    if sheep > 2:
        raise ValueError("too many\\nsheep")
    ax.plot([0, sheep], [0, 1], "--" if wolf else "-")
    return captioned(figure, f"{sheep} sheep.")"""
PLAY = "play(draw, sheep=slide(1, 0, 4), wolf=False)"


def draw(sheep, wolf=False, shown=True, grass="green"):
    figure, ax = plt.subplots(figsize=(4, 3))
    ax.plot([0, sheep], [0, 1], "--" if wolf else "-")
    if sheep > 2:
        raise ValueError("too many\nsheep")
    return captioned(figure, f"{sheep} sheep, {wolf}, {grass}.") if shown else None


def executed(tmp_path, *cells):
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=KERNEL)
    return notebook, execute(notebook, tmp_path, tmp_path / "log")


def parts(player):
    """The widgets of a player by their names, its sentence and its picture."""
    rows, failed, picture = player._controls().children
    return {each.description: each for each in rows.children}, failed, picture


# ---------------------------------------------------------------- in a notebook


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A lesson with a widget, run, and saved."""
    root = tmp_path_factory.mktemp("house")
    path = write_notebook(root, "notebooks/01_sheep.ipynb", ["# Sheep", DRAW, PLAY], KERNEL)
    console = Console(file=io.StringIO(), width=200)
    run_lessons(root, console=console)
    save_outputs(root, console=console)
    return root, nbformat.read(path, as_version=4)


def test_a_stored_cell_holds_the_picture_and_nothing_of_a_widget(house):
    _, notebook = house
    (output,) = notebook.cells[2].outputs
    assert output.output_type == "display_data" and list(output.data) == ["image/png"]
    assert output.metadata["image/png"].alt == "1 sheep."
    assert "interactive" not in nbformat.writes(notebook)
    assert "widget-view" not in nbformat.writes(notebook) and "widgets" not in notebook.metadata


def test_a_page_holds_the_picture_once_and_nothing_of_a_widget(house):
    root, _ = house
    page = (root / "build/01_sheep.html").read_text()
    assert page.count('alt="1 sheep."') == page.count("<img") == 1
    for word in ("widget-view", "widget-state", "interactive(", "Play object", "VBox"):
        assert word not in page
    assert "widget-view" not in (root / "build/01_sheep.ipynb").read_text()


def test_where_a_kernel_runs_the_controls_come_before_the_picture_and_have_no_text(tmp_path):
    notebook, error = executed(tmp_path, DRAW, PLAY)
    assert error is None
    assert [[*output.data] for output in notebook.cells[1].outputs] == [
        [widgets.VIEW],
        ["image/png"],
    ]


def test_a_first_drawing_that_fails_is_one_sentence_and_the_cell_has_failed(tmp_path):
    notebook, error = executed(tmp_path, DRAW, PLAY.replace("slide(1", "slide(3"), "1 + 1")
    sentence = "draw(sheep=3, wolf=False) failed: ValueError: too many"
    assert error.endswith(f"PlayError: {sentence}") and notebook.cells[2].outputs == []
    (output,) = notebook.cells[1].outputs
    assert output.traceback == [sentence]


# ---------------------------------------------------------------- the values


@pytest.mark.parametrize(
    "control, values",
    [
        (slide(1, 0, 3), [0, 1, 2, 3]),
        (slide(0.3, 0, 0.5, 0.1), [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (slide(0.05, 0.05, 0.95, 0.45), [0.05, 0.5, 0.95]),
        (slide(-1, -2, 2, 1), [-2, -1, 0, 1, 2]),
        (slide(1e-4, 0, 2e-4, 1e-4), [0, 1e-4, 2e-4]),
        (choose("b", ["a", "b"]), ["a", "b"]),
        (choose(2, {"one": 1, "two": 2}), [1, 2]),
    ],
)
def test_a_control_has_the_values_that_it_states(control, values):
    assert control.values == values and control.start in values


def test_the_grid_has_every_control_and_its_values_are_those_that_are_drawn():
    player = play(draw, sheep=slide(1, 0, 2, 0.5), wolf=True, grass=["green", "dry"])
    assert player.grid == {
        "sheep": [0, 0.5, 1, 1.5, 2],
        "wolf": [False, True],
        "grass": ["green", "dry"],
    }
    assert player.start == {"sheep": 1, "wolf": True, "grass": "green"}
    assert player.picture(sheep=1.5, grass="dry").caption == "1.5 sheep, True, dry."


@pytest.mark.parametrize(
    "control, kind",
    [
        (slide(1, 0, 2), "IntSlider"),
        (slide(1, 0, 2, 0.5), "FloatSlider"),
        ([0, 1], "SelectionSlider"),
        (choose(1, [0, 1, 2]), "SelectionSlider"),
        ([1, 0], "Dropdown"),
        ({"none": 0, "one": 1}, "Dropdown"),
        (True, "Checkbox"),
    ],
)
def test_a_control_is_moved_by(control, kind):
    moved, _, _ = parts(play(lambda it: draw(1), it=control))
    assert type(moved["it"]).__name__ == kind
    assert getattr(moved["it"], "continuous_update", False) is False


def test_frames_are_the_start_and_each_control_alone():
    frames = play(draw, sheep=slide(1, 0, 2), wolf=False).frames
    assert frames == [
        {"sheep": 0, "wolf": False},
        {"sheep": 1, "wolf": False},
        {"sheep": 1, "wolf": True},
        {"sheep": 2, "wolf": False},
    ]


def test_frames_are_at_most_24_the_ends_among_them():
    frames = play(draw, sheep=slide(1, -200, 2)).frames
    sheep = [frame["sheep"] for frame in frames]
    assert len(frames) == 24 and sheep == sorted(sheep)
    assert sheep[0] == -200 and sheep[-1] == 2 and 1 in sheep
    many = play(draw, sheep=slide(1, -200, 2), wolf=False, grass=list("abcdefghijkl")).frames
    assert len(many) == 24 and many.count({"sheep": 1, "wolf": False, "grass": "a"}) == 1


def test_an_author_chooses_the_frames_in_all_combinations():
    chosen = {"sheep": [0, 2], "wolf": [False, True]}
    frames = play(draw, frames=chosen, sheep=slide(1, 0, 2), wolf=False, grass=["a", "b"]).frames
    assert [tuple(frame.values()) for frame in frames] == [
        (0, False, "a"),
        (0, True, "a"),
        (2, False, "a"),
        (2, True, "a"),
    ]


# ---------------------------------------------------------------- moved


def test_a_move_draws_again_and_says_what_fails_until_something_else_is_drawn():
    moved, failed, picture = parts(play(draw, sheep=slide(1, 0, 4), wolf=False))
    assert failed.value == picture.value == ""
    moved["sheep"].value = 2
    assert 'alt="2 sheep, False, green."' in picture.value and failed.value == ""
    shown = picture.value
    moved["sheep"].value = 3
    assert "draw(sheep=3, wolf=False) failed: ValueError: too many<" in failed.value
    assert picture.value == shown and plt.get_fignums() == []
    moved["wolf"].value = True
    assert "wolf=True" in failed.value
    moved["sheep"].value = 0
    assert failed.value == "" and 'alt="0 sheep, True, green."' in picture.value


def test_a_slider_draws_the_value_and_not_what_the_browser_makes_of_it():
    moved, _, picture = parts(play(draw, sheep=slide(0.1, 0, 0.4, 0.1)))
    moved["sheep"].value = 0.30000000000000004
    assert 'alt="0.3 sheep, ' in picture.value


def test_options_are_drawn_by_their_values():
    moved, _, picture = parts(play(draw, sheep={"none": 0, "two": 2}, grass=["<b>", "dry"]))
    moved["sheep"].value = 1
    assert 'alt="2 sheep, False, &lt;b&gt;."' in picture.value


def test_a_quick_picture_looks_like_the_stored_one_and_stays_unstored():
    quick, stored = (Image.open(io.BytesIO(png)) for png in (draw(1).quick_png(), draw(1).png()))
    assert quick.format == "PNG"
    (w, h), (width, height) = quick.size, stored.size
    assert w / width == pytest.approx(110 / stored.info["dpi"][0], rel=0.02)
    assert w / h == pytest.approx(width / height, rel=0.02)
    one, other = draw(1).bundle(quick=True)[1], draw(1).bundle()[1]
    assert one["image/png"]["width"] == pytest.approx(other["image/png"]["width"], abs=2)


# ---------------------------------------------------------------- bad use

WRONG = {
    "sheep=8 is no control: take slide(": lambda: play(draw, sheep=8),
    "sheep=[] is no control": lambda: play(draw, sheep=[]),
    "sheep='many' is no control": lambda: play(draw, sheep="many"),
    "draw has no control to play with": lambda: play(draw),
    "draw cannot be drawn with these controls: missing a required argument: 'sheep'": (
        lambda: play(draw, wolf=True)
    ),
    "got an unexpected keyword argument 'goat'": lambda: play(
        draw, sheep=slide(1, 0, 2), goat=True
    ),
    "draw(sheep=1, shown=False) returned nothing: it must return captioned(figure, caption)": (
        lambda: play(draw, sheep=slide(1, 0, 2), shown=False)
    ),
    "returned int: it must": lambda: play(lambda x: 3, x=True),
    "slide(5, 0, 3, 1): 5 is none of its values, the nearest is 3": lambda: slide(5, 0, 3),
    "slide(0.55, 0, 1, 0.1): 0.55 is none of its values": lambda: slide(0.55, 0, 1, 0.1),
    "slide(1, 3, 0, 1): a slider goes up": lambda: slide(1, 3, 0),
    "slide(0, 0, 1, 0): a slider goes up": lambda: slide(0, 0, 1, 0),
    "slide(0, 0, 1, 0.3): 1 is no whole number of steps above 0": lambda: slide(0, 0, 1, 0.3),
    "slide(0, 0, inf, 1): a slider goes over finite numbers": lambda: slide(0, 0, float("inf")),
    "choose('c', …): the start is none of the options, ['a', 'b']": lambda: choose("c", ["a", "b"]),
    "there must be two options or more": lambda: choose("a", ["a"]),
    "two options have one name": lambda: choose(0.1, [0.1, 0.10001]),
    "frames: sheep has no value 9": lambda: play(draw, frames={"sheep": [9]}, sheep=slide(1, 0, 2)),
    "frames: goat has no value": lambda: play(draw, frames={"goat": []}, sheep=slide(1, 0, 2)),
    "frames: 30 are too many, at most 24 are drawn": lambda: play(
        draw, frames={"sheep": range(30)}, sheep=slide(1, 0, 30)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_use_is_one_sentence(message):
    with pytest.raises(LessonsError) as error:
        WRONG[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
    assert plt.get_fignums() == []
