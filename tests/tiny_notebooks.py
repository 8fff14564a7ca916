"""Notebooks of a few cells for the tests: texts that begin with `# ` are prose, others code."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def write_notebook(
    root: Path, name: str, cells: list[str], metadata: dict[str, dict] | None = None
) -> Path:
    """Write `root/name`; the cells' ids are cell-0, cell-1 …"""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [
        new_markdown_cell(text, id=f"cell-{i}")
        if text.startswith("# ")
        else new_code_cell(text, id=f"cell-{i}")
        for i, text in enumerate(cells)
    ]
    nbformat.write(new_notebook(cells=made, metadata=metadata or {}), path)
    return path
