"""Rename rules: each tensor has one place in a file and comes back from it, for any size of the networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toile.model_files.folder import read_folder
from toile.model_files.parts import expected_tensors
from toile.models.clip import CLIP_VIT_L14_TEXT, CLIPTextConfig
from toile.models.unet import SD15_UNET, UNetConfig
from toile.models.vae import SD15_VAE, VAEConfig
from toile.weights.files import WeightsError
from toile.weights.four_parts import four_part_rules
from toile.weights.names import Rule, current_names, from_file, single_file_rules, to_file

TEXT = CLIPTextConfig(8, 12, 8, num_hidden_layers=2, num_attention_heads=1, vocab_size=20, eos_token_id=19)
SD2_TEXT = replace(CLIP_VIT_L14_TEXT, hidden_size=1024, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")


def unet_config(attends: list[bool], layers: int, linear: bool) -> UNetConfig:
    return UNetConfig(
        block_out_channels=tuple(4 + 4 * level for level in range(len(attends))),
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        layers_per_block=layers,
        cross_attention_dim=8,
        attention_head_dim=1,
        use_linear_projection=linear,
        norm_num_groups=2,
    )


def vae_config(levels: int, layers: int, attention: bool) -> VAEConfig:
    widths = tuple(4 + 2 * level for level in range(levels))
    return VAEConfig(
        block_out_channels=widths, layers_per_block=layers, norm_num_groups=2, mid_block_add_attention=attention
    )


def full_names(unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig) -> list[str]:
    return [f"{part}.{name}" for part, network in expected_tensors(unet, vae, text).items() for name in network]


def random_tensors(unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    networks = expected_tensors(unet, vae, text)
    return {
        f"{part}.{name}": torch.randn(tensor.shape, generator=generator)
        for part, network in networks.items()
        for name, tensor in network.items()
    }


def by_their_name(rules: Iterable[Rule]) -> dict[str, tuple[str, ...]]:
    return {rule.theirs: rule.ours for rule in rules}


# ---------------------------------------------------------------------------------------------------- bijective


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["ldm", "open_clip", "four"]),
)
def test_rules_are_bijective_and_values_come_back(
    attends: list[bool], layers: int, linear: bool, levels: int, vae_layers: int, attention: bool, layout: str
) -> None:
    four = layout == "four"
    parts = (
        unet_config(attends, layers, linear and not four),
        vae_config(levels, vae_layers, attention or four),
        TEXT,
    )
    tensors = random_tensors(*parts)
    if four:
        rules = four_part_rules(*parts, tensors)
    else:
        rules = single_file_rules(*parts, tensors, open_clip=layout == "open_clip")
    assert len({rule.theirs for rule in rules}) == len(rules)
    assert sorted(name for rule in rules for name in rule.ours) == sorted(tensors)
    stored = to_file(rules, tensors)
    assert sum(tensor.numel() for tensor in stored.values()) == sum(tensor.numel() for tensor in tensors.values())
    back = from_file(rules, stored)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor), name


# ---------------------------------------------------------------------------------------------------- known names


def test_names_of_stable_diffusion_1_5() -> None:
    parts = (SD15_UNET, SD15_VAE, CLIP_VIT_L14_TEXT)
    rules = single_file_rules(*parts, full_names(*parts), open_clip=False)
    names = by_their_name(rules)
    starts = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.")
    assert [sum(name.startswith(start) for name in names) for start in starts] == [686, 248, 196]
    for theirs, ours in {
        "model.diffusion_model.input_blocks.3.0.op.weight": "unet.down_blocks.0.downsamplers.0.conv.weight",
        "model.diffusion_model.input_blocks.11.0.in_layers.0.bias": "unet.down_blocks.3.resnets.1.norm1.bias",
        "model.diffusion_model.middle_block.1.proj_in.weight": "unet.mid_block.attentions.0.proj_in.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight": "unet.up_blocks.0.upsamplers.0.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight": "unet.up_blocks.1.upsamplers.0.conv.weight",
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (
            "unet.up_blocks.3.resnets.2.conv_shortcut.weight"
        ),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (
            "vae.decoder.up_blocks.3.resnets.0.conv_shortcut.weight"
        ),
        "first_stage_model.decoder.mid.attn_1.proj_out.weight": "vae.decoder.mid_block.attentions.0.to_out.0.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": (
            "text_encoder.text_model.final_layer_norm.bias"
        ),
    }.items():
        assert names[theirs] == (ours,)
    assert {rule.theirs.rpartition(".mid.")[2] for rule in rules if rule.pixelwise} == {
        f"attn_1.{layer}.weight" for layer in ("q", "k", "v", "proj_out")
    }


def test_names_of_stable_diffusion_2() -> None:
    unet = replace(SD15_UNET, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)
    parts = (unet, SD15_VAE, SD2_TEXT)
    names = by_their_name(single_file_rules(*parts, full_names(*parts), open_clip=True))
    layer = "text_encoder.text_model.encoder.layers.22.self_attn"
    assert names["cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight"] == tuple(
        f"{layer}.{kind}_proj.weight" for kind in "qkv"
    )
    assert names["cond_stage_model.model.positional_embedding"] == (
        "text_encoder.text_model.embeddings.position_embedding.weight",
    )
    assert sum(name.startswith("cond_stage_model.model.") for name in names) == 4 + 23 * 12


def test_names_of_the_four_parts_of_1_5() -> None:
    parts = (SD15_UNET, SD15_VAE, CLIP_VIT_L14_TEXT)
    names = by_their_name(four_part_rules(*parts, full_names(*parts)))
    for theirs, ours in {
        "diffusion.time_embedding.linear_2.bias": "unet.time_embedding.linear_2.bias",
        "diffusion.unet.encoders.3.0.weight": "unet.down_blocks.0.downsamplers.0.conv.weight",
        "diffusion.unet.decoders.5.2.conv.weight": "unet.up_blocks.1.upsamplers.0.conv.weight",
        "diffusion.unet.bottleneck.1.linear_geglu_1.bias": (
            "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias"
        ),
        "diffusion.final.groupnorm.weight": "unet.conv_norm_out.weight",
        "encoder.10.groupnorm_1.weight": "vae.encoder.down_blocks.3.resnets.0.norm1.weight",
        "encoder.13.attention.out_proj.weight": "vae.encoder.mid_block.attentions.0.to_out.0.weight",
        "encoder.17.weight": "vae.encoder.conv_out.weight",
        "encoder.18.weight": "vae.quant_conv.weight",
        "decoder.0.weight": "vae.post_quant_conv.weight",
        "decoder.9.weight": "vae.decoder.up_blocks.0.upsamplers.0.conv.weight",
        "decoder.20.residual_layer.weight": "vae.decoder.up_blocks.3.resnets.0.conv_shortcut.weight",
        "decoder.25.weight": "vae.decoder.conv_out.weight",
        "clip.embedding.position_embedding": "text_encoder.text_model.embeddings.position_embedding.weight",
        "clip.layers.11.linear_2.weight": "text_encoder.text_model.encoder.layers.11.mlp.fc2.weight",
    }.items():
        assert names[theirs] == (ours,)
    assert names["encoder.13.attention.in_proj.bias"] == tuple(
        f"vae.encoder.mid_block.attentions.0.to_{kind}.bias" for kind in "qkv"
    )


def test_four_parts_refuse_what_that_implementation_cannot_compute() -> None:
    with pytest.raises(WeightsError, match="Stable Diffusion 1.x.*hidden_act gelu"):
        four_part_rules(SD15_UNET, SD15_VAE, SD2_TEXT, [])


def test_older_and_newer_names_in_folders() -> None:
    vae = expected_tensors(SD15_UNET, SD15_VAE, CLIP_VIT_L14_TEXT)["vae"]
    old = {
        name.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn.")
        for name in vae
    }
    assert len(old & set(vae)) == len(vae) - 16
    assert set(current_names(old, vae).values()) == set(vae)
    text = expected_tensors(SD15_UNET, SD15_VAE, CLIP_VIT_L14_TEXT)["text_encoder"]
    flat = [name.removeprefix("text_model.") for name in text]
    assert current_names(flat, text) == dict(zip(flat, text, strict=True))
    assert current_names(["a.query.weight"], vae) == {"a.query.weight": "a.query.weight"}


# ---------------------------------------------------------------------------------------------------- parity


def test_diffusers_finds_the_same_tensors_in_our_single_file(their_folder: Path) -> None:
    parts = read_folder(their_folder)
    tensors = {f"{part}.{name}": tensor for part, net in parts.tensors.items() for name, tensor in net.items()}
    open_clip = parts.text_encoder.hidden_act == "gelu"
    file = to_file(single_file_rules(parts.unet, parts.vae, parts.text_encoder, tensors, open_clip=open_clip), tensors)
    found = {
        "unet": convert_ldm_unet_checkpoint(dict(file), asdict(parts.unet)),
        "vae": convert_ldm_vae_checkpoint(dict(file), {"down_block_types": "12", "up_block_types": "12"}),
    }
    if open_clip:
        config = SimpleNamespace(hidden_size=parts.text_encoder.hidden_size)
        found["text_encoder"] = convert_open_clip_checkpoint(SimpleNamespace(config=config), dict(file))
    else:
        found["text_encoder"] = convert_ldm_clip_checkpoint(dict(file))
    for part, network in parts.tensors.items():
        assert set(found[part]) == set(network)
        for name, tensor in network.items():
            assert torch.equal(found[part][name], tensor), name
