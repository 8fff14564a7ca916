"""Inputs that tell: each edit of a reference is refused, or is right on all valid input.

`tests/equivalent_edits/` holds those that are right, with the reason why.
"""

import importlib
import math
import tomllib
from pathlib import Path

import pytest
import torch
from edits_alive import alive
from torch.nn import functional as F

from lessons.kit.homework import judge, later
from lessons.kit.homework.sandbox import untouched
from lessons.kit.homework.verdict import prepared
from lessons.kit.homework.words import SHOWN_ELEMENTS, as_array, describe, parts_of

TESTS = Path(__file__).parents[1]
LESSONS = sorted(path.stem for path in (TESTS.parent / "lessons/homework").glob("[a-z]*.py"))


def homework_of(name):
    return importlib.import_module(f"lessons.homework.{name}").homework


EXERCISES = [(name, exercise) for name in LESSONS for exercise in homework_of(name).asked]


def equivalent(name):
    """The edits of a lesson's references that are right on all valid input, as (exercise, …)."""
    groups = tomllib.loads((TESTS / f"equivalent_edits/{name}.toml").read_text("utf-8"))["same"]
    assert all(len(group["because"]) > 15 for group in groups)
    return [tuple(edit) for group in groups for edit in group["edits"]]


@pytest.mark.parametrize(("name", "exercise"), EXERCISES, ids=[each for _, each in EXERCISES])
def test_an_edit_that_passes_is_right_on_all_input(name, exercise):
    """It is listed with its reason, or an input is missing that tells it apart."""
    listed = {edit[1:] for edit in equivalent(name) if edit[0] == exercise}
    tried, passing = alive(homework_of(name).exercise(exercise))
    unlisted = "\n".join(f"    {[exercise, *edit]}," for edit in passing.keys() - listed)
    assert tried > 10
    assert not unlisted, f"an input that tells, or a reason, is missing for\n{unlisted}"
    assert not listed - passing.keys(), f"listed, but refused: {listed - passing.keys()}"


def test_every_list_is_read_and_lists_nothing_twice():
    assert sorted(path.stem for path in (TESTS / "equivalent_edits").glob("*.toml")) == LESSONS
    for name in LESSONS:
        edits = equivalent(name)
        assert len(edits) == len(set(edits))
        assert {edit[0] for edit in edits} <= set(homework_of(name).asked)


def is_whole(value, depth=0):
    """Whether a value's words say all its numbers."""
    array, parts = as_array(value), parts_of(value)
    if array is not None:
        return array.ndim == 0 or array.size <= SHOWN_ELEMENTS
    if parts is None or hasattr(value, "is_thing"):
        return True
    return depth < 2 and len(parts) <= SHOWN_ELEMENTS and all(
        is_whole(part, depth + 1) for part in parts.values()
    )  # fmt: skip


@pytest.mark.parametrize(("name", "exercise"), EXERCISES, ids=[each for _, each in EXERCISES])
def test_the_first_input_is_tiny_and_told_whole(name, exercise):
    with untouched():
        inputs, expected = prepared(homework_of(name).exercise(exercise))
    for value in (*inputs[0], expected[0].value):
        assert is_whole(value), describe(value)


@pytest.mark.parametrize(("name", "exercise"), EXERCISES, ids=[each for _, each in EXERCISES])
def test_each_exercise_has_lines_to_order_and_a_near_case(name, exercise):
    each = homework_of(name).exercise(exercise)
    assert f"def {exercise}(" in later.answer(each) and later.lines(each)
    near = later.near_case(each)
    assert near and "given" in near[0] and near[1]


# ---------------------------------------------------------------- more than one edit away


def like_pq(predicted, true, void):
    """Σ IoU / (TP + ½ FP + ½ FN)."""
    predicted = predicted & ~void
    there, said = true.any((1, 2)), predicted.any((1, 2))
    if not there.any():
        return math.nan
    iou = (predicted & true).sum((1, 2)) / (predicted | true).sum((1, 2)).clamp(min=1)
    wrong = (there != said).sum() / 2
    return (iou[there & said].sum() / ((there & said).sum() + wrong)).item()


def tolerant(fall_back):
    def tolerant_iou(predicted, true, width):
        def grown(mask):
            return F.max_pool2d(mask[None].float(), 2 * width + 1, 1, width)[0] > 0

        judged = ~(grown(true) & grown(~true))
        if fall_back(predicted, true, judged):
            judged = torch.ones_like(true)
        both, either = (predicted & true & judged).sum(), ((predicted | true) & judged).sum()
        return (both / either.clamp(min=1)).item()

    return tolerant_iou


def undiced(is_something):
    def iou_from_dice(loss, area):
        both = ((1 - loss) * (area + 1) - 1) / 2
        return torch.where(is_something(area), both / (area - both).clamp(min=1e-12), 1.0)

    return iou_from_dice


def banded(of_nothing):
    def boundary_iou(predictions, targets, width):
        def band(masks):
            outside = F.pad((~masks).float(), (width,) * 4, value=1)
            near = F.max_pool2d(outside[:, None], 2 * width + 1, stride=1)[:, 0] > 0
            return (masks & near).flatten(1).double()

        a, b = band(predictions), band(targets)
        both = a @ b.T
        either = a.sum(1)[:, None] + b.sum(1) - both
        return torch.where(either > 0, both / either, of_nothing)

    return boundary_iou


def attending(fill, is_outside=lambda logits: logits < 0):
    def masked_attention(queries, keys, values, mask_logits):
        blocked = is_outside(mask_logits)
        blocked = blocked & ~blocked.all(dim=1, keepdim=True)
        scores = queries @ keys.T / math.sqrt(queries.shape[1])
        return scores.masked_fill(blocked, fill).softmax(dim=1) @ values

    return masked_attention


def covering(classes):
    def parsing_covering(overlaps, predicted_labels, true_labels):
        both, area = overlaps[1:, 1:].double(), overlaps[:, 1:].sum(0).double()
        judged = (overlaps[1:].sum(1) - overlaps[1:, 0]).double()
        iou = both / (judged[:, None] + area - both)
        iou = iou * (predicted_labels[:, None] == true_labels)
        best = torch.cat([iou, iou.new_zeros(1, len(area))]).amax(0)
        own = [true_labels == k for k in classes(true_labels)]
        return sum(((best * area)[m].sum() / area[m].sum().clamp(min=1)).item() for m in own) / len(
            own
        )

    return parsing_covering


HOLES = [
    ("panoptic_quality", "stuff_iou", like_pq),
    ("panoptic_quality", "tolerant_iou", tolerant(lambda p, t, judged: not judged.any())),
    (
        "panoptic_quality",
        "tolerant_iou",
        tolerant(lambda p, t, judged: not ((p | t) & judged).any()),
    ),
    ("panoptic_quality", "tolerant_iou", tolerant(lambda p, t, judged: not (p & judged).any())),
    ("panoptic_quality", "tolerant_iou", tolerant(lambda p, t, judged: not (p & t & judged).any())),
    ("panoptic_quality", "parsing_covering", covering(lambda labels: range(int(labels.max()) + 1))),
    (
        "panoptic_quality",
        "parsing_covering",
        covering(lambda labels: range(int(labels.min()), int(labels.max()) + 1)),
    ),
    ("set_prediction", "iou_from_dice", undiced(lambda area: area > 1)),
    ("set_prediction", "iou_from_dice", undiced(lambda area: area > 0.1)),
    ("average_precision", "boundary_iou", banded(1.0)),
    ("average_precision", "boundary_iou", banded(math.nan)),
    ("mask2former", "masked_attention", attending(-20.0)),
    ("mask2former", "masked_attention", attending(-1000.0)),
    ("mask2former", "masked_attention", attending(-math.inf, lambda logits: logits <= 0)),
    ("mask2former", "masked_attention", attending(-math.inf, lambda logits: logits < 0.5)),
]


@pytest.mark.parametrize(("name", "exercise", "answer"), HOLES)
def test_wrong_answers_that_once_passed_are_refused(name, exercise, answer):
    verdict = judge(homework_of(name).exercise(exercise), answer, search=False)
    assert verdict.state == "wrong" and verdict.failing is not None, verdict.message


def test_the_holes_are_near_misses():
    """With the right part in place each of these answers passes."""
    right = [
        ("panoptic_quality", "tolerant_iou", tolerant(lambda p, t, judged: not (t & judged).any())),
        ("panoptic_quality", "parsing_covering", covering(lambda labels: labels.unique())),
        ("set_prediction", "iou_from_dice", undiced(lambda area: area > 0)),
        ("average_precision", "boundary_iou", banded(0.0)),
        ("mask2former", "masked_attention", attending(-math.inf)),
    ]
    for name, exercise, answer in right:
        verdict = judge(homework_of(name).exercise(exercise), answer, search=False)
        assert verdict.state == "passed", verdict.message
