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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MOST = 500  # edits of one function
MOST_NAMES = 150  # of them, one name for another

OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
BORDERS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
TURNED |= {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
FUNCTIONS = [
    ("extreme", ("min", "max")),
    ("extreme", ("amin", "amax")),
    ("extreme", ("minimum", "maximum")),
    ("extreme", ("argmin", "argmax")),
    ("extreme", ("cummin", "cummax")),
    ("mean", ("sum", "mean")),
    ("rounding", ("floor", "ceil", "round")),
    ("any", ("any", "all")),
    ("angle", ("sin", "cos")),
    ("filled", ("zeros", "ones")),
    ("filled", ("zeros_like", "ones_like")),
    ("product", ("sum", "prod")),
    ("activation", ("sigmoid", "softmax")),
    ("logarithm", ("log", "exp")),
    ("logarithm", ("softmax", "log_softmax")),
    ("logarithm", ("sigmoid", "logsigmoid")),
    ("power", ("sqrt", "square")),
]
SYMBOLS = {
    ast.Add: "+",
    ast.Sub: "−",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


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
    try:
        lines, _ = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef | ast.ClassDef) or len(tree.body) != 1:
        return []
    inner = inspect.unwrap(function)
    if getattr(inner, "__closure__", None) or _reaches_out(definition):
        return []
    names = _globals(inner)
    first = definition.lineno  # without decorators
    definition.decorator_list = []
    turns, found = Turns(), []
    try:
        measure(_compiled(ast.unparse(tree), names, definition.name, turns))
    except Exception:  # a class of a function, whose names are not at hand
        return []
    turns.limit, turns.total, turns.budget = int(1.5 * turns.most) + 2, 0, budget
    for change in list(_changes(definition)):
        undo = change.apply()
        try:
            source = ast.unparse(tree)
            whole = _compiled(source, names, definition.name, turns)
        except Exception:  # it is no Python any more, or a class that cannot be made
            whole = None
        undo()
        if whole is not None:
            found.append(Edit(change.kind, change.line - first + 1, change.words, whole, source))
        if len(found) == MOST:
            break
    return found


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


# ---------------------------------------------------------------- the changes


@dataclass
class _Change:
    kind: str
    line: int
    words: str
    apply: Callable[[], Callable[[], None]]  # makes the change, and returns what undoes it


def _set(owner: Any, field: str, value: Any, index: int | None = None) -> Callable:
    """A change of one field of a node, or of one entry of a list."""

    def apply() -> Callable[[], None]:
        if index is None:
            old = getattr(owner, field)
            setattr(owner, field, value)
            return lambda: setattr(owner, field, old)
        entries = getattr(owner, field)
        old = entries[index]
        entries[index] = value
        return lambda: entries.__setitem__(index, old)

    return apply


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node below, in the order of the text, with where it hangs; no annotation, docstring."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "ctx"):
            continue
        entries = value if isinstance(value, list) else [value]
        for index, child in enumerate(entries):
            if not isinstance(child, ast.AST) or _is_docstring(child):
                continue
            yield node, field, index if isinstance(value, list) else None, child
            yield from _places(child)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


AXES = ("dim", "axis", "dims")
REDUCING = {
    *("sum", "mean", "amax", "amin", "max", "min", "any", "all", "argmax", "argmin", "cumsum"),
    *("cummax", "cummin", "flip", "softmax", "log_softmax", "sort", "argsort", "unsqueeze", "prod"),
    *("gather", "unbind", "cat", "stack", "norm", "flatten", "squeeze", "diff", "logsumexp"),
}


def _axes(definition: ast.AST) -> set[int]:
    """The numbers (by id of their node) that say an axis."""
    found = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Call):
            found |= {id(n) for k in node.keywords if k.arg in AXES for n in ast.walk(k.value)}
            if isinstance(node.func, ast.Attribute) and node.func.attr in REDUCING:
                found |= {id(n) for a in node.args for n in ast.walk(a)}
    return found


def _changes(definition: ast.AST) -> Iterator[_Change]:
    names: list[_Change] = []
    axes = _axes(definition)
    known = _local_names(definition)
    for owner, field, index, node in _places(definition):
        line = getattr(node, "lineno", 0)

        def become(new: ast.AST, owner=owner, field=field, index=index) -> Callable:
            return _set(owner, field, new, index)

        if isinstance(node, ast.Constant) and id(node) in axes:
            yield from _of_constant(node, line, "axis")
        else:
            yield from _of_node(node, line, become)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in known:
            names += [
                _Change("name", line, f"{node.id} → {other}", _set(node, "id", other))
                for other in known
                if other != node.id
            ]
        if isinstance(node, ast.stmt):
            yield from _of_statement(node, owner, field, index, line)
    yield from names[:MOST_NAMES]


def _local_names(definition: ast.AST) -> list[str]:
    """Parameters and variables, in the order of the text."""
    found: dict[str, None] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            found[node.arg] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
    return list(found)


def _of_node(node: ast.AST, line: int, become: Callable) -> Iterator[_Change]:
    text = ast.unparse(node) if isinstance(node, ast.expr) else ""
    short = text if len(text) <= 40 else text[:39] + "…"
    if isinstance(node, ast.BinOp):
        sign = SYMBOLS.get(type(node.op), type(node.op).__name__)
        for new in OPERATORS.get(type(node.op), ()):
            yield _Change("operator", line, f"{sign} → {SYMBOLS[new]}", _set(node, "op", new()))
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            what = f"{sign} {ast.unparse(lost)} left out"
            yield _Change("term", line, what, become(kept))
        if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Pow | ast.MatMult):
            turned = ast.BinOp(node.right, node.op, node.left)
            yield _Change("operands", line, f"{short}: sides exchanged", become(turned))
    elif isinstance(node, ast.AugAssign):
        for new in OPERATORS.get(type(node.op), ()):
            what = f"{SYMBOLS[type(node.op)]}= → {SYMBOLS[new]}="
            yield _Change("operator", line, what, _set(node, "op", new()))
        plain = ast.Assign([node.target], node.value)
        plain.lineno = node.lineno
        yield _Change("accumulated", line, "the last instead of the sum", become(plain))
    elif isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for kind, table in (("border", BORDERS), ("turned", TURNED)):
                if type(op) in table:
                    new = table[type(op)]
                    what = f"{SYMBOLS[type(op)]} → {SYMBOLS[new]}"
                    yield _Change(kind, line, what, _set(node, "ops", new(), place))
    elif isinstance(node, ast.BoolOp):
        new = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield _Change("operator", line, "and, or exchanged", _set(node, "op", new))
        for place, part in enumerate(node.values):
            rest = [value for k, value in enumerate(node.values) if k != place]
            left = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
            yield _Change("condition", line, f"{ast.unparse(part)} left out", become(left))
    elif isinstance(node, ast.UnaryOp):
        kind = "sign" if isinstance(node.op, ast.USub) else "inverted"
        yield _Change(kind, line, f"{short[0]} left out", become(node.operand))
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node, line, "constant")
    elif isinstance(node, ast.IfExp):
        yield _Change("condition", line, "always the first", become(node.body))
        yield _Change("condition", line, "always the second", become(node.orelse))
    elif isinstance(node, ast.Call):
        yield from _of_call(node, line, become)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield _Change("index", line, f"[{ast.unparse(node.slice)}] left out", become(node.value))
    elif isinstance(node, ast.Slice):
        for part in ("lower", "upper", "step"):
            if getattr(node, part) is not None:
                yield _Change("index", line, f"{part} end left out", _set(node, part, None))
    elif isinstance(node, ast.comprehension):
        for place, test in enumerate(node.ifs):
            rest = [other for k, other in enumerate(node.ifs) if k != place]
            what = f"if {ast.unparse(test)} left out"
            yield _Change("condition", getattr(test, "lineno", 0), what, _set(node, "ifs", rest))
    if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
        field = "attr" if isinstance(node, ast.Attribute) else "id"
        word = getattr(node, field)
        for kind, group in FUNCTIONS:
            for other in group if word in group else ():
                if other != word:
                    yield _Change(kind, line, f"{word} → {other}", _set(node, field, other))
        if isinstance(node, ast.Attribute) and word in ("T", "mT"):
            yield _Change("transposed", line, f".{word} left out", become(node.value))


def _of_constant(node: ast.Constant, line: int, kind: str) -> Iterator[_Change]:
    value = node.value
    if isinstance(value, bool):
        yield _Change("switch", line, f"{value} → {not value}", _set(node, "value", not value))
    elif isinstance(value, int | float):
        if isinstance(value, int):
            others = [0, 1, -1, value + 1, value - 1, 2 * value, -value]
        else:
            others = [0.0, 1.0, -1.0, 2 * value, value / 2, value + 0.5, value - 0.5, -value]
        for other in dict.fromkeys(others):
            if other != value:
                yield _Change(kind, line, f"{value} → {other}", _set(node, "value", other))


def _of_call(node: ast.Call, line: int, become: Callable) -> Iterator[_Change]:
    name = ast.unparse(node.func)
    if isinstance(node.func, ast.Attribute):  # x.f(…) → x
        what = f".{node.func.attr}() left out"
        yield _Change("step", line, what, become(node.func.value))
    if node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
        yield _Change("step", line, f"{name}() left out", become(node.args[0]))
    if len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        other = list(reversed(node.args))
        yield _Change("arguments", line, f"{name}: arguments exchanged", _set(node, "args", other))
    for place, keyword in enumerate(node.keywords):
        rest = [other for k, other in enumerate(node.keywords) if k != place]
        what = f"{name}: {keyword.arg}= left out"
        yield _Change("keyword", line, what, _set(node, "keywords", rest))
    if len(node.args) > 1 and not isinstance(node.args[-1], ast.Starred):
        what = f"{name}: last argument left out"
        yield _Change("keyword", line, what, _set(node, "args", node.args[:-1]))


def _of_statement(
    node: ast.stmt, owner: ast.AST, field: str, index: int | None, line: int
) -> Iterator[_Change]:
    if isinstance(node, ast.If):
        for kind, test, what in (
            ("condition", ast.Constant(True), "always"),
            ("condition", ast.Constant(False), "never"),
            ("turned", ast.UnaryOp(ast.Not(), node.test), "turned"),
        ):
            if kind == "turned" and _asks_for_none(node.test):
                continue
            words = f"if {ast.unparse(node.test)}: {what}"
            yield _Change(kind, line, words, _set(node, "test", test))
    removable = isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Continue | ast.Break)
    if removable and index is not None:
        text = ast.unparse(node)
        words = f"{text if len(text) <= 50 else text[:49] + '…'}: left out"
        yield _Change("statement", line, words, _set(owner, field, ast.Pass(), index))
    if isinstance(node, ast.For) and index is not None:
        backwards = ast.Call(ast.Name("reversed", ast.Load()), [_as_list(node.iter)], [])
        yield _Change("order", line, "backwards", _set(node, "iter", backwards))
    if isinstance(node, ast.Return) and node.value is not None:
        for attribute in ("T", "mT"):
            turned = ast.Attribute(node.value, attribute, ast.Load())
            yield _Change("transposed", line, f"returned .{attribute}", _set(node, "value", turned))


def _asks_for_none(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot)


def names_in(function: Callable) -> str:
    """The source of a function, to look for a name; nothing where it is not at hand."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _as_list(node: ast.expr) -> ast.expr:
    return ast.Call(ast.Name("list", ast.Load()), [node], [])


def has_loops(function: Callable) -> bool:
    """Whether a function's source has a loop or a comprehension; False where it is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(names_in(function)))
    except SyntaxError:
        return False
    loops = ast.For | ast.While | ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp
    return any(isinstance(node, loops) for node in ast.walk(tree))
