"""Lessons as notebooks: built into the package, run from end to end.

This is the room that needs Jupyter, the extra `course` of pyproject.toml. Without it every
command that enters ends in one sentence.
"""

from importlib.util import find_spec

from lessons.kit.errors import LessonsError

NEEDED = ("ipywidgets", "jupyterlab", "nbformat", "nbclient", "nbconvert")

if _missing := [name for name in NEEDED if find_spec(name) is None]:
    raise LessonsError(
        f"the notebooks need {', '.join(_missing)}: in a clone of the course, "
        'python -m pip install -c constraints.txt -e ".[course]"'
    )
