"""Recorded runs: what is written, read and measured again, and which runs are made."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_training
import torch
from safetensors.torch import load_file
from torch import nn

from lessons.kit import places
from lessons.kit.data import Category
from lessons.kit.errors import LessonsError
from lessons.kit.training import (
    BUDGETS,
    Budget,
    again,
    categories,
    data_set,
    evaluate,
    fit,
    recorded,
    runs,
    store,
)

FILES = ["run.json", "weights.safetensors"]


@pytest.fixture(scope="module")
def run():
    return fit(tiny_training.recipe(), "test", seed=2, progress=False)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rounded(model):
    """The model with its weights as float16 has them."""
    copy = tiny_training.Tiny()
    copy.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    return copy


# ---------------------------------------------------------------- write, read, load


def test_a_run_is_recorded_with_its_weights_and_read_again(folder, run):
    recorded.write("one", run)
    assert sorted(tree(folder)) == ["one/run.json", "one/weights.safetensors"]
    assert [path.name for path in folder.iterdir()] == ["one"] and recorded.names() == ["one"]
    report = recorded.read("one")
    assert report["system"] == "tiny" and report["data"] == "four_scenes"
    assert (report["budget"], report["seed"], report["options"]) == ("test", 2, {})
    plan = run.recipe.budget("test")
    assert Budget(**{key: report[key] for key in vars(plan)}) == plan
    assert report["parameters"] == 20 and report["device"] == run.device
    assert report["versions"].keys() == {"python", *recorded.VERSIONS}
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["peak_memory"] > 0 and report["seconds"] >= 0
    assert [row["step"] for row in report["history"]] == [row["step"] for row in run.history]
    weights = load_file(folder / "one/weights.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    model = recorded.load_model("one")
    assert not model.training
    for key, value in rounded(run.model).state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_the_scores_are_those_of_the_weights_that_were_kept(folder, run):
    recorded.write("one", run)
    scores = recorded.read("one")["scores"]
    held_out = data_set("four_scenes", "validation", 32, 2)
    kept, exact = (
        evaluate(model, held_out, run.recipe.metrics) for model in (rounded(run.model), run.model)
    )
    assert scores["score"] == float(f"{kept['score']:.6g}")
    assert kept["score"] != exact["score"] == run.scores["score"]
    assert repr(recorded.evaluate_again("one", count=2)) == repr(kept)


def test_a_score_that_could_not_be_averaged_is_null_in_the_file_and_nan_again(folder, run):
    recorded.write("one", run)

    def fail(word):
        raise AssertionError(f"{word} is no JSON")

    text = (folder / "one/run.json").read_text()
    plain = json.loads(text, parse_constant=fail)
    assert plain["scores"]["rare"] is None and plain["count"] is None
    assert plain["scores"]["per_class"]["sheep"]["rare"] is None
    report = recorded.read("one")
    assert math.isnan(report["scores"]["rare"])
    assert math.isnan(report["scores"]["per_class"]["sheep"]["rare"])
    assert math.isnan(report["history"][-1]["scores"]["rare"])
    assert report["count"] is None
    assert json.loads(recorded.as_json(report["scores"])) == plain["scores"]


def test_a_run_that_measures_a_claim_keeps_no_weights(folder, run):
    recorded.write("claim", run, weights=False)
    assert list(tree(folder)) == ["claim/run.json"]
    assert "weights" not in recorded.read("claim")
    with pytest.raises(LessonsError, match="the run claim kept no weights, only its scores"):
        recorded.load_model("claim")


def test_another_folder_can_be_named(folder, run, tmp_path):
    elsewhere = tmp_path / "a/b"
    recorded.write("one", run, folder=elsewhere)
    assert sorted(p.name for p in (elsewhere / "one").iterdir()) == FILES
    assert recorded.names(elsewhere) == ["one"] and recorded.names() == []
    assert recorded.read("one", elsewhere)["seed"] == 2
    assert isinstance(recorded.load_model("one", folder=elsewhere), tiny_training.Tiny)


def test_a_record_is_replaced_whole(folder, run):
    recorded.write("one", run)
    (folder / "one/notes.txt").write_text("of the first run")
    recorded.write("one", replace(run, seed=3), weights=False)
    assert list(tree(folder)) == ["one/run.json"]
    assert [path.name for path in folder.iterdir()] == ["one"]
    assert recorded.read("one")["seed"] == 3


@pytest.mark.parametrize("function", ["save_file", "digest", "plain"])
def test_a_record_is_kept_where_the_new_one_cannot_be_written(folder, run, monkeypatch, function):
    recorded.write("one", run)
    before = tree(folder)

    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(store, function, fail)
    for name in ("one", "two"):
        with pytest.raises(OSError, match="no space left"):
            recorded.write(name, replace(run, seed=3))
    assert tree(folder) == before and [path.name for path in folder.iterdir()] == ["one"]


def test_what_a_killed_process_left_is_in_nobody_s_way(folder, run):
    for name in (".one.part", ".one.old"):
        (folder / name).mkdir()
        (folder / name / "run.json").write_text("{")
    assert recorded.names() == []
    recorded.write("one", run)
    assert recorded.names() == [path.name for path in folder.iterdir()] == ["one"]


def test_weights_of_more_than_4_mb_are_refused_and_nothing_is_written(folder, run):
    assert recorded.LARGEST == 4 * 2**20
    large = replace(run, model=nn.Linear(2**11 + 1, 2**10))  # two bytes each
    with pytest.raises(LessonsError, match="the weights of one take 4.0 MB, 4 MB are allowed"):
        recorded.write("one", large)
    assert list(folder.iterdir()) == []


def test_weights_in_channels_last_order_are_kept_too(folder, run):
    def model():
        return tiny_training.Tiny().to(memory_format=torch.channels_last)

    turned = model()
    turned.pixel.weight.data = torch.rand(3, 4, 1, 1).transpose(0, 1)
    assert not turned.pixel.weight.is_contiguous()
    recorded.write("one", replace(run, model=turned))
    kept = recorded.load_model("one").pixel.weight
    torch.testing.assert_close(kept, turned.pixel.weight, rtol=1e-3, atol=1e-3)


def test_weights_that_are_not_those_of_the_run_are_refused(folder, run):
    recorded.write("one", run)
    recorded.write("two", replace(run, model=tiny_training.Tiny()))
    ours, theirs = folder / "one/weights.safetensors", folder / "two/weights.safetensors"
    whole = ours.read_bytes()
    for bytes in (theirs.read_bytes(), whole[:-1], b""):
        ours.write_bytes(bytes)
        with pytest.raises(LessonsError, match="weights.safetensors is missing or not the file"):
            recorded.load_model("one")
    ours.unlink()
    with pytest.raises(LessonsError, match="weights.safetensors is missing or not the file"):
        recorded.load_model("one")
    ours.write_bytes(whole)
    recorded.load_model("one")


def test_a_lesson_whose_model_has_changed_does_not_get_old_weights(folder, run, monkeypatch):
    recorded.write("one", run)
    wider = replace(tiny_training.recipe(), model=lambda: tiny_training.Tiny(width=5))
    monkeypatch.setattr(tiny_training, "recipe", lambda data: wider)
    with pytest.raises(LessonsError, match="does not fit the model that tiny makes now") as error:
        recorded.load_model("one")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- measured again


def test_a_recorded_run_is_measured_on_scenes_it_never_saw(folder, run):
    recorded.write("one", replace(run, recipe=replace(run.recipe, data="scenes")))
    model, metrics = recorded.load_model("one"), run.recipe.metrics
    seen = {seed: recorded.evaluate_again("one", seed=seed, count=3) for seed in (7, 8)}
    assert seen[7] != seen[8]
    for seed, scores in seen.items():
        expected = evaluate(model, data_set(f"scenes:{seed}", "validation", 32, 3), metrics)
        assert repr(scores) == repr(expected)
    named = recorded.evaluate_again("one", "scenes:8", count=3)
    assert repr(named) == repr(seen[8])
    few, more = (recorded.evaluate_again("one", count=count)["score"] for count in (1, 3))
    assert few != more


def test_a_data_set_with_other_categories_is_refused(folder, run, monkeypatch):
    recorded.write("one", run)
    with pytest.raises(LessonsError, match="only scenes have seeds, four_scenes has none"):
        recorded.evaluate_again("one", seed=3)
    nucleus = [Category("nucleus", True, (230, 159, 0))]
    monkeypatch.setattr(
        again, "categories", lambda name: nucleus if name == "nuclei" else categories(name)
    )
    message = "one knows the categories of four_scenes, nuclei has others"
    with pytest.raises(LessonsError, match=message):
        recorded.evaluate_again("one", "nuclei")


# ---------------------------------------------------------------- plans


def test_options_are_numbers_lists_or_words_and_go_to_the_recipe_or_the_budget():
    said = [
        "steps=7", "learning_rate=3e-4", "mirror=False", "count=None",
        "levels=[2]", "width=4", "share=0.5", "roi=pool", "quoted='7'", "empty=", "sum=a=b",
        "odd={[]: 1}", "turned=(1, 2)",
    ]  # fmt: skip
    plan = recorded.plan("a-1_B", "tiny", changes=said, weights=False)
    assert plan.changes == {"steps": 7, "learning_rate": 3e-4, "mirror": False, "count": None}
    assert plan.options == {
        "levels": [2], "width": 4, "share": 0.5, "roi": "pool", "quoted": "7", "empty": "",
        "sum": "a=b", "odd": "{[]: 1}", "turned": (1, 2),
    }  # fmt: skip
    assert (plan.name, plan.data, plan.budget, plan.weights) == ("a-1_B", "scenes", "full", False)


def test_a_plan_s_recipe_has_its_options_and_its_budget(folder):
    plan = recorded.plan("one", "tiny", "four_scenes", "test", changes=["steps=2", "width=5"])
    recipe = plan.recipe()
    assert recipe.budget("test").steps == 2 and recipe.budget("full").steps == 12
    assert recipe.options == {"width": 5} and recipe.model().scale.shape == (5,)


@pytest.mark.parametrize("name", recorded.plans())
def test_every_run_that_the_course_records_can_be_made(name, request):
    plan = recorded.plans()[name]
    recorded.plan(name, plan.system)  # its name is a folder's
    assert plan.budget in BUDGETS
    if not plan.data.partition(":")[0].endswith("scenes"):
        request.getfixturevalue(plan.data.removeprefix("ten_"))  # else it is skipped
    recipe = plan.recipe()
    assert recipe.system == plan.system and recipe.data == plan.data
    for option, value in (plan.options or {}).items():
        assert recipe.options[option] == value
    for part, value in (plan.changes or {}).items():
        assert getattr(recipe.budget(plan.budget), part) == value
    json.dumps(recipe.options)
    if plan.weights:
        store.must_be_small(name, store.half(recipe.model()))


# ---------------------------------------------------------------- train


def test_a_planned_run_is_trained_and_recorded_and_its_checkpoint_removed(folder, run):
    plan = recorded.plan("one", "tiny", "four_scenes", "test", 2)
    report = recorded.record(plan, progress=False)
    assert repr(report) == repr(recorded.read("one"))
    assert list(places.CHECKPOINTS.iterdir()) == []
    model = recorded.load_model("one")
    for key, value in rounded(run.model).state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_a_run_that_could_not_be_recorded_is_not_lost(folder, run, monkeypatch):
    plan = recorded.plan("one", "tiny", "four_scenes", "test", 2)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recorded.record(plan, progress=False)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(tiny_training.Tiny, "forward", None)  # no step is done again
    recorded.record(plan, progress=False)
    model = recorded.load_model("one")
    for key, value in rounded(run.model).state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_weights_that_would_be_too_large_are_refused_before_the_first_step(folder, monkeypatch):
    monkeypatch.setattr(store, "LARGEST", 39)
    monkeypatch.setattr(recorded, "fit", None)
    with pytest.raises(LessonsError, match="the weights of one take 0.0 MB"):
        recorded.record(recorded.plan("one", "tiny", "four_scenes"))
    monkeypatch.setattr(recorded, "fit", fit)
    plan = recorded.plan("one", "tiny", "four_scenes", changes=["steps=1"], weights=False)
    recorded.record(plan, progress=False)
    assert list(tree(folder)) == ["one/run.json"]


# ---------------------------------------------------------------- make recorded


@pytest.fixture
def planned(folder, monkeypatch):
    """Four runs of which one was made on a GPU, one on a CPU; a list of what is trained."""
    lines = [f'[{name}]\nsystem = "tiny"\ndata = "four_scenes"\n' for name in "abcd"]
    (folder / "runs.toml").write_text("\n".join(lines))
    for name, device in (("b", "NVIDIA H100"), ("c", "cpu, 2 threads"), ("other", "cpu")):
        (folder / name).mkdir()
        report = {"device": device, "scores": {}, "history": []}
        (folder / name / "run.json").write_text(json.dumps(report))
    trained = []

    def record(plan):
        trained.append(plan)
        scores = {"ap": 0.25, "rare": math.nan, "per_class": {}}
        return {"scores": scores, "seconds": 61.0, "device": "a GPU"}

    monkeypatch.setattr(recorded, "record", record)
    return trained


def test_the_runs_that_are_missing_or_of_a_cpu_are_made(planned, capsys, monkeypatch):
    monkeypatch.setattr(recorded.torch.cuda, "is_available", lambda: True)
    recorded.main([])
    assert [plan.name for plan in planned] == ["a", "c", "d"]
    assert planned[0] == recorded.Plan("a", "tiny", "four_scenes")
    printed = capsys.readouterr().out
    assert printed.splitlines()[:2] == ["1/3 a", "  ap 0.250, rare nan; 61 s on a GPU"]


def test_without_a_gpu_only_the_missing_runs_are_made(planned, monkeypatch):
    monkeypatch.setattr(recorded.torch.cuda, "is_available", lambda: False)
    recorded.main([])
    assert [plan.name for plan in planned] == ["a", "d"]


def test_a_run_that_is_named_is_made_whatever_there_is(planned):
    recorded.main(["b", "a"])
    assert [plan.name for plan in planned] == ["b", "a"]


def test_an_unknown_name_stops_before_anything_is_made(planned):
    with pytest.raises(LessonsError, match="runs.toml has no run 'nope', it has a, b, c, d"):
        recorded.main(["a", "nope"])
    assert planned == []


def test_where_all_runs_are_there_nothing_is_made(planned, folder, capsys):
    for name in "acd":
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "run.json").write_bytes((folder / "b/run.json").read_bytes())
    recorded.main([])
    assert planned == [] and "every recorded run is there" in capsys.readouterr().out


def test_make_recorded_ends_with_one_line_for_a_name_that_does_not_exist(root):
    command = [sys.executable, "-m", "lessons.kit.training.recorded", "nope"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("recorded: runs.toml has no run 'nope', it has mask_rcnn")
    assert done.stderr.count("\n") == 1


# ---------------------------------------------------------------- where Jupyter is not installed


BARE = """
import sys
from importlib.machinery import PathFinder

NAMES = "IPython ipywidgets ipykernel jupyter jupyterlab jupyter_client jupyter_core nbformat "
NAMES += "nbclient nbconvert notebook pycocotools typer rich matplotlib"


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in NAMES.split()
        return None if missing else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
import pathlib
import lessons.mask_rcnn
from lessons.kit import training
from lessons.kit import places
from lessons.kit.training import recorded, store

recipe = lessons.mask_rcnn.recipe("four_scenes")
recipe = recipe.with_budget("test", steps=2, batch=1, validated=1, evaluations=1)
folder = pathlib.Path(sys.argv[1])
run = training.fit(recipe, "test", folder=folder / "checkpoint", checkpoint_every=1)
recorded.write("mask_rcnn", run, folder=folder)
assert recorded.read("mask_rcnn", folder)["steps"] == 2
recorded.load_model("mask_rcnn", folder=folder)
assert not set(NAMES.split()) & {name.partition(".")[0] for name in sys.modules}
"""


def test_training_and_recording_need_neither_jupyter_nor_the_command_line(root, tmp_path):
    command = [sys.executable, "-c", BARE, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "mask_rcnn on four_scenes: 100%" in done.stderr
    assert sorted(path.name for path in (tmp_path / "mask_rcnn").iterdir()) == FILES


# ---------------------------------------------------------------- the command line


def test_record_is_the_command_that_makes_the_course_s_runs(lessons, planned, monkeypatch):
    monkeypatch.setattr(recorded.torch.cuda, "is_available", lambda: False)
    code, printed, errors = lessons("record", "b")
    assert (code, errors) == (0, "") and [plan.name for plan in planned] == ["b"]
    assert printed.splitlines()[0] == "1/1 b"
    assert lessons("record")[0] == 0 and [plan.name for plan in planned] == ["b", "a", "d"]
    code, _, errors = lessons("record", "mine")
    assert (code, errors) == (1, "lessons: runs.toml has no run 'mine', it has a, b, c, d\n")
    assert len(planned) == 3


def test_record_writes_into_the_course_s_folder_alone(lessons, folder, tmp_path):
    (folder / "runs.toml").write_text('[tiny]\nsystem = "tiny"\ndata = "four_scenes"\n')
    assert lessons("record")[0] == 0
    assert sorted(tree(folder)) == ["runs.toml", "tiny/run.json", "tiny/weights.safetensors"]
    weights = load_file(folder / "tiny/weights.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert not (tmp_path / "my").exists()


# ---------------------------------------------------------------- all of them again


def write_all(folder, run):
    """Two runs with weights, one that measured a claim, and one whose images are elsewhere."""
    recorded.write("one", run)
    recorded.write("claim", run, weights=False)
    recorded.write("two", run)
    recorded.write("far", run)
    change(folder, "far", data="nowhere")


def change(folder, name, scores=None, **entries):
    path = folder / name / "run.json"
    report = json.loads(path.read_text())
    report |= entries
    report["scores"] |= scores or {}
    path.write_text(json.dumps(report))


def test_all_runs_are_measured_again_beside_what_their_run_json_says(lessons, folder, run):
    write_all(folder, run)
    code, printed, errors = lessons("evaluate", "--all")
    assert (code, errors) == (0, "")
    far, one, two, *last = printed.splitlines()
    assert far.startswith("far: skipped, 'nowhere' is no data set")
    assert one.split()[0] == "one" and two.split()[0] == "two"
    assert last == [
        "measured 2 of the course's 4 runs; in brackets their run.json",
        "1 kept no weights: there are only their scores (lessons results)",
        "1 could not be measured here: far",
        "all 2 that were measured are within 0.001 of their run.json",
    ]
    again = {each.name: each for each in recorded.evaluate_all()}
    assert list(again) == ["far", "one", "two"] and again["far"].now == {}
    assert again["one"].now == pytest.approx(again["one"].then, abs=1e-5, nan_ok=True)
    assert again["one"].differences() == [] == again["far"].differences()


@pytest.mark.parametrize(
    "scores, message",
    [
        ({"area": 9.0}, r"two: area is 0\.\d{4}, not 9\.0000"),
        ({"rare": 0.5}, r"two: rare is nan, not 0\.5000"),
        ({"score": None}, r"two: score is 0\.\d{4}, not nan"),
        ({"pq": 0.25}, r"two: pq is nan, not 0\.2500"),
    ],
)
def test_a_score_that_is_another_now_ends_with_one_line(lessons, folder, run, scores, message):
    write_all(folder, run)
    change(folder, "two", scores)
    code, printed, errors = lessons("evaluate", "--all")
    assert code == 1 and errors.count("\n") == 1 and "within" not in printed
    assert re.fullmatch(f"lessons: not what run.json says: {message}\n", errors)


def test_a_thousandth_is_the_same(folder, run):
    write_all(folder, run)
    exact = recorded.read("two")["scores"]["area"]
    for away, expected in ((0.0009, 0), (-0.0009, 0), (0.0011, 1), (-0.0011, 1)):
        change(folder, "two", {"area": exact + away})
        (two,) = (each for each in recorded.evaluate_all() if each.name == "two")
        assert len(two.differences()) == expected


def test_where_nothing_can_be_measured_nothing_is_said_to_be_right(lessons, folder, run):
    recorded.write("claim", run, weights=False)
    code, printed, _ = lessons("evaluate", "--all")
    assert code == 0 and printed.startswith("measured 0 of the course's 1 runs;")
    assert "within" not in printed and "could not" not in printed


def test_the_user_s_runs_are_no_part_of_it(lessons, folder, run):
    write_all(folder, run)
    store.keep(places.my_runs() / "mine", run)
    assert "mine" not in lessons("evaluate", "--all")[1]


def test_a_quick_look_compares_nothing(lessons, folder, run):
    write_all(folder, run)
    change(folder, "two", {"pq": 9.0})
    code, printed, _ = lessons("evaluate", "--all", "--count", "1")
    assert code == 0 and "pq nan (9.000)" in printed
    assert printed.splitlines()[-1].endswith("of 1 images only: not compared")
    (_, one, _) = recorded.evaluate_all(1)
    assert one.now["score"] == recorded.evaluate_again("one", count=1)["score"]


def test_damaged_weights_end_it(lessons, folder, run):
    write_all(folder, run)
    (folder / "one/weights.safetensors").write_bytes(b"")
    code, _, errors = lessons("evaluate", "--all")
    assert code == 1 and "one/weights.safetensors is missing or not the file" in errors


def test_evaluate_wants_a_name_or_all_and_not_both(lessons, folder):
    code, _, errors = lessons("evaluate")
    assert code == 1 and errors.startswith("lessons: name a run, or say --all")
    for extra in (["one"], ["--json"], ["--data", "scenes"], ["--seed", "0"], ["--export", "x"]):
        code, _, errors = lessons("evaluate", "--all", *extra)
        assert code == 1 and errors.startswith("lessons: --all takes --count and nothing else")


# ---------------------------------------------------------------- categories


def test_a_run_says_which_categories_it_knows(folder, run):
    recorded.write("one", run)
    report = recorded.read("one")
    assert list(report)[:3] == ["system", "data", "categories"]
    assert runs.categories_of(report) == categories("four_scenes")
    with pytest.raises(LessonsError, match="the categories in a run.json of tiny are damaged: "):
        runs.categories_of(report | {"categories": [{"name": "sheep"}]})


def test_a_model_is_read_where_its_images_are_not(folder, run, monkeypatch, tmp_path):
    """Its recipe asks for the categories of its data set, which run.json knows."""
    recorded.write("one", run)
    change(folder, "one", data="nuclei", categories=[])
    seen, made = [], tiny_training.recipe()

    def recipe(data):
        seen.append(categories(data))
        return replace(made, data=data)

    monkeypatch.setenv("LESSONS_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tiny_training, "recipe", recipe)
    recorded.load_model("one")
    assert seen == [[]]
    with pytest.raises(LessonsError, match="nowhere"):  # to measure it they are needed
        recorded.evaluate_again("one")


@pytest.mark.parametrize("name", ["mask_rcnn_nuclei"])
def test_the_course_s_models_of_photographs_need_no_photographs(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert sum(p.numel() for p in recorded.load_model(name).parameters()) > 10**6


@pytest.mark.parametrize("name", recorded.names())
def test_the_recorded_categories_are_those_of_the_data(name, request):
    report = recorded.read(name)
    for images in ("nuclei", "coco"):
        if images in report["data"]:
            request.getfixturevalue(images)  # else it is skipped
    assert runs.categories_of(report) == categories(report["data"])
    text = (places.RECORDED / name / "run.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1) + "\n"


# ---------------------------------------------------------------- a notebook's own recipe


CALLS = []


class Counted(tiny_training.Tiny):
    """As a notebook writes it: one of its functions is its own."""

    def logits(self, image):
        CALLS.append(tuple(image.shape))
        return super().logits(image)


def own_recipe(data="four_scenes", **options):
    made = tiny_training.recipe(data, **options)
    return replace(made, model=lambda: Counted(**options))


@pytest.mark.parametrize("handed", [own_recipe, own_recipe()], ids=["function", "recipe"])
def test_the_function_that_is_handed_over_is_the_one_that_runs(folder, run, handed):
    recorded.write("one", run)
    model = recorded.load_model("one", recipe=handed)
    plain = recorded.load_model("one")
    CALLS.clear()
    image = data_set("four_scenes", "validation", 32, 1)[0].image
    (answer,) = model.predict_instances([image])
    assert CALLS == [(3, 32, 32)] and isinstance(model, Counted)
    assert torch.equal(answer.masks, plain.predict_instances([image])[0].masks)
    assert len(CALLS) == 1


OTHERS = {
    "data": (tiny_training.recipe("scenes"), "data is 'scenes', not 'four_scenes'"),
    "option": (tiny_training.recipe(width=5), "width is 5, not None"),
    "system": (replace(tiny_training.recipe(), system="huge"), "system is 'huge', not 'tiny'"),
    "a function's": (lambda data: tiny_training.recipe("scenes"), "data is 'scenes', not"),
}


@pytest.mark.parametrize("handed, expected", OTHERS.values(), ids=OTHERS.keys())
def test_a_recipe_of_another_run_is_refused(folder, run, handed, expected):
    recorded.write("one", run)
    with pytest.raises(LessonsError, match=f"^the recipe is not that of the run: {expected}"):
        recorded.load_model("one", recipe=handed)


def test_options_that_the_record_does_not_know_are_the_function_s_own(folder, run):
    """A lesson may get an option after its run was recorded."""
    recorded.write("one", run)
    recorded.load_model("one", recipe=lambda data: tiny_training.recipe(data, noise=0.1))
    change(folder, "one", options={"noise": 0.1})
    with pytest.raises(LessonsError, match="run: noise is 0.2, not 0.1$"):
        recorded.load_model("one", recipe=lambda d, noise: tiny_training.recipe(d, noise=0.2))


def test_a_recipe_that_is_none_or_fails_is_one_sentence(folder, run):
    recorded.write("one", run)
    with pytest.raises(LessonsError, match="recipe must be a Recipe or make one, not a Tiny"):
        recorded.load_model("one", recipe=lambda data: tiny_training.Tiny())

    def unwritten(data):
        raise NotImplementedError("your turn")

    with pytest.raises(LessonsError, match="tiny cannot be made with {}: your turn") as caught:
        recorded.load_model("one", recipe=unwritten)
    assert isinstance(caught.value.__cause__, NotImplementedError)  # the notebook shows the line


def test_a_recipe_whose_model_has_other_weights_is_told_which(folder, run):
    recorded.write("one", run)
    wider = replace(tiny_training.recipe(), model=lambda: tiny_training.Tiny(width=5))
    message = "does not fit the model that the recipe makes now, whose pixel.bias is (5,), not (4,)"
    with pytest.raises(LessonsError, match=re.escape(message)):
        recorded.load_model("one", recipe=wider)
    smaller = replace(tiny_training.recipe(), model=lambda: nn.Conv2d(3, 4, 1))
    with pytest.raises(LessonsError, match="which has no pixel.bias: train it anew"):
        recorded.load_model("one", recipe=smaller)


# ---------------------------------------------------------------- what readers are told


def test_the_readmes_results_are_those_of_the_recorded_runs(root, lessons):
    """A number that a reader sees comes from run.json."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    shown = readme.split("## Results")[1].split("\n## ")[0]
    code, table, _ = lessons("results", "--markdown")
    assert code == 0 and table.strip() in shown
    lines = table.splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(recorded.plans())
    kept = [name for name in recorded.names() if "weights" in recorded.read(name)]
    assert f"{len(kept)} of these {len(lines)}, " in shown
    scores = recorded.read("mask_rcnn")["scores"]
    numbers = [f"{scores[key]:.3f}" for key in ("ap", "ap50", "ap75")]
    assert lines[0].startswith(f"| `mask_rcnn` | Mask R-CNN, scenes | {' | '.join(numbers)} | – |")


def test_a_run_without_a_title_or_a_score_has_a_row_too(folder):
    (folder / "runs.toml").write_text(
        '[tiny]\nsystem = "tiny"\ndata = "four_scenes"\n[absent]\nsystem = "tiny"\n'
    )
    recorded.record(recorded.plans()["tiny"], progress=False)
    *_, row = recorded.results_table().splitlines()
    assert row.startswith("| `tiny` |  | – | – | – | – | – | 12 steps of 3 images, ")
