"""What notebooks, solutions, benchmarks and modules import from the course is there."""

import ast
import importlib
from pathlib import Path

import pytest

from lessons.kit.notebooks.reading import read_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted([*ROOT.glob("notebooks/**/[0-9]*.ipynb"), *ROOT.glob("solutions/*.ipynb")])
MODULES = sorted([*ROOT.glob("lessons/**/*.py"), *ROOT.glob("bench/*.py")])


def texts(path):
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    return [cell.source for cell in read_notebook(path).cells if cell.cell_type == "code"]


def is_there(module, name):
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *MODULES], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_import_of_ours_is_there(path):
    for text in texts(path):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lessons"):
                missing = [a.name for a in node.names if not is_there(node.module, a.name)]
                assert missing == [], f"from {node.module}"
