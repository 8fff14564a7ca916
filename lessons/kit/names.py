"""Names in source code: what a statement binds, and what it looks up outside of itself."""

import ast
import symtable
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom


def imported(node: ast.AST) -> dict[str, str]:
    """The names that an import binds, each with the import of it alone: "import torch"."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: ast.unparse(ast.Import([alias]))
            for alias in node.names
        }
    if isinstance(node, ast.ImportFrom):
        return {
            alias.asname or alias.name: ast.unparse(
                ast.ImportFrom(node.module, [alias], node.level)
            )
            for alias in node.names
        }
    return {}


def bound(node: ast.AST) -> set[str]:
    """The names that a statement at the top level binds there, also inside its blocks."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    names = set(imported(node))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
        elif not isinstance(child, ast.Lambda | ast.comprehension):
            names |= bound(child)
    return names


def taken(node: ast.stmt) -> set[str]:
    """The names that a statement takes from outside; a builtin's is one too."""
    names = {each.id for part in _outside(node) for each in ast.walk(part) if _is_name(each)}
    return names | set(_global_names(symtable.symtable(ast.unparse(node), "cell", "exec")))


def _outside(node: ast.stmt) -> Iterator[ast.AST]:
    """The parts of a definition that are computed around it: decorators, annotations, defaults."""
    if isinstance(node, Function):
        yield from [*node.decorator_list, node.args, *([node.returns] if node.returns else [])]


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    outermost = table.get_type() == "module"
    for symbol in table.get_symbols():
        own = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
        if symbol.is_global() if not outermost else not own:
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_names(child)


def statements(tree: ast.Module, name: str) -> tuple[ast.FunctionDef, list[ast.stmt]] | None:
    """A function of a cell's top level, the last of its name, and the statements it needs.

    They are those that bind what it looks up, and what these look up, in the cell's order. None
    where the cell defines no such function.
    """
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    if not functions:
        return None
    needed, wanted = set(), taken(functions[-1])
    others = [node for node in tree.body if name not in bound(node)]
    while more := [n for n in others if n not in needed and bound(n) & wanted]:
        needed |= set(more)
        wanted |= {each for node in more for each in taken(node)}
    return functions[-1], [node for node in tree.body if node in needed]


def text_of(node: ast.stmt, lines: list[str]) -> list[str]:
    """The lines of a statement, its decorators included."""
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    return lines[first - 1 : node.end_lineno]
