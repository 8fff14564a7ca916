"""`@checked`: what a signature states holds, and one sentence says where it does not."""

import inspect
import timeit
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Int, Integer, Real, Shaped, UInt8
from torch import Tensor

from lessons.kit.data import checks
from lessons.kit.data.checks import checked

FLAT, WIDE = torch.zeros(3, 40), torch.zeros(3, 41)
MASKS = [torch.zeros(2, 4, 5, dtype=torch.bool), torch.zeros(3, 6, 7, dtype=torch.bool)]


@checked
def function(
    logits: Float[Tensor, "n p"],
    targets: Float[Tensor, "n p"],
    labels: Int[Tensor, "n"] | None = None,
    masks: Sequence[Bool[Tensor, "_ _ _"]] = (),
    *,
    classes: Float[Tensor, "n k"] | None = None,
    padded: Float[Tensor, "*batch k+1"] | None = None,
    corner: Float[Tensor, "4"] | None = None,
    table: Int[np.ndarray, "n m"] | None = None,
    weight: Float[Tensor, ""] | None = None,
    image: UInt8[Tensor, "3 ..."] | None = None,
    name: str = "free",
) -> str:
    """Says its name."""
    return name


GOOD = {
    "two tensors": ((FLAT, FLAT), {}),
    "by keyword, in another order": ((), {"targets": FLAT, "logits": FLAT}),
    "every float": ((FLAT.half(), FLAT.double()), {}),
    "every integer": ((FLAT, FLAT, torch.zeros(3, dtype=torch.int16)), {}),
    "none": ((FLAT, FLAT, None), {}),
    "masks of several sizes": ((FLAT, FLAT, None, MASKS), {}),
    "no masks": ((FLAT, FLAT, None, []), {}),
    "one more than k": ((FLAT, FLAT), {"classes": FLAT[:, :4], "padded": torch.zeros(2, 2, 5)}),
    "k+1 of an unknown k": ((FLAT, FLAT), {"padded": torch.zeros(7)}),
    "a number": ((FLAT, FLAT), {"weight": torch.tensor(1.0), "corner": torch.zeros(4)}),
    "an array": ((FLAT, FLAT), {"table": np.zeros((3, 2), dtype=np.int64)}),
    "any number of sizes": ((FLAT, FLAT), {"image": torch.zeros(3, 2, 2, 2, dtype=torch.uint8)}),
    "empty": ((FLAT[:0], FLAT[:0], torch.zeros(0, dtype=torch.int64)), {}),
    "what is not annotated with a shape": ((FLAT, FLAT), {"name": 3}),
}


@pytest.mark.parametrize("call", GOOD)
def test_what_the_signature_states_passes(call):
    arguments, options = GOOD[call]
    assert function(*arguments, **options) == options.get("name", "free")


AS_LOGITS = "= (3, 40) as logits"
BAD = {
    "another size": (
        (FLAT, WIDE),
        {},
        f"targets must be float (n, p) {AS_LOGITS}, not float (3, 41)",
    ),
    "another size by keyword": (
        (),
        {"targets": WIDE, "logits": FLAT},
        f"targets must be float (n, p) {AS_LOGITS}, not float (3, 41)",
    ),
    "another kind": (
        (FLAT, FLAT.long()),
        {},
        f"targets must be float (n, p) {AS_LOGITS}, not int64 (3, 40)",
    ),
    "boolean": ((FLAT > 0, FLAT), {}, "logits must be float (n, p), not boolean (3, 40)"),
    "fewer sizes": ((FLAT[0], FLAT), {}, "logits must be float (n, p), not float (40,)"),
    "a number": ((FLAT.sum(), FLAT), {}, "logits must be float (n, p), not one float number"),
    "a list": ((FLAT.tolist(), FLAT), {}, "logits must be float (n, p), not a list"),
    "None": ((None, FLAT), {}, "logits must be float (n, p), not None"),
    "NumPy": (
        (FLAT.numpy(), FLAT),
        {},
        "logits must be float (n, p), not a NumPy array, float32 (3, 40)",
    ),
    "labels of others": (
        (FLAT, FLAT, torch.zeros(2, dtype=torch.int64)),
        {},
        "labels must be integer (n,) = (3,) as logits, not int64 (2,)",
    ),
    "float labels": (
        (FLAT, FLAT, FLAT[:, 0]),
        {},
        "labels must be integer (n,) = (3,) as logits, not float (3,)",
    ),
    "one of the masks": (
        (FLAT, FLAT, None, [MASKS[0], MASKS[1][0]]),
        {},
        "masks[1] must be boolean (_, _, _), not boolean (6, 7)",
    ),
    "a tensor for a list": (
        (FLAT, FLAT, None, MASKS[0]),
        {},
        "masks must be a list of tensors, not boolean (2, 4, 5)",
    ),
    "one more than k": (
        (FLAT, FLAT),
        {"classes": FLAT[:, :4], "padded": torch.zeros(2, 2, 4)},
        "padded must be float (*batch, k+1) = (2, 2, 5), not float (2, 2, 4)",
    ),
    "a fixed size": (
        (FLAT, FLAT),
        {"corner": torch.zeros(5)},
        "corner must be float (4,), not float (5,)",
    ),
    "a tensor for a number": (
        (FLAT, FLAT),
        {"weight": FLAT},
        "weight must be one float number, not float (3, 40)",
    ),
    "a tensor for an array": (
        (FLAT, FLAT),
        {"table": FLAT.long()},
        "table must be a NumPy array, integer (n, m) = (3, m) as logits, not int64 (3, 40)",
    ),
    "too few sizes": (
        (FLAT, FLAT),
        {"image": torch.tensor(3, dtype=torch.uint8)},
        "image must be uint8 (3, ...), not one uint8 number",
    ),
}


@pytest.mark.parametrize("call", BAD)
def test_what_breaks_it_is_said_in_one_sentence(call):
    arguments, options, expected = BAD[call]
    with pytest.raises(ValueError) as error:
        function(*arguments, **options)
    assert str(error.value) == expected


def test_the_function_looks_as_it_did():
    assert function.__name__ == "function" and function.__doc__ == "Says its name."
    assert list(inspect.signature(function).parameters)[:2] == ["logits", "targets"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'targets'"):
        function(FLAT)
    with pytest.raises(TypeError, match="unexpected keyword argument 'wings'"):
        function(FLAT, FLAT, wings=2)


def test_a_method_is_checked_too():
    class Layer(torch.nn.Module):
        @checked
        def forward(self, x: Float[Tensor, "b c"], y: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
            return x + y

    assert Layer()(FLAT, FLAT).shape == FLAT.shape
    with pytest.raises(ValueError, match="y must be float"):
        Layer()(FLAT, WIDE)


def test_nothing_is_checked_while_torch_exports():
    class Add(torch.nn.Module):
        @checked
        def forward(self, x: Float[Tensor, "b c"], y: Float[Tensor, "b c"]) -> Tensor:
            return x + y

    exported = torch.export.export(Add(), (FLAT, FLAT + 1))
    assert exported.module()(FLAT, FLAT + 2).equal(FLAT + 2)


def test_it_costs_microseconds():
    """Asked for is a small share of the smallest taught function; no machine needs 0.2 ms."""

    def seconds(way):
        return min(timeit.repeat(lambda: way(FLAT, FLAT), number=200, repeat=5)) / 200

    assert seconds(function) - seconds(function.__wrapped__) < 2e-4


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: checks.labels_in(torch.tensor([0, 3]), 3),
            "labels must be 0 … 2, the 3 classes, not 3",
        ),
        (
            lambda: checks.labels_in(torch.tensor([-1]), 3),
            "labels must be 0 … 2, the 3 classes, not -1",
        ),
        (
            lambda: checks.labels_in(torch.tensor([200], dtype=torch.uint8), 200),
            "labels must be 0 … 199, the 200 classes, not 200",
        ),
        (lambda: checks.ids_in(torch.tensor([[0, 3]]), 2), "ids must be 0 … 2, not 0 … 3"),
        (
            lambda: checks.ids_in(torch.tensor([200, 7], dtype=torch.uint8), 199, "true ids"),
            "true ids must be 0 … 199, not 7 … 200",
        ),
        (lambda: checks.ids_in(torch.tensor([-1, 0]), 2), "ids must be 0 … 2, not -1 … 0"),
        (lambda: checks.shares(threshold=1.5), "threshold must be between 0 and 1, not 1.5"),
        (lambda: checks.shares(a=0.5, b=float("nan")), "b must be between 0 and 1, not nan"),
        (
            lambda: checks.shares(below_one=True, a=0.5, b=1),
            "b must be at least 0 and below 1, not 1",
        ),
        (lambda: checks.positive(a=1, reach=0.0), "reach must be positive and finite, not 0.0"),
        (
            lambda: checks.positive(reach=float("inf")),
            "reach must be positive and finite, not inf",
        ),
        (
            lambda: checks.positive(sigma=torch.tensor([1.0, -2.0, torch.nan])),
            "sigma must be positive and finite, not -2.0",
        ),
        (
            lambda: checks.finite(e=FLAT, seeds=torch.tensor([[1.0, 2.0], [3.0, -torch.inf]])),
            "seeds must be finite, not -inf at (1, 1): a network that says so has diverged",
        ),
        (
            lambda: checks.finite(seeds=torch.tensor(torch.nan)),
            "seeds must be finite, not nan at (): a network that says so has diverged",
        ),
        (
            lambda: checks.one_of({"a": 1, "b": 2, "c": 3}, kind="d"),
            "kind must be one of a, b, c, not 'd'",
        ),
        (
            lambda: checks.one_of(("align", "pool"), roi=[]),
            "roi must be one of align, pool, not []",
        ),
        (
            lambda: checks.at_least(1, smallest=0),  # a name of the check's own
            "smallest must be a whole number of at least 1, not 0",
        ),
        (lambda: checks.at_least(1, heads=0), "heads must be a whole number of at least 1, not 0"),
        (
            lambda: checks.at_least(1, heads=2.0),
            "heads must be a whole number of at least 1, not 2.0",
        ),
        (lambda: checks.between(0, 4, things=5), "things must be in 0 … 4, not 5"),
        (lambda: checks.between(0, 4, things=True), "things must be in 0 … 4, not True"),
        (lambda: checks.one_of(("a", "b"), way="c"), "way must be one of a, b, not 'c'"),
        (
            lambda: checks.as_many(2, targets=[1]),
            "targets must have one entry for each of 2 images, not 1",
        ),
        (
            lambda: checks.as_many(4, "levels", features=[1]),
            "features must have one entry for each of 4 levels, not 1",
        ),
    ],
)
def test_ranges(check, message):
    with pytest.raises(ValueError) as error:
        check()
    assert str(error.value) == message


def test_good_ranges_pass():
    checks.labels_in(torch.tensor([], dtype=torch.int64), 3)
    checks.labels_in(torch.tensor([0, 2]), 3)
    checks.labels_in(torch.tensor([0, 200], dtype=torch.uint8), 300)
    checks.labels_in(torch.tensor([127], dtype=torch.int8), 200)
    checks.labels_in(torch.tensor([1], dtype=torch.uint16), 2)
    checks.ids_in(torch.zeros(0, 3, dtype=torch.int64), 0)
    checks.ids_in(torch.tensor([0, 200], dtype=torch.uint8), 200)
    checks.shares(a=0, b=1)
    checks.at_least(0, n=0)
    checks.as_many(0, targets=[])
    checks.between(0, 4, things=0, stuff=4)
    checks.one_of(("a", "b"), way="b")
    checks.shares(below_one=True, a=0, b=0.999)
    checks.positive(a=1, b=1e-9, empty=FLAT[:0], c=torch.ones(2))
    checks.finite(a=FLAT, empty=FLAT[:0])


def test_shaped_takes_every_dtype():
    @checked
    def count(masks: Shaped[Tensor, "n p"]) -> int:
        return len(masks)

    assert count(torch.ones(2, 3)) == count(torch.ones(2, 3, dtype=torch.bool)) == 2
    with pytest.raises(ValueError) as error:
        count(torch.ones(3, dtype=torch.bool))
    assert str(error.value) == "masks must be (n, p), not boolean (3,)"


def test_what_is_no_sequence_of_tensors_is_left_to_python():
    """A pair of a tensor and a number, a set, a mapping: nothing is said of their shapes."""

    @checked
    def free(
        pair: tuple[Float[Tensor, "n"], int],
        table: dict[str, Float[Tensor, "n"]],
        several: set[Float[Tensor, "n"]],
    ) -> int:
        return pair[1]

    assert free.__wrapped__((FLAT, 3), {"a": FLAT}, {FLAT}) == 3
    assert free((FLAT, 3), {"a": FLAT}, {FLAT}) == 3


@checked
def several(
    cost: Real[Tensor, "n m"] | Bool[Tensor, "n m"] | Real[np.ndarray, "n m"],
    labels: Bool[Tensor, "n"] | Integer[Tensor, "n"] | None = None,
    boxes: Real[Tensor, "k 5"] | Sequence[Real[Tensor, "_ 4"]] = (),
    number: Int[Tensor, ""] | int = 0,
    sigma: Float[Tensor, "#2 n"] | None = None,
    weights: Float[Tensor, "#n"] | None = None,
) -> bool:
    """Several kinds for one argument; a size that is 1 or another."""
    return True


ONES = torch.ones(3, dtype=torch.bool)
ROWS = torch.zeros(4, 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((FLAT,), {}),
        ((FLAT.int(), ONES), {}),
        ((FLAT > 0, ONES.int()), {}),
        ((FLAT.numpy(), None), {}),
        ((FLAT.numpy().astype(">f8"), ONES), {}),  # another order of bytes
        ((FLAT, ONES, torch.zeros(7, 5)), {}),
        ((FLAT, ONES, [ROWS, ROWS[:0]]), {}),
        ((FLAT,), {"number": 3}),
        ((FLAT,), {"sigma": FLAT[:1, :3], "weights": FLAT[0, :3]}),
        ((FLAT,), {"sigma": FLAT[:2, :3], "weights": FLAT[0, :1]}),
    ],
)
def test_a_value_may_be_one_of_several_kinds(arguments, options):
    assert several(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (FLAT.cfloat(),),
            {},
            "cost must be real or boolean (n, m) or a NumPy array, real (n, m), "
            "not complex64 (3, 40)",
        ),
        ((FLAT[0],), {}, "cost must be real (n, m), not float (40,)"),
        ((FLAT[0] > 0,), {}, "cost must be boolean (n, m), not boolean (40,)"),
        (
            (FLAT.numpy()[0],),
            {},
            "cost must be a NumPy array, real (n, m), not a NumPy array, float32 (40,)",
        ),
        (
            (FLAT, ONES[:2]),
            {},
            "labels must be boolean (n,) = (3,) as cost, not boolean (2,)",
        ),
        (
            (FLAT, FLAT[:, 0]),
            {},
            "labels must be boolean or integer (n,) = (3,) as cost, not float (3,)",
        ),
        (
            (FLAT, ONES, ROWS),
            {},
            "boxes must be real (k, 5) = (4, 5), not int32 (4, 4)",
        ),
        ((FLAT, ONES, [ROWS, ROWS[0]]), {}, "boxes[1] must be real (_, 4), not int32 (4,)"),
        (
            (FLAT, ONES, "boxes"),
            {},
            "boxes must be real (k, 5) or a list of tensors, not a str",
        ),
        (
            (FLAT,),
            {"sigma": FLAT[:, :3]},
            "sigma must be float (1 or 2, n) = (1 or 2, 3) as cost, not float (3, 3)",
        ),
        (
            (FLAT,),
            {"weights": FLAT[0, :2]},
            "weights must be float (1 or n,) = (1 or 3,) as cost, not float (2,)",
        ),
    ],
)
def test_what_is_none_of_them_is_said_in_one_sentence(arguments, options, message):
    with pytest.raises(ValueError) as error:
        several(*arguments, **options)
    assert str(error.value) == message


def test_any_number_of_sizes_may_be_none():
    @checked
    def gauss(centre: Float[Tensor, "*n 2"], sigma: Float[Tensor, "*n #2"]) -> None:
        pass

    gauss(torch.zeros(2), torch.zeros(1))
    gauss(torch.zeros(4, 3, 2), torch.zeros(4, 3, 2))
    with pytest.raises(ValueError) as error:
        gauss(torch.zeros(2), torch.zeros(3))
    assert str(error.value) == (
        "sigma must be float (*n, 1 or 2) = (1 or 2,) as centre, not float (3,)"
    )
