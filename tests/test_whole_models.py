"""Whole models against transformers, with its random weights: answers, losses, gradients."""

import copy

import pytest
import torch
from torch import nn

from lessons.deformable_attention import DeformablePixelDecoder
from lessons.kit.data import is_crowd
from lessons.kit.data.scenes import Scenes
from lessons.kit.models.images import batch_images
from lessons.kit.peers import whole
from lessons.kit.peers.mask2former import their_targets
from lessons.mask2former import Mask2Former
from lessons.maskformer import MaskFormer, PixelDecoder
from lessons.oneformer import OneFormer, TextEncoder, task_sentences
from lessons.set_prediction import pad_masks, task_targets

POINTS, SIZES = 50, whole.SMALL
KINDS = Scenes.train().categories


@pytest.fixture(scope="module")
def samples():
    """Three scenes of two sizes, without crowds."""
    found = [Scenes.train(size=96)[0], Scenes.train(size=64)[1], Scenes.train(size=96)[2]]
    return [(s.image, s.segments[~is_crowd(s.segments)]) for s in found]


@pytest.fixture
def same_points(monkeypatch):
    """Random points that depend on nothing but how many there are, whoever draws them when."""

    def rand(*shape, **options):
        seed = sum(side * 1000**place for place, side in enumerate(shape))
        generator = torch.Generator().manual_seed(seed)
        return torch.empty(*shape).uniform_(generator=generator)

    monkeypatch.setattr(torch, "rand", rand)


def their_batch(model, samples):
    """Their pixels and labels; what is padded belongs to no segment."""
    images, segments = zip(*samples, strict=True)
    pixels, _ = batch_images(list(images), model.mean, model.std)
    h, w = pixels.shape[-2:]
    masks, labels = their_targets(segments)
    masks = [nn.functional.pad(m, (0, w - m.shape[2], 0, h - m.shape[1])) for m in masks]
    return pixels.contiguous(), masks, labels


def settings(**changed):
    sizes = {**SIZES, **changed}
    return {name: value for name, value in sizes.items() if value is not None}


def spoil(module, seed=0):
    """Weights that are not nearly symmetric: of biases, norms and offsets too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def assert_same(theirs, ours, transplant, output, z, losses):
    """z, the losses' sum, and every gradient."""
    torch.testing.assert_close(z[0], output.class_queries_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(z[1], output.masks_queries_logits, atol=1e-5, rtol=1e-5)
    total = sum(losses.values())
    torch.testing.assert_close(total, output.loss.squeeze(), atol=1e-4, rtol=1e-5)
    total.backward()
    output.loss.backward()
    expected = dict(whole.gradients_as_weights(theirs, ours, transplant).named_parameters())
    largest = max(p.abs().max().item() for p in expected.values())
    assert 0.01 < largest < 1e4
    counted = 0
    for name, parameter in ours.named_parameters():
        wanted, found = expected[name].detach(), parameter.grad
        torch.testing.assert_close(found, wanted, atol=1e-4 * largest, rtol=1e-3, msg=name)
        counted += bool(wanted.any())
    assert counted > 0.9 * len(expected)


def test_maskformer(samples):
    torch.manual_seed(0)
    theirs = spoil(whole.maskformer(8, whole.resnet(), SIZES))
    ours = MaskFormer(
        8,
        4,
        backbone=whole.BackboneOf(copy.deepcopy(theirs.model.pixel_level_module.encoder)),
        groups=whole.GROUPS,
        **settings(encoder_layers=None, encoder_hidden=None),
    ).eval()
    whole.transplant_maskformer(theirs, ours)
    pixels, masks, labels = their_batch(ours, samples)
    output = theirs(pixel_values=pixels, mask_labels=masks, class_labels=labels)
    z = ours.layers(pixels)[-1]
    targets = [pad_masks(segments, pixels.shape[-2:]) for _, segments in samples]
    losses = ours.losses(z, targets)  # theirs has a loss of the last layer only
    assert_same(theirs, ours, whole.transplant_maskformer, output, z, losses)
    every = [ours.losses(each, targets)["mask"] for each in ours.layers(pixels)]
    whole_loss = ours(*map(list, zip(*samples, strict=True)))
    torch.testing.assert_close(whole_loss["mask"], sum(every))


def test_mask2former(samples, same_points):
    torch.manual_seed(0)
    theirs = spoil(whole.mask2former(8, whole.resnet(), SIZES, POINTS))
    ours = Mask2Former(
        8,
        4,
        backbone=whole.BackboneOf(copy.deepcopy(theirs.model.pixel_level_module.encoder)),
        groups=whole.GROUPS,
        num_points=POINTS,
        **settings(),
    ).eval()
    whole.transplant_mask2former(theirs, ours)
    pixels, masks, labels = their_batch(ours, samples)
    output = theirs(pixel_values=pixels, mask_labels=masks, class_labels=labels)
    losses = ours(*map(list, zip(*samples, strict=True)))
    assert_same(theirs, ours, whole.transplant_mask2former, output, ours.layers(pixels)[-1], losses)


def test_oneformer(samples, same_points, monkeypatch):
    """As published: values and positions exchanged, the token of numbers, the text not causal."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_queries": 14}
    probe = OneFormer(8, 4, categories=KINDS)
    words, length = len(probe.tokenise.words), probe.tokenise.length
    theirs = whole.oneformer(
        8, whole.resnet(), sizes, words=words, length=length, num_points=POINTS
    )
    spoil(theirs)
    ours = OneFormer(
        8,
        4,
        categories=KINDS,
        backbone=whole.BackboneOf(copy.deepcopy(theirs.model.pixel_level_module.encoder)),
        task_token=whole.TheirTaskToken(theirs.model.task_encoder),
        exchanged=True,
        contexts=2,
        text_heads=1,
        groups=whole.GROUPS,
        num_points=POINTS,
        **sizes,
    ).eval()
    ours.text_mapper.encoder.causal = False
    whole.transplant_oneformer(theirs, ours)
    tasks = ["semantic", "panoptic", "instance"]
    monkeypatch.setattr("lessons.oneformer.draw_tasks", lambda count, drawn: tasks)
    pixels, *_ = their_batch(ours, samples)
    asked = [(s[0], task_targets(s[1], t, 4)) for s, t in zip(samples, tasks, strict=True)]
    _, masks, labels = their_batch(ours, asked)
    sentences = [
        ours.tokenise(task_sentences(s[1], t, KINDS, 12))
        for s, t in zip(samples, tasks, strict=True)
    ]
    tokens = ours.tokenise([f"the task is {task}" for task in tasks])
    output = theirs(
        pixel_values=pixels,
        task_inputs=tokens,
        text_inputs=torch.stack(sentences),
        mask_labels=masks,
        class_labels=labels,
    )
    losses = ours(*map(list, zip(*samples, strict=True)))
    z = ours.decode(pixels, tasks)[0][-1]
    assert_same(theirs, ours, whole.transplant_oneformer, output, z, losses)
    assert isinstance(ours.text_mapper.encoder, TextEncoder)


def test_pixel_decoders():
    """Map by map, at sizes that no stride divides."""
    torch.manual_seed(0)
    features = [
        torch.randn(2, width, *size)
        for width, size in ((16, (25, 33)), (24, (13, 17)), (32, (7, 9)), (40, (4, 5)))
    ]
    inside = [16, 24, 32, 40]
    theirs = spoil(whole.maskformer(8, whole.resnet(), SIZES)).model.pixel_level_module.decoder
    ours = PixelDecoder(inside, 64, whole.GROUPS)
    whole.transplant_pixel_decoder(theirs, ours)
    said = theirs(features, output_hidden_states=True)
    maps, pixels = ours(features)
    torch.testing.assert_close(pixels, said.last_hidden_state, atol=1e-5, rtol=1e-5)
    for own, other in zip(maps[1:], said.hidden_states[:2], strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)

    theirs = spoil(whole.mask2former(8, whole.resnet(), SIZES)).model.pixel_level_module.decoder
    ours = DeformablePixelDecoder(inside, 64, 4, SIZES["encoder_hidden"], 2, whole.GROUPS)
    whole.transplant_deformable_pixel_decoder(theirs, ours)
    said = theirs(features)
    maps, pixels = ours(features)
    torch.testing.assert_close(pixels, said.mask_features, atol=1e-5, rtol=1e-5)
    for own, other in zip(maps, said.multi_scale_features, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
