"""Everything that `make test` runs, in order; the first failure ends it.

Two workers with one thread each: with more threads the kernels starve one another.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = ["-n", "2", "--dist", "loadscope"]
# A widget's and a training cell's limit; nbval waits 2000 s unless told.
NOTEBOOKS = ["--nbval", "--nbval-cell-timeout=300", "-p", "no:cacheprovider"]
NOTEBOOKS += [f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}"]

STEPS = {
    "what is built is up to date": ["lessons", "build", "--check"],
    "style": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "tests": ["pytest", "tests", "--ignore=tests/bad_input", "--durations=5", *WORKERS],
    "bad input, as a user sees it": ["pytest", "tests/bad_input", *WORKERS],
    "notebooks, homework and solutions": ["pytest", *NOTEBOOKS, "notebooks", "solutions", *WORKERS],
}


def main() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LESSONS_BUDGET": "test"}
    if images := os.environ.get("LESSONS_DATA"):  # the steps work in the clone's folder
        environment["LESSONS_DATA"] = os.path.abspath(images)
    for name, command in STEPS.items():
        print(f"\n=== {name}", flush=True)
        start = time.perf_counter()
        # The shape checks and the user's messages exclude each other.
        switch = {"JAXTYPING_DISABLE": "1"} if "bad_input" in command[1] else {}
        code = subprocess.call([sys.executable, "-m", *command], cwd=ROOT, env=environment | switch)
        print(f"--- {time.perf_counter() - start:.0f} s", flush=True)
        if code:
            sys.exit(f"make test stopped at: {name}")


if __name__ == "__main__":
    main()
