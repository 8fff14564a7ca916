"""Lesson 05 against torchvision: parts on random inputs, the whole with transplanted weights."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import maskrcnn_loss, project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign

from lessons.kit.data import Segments, boxes, is_crowd
from lessons.kit.data.scenes import scene
from lessons.kit.models.backbone import Backbone
from lessons.kit.models.images import batch_masks
from lessons.kit.peers.mask_rcnn import (
    detect_unpasted,
    in_our_names,
    torchvision_mask_rcnn,
    transplant,
)
from lessons.kit.training.recorded import load_model, read
from lessons.mask_rcnn import (
    BoxHead,
    Detections,
    MaskHead,
    MaskRCNN,
    choose_detections,
    choose_level,
    mask_loss,
    mask_scores,
    mask_targets,
    paste_masks,
    pool_pyramid,
    recipe,
    sample_rois,
    softmax_mask_loss,
    softmax_mask_scores,
)
from lessons.region_proposals import FeaturePyramid, RegionProposalNetwork
from lessons.roi_align import roi_align, roi_pool

T = 4
EVERYTHING = 10**6
seeds = st.integers(0, 10**6)


def random_boxes(n, generator, size=(96, 128)):
    h, w = size
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([w * 0.8, h * 0.8])
    side = 2 + torch.rand(n, 2, generator=generator) * 50
    return torch.cat([corner, torch.minimum(corner + side, torch.tensor([w, h]))], dim=1)


# ---------------------------------------------------------------- losses


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 5), st.sampled_from([2, 7, 28]))
def test_mask_loss_is_torchvisions(seed, n, k, m):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, m, m, generator=generator)
    masks = (torch.rand(n, m, m, generator=generator) > 0.5).float()
    labels = torch.randint(k, (n,), generator=generator)
    own, whole = torch.arange(n), torch.tensor([[0.0, 0.0, m, m]]).repeat(n, 1)
    targets = project_masks_on_boxes(masks, whole, own, m)
    theirs = maskrcnn_loss(logits, [whole], [masks], [labels], [own])
    torch.testing.assert_close(mask_loss(logits, targets, labels), theirs)


@pytest.mark.parametrize("loss", [mask_loss, softmax_mask_loss])
def test_no_rois_no_loss_but_a_gradient(loss):
    logits = torch.zeros(0, 5, 28, 28, requires_grad=True)
    value = loss(logits, torch.zeros(0, 28, 28), torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert logits.grad.shape == logits.shape


def test_only_the_mask_of_class_u_learns():
    logits = torch.randn(3, 4, 6, 6, requires_grad=True)
    labels = torch.tensor([2, 0, 3])
    mask_loss(logits, torch.rand(3, 6, 6), labels).backward()
    heard = logits.grad.abs().sum(dim=(2, 3)) > 0
    assert torch.equal(heard, F.one_hot(labels, 4).bool())


def test_softmax_loss_of_hard_targets_is_cross_entropy():
    logits, labels = torch.randn(3, 5, 6, 6), torch.tensor([2, 0, 3])
    targets = (torch.rand(3, 6, 6) > 0.5).float()
    classes = torch.where(targets > 0, labels[:, None, None], 4)
    torch.testing.assert_close(
        softmax_mask_loss(logits, targets, labels), F.cross_entropy(logits, classes)
    )


def test_scores_are_of_the_detections_class():
    logits, labels = torch.randn(2, 5, 3, 3), torch.tensor([3, 1])
    found, rival = mask_scores(logits, labels), softmax_mask_scores(logits, labels)
    for k, label in enumerate(labels.tolist()):
        torch.testing.assert_close(found[k], torch.sigmoid(logits[k, label]))
        torch.testing.assert_close(rival[k], logits[k].softmax(0)[label])


# ---------------------------------------------------------------- targets and paste


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(0, 5), st.sampled_from([7, 14, 28]))
def test_targets_are_torchvisions_when_not_aligned(seed, n, size):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(3, 96, 128, generator=generator) > 0.5
    rois = random_boxes(n, generator)
    matches = torch.randint(3, (n,), generator=generator)
    ours = mask_targets(masks, rois, matches, size, aligned=False)
    theirs = project_masks_on_boxes(masks, rois, matches, size)
    torch.testing.assert_close(ours, theirs.reshape(n, size, size), atol=1e-5, rtol=0)


def test_a_target_at_the_masks_own_size_is_the_mask():
    mask = torch.rand(1, 14, 14) > 0.5
    whole = torch.tensor([[0.0, 0.0, 14.0, 14.0]])
    assert torch.equal(mask_targets(mask, whole, torch.tensor([0]), 14), mask.float())


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 5), st.sampled_from([1, 7, 28]))
def test_paste_is_grid_sample(seed, n, m):
    generator = torch.Generator().manual_seed(seed)
    h, w = 40, 50
    masks = torch.rand(n, m, m, generator=generator, dtype=torch.float64)
    places = random_boxes(n, generator, (h, w)).double() - 5  # some begin outside of the image
    x0, y0, x1, y1 = places[:, :, None].unbind(1)
    y = (torch.arange(h) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(w) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, h, -1), y[:, :, None].expand(-1, -1, w)], dim=-1)
    wanted = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] if n else masks
    found = paste_masks(masks, places, (h, w))
    assert found.shape == (n, h, w)
    if n:
        torch.testing.assert_close(found, wanted)


def test_a_box_without_area_pastes_nothing_that_counts():
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([[5.0, 5.0, 5.0, 9.0]]), (20, 20))
    assert pasted.isfinite().all()
    assert (pasted >= 0.5).sum() <= 4


def test_true_masks_survive_crop_and_paste():
    answer = scene(1, 6).segments
    thing = answer[answer.labels < T]
    own = torch.arange(len(thing))
    back = paste_masks(mask_targets(thing.masks, boxes(thing), own, 28), boxes(thing), thing.size)
    both = ((back >= 0.5) & thing.masks).sum((1, 2))
    either = ((back >= 0.5) | thing.masks).sum((1, 2))
    assert (both / either).mean() > 0.95


# ---------------------------------------------------------------- pooling


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from([56, 100, 224]))
def test_pyramid_pooling_is_torchvisions(seed, canonical_size):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(2, 3, 96 // s, 128 // s, generator=generator) for s in (4, 8, 16, 32)]
    per_image = [random_boxes(n, generator) for n in (6, 3)]
    rois = torch.cat([F.pad(part, (1, 0), value=i) for i, part in enumerate(per_image)])
    align = partial(roi_align, sampling_ratio=2)
    ours = pool_pyramid(features, rois, 7, align, (4, 8, 16, 32), range(4), canonical_size)
    pooler = MultiScaleRoIAlign(list("0123"), 7, 2, canonical_scale=canonical_size)
    theirs = pooler(dict(zip("0123", features, strict=True)), per_image, [(96, 128)] * 2)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_levels_are_limited():
    rois = torch.tensor([[0.0, 0, 0, 3, 3], [0, 0, 0, 56, 56], [0, 0, 0, 1000, 1000]])
    assert choose_level(rois, (0, 1, 2, 3), 56).tolist() == [0, 2, 3]
    assert choose_level(rois, (2,), 56).tolist() == [2, 2, 2]
    assert choose_level(torch.zeros(1, 5), (0, 1), 56).tolist() == [0]  # no area


# ---------------------------------------------------------------- sampling and choosing


def test_the_masks_of_a_batch_go_on_as_they_end():
    small, large = torch.rand(2, 3, 5) > 0.5, torch.rand(1, 4, 8) > 0.5
    stack = batch_masks([Segments(m, torch.zeros(len(m)).long()) for m in (small, large)], (4, 8))
    assert torch.equal(stack[:2, :3, :5], small) and torch.equal(stack[2:], large)
    assert torch.equal(stack[:2, 3, :5], small[:, 2])
    assert torch.equal(stack[:2, :, 5:], stack[:2, :, 4:5].expand(-1, -1, 3))


def test_objects_are_numbered_through_the_images():
    truth = torch.tensor([[0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 90.0, 90.0]])
    sample = sample_rois([truth] * 2, [truth] * 2, [torch.tensor([3, 1])] * 2, 9, 1.0)
    assert sample.matches.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert sample.rois[:, 0].tolist() == [0] * 4 + [1] * 4


def test_a_sample_carries_class_code_and_object():
    truth = torch.tensor([[0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 90.0, 90.0]])
    proposals = torch.tensor([[52.0, 50.0, 90.0, 90.0], [0.0, 40.0, 20.0, 60.0]])
    sample = sample_rois([proposals], [truth], [torch.tensor([3, 1])], 10, 0.5)
    by_box = {tuple(roi[1:].tolist()): k for k, roi in enumerate(sample.rois)}
    near, far = by_box[(52.0, 50.0, 90.0, 90.0)], by_box[(0.0, 40.0, 20.0, 60.0)]
    assert (sample.u[near], sample.matches[near]) == (2, 1)
    torch.testing.assert_close(sample.v[near][0], torch.tensor(-10.0 / 38))
    assert (sample.u[far], sample.matches[far]) == (0, -1)
    assert len(sample.rois) == 4  # the true boxes have joined


def test_a_sample_has_at_most_a_fraction_of_positives():
    truth = random_boxes(30, torch.Generator().manual_seed(0))
    far = truth[:5] + 500
    sample = sample_rois([far], [truth], [torch.zeros(30, dtype=torch.int64)], 12, 0.25)
    assert (sample.u > 0).sum() == 3
    assert (sample.u == 0).sum() == 5


def test_detections_are_clipped_thresholded_and_limited():
    rois = torch.tensor([[0.0, -5, -5, 30, 30], [0, 60, 60, 70, 70], [1, 0, 0, 30, 30]])
    logits = torch.tensor([[0.0, 5, 0], [0, 0, 4], [0, 3, 0]])
    limits = {"score_threshold": 0.5, "nms_threshold": 0.5, "most": 1}
    codes = torch.zeros(3, 2, 4)
    found, labels, scores = choose_detections(logits, codes, rois, [(50, 65), (20, 40)], **limits)
    assert found.tolist() == [[0, 0, 0, 30, 30], [1, 0, 0, 30, 20]]  # 60 … 65 × 60 … 50 is empty
    assert labels.tolist() == [0, 0]
    torch.testing.assert_close(scores, logits.softmax(1)[[0, 2], 1])


# ---------------------------------------------------------------- the whole, against torchvision

ANCHORS = (12, 24, 48, 96, 192)  # the last of the extra pooled level


@pytest.fixture(scope="module")
def twins():
    """torchvision's Mask R-CNN and ours with its weights, which take all RoIs as their sample.

    In float64: in float32 the gradients' noise is 1e-3. The weights of the last layers are
    larger than they are drawn, so that scores and masks differ from one another.
    """
    torch.manual_seed(0)
    theirs = torchvision_mask_rcnn(
        Backbone(),
        T,
        96,
        anchors=ANCHORS,
        canonical_size=56,
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        box_positive_fraction=0.5,
    )
    box, mask = theirs.roi_heads.box_predictor, theirs.roi_heads.mask_predictor
    with torch.no_grad():
        for layer, factor in {box.cls_score: 10, mask.mask_fcn_logits: 3}.items():
            layer.weight *= factor
    numbers = {"train": 2000, "eval": 1000}
    counts = {
        f"{what}_{mode}": n for what in ("candidates", "proposals") for mode, n in numbers.items()
    }
    backbone = Backbone()
    ours = MaskRCNN(
        T,
        backbone=backbone,
        pyramid=FeaturePyramid(backbone.channels, 64, extra_level=True),
        rpn=RegionProposalNetwork(64, ANCHORS, samples=EVERYTHING, **counts),
        box_head=BoxHead(64, T, norm=False),
        mask_head=MaskHead(64, T, norm=False),
        sampling_ratio=2,
        aligned=False,
        canonical_size=56,
        samples=EVERYTHING,
        positive_fraction=0.5,
    )
    transplant(theirs, ours)
    return theirs.double(), ours.double()


def without_things(sample):
    answer = sample.segments
    return sample.image.double(), answer[answer.labels >= T]


def batches():
    """Two images of different sizes; one image alone; one of the two shows no thing."""
    first, second = scene(5, 0, (96, 128)), scene(5, 1, (128, 96))
    pair = [(s.image.double(), s.segments) for s in (first, second)]
    return {"two sizes": pair, "one": pair[:1], "no thing": [pair[0], without_things(second)]}


def as_torchvision(segments):
    thing = segments[(segments.labels < T) & ~is_crowd(segments)]
    return {"boxes": boxes(thing), "labels": thing.labels + 1, "masks": thing.masks.byte()}


def gradients(module):
    return {name: weight.grad for name, weight in module.named_parameters()}


@pytest.mark.parametrize("name", batches())
def test_five_losses_and_all_gradients_are_torchvisions(twins, name):
    theirs, ours = twins
    images, segments = zip(*batches()[name], strict=True)
    reference = theirs.train()(list(images), [as_torchvision(s) for s in segments])
    found = ours.train()(list(images), list(segments))
    names = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
    assert list(found) == ["objectness", "rpn_box", "cls", "box", "mask"]
    for mine, theirs_name in zip(found.values(), names, strict=True):
        assert abs(mine - reference[theirs_name]) < 1e-4, theirs_name
    for model, losses in ((theirs, reference), (ours, found)):
        model.zero_grad()
        sum(losses.values()).backward()
    wanted = in_our_names(theirs, ours, gradients)
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for weight_name, gradient in gradients(ours).items():
        error = (gradient - wanted[weight_name]).norm() / wanted[weight_name].norm()
        assert error < 1e-4, weight_name


def test_detections_are_torchvisions(twins):
    theirs, ours = twins
    images = [image for image, _ in batches()["two sizes"]]
    found = ours.eval().detect(*ours.features(images))
    assert len(choose_level(found.rois, ours.levels, 56).unique()) > 1
    for number, wanted in enumerate(detect_unpasted(theirs, images)):
        own = found.rois[:, 0] == number
        assert len(wanted["boxes"]) == 100 and len(wanted["labels"].unique()) > 1
        assert wanted["scores"].max() > 0.8 and wanted["masks"].std() > 0.2
        pairs = {
            "boxes": found.rois[own, 1:],
            "scores": found.scores[own],
            "labels": found.labels[own] + 1,
            "masks": found.masks[own],
        }
        for name, mine in pairs.items():
            torch.testing.assert_close(mine, wanted[name], atol=1e-5, rtol=0, check_dtype=False)


@torch.no_grad()
def test_another_convention_is_another_answer(twins):
    """What makes the two equal acts when it is changed: `aligned`, `sampling_ratio`, `levels`."""
    _, ours = twins
    image, segments = batches()["one"][0]
    features = ours.eval().features([image])
    torch.manual_seed(0)
    usual = ours.detect(*features).scores, ours.instance_losses(*features, [segments])["mask"]
    changes = {"aligned": True, "sampling_ratio": 1, "levels": (1, 2), "canonical_size": 28}
    for name, value in changes.items():
        before = getattr(ours, name)
        setattr(ours, name, value)
        other = ours.detect(*features).scores, ours.instance_losses(*features, [segments])["mask"]
        setattr(ours, name, before)
        assert other[0].shape != usual[0].shape or not torch.allclose(other[0], usual[0]), name
        assert not torch.allclose(other[1], usual[1]), name


def test_aligned_says_how_mask_targets_are_cropped_unless_they_are_given():
    crops = []

    def unaligned(masks, boxes, matches, size):
        crops.append(size)
        return mask_targets(masks, boxes, matches, size, aligned=False)

    sample, heads_read = scene(5, 0, 64), partial(roi_align, sampling_ratio=2, aligned=True)
    losses = []
    for options in ({"aligned": True}, {"aligned": False}, {"mask_targets": unaligned}):
        torch.manual_seed(0)
        model = MaskRCNN(T, roi_align=heads_read, **options)
        losses.append(model([sample.image], [sample.segments])["mask"].item())
    half, none, given = losses
    assert given == none != half and crops == [28]


def test_a_given_roi_align_is_called_without_conventions():
    calls = []

    def watched(features, rois, size, scale):
        calls.append((size, scale))
        return roi_align(features, rois, size, scale, 2, True)

    torch.manual_seed(0)
    model = MaskRCNN(T, score_threshold=0.01).eval()
    features = model.features([scene(5, 0, 64).image])
    usual = model.detect(*features)
    model.roi_align = watched
    found = model.detect(*features)
    assert torch.equal(found.masks, usual.masks) and torch.equal(found.scores, usual.scores)
    assert calls == [(size, 1 / stride) for size in (7, 14) for stride in (4, 8, 16, 32)]


# ---------------------------------------------------------------- the system


def test_crowds_and_stuff_are_no_targets():
    torch.manual_seed(0)
    model = MaskRCNN(T, samples=EVERYTHING).train()
    sample = scene(5, 0, 64)
    answer = sample.segments
    thing = answer[(answer.labels < T) & ~is_crowd(answer)]
    crowd = torch.zeros(1, 64, 64, dtype=torch.bool)
    crowd[:, 40:60, 40:60] = True
    more = Segments(
        torch.cat([thing.masks, crowd, crowd]),
        torch.cat([thing.labels, torch.tensor([0, 6])]),
        is_crowd=torch.tensor([False] * len(thing) + [True, False]),
    )
    results = []
    for target in (thing, more):
        torch.manual_seed(1)
        results.append(torch.stack(list(model([sample.image], [target]).values())))
    assert torch.equal(*results)


def test_each_image_gets_its_own_detections_where_the_mask_is_at_least_one_half():
    rois = torch.tensor([[1.0, 0, 0, 8, 4], [0, 2, 2, 6, 6], [1, 0, 0, 4, 4], [0, 0, 0, 9, 6]])
    soft = torch.tensor([0.5, 0.9, 0.49, 0.45])  # the last two nowhere reach one half
    masks = soft[:, None, None].expand(-1, 28, 28)
    found = Detections(rois, torch.tensor([3, 1, 0, 2]), torch.tensor([0.9, 0.8, 0.7, 0.6]), masks)
    first, second = MaskRCNN(T).paste_detections(found, [(6, 9), (4, 8)])
    assert (first.labels.tolist(), second.labels.tolist()) == ([1], [3])
    assert torch.equal(first.scores, torch.tensor([0.8])) and first.size == (6, 9)
    inside = torch.zeros(6, 9, dtype=torch.bool)
    inside[2:6, 2:6] = True
    assert torch.equal(first.masks[0] & ~inside, torch.zeros_like(inside))
    assert first.masks[0, 3:5, 3:5].all()  # its rim is softer
    assert second.masks[0, 1:3, 1:7].all() and second.size == (4, 8)


def test_predictions_are_sorted_whole_segments_of_the_images_size():
    torch.manual_seed(0)
    model = MaskRCNN(T, score_threshold=0.01).eval()
    images = [scene(5, k, size).image for k, size in enumerate([(64, 96), (50, 33)])]
    for image, answer in zip(images, model.predict_instances(images), strict=True):
        assert answer.size == tuple(image.shape[1:])
        assert (answer.scores.diff() <= 0).all()
        assert answer.masks.flatten(1).any(dim=1).all()
        assert answer.labels.max() < T


def test_an_image_is_answered_alike_alone_and_in_a_batch():
    model = load_model("mask_rcnn")
    images = [scene(9, k).image for k in range(3)]
    together = model.predict_instances(images)
    for image, answer in zip(images, together, strict=True):
        alone = model.predict_instances([image])[0]
        torch.testing.assert_close(
            alone.scores, answer.scores, atol=1e-4, rtol=0, check_dtype=False
        )
        assert torch.equal(alone.labels, answer.labels)
        assert (alone.masks != answer.masks).float().mean() < 1e-3


@pytest.mark.parametrize(
    "options",
    [{}, {"roi": "pool"}, {"mask": "softmax"}, {"mask_size": 14}, {"levels": [2], "roi": "pool"}],
)
def test_every_variant_learns_from_a_step(options):
    torch.manual_seed(0)
    model = recipe("four_scenes", **options).model()
    if options.get("roi") == "pool":
        assert model.roi_align is roi_pool
    sample = scene(5, 0, 64)
    sum(model([sample.image], [sample.segments]).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    found = model.eval().detect(*model.features([sample.image]))
    size = options.get("mask_size", 28)
    assert found.masks.shape[1:] == (size, size)
    assert ((found.masks >= 0) & (found.masks <= 1)).all()


@pytest.mark.parametrize(
    ("name", "marks"),
    [("mask_rcnn", {"ap": 0.60, "ap50": 0.85}), ("mask_rcnn_nuclei", {"ap50": 0.75})],
)
def test_recorded_runs_reach_their_marks(name, marks):
    scores = read(name)["scores"]
    for score, mark in marks.items():
        assert scores[score] >= mark


def test_the_recorded_model_finds_what_it_is_recorded_to_find():
    from lessons.kit.training.recorded import evaluate_again

    scores = evaluate_again("mask_rcnn", seed=7, count=16)  # scenes that no run has seen
    assert scores["ap50"] >= 0.85
