"""All that only a GPU can show, in one go and in a given time: `make gpu MINUTES=14 OUT=folder`.

First the tests of equality in tests/gpu, then the benchmarks that take a device, then recorded
runs in the order of `runs.toml` while time is left. OUT gets few files, so that they are easily
brought back: tests.txt, bench.txt, runs.txt, and recorded_1.zip, … of at most 15 MB each, to be
unpacked in the clone. Every file is written as it comes: a machine that is taken away early has
left what was finished. Needs torch, torchvision, and the packages of the core; no Jupyter.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "build" / "gpu_runs"  # the runs themselves: OUT gets them as zip files
ROWS = ("systems", "mask_rcnn", "mask2former", "roi_align")
LARGEST = 15 * 10**6  # bytes of a zip file
SHORTEST = 20  # seconds: with less left nothing is begun


def main() -> None:
    parser = argparse.ArgumentParser("make gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "build/gpu"))
    parser.add_argument("--budget", default="full", help="of the recorded runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--only", nargs="*", metavar="RUN", help="these runs of runs.toml")
    chosen = parser.parse_args()
    clock = Clock(60 * chosen.minutes)
    chosen.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"LESSONS_DEVICE": chosen.device, "JAXTYPING_DISABLE": "1"}

    pytest = ["pytest", "tests/gpu", "-rfs", "-p", "no:cacheprovider"]
    call("tests", pytest, chosen.out / "tests.txt", clock, environment)
    bench = ["bench", *ROWS, "--device", chosen.device]
    call("benchmarks", bench, chosen.out / "bench.txt", clock, environment)
    runs(chosen, clock, environment)
    print(f"{clock.spent():.0f} s of {clock.seconds:.0f} s; all of it lies in {chosen.out}")


class Clock:
    """How much of the time is spent and left."""

    def __init__(self, seconds: float):
        self.seconds, self.start = seconds, time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self.start

    def left(self) -> float:
        return self.seconds - self.spent()


def call(name: str, module: list[str], log: Path, clock: Clock, environment: dict) -> bool:
    """Run `python -m module` into a log until it ends or the time is up; whether it went well."""
    if clock.left() < SHORTEST:
        print(f"{name}: no time left", flush=True)
        return False
    begun = clock.spent()
    with log.open("a", encoding="utf-8") as file:
        try:
            command = [sys.executable, "-u", "-m", *module]
            code = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=clock.left(),
            ).returncode
            said = "went well" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            code, said = 124, "stopped: the time was up"
    last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
    print(f"{name}: {said} after {clock.spent() - begun:.0f} s: {''.join(last)[:150]}", flush=True)
    return code == 0


def runs(chosen: argparse.Namespace, clock: Clock, environment: dict) -> None:
    """Recorded runs by priority, each in a process of its own; one that fails stops no other.

    One that would not be done in time, by the pace of its system's runs so far, is left out.
    """
    from lessons.kit.training.recorded import plans

    shutil.rmtree(MADE, ignore_errors=True)
    made: list[str] = []
    pace: dict[str, float] = {}  # seconds an image of training, the start of the process included
    for name, plan in plans().items():
        if plan.data != "scenes" or (chosen.only and name not in chosen.only):
            continue  # real images do not travel
        budget = plan.recipe().budget(plan.budget)
        images = budget.steps * budget.batch
        if clock.left() < max(SHORTEST, images * pace.get(plan.system, 0)):
            print(f"{name}: left out, the time would not do")
            continue
        begun, one = clock.spent(), ["bench.gpu_run", name, str(MADE), chosen.budget]
        if call(name, one, chosen.out / "runs.txt", clock, environment):
            made.append(name)
            report = json.loads((MADE / name / "run.json").read_text(encoding="utf-8"))
            done = report["steps"] * report["batch"]
            pace[plan.system] = (clock.spent() - begun) / done if chosen.budget == "full" else 0
            pack(MADE, made, chosen.out)
    print(f"{len(made)} runs: {', '.join(made) or 'none'}")


def pack(runs: Path, made: list[str], out: Path) -> None:
    """Every finished run in zip files of at most LARGEST bytes, with its place in the clone."""
    parts: list[list[Path]] = [[]]
    for name in made:
        files = sorted((runs / name).iterdir())
        size = sum(file.stat().st_size for each in (parts[-1], files) for file in each)
        if size > LARGEST and parts[-1]:
            parts.append([])
        parts[-1] += files
    for number, files in enumerate(parts, start=1):
        part = out / f"recorded_{number}.zip.part"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, Path("lessons/recorded") / file.parent.name / file.name)
        os.replace(part, out / f"recorded_{number}.zip")


if __name__ == "__main__":
    main()
