"""What a student's checks leave in my/parts: the cells that passed, and the debts."""

import json
import linecache
from itertools import count

import nbformat
import pytest
from nbclient import NotebookClient

from lessons.kit import draw, places
from lessons.kit.errors import LessonsError
from lessons.kit.homework import parts

NUMBER = count()


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A student who works below my/."""
    monkeypatch.setenv("LESSONS_MY", str(tmp_path / "my"))
    (tmp_path / "my" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "my" / "here")
    monkeypatch.setattr(draw, "OWED", set())
    return tmp_path / "my"


def cell(text, values=None):
    """Run a cell as a notebook does; its names."""
    values = {"__name__": "__main__"} if values is None else values
    file = f"<cell {next(NUMBER)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), values)
    return values


AREA = '''"""Not the function's."""
import math


def half(x):
    return x / 2  # a comment


def area(r):
    """Of a circle."""
    return 2 * half(math.pi * r * r)


print(area(1.0))
'''


def test_the_whole_cell_of_a_part_is_kept(work):
    assert parts.keep("roi_align", cell(AREA)["area"]) is True
    (part,) = parts.kept()
    assert part.path == work / "parts/roi_align/area.py"
    assert part.text == part.path.read_text(encoding="utf-8") == AREA
    assert (part.lesson, part.name) == ("roi_align", "area")
    assert parts.read("roi_align", "area") == AREA
    with pytest.raises(LessonsError, match="parts/roi_align/other.py is not there"):
        parts.read("roi_align", "other")


def test_a_later_version_replaces_the_part(work):
    parts.keep("roi_align", cell(AREA)["area"])
    later = "def area(r):\n    return 3.0 * r * r\n"
    parts.keep("roi_align", cell(later)["area"])
    assert [part.text for part in parts.kept()] == [later]
    assert sorted(path.name for path in (work / "parts/roi_align").iterdir()) == ["area.py"]


def test_what_other_cells_define_comes_along(work):
    values = cell(
        "import math as m\nfrom pathlib import Path\nimport torch\nSCALE, USED = 2.0, (1, 'a')\n"
    )
    cell("def twice(x):\n    return SCALE * x\n", values)
    cell("def four_times(x):\n    return twice(twice(x))\n", values)
    cell("huge = torch.zeros(3)\nunused = 1\n", values)
    text = (
        "def area(r: Path, wrong=USED) -> torch.Tensor:\n"
        "    unused = 3\n    return m.pi * four_times(r) + roi_align(huge)\n"
    )
    parts.keep("roi_align", cell(text, values)["area"])
    # torch and roi_align are names of the lesson's own module; a tensor is no text
    assert parts.read("roi_align", "area") == "\n\n\n".join(
        [
            "from pathlib import Path as Path",
            "USED = (1, 'a')",
            "SCALE = 2.0",
            "def twice(x):\n    return SCALE * x",
            "def four_times(x):\n    return twice(twice(x))",
            "import math as m",
            text,
        ]
    )


def test_helpers_that_call_one_another_end(work):
    values = cell("def even(n):\n    return n == 0 or odd(n - 1)\n")
    cell("def odd(n):\n    return n != 0 and even(n - 1)\n", values)
    text = "def area(r):\n    return even(r)\n"
    assert parts.keep("roi_align", cell(text, values)["area"])
    assert parts.read("roi_align", "area").count("def ") == 3


def test_a_decorated_function_is_found(work):
    text = (
        "from jaxtyping import Float\nfrom torch import Tensor\n"
        "from lessons.kit.data.checks import checked\n\n\n"
        '@checked\ndef area(r: Float[Tensor, "n"]):\n    return r * r\n'
    )
    assert parts.keep("roi_align", cell(text)["area"])
    assert parts.read("roi_align", "area") == text


def test_nothing_is_kept_outside_of_my(work, tmp_path, monkeypatch):
    for folder in (tmp_path, work / "teach"):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        assert parts.keep("roi_align", cell(AREA)["area"]) is False
        parts.owe("roi_align", "area")
        parts.settle("roi_align", cell(AREA)["area"], passed=False)
    assert not (work / "parts").exists() and not draw.OWED


def test_what_has_no_cell_is_not_kept(work):
    values = {}
    exec("def area(r):\n    return r\n", values)
    assert parts.keep("roi_align", values["area"]) is False
    assert parts.keep("roi_align", max) is False
    made = cell("def make():\n    def area(r):\n        return r\n    return area\narea = make()\n")
    assert parts.keep("roi_align", made["area"]) is False
    assert parts.kept() == []


def test_a_folder_that_cannot_be_written_to_is_no_error(work):
    (work / "parts").write_text("in the way")
    assert parts.keep("roi_align", cell(AREA)["area"]) is False
    parts.owe("roi_align", "area")
    assert parts.owed() == {} and parts.kept() == []


def test_a_debt_has_its_first_day_and_is_paid(work, monkeypatch):
    parts.owe("roi_align", "area")
    ((name, day),) = parts.owed().items()
    assert name == ("roi_align", "area") and day == parts.date.today().isoformat()
    (work / "parts/owed.json").write_text('{"roi_align/area": "2026-01-02"}')
    parts.owe("roi_align", "area")
    parts.owe("anchor_boxes", "nms")
    assert list(parts.owed()) == [("anchor_boxes", "nms"), ("roi_align", "area")]
    assert parts.owed()["roi_align", "area"] == "2026-01-02"
    parts.keep("roi_align", cell(AREA)["area"])
    assert list(json.loads((work / "parts/owed.json").read_text())) == ["anchor_boxes/nms"]


def test_a_part_that_was_kept_is_no_debt_when_it_is_written_anew(work):
    parts.keep("roi_align", cell(AREA)["area"])
    parts.owe("roi_align", "area")
    assert parts.owed() == {}


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_damaged_file_of_debts_says_nothing(work, text):
    (work / "parts").mkdir()
    (work / "parts/owed.json").write_text(text, encoding="latin-1")
    assert parts.owed() == {}
    parts.owe("roi_align", "area")
    assert list(parts.owed()) == [("roi_align", "area")]


def test_figures_say_what_is_the_references(work):
    figure = draw.plt.figure()
    assert draw.captioned(figure, "A map.").caption == "A map."
    function = cell(AREA)["area"]
    parts.settle("roi_align", function, passed=False)
    draw.OWED.add("bilinear")
    assert (
        draw.captioned(figure, "A map.").caption
        == "A map. Not yours yet: area, bilinear (reference)."
    )
    parts.settle("roi_align", function, passed=True)
    assert draw.captioned(figure, "A map.").caption == "A map. Not yours yet: bilinear (reference)."
    assert [part.name for part in parts.kept()] == ["area"]


def test_a_lessons_turn_is_owed_and_then_kept(work, root, capsys):
    """As lesson 04's own check does it; an exercise of the homework leaves no part."""
    from lessons.homework.roi_align import homework

    stub = cell('def bilinear(f, y, x):\n    raise NotImplementedError("your turn")\n')["bilinear"]
    assert homework.check(stub) is homework.exercise("bilinear").reference
    assert list(parts.owed()) == [("roi_align", "bilinear")] and {"bilinear"} == draw.OWED
    text = (root / "lessons/homework/answers/roi_align_turns.py").read_text(encoding="utf-8")
    own = cell(text)["bilinear"]
    assert homework.check(own) is own
    assert parts.owed() == {} and not draw.OWED
    assert "def bilinear(" in parts.read("roi_align", "bilinear")
    exercise = cell('def axis_matrix():\n    raise NotImplementedError("your turn")\n')
    homework.check(exercise["axis_matrix"])
    assert parts.owed() == {} and "to do" in capsys.readouterr().out


def test_a_notebooks_cell_is_found(work, root):
    cells = [
        "import math\nfrom lessons.kit.homework import parts",
        "#| export\n#| your turn\ndef area(r):\n    # mine\n    return math.pi * r * r",
        "%time parts.keep('roi_align', area)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, resources={"metadata": {"path": str(work)}}, timeout=120).execute()
    assert parts.read("roi_align", "area") == cells[1] + "\n"
    assert places.shown(parts.folder())
