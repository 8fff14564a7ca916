"""Small edits of a function's source, one at a time, always the same ones in the same order.

They serve two questions: does an answer behave as the reference with one edit, and does one edit
make an answer right? An edited function runs where the whole one lives; its loops are counted, so
that an edit that never ends is cut off at the same step on every machine.
"""

import ast
import inspect
import math
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lessons.kit.homework.changes import changes_of

MOST = 500  # edits of one function


@dataclass(frozen=True)
class Edit:
    """What was changed: a kind, the line (the `def` is 1) and the change in signs.

    `source` is the whole definition after the change, as Python prints it.
    """

    kind: str
    line: int
    change: str
    function: Callable
    source: str


class TooLongError(Exception):
    """An edited function whose loops do not end."""


@dataclass
class Turns:
    """Counts the turns of a function's loops in a call and in all, also of comprehensions."""

    limit: int = 10**6  # of one call
    budget: float = math.inf  # of all calls
    now: int = 0
    most: int = 0
    total: int = 0

    def one(self) -> bool:
        self.now, self.total = self.now + 1, self.total + 1
        self.most = max(self.most, self.now)
        if self.now > self.limit or self.total > self.budget:
            raise TooLongError
        return True


def edited(function: Callable, measure: Callable, budget: float = math.inf) -> list[Edit]:
    """Every edit of a function or class, at most `MOST`; none where its source is not at hand.

    A function that needs variables of a surrounding one has none either. `measure` calls the
    unedited function with counted loops on all that it will be called with: an edit may take
    half as many turns again and two, and all edits together `budget`, then TooLongError is
    raised. Turns and not seconds, so that every machine finds the same.
    """
    tree = _tree_of(function)
    if tree is None:
        return []
    definition: Any = tree.body[0]
    inner = inspect.unwrap(function)
    if getattr(inner, "__closure__", None) or _reaches_out(definition):
        return []
    names = _globals(inner)
    first = definition.lineno  # of the `def`, not of its decorators
    turns, found = Turns(), []
    try:
        unedited = ast.unparse(tree)
        measure(_compiled(unedited, names, definition.name, turns))
    except Exception:  # a class of a function, whose names are not at hand
        return []
    turns.limit, turns.total, turns.budget = int(1.5 * turns.most) + 2, 0, budget
    for change in list(changes_of(definition)):
        undo = change.apply()
        try:
            source = ast.unparse(tree)
            same = source == unedited  # two arguments that are alike were exchanged
            whole = None if same else _compiled(source, names, definition.name, turns)
        except Exception:  # it is no Python any more, or a class that cannot be made
            whole = None
        undo()
        if whole is not None:
            found.append(Edit(change.kind, change.line - first + 1, change.words, whole, source))
        if len(found) == MOST:
            break
    return found


def counted(function: Callable, measure: Callable) -> Callable:
    """The function itself, with twice the turns that `measure` finds in its loops, and no more.

    Without limit where its source is not at hand.
    """
    tree = _tree_of(function)
    inner = inspect.unwrap(function)
    if tree is None or getattr(inner, "__closure__", None):
        return function
    turns = Turns()
    definition: Any = tree.body[0]
    try:
        whole = _compiled(ast.unparse(tree), _globals(inner), definition.name, turns)
        measure(whole)
    except Exception:
        return function
    turns.limit = 2 * turns.most + 2
    return whole


def _tree_of(function: Callable) -> ast.Module | None:
    """The definition of a function or class, without decorators; None if it is not at hand."""
    try:
        lines, _ = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef | ast.ClassDef) or len(tree.body) != 1:
        return None
    definition.decorator_list = []
    return tree


def source_of(function: Callable) -> str:
    """A definition as Python prints it, without comments and layout; "" if it is not at hand."""
    tree = _tree_of(function)
    return "" if tree is None else ast.unparse(tree)


OUTSIDE = {
    *("exit", "quit", "input", "open", "exec", "eval", "sleep", "os", "sys", "signal", "time"),
    *("threading", "subprocess", "shutil", "socket", "_thread", "ctypes", "multiprocessing"),
}


def _reaches_out(definition: ast.AST) -> bool:
    """Whether a function uses more than numbers: files, processes, the clock, the way out."""
    words = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name)}
    words |= {n.attr for n in ast.walk(definition) if isinstance(n, ast.Attribute)}
    raised = {
        name.id
        for node in ast.walk(definition)
        if isinstance(node, ast.Raise) and node.exc is not None
        for name in ast.walk(node.exc)
        if isinstance(name, ast.Name)
    }
    ways_out = {"SystemExit", "KeyboardInterrupt", "BaseException", "GeneratorExit"}
    return bool(words & OUTSIDE or raised & ways_out)


def _globals(function: Callable) -> dict[str, Any]:
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return getattr(function, "__globals__", vars(module) if module else {})


def _compiled(source: str, names: dict[str, Any], name: str, turns: Turns) -> Callable:
    """The definition as it stands, run with the names of the module that it came from."""
    counting = _Counting().visit(ast.parse(source))
    space = dict(names) | {"_turn": turns.one}
    exec(compile(ast.fix_missing_locations(counting), "<edited>", "exec"), space)
    made = space[name]
    if inspect.isclass(made):
        return made

    def call(*arguments: Any, **options: Any) -> Any:
        turns.now = 0
        return made(*arguments, **options)

    call.__name__ = name
    return call


class _Counting(ast.NodeTransformer):
    """Each turn of each loop, also of a comprehension, calls `_turn`."""

    def _loop(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body.insert(0, ast.parse("_turn()").body[0])
        return node

    visit_For = visit_While = _loop  # noqa: N815

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        node.ifs.insert(0, ast.parse("_turn()", mode="eval").body)
        return node


def names_in(function: Callable) -> str:
    """The source of a function, to look for a name; nothing where it is not at hand."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def has_loops(function: Callable) -> bool:
    """Whether a function's source has a loop or a comprehension; False where it is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(names_in(function)))
    except SyntaxError:
        return False
    loops = ast.For | ast.While | ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp
    return any(isinstance(node, loops) for node in ast.walk(tree))
