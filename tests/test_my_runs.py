"""A user's runs: kept in my/runs with their weights, never replaced, nobody else's by name."""

import json
import os
from dataclasses import replace

import pytest
import tiny_training
import torch
from safetensors.torch import load_file

from lessons.kit import places
from lessons.kit.errors import LessonsError
from lessons.kit.training import data_set, evaluate, fit, progress, recorded, store

FILES = ["run.json", "weights.safetensors"]
TODAY = store.date.today().isoformat()


@pytest.fixture
def mine(folder):
    """The folder of the user's runs, beside a run of the course that is called tiny."""
    recorded.write("tiny", fit(tiny_training.recipe(), "test", seed=7, progress=False))
    (folder / "runs.toml").write_text('[tiny]\nsystem = "tiny"\ndata = "four_scenes"\nseed = 7\n')
    return places.my_runs()


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def plan(name="tiny", seed=2, **options):
    changes = [f"{key}={value}" for key, value in options.items()]
    return recorded.plan(name, "tiny", "four_scenes", "test", seed, changes)


def train(*arguments, **keywords):
    return recorded.train(*arguments, progress=False, **keywords)


def kill(monkeypatch, wanted, after=7, every=3):
    """A run that ends in a step, as if its process had been killed."""
    forward, left = tiny_training.Tiny.forward, [after]

    def killed(self, images, segments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return forward(self, images, segments)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_training.Tiny, "forward", killed)
        patch.setattr(progress, "CHECKPOINT_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            train(wanted)


# ---------------------------------------------------------------- where it is kept


def test_the_command_keeps_the_run_and_leaves_the_course_s_as_it_is(lessons, folder, mine):
    before = tree(folder)
    few = ["--data", "four_scenes", "--budget", "test", "--seed", "4", "--set", "steps=2"]
    code, printed, errors = lessons("train", "tiny", *few)
    assert code == 0 and "lessons:" not in errors
    assert printed.splitlines()[2].split() == ["rare", "nan"]
    assert printed.splitlines()[-2].startswith(f"{mine / 'tiny'}: ")
    assert "lessons evaluate my/tiny " in printed.splitlines()[-1]
    assert tree(folder) == before
    assert sorted(tree(mine)) == [f"tiny/{name}" for name in FILES]
    report = recorded.read("my/tiny")
    assert (report["steps"], report["seed"], report["budget"]) == (2, 4, "test")
    assert recorded.read("tiny")["seed"] == 7
    assert not places.CHECKPOINTS.exists()


def test_weights_are_kept_as_they_were_trained(mine):
    train(plan())
    run = fit(tiny_training.recipe(), "test", seed=2, progress=False)
    kept = load_file(mine / "tiny/weights.safetensors")
    model = recorded.load_model("my/tiny").state_dict()
    for key, value in run.model.state_dict().items():
        assert kept[key].dtype == torch.float32
        assert torch.equal(kept[key], value) and torch.equal(model[key], value)
    scores = recorded.read("my/tiny")["scores"]
    assert scores["score"] == float(f"{run.scores['score']:.6g}")


def test_weights_of_any_size_are_kept(mine, monkeypatch):
    monkeypatch.setattr(store, "LARGEST", 39)
    train(plan())
    assert recorded.load_model("my/tiny")
    with pytest.raises(LessonsError, match="the weights of tiny take 0.0 MB"):
        recorded.record(recorded.plans()["tiny"])


def test_two_weights_that_are_one_are_kept_twice(mine, monkeypatch):
    """In float32 nothing is converted, and safetensors refuses tensors that share memory."""

    class Tied(tiny_training.Tiny):
        def __init__(self, **options):
            super().__init__(**options)
            self.twin = self.scale

    recipe = tiny_training.recipe()
    monkeypatch.setattr(
        tiny_training, "recipe", lambda data, **options: replace(recipe, model=Tied)
    )
    train(plan())
    model = recorded.load_model("my/tiny")
    assert torch.equal(model.twin, model.scale)


def test_weights_are_not_kept_where_none_are_wanted(lessons, mine):
    arguments = ["--data", "four_scenes", "--no-weights", "--set", "steps=1"]
    code, printed, _ = lessons("train", "tiny", "--as", "small", *arguments)
    assert code == 0 and list(tree(mine)) == ["small/run.json"]
    assert "load_model" not in printed
    code, _, errors = lessons("evaluate", "my/small")
    assert (code, errors) == (1, "lessons: the run my/small kept no weights, only its scores\n")


def test_the_name_may_be_said_as_it_is_shown(lessons, mine):
    few = ["--data", "four_scenes", "--budget", "test"]
    assert lessons("train", "tiny", "--as", "my/second", *few)[0] == 0
    assert recorded.my_names() == ["my/second"]


# ---------------------------------------------------------------- which run is meant


def test_a_name_is_the_course_s_where_the_course_has_one(lessons, folder, mine):
    train(plan())
    train(plan("second"))
    assert recorded.find("tiny") == folder / "tiny"
    assert recorded.find("my/tiny") == mine / "tiny"
    assert recorded.find("second") == recorded.find("my/second") == mine / "second"
    assert [recorded.label(name) for name in ("tiny", "my/tiny", "second", "my/second")] == [
        "tiny", "my/tiny", "my/second", "my/second",
    ]  # fmt: skip
    seeds = {name: recorded.read(name)["seed"] for name in ("tiny", "my/tiny", "second")}
    assert seeds == {"tiny": 7, "my/tiny": 2, "second": 2}
    same = torch.equal(recorded.load_model("tiny").scale, recorded.load_model("my/tiny").scale)
    assert not same

    first = [lessons("evaluate", name, "--count", "2")[1].splitlines() for name in seeds]
    assert [lines[0].split(":")[0] for lines in first] == ["tiny", "my/tiny", "my/second"]
    assert first[0][1] == "(the course's run; yours is my/tiny)"
    assert first[1][1].split()[0] == first[2][1].split()[0] == "score"


def test_a_run_of_the_user_s_is_measured_as_any_other(lessons, mine):
    train(plan("second"))
    code, printed, _ = lessons("evaluate", "second", "--count", "2", "--json")
    held_out = data_set("four_scenes", "validation", 32, 2)
    model, metrics = recorded.load_model("second"), tiny_training.recipe().metrics
    expected = json.loads(recorded.as_json(evaluate(model, held_out, metrics)))
    assert code == 0 and json.loads(printed) == expected
    code, _, errors = lessons("evaluate", "my/secnd")
    assert (code, errors) == (1, "lessons: there is no run 'my/secnd', do you mean my/second?\n")


def test_results_show_the_user_s_runs_in_a_table_of_their_own(lessons, mine, monkeypatch):
    code, printed, _ = lessons("results")
    assert code == 0 and "You have no runs yet: lessons train keeps them in " in printed
    train(plan("second"))
    kill(monkeypatch, plan("third"))
    code, printed, _ = lessons("results")
    course, yours = printed.split(f"Your runs, in {mine}:\n")
    assert course.startswith("The course's runs:\n") and "tiny" in course and "my/" not in course
    (line,) = [line for line in yours.splitlines() if "my/second" in line]
    assert "four_scenes" in line and "0.00 M" in line and " tiny " not in yours
    assert yours.splitlines()[-1].startswith("my/third: begun and not finished; ")
    assert "my/" not in lessons("results", "--markdown")[1]


# ---------------------------------------------------------------- never replaced


def test_a_run_that_is_there_is_never_replaced(lessons, mine):
    train(plan())
    before = tree(mine)
    for arguments in ([], ["--resume"]):
        code, printed, errors = lessons("train", "tiny", "--data", "four_scenes", *arguments)
        assert (code, printed) == (1, "")
        assert errors == (
            "lessons: my/tiny is there already, finished: give the new run a name (--as NAME), "
            "or keep the old one beside it (--again)\n"
        )
    assert tree(mine) == before


def test_again_keeps_the_old_run_beside_the_new_one(lessons, mine):
    train(plan(seed=1))
    first = tree(mine / "tiny")
    for number, name in ((2, f"tiny_{TODAY}"), (3, f"tiny_{TODAY}_2")):
        few = ["--data", "four_scenes", "--budget", "test", "--seed", str(number)]
        code, printed, _ = lessons("train", "tiny", "--again", *few)
        assert code == 0 and printed.startswith(f"what there was is now my/{name}\n")
    assert tree(mine / f"tiny_{TODAY}") == first
    seeds = [recorded.read(name)["seed"] for name in recorded.my_names()]
    assert seeds == [3, 1, 2]
    recorded.load_model(f"my/tiny_{TODAY}")


@pytest.mark.parametrize("change", ["wings=2", "size=8"])
def test_a_run_that_cannot_begin_moves_nothing(mine, change):
    train(plan())
    before = tree(mine)
    with pytest.raises(LessonsError):
        train(recorded.plan("tiny", "tiny", "four_scenes", "test", changes=[change]), again=True)
    assert tree(mine) == before


def test_what_else_lies_in_the_folder_of_a_run_stays(mine):
    (mine / "tiny").mkdir(parents=True)
    (mine / "tiny/notes.txt").write_text("mine")
    train(plan())
    assert sorted(tree(mine / "tiny")) == ["notes.txt", *FILES]


# ---------------------------------------------------------------- killed


def test_a_run_that_was_killed_goes_on(lessons, mine, monkeypatch):
    whole = fit(tiny_training.recipe(), "test", seed=2, progress=False)
    kill(monkeypatch, plan())
    assert list(tree(mine)) == ["tiny/checkpoint.pt"]
    checkpoint = tree(mine)

    few = ["--data", "four_scenes", "--budget", "test", "--seed", "2"]
    code, _, errors = lessons("train", "tiny", *few)
    assert code == 1 and errors.startswith("lessons: my/tiny was begun and not finished: ")
    assert "--resume" in errors and "--again" in errors and tree(mine) == checkpoint
    code, _, errors = lessons("evaluate", "my/tiny")
    assert (code, errors) == (1, "lessons: my/tiny is not finished: train it with --resume\n")

    assert lessons("train", "tiny", *few, "--resume")[0] == 0
    assert sorted(tree(mine)) == [f"tiny/{name}" for name in FILES]
    model = recorded.load_model("my/tiny").state_dict()
    assert all(torch.equal(model[key], value) for key, value in whole.model.state_dict().items())


def test_a_checkpoint_may_be_put_aside_too(mine, monkeypatch):
    kill(monkeypatch, plan())
    train(plan(seed=3), again=True)
    assert sorted(tree(mine)) == [
        "tiny/run.json", "tiny/weights.safetensors", f"tiny_{TODAY}/checkpoint.pt"
    ]  # fmt: skip


def test_a_run_that_could_not_be_kept_is_not_lost(mine, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(plan())
    assert list(tree(mine)) == ["tiny/checkpoint.pt"]
    monkeypatch.setattr(tiny_training.Tiny, "forward", None)  # no step is done again
    train(plan(), resume=True)
    assert sorted(tree(mine)) == [f"tiny/{name}" for name in FILES]


def test_run_json_comes_last(mine, monkeypatch):
    """Killed while it is being written, a run is not taken for finished."""
    replaced = []

    def rename(source, goal):
        replaced.append(os.path.basename(goal))
        if replaced[-1] == "run.json":
            raise KeyboardInterrupt
        os.rename(source, goal)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", rename)
        run = fit(tiny_training.recipe(), "test", progress=False)
        with pytest.raises(KeyboardInterrupt):
            store.keep(mine / "tiny", run)
    assert replaced == ["weights.safetensors", "run.json"]
    assert recorded.my_names() == [] and list(tree(mine)) == ["tiny/weights.safetensors"]


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--resume"], "my/tiny has no checkpoint to go on from: train it without --resume"),
        (["--resume", "--again"], "--again begins anew, --resume goes on: choose one of them"),
    ],
)
def test_flags_that_ask_for_what_cannot_be(lessons, mine, flags, expected):
    code, _, errors = lessons("train", "tiny", "--data", "four_scenes", *flags)
    assert (code, errors) == (1, f"lessons: {expected}\n") and not mine.exists()


# ---------------------------------------------------------------- a notebook's full training


@pytest.fixture
def full(mine, monkeypatch):
    monkeypatch.setenv("LESSONS_BUDGET", "full")
    fit = recorded.fit
    monkeypatch.setattr(recorded, "fit", lambda *a, **k: fit(*a, **k | {"progress": False}))
    return mine


def test_a_notebook_shows_the_course_s_run_unless_it_is_told_to_train(mine, monkeypatch):
    train(plan())
    monkeypatch.setenv("LESSONS_BUDGET", "quick")
    report, model = recorded.full_run("tiny")
    assert repr(report) == repr(recorded.read("tiny")) and report["seed"] == 7
    assert recorded.describe(report).startswith("12 steps of 3 images of 32×32 in 0 min on ")
    assert torch.equal(model.scale, recorded.load_model("tiny").scale)


def test_a_notebook_s_full_run_is_the_user_s(folder, full, monkeypatch):
    course = tree(folder)
    report, model = recorded.full_run("tiny")
    assert (report["budget"], report["seed"]) == ("full", 7) and tree(folder) == course
    assert torch.equal(model.scale, recorded.load_model("my/tiny").scale)
    mine = tree(full)
    assert sorted(mine) == [f"tiny/{name}" for name in FILES]
    monkeypatch.setattr(recorded, "train", None)  # the cell runs again: it is there
    again, _ = recorded.full_run("tiny")
    assert repr(again) == repr(report) and tree(full) == mine


def test_a_full_run_goes_on_and_keeps_a_run_of_other_settings(full, monkeypatch, capsys):
    kill(monkeypatch, recorded.plans()["tiny"])
    recorded.full_run("tiny")
    assert recorded.my_names() == ["my/tiny"]
    train(plan("tiny", seed=9), again=True)
    report, _ = recorded.full_run("tiny")
    assert report["seed"] == 7 and recorded.my_names() == [
        "my/tiny", f"my/tiny_{TODAY}", f"my/tiny_{TODAY}_2"
    ]  # fmt: skip
    assert recorded.read(f"my/tiny_{TODAY}_2")["seed"] == 9
    printed = capsys.readouterr().out
    assert "my/tiny is another run: budget is 'test', not 'full', seed is 9, not 7\n" in printed


def test_a_full_run_trains_and_reads_with_the_notebook_s_recipe(full, monkeypatch):
    class Own(tiny_training.Tiny):
        steps = 0

        def forward(self, images, segments):
            Own.steps += 1
            return super().forward(images, segments)

    def recipe(data, **options):
        return replace(tiny_training.recipe(data, **options), model=lambda: Own(**options))

    _, model = recorded.full_run("tiny", recipe=recipe)
    assert Own.steps == 12 and isinstance(model, Own)
    monkeypatch.setenv("LESSONS_BUDGET", "test")
    assert isinstance(recorded.full_run("tiny", recipe=recipe)[1], Own)
