"""The shortest notebook that reaches a cell: what it needs of the cells before it, and no more."""

import ast
import symtable
from collections.abc import Iterator


def needed_for(cells: list[str], last: int) -> list[str]:
    """The statements, cell by cell, without which `cells[last]` would lack a name.

    Cells of which nothing is needed are left out; `cells[last]` stays as it is. A statement that
    assigns to a name's part (`a[0] = …`, `a.b = …`) or calls its method (`a.append(…)`) is needed
    where the name is. What a function reads may be defined after it: hence the rounds.
    """
    late: set[str] = set()
    while True:
        wanted = late | _reads(cells[last])
        kept, found = [cells[last]], set(late)
        for text in reversed(cells[:last]):
            lines = []
            for statement in reversed(ast.parse(text).body):
                source = ast.unparse(statement)
                bound = _binds(source)
                if wanted & (bound | {*_changes(statement)}):
                    wanted = (wanted - bound) | _reads(source)
                    lines.insert(0, source)
                    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                        found |= _reads(source)
            if lines:
                kept.insert(0, "\n".join(lines))
        if found == late:
            return kept
        late = found


def _binds(source: str) -> set[str]:
    """The names that a statement gives a value, at the top level."""
    table = symtable.symtable(source, "", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}


def _reads(source: str) -> set[str]:
    """The names of the top level that a statement, or a function in it, reads."""
    found, tables = set(), [symtable.symtable(source, "", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        symbols = (s for s in table.get_symbols() if s.is_referenced())
        found |= {s.get_name() for s in symbols if top or s.is_global()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _changes(statement: ast.stmt) -> Iterator[str]:
    """The names a part of which a statement assigns, or whose method it calls as a statement."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            node = node.value.func
        elif not isinstance(getattr(node, "ctx", None), ast.Store):
            continue
        part = node
        while isinstance(part, ast.Attribute | ast.Subscript):
            part = part.value
        if part is not node and isinstance(part, ast.Name):
            yield part.id
