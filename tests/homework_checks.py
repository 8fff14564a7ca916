"""What holds for every homework: its solutions, its stubs and its known mistakes are told apart."""

from collections.abc import Callable, Mapping

from lessons.kit.homework import Homework, judge


def assert_solutions_pass(homework: Homework, solutions: Mapping[str, Callable]):
    assert solutions.keys() == homework.exercises.keys()
    for name, solution in solutions.items():
        verdict = judge(homework.exercise(name), solution)
        assert verdict.state == "passed", verdict.message


def assert_stubs_are_to_do(homework: Homework, stubs: Mapping[str, Callable]):
    assert stubs.keys() == homework.exercises.keys()
    for name, stub in stubs.items():
        verdict = judge(homework.exercise(name), stub)
        assert verdict.state == "to do", verdict.message


def assert_mistakes_get_their_own_hint(homework: Homework):
    for exercise in homework.asked.values():
        for mistake in exercise.mistakes:
            verdict = judge(exercise, mistake.function, search=False)
            assert verdict.state == "wrong", f"{exercise.name}, {mistake.name}: {verdict.message}"
            assert verdict.mistake is mistake, f"{mistake.name}: {verdict.message}"
            assert mistake.hint.strip() and mistake.hint == verdict.hint
