"""transformers' whole MaskFormer, Mask2Former and OneFormer on a ResNet, with random weights, and
how their weights come into the course's models. Nothing is computed here.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    ResNetConfig,
)
from transformers.utils import logging

from lessons.kit.peers.mask2former import (
    copy_weights,
    transplant_decoder_layer,
    transplant_encoder_layer,
)
from lessons.kit.peers.oneformer import transplant_text_mapper, transplant_transformer

SMALL = {  # sizes that run in milliseconds; GroupNorm has 32 groups there, whatever the size
    "channels": 64,
    "heads": 4,
    "hidden": 48,
    "encoder_hidden": 40,
    "num_queries": 7,
    "decoder_layers": 3,
    "encoder_layers": 2,
}
PUBLISHED = {
    "channels": 256,
    "heads": 8,
    "hidden": 2048,
    "encoder_hidden": 1024,
    "num_queries": 100,
    "decoder_layers": 9,
    "encoder_layers": 6,
}
GROUPS = 32


class BackboneOf(nn.Module):
    """A backbone of transformers as the course's models want one."""

    strides = (4, 8, 16, 32)

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body, self.channels = body, list(body.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.body(images).feature_maps)


def resnet(published: bool = False) -> ResNetConfig:
    """ResNet-50, or a tiny one."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    if published:
        return ResNetConfig(out_features=stages)
    return ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 40],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=stages,
    )


def resnet_like(channels: Sequence[int]) -> ResNetConfig:
    """A ResNet with the widths and depths of the course's `Backbone`, but BatchNorm."""
    return ResNetConfig(
        embedding_size=channels[0],
        hidden_sizes=list(channels),
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def maskformer(num_classes: int, backbone: ResNetConfig, sizes: dict[str, int]) -> nn.Module:
    """transformers' MaskFormer without an encoder.

    Its loss is that of the last layer: with `use_auxiliary_loss` version 5.x asks for hidden
    states that it has not kept, and given those it reads them without the norm.
    """
    logging.set_verbosity_error()  # it warns of a backbone that is no Swin
    decoder = {
        "model_type": "detr",
        "d_model": sizes["channels"],
        "decoder_layers": sizes["decoder_layers"],
        "decoder_attention_heads": sizes["heads"],
        "decoder_ffn_dim": sizes["hidden"],
        "num_queries": sizes["num_queries"],
        "dropout": 0.0,
    }
    config = MaskFormerConfig(
        backbone_config=backbone,
        decoder_config=decoder,
        fpn_feature_size=sizes["channels"],
        mask_feature_size=sizes["channels"],
        num_labels=num_classes,
    )
    return MaskFormerForInstanceSegmentation(config)


def transplant_maskformer(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' MaskFormerForInstanceSegmentation into a MaskFormer without encoder layers."""
    level, transformer = theirs.model.pixel_level_module, theirs.model.transformer_module
    copy_weights(level.encoder.state_dict(), ours.backbone.body)
    transplant_pixel_decoder(level.decoder, ours.pixel_decoder)
    copy_weights(transformer.input_projection.state_dict(), ours.project)
    ours.query_positions.data.copy_(transformer.queries_embedder.weight)
    for original, layer in zip(transformer.decoder.layers, ours.decoder, strict=True):
        for attention, own in (
            (original.self_attn, layer.self_attention),
            (original.encoder_attn, layer.cross_attention),
        ):
            copy_weights(attention.q_proj.state_dict(), own.to_query)
            copy_weights(attention.k_proj.state_dict(), own.to_key)
            copy_weights(attention.v_proj.state_dict(), own.to_value)
            copy_weights(attention.o_proj.state_dict(), own.out)
        copy_weights(original.mlp.fc1.state_dict(), layer.feed_forward[0])
        copy_weights(original.mlp.fc2.state_dict(), layer.feed_forward[2])
        norms = original.self_attn_layer_norm, original.encoder_attn_layer_norm
        for norm, own in zip((*norms, original.final_layer_norm), layer.norms, strict=True):
            copy_weights(norm.state_dict(), own)
    copy_weights(transformer.decoder.layernorm.state_dict(), ours.head.norm)
    _head(theirs.class_predictor, theirs.mask_embedder, ours.head)


def transplant_pixel_decoder(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' MaskFormerPixelDecoder into a PixelDecoder."""
    blocks = [theirs.fpn.stem, *(layer.block for layer in theirs.fpn.layers)]
    for original, block in zip(blocks, ours.blocks, strict=True):
        copy_weights(original.state_dict(), block)
    for original, lateral in zip(theirs.fpn.layers, reversed(ours.lateral), strict=True):
        copy_weights(original.proj.state_dict(), lateral)
    copy_weights(theirs.mask_projection.state_dict(), ours.embed)


def mask2former(
    num_classes: int, backbone: ResNetConfig, sizes: dict[str, int], num_points: int = 50
) -> nn.Module:
    """transformers' Mask2Former."""
    logging.set_verbosity_error()
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=sizes["channels"],
        mask_feature_size=sizes["channels"],
        hidden_dim=sizes["channels"],
        encoder_feedforward_dim=sizes["encoder_hidden"],
        dim_feedforward=sizes["hidden"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"] + 1,  # it counts the raw queries as one
        num_attention_heads=sizes["heads"],
        num_queries=sizes["num_queries"],
        train_num_points=num_points,
        num_labels=num_classes,
    )
    return Mask2FormerForUniversalSegmentation(config)


def transplant_mask2former(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' Mask2FormerForUniversalSegmentation into a Mask2Former."""
    level, transformer = theirs.model.pixel_level_module, theirs.model.transformer_module
    copy_weights(level.encoder.state_dict(), ours.backbone.body)
    transplant_deformable_pixel_decoder(level.decoder, ours.pixel_decoder)
    ours.query_positions.data.copy_(transformer.queries_embedder.weight)
    ours.queries.data.copy_(transformer.queries_features.weight)
    ours.level.data.copy_(transformer.level_embed.weight)
    for original, layer in zip(transformer.decoder.layers, ours.decoder, strict=True):
        transplant_decoder_layer(original, layer)
    copy_weights(transformer.decoder.layernorm.state_dict(), ours.head.norm)
    _head(theirs.class_predictor, transformer.decoder.mask_predictor.mask_embedder, ours.head)


def transplant_deformable_pixel_decoder(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' Mask2FormerPixelDecoder or OneFormerPixelDecoder into ours."""
    for original, project in zip(theirs.input_projections, ours.project, strict=True):
        copy_weights(original.state_dict(), project)
    ours.level.data.copy_(theirs.level_embed)
    for original, layer in zip(theirs.encoder.layers, ours.layers, strict=True):
        transplant_encoder_layer(original, layer)
    lateral = theirs.adapter_1 if hasattr(theirs, "adapter_1") else theirs.lateral_convs[0]
    block = theirs.layer_1 if hasattr(theirs, "layer_1") else theirs.output_convs[0]
    copy_weights(lateral.state_dict(), ours.lateral)
    copy_weights(block.state_dict(), ours.block)
    copy_weights(theirs.mask_projection.state_dict(), ours.embed)


def oneformer(
    num_classes: int,
    backbone: ResNetConfig,
    sizes: dict[str, int],
    *,
    words: int,
    length: int,
    contexts: int = 2,
    text_layers: int = 2,
    num_points: int = 50,
) -> nn.Module:
    """transformers' OneFormer with its text branch, for sentences of `length` numbers."""
    logging.set_verbosity_error()
    config = OneFormerConfig(
        backbone_config=backbone,
        conv_dim=sizes["channels"],
        mask_dim=sizes["channels"],
        hidden_dim=sizes["channels"],
        encoder_feedforward_dim=sizes["encoder_hidden"],
        dim_feedforward=sizes["hidden"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"] + 1,
        num_attention_heads=sizes["heads"],
        num_queries=sizes["num_queries"],
        text_encoder_vocab_size=words,
        text_encoder_context_length=length,
        text_encoder_width=sizes["channels"],
        text_encoder_num_layers=text_layers,
        text_encoder_n_ctx=contexts,
        task_seq_len=length,
        train_num_points=num_points,
        num_labels=num_classes,
        is_training=True,
        use_auxiliary_loss=True,
        dropout=0.0,
    )
    return OneFormerForUniversalSegmentation(config)


class TheirTaskToken(nn.Module):
    """transformers' task token: two linear layers on the numbers of the words themselves."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = copy.deepcopy(encoder)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(tokens.to(next(self.parameters())))


def transplant_oneformer(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' OneFormerForUniversalSegmentation into a OneFormer with a TheirTaskToken."""
    level = theirs.model.pixel_level_module
    copy_weights(level.encoder.state_dict(), ours.backbone.body)
    transplant_deformable_pixel_decoder(level.decoder, ours.pixel_decoder)
    transplant_transformer(theirs.model.transformer_module, ours)
    copy_weights(theirs.model.task_encoder.state_dict(), ours.task_token.encoder)
    transplant_text_mapper(theirs.model.text_mapper, ours.text_mapper)
    # Theirs is the logarithm of 1 / temperature.
    ours.log_temperature.data.copy_(-theirs.criterion.logit_scale.data)


def gradients_as_weights(theirs: nn.Module, ours: nn.Module, transplant: Callable) -> nn.Module:
    """A copy of ours that holds, in the place of each weight, theirs' gradient of it."""
    donor, holder = copy.deepcopy(theirs), copy.deepcopy(ours)
    for parameter, original in zip(donor.parameters(), theirs.parameters(), strict=True):
        grad = original.grad
        parameter.data = torch.zeros_like(original) if grad is None else grad.clone()
    transplant(donor, holder)
    return holder


def _head(classes: nn.Module, embed: nn.Module, ours: nn.Module) -> None:
    copy_weights(classes.state_dict(), ours.classes)
    linear = [module for module in embed.modules() if isinstance(module, nn.Linear)]
    own = [module for module in ours.embed if isinstance(module, nn.Linear)]
    for original, layer in zip(linear, own, strict=True):
        copy_weights(original.state_dict(), layer)
