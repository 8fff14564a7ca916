"""Where things lie: the clone, recorded runs, photographs, checkpoints, what the user makes."""

import os
from datetime import date
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "lessons" / "recorded"
CHECKPOINTS = ROOT / "build" / "checkpoints"
PHOTOGRAPHS = ROOT / "lessons" / "kit" / "data" / "photographs"


def my() -> Path:
    """The folder of all that a user makes; the same for every command and every notebook.

    It is `$LESSONS_MY`, else `my/` in the clone, else, where the package was installed without
    its clone, `my/` below the current folder. A relative `$LESSONS_MY` begins there too.
    """
    chosen = os.environ.get("LESSONS_MY")
    if chosen:
        return Path(os.path.abspath(Path(chosen).expanduser()))
    return (ROOT if is_clone(ROOT) else Path.cwd()) / "my"


def my_runs() -> Path:
    """The folder of the runs that a user has trained."""
    return my() / "runs"


TEACH = "teach"  # the folder in my/ of lessons to step through in class


def at_work() -> bool:
    """Whether a student works here: the current folder lies in my/, and not in my/teach/."""
    here, mine = Path.cwd().resolve(), my().resolve()
    return here.is_relative_to(mine) and not here.is_relative_to(mine / TEACH)


def is_clone(root: Path) -> bool:
    """Whether the lessons lie there, or the package alone."""
    return (root / "notebooks").is_dir()


def shown(path: Path) -> str:
    """A path as it is printed: from the clone or the current folder, if it lies there."""
    for start in (ROOT, Path.cwd()):
        if path.is_relative_to(start):
            return path.relative_to(start).as_posix()
    return str(path)


def put_aside(path: Path) -> Path:
    """Give a file or folder a free name with today's date, beside its own; return that name.

    `01_sheep.ipynb` becomes `01_sheep_2026-11-28.ipynb`, and if there is one, `…-28_2.ipynb`.
    """
    dated = f"{path.stem}_{date.today().isoformat()}"
    names = (dated if number == 1 else f"{dated}_{number}" for number in count(1))
    aside = next(p for name in names if not (p := path.with_name(name + path.suffix)).exists())
    path.rename(aside)
    return aside
