"""What a user is told when a budget, a run, a checkpoint or a record cannot be."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training
import torch
from tiny_training import Tiny

from lessons.kit import places, training
from lessons.kit.data import memory, named
from lessons.kit.data.scenes import Scenes
from lessons.kit.errors import LessonsError
from lessons.kit.training import Budget, budget, data_set, fit, recorded


def message(call, *arguments, **keywords):
    """The one sentence that a call ends with."""
    with pytest.raises(LessonsError) as caught:
        call(*arguments, **keywords)
    text = str(caught.value)
    sentence = re.sub(r"/\S+", "PATH", text)  # a path may be of any length
    assert "\n" not in text and len(sentence) < 400
    return text


# ---------------------------------------------------------------- budgets and recipes

WHOLE = "must be a whole number of at least 1, not"
WRONG = {
    "no steps": ({"steps": 0}, f"steps {WHOLE} 0"),
    "half a step": ({"steps": 1.5}, f"steps {WHOLE} 1.5"),
    "steps in words": ({"steps": "many"}, f"steps {WHOLE} 'many'"),
    "steps yes": ({"steps": True}, f"steps {WHOLE} True"),
    "no steps at all": ({"steps": None}, f"steps {WHOLE} None"),
    "an empty batch": ({"batch": 0}, f"batch {WHOLE} 0"),
    "two sizes": ({"size": [64, 64]}, rf"size {WHOLE} \[64, 64\]"),
    "never evaluated": ({"evaluations": 0}, f"evaluations {WHOLE} 0"),
    "no images": ({"count": 0}, f"count {WHOLE} 0"),
    "fewer than no images": ({"validated": -1}, f"validated {WHOLE} -1"),
    "no rate": ({"learning_rate": 0}, "learning_rate must be a number above 0, not 0"),
    "a word": ({"learning_rate": "1e-3x"}, "learning_rate must be .* above 0, not '1e-3x'"),
    "nan": ({"learning_rate": float("nan")}, "learning_rate must be .* above 0, not nan"),
    "inf": ({"clip": float("inf")}, "clip must be a number above 0, not inf"),
    "clipped to 0": ({"clip": 0.0}, "clip must be a number above 0, not 0.0"),
    "growth": ({"weight_decay": -0.1}, "weight_decay must be .* of at least 0, not -0.1"),
    "a list": ({"warm_up": [1]}, r"warm_up must be a number of at least 0, not \[1\]"),
    "false as a word": ({"mirror": "false"}, "mirror must be True or False, not 'false'"),
    "a number": ({"turn": 1}, "turn must be True or False, not 1"),
}


@pytest.mark.parametrize("fields, expected", WRONG.values(), ids=WRONG.keys())
def test_a_budget_that_cannot_be(fields, expected):
    with pytest.raises(LessonsError, match=f"^{expected}$"):
        Budget(**{"steps": 3} | fields)
    with pytest.raises(LessonsError, match=f"^{expected}$"):
        tiny_training.recipe().with_budget("test", **fields)


def test_a_budget_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("LESSONS_BUDGET", "huge")
    expected = "LESSONS_BUDGET is 'huge': choose one of test, quick, full"
    assert message(budget) == message(fit, tiny_training.recipe()) == expected
    unknown = "'huge' is no budget: choose one of test, quick, full"
    assert message(fit, tiny_training.recipe(), "huge") == unknown
    assert message(tiny_training.recipe().with_budget, "huge", steps=3) == unknown


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("name", ["", "sheep", "scenes:", "four_scenes:3", "Scenes", "nuclei:"])
def test_a_data_set_that_does_not_exist(name):
    text = message(data_set, name)
    assert text.startswith(f"{name!r} is no data set: choose scenes, scenes:SEED, four_scenes")
    assert message(training.categories, name) == text


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "²"])
def test_a_seed_that_is_none(seed):
    text = message(data_set, f"scenes:{seed}")
    assert text == f"scenes:{seed}: a seed is a whole number, as in scenes:7"


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**32 + 7])
def test_a_seed_whose_scenes_are_those_of_a_split(seed):
    text = message(data_set, f"scenes:{seed}", "validation")
    assert text.startswith(f"scenes:{seed}: choose a seed from 2 to 4294967295, 0 is the scenes ")


@pytest.mark.parametrize("kind", ["scenes", "nuclei", "pennfudan", "coco"])
def test_what_is_measured_whole_cannot_be_trained_on(kind, monkeypatch):
    monkeypatch.setitem(named._WHOLE, kind, lambda rest, size: Scenes(7, 3, size))
    text = message(data_set, f"{kind}:7", "train")
    assert f"{kind}:" in text and f"train on {kind}, or give fit() your own `train`" in text


@pytest.mark.parametrize("kind", ["nuclei", "pennfudan", "coco"])
def test_a_folder_that_is_not_there(kind, tmp_path):
    text = message(data_set, f"{kind}:{tmp_path}/two words", "validation")
    assert f"{tmp_path}/two words" in text and "missing" in text
    text = message(data_set, f"{kind}:~nobody_of_this_name/x", "validation")
    assert text.startswith(f"{kind}:~nobody_of_this_name/x: the path cannot be found (")


@pytest.mark.parametrize("said", ["x", "-1", "1e3", "1.5", "1 GB", "²"])
def test_a_room_for_images_that_is_no_number(said, monkeypatch):
    monkeypatch.setenv("LESSONS_CACHE", said)
    expected = f"LESSONS_CACHE is {said!r}: name the megabytes for images in memory, as in 1000"
    assert message(memory.room) == expected


class Listed(list):
    categories = Scenes.categories


NO_DATA = {
    "a name": ("scenes", "train must be a sequence of samples with categories, not str"),
    "a list": ([1, 2], "train must be a sequence of samples with categories, not list"),
    "none": (Listed(), "train has no images"),
}


@pytest.mark.parametrize("images, expected", NO_DATA.values(), ids=NO_DATA.keys())
def test_images_that_are_no_data_set(images, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        fit(tiny_training.recipe(), "test", train=images)


def test_images_of_other_categories():
    other = Listed(Scenes(7, 2, 32))
    other.categories = Scenes.categories[::-1]
    with pytest.raises(ValueError, match="^train and validation must have the same categories$"):
        fit(tiny_training.recipe(), "test", validation=other)


def test_a_split_and_a_size_that_cannot_be():
    assert message(data_set, "scenes", "test") == ("'test' is no split: choose train or validation")
    for name in ("scenes", "scenes:7", "four_scenes"):
        text = message(data_set, name, "train", 16)
        assert text.startswith(f"{name} cannot be had: ") and "32" in text


@pytest.mark.parametrize("name", ["nuclei", "pennfudan", "coco"])
def test_images_that_are_not_there(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert str(tmp_path) in message(data_set, name, "train", 63)


def test_a_data_set_without_images(monkeypatch):
    monkeypatch.setattr(named, "_source", lambda *arguments: [])
    assert message(data_set, "nothing") == "the train split of nothing has no images"


# ---------------------------------------------------------------- fit


def train(recipe=None, **keywords):
    made = recipe or tiny_training.recipe()
    return fit(made, "test", progress=False, **keywords)


def test_a_model_without_losses():
    class Silent(Tiny):
        def forward(self, images, segments):
            return {}

    silent = replace(tiny_training.recipe(), model=Silent)
    assert message(train, silent) == "training stopped: tiny returned no losses"


@pytest.mark.parametrize("value, kind", [(float("nan"), "nan"), (float("-inf"), "-inf")])
def test_a_loss_that_is_no_number_is_named(value, kind):
    class Broken(Tiny):
        def forward(self, images, segments):
            losses = super().forward(images, segments)
            return {"fine": losses["size"], "ugly": losses["mask"] * value}

    assert message(train, replace(tiny_training.recipe(), model=Broken)) == (
        f"training stopped: the loss 'ugly' became {kind} in step 1; "
        "a smaller learning rate often helps"
    )


def test_a_gradient_that_is_no_number_is_named():
    class Steep(Tiny):
        def forward(self, images, segments):
            return {"root": (self.scale * 0).pow(2).sum().sqrt() + self.pixel.weight.sum()}

    text = message(train, replace(tiny_training.recipe(), model=Steep))
    assert text.startswith("training stopped: the gradient's norm became nan in step 1; ")


def test_checkpoints_that_would_never_be_written(tmp_path):
    for every in (0, -3):
        text = message(train, folder=tmp_path, checkpoint_every=every)
        assert text == f"checkpoint_every must be at least 1, not {every}"


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        assert message(train, folder=folder).startswith(f"{folder} cannot be made: ")
    assert (tmp_path / "file").read_text() == "mine"


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of a run of seed 0."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder=folder)
    return (folder / "checkpoint.pt").read_bytes()


@pytest.fixture
def checkpoint(whole, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1, "text", "list", "numbers"])
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(checkpoint, kept):
    if kept == "text":
        checkpoint.write_text("this is no checkpoint")
    elif kept == "list":
        torch.save([1, 2], checkpoint)
    elif kept == "numbers":
        torch.save({"step": 3}, checkpoint)
    else:
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: int(len(whole) * kept) if kept == 0.5 else kept])
    before = checkpoint.read_bytes()
    text = message(train, folder=checkpoint.parent)
    assert text.startswith(f"{checkpoint} cannot be read (")
    assert text.endswith("): move it away to start anew")
    assert checkpoint.read_bytes() == before and os.listdir(checkpoint.parent) == [checkpoint.name]


OTHERS = {
    "seed": (lambda recipe: (recipe, 1), "seed is 0, not 1"),
    "option": (lambda recipe: (tiny_training.recipe(noise=0.5), 0), "noise is None, not 0.5"),
    "budget": (
        lambda recipe: (recipe.with_budget("test", steps=13, mirror=False), 0),
        "steps is 12, not 13, mirror is True, not False",
    ),
    "data": (
        lambda recipe: (replace(recipe, data="elsewhere"), 0),
        "data is 'four_scenes', not 'elsewhere'",
    ),
    "an option that is no literal": (
        lambda recipe: (replace(recipe, options={"part": Tiny}), 0),
        "not ('tiny', 'four_scenes', {'part': <class 'tiny_training.Tiny'>}",
    ),
}


@pytest.mark.parametrize("change, expected", OTHERS.values(), ids=OTHERS.keys())
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(
    checkpoint, monkeypatch, change, expected
):
    monkeypatch.setattr(named, "_source", lambda name, split, size: Scenes.train(4, size=size))
    before = checkpoint.read_bytes()
    recipe, seed = change(tiny_training.recipe())
    with pytest.raises(LessonsError) as caught:
        train(recipe, seed=seed, folder=checkpoint.parent)
    text = str(caught.value)
    assert text.startswith(f"{checkpoint} is of another run (") and "\n" not in text
    assert text.endswith("): move it away to start anew")
    assert expected in text
    if "Tiny" not in expected:
        assert f"({expected})" in text  # and nothing that is the same
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_a_model_that_has_changed_since_is_refused(checkpoint):
    recipe = replace(tiny_training.recipe(), model=lambda: Tiny(width=6))
    text = message(train, recipe, folder=checkpoint.parent)
    assert text == f"{checkpoint} is of a model with other weights: move it away to start anew"


# ---------------------------------------------------------------- records


def test_a_record_that_is_not_there_or_damaged(folder):
    expected = "there is no run 'one': lessons results lists them"
    for call in (recorded.read, recorded.load_model, recorded.evaluate_again):
        assert message(call, "one") == expected
    path = folder / "two/run.json"
    path.parent.mkdir()
    for text in ("", '{"scores": {', "[]", "{}", "3", '{"scores": {}}', '{"history": []}'):
        path.write_text(text)
        assert message(recorded.read, "two").startswith(f"{path} is damaged: ")
    path.write_bytes(b"\xff\xfe")
    assert message(recorded.read, "two").startswith(f"{path} is damaged: ")
    assert message(recorded.read, "tow") == "there is no run 'tow', do you mean two?"


NO_NAMES = ["", ".", "..", "a/b", "../a", "/a", "-a", "_a", ".a", "a b", "a\n", "ä", "a.b", "a\\b"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_no_folder_s(name):
    text = message(recorded.plan, name, "tiny")
    assert text == f"{name!r} cannot name a run: letters, digits, _ and - only"


@pytest.mark.parametrize("change", ["steps", "", "=3", "a b=3", "--steps=3", "1=2"])
def test_a_change_that_is_none(change):
    text = message(recorded.plan, "one", "tiny", changes=[change])
    assert text == f"--set takes option=value, not {change!r}"


@pytest.mark.parametrize(
    "system", ["nope", "", ".", "..tiny", "a.b", "kit.nope", "x/y", "__main__"]
)
def test_a_system_that_does_not_exist(system):
    text = message(recorded.recipe_of, system, "scenes", {})
    assert text.startswith(f"there is no system {system!r}: choose ") and "mask_rcnn" in text


@pytest.mark.parametrize("system", ["kit", "average_precision", "homework"])
def test_a_lesson_that_trains_nothing(system):
    text = message(recorded.recipe_of, system, "scenes", {})
    assert text.startswith(f"{system} trains no model: choose ")


def test_options_that_a_system_does_not_have():
    text = message(recorded.recipe_of, "mask_rcnn", "scenes", {"wings": 2})
    assert text.startswith("mask_rcnn cannot be made with {'wings': 2}: ")
    for options in ({"roi": "nope"}, {"mask_size": 7}, {"channels": -1}, {"channels": "x"}):
        text = message(recorded.recipe_of, "mask_rcnn", "scenes", options)
        assert text.startswith(f"mask_rcnn cannot be made with {options}: ")


def test_a_plan_that_changes_what_no_budget_has(folder):
    plan = recorded.Plan("one", "tiny", "four_scenes", changes={"speed": 3})
    assert message(plan.recipe).startswith("a budget has no 'speed', it has batch, clip, ")


# ---------------------------------------------------------------- the command line


@pytest.fixture
def error_of(lessons):
    """Run `lessons …` in this process; the one line of its error."""

    def call(*arguments):
        code, printed, errors = lessons(*arguments)
        assert (code, printed) == (1, "")
        assert errors.startswith("lessons: ") and errors.count("\n") == 1
        return errors.removeprefix("lessons: ").rstrip()

    return call


COMMANDS = {
    "system": ("train nope", "there is no system 'nope': choose "),
    "path": ("train ../nope", "'../nope' cannot name a run: "),
    "budget": ("train tiny --budget huge", "'huge' is no budget: choose one of test, quick, full"),
    "data": ("train mask_rcnn --data sheep", "'sheep' is no data set: choose scenes"),
    "images": ("train mask_rcnn --data pennfudan", "PennFudanPed"),
    "name": ("train tiny --as a/b", "'a/b' cannot name a run: "),
    "nobody's name": ("train tiny --as my/", "'' cannot name a run: "),
    "two ways": ("train tiny --again --resume", "--again begins anew, --resume goes on: choose"),
    "nothing to resume": ("train tiny --resume", "my/tiny has no checkpoint to go on from: "),
    "a user's": ("evaluate my/one", "there is no run 'my/one', do you mean one?"),
    "option": ("train tiny --set wings=2", "tiny cannot be made with {'wings': 2}: "),
    "no value": ("train tiny --set steps", "--set takes option=value, not 'steps'"),
    "no number": ("train tiny --set steps=many", "steps must be a whole number of at least 1"),
    "no truth": ("train tiny --set turn=no", "turn must be True or False, not 'no'"),
    "too small": ("train tiny --data four_scenes --set size=8", "four_scenes cannot be had: "),
    "no record": ("evaluate nope", "there is no run 'nope': lessons results lists them"),
    "other data": ("evaluate one --data sheep", "'sheep' is no data set: choose scenes"),
    "no scenes": ("evaluate one --data four_scenes --seed 3", "only scenes have seeds"),
    "no weights": ("evaluate one", "the run one kept no weights, only its scores"),
}


@pytest.mark.parametrize("words, expected", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_that_cannot_be_done_is_one_line(
    error_of, folder, tmp_path, monkeypatch, words, expected
):
    report = {"system": "tiny", "data": "scenes", "options": {}, "size": 32}
    (folder / "one").mkdir()
    record = json.dumps(report | {"scores": {}, "history": []})
    (folder / "one/run.json").write_text(record)
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path / "no data"))
    assert expected in error_of(*words.split())
    assert [path.name for path in folder.iterdir()] == ["one"]
    assert (folder / "one/run.json").read_text() == record
    assert not any(path.is_file() for path in places.my().rglob("*"))
    checkpoints = Path(places.CHECKPOINTS)
    assert not any(path.is_file() for path in checkpoints.rglob("*"))


def test_a_damaged_record_is_named_by_results_too(error_of, folder):
    (folder / "one").mkdir()
    (folder / "one/run.json").write_text("{")
    assert error_of("results").startswith(f"{folder / 'one/run.json'} is damaged: ")
    (folder / "one").rename(folder / "gone")
    mine = places.my_runs() / "two"
    mine.mkdir(parents=True)
    (folder / "gone/run.json").rename(mine / "run.json")
    assert error_of("results").startswith(f"{mine / 'run.json'} is damaged: ")
