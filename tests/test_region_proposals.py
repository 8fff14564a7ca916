"""Lesson 03 against torchvision, on random and on awkward inputs."""

import inspect
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import _utils as peer
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as Reference
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lessons.anchor_boxes import box_iou
from lessons.region_proposals import (
    FeaturePyramid,
    RegionProposalNetwork,
    match_boxes,
    sample_boxes,
)

many = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def random_boxes(n, seed, size=60.0):
    """Boxes with an area, many overlapping."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * size
    return torch.cat([corner, corner + 2 + torch.rand(n, 2, generator=generator) * size / 2], dim=1)


# ---------------------------------------------------------------- matching, sampling


@given(st.integers(1, 6), st.integers(1, 40), seeds, st.booleans(), st.sampled_from([4, 10, 1000]))
@many
def test_matches_equal_torchvision(g, n, seed, keep_best, steps):
    # Few steps make ties; no true box is without any overlap.
    iou = torch.randint(1, steps + 1, (g, n), generator=torch.Generator().manual_seed(seed)) / steps
    expected = peer.Matcher(0.7, 0.3, allow_low_quality_matches=keep_best)(iou.clone())
    before = iou.clone()
    assert torch.equal(match_boxes(iou, 0.7, 0.3, keep_best), expected)
    assert torch.equal(iou, before)


def test_limits_belong_to_the_upper_side():
    iou = torch.tensor([[0.7, 0.3, 0.29, 0.69]])
    assert match_boxes(iou, 0.7, 0.3).tolist() == [0, -2, -1, -2]


def test_without_true_boxes_all_is_background():
    matches = match_boxes(torch.zeros(0, 5), 0.7, 0.3, keep_best=True)
    assert matches.tolist() == [-1] * 5 and matches.dtype == torch.int64
    assert match_boxes(torch.zeros(2, 0), 0.7, 0.3, keep_best=True).shape == (0,)


def test_a_true_box_that_nothing_meets_takes_nothing():
    iou = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.2, 0.0]])
    assert match_boxes(iou, 0.7, 0.3, keep_best=True).tolist() == [-1, 1, -1]


@given(
    st.lists(st.integers(-2, 3), max_size=60), st.integers(1, 40), st.sampled_from([0.25, 0.5, 1])
)
@many
def test_sample_has_the_sizes_of_torchvision(matches, count, fraction):
    matches = torch.tensor(matches, dtype=torch.int64)
    labels = torch.where(matches >= 0, 1, torch.where(matches == -1, 0, -1)).float()
    theirs = peer.BalancedPositiveNegativeSampler(count, fraction)([labels])
    ours = sample_boxes(matches, count, fraction)
    for mine, other, right in zip(ours, theirs, (matches >= 0, matches == -1), strict=True):
        assert len(mine) == int(other[0].sum()) == len(mine.unique())
        assert right[mine].all()
        if len(mine) == right.sum():  # nothing was dropped: in their order
            assert torch.equal(mine, right.nonzero()[:, 0])


def test_sample_is_the_generators_and_reaches_all():
    matches = torch.tensor([0] * 10 + [-1] * 30)

    def drawn(seed):
        return sample_boxes(matches, 8, 0.5, torch.Generator().manual_seed(seed))

    assert all(torch.equal(a, b) for a, b in zip(drawn(3), drawn(3), strict=True))
    together = [torch.cat(drawn(seed)) for seed in range(200)]
    assert len(torch.cat(together).unique()) == 40
    state = torch.random.get_rng_state()
    drawn(0)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---------------------------------------------------------------- networks


def transplant(theirs, ours):
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("sides", [((32, 40), (16, 20), (8, 10)), ((31, 41), (16, 21), (7, 11))])
def test_pyramid_equals_torchvision(extra, sides):
    torch.manual_seed(0)
    ours = FeaturePyramid([8, 12, 16], 10, extra_level=extra)
    pool = LastLevelMaxPool() if extra else None
    theirs = torchvision.ops.FeaturePyramidNetwork([8, 12, 16], 10, pool)
    transplant(theirs, ours)
    pairs = zip((8, 12, 16), sides, strict=True)
    features = [torch.randn(2, c, *side, requires_grad=True) for c, side in pairs]
    expected = list(theirs(dict(enumerate(features))).values())
    outputs = ours(features)
    assert len(outputs) == 3 + extra
    for mine, other in zip(outputs, expected, strict=True):
        assert torch.equal(mine, other)
    gradients = [torch.autograd.grad(sum(map(torch.sum, o)), features) for o in (outputs, expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def test_pyramid_starts_as_torchvisions():
    torch.manual_seed(0)
    conv = FeaturePyramid([64], 64).output[0]
    assert conv.bias.abs().max() == 0
    bound = math.sqrt(3 / (64 * 9))  # kaiming_uniform with a = 1
    assert 0.99 * bound < conv.weight.abs().max() <= bound


SIDES, PADDED = ((33, 40), (17, 20), (9, 10), (5, 5)), (132, 160)
IMAGE_SIZES = [(130, 160), (100, 121), (132, 90)]


def networks(train, seed=0, **options):
    """torchvision's network and ours with its weights, and features of three images."""
    torch.manual_seed(seed)
    head = RPNHead(16, 6)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    sizes = ((10, 14), (20, 28), (40, 56), (80, 112))
    theirs = Reference(
        AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4),
        head,
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.25,
        batch_size_per_image=options.get("samples", 10**6),
        positive_fraction=0.5,
        pre_nms_top_n={"training": 150, "testing": 100},
        post_nms_top_n={"training": 120, "testing": 70},
        nms_thresh=0.6,
        score_thresh=options.get("score_threshold", 0.0),
    )
    ours = RegionProposalNetwork(
        16,
        sizes,
        **{
            "foreground": 0.6,
            "background": 0.25,
            "samples": 10**6,
            "candidates_train": 150,
            "candidates_eval": 100,
            "nms_threshold": 0.6,
            "proposals_train": 120,
            "proposals_eval": 70,
        }
        | options,
    )
    transplant(theirs, ours)
    features = [torch.randn(3, 16, *side) for side in SIDES]
    return theirs.train(train), ours.train(train), features


def theirs_of(network, features, boxes=None):
    images = ImageList(torch.zeros(3, 3, *PADDED), IMAGE_SIZES)
    targets = None if boxes is None else [{"boxes": true} for true in boxes]
    return network(images, dict(enumerate(features)), targets)


BOXES = [random_boxes(7, 1, size=80.0), torch.zeros(0, 4), random_boxes(1, 2)]


@pytest.mark.parametrize("seed", range(3))
def test_network_in_training_equals_torchvision(seed):
    theirs, ours, features = networks(train=True, seed=seed)
    expected, their_losses = theirs_of(theirs, features, BOXES)
    proposals, losses = ours(features, PADDED, IMAGE_SIZES, BOXES)
    assert list(losses) == ["objectness", "rpn_box"]
    for mine, other in zip(proposals, expected, strict=True):
        assert torch.equal(mine, other) and not mine.requires_grad and len(mine) == 120
    for mine, other in zip(losses.values(), their_losses.values(), strict=True):
        torch.testing.assert_close(mine, other)
        assert mine > 0
    gradients = [
        torch.autograd.grad(sum(terms.values()), list(network.parameters()))
        for network, terms in ((theirs, their_losses), (ours, losses))
    ]
    for mine, other in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("score", [0.0, 0.6, 1.0])
def test_network_in_use_equals_torchvision(score):
    theirs, ours, features = networks(train=False, score_threshold=score)
    expected, _ = theirs_of(theirs, features)
    proposals, losses = ours(features, PADDED, IMAGE_SIZES)
    assert losses == {} and [len(p) for p in proposals] == [len(p) for p in expected]
    for mine, other, (h, w) in zip(proposals, expected, IMAGE_SIZES, strict=True):
        assert torch.equal(mine, other)
        assert (mine >= 0).all() and (mine <= torch.tensor([w, h, w, h])).all()


def test_the_sum_over_positives_is_divided_by_the_sample():
    """A sample that has room for all positives and fewer negatives: only the divisor changes."""
    _, ours, features = networks(train=True)
    boxes = [random_boxes(1, 3, size=80.0)] * 3
    few = networks(train=True, samples=400)[1]
    everything = ours(features, PADDED, IMAGE_SIZES, boxes)[1]["rpn_box"]
    sampled = few(features, PADDED, IMAGE_SIZES, boxes)[1]["rpn_box"]
    anchors = torch.cat(ours.anchors_of(features, PADDED))
    matches = match_boxes(box_iou(boxes[0], anchors), 0.6, 0.25, keep_best=True)
    total = int((matches != -2).sum())
    assert 0 < (matches >= 0).sum() <= 200 < total
    torch.testing.assert_close(sampled / everything, torch.tensor(total / 400))


def test_images_without_any_thing_have_finite_losses():
    _, ours, features = networks(train=True, samples=64)
    _, losses = ours(features, PADDED, IMAGE_SIZES, [torch.zeros(0, 4)] * 3)
    assert losses["rpn_box"] == 0 and losses["objectness"].isfinite()
    sum(losses.values()).backward()


def test_every_setting_is_an_attribute():
    signature = inspect.signature(RegionProposalNetwork).parameters.values()
    settings = [each for each in signature if each.kind is each.KEYWORD_ONLY]
    given = {
        setting.name: 7 + number if isinstance(setting.default, int) else 0.1 + number / 20
        for number, setting in enumerate(settings)
    }
    network = RegionProposalNetwork(8, (9, 18), (0.5, 1.0), **given)
    assert len(given) == 11 and network.sizes == (9, 18) and network.ratios == (0.5, 1.0)
    assert {name: getattr(network, name) for name in given} == given


CHANGES = [
    {"foreground": 0.4, "background": 0.1},
    {"samples": 31},
    {"samples": 64, "positive_fraction": 0.1},
    {"candidates_train": 5},
    {"nms_threshold": 0.3},
    {"proposals_train": 9},
    {"min_size": 40.0},
    {"score_threshold": 0.95},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: " ".join(changes))
def test_a_setting_may_be_changed_later(changes):
    """Each is read when it is used: as if the network had been made so, and not as before."""

    def answers(network):
        torch.manual_seed(1)
        proposals, losses = network(features, PADDED, IMAGE_SIZES, BOXES)
        return [torch.cat(proposals), torch.stack(list(losses.values()))]

    _, ours, features = networks(train=True)
    before, expected = answers(ours), answers(networks(train=True, **changes)[1])
    for name, value in changes.items():
        setattr(ours, name, value)
    found = answers(ours)
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))
    assert any(not torch.equal(mine, other) for mine, other in zip(found, before, strict=True))


def test_anchors_follow_the_features():
    """The anchors of one batch are not used for another one."""
    _, ours, features = networks(train=False)
    first = ours(features, PADDED, IMAGE_SIZES)[0]
    ours(features, (264, 320), IMAGE_SIZES)
    again = ours(features, PADDED, IMAGE_SIZES)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    small = [x[:, :, : x.shape[2] // 2] for x in features]
    assert all(len(p) for p in ours(small, (66, 160), [(66, 160)] * 3)[0])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_network_under_bfloat16(device):
    """Boxes are computed in float32: under autocast they stay near those without."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    _, ours, features = networks(train=True)
    ours, features = ours.to(device), [x.to(device) for x in features]
    boxes = [true.to(device) for true in BOXES]
    with torch.autocast(device, torch.bfloat16):
        proposals, losses = ours(features, PADDED, IMAGE_SIZES, boxes)
    expected = ours(features, PADDED, IMAGE_SIZES, boxes)[1]
    sum(losses.values()).backward()
    assert all(p.dtype == torch.float32 for p in proposals)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("number", range(4))
def test_deltas_that_are_no_numbers_make_no_proposals(odd, number):
    """As in torchvision: such a box is none, and the others are as they were."""
    theirs, ours, features = networks(train=False)
    with torch.no_grad():
        for bias in (theirs.head.bbox_pred.bias, ours.head.deltas.bias):
            bias[4 + number] = odd
    expected, _ = theirs_of(theirs, features)
    for mine, other in zip(ours(features, PADDED, IMAGE_SIZES)[0], expected, strict=True):
        assert torch.equal(mine, other) and len(mine) > 20 and mine.isfinite().all()
