"""What all seven systems have in common: types of numbers, batches with nothing to learn."""

from functools import cache

import pytest
import torch
from tiny_systems import PREDICTIONS, SYSTEMS

from lessons.kit.data import Segments, empty_segments
from lessons.kit.data.scenes import scene
from lessons.kit.models.images import MEAN, STD, batch_images, batch_segments
from lessons.set_prediction import Weights, class_loss

SAMPLES = [scene(0, index, 64) for index in range(2)]
IMAGES, SEGMENTS = [s.image for s in SAMPLES], [s.segments for s in SAMPLES]
systems = pytest.mark.parametrize("system", SYSTEMS)
DTYPES = [torch.float64, torch.bfloat16, torch.float16]


def made(system):
    """A system, the same at every call."""
    torch.manual_seed(0)
    return SYSTEMS[system]()


def losses_of(model, images=IMAGES, segments=SEGMENTS):
    """What it draws is the same at every call."""
    torch.manual_seed(1)
    return model(images, segments)


def learned(model, images=IMAGES, segments=SEGMENTS):
    """The losses as numbers; they and their gradients are finite."""
    losses = losses_of(model, images, segments)
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
    assert gradients
    return {name: loss.item() for name, loss in losses.items()}


@cache
def in_float32(system):
    """The losses that the other types of numbers are compared with."""
    return learned(made(system))


def predictions(model, images=IMAGES):
    """What it says to each method that it has, by name."""
    model.eval()
    methods = [name for name in PREDICTIONS if hasattr(model, name)]
    assert methods
    return {name: getattr(model, name)(images) for name in methods}


def same(ours, theirs):
    """Two answers are one."""
    for name, answers in ours.items():
        for one, other in zip(answers, theirs[name], strict=True):
            if name == "predict_semantic":
                assert torch.equal(one, other)
            else:
                assert torch.equal(one.masks, other.masks)
                assert torch.equal(one.labels, other.labels)


# ---------------------------------------------------------------- the type of the numbers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@systems
def test_a_system_learns_and_predicts_in(system, dtype):
    model = made(system).to(dtype)
    assert learned(model) == pytest.approx(in_float32(system), rel=0.1, abs=0.05)
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {dtype}
    for name, answers in predictions(model).items():
        for image, answer in zip(IMAGES, answers, strict=True):
            if name == "predict_semantic":
                assert answer.shape == image.shape[1:]
            else:
                assert answer.size == image.shape[1:] and len(answer)


@systems
def test_in_double_precision_a_system_is_what_it_was_but_for_rounding(system):
    assert learned(made(system).double()) == pytest.approx(in_float32(system), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("first", [True, False], ids=["made before", "made after"])
@systems
def test_the_default_type_of_torch_may_be_another(system, first):
    model = made(system) if first else None
    torch.set_default_dtype(torch.float64)
    try:
        model = model or made(system)
        learned(model)
        kinds = {parameter.dtype for parameter in model.parameters()}
        assert kinds == {torch.float32 if first else torch.float64}
        if system not in ("mask_rcnn", "panoptic_fpn"):  # whose anchors are of the default type
            assert {loss.dtype for loss in losses_of(model).values()} == kinds
        assert predictions(model)
    finally:
        torch.set_default_dtype(torch.float32)


@systems
def test_a_system_learns_under_autocast(system):
    expected = in_float32(system)
    with torch.autocast("cpu", torch.bfloat16):
        assert learned(made(system)) == pytest.approx(expected, rel=0.1, abs=0.05)


@pytest.mark.parametrize("dtypes", [[torch.float64] * 2, [torch.float32, torch.float64]], ids=str)
@systems
def test_images_of_another_type_become_the_models(system, dtypes):
    images = [image.to(dtype) for image, dtype in zip(IMAGES, dtypes, strict=True)]
    model = made(system)
    assert learned(model, images) == pytest.approx(in_float32(system), rel=1e-3, abs=1e-4)
    same(predictions(model, images), predictions(model))


@systems
def test_half_an_image_is_an_image(system):
    images = [IMAGES[0].half(), IMAGES[1].bfloat16()]
    assert learned(made(system), images) == pytest.approx(in_float32(system), rel=0.1, abs=0.05)


def test_no_image_of_a_batch_is_rounded_to_the_type_of_another():
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    wanted, _ = batch_images(IMAGES, mean, std)
    for first in DTYPES:
        batch, _ = batch_images([IMAGES[0].to(first), IMAGES[1]], mean, std)
        assert batch.dtype == torch.float32 and torch.equal(batch[1], wanted[1])
        torch.testing.assert_close(batch[0], wanted[0], atol=0.02, rtol=0)
    for dtype in DTYPES:
        batch, _ = batch_images(IMAGES, mean.to(dtype), std.to(dtype))
        assert batch.dtype == dtype


@pytest.mark.parametrize("system", ["centroid_offsets", "mask2former"])
def test_a_network_can_be_exported_with_its_checks(system):
    model = made(system).eval()
    method = "maps" if system == "centroid_offsets" else "predict"

    class Answer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return getattr(self.model, method)(images)[0][0]

    with torch.no_grad():
        exported = torch.export.export(Answer(), (IMAGES,), strict=False).module()
        torch.testing.assert_close(exported(IMAGES), Answer()(IMAGES), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- nothing to learn

WHOLE, NOTHING = torch.ones(1, 64, 64, dtype=torch.bool), torch.zeros(1, 64, 64, dtype=torch.bool)
FEW = {
    "a crowd": Segments(WHOLE, torch.tensor([0]), is_crowd=torch.tensor([True])),
    "no segments": empty_segments((64, 64)),
    "stuff": Segments(WHOLE, torch.tensor([5])),
    "an empty mask": Segments(NOTHING, torch.tensor([0])),
    "an empty crowd": Segments(NOTHING, torch.tensor([0]), is_crowd=torch.tensor([True])),
}


@pytest.mark.parametrize("case", FEW)
@systems
def test_a_batch_may_hold_only(system, case):
    learned(made(system), segments=[FEW[case]] * 2)


@systems
def test_one_image_may_hold_nothing(system):
    learned(made(system), segments=[SEGMENTS[0], FEW["no segments"]])


@systems
def test_an_empty_mask_is_no_segment(system):
    more = [
        Segments(
            torch.cat([NOTHING, own.masks, NOTHING]),
            torch.cat([torch.tensor([1]), own.labels, torch.tensor([5])]),
            is_crowd=torch.cat([torch.tensor([False]), own.is_crowd, torch.tensor([True])]),
        )
        for own in SEGMENTS
    ]
    assert learned(made(system), segments=more) == in_float32(system)


def test_empty_masks_are_left_out_of_a_batch_and_nothing_else_is():
    masks = torch.cat([NOTHING, WHOLE, NOTHING])
    some = Segments(masks, torch.tensor([3, 7, 2]), torch.rand(3))
    left, untouched, none = batch_segments([some, SEGMENTS[0], some[:1]], [(64, 64)] * 3)
    assert left.labels.tolist() == [7] and left.masks.equal(WHOLE)
    assert left.scores.equal(some.scores[1:2]) and len(some) == 3
    assert untouched is SEGMENTS[0] and len(none) == 0


def test_no_query_may_count():
    """Where ∅ weighs nothing and there is nothing else, the loss is 0, not NaN."""
    logits, nothing = torch.randn(2, 3, 5), [empty_segments((8, 8))] * 2
    none = (torch.zeros(0, dtype=torch.int64),) * 2
    assert class_loss(logits, nothing, [none] * 2, no_object=0.0) == 0
    model = made("maskformer")
    model.weights = Weights(no_object=0.0)
    learned(model, segments=[FEW["no segments"]] * 2)
