"""Lesson 17: scores as the references have them, kinds of mistakes by sets, clock and memory."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lessons import side_by_side
from lessons.kit.data import VOID, Category, Sample, Segments, semantic_map
from lessons.kit.data.imperfect import imperfect_detections, imperfect_panoptic
from lessons.kit.data.scenes import Scenes
from lessons.kit.peers.coco import coco_evaluate, coco_panoptic_quality
from lessons.side_by_side import (
    Answers,
    Errors,
    LiveMemory,
    answers_of,
    as_table,
    compare,
    count_errors,
    find_errors,
    images_per_second,
    intersections,
    merge_things,
    peak_memory,
    scores_of,
)

SHEEP, TREE, SKY = range(3)
KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("tree", True, (0, 158, 115)),
    Category("sky", False, (166, 216, 245)),
]
NAN = math.nan


def strips(*pixels, labels=None, scores=None, crowd=None, width=60):
    """Masks in one row of pixels: each a range or a collection of columns."""
    masks = torch.zeros(len(pixels), 1, width, dtype=torch.bool)
    for mask, own in zip(masks, pixels, strict=True):
        mask[0, list(own)] = True
    labels = torch.tensor(labels or [SHEEP] * len(pixels), dtype=torch.int64)
    return Segments(
        masks,
        labels,
        None if scores is None else torch.tensor(scores),
        None if crowd is None else torch.tensor(crowd),
    )


def said(*pixels, labels=None, scores=None, **options):
    return strips(*pixels, labels=labels, scores=scores or [0.9] * len(pixels), **options)


# ---------------------------------------------------------------- what a system says


class Echo(nn.Module):
    """Says what it is told to, image by image; the image's first pixel is its number."""

    def __init__(self, answers, semantic=None, panoptic=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(7))
        self.answers, self.batches = answers, []
        if panoptic is not None:
            self.predict_panoptic = lambda images: self.told(panoptic, images)
        if semantic is not None:
            self.predict_semantic = lambda images: self.told(semantic, images)

    def told(self, answers, images):
        self.batches.append(len(images))
        return [answers[round(float(image[0, 0, 0]) * 255)] for image in images]

    def predict_instances(self, images):
        return self.told(self.answers, images)


class Numbered(list):
    """A data set of scenes whose first pixel is their number."""

    categories = Scenes.validation().categories


@pytest.fixture(scope="module")
def few():
    scenes, few = Scenes(11, 6, 64), Numbered()
    for i in range(6):
        image = scenes[i].image.clone()
        image[0, 0, 0] = i / 255
        few.append(Sample(image, scenes[i].segments))
    return few


@pytest.fixture(scope="module")
def spoiled(few):
    rng = np.random.default_rng(3)
    found = [imperfect_detections(s, few.categories, rng) for s in few]
    whole = [imperfect_panoptic(s, few.categories, rng) for s in few]
    return found, whole


def test_scores_are_those_of_pycocotools_and_panopticapi(few, spoiled):
    found, whole = spoiled
    targets = [s.segments for s in few]
    classes = [semantic_map(each) for each in whole]
    scores = scores_of(Answers(found, whole, classes, True), targets, few.categories)
    assert list(scores) == ["ap", "ap50", "pq", "sq", "rq", "pq_things", "miou"]
    theirs = coco_evaluate(found, targets, few.categories)
    theirs |= coco_panoptic_quality(whole, targets, few.categories)
    for key in ("ap", "ap50", "pq", "sq", "rq", "pq_things"):
        assert scores[key] == pytest.approx(theirs[key], abs=1e-9)
    assert 0.3 < scores["miou"] < 1 and 0.2 < scores["ap"] < 1


def test_a_perfect_answer_has_one_everywhere(few):
    truth = [s.segments for s in few]
    found = [Segments(t.masks, t.labels, torch.ones(len(t)))[t.labels < 4] for t in truth]
    right = Answers(found, truth, [semantic_map(t) for t in truth], True)
    assert set(scores_of(right, truth, few.categories).values()) == {1.0}


def test_what_a_detector_has_no_answer_to_is_nan(few, spoiled):
    found, _ = spoiled
    model = Echo(found)
    answers = answers_of(model, few, batch=4)
    assert model.batches == [4, 2] and answers.classes is None and not answers.knows_stuff
    targets = [s.segments for s in few]
    scores = scores_of(answers, targets, few.categories)
    absent = {key for key, value in scores.items() if math.isnan(value)}
    assert absent == {"pq", "sq", "rq", "miou"}
    expected = [merge_things(each, 4) for each in found]
    for ours, each in zip(answers.panoptic, expected, strict=True):
        assert torch.equal(ours.masks, each.masks) and torch.equal(ours.labels, each.labels)


def test_where_nothing_is_stuff_a_detector_has_a_pq():
    target = strips(range(10), range(20, 30))
    answer = said(range(10), range(20, 28))
    kinds = KINDS[:2]
    answers = Answers([answer], [merge_things(answer, 2)], None, False)
    scores = scores_of(answers, [target], kinds)
    assert scores["pq"] == scores["pq_things"] == pytest.approx(0.9)
    assert math.isnan(scores_of(answers, [target], KINDS)["pq"])


def test_answers_of_asks_for_all_that_a_system_has(few, spoiled):
    found, whole = spoiled
    classes = [semantic_map(each) for each in whole]
    answers = answers_of(Echo(found, classes, whole), few)
    assert answers.knows_stuff
    assert all(a is b for a, b in zip(answers.classes, classes, strict=True))
    for ours, told in ((answers.instances, found), (answers.panoptic, whole)):
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(ours, told, strict=True))


def test_the_merge_of_things_is_disjoint_and_leaves_the_unsure_out():
    answer = said(
        range(0, 10), range(5, 20), range(0, 8), range(30, 35),
        labels=[SHEEP, TREE, TREE, SHEEP], scores=[0.9, 0.8, 0.7, 0.4],
    )  # fmt: skip
    merged = merge_things(answer, 2)
    columns = [mask[0].nonzero()[:, 0].tolist() for mask in merged.masks]
    assert columns == [list(range(0, 10)), list(range(10, 20))]
    assert merged.labels.tolist() == [SHEEP, TREE]
    assert len(merge_things(answer, 2, score_threshold=0.3)) == 3


# ---------------------------------------------------------------- kinds of mistakes


def by_sets(prediction, target, threshold=0.5):
    """The table of lesson 17 in sets of pixels, one thing at a time."""
    errors = Errors()
    pixels = [
        [set(m.flatten().nonzero()[:, 0].tolist()) for m in side.masks]
        for side in (prediction, target)
    ]
    crowd = target.is_crowd.tolist() if target.is_crowd is not None else [False] * len(target)

    def iou(a, b):
        return len(a & b) / len(a | b)

    p = [
        (k, pixels[0][k], int(prediction.labels[k]))
        for k in range(len(prediction))
        if prediction.scores[k] >= threshold and KINDS[prediction.labels[k]].is_thing
        and pixels[0][k]
    ]  # fmt: skip
    g = [
        (k, pixels[1][k], int(target.labels[k]))
        for k in range(len(target))
        if KINDS[target.labels[k]].is_thing and not crowd[k] and pixels[1][k]
    ]
    for k, truth, label in g:
        own = [(iou(a, truth), -i) for i, a, c in p if c == label and iou(a, truth) > 0.5]
        others = [i for i, a, c in p if c != label and iou(a, truth) > 0.5]
        if own:
            errors.found.append((-max(own)[1], k))
        elif others:
            errors.wrong_class.append(k)
        else:
            errors.missed.append(k)
        pieces = []
        for _, a, c in p:
            inside = (
                c == label and 2 * len(a & truth) > len(a) and 10 * len(a & truth) >= len(truth)
            )
            if inside and all(iou(a, b) <= 0.5 for b in pieces):
                pieces.append(a)
        if len(pieces) > 1:
            errors.split.append(k)
    for n, (i, a, c) in enumerate(p):
        errors.duplicates += [(i, j) for j, b, d in p[n + 1 :] if c == d and iou(a, b) > 0.5]
        if sum(d == c and 2 * len(a & b) > len(b) for _, b, d in g) > 1:
            errors.merged.append(i)
        kind = set().union(*(pixels[1][k] for k in range(len(target)) if target.labels[k] == c))
        if 2 * len(a & kind) <= len(a) and not any(iou(a, b) > 0.5 for _, b, _ in g):
            errors.invented.append(i)
    return errors


NAMES = ("found", "duplicates", "split", "merged", "wrong_class", "missed", "invented")


def ranges(rng, count, longest, width=60):
    starts = rng.integers(0, width - 4, count)
    return [range(s, min(s + rng.integers(2, longest), width)) for s in starts.tolist()]


def test_mistakes_are_those_of_the_table_on_random_rows():
    rng = np.random.default_rng(0)
    seen = dict.fromkeys(NAMES, 0)
    for _ in range(250):
        cuts = np.sort(rng.choice(np.arange(1, 60), 7, replace=False)).tolist()
        pieces = [range(a, b) for a, b in zip([0, *cuts], [*cuts, 60], strict=True)][:7]
        labels = rng.integers(0, 3, 7).tolist()
        target = strips(*pieces, labels=labels, crowd=(rng.random(7) < 0.15).tolist())
        copies = [pieces[k] for k in rng.integers(0, 7, 4)] + ranges(rng, 6, 20)
        prediction = said(
            *copies,
            labels=[int(rng.integers(0, 3)) for _ in copies],
            scores=rng.random(len(copies)).round(2).tolist(),
        )
        ours, plain = find_errors(prediction, target, KINDS), by_sets(prediction, target)
        for name in NAMES:
            assert sorted(getattr(ours, name)) == sorted(getattr(plain, name)), name
            seen[name] += len(getattr(ours, name))
    assert min(seen.values()) > 10, seen  # every kind occurs


CASES = {
    "two answers that say the same": (
        said(range(10), range(1, 10)), strips(range(10)), {"duplicates": [(0, 1)]},
    ),
    "the same place, two classes": (
        said(range(10), range(10), labels=[SHEEP, TREE]), strips(range(10)), {},
    ),
    "two halves": (
        said(range(5), range(5, 10)), strips(range(10)), {"split": [0], "missed": [0]},
    ),
    "a whole and a crumb that is a tenth": (
        said(range(10), [3]), strips(range(10)), {"split": [0]},
    ),
    "a whole and a crumb below a tenth": (said(range(20), [3]), strips(range(20)), {}),
    "a piece that lies half inside is none": (
        said(range(10), range(8, 12)), strips(range(10)), {"invented": [1]},
    ),
    "half of a second thing is not enough": (
        said(range(10)), strips(range(5), range(5, 15)), {"missed": [0, 1]},
    ),
    "one answer for two": (
        said(range(20)), strips(range(9), range(11, 20)), {"merged": [0], "missed": [0, 1]},
    ),
    "one answer for a sheep and a tree": (
        said(range(19)), strips(range(9), range(10, 19), labels=[SHEEP, TREE]),
        {"missed": [0, 1], "invented": [0]},
    ),
    "another class": (
        said(range(10), labels=[TREE]), strips(range(10)), {"wrong_class": [0]},
    ),
    "exactly one half is not found": (said(range(5)), strips(range(10)), {"missed": [0]}),
    "nothing there": (said(range(30, 40)), strips(range(10)), {"missed": [0], "invented": [0]}),
    "in a crowd": (said(range(5), range(6, 9)), strips(range(10), crowd=[True]), {}),
    "a crowd and no answer": (said(), strips(range(10), crowd=[True]), {}),
    "not sure": (said(range(10), scores=[0.49]), strips(range(10)), {"missed": [0]}),
    "just sure": (said(range(10), scores=[0.5]), strips(range(10)), {}),
    "stuff is nobody's business": (
        said(range(10), labels=[SKY]), strips(range(20), labels=[SKY]), {},
    ),
    "an empty answer and an empty thing": (said([]), strips([]), {}),
}  # fmt: skip


@pytest.mark.parametrize("prediction, target, expected", CASES.values(), ids=CASES.keys())
def test_a_mistake_by_hand(prediction, target, expected):
    errors = find_errors(prediction, target, KINDS)
    for name in NAMES[1:]:
        assert getattr(errors, name) == expected.get(name, []), name


def test_indices_are_those_of_the_whole_prediction_and_the_whole_truth():
    prediction = said(
        range(3), range(20, 30), range(40, 50), labels=[SKY, SHEEP, SHEEP], scores=[0.9, 0.3, 0.8]
    )
    target = strips(range(15), range(40, 50), range(52, 55), labels=[SKY, SHEEP, SHEEP])
    errors = find_errors(prediction, target, KINDS)
    assert errors.found == [(2, 1)] and errors.missed == [2] and errors.blunt == [0.0]
    sure_too = find_errors(prediction, target, KINDS, score_threshold=0.2)
    assert sure_too.invented == [1]


def test_counts_are_sums_and_recall_is_by_size():
    square = torch.zeros(3, 64, 64, dtype=torch.bool)
    square[0, :5, :5], square[1, 10:25, :15], square[2, 30:60, :30] = True, True, True
    target = Segments(square, torch.tensor([SHEEP, SHEEP, TREE]))
    answer = Segments(square[1:], torch.tensor([SHEEP, SHEEP]), torch.tensor([0.9, 0.9]))
    nothing = Segments(square[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    row = count_errors([answer, nothing], [target, target], KINDS)
    assert row["things"] == 6 and (row["wrong_class"], row["missed"]) == (1, 4)
    assert (row["recall"], row["recall_below_10"]) == (pytest.approx(1 / 6), 0)
    assert (row["recall_10_to_20"], row["recall_above_20"], row["blunt"]) == (0.5, 0, 0)
    row = count_errors([answer], [Segments(square[:0], nothing.labels)], KINDS)
    assert row["things"] == 0 and math.isnan(row["recall"]) and math.isnan(row["blunt"])
    assert row["invented"] == 2


def test_the_edge_of_a_size_belongs_to_the_larger_one():
    square = torch.zeros(1, 40, 40, dtype=torch.bool)
    square[0, :10, :10] = True
    target = Segments(square, torch.tensor([SHEEP]))
    row = count_errors([Segments(square, target.labels, torch.ones(1))], [target], KINDS)
    assert row["recall_10_to_20"] == 1 and math.isnan(row["recall_below_10"])


def test_bluntness_is_lesson_04s_boundary_error():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 4:16, 4:16], masks[1, 4:16, 5:16] = True, True
    truth = Segments(masks[:1], torch.tensor([SHEEP]))
    answer = Segments(masks[1:], torch.tensor([SHEEP]), torch.ones(1))
    expected = side_by_side.boundary_error(masks[1:], masks[:1]).item()
    assert count_errors([answer], [truth], KINDS)["blunt"] == pytest.approx(expected)
    assert expected > 0


def test_intersections_are_exact_for_large_masks():
    masks = torch.ones(1, 4200, 4100, dtype=torch.bool)  # more pixels than float32 can count
    masks[0, 0, 0] = False
    assert intersections(masks, masks).item() == 4200 * 4100 - 1


# ---------------------------------------------------------------- the clock and the memory


class Clock:
    """`time`, for a module that asks how late it is: each answer takes what is told."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, iter(seconds)
        self.running = False

    def perf_counter(self):
        if self.running:
            self.now += next(self.seconds)
        self.running = not self.running
        return self.now


def test_speed_is_the_median_and_the_warm_up_does_not_count(few, spoiled, monkeypatch):
    monkeypatch.setattr(side_by_side, "time", Clock([2.0, 9.0, 3.0]))
    model = Echo(spoiled[0])
    images = [sample.image for sample in few][:5]
    assert images_per_second(model, images, batch=2, repeats=3) == pytest.approx(5 / 3)
    assert model.batches == [2] + 3 * [2, 2, 1]


def test_the_panoptic_answer_is_timed_where_there_is_one(few, spoiled):
    found, whole = spoiled
    model = Echo(found, panoptic=whole)
    model.predict_instances = None
    assert images_per_second(model, [few[0].image], repeats=1) > 0
    assert peak_memory(model, [few[0].image]) == 0


def test_memory_is_what_lives_at_one_time():
    with LiveMemory() as memory:
        a = torch.zeros(100)
        b = a * 2
        view = b.view(10, 10)[1:]
        a = None
        c = torch.zeros(50)
        b += 1  # in place
        b.relu_()
    assert (memory.peak, memory.now) == (800, 600)
    b = None
    assert memory.now == 600  # the view needs it
    view = c = None  # noqa: F841
    assert memory.now == 0


def test_tensors_from_outside_are_not_counted():
    outside = torch.zeros(1000)
    with LiveMemory() as memory:
        outside.add_(1)
        view = outside[:10]
        view.mul_(2)
    assert memory.peak == 0


class Wide(nn.Module):
    """Makes a tensor of `channels` maps and lets go of it, then one of a single map."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 1, bias=False)

    @torch.no_grad()
    def predict_instances(self, images):
        return [self.layer(image[None]).amax(1) for image in images]


def test_peak_memory_is_that_of_the_answer_without_weights_and_images():
    image = torch.rand(3, 8, 10)
    for channels in (5, 20):
        expected = 4 * 80 * (channels + 1)
        assert peak_memory(Wide(channels), [image]) == expected
    two = peak_memory(Wide(5), [image, image])
    assert two == 4 * 80 * (5 + 2)  # the first answer lives while the second is made


# ---------------------------------------------------------------- rows and tables


def test_compare_has_a_row_for_each_model(few, spoiled, monkeypatch):
    monkeypatch.setattr(side_by_side, "peak_memory", lambda model, images: len(images))
    found, whole = spoiled
    classes = [semantic_map(each) for each in whole]
    models = {"one": Echo(found), "both": Echo(found, classes, whole)}
    report = {"seconds": 12.5, "steps": 7, "device": "a GPU", "scores": {}}
    rows = compare(models, few, reports={"both": report}, timed=3, repeats=1)
    assert [row["name"] for row in rows] == ["one", "both"]
    assert all(row["parameters"] == 7 and row["images_per_second_of_8"] > 0 for row in rows)
    assert [row["peak_memory"] for row in rows] == [1, 1]  # of one image
    assert rows[0]["ap"] == rows[1]["ap"] and math.isnan(rows[0]["pq"]) and rows[1]["pq"] > 0
    assert (rows[1]["seconds"], rows[1]["steps"], rows[1]["device"]) == (12.5, 7, "a GPU")
    assert "seconds" not in rows[0] and "scores" not in rows[1]


def test_compare_uses_the_answers_that_it_is_given_and_times_nothing_if_told(few, spoiled):
    model = Echo(spoiled[0])
    answers = answers_of(model, few)
    model.batches.clear()
    (row,) = compare({"one": model}, few, answers={"one": answers}, timed=0)
    assert model.batches == [] and "peak_memory" not in row and "images_per_second" not in row
    assert row["ap"] == scores_of(answers, [s.segments for s in few], few.categories)["ap"]


def test_a_table_has_dashes_for_what_is_absent():
    rows = [
        {"name": "a", "ap": 0.25, "peak_memory": 3 * 2**20, "device": "cpu"},
        {"name": "b", "ap": NAN, "peak_memory": None},
    ]
    assert as_table(rows).splitlines() == [
        "| system | AP | peak memory | trained on |",
        "| --- | ---: | ---: | --- |",
        "| a | 0.250 | 3 MB | cpu |",
        "| b | – | – | – |",
    ]
    chosen = as_table([{"name": "a", "so_many": 3, "share": 0.125}], ["share", "so_many"])
    assert chosen.splitlines() == ["| share | so many |", "| ---: | ---: |", "| 0.12 | 3 |"]


def test_void_is_no_thing_to_the_merge():
    assert VOID == 255 and len(merge_things(said(), 2)) == 0
