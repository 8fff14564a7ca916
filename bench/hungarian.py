"""Lesson 11 against scipy's linear_sum_assignment: least cost over seeds, and processor time."""

import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from lessons.hungarian import hungarian

SEEDS = 1000
SIZES = ((10, 10), (24, 8), (100, 20), (100, 100))
CALLS, TURNS = 10, 7  # one call may take less than a hundredth of a millisecond
KINDS = {
    "uniform": lambda rng, size: rng.random(size),
    "near its thing": lambda rng, size: near(rng, size),
    "whole, 0 … 9": lambda rng, size: rng.integers(0, 10, size),
    "a table": lambda rng, size: np.outer(*(np.arange(1.0, side + 1) for side in size)),
}


def main() -> None:
    print(f" largest relative difference of the least cost, {SEEDS} matrices: {equality():.1e}")
    for size in SIZES:
        for kind, draw in KINDS.items():
            cost = draw(np.random.default_rng(0), size)
            seconds = [[], []]
            for _ in range(TURNS):  # in turns
                for times, way in zip(seconds, (linear_sum_assignment, hungarian), strict=True):
                    times.append(processor_seconds(way, cost))
            theirs, ours = 1e3 * np.median(seconds, axis=1)
            print(
                f"  {size[0]:>3} × {size[1]:<3} {kind:<15} scipy {theirs:7.4f} ms, "
                f"ours {ours:8.4f} ms, {ours / theirs:6.1f} of scipy"
            )


def processor_seconds(way: Callable, cost: np.ndarray) -> float:
    """Of one call: calls this short would else measure what other programs do."""
    start = time.process_time()
    for _ in range(CALLS):
        way(cost)
    return (time.process_time() - start) / CALLS


def near(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """What a trained system gives: one query fits its segment, the others hardly."""
    cost = 1 - 0.2 * rng.random(size)
    short = min(size)
    cost[rng.permutation(size[0])[:short], rng.permutation(size[1])[:short]] = 0.3
    return cost


def equality() -> float:
    """Matrices of all kinds, oblong both ways, up to 100 × 100."""
    worst, kinds = 0.0, list(KINDS.values())
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        cost = kinds[seed % len(kinds)](rng, tuple(rng.integers(1, 101, 2)))
        found, least = (cost[tuple(f(cost))].sum() for f in (hungarian, linear_sum_assignment))
        worst = max(worst, abs(found - least) / max(abs(least), 1))
    return worst


if __name__ == "__main__":
    main()
