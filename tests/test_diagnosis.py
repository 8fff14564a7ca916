"""Which mistake it is: each step of the search, help by attempts, and the log."""

import json
import linecache

import pytest
import torch
from torch.nn import functional as F

from lessons.kit.homework import Exercise, Homework, Mistake, judge
from lessons.kit.homework.attempts import form_of
from lessons.kit.homework.edits import TooLongError, edited
from lessons.kit.homework.exercise import Failing
from lessons.kit.homework.pictures import draw

# ---------------------------------------------------------------- each step


def weighted(values, weights, power):
    """Σ w · v^power over the rows."""
    total = torch.zeros(values.shape[1], dtype=values.dtype)
    for row, weight in zip(values, weights, strict=True):
        if weight > 0:
            total = total + weight * row**power
    return total


def draws(generator):
    yield torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 0.0]), 1
    for n, c, power in ((3, 3, 2), (4, 4, 3), (2, 2, 2)):
        values = 0.5 + torch.rand(n, c, generator=generator)
        yield values, torch.randn(n, generator=generator), power


def exercise_of(reference, inputs):
    two = [
        Mistake("a", lambda *arguments: None, "a"),
        Mistake("b", lambda *arguments: "b", "b"),
    ]
    return Exercise(reference, inputs, two, 1, 1)


EXERCISE = exercise_of(weighted, draws)


def hint(answer):
    return judge(EXERCISE, answer).hint


def test_an_ignored_argument():
    def first_power(values, weights, power):
        return (values * weights.clamp(min=0)[:, None]).sum(0)

    assert hint(first_power) == "It behaves as if `power` were always 1."


def test_rows_for_columns_of_an_argument():
    def turned(values, weights, power):
        return weighted(values.mT, weights, power)

    assert hint(turned) == "It behaves as if rows and columns of `values` were exchanged."


def test_a_result_that_is_turned_or_scaled():
    assert hint(lambda v, w, p: weighted(v, w, p).flip(0)) == (
        "Your result is the right one in reverse order."
    )
    assert hint(lambda v, w, p: -weighted(v, w, p)) == (
        "Your result is the right one with the other sign."
    )
    assert hint(lambda v, w, p: 4 * weighted(v, w, p)) == (
        "Every number is too large by the same factor, 4."
    )
    assert hint(lambda v, w, p: weighted(v, w, p) - 0.5) == (
        "Every number is too small by the same amount, 0.5."
    )
    assert hint(lambda v, w, p: weighted(v, w, p) / len(v)) == (
        "Each result is off by a factor of its own, the same for all its numbers: "
        "what is it divided by?"
    )
    assert (
        hint(lambda v, w, p: torch.zeros(2))
        == "Your result is [0., 0.] wherever it is wrong, whatever is given."
    )


def test_an_edit_of_the_reference():
    def last_only(values, weights, power):
        found = torch.zeros(values.shape[1])
        for k in range(len(values)):
            if weights[k] > 0:
                found = weights[k] * values[k] ** power
        return found

    def all_weights(values, weights, power):
        return weights @ values**power

    assert hint(last_only).startswith("One term is missing")
    assert hint(all_weights).startswith("A case is not told apart")


def test_the_line_of_the_answer_where_a_small_change_makes_it_right():
    def own(values, weights, power):
        total = 0 * values[0]
        for k in range(1, len(values)):
            total = total + max(weights[k], 0) * values[k] ** power
        return total

    verdict = judge(EXERCISE, own)
    assert verdict.place == "One small change in your line 3 makes it right: look at its numbers."
    assert "1 → 0" in verdict.diagnosis and "→" not in verdict.hint + verdict.place


def total(x):
    return x.sum()


@pytest.mark.parametrize("negative, named", [(1, False), (2, True)])
def test_one_wrong_input_is_not_enough_for_a_name(negative, named):
    inputs = [(sign * torch.arange(1.0, k + 3.0),) for k, sign in enumerate([1] + [-1] * negative)]
    exercise = exercise_of(total, lambda generator: inputs)
    said = judge(exercise, lambda x: x.sum().abs()).hint
    assert bool(said) == named, said


def test_nothing_is_named_that_explains_but_some_inputs():
    calls = []

    def sometimes(values, weights, power):
        calls.append(1)
        return weighted(values, weights, power) * (4 if len(calls) % 2 else 3)

    assert "same factor" not in hint(sometimes)


def test_an_edit_that_never_ends_is_cut_off():
    def halving(n, least):
        steps = 0
        while n > least:
            n = n // 2
            steps = steps + 1
        return steps

    exercise = exercise_of(halving, lambda generator: [(n, 1) for n in (5, 8, 100)])

    def strict(n, least):
        steps = 0
        while n >= least:
            n = n // 2
            steps = steps + 1
        return steps

    assert "look at its comparison" in judge(exercise, strict).place


def test_an_altered_argument_that_never_ends_is_cut_off():
    def halvings(n, factor):
        steps = 0
        while n > 1:
            n, steps = n / factor, steps + 1
        return steps

    exercise = exercise_of(halvings, lambda generator: [(n, 2) for n in (5, 8, 100)])
    assert judge(exercise, lambda n, factor: halvings(n, 4)).hint  # a factor of 1 never ends


def test_a_slow_answer_is_not_waited_for():
    """All edits together have so many turns, whatever each of them would take."""
    turns = []

    def busy(n):
        total = 0
        for k in range(n):
            total = total + k
        return total

    def count_turns(function):
        turns.append(function(300))

    found = edited(busy, count_turns, budget=1000)
    ends = []
    for edit in found:
        try:
            ends.append(edit.function(300))
        except Exception as error:
            ends.append(type(error))
    assert len(found) > 10 and turns == [44850]
    assert ends.count(TooLongError) > len(found) / 2 and 44850 not in ends[len(ends) // 2 :]


# ---------------------------------------------------------------- help by attempts, and the log


def homework():
    return Homework("Homework 99: Weights", [EXERCISE])


def wrong(number):
    space = {}
    code = f"def weighted(values, weights, power):\n    return {number} * values.sum(0)\n"
    file = f"<attempt {number}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), space)
    return space["weighted"]


def test_help_comes_by_different_attempts(capsys):
    check = homework().check

    def times_four(values, weights, power):
        total = torch.zeros(values.shape[1])
        for row, weight in zip(values, weights, strict=True):
            if weight > 0:
                total = total + 4 * weight * row**power
        return total

    times_four.__name__ = "weighted"
    check(times_four)
    check(times_four)  # the same again
    first, again = capsys.readouterr().out.splitlines()
    assert first == again and "factor" not in first
    check(wrong(2))
    capsys.readouterr()
    check(times_four)
    assert "too large by the same factor, 4." in capsys.readouterr().out
    check(wrong(3))
    capsys.readouterr()
    check(times_four)
    assert "One small change in your line 5 makes it right" in capsys.readouterr().out


def test_lines_and_answer_come_on_request(capsys):
    check = homework().check
    check.lines("weighted")
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(
        [
            "total = torch.zeros(values.shape[1], dtype=values.dtype)",
            "for row, weight in zip(values, weights, strict=True):",
            "if weight > 0:",
            "total = total + weight * row ** power",
            "return total",
        ]
    )
    assert lines[-1] != "return total" or lines[0] != sorted(lines)[-1]
    check.lines("weighted")
    assert capsys.readouterr().out.splitlines() == lines
    check(wrong(2)), check(wrong(2)), check(wrong(3))
    assert "more help" not in capsys.readouterr().out
    check.answer("weighted")
    assert capsys.readouterr().out == (
        "○ weighted: the answer comes after one more attempt; check.lines helps before\n"
    )
    check(wrong(4))
    capsys.readouterr()
    check.answer("weighted")
    shown = capsys.readouterr().out
    assert shown.startswith("def weighted(values, weights, power):\n")
    assert "given values = [[2., 1.], [4., 3.]], weights = [1., 0.], power = 1, what" in shown
    assert "[2., 1.]" not in shown.split("what")[1]
    check.near("weighted")
    assert capsys.readouterr().out.endswith("it returns [2., 1.]\n")
    check(wrong(5))
    more = '\n│ more help: check.lines("weighted"), check.answer("weighted")\n'
    assert capsys.readouterr().out.endswith(more)
    with pytest.raises(KeyError, match="no exercise area"):
        check.lines("area")


def test_lines_that_the_last_attempt_has_are_left_out(capsys):
    check = homework().check

    def weighted(values, weights, power):
        total = torch.zeros(values.shape[1], dtype=values.dtype)
        for row, weight in zip(values, weights, strict=True):
            total += weight * row
        return total

    check(weighted)
    capsys.readouterr()
    check.lines("weighted")
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "if weight > 0:",
        "total = total + weight * row ** power",
    ]


def test_what_parses_alike_is_one_attempt():
    def one(x):
        """Says something."""
        return x + 1  # more

    def other(x):
        return x + 2

    space = {}
    code = "def one(x):\n\n    return (x + 1)\n"
    linecache.cache["<one>"] = (len(code), None, code.splitlines(keepends=True), "<one>")
    exec(compile(code, "<one>", "exec"), space)
    assert form_of(one) == form_of(space["one"]) != form_of(other)


def test_the_failing_case_is_kept():
    check = homework().check
    check(wrong(2))
    assert check.last.arguments["power"] == 1
    assert check.last.expected.tolist() == [1.0, 2.0] and check.last.got.tolist() == [8.0, 12.0]


def test_the_failing_case_is_shown_whole_and_its_maps_are_drawn():
    check = homework().check
    check(wrong(2))
    shown = check.last._repr_html_()
    assert "[[1., 2.],\n [3., 4.]]" in shown and "[ 8., 12.]" in shown
    assert "<img" not in shown and draw(check.last) is None
    expected, got = torch.zeros(2, 12, 14), torch.zeros(2, 12, 14)
    got[1, 2:5, 3:7] = 1
    drawn = draw(Failing({"n": 3}, {"loss": 1.0, "map": expected}, {"loss": 1.0, "map": got}))
    titles = [ax.get_title("left") for ax in drawn.figure.axes]
    assert titles == ["expected['map'][1]", "got['map'][1]", "got − expected"]
    assert drawn.figure.axes[2].images[0].get_array().sum() == 12
    html = Failing({"n": 3}, expected, got)._repr_html_()
    assert "float32 (2, 12, 14)" in html and "data:image/png" in html
    assert "<img" not in Failing({}, expected, expected)._repr_html_()


def test_infinite_and_absent_numbers_are_drawn_too():
    expected, got = torch.full((3, 3), torch.inf), torch.eye(3)
    got[0, 0] = torch.nan
    assert draw(Failing({}, expected, got)).png().startswith(b"\x89PNG")
    assert draw(Failing({}, expected > 0, got > 0)) is not None
    assert draw(Failing({}, expected, None)) is None


def test_the_log_is_written_where_a_student_works_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_MY", str(tmp_path / "my"))
    monkeypatch.chdir(tmp_path)
    homework().check(wrong(2))
    assert not (tmp_path / "my").exists()
    (tmp_path / "my/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "my/deeper")
    check = homework().check
    check(wrong(2)), check(weighted_again)
    lines = [json.loads(x) for x in (tmp_path / "my/attempts.jsonl").read_text().splitlines()]
    assert [(x["exercise"], x["outcome"], x["level"]) for x in lines] == [
        ("weighted", "wrong", 1),
        ("weighted", "passed", 0),
    ]
    assert set(lines[0]) == {"lesson", "exercise", "time", "outcome", "diagnosis", "level"}


def weighted_again(values, weights, power):
    return weighted(values, weights, power)


weighted_again.__name__ = "weighted"


def test_a_submission_cannot_change_what_is_expected():
    def reference(x):
        return F.relu(x) + 1

    def breaking(x):
        F.relu = lambda x: x * 0
        return F.relu(x) + 1

    kept = F.relu
    exercise = exercise_of(reference, lambda g: [(torch.ones(2),), (2 * torch.ones(3),)])
    try:
        assert judge(exercise, breaking).state == "wrong"
    finally:
        F.relu = kept
