"""The repository stays small enough to travel: to a GPU machine no more than 64 MiB can go."""

import subprocess

import pytest

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def tracked(root):
    """The files that git tracks and their sizes."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [root / name for name in listed.stdout.split("\0") if name]
    return {path: path.stat().st_size for path in paths if path.is_file()}


def test_all_tracked_files_together_are_small(tracked):
    assert len(tracked) > 100  # that the list is there at all
    assert sum(tracked.values()) <= 55 * MEGABYTE


def test_the_solutions_together_are_small(tracked):
    assert sum(n for path, n in tracked.items() if path.parent.name == "solutions") <= 4 * MEGABYTE


def test_kept_weights_are_small_and_belong_to_a_run(tracked):
    weights = [path for path in tracked if path.name == "weights.safetensors"]
    assert weights
    for path in weights:
        assert tracked[path] <= 4 * 2**20, path
        assert '"weights"' in path.with_name("run.json").read_text(encoding="utf-8")
