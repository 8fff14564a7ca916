"""Recall: which questions a lesson asks, what is said of answers, and that they are right."""

import re

import nbformat
import numpy as np
import pytest
import torch

from lessons.anchor_boxes import box_iou, encode_boxes, nms
from lessons.average_precision import (
    average_precision,
    mask_iou,
    match_detections,
    precision_recall,
)
from lessons.centroid_offsets import (
    centroid_offsets,
    group_by_centroid,
    instance_centroids,
    instances_from_votes,
    pixel_centres,
)
from lessons.figures import hungarian as matching_figures
from lessons.homework.answers.hungarian_turns import proves_best, raise_prices
from lessons.homework.answers.start_here_turns import connected_patches
from lessons.hungarian import hungarian
from lessons.kit import places
from lessons.kit.data import Segments
from lessons.kit.errors import LessonsError
from lessons.kit.homework import parts, questions
from lessons.kit.homework import recall as recalling
from lessons.kit.homework.recall import picture_of, questions_for, recall
from lessons.kit.notebooks.recalling import unanswered
from lessons.lovasz import lovasz_hinge
from lessons.mask_rcnn import mask_loss, paste_masks
from lessons.panoptic_fpn import claim_pixels, class_iou
from lessons.panoptic_quality import class_quality, is_match, match_segments
from lessons.region_proposals import BACKGROUND, NEITHER, match_boxes, sample_boxes
from lessons.roi_align import roi_align
from lessons.spatial_embedding import cluster_pixels, mean_embedding, membership, pixel_grid

ALL = {q.id: q for each in questions.read_all().values() for q in each}
LINES = [q for q in ALL.values() if q.kind == "line"]


@pytest.fixture(autouse=True)
def first_time(monkeypatch):
    monkeypatch.setattr(recalling, "_MISSES", {})


def said(capsys, *lesson, **answers):
    """What `recall` prints about each answer, by letter."""
    recall(*lesson, **answers)
    return {line[2]: line for line in capsys.readouterr().out.splitlines()}


# ---------------------------------------------------------------- the answers, computed


def patches_of_a_map():
    text = ALL["patches-of-a-map"].text.split("```")[1]
    rows = [[int(n) for n in line.split()] for line in text.strip().split("\n")[1:]]
    return len(connected_patches(torch.tensor(rows), 1))


def patches_against_truth():
    truth, classes = (torch.tensor(p["grid"]) for p in ALL["patches-against-truth"].panel)
    sheep = truth == torch.arange(1, 5)[:, None, None]
    assert torch.equal(classes == 1, sheep.any(0)) and torch.equal(classes == 2, truth == 9)
    iou = mask_iou(connected_patches(classes, 1), sheep)
    assert iou[0, :3].tolist() == pytest.approx([1 / 3] * 3)
    assert (iou >= 0.5).sum() == 1 and iou.max().item() == pytest.approx(2 / 3)
    return 2


def ap_by_hand():
    found = torch.tensor([False, True, True])
    return average_precision(*precision_recall(found, ~found, 2))


def who_takes_the_thing():
    panels = ALL["who-takes-the-thing"].panel
    thing, one, other = (torch.tensor(panel["boxes"][-1:]).float() for panel in panels)
    iou = torch.cat([box_iou(one, thing), box_iou(other, thing)]).double()
    assert iou[:, 0].tolist() == pytest.approx([0.6, 0.9])  # as the titles say
    assert match_detections(iou, torch.tensor([0.5]).double()).tolist() == [[0, -1]]
    return 2  # the better score is the hit, the better IoU is false


def encode():
    anchor, box = torch.tensor([[32.0, 0, 64, 9]]), torch.tensor([[48.0, 0, 80, 9]])
    assert anchor[0, 2] - anchor[0, 0] == 32 and anchor[0, [0, 2]].mean() == 48
    return encode_boxes(box, anchor)[0, 0]


def the_second_sheep():
    before, after = (torch.tensor(p["boxes"]).float() for p in ALL["the-second-sheep"].panel)
    assert box_iou(before[:1], before[1:]).item() == pytest.approx(0.6)
    assert torch.equal(before[nms(before, torch.tensor([0.9, 0.8]), 0.5)], after)
    assert len(nms(before, torch.tensor([0.9, 0.8]), 0.65)) == 2
    return 2


def a_fair_sample():
    matches = torch.full((20_009,), BACKGROUND)
    matches[:9] = 0
    positives, negatives = sample_boxes(matches, 128, 0.5)
    assert len(positives) == 9
    return len(negatives)


def the_fourth_rule():
    (panel,) = ALL["the-fourth-rule"].panel
    made = [label.split("\n", 1)[1] for label in panel["columns"]]
    words = {"finds 1": 0, "neither": NEITHER, "back-\nground": BACKGROUND}
    right = match_boxes(torch.tensor(panel["grid"]), 0.7, 0.3, keep_best=True).tolist()
    (wrong,) = [n for n, (a, b) in enumerate(zip(made, right, strict=True), 1) if words[a] != b]
    return wrong


def between_four_cells():
    cells = torch.tensor([[[[1.0, 3], [5, 7]]]])
    point = torch.tensor([[0, 0.25, 0.5, 1.25, 1.5]]) - torch.tensor([0, 0.5, 0.5, 0.5, 0.5])
    return roi_align(cells, point, 1, 1.0, 1).item()  # one sample, in the middle of the box


def half_a_cell():
    (panel,) = ALL["half-a-cell"].panel
    features = torch.tensor(panel["grid"]).float()[None, None]
    rois = torch.tensor([[0, *panel["boxes"][0]]]).float()
    assert roi_align(features, rois, 1, 1.0, 1, aligned=False).item() == 0.5
    assert roi_align(features, rois, 1, 1.0, 1, aligned=True).item() == 1
    assert roi_align(features, rois, 1, 1.0, 4, aligned=True).item() > 0.5
    return 2


def the_mask_loss():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 1, 1] = 100
    loss = mask_loss(logits, torch.ones(1, 2, 2), torch.tensor([1]))  # u = 2
    return loss / torch.tensor(2.0).log()


def which_channel():
    target = torch.tensor(ALL["which-channel"].panel[0]["grid"]).float()[None]
    logits = torch.zeros(1, 4, 6, 6, requires_grad=True)
    mask_loss(logits, target, torch.tensor([0])).backward()
    assert logits.grad[0, 0].all() and not logits.grad[0, 1:].any()  # the others say anything
    return 2


def pq_by_hand():
    counts = [np.array([number]) for number in (0.8 + 0.6, 2.0, 3.0, 1.0)]
    pq, sq, rq = class_quality(*counts)
    assert (sq.item(), rq.item()) == pytest.approx((0.7, 0.5))
    return pq.item()


def a_sheep_in_halves():
    truth, answer = (torch.tensor(p["grid"]) for p in ALL["a-sheep-in-halves"].panel)
    assert (answer == 1).sum() == (answer == 2).sum() == 4 and (truth > 0).equal(answer > 0)
    none = torch.zeros(2, dtype=torch.int64)
    halves = Segments(answer == torch.arange(1, 3)[:, None, None], none)
    found = match_segments(halves, Segments(truth[None] == 1, none[:1]))
    assert found.false_positive.all() and found.false_negative.all() and len(found.iou) == 0
    return 3


def the_least_total():
    text = ALL["the-least-total"].text.split("```")[1]
    cost = torch.tensor([[int(n) for n in line.split()] for line in text.strip().split("\n")])
    return cost[hungarian(cost)].sum()


def a_price_list():
    c, u, v, pairs = matching_figures.HANDED
    assert all(u[i] + v[j] == c[i][j] for i, j in pairs) and u[0] + v[1] > c[0][1]
    assert not proves_best(c, [j for _, j in pairs], u, v)
    assert sum(c[i][j] for i, j in pairs) == 6 and the_least_total() == 5
    return 2


def an_offset():
    mask = torch.tensor([[[1, 1, 1], [1, 0, 0]]]).bool()
    offsets, _ = centroid_offsets(mask)
    return offsets[0, 0, 2]


def one_peak():
    truth, found = (torch.tensor(panel["grid"]) for panel in ALL["one-peak"].panel)
    both = truth == torch.tensor([1, 2])[:, None, None]
    assert torch.equal(*instance_centroids(both))
    offsets, inside = centroid_offsets(both)
    classes = torch.stack([~inside, inside]).float()
    (mask,) = instances_from_votes(pixel_centres((7, 7)) + offsets, classes).masks
    assert torch.equal(mask, found == 1)
    return 2


def three_errors():
    errors, labels = torch.tensor([[0.5, 1.0, 0.25]]), torch.tensor([[1, 0, 0]])
    return lovasz_hinge((1 - errors) * (2 * labels - 1), labels).item()


def one_row():
    panels = ALL["one-row"].panel
    logits = 2 * torch.tensor([panel["grid"] for panel in panels]).float() - 1
    labels = torch.zeros_like(logits)
    for label, panel in zip(labels, panels, strict=True):
        x0, y0, x1, y1 = panel["boxes"][0]
        label[y0:y1, x0:x1] = 1
    assert lovasz_hinge(logits, labels).tolist() == [0, 2]
    assert lovasz_hinge(logits.view(1, -1), labels.view(1, -1)).item() == pytest.approx(2 / 33)
    assert lovasz_hinge(logits, 1 - labels)[0] > 1
    return 2


def iou_of_a_class():
    counts = np.array([[6, 2, 1], [3, 0, 0], [4, 0, 0]])  # sheep, meadow, void
    return class_iou(counts)[0]


def two_for_one():
    grids = [torch.tensor(p["grid"]) for p in ALL["two-for-one"].panel]
    masks, merged = torch.stack([grid > 0 for grid in grids[:2]]), grids[2]
    scores = torch.tensor([0.9, 0.8])
    *_, kept = claim_pixels(masks, scores, 0.5, 0.5)
    _, claimed, both = claim_pixels(masks, scores, 0.5, 1.0)
    assert kept == [0] and both == [0, 1]
    assert all((merged == k + 1).numpy().tolist() == claimed[k].tolist() for k in both)
    return 2


def who_is_a_member():
    e = torch.tensor([[[1.0, 2.0, 3.0, 4.5, 6.0]], [[0.0] * 5]])
    seeds = torch.tensor([[0.6, 0.9, 0.8, 0.95, 0.7]])
    return len(cluster_pixels(e, torch.ones(1, 1, 5), seeds, smallest=1)[1])


def too_wide():
    truth, found = (torch.tensor(p["grid"]) for p in ALL["too-wide"].panel)
    masks, x = truth == torch.tensor([1, 2])[:, None, None], pixel_grid((4, 6), 1.0)
    centres = mean_embedding(masks, x, x)[truth.clamp(min=1) - 1].permute(2, 0, 1)
    e, seeds = (x + centres) / 2, torch.tensor([0.0, 0.9, 0.8])[truth]
    for sigma, wanted in (([1.0, 2.0, 1.0], truth), ([3.0] * 3, found)):
        answer = cluster_pixels(e, torch.tensor(sigma)[truth][None], seeds, smallest=1)[0]
        assert torch.equal(answer + 1, wanted)
    return 2


COMPUTED = {
    "patches-of-a-map": patches_of_a_map,
    "patches-against-truth": patches_against_truth,
    "ap-by-hand": ap_by_hand,
    "who-takes-the-thing": who_takes_the_thing,
    "encode": encode,
    "the-second-sheep": the_second_sheep,
    "a-fair-sample": a_fair_sample,
    "the-fourth-rule": the_fourth_rule,
    "between-four-cells": between_four_cells,
    "half-a-cell": half_a_cell,
    "mask-loss": the_mask_loss,
    "which-channel": which_channel,
    "pq-by-hand": pq_by_hand,
    "a-sheep-in-halves": a_sheep_in_halves,
    "the-least-total": the_least_total,
    "a-price-list": a_price_list,
    "an-offset": an_offset,
    "one-peak": one_peak,
    "three-errors": three_errors,
    "one-row": one_row,
    "iou-of-a-class": iou_of_a_class,
    "two-for-one": two_for_one,
    "who-is-a-member": who_is_a_member,
    "too-wide": too_wide,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_an_answer_is_what_the_lessons_compute(name):
    question, computed = ALL[name], COMPUTED[name]()
    assert float(computed) == pytest.approx(question.answer, abs=question.tolerance)
    assert question.judged(question.answer) is None


def test_every_answer_is_computed_or_run():
    assert ALL.keys() == COMPUTED.keys() | {question.id for question in LINES}


def test_the_lines_do_what_the_lessons_do():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 4, 6, 6, generator=generator) > 0.5
    union = ALL["the-union"].exercise().reference(*masks)
    assert torch.allclose(union.double(), mask_iou(*masks))
    corner = torch.rand(40, 2, generator=generator)
    boxes, scores = torch.cat([corner, corner + 0.5], 1), torch.rand(40, generator=generator)
    assert ALL["nms"].exercise().reference(boxes, scores, 0.5) == nms(boxes, scores, 0.5).tolist()
    e, (centre, sigma) = torch.rand(2, 3, 4, generator=generator), torch.rand(2, 3, 2) + 0.1
    phi = ALL["phi"].exercise().reference(e, centre, sigma)
    torch.testing.assert_close(phi, membership(e, centre, sigma))
    f = torch.rand(5, 5, generator=generator)
    roi = torch.tensor([[0, 1.3, 2.2, 3.3, 4.2]])
    value = ALL["bilinear"].exercise().reference(f.tolist(), 3.2, 2.3)  # the box's centre
    assert roi_align(f[None, None], roi, 1, 1.0, 1).item() == pytest.approx(value, abs=1e-6)
    weights = ALL["paste"].exercise().reference(0.5, 7.0, 9, 4)
    one = torch.rand(1, 4, 4, generator=generator)
    both = paste_masks(one, torch.tensor([[0.5, 0.5, 7.0, 7.0]]), (9, 9))[0]
    torch.testing.assert_close(weights @ one[0] @ weights.T, both)
    table = torch.randint(0, 30, (5, 4), generator=generator).numpy()
    table[[1, 2], [2, 1]] += 90
    above = ALL["union-without-void"].exercise().reference(table)
    same = np.zeros(4, dtype=int), np.zeros(3, dtype=int), np.zeros(3, dtype=bool)
    assert above.any() and np.array_equal(above, is_match(table, *same))
    c, u, v, rows, reached = [[4, 1, 3], [2, 0, 5]], [1, 0], [0, 0, 0], [1], {}
    slack = ALL["slack"].exercise().reference(c, u, v, rows, reached)
    assert raise_prices(c, u, v, rows, reached)[2][1] == slack
    votes, centres = (9 * torch.rand(n, 2, generator=generator) for n in (30, 5))
    nearest = ALL["nearest-centre"].exercise().reference(votes, centres)
    assert torch.equal(nearest, group_by_centroid(votes, centres))
    errors, labels = torch.rand(1, 9, generator=generator), torch.arange(9)[None] % 3 == 0
    extension = ALL["after-k-pixels"].exercise().reference(errors[0], labels[0].float())
    hinge = lovasz_hinge((1 - errors) * (2 * labels.float() - 1), labels)
    assert extension.item() == pytest.approx(hinge.item(), abs=1e-6)
    many = torch.rand(6, 5, 5, generator=generator) > 0.6
    *_, numbers = claim_pixels(many, torch.linspace(1, 0, 6), 0.0, 0.5)
    assert ALL["mostly-taken"].exercise().reference(many, 0.5) == numbers


OTHER = {
    "the-second-map": [
        "numbers = torch.where(mask, k, numbers)",
        "numbers += k * mask",
    ],
    "nms": [
        "rest = rest[~(iou > threshold)]",
        "rest = rest[(iou <= threshold).nonzero()[:, 0]]",
    ],
    "the-union": [
        "either = (P[:, None] + G > 0).sum(2)",
        "either = -both + G.sum(1) + P.sum(1, keepdim=True)",
    ],
    "top-down": [
        "out = [finer + F.interpolate(out[0], size=finer.shape[-2:], mode='nearest'), *out]",
        "up = out[0].repeat_interleave(2, 2).repeat_interleave(2, 3)\nout.insert(0, up + finer)",
    ],
    "bilinear": [
        "value = upper + down * (lower - upper)",
        "    value = lower * down + upper * (1 - down)  ",
    ],
    "nearest-centre": [
        "group = difference.square().sum(2).min(1).indices",
        "group = torch.linalg.vector_norm(difference, dim=-1).argmin(1)",
    ],
    "after-k-pixels": [
        "jaccard = 1 - right / (right + wrong)",
        "union = right + wrong\njaccard = wrong / union",
    ],
    "mostly-taken": [
        "keep = bool(left) and area - left <= threshold * area",
        "keep = left != 0 and 1 - left / area <= threshold",
    ],
    "paste": [
        "place = m * (centres - start) / (end - start) - 1 / 2",
        "cell = (end - start) / m\nplace = (centres - start - cell / 2) / cell",
    ],
    "union-without-void": [
        "union = T[1:, 1:].sum(1)[:, None] + T[:, 1:].sum(0) - both",
        "union = both.sum(1, keepdims=True) + T.sum(0)[1:] - both",
    ],
    "slack": [
        "slack = min(c[i][j] - (u[i] + v[j]) for j in outside for i in rows)",
        "slack = min(min(c[i][j] - v[j] for j in outside) - u[i] for i in rows)",
    ],
    "phi": [
        "return (-0.5 * (distance**2).sum(1)).exp()",
        "x, y = distance.unbind(1)\nreturn torch.exp(-(x * x + y * y) / 2)",
    ],
}


@pytest.mark.parametrize("name", OTHER)
def test_a_line_is_right_in_several_forms(name):
    assert OTHER.keys() == {question.id for question in LINES}
    for line in OTHER[name]:
        assert ALL[name].judged(line) is None, line


@pytest.mark.parametrize("question", LINES, ids=lambda q: q.id)
def test_a_line_that_is_none_is_told(question):
    known = [wrong["say"] for wrong in question.wrong]
    for line, words in (
        ("x = (", "it does not parse: "),
        ("1 / 0", "ZeroDivisionError"),
        ("pass", "expected"),
    ):
        assert question.form(line) == ""
        assert words in question.judged(line)
        assert question.judged(line) not in known
    for line in (3, "", " "):
        assert question.form(line) == "a line of code is asked for, in quotation marks"


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("question", ALL.values(), ids=list(ALL))
def test_a_question_is_whole(question, root):
    """Its heading is in the lesson, each wrong answer gets its own words, none is the answer."""
    (path,) = (root / "notebooks").glob(f"{question.number}_{question.lesson}.ipynb")
    if question.see:
        cells = nbformat.read(path, 4).cells
        lines = [
            line
            for cell in cells
            if cell.cell_type == "markdown"
            for line in cell.source.split("\n")
        ]
        assert question.see in [re.sub("^#+ ", "", line) for line in lines if line.startswith("#")]
    assert len(question.wrong) >= 2
    for wrong in question.wrong:
        assert question.judged(wrong["answer"]) == wrong["say"]
    if question.kind == "choice":
        others = {n + 1 for n in range(len(question.options))} - {question.answer}
        assert others == {wrong["answer"] for wrong in question.wrong}
    picture = picture_of(question)
    assert (picture is not None) == (question.kind == "choice")
    if picture is not None:
        assert picture.png().startswith(b"\x89PNG") and picture.caption


def test_each_lesson_has_three(root):
    for number, asked in questions.read_all().items():
        assert [q.number for q in asked] == [number] * 3
        assert {q.kind for q in asked} == {"number", "choice", "line"}
    assert {"00", "01", "02", "03", "04"} <= questions.read_all().keys()


HEAD = 'number = "01"\ntitle = "x"\n[[question]]\nid = "a"\n'
WHOLE = HEAD + 'kind = "number"\ntext = "t"\nanswer = 1\nhint = "h"\nwhy = "w"\n'


@pytest.mark.parametrize(
    "text, words",
    [
        ("x", "x.toml is damaged"),
        (HEAD, "is damaged: .*missing"),
        (
            WHOLE.replace('kind = "number"', 'kind = "riddle"') + "wrong = []",
            "a is of no kind: number",
        ),
        (WHOLE + "wrong = []", "a has no wrong"),
        (WHOLE + 'wrong = [{answer = 2, say = "s"}]', "a has no tolerance"),
        (WHOLE + "tolerance = 1\nwrong = [{answer = 2}]", "a has a wrong answer without"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(questions, "folder", lambda: tmp_path)
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(LessonsError, match=words):
        questions.read_all()


# ---------------------------------------------------------------- asking


def test_a_lesson_asks_of_the_last_the_third_and_the_sixth_before():
    assert {k: q.id for k, q in questions_for("04").items()} == {
        "a": "a-fair-sample",
        "b": "who-takes-the-thing",
    }
    assert [q.id for q in questions_for("07").values()] == ["an-offset", "half-a-cell", "the-union"]
    tenth = [q.id for q in questions_for("10").values()]
    assert tenth[0] == "pq-by-hand" and tenth[-1] == "bilinear"
    with pytest.raises(
        LessonsError, match="nothing to recall for lesson 30: 00, 01, 02, 03, 04, 05"
    ):
        recall(30)
    with pytest.raises(LessonsError, match="nothing to recall for lesson RoIAlign"):
        recall("RoIAlign")


def test_the_questions_are_shown(capsys):
    asked = recall("04")
    assert recall(4) == asked
    text = repr(asked)
    assert text.startswith("**a**, from lesson 03. In an image 9 anchors are positive")
    assert "\n\n1. It is right: the detection" in text and "\n2. It is wrong" in text
    assert "119" not in text
    shown = recall("03").text("a")
    assert "```python\nimport torch" in shown and "____" in shown
    asked._ipython_display_()
    assert "Markdown object" in capsys.readouterr().out


def test_what_is_owed_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_MY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert recall("04").debts == ""
    parts.owe("anchor_boxes", "nms")
    day = parts.owed()["anchor_boxes", "nms"]
    line = f"You still owe: `nms` (anchor_boxes, since {day})."
    assert recall("04").debts == line and repr(recall("04")).startswith(f"{line}\n\n**a**")
    monkeypatch.chdir(places.ROOT)
    assert recall("04").debts == ""


# ---------------------------------------------------------------- answers


def test_answers_get_a_line_each(capsys):
    assert said(capsys, "04", a=119, b=2) == {"a": "✓ a", "b": "✓ b"}
    assert said(capsys, "04", a=..., b=2) == {"a": "○ a: not answered yet", "b": "✓ b"}
    assert said(capsys, "04", b=2)["a"] == "○ a: not answered yet"
    with pytest.raises(LessonsError, match="recall 04 asks a, b: there is no 'c'"):
        recall("04", c=1)


def test_help_grows_with_different_answers(capsys):
    question = questions_for("04")["a"]
    first = said(capsys, "04", a=64)["a"]
    assert first == (
        "✗ a: Half is the most that may be positive, not what must be. "
        "Look again at lesson 03 (Region proposals, *5. A fair sample*)."
    )
    assert said(capsys, "04", a=64)["a"] == first
    second = said(capsys, "04", a=100)["a"]
    assert second.startswith(f"✗ a: {question.hint} Look again")
    assert said(capsys, "04", a=65)["a"] == f"✗ a: {question.why}"
    assert said(capsys, "04", a=119)["a"] == "✓ a"


@pytest.mark.parametrize("question", ALL.values(), ids=list(ALL))
def test_the_answer_is_never_given_at_a_first_miss(question):
    for wrong in question.wrong:
        recalling._MISSES.clear()
        line = recalling._line("a", question, wrong["answer"])
        assert line.startswith("✗ a: ") and question.why.strip() not in line
        if question.kind != "choice":
            assert f"{question.answer}" not in line.replace(question.pointer(), "")
        assert question.pointer() in line


@pytest.mark.parametrize("answer", ["119", True, None, float("nan"), torch.tensor([1.0, 2.0])])
def test_what_is_no_number_is_told(capsys, answer):
    assert "✗ a: a number is asked for, as 0.25 or 1/3, not " in said(capsys, "04", a=answer)["a"]


@pytest.mark.parametrize("answer", [0, 4, "2", 2.0, True])
def test_what_is_no_choice_is_told(capsys, answer):
    assert "✗ b: the number of an answer is asked for, 1 to 3" in said(capsys, "04", b=answer)["b"]


def test_numbers_may_be_written_as_one_likes(capsys):
    for answer in (2 / 3, 0.67, torch.tensor(0.6667).item()):
        assert said(capsys, "02", a=answer)["a"] == "✓ a"
    assert said(capsys, "02", a=0.6)["a"].startswith("✗ a: Look again at lesson 01")


# ---------------------------------------------------------------- the student's copy


@pytest.mark.parametrize(
    "cell, copy",
    [
        ('recall("04", a=119, b=2)', 'recall("04", a=..., b=...)'),
        (
            '# „answers“\nrecall("02", a="x = f(1)\\n", b=f(1, [2]),  # why\n)\n',
            '# „answers“\nrecall("02", a=..., b=...,  # why\n)\n',
        ),
        ('x = 1\nrecall("ü", a="""two\nlines""", b=-1)', 'x = 1\nrecall("ü", a=..., b=...)'),
        ('recall("04")', 'recall("04")'),
        ('print(recall("04", a=1))', 'print(recall("04", a=1))'),
        ("x = 1", "x = 1"),
        ("%time x = (", "%time x = ("),
        ("", ""),
    ],
)
def test_the_copy_has_blanks_for_answers(cell, copy):
    assert unanswered(cell) == copy


# ---------------------------------------------------------------- the lessons as they are stored


def test_no_lesson_stores_a_wrong_or_a_missing_answer(root):
    """Of recalls and turns: the lesson's own answers are right, and all are given."""
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            lines = [
                line for out in cell.get("outputs", []) for line in out.get("text", "").split("\n")
            ]
            bad = [line for line in lines if line.startswith(("○ ", "✗ "))]
            assert not bad, f"{path.name}, cell {cell.id}: {bad}"
