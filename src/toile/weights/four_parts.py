"""The names of the four-part layout: {diffusion, encoder, decoder, clip}, each the state of one network.

Teaching implementations of Stable Diffusion 1.x save it with torch.save (hkproj/pytorch-stable-diffusion, after
kjsman/stable-diffusion-pytorch). The autoencoder is two lists of layers there, counted through, activations included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.models.vae import VAEConfig
from toile.weights.files import WeightsError
from toile.weights.names import Place, Rule, UNetNames, rules_from, unet_places

PARTS = ("diffusion", "encoder", "decoder", "clip")

FOUR_PARTS_UNET = UNetNames(
    root="diffusion.",
    first="time_embedding.linear_1",
    second="time_embedding.linear_2",
    down="unet.encoders",
    middle="unet.bottleneck",
    up="unet.decoders",
    downsample=".0",
    norm="final.groupnorm",
    conv="final.conv",
    resnet={
        "norm1": "groupnorm_feature",
        "conv1": "conv_feature",
        "time_emb_proj": "linear_time",
        "norm2": "groupnorm_merged",
        "conv2": "conv_merged",
        "conv_shortcut": "residual_layer",
    },
    transformer={
        "norm": "groupnorm",
        "proj_in": "conv_input",
        "transformer_blocks.0.norm1": "layernorm_1",
        "transformer_blocks.0.attn1.to_q": "attention_1.in_proj",
        "transformer_blocks.0.attn1.to_k": "attention_1.in_proj",
        "transformer_blocks.0.attn1.to_v": "attention_1.in_proj",
        "transformer_blocks.0.attn1.to_out.0": "attention_1.out_proj",
        "transformer_blocks.0.norm2": "layernorm_2",
        "transformer_blocks.0.attn2.to_q": "attention_2.q_proj",
        "transformer_blocks.0.attn2.to_k": "attention_2.k_proj",
        "transformer_blocks.0.attn2.to_v": "attention_2.v_proj",
        "transformer_blocks.0.attn2.to_out.0": "attention_2.out_proj",
        "transformer_blocks.0.norm3": "layernorm_3",
        "transformer_blocks.0.ff.net.0.proj": "linear_geglu_1",
        "transformer_blocks.0.ff.net.2": "linear_geglu_2",
        "proj_out": "conv_output",
    },
)
VAE_RESNET = {
    "norm1": "groupnorm_1",
    "conv1": "conv_1",
    "norm2": "groupnorm_2",
    "conv2": "conv_2",
    "conv_shortcut": "residual_layer",
}
VAE_ATTENTION = {
    "group_norm": "groupnorm",
    "to_q": "attention.in_proj",
    "to_k": "attention.in_proj",
    "to_v": "attention.in_proj",
    "to_out.0": "attention.out_proj",
}
CLIP_LAYER = {
    "layer_norm1": "layernorm_1",
    "self_attn.q_proj": "attention.in_proj",
    "self_attn.k_proj": "attention.in_proj",
    "self_attn.v_proj": "attention.in_proj",
    "self_attn.out_proj": "attention.out_proj",
    "layer_norm2": "layernorm_2",
    "mlp.fc1": "linear_1",
    "mlp.fc2": "linear_2",
}


def four_part_rules(unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig, names: Iterable[str]) -> tuple[Rule, ...]:
    """The rules of a four-part file, each name with its part in front (`encoder.0.weight`).

    Args:
        unet, vae, text: the sizes of the networks.
        names: all tensors of ours, the component in front.

    Raises:
        WeightsError: a network has what that implementation cannot compute.
    """
    if unet.use_linear_projection or text.hidden_act != "quick_gelu" or not vae.mid_block_add_attention:
        raise WeightsError(
            "the four-part layout is for Stable Diffusion 1.x: convolutions around the transformers, quick_gelu in the "
            f"text encoder, attention in the autoencoder; this model has use_linear_projection "
            f"{unet.use_linear_projection}, hidden_act {text.hidden_act}, mid_block_add_attention "
            f"{vae.mid_block_add_attention}; write a single file (.safetensors) or a folder instead"
        )
    places = {**unet_places(unet, FOUR_PARTS_UNET), **_encoder_places(vae), **_decoder_places(vae)}
    return rules_from(places | _clip_places(text), names)


def _encoder_places(config: VAEConfig) -> dict[str, Place]:
    layers, ours = count(0), "vae.encoder"
    places = {f"{ours}.conv_in": Place(f"encoder.{next(layers)}")}
    for level in range(len(config.block_out_channels)):
        for layer in range(config.layers_per_block):
            places[f"{ours}.down_blocks.{level}.resnets.{layer}"] = Place(f"encoder.{next(layers)}", VAE_RESNET)
        if level < len(config.block_out_channels) - 1:
            places[f"{ours}.down_blocks.{level}.downsamplers.0.conv"] = Place(f"encoder.{next(layers)}")
    places |= _middle_places(ours, "encoder", layers)
    places[f"{ours}.conv_norm_out"] = Place(f"encoder.{next(layers)}")
    next(layers)  # SiLU
    places[f"{ours}.conv_out"] = Place(f"encoder.{next(layers)}")
    places["vae.quant_conv"] = Place(f"encoder.{next(layers)}")
    return places


def _decoder_places(config: VAEConfig) -> dict[str, Place]:
    layers, ours = count(0), "vae.decoder"
    places = {"vae.post_quant_conv": Place(f"decoder.{next(layers)}")}
    places[f"{ours}.conv_in"] = Place(f"decoder.{next(layers)}")
    places |= _middle_places(ours, "decoder", layers)
    for level in range(len(config.block_out_channels)):
        for layer in range(config.layers_per_block + 1):
            places[f"{ours}.up_blocks.{level}.resnets.{layer}"] = Place(f"decoder.{next(layers)}", VAE_RESNET)
        if level < len(config.block_out_channels) - 1:
            next(layers)  # doubles the size, without weights
            places[f"{ours}.up_blocks.{level}.upsamplers.0.conv"] = Place(f"decoder.{next(layers)}")
    places[f"{ours}.conv_norm_out"] = Place(f"decoder.{next(layers)}")
    next(layers)  # SiLU
    places[f"{ours}.conv_out"] = Place(f"decoder.{next(layers)}")
    return places


def _middle_places(ours: str, theirs: str, layers: Iterator[int]) -> dict[str, Place]:
    return {
        f"{ours}.mid_block.resnets.0": Place(f"{theirs}.{next(layers)}", VAE_RESNET),
        f"{ours}.mid_block.attentions.0": Place(f"{theirs}.{next(layers)}", VAE_ATTENTION),
        f"{ours}.mid_block.resnets.1": Place(f"{theirs}.{next(layers)}", VAE_RESNET),
    }


def _clip_places(config: CLIPTextConfig) -> dict[str, Place]:
    ours = "text_encoder.text_model"
    places = {
        f"{ours}.embeddings.token_embedding": Place("clip.embedding.token_embedding"),
        f"{ours}.embeddings.position_embedding.weight": Place("clip.embedding.position_embedding"),
        f"{ours}.final_layer_norm": Place("clip.layernorm"),
    }
    for layer in range(config.num_hidden_layers):
        places[f"{ours}.encoder.layers.{layer}"] = Place(f"clip.layers.{layer}", CLIP_LAYER)
    return places
