"""`make gpu`: what it brings back, in how much time."""

import argparse
import os
import re
import sys
import zipfile

import pytest

from bench import gpu


def test_finished_runs_are_packed_in_files_that_travel(tmp_path, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "out"
    out.mkdir()
    for name, size in (("one", 600), ("two", 300), ("three", 300)):
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text("{}")
        (runs / name / "weights.safetensors").write_bytes(os.urandom(size))
    monkeypatch.setattr(gpu, "LARGEST", 700)
    gpu.pack(runs, ["one", "two", "three"], out)
    assert sorted(path.name for path in out.iterdir()) == ["recorded_1.zip", "recorded_2.zip"]
    places = []
    for path in sorted(out.iterdir()):
        with zipfile.ZipFile(path) as archive:
            places.append(archive.namelist())
    assert [len(names) for names in places] == [2, 4]
    assert places[0][1] == "lessons/recorded/one/weights.safetensors"


@pytest.mark.parametrize(
    ("code", "good", "said"),
    [
        ("print('12 passed')", True, "went well after 0 s: 12 passed"),
        ("raise SystemExit(3)", False, "failed with exit code 3"),
        ("import time; time.sleep(60)", False, "stopped: the time was up"),
    ],
)
def test_a_part_ends_in_time_and_says_how(tmp_path, capsys, code, good, said, monkeypatch):
    (tmp_path / "part_of_it.py").write_text(code)
    monkeypatch.setattr(gpu, "SHORTEST", 0)
    clock = gpu.Clock(1.5 if "time was up" in said else 60)
    paths = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert gpu.call("part", ["part_of_it"], tmp_path / "log.txt", clock, paths) is good
    assert said.replace("after 0 s", "after") in re.sub(
        r"after \d+ s", "after", capsys.readouterr().out
    )


def test_without_time_nothing_is_begun(tmp_path, capsys):
    clock = gpu.Clock(gpu.SHORTEST - 1)
    assert not gpu.call("part", ["no_such_module"], tmp_path / "log.txt", clock, {})
    assert "no time left" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_a_run_that_would_not_be_done_is_left_out(tmp_path, monkeypatch, capsys):
    """At the pace of the first run no other run of its system fits into the minute."""
    begun = []

    def call(name, command, log, clock, environment):
        begun.append(name)
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"steps": 1, "batch": 1}')
        clock.start -= 10
        return True

    monkeypatch.setattr(gpu, "call", call)
    monkeypatch.setattr(gpu, "MADE", tmp_path / "made")
    chosen = argparse.Namespace(out=tmp_path, only=["mask_rcnn", "mask_rcnn_pool"], budget="full")
    gpu.runs(chosen, gpu.Clock(60), {})
    assert begun == ["mask_rcnn"]
    assert "mask_rcnn_pool: left out" in capsys.readouterr().out


def test_the_options_of_the_script_are_said(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "--help"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--minutes" in capsys.readouterr().out
