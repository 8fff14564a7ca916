"""A command that is stopped, two at once, a full disk, an edit while a notebook runs."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
import tiny_training
from rich.console import Console
from tiny_notebooks import write_notebook

from lessons.kit import guard, places
from lessons.kit.errors import LessonsError
from lessons.kit.notebooks import executing, running
from lessons.kit.notebooks.running import run_lessons, save_outputs
from lessons.kit.training import fit

QUICK = ["# One\n\nA lesson.", "1 + 1"]
SLOW = ["# Slow\n\nA lesson.", "import time\ntime.sleep(600)"]


def house(root, **lessons):
    for name, cells in lessons.items():
        write_notebook(root, f"notebooks/{name}.ipynb", cells)
    return root


def quiet():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def command(tmp_path):
    """`lessons …` in a process of its own, on a house in tmp_path."""
    code = (
        "import sys, pathlib; from lessons.kit import places; "
        "places.ROOT = pathlib.Path(sys.argv.pop(1)); from lessons.kit.cli import main; main()"
    )

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAXTYPING_DISABLE": "1"},
        )

    return start


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def children(pid):
    """The processes that a process has started, and theirs."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *children(int(child))]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_its_kernels_in_one_line_and_leaves_an_index(command, tmp_path, number):
    house(tmp_path, **{"01_one": QUICK, "02_slow": SLOW, "03_never": SLOW})
    process = command("run", "--jobs", "1")
    index = tmp_path / "build/index.html"
    wait_for(lambda: index.exists() and (tmp_path / "build/02_slow.log").exists())
    wait_for(lambda: children(process.pid))
    time.sleep(1)
    kernels = children(process.pid)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines() == ["lessons: stopped"]
    assert not any(Path(f"/proc/{kernel}").exists() for kernel in kernels)
    assert "01_one" in index.read_text() and not (tmp_path / "build/03_never.log").exists()


def test_two_runs_at_once_and_who_holds_the_folder(tmp_path, monkeypatch):
    house(tmp_path, **{"01_one": QUICK})
    monkeypatch.setattr(sys, "argv", ["lessons", "run", "01"])
    with guard.held(tmp_path / "build"):
        for go in (run_lessons, save_outputs):
            with pytest.raises(LessonsError) as error:
                go(tmp_path, console=quiet())
            assert f"is in use by lessons run 01 (process {os.getpid()}, since" in str(error.value)
    run_lessons(tmp_path, console=quiet())  # and then it is free
    assert not (tmp_path / "build/.held").exists()


def test_a_folder_is_free_when_its_holder_was_killed(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from lessons.kit.guard import held
with held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LessonsError, match=f"process {holder.pid}"), guard.held(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with guard.held(tmp_path):
        pass


def test_lessons_side_by_side_take_the_time_of_the_longest(tmp_path):
    """Each waits for the other: in turns they would wait for ever (and fail)."""
    meet = """import os, time
open({mine!r}, "w").close()
end = time.monotonic() + 60
while not os.path.exists({other!r}):
    assert time.monotonic() < end
    time.sleep(.05)
print(os.environ.get("OMP_NUM_THREADS"))"""
    names = [str(tmp_path / name) for name in "ab"]
    for number, (mine, other) in enumerate([names, names[::-1]], start=1):
        cells = ["# Meet\n\nA lesson.", meet.format(mine=mine, other=other)]
        house(tmp_path, **{f"0{number}_meet": cells})
    house(tmp_path, **{"03_bad": ["# Bad\n\nA lesson.", "1 / 0"]})
    with pytest.raises(LessonsError, match="1 of 3 lessons failed: 03_bad"):
        run_lessons(tmp_path, console=quiet(), jobs=2)
    for name in ("01_meet", "02_meet"):
        notebook = nbformat.read(tmp_path / f"build/{name}.ipynb", 4)
        assert notebook.cells[1].outputs[0].text == "1\n"  # one thread each
    index = (tmp_path / "build/index.html").read_text()
    assert [index.count(name) for name in ("01_meet", "02_meet", "03_bad")] == [1, 1, 1]


def test_the_index_lists_what_lies_there_from_earlier_calls(tmp_path):
    house(tmp_path, **{"01_one": QUICK, "02_two": QUICK})
    run_lessons(tmp_path, ["1"], quiet())
    run_lessons(tmp_path, ["2"], quiet())
    assert (tmp_path / "build/index.html").read_text().count('href="0') == 2
    (tmp_path / "build/01_one.html").unlink()
    (tmp_path / "build/runs.json").write_text("{")  # of another version, or damaged
    run_lessons(tmp_path, ["2"], quiet())
    assert (tmp_path / "build/index.html").read_text().count('href="0') == 1


def test_the_index_is_there_after_the_first_lesson(tmp_path, monkeypatch):
    house(tmp_path, **{"01_one": QUICK, "02_two": QUICK})
    seen, write = [], running._write_index

    def noted(build, run):
        write(build, run)
        seen.append((build / "index.html").read_text().count('href="0'))

    monkeypatch.setattr(running, "_write_index", noted)
    run_lessons(tmp_path, console=quiet())
    assert seen == [1, 2]


def test_an_edit_while_a_notebook_runs_is_kept(tmp_path, monkeypatch):
    house(tmp_path, **{"01_one": QUICK, "02_two": QUICK})
    path, execute = tmp_path / "notebooks/01_one.ipynb", executing.execute

    def edited(notebook, folder, log, *arguments):
        if "01_one" in log.name:
            path.write_text(path.read_text().replace("1 + 1", "2 + 2"))
        return execute(notebook, folder, log, *arguments)

    monkeypatch.setattr(running, "execute", edited)
    with pytest.raises(LessonsError) as error:
        save_outputs(tmp_path, console=quiet())
    assert str(error.value) == (
        "notebooks/01_one.ipynb was edited while it ran and is left as it is: run it again"
    )
    assert "2 + 2" in path.read_text() and "outputs" in path.read_text()
    other = nbformat.read(tmp_path / "notebooks/02_two.ipynb", 4)
    assert other.cells[1].outputs[0].data["text/plain"] == "2"  # the others are saved


# ---------------------------------------------------------------- disks


@pytest.fixture(params=[errno.ENOSPC, errno.EROFS, errno.EACCES])
def bad_disk(request, monkeypatch):
    """A disk on which no text can be written; half of it is, before it says so."""
    write = Path.write_text

    def fail(path, text, *arguments, **options):
        if path.suffix == ".part":
            write(path, text[: len(text) // 2], *arguments, **options)
        raise OSError(request.param, os.strerror(request.param), str(path))

    monkeypatch.setattr(Path, "write_text", fail)
    return request.param


def test_nothing_half_written_is_left_of_a_run(tmp_path, bad_disk):
    with pytest.raises(LessonsError) as error:
        guard.write_whole(tmp_path / "index.html", "a page of some length")
    assert "index.html cannot be written: " in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path, monkeypatch):
    guard.write_whole(tmp_path / "a.txt", "whole")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LessonsError, match="a.txt cannot be written: the disk is full: make room"):
        guard.write_whole(tmp_path / "a.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("arguments", [("start", "01"), ("run", "01"), ("build",)])
def test_a_command_on_a_bad_disk_is_one_line(lessons, monkeypatch, tmp_path, arguments, error):
    house(tmp_path, **{"01_one": ["# One\n\nA lesson.", "#| export\nONE = 1"]})
    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.delenv("LESSONS_MY", raising=False)

    def fail(path, *arguments, **options):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(Path, "write_text", fail)
    monkeypatch.setattr(Path, "mkdir", fail)
    before = sorted(tmp_path.rglob("*"))
    code, _, said = lessons(*arguments)
    assert code == 1
    (line,) = said.strip().splitlines()
    assert line.startswith("lessons: ") and "cannot be written: " in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nmore"),
    ],
)
def test_a_disk_that_fills_up_costs_a_run_one_checkpoint(tmp_path, monkeypatch, error):
    import torch

    save, count = torch.save, 0

    def fail_the_third_time(state, path):
        nonlocal count
        count += 1
        if count == 3:
            Path(path).write_bytes(b"half")
            raise error
        save(state, path)

    recipe = tiny_training.recipe()
    whole = fit(recipe, "test", progress=False)
    monkeypatch.setattr(torch, "save", fail_the_third_time)
    with pytest.raises(LessonsError) as found:
        fit(recipe, "test", folder=tmp_path, checkpoint_every=2, progress=False)
    assert "checkpoint.pt cannot be written: " in str(found.value)
    assert "of step 6" in str(found.value) and "\n" not in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    again = fit(recipe, "test", folder=tmp_path, checkpoint_every=2, progress=False)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_signal_in_another_thread_s_command_is_left_alone():
    """Only the main thread may set handlers; elsewhere nothing happens."""
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=guard.stop_on_signals)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
