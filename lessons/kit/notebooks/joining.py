"""Methods that a notebook adds to a class in later cells are written into the class's body."""

import ast
import textwrap
from collections.abc import Iterator

from lessons.kit.errors import LessonsError

METHOD_OF = "method_of"
HOME = "lessons.kit.classes"  # of the decorator: the module does without its import

Function = ast.FunctionDef | ast.AsyncFunctionDef


def methods_in(tree: ast.Module, where: str) -> Iterator[tuple[str, Function]]:
    """The functions of a cell that are a class's, with its name.

    Raises LessonsError where the decorator does not stand outermost or names no class, and for
    what would not run in the notebook: `super()` without arguments.
    """
    for node in tree.body:
        decorators = getattr(node, "decorator_list", [])
        places = [place for place, each in enumerate(decorators) if _is_method_of(each)]
        if not places:
            continue
        decorator = decorators[0]
        if places != [0]:
            raise LessonsError(f"{where} has a @{METHOD_OF} that is not above the other decorators")
        named = isinstance(decorator, ast.Call) and len(decorator.args) == 1
        if not named or decorator.keywords or not isinstance(decorator.args[0], ast.Name):
            raise LessonsError(f"{where} has a @{METHOD_OF} without a class: @{METHOD_OF}(Class)")
        owner = decorator.args[0].id
        if not isinstance(node, Function):
            raise LessonsError(f"{where} has a @{METHOD_OF}({owner}) above what is no function")
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and not call.args and _is_named(call.func, "super"):
                raise LessonsError(
                    f"{where} calls super() in {owner}.{node.name}, which runs only inside a "
                    f"class: write super({owner}, self)"
                )
        yield owner, node


def own_methods(tree: ast.Module) -> set[str]:
    """The methods that the classes of a cell have in their bodies, as Class.method."""
    return {
        f"{node.name}.{each.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, Function)
    }


def with_method(body: str, owner: str, text: str, method: Function) -> str:
    """The text of a cell with a method, from another cell's text, at the end of its class."""
    (node,) = [n for n in ast.parse(body).body if isinstance(n, ast.ClassDef) and n.name == owner]
    lines, kept = body.split("\n"), _lines_of_strings(method)
    first = method.decorator_list[0].end_lineno + 1
    added = [
        line if number in kept else textwrap.indent(line, "    ")
        for number, line in enumerate(text.split("\n")[: method.end_lineno], start=1)
        if number >= first
    ]
    return "\n".join([*lines[: node.end_lineno], "", *added, *lines[node.end_lineno :]])


def without_method_of(node: ast.Import | ast.ImportFrom) -> str | None:
    """An import as the module has it; None where it is that of the decorator alone."""
    if isinstance(node, ast.ImportFrom) and node.module == HOME:
        names = [alias for alias in node.names if alias.name != METHOD_OF]
        if not names:
            return None
        node = ast.ImportFrom(node.module, names, node.level)
    return ast.unparse(node)


def _is_method_of(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return _is_named(called, METHOD_OF)


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _lines_of_strings(method: Function) -> set[int]:
    """The lines that begin inside a string; those of docstrings are indented like code."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(method)
        if isinstance(node, Function | ast.ClassDef) and isinstance(node.body[0], ast.Expr)
    }
    return {
        line
        for node in ast.walk(method)
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in docstrings
        for line in range(node.lineno + 1, node.end_lineno + 1)
    }
