"""What deformable attention cannot do is named in one sentence."""

import pytest
import torch

from lessons.deformable_attention import DeformableAttention

CELLS, PLACES = torch.zeros(1, 20, 16), torch.rand(20, 2)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="heads must divide the 16 channels, 3 does not"):
        DeformableAttention(16, heads=3)


@pytest.mark.parametrize("sizes", [[(4, 5)], [(2, 2), (3, 5)], [(2, 2), (4, 4), (1, 1)]])
def test_sizes_must_be_those_of_the_cells(sizes):
    attention = DeformableAttention(16, levels=2)
    with pytest.raises(ValueError, match="sizes must be those of the maps, not .* for 20 cells"):
        attention(CELLS, PLACES, CELLS, sizes)
