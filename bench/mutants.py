"""Small edits of the package, one at a time: which of them does no test notice? `make mutants`.

Some hundred edits are drawn from all that are possible (a comparison, a sign, a constant, an axis,
sum for mean, a statement left out, …), spread over the modules; for each the tests of its module
run, and what survives is printed. An edit that changes nothing that anybody could see is
equivalent: `EQUIVALENT` in this file says why, by module and edit.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # for the tests of one edit: an endless loop is noticed, too

KIT = {  # the tests of a module where they are not called as it is
    "data/types": "data",
    "data/named": "training real",
    "models/images": "systems",
    "training/recipe": "training",
    "training/batches": "training",
    "training/loop": "training",
    "training/measure": "training processes",
    "training/plan": "recorded cli",
    "training/store": "recorded",
    "training/recorded": "recorded cli",
    "homework/exercise": "exercise",
    "homework/attempts": "diagnosis",
    "homework/alterations": "diagnosis",
    "homework/diagnosis": "diagnosis",
    "homework/edits": "diagnosis",
    "homework/hints": "diagnosis",
    "models/processes": "processes",
    "data/pairs": "average_precision panoptic_quality side_by_side",
    "data/real": "real training",
    "data/panoptic_files": "panoptic_files panoptic_quality",
    "homework/board": "exercise",
    "homework/compare": "exercise",
    "homework/sandbox": "exercise",
    "homework/verdict": "exercise homework",
    "homework/words": "exercise",
    "notebooks/authoring": "authoring",
    "notebooks/cells": "authoring",
    "notebooks/handing_out": "authoring",
    "notebooks/reading": "authoring",
    "notebooks/executing": "running",
    "notebooks/copies": "cli",
    "training/progress": "training",
    "training/runs": "recorded my_runs",
    "training/again": "recorded panoptic_files",
    "data/files": "real",
    "data/memory": "training",
    "guard": "bad_days",
    "notebooks/running": "running",
    "doctor": "cli",
    "places": "cli",
    "classes": "classes",
    "notebooks/joining": "classes",
    "data/checks": "checks",
}

EQUIVALENT: dict[str, str] = {
    "lessons/average_precision.py: 1 → 2: rank = np.where((free | crowd) & enough[d], "
    "overlap[d] + bonus, -1)  # *r t g, −1: no": "every number below 0 says no",
    "lessons/roi_align.py: True → False: order = number.argsort(stable=True)": "bags of one size "
    "are computed alike in any order",
    "lessons/roi_align.py: Lt → LtE: places = (rois * spatial_scale).abs() < 1e18  # no NaN, and "
    "no sum of them overflows": "nothing lies at 1e18 exactly",
    'lessons/kit/data/checks.py: And → Or: if hasattr(annotation, "dim_str") and '
    'hasattr(annotation, "dtypes"):': "an annotation has both or neither",
    "lessons/kit/data/download.py: 16 → 17: web = pooch.HTTPDownloader(progressbar=True, "
    "timeout=timeout, chunk_size=2**16)": "the size of a piece is nobody's business",
    "lessons/kit/data/imperfect.py: Add → Sub: quality = 0.9 - 2 * np.hypot(dx, dy) + "
    "rng.normal(0, 0.12)": "the noise is symmetric",
    "lessons/kit/data/real.py: 159 → 160: categories = "
    '[Category("nucleus", True, (230, 159, 0))]': "a shade of a colour",
    "lessons/kit/draw.py: 60000 → 60001: LARGE = 60_000  # the second of both where the first "
    "takes no more bytes than this": "a matter of taste",
    "lessons/kit/draw.py: 4.5 → 5.5: ax = ax or plt.subplots(figsize=(4.5, 4.5))[1]": "taste",
    'lessons/kit/draw.py: 6 → 7: text = score if points < 6 else f"{text} {score}"': "taste",
    'lessons/kit/training/recorded.py: True → False: print(f"what there was is now '
    '{MY}{aside.name}", flush=True)': "the line comes a moment later",
    "lessons/kit/data/memory.py: 64 → 65: alone = count < 64 or torch.get_num_threads() == 1": (
        "from how many images on several threads help is a guess"
    ),
    "lessons/kit/notebooks/executing.py: 0 → 1: if isinstance(node, ast.stmt) and node.lineno <= "
    "number <= (node.end_lineno or 0)": "a statement has an end",
    "lessons/kit/training/progress.py: GtE → Gt: late = time.perf_counter() - self.saved_at >= "
    "CHECKPOINT_SECONDS": "a moment sooner or later",
    "lessons/kit/data/scenes.py: 76 → 77: pen.box(-0.02 if y > 0.3 else 0.0, y, 0.02, 0.012, "
    "np.array([84, 78, 76]))": "a shade of a colour",
    "lessons/kit/homework/exercise.py: 10.0 → 11.0: seconds: float | int = 10.0": "roughly",
}
"""Edits that nobody can notice, as they are printed, with the reason."""


# ---------------------------------------------------------------- edits

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "min": "max",
    "max": "min",
    "amin": "amax",
    "amax": "amin",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
    "sum": "mean",
    "mean": "sum",
    "floor": "ceil",
    "ceil": "floor",
    "any": "all",
    "all": "any",
    "zeros": "ones",
    "ones": "zeros",
    "sin": "cos",
    "cos": "sin",
}


@dataclass(frozen=True)
class Edit:
    """What is done to a module: the change `number` of the node at `place` in its tree."""

    module: str
    line: int
    change: str
    place: int
    number: int

    def source(self) -> str:
        """The module as it is then."""
        tree = ast.parse((ROOT / self.module).read_text(encoding="utf-8"))
        node = list(ast.walk(tree))[self.place]
        _, change = list(_changes(node))[self.number]
        change(node)
        return ast.unparse(tree)

    def words(self) -> str:
        text = (ROOT / self.module).read_text(encoding="utf-8").splitlines()[self.line - 1]
        return f"{self.module}: {self.change}: {text.strip()}"


def edits(module: str) -> Iterator[Edit]:
    """Every edit of a module."""
    nodes = list(ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))))
    hidden = {id(n) for node in nodes for n in _hidden(node)}
    for place, node in enumerate(nodes):
        if id(node) not in hidden:
            for number, (said, _) in enumerate(_changes(node)):
                yield Edit(module, node.lineno, said, place, number)


def _hidden(node: ast.AST) -> Iterator[ast.AST]:
    """What is not code: docstrings, annotations, imports, the texts of errors."""
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
        yield from ast.walk(node)
    for name in ("annotation", "returns"):
        if isinstance(part := getattr(node, name, None), ast.AST):
            yield from ast.walk(part)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable]]:
    """The edits of one node, in words and as what does them to such a node."""

    def setting(**values):
        return lambda other: [setattr(other, name, value) for name, value in values.items()]

    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} → {new.__name__}", setting(op=new())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new = OPERATORS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} → {new.__name__}", setting(ops=[new(), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign left out", setting(op=ast.UAdd())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} → {not node.value}", setting(value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        new = node.value + 1 if node.value != 1 else 2
        yield f"{node.value} → {new}", setting(value=new)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f"{node.attr} → {NAMES[node.attr]}", setting(attr=NAMES[node.attr])
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield f"{node.id} → {NAMES[node.id]}", setting(id=NAMES[node.id])
    elif isinstance(node, ast.If | ast.While):
        yield (
            "condition turned",
            lambda other: setattr(other, "test", ast.UnaryOp(ast.Not(), other.test)),
        )
    elif isinstance(node, ast.AugAssign):
        yield "statement left out", lambda other: setattr(other, "value", ast.Constant(0))
    elif isinstance(node, ast.Call) and len(node.args) == 2 and not node.keywords:
        yield "arguments exchanged", lambda other: other.args.reverse()


# ---------------------------------------------------------------- trying


def modules() -> dict[str, list[str]]:
    """The modules that are edited and the test files that belong to each."""
    found = {}
    for path in sorted((ROOT / "lessons").glob("*.py")):
        found[f"lessons/{path.name}"] = [path.stem]
    for path in sorted((ROOT / "lessons/kit").rglob("*.py")):
        name = path.relative_to(ROOT / "lessons/kit").with_suffix("").as_posix()
        if not name.startswith("peers/"):  # they say what others compute
            found[f"lessons/kit/{name}.py"] = KIT.get(name, path.stem).split()
    tests = {
        module: [
            str(file.relative_to(ROOT))
            for name in names
            for file in (ROOT / f"tests/test_{name}.py", ROOT / f"tests/bad_input/test_{name}.py")
            if file.exists()
        ]
        for module, names in found.items()
    }
    return {module: files for module, files in tests.items() if files}


def chosen(count: int, seed: int, only: list[str]) -> list[Edit]:
    """`count` edits, of each module in turn; of a long one more at a time."""
    rng, pools = random.Random(seed), []
    for module in modules():
        if not only or any(name in module for name in only):
            found = list(edits(module))
            rng.shuffle(found)
            pools.append(found)
    drawn: list[Edit] = []
    while len(drawn) < count and any(pools):
        for pool in pools:
            take = 1 + min(len(pool) // 100, 4)
            drawn += pool[:take]
            del pool[:take]
    return drawn[:count]


def clone(folder: Path) -> Path:
    """A tree to break: the package copied (its records linked), the rest linked."""
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in ("lessons", ".git", "build", "my", ".venv"):
            (folder / entry.name).symlink_to(entry)
    shutil.copytree(
        ROOT / "lessons",
        folder / "lessons",
        ignore=shutil.ignore_patterns("recorded", "__pycache__"),
    )
    (folder / "lessons/recorded").symlink_to(ROOT / "lessons/recorded")
    return folder


def passes(tree: Path, tests: list[str]) -> bool:
    """Whether all of these test files pass in a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    for file in tests:
        switch = {"JAXTYPING_DISABLE": "1"} if "bad_input" in file else {}
        command = [sys.executable, "-m", "pytest", file, "-x", "-q", "-p", "no:cacheprovider"]
        try:
            run = subprocess.run(
                command, cwd=tree, env=environment | switch, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return False
        if run.returncode:
            return False
    return True


def survives(tree: Path, edit: Edit, tests: list[str]) -> bool:
    """Whether the module's tests all pass although it was edited."""
    whole = (ROOT / edit.module).read_text(encoding="utf-8")
    (tree / edit.module).write_text(edit.source(), encoding="utf-8")
    try:
        return passes(tree, tests)
    finally:
        (tree / edit.module).write_text(whole, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser("make mutants", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="MODULE", help="parts of modules' paths")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tests, begun = modules(), time.monotonic()
    trying = chosen(options.count, options.seed, options.only)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        trees: Queue[Path] = Queue()
        for number in range(options.jobs):
            trees.put(clone(Path(folder) / str(number)))

        def in_a_tree(work: Callable, *arguments: Any) -> bool:
            tree = trees.get()
            try:
                return work(tree, *arguments)
            finally:
                trees.put(tree)

        # What fails without an edit would notice everything.
        needed = sorted({file for edit in trying for file in tests[edit.module]})
        good = list(pool.map(lambda file: in_a_tree(passes, [file]), needed))
        if failing := [file for file, passed in zip(needed, good, strict=True) if not passed]:
            sys.exit(f"these tests fail without any edit: {', '.join(failing)}")

        lives = pool.map(lambda edit: in_a_tree(survives, edit, tests[edit.module]), trying)
        alive = []
        for edit in (edit for edit, alive in zip(trying, lives, strict=True) if alive):
            alive.append(edit)
            reason = EQUIVALENT.get(edit.words())
            print(f"alive  {edit.words()}", f"(equivalent: {reason})" * bool(reason), flush=True)
    equivalent = sum(edit.words() in EQUIVALENT for edit in alive)
    killed, telling = len(trying) - len(alive), len(trying) - equivalent
    print(
        f"{len(trying)} edits of {len({edit.module for edit in trying})} modules, "
        f"{killed} noticed, {len(alive)} alive, {equivalent} of them equivalent: "
        f"{killed / max(telling, 1):.0%} of the others, in {time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
