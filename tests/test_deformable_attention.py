"""Deformable attention equals transformers' and plain loops over places."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mask2former import modeling_mask2former as reference

from lessons.deformable_attention import (
    DeformableAttention,
    DeformableLayer,
    DeformablePixelDecoder,
    cell_centres,
    gather_levels,
    star,
)
from lessons.kit.peers import mask2former as peer

seeds = st.integers(0, 10**6)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- points


def look_up(cells, x, y):
    h, w = cells.shape
    value = 0.0
    for i in range(h):
        for j in range(w):
            near = max(0, 1 - abs(y * h - 0.5 - i)) * max(0, 1 - abs(x * w - 0.5 - j))
            value += near * cells[i, j].item()
    return value


# ---------------------------------------------------------------- deformable attention


def test_centres_and_star():
    assert cell_centres((2, 4)).tolist()[:5] == [
        [0.125, 0.25],
        [0.375, 0.25],
        [0.625, 0.25],
        [0.875, 0.25],
        [0.125, 0.75],
    ]
    offsets = star(4, 2, 3)
    assert offsets.shape == (4, 2, 3, 2)
    torch.testing.assert_close(offsets[0, 1], torch.tensor([[1.0, 0], [2, 0], [3, 0]]))
    torch.testing.assert_close(
        offsets[:, 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6, rtol=0
    )
    assert star(8, 1, 1)[1, 0, 0].abs().tolist() == pytest.approx([1, 1])


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_levels_are_gathered_as_by_loops(seed):
    generator = generator_of(seed)
    sizes = [(1, 2), (3, 4)]
    values = torch.randn(2, 1, 14, generator=generator)
    places = 2.4 * torch.rand(2, 2, 3, 4, 2, generator=generator) - 1.2
    weights = torch.rand(2, 2, 3, 4, generator=generator)
    found = gather_levels(values, sizes, places, weights)
    maps = values[:, 0, :2].view(2, 1, 2), values[:, 0, 2:].view(2, 3, 4)
    for n in range(2):
        for q in range(4):
            total = 0.0
            for level, cells in enumerate(maps):
                for p in range(3):
                    x, y = ((places[n, level, p, q] + 1) / 2).tolist()
                    total += weights[n, level, p, q].item() * look_up(cells[n], x, y)
            assert found[n, 0, q].item() == pytest.approx(total, abs=1e-5)


@given(seeds, st.sampled_from([(1, 1, 1), (2, 3, 4), (4, 2, 2)]))
@settings(max_examples=15, deadline=None)
def test_deformable_attention_equals_transformers(seed, counts):
    heads, levels, points = counts
    torch.manual_seed(seed)
    sizes = [(2, 3), (4, 5), (7, 9)][:levels]
    theirs = reference.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(
        16, heads, levels, points
    )
    ours = DeformableAttention(16, levels, heads, points)
    peer.transplant_deformable(peer.randomised(theirs, seed), ours)
    cells = torch.randn(2, sum(h * w for h, w in sizes), 16, requires_grad=True)
    references = torch.cat([cell_centres(size) for size in sizes])
    positions = torch.randn(len(references), 16)
    found = ours(cells + positions, references, cells, sizes)
    expected, _ = theirs(
        cells,
        encoder_hidden_states=cells,
        position_embeddings=positions,
        reference_points=references[None, :, None].expand(2, -1, levels, -1),
        spatial_shapes_list=sizes,
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    error = torch.randn(found.shape)
    mine, other = (
        torch.autograd.grad(y, cells, error, retain_graph=True)[0] for y in (found, expected)
    )
    torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)
    for name, original in (("offsets", "sampling_offsets"), ("weights", "attention_weights")):
        mine, other = (
            torch.autograd.grad(y, layer.weight, error, retain_graph=True)[0]
            for y, layer in ((found, getattr(ours, name)), (expected, getattr(theirs, original)))
        )
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


def test_the_encoder_layer_equals_transformers():
    torch.manual_seed(0)
    config = reference.Mask2FormerConfig(
        feature_size=16, encoder_feedforward_dim=20, num_attention_heads=4
    )
    theirs = peer.randomised(reference.Mask2FormerPixelDecoderEncoderLayer(config))
    ours = DeformableLayer(16, 3, 4, 20)
    peer.transplant_encoder_layer(theirs, ours)
    sizes = [(2, 2), (3, 4), (6, 8)]
    references = torch.cat([cell_centres(size) for size in sizes])
    cells, positions = torch.randn(2, len(references), 16), torch.randn(len(references), 16)
    expected = theirs(
        cells,
        None,
        position_embeddings=positions,
        reference_points=references[None, :, None].expand(2, -1, 3, -1),
        spatial_shapes_list=sizes,
    )[0]
    torch.testing.assert_close(
        ours(cells, positions, references, sizes), expected, atol=1e-5, rtol=1e-5
    )


def test_at_first_a_cell_looks_along_its_star():
    attention = DeformableAttention(16, levels=2, heads=4, points=3)
    sizes = [(4, 8), (8, 16)]
    references = cell_centres((4, 8))
    places, weights = attention.looks(torch.randn(1, 32, 16), references, sizes)
    torch.testing.assert_close(weights, torch.full((4, 2, 3, 32), 1 / 6))
    away = (places + 1) / 2 - references  # of the image
    for level, (h, w) in enumerate(sizes):
        cells = away[:, level] * torch.tensor([w, h])
        expected = star(4, 2, 3)[:, level, :, None].expand(-1, -1, 32, -1)
        torch.testing.assert_close(cells, expected, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- each level says which it is


def test_the_pixel_decoder_knows_which_level_a_cell_is_of():
    """What is added to the positions of a level is its own vector, and the answer hears of it."""
    torch.manual_seed(0)
    decoder = DeformablePixelDecoder([16, 16, 16, 16], 32, heads=4, hidden=64, layers=1)
    features = [torch.randn(1, 16, side, side) for side in (16, 8, 4, 2)]
    for layer in decoder.layers:  # attention looks where the query says: so positions matter
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.1)
    seen = []
    decoder.layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    before, _ = decoder(features)
    with torch.no_grad():
        decoder.level[1] += 1
    after, _ = decoder(features)
    shift = seen[1] - seen[0]  # of the positions of strides 32, 16 and 8: 4, 16 and 64 cells
    assert shift[:4].abs().max() == 0 and shift[20:].abs().max() == 0
    torch.testing.assert_close(shift[4:20], torch.ones(16, 32))
    changed = [(x - y).abs().max() > 1e-4 for x, y in zip(before, after, strict=True)]
    assert changed == [False, True, False]  # of one layer: only these cells ask differently
