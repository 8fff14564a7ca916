"""Run every benchmark, or those named: `python -m bench average_precision`."""

import importlib
import os
import pkgutil
import platform
import sys

import torch

import bench


def main() -> None:
    names = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    known = sorted(name for name in names if not name.startswith("_") and name != "timing")
    wanted = sys.argv[1:] or known
    for name in wanted:
        if name not in known:
            sys.exit(f"there is no benchmark {name}, there are {', '.join(known)}")
    cores, threads = os.cpu_count(), torch.get_num_threads()
    print(f"torch {torch.__version__}, {platform.machine()}, {cores} cores, {threads} threads")
    for name in wanted:
        print(f"\n{name}")
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
