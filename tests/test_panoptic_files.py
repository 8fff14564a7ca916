"""Panoptic files and spoiled panoptic answers: what is written, read, exported and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_training
import torch
from PIL import Image

from lessons.kit.data import Category, Segments, areas, is_crowd
from lessons.kit.data.imperfect import imperfect_panoptic
from lessons.kit.data.memory import AsNeeded
from lessons.kit.data.panoptic_files import read_panoptic, write_panoptic
from lessons.kit.data.real import CocoPanoptic
from lessons.kit.data.scenes import CATEGORIES, Scenes
from lessons.kit.errors import LessonsError
from lessons.kit.peers.coco import score_panoptic_files
from lessons.kit.training import again, data_set, fit, recorded
from lessons.panoptic_quality import panoptic_map, panoptic_quality, rgb_to_ids

KINDS = [Category("sheep", True, (240, 228, 66)), Category("meadow", False, (153, 187, 85))]


@pytest.fixture(scope="module")
def samples():
    scenes = Scenes.validation(size=(48, 64))
    return [scenes[index] for index in range(30)]


@pytest.fixture(scope="module")
def answers(samples):
    return [sample.segments for sample in samples[:6]]


def same(first, second):
    return (
        first.masks.equal(second.masks)
        and first.labels.equal(second.labels)
        and is_crowd(first).equal(is_crowd(second))
    )


# ---------------------------------------------------------------- files


def test_what_is_written_is_read_again(answers, tmp_path):
    path = write_panoptic(tmp_path / "deep" / "answers.json", answers, CATEGORIES)
    again, categories = read_panoptic(path)
    assert categories == CATEGORIES
    assert any(answer.is_crowd.any() for answer in again)
    assert all(same(a, b) for a, b in zip(again, answers, strict=True))
    names = sorted(p.name for p in (tmp_path / "deep").rglob("*") if p.is_file())
    assert names == [f"{i:06d}.png" for i in range(6)] + ["answers.json"]  # nothing else is left


def test_the_json_is_coco_s(answers, tmp_path):
    table = json.loads(write_panoptic(tmp_path / "a.json", answers, CATEGORIES).read_text())
    assert table["images"][2] == {"id": 2, "file_name": "000002.jpg", "height": 48, "width": 64}
    assert table["categories"][4] == {
        "id": 5,
        "name": "sky",
        "isthing": 0,
        "color": [166, 216, 245],
    }
    annotation = table["annotations"][2]
    assert (annotation["image_id"], annotation["file_name"]) == (2, "000002.png")
    with Image.open(tmp_path / "a" / "000002.png") as image:
        ids = rgb_to_ids(torch.from_numpy(np.array(image)))
    assert ids.equal(panoptic_map(answers[2]))
    for row, mask, label in zip(
        annotation["segments_info"], answers[2].masks, answers[2].labels, strict=True
    ):
        rows, columns = mask.nonzero().T
        x0, y0 = int(columns.min()), int(rows.min())
        size = [int(columns.max()) + 1 - x0, int(rows.max()) + 1 - y0]
        assert row["area"] == int(mask.sum()) and row["bbox"] == [x0, y0, *size]
        assert row["category_id"] == label + 1 and mask.equal(ids == row["id"])


def test_names_and_ids_of_a_data_set_are_kept(tmp_path):
    answer = Segments(torch.eye(2, dtype=torch.bool)[:, None], torch.tensor([0, 1]))
    large = torch.tensor([256**3 - 1, 70000])
    path = write_panoptic(
        tmp_path / "a.json", [answer], KINDS, names=["000139"], category_ids=[18, 193], ids=[large]
    )
    table = json.loads(path.read_text())
    assert table["images"][0]["id"] == 139 and table["annotations"][0]["file_name"] == "000139.png"
    rows = table["annotations"][0]["segments_info"]
    assert [(row["id"], row["category_id"]) for row in rows] == [(256**3 - 1, 18), (70000, 193)]
    with Image.open(tmp_path / "a" / "000139.png") as image:
        assert np.array(image).tolist() == [[[255, 255, 255], [112, 17, 1]]]
    (again,), _ = read_panoptic(path)
    assert same(again, answer)
    path = write_panoptic(tmp_path / "b.json", [answer] * 2, KINDS, names=["left", "right"])
    assert [image["id"] for image in json.loads(path.read_text())["images"]] == [0, 1]


def test_a_mask_without_a_pixel_is_left_out(tmp_path):
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[1, 0] = True
    path = write_panoptic(tmp_path / "a.json", [Segments(masks, torch.tensor([0, 1]))], KINDS)
    (again,), _ = read_panoptic(path)
    assert again.labels.tolist() == [1] and areas(again).tolist() == [4]


def test_an_image_without_segments(tmp_path):
    nothing = Segments(torch.zeros(0, 3, 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    (again,), _ = read_panoptic(write_panoptic(tmp_path / "a.json", [nothing], KINDS))
    assert len(again) == 0 and again.size == (3, 4)


def test_files_that_are_there_are_replaced(answers, tmp_path):
    write_panoptic(tmp_path / "a.json", answers, CATEGORIES)
    write_panoptic(tmp_path / "a.json", answers[3:5], CATEGORIES)
    again, _ = read_panoptic(tmp_path / "a.json")
    assert len(again) == 2 and same(again[0], answers[3]) and same(again[1], answers[4])


def test_coco_s_own_files_are_read(coco):
    again, _ = read_panoptic(coco._json)
    for segments, index in zip(again[:5], range(5), strict=False):
        expected = coco[index].segments
        assert segments.masks.equal(expected.masks)
        assert is_crowd(segments).equal(expected.is_crowd)


def test_a_folder_that_cannot_be_written_is_named(answers, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LessonsError, match="taken.* cannot be written .*: choose another folder"):
        write_panoptic(tmp_path / "taken" / "a.json", answers, CATEGORIES)


def spoil(path, change):
    table = json.loads(path.read_text())
    change(table, table["annotations"][1]["segments_info"])
    path.write_text(json.dumps(table))


BROKEN = {
    "not listed": (lambda table, rows: rows.pop(0), "does not list segment 1, of which 32 pixels"),
    "no pixel": (
        lambda table, rows: rows.append({**rows[0], "id": 77}),
        "lists segment 77, of which no pixel is in",
    ),
    "one id twice": (
        lambda table, rows: rows.append(rows[0]),
        "gives two segments one id, or the id 0 of void, in",
    ),
    "id of void": (
        lambda table, rows: rows[0].update(id=0),
        "gives two segments one id, or the id 0 of void, in",
    ),
    "large id": (
        lambda table, rows: rows[0].update(id=256**3),
        "lists segment 16777216, which three bytes cannot hold, in",
    ),
    "category": (
        lambda table, rows: rows[0].update(category_id=99),
        "knows no category 99, which it gives to a segment of",
    ),
    "category in a list": (
        lambda table, rows: rows[0].update(category_id=[1]),
        r"knows no category \[1\], which it gives to a segment of",
    ),
    "id beyond 64 bits": (
        lambda table, rows: rows[0].update(id=10**30),
        f"lists segment {10**30}, which three bytes cannot hold, in",
    ),
    "id of words": (lambda table, rows: rows[0].update(id="1"), "lists segment '1', which three"),
    "half an id": (lambda table, rows: rows[0].update(id=1.5), "lists segment 1.5, which three"),
    "id is NaN": (lambda table, rows: rows[0].update(id=float("nan")), "lists segment nan, which"),
    "no id": (lambda table, rows: rows[0].update(id=None), "lists segment None, which three"),
    "crowd is NaN": (
        lambda table, rows: rows[0].update(iscrowd=float("nan")),
        "has iscrowd nan, neither 0 nor 1, for a segment of",
    ),
    "no categories": (
        lambda table, rows: table.pop("categories"),
        "cannot be read as panoptic annotations",
    ),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN.keys())
def test_files_that_disagree_are_named(answers, tmp_path, change, message):
    path = write_panoptic(tmp_path / "a.json", answers[:3], CATEGORIES)
    spoil(path, change)
    with pytest.raises(LessonsError, match=message) as error:
        read_panoptic(path)
    assert str(path) in str(error.value)
    assert "cannot" in message or "000001.png" in str(error.value)


def test_a_missing_or_broken_file_is_named(answers, tmp_path):
    with pytest.raises(LessonsError, match="nothing.json cannot be read"):
        read_panoptic(tmp_path / "nothing.json")
    path = write_panoptic(tmp_path / "a.json", answers[:2], CATEGORIES)
    (tmp_path / "a" / "000001.png").write_bytes(b"no picture")
    with pytest.raises(LessonsError, match="000001.png cannot be read as an image"):
        read_panoptic(path)
    (tmp_path / "a" / "000001.png").unlink()
    with pytest.raises(LessonsError, match="000001.png cannot be read as an image"):
        read_panoptic(path)


# ---------------------------------------------------------------- spoiled answers

UNSPOILED = {"drop": 0, "split": 0, "relabel": 0, "void": 0, "shift": 0}


def panoptic(sample, seed=0, **options):
    return imperfect_panoptic(sample, CATEGORIES, np.random.default_rng(seed), **options)


def sides(segments):
    return sorted(zip(segments.labels.tolist(), segments.masks.tolist(), strict=True))


def test_spoiled_answers_are_disjoint_whole_and_the_same_for_the_same_generator(samples):
    for seed, sample in enumerate(samples):
        for options in ({}, {"shift": 0.3, "split": 0.8, "relabel": 0.8}):
            answer = panoptic(sample, seed, **options)
            panoptic_map(answer)  # raises where two overlap
            assert answer.size == sample.segments.size and answer.masks.any((1, 2)).all()
            assert answer.scores is None and answer.is_crowd is None
            assert ((answer.labels >= 0) & (answer.labels < len(CATEGORIES))).all()
            assert same(answer, panoptic(sample, seed, **options))
    assert not same(panoptic(samples[0], 1), panoptic(samples[0], 2))


def test_an_unspoiled_answer_is_the_truth_in_another_order(samples):
    for sample in samples[:8]:
        assert sides(panoptic(sample, **UNSPOILED)) == sides(sample.segments)
    orders = [panoptic(sample, **UNSPOILED).labels.tolist() for sample in samples]
    assert any(o != s.segments.labels.tolist() for o, s in zip(orders, samples, strict=True))


def test_each_way_of_spoiling_does_what_it_says(samples):
    def only(**option):
        return [panoptic(s, k, **UNSPOILED | option) for k, s in enumerate(samples)]

    truths = [sample.segments for sample in samples]
    count = sum(map(len, truths))
    assert sum(map(len, only(drop=1))) == 0
    assert 0.4 * count < sum(map(len, only(drop=0.5))) < 0.6 * count
    assert sum(map(len, only(split=1))) > 1.5 * count
    for answer, truth in zip(only(split=1), truths, strict=True):
        assert answer.masks.any(0).equal(truth.masks.any(0))  # cut, and nothing lost
    renamed = [answer.labels.sort().values for answer in only(relabel=1)]
    assert sum(a.equal(t.labels.sort().values) for a, t in zip(renamed, truths, strict=True)) < 3
    answered = sum(int(areas(answer).sum()) for answer in only(void=1))
    assert 0.5 < answered / sum(int(areas(truth).sum()) for truth in truths) < 0.8
    moved = panoptic_quality(only(shift=0.05), truths, CATEGORIES)
    far = panoptic_quality(only(shift=0.5), truths, CATEGORIES)
    assert 1 > moved["pq"] > far["pq"] > 0


# ---------------------------------------------------------------- lessons evaluate --export


class Painter(tiny_training.Tiny):
    """Tiny with a panoptic answer: sky above the middle, meadow below."""

    @torch.no_grad()
    def predict_panoptic(self, images):
        answers = []
        for image in images:
            h, w = image.shape[1:]
            upper = (torch.arange(h, device=image.device) < h // 2)[:, None].expand(h, w)
            labels = torch.tensor([4, 6], device=image.device)
            answers.append(Segments(torch.stack([upper, ~upper]), labels))
        return answers


@pytest.fixture
def painter(folder, monkeypatch):
    """A recorded run of a system with a panoptic answer, measured by PQ."""

    def recipe(data="four_scenes", **options):
        made = tiny_recipe(data, **options)
        metrics = {**made.metrics, "predict_panoptic": panoptic_quality}
        return replace(made, model=Painter, metrics=metrics)

    tiny_recipe = tiny_training.recipe
    monkeypatch.setattr(tiny_training, "recipe", recipe)
    recorded.write("painter", fit(recipe(), "test", seed=2, progress=False))
    return "painter"


def test_what_is_exported_is_scored_to_the_same_numbers(lessons, painter, tmp_path):
    goal = tmp_path / "out"
    code, printed, _ = lessons(
        "evaluate", painter, "--data", "scenes", "--count", "5", "--export", str(goal), "--json"
    )
    assert code == 0
    ours = json.loads(printed)
    theirs = score_panoptic_files(goal / "panoptic.json", goal / "ground_truth.json")
    for name in ("pq", "sq", "rq", "pq_things", "pq_stuff"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6)  # six digits are printed
    assert 0 < ours["pq"] < 1 and "area" in ours  # the instances are measured too
    truths = data_set("scenes", "validation", 32, 5)
    again, categories = read_panoptic(goal / "ground_truth.json")
    assert categories == CATEGORIES
    assert all(same(a, truths[i].segments) for i, a in enumerate(again))
    found, _ = read_panoptic(goal / "panoptic.json")
    assert panoptic_quality(found, again, categories)["pq"] == pytest.approx(theirs["pq"])
    assert sorted(p.name for p in (goal / "panoptic").iterdir()) == [
        f"00000{i}.png" for i in range(5)
    ]


def test_where_to_the_files_went_is_printed(lessons, painter, tmp_path):
    goal = tmp_path / "out"
    code, printed, _ = lessons("evaluate", painter, "--count", "1", "--export", str(goal))
    assert code == 0 and "pq" in printed
    last = " ".join(printed.split())
    assert last.endswith(f"{goal}: panoptic.json and ground_truth.json, with their PNGs")


def test_without_export_nothing_is_written(lessons, painter, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, _, _ = lessons("evaluate", painter, "--count", "1")
    assert code == 0 and sorted(tmp_path.rglob("*")) == before


def test_a_system_without_panoptic_answers_cannot_be_exported(lessons, folder, tmp_path):
    recorded.write("plain", fit(tiny_training.recipe(), "test", seed=2, progress=False))
    code, printed, error = lessons("evaluate", "plain", "--export", str(tmp_path / "out"))
    assert (code, printed) == (1, "") and error.count("\n") == 1
    assert error.startswith("lessons: plain cannot be exported: tiny has no predict_panoptic")
    assert not (tmp_path / "out").exists()


def test_coco_is_exported_with_its_own_names_and_ids(coco, tmp_path):
    truths = [coco[i].segments for i in range(3)]
    measure = again._exporting({}, tmp_path, AsNeeded(coco, 3))["predict_panoptic"]
    assert measure(truths, truths, coco.categories) == {}
    official = json.loads(CocoPanoptic()._json.read_text())
    exported = json.loads((tmp_path / "panoptic.json").read_text())
    kinds = {c["id"]: c["name"] for c in official["categories"]}
    assert {c["id"]: c["name"] for c in exported["categories"]} == kinds
    of_image = {a["image_id"]: a for a in official["annotations"]}
    for annotation in exported["annotations"]:
        theirs = of_image[annotation["image_id"]]
        assert annotation["file_name"] == theirs["file_name"]
        assert [(s["category_id"], s["iscrowd"]) for s in annotation["segments_info"]] == [
            (s["category_id"], s["iscrowd"]) for s in theirs["segments_info"]
        ]


def test_numbers_in_a_json_may_be_floats(answers, tmp_path):
    path = write_panoptic(tmp_path / "a.json", answers[:2], CATEGORIES)
    expected, _ = read_panoptic(path)
    table = json.loads(path.read_text())
    for image in table["annotations"]:
        for row in image["segments_info"]:
            row |= {"id": float(row["id"]), "category_id": float(row["category_id"])}
            row["iscrowd"] = row["iscrowd"] or None
    path.write_text(json.dumps(table))
    for mine, other in zip(read_panoptic(path)[0], expected, strict=True):
        assert same(mine, other)
