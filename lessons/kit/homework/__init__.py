"""The homework's machinery: `f = check(f)` under a stub compares it with the reference.

`check` prints one line and returns the student's function if it is right, the reference if
not, so that the notebook always runs to its end. A submission runs in a thread of its own on
copies of the inputs, under a time limit. One thing it cannot survive: a call into C that never
returns and never lets another thread run (`sum(range(10**12))`) holds up the whole kernel.
"""

from lessons.kit.homework.board import Homework, ScoreBoard
from lessons.kit.homework.compare import difference
from lessons.kit.homework.exercise import Exercise, Mistake, Verdict, mistake
from lessons.kit.homework.verdict import judge

__all__ = [
    "Exercise",
    "Homework",
    "Mistake",
    "ScoreBoard",
    "Verdict",
    "difference",
    "judge",
    "mistake",
]
