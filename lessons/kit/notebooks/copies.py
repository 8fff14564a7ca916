"""A user's own copies of a lesson and its homework, and never one over another."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat

from lessons.kit.errors import LessonsError
from lessons.kit.guard import write_whole
from lessons.kit.notebooks.reading import read_notebook
from lessons.kit.notebooks.recalling import unanswered
from lessons.kit.notebooks.turns import with_blanks
from lessons.kit.places import TEACH, put_aside, shown

# The targets of links and pictures: ](here), src="here", href="here" and [name]: here.
TARGET = re.compile(
    r"""(\]\(\s*|\b(?:src|href)\s*=\s*["']|^\[[^\]]+\]:\s+)([^\s)"'<>]+)""", re.MULTILINE
)


@dataclass(frozen=True)
class Copy:
    """What came of one notebook: its copy, made or there already, and what was put aside."""

    path: Path
    made: bool
    aside: Path | None = None


def start(
    root: Path, number: str, my: Path, again: bool = False, teach: bool = False
) -> list[Copy]:
    """Copy a lesson and its homework into `my`, without outputs; a lesson may have no homework.

    The student's turns are blank. With `teach` the lesson alone is copied, whole, into a folder
    of its own, to be stepped through in class: nothing is on the screen before it is run.
    What is there is left as it is or, with `again`, put aside under another name. Links lead to
    the user's copies where there are some, else to the course's notebooks. Raises LessonsError
    where there is no such lesson, and where all of its copies are there.
    """
    lessons = {path.name[:2]: path for path in _numbered(root / "notebooks")}
    homework = {path.name[:2]: path for path in _numbered(root / "notebooks/homework")}
    number = number.zfill(2)
    if number not in lessons:
        listed = f"there are {', '.join(lessons)}" if lessons else "there is none"
        raise LessonsError(f"there is no lesson {number}, {listed}")
    goals = {
        **{path: my / path.name for path in lessons.values()},
        **{path: my / f"{path.stem}_homework.ipynb" for path in homework.values()},
    }
    sources = [each[number] for each in (lessons, homework) if number in each]
    if teach:
        goals = {lessons[number]: my / TEACH / lessons[number].name}
        sources = [lessons[number]]
    there = [goals[source].name for source in sources if goals[source].exists()]
    folder = goals[sources[0]].parent
    if len(there) == len(sources) and not again:
        are = "is" if len(there) == 1 else "are"
        raise LessonsError(
            f"{' and '.join(there)} {are} in {shown(folder)} already: "
            "go on there, or begin anew and keep what you have beside it (--again)"
        )
    own = {path: goal for path, goal in goals.items() if path in sources or goal.exists()}
    texts = {source: _copied(source, folder, own, teach) for source in sources}
    folder.mkdir(parents=True, exist_ok=True)
    return [_placed(text, goals[source], again) for source, text in texts.items()]


def _placed(text: str, goal: Path, again: bool) -> Copy:
    """Write a copy whole, where there is none yet or the one that is there is put aside."""
    if goal.exists() and not again:
        return Copy(goal, made=False)
    part = goal.with_name(f".{goal.name}.new")
    write_whole(part, text)
    aside = put_aside(goal) if goal.exists() else None
    os.replace(part, goal)
    return Copy(goal, made=True, aside=aside)


def started(my: Path) -> list[Path]:
    """The notebooks of lessons that are there, in order."""
    return _numbered(my)


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def _copied(source: Path, my: Path, own: Mapping[Path, Path], teach: bool) -> str:
    """The notebook without outputs, its relative links rewritten for the folder `my`."""
    notebook = read_notebook(source)
    if not teach and source.parent.name == "notebooks":
        notebook = with_blanks(notebook, source.name)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = cell.source if teach else unanswered(cell.source)
        elif cell.cell_type == "markdown":
            cell.source = TARGET.sub(
                lambda match: match[1] + _moved(match[2], source.parent, my, own), cell.source
            )
    return nbformat.writes(notebook) + "\n"


def _moved(target: str, folder: Path, my: Path, own: Mapping[Path, Path]) -> str:
    """A link's target in a notebook of `folder`, as it is from `my`; others stay as they are."""
    path, sign, place = target.partition("#")
    there = Path(os.path.normpath(folder / unquote(path)))
    if not path or re.match(r"[a-z][a-z0-9+.-]*:|/", path, re.IGNORECASE) or not there.exists():
        return target
    relative = os.path.relpath(own.get(there, there), my)
    return quote(Path(relative).as_posix()) + sign + place
