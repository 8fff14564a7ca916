"""The one backbone of the course: a small ResNet with GroupNorm, made of torchvision's blocks."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class Backbone(nn.Module):
    """A ResNet of about a million parameters, with features at strides 4, 8, 16 and 32.

    `channels` and `blocks` say how wide and how deep each of the four stages is. GroupNorm
    instead of BatchNorm: what an image becomes does not depend on its batch (Wu & He 2018).
    Sides that are no multiple of 32 are rounded up: 100 pixels give 25, 13, 7 and 4 cells.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self, channels: Sequence[int] = (32, 64, 96, 128), blocks: Sequence[int] = (2, 2, 2, 2)
    ):
        super().__init__()
        if len(channels) != 4 or len(blocks) != 4:
            raise ValueError(
                f"a backbone has four stages, not {len(channels)} channels and {len(blocks)} blocks"
            )
        if any(width < GROUP or width % GROUP for width in channels):
            raise ValueError(f"channels must be multiples of {GROUP}, not {tuple(channels)}")
        if min(blocks) < 1:
            raise ValueError(f"a stage has at least one block, not {tuple(blocks)}")
        self.channels = list(channels)
        inside = self.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, inside, 7, stride=2, padding=3, bias=False),
            group_norm(inside),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(self.channels, blocks, strict=True)):
            self.stages.append(_stage(inside, width, depth, stride=1 if stage == 0 else 2))
            inside = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features at strides 4, 8, 16, 32, with `channels` channels each."""
        features, x = [], self.stem(images)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Finer(nn.Module):
    """A backbone without its coarsest stage: features of strides 4, 4, 8 and 16, for example.

    The first of them comes twice, so that what reads all but the first reads one stride finer.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.channels = [backbone.channels[0], *backbone.channels[:-1]]
        self.strides = (backbone.strides[0], *backbone.strides[:-1])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features, with `channels` channels each."""
        features = self.backbone(images)
        return [features[0], *features[:-1]]


GROUP = 16
"""Channels that GroupNorm normalises together."""


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """GroupNorm with so many groups; without a number with groups of 16 channels.

    16 is the setting that Wu & He (2018) found best with images. Raises ValueError for channels
    that cannot be shared out.
    """
    if groups is None and (channels < GROUP or channels % GROUP):
        raise ValueError(f"channels must be a multiple of {GROUP}, not {channels}")
    if groups is not None and (groups < 1 or channels % groups):
        raise ValueError(f"channels must be a multiple of groups, {groups}, not {channels}")
    return nn.GroupNorm(groups or channels // GROUP, channels)


def _stage(inside: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` residual blocks; the first changes stride and width, with a 1×1 shortcut."""
    block = partial(BasicBlock, norm_layer=group_norm)
    shortcut = None
    if stride != 1 or inside != width:
        shortcut = nn.Sequential(
            nn.Conv2d(inside, width, 1, stride=stride, bias=False), group_norm(width)
        )
    first = block(inside, width, stride, shortcut)
    return nn.Sequential(first, *(block(width, width) for _ in range(depth - 1)))
