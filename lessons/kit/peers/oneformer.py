"""transformers' OneFormer behind this course's types: what lesson 16, its tests and its
benchmark compare with. Weights are copied from theirs into ours; nothing is computed here.
"""

from torch import Tensor, nn
from transformers import OneFormerConfig
from transformers.models.oneformer.modeling_oneformer import (
    OneFormerLoss,
    OneFormerTextMapper,
    OneFormerTransformerModule,
)

from lessons.kit.peers.mask2former import (
    copy_weights,
    randomised,
    transplant_attention,
    transplant_packed_attention,
)


def their_config(
    *,
    words: int = 24,
    length: int = 7,
    channels: int = 64,
    contexts: int = 4,
    text_layers: int = 2,
    heads: int = 4,
    hidden: int = 256,
    num_queries: int = 24,
    decoder_layers: int = 3,
    num_classes: int = 8,
) -> OneFormerConfig:
    """transformers' configuration in small; of the text's heads there is one for 64 channels."""
    return OneFormerConfig(
        text_encoder_vocab_size=words,
        text_encoder_context_length=length,
        text_encoder_width=channels,
        text_encoder_num_layers=text_layers,
        text_encoder_n_ctx=contexts,
        hidden_dim=channels,
        mask_dim=channels,
        num_attention_heads=heads,
        dim_feedforward=hidden,
        num_queries=num_queries,
        decoder_layers=decoder_layers + 1,  # it counts the first queries as one
        query_dec_layers=2,
        dropout=0.0,
        use_task_norm=True,
        num_labels=num_classes,
    )


def their_loss(temperature: float = 0.07) -> OneFormerLoss:
    """transformers' loss, of which only `loss_contrastive` is wanted."""
    weights = {"loss_contrastive": 0.5}
    return OneFormerLoss(8, None, weights, 0.1, 100, 3.0, 0.75, contrastive_temperature=temperature)


def their_text_mapper(**sizes: int) -> OneFormerTextMapper:
    """transformers' text mapper with random weights."""
    return randomised(OneFormerTextMapper(their_config(**sizes)))


def their_transformer(**sizes: int) -> OneFormerTransformerModule:
    """transformers' way from maps and a task token to the answers, with random weights."""
    config = their_config(**sizes)
    return randomised(OneFormerTransformerModule(config.hidden_dim, config)).eval()


def swap_back(theirs: OneFormerTransformerModule) -> None:
    """Let their query layers read the image at its places, not the places at the image.

    Their decoder hands the positions over as the memory and the image's features as what is
    added to its keys.
    """
    transformer = theirs.decoder.query_transformer
    as_published = transformer.forward

    def forward(places: Tensor, mask: None, queries: Tensor, image: Tensor, token: Tensor):
        return as_published(image, mask, queries, places, token)

    transformer.forward = forward


def transplant_text_mapper(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' OneFormerTextMapper into a TextMapper."""
    encoder, own = theirs.text_encoder, ours.encoder
    copy_weights(encoder.token_embedding.state_dict(), own.embedding)
    copy_weights(encoder.ln_final.state_dict(), own.norm)
    own.positions.data.copy_(encoder.positional_embedding)
    for original, layer in zip(encoder.transformer.layers, own.layers, strict=True):
        transplant_packed_attention(original.self_attn, layer.attention)
        copy_weights(original.mlp.fc1.state_dict(), layer.feed_forward[0])
        copy_weights(original.mlp.fc2.state_dict(), layer.feed_forward[2])
        copy_weights(original.layer_norm1.state_dict(), layer.norms[0])
        copy_weights(original.layer_norm2.state_dict(), layer.norms[1])
    _layers(theirs.text_projector, ours.project)
    ours.contexts.data.copy_(theirs.prompt_ctx.weight)


def transplant_transformer(theirs: nn.Module, ours: nn.Module) -> None:
    """transformers' OneFormerTransformerModule into the query layers, decoder and head of ours."""
    decoder, query = theirs.decoder, theirs.decoder.query_transformer.decoder
    ours.query_positions.data.copy_(theirs.queries_embedder.weight)
    ours.level.data.copy_(theirs.level_embed.weight)
    copy_weights(decoder.query_input_projection.state_dict(), ours.query_image)
    copy_weights(query.norm.state_dict(), ours.query_norm)
    for original, layer in zip(query.layers, ours.query_layers, strict=True):
        transplant_packed_attention(original.self_attn, layer.self_attention)
        transplant_packed_attention(original.multihead_attn, layer.cross_attention)
        _feed_forward(original, layer)
        norms = original.norm1, original.norm2, original.norm3
        for norm, own in zip(norms, layer.norms, strict=True):
            copy_weights(norm.state_dict(), own)
    for original, layer in zip(decoder.layers, ours.decoder, strict=True):
        transplant_packed_attention(original.cross_attn.multihead_attn, layer.cross_attention)
        transplant_attention(original.self_attn.self_attn, layer.self_attention)
        _feed_forward(original.ffn, layer)
        norms = original.self_attn.norm, original.cross_attn.norm, original.ffn.norm
        for norm, own_norm in zip(norms, layer.norms, strict=True):
            copy_weights(norm.state_dict(), own_norm)
    copy_weights(decoder.decoder_norm.state_dict(), ours.head.norm)
    copy_weights(decoder.class_embed.state_dict(), ours.head.classes)
    _layers(decoder.mask_embed, ours.head.embed)


def _feed_forward(theirs: nn.Module, ours: nn.Module) -> None:
    copy_weights(theirs.linear1.state_dict(), ours.feed_forward[0])
    copy_weights(theirs.linear2.state_dict(), ours.feed_forward[2])


def _layers(theirs: nn.Module, ours: nn.Sequential) -> None:
    """Linear layers, one after another."""
    linear = [module for module in ours if isinstance(module, nn.Linear)]
    for original, own in zip(theirs.layers, linear, strict=True):
        copy_weights(original.layers[0].state_dict(), own)
