"""Two processes that share the work of one: the same losses, weights and scores."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

TESTS = Path(__file__).parent
TINY = f"""import sys
sys.path.insert(0, {str(TESTS)!r})
import tiny_training
sys.modules["lessons.tiny"] = tiny_training
from lessons.kit.training import progress
progress.CHECKPOINT_SECONDS = 0  # a checkpoint after each step
from lessons.kit.cli import main
main()
"""


def launch(processes):
    """The start of a command for so many processes that find one another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return [*command, "--master-addr", "127.0.0.1", "--master-port", str(port)]


@pytest.fixture
def train(tmp_path):
    """`lessons train …` in so many processes; what its run.json says and its weights."""
    script = tmp_path / "with_tiny.py"
    script.write_text(TINY)

    def run(name, processes, *arguments, system="tiny", code=0, **variables):
        start = launch(processes) if processes > 1 else [sys.executable]
        command = [*start, str(script), "train", system, "--as", name, *arguments]
        environment = os.environ | {
            "LESSONS_MY": str(tmp_path / "my"),
            "JAXTYPING_DISABLE": "1",
            "OMP_NUM_THREADS": "1",
            "TINY_PAUSE": "0",
        }
        done = subprocess.run(
            command,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=240,
            cwd=TESTS.parent,
        )
        assert done.returncode == code, done.stderr[-2000:]
        folder = tmp_path / "my/runs" / name
        if not (folder / "run.json").exists():
            return None, None, done
        report = json.loads((folder / "run.json").read_text())
        return report, load_file(folder / "weights.safetensors"), done

    return run


BASE = ("--data", "four_scenes", "--budget", "test", "--set", "noise=0.0")


def assert_same(one, other):
    (report, weights, _), (theirs, their_weights, _) = one, other
    assert len(report["history"]) == len(theirs["history"]) > 3
    for row, their in zip(report["history"], theirs["history"], strict=True):
        for term in ("mask", "size", "loss", "gradient"):
            assert row[term] == pytest.approx(their[term], rel=1e-5, abs=1e-6), (row, their)
    for key, weight in weights.items():
        assert weight.allclose(their_weights[key], rtol=1e-5, atol=1e-5), key
    assert report["scores"]["score"] == pytest.approx(theirs["scores"]["score"], abs=1e-5)


@pytest.mark.parametrize("batch", [4, 3])
def test_two_processes_train_as_one(train, batch):
    """Also with an uneven batch: two images and one."""
    options = (*BASE, "--set", f"batch={batch}")
    assert_same(train("one", 1, *options), train("two", 2, *options))


def test_a_run_begun_with_two_goes_on_with_one(train, tmp_path):
    options = (*BASE, "--set", "batch=3")
    whole = train("whole", 1, *options)
    half = {"TINY_STOP": "7"}
    train("half", 2, *options, code=1, **half)
    assert (tmp_path / "my/runs/half/checkpoint.pt").exists()
    assert_same(whole, train("half", 1, *options, "--resume"))


def test_a_system_of_the_course_is_trained_and_kept_once(train):
    options = ("--budget", "test")
    report, weights, done = train("real", 2, *options, system="centroid_offsets")
    assert report["history"][-1]["step"] == report["steps"] and "ap" in report["scores"]
    assert done.stdout.count("my/runs/real") <= 1 and weights


@pytest.mark.parametrize("system", ["maskformer", "mask2former"])
def test_segments_are_counted_in_all_processes(system):
    """A loss that divides by the number of segments: three images in one process, two and one."""
    environment = os.environ | {"JAXTYPING_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    said = []
    for processes in (1, 2):
        command = [*launch(processes), str(TESTS / "losses_of_processes.py"), system]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, cwd=TESTS.parent
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(json.loads(done.stdout))
    for name, value in said[0].items():
        assert value == pytest.approx(said[1][name], rel=1e-5, abs=1e-7), name
