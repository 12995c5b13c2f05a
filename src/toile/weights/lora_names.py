"""What LoRA files call the layers of a model, as data: from the names of each dialect to ours and back.

A name in a file is that of a layer and that of one part of its change: A (`down`), B (`up`), alpha or the magnitude of
DoRA. Our layers have the component in front: `unet.conv_in`, `text_encoder.text_model.encoder.layers.0.mlp.fc1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from toile.models.unet import UNetConfig
from toile.weights.files import WeightsError
from toile.weights.names import SINGLE_FILE_UNET, rules_from, unet_places

KOHYA, DIFFUSERS, DIFFUSERS_OLD, PEFT = "kohya", "diffusers", "diffusers old", "peft"
NUM_SHOWN = 10

_PEFT_ROOT = "base_model.model."
_TEXT_ROOT = "text_encoder.text_model."
_KOHYA_ROOTS = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
_KOHYA_NAME = re.compile(r"(lora_(?:unet|te)_[^.]+)\.(lora_down\.weight|lora_up\.weight|alpha|dora_scale)")
_KOHYA_PARTS = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha", "dora_scale": "magnitude"}
# diffusers has had four ways to write A; files of mixed ways exist, as its own conversion renames attention only.
_DIFFUSERS_NAME = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora_(?P<letter>[AB])(?:\.\w+)?\.weight"
    r"|(?:[._]lora|\.lora_linear_layer)\.(?P<word>down|up)\.weight"
    r"|\.lora_(?P<magnitude>magnitude)_vector(?:\.\w+){0,2}"
    r"|(?:[._]lora|\.lora_linear_layer)?\.(?P<alpha>alpha)"
    r")"
)
_PART_OF_LETTER = {"A": "down", "B": "up"}
# Names of layers in attention as the oldest files have them; (pattern, replacement).
_OLD_LAYERS = (
    (re.compile(r"\.processor\b"), ""),
    (re.compile(r"(\.attn[12]\.to_out)$"), r"\1.0"),
    (re.compile(r"(\.self_attn)\.to_([qkv]|out)$"), r"\1.\2_proj"),
)

_KINDS: tuple[tuple[str, str], ...] = (
    (r"\.hada_", "a LoHa (LyCORIS), products of two changes, which is not read"),
    (r"\.lokr_", "a LoKr (LyCORIS), Kronecker products, which is not read"),
    (r"\.lora_mid\.", "a LoCon with Tucker decomposition (`lora_mid`, LyCORIS), which is not read"),
    (r"\.b?oft_", "an OFT, a rotation of weights, which is not read"),
    (r"\.on_input$", "an (IA)^3 (LyCORIS), a scaling of layers, which is not read"),
    (r"\.[ab][12]\.weight$", "a GLoRA (LyCORIS), which is not read"),
    (r"\.diff(_b)?$|\.[wb]_norm$", "differences of whole weights (LyCORIS), which are not read"),
    (r"^bundle_emb\.", "a LoRA with embeddings for words inside (`bundle_emb`), which are not read"),
    (r"^lora_controlnet$", "a Control-LoRA, which is not read"),
    (r"^(emb_params|string_to_param)$", "an embedding for a word (textual inversion), not a LoRA"),
)
_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"double_blocks|single_blocks|single_transformer_blocks", "Flux"),
    (r"joint_blocks|lora_te3_|text_encoder_3\.|^transformer\.|lora_transformer_", "Stable Diffusion 3 or Flux"),
    (r"^diffusion_model\.", "a transformer such as Flux (names that begin with diffusion_model)"),
    (r"^lora_prior_", "Stable Cascade"),
    (r"motion_modules", "AnimateDiff (motion modules)"),
    (r"lora_te[12]_|text_encoder_2\.|label_emb|add_embedding|transformer_blocks[._][1-9]", "Stable Diffusion XL"),
)


@dataclass
class Sorted:
    """The tensors of a file, sorted.

    Attributes:
        parts: layer of ours -> part ("down", "up", "alpha", "magnitude") -> name in the file.
        unmatched: layers in the file, or whole names, that are none of the model's, each once.
    """

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    unmatched: dict[str, None] = field(default_factory=dict)


def dialect_of(names: Iterable[str], where: str) -> str:
    """The dialect of a file.

    Args:
        names: its tensors.
        where: the file, for messages.

    Raises:
        WeightsError: it is for other models than ours, of another kind, or no LoRA.
    """
    names = list(names)
    found = [words for pattern, words in _KINDS if any(re.search(pattern, name) for name in names)][:1]
    found += [
        f"for {family}, which is not among the models here"
        for pattern, family in _FAMILIES
        if any(re.search(pattern, name) for name in names)
    ][:1]
    if found:
        raise WeightsError(f"{where} is {', and '.join(found)}; give a LoRA for Stable Diffusion 1.x or 2.x")
    if any(_KOHYA_NAME.fullmatch(name) for name in names):
        return KOHYA
    matches = [match for name in names if (match := _DIFFUSERS_NAME.fullmatch(name))]
    if any(name.startswith(_PEFT_ROOT) for name in names):
        return PEFT
    if any(match["letter"] for match in matches):
        return DIFFUSERS
    if any(match["word"] for match in matches):
        return DIFFUSERS_OLD
    shown = ", ".join(repr(name[:80]) for name in names[:3]) or "no tensors at all"
    raise WeightsError(f"{where} is no LoRA of a dialect that is known (kohya, diffusers, peft); it holds {shown}")


def sort_names(names: Iterable[str], dialect: str, layers: Iterable[str], where: str) -> Sorted:
    """Which tensors of a file belong to which layer.

    Args:
        names: its tensors.
        dialect: see `dialect_of`.
        layers: all layers of ours, the component in front.
        where: the file, for messages.

    Raises:
        WeightsError: two tensors are the same part of the same layer.
    """
    known = dict.fromkeys(layers)
    ours = _layers_of_kohya(known) if dialect == KOHYA else {}
    result = Sorted()
    for name in names:
        if (split := _split(name, dialect)) is None:
            result.unmatched[name] = None
            continue
        theirs, part = split
        layer = ours.get(theirs) if dialect == KOHYA else _layer_of_diffusers(theirs, known)
        if layer is None:
            result.unmatched[theirs] = None
            continue
        parts = result.parts.setdefault(layer, {})
        if part in parts:
            raise WeightsError(f"{where}: {parts[part]!r} and {name!r} are both the {part} of {layer}")
        parts[part] = name
    return result


def _split(name: str, dialect: str) -> tuple[str, str] | None:
    """The layer, as the file calls it, and the part; None where it has no such name."""
    if dialect == KOHYA:
        match = _KOHYA_NAME.fullmatch(name)
        return match and (match[1], _KOHYA_PARTS[match[2]])
    match = _DIFFUSERS_NAME.fullmatch(name)
    if match is None:
        return None
    part = _PART_OF_LETTER.get(match["letter"] or "") or match["word"] or match["magnitude"] or match["alpha"]
    return match["layer"].removeprefix(_PEFT_ROOT), part


def _layer_of_diffusers(theirs: str, known: Mapping[str, None]) -> str | None:
    """Our layer for a name of diffusers; files of one network leave the component out."""
    for pattern, replacement in _OLD_LAYERS:
        theirs = pattern.sub(replacement, theirs)
    full = [theirs] if theirs.startswith(("unet.", "text_encoder.")) else [f"unet.{theirs}", f"text_encoder.{theirs}"]
    full += [_TEXT_ROOT + name.removeprefix("text_encoder.") for name in full if name.startswith("text_encoder.")]
    return next((name for name in full if name in known), None)


def _layers_of_kohya(known: Iterable[str]) -> dict[str, str]:
    """kohya's name of each layer, and other names that some files have -> ours."""
    ours = {}
    for layer in known:
        ours[kohya_name(layer)] = layer
        if layer.startswith(_TEXT_ROOT):  # transformers from version 5 on has no text_model inside
            ours[kohya_name("text_encoder." + layer.removeprefix(_TEXT_ROOT))] = layer
    return {**_layers_of_single_file(known), **ours}


def _layers_of_single_file(known: Iterable[str]) -> dict[str, str]:
    """The names of trainers that ran the original U-Net (`lora_unet_input_blocks_1_1_...`) -> ours."""
    layers = [layer for layer in known if layer.startswith("unet.")]
    attends: dict[int, bool] = {}
    resnets: set[str] = set()
    for layer in layers:
        if match := re.match(r"unet\.down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", layer):
            level = int(match[1])
            attends[level] = attends.get(level, False) or match[2] == "attentions"
            if level == 0 and match[2] == "resnets":
                resnets.add(match[3])
    if not attends:
        return {}
    down = tuple("CrossAttnDownBlock2D" if attends[level] else "DownBlock2D" for level in sorted(attends))
    config = UNetConfig(
        block_out_channels=(32,) * len(down),
        down_block_types=down,
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
        layers_per_block=len(resnets),
    )
    places = unet_places(config, replace(SINGLE_FILE_UNET, root=""))
    covered = [layer for layer in layers if any(f"{layer}.".startswith(f"{place}.") for place in places)]
    rules = rules_from(places, [f"{layer}.weight" for layer in covered])
    return {
        _KOHYA_ROOTS["unet"] + _joined(rule.theirs.removesuffix(".weight")): rule.ours[0].removesuffix(".weight")
        for rule in rules
    }


def _joined(path: str) -> str:
    return path.replace(".", "_")


# ---------------------------------------------------------------------------------------------------- for writing


def component_of(layer: str) -> str:
    """The component of a layer of ours.

    Raises:
        WeightsError: it is none that LoRAs change.
    """
    component = layer.partition(".")[0]
    if component not in _KOHYA_ROOTS:
        raise WeightsError(f"{layer}: LoRA files hold changes of unet and text_encoder, named with these in front")
    return component


def kohya_name(layer: str) -> str:
    """kohya's name of a layer of ours: `unet.conv_in` is `lora_unet_conv_in`."""
    return _KOHYA_ROOTS[component_of(layer)] + _joined(layer.partition(".")[2])


def peft_name(layer: str) -> str:
    """The name of a layer of ours in a folder of PEFT, as transformers calls it from version 5 on."""
    return _PEFT_ROOT + short_name(layer)


def short_name(layer: str) -> str:
    """The end of a layer's name that is the same in all versions of transformers; PEFT compares ends of names."""
    return layer.removeprefix(_TEXT_ROOT) if layer.startswith(_TEXT_ROOT) else layer.partition(".")[2]
