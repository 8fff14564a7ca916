"""One run of runs.toml into a folder: `python -m bench.gpu_run NAME FOLDER BUDGET`."""

import sys
from dataclasses import replace
from pathlib import Path

from lessons.kit.training import fit
from lessons.kit.training.recorded import plans, write


def main(name: str, folder: str, budget: str) -> None:
    plan = plans()[name]
    if budget != "full":  # its changes are those of a full run
        plan = replace(plan, budget=budget, changes=None)
    run = fit(plan.recipe(), plan.budget, seed=plan.seed, progress=False)
    report = write(name, run, plan.weights, Path(folder))
    scores = {k: round(v, 3) for k, v in report["scores"].items() if k != "per_class"}
    print(f"{name}: {scores} in {report['seconds']:.0f} s on {report['device']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
