"""`fit` and `evaluate`: data in memory, batches, the curve of the learning rate, resumed runs."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
from PIL import Image
from tiny_training import Painted, Tiny
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lessons.kit.data import Category, Segments, is_crowd, memory, named
from lessons.kit.data.memory import AsNeeded, InMemory
from lessons.kit.data.real import NUCLEI_SPLITS, Nuclei
from lessons.kit.data.scenes import Scenes
from lessons.kit.errors import LessonsError
from lessons.kit.training import (
    BUDGETS,
    Budget,
    budget,
    by_heart,
    categories,
    data_set,
    evaluate,
    fit,
    from_full,
    loop,
    predict,
    progress,
)
from lessons.kit.training.batches import Batches, augment
from lessons.kit.training.loop import evaluation_steps, learning_rate, parameter_groups
from lessons.kit.training.progress import Progress

PLAN = Budget(6, batch=4, size=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def same_samples(one, other):
    return (
        torch.equal(one.image, other.image)
        and torch.equal(one.segments.masks, other.segments.masks)
        and torch.equal(one.segments.labels, other.segments.labels)
        and torch.equal(is_crowd(one.segments), is_crowd(other.segments))
    )


def same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def numbers(run):
    """The history without what depends on the clock, as text in which NaN equals NaN."""
    return [repr({k: v for k, v in row.items() if k != "seconds"}) for row in run.history]


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    "said, name", [(None, "quick"), ("", "quick"), ("test", "test"), ("full", "full")]
)
def test_the_environment_names_the_budget(monkeypatch, said, name):
    monkeypatch.delenv("LESSONS_BUDGET", raising=False)
    if said is not None:
        monkeypatch.setenv("LESSONS_BUDGET", said)
    assert budget() == name


def test_a_changed_budget_leaves_the_recipe_and_its_other_budgets_as_they_were():
    recipe = tiny_training.recipe()
    changed = recipe.with_budget("quick", steps=3, batch=1)
    assert (changed.budget("quick").steps, changed.budget("quick").batch) == (3, 1)
    assert changed.budget("quick").size == recipe.budget("quick").size
    assert changed.budget("test") == recipe.budget("test")
    assert recipe.budget("quick").steps == 12


def test_quick_and_test_are_shorter_and_keep_what_is_not_said():
    full = Budget(6000, batch=16, evaluations=6, learning_rate=2e-3, clip=20.0, turn=True)
    made = from_full(full, steps=220)
    assert made["full"] == full and list(made) == list(BUDGETS)
    assert made["quick"] == replace(full, steps=220, batch=8, count=1000, evaluations=1)
    assert made["test"] == replace(
        full, steps=4, batch=2, size=64, count=8, validated=4, evaluations=1
    )


def test_what_is_learned_by_heart_is_not_mirrored_and_evaluated_once():
    few = Budget(300, batch=2, size=64, evaluations=6, learning_rate=4e-3, warm_up=0.3)
    made = by_heart(few, steps=900, batch=4)
    assert made["test"] == replace(few, mirror=False, evaluations=1)
    assert made["quick"] == made["full"] == replace(made["test"], steps=900, batch=4)


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("source", [Scenes(3, 4, 48), Painted((9, 5), (7, 11))])
def test_in_memory_a_sample_is_its_source_to_half_a_grey_level(source):
    kept = InMemory(source, 2)
    assert len(kept) == 2 and kept.categories == source.categories
    for sample, own in zip([kept[0], kept[1]], [source[0], source[1]], strict=True):
        assert sample.image.dtype == torch.float32
        assert (sample.image - own.image).abs().max() <= 0.5 / 255 + 1e-7
        assert same_samples(replace(sample, image=own.image), own)


def test_in_memory_there_is_room_for_more_than_255_segments_and_for_none():
    kept = InMemory(many := Painted((26, 20), (1, 5), cell=1), 2)
    assert len(many[0].segments) == 500
    assert same_samples(replace(kept[0], image=many[0].image), many[0])
    assert kept[1].segments.masks.shape == (0, 1, 5)


def test_a_data_set_has_two_splits_and_at_most_as_many_images_as_it_is_asked_for():
    def first(*arguments):
        return data_set(*arguments)[0].image

    assert torch.equal(first("four_scenes", "train", 32), first("four_scenes", "validation", 32))
    train, held_out = (first("scenes", split, 32, 1) for split in ("train", "validation"))
    assert not torch.equal(train, held_out)
    assert (held_out - Scenes(1, 1, 32)[0].image).abs().max() <= 0.5 / 255 + 1e-7
    other = data_set("scenes:7", "validation", 32, 3)
    assert len(other) == 3
    assert torch.equal(other[2].segments.masks, Scenes(7, 3, 32)[2].segments.masks)
    assert len(data_set("four_scenes", "train", 32, 1000)) == 4


def test_what_processes_draw_is_the_same_and_keeps_no_file_open(monkeypatch):
    alone = InMemory(Scenes(0, 64, 32), 64)
    monkeypatch.setattr(memory, "workers", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    files = Path("/proc/self/fd")
    before = len(list(files.iterdir())) if files.exists() else 0
    shared = InMemory(Scenes(0, 64, 32), 64)
    if files.exists():
        assert len(list(files.iterdir())) < before + 64
    assert len(shared) == 64
    assert all(same_samples(alone[i], shared[i]) for i in range(64))


# ---------------------------------------------------------------- batches


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    shapes = [(8, 20 + number) for number in range(10)]  # an image is known by its width
    plan = Budget(10, batch=4, size=64, mirror=False)
    batches = Batches(Painted(*shapes), plan, seed=0)
    seen = [sample.image.shape[2] for step in range(10) for sample in batches[step]]
    epochs = [seen[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == [width for _, width in shapes] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = Batches(Painted(*shapes), plan, seed=1)
    assert [s.image.shape[2] for step in range(3) for s in other[step]] != seen[:12]


def test_a_batch_depends_on_its_step_and_on_nothing_before():
    samples = Painted(*[(16, 16)] * 5)
    plan = replace(PLAN, turn=True)
    in_order = [Batches(samples, plan, 3)[step] for step in range(6)]
    one = Batches(samples, plan, 3)
    backwards = [one[step] for step in reversed(range(6))][::-1]
    torch.rand(5)
    late = list(loop._loader(Batches(samples, plan, 3), 2, on_gpu=False))
    for batches in (backwards, in_order[:2] + late):
        assert len(batches) == 6
        for batch, expected in zip(batches, in_order, strict=True):
            assert all(same_samples(a, b) for a, b in zip(batch, expected, strict=True))


def test_beside_a_gpu_processes_make_the_same_batches(monkeypatch):
    monkeypatch.setattr(loop, "workers", lambda: 2)
    batches = Batches(Painted(*[(16, 16)] * 5), PLAN, 0)
    made = list(loop._loader(batches, 3, on_gpu=True))
    assert len(made) == 3
    for step, batch in enumerate(made, start=3):
        assert all(same_samples(a, b) for a, b in zip(batch, batches[step], strict=True))


def test_a_data_set_may_be_smaller_than_a_batch():
    batches = Batches(Painted((8, 8), (9, 9)), replace(PLAN, size=64, batch=5), 0)
    for step in range(6):
        assert len(batches[step]) == 5
        assert {sample.image.shape[1] for sample in batches[step]} == {8, 9}


@pytest.mark.parametrize("size", [5, 64])
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("turn", [True, False])
def test_image_and_segments_are_cropped_mirrored_and_turned_together(size, mirror, turn):
    (sample,) = Painted((12, 15))
    plan = Budget(1, size=size, mirror=mirror, turn=turn)
    steps = set()
    for seed in range(40):
        got = augment(sample, plan, generator(seed))
        ids, row, column = (got.image * 255).round().long()
        height, width = ids.shape
        if size == 5:
            assert (height, width) == (5, 5)
        else:
            assert (height, width) in ({(12, 15), (15, 12)} if turn else {(12, 15)})
        # What is painted is what the masks say; nothing else is left, and nothing is lost.
        labels = got.segments.labels
        assert sorted(labels.tolist()) == sorted((ids[ids > 0].unique() - 1).tolist())
        for mask, label, crowd in zip(
            got.segments.masks, labels, is_crowd(got.segments), strict=True
        ):
            assert torch.equal(mask, ids == label + 1)
            assert bool(crowd) == (int(label + 1) % 3 == 0)
        # A window of the image: rows and columns go by one.
        down = {
            (int(a), int(b))
            for a, b in zip(row.diff(dim=0).flatten(), column.diff(dim=0).flatten(), strict=True)
        }
        right = {
            (int(a), int(b))
            for a, b in zip(row.diff(dim=1).flatten(), column.diff(dim=1).flatten(), strict=True)
        }
        assert len(down) == len(right) == 1
        steps.add((down.pop(), right.pop()))
    assert len(steps) == {(0, 0): 1, (1, 0): 2, (0, 1): 4, (1, 1): 8}[mirror, turn]
    assert ((1, 0), (0, 1)) in steps


def test_every_window_can_be_cropped():
    (sample,) = Painted((7, 6))
    plan = Budget(1, size=5, mirror=False)
    corners = set()
    for seed in range(100):
        corners.add(
            tuple(
                (augment(sample, plan, generator(seed)).image[1:, 0, 0] * 255)
                .round()
                .int()
                .tolist()
            )
        )
    assert corners == {(y, x) for y in range(3) for x in range(2)}


# ---------------------------------------------------------------- the plan of a run


@pytest.mark.parametrize("steps, warm_up", [(100, 0.05), (40, 0.5), (10, 0.0), (7, 1.0)])
def test_the_learning_rate_warms_up_and_falls_to_almost_zero(steps, warm_up):
    plan = Budget(steps, learning_rate=0.3, warm_up=warm_up)
    rates = [learning_rate(step, plan) for step in range(steps)]
    top = max(1, round(warm_up * steps))
    assert rates[top - 1] == pytest.approx(0.3) and max(rates) == rates[top - 1]
    rising = np.diff(rates[:top])
    assert np.allclose(rising, 0.3 / top)
    falling = rates[top:]
    assert all(a >= b > 0 for a, b in zip(falling, falling[1:], strict=False))
    if falling:
        middle = falling[len(falling) // 2]
        assert middle == pytest.approx(0.15, rel=0.35)
        assert falling[-1] < 0.3 * 3 / len(falling) ** 2


def test_one_step_is_done_at_the_full_rate():
    assert learning_rate(0, Budget(1, learning_rate=0.3)) == 0.3


@pytest.mark.parametrize(
    "steps, evaluations, expected",
    [(10, 1, {10}), (10, 3, {3, 7, 10}), (3, 3, {1, 2, 3}), (7, 2, {4, 7})],
)
def test_the_last_step_is_evaluated(steps, evaluations, expected):
    assert evaluation_steps(Budget(steps, evaluations=evaluations)) == expected


def test_more_evaluations_than_steps_are_one_after_every_step():
    assert evaluation_steps(Budget(2, evaluations=9)) - {0} == {1, 2}


def test_only_weights_decay():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16), nn.Linear(16, 2, bias=False))
    model[2].weight.requires_grad_(False)
    decaying, others = parameter_groups(model, 0.3)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.3, 0)
    assert [p.shape for p in decaying["params"]] == [(16, 3, 1, 1)]
    assert len(others["params"]) == 3


# ---------------------------------------------------------------- fit


@pytest.fixture(scope="module")
def whole():
    """A run that nothing disturbed."""
    return fit(tiny_training.recipe(), "test", seed=5, progress=False)


def test_a_run_learns_and_tells_what_happened(whole):
    plan = whole.recipe.budget("test")
    assert [row["step"] for row in whole.history] == list(range(1, 13))
    assert [row["step"] for row in whole.history if "scores" in row] == [4, 8, 12]
    for row in whole.history:
        assert row["loss"] == pytest.approx(row["mask"] + row["size"], abs=1e-6)
        assert row["learning_rate"] == learning_rate(row["step"] - 1, plan)
        assert row["gradient"] > 0
    seconds = [row["seconds"] for row in whole.history]
    assert seconds == sorted(seconds) and whole.seconds == seconds[-1] > 0
    assert whole.history[-1]["mask"] < whole.history[0]["mask"]
    assert whole.scores is whole.history[-1]["scores"]
    assert (whole.budget, whole.seed, whole.model.training) == ("test", 5, False)
    assert whole.device and whole.peak_memory > 0
    held_out = data_set("four_scenes", "validation", 32, 2)
    assert repr(evaluate(whole.model, held_out, whole.recipe.metrics)) == repr(whole.scores)


def test_a_long_run_has_a_hundred_rows_of_means():
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(3))
    count = iter(range(1000))
    model.forward = lambda images, segments: {"term": model.weight.sum() * 0 + next(count)}
    recipe = replace(tiny_training.recipe(), model=lambda: model, metrics={})
    run = fit(recipe.with_budget("test", steps=200, batch=1, evaluations=1), "test", progress=False)
    steps = [row["step"] for row in run.history]
    assert steps == list(range(2, 201, 2))
    assert [row["term"] for row in run.history] == [step - 1.5 for step in steps]


def test_a_seed_decides_everything(whole):
    again = fit(whole.recipe, "test", seed=5, progress=False)
    assert same_weights(again.model, whole.model) and numbers(again) == numbers(whole)
    other = fit(whole.recipe, "test", seed=6, progress=False)
    assert not same_weights(other.model, whole.model)
    assert other.history[0]["mask"] != whole.history[0]["mask"]


def test_the_environment_s_budget_is_taken_where_none_is_named(monkeypatch):
    monkeypatch.setenv("LESSONS_BUDGET", "quick")
    run = fit(tiny_training.recipe().with_budget("quick", steps=1), progress=False)
    assert run.budget == "quick" and len(run.history) == 1


def test_the_caller_s_random_state_is_as_it_was():
    data_set.cache_clear()
    before = torch.get_rng_state()
    run = fit(tiny_training.recipe().with_budget("test", steps=2), "test", progress=False)
    evaluate(run.model, data_set("four_scenes", "train", 32), run.recipe.metrics)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_state_comes_back_after_a_failure_too():
    def fail():
        torch.rand(3)
        raise OSError("no model")

    before = torch.get_rng_state()
    with pytest.raises(OSError, match="no model"):
        fit(replace(tiny_training.recipe(), model=fail), "test", progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_several_sizes_and_crops_without_a_segment(monkeypatch):
    source = Painted((9, 30), (30, 9), (1, 40), (3, 3))  # (1, 40) is void
    source.categories = [Category(str(k), True, (0, 0, 0)) for k in range(100)]
    monkeypatch.setattr(named, "_source", lambda *arguments: source)
    recipe = replace(tiny_training.recipe(), data="several sizes")
    recipe = recipe.with_budget("test", steps=4, size=16, count=99, validated=99, turn=True)
    run = fit(recipe, "test", progress=False)
    assert len(run.history) == 4 and 0 < run.scores["score"] < 1


# ---------------------------------------------------------------- killed and resumed


class Killer(Tiny):
    """Ends its run in the middle of a step."""

    def __init__(self, at, error):
        super().__init__()
        self.left, self.error = at, error

    def forward(self, images, segments):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().forward(images, segments)


@pytest.mark.parametrize("at", [0, 3, 5, 9, 11])
def test_a_run_that_was_interrupted_ends_with_the_same_numbers(whole, tmp_path, at):
    killed = replace(whole.recipe, model=lambda: Killer(at, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fit(killed, "test", seed=5, folder=tmp_path, checkpoint_every=3, progress=False)
    names = [path.name for path in tmp_path.iterdir()]
    assert names == (["checkpoint.pt"] if at >= 3 else [])
    torch.rand(7)
    run = fit(whole.recipe, "test", seed=5, folder=tmp_path, checkpoint_every=3, progress=False)
    assert same_weights(run.model, whole.model) and numbers(run) == numbers(whole)
    assert repr(run.scores) == repr(whole.scores)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_run_that_is_interrupted_often_ends_with_the_same_numbers(whole, tmp_path):
    for _ in range(3):
        killed = replace(whole.recipe, model=lambda: Killer(4, OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            fit(killed, "test", seed=5, folder=tmp_path, checkpoint_every=3, progress=False)
    run = fit(whole.recipe, "test", seed=5, folder=tmp_path, checkpoint_every=3, progress=False)
    assert same_weights(run.model, whole.model) and numbers(run) == numbers(whole)


def test_a_finished_run_is_not_trained_again(whole, tmp_path):
    fit(whole.recipe, "test", seed=5, folder=tmp_path, progress=False)
    idle = replace(whole.recipe, model=lambda: Killer(0, OSError("a step was done")))
    run = fit(idle, "test", seed=5, folder=tmp_path, progress=False)
    assert same_weights(run.model, whole.model) and numbers(run) == numbers(whole)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(whole, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def fails_the_second_time(state, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError("no space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", fails_the_second_time)
    arguments = dict(seed=5, folder=tmp_path, checkpoint_every=4, progress=False)
    with pytest.raises(LessonsError, match="no space left"):
        fit(whole.recipe, "test", **arguments)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    run = fit(whole.recipe, "test", **arguments)
    assert same_weights(run.model, whole.model) and numbers(run) == numbers(whole)


TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import tiny_training
from lessons.kit.training import fit
fit(tiny_training.recipe(), "test", seed=5, folder=sys.argv[2], checkpoint_every=2, progress=False)
"""


def test_when_a_checkpoint_is_written_changes_no_number(whole, tmp_path, monkeypatch):
    """In the middle of a row of the history, by the clock: nothing else knows of it."""
    long = replace(whole.recipe).with_budget("test", steps=400, evaluations=1, batch=1)
    undisturbed = fit(long, "test", seed=5, progress=False)
    assert [row["step"] for row in undisturbed.history[:2]] == [4, 8]  # rows of four steps
    monkeypatch.setattr(progress, "CHECKPOINT_SECONDS", 0)  # after every step
    killed = replace(long, model=lambda: Killer(210, KeyboardInterrupt()))
    arguments = dict(seed=5, folder=tmp_path, checkpoint_every=1000, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, "test", **arguments)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 210
    run = fit(long, "test", **arguments)
    assert same_weights(run.model, undisturbed.model) and numbers(run) == numbers(undisturbed)


def test_a_checkpoint_is_never_older_than_the_clock_allows(whole, tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    save = Progress.save

    def step(self, terms, look, note=Progress.note):
        now[0] += 6  # seconds
        note(self, terms, look)

    monkeypatch.setattr(Progress, "note", step)
    monkeypatch.setattr(
        Progress, "save", lambda self, *parts: (saved.append(self.step), save(self, *parts))
    )
    fit(whole.recipe, "test", seed=5, folder=tmp_path, checkpoint_every=1000, progress=False)
    assert saved == [4, 8, 12]
    saved.clear()
    fit(whole.recipe, "test", seed=5, progress=False)
    assert saved == []


def test_a_killed_process_is_gone_on_with(whole, root, tmp_path):
    command = [sys.executable, "-c", TRAIN, str(root / "tests"), str(tmp_path)]
    environment = os.environ | {"TINY_PAUSE": "0.5"}
    checkpoint = tmp_path / "checkpoint.pt"
    with subprocess.Popen(command, cwd=root, env=environment) as process:
        try:
            limit = time.monotonic() + 240
            while not checkpoint.exists() and process.poll() is None:
                assert time.monotonic() < limit
                time.sleep(0.02)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 2 <= torch.load(checkpoint, weights_only=True)["step"] < 12
    run = fit(whole.recipe, "test", seed=5, folder=tmp_path, checkpoint_every=2, progress=False)
    assert same_weights(run.model, whole.model) and numbers(run) == numbers(whole)


def test_mask_rcnn_is_interrupted_and_ends_with_the_same_numbers(tmp_path):
    from lessons.mask_rcnn import recipe

    few = dict(steps=3, batch=2, validated=1, evaluations=1)
    made = recipe("four_scenes").with_budget("test", **few)
    run = fit(made, "test", seed=1, progress=False)
    assert {"objectness", "rpn_box", "cls", "box", "mask"} < run.history[0].keys()

    def killed():
        model = made.model()
        forward, calls = model.forward, []

        def fail_in_step_3(images, segments):
            calls.append(images)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return forward(images, segments)

        model.forward = fail_in_step_3
        return model

    arguments = dict(seed=1, folder=tmp_path, checkpoint_every=2, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(replace(made, model=killed), "test", **arguments)
    resumed = fit(made, "test", **arguments)
    assert same_weights(resumed.model, run.model) and numbers(resumed) == numbers(run)


# ---------------------------------------------------------------- numbers that are none


class Broken(Tiny):
    """Its term, or its gradient, is no number from a step on."""

    def __init__(self, kind, after=2):
        super().__init__()
        self.kind, self.left = kind, after

    def forward(self, images, segments):
        losses = super().forward(images, segments)
        self.left -= 1
        if self.left >= 0:
            return losses
        if self.kind == "gradient":  # 0 · ∞: the root's value is 0 and its slope infinite
            return losses | {"root": (self.scale * 0).pow(2).sum().sqrt()}
        return losses | {"size": losses["size"] * float(self.kind)}


@pytest.mark.parametrize("kind, name", [("nan", "size"), ("inf", "size"), ("gradient", "gradient")])
def test_what_is_no_number_stops_the_run_by_name_and_the_last_checkpoint_stays(
    tmp_path, kind, name
):
    recipe = replace(tiny_training.recipe(), model=lambda: Broken(kind))
    with pytest.raises(LessonsError, match=f"{name}.* in step 3;"):
        fit(recipe, "test", folder=tmp_path, checkpoint_every=1, progress=False)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 2
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.parametrize("seconds", [20, 0])
def test_where_numbers_are_looked_at_now_and_then_the_step_is_known_too(
    monkeypatch, tmp_path, seconds
):
    """As beside a GPU: only when a row of the history is closed or a checkpoint is written."""
    monkeypatch.setattr(progress, "CHECKPOINT_SECONDS", seconds)
    note = Progress.note
    monkeypatch.setattr(Progress, "note", lambda self, terms, look: note(self, terms, False))
    recipe = replace(tiny_training.recipe(), model=lambda: Broken("nan", after=100))
    recipe = recipe.with_budget("test", steps=200, batch=1, evaluations=1)
    with pytest.raises(LessonsError, match="'size' became nan in step 101;"):
        fit(recipe, "test", folder=tmp_path, checkpoint_every=100, progress=False)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 100


# ---------------------------------------------------------------- evaluate


class Counting(Tiny):
    def __init__(self):
        super().__init__()
        self.batches = []

    def predict_instances(self, images):
        self.batches.append((len(images), self.training, torch.is_grad_enabled()))
        return super().predict_instances(images)

    def predict_sizes(self, images):
        return [torch.tensor(image.shape[1:]) for image in images]


@pytest.mark.parametrize("training_before", [True, False])
def test_predictions_are_made_in_batches_without_gradients_and_the_mode_comes_back(training_before):
    data, model = data_set("four_scenes", "train", 32), Counting().train(training_before)
    answers = predict(model, data, "predict_instances", batch=3)
    assert model.batches == [(3, False, False), (1, False, False)]
    assert model.training is training_before
    assert len(answers) == 4 and all(isinstance(answer, Segments) for answer in answers)
    one_by_one = predict(model, data, "predict_instances", batch=1)
    for a, b in zip(answers, one_by_one, strict=True):
        assert torch.equal(a.masks, b.masks)
    assert [size.tolist() for size in predict(model, data, "predict_sizes")] == [[32, 32]] * 4


def test_every_metric_sees_its_predictions_all_targets_and_the_categories():
    data, seen = InMemory(Scenes(0, 3, 32), 3), {}

    def first(predictions, targets, categories):
        seen["first"] = len(predictions), len(targets), categories
        assert all(torch.equal(t.masks, data[i].segments.masks) for i, t in enumerate(targets))
        return {"a": np.float32(0.5), "per_class": {"sheep": {"a": np.float64("nan")}}}

    def second(predictions, targets, categories):
        return {"b": torch.tensor(2), "c": np.arange(2)}

    scores = evaluate(Counting(), data, {"predict_instances": first, "predict_sizes": second})
    assert seen["first"] == (3, 3, Scenes.categories)
    # Python's own numbers, which a checkpoint and JSON can hold.
    assert repr(scores) == "{'a': 0.5, 'per_class': {'sheep': {'a': nan}}, 'b': 2, 'c': [0, 1]}"


def test_a_class_has_one_row_with_the_numbers_of_all_metrics():
    data = InMemory(Scenes(0, 2, 32), 2)

    def first(predictions, targets, categories):
        return {"per_class": {"sheep": {"a": 1}, "tree": {"a": 2}}, "a": 3}

    def second(predictions, targets, categories):
        return {"per_class": {"sheep": {"b": np.float32(0.5)}, "lake": {"b": 4}}}

    scores = evaluate(Counting(), data, {"predict_instances": first, "predict_sizes": second})
    rows = {"sheep": {"a": 1, "b": 0.5}, "tree": {"a": 2}, "lake": {"b": 4}}
    assert scores == {"a": 3, "per_class": rows}


def test_ten_coco_is_the_same_ten_small_images_in_both_splits(coco):
    splits = [data_set("ten_coco", split, 64) for split in ("train", "validation")]
    assert len(splits[0]) == len(splits[1]) == 10 and len(splits[0].categories) == 133
    for number, (one, other) in enumerate(zip(*splits, strict=True)):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.segments.masks, other.segments.masks)
        h, w = coco[number].segments.size if number < 2 else one.segments.size
        assert max(one.segments.size) == 64 and abs(h / w - np.divide(*one.segments.size)) < 0.03
    assert len(data_set("ten_coco", "train", 64, 3)) == 3


# ---------------------------------------------------------------- what no test had noticed


def gradients_at_each_update(recipe):
    """The norm of the gradient with which the optimiser makes each step."""
    norms = []

    def note(optimizer, *_):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))

    handle = register_optimizer_step_pre_hook(note)
    try:
        run = fit(recipe, "test", progress=False)
    finally:
        handle.remove()
    return norms, run


def test_the_gradient_is_clipped_before_the_step_and_recorded_as_it_was():
    free, run = gradients_at_each_update(tiny_training.recipe().with_budget("test", clip=1e6))
    limit = sorted(free)[len(free) // 2]  # of the steps of a free run, half are above it
    norms, run = gradients_at_each_update(tiny_training.recipe().with_budget("test", clip=limit))
    assert max(norms) <= limit * (1 + 1e-4) and max(norms) == pytest.approx(limit, rel=1e-3)
    assert max(row["gradient"] for row in run.history) > limit


def test_every_step_draws_other_numbers():
    drawn = []

    class Drawing(Tiny):
        def forward(self, images, segments):
            drawn.append(tuple(torch.rand(3).tolist()))
            return super().forward(images, segments)

    recipe = replace(tiny_training.recipe(), model=Drawing, metrics={})
    steps = recipe.budget("test").steps
    fit(recipe, "test", seed=0, progress=False)
    fit(recipe, "test", seed=1, progress=False)
    assert len(drawn) == 2 * steps == len(set(drawn))


# ---------------------------------------------------------------- splits


SEVERAL = ["nuclei", "pennfudan", "coco", "scenes"]


def tiny_images(root, coco_splits=("train2017", "val2017")):
    """The three real data sets in small: as many images, of 1×1 pixels, each of its own colour."""
    made = 0

    def save(path, values):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)

    def colour():
        nonlocal made
        made += 1
        return [[[made % 256, made // 256, 7]]]

    for name in [*NUCLEI_SPLITS["train"], *NUCLEI_SPLITS["test"], "another"]:
        save(root / f"nuclei/stage1_train/{name}/images/{name}.png", colour())
        save(root / f"nuclei/stage1_train/{name}/masks/a.png", [[255]])
    for kind, count in (("FudanPed", 74), ("PennPed", 96)):
        for number in range(1, count + 1):
            name = f"{kind}{number:05d}"
            save(root / f"PennFudanPed/PNGImages/{name}.png", colour())
            save(root / f"PennFudanPed/PedMasks/{name}_mask.png", [[1]])
    for split in coco_splits:
        images, annotations = [], []
        for number in range(11):
            save(root / f"coco/{split}/{number}.png", colour())
            save(root / f"coco/annotations/panoptic_{split}/{number}.png", [[[1, 0, 0]]])
            images.append({"id": number, "file_name": f"{number}.png"})
            segment = {"id": 1, "category_id": 1, "iscrowd": 0}
            place = {"image_id": number, "file_name": f"{number}.png"}
            annotations.append(place | {"segments_info": [segment]})
        table = {"images": images, "annotations": annotations}
        table["categories"] = [{"id": 1, "name": "person", "isthing": 1}]
        (root / f"coco/annotations/panoptic_{split}.json").write_text(json.dumps(table))


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    tiny_images(root)
    return root


def pixels(*arguments):
    """The images of a split, each as its bytes."""
    return [sample.image.numpy().tobytes() for sample in data_set(*arguments)]


@pytest.mark.parametrize("name", SEVERAL)
def test_no_two_splits_share_an_image(name, tiny_root, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tiny_root))
    size = ("train", 32, 300) if name == "scenes" else ("train",)
    train, held_out = (pixels(name, split, *size[1:]) for split in ("train", "validation"))
    counts = {"nuclei": (160, 40), "pennfudan": (137, 33), "coco": (11, 11), "scenes": (300, 200)}
    assert (len(train), len(held_out)) == counts[name]
    assert len({*train, *held_out}) == len(train) + len(held_out)


@pytest.mark.parametrize("name, count", [("four_scenes", 4), ("ten_coco", 10)])
def test_what_is_learned_by_heart_is_the_same_in_both_splits_and_says_so(
    name, count, tiny_root, monkeypatch
):
    monkeypatch.setenv("LESSONS_DATA", str(tiny_root))
    train, held_out = (pixels(name, split, 32) for split in ("train", "validation"))
    assert train == held_out and len(train) == count
    assert name in data_set.__doc__ and "learned by heart" in data_set.__doc__


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_where_one_split_of_coco_is_there_every_fifth_image_is_held_out_and_that_is_said_once(
    split, tmp_path, monkeypatch, capsys
):
    tiny_images(tmp_path, [split])
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    train, held_out = (data_set("coco", part) for part in ("train", "validation"))
    assert held_out.names == ["0", "5", "10"] and len(train) == 8
    assert sorted([*train.names, *held_out.names], key=int) == [str(n) for n in range(11)]
    assert not {s.image.numpy().tobytes() for s in train} & set(pixels("coco", "validation"))
    assert train.category_ids == [1]
    data_set("coco", "train", 128, 3)
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == (
        f"coco: only {split} is in {tmp_path}/coco, so every fifth of its images by id is held "
        "out (3 of 11) and never trained on\n"
    )


def test_both_splits_of_coco_are_the_official_ones_and_nothing_is_said(
    tiny_root, monkeypatch, capsys
):
    monkeypatch.setenv("LESSONS_DATA", str(tiny_root))
    assert len(data_set("coco", "train")) == len(data_set("coco", "validation")) == 11
    images = tiny_root / "coco"
    for split, folder in (("train", "train2017"), ("validation", "val2017")):
        image = data_set("coco", split)[3].image
        with Image.open(images / folder / "3.png") as file:
            expected = torch.from_numpy(np.array(file)).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected)
    assert capsys.readouterr().err == ""


def test_what_is_measured_whole_has_every_image_and_tells_which_were_trained_on(
    tiny_root, monkeypatch, capsys
):
    monkeypatch.setenv("LESSONS_DATA", str(tiny_root))
    assert len(data_set("nuclei:all", "validation")) == 201
    line = "nuclei:all: 160 of its 201 images are those that nuclei is trained on\n"
    assert capsys.readouterr().err == line
    monkeypatch.setenv("LESSONS_DATA", "/nowhere")
    assert len(data_set(f"nuclei:{tiny_root}/nuclei/stage1_train", "validation")) == 201
    assert len(data_set(f"pennfudan:{tiny_root}/PennFudanPed", "validation")) == 170
    held_out = data_set(f"coco:{tiny_root}/coco", "validation", 128, 4)
    assert held_out.names == ["0", "1", "2", "3"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "160 of its 201" in lines[0] and "137 of its 170" in lines[1]


def test_a_path_in_a_name_begins_where_the_program_works(tiny_root, monkeypatch):
    monkeypatch.chdir(tiny_root / "nuclei")
    first = pixels("nuclei:stage1_train", "validation", 128, 2)
    monkeypatch.chdir(tiny_root)
    assert first == pixels("nuclei:nuclei/stage1_train", "validation", 128, 2)
    monkeypatch.setenv("HOME", str(tiny_root))
    assert first == pixels("nuclei:~/nuclei/stage1_train", "validation", 128, 2)
    with pytest.raises(LessonsError, match="stage1_train is missing"):
        data_set("nuclei:stage1_train", "validation")  # nothing is remembered of the other


def test_other_images_are_read_where_the_variable_names_other_images(tiny_root, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tiny_root))
    assert len(data_set("nuclei", "train")) == 160
    monkeypatch.setenv("LESSONS_DATA", str(tiny_root / "elsewhere"))
    with pytest.raises(LessonsError, match="elsewhere"):
        data_set("nuclei", "train")


def test_scenes_of_another_seed_are_no_scenes_of_a_split():
    own = {*pixels("scenes", "train", 32, 300), *pixels("scenes", "validation", 32)}
    for seed in (2, 7, 2**32 - 1):
        assert not own & set(pixels(f"scenes:{seed}", "validation", 32))
    # What is refused would share them: NumPy cuts a large number in two.
    assert same_samples(Scenes(2**32, 1, 32)[0], Scenes(0, 2, 32)[1])


@pytest.mark.parametrize("name, kind", [("nuclei", "nucleus"), ("pennfudan", "pedestrian")])
def test_a_category_s_name_needs_no_images(name, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    for form in (name, f"{name}:{tmp_path}/nowhere"):
        assert [(c.name, c.is_thing) for c in categories(form)] == [(kind, True)]
    assert categories("four_scenes") == categories("scenes:7") == Scenes.categories


# ---------------------------------------------------------------- real images in bounded memory


class Reading(Painted):
    """Painted images of 10×10 pixels, 500 bytes packed, and what was read of them."""

    names = list("abcdefgh")

    def __init__(self):
        super().__init__(*[(10, 10)] * 8)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


BYTES = 10 * 10 * 5 + 9 * (8 + 1)  # of one image: colours, ids, labels, crowds


@pytest.fixture
def cache(monkeypatch):
    """Room for so many bytes, in what is otherwise an empty memory."""
    monkeypatch.setattr(memory, "_ALIVE", weakref.WeakSet())
    monkeypatch.delenv("LESSONS_CACHE", raising=False)
    return lambda count: monkeypatch.setattr(memory, "room", lambda: count)


def test_real_images_are_read_when_they_are_asked_for_and_once_where_there_is_room(cache):
    source = Reading()
    samples = AsNeeded(source, 5)
    assert source.read == [] and len(samples) == 5 and samples.names == ["a", "b", "c", "d", "e"]
    for _ in range(3):
        assert all(same_samples(a, source.samples[i]) for i, a in enumerate(samples))
    assert source.read == [0, 1, 2, 3, 4]


def test_what_has_no_room_is_read_anew_and_is_the_same(cache):
    cache(3 * BYTES + BYTES - 1)
    source = Reading()
    samples = AsNeeded(source, 8)
    for _ in range(3):
        assert all(same_samples(a, source.samples[i]) for i, a in enumerate(samples))
    assert sum(part.nbytes for part in samples.kept[0]) == BYTES
    assert sorted(samples.kept) == [0, 1, 2] and samples.bytes == 3 * BYTES
    assert source.read == [*range(8), *range(3, 8), *range(3, 8)]
    with pytest.raises(IndexError):
        samples[8]


def test_all_data_sets_share_the_room_and_what_is_gone_leaves_it(cache):
    cache(3 * BYTES)
    one, other = AsNeeded(Reading(), 8), AsNeeded(Reading(), 8)
    list(one)[:1], list(other)
    assert len(one.kept) == 3 and len(other.kept) == 0
    del one
    list(other)
    assert len(other.kept) == 3


def test_processes_share_the_room_too(cache):
    cache(6 * BYTES)
    with memory.shared_by(3):
        samples = AsNeeded(Reading(), 8)
        list(samples)
        assert len(samples.kept) == 2
    list(samples)
    assert len(samples.kept) == 6


def test_another_process_is_told_the_source_and_not_the_images(cache):
    samples = AsNeeded(Reading(), 8)
    list(samples)
    copy = pickle.loads(pickle.dumps(samples))
    assert copy.kept == {} and copy.bytes == 0 and copy in memory._ALIVE
    assert same_samples(copy[3], samples[3])


def test_the_room_is_settable(monkeypatch):
    monkeypatch.delenv("LESSONS_CACHE", raising=False)
    assert memory.room() == 10**9
    monkeypatch.setenv("LESSONS_CACHE", "25")
    assert memory.room() == 25 * 10**6


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("room", [0, 3 * BYTES, 10**9])
def test_batches_are_the_same_whatever_is_kept(cache, monkeypatch, room, on_gpu):
    """In whichever process: batch t depends on (seed, t) alone."""
    monkeypatch.setattr(loop, "workers", lambda: 2)
    plan = replace(PLAN, steps=7, batch=3)
    expected = [Batches(Reading(), plan, 3)[step] for step in range(7)]
    cache(room)
    for start in (0, 4):
        made = list(loop._loader(Batches(AsNeeded(Reading(), 8), plan, 3), start, on_gpu))
        assert len(made) == 7 - start
        for batch, same in zip(made, expected[start:], strict=True):
            assert all(same_samples(a, b) for a, b in zip(batch, same, strict=True))
    assert memory._Share.processes == 1


def test_a_loader_s_processes_have_a_part_of_the_room_each(cache, monkeypatch):
    monkeypatch.setattr(loop, "workers", lambda: 2)

    class Telling(Batches):
        def __getitem__(self, step):
            return [Painted((memory._Share.processes, 1))[0]]

    def told():
        parts = []
        made = loop._loader(Telling(Reading(), replace(PLAN, steps=4), 0), 0, on_gpu=True)
        for samples in made:
            parts.append(samples[0].segments.size[0])
            own.add(memory._Share.processes)
        return parts

    own = set()
    assert told() == [3] * 4 and own == {3}
    with monkeypatch.context() as patch:  # as where processes are not forked: they know nothing
        patch.setattr(loop, "shared_by", lambda processes: nullcontext())
        assert told() == [3] * 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert told() == [6] * 4


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_corrupt_image_in_the_middle_of_training_is_named(tmp_path, monkeypatch, on_gpu):
    monkeypatch.setattr(loop, "workers", lambda: 2)
    for name in "abcdef":
        home = tmp_path / name
        for part, value in (("images", np.zeros((4, 4, 3))), ("masks", np.full((4, 4), 255))):
            (home / part).mkdir(parents=True)
            Image.fromarray(value.astype(np.uint8)).save(home / part / f"{name}.png")
    bad = tmp_path / "d/masks/d.png"
    bad.write_bytes(bad.read_bytes()[:40])
    plan = Budget(6, batch=1, size=4)
    made = []
    with pytest.raises(LessonsError) as caught:
        for batch in loop._loader(Batches(Nuclei("all", folder=tmp_path), plan, 0), 0, on_gpu):
            made.append(batch)
    order = [Batches(Painted(*[(4, 4)] * 6), plan, 0)._index(step) for step in range(6)]
    assert len(made) == order.index(3) > 0
    assert str(caught.value).startswith(f"{bad} cannot be read as an image (")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- any data set


class Plain(list):
    """A list that knows its categories: all that a data set is."""

    categories = Scenes.categories


def test_any_data_set_can_be_trained_and_evaluated_on(whole):
    train, held_out = (Plain(Scenes(seed, count, 32)) for seed, count in ((3, 5), (4, 3)))
    given = dict(train=train, validation=held_out)
    recipe = replace(whole.recipe, data="no data set of this name")
    run = fit(recipe, "test", seed=5, progress=False, **given)
    assert run.recipe.data == "Plain of 5 images, held out Plain of 3 images"
    assert len(run.held_out) == 2  # as many as are validated
    for images in (run.held_out, Plain(held_out[:2])):
        assert repr(evaluate(run.model, images, run.recipe.metrics)) == repr(run.scores)
    # The same as by name, where the images are the same to the last bit.
    rounded = Plain(data_set("four_scenes", "train", 32))
    same = fit(whole.recipe, "test", seed=5, progress=False, train=rounded, validation=rounded)
    assert same_weights(same.model, whole.model) and numbers(same) == numbers(whole)


def test_a_given_data_set_wins_over_the_recipe_s_and_the_other_stays():
    seen = set()

    class Watching(Tiny):
        def forward(self, images, segments):
            seen.update(image.numpy().tobytes() for image in images)
            return super().forward(images, segments)

    recipe = replace(tiny_training.recipe(), model=Watching)
    train = Plain(Scenes(3, 6, 32))
    recipe = recipe.with_budget("test", mirror=False, count=2)
    run = fit(recipe, "test", progress=False, train=train)
    assert seen == {sample.image.numpy().tobytes() for sample in train[:2]}
    assert run.recipe.data == "Plain of 6 images, held out four_scenes"
    by_name = data_set("four_scenes", "validation", 32, 2)
    assert same_samples(run.held_out[1], by_name[1])


def test_a_checkpoint_on_other_images_is_of_another_run(tmp_path):
    arguments = dict(folder=tmp_path, progress=False)
    fit(tiny_training.recipe(), "test", **arguments)
    with pytest.raises(LessonsError, match="data is 'four_scenes', not 'Plain of 6 images"):
        fit(tiny_training.recipe(), "test", train=Plain(Scenes(3, 6, 32)), **arguments)
