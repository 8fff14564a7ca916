"""How the benchmarks measure: alternately, so that a busy moment hits all alike."""

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from lessons.kit.data import DataSet
from lessons.kit.errors import LessonsError


def side_by_side(ways: Mapping[str, Callable], repeats: int = 7) -> dict[str, list[float]]:
    """Seconds of each call of each way, taken in turns after one call of each to warm up."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds: Mapping[str, list[float]], peer: str, target: float | None = None) -> None:
    """A line for each way: its median, and the median over the turns of its ratio to the peer."""
    for name, times in seconds.items():
        ratio = np.median(np.array(times) / np.array(seconds[peer]))
        goal = f"  (asked for: ≤ {target})" if target is not None and name != peer else ""
        print(f"  {name:<28}{np.median(times):9.4f} s   {ratio:5.2f} of {peer}{goal}")


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def at_hand(sources: Mapping[str, Callable[[], DataSet]]) -> Iterator[tuple[str, DataSet]]:
    """The data sets by name; of one whose images are not here a line says so instead."""
    for name, load in sources.items():
        try:
            data = load()
        except LessonsError as error:
            print(f"  {name}: left out. {error}")
            continue
        yield name, data
