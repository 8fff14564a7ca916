"""MaskFormer equals transformers' matcher, losses, decoder layer and positions, and the lecture's
inference rules written as loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers.models.maskformer import modeling_maskformer as theirs

from lessons.kit.data import Segments, empty_segments, is_crowd
from lessons.kit.peers.maskformer import transformers_decoder_layer, transformers_maskformer
from lessons.maskformer import (
    TASKS,
    DecoderLayer,
    MaskFormer,
    MaskFormerParts,
    Weights,
    assign,
    class_loss,
    dice_loss,
    focal_loss,
    instance_inference,
    mask_classification_loss,
    match_segments_to_queries,
    matching_cost,
    merge_stuff,
    pad_masks,
    pairwise_dice,
    pairwise_focal,
    panoptic_inference,
    recipe,
    semantic_inference,
    sine_positions,
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


# ---------------------------------------------------------------- the network


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]))
@settings(max_examples=15, deadline=None)
def test_decoder_layer_equals_transformers(seed, heads):
    torch.manual_seed(seed)
    layer = DecoderLayer(16, heads, 40)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    queries, own = torch.randn(2, 5, 16), torch.randn(5, 16)
    image, places = torch.randn(2, 12, 16), torch.randn(12, 16)
    expected = transformers_decoder_layer(layer, heads)(
        queries,
        object_queries_position_embeddings=own,
        encoder_hidden_states=image,
        spatial_position_embeddings=places,
    )
    torch.testing.assert_close(layer(queries, own, image, places), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 7)])
@pytest.mark.parametrize("channels", [4, 16, 64])
def test_positions_equal_transformers(size, channels):
    embed = theirs.MaskFormerSinePositionEmbedding(channels // 2, normalize=True)
    expected = embed(torch.Size((1, channels, *size)), "cpu", torch.float32)[0].flatten(1).T
    torch.testing.assert_close(sine_positions(size, channels), expected, atol=1e-5, rtol=1e-5)


SMALL = {"num_queries": 6, "channels": 16, "heads": 2, "hidden": 32, "decoder_layers": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = MaskFormer(8, 4, encoder_layers=1, score_threshold=0.1, overlap_threshold=0.0, **SMALL)
    made.head.classes.bias.data[-1] = -9  # untrained, but it has something to say
    return made


IMAGES = [torch.rand(3, 70, 96), torch.rand(3, 64, 40)]


def test_answers_have_the_size_of_their_images(model):
    for z, image in zip(model.predict(IMAGES), IMAGES, strict=True):
        assert z[0].shape == (6, 9) and z[1].shape == (6, *image.shape[1:])
    predicted = zip(
        model.predict_panoptic(IMAGES),
        model.predict_instances(IMAGES),
        model.predict_semantic(IMAGES),
        IMAGES,
        strict=True,
    )
    for panoptic, instances, classes, image in predicted:
        size = tuple(image.shape[1:])
        assert panoptic.size == instances.size == tuple(classes.shape) == size
        assert len(panoptic) and panoptic.masks.sum(0).max() <= 1
        assert classes.min() >= 0 and classes.max() < 8 and instances.labels.max() < 4
        assert instances.scores.diff().max() <= 0


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(model):
    """Beyond the padding: both images are padded to the same size anyway."""
    first, second = torch.rand(3, 64, 96), torch.rand(3, 50, 90)
    alone, together = model.predict([first])[0], model.predict([first, second])[0]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_padding_is_cut_off(model):
    """It lies below and to the right of an image."""
    image = torch.rand(3, 50, 40)
    batch = torch.zeros(1, 3, 64, 64)
    batch[0, :, :50, :40] = (image - model.mean) / model.std
    with torch.no_grad():
        masks = model.layers(batch)[-1][1]
    whole = F.interpolate(masks, (64, 64), mode="bilinear")[0]
    found = model.predict([image])[0][1]
    torch.testing.assert_close(found, whole[:, :50, :40], atol=1e-4, rtol=1e-4)


def test_the_last_layer_answers(model):
    with torch.no_grad():
        batch = torch.rand(1, 3, 64, 64)
        layers = model.layers(batch)
    assert len(layers) == 2
    image = batch[0] * model.std + model.mean
    for number, (classes, masks) in enumerate(layers):
        found = model.predict([image], number)[0]
        torch.testing.assert_close(found[0], classes[0], atol=1e-4, rtol=1e-4)
        assert found[1].shape[-2:] == (64, 64) and masks.shape[-2:] == (16, 16)
    torch.testing.assert_close(model.predict([image])[0][0], layers[-1][0][0], atol=1e-4, rtol=1e-4)


def test_losses_are_summed_over_the_layers_each_matched_anew(model):
    generator = torch.Generator().manual_seed(4)
    images = [torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    segments = [segments_of(n, (64, 64), 8, generator) for n in (3, 9)]
    losses = model(images, segments)
    batch = torch.stack([(image - model.mean) / model.std for image in images])
    expected = dict.fromkeys(losses, 0.0)
    for z in model.layers(batch):
        for name, term in transformers_maskformer(*z, segments)[1].items():
            expected[name] += term.item()
    assert set(losses) == {"classes", "mask", "dice"}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name], rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_learns(task):
    torch.manual_seed(0)
    model = MaskFormer(8, 4, task=task, encoder_layers=1, **SMALL)
    generator = torch.Generator().manual_seed(2)
    segments = [segments_of(3, tuple(i.shape[1:]), 8, generator) for i in IMAGES]
    segments[1] = segments[1][:0]
    losses = model(IMAGES, segments)
    sum(losses.values()).backward()
    deaf = [
        name
        for name, p in model.named_parameters()
        if (p.grad is None or not p.grad.abs().sum() > 0) and "to_key.bias" not in name
    ]  # a number that is added to all keys changes no softmax
    # The queries are zero before the first layer: their first talk among themselves says nothing,
    # until its biases have been learned.
    first = ("decoder.0.self_attention", "decoder.0.norms.0.weight")
    deaf = [name for name in deaf if not name.startswith(first)]
    assert not deaf and all(loss.isfinite() for loss in losses.values())


def test_an_encoder_is_an_option():
    sizes = [
        sum(p.numel() for p in MaskFormer(8, 4, encoder_layers=n, **SMALL).parameters())
        for n in (1, 2, 3)
    ]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    plain = MaskFormer(8, 4, **SMALL)
    assert isinstance(plain, MaskFormerParts) and len(plain.encoder) == 0


# ---------------------------------------------------------------- inference


@st.composite
def answers(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    q, k = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    scale = draw(st.sampled_from([0.5, 2, 6]))
    class_logits = scale * torch.randn(q, k + 1, generator=generator)
    return class_logits, scale * torch.randn(q, 5, 6, generator=generator)


@given(answers())
@settings(max_examples=60, deadline=None)
def test_semantic_inference_is_the_formula(z):
    p, m = z[0].softmax(dim=1).tolist(), z[1].sigmoid().tolist()
    found = semantic_inference(*z)
    for y in range(5):
        for x in range(6):
            sums = [sum(p[i][c] * m[i][y][x] for i in range(len(p))) for c in range(len(p[0]) - 1)]
            assert sums[found[y, x]] == pytest.approx(max(sums), abs=1e-6)


def dominant(z, y, x):
    """(query, class) of the dominant pair of a pixel, None where all queries say ∅."""
    p, m = z[0].softmax(dim=1).tolist(), z[1].sigmoid().tolist()
    best, chosen = -1.0, None
    for i, row in enumerate(p):
        c = row.index(max(row))
        if c < len(row) - 1 and row[c] * m[i][y][x] > best:
            best, chosen = row[c] * m[i][y][x], (i, c)
    return chosen


@given(answers(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_panoptic_inference_without_thresholds_is_the_formula(z, things):
    things = min(things, z[0].shape[1] - 1)
    found = panoptic_inference(*z, things, 0.0, 0.0)
    owners = {}
    for y in range(5):
        for x in range(6):
            pair = dominant(z, y, x)
            here = found.masks[:, y, x].nonzero().flatten().tolist()
            if pair is None:
                assert not here
                continue
            (k,) = here
            i, c = pair
            assert found.labels[k] == c
            owners.setdefault(k, set()).add(i)
    scores = z[0].softmax(dim=1).amax(dim=1)
    for k, queries in owners.items():
        thing = found.labels[k] < things
        assert len(queries) == 1 or not thing  # only stuff is put together
        assert found.scores[k].item() == pytest.approx(max(scores[i].item() for i in queries))
    assert set(owners) == set(range(len(found)))  # no segment is empty
    stuff = found.labels[found.labels >= things].tolist()
    assert len(stuff) == len(set(stuff))


def test_thresholds():
    """Three queries on one row of pixels: the second is covered by the first."""
    m = torch.tensor([[0.9] * 6 + [0.1] * 2, [0.1] * 3 + [0.8] * 5, [0.3] * 8])[:, None]
    p = torch.tensor([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.3, 0.65, 0.05]])
    z = p.log(), torch.logit(m)
    found = panoptic_inference(*z, 2, 0.0, 0.0)
    assert found.labels.tolist() == [0, 0] and found.masks.flatten(1).sum(1).tolist() == [6, 2]
    found = panoptic_inference(*z, 2, 0.0, 0.5)  # the second keeps 2 of 5
    assert found.masks.flatten(1).sum(1).tolist() == [6]
    assert len(panoptic_inference(*z, 2, 0.0, 0.4)) == 2
    assert len(panoptic_inference(*z, 2, 0.85, 0.0)) == 1
    assert len(panoptic_inference(*z, 2, 0.95, 0.0)) == 0
    alone = z[0][2:], z[1][2:]  # its m is never ½: with an overlap threshold it has no mask
    assert len(panoptic_inference(*alone, 2, 0.0, 0.0)) == 1
    assert len(panoptic_inference(*alone, 2, 0.0, 0.1)) == 0
    assert len(panoptic_inference(*alone, 2, 0.0, 0.0, mask_threshold=0.5)) == 0
    sure = panoptic_inference(*z, 2, 0.0, 0.0, mask_threshold=0.85)
    assert sure.masks.flatten(1).sum(1).tolist() == [6]


def test_merge_stuff():
    masks = torch.eye(4).view(4, 2, 2).bool()
    merged = merge_stuff(
        Segments(masks, torch.tensor([3, 0, 3, 0]), torch.tensor([0.6, 0.9, 0.7, 0.8])), 2
    )
    assert merged.labels.tolist() == [0, 0, 3]
    assert torch.equal(merged.masks[2], masks[0] | masks[2]) and torch.equal(
        merged.masks[0], masks[1]
    )
    torch.testing.assert_close(merged.scores, torch.tensor([0.9, 0.8, 0.7]))


@given(answers(), st.integers(1, 30), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_instance_inference_is_the_best_pairs(z, most, things):
    things = min(things, z[0].shape[1] - 1)
    p, m = z[0].softmax(dim=1), z[1].sigmoid()
    pairs = sorted(
        ((p[i, c].item(), i, c) for i in range(len(p)) for c in range(things)), reverse=True
    )[:most]
    expected = []
    for score, i, c in pairs:
        inside = m[i][m[i] > 0.5]
        if len(inside):
            expected.append((score * inside.mean().item(), i, c))
    expected.sort(reverse=True)
    found = instance_inference(*z, things, most)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, torch.tensor([e[0] for e in expected]))
    for k, (_, i, c) in enumerate(expected):
        assert found.labels[k] == c and torch.equal(found.masks[k], m[i] > 0.5)


def test_nothing_said():
    z = torch.tensor([[0.0, 0.0, 9.0]] * 3), torch.full((3, 4, 4), -5.0)
    assert len(panoptic_inference(*z, 1)) == 0 and panoptic_inference(*z, 1).size == (4, 4)
    assert len(instance_inference(*z, 1)) == 0
    assert len(instance_inference(*z, 0)) == 0
    assert semantic_inference(*z).shape == (4, 4)


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("panoptic", {"predict_panoptic", "predict_instances", "predict_semantic"}),
        ("instance", {"predict_instances"}),
        ("semantic", {"predict_semantic"}),
    ],
)
def test_recipe_of_each_task(task, metrics):
    made = recipe(task=task, logarithm=True, encoder_layers=1, num_queries=7)
    model = made.model()
    assert set(made.metrics) == metrics and made.options["task"] == task
    assert model.task == task and model.logarithm and len(model.encoder) == 1
    assert model.query_positions.shape == (7, 64) and model.num_classes == 8
    assert set(made.budgets) == {"test", "quick", "full"}


def test_logarithm_reaches_the_matching(monkeypatch):
    import lessons.maskformer as module

    seen = []
    original = module.matching_cost
    monkeypatch.setattr(
        module, "matching_cost", lambda *a, **k: seen.append(k["logarithm"]) or original(*a, **k)
    )
    target = segments_of(2, (64, 40), 8, torch.Generator().manual_seed(0))
    for logarithm in (False, True):
        MaskFormer(8, 4, logarithm=logarithm, **SMALL)(IMAGES[1:], [target])
    assert seen == [False] * 2 + [True] * 2
