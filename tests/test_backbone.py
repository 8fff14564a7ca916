"""The backbone: sizes of its features, its parameters, and that images do not meet in it."""

import pytest
import torch

from lessons.kit.models.backbone import Backbone, Finer, group_norm


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Backbone()


def test_it_has_about_a_million_parameters(backbone):
    assert 0.8e6 < sum(p.numel() for p in backbone.parameters()) < 1.3e6
    assert backbone.channels == [32, 64, 96, 128]


@pytest.mark.parametrize("height, width", [(64, 96), (100, 33), (1, 1), (31, 65)])
def test_features_have_the_strides_4_8_16_32_rounded_up(backbone, height, width):
    features = backbone(torch.rand(2, 3, height, width))
    expected = [
        (2, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected


def test_a_finer_one_has_the_first_twice_and_not_the_last(backbone):
    images = torch.rand(1, 3, 64, 96)
    finer, features = Finer(backbone), backbone(images)
    assert finer.channels == [32, 32, 64, 96] and finer.strides == (4, 4, 8, 16)
    for one, other in zip(finer(images), [features[0], *features[:3]], strict=True):
        torch.testing.assert_close(one, other)


def test_an_image_becomes_the_same_in_any_batch_and_any_mode(backbone):
    images = torch.rand(3, 3, 64, 64)
    together = backbone(images)
    alone = backbone.eval()(images[1:2])
    backbone.train()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_features_start_at_a_size_that_can_be_learned_from(backbone):
    for feature in backbone(torch.randn(2, 3, 64, 64)):
        assert 0.1 < feature.std() < 10


def test_width_and_depth_are_a_choice():
    small = Backbone(channels=(16, 16, 32, 48), blocks=(1, 1, 3, 1))
    assert small.channels == [16, 16, 32, 48]
    assert [len(stage) for stage in small.stages] == [1, 1, 3, 1]
    assert [f.shape[1] for f in small(torch.rand(1, 3, 32, 32))] == small.channels
    sum(f.sum() for f in small(torch.rand(1, 3, 32, 32))).backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"channels": (32, 64, 96)}, "four stages, not 3 channels and 4 blocks"),
        ({"blocks": (2, 2)}, "four stages, not 4 channels and 2 blocks"),
        ({"channels": (32, 64, 90, 128)}, r"multiples of 16, not \(32, 64, 90, 128\)"),
        ({"channels": (0, 64, 96, 128)}, r"multiples of 16, not \(0, 64, 96, 128\)"),
        ({"blocks": (2, 0, 2, 2)}, r"at least one block, not \(2, 0, 2, 2\)"),
    ],
)
def test_stages_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Backbone(**arguments)


def test_channels_are_normalised_in_groups_of_sixteen(backbone):
    """By hand: each group of 16 channels has mean 0 and variance 1, whatever the others do."""
    assert [group_norm(channels).num_groups for channels in (16, 32, 128)] == [1, 2, 8]
    x = torch.randn(1, 32, 5, 7)
    x[:, 16:] = 100 + 30 * x[:, 16:]
    for half in group_norm(32)(x)[0].split(16):
        assert half.mean().abs() < 1e-4 and (half.std() - 1).abs() < 1e-2
    norms = [each for each in backbone.modules() if isinstance(each, torch.nn.GroupNorm)]
    assert norms and all(each.num_channels == 16 * each.num_groups for each in norms)
