"""MaskFormer equals transformers' decoder layer and positions, and the lecture's inference rules
written as loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers.models.maskformer import modeling_maskformer as theirs

from lessons.kit.data import Segments
from lessons.kit.peers.maskformer import transformers_decoder_layer, transformers_maskformer
from lessons.maskformer import (
    DecoderLayer,
    MaskFormer,
    instance_inference,
    merge_stuff,
    panoptic_inference,
    recipe,
    semantic_inference,
    sine_positions,
)
from lessons.set_prediction import (
    TASKS,
)


def segments_of(count, size, classes, generator):
    masks = torch.rand(count, *size, generator=generator) > 0.6
    return Segments(masks, torch.randint(classes, (count,), generator=generator))


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
    assert len(MaskFormer(8, 4, **SMALL).encoder) == 0


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
    import lessons.set_prediction as module

    seen = []
    original = module.matching_cost
    monkeypatch.setattr(
        module, "matching_cost", lambda *a, **k: seen.append(a[-1]) or original(*a, **k)
    )
    target = segments_of(2, (64, 40), 8, torch.Generator().manual_seed(0))
    for logarithm in (False, True):
        MaskFormer(8, 4, logarithm=logarithm, **SMALL)(IMAGES[1:], [target])
    assert seen == [False] * 2 + [True] * 2
