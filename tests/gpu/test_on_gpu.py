"""What a CPU cannot show: every system and operator on a GPU, beside its reference and the CPU.

`make gpu` runs them. Without a GPU they are skipped, or run on the device that LESSONS_DEVICE
names (`LESSONS_DEVICE=cpu` shows that the tests themselves run).
"""

import contextlib
import math
import os

import pytest
import torch
from torchvision import ops

from bench.systems import SYSTEMS
from lessons.anchor_boxes import nms
from lessons.kit.data.scenes import Scenes
from lessons.kit.training import evaluate, fit
from lessons.kit.training.recorded import data_set, load_model, names, read, recipe_of
from lessons.lovasz import lovasz_hinge
from lessons.roi_align import roi_align, roi_pool

DEVICE = os.environ.get("LESSONS_DEVICE", "cuda")

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"
)


@pytest.fixture(autouse=True)
def full_precision():
    """Convolutions in float32, not TF32, so that the CPU's numbers are to be expected."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def same_draws(monkeypatch):
    """What a model draws is drawn on the CPU, so that two devices draw the same."""
    for name in ("rand", "randn", "randperm", "randint"):
        draw = getattr(torch, name)

        def on_the_cpu(*arguments, draw=draw, device="cpu", **options):
            return draw(*arguments, **options).to(device)

        monkeypatch.setattr(torch, name, on_the_cpu)


def scenes(count=4):
    samples = [Scenes.train()[index] for index in range(count)]
    return [s.image for s in samples], [s.segments for s in samples]


def step(model, device, precision=None):
    """The losses and the gradients of one batch, in float32 on the CPU."""
    images, segments = scenes()
    model = model.to(device).train()
    model.zero_grad()
    torch.manual_seed(3)
    autocast = torch.autocast(torch.device(device).type, precision) if precision else None
    with autocast or contextlib.nullcontext():
        losses = model([x.to(device) for x in images], [x.to(device) for x in segments])
        total = sum(losses.values())
    total.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {name: float(loss.detach()) for name, loss in losses.items()}, torch.cat(
        gradients
    ).float().cpu()


def model_of(system):
    """A system as the course records it, from random weights."""
    torch.manual_seed(0)
    return recipe_of(system, "scenes", {}).model()


@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_and_gradients_are_those_of_the_cpu(system, same_draws):
    model = model_of(system)
    expected, slope = step(model, "cpu")
    losses, own = step(model, DEVICE)
    assert losses == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert (own - slope).norm() <= 1e-2 * slope.norm()


@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_in_bfloat16_are_finite_and_near(system, same_draws):
    model = model_of(system)
    expected, slope = step(model, DEVICE)
    losses, own = step(model, DEVICE, torch.bfloat16)
    assert all(math.isfinite(loss) for loss in losses.values())
    assert sum(losses.values()) == pytest.approx(sum(expected.values()), rel=0.1)
    assert torch.isfinite(own).all()
    assert torch.nn.functional.cosine_similarity(own, slope, dim=0) > 0.8


@pytest.mark.parametrize("name", [n for n in names() if "weights" in read(n)])
def test_recorded_scores_are_the_same(name):
    report = read(name)
    if report["data"] != "scenes":
        pytest.skip("real images do not travel")
    # All of the held-out scenes on a GPU; on a CPU, where this only shows that it runs, four.
    count = report["validated"] if DEVICE == "cuda" else 4
    held_out = data_set("scenes", "validation", report["size"], count)
    metrics = recipe_of(report["system"], report["data"], report["options"]).metrics
    scores = evaluate(load_model(name).to(DEVICE), held_out, metrics)
    for key, value in report["scores"].items():
        if key != "per_class" and DEVICE == "cuda":
            assert scores[key] == pytest.approx(value, abs=1e-3, nan_ok=True), key


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_short_run_trains_and_evaluates(system, tmp_path):
    recipe = recipe_of(system, "scenes", {})
    run = fit(recipe, "test", folder=tmp_path, progress=False)
    assert run.history[-1]["step"] == recipe.budget("test").steps
    assert math.isfinite(run.history[-1]["loss"])
    assert run.scores.keys() - {"per_class"}


# ---------------------------------------------------------------- operators


def drawn_boxes(count, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = side * torch.rand(count, 2, generator=generator)
    size = side / 3 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + size], 1).to(DEVICE)


@pytest.mark.parametrize("options", [(2, False), (2, True), (-1, True)])
def test_roi_align_equals_torchvision(options):
    features = torch.randn(2, 16, 40, 50, generator=torch.Generator().manual_seed(1))
    features = features.to(DEVICE).requires_grad_()
    boxes = drawn_boxes(60, 160)
    rois = torch.cat([torch.arange(60.0, device=DEVICE)[:, None] % 2, boxes], 1)
    pair = [way(features, rois, 7, 0.25, *options) for way in (roi_align, ops.roi_align)]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(pair[0])
    slopes = [torch.autograd.grad(each, features, weights)[0] for each in pair]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)


def test_roi_pool_equals_torchvision():
    features = torch.randn(2, 16, 40, 50, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    rois = torch.cat([torch.arange(60.0, device=DEVICE)[:, None] % 2, drawn_boxes(60, 160)], 1)
    pair = [way(features, rois, 7, 0.25) for way in (roi_pool, ops.roi_pool)]
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_equals_torchvision(threshold):
    boxes = drawn_boxes(2000, 128)
    scores = torch.rand(2000, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    assert nms(boxes, scores, threshold).equal(ops.nms(boxes, scores, threshold))


def test_the_lovasz_hinge_is_that_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 64 * 64, generator=generator)
    targets = torch.rand(20, 64 * 64, generator=generator) > 0.8
    results = []
    for device in ("cpu", DEVICE):
        own = logits.detach().to(device).requires_grad_()
        loss = lovasz_hinge(own, targets.to(device))
        results.append((loss.cpu(), torch.autograd.grad(loss.sum(), own)[0].cpu()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
