"""The builder: what it makes of notebooks, that building twice changes nothing, every error."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import write_notebook

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks.authoring import build
from lessons.kit.notebooks.handing_out import exercises_of
from lessons.kit.notebooks.reading import METADATA, read_notebook

TITLE = "# Counting sheep\n\nYou **count** what *stands* on a meadow. More follows."
LESSON = [
    TITLE,
    """#| export
import torch
from os import path

LIMIT = 3


def count(n):
    '''Double it.'''
    return 2 * n""",
    "count(2)",
    """#| export
from os import sep, path
import ast

def use():
    return count(LIMIT), sep, path, ast, torch""",
]
SOLUTION = [
    "# Homework\n\nYou mend it.",
    "from lessons.sheep import count",
    "#| export\ndef mend(n):\n    ### BEGIN SOLUTION\n    return n + 1\n    ### END SOLUTION",
    "mend(3)",
]


@pytest.fixture
def house(tmp_path):
    write_notebook(tmp_path, "notebooks/01_sheep.ipynb", LESSON)
    write_notebook(tmp_path, "solutions/01_sheep.ipynb", SOLUTION)
    return tmp_path


def test_a_module_is_made_of_the_exported_cells(house):
    build(house)
    module = (house / "lessons/sheep.py").read_text()
    first, rest = module.split("\n", 1)
    assert first == "# Built by `lessons build` from notebooks/01_sheep.ipynb: edit that, not this."
    assert rest.startswith(
        '"""Counting sheep.\n\nYou count what stands on a meadow.\n"""\n\nimport ast\n'
    )
    assert "from os import path, sep\n\nimport torch\n\nLIMIT = 3\n\n\ndef count(n):" in module
    assert "count(2)" not in module and "#|" not in module
    names = {}
    exec(module, names)
    assert names["use"]()[0] == 6


def test_what_is_built_is_formatted(house):
    build(house)
    for command in (["check", "--select", "E,F,I"], ["format", "--check"]):
        run = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100"]
        assert subprocess.run([*run, house / "lessons/sheep.py"]).returncode == 0


def test_the_homework_has_stubs_and_no_outputs(house):
    path = house / "solutions/01_sheep.ipynb"
    solution = nbformat.read(path, 4)
    solution.cells[3].outputs = [nbformat.v4.new_output("stream", text="4\n")]
    solution.cells[3].execution_count = 3
    solution.cells[2].metadata["nbgrader"] = {"solution": True}
    nbformat.write(solution, path)
    build(house)
    homework = nbformat.read(house / "notebooks/homework/01_sheep.ipynb", 4)
    nbformat.validate(homework)
    assert homework.cells[2].source == 'def mend(n):\n    raise NotImplementedError("your turn")'
    assert homework.cells[3].outputs == [] and homework.cells[3].execution_count is None
    assert "nbgrader" not in homework.cells[2].metadata
    assert [cell.id for cell in homework.cells] == [cell.id for cell in solution.cells]
    answers = (house / "lessons/homework/answers/sheep.py").read_text()
    assert "return n + 1" in answers and "###" not in answers and "mend(3)" not in answers


def test_building_twice_changes_nothing(house):
    assert len(build(house)) == 3
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in house.rglob("*.*") if p.is_file()}
    assert build(house) == []
    assert before == {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in house.rglob("*.*") if p.is_file()
    }


def test_check_names_what_is_stale_and_changes_nothing(house):
    build(house)
    assert build(house, check=True) == []
    module = house / "lessons/sheep.py"
    module.write_text(module.read_text().replace("2 * n", "3 * n"))
    assert build(house, check=True) == [module]
    assert "3 * n" in module.read_text()
    assert build(house) == [module] and "2 * n" in module.read_text()


def test_a_lesson_that_exports_nothing_builds_nothing(tmp_path):
    write_notebook(tmp_path, "notebooks/00_start.ipynb", ["# Start\n\nYou look around.", "1 + 1"])
    assert build(tmp_path) == []


EXPORTS = "#| export\ndef f():\n    return 1"
WRONG_LESSONS = {
    "a magic": (["#| export\n%timeit 1"], "cell 2 (cell-1), has a magic in line 2: %timeit 1"),
    "a shell line": (["#| export\nx = 1\n!ls"], "has a magic in line 3: !ls"),
    "no Python": (["#| export\ndef f(:\n    pass"], "does not parse, line 2"),
    "twice": ([EXPORTS, EXPORTS], "cell 3 (cell-2), exports f again, it stands in"),
    "a name and a value": ([EXPORTS, "#| export\nf = 2"], "exports f again"),
    "no end": (["#| export\n### BEGIN SOLUTION\nx = 1"], "### BEGIN SOLUTION without its partner"),
}


@pytest.mark.parametrize("cells, message", WRONG_LESSONS.values(), ids=WRONG_LESSONS.keys())
def test_a_wrong_lesson_is_named_and_nothing_is_written(house, cells, message):
    write_notebook(house, "notebooks/02_wrong.ipynb", [TITLE, *cells])
    with pytest.raises(LessonsError) as error:
        build(house)
    assert "notebooks/02_wrong.ipynb" in str(error.value) and message in str(error.value)
    assert not (house / "lessons").exists() and not (house / "notebooks/homework").exists()


WRONG_HOMEWORK = {
    "END alone": ("x = 1\n### END SOLUTION", "has a ### END SOLUTION without its partner"),
    "BEGIN twice": (
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
        "has a ### BEGIN SOLUTION without its partner",
    ),
    "imports it": ("from lessons.sheep import mend", "imports what the homework asks for: mend"),
    "another name": ("from lessons.sheep import mend as m", "asks for: mend"),
    "by its module": ("import lessons.sheep as s\ns.mend(2)", "asks for: mend"),
    "a star": ("from lessons.sheep import *", "asks for: everything from lessons.sheep"),
    "the answers": ("from lessons.homework.answers import sheep", "asks for: the answers"),
    "the answers' module": ("import lessons.homework.answers.sheep", "asks for: the answers"),
}


@pytest.mark.parametrize("text, message", WRONG_HOMEWORK.values(), ids=WRONG_HOMEWORK.keys())
def test_a_wrong_homework_is_named(house, text, message):
    write_notebook(house, "solutions/01_sheep.ipynb", [*SOLUTION, text])
    with pytest.raises(LessonsError) as error:
        build(house)
    assert "solutions/01_sheep.ipynb, cell 5 (cell-4)" in str(error.value)
    assert message in str(error.value)
    assert not (house / "lessons").exists()


def test_a_solution_may_use_in_its_solution_what_a_stub_must_not_import(house):
    hidden = "### BEGIN SOLUTION\nfrom lessons.sheep import mend\n### END SOLUTION"
    write_notebook(house, "solutions/01_sheep.ipynb", [*SOLUTION, hidden])
    build(house)


def test_a_file_written_by_hand_is_not_replaced(house):
    (house / "lessons").mkdir()
    (house / "lessons/sheep.py").write_text("by_hand = True\n")
    with pytest.raises(LessonsError, match=r"lessons/sheep.py is written by hand"):
        build(house)
    assert (house / "lessons/sheep.py").read_text() == "by_hand = True\n"


def test_a_built_file_without_its_notebook_is_named_and_kept(house):
    build(house)
    (house / "notebooks/01_sheep.ipynb").unlink()
    with pytest.raises(
        LessonsError, match=r"lessons/sheep.py was built from a notebook that is gone"
    ):
        build(house)
    assert (house / "lessons/sheep.py").exists()


def test_two_notebooks_of_one_name(house):
    write_notebook(house, "notebooks/02_sheep.ipynb", LESSON)
    with pytest.raises(LessonsError, match="two notebooks build lessons/sheep.py"):
        build(house)


def test_a_notebook_without_title_or_sentence(house):
    write_notebook(house, "notebooks/01_sheep.ipynb", ["# Only a title", EXPORTS])
    with pytest.raises(LessonsError, match=r"01_sheep.ipynb must begin with a title"):
        build(house)


def test_a_badly_named_notebook(house):
    write_notebook(house, "notebooks/Sheep.ipynb", LESSON)
    with pytest.raises(LessonsError, match=r"Sheep.ipynb must be named as in 04_roi_align.ipynb"):
        build(house)


def test_a_file_that_is_no_notebook(house):
    (house / "notebooks/02_wolf.ipynb").write_text('{"cells": [')
    with pytest.raises(LessonsError, match=r"02_wolf.ipynb is not a notebook that can be read"):
        build(house)


# ---------------------------------------------------------------- what an editor saved


def code(source, **keys):
    given = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    return given | {"source": source} | keys


def prose(source, **keys):
    return {"cell_type": "markdown", "metadata": {}, "source": source} | keys


def raw_notebook(*cells, minor=5, **metadata):
    return {"nbformat": 4, "nbformat_minor": minor, "metadata": metadata, "cells": list(cells)}


def save(path, notebook, encoding="utf-8", ends="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_bytes(text.replace("\n", ends).encode(encoding))
    return path


MEND = "def mend(n):\n    ### BEGIN SOLUTION\n    return n + 1\n    ### END SOLUTION"
STUB = 'def mend(n):\n    raise NotImplementedError("your turn")'
BOTH = [prose("# Homework\n\nYou mend it.", id="title"), code(MEND, id="mend")]
NO_IDS = [prose("# Homework\n\nYou mend it."), code(MEND)]
WIDGETS = {"application/vnd.jupyter.widget-state+json": {"state": {"a": {}}, "version_major": 2}}
PNG = {"a.png": {"image/png": "AAAA"}}


def spelled(cells, change):
    return [cell | {"source": change(cell["source"])} for cell in cells]


EDITORS = {
    "as it should be": raw_notebook(*BOTH, **METADATA),
    "Colab": raw_notebook(
        *(cell | {"metadata": {"id": f"x_{i}", "outputId": "y"}} for i, cell in enumerate(NO_IDS)),
        minor=0,
        colab={"provenance": [], "toc_visible": True},
        kernelspec={"name": "python3", "display_name": "Python 3"},
        accelerator="GPU",
        widgets=WIDGETS,
    ),
    "VS Code": raw_notebook(
        *(cell | {"metadata": {"vscode": {"languageId": "python"}}} for cell in BOTH),
        kernelspec={"display_name": ".venv (3.12)", "language": "python", "name": "python3"},
        language_info={"name": "python", "version": "3.12.1", "file_extension": ".py"},
        vscode={"interpreter": {"hash": "aee8b7b2"}},
    ),
    "classic": raw_notebook(
        NO_IDS[0] | {"metadata": {"collapsed": True, "editable": False}},
        NO_IDS[1] | {"metadata": {"ExecuteTime": {"end_time": "1"}, "scrolled": False}},
        minor=2,
        kernelspec={"display_name": "conda", "language": "python", "name": "conda-env-cv-py"},
        toc={"base_numbering": 1},
    ),
    "no metadata": raw_notebook(*BOTH),
    "null metadata": raw_notebook(*BOTH, kernelspec=None, language_info=None),
    "CRLF in cells": raw_notebook(*spelled(BOTH, lambda text: text.replace("\n", "\r\n"))),
    "CR in cells": raw_notebook(*spelled(BOTH, lambda text: text.replace("\n", "\r"))),
    "sources are lists": raw_notebook(*spelled(BOTH, lambda text: text.splitlines(True))),
    "CRLF in lists": raw_notebook(
        *spelled(BOTH, lambda text: text.replace("\n", "\r\n").splitlines(True))
    ),
    "a BOM in a cell": raw_notebook(*spelled(BOTH, lambda text: "\ufeff" + text)),
    "executed": raw_notebook(
        BOTH[0] | {"attachments": {}},
        BOTH[1]
        | {
            "execution_count": 7,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "return n + 1"}],
            "metadata": {"execution": {"iopub.status.busy": "1"}, "trusted": True},
        },
    ),
    "keys of no format": raw_notebook(BOTH[0] | {"outputs": []}, BOTH[1] | {"prompt_number": 3}),
    "nothing but a source": raw_notebook(
        {"cell_type": "markdown", "metadata": {}, "source": BOTH[0]["source"]},
        {"cell_type": "code", "metadata": {}, "source": MEND},
    ),
    "a later nbformat 4": raw_notebook(*BOTH, minor=6),
    "ids of no form": raw_notebook(*(cell | {"id": "a b/é"} for cell in NO_IDS)),
    "ids that are numbers": raw_notebook(*(cell | {"id": 3} for cell in NO_IDS)),
    "one id for all": raw_notebook(*(cell | {"id": "a"} for cell in NO_IDS)),
    "nbformat 3": {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": "old"},
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 1, "source": "Homework", "metadata": {}},
                    {"cell_type": "code", "input": MEND, "language": "python", "outputs": []},
                ]
            }
        ],
    },
}


@pytest.mark.parametrize("notebook", EDITORS.values(), ids=EDITORS.keys())
def test_whatever_an_editor_saved_is_built_in_one_form(tmp_path, notebook):
    path = save(tmp_path / "solutions/01_sheep.ipynb", notebook)
    before = path.read_bytes()
    build(tmp_path)
    assert build(tmp_path, check=True) == [] and path.read_bytes() == before
    text = (tmp_path / "notebooks/homework/01_sheep.ipynb").read_bytes()
    assert b"\r" not in text and b"n + 1" not in text and text.endswith(b"}\n")
    built = json.loads(text)
    assert set(built) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (built["nbformat"], built["nbformat_minor"], built["metadata"]) == (4, 5, METADATA)
    nbformat.validate(built)
    assert "".join(built["cells"][1]["source"]) == STUB
    assert all(cell["metadata"] == {} and "attachments" not in cell for cell in built["cells"])
    assert built["cells"][1]["outputs"] == [] and built["cells"][1]["execution_count"] is None
    assert len({cell["id"] for cell in built["cells"]}) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_file_from_windows_is_read(tmp_path, encoding, ends):
    notebook = raw_notebook(prose("# Schäfchen ½", id="title"), code("1", id="one"))
    read = read_notebook(save(tmp_path / "a.ipynb", notebook, encoding, ends))
    assert [cell.source for cell in read.cells] == ["# Schäfchen ½", "1"]


def test_ids_are_kept_or_made_of_the_first_words_and_do_not_move(tmp_path):
    def ids(*cells, minor=5):
        read = read_notebook(save(tmp_path / "a.ipynb", raw_notebook(*cells, minor=minor)))
        assert len({cell.id for cell in read.cells}) == len(read.cells)
        return [cell.id for cell in read.cells]

    cells = [prose("# The wolf: é!"), code("#| export\ndef f(n): 1"), code("x = 1"), code("")]
    assert ids(*cells, minor=0) == ["the-wolf", "def-f-n-1", "x-1", "cell"]
    assert ids(code("y"), *cells)[1:] == ["the-wolf", "def-f-n-1", "x-1", "cell"]
    assert ids(code("x = 1", id="a"), code("x = 1", id="a"), code("x = 1")) == ["a", "x-1", "x-1-2"]
    assert ids(code("x = 1", id="a"), code("a"), code("1", id="x-1")) == ["a", "a-2", "x-1"]
    assert ids(code("1", metadata={"id": "Colab_9"}), code("2", id="x")) == ["Colab_9", "x"]
    assert ids(code(MEND.replace("def mend(n):\n", ""))) == ["cell"]  # nothing of the solution
    assert ids(code("w" * 99)) == ["w" * 56]


def test_reading_keeps_outputs_tags_and_pictures(tmp_path):
    output = {"output_type": "stream", "name": "stdout", "text": ["one\n", "two"]}
    cells = [
        prose("# a ![](attachment:a.png)", id="a", attachments=PNG),
        code("1", id="b", outputs=[output], metadata={"tags": ["nbval-skip"]}),
    ]
    first, second = read_notebook(save(tmp_path / "a.ipynb", raw_notebook(*cells))).cells
    assert first.attachments == PNG
    assert second.outputs[0].text == "one\ntwo" and second.metadata.tags == ["nbval-skip"]


UNREADABLE = {
    "nothing": (b"", "it is empty"),
    "blank": (b" \n\t", "it is empty"),
    "half": (b'{"cells": [', "it is no JSON or half of one, line 1: "),
    "conflict": (b'{\n<<<<<<< HEAD\n"cells": []}', "it is no JSON or half of one, line 2: "),
    "a text": (b"# Sheep\n\nYou count.", "it is no JSON or half of one, line 1: "),
    "a script": (b"import torch\n", "it is no JSON or half of one"),
    "two at once": (b'{"nbformat": 4}{"nbformat": 4}', "it is no JSON or half of one"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "it is not a text in UTF-8"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "it is not a text in UTF-8"),
    "deep": (b"[" * 200_000, "its brackets or its numbers have no end"),
    "long": (b'{"nbformat": ' + b"4" * 5000 + b"}", "its brackets or its numbers have no end"),
    "a list": (b"[]", "it is other JSON"),
    "a number": (b"4", "it is other JSON"),
    "other JSON": (b'{"type": "FeatureCollection"}', "it is other JSON"),
    "nbformat 5": (b'{"nbformat": 5, "cells": []}', "it is in nbformat 5, save it in nbformat 4"),
    "nbformat 2": (b'{"nbformat": 2, "worksheets": []}', "it is in nbformat 2"),
    "nbformat as text": (b'{"nbformat": "4", "cells": []}', "it is in nbformat 4, save"),
    "no cells": (b'{"nbformat": 4, "metadata": {}}', "it is not built as a notebook is"),
    "no metadata": (b'{"nbformat": 4, "cells": []}', "it is not built as a notebook is"),
    "cells are numbers": (b'{"nbformat": 4, "metadata": {}, "cells": [1]}', "it is not built as"),
    "cells are a dict": (b'{"nbformat": 4, "metadata": {}, "cells": {"a": 1}}', "it is not built"),
    "3 without sheets": (b'{"nbformat": 3, "metadata": {}}', "it is not built as a notebook is"),
    "an empty cell": (
        raw_notebook(prose("1"), {"metadata": {}}),
        "cell 2 is no cell of a notebook",
    ),
    "a cell without source": (
        raw_notebook({"cell_type": "code", "metadata": {}}),
        "cell 1 is no cell of a notebook",
    ),
    "a source that is a number": (raw_notebook(code(3)), "cell 1 is no cell of a notebook"),
    "a kind of no format": (
        raw_notebook(code("1"), prose("a") | {"cell_type": "heading"}),
        "cell 2 is not as nbformat 4.5 wants it",
    ),
    "an output of no format": (
        raw_notebook(code("1"), code("2", outputs=[{"output_type": "stream", "text": "x"}])),
        "cell 2 is not as nbformat 4.5 wants it: 'name' is a required property (clear its outputs)",
    ),
    "tags that are a text": (
        raw_notebook(code("1", metadata={"tags": "nbval-skip"})),
        "cell 1 is not as nbformat 4.5 wants it",
    ),
    "half a character": (
        json.dumps(raw_notebook(code("x = '\ud83d'"))).encode(),
        "cell 1 has half a character",
    ),
    "R": (raw_notebook(kernelspec={"name": "ir", "language": "R"}), "it is written in R, not in"),
    "Julia": (raw_notebook(language_info={"name": "julia"}), "it is written in julia"),
}


@pytest.mark.parametrize("content, reason", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path, content, reason):
    path = tmp_path / "notebooks/01_sheep.ipynb"
    save(path, {})
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for go in (lambda: read_notebook(path), lambda: build(tmp_path)):
        with pytest.raises(LessonsError) as error:
            go()
        message = str(error.value)
        assert message.startswith(f"{path} is not a notebook that can be read: {reason}")
        assert "\n" not in message and len(message) < 400


def test_a_folder_a_missing_file_and_a_closed_one_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.ipynb").mkdir()
    (tmp_path / "closed.ipynb").write_text("{}")

    def closed(path):
        raise PermissionError(13, "Permission denied")

    for name, reason in {"a": "it is a folder", "b": "no such file or directory"}.items():
        with pytest.raises(LessonsError, match=rf"{name}.ipynb is not a notebook .*: {reason}$"):
            read_notebook(tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(LessonsError, match=r"closed.ipynb is not a .* read: permission denied$"):
        read_notebook(tmp_path / "closed.ipynb")


def test_what_an_editor_hides_beside_a_notebook_is_left_alone(house):
    for folder in ("notebooks", "solutions", "notebooks/homework"):
        (house / folder).mkdir(exist_ok=True)
        (house / folder / "._01_sheep.ipynb").write_bytes(b"\x00\x05\x16\x07")
        (house / folder / ".ipynb_checkpoints").mkdir()
        (house / folder / ".ipynb_checkpoints/01_sheep-checkpoint.ipynb").write_text("{")
    assert len(build(house)) == 3 and build(house) == []


# ---------------------------------------------------------------- nearly a directive or a marker

NEARLY_EXPORT = [
    "#|export", "# | export", "#| Export", "#| EXPORT", "#| export.", "#| exports", "#| exprot",
    "#|  export", "#|\texport", "#|\xa0export", "#| export # for the package", " #| export",
    "\t#| export", "\xa0#| export", "\u200b#| export", "#\u200b| export", "##| export",
    "#!| export",
    "#! export", "#¦ export", "#｜ export", "#l export", "# export", "#export", "#: export",
    "#@export", "#| ｅｘｐｏｒｔ", "# ｅｘｐｏｒｔ",
    "# ex\u200bport", "#| export mend", "#| hide", "#|", "#| default_exp sheep", "#| your_turn",
    "#|your turn", "#| Your turn", "#| your  turn", "# your turn", "#| yourturn", "#| turn",
    "#| label: fig-sheep", "#| export\n#| export", "#| your turn\n#| export",
    "#| export\n\n#| your turn", "\n#| export", "\n\n#| your turn", "x = 1\n#| export",
    "x = 1  #| export",
]  # fmt: skip


@pytest.mark.parametrize("where", ["notebooks", "solutions"])
@pytest.mark.parametrize("text", NEARLY_EXPORT, ids=ascii)
def test_what_is_nearly_a_directive_stops_the_build(house, where, text):
    cells = prose(TITLE, id="a"), code(f"{text}\ndef f():\n    return 1", id="cell-1")
    save(house / f"{where}/02_wolf.ipynb", raw_notebook(*cells))
    with pytest.raises(LessonsError) as error:
        build(house)
    message = str(error.value)
    assert message.startswith(f"{where}/02_wolf.ipynb, cell 2 (cell-1), has ")
    assert message.endswith(
        ": the directives are `#| export` and, after it or alone, `#| your turn`, each once and "
        "written so, as the cell's first lines"
    )
    assert not (house / "lessons").exists()


@pytest.mark.parametrize(
    "head", ["#| export", "#| export \t", "#| export\n#| your turn", "#| export\n#| your turn  "]
)
def test_a_directive_is_taken_out(house, head):
    cell = f'{head}\ndef f():\n    """One."""\n    return 1'
    write_notebook(house, "notebooks/02_wolf.ipynb", [TITLE, cell, "f = check(f)"])
    build(house)
    module = (house / "lessons/wolf.py").read_text()
    assert module.endswith('"""\n\n\ndef f():\n    """One."""\n    return 1\n')


@pytest.mark.parametrize("text", ["1 + 1", "x = 5 | 3", "x = 1  # of |x|: a | b"])
def test_what_is_no_export_is_not_exported(house, text):
    write_notebook(house, "notebooks/02_wolf.ipynb", [TITLE, text])
    build(house)
    assert not (house / "lessons/wolf.py").exists()


NEARLY_MARKERS = [
    "###BEGIN SOLUTION|###END SOLUTION", "### Begin Solution|### End Solution",
    "### begin solution|### end solution", "# BEGIN SOLUTION|# END SOLUTION",
    "## BEGIN SOLUTION|## END SOLUTION", "#### BEGIN SOLUTION|#### END SOLUTION",
    "### BEGIN  SOLUTION|### END  SOLUTION", "### BEGIN\tSOLUTION|### END\tSOLUTION",
    "###  BEGIN SOLUTION|###  END SOLUTION", "###\tBEGIN SOLUTION|###\tEND SOLUTION",
    "### BEGIN SOLUTION:|### END SOLUTION:", "### BEGIN SOLUTION ###|### END SOLUTION ###",
    "### BEGIN SOLUTION of 1|### END SOLUTION of 1", "### BEGIN SOLUTIONS|### END SOLUTIONS",
    "### BEGIN SOLUTION\xa0|### END SOLUTION\xa0", "###\xa0BEGIN SOLUTION|###\xa0END SOLUTION",
    "### BEGIN\xa0SOLUTION|### END\xa0SOLUTION", "### BEGIN SOLUTION\u200b|### END SOLUTION\u200b",
    "###\u2003BEGIN SOLUTION|###\u2003END SOLUTION", "### BEGIN SOLUTION\f|### END SOLUTION\f",
    "### BEGIN_SOLUTION|### END_SOLUTION", "### BEGIN-SOLUTION|### END-SOLUTION",
    "### BeginSolution|### EndSolution", "### BEGINSOLUTION|### ENDSOLUTION",
    "### BEGN SOLUTION|### ENDE SOLUTION", "### BEGIN SOLUTOIN|### END SOLUTOIN",
    "### BEGIN SOLUTON|### END SOLUTON", "### BEIGN SOLUTION|### EDN SOLUTION",
    "### BEGIN THE SOLUTION|### END THE SOLUTION", "### SOLUTION BEGIN|### SOLUTION END",
    "### SOLUTION BEGINS HERE|### SOLUTION ENDS HERE", "### START SOLUTION|### STOP SOLUTION",
    "### BEGIN ANSWER|### END ANSWER", "### BEGIN|### END", "### SOLUTION|### SOLUTION",
    "### ＢＥＧＩＮ ＳＯＬＵＴＩＯＮ|### ＥＮＤ ＳＯＬＵＴＩＯＮ",
    "### BEG\u200bIN SOLU\u200bTION|### END SOLU\u200bTION", "### SOLUTON BEGIN|### SOLUTON END",
    "# %% BEGIN SOLUTION|# %% END SOLUTION",
    "pass  ### BEGIN SOLUTION|pass  ### END SOLUTION",
    "### BEGIN HIDDEN TESTS|### END HIDDEN TESTS",
    '"""# BEGIN SOLUTION"""|"""# END SOLUTION"""', '"""BEGIN SOLUTION"""|"""END SOLUTION"""',
    "### BEGIN MARK SCHEME|### END MARK SCHEME",
    "#BEGIN SOLUTION|#END SOLUTION",
]  # fmt: skip


@pytest.mark.parametrize("pair", NEARLY_MARKERS, ids=ascii)
@pytest.mark.parametrize("half", ["both", "the first", "the last"])
def test_what_is_nearly_a_marker_stops_the_build(house, pair, half):
    begin, _, end = pair.partition("|")
    begin = "### BEGIN SOLUTION" if half == "the last" else begin
    end = "### END SOLUTION" if half == "the first" else end
    text = f"def tend(n):\n    {begin}\n    return n + 1\n    {end}"
    write_notebook(house, "solutions/01_sheep.ipynb", [*SOLUTION, text])
    with pytest.raises(LessonsError) as error:
        build(house)
    message = str(error.value)
    assert message.startswith("solutions/01_sheep.ipynb, cell 5 (cell-4), has ")
    assert message.endswith(
        ": a solution stands between the lines `### BEGIN SOLUTION` and `### END SOLUTION`, "
        "written so, with nothing else on the line"
    )
    assert not (house / "lessons").exists() and not (house / "notebooks/homework").exists()


@pytest.mark.parametrize("blank", ["", " ", "\t", "    \t  "], ids=ascii)
def test_blanks_behind_a_marker_do_no_harm(house, blank):
    text = MEND.replace("SOLUTION", f"SOLUTION{blank}")
    write_notebook(house, "solutions/01_sheep.ipynb", [SOLUTION[0], text])
    build(house)
    homework = nbformat.read(house / "notebooks/homework/01_sheep.ipynb", 4)
    assert homework.cells[1].source == STUB


def test_a_marker_may_be_indented_by_a_tab(house):
    text = MEND.replace("    ", "\t")
    write_notebook(house, "solutions/01_sheep.ipynb", [SOLUTION[0], text])
    build(house)
    homework = nbformat.read(house / "notebooks/homework/01_sheep.ipynb", 4)
    assert homework.cells[1].source == STUB.replace("    ", "\t")


PLAIN = [
    "# the solution is unique", "# a high resolution at the end", "# and solutions", "end = 3",
    "# we begin with convolutions", "# the last answer of each row", "# it ends here",
    "start, end = 0, 1  # begin", "solution = 3", "resolution = 3  # end", "# being exact",
    "color = '#222222'", "begin_solution = 1", "solve(begin, solution)", "# evolution begins",
]  # fmt: skip


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_comment_is_no_marker(house, line):
    before = "solve, begin, solution = print, 0, 1\n"
    write_notebook(house, "notebooks/02_wolf.ipynb", [TITLE, before + line])
    build(house)


@pytest.mark.parametrize("kind", ["markdown", "raw"])
@pytest.mark.parametrize(
    "line",
    ["### BEGIN SOLUTION", "###BEGIN SOLUTION", "BEGIN SOLUTION", "## Begin solution",
     "<!-- BEGIN SOLUTION -->", "### BEGIN SOLUTION of the first exercise", "> END SOLUTION",
     "#| export", "# | export", "#| your turn"],
)  # fmt: skip
def test_a_marker_outside_of_code_stops_the_build(house, kind, line):
    cell = prose(f"{line}\nreturn n + 1", id="b", cell_type=kind)
    save(house / "solutions/01_sheep.ipynb", raw_notebook(BOTH[0], BOTH[1], cell))
    with pytest.raises(LessonsError) as error:
        build(house)
    assert f"cell 3 (b), is a {kind} cell with {line!r}: make it a code" in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["## Your turn", "**The end.** Solutions of equations", "# How solutions begin",
     "This is an equation with one solution: the end.", "| export | turn |\n|---|---|"],
)  # fmt: skip
def test_prose_may_speak_of_solutions(house, text):
    save(house / "solutions/01_sheep.ipynb", raw_notebook(*BOTH, prose(text, id="b")))
    build(house)


# ---------------------------------------------------------------- never is a solution handed out

LONG = """def tend(flock, wolf):
    \"\"\"How many are left.\"\"\"
    ### BEGIN SOLUTION
    near = [sheep for sheep in flock if abs(sheep - wolf) < 3]
    far = sorted(set(flock) - set(near))  # those that run
    return len(far) + len(near) // 2
    ### END SOLUTION"""
CODE = [line for line in LONG.split("\n")[3:6]]
WHOLE = "\n".join([LONG.split("\n")[0], *CODE])
RENAMED = WHOLE.replace("def tend", "def slow")

LEAKS = {
    "no markers": ([WHOLE, "tend = check(tend)"], 2, "would hand out tend: its solution must"),
    "no markers, a module's check": ([WHOLE, "homework.check(tend)"], 2, "would hand out tend"),
    "no markers, another check": (
        [WHOLE, "from lessons.homework.wolf import check as c", "tend = c(tend)"],
        2,
        "would hand out tend",
    ),
    "a decorator": ([LONG, "@check\ndef mend(n):\n    return n + 1"], 3, "would hand out mend"),
    "defined twice": ([LONG, WHOLE], 3, "would hand out tend"),
    "defined in a branch": (
        [LONG, "if True:\n    def tend(flock, wolf):\n        return 3"],
        3,
        "would hand out tend",
    ),
    "the markers of another": (
        [f"{LONG.replace('tend', 'mend')}\n\n\ndef tend(n):\n    return n + 1"],
        2,
        "would hand out tend",
    ),
    "a class": (["class tend:\n    size = 3"], 2, "would hand out tend"),
    "checked by a keyword": ([WHOLE, "check(function=tend)"], 2, "would hand out tend"),
    "checked by a module's keyword": ([WHOLE, "homework.check(function=tend)"], 2, "hand out tend"),
    "checked in a list": ([WHOLE, "list(map(check, [tend]))"], 2, "would hand out tend"),
    "checked in a function": ([WHOLE, "def go():\n    check(tend)"], 2, "would hand out tend"),
    "a lambda": ([LONG, "tend = lambda flock, wolf: 3"], 3, "gives tend another value than"),
    "a lambda that is checked": ([LONG, "check(lambda n: n + 1)"], 3, "checks a lambda"),
    "an alias": ([LONG, "tend = print"], 3, "gives tend another value than check(tend)"),
    "a walrus": ([LONG, "(tend := print)"], 3, "gives tend another value"),
    "one of two": ([LONG, "tend, x = print, check(tend)"], 3, "gives tend another value"),
    "an exercise that is missing": (["mend = check(mend)"], None, "asks for mend, which no code"),
    "nothing marked": ([LONG.replace(CODE[0], "").replace(CODE[1], "").replace(CODE[2], "")], 2,
                       "has no code between"),
    "a comment is marked": (
        ["def tend(n):\n    ### BEGIN SOLUTION\n    # here\n    ### END SOLUTION\n    return n"],
        2,
        "has no code between",
    ),
    "marked in a string": (
        ['def tend(n):\n    """It.\n    ### BEGIN SOLUTION\n    x\n    ### END SOLUTION\n    """'
         "\n    return n"],
        2,
        "has a ### BEGIN SOLUTION inside a string",
    ),
    "a helper": ([LONG, RENAMED], 3, "a part of the solution in solutions/01_sheep.ipynb, cell 2"),
    "a helper before": ([RENAMED, LONG], 2, "would hand out a part of the solution in"),
    "a comment": ([LONG, "# " + "\n# ".join(CODE)], 3, "would hand out a part of the solution"),
    "a comment before": ([LONG.replace("    ###", f"    # {CODE[0].strip()}\n    ###", 1)
                          .replace(CODE[1] + "\n", "")], 2, "would hand out a part"),
    "the docstring": ([LONG.replace("How many", f"{' '.join(CODE)} How many", 1)], 2, "a part of"),
    "after the solution": ([LONG + "\n" + "\n".join(CODE)], 2, "would hand out a part of"),
    "commented code": ([LONG, RENAMED.replace("3]", "3]  # near")], 3, "would hand out a part of"),
    "spaced otherwise": ([LONG, RENAMED.replace(" ", "  ").replace("\n  ", "\n")], 3, "a part of"),
    "the larger part": ([LONG, f"flock, wolf = [1], 2\n{CODE[0].strip()}\n{CODE[1].strip()}"], 3,
                        "would hand out a part of"),
    "other names": (
        [LONG, RENAMED.replace("near", "a").replace("sheep", "b").replace("flock", "c")],
        3,
        "a part of",
    ),
    "in HTML": (
        [LONG, prose("\n".join(CODE[:2]).replace("<", "&lt;"))],
        3,
        "a part of the solution",
    ),
    "prose": ([LONG, prose(f"Remember:\n```python\n{WHOLE}\n```")], 3, "a part of"),
    "raw": ([LONG, prose(WHOLE, cell_type="raw")], 3, "a part of the solution"),
    "a string": ([LONG, f'text = """{WHOLE}"""'], 3, "a part of the solution"),
    "a call alone": (
        ["def slow(n):\n    return n + 1", "def tend(n):\n    ### BEGIN SOLUTION\n"
         "    return slow(n)\n    ### END SOLUTION"],
        2,
        "would hand out slow, of which the solution in solutions/01_sheep.ipynb, cell 3",
    ),
    "a helper by its name": (
        ["def _tend(n):\n    return n + 1", "def tend(n):\n    ### BEGIN SOLUTION\n    n = n + 2\n"
         "    return _tend(n) - 2\n    ### END SOLUTION"],
        2,
        "would hand out _tend",
    ),
    "a lambda's name": (
        ["_answer = lambda n: n + 1", "def tend(n):\n    ### BEGIN SOLUTION\n    n = n + 2\n"
         "    return _answer(n) - 2\n    ### END SOLUTION"],
        2,
        "would hand out _answer",
    ),
    "nbgrader's mark": (
        [LONG, code("x = 1", metadata={"nbgrader": {"solution": True, "grade": False}})],
        3,
        "is called 'solution' in its metadata",
    ),
    "nbgrader's prose": (
        [LONG, prose("Because.", metadata={"nbgrader": {"solution": True}})],
        3,
        "is called 'solution' in its metadata",
    ),
    "a tag": ([LONG, code("x = 1", metadata={"tags": ["Solution"]})], 3,
              "is called 'Solution' in its metadata"),
    "a tag of prose": ([LONG, prose("So.", metadata={"tags": ["hide-answer"]})], 3,
                       "is called 'hide-answer' in its metadata"),
    "a key": ([LONG, code("x = 1", metadata={"solution2": "hidden"})], 3,
              "is called 'solution2' in its metadata"),
    "a picture": ([LONG, prose("![](attachment:a.png)", attachments=PNG)], 3,
                  "has 'a.png' pasted in: draw it in a code cell"),
    "a turn": ([LONG, "#| your turn\ndef f():\n    return 1"], 3, "which belongs in a lesson"),
    "the answers as a text": ([LONG, "__import__('lessons.homework.answers.sheep')"], 3,
                              "imports what the homework asks for: the answers"),
    "the exercise's module": ([LONG, "from lessons.homework.sheep import tend"], 3, "for: tend"),
}  # fmt: skip
EXERCISES = """from lessons.homework.answers import other
from lessons.homework.answers.sheep import helper, {name}
from lessons.kit.homework import Exercise
from lessons.sheep import count

TURN = Exercise(count, inputs, [], 1, 1)
TEND = Exercise({given}, inputs, mistakes=[helper], points=3, minutes=10)
"""


def solve(root, *cells):
    """A solution notebook of a title and these cells, the texts among them as code."""
    cells = [cell if isinstance(cell, dict) else code(cell) for cell in cells]
    save(root / "solutions/01_sheep.ipynb", raw_notebook(BOTH[0], *cells))


@pytest.mark.parametrize("cells, number, message", LEAKS.values(), ids=LEAKS.keys())
def test_no_solution_is_handed_out(tmp_path, cells, number, message):
    is_checked = any("check" in str(cell) for cell in cells)
    solve(tmp_path, *cells, *(() if is_checked else ["tend = check(tend)"]))
    with pytest.raises(LessonsError) as error:
        build(tmp_path)
    place = f", cell {number} (" if number else " "
    assert str(error.value).startswith(f"solutions/01_sheep.ipynb{place}")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "notebooks").exists()


GIVEN = {
    "as it should be": [LONG, "tend = check(tend)"],
    "given code before and after": [
        "def tend(flock, wolf):\n    near = [s for s in flock if s < 3]\n    ### BEGIN SOLUTION\n"
        "    near = sorted(near)\n    ### END SOLUTION\n    return near",
        "tend = check(tend)",
    ],
    "two checks in a line": [LONG, LONG.replace("tend", "mend").replace("3", "4").replace(CODE[1],
                             "    far = []").replace(CODE[2], "    return far"),
                             "tend, mend = check(tend), check(mend)"],
    "a name that is read": [LONG, "row = {}\nrow[tend] = 3\ntend.points = 4", "check(tend)"],
    "a local name": [LONG, "def draw():\n    tend = 3\n    return tend", "tend = check(tend)"],
    "a helper that is used among others": [
        "def near(n):\n    return n + 1",
        "def tend(n):\n    ### BEGIN SOLUTION\n    return near(n) * 3\n    ### END SOLUTION",
    ],
    "a helper that is a stub": [
        "def near(n):\n    ### BEGIN SOLUTION\n    return n + 1\n    ### END SOLUTION",
        "def tend(n):\n    ### BEGIN SOLUTION\n    return near(n)\n    ### END SOLUTION",
    ],
    "a line in common": [LONG, "flock, near = [], []\nfar = sorted(set(flock) - set(near))"],
    "imports in common": [
        "from torch.nn import functional as F",
        "def tend(n):\n    ### BEGIN SOLUTION\n    from torch.nn import functional as F\n\n"
        "    return F.relu(n)\n    ### END SOLUTION",
    ],
    "nbgrader's marks": [
        code(LONG, metadata={"nbgrader": {"solution": True, "grade_id": "tend"}}),
        code("tend = check(tend)", metadata={"nbgrader": {"solution": False}}),
    ],
    "a tag": [code(LONG, metadata={"tags": ["solution"]})],
}  # fmt: skip


@pytest.mark.parametrize("cells", GIVEN.values(), ids=GIVEN.keys())
def test_what_is_given_may_be_handed_out(tmp_path, cells):
    solve(tmp_path, *cells)
    build(tmp_path)
    text = (tmp_path / "notebooks/homework/01_sheep.ipynb").read_text()
    assert "your turn" in text and "// 2" not in text and "nbgrader" not in text


def test_only_the_tags_of_nbval_are_handed_out(tmp_path):
    tags = ["nbval-ignore-output", "mine"]
    solve(tmp_path, code("1", metadata={"tags": tags, "scrolled": True}))
    build(tmp_path)
    homework = nbformat.read(tmp_path / "notebooks/homework/01_sheep.ipynb", 4)
    assert homework.cells[1].metadata == {"tags": ["nbval-ignore-output"]}


def test_an_exercise_is_known_by_the_module_of_exercises_alone(tmp_path):
    path = tmp_path / "lessons/homework/sheep.py"
    path.parent.mkdir(parents=True)
    path.write_text(EXERCISES.format(name="tend", given="tend"))
    solve(tmp_path, RENAMED)
    with pytest.raises(LessonsError, match=r"01_sheep.ipynb asks for tend, which no code cell def"):
        build(tmp_path)
    solve(tmp_path, WHOLE)
    with pytest.raises(LessonsError, match=r"cell 2 \(def-tend-flock-wolf\), would hand out tend"):
        build(tmp_path)
    solve(tmp_path, LONG, "def helper(n):\n    return n", "from lessons.sheep import count")
    build(tmp_path)  # neither a known mistake nor a turn of the lesson is an exercise


def test_exercises_are_found_without_an_import(tmp_path):
    path = tmp_path / "sheep.py"
    assert exercises_of(path) == set()
    for name, given in (
        ("tend", "tend"),
        ("tend as solved", "solved"),
        ("tend", "reference=tend, inputs="),
    ):
        text = EXERCISES.format(name=name, given=given).replace("inputs=, inputs", "inputs=inputs")
        path.write_text(text)
        assert exercises_of(path) == {"tend"}
    path.write_text("def f(:")
    with pytest.raises(LessonsError, match=r"sheep.py cannot be read: invalid syntax"):
        exercises_of(path)


HOUSE = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "path", sorted(HOUSE.glob("solutions/*.ipynb")), ids=lambda path: path.stem
)
def test_the_exercises_of_the_course_are_all_found(path):
    name = path.stem[3:]
    asked = exercises_of(HOUSE / f"lessons/homework/{name}.py")
    checked = set(re.findall(r"^ *\"(\w+) = check\(\1\)", path.read_text("utf-8"), re.MULTILINE))
    assert asked == checked and len(asked) >= 1


# ---------------------------------------------------------------- files that were built


def test_a_module_whose_notebook_exports_nothing_now_is_named(house):
    build(house)
    write_notebook(house, "notebooks/01_sheep.ipynb", [TITLE, "1 + 1"])
    with pytest.raises(LessonsError) as error:
        build(house)
    assert str(error.value) == (
        "lessons/sheep.py was built from notebooks/01_sheep.ipynb, where no cell begins with "
        "`#| export` any more: mark one, or delete the module"
    )


def test_a_students_notebook_among_the_homework_is_not_called_rubbish(house):
    build(house)
    path = house / "notebooks/homework/01_sheep-Copy1.ipynb"
    path.write_text("{}")
    with pytest.raises(LessonsError, match=r"01_sheep-Copy1.ipynb .* is yours: move it away"):
        build(house)
    assert path.exists()


@pytest.mark.parametrize("encoding, ends", [("utf-8-sig", "\n"), ("utf-8", "\r\n")])
def test_what_windows_makes_of_a_built_file_is_not_stale(house, encoding, ends):
    built = build(house)
    for path in built:
        path.write_bytes(path.read_text().replace("\n", ends).encode(encoding))
    assert build(house, check=True) == []


def test_a_built_file_that_is_no_text_is_stale_or_written_by_hand(house):
    build(house)
    homework = house / "notebooks/homework/01_sheep.ipynb"
    homework.write_bytes(b"\xff\xfe\xff")
    (house / "lessons/hand.py").write_bytes("x = 'é'".encode("latin-1"))
    assert build(house) == [homework]


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing_behind(house, monkeypatch):
    def full(goal, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(LessonsError, match="sheep.py cannot be written: the disk is full"):
        build(house)
    assert list(house.rglob("*.part")) == []


@pytest.mark.parametrize("text", ["x = 1\x00", "(" * 300 + ")" * 300, "x = '\\N{no}'"], ids=ascii)
def test_what_python_cannot_parse_is_named(house, text):
    write_notebook(house, "solutions/01_sheep.ipynb", [*SOLUTION, text])
    with pytest.raises(LessonsError, match=r"cell 5 \(cell-4\), does not parse"):
        build(house)


BUILT_FROM = sorted([*HOUSE.glob("notebooks/*.ipynb"), *HOUSE.glob("solutions/*.ipynb")])


@pytest.mark.parametrize("path", BUILT_FROM, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_notebooks_of_the_course_have_the_form_that_is_built(path):
    """Else they came from another editor and want `lessons run --save`."""
    saved, read = json.loads(path.read_text("utf-8")), read_notebook(path)
    assert (saved["nbformat"], saved["nbformat_minor"]) == (4, 5)
    assert saved["metadata"] == METADATA
    assert [cell.get("id") for cell in saved["cells"]] == [cell.id for cell in read.cells]
    assert ["".join(cell["source"]) for cell in saved["cells"]] == [c.source for c in read.cells]
