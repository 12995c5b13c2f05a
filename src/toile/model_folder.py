"""The folder layout of a model: which component lies where, what other programs expect in it, and its content hash.

`model_index.json`, `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/` are those of diffusers. Optional and
ours are `upscaler/`, `ranker/` and two files: `toile.json` holds the settings that suit the model, `words.json` the
tables by which it reads prompts. The files are no part of the content hash: recipes of pictures hold the settings and
what was read.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.generation_settings import ModelSettings
from toile.model_files.parts import default_settings
from toile.model_files.registry import registered_folder
from toile.models.autoencoders import AUTOENCODERS, KL_AUTOENCODER, Autoencoder, AutoencoderConfig
from toile.models.clip import CLIPTextConfig
from toile.models.pixel_space import PixelSpaceConfig
from toile.models.unet import UNetConfig
from toile.schema import build_config
from toile.text.reader import PromptReader
from toile.text.word_tables import WordTables
from toile.weights.files import file_sha256, read_json, write_json_atomically
from toile.weights.folder import CONFIG_NAME, component_files, load_component, read_config
from toile.weights.mapping import FLOAT32_ON_CPU, Placement

INDEX_NAME = "model_index.json"
SETTINGS_NAME = "toile.json"
WORDS_NAME = "words.json"
UPSCALER_FOLDER, UPSCALER_NAME = "upscaler", "upscaler.json"
RANKER_FOLDER = "ranker"
SCHEDULE_NAME = "scheduler_config.json"
_LAYOUT_VERSION = "0.35.0"  # of diffusers; its pipeline for repainting reads no index without one
PIPELINE_CLASS = "StableDiffusionPipeline"
# These have the same components; what differs is what the program does with them.
_SAME_LAYOUT = (PIPELINE_CLASS, "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
ONE_SHOT_CLASS = "OneShotModel"
BUNDLED_MODEL = "fashion"

_COMPONENT_CLASSES: Mapping[str, tuple[str, str]] = {
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", KL_AUTOENCODER),
}
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class ComponentHashes:
    """SHA-256 of the files of each component that a picture depends on; "" for one that the model does not have."""

    unet: str
    vae: str
    text_encoder: str
    tokenizer: str
    scheduler: str
    upscaler: str = ""
    ranker: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """Which model it is.

    Attributes:
        path: the folder or name as it was given.
        name: the folder's name.
        hash: SHA-256 over all component hashes: equal for equal models wherever they lie.
        components: the component hashes.
    """

    path: str
    name: str
    hash: str
    components: ComponentHashes


def find_model(model: str | Path) -> Path:
    """The folder of a model: the name of the bundled one ("fashion"), a path, or the id of one that was fetched.

    Raises:
        ToileError: it is no model folder.
    """
    folder = Path(model)
    if str(model) == BUNDLED_MODEL:
        folder = Path(__file__).parent / "assets" / BUNDLED_MODEL
    elif not folder.is_dir():
        folder = registered_folder(str(model)) or folder
    if not folder.is_dir():
        raise ToileError(
            f"model {str(model)!r}: there is no folder {folder}; give a model's folder or file, {BUNDLED_MODEL!r}, or "
            "the id of a model that toile models get fetched"
        )
    if not (folder / INDEX_NAME).is_file():
        raise ToileError(f"{folder} is no model folder: it has no {INDEX_NAME}")
    pipeline = read_json(folder / INDEX_NAME).get("_class_name")
    if pipeline == ONE_SHOT_CLASS:
        raise ToileError(f"{folder} holds a baseline, for `toile evaluate` and `toile compare`; it makes no latents")
    if pipeline not in _SAME_LAYOUT:
        raise ToileError(f"{folder} holds a {pipeline}; only models of the {PIPELINE_CLASS} layout can be loaded")
    return folder


def read_model_facts(model: str | Path) -> ModelFacts:
    """Reads every file of a model once to tell exactly which model it is (about a second for 2 GB)."""
    if Path(model).is_file():
        return _facts_of_file(Path(model))
    folder = find_model(model)
    components = ComponentHashes(
        unet=_network_hash(folder / "unet"),
        vae=_network_hash(folder / "vae"),
        text_encoder=_network_hash(folder / "text_encoder"),
        tokenizer=_files_hash([folder / "tokenizer" / name for name in _TOKENIZER_FILES]),
        scheduler=_files_hash([folder / "scheduler" / SCHEDULE_NAME]),
        upscaler=_upscaler_hash(folder / UPSCALER_FOLDER),
        ranker=_ranker_hash(ranker_folders(folder)),
    )
    return ModelFacts(str(model), folder.resolve().name, _hash_of(components), components)


def _facts_of_file(path: Path) -> ModelFacts:
    """A model in one file has one hash for all in it; the tokenizer may lie beside it."""
    digest = file_sha256(path)
    tokenizer = _files_hash([path.parent / "tokenizer" / name for name in _TOKENIZER_FILES])
    components = ComponentHashes(digest, digest, digest, tokenizer, digest)
    return ModelFacts(str(path), path.name, _hash_of(components), components)


def _hash_of(components: ComponentHashes) -> str:
    parts = sorted(dataclasses.asdict(components).items())
    lines = "".join(f"{name} {digest}\n" for name, digest in parts if digest)
    return hashlib.sha256(lines.encode()).hexdigest()


def write_model_index(folder: Path) -> None:
    """Writes model_index.json, which tells diffusers the class of each component that is in the folder.

    diffusers has no class for pixels in place of latents, and says so of such a folder.
    """
    components: dict[str, Any] = {name: list(names) for name, names in _COMPONENT_CLASSES.items()}
    autoencoder = read_json(folder / "vae" / CONFIG_NAME)["_class_name"]
    if autoencoder != KL_AUTOENCODER:
        components["vae"] = ["toile", autoencoder]
    absent = {"feature_extractor": [None, None], "image_encoder": [None, None], "safety_checker": [None, None]}
    head = {"_class_name": PIPELINE_CLASS, "_diffusers_version": _LAYOUT_VERSION}
    entries = {**head, **components, **absent, "requires_safety_checker": False}
    write_json_atomically(folder / INDEX_NAME, entries)


def read_settings(folder: Path, unet: UNetConfig, vae: AutoencoderConfig) -> ModelSettings:
    """The settings in a model folder's toile.json, without classifier guidance if nothing in the folder could lead;
    without the file, those of Stable Diffusion at the U-Net's size.
    """
    path = folder / SETTINGS_NAME
    if not path.is_file():
        return default_settings(unet, vae)
    settings = ModelSettings.from_json(read_json(path), str(path))
    return settings if ranker_folders(folder) and (folder / WORDS_NAME).is_file() else settings.unled()


def load_reader(folder: Path) -> PromptReader | None:
    """The reader of a model's prompts; None if its folder has no tables of words.

    Raises:
        ToileError: the tables are damaged.
    """
    path = folder / WORDS_NAME
    return PromptReader(build_config(WordTables, read_json(path), str(path))) if path.is_file() else None


def ranker_folders(folder: Path) -> tuple[Path, ...]:
    """The classifiers of a model's ranker: `ranker/` is one, or a folder of several; none if there is no ranker.

    Raises:
        ToileError: it is both.
    """
    ranker = folder / RANKER_FOLDER
    if not ranker.is_dir():
        return ()
    inside = tuple(sorted(path for path in ranker.iterdir() if (path / CONFIG_NAME).is_file()))
    if inside and (ranker / CONFIG_NAME).is_file():
        raise ToileError(f"{ranker} is a classifier and has others inside ({inside[0].name}): keep one or the other")
    return inside or (ranker,)


def read_autoencoder_config(folder: Path) -> AutoencoderConfig:
    """The config in the folder of an autoencoder of any kind; one that does not say its kind is a KL autoencoder.

    Raises:
        ToileError: see `toile.weights.folder.read_config`.
    """
    return read_config(folder / CONFIG_NAME, _autoencoder_kind(folder)[1])


def load_autoencoder(folder: Path, placement: Placement = FLOAT32_ON_CPU) -> Autoencoder:
    """Builds an autoencoder of any kind from its folder; see `toile.weights.folder.load_component`."""
    build, config_class = _autoencoder_kind(folder)
    return load_component(folder, build, config_class, placement)


def _autoencoder_kind(folder: Path) -> tuple[Callable[[Any], Autoencoder], type[AutoencoderConfig]]:
    name = read_json(folder / CONFIG_NAME).get("_class_name")
    return AUTOENCODERS[name if isinstance(name, str) and name in AUTOENCODERS else KL_AUTOENCODER]


def unet_constants(config: UNetConfig) -> dict[str, Any]:
    """What diffusers' config.json of a U-Net says besides our fields: the choices that this family never varies."""
    return {
        "_class_name": _COMPONENT_CLASSES["unet"][1],
        "act_fn": "silu",
        "center_input_sample": False,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
    }


def vae_constants(config: AutoencoderConfig) -> dict[str, Any]:
    """The same for an autoencoder; of pixels in place of latents diffusers knows nothing."""
    if isinstance(config, PixelSpaceConfig):
        return {"_class_name": "PixelSpace"}
    levels = len(config.block_out_channels)
    return {
        "_class_name": _COMPONENT_CLASSES["vae"][1],
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "force_upcast": False,
    }


def text_encoder_constants(config: CLIPTextConfig) -> dict[str, Any]:
    """The same for a text encoder, as transformers has it."""
    return {
        "architectures": [_COMPONENT_CLASSES["text_encoder"][1]],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
    }


def schedule_constants() -> dict[str, Any]:
    """The same for the scheduler: DDIM that ends at no noise at all."""
    return {"_class_name": _COMPONENT_CLASSES["scheduler"][1], "set_alpha_to_one": True}


def _network_hash(folder: Path) -> str:
    return _files_hash([folder / CONFIG_NAME, *component_files(folder)])


def _upscaler_hash(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    told = [folder / UPSCALER_NAME, folder / "scheduler" / SCHEDULE_NAME]
    return _files_hash([*told, folder / "unet" / CONFIG_NAME, *component_files(folder / "unet")])


def _ranker_hash(folders: Sequence[Path]) -> str:
    hashes = [_network_hash(folder) for folder in folders]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _files_hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
