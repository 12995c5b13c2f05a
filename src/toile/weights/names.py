"""How the tensors of a model are called in files of one piece, as data: rules between our names and theirs.

Our names are those of diffusers and transformers with the component in front (`unet.conv_in.weight`), so component
folders need no rules. The original files (Rombach et al. 2022, CompVis/latent-diffusion) hold everything under the
names of the code that trained them: `model.diffusion_model.`, `first_stage_model.`, `cond_stage_model.`.

A rule takes one tensor of a file. It holds one tensor of ours, or several along its first dimension (query, key and
value of OpenCLIP), and may be the weights of a 1x1 convolution where we have a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.models.vae import VAEConfig
from toile.weights.files import WeightsError

COMPONENTS = ("unet", "vae", "text_encoder")

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Rule:
    """A tensor of a file.

    Attributes:
        theirs: its name in the file.
        ours: the names of what it holds, in the order along its first dimension.
        pixelwise: it is a 1x1 convolution (out, in, 1, 1) where ours is a matrix (out, in).
    """

    theirs: str
    ours: tuple[str, ...]
    pixelwise: bool = False


class Place(NamedTuple):
    """Where a module of ours lies in a file.

    Attributes:
        path: its name there.
        leaves: names inside it, ours -> theirs, of submodules or of single tensors; what is not listed keeps its name.
            Several of ours with one name there are stored one after the other, in the order of this table.
        pixelwise: submodules whose matrix is a 1x1 convolution there.
    """

    path: str
    leaves: Mapping[str, str] = _NONE
    pixelwise: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UNetNames:
    """The names of a U-Net whose blocks are counted through in one list down, and one up.

    Attributes:
        root: stands before every name.
        first, second: the layers of the time embedding.
        down, middle, up: the lists of blocks.
        downsample: what follows the number of a block that halves the size.
        norm, conv: the last two layers.
        resnet, transformer: names inside these blocks, ours -> theirs.
    """

    root: str
    first: str
    second: str
    down: str
    middle: str
    up: str
    downsample: str
    norm: str
    conv: str
    resnet: Mapping[str, str]
    transformer: Mapping[str, str]


SINGLE_FILE_UNET = UNetNames(
    root="model.diffusion_model.",
    first="time_embed.0",
    second="time_embed.2",
    down="input_blocks",
    middle="middle_block",
    up="output_blocks",
    downsample=".0.op",
    norm="out.0",
    conv="out.2",
    resnet={
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    transformer={},
)
VAE_ROOT = "first_stage_model."
CLIP_ROOT = "cond_stage_model.transformer."
OPEN_CLIP_ROOT = "cond_stage_model.model."

_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_PIXELWISE = frozenset({"to_q", "to_k", "to_v", "to_out.0"})
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.q_proj.weight": "attn.in_proj_weight",
    "self_attn.k_proj.weight": "attn.in_proj_weight",
    "self_attn.v_proj.weight": "attn.in_proj_weight",
    "self_attn.q_proj.bias": "attn.in_proj_bias",
    "self_attn.k_proj.bias": "attn.in_proj_bias",
    "self_attn.v_proj.bias": "attn.in_proj_bias",
    "self_attn.out_proj": "attn.out_proj",
}

# Names that diffusers and transformers had, or have, for what is called otherwise here; (pattern, replacement).
_OTHER_NAMES = (
    (re.compile(r"(attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
    (re.compile(r"^(embeddings|encoder|final_layer_norm)\."), r"text_model.\1."),
    (re.compile(r"^vision_model\.(?!vision_model\.)"), r"vision_model.vision_model."),
)


# ---------------------------------------------------------------------------------------------------- the rules


def single_file_rules(
    unet: UNetConfig, vae: VAEConfig, text: CLIPTextConfig, names: Iterable[str], *, open_clip: bool
) -> tuple[Rule, ...]:
    """The rules of an original file.

    Args:
        unet, vae, text: the sizes of the networks.
        names: all tensors of ours, the component in front.
        open_clip: the text encoder has the names of OpenCLIP (Stable Diffusion 2.x), not those of transformers (1.x).
    """
    places = {**unet_places(unet, SINGLE_FILE_UNET), **_vae_places(vae)}
    places |= _open_clip_places(text) if open_clip else {"text_encoder": Place(CLIP_ROOT.removesuffix("."))}
    return rules_from(places, names)


def rules_from(places: Mapping[str, Place], names: Iterable[str]) -> tuple[Rule, ...]:
    """The rules for tensors of ours, given where the modules lie; each module in `places` covers what is inside it."""
    held: dict[str, list[tuple[int, str]]] = {}
    pixelwise: set[str] = set()
    for name in names:
        theirs, rank, is_pixelwise = _renamed(name, places)
        held.setdefault(theirs, []).append((rank, name))
        if is_pixelwise:
            pixelwise.add(theirs)
    return tuple(
        Rule(theirs, tuple(name for _, name in sorted(ours)), theirs in pixelwise) for theirs, ours in held.items()
    )


def _renamed(name: str, places: Mapping[str, Place]) -> tuple[str, int, bool]:
    """The name in the file, the rank among tensors of the same name, and whether it is a 1x1 convolution there."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        place = places.get(".".join(parts[:end]))
        if place is None:
            continue
        module, kind = ".".join(parts[end:-1]), parts[-1]
        tensor = f"{module}.{kind}" if module else kind
        order = list(place.leaves)
        if end == len(parts):
            return place.path, 0, False
        if tensor in place.leaves:
            return f"{place.path}.{place.leaves[tensor]}", order.index(tensor), False
        if module in place.leaves:
            is_pixelwise = module in place.pixelwise and kind == "weight"
            return f"{place.path}.{place.leaves[module]}.{kind}", order.index(module), is_pixelwise
        return f"{place.path}.{tensor}", 0, False
    raise ValueError(f"no rule covers {name}")


def unet_places(config: UNetConfig, names: UNetNames) -> dict[str, Place]:
    """Where the modules of a U-Net lie in a file that counts its blocks through."""
    root, levels = names.root, len(config.block_out_channels)
    places = {
        "unet.time_embedding.linear_1": Place(root + names.first),
        "unet.time_embedding.linear_2": Place(root + names.second),
        "unet.conv_in": Place(f"{root}{names.down}.0.0"),
        "unet.conv_norm_out": Place(root + names.norm),
        "unet.conv_out": Place(root + names.conv),
        "unet.mid_block.resnets.0": Place(f"{root}{names.middle}.0", names.resnet),
        "unet.mid_block.attentions.0": Place(f"{root}{names.middle}.1", names.transformer),
        "unet.mid_block.resnets.1": Place(f"{root}{names.middle}.2", names.resnet),
    }
    blocks = count(1)
    for level, attends in enumerate(config.cross_attention):
        for layer in range(config.layers_per_block):
            block = f"{root}{names.down}.{next(blocks)}"
            places[f"unet.down_blocks.{level}.resnets.{layer}"] = Place(f"{block}.0", names.resnet)
            if attends:
                places[f"unet.down_blocks.{level}.attentions.{layer}"] = Place(f"{block}.1", names.transformer)
        if level < levels - 1:
            block = f"{root}{names.down}.{next(blocks)}"
            places[f"unet.down_blocks.{level}.downsamplers.0.conv"] = Place(block + names.downsample)
    blocks = count(0)
    for level, attends in enumerate(reversed(config.cross_attention)):
        for layer in range(config.layers_per_block + 1):
            block = f"{root}{names.up}.{next(blocks)}"
            places[f"unet.up_blocks.{level}.resnets.{layer}"] = Place(f"{block}.0", names.resnet)
            if attends:
                places[f"unet.up_blocks.{level}.attentions.{layer}"] = Place(f"{block}.1", names.transformer)
        if level < levels - 1:
            places[f"unet.up_blocks.{level}.upsamplers.0.conv"] = Place(f"{block}.{1 + attends}.conv")
    return places


def _vae_places(config: VAEConfig) -> dict[str, Place]:
    levels = len(config.block_out_channels)
    places = {f"vae.{layer}": Place(VAE_ROOT + layer) for layer in ("quant_conv", "post_quant_conv")}
    for coder in ("encoder", "decoder"):
        ours, theirs = f"vae.{coder}", VAE_ROOT + coder
        places |= {
            f"{ours}.conv_in": Place(f"{theirs}.conv_in"),
            f"{ours}.conv_norm_out": Place(f"{theirs}.norm_out"),
            f"{ours}.conv_out": Place(f"{theirs}.conv_out"),
            f"{ours}.mid_block.resnets.0": Place(f"{theirs}.mid.block_1", _VAE_RESNET),
            f"{ours}.mid_block.attentions.0": Place(f"{theirs}.mid.attn_1", _VAE_ATTENTION, _VAE_PIXELWISE),
            f"{ours}.mid_block.resnets.1": Place(f"{theirs}.mid.block_2", _VAE_RESNET),
        }
    for level in range(levels):
        # Both lists of theirs begin at the finest level, ours in the order of computation.
        ways = (
            (f"vae.encoder.down_blocks.{level}", f"{VAE_ROOT}encoder.down.{level}", "down", 0),
            (f"vae.decoder.up_blocks.{levels - 1 - level}", f"{VAE_ROOT}decoder.up.{level}", "up", 1),
        )
        for ours, theirs, way, more in ways:
            for layer in range(config.layers_per_block + more):
                places[f"{ours}.resnets.{layer}"] = Place(f"{theirs}.block.{layer}", _VAE_RESNET)
            places[f"{ours}.{way}samplers.0.conv"] = Place(f"{theirs}.{way}sample.conv")
    return places


def _open_clip_places(config: CLIPTextConfig) -> dict[str, Place]:
    ours = "text_encoder.text_model"
    places = {
        f"{ours}.embeddings.token_embedding": Place(f"{OPEN_CLIP_ROOT}token_embedding"),
        f"{ours}.embeddings.position_embedding.weight": Place(f"{OPEN_CLIP_ROOT}positional_embedding"),
        f"{ours}.final_layer_norm": Place(f"{OPEN_CLIP_ROOT}ln_final"),
    }
    for layer in range(config.num_hidden_layers):
        path = f"{OPEN_CLIP_ROOT}transformer.resblocks.{layer}"
        places[f"{ours}.encoder.layers.{layer}"] = Place(path, _OPEN_CLIP_LAYER)
    return places


# ---------------------------------------------------------------------------------------------------- their use


def to_file(rules: Sequence[Rule], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of ours as a file holds them; values and dtypes stay.

    Raises:
        WeightsError: parts of one tensor of the file have several dtypes.
    """
    result = {}
    for rule in rules:
        parts = [tensors[name] for name in rule.ours]
        if len({part.dtype for part in parts}) > 1:
            raise WeightsError(f"{', '.join(rule.ours)} must have one dtype: the file stores them as {rule.theirs}")
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        result[rule.theirs] = tensor[..., None, None] if rule.pixelwise else tensor
    return result


def from_file(rules: Sequence[Rule], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_file`; the results share memory with `tensors`. A matrix passes for a 1x1 convolution.

    Raises:
        WeightsError: a tensor cannot be split into equal parts.
    """
    result: dict[str, Tensor] = {}
    for rule in rules:
        tensor = tensors[rule.theirs]
        if tensor.dim() == 0 or tensor.shape[0] % len(rule.ours):
            raise WeightsError(f"{rule.theirs} is {list(tensor.shape)}; it must hold {len(rule.ours)} equal parts")
        if rule.pixelwise and tensor.dim() > 2:
            tensor = tensor.flatten(1)
        result.update(zip(rule.ours, tensor.chunk(len(rule.ours)), strict=True))
    return result


def current_names(given: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Names in a component folder -> ours, where other versions of diffusers and transformers say it otherwise."""
    known = frozenset(expected)
    result: dict[str, str] = {}
    for name in given:
        others = (pattern.sub(replacement, name) for pattern, replacement in _OTHER_NAMES)
        result[name] = name if name in known else next((other for other in others if other in known), name)
    return result
