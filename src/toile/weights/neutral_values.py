"""Keys of other programs' config.json that we have no fields for, and the values at which they change nothing.

diffusers and transformers write every option they know. Most belong to other families: at one of the values below the
network is the one we compute, at any other it is not, and then the model is refused instead of computed wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from toile.errors import ToileError
from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.models.vae import VAEConfig

_UNET: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "act_fn": ("silu", "swish"),
        "addition_embed_type": (None,),
        "addition_time_embed_dim": (None,),
        "attention_type": ("default",),
        "center_input_sample": (False,),
        "class_embed_type": (None,),
        "class_embeddings_concat": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "cross_attention_norm": (None,),
        "downsample_padding": (1,),
        "dropout": (0.0,),
        "dual_cross_attention": (False,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "mid_block_only_cross_attention": (None, False),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "num_attention_heads": (None,),
        "only_cross_attention": (False,),
        "projection_class_embeddings_input_dim": (None,),
        "resnet_out_scale_factor": (1.0,),
        "resnet_skip_time_act": (False,),
        "resnet_time_scale_shift": ("default",),
        "reverse_transformer_layers_per_block": (None,),
        "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
        "timestep_post_act": (None,),
        "transformer_layers_per_block": (1,),
    }
)
_VAE: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "act_fn": ("silu", "swish"),
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "latents_mean": (None,),
        "latents_std": (None,),
        "use_post_quant_conv": (True,),
        "use_quant_conv": (True,),
    }
)
# How a network is run, or trained, by other programs; for what it computes these mean nothing at any value.
_ANY_VALUE: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        UNetConfig: frozenset({"addition_embed_type_num_heads", "upcast_attention"}),
        VAEConfig: frozenset({"force_upcast"}),
        CLIPTextConfig: frozenset({"dtype", "problem_type", "return_dict", "output_hidden_states", "use_cache"}),
    }
)
_NEUTRAL: Mapping[type, Mapping[str, tuple[Any, ...]]] = MappingProxyType({UNetConfig: _UNET, VAEConfig: _VAE})

IGNORED_WEIGHTS: Mapping[type, frozenset[str]] = MappingProxyType(
    {CLIPTextConfig: frozenset({"text_model.embeddings.position_ids", "text_projection.weight"})}
)
"""Tensors in component folders that are no part of the network: the numbers 0, 1, 2, ... and a projection of CLIP's."""


def without_neutral(config_class: type, mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entries of a config.json but for those that change nothing.

    Raises:
        ToileError: one of them would change what the network computes.
    """
    neutral, free = _NEUTRAL.get(config_class, {}), _ANY_VALUE.get(config_class, frozenset())
    kept = {}
    for key, value in mapping.items():
        if key in free:
            continue
        if key not in neutral:
            kept[key] = value
            continue
        # One value for all levels may be written as a list of equals.
        each = value if isinstance(value, list | tuple) and value else [value]
        if not all(any(_is_same(item, allowed) for allowed in neutral[key]) for item in each):
            allowed = " or ".join(repr(item) for item in neutral[key])
            raise ToileError(f"{where}: {key} is {value!r:.80}; only {allowed} can be computed: this is another family")
    return kept


def foreign_entries(config_class: type, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config.json that `without_neutral` leaves out: kept, so that they can be written again."""
    known = set(_NEUTRAL.get(config_class, {})) | _ANY_VALUE.get(config_class, frozenset())
    return {key: value for key, value in mapping.items() if key in known}


def _is_same(value: Any, allowed: Any) -> bool:
    return bool(value == allowed) and isinstance(value, bool) == isinstance(allowed, bool)  # True is not 1 here
