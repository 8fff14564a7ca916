"""`lessons mine`: the student's functions stand in the recorded systems, by source.

The counting part of a system is a copy of the reference that writes a line into a file.
"""

import ast
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from lessons.kit import cli, guard, places
from lessons.kit.errors import LessonsError
from lessons.kit.homework import assembly, mine, parts
from lessons.kit.names import statements, text_of
from lessons.kit.training import recorded

# A part of each system's own lesson and one of an earlier lesson that it reaches by imports.
COUNTING = {
    "centroid_offsets": ("centroid_offsets/find_centres", "average_precision/average_precision"),
    "spatial_embedding": ("spatial_embedding/membership", "lovasz/lovasz_hinge"),
    "mask_rcnn": ("mask_rcnn/paste_masks", "roi_align/roi_align"),
    "panoptic_fpn": ("panoptic_fpn/merge_panoptic", "anchor_boxes/nms"),
    "maskformer": ("maskformer/panoptic_inference", "set_prediction/matching_cost"),
    "mask2former": ("mask2former/attention_mask", "set_prediction/dice_loss"),
    "oneformer": ("oneformer/contrastive_loss", "mask2former/sample_points"),
}  # fmt: skip
# The prefix of the cells: an import and a helper of the student's own, a global that is counted.
NOTE = '''from pathlib import Path as File

seen = 0


def bin_edges(name):
    """A helper with the name of a function of lesson 04."""
    global seen
    seen += 1
    text = f"""{name}
"""
    with File({path!r}).open("a") as file:
        file.write(text)


'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_MY", str(tmp_path / "my"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reference(lesson, name):
    """The text of a lesson's function."""
    text = assembly.source(lesson).read_text(encoding="utf-8")
    return "\n".join(text_of(statements(ast.parse(text), name)[0], text.split("\n"))) + "\n"


def put(part, text):
    path = parts.folder() / f"{part}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def body_of(text, line):
    """The function with `line` before its last statement."""
    function = ast.parse(text).body[0]
    lines = text.split("\n")
    lines.insert(function.body[-1].lineno - 1, f"    {line}")
    return "\n".join(lines)


ALL = """
import json, sys
from pathlib import Path
from lessons.kit.homework import trial
systems, note, out, built = json.loads(sys.argv[1])
found = {}
for system in systems:
    Path(note).write_text("")
    trial.main(system, 1, 120, out, built)
    said = json.loads(Path(out + ".json").read_text())
    written = sorted(set(Path(note).read_text().split()))
    found[system] = written, said["calls"], said.get("error")
print(json.dumps(found))
"""


def test_a_counting_part_is_called_by_each_system(work):
    assert COUNTING.keys() == set(mine.systems())
    note, seen = work / "note", set()
    for part in sorted({part for both in COUNTING.values() for part in both}):
        lesson, name = part.split("/")
        text = body_of(reference(lesson, name), f"bin_edges({part!r})")
        put(part, NOTE.replace("{path!r}", repr(str(note))) + text)
        seen.add(part)
    built = assembly.build(parts.kept())
    assert {f"{place.part.lesson}/{place.part.name}" for place in built} == seen
    arguments = list(COUNTING), str(note), str(work / "out"), str(assembly.folder())
    run = subprocess.run(
        [sys.executable, "-B", "-c", ALL, json.dumps(arguments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    for system, (written, calls, error) in json.loads(run.stdout).items():
        assert error is None, f"{system}: {error}"
        assert set(COUNTING[system]) <= set(written), f"{system} called {written}"
        assert all(calls[part] > 0 for part in COUNTING[system])
        assert set(written) <= {"/".join(each) for each in assembly.reached(system)}


def test_reference_parts_reproduce_the_recorded_score(work):
    """On all held-out images, with all functions that maskformer is made of as the student's."""
    for lesson, name in assembly.reached("maskformer"):
        put(f"{lesson}/{name}", reference(lesson, name))
    assembly.build(parts.kept())
    out = work / "out"
    process = mine._start("maskformer", None, 300, str(out), str(assembly.folder()))
    assert process.wait(400) == 0
    said, report = json.loads(Path(f"{out}.json").read_text()), recorded.read("maskformer")
    assert said["images"] == 200
    for key in ("pq", "ap", "miou"):
        assert said["scores"][key] == pytest.approx(report["scores"][key], abs=1e-3)
    assert said["calls"]["maskformer/panoptic_inference"] == 200 + 1


WRONG = '''def paste_masks(masks, boxes, size):
    """Left and right exchanged."""
    m, along = masks.shape[-1], []
    for axis, pixels in ((1, size[0]), (0, size[1])):
        start, end = boxes[:, axis], boxes[:, axis + 2]
        centres, cells = torch.arange(pixels) + 0.5, torch.arange(m)
        inside = (centres - start[:, None]) / (end - start).clamp(min=1e-6)[:, None]
        weights = (1 - (inside[:, :, None] * m - 0.5 - cells).abs()).clamp(min=0)
        along.append(weights.to(masks))
    return along[0] @ masks.flip(-1) @ along[1].mT
'''


def test_a_wrong_part_changes_the_score(work, lessons, capsys):
    put("mask_rcnn/paste_masks", WRONG)
    put("roi_align/no_such_function", "def no_such_function():\n    pass\n")
    (work / "my/here").mkdir()
    os.chdir(work / "my/here")
    parts.owe("anchor_boxes", "nms")
    code, printed, errors = lessons("mine", "mask_rcnn", "--count", "8")
    assert code == 0, errors
    rows = [line.split() for line in printed.splitlines()]
    assert ["05", "mask_rcnn", "paste_masks", "yours", "9"] in rows  # 8 images, and the picture
    assert not any("no_such_function" in row for row in rows)
    scores = {
        row[0]: [float(x) for x in row[1:]] for row in rows if row and row[0].startswith("ap")
    }
    assert scores["ap"][0] < scores["ap"][1] - 0.1 and scores["ap"][1] > 0.7
    assert "loss of one step" in printed  # pasting is no part of it
    loss = next(row for row in rows if row[:1] == ["loss"])
    assert loss[-1] == loss[-2]
    picture = work / "my/build/mask_rcnn.png"
    assert f"{places.shown(picture)}: truth, the reference's answer, yours" in printed.replace(
        "\n", ""
    )
    assert Image.open(picture).size[0] > 500
    shown = mine.Mine("x", [mine.Row("lovasz", "f", "yours", 1)], 8, {}, {"ap": 0.5}, picture)
    shown._ipython_display_()
    assert shown.__repr__() in (out := capsys.readouterr().out) and "Image object" in out
    assert sorted(p.name for p in picture.parent.iterdir()) == [".lock", "lessons", "mask_rcnn.png"]


# ---------------------------------------------------------------- parts that fail


@pytest.fixture
def alone(monkeypatch):
    """The reference's process, which has nothing to say of failures, is not started."""
    start = mine._start

    def start_yours(*arguments):
        nothing = [sys.executable, "-c", "pass"]
        return start(*arguments) if arguments[-1] else subprocess.Popen(nothing)

    monkeypatch.setattr(mine, "_start", start_yours)


@pytest.mark.parametrize(
    "line, said",
    [
        ("raise IndexError('off by one')", "stops with IndexError: off by one"),
        ("import time; time.sleep(1000)", "was still running after 6 s: measure fewer images"),
    ],
)
def test_a_part_that_fails_is_named(work, lessons, alone, line, said):
    text = reference("average_precision", "average_precision").replace(
        "envelope =", f"{line}\n    envelope ="
    )
    path = put("average_precision/average_precision", text)
    code, printed, errors = lessons("mine", "spatial_embedding", "--count", "1", "--seconds", "6")
    assert code == 1 and printed == ""
    assert f"lessons: your average_precision ({places.shown(path)}) {said}" in errors
    assert errors.count("\n") == 1


def test_a_part_that_cannot_be_imported_is_named(work, alone):
    put("lovasz/lovasz_hinge", "def lovasz_hinge(x, y=__import__('sys').exit(3)):\n    return x\n")
    with pytest.raises(LessonsError, match=r"your lovasz_hinge \(.*\) stops with SystemExit: 3"):
        mine.measure("spatial_embedding", 1)


def test_text_that_is_no_part_is_named(work):
    for text, said in (
        ("def nms(:\n", "does not parse"),
        ("nms = max\n", "does not define nms"),
        ("from math import *\n\n\ndef nms(x):\n    return exp(x)\n", r"has an import \*"),
    ):
        put("anchor_boxes/nms", text)
        with pytest.raises(LessonsError, match=f"parts/anchor_boxes/nms.py {said}"):
            mine.measure("mask_rcnn")
    assert not list(assembly.folder().glob("*.py"))


def test_what_is_left_of_a_process_is_told(work, tmp_path):
    """Without a word, outside of every part, and in the course's own code."""
    part = parts.Part("anchor_boxes", "nms", put("anchor_boxes/nms", "x"), "x")
    built = [assembly.Place(part, Path("/built/anchor_boxes.py"), 10, 20)]

    def said(name, **what):
        (tmp_path / f"{name}.json").write_text(json.dumps(what))
        with pytest.raises(LessonsError) as error:
            mine._read(tmp_path / name, built, 3)
        return str(error.value)

    frames = [["/torch/x.py", 12], ["/built/anchor_boxes.py", 20], ["/built/anchor_boxes.py", 50]]
    assert said("a_yours", error="E", frames=frames).startswith("your nms (")
    assert said("a_yours", error="E", frames=frames[::2]).startswith("the system stops with E: of ")
    assert said("a_reference", error="E", frames=frames) == "the system stops with E"
    assert said("a_yours", ours="there are no images") == "there are no images"
    assert said("a_yours").endswith("or ends it: nms") and "without a word" in said("a_yours")


def test_control_c_ends_the_processes(work, monkeypatch):
    started = []

    def start(*arguments):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))
        return started[-1]

    monkeypatch.setattr(mine, "_start", start)
    put("anchor_boxes/nms", reference("anchor_boxes", "nms"))
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises((KeyboardInterrupt, guard.Stopped)):
        mine.measure("mask_rcnn", 1)
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2


def test_two_at_once_are_told(work):
    put("anchor_boxes/nms", reference("anchor_boxes", "nms"))
    with guard.held(work / "my/build"), pytest.raises(LessonsError, match="build is in use by"):
        mine.measure("mask_rcnn", 1)


# ---------------------------------------------------------------- without parts


def test_without_parts_it_says_how_to_begin(work, lessons, monkeypatch):
    code, printed, _ = lessons("mine")
    assert code == 0
    assert printed.startswith("You have no parts yet: lessons start 04, ")
    put("roi_align/bilinear", "def bilinear():\n    pass\n")  # a loop of lesson 04, in no module
    code, printed, _ = lessons("mine")
    assert code == 0 and "You have bilinear in my/parts; no recorded system" in printed
    monkeypatch.setattr(mine, "_turns_of", lambda lesson: {"nms", "paste_masks"})
    code, printed, _ = lessons("mine", "mask_rcnn")
    assert code == 0 and "05 mask_rcnn     paste_masks  reference" in printed
    assert "mask_rcnn: Nothing in it is yours yet. Begin with lessons start 02 " in printed
    monkeypatch.setattr(mine, "_turns_of", lambda lesson: set())
    code, printed, _ = lessons("mine", "mask_rcnn")
    assert (
        code == 0
        and printed == "mask_rcnn: None of its functions is a turn yet, so none can be yours.\n"
    )
    assert not (work / "my/build").exists()


def test_the_command_takes_what_the_function_takes():
    options = inspect.signature(cli.mine).parameters
    assert (options["count"].default, options["seconds"].default) == (mine.COUNT, mine.SECONDS)


def test_turns_are_those_of_the_lesson():
    assert mine._turns_of("roi_align") == {"pool_by_loops", "bilinear", "align_bin"}
    assert mine._turns_of("no_such_lesson") == set()


def test_an_unknown_system_is_told(work, lessons):
    code, _, errors = lessons("mine", "mask_rcnn_nuclei")
    assert code == 1 and "there is no recorded system 'mask_rcnn_nuclei': centroid_off" in errors


def test_the_systems_of_a_part(work):
    put("anchor_boxes/nms", "x")
    assert mine.systems_of(parts.kept()) == ["mask_rcnn", "panoptic_fpn"]
    put("oneformer/contrastive_loss", "x")
    assert mine.systems_of(parts.kept()) == ["mask_rcnn", "oneformer", "panoptic_fpn"]


def test_a_notebook_outside_of_my_has_no_parts(work, monkeypatch, capsys):
    put("roi_align/roi_align", reference("roi_align", "roi_align"))
    monkeypatch.setattr(mine, "_turns_of", lambda lesson: {"roi_align"})
    shown = mine.mine("mask_rcnn")
    assert shown.yours is None and "yours" not in {row.whose for row in shown.rows}
    shown._ipython_display_()
    assert "Nothing in it is yours yet" in capsys.readouterr().out

    monkeypatch.setattr(mine, "_both", lambda system, count, *_: 1 / 0 if count == 3 else None)
    (work / "my/here").mkdir()
    monkeypatch.chdir(work / "my/here")
    with pytest.raises(ZeroDivisionError):  # it would be measured
        mine.mine("mask_rcnn", 3)


def test_turns_and_debts_are_rows(work, monkeypatch):
    names = {"roi_align": {"roi_align", "roi_pool"}, "anchor_boxes": {"nms", "gone"}}
    monkeypatch.setattr(mine, "_turns_of", lambda lesson: names.get(lesson, set()))
    (work / "my").mkdir(exist_ok=True)
    monkeypatch.chdir(work / "my")
    parts.owe("roi_align", "roi_pool")
    put("anchor_boxes/box_iou", "x")
    rows = mine._rows("mask_rcnn", parts.kept())
    assert [(row.lesson, row.name, row.whose) for row in rows] == [
        ("anchor_boxes", "box_iou", "yours"),
        ("anchor_boxes", "nms", "reference"),
        ("roi_align", "roi_align", "reference"),
        ("roi_align", "roi_pool", "owed"),
    ]


# ---------------------------------------------------------------- the built text


def test_a_part_alone_stands_where_the_reference_stood(work):
    put(
        "lovasz/jaccard_loss",
        "import torch\n\n\ndef jaccard_loss(a, b):\n    # mine\n    return a - b\n\n\nprint(1)\n",
    )
    (place,) = assembly.build(parts.kept())
    text = place.module.read_text(encoding="utf-8")
    lines = text.split("\n")
    assert lines[place.first - 1 : place.last] == [
        '@counted("lovasz/jaccard_loss")',
        "def jaccard_loss(a, b):",
        "    # mine",
        "    return a - b",
    ]
    before = assembly.source("lovasz").read_text(encoding="utf-8")
    assert text.count("import torch\n") == before.count("import torch\n") == 1
    assert reference("lovasz", "lovasz_hinge") in text
    assert text.startswith("# Built by `lessons mine` from lessons/lovasz.py and your parts.\n")


def test_a_part_with_helpers_meets_no_name_of_the_module(work):
    cell = (
        NOTE.replace("{path!r}", "'x'")
        + "@checked\ndef roi_pool(x=bin_edges):\n    return bin_edges, seen, math\n"
    )
    put("roi_align/roi_pool", cell)
    (place,) = assembly.build(parts.kept())
    text = place.module.read_text(encoding="utf-8")
    assert reference("roi_align", "bin_edges") in text
    assert text.count("nonlocal seen") == 1 and "global" not in text
    assert '    text = f"""{name}\n"""\n' in text  # what is in a string is left as it is
    tree = ast.parse(text)
    (outer,) = [n for n in tree.body if getattr(n, "name", "") == "_yours_roi_pool"]
    assert [type(node).__name__ for node in outer.body] == [
        "ImportFrom", "Assign", "FunctionDef", "FunctionDef", "Return",
    ]  # fmt: skip
    assert (place.first, place.last) == (outer.lineno, outer.end_lineno)


def test_modules_without_a_part_are_taken_away(work):
    put("lovasz/jaccard_loss", "def jaccard_loss(a, b):\n    return a\n")
    path = put("anchor_boxes/nms", "def nms(a, b):\n    return a\n")
    assembly.build(parts.kept())
    assert sorted(p.name for p in assembly.folder().iterdir()) == ["anchor_boxes.py", "lovasz.py"]
    path.unlink()
    assembly.build(parts.kept())
    assert sorted(p.name for p in assembly.folder().iterdir()) == ["lovasz.py"]


def test_what_a_system_is_made_of():
    reached = set(assembly.reached("mask_rcnn"))
    for part in ("roi_align/roi_align", "anchor_boxes/nms", "average_precision/mask_iou"):
        assert tuple(part.split("/")) in reached
    assert ("lovasz", "lovasz_hinge") not in reached  # nothing of Mask R-CNN asks for it
    lessons_of = {lesson for lesson, _ in assembly.reached("spatial_embedding")}
    assert lessons_of == {"average_precision", "centroid_offsets", "lovasz", "spatial_embedding"}
