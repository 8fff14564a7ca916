"""transformers' Mask2Former behind this course's types: what lesson 15, its tests and its
benchmark compare with. Weights are copied from theirs into ours; nothing is computed here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lessons.kit.data import Segments


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with random weights in every place: zeros would hide a part that is missing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return module


def copy_weights(state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Every weight of a state into a module that has the same names."""
    module.load_state_dict({name: value.detach() for name, value in state.items()})


def transplant_attention(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' attention with a matrix each for query, key and value into an Attention."""
    copy_weights(theirs.q_proj.state_dict(), ours.to_query)
    copy_weights(theirs.k_proj.state_dict(), ours.to_key)
    copy_weights(theirs.v_proj.state_dict(), ours.to_value)
    copy_weights(theirs.out_proj.state_dict(), ours.out)


def transplant_packed_attention(theirs: nn.MultiheadAttention, ours: nn.Module) -> None:
    """PyTorch's attention, three matrices in one, into an Attention."""
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    layers = (ours.to_query, ours.to_key, ours.to_value)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        copy_weights({"weight": weight, "bias": bias}, layer)
    copy_weights(theirs.out_proj.state_dict(), ours.out)


def transplant_decoder_layer(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' Mask2FormerMaskedAttentionDecoderLayer into a MaskedDecoderLayer."""
    transplant_packed_attention(theirs.cross_attn, ours.cross_attention)
    transplant_attention(theirs.self_attn, ours.self_attention)
    copy_weights(theirs.fc1.state_dict(), ours.feed_forward[0])
    copy_weights(theirs.fc2.state_dict(), ours.feed_forward[2])
    norms = theirs.self_attn_layer_norm, theirs.cross_attn_layer_norm, theirs.final_layer_norm
    for original, norm in zip(norms, ours.norms, strict=True):
        copy_weights(original.state_dict(), norm)


def transplant_deformable(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' …PixelDecoderEncoderMultiscaleDeformableAttention into DeformableAttention."""
    copy_weights(theirs.value_proj.state_dict(), ours.value)
    copy_weights(theirs.output_proj.state_dict(), ours.out)
    copy_weights(theirs.sampling_offsets.state_dict(), ours.offsets)
    copy_weights(theirs.attention_weights.state_dict(), ours.weights)


def transplant_encoder_layer(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' Mask2FormerPixelDecoderEncoderLayer into a DeformableLayer."""
    transplant_deformable(theirs.self_attn, ours.attention)
    copy_weights(theirs.fc1.state_dict(), ours.feed_forward[0])
    copy_weights(theirs.fc2.state_dict(), ours.feed_forward[2])
    for original, norm in zip(
        (theirs.self_attn_layer_norm, theirs.final_layer_norm), ours.norms, strict=True
    ):
        copy_weights(original.state_dict(), norm)


def their_targets(segments: Sequence[Segments]) -> tuple[list[Tensor], list[Tensor]]:
    """The masks as numbers and the labels, as transformers' matcher and loss want them."""
    return [s.masks.float() for s in segments], [s.labels for s in segments]
