"""Lesson 10: mIoU as torchmetrics counts, the merge as panopticapi's script, and the network."""

import math
from dataclasses import replace
from functools import partial
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lessons.kit.data import VOID, Category, Segments, areas, empty_segments, semantic_map
from lessons.kit.data.imperfect import imperfect_detections, imperfect_panoptic
from lessons.kit.models.backbone import Backbone
from lessons.kit.peers.coco import combine_panoptic, score_panoptic_files
from lessons.kit.peers.semantic import torchmetrics_confusion
from lessons.kit.training import fit
from lessons.kit.training.recorded import evaluate_again, write
from lessons.mask_rcnn import MaskRCNN
from lessons.panoptic_fpn import (
    PanopticFPN,
    SemanticBranch,
    classes_of_pixels,
    count_pixels,
    evaluate_semantic,
    merge_panoptic,
    recipe,
    semantic_loss,
    thing_or_stuff,
)
from lessons.region_proposals import FeaturePyramid, RegionProposalNetwork

SHEEP, TREE, SKY, LAKE = range(4)
KINDS = [
    Category("sheep", True, (240, 228, 66)),
    Category("tree", True, (0, 158, 115)),
    Category("sky", False, (166, 216, 245)),
    Category("lake", False, (0, 114, 178)),
]


def segments(*rows, labels, scores=None):
    """Segments from a picture: a digit is a segment, a dot is none."""
    grid = np.array([list(row) for row in rows])
    masks = torch.from_numpy(np.stack([grid == str(k) for k in range(len(labels))]))
    return Segments(masks, torch.tensor(labels), None if scores is None else torch.tensor(scores))


# ---------------------------------------------------------------- mIoU


@pytest.fixture(scope="module")
def few_coco(coco):
    """Four COCO images."""
    return [coco[i] for i in (0, 7, 11, 17)]


def test_pixels_are_counted_as_by_torchmetrics_on_coco(coco, few_coco):
    rng = np.random.default_rng(0)
    some = few_coco
    found = [semantic_map(imperfect_panoptic(each, coco.categories, rng)) for each in some]
    true = [semantic_map(each.segments) for each in some]
    assert any((each == VOID).any() for each in found) and any((t == VOID).any() for t in true)
    k = len(coco.categories)
    ours = sum(count_pixels(a, b, k) for a, b in zip(found, true, strict=True))
    theirs = torchmetrics_confusion(found, true, k)
    assert (ours == theirs.numpy()).all()
    scores = evaluate_semantic(found, [each.segments for each in some], coco.categories)
    counts = theirs.double()[:k]
    hit, union = counts.diagonal(), counts.sum(1) + counts[:, :k].sum(0) - counts.diagonal()
    assert scores["miou"] == pytest.approx((hit / union)[union > 0].mean().item(), abs=1e-12)
    assert scores["pixel_accuracy"] == pytest.approx((hit.sum() / counts.sum()).item(), abs=1e-12)


def test_miou_of_a_map_that_can_be_counted_by_hand():
    truth = segments("0011.", "0011.", "2222.", labels=[SHEEP, SKY, LAKE])
    found = semantic_map(segments("00011", "0.111", "22223", labels=[SHEEP, SKY, LAKE, TREE]))
    scores = evaluate_semantic([found], [truth], KINDS)
    expected = {"sheep": 3 / 5, "sky": 3 / 4, "lake": 1.0}
    for name, iou in expected.items():
        assert scores["per_class"][name]["iou"] == pytest.approx(iou), name
    assert math.isnan(scores["per_class"]["tree"]["iou"])  # predicted in void only
    assert scores["miou"] == pytest.approx(sum(expected.values()) / 3)
    assert scores["pixel_accuracy"] == pytest.approx(10 / 12)


def test_pixels_of_all_images_are_counted_together():
    one, two = segments("0000", labels=[SHEEP]), segments("0001", labels=[SHEEP, SKY])
    found = [torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0, 0, 0, 0]])]
    rows = evaluate_semantic(found, [one, two], KINDS)["per_class"]
    assert rows["sheep"]["iou"] == pytest.approx(5 / 8) and rows["sky"]["iou"] == 0


def test_without_anything_to_judge_there_is_no_score():
    nothing = empty_segments((3, 4))
    scores = evaluate_semantic([torch.zeros(3, 4, dtype=torch.int64)], [nothing], KINDS)
    assert all(math.isnan(scores[name]) for name in ("miou", "pixel_accuracy"))
    assert math.isnan(evaluate_semantic([], [], KINDS)["miou"])


# ---------------------------------------------------------------- the semantic branch


def test_the_branch_brings_every_level_to_the_finest():
    torch.manual_seed(0)
    branch = SemanticBranch(16, 3, hidden=32)
    sizes = ((24, 16), (12, 8), (6, 4), (3, 2))
    features = [torch.randn(2, 16, *size) for size in sizes]
    logits = branch(features)
    assert logits.shape == (2, 3, 24, 16)
    total = 0
    for level, (x, layers) in enumerate(zip(features, branch.levels, strict=True)):
        for step in range(max(level, 1)):
            conv, norm = layers[step * (4 if level else 3) :][:2]
            x = F.group_norm(F.conv2d(x, conv.weight, padding=1), 2, norm.weight, norm.bias)
            x = F.relu(x)
            x = F.interpolate(x, scale_factor=2, mode="bilinear") if level else x
        total = total + x
    by_hand = F.conv2d(total, branch.classes.weight, branch.classes.bias)
    torch.testing.assert_close(logits, by_hand)


def test_the_branch_is_asked_for_things_and_stuff():
    labels = torch.tensor([[SHEEP, TREE, SKY], [LAKE, VOID, SHEEP]])
    assert thing_or_stuff(labels, 2).tolist() == [[0, 0, 1], [2, VOID, 0]]


def test_the_semantic_loss_is_the_mean_over_pixels_that_are_not_void():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 5, 6), torch.randint(3, (2, 5, 6))
    targets[0, :2] = VOID
    expected = F.cross_entropy(logits, targets, ignore_index=VOID)
    torch.testing.assert_close(semantic_loss(logits, targets), expected)
    logits.requires_grad_()
    loss = semantic_loss(logits, torch.full_like(targets, VOID))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


# ---------------------------------------------------------------- the merge


def assert_equal_to_the_script(found, classes, kinds, score, overlap, area):
    num_things = sum(kind.is_thing for kind in kinds)
    limits = {"score_threshold": score, "overlap_threshold": overlap, "stuff_area": area}
    theirs = combine_panoptic(found, classes, kinds, score, overlap, area)
    kept = 0
    for a, b, reference in zip(found, classes, theirs, strict=True):
        ours = merge_panoptic(a, b, num_things=num_things, **limits)
        assert ours.masks.equal(reference.masks) and ours.labels.equal(reference.labels)
        assert len(ours) == 0 or ours.masks.sum(0).max() == 1
        kept += len(ours)
    return kept


@pytest.mark.parametrize("limits", [(0.5, 0.5, 4096), (0.0, 0.2, 100), (0.8, 0.9, 1)])
def test_the_merge_equals_panopticapi_on_coco(coco, few_coco, limits):
    rng = np.random.default_rng(0)
    some = few_coco
    found = [imperfect_detections(each, coco.categories, rng) for each in some]
    classes = [semantic_map(imperfect_panoptic(each, coco.categories, rng)) for each in some]
    assert assert_equal_to_the_script(found, classes, coco.categories, *limits) > 10


@pytest.mark.parametrize("seed", range(6))
def test_the_merge_equals_panopticapi_on_rectangles(seed):
    """Ties of scores, empty masks, an overlap of exactly the threshold, void in the map."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(14, 30, 36, dtype=torch.bool)
    for mask in masks[1:]:
        top, left = torch.randint(28, (2,), generator=generator).tolist()
        tall, wide = 2 * torch.randint(1, 8, (2,), generator=generator)
        mask[top : top + tall, left : left + wide] = True
    masks[5], masks[6] = False, False
    masks[5, :4, :4], masks[6, :4, 2:6] = True, True  # half of one lies in the other
    scores = torch.randint(9, (14,), generator=generator) / 8
    scores[5:7] = torch.tensor([1.0, 0.99])
    classes = torch.randint(5, (5, 6), generator=generator)
    classes[classes == 4] = VOID
    classes = classes.repeat_interleave(6, 0).repeat_interleave(6, 1)
    found = Segments(masks, torch.randint(2, (14,), generator=generator), scores)
    for limits in ((0.5, 0.5, 36), (0.125, 0.0, 1), (0.25, 1.0, 60), (0.5, 0.25, 37)):
        assert assert_equal_to_the_script([found], [classes], KINDS, *limits)


def test_the_merge_by_hand():
    found = Segments(
        torch.stack([segments(*rows, labels=[0]).masks[0] for rows in (
            ("00..", "00..", "...."), (".00.", ".00.", "...."), (".0..", ".0..", "...."),
            ("....", "....", "0000"))]),
        torch.tensor([SHEEP, TREE, SHEEP, TREE]),
        torch.tensor([0.8, 0.9, 0.7, 0.49]),
    )  # fmt: skip
    classes = torch.tensor([[SKY] * 4, [SHEEP] * 4, [LAKE] * 3 + [VOID]])
    merged = merge_panoptic(found, classes, num_things=2, stuff_area=2)
    # The tree is surest; of the first sheep exactly half is left; the second one lies under both.
    assert merged.labels.tolist() == [TREE, SHEEP, LAKE]
    assert areas(merged).tolist() == [4, 2, 3]
    torch.testing.assert_close(merged.scores, torch.tensor([0.9, 0.8, 1.0]))
    with_scrap = merge_panoptic(found, classes, num_things=2, stuff_area=1)
    assert with_scrap.labels.tolist() == [TREE, SHEEP, SKY, LAKE]


def test_the_merge_of_nothing():
    none, void = empty_segments((4, 5), with_scores=True), torch.full((4, 5), VOID)
    merged = merge_panoptic(none, void, num_things=2)
    assert len(merged) == 0 and merged.size == (4, 5) and merged.scores is not None
    sky = merge_panoptic(none, torch.full((4, 5), SKY), num_things=2, stuff_area=20)
    assert sky.labels.tolist() == [SKY] and sky.masks.all()
    assert len(merge_panoptic(none, torch.full((4, 5), SKY), num_things=2, stuff_area=21)) == 0


# ---------------------------------------------------------------- the system


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PanopticFPN(8, 4, score_threshold=0.01, panoptic_score=0.1).eval()


@pytest.fixture(scope="module")
def samples(scenes):
    """Two scenes of other sizes, one with a crowd."""
    crowded = next(each for each in scenes if each.segments.is_crowd.any())
    chosen = []
    for each, (h, w) in ((crowded, (96, 120)), (scenes[5], (70, 128))):
        part = replace(each.segments, masks=each.segments.masks[:, -h:, :w])
        part = part[part.masks.flatten(1).any(1)]
        chosen.append(replace(each, image=each.image[:, -h:, :w].contiguous(), segments=part))
    return chosen


def test_the_losses_are_those_of_mask_rcnn_and_the_weighted_semantic_one(model, samples):
    images, targets = [s.image for s in samples], [s.segments for s in samples]
    assert targets[0].is_crowd.any()
    detector = MaskRCNN(4, score_threshold=0.01)
    state = model.state_dict()
    detector.load_state_dict({name: state[name] for name in detector.state_dict()})
    torch.manual_seed(3)
    expected = detector.train()(images, targets)
    torch.manual_seed(3)
    losses = model.train()(images, targets)
    model.eval()
    assert losses.keys() == expected.keys() | {"semantic"}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)

    total = count = 0  # pixel by pixel of each image, the padding left out
    with torch.no_grad():
        for logits, target in zip(model.answers(images)[1], targets, strict=True):
            labels = thing_or_stuff(semantic_map(target), 4)
            assert logits.shape[1:] == labels.shape
            total += F.cross_entropy(logits[None], labels[None], ignore_index=VOID, reduction="sum")
            count += (labels != VOID).sum()
    torch.testing.assert_close(losses["semantic"], 0.5 * total / count, atol=1e-4, rtol=1e-3)


def test_every_setting_of_mask_rcnn_is_one_of_panoptic_fpn():
    theirs, ours = (signature(each).parameters for each in (MaskRCNN, PanopticFPN))
    assert not any(each.kind == each.VAR_KEYWORD for each in (*theirs.values(), *ours.values()))
    settings = {name: each.default for name, each in theirs.items() if name != "num_classes"}
    assert settings == {name: ours[name].default for name in settings}
    parts = {"backbone", "pyramid", "rpn", "box_head", "mask_head"}
    others = {
        "channels": 32, "mask_size": 14, "levels": (1, 2), "canonical_size": 224, "samples": 7,
        "positive_fraction": 0.3, "score_threshold": 0.2, "nms_threshold": 0.6,
        "max_detections": 3, "sampling_ratio": 1, "aligned": False,
    }  # fmt: skip
    others |= {name: partial(print, name) for name in settings.keys() - others.keys() - parts}
    others |= {name: nn.Identity() for name in parts}
    others["backbone"] = Backbone((16, 16, 16, 16), (1, 1, 1, 1))
    assert others.keys() == settings.keys()
    own = {"semantic_weight": 2.0, "panoptic_score": 0.1, "panoptic_overlap": 0.2}
    own |= {"stuff_share": 0.3, "semantic_branch": nn.Identity()}
    own |= {"semantic_backbone": Backbone((16, 16, 16, 16), (1, 1, 1, 1))}
    assert others.keys() | own.keys() | {"num_classes", "num_things"} == ours.keys()
    made = {MaskRCNN: MaskRCNN(4, **others), PanopticFPN: PanopticFPN(8, 4, **others, **own)}
    for each in made.values():
        for name, value in others.items():
            assert getattr(each, name) is value, name
    panoptic = made[PanopticFPN]
    assert all(getattr(panoptic, name) is value for name, value in own.items())
    assert (panoptic.num_classes, panoptic.num_things) == (8, 4)
    assert made[MaskRCNN].num_classes == made[MaskRCNN].num_things == 4


def test_it_is_one_class_that_extends_mask_rcnn():
    assert PanopticFPN.__bases__ == (MaskRCNN,) and MaskRCNN.__bases__ == (nn.Module,)
    for name in ("instance_losses", "detect", "paste_detections", "pool", "predict_instances"):
        assert getattr(PanopticFPN, name) is getattr(MaskRCNN, name)


def test_an_extra_level_is_for_the_proposals_alone(samples):
    torch.manual_seed(0)
    backbone = Backbone((16, 16, 16, 16), (1, 1, 1, 1))
    extended = PanopticFPN(
        8,
        4,
        channels=16,
        backbone=backbone,
        pyramid=FeaturePyramid(backbone.channels, 16, extra_level=True),
        rpn=RegionProposalNetwork(16, (12, 24, 48, 96, 192)),
        score_threshold=0.0,
    )
    images, targets = [s.image for s in samples], [s.segments for s in samples]
    sum(extended(images, targets).values()).backward()
    assert all(weight.grad is not None for weight in extended.parameters())
    usual = PanopticFPN(8, 4, channels=16, backbone=backbone, score_threshold=0.0)
    usual.load_state_dict(extended.state_dict())
    for one, other in zip(extended.answers(images)[1], usual.answers(images)[1], strict=True):
        assert torch.equal(one, other)
    assert len(extended.eval().predict_panoptic(images)) == 2


def test_both_losses_reach_the_shared_features(model, samples):
    losses = model([s.image for s in samples], [s.segments for s in samples])
    shared = [*model.backbone.parameters(), *model.pyramid.parameters()]
    semantic = losses.pop("semantic")
    for loss in (semantic, sum(losses.values())):
        gradients = torch.autograd.grad(loss, shared, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_three_answers_at_the_images_sizes(model, samples):
    images = [s.image for s in samples]
    rows = zip(
        samples,
        model.predict_instances(images),
        model.predict_semantic(images),
        model.predict_panoptic(images),
        strict=True,
    )
    for sample, instances, classes, merged in rows:
        size = sample.segments.size
        assert instances.size == merged.size == tuple(classes.shape) == size
        assert classes.min() >= 0 and classes.max() < 8
        assert len(instances) and (instances.labels < 4).all()
        assert len(merged) == len(merged.scores) and merged.masks.sum(0).max() <= 1


def test_the_detector_names_the_things_of_the_map():
    logits = torch.zeros(3, 2, 4)  # thing, sky, lake
    logits[0, :, :3], logits[1, 0], logits[2, 1] = 2, 1, 1
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    masks[0, 0, 1:], masks[1, 0, :2], masks[1, 1, 3] = True, True, True
    best_first = Segments(masks, torch.tensor([TREE, SHEEP]), torch.tensor([0.9, 0.6]))
    classes = classes_of_pixels(logits, best_first, 2)
    assert classes.tolist() == [[SHEEP, TREE, TREE, SKY], [LAKE, LAKE, LAKE, LAKE]]


def test_predict_panoptic_is_the_merge_of_both_answers(model, samples):
    (found,), (logits,) = model.answers([samples[0].image])
    (merged,) = model.predict_panoptic([samples[0].image])
    h, w = samples[0].segments.size
    expected = merge_panoptic(
        found,
        logits.argmax(0) + 3,
        num_things=4,
        score_threshold=0.1,
        stuff_area=round(h * w / 75),
    )
    assert merged.masks.equal(expected.masks) and merged.labels.equal(expected.labels)


def test_two_networks_share_nothing_and_are_as_large_as_one(samples):
    torch.manual_seed(0)
    together, apart = (recipe(shared=shared).model() for shared in (True, False))
    sizes = [sum(p.numel() for p in each.parameters()) for each in (together, apart)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.03
    losses = apart([s.image for s in samples], [s.segments for s in samples])
    semantic = losses.pop("semantic")
    reached = {
        name: {
            key for key, g in zip(dict(apart.named_parameters()), torch.autograd.grad(
                loss, list(apart.parameters()), retain_graph=True, allow_unused=True
            ), strict=True) if g is not None
        }
        for name, loss in (("semantic", semantic), ("instances", sum(losses.values())))
    }  # fmt: skip
    assert not reached["semantic"] & reached["instances"]
    assert all(name.startswith("semantic") for name in reached["semantic"])
    assert len(reached["semantic"] | reached["instances"]) == len(list(apart.parameters()))


def test_exported_answers_are_scored_to_the_same_numbers(folder, tmp_path):
    """A short run, recorded: what `lessons evaluate --export` writes, panopticapi reads."""
    made = recipe(panoptic_score=0.05).with_budget("test", steps=2, validated=2)
    write("panoptic_fpn", fit(made, "test", progress=False), folder=folder)
    scores = evaluate_again("panoptic_fpn", count=4, export=tmp_path / "out")
    files = (tmp_path / "out" / f"{name}.json" for name in ("panoptic", "ground_truth"))
    theirs = score_panoptic_files(*files)
    for key in ("pq", "sq", "rq", "pq_things", "pq_stuff"):
        assert scores[key] == pytest.approx(theirs[key], abs=1e-9, nan_ok=True), key
    assert scores["per_class"]["sky"].keys() == {"pq", "sq", "rq", "tp", "fp", "fn", "iou"}
    assert {"pq", "ap", "iou"} <= scores["per_class"]["sheep"].keys()
    assert {"pq", "ap", "miou", "pixel_accuracy"} <= scores.keys()
