"""Matching and losses of sets equal transformers', and numbers computed by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers.models.maskformer import modeling_maskformer as theirs

from lessons.kit.data import Segments, empty_segments, is_crowd
from lessons.kit.peers.maskformer import transformers_maskformer
from lessons.set_prediction import (
    TASKS,
    Weights,
    assign,
    class_loss,
    dice_loss,
    focal_loss,
    mask_classification_loss,
    match_segments_to_queries,
    matching_cost,
    pad_masks,
    pairwise_dice,
    pairwise_focal,
    task_targets,
)


def segments_of(count, size, classes, generator):
    masks = torch.rand(count, *size, generator=generator) > 0.6
    return Segments(masks, torch.randint(classes, (count,), generator=generator))


@st.composite
def batches(draw, least=0):
    """Class logits, mask logits and targets: few and many segments, also none, scales up to ±9."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    b, q, k = draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 5))
    h, w = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    grown = draw(st.sampled_from([1, 2, 4]))
    counts = [draw(st.integers(least, 9)) for _ in range(b)]
    targets = [segments_of(n, (h * grown, w * grown), k, generator) for n in counts]
    class_logits = 3 * torch.randn(b, q, k + 1, generator=generator)
    mask_logits = draw(st.sampled_from([0.3, 3, 9])) * torch.randn(b, q, h, w, generator=generator)
    return class_logits, mask_logits, targets


def total_cost(class_logits, mask_logits, target, match):
    true = F.interpolate(target.masks[:, None].float(), mask_logits.shape[-2:]).flatten(1)
    cost = matching_cost(class_logits, mask_logits.flatten(1), target.labels, true)
    return cost[match].sum()


@given(batches())
@settings(max_examples=60, deadline=None)
def test_matches_and_losses_equal_transformers(batch):
    matches = match_segments_to_queries(*batch)
    their_matches, their_losses = transformers_maskformer(*batch)
    losses = mask_classification_loss(*batch, their_matches)
    for z_c, z_m, target, mine, reference in zip(*batch, matches, their_matches, strict=True):
        assert len(mine[0]) == min(len(z_c), len(target))
        torch.testing.assert_close(
            total_cost(z_c, z_m, target, mine), total_cost(z_c, z_m, target, reference)
        )  # of matchings at one cost (segments that are alike on the coarse grid) any is right
    for name, loss in losses.items():
        torch.testing.assert_close(loss, their_losses[name], atol=1e-5, rtol=1e-5)


@given(batches(least=1))
@settings(max_examples=40, deadline=None)
def test_gradients_equal_transformers(batch):
    class_logits, mask_logits, targets = batch
    gradients, matches = [], transformers_maskformer(*batch)[0]
    for loss in (
        lambda *z: mask_classification_loss(*z, targets, matches),
        lambda *z: transformers_maskformer(*z, targets)[1],
    ):
        z = class_logits.clone().requires_grad_(), mask_logits.clone().requires_grad_()
        gradients.append(torch.autograd.grad(sum(loss(*z).values()), z))
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


@given(batches(), st.floats(0, 3), st.floats(0, 30), st.floats(0, 3), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_every_weight_counts_as_in_transformers(batch, classes, mask, dice, no_object):
    weights = Weights(classes, mask, dice, no_object)
    if classes + mask + dice == 0:
        return  # transformers refuses
    matches, their_losses = transformers_maskformer(*batch, (classes, mask, dice), no_object)
    losses = mask_classification_loss(*batch, matches, weights)
    for name, loss in losses.items():
        torch.testing.assert_close(
            loss, their_losses[name], atol=1e-5, rtol=1e-4, equal_nan=True
        )  # all queries are ∅ and ∅ counts 0: 0/0 in both
    for z_c, z_m, target, (q, s) in zip(*batch, matches, strict=True):
        true = F.interpolate(target.masks[:, None].float(), z_m.shape[-2:]).flatten(1)
        cost = matching_cost(z_c, z_m.flatten(1), target.labels, true, weights)
        torch.testing.assert_close(cost[assign(cost)].sum(), cost[q, s].sum(), atol=1e-4, rtol=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 5), st.sampled_from([0.1, 1, 40]))
@settings(max_examples=60, deadline=None)
def test_tables_of_all_pairs_equal_each_pair(seed, q, n, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(q, 30, generator=generator)
    masks = (torch.rand(n, 30, generator=generator) > 0.5).float()
    pairs = logits.repeat_interleave(n, 0), masks.repeat(q, 1)
    for table, each in ((pairwise_focal, focal_loss), (pairwise_dice, dice_loss)):
        expected = each(*pairs).view(q, n)
        torch.testing.assert_close(table(logits, masks), expected, atol=1e-5, rtol=1e-5)
    if n:
        labels = torch.zeros(n, dtype=torch.int64)
        theirs_focal = theirs.pair_wise_sigmoid_focal_loss(logits, masks)
        only = matching_cost(torch.zeros(q, 2), logits, labels, masks, Weights(0, 1, 0))
        torch.testing.assert_close(only, theirs_focal, atol=1e-5, rtol=1e-5)


def test_focal_and_dice_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(9), math.log(9), -math.log(9), 0.0]])
    targets = torch.tensor([[1.0, 1, 0, 0], [1.0, 0, 0, 1]])
    half = 0.25 * math.log(2)  # (1 − ½)² · log 2
    nine, one = -math.log(0.9), -math.log(0.1)
    by_hand = [
        half * (2 * 0.25 + 2 * 0.75) / 4,
        (0.25 * 0.01 * nine + 0.75 * 0.81 * one + 0.75 * 0.01 * nine + 0.25 * half) / 4,
    ]
    torch.testing.assert_close(focal_loss(logits, targets), torch.tensor(by_hand))
    dice = [1 - 3 / 5, 1 - (2 * (0.9 + 0.5) + 1) / (0.9 + 0.9 + 0.1 + 0.5 + 2 + 1)]
    torch.testing.assert_close(dice_loss(logits, targets), torch.tensor(dice))
    flat = focal_loss(logits, targets, alpha=0.5)
    torch.testing.assert_close(flat[0], torch.tensor(0.5 * half))


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    targets = torch.tensor([[0.0, 1, 1]])
    for loss in (focal_loss(logits, targets), dice_loss(logits, targets)):
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()
    assert pairwise_focal(logits, targets).isfinite().all()
    certain = torch.tensor([[0.0, 500.0, 0.0]])
    cost = matching_cost(certain, logits, torch.tensor([0]), targets, logarithm=True)
    assert cost.isfinite().all()


def test_the_class_term_is_p_or_its_logarithm():
    class_logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    labels, only = torch.tensor([1, 0, 1]), Weights(2.0, 0, 0)
    shared = class_logits, torch.zeros(2, 4), labels, torch.zeros(3, 4), only
    p = torch.tensor([[0.2, 0.7, 0.2], [0.3, 0.1, 0.3]])
    torch.testing.assert_close(matching_cost(*shared), -2 * p)
    torch.testing.assert_close(matching_cost(*shared, logarithm=True), -2 * p.log())


def test_class_loss_by_hand():
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]])
    target = Segments(torch.zeros(2, 4, 4, dtype=torch.bool), torch.tensor([1, 0]))
    match = [(torch.tensor([0, 2]), torch.tensor([1, 0]))]  # query 0 is class 0, query 2 class 1
    for weight in (0.1, 1.0):
        total = -math.log(0.5) - weight * math.log(0.8) - math.log(0.2)
        found = class_loss(p.log(), [target], match, weight)
        assert found.item() == pytest.approx(total / (2 + weight), abs=1e-6)


def test_a_batch_without_segments():
    z = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 8, 8, requires_grad=True)
    nothing = [empty_segments((32, 32))] * 2
    matches = match_segments_to_queries(*z, nothing)
    assert all(len(q) == len(s) == 0 for q, s in matches)
    losses = mask_classification_loss(*z, nothing, matches, Weights(classes=2.0))
    expected = -2 * z[0].log_softmax(dim=2)[..., -1].mean()
    torch.testing.assert_close(losses["classes"], expected)
    assert losses["mask"] == losses["dice"] == 0
    sum(losses.values()).backward()  # goes through, with nothing for the masks
    assert z[0].grad.abs().sum() > 0 and (z[1].grad is None or z[1].grad.abs().sum() == 0)


def test_more_segments_than_queries_leaves_the_costliest():
    masks = torch.eye(16).view(16, 4, 4)[:3].bool()
    z = 9 * F.one_hot(torch.tensor([[1, 0]]), 3).float(), 20 * (masks[[2, 0]][None].float() - 0.5)
    target = Segments(masks, torch.tensor([0, 0, 1]))
    ((queries, segments),) = match_segments_to_queries(*z, [target])
    assert queries.tolist() == [0, 1] and segments.tolist() == [2, 0]
    losses = mask_classification_loss(*z, [target], [(queries, segments)])
    assert losses["dice"].item() < 0.01  # divided by three segments, of which two are there


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype):
    """Sums over pixels are made in float32, also where the network runs in half precision."""
    target = segments_of(4, (128, 128), 3, torch.Generator().manual_seed(0))
    class_logits = torch.randn(1, 6, 4).to(dtype)
    mask_logits = torch.randn(1, 6, 32, 32).to(dtype)
    results, costs = [], []
    for z in ((class_logits, mask_logits), (class_logits.float(), mask_logits.float())):
        with torch.autocast("cpu", torch.bfloat16, enabled=z[0].dtype == torch.bfloat16):
            matches = match_segments_to_queries(*z, [target])
            results.append((matches, mask_classification_loss(*z, [target], matches)))
            small = target.masks[:, ::4, ::4].flatten(1).float()
            costs.append(matching_cost(z[0][0], z[1][0].flatten(1), target.labels, small))
    torch.testing.assert_close(*costs, atol=1e-6, rtol=1e-6)
    assert all(torch.equal(*pair) for pair in zip(results[0][0][0], results[1][0][0], strict=True))
    for name, loss in results[0][1].items():
        torch.testing.assert_close(loss, results[1][1][name], atol=1e-6, rtol=1e-6)


def test_targets_of_each_task():
    masks = torch.zeros(6, 4, 6, dtype=torch.bool)
    for i in range(6):
        masks[i, :, i] = True
    labels = torch.tensor([0, 0, 1, 5, 3, 5])
    crowd = torch.tensor([False, True, False, False, False, False])
    segments = Segments(masks, labels, is_crowd=crowd)
    panoptic = task_targets(segments, "panoptic", 3)
    assert panoptic.labels.tolist() == [0, 1, 5, 3, 5]
    assert torch.equal(panoptic.masks, masks[[0, 2, 3, 4, 5]])
    instance = task_targets(segments, "instance", 3)
    assert instance.labels.tolist() == [0, 1] and torch.equal(instance.masks, masks[[0, 2]])
    semantic = task_targets(segments, "semantic", 3)
    assert semantic.labels.tolist() == [0, 1, 3, 5]
    assert torch.equal(semantic.masks[0], masks[0] | masks[1])
    assert torch.equal(semantic.masks[3], masks[3] | masks[5])
    for task in TASKS:
        none = task_targets(empty_segments((4, 6)), task, 3)
        assert len(none) == 0 and none.size == (4, 6) and not is_crowd(none).any()


def test_pad_masks():
    padded = pad_masks(
        Segments(torch.ones(2, 3, 4, dtype=torch.bool), torch.tensor([0, 1])), (5, 8)
    )
    assert padded.size == (5, 8) and padded.masks[:, :3, :4].all() and padded.masks.sum() == 24
    assert padded.labels.tolist() == [0, 1]
