"""Lesson 15 equal to transformers' Mask2Former, part by part, and to plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mask2former import modeling_mask2former as reference

from lessons.deformable_attention import (
    cell_centres,
)
from lessons.kit.data import Segments, empty_segments, is_crowd
from lessons.kit.data.scenes import scene
from lessons.kit.peers import mask2former as peer
from lessons.kit.training.recorded import recipe_of
from lessons.mask2former import (
    Mask2Former,
    MaskedDecoderLayer,
    attention_mask,
    cross_entropy,
    importance_points,
    match_at_points,
    pairwise_cross_entropy,
    point_losses,
    recipe,
    sample_points,
    uniform_points,
)
from lessons.maskformer import MaskFormer
from lessons.set_prediction import Weights, dice_loss

WEIGHTS = Weights(classes=2.0, mask=5.0, dice=5.0)
SWITCHES = (
    "masked_attention",
    "cross_first",
    "learned_queries",
    "high_resolution",
    "points",
    "deformable",
)
seeds = st.integers(0, 10**6)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def small_model(**options):
    """A Mask2Former that takes a moment."""
    sizes = {"num_queries": 6, "channels": 16, "hidden": 16, "heads": 2, "num_points": 50}
    return Mask2Former(8, 4, **{**sizes, **options})


def random_answer(segments, generator, q=9, k=8, size=(8, 11)):
    """Class and mask logits for some images, that want gradients."""
    b = len(segments)
    classes = torch.randn(b, q, k + 1, generator=generator)
    masks = 3 * torch.randn(b, q, *size, generator=generator)
    return classes.requires_grad_(), masks.requires_grad_()


def random_segments(generator, counts=(3, 5, 1), size=(32, 44), k=8):
    answers = []
    for n in counts:
        owner = torch.randint(n + 1, size, generator=generator)
        masks = owner == torch.arange(n)[:, None, None]
        answers.append(Segments(masks, torch.randint(k, (n,), generator=generator)))
    return answers


# ---------------------------------------------------------------- points


def look_up(cells, x, y):
    h, w = cells.shape
    value = 0.0
    for i in range(h):
        for j in range(w):
            near = max(0, 1 - abs(y * h - 0.5 - i)) * max(0, 1 - abs(x * w - 0.5 - j))
            value += near * cells[i, j].item()
    return value


@given(seeds, st.integers(1, 6), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_points_are_looked_up_as_by_loops_and_as_in_transformers(seed, h, w):
    generator = generator_of(seed)
    maps = torch.randn(2, 3, h, w, generator=generator)
    points = 1.4 * torch.rand(2, 5, 2, generator=generator) - 0.2  # some are outside
    found = sample_points(maps, points)
    theirs = reference.sample_point(maps, points, align_corners=False)
    torch.testing.assert_close(found, theirs)
    torch.testing.assert_close(found[:, 1], sample_points(maps[:, 1], points))
    for n in range(2):
        by_loops = [look_up(maps[n, 2], x, y) for x, y in points[n].tolist()]
        torch.testing.assert_close(found[n, 2], torch.tensor(by_loops), atol=1e-5, rtol=1e-5)


def test_a_point_means_the_same_place_in_maps_of_any_size():
    points = 0.1 + 0.8 * uniform_points(1, 50)
    for side in (10, 32, 128):  # a map that holds its own x
        x = ((torch.arange(side) + 0.5) / side).expand(1, side, side)
        torch.testing.assert_close(sample_points(x, points), points[..., 0], atol=1e-5, rtol=0)


def test_uniform_points_fill_the_square_and_are_those_of_the_seed():
    points = uniform_points(3, 4000)
    assert points.shape == (3, 4000, 2) and points.min() >= 0 and points.max() < 1
    torch.testing.assert_close(points.mean(1), torch.full((3, 2), 0.5), atol=0.03, rtol=0)
    assert not torch.equal(points[0], points[1])
    one, two = (uniform_points(2, 5, generator=generator_of(7)) for _ in range(2))
    assert torch.equal(one, two)
    torch.manual_seed(3)
    ours = uniform_points(1, 12)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(1, 12, 2))


@given(seeds, st.integers(1, 5), st.integers(2, 90), st.sampled_from([0.0, 0.5, 0.75, 1.0]))
@settings(max_examples=40, deadline=None)
def test_importance_points_are_those_of_transformers(seed, n, count, importance):
    logits = torch.randn(n, 7, 9, generator=generator_of(seed))
    config = reference.Mask2FormerConfig(num_labels=3)
    criterion = reference.Mask2FormerLoss(config, {})
    torch.manual_seed(seed)
    theirs = criterion.sample_points_using_uncertainty(
        logits[:, None], criterion.calculate_uncertainty, count, 3.0, importance
    )
    torch.manual_seed(seed)
    ours = importance_points(logits, count, 3.0, importance)
    assert ours.shape == theirs.shape == (n, count, 2)

    def in_order(points):
        return points.gather(1, points[..., :1].argsort(1).expand(-1, -1, 2))

    hard = int(importance * count)
    assert torch.equal(in_order(ours[:, :hard]), in_order(theirs[:, :hard]))
    assert torch.equal(ours[:, hard:], theirs[:, hard:])


def test_importance_points_lie_where_the_mask_is_unsure():
    logits = (torch.arange(64) - 31.5).expand(1, 64, 64)  # the outline is in the middle
    points = importance_points(logits, 400, generator=generator_of(0))
    distance = (points[0, :, 0] - 0.5).abs()
    assert distance[:300].max() < 0.2 and distance[300:].max() > 0.4
    assert importance_points(logits, 8, importance=0.0).shape == (1, 8, 2)
    assert not importance_points(logits.clone().requires_grad_(), 8).requires_grad


def test_more_points_than_pixels():
    logits = torch.randn(2, 2, 3, requires_grad=True)
    points = importance_points(logits, 1000)
    values = sample_points(logits, points)
    assert values.shape == (2, 1000) and values.isfinite().all()
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient.isfinite().all() and (gradient != 0).all()


# ---------------------------------------------------------------- matching and losses


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_cost_of_all_pairs_is_the_loss_of_each(seed):
    generator = generator_of(seed)
    logits = 4 * torch.randn(4, 30, generator=generator)
    targets = torch.rand(3, 30, generator=generator)
    cost = pairwise_cross_entropy(logits, targets)
    for q in range(4):
        for n in range(3):
            one = cross_entropy(logits[q : q + 1], targets[n : n + 1])[0]
            torch.testing.assert_close(cost[q, n], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_matching_and_losses_equal_transformers(seed):
    generator = generator_of(seed)
    segments = random_segments(generator, [(3, 5, 1), (12, 2, 4)][seed % 2])  # 12 of 9 queries
    classes, masks = random_answer(segments, generator)
    config = reference.Mask2FormerConfig(num_labels=8, train_num_points=100)
    criterion = reference.Mask2FormerLoss(config, {})
    truth = peer.their_targets(segments)
    torch.manual_seed(seed)
    their_matches = criterion.matcher(masks, classes, *truth)
    torch.manual_seed(seed)
    matches = match_at_points(classes, masks, segments, 100, WEIGHTS)
    for ours, theirs in zip(matches, their_matches, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])

    torch.manual_seed(seed)
    their_losses = criterion(masks, classes, *truth)
    torch.manual_seed(seed)
    matches = match_at_points(classes, masks, segments, 100, WEIGHTS)
    losses = point_losses(classes, masks, segments, matches, 100, WEIGHTS)
    names = {"classes": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
    for name, theirs in names.items():
        expected = getattr(WEIGHTS, name) * their_losses[theirs]
        torch.testing.assert_close(losses[name], expected, atol=1e-5, rtol=1e-5)
    both = [
        torch.autograd.grad(total, (classes, masks))
        for total in (
            sum(losses.values()),
            sum(getattr(WEIGHTS, name) * their_losses[own] for name, own in names.items()),
        )
    ]
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_losses_by_hand(monkeypatch):
    """One mask of four cells, asked exactly at their centres."""
    centres = cell_centres((2, 2))[None]
    monkeypatch.setattr("lessons.mask2former.importance_points", lambda *_, **__: centres)
    logits = torch.tensor([[[[2.0, -1.0], [0.0, 3.0]]]])
    truth = [Segments(torch.tensor([[[True, False], [True, False]]]), torch.tensor([1]))]
    matches = [(torch.tensor([0]), torch.tensor([0]))]
    losses = point_losses(torch.zeros(1, 1, 4), logits, truth, matches, 4, WEIGHTS)
    entropy = [math.log(1 + math.exp(x)) for x in (-2, -1, 0, 3)]
    assert losses["mask"].item() == pytest.approx(5 * sum(entropy) / 4, rel=1e-5)
    m = [1 / (1 + math.exp(-x)) for x in (2, -1, 0, 3)]
    dice = 1 - (2 * (m[0] + m[2]) + 1) / (sum(m) + 2 + 1)
    assert losses["dice"].item() == pytest.approx(5 * dice, rel=1e-5)
    assert losses["classes"].item() == pytest.approx(2 * math.log(4), rel=1e-5)


def test_the_cost_may_take_the_logarithm():
    """The class decides alone: by its probability query 0, by its logarithm together with 1."""
    classes = torch.tensor([[[0.0, 0.0, 0.0], [-9.0, -9.0, 0.0]]])
    masks = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 5.0)])[None]
    target = [Segments(torch.ones(1, 8, 8, dtype=torch.bool), torch.tensor([0]))]
    found = [
        match_at_points(classes, masks, target, 200, WEIGHTS, logarithm)[0][0].item()
        for logarithm in (False, True)
    ]
    assert found == [1, 0]


def test_points_estimate_what_all_pixels_say():
    generator = generator_of(0)
    blob = torch.nn.functional.avg_pool2d(torch.randn(6, 1, 60, 60, generator=generator), 21, 1)[
        :, 0
    ]
    logits, true = 30 * blob, (blob > 0.02).float()
    points = uniform_points(6, 20_000, generator=generator)
    at = sample_points(logits, points), sample_points(true, points)
    for loss in (cross_entropy, dice_loss):
        whole = loss(logits.flatten(1), true.flatten(1))
        torch.testing.assert_close(loss(*at), whole, atol=0.08, rtol=0.1)


def test_an_image_without_segments():
    generator = generator_of(0)
    segments = [empty_segments((32, 44)), *random_segments(generator, (2,))]
    classes, masks = random_answer(segments, generator)
    matches = match_at_points(classes, masks, segments, 30, WEIGHTS)
    assert [len(queries) for queries, _ in matches] == [0, 2]
    total = sum(point_losses(classes, masks, segments, matches, 30, WEIGHTS).values())
    total.backward()
    assert total.isfinite() and masks.grad[0].abs().sum() == 0 < masks.grad[1].abs().sum()
    assert classes.grad[0].abs().sum() > 0  # its queries learn to say ∅

    alone = [empty_segments((32, 44))]
    classes, masks = random_answer(alone, generator)
    losses = point_losses(
        classes, masks, alone, match_at_points(classes, masks, alone, 30, WEIGHTS), 30, WEIGHTS
    )
    sum(losses.values()).backward()
    assert losses["mask"] == losses["dice"] == 0 and masks.grad.abs().sum() == 0


# ---------------------------------------------------------------- attention


def test_attention_mask_by_hand():
    logits = torch.tensor([[4.0, -1, 1, -1], [-1, -1, -1, -1], [-2, -2, 2, 2], [-2, -2, 2, 2]])
    blocked = attention_mask(logits[None, None], (2, 2), 3)  # means .25, −.5, −2, 2
    assert blocked.shape == (1, 3, 1, 4)
    assert blocked[0, :, 0].tolist() == [[False, True, True, False]] * 3
    # Exactly ½ is not blocked.
    assert not attention_mask(torch.zeros(1, 1, 4, 4), (2, 2)).any()


@given(seeds, st.floats(-2, 1))
@settings(max_examples=25, deadline=None)
def test_attention_mask_equals_transformers_except_for_empty_rows(seed, shift):
    torch.manual_seed(seed)
    predictor = reference.Mask2FormerMaskPredictor(8, 2, 8)
    queries, pixels = torch.randn(6, 2, 8), torch.randn(2, 8, 12, 20) + shift
    with torch.no_grad():
        logits, theirs = predictor(queries, pixels, (3, 5))
    theirs = theirs.view(2, 2, 6, 15)
    ours, empty = attention_mask(logits, (3, 5), 2), theirs.all(-1)
    assert torch.equal(ours[~empty], theirs[~empty]) and not ours[empty].any()


def test_a_row_that_is_masked_everywhere_looks_everywhere_and_nothing_is_nan():
    logits = torch.full((1, 3, 8, 8), -5.0)
    logits[0, 1] = 5.0
    logits.requires_grad_()
    blocked = attention_mask(logits, (4, 4), 2)
    assert not blocked.any() and not blocked.requires_grad
    layer, x = MaskedDecoderLayer(8, 2, 8), torch.randn(1, 3, 8, requires_grad=True)
    cells, places = torch.randn(1, 16, 8), torch.randn(16, 8)
    free = layer(x, torch.zeros(3, 8), cells, places, blocked)
    assert torch.equal(free, layer(x, torch.zeros(3, 8), cells, places))
    free.sum().backward()
    assert x.grad.isfinite().all()


def test_a_layer_sees_only_what_is_not_blocked():
    torch.manual_seed(0)
    layer, x = MaskedDecoderLayer(8, 2, 8), torch.randn(1, 2, 8)
    cells, positions = torch.randn(1, 6, 8), torch.randn(2, 8)
    blocked = torch.zeros(1, 1, 2, 6, dtype=torch.bool)
    blocked[..., 3:] = True
    before = layer(x, positions, cells, torch.zeros(6, 8), blocked)
    other = cells.clone()
    other[:, 3:] += 7
    assert torch.equal(before, layer(x, positions, other, torch.zeros(6, 8), blocked))
    other[:, 0] += 1
    assert not torch.allclose(before, layer(x, positions, other, torch.zeros(6, 8), blocked))


def test_the_decoder_layer_equals_transformers():
    torch.manual_seed(0)
    config = reference.Mask2FormerConfig(hidden_dim=24, dim_feedforward=20, num_attention_heads=3)
    theirs = peer.randomised(reference.Mask2FormerMaskedAttentionDecoderLayer(config))
    ours = MaskedDecoderLayer(24, 3, 20)
    peer.transplant_decoder_layer(theirs, ours)
    x, positions = torch.randn(2, 5, 24, requires_grad=True), torch.randn(5, 24)
    cells, places = torch.randn(2, 12, 24, requires_grad=True), torch.randn(12, 24)
    blocked = attention_mask(torch.randn(2, 5, 6, 8), (3, 4), 3)
    found = ours(x, positions, cells, places, blocked)
    expected = theirs(
        x.transpose(0, 1),
        level_index=0,
        position_embeddings=[places[:, None]],
        query_position_embeddings=positions[:, None].expand(-1, 2, -1),
        encoder_hidden_states=[cells.transpose(0, 1)],
        encoder_attention_mask=blocked.flatten(0, 1),
    )[0].transpose(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    error = torch.randn(found.shape)
    for mine, other in zip(
        torch.autograd.grad(found, (x, cells), error),
        torch.autograd.grad(expected, (x, cells), error),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_turned_around_the_layer_is_maskformer():
    torch.manual_seed(0)
    plain = MaskFormer(8, 4, channels=16, hidden=16, heads=2).decoder[0]
    ours = MaskedDecoderLayer(16, 2, 16, cross_first=False)
    ours.load_state_dict(plain.state_dict())
    given_ = torch.randn(2, 5, 16), torch.randn(5, 16), torch.randn(2, 7, 16), torch.randn(7, 16)
    assert torch.equal(ours(*given_), plain(*given_))
    ours.cross_first = True
    assert not torch.allclose(ours(*given_), plain(*given_), atol=1e-3)


# ---------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def samples():
    return [scene(5, i, (64, 96) if i else (96, 64)) for i in range(2)]


def answers_of(model, samples):
    return [s.image for s in samples], [s.segments for s in samples]


@pytest.mark.parametrize("switch", [None, *SWITCHES])
def test_each_improvement_can_be_switched_off_alone(switch, samples):
    torch.manual_seed(0)
    model = small_model(**({switch: False} if switch else {}))
    losses = model(*answers_of(model, samples))
    assert set(losses) == {"classes", "mask", "dice"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    with torch.no_grad():
        answers, forbidden = model.decode(torch.zeros(1, 3, 64, 96))
    assert len(answers) == (3 if switch == "learned_queries" else 4)
    assert len(forbidden) == 3
    strides = (32, 32, 32) if switch == "high_resolution" else (32, 16, 8)
    for number, (blocked, stride) in enumerate(zip(forbidden, strides, strict=True)):
        if switch == "masked_attention" or (switch == "learned_queries" and number == 0):
            assert blocked is None
        else:
            assert blocked.shape == (1, 6, 64 // stride, 96 // stride)


def test_matching_and_loss_have_a_switch_each_for_their_points(samples, monkeypatch):
    """All pixels where the matching has no points, uniform ones where nothing is important."""
    asked = []

    def important(logits, count, importance):
        asked.append(importance)
        return uniform_points(len(logits), count, logits.device)

    monkeypatch.setattr("lessons.mask2former.importance_points", important)
    monkeypatch.setattr("lessons.mask2former.match_at_points", None)
    model = small_model(matching_points=False, importance=0.25)
    assert set(model(*answers_of(model, samples))) == {"classes", "mask", "dice"}
    assert asked and set(asked) == {0.25}
    with pytest.raises(ValueError, match="importance"):
        small_model(importance=1.5)


def test_finer_features_are_read_by_the_same_layers():
    """Strides 16, 8 and 4 in place of 32, 16 and 8; the masks stay at stride 4."""
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 64, 96)
    for finer, strides in ((False, (32, 16, 8)), (True, (16, 8, 4))):
        answers, blocked = small_model(finer=finer).decode(batch)
        assert [each.shape[-2:] for each in blocked] == [(64 // s, 96 // s) for s in strides]
        assert answers[-1][1].shape[-2:] == (16, 24)


def test_with_all_switched_off_it_is_maskformer(samples):
    torch.manual_seed(0)
    sizes = {"num_queries": 6, "channels": 16, "hidden": 16, "heads": 2}
    theirs = MaskFormer(8, 4, weights=WEIGHTS, **sizes)
    ours = small_model(**dict.fromkeys(SWITCHES, False))
    ours.load_state_dict(theirs.state_dict())
    images, segments = answers_of(ours, samples)
    for mine, other in zip(ours.predict(images), theirs.predict(images), strict=True):
        assert torch.equal(mine[0], other[0]) and torch.equal(mine[1], other[1])
    assert set(ours(images, segments)) == set(theirs(images, segments))


def test_the_switches_do_what_they_say(samples):
    """Each changes the answers; with masks a layer sees less."""
    torch.manual_seed(1)
    whole = small_model()
    images = [s.image for s in samples]
    before = whole.predict(images)[0][1]
    assert any(blocked.any() for blocked in whole.decode(torch.zeros(1, 3, 64, 96))[1])
    whole.masked_attention = False
    assert not torch.allclose(before, whole.predict(images)[0][1])
    whole.masked_attention = True
    for layer in whole.decoder:
        layer.cross_first = False
    assert not torch.allclose(before, whole.predict(images)[0][1])


def test_no_gradient_runs_through_the_masks_of_the_attention(samples):
    """A loss on the last layer's classes reaches the mask head through nothing."""
    torch.manual_seed(0)
    model = small_model()
    classes, _ = model.layers(torch.randn(1, 3, 64, 64))[-1]
    classes.sum().backward()
    assert all(p.grad is None for p in model.head.embed.parameters())


def test_what_it_predicts(samples):
    torch.manual_seed(0)
    model = small_model(score_threshold=0.0).eval()
    images = [s.image for s in samples]
    for image, panoptic, things, semantic in zip(
        images,
        model.predict_panoptic(images),
        model.predict_instances(images),
        model.predict_semantic(images),
        strict=True,
    ):
        assert panoptic.size == things.size == tuple(semantic.shape) == tuple(image.shape[1:])
        assert (panoptic.masks.sum(0) <= 1).all() and (things.labels < 4).all()


def test_images_without_segments_and_crowds_can_be_learned(samples):
    model = small_model()
    image = samples[0].image
    nothing = empty_segments(tuple(image.shape[1:]))
    crowd = Segments(
        torch.ones(1, *image.shape[1:], dtype=torch.bool),
        torch.tensor([0]),
        is_crowd=torch.tensor([True]),
    )
    assert is_crowd(crowd).all()
    for segments in (nothing, crowd):
        losses = model([image], [segments])
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["mask"] == losses["dice"] == 0 < losses["classes"]
        sum(losses.values()).backward()


def test_more_segments_than_queries(samples):
    model = small_model(num_queries=2)
    images, segments = answers_of(model, samples)
    assert len(segments[0]) > 2
    assert all(loss.isfinite() for loss in model(images, segments).values())


def test_recipe():
    made = recipe("scenes", masked_attention=False)
    assert made.options == {"task": "panoptic", "masked_attention": False}
    assert not made.model().masked_attention and made.system == "mask2former"
    assert set(made.budgets) == {"test", "quick", "full"}
    again = recipe_of("mask2former", "four_scenes", {"num_queries": 5})
    assert again.model().query_positions.shape == (5, 64)
    assert list(recipe("scenes", task="instance").metrics) == ["predict_instances"]


def test_each_layer_of_the_decoder_reads_a_level_with_its_own_vector():
    model = small_model()
    maps, pixels = model.read_maps(model.backbone(torch.randn(1, 3, 64, 64)))
    vectors, read = torch.randn_like(model.level), []
    for layer in model.decoder:
        layer.register_forward_pre_hook(lambda _, given: read.append(given[2]))
    with torch.no_grad():
        for values in (torch.zeros_like(vectors), vectors):
            model.level.copy_(values)
            model.refine(torch.zeros(1, 6, 16), maps, pixels)
    assert len(vectors) == 3 and len(read) == 6
    for vector, plain, own in zip(vectors, read[:3], read[3:], strict=True):
        torch.testing.assert_close(own - plain, vector.expand_as(own), rtol=1e-4, atol=1e-5)
