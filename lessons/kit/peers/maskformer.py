"""transformers' MaskFormer behind this course's types: matching, losses, a decoder layer."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from lessons.kit.data import Segments


def transformers_maskformer(
    class_logits: Float[Tensor, "b q k1"],
    mask_logits: Float[Tensor, "b q h w"],
    targets: Sequence[Segments],
    weights: tuple[float, float, float] = (1.0, 20.0, 1.0),
    no_object: float = 0.1,
) -> tuple[list[tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """transformers' MaskFormer matching and weighted losses (`classes`, `mask`, `dice`).

    `weights` are those of class, mask (focal) and dice, in cost and loss; `no_object` is that of
    ∅ in the loss.
    """
    from transformers.models.maskformer import modeling_maskformer as reference

    matcher = reference.MaskFormerHungarianMatcher(*weights)
    loss = reference.MaskFormerLoss(class_logits.shape[-1] - 1, matcher, {}, no_object)
    masks, labels = [t.masks.float() for t in targets], [t.labels for t in targets]
    terms = loss(mask_logits, class_logits, masks, labels)
    names = {"classes": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
    weighted = {
        name: weight * terms[names[name]] for name, weight in zip(names, weights, strict=True)
    }
    return matcher(mask_logits, class_logits, masks, labels), weighted


def transformers_decoder_layer(layer: nn.Module, heads: int) -> nn.Module:
    """transformers' decoder layer of MaskFormer, with the weights of lesson 13's `DecoderLayer`."""
    from transformers.models.maskformer import modeling_maskformer as reference

    channels = layer.norms[0].normalized_shape[0]
    linear = [part for part in layer.feed_forward.modules() if isinstance(part, nn.Linear)]
    config = reference.MaskFormerDetrConfig(
        d_model=channels,
        decoder_attention_heads=heads,
        decoder_ffn_dim=linear[0].out_features,
        activation_function="relu",
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    config._attn_implementation = "eager"
    peer = reference.MaskFormerDetrDecoderLayer(config).eval()
    pairs = [(peer.mlp.fc1, linear[0]), (peer.mlp.fc2, linear[1])]
    for theirs, ours in (
        (peer.self_attn, layer.self_attention),
        (peer.encoder_attn, layer.cross_attention),
    ):
        pairs += [(theirs.q_proj, ours.to_query), (theirs.k_proj, ours.to_key)]
        pairs += [(theirs.v_proj, ours.to_value), (theirs.o_proj, ours.out)]
    norms = peer.self_attn_layer_norm, peer.encoder_attn_layer_norm, peer.final_layer_norm
    for theirs, ours in (*pairs, *zip(norms, layer.norms, strict=True)):
        theirs.load_state_dict(ours.state_dict())
    return peer
