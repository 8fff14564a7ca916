"""`check`: what it says, what it returns, and what a submission cannot do to the notebook."""

import _thread
import gc
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass, replace

import nbformat
import numpy as np
import pytest
import torch
from homework_checks import (
    assert_mistakes_get_their_own_hint,
    assert_solutions_pass,
    assert_stubs_are_to_do,
)
from nbclient import NotebookClient
from torch import nn

from lessons.kit.data import Segments
from lessons.kit.homework import Exercise, Homework, Mistake, difference, judge

exit_of_the_module = exit


def row_means(table):
    if table.numel() == 0:
        raise ValueError("table is empty")
    return table.double().mean(1)


def column_means(table):
    if table.numel() == 0:
        raise ValueError("table is empty")
    return table.double().mean(0)


def means_of_anything(table):
    return table.double().mean(1)


def first_entries(table):
    return table[:, 0].double()


def tables(generator):
    yield (torch.tensor([[0.0, 1.0, 5.0], [1.0, 2.0, 3.0]]),)
    yield (torch.zeros(2, 0),)
    yield (torch.arange(20).view(4, 5),)
    yield (torch.rand(7, 2, generator=generator),)


MISTAKES = [
    Mistake("means of the columns", column_means, "Which axis is summed?"),
    Mistake("the empty table", means_of_anything, "What is the mean of nothing?"),
    Mistake("the first column", first_entries, "What does zero columns raise?"),
]


@pytest.fixture
def exercise():
    return Exercise(row_means, tables, MISTAKES, points=3, minutes=10, seconds=30)


@pytest.fixture
def impatient(exercise, monkeypatch):
    """The same, with a limit for functions that exceed it on purpose, on a busy machine too."""
    monkeypatch.setattr("lessons.kit.homework.sandbox.WAITING", 200)
    return replace(exercise, seconds=0.3)


@pytest.fixture
def by_the_clock(monkeypatch):
    """Whoever sleeps is stopped soon."""
    return lambda: monkeypatch.setattr("lessons.kit.homework.sandbox.WAITING", 6)


@pytest.fixture
def homework(exercise):
    stretch = Exercise(column_means, tables, MISTAKES[1:], points=1, minutes=5, stretch=True)
    return Homework("Homework 01: means", [exercise, stretch])


def named(function, name="row_means"):
    function.__name__ = name
    return function


def one_line(capsys):
    text = capsys.readouterr().out
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return text[:-1]


def of_value(expected, **options):
    """An exercise whose reference is asked for one value, to compare a submission's with."""

    def value():
        return expected

    wrong = Mistake("nothing", lambda: None, "Return something.")
    return Exercise(value, lambda generator: [()], [wrong, wrong], 1, 1, **options)


# What the line says and what comes back


def test_a_right_answer_passes_and_is_returned(homework, capsys):
    mine = named(lambda table: row_means(table))
    assert homework.check(mine) is mine
    assert one_line(capsys) == "✓ row_means: passed, 3 of 3 points"


def test_a_stub_is_to_do_and_the_reference_is_returned(homework, capsys):
    def row_means_stub(table):
        raise NotImplementedError("your turn")

    assert homework.check(named(row_means_stub)) is row_means
    assert one_line(capsys) == "○ row_means: to do (3 points, about 10 minutes)"


def test_a_branch_left_to_do_is_to_do_but_an_operator_pytorch_lacks_is_not(exercise):
    def half_done(table):
        if table.numel() == 0:
            raise NotImplementedError("your turn")
        return row_means(table)

    def not_in_pytorch(table):
        if table.numel() == 0:
            raise NotImplementedError("Could not run 'aten::mean'")
        return row_means(table)

    def never_in_pytorch(table):
        return torch.arange(4, dtype=torch.bool)

    def bare(table):
        raise NotImplementedError

    assert judge(exercise, half_done).state == judge(exercise, bare).state == "to do"
    assert judge(exercise, not_in_pytorch).state == "wrong"
    verdict = judge(exercise, never_in_pytorch)
    assert verdict.state == "wrong" and "not implemented for 'Bool'" in verdict.message


def test_a_wrong_answer_is_told_by_input_expectation_result_and_difference(homework, capsys):
    assert homework.check(named(lambda table: row_means(table) + (table > 9).any())) is row_means
    assert one_line(capsys) == (
        "✗ row_means: given table = int64 (4, 5), expected [2., 7., 12., 17.], "
        "got [3., 8., 13., 18.]: largest difference 1, 3. where 2. is expected at [0], "
        "4 of 4 entries differ. check.last shows this case whole."
    )


def test_each_known_mistake_gets_its_own_hint(homework):
    assert_mistakes_get_their_own_hint(Homework("one", [homework.exercise("row_means")]))


def test_a_submission_that_raises_like_a_mistake_gets_its_hint(exercise):
    def mine(table):
        return torch.stack([row[0] for row in table]).double()  # IndexError where there is none

    verdict = judge(exercise, mine)
    assert verdict.mistake is MISTAKES[2]
    assert verdict.hint == "What does zero columns raise?"


def test_a_mistake_on_some_inputs_only_is_not_taken_for_the_known_one(exercise):
    calls = []

    def at_first_only(table):
        calls.append(table)
        return column_means(table) if len(calls) == 1 else row_means(table)

    verdict = judge(exercise, at_first_only)
    assert verdict.state == "wrong" and verdict.mistake is None


def test_a_known_mistake_is_seen_behind_a_mishandled_empty_input(exercise):
    def careless(table):  # columns, and nothing is raised for the empty table
        return column_means(table) if table.numel() else torch.zeros(5)

    def crashing(table):  # columns, and another exception for the empty table
        return column_means(table) if table.numel() else 1 / 0

    assert judge(exercise, careless).mistake is MISTAKES[0]
    assert judge(exercise, crashing).mistake is MISTAKES[0]


def test_one_telling_input_is_not_enough(exercise):
    def crashing_but_once(table):
        return column_means(table) if table.shape == (7, 2) else 1 / 0

    verdict = judge(exercise, crashing_but_once)
    assert verdict.state == "wrong" and verdict.mistake is None


def test_a_hint_is_missing_where_a_mistake_equals_the_reference(exercise):
    same = Mistake("none at all", lambda table: row_means(table), "This is right.")
    broken = Homework("x", [Exercise(row_means, tables, [same, same], 1, 1)])
    with pytest.raises(AssertionError, match="none at all"):
        assert_mistakes_get_their_own_hint(broken)


def test_the_checks_of_homework_can_fail(homework):
    assert_solutions_pass(
        homework, {"row_means": row_means, "column_means": lambda table: column_means(table)}
    )
    with pytest.raises(AssertionError, match="row_means"):
        assert_solutions_pass(homework, dict.fromkeys(homework.exercises, column_means))
    with pytest.raises(AssertionError, match="passed"):
        assert_stubs_are_to_do(homework, dict.fromkeys(homework.exercises, row_means))


def test_the_known_mistakes_run_only_when_the_submission_is_wrong():
    ran = []
    spy = Mistake("spy", lambda table: ran.append(table), "")
    exercise = Exercise(row_means, tables, [spy, spy], 1, 1)
    assert judge(exercise, lambda table: row_means(table)).state == "passed" and not ran
    assert judge(exercise, lambda table: 0).state == "wrong" and ran


def test_the_reference_does_not_run_for_a_stub():
    def reference(table):
        raise AssertionError("expensive")

    def stub(table):
        raise NotImplementedError("your turn")

    assert judge(Exercise(reference, tables, MISTAKES, 1, 1), stub).state == "to do"


def test_the_reference_itself_is_not_judged(homework, capsys):
    homework.check(named(lambda table: 0))
    capsys.readouterr()
    assert homework.check(row_means) is row_means  # the cell of check ran twice
    assert "this is the reference" in one_line(capsys)
    assert homework.states["row_means"] == "wrong"


@pytest.mark.parametrize("thing", [3, None, "row_means", [1, 2], nn.Identity()])
def test_what_is_no_function_is_told_and_returned(thing, homework, capsys):
    assert homework.check(thing) is thing
    assert one_line(capsys).endswith("is not an exercise: these are row_means, column_means")


def test_an_unknown_name_is_told_and_returned(homework, capsys):
    assert homework.check(len) is len
    assert one_line(capsys) == "✗ len is not an exercise: these are row_means, column_means"


def test_the_same_wrong_answer_prints_the_same_text_twice(homework, capsys):
    def mine(table):
        print("noise", torch.rand(2), random.random(), np.random.rand())
        raise RuntimeError(f"no luck with {object()}")

    texts = []
    for _ in range(2):
        torch.rand(1)
        homework.check(named(mine))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "noise" in texts[0]
    assert "RuntimeError: no luck with <object object> (line 3" in texts[0]


def test_a_function_that_draws_is_compared_with_the_same_draws():
    def noise(n):
        return torch.rand(n) + np.random.rand() + random.random()

    def draws_more(n):
        result = noise(n)
        torch.rand(5), np.random.rand(), random.random()
        return result

    exercise = Exercise(noise, lambda generator: [(3,), (1,)], MISTAKES, 1, 1)
    assert judge(exercise, draws_more).state == "passed"


def test_a_generator_among_the_inputs_is_copied():
    def noise(generator):
        return torch.rand(3, generator=generator)

    exercise = Exercise(noise, lambda generator: [(generator,), (generator,)], MISTAKES, 1, 1)
    assert judge(exercise, lambda generator: noise(generator)).state == "passed"


def test_call_says_how_a_module_is_used():
    class Scale(nn.Module):
        def __init__(self, factor=2.0):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x):
            return self.factor * x

    def gradient(module, x):
        model = module()
        model(x).sum().backward()
        return model.factor.grad

    class Detached(Scale):
        def forward(self, x):
            return self.factor * x + self.factor.detach() * x

    class Mine(Scale):
        pass

    wrong = [Mistake("one", lambda: Scale(1), "?"), Mistake("zero", lambda: Scale(0), "?")]
    inputs = [(torch.ones(3),)]
    exercise = Exercise(Scale, lambda generator: inputs, wrong, 1, 1, call=gradient)
    assert judge(exercise, Mine).state == "passed"
    mine = named(Detached, "Scale")
    mine.forward = lambda self, x: (self.factor**2) * x
    message = judge(exercise, mine).message
    assert message.startswith("✗ Scale: given x = [1., 1., 1.], expected 3., got 12.")


# Comparing values


SAME = [
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.float64)),
    (torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.int32)),
    (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.bfloat16)),
    (torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64)),
    (2.0, torch.tensor(2.0, requires_grad=True)),
    (2.0, 2),
    (np.float64(2.0), 2.0),
    (3, np.int32(3)),
    (torch.tensor([float("nan"), float("inf")]), torch.tensor([float("nan"), float("inf")])),
    (torch.tensor([1e6]), torch.tensor([1e6 + 0.5])),
    (np.eye(2), np.eye(2)),
    (torch.eye(2), torch.eye(2).to_sparse()),
    ([1, "a", None], (1, "a", None)),
    ([True, False], (np.bool_(True), torch.tensor(False))),
    ((1, 2), [torch.tensor(1), np.int64(2)]),
    ({"a": 1, "b": {"c": torch.zeros(2)}}, {"b": {"c": torch.zeros(2)}, "a": 1}),
    (Segments(torch.ones(1, 2, 2).bool(), torch.tensor([3])),) * 2,
    (torch.zeros(0, 4), torch.zeros(0, 4)),
    (torch.float32, torch.float32),
    (10**30, 10**30),
    (1 - 2j, torch.tensor(1 + 2j).conj()),
    (-2.0, torch.tensor(1 + 2j, dtype=torch.complex128).conj().imag),
]


@pytest.mark.parametrize(("expected", "value"), SAME)
def test_same(expected, value):
    assert difference(expected, value, 1e-6) is None


NO_TENSOR = "a number where a tensor is expected, and what comes next uses it as a tensor"
DIFFERENT = [
    (torch.zeros(2, 3), torch.zeros(3, 2), "shape (3, 2) where (2, 3) is expected"),
    (torch.zeros(2).bool(), torch.zeros(2), "float where bool is expected"),
    (torch.zeros(2), torch.zeros(2).long(), "int where float is expected"),
    (1, True, "bool where int is expected"),
    (torch.zeros(2), [0.0, 0.0], "a list where a tensor is expected"),
    (torch.zeros(2), np.zeros(2), "a numpy array where a tensor is expected"),
    (torch.zeros(2), None, "None where a tensor is expected"),
    (None, torch.zeros(2), "a tensor where None is expected"),
    (torch.zeros(2), 0.0, NO_TENSOR),
    (torch.tensor(2.0), 2.0, NO_TENSOR),
    (torch.tensor(2), np.int64(2), NO_TENSOR),
    (torch.zeros(2), torch.zeros(2, device="meta"), "a tensor where [0., 0.] is expected"),
    (np.zeros(2), np.array(["a", "b"]), "a numpy array where [0., 0.] is expected"),
    ([1, 2], [1], "length 1 where 2 is expected"),
    ({"a": 1}, {"b": 1}, "[\"['b']\"] where [\"['a']\"] is expected"),
    ("abc", "abd", "'abd' where 'abc' is expected"),
    (3, 10**30, "a number where 3 is expected"),
    (torch.float32, torch.int64, "a dtype where a dtype is expected"),
    (1.0, 1.5, "largest difference 0.5, 1.5 where 1. is expected"),
    (1.0, float("nan"), "nan where 1. is expected"),
    (float("inf"), float("-inf"), "-inf where inf is expected"),
    (float("inf"), 2.0, "2. where inf is expected"),
    (2**53, 2**53 + 8, "largest difference 8, 9007199254741000 where 9007199254740992 is expected"),
    (
        torch.tensor([0.0, float("nan")]),
        torch.tensor([7.0, 0.0]),
        "0. where nan is expected at [1], 2 of 2 entries differ",
    ),
    (
        torch.tensor([float("nan"), 1.0]),
        torch.tensor([float("nan"), 3.0]),
        "largest difference 2, 3. where 1. is expected at [1], 1 of 2 entries differ",
    ),
    (
        torch.tensor([[True, False]]),
        torch.tensor([[True, True]]),
        "True where False is expected at [0, 1], 1 of 2 entries differ",
    ),
    (
        [{"loss": torch.tensor(1.0)}],
        [{"loss": torch.tensor(3.0)}],
        "at result[0]['loss'], largest difference 2, 3. where 1. is expected",
    ),
    (
        Segments(torch.ones(1, 2, 2).bool(), torch.tensor([3])),
        Segments(torch.ones(1, 2, 2).bool(), torch.tensor([4])),
        "at result.labels, largest difference 1, 4 where 3 is expected",
    ),
]


@pytest.mark.parametrize(("expected", "value", "words"), DIFFERENT)
def test_different(expected, value, words):
    assert difference(expected, value, 1e-6) == words


def test_the_tolerance_is_absolute_and_relative():
    assert difference(0.0, 0.05, 0.1) is None and difference(100.0, 109.0, 0.1) is None
    assert difference(0.0, 0.2, 0.1) and difference(100.0, 111.0, 0.1)
    assert judge(of_value(1.0, tolerance=0.5), lambda: 1.4).state == "passed"
    assert judge(of_value(1.0), lambda: 1.4).state == "wrong"


def test_a_class_of_the_notebook_equals_the_one_of_the_solution():
    @dataclass
    class Box:
        side: float

    theirs = Box(1.0)

    @dataclass
    class Box:
        side: float

    assert difference(theirs, Box(1.0), 0) is None
    assert difference(theirs, Box(2.0), 0).startswith("at result.side")


def test_small_things_are_shown_and_large_ones_described():
    inputs = [
        (torch.tensor([1, 2]), {"a": [0.5, "b"]}, torch.zeros(3, 5), None, (), list(range(10)))
    ]

    def words(*arguments):
        return 0

    exercise = Exercise(words, lambda generator: inputs, MISTAKES, 1, 1)
    assert judge(exercise, lambda *arguments: 1).message.startswith(
        "✗ words: given [1, 2], dict(a=[0.5, 'b']), float32 (3, 5), None, (), a list, expected 0,"
    )


def test_odd_values_are_described():
    itself = []
    itself.append(itself)
    message = judge(of_value(1.0), lambda: itself).message
    assert message == "✗ value: expected 1., got [[a list]]: a list where a number is expected"
    message = judge(of_value(1.0), lambda: Segments).message
    assert message == "✗ value: expected 1., got a type: a type where a number is expected"
    message = judge(of_value("a"), lambda: "b\n" * 100).message
    assert message.count("b") < 50 and "…" in message


# Submissions that misbehave


def test_an_exception_is_told_with_its_line(exercise):
    def mine(table):
        rows = len(table)
        return table[rows + 1]

    assert judge(exercise, mine).message == (
        "✗ row_means: given table = [[0., 1., 5.], [1., 2., 3.]], "
        "expected [2., 2.], but it raised IndexError: index 3 is out of bounds for "
        "dimension 0 with size 2 (line 3 of mine: return table[rows + 1])"
    )


def picks(table):
    return table[7]


def test_the_line_of_an_error_is_the_deepest_of_the_notebook(exercise):
    assert judge(exercise, lambda table: picks(table)).message.endswith(
        "(line 2 of picks: return table[7])"
    )
    message = judge(exercise, lambda table: torch.cat(table.split(9, dim=5))).message
    assert "(line 1 of <lambda>: message = judge" in message


def test_a_long_message_of_many_lines_becomes_one(exercise):
    def mine(table):
        raise RuntimeError("a\nb\n" * 1000)

    message = judge(exercise, mine).message
    assert "RuntimeError: a b a b" in message and len(message) < 600 and "\n" not in message


def test_an_exception_without_a_readable_message_is_told(exercise):
    class OddError(Exception):
        def __str__(self):
            raise ValueError

    def mine(table):
        raise OddError

    assert "it raised" in judge(exercise, mine).message


def test_the_exception_of_the_reference_is_expected():
    def mine(table):
        return table.double().sum(1) / max(table.shape[1], 1)

    def also_mine(table):
        class EmptyTableError(ValueError):
            pass

        if table.numel() == 0:
            raise EmptyTableError
        return row_means(table)

    exercise = Exercise(row_means, tables, MISTAKES, 1, 1)
    message = judge(exercise, mine).message
    assert "given table = float32 (2, 0), expected a ValueError, got [0., 0.]" in message
    assert judge(exercise, also_mine).state == "passed"


def endless_recursion(table):
    return endless_recursion(table)


def out_of_memory(table):
    raise MemoryError


def leaves(table):
    sys.exit(3)


def leaves_by_exit(table):
    exit()


def leaves_by_quit(table):
    quit(1)


def interrupts(table):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("mine", "error"),
    [
        (endless_recursion, "RecursionError: maximum recursion depth exceeded"),
        (out_of_memory, "MemoryError"),
        (leaves, "SystemExit: 3"),
        (leaves_by_exit, "SystemExit"),
        (leaves_by_quit, "SystemExit: 1"),
        (interrupts, "KeyboardInterrupt"),
        (lambda: 0, "TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
    ],
)
def test_whatever_it_raises_is_told(mine, error, exercise):
    assert f"but it raised {error}" in judge(exercise, mine).message


def test_exit_is_the_modules_own_again(exercise):
    class ExitAutocall:  # what exit and quit are in a notebook
        __module__ = "IPython.core.autocall"

        def __call__(self):
            _thread.interrupt_main()

    globals()["exit"] = ours = ExitAutocall()
    globals()["quit"] = "a student's own variable"
    try:
        assert "SystemExit" in judge(exercise, leaves_by_exit).message
        assert "'str' object is not callable" in judge(exercise, leaves_by_quit).message
        assert globals()["exit"] is ours and globals()["quit"] == "a student's own variable"
    finally:
        del globals()["exit"], globals()["quit"]
    judge(exercise, leaves_by_exit)
    assert "exit" not in globals() and exit is exit_of_the_module


def loops(table):
    while True:
        pass


def loops_and_catches(table):
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            continue


def loops_and_catches_everything(table):
    while True:
        try:
            table.sum()
        except:  # noqa: E722
            continue


def turns_the_time_out_into_an_error(table):
    try:
        loops(table)
    except BaseException:
        raise ValueError from None


@pytest.mark.parametrize(
    "mine",
    [loops, loops_and_catches_everything, turns_the_time_out_into_an_error],
)
def test_an_endless_loop_is_stopped(mine, impatient):
    before, start = set(threading.enumerate()), time.monotonic()
    assert judge(impatient, mine).message == (
        "✗ row_means: given table = [[0., 1., 5.], [1., 2., 3.]], it was still running after 0.3 s"
    )
    assert time.monotonic() - start < 20  # on a busy machine too
    assert set(threading.enumerate()) <= before


def test_what_sleeps_is_stopped_by_the_clock(impatient, by_the_clock):
    """It catches what is raised in it, and uses no processor time to speak of."""
    by_the_clock()
    start = time.monotonic()
    message = judge(impatient, loops_and_catches).message
    assert message.endswith("it was still waiting after 1.8 s")
    assert 1.8 <= time.monotonic() - start < 30


def busy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_time_limit_is_for_all_inputs_together(impatient):
    def slow(table):
        busy(0.13)
        return row_means(table)

    assert "given table = int64 (4, 5), it was still running" in judge(impatient, slow).message


def test_waiting_and_a_busy_machine_do_not_count(impatient):
    """Four inputs with half a second of sleep, and other threads that take the processor."""
    done = threading.Event()
    others = [threading.Thread(target=lambda: [busy(0.01) for _ in iter(done.is_set, True)])
              for _ in range(2)]  # fmt: skip

    def patient(table):
        time.sleep(0.3)
        return row_means(table)

    for each in others:
        each.start()
    try:
        assert judge(replace(impatient, seconds=1), patient).state == "passed"
    finally:
        done.set()
        for each in others:
            each.join()


def test_what_cannot_be_stopped_is_abandoned_and_stays_silent(
    impatient, by_the_clock, homework, capsys
):
    by_the_clock()
    homework.asked["row_means"] = impatient
    woken, daemons = threading.Event(), []

    def sleeps(table):
        daemons.append(threading.current_thread().daemon)  # does not keep Python from ending
        try:
            time.sleep(6)
        finally:
            print("good morning")
            print("good morning", file=sys.stderr)
            woken.set()

    start = time.monotonic()
    homework.check(named(sleeps))
    assert time.monotonic() - start < 60
    line = one_line(capsys)
    assert line.endswith("cannot be stopped: restart the kernel to get rid of it")
    homework.check(named(lambda table: column_means(table), "column_means"))
    assert woken.wait(9) and daemons == [True]
    print("the notebook goes on")
    output = capsys.readouterr()
    assert output.out == "✓ column_means: passed, 1 of 1 point\nthe notebook goes on\n"
    assert output.err == ""


def test_the_users_interrupt_gets_through_and_stops_the_submission(exercise):
    before, out = set(threading.enumerate()), sys.stdout
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # `pytest &` has none
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            judge(exercise, loops)
    finally:
        signal.signal(signal.SIGINT, handler)
    timer.join()
    assert set(threading.enumerate()) <= before and sys.stdout is out


def test_few_prints_are_shown_after_the_line(homework, capsys):
    def mine(table):
        print("the shape is", tuple(table.shape))
        return row_means(table)

    homework.check(named(mine))
    assert capsys.readouterr().out == (
        "✓ row_means: passed, 3 of 3 points\n│ the shape is (2, 3)\n│ the shape is (2, 0)\n"
        "│ the shape is (4, 5)\n│ the shape is (7, 2)\n"
    )


def test_many_prints_are_counted_and_dropped(homework, capsys):
    def mine(table):
        for i in range(500):
            print(i, "x" * 100)
            print(i, file=sys.stderr)
        return row_means(table)

    homework.check(named(mine))
    assert one_line(capsys) == "✓ row_means: passed, 3 of 3 points; it printed 4000 lines"


def test_endless_prints_are_told_without_a_number_that_changes(impatient):
    def mine(table):
        while True:
            print("again")

    message = judge(impatient, mine).message
    assert message.endswith("it was still running after 0.3 s; it printed more than 20 lines")


def test_one_endless_line_is_cut(exercise):
    def mine(table):
        for _ in range(1000):
            print("x" * 1000, end="")
        return row_means(table)

    assert [len(line) for line in judge(exercise, mine).printed] == [200]


def test_other_threads_print_as_ever(impatient, capsys):
    timer = threading.Timer(0.1, print, ["a progress bar"])
    timer.start()
    judge(impatient, loops)
    assert capsys.readouterr().out == "a progress bar\n"


def test_warnings_stay_out_of_the_notebook(exercise, recwarn, capsys):
    def mine(table):
        warnings.warn("look at me", stacklevel=1)
        np.array([1.0]) / 0
        warnings.simplefilter("always", ImportWarning)
        return row_means(table)

    filters = list(warnings.filters)
    assert judge(exercise, mine).state == "passed"
    assert warnings.filters == filters
    assert len(recwarn) == 0 and capsys.readouterr().err == ""


def test_a_coroutine_is_a_wrong_type_and_no_warning(exercise, recwarn):
    async def mine(table):
        return row_means(table)

    assert "a coroutine where a tensor is expected" in judge(exercise, mine).message
    gc.collect()
    assert len(recwarn) == 0


def test_changing_the_input_is_told_and_the_reference_never_sees_it(exercise):
    def mine(table):
        result = row_means(table)
        table.zero_()
        return result

    assert judge(exercise, mine).message == (
        "✗ row_means: given table = [[0., 1., 5.], [1., 2., 3.]], "
        "it changes table in place: work on a copy"
    )

    def wrong_and_in_place(table):
        table += 1
        return row_means(table)

    assert "expected [2., 2.], got [3., 3.]" in judge(exercise, wrong_and_in_place).message


def test_changing_a_list_or_a_module_among_the_inputs_is_told():
    inputs = [([torch.ones(2)], nn.Linear(1, 1))]

    def nothing(tensors, module):
        return 0

    def empties(tensors, module):
        tensors.clear()
        return 0

    def fills(tensors, module):
        nn.init.constant_(module.weight, 7)
        return 0

    exercise = Exercise(nothing, lambda generator: inputs, MISTAKES, 1, 1)
    assert judge(exercise, lambda tensors, module: 0).state == "passed"
    assert "it changes tensors in place" in judge(exercise, empties).message
    assert "it changes module in place" in judge(exercise, fills).message


def test_an_exercise_may_ask_for_a_change_in_place():
    def clear(table):
        table.zero_()

    inputs = [(torch.ones(2),)]
    exercise = Exercise(clear, lambda generator: inputs, MISTAKES, 1, 1)
    assert judge(exercise, lambda table: table.mul_(0) and None).state == "wrong"
    assert judge(exercise, lambda table: clear(table)).state == "passed"
    assert "it changes table" in judge(exercise, lambda table: None).message


@pytest.mark.parametrize("ends", ["well", "by an exception", "never"])
def test_the_notebooks_state_is_untouched(ends, exercise, impatient):
    def mine(table):
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        if ends == "by an exception":
            raise ValueError
        if ends == "never":
            loops(table)
        return row_means(table)

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(2).tolist(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    judge(impatient if ends == "never" else exercise, mine)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == expected
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_a_gradient_is_checked_even_where_the_notebook_has_switched_them_off():
    def slope(x):
        y = (x * x).sum()
        y.backward()
        return x.grad

    inputs = [(torch.ones(2, requires_grad=True),)]
    exercise = Exercise(slope, lambda generator: inputs, MISTAKES, 1, 1)
    with torch.no_grad():
        assert judge(exercise, lambda x: slope(x)).state == "passed"
        assert not torch.is_grad_enabled()


# The score board and the errors of an author


def test_the_score_board(homework, capsys):
    homework.check(named(lambda table: 0))
    homework.check(named(lambda table: column_means(table), "column_means"))
    before = homework.score_board()
    homework.check(named(lambda table: row_means(table)))  # replaces the first result
    assert repr(before).splitlines() == [
        "Homework 01: means",
        "exercise                points  minutes  state",
        "row_means               0 of 3       10  wrong",
        "column_means (stretch)  1 of 1        5  passed",
        "total                   0 of 3       10",
        "total (stretch)         1 of 1        5",
    ]
    assert "3 of 3       10  passed" in repr(homework.score_board())
    text = re.sub("<[^>]*>", " ", homework.score_board()._repr_html_())
    assert text.split() == repr(homework.score_board()).split()


def test_what_was_not_checked_is_to_do(homework):
    assert repr(homework.score_board()).count("to do") == 2


def test_an_authors_errors_are_told(exercise):
    with pytest.raises(ValueError, match="x: a turn has points, which are the homework's"):
        Homework("x", [], [exercise])
    with pytest.raises(ValueError, match="two exercises have one name"):
        Homework("x", [exercise, exercise])
    with pytest.raises(KeyError, match="no exercise area; there are row_means"):
        Homework("x", [exercise]).exercise("area")
    with pytest.raises(ValueError, match="row_means: inputs yields nothing"):
        judge(Exercise(row_means, lambda generator: [], MISTAKES, 1, 1), row_means)
    with pytest.raises(TypeError, match="row_means: inputs must yield tuples"):
        judge(Exercise(row_means, lambda generator: [torch.ones(2)], MISTAKES, 1, 1), row_means)


# In a real notebook

CELLS = [
    """
import sys, time
import torch
from lessons.kit.homework import Exercise, Homework, Mistake
def area(side): return side * side
def circumference(side): return 4 * side
def half(side): return side * side / 2
def inputs(generator): return [(3.0,), (torch.tensor(2.0),)]
mistakes = [Mistake("the way around", circumference, "How many tiles cover the square?"),
            Mistake("a triangle", half, "Where is the other half?")]
homework = Homework("Squares", [Exercise(area, inputs, mistakes, 2, 5, seconds=1)])
check, score_board = homework.check, homework.score_board
""",
    "def area(side):\n    while True: pass\narea = check(area)\nprint(area(5))",
    "def area(side):\n    exit()\narea = check(area)",
    "def area(side):\n    quit()\narea = check(area)",
    "def area(side):\n    sys.exit()\narea = check(area)",
    "def area(side):\n    print('side', side)\n    return 4 * side\narea = check(area)",
    "area = check(area)",
    "def area(side):\n    x = 1\n    return x.side\narea = check(area)",
    "def area(side):\n    time.sleep(9)\n    print('late')\narea = check(area)",
    "def area(side):\n    return input()\narea = check(area)",
    "def area(side):\n    return side ** 2\narea = check(area)",
    "time.sleep(3)\nprint(type(exit).__name__)",
    "score_board()",
    "print('the end')",
]
MORE = '│ more help: check.lines("area"), check.answer("area")\n'  # from the fourth attempt on
OUTPUTS = [
    "",
    "✗ area: given side = 3., it was still running after 1 s\n25\n",
    "✗ area: given side = 3., expected 9., but it raised SystemExit (line 2 of area: exit())\n",
    "✗ area: given side = 3., expected 9., but it raised SystemExit (line 2 of area: quit())\n",
    "✗ area: given side = 3., expected 9., but it raised SystemExit (line 2 of area: sys.exit())\n"
    + MORE,
    "✗ area: given side = 3., expected 9., got 12.: largest difference 3, 12. where 9. is expected"
    ". How many tiles cover the square?\n│ side 3.0\n│ side tensor(2.)\n" + MORE,
    "○ area: this is the reference; run the cell that defines yours first\n",
    "✗ area: given side = 3., expected 9., but it raised AttributeError: 'int' object has no"
    " attribute 'side' (line 3 of area: return x.side)\n" + MORE,
    "✗ area: given side = 3., it was still waiting after 6 s and cannot be stopped:"
    " restart the kernel to get rid of it\n" + MORE,
    "✗ area: given side = 3., expected 9., but it raised",
    "✓ area: passed, 2 of 2 points\n",
    "ZMQExitAutocall\n",
    "Squares\nexercise  points  minutes  state\narea      2 of 2        5  passed\n"
    "total     2 of 2        5",
    "the end\n",
]


def test_a_notebook_of_misbehaving_functions_runs_to_its_end(tmp_path):
    start = time.monotonic()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    NotebookClient(notebook, timeout=20, kernel_name="python3").execute(cwd=str(tmp_path))
    for cell, expected in zip(notebook.cells, OUTPUTS, strict=True):
        outputs = cell.outputs
        text = "".join(
            o.text if o.output_type == "stream" else o.data["text/plain"] for o in outputs
        )
        assert text.startswith(expected) if "input()" in cell.source else text == expected
    assert time.monotonic() - start < 60


def test_what_a_submission_does_to_the_process_does_not_outlive_the_check(
    exercise, tmp_path, capsys
):
    """The working directory, the standard streams, an alarm."""

    def mine(table):
        os.chdir(tmp_path)
        sys.stdout.close()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        return row_means(table)

    before = os.getcwd()
    assert judge(exercise, mine).state == "passed"
    assert os.getcwd() == before and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    print("still here")
    assert capsys.readouterr().out == "still here\n"


def summed_up(table):
    return torch.sum(table.double(), dim=1) / table.shape[1]


def test_what_the_text_forbids_is_out_of_reach(exercise):
    strict = replace(exercise, forbidden=("torch.sum", "torch.Tensor.mean"))
    own_name = torch.sum

    def by_the_method(table):
        return table.double().mean(1)

    verdict = judge(strict, summed_up)
    assert verdict.state == "wrong"
    assert "NotAllowedError: sum is not allowed in this exercise" in verdict.message
    assert "mean is not allowed" in judge(strict, by_the_method).message
    assert torch.sum is own_name and torch.ones(2).mean() == 1
    assert judge(strict, by_the_method).place == ""


def by_rows(table):
    return torch.stack([row.double().mean() for row in table])


def test_a_loop_where_none_is_allowed(exercise):
    inputs = [(torch.ones(2, 3),), (torch.rand(4, 2),)]
    plain = replace(exercise, inputs=lambda generator: inputs)
    assert judge(plain, by_rows).state == "passed"
    verdict = judge(replace(plain, forbidden=("loops",)), by_rows)
    assert verdict.message == "✗ row_means: it has a loop, and the text asks for none"
    assert judge(replace(plain, forbidden=("loops",)), means_of_anything).state == "passed"
