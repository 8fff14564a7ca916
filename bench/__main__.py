"""Run every benchmark, or those named: `python -m bench average_precision`.

`--device cuda` runs those that can on a GPU.
"""

import argparse
import importlib
import inspect
import os
import pkgutil
import platform

import torch

import bench

NO_BENCHMARKS = ("__main__", "gpu", "gpu_run", "mutants", "timing")


def main() -> None:
    names = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    known = sorted(set(names) - set(NO_BENCHMARKS))
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in known:
            parser.error(f"there is no benchmark {name}, there are {', '.join(known)}")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    cores, threads = os.cpu_count(), torch.get_num_threads()
    print(f"torch {torch.__version__}, {platform.machine()}, {cores} cores, {threads} threads")
    for name in chosen.names or known:
        module = importlib.import_module(f"bench.{name}")
        takes_device = "device" in inspect.signature(module.main).parameters
        if takes_device or chosen.device == "cpu":
            print(f"\n{name}", flush=True)
            module.main(*[chosen.device] * takes_device)


if __name__ == "__main__":
    main()
