"""Reading a model in any layout. Original files (.safetensors, .ckpt) and four-part ones are told by what they hold.

Files that we wrote describe themselves, see `metadata`. For others, the sizes of the networks are told from the tensors
and the rest from the family, see `weights.architecture` and `weights.schedule`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from toile.diffusion.schedule import PREDICTION_TYPES
from toile.errors import ToileError
from toile.model_files.folder import read_folder
from toile.model_files.metadata import Described, decode_metadata
from toile.model_files.parts import FOUR_PARTS, SINGLE_FILE, ModelParts, check_parts, expected_tensors
from toile.model_files.tokenizers import find_tokenizer
from toile.models.vae import VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.weights import architecture
from toile.weights.checkpoint import METADATA_KEY, Checkpoint, open_checkpoint
from toile.weights.files import WeightsError
from toile.weights.four_parts import FOUR_PARTS_UNET, PARTS, four_part_rules
from toile.weights.mapping import Placement
from toile.weights.names import (
    CLIP_ROOT,
    OPEN_CLIP_ROOT,
    SINGLE_FILE_UNET,
    VAE_ROOT,
    Rule,
    from_file,
    single_file_rules,
)
from toile.weights.schedule import SD_SCHEDULE, V_MARK, ZERO_SNR_MARK, infer_schedule

_UNET_ROOT = SINGLE_FILE_UNET.root
_EMA_ROOT = "model_ema."
_NETWORKS = {"unet": "U-Net", "vae": "autoencoder", "text_encoder": "text encoder"}
_LISTED = 10
_VELOCITY_SAMPLE_SIZE = 96  # Stable Diffusion 2.x that predicts velocity was trained on 768 pixels

# A file with such names is something else; the first kind that is found is named.
_OTHER_FAMILIES = (
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.", "FLUX"),
    ("double_blocks.", "FLUX"),
    ("model.diffusion_model.label_emb.", "a model with further conditions, such as unCLIP"),
    ("lora_", "a LoRA, which adds to a model and is none"),
    ("control_model.", "a ControlNet, which steers a model and is none"),
    ("down_blocks.", "the U-Net of a model folder; give the whole folder"),
    ("encoder.down_blocks.", "the autoencoder of a model folder; give the whole folder"),
    ("text_model.", "the text encoder of a model folder; give the whole folder"),
    ("encoder.down.", "an autoencoder alone"),
)
# What a whole model's file may hold besides its three networks.
_KNOWN_EXTRAS = (
    (re.compile(r"model_ema\."), "an averaged copy of the U-Net (model_ema)"),
    (re.compile(r"(betas|.*alphas_cumprod.*|posterior_.*|lvlb_weights|logvar|scale_factor)$"), "the noise schedule"),
    (re.compile(rf"({V_MARK}|{ZERO_SNR_MARK})$"), "marks of what the U-Net predicts"),
    (re.compile(r"first_stage_model\.loss\."), "the loss of the autoencoder's training"),
    (re.compile(r"cond_stage_model\..*position_ids$"), "the numbers of the positions (position_ids)"),
    (
        re.compile(r"cond_stage_model\.(model\.|transformer\.)?(logit_scale|text_projection|attn_mask)"),
        "the projection of CLIP, which pictures do not need",
    ),
)
_OLD_TEXT_NAME = re.compile(rf"{re.escape(CLIP_ROOT)}(?=embeddings\.|encoder\.|final_layer_norm\.)")


def read_model(
    model: str | Path,
    tokenizer: Path | Tokenizer | None = None,
    *,
    placement: Placement | None = None,
    ema: bool = False,
    prediction: str | None = None,
) -> ModelParts:
    """Reads a model in any layout, with a tokenizer.

    Args:
        model: a folder, the name of the bundled model, or a file; what the file holds decides how it is read.
        tokenizer: one, or its folder; where it is not given and the model has none, see `find_tokenizer`.
        placement: where tensors go and in which form; None leaves them on the CPU as the files have them.
        ema: take the averaged copy of the U-Net that original files may hold besides its last state.
        prediction: "epsilon" or "v_prediction", where a person knows better than the file.

    Raises:
        ToileError: a part is missing, damaged, unsafe, or does not fit.
    """
    if prediction is not None and prediction not in PREDICTION_TYPES:
        raise ToileError(f"prediction is {prediction!r}; allowed: {', '.join(PREDICTION_TYPES)}")
    if Path(model).is_file():
        parts = read_model_file(Path(model), placement=placement, ema=ema, prediction=prediction)
    elif ema:
        raise ToileError(f"{model} is no single file, and only those hold a second, averaged copy of the U-Net")
    else:
        parts = read_folder(model, placement)
        if prediction is not None:
            parts = replace(parts, schedule=replace(parts.schedule, prediction_type=prediction))
    if tokenizer is not None:
        given = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(Path(tokenizer))
        return parts.with_tokenizer(given)
    return parts if parts.tokenizer else parts.with_tokenizer(find_tokenizer(Path(model), parts.text_encoder))


def read_model_file(
    path: Path, *, placement: Placement | None = None, ema: bool = False, prediction: str | None = None
) -> ModelParts:
    """Reads a single file or a four-part file; see `read_model`. The tokenizer is None where the file has none."""
    checkpoint = open_checkpoint(path)
    layout = _layout_of(checkpoint)
    names = _current_names(checkpoint.shapes)
    shapes = {name: checkpoint.shapes[given] for name, given in names.items()}
    told = _told(checkpoint, shapes, layout, prediction)
    expected = expected_tensors(told.unet, told.vae, told.text_encoder)
    rules = rules_of(layout, told, expected, open_clip=architecture.is_open_clip(shapes))
    source = _sources(rules, names, ema, path)
    left_out = _left_out(set(names) - {rule.theirs for rule in rules}, ema, told, path)
    loaded = checkpoint.load(source.values(), placement)
    ours = from_file(rules, {theirs: loaded[given] for theirs, given in source.items()})
    tensors = {
        component: {name: ours[f"{component}.{name}"] for name in network} for component, network in expected.items()
    }
    check_parts(expected, tensors, str(path))
    return ModelParts(
        told.unet,
        told.vae,
        told.text_encoder,
        tensors,
        told.schedule,
        told.tokenizer,
        told.settings,
        told.foreign,
        layout,
        left_out,
        told.notes + (("the U-Net is the averaged copy (model_ema)",) if ema else ()),
    )


def describe_model_file(path: Path) -> Described:
    """What `read_model_file` goes by: told by the names and shapes of the tensors, so that no weights need be read.

    Raises:
        ToileError: it is no model of a family that is read, or is damaged.
    """
    checkpoint = open_checkpoint(path)
    shapes = {name: checkpoint.shapes[given] for name, given in _current_names(checkpoint.shapes).items()}
    return _told(checkpoint, shapes, _layout_of(checkpoint), None)


def _told(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], layout: str, prediction: str | None
) -> Described:
    if METADATA_KEY in checkpoint.metadata:
        told = decode_metadata(checkpoint.metadata[METADATA_KEY], f"{checkpoint.path}: metadata")
    else:
        told = _told_by_tensors(checkpoint, shapes, layout, prediction)
    if prediction is not None:
        told = replace(told, schedule=replace(told.schedule, prediction_type=prediction))
    return told


def rules_of(
    layout: str, told: Described | ModelParts, expected: Mapping[str, Mapping[str, Tensor]], *, open_clip: bool
) -> tuple[Rule, ...]:
    """The rules between our names and those of a file of this layout; see `single_file_rules`."""
    names = [f"{component}.{name}" for component, network in expected.items() for name in network]
    if not isinstance(told.vae, VAEConfig):
        raise WeightsError(f"a model that works on pixels has no autoencoder to put into a {layout}; write a folder")
    if layout == FOUR_PARTS:
        return four_part_rules(told.unet, told.vae, told.text_encoder, names)
    return single_file_rules(told.unet, told.vae, told.text_encoder, names, open_clip=open_clip)


def _layout_of(checkpoint: Checkpoint) -> str:
    names = checkpoint.shapes
    for start, family in _OTHER_FAMILIES:
        if any(name.startswith(start) for name in names):
            raise WeightsError(f"{checkpoint.path} is {family}; models of Stable Diffusion 1.x and 2.x can be read")
    if f"{FOUR_PARTS_UNET.root}{FOUR_PARTS_UNET.first}.weight" in names:
        return FOUR_PARTS
    roots = {"unet": (_UNET_ROOT,), "vae": (VAE_ROOT,), "text_encoder": (CLIP_ROOT, OPEN_CLIP_ROOT)}
    absent = [component for component, starts in roots.items() if not any(name.startswith(starts) for name in names)]
    if len(absent) == len(roots):
        some = ", ".join(sorted(names)[:3]) or "none"
        raise WeightsError(
            f"{checkpoint.path} is no model of Stable Diffusion: its tensors are called otherwise ({some}, ...)"
        )
    if absent:
        lacks = " and no ".join(_NETWORKS[component] for component in absent)
        raise WeightsError(f"{checkpoint.path} has no {lacks}; a whole model is needed")
    return SINGLE_FILE


def _current_names(names: Iterable[str]) -> dict[str, str]:
    """Names as the rules have them -> names in the file, in which an old transformers left out `text_model`."""
    return {_OLD_TEXT_NAME.sub(f"{CLIP_ROOT}text_model.", name): name for name in names}


def _told_by_tensors(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], layout: str, prediction: str | None
) -> Described:
    where = str(checkpoint.path)
    if layout == FOUR_PARTS:
        unet = architecture.infer_unet(shapes, FOUR_PARTS_UNET, where)
        vae = architecture.infer_four_part_vae(shapes, where)
        text = architecture.infer_four_part_text(shapes, where)
        note = "the U-Net predicts noise (epsilon): all of Stable Diffusion 1.x does"
        return Described(unet, vae, text, SD_SCHEDULE, None, None, {}, (note,))
    unet = architecture.infer_unet(shapes, SINGLE_FILE_UNET, where)
    vae = _with_scale(architecture.infer_vae(shapes, where), checkpoint)
    text = architecture.infer_text(shapes, where)
    schedule, note = infer_schedule(checkpoint, unet, prediction)
    velocity = schedule.prediction_type == "v_prediction" and text.hidden_act == "gelu"
    if velocity:
        unet = replace(unet, sample_size=_VELOCITY_SAMPLE_SIZE)
    # Other programs overflow float16 in the attention of these models unless they are told so.
    foreign = {"unet": {"upcast_attention": True}} if velocity else {}
    return Described(unet, vae, text, schedule, None, None, foreign, (note,))


def _with_scale(vae: VAEConfig, checkpoint: Checkpoint) -> VAEConfig:
    """The autoencoder with the scale of latents that the file states, where it does."""
    if checkpoint.shapes.get("scale_factor") != ():
        return vae
    scale = float(checkpoint.load(["scale_factor"])["scale_factor"])
    return replace(vae, scaling_factor=float(f"{scale:.6g}"))


def _sources(rules: Sequence[Rule], names: Mapping[str, str], ema: bool, path: Path) -> dict[str, str]:
    """Name of each rule -> name in the file; nothing may be missing."""
    source = {rule.theirs: names.get(rule.theirs) for rule in rules}
    if ema:
        for theirs in source:
            if theirs.startswith(_UNET_ROOT):
                averaged = _EMA_ROOT + theirs.removeprefix("model.").replace(".", "")
                source[theirs] = names.get(averaged)
    missing: dict[str, list[str]] = {}
    for rule in rules:
        if source[rule.theirs] is None:
            missing.setdefault(rule.ours[0].split(".")[0], []).append(rule.theirs)
    if ema and len(missing.get("unet", ())) == sum(rule.ours[0].startswith("unet.") for rule in rules):
        raise WeightsError(
            f"{path} has no averaged copy of the U-Net (model_ema); it is the only one, or was taken out"
        )
    if missing:
        lines = [f"{len(list_)} of the {_NETWORKS[component]}: {_some(list_)}" for component, list_ in missing.items()]
        raise WeightsError(f"{path} lacks tensors: {'; '.join(lines)}")
    return {theirs: given for theirs, given in source.items() if given is not None}


def _left_out(names: Collection[str], ema: bool, told: Described, path: Path) -> tuple[str, ...]:
    """Phrases for the tensors that are no part of the model.

    Raises:
        WeightsError: one lies inside a network, which would then compute something else.
    """
    last_layer = f"{OPEN_CLIP_ROOT}transformer.resblocks.{told.text_encoder.num_hidden_layers}."
    counts: dict[str, int] = {}
    unknown, inside = [], []
    for name in sorted(names):
        phrase = next((phrase for pattern, phrase in _KNOWN_EXTRAS if pattern.match(name)), None)
        if name.startswith(last_layer):
            phrase = "the last layer of OpenCLIP, which Stable Diffusion 2.x does not use"
        if phrase is not None:
            counts[phrase] = counts.get(phrase, 0) + 1
        elif name.startswith((_UNET_ROOT, VAE_ROOT, CLIP_ROOT, OPEN_CLIP_ROOT, *(f"{part}." for part in PARTS))):
            inside.append(name)
        else:
            unknown.append(name)
    if inside:
        raise WeightsError(
            f"{path} holds {len(inside)} tensors that its networks do not have: {_some(inside)}; it may be of another "
            "family"
        )
    if ema and (averaged := _KNOWN_EXTRAS[0][1]) in counts:
        del counts[averaged]
    phrases = [f"{phrase}: {number} tensors" for phrase, number in counts.items()]
    if unknown:
        phrases.append(f"of unknown use: {len(unknown)} tensors ({_some(unknown)})")
    return tuple(phrases)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f", and {more} more" if more > 0 else "")
