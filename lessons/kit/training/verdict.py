"""What paired differences say about a claim: four words, from one function.

Two arms are trained with the same seeds; a seed's difference is how much better the first is. The
95 % t-interval of their mean is held against a margin that was stated before anything was run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats

SHOWN, OPPOSITE, SMALL, UNKNOWN = "shown", "opposite", "too small to matter", "cannot tell"
VERDICTS = (SHOWN, OPPOSITE, SMALL, UNKNOWN)
LEAST = 3  # pairs of runs: who looks at fewer, and stops when they please him, finds what he seeks


@dataclass(frozen=True)
class Verdict:
    """The word, and what it is made of: the differences' mean and its 95 % interval.

    Mean and interval are NaN where there are too few differences for them.
    """

    word: str
    pairs: int
    mean: float
    low: float
    high: float


def judge(differences: Sequence[float], margin: float) -> Verdict:
    """The verdict on "the first arm is better", of one difference a seed.

    "too small to matter" if the whole interval lies within the margin; else "shown" if it lies
    above 0, "opposite" if it lies below; else, and with fewer than `LEAST` pairs, "cannot tell".
    Raises ValueError for a margin that is not above 0 and a difference that is no number.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be above 0, not {margin}")
    if not all(math.isfinite(difference) for difference in differences):
        raise ValueError(f"differences must be finite, not {list(differences)}")
    pairs = len(differences)
    mean = sum(differences) / pairs if pairs else math.nan
    if pairs < 2:
        return Verdict(UNKNOWN, pairs, mean, math.nan, math.nan)
    low, high = interval(differences)
    if pairs < LEAST:
        word = UNKNOWN
    elif -margin < low and high < margin:
        word = SMALL
    elif low > 0:
        word = SHOWN
    else:
        word = OPPOSITE if high < 0 else UNKNOWN
    return Verdict(word, pairs, mean, low, high)


def interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean: in so many of many such experiments it holds the true one."""
    pairs = len(differences)
    mean = sum(differences) / pairs
    variance = sum((difference - mean) ** 2 for difference in differences) / (pairs - 1)
    reach = float(stats.t.ppf((1 + confidence) / 2, pairs - 1)) * math.sqrt(variance / pairs)
    return mean - reach, mean + reach


RESAMPLINGS = 40


def resamplings(count: int) -> list[list[int]]:
    """The same drawings of `count` scenes out of `count`, with repeats, for every run.

    So the difference of two runs on one of them is paired by its scenes.
    """
    generator = torch.Generator().manual_seed(count)
    return torch.randint(count, (RESAMPLINGS, count), generator=generator).tolist()


def spread(differences: Sequence[Sequence[float]]) -> float:
    """How much a mean difference would vary with other scenes, as a standard deviation.

    `differences` has a row a seed, a number a drawing of scenes; NaN where there is none.
    """
    if not differences:
        return math.nan
    means = torch.tensor([list(row) for row in differences], dtype=torch.float64).mean(dim=0)
    means = means[means.isfinite()]
    return means.std().item() if len(means) > 1 else math.nan
