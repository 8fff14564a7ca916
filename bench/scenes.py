"""Scenes a second, image and masks, on one core."""

import time

import torch

from lessons.kit.data.scenes import scene


def main(count: int = 300) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size, number in ((128, count), (256, count // 4)):
            scene(1, 0, size)
            wall, cpu = time.perf_counter(), time.process_time()
            for index in range(number):
                scene(1, index, size)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            goal = "  (asked for: ≥ 100)" if size == 128 else ""
            print(
                f"  {size}×{size}: {number / wall:6.1f} scenes a second{goal}, "
                f"{1e3 * cpu / number:.1f} ms of processor time each"
            )
    finally:
        torch.set_num_threads(threads)
