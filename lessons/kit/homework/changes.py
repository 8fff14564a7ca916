"""Small changes of a function's syntax tree, one at a time, in the order of its text."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MOST_NAMES = 150  # changes of one name for another

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
    ("probability", ("softmax", "log_softmax")),
    ("probability", ("sigmoid", "logsigmoid")),
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


@dataclass
class Change:
    """One change of a tree: its kind, the line in the tree, and the change in signs."""

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


def changes_of(definition: ast.AST) -> Iterator[Change]:
    """Every change: those of operators, constants, calls and statements, then the names."""
    names: list[Change] = []
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
                Change("name", line, f"{node.id} → {other}", _set(node, "id", other))
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


def _of_node(node: ast.AST, line: int, become: Callable) -> Iterator[Change]:
    text = ast.unparse(node) if isinstance(node, ast.expr) else ""
    short = text if len(text) <= 40 else text[:39] + "…"
    if isinstance(node, ast.BinOp):
        sign = SYMBOLS.get(type(node.op), type(node.op).__name__)
        for new in OPERATORS.get(type(node.op), ()):
            yield Change("operator", line, f"{sign} → {SYMBOLS[new]}", _set(node, "op", new()))
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            what = f"{sign} {ast.unparse(lost)} left out"
            yield Change("term", line, what, become(kept))
        if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Pow | ast.MatMult):
            turned = ast.BinOp(node.right, node.op, node.left)
            yield Change("operands", line, f"{short}: sides exchanged", become(turned))
    elif isinstance(node, ast.AugAssign):
        for new in OPERATORS.get(type(node.op), ()):
            what = f"{SYMBOLS[type(node.op)]}= → {SYMBOLS[new]}="
            yield Change("operator", line, what, _set(node, "op", new()))
        plain = ast.Assign([node.target], node.value)
        plain.lineno = node.lineno
        yield Change("accumulated", line, "the last instead of the sum", become(plain))
    elif isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for kind, table in (("border", BORDERS), ("turned", TURNED)):
                if type(op) in table:
                    new = table[type(op)]
                    what = f"{SYMBOLS[type(op)]} → {SYMBOLS[new]}"
                    yield Change(kind, line, what, _set(node, "ops", new(), place))
    elif isinstance(node, ast.BoolOp):
        new = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield Change("operator", line, "and, or exchanged", _set(node, "op", new))
        for place, part in enumerate(node.values):
            rest = [value for k, value in enumerate(node.values) if k != place]
            left = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
            yield Change("condition", line, f"{ast.unparse(part)} left out", become(left))
    elif isinstance(node, ast.UnaryOp):
        kind = "sign" if isinstance(node.op, ast.USub) else "inverted"
        yield Change(kind, line, f"{short[0]} left out", become(node.operand))
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node, line, "constant")
    elif isinstance(node, ast.IfExp):
        yield Change("condition", line, "always the first", become(node.body))
        yield Change("condition", line, "always the second", become(node.orelse))
    elif isinstance(node, ast.Call):
        yield from _of_call(node, line, become)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield Change("index", line, f"[{ast.unparse(node.slice)}] left out", become(node.value))
    elif isinstance(node, ast.Slice):
        for part in ("lower", "upper", "step"):
            if getattr(node, part) is not None:
                yield Change("index", line, f"{part} end left out", _set(node, part, None))
    elif isinstance(node, ast.comprehension):
        for place, test in enumerate(node.ifs):
            rest = [other for k, other in enumerate(node.ifs) if k != place]
            what = f"if {ast.unparse(test)} left out"
            yield Change("condition", getattr(test, "lineno", 0), what, _set(node, "ifs", rest))
    if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
        field = "attr" if isinstance(node, ast.Attribute) else "id"
        word = getattr(node, field)
        for kind, group in FUNCTIONS:
            for other in group if word in group else ():
                if other != word:
                    yield Change(kind, line, f"{word} → {other}", _set(node, field, other))
        if isinstance(node, ast.Attribute) and word in ("T", "mT"):
            yield Change("transposed", line, f".{word} left out", become(node.value))


def _of_constant(node: ast.Constant, line: int, kind: str) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield Change("switch", line, f"{value} → {not value}", _set(node, "value", not value))
    elif isinstance(value, int | float):
        if isinstance(value, int):
            others = [0, 1, -1, value + 1, value - 1, 2 * value, -value]
        else:
            others = [0.0, 1.0, -1.0, 2 * value, value / 2, value + 0.5, value - 0.5, -value]
        for other in dict.fromkeys(others):
            if other != value:
                yield Change(kind, line, f"{value} → {other}", _set(node, "value", other))


def _of_call(node: ast.Call, line: int, become: Callable) -> Iterator[Change]:
    name = ast.unparse(node.func)
    if isinstance(node.func, ast.Attribute):  # x.f(…) → x
        what = f".{node.func.attr}() left out"
        yield Change("step", line, what, become(node.func.value))
    if node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
        yield Change("step", line, f"{name}() left out", become(node.args[0]))
    if len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        other = list(reversed(node.args))
        yield Change("arguments", line, f"{name}: arguments exchanged", _set(node, "args", other))
    for place, keyword in enumerate(node.keywords):
        rest = [other for k, other in enumerate(node.keywords) if k != place]
        what = f"{name}: {keyword.arg}= left out"
        yield Change("keyword", line, what, _set(node, "keywords", rest))
    if len(node.args) > 1 and not isinstance(node.args[-1], ast.Starred):
        what = f"{name}: last argument left out"
        yield Change("keyword", line, what, _set(node, "args", node.args[:-1]))


def _of_statement(
    node: ast.stmt, owner: ast.AST, field: str, index: int | None, line: int
) -> Iterator[Change]:
    if isinstance(node, ast.If):
        for kind, test, what in (
            ("condition", ast.Constant(True), "always"),
            ("condition", ast.Constant(False), "never"),
            ("turned", ast.UnaryOp(ast.Not(), node.test), "turned"),
        ):
            if kind == "turned" and _asks_for_none(node.test):
                continue
            words = f"if {ast.unparse(node.test)}: {what}"
            yield Change(kind, line, words, _set(node, "test", test))
    removable = isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Continue | ast.Break)
    if removable and index is not None:
        text = ast.unparse(node)
        words = f"{text if len(text) <= 50 else text[:49] + '…'}: left out"
        yield Change("statement", line, words, _set(owner, field, ast.Pass(), index))
    if isinstance(node, ast.For) and index is not None:
        backwards = ast.Call(ast.Name("reversed", ast.Load()), [_as_list(node.iter)], [])
        yield Change("order", line, "backwards", _set(node, "iter", backwards))
    if isinstance(node, ast.Return) and node.value is not None:
        for attribute in ("T", "mT"):
            turned = ast.Attribute(node.value, attribute, ast.Load())
            yield Change("transposed", line, f"returned .{attribute}", _set(node, "value", turned))


def _asks_for_none(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot)


def _as_list(node: ast.expr) -> ast.expr:
    return ast.Call(ast.Name("list", ast.Load()), [node], [])
