"""A corpus of answers as students write them, made without sight of the lists of mistakes."""

import ast
import importlib
import linecache
import math
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.homework import judge

TESTS = Path(__file__).parents[1]
CORPUS = sorted((TESTS / "wrong_answers").glob("*.toml"))


def names_of(homework):
    """What the handed-out notebook imports, and what everybody has."""
    space = {"torch": torch, "np": np, "math": math, "F": F, "nn": nn, "Tensor": Tensor}
    (path,) = (TESTS.parent / "notebooks/homework").glob(f"??_{homework}.ipynb")
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Import | ast.ImportFrom) and "lessons.homework" not in str(
                    getattr(node, "module", "")
                ):
                    exec(compile(ast.Module([node], []), path.name, "exec"), space)
    return space


def function_of(code, name, space, number):
    """A function of the corpus, with its source at hand as in a notebook."""
    file = f"<{name} {number}>"
    space = dict(space) | {"__name__": f"answer_{name}_{number}"}
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), space)
    return space[name]


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
def test_the_corpus(path):
    """None of the wrong answers passes, all right ones do; most of the mistakes are named."""
    corpus = tomllib.loads(path.read_text(encoding="utf-8"))
    name, space = corpus["exercise"], names_of(corpus["homework"])
    homework = importlib.import_module(f"lessons.homework.{corpus['homework']}").homework
    exercise, named = homework.exercise(name), 0
    for number, answer in enumerate(corpus["right"]):
        verdict = judge(exercise, function_of(answer["code"], name, space, f"right {number}"))
        assert verdict.state == "passed", verdict.message
    for number, answer in enumerate(corpus["wrong"]):
        verdict = judge(exercise, function_of(answer["code"], name, space, f"wrong {number}"))
        assert verdict.state == "wrong", answer["diagnosis"]
        named += bool(verdict.hint)
        assert verdict.hint == "" or verdict.diagnosis
    assert named >= 0.3 * len(corpus["wrong"])  # of all together 64 %


def test_the_corpus_is_large():
    counts = [len(tomllib.loads(path.read_text(encoding="utf-8"))["wrong"]) for path in CORPUS]
    assert len(CORPUS) >= 10 and sum(counts) >= 150
