"""A student's attempts: which are alike, and the log that belongs to the student."""

import ast
import inspect
import json
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime

from lessons.kit.homework.exercise import Verdict
from lessons.kit.places import at_work, my

LOG = "attempts.jsonl"


def form_of(submission: Callable) -> str:
    """What a function says, without comments, blank lines, docstring and layout."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(submission)))
    except (OSError, TypeError, SyntaxError):
        code = getattr(submission, "__code__", None)
        return repr((code.co_code, code.co_consts, code.co_names)) if code else repr(submission)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def log(title: str, exercise: str, verdict: Verdict, level: int) -> None:
    """A line in `my/attempts.jsonl`: lesson, exercise, time, outcome, diagnosis, level; no code.

    Only where a student works, in a notebook below `my/`; a log that cannot be written is none.
    """
    if not at_work():
        return
    line = {
        "lesson": title,
        "exercise": exercise,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "outcome": verdict.state,
        "diagnosis": verdict.diagnosis,
        "level": level,
    }
    try:
        with (my() / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError:
        return
