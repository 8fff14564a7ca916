"""A class that grows through a notebook is whole in the module, and the same in both."""

import importlib.util
import sys
from functools import partial

import pytest
import torch
from tiny_notebooks import write_notebook

from lessons.kit.classes import method_of
from lessons.kit.errors import LessonsError
from lessons.kit.notebooks.authoring import build
from lessons.kit.notebooks.reading import read_notebook

CELLS = [
    "# Counting sheep\n\nA model that grows.",
    """#| export
import torch
from torch import Tensor, nn

from lessons.kit.classes import method_of


class Layer(nn.Module):
    \"\"\"A layer.\"\"\"

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)


class Model(nn.Module):
    \"\"\"A model that grows.\"\"\"

    def __init__(self, width: int = 4):
        super().__init__()
        self.layer, self.scale = Layer(width), nn.Parameter(torch.ones(width))


HEIGHT = 3""",
    "# Now the way through it",
    """#| export
@method_of(Layer)
def forward(self, x: Tensor) -> Tensor:
    \"\"\"One layer.

    Two paragraphs.
    \"\"\"
    return self.linear(x).relu()


@method_of(Model)
def forward(self, x: Tensor) -> Tensor:
    \"\"\"All of it.\"\"\"
    return self.layer(x) * self.scale""",
    "2 + 2",
    '''#| export
@method_of(Model)
@torch.no_grad()
def predict(self, x: Tensor) -> str:
    """What it says."""
    # a comment that stays
    return f"""sheep:
{float(self(x).sum()):.4f}
    end"""


@method_of(Model)
@property
def width(self) -> int:
    """How wide it is."""
    return len(self.scale)


def helper() -> int:
    """Stands on its own."""
    return HEIGHT''',
]


@pytest.fixture
def both(tmp_path):
    """The classes as the notebook has them when it has run, and as the module has them."""
    path = write_notebook(tmp_path, "notebooks/01_sheep.ipynb", CELLS)
    build(tmp_path)
    space = {"__name__": "__main__"}
    for cell in read_notebook(path).cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
    file = tmp_path / "lessons/sheep.py"
    spec = importlib.util.spec_from_file_location("grown_sheep", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["grown_sheep"] = module
    spec.loader.exec_module(module)
    yield space, vars(module), file.read_text()
    del sys.modules["grown_sheep"]


def test_the_module_reads_as_if_written_by_hand(both):
    _, module, text = both
    assert "method_of" not in text and text.count("class Model") == 1
    assert text.index("class Model") < text.index("def predict") < text.index("HEIGHT = 3")
    assert "    @torch.no_grad()\n    def predict(self" in text
    assert "        # a comment that stays\n" in text and "\n\n\ndef helper()" in text
    assert list(vars(module["Model"]))[2:] != [] and "helper" in module


def test_notebook_and_module_are_the_same(both):
    notebook, module, _ = both
    torch.manual_seed(0)
    ours = notebook["Model"]()
    theirs = module["Model"]()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4)
    assert ours(x).equal(theirs(x))
    assert ours.predict(x) == theirs.predict(x) and ours.width == theirs.width == 4
    assert not ours.predict(x).startswith(" ") and "\n    end" in theirs.predict(x)


def test_names_and_docstrings_are_as_if_written_in_the_class(both):
    for space in both[:2]:
        model, layer = space["Model"], space["Layer"]
        assert model.forward.__qualname__ == "Model.forward"
        assert model.forward.__doc__ == "All of it."
        assert layer.forward.__qualname__ == "Layer.forward"
        assert layer.forward.__doc__.split() == ["One", "layer.", "Two", "paragraphs."]
        assert model.width.fget.__qualname__ == "Model.width"


WITHOUT_NAME = partial(len)  # it can be called, but what would the method's name be?
CLASS = "#| export\nclass A:\n    def f(self):\n        return 1"
WRONG = {
    "the class stands later": (
        ["#| export\n@method_of(A)\ndef g(self):\n    return 1", CLASS],
        "adds g to A, which no cell before it exports",
    ),
    "the class is not exported": (
        ["class B:\n    pass", "#| export\n@method_of(B)\ndef g(self):\n    return 1"],
        "adds g to B, which no cell before it exports",
    ),
    "twice": (
        [CLASS, *["#| export\n@method_of(A)\ndef g(self):\n    return 1"] * 2],
        "exports A.g again, it stands in",
    ),
    "in the class already": (
        [CLASS, "#| export\n@method_of(A)\ndef f(self):\n    return 2"],
        "exports A.f again, it stands in",
    ),
    "not outermost": (
        [CLASS, "#| export\n@property\n@method_of(A)\ndef g(self):\n    return 1"],
        "has a @method_of that is not above the other decorators",
    ),
    "without a class": (
        [CLASS, "#| export\n@method_of\ndef g(self):\n    return 1"],
        "has a @method_of without a class: @method_of(Class)",
    ),
    "above a class": (
        [CLASS, "#| export\n@method_of(A)\nclass B:\n    pass"],
        "has a @method_of(A) above what is no function",
    ),
    "super": (
        [CLASS, "#| export\n@method_of(A)\ndef g(self):\n    return super().g()"],
        "calls super() in A.g, which runs only inside a class: write super(A, self)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_joined_is_refused_in_one_sentence(tmp_path, case):
    cells, message = WRONG[case]
    write_notebook(tmp_path, "notebooks/01_sheep.ipynb", ["# A\n\nA lesson.", *cells])
    with pytest.raises(LessonsError) as error:
        build(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "01_sheep.ipynb, cell " in str(error.value)
    assert not (tmp_path / "lessons/sheep.py").exists()


def test_two_classes_may_have_a_method_of_one_name(tmp_path):
    cells = ["# A\n\nA lesson.", CLASS, CLASS.replace("class A", "class B")]
    for owner in "AB":
        cells.append(f"#| export\n@method_of({owner})\ndef g(self):\n    return {owner!r}")
    write_notebook(tmp_path, "notebooks/01_sheep.ipynb", cells)
    build(tmp_path)
    text = (tmp_path / "lessons/sheep.py").read_text()
    assert text.index('return "A"') < text.index("class B") < text.index('return "B"')


@pytest.mark.parametrize(
    ("owner", "method", "message"),
    [
        ("A", len, "method_of takes a class, not str"),
        (type("A", (), {}), 3, "method_of(A) takes a function, not 3"),
        (type("A", (), {}), WITHOUT_NAME, f"method_of(A) takes a function, not {WITHOUT_NAME!r}"),
    ],
)
def test_what_is_no_class_and_no_function_is_named(owner, method, message):
    with pytest.raises(TypeError) as error:
        method_of(owner)(method)
    assert str(error.value) == message
