"""Model folders in the layout of diffusers, read into parts and written from them; tensors keep their dtypes."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from toile.diffusion.schedule import ScheduleConfig
from toile.errors import ToileError
from toile.generation_settings import ModelSettings
from toile.model_files.parts import CONFIG_CLASSES, ModelParts, check_parts, expected_tensors
from toile.model_folder import (
    RANKER_FOLDER,
    SCHEDULE_NAME,
    SETTINGS_NAME,
    find_model,
    read_autoencoder_config,
    schedule_constants,
    text_encoder_constants,
    unet_constants,
    vae_constants,
    write_model_index,
)
from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.files import ASIDE_SUFFIX, WeightsError, read_json, save_tensors, write_json_atomically
from toile.weights.folder import (
    CONFIG_NAME,
    WEIGHTS_NAMES,
    component_tensors,
    ignored_weights,
    read_config,
    write_config,
)
from toile.weights.mapping import Placement
from toile.weights.neutral_values import foreign_entries


def read_folder(model: str | Path, placement: Placement | None = None) -> ModelParts:
    """Reads a model folder in the layout of diffusers, of any version and with any of its ways to name weights.

    Args:
        model: the folder, or the name of the bundled model.
        placement: where tensors go and in which form; None leaves them on the CPU as the files have them.

    Raises:
        ToileError: a part is missing, damaged, does not fit, or computes what we do not.
    """
    folder = find_model(model)
    unet = read_config(folder / "unet" / CONFIG_NAME, UNetConfig)
    vae = read_autoencoder_config(folder / "vae")
    text = read_config(folder / "text_encoder" / CONFIG_NAME, CLIPTextConfig)
    expected = expected_tensors(unet, vae, text)
    tensors = {
        component: component_tensors(folder / component, network, ignored_weights(CONFIG_CLASSES[component]), placement)
        for component, network in expected.items()
    }
    check_parts(expected, tensors, str(folder))
    foreign = {
        component: foreign_entries(config_class, read_json(folder / component / CONFIG_NAME))
        for component, config_class in CONFIG_CLASSES.items()
    }
    settings = None
    if (folder / SETTINGS_NAME).is_file():
        path = folder / SETTINGS_NAME
        settings = ModelSettings.from_json(read_json(path), str(path))
        settings = settings.unranked() if (folder / RANKER_FOLDER).is_dir() else settings  # it is no part
    return ModelParts(
        unet,
        vae,
        text,
        tensors,
        read_config(folder / "scheduler" / SCHEDULE_NAME, ScheduleConfig),
        Tokenizer.load(folder / "tokenizer"),
        settings,
        foreign,
    )


def write_folder(parts: ModelParts, folder: Path) -> None:
    """Writes a model folder that we and diffusers read, wholly or not at all; tensors keep their dtypes.

    Args:
        parts: with a tokenizer.
        folder: must not exist; its parent is made if absent.

    Raises:
        WeightsError: the folder exists, or the disk refuses.
        ToileError: there is no tokenizer.
    """
    folder = Path(folder)
    if folder.exists():
        raise WeightsError(f"{folder} exists already; choose another name, or remove it")
    if parts.tokenizer is None:
        raise ToileError("a model folder needs a tokenizer, and none was given")
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}{ASIDE_SUFFIX}")
    constants = {
        "unet": unet_constants(parts.unet),
        "vae": vae_constants(parts.vae),
        "text_encoder": text_encoder_constants(parts.text_encoder),
    }
    configs = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text_encoder}
    try:
        for component, tensors in parts.tensors.items():
            name = WEIGHTS_NAMES[1] if component == "text_encoder" else WEIGHTS_NAMES[0]
            save_tensors(aside / component / name, tensors, {"format": "pt"})
            extra = {**constants[component], **parts.foreign.get(component, {})}
            write_config(aside / component / CONFIG_NAME, configs[component], extra)
        parts.tokenizer.save(aside / "tokenizer")
        write_config(aside / "scheduler" / SCHEDULE_NAME, parts.schedule, schedule_constants())
        if parts.settings is not None:
            write_json_atomically(aside / SETTINGS_NAME, parts.settings.as_json())
        write_model_index(aside)
        os.replace(aside, folder)
    except OSError as error:
        raise WeightsError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
