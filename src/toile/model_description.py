"""The verb describe: what is inside a model, read from configs and file headers; of folders no weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.errors import ToileError
from toile.generation_settings import GenerationSettings, ModelSettings
from toile.model_files.reading import read_model
from toile.model_folder import (
    SCHEDULE_NAME,
    UPSCALER_FOLDER,
    UPSCALER_NAME,
    ModelFacts,
    find_model,
    load_reader,
    ranker_folders,
    read_autoencoder_config,
    read_model_facts,
    read_settings,
)
from toile.models.autoencoders import AutoencoderConfig, build_autoencoder
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.text.tokenizer import Tokenizer
from toile.upscaler import UpscalerConfig
from toile.weights.checkpoint import open_checkpoint
from toile.weights.folder import CONFIG_NAME, build_empty, component_files, ignored_weights, read_config

_DEPTH = 2


@dataclass(frozen=True)
class GroupDescription:
    """A branch of a network, such as `down_blocks.0`: its tensors in the file, their parameters, and one shape."""

    name: str
    tensors: int
    parameters: int
    largest: str
    largest_shape: tuple[int, ...]


@dataclass(frozen=True)
class NetworkDescription:
    """A network: what its file holds, branch by branch; the parameters of the branches add up to `parameters`."""

    name: str
    file: str
    file_bytes: int
    dtypes: tuple[str, ...]
    parameters: int
    groups: tuple[GroupDescription, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class ModelDescription:
    """A model.

    Attributes:
        folder: where it lies; the file, for a model in one.
        parameters: of all networks; the sum of theirs.
        downsampling: picture pixels that one latent position spans in each direction.
        latent_channels: of the autoencoder and the U-Net.
        sigma_min, sigma_max: the schedule's lowest and highest noise level.
        vocabulary: number of token ids.
        longest_prompt: tokens of a prompt that a row holds, start and end not counted.
        phrases: of people that it reads in the words it learnt; 0 if it has no tables of words.
        defaults: the settings for what is not asked for.
        qualities: settings by name, between which people choose instead.
    """

    name: str
    folder: str
    hash: str
    parameters: int
    networks: tuple[NetworkDescription, ...]
    downsampling: int
    latent_channels: int
    schedule: Mapping[str, Any]
    sigma_min: float
    sigma_max: float
    vocabulary: int
    longest_prompt: int
    defaults: GenerationSettings
    qualities: Mapping[str, GenerationSettings]
    phrases: int = 0


def describe_model(model: str | Path) -> ModelDescription:
    """Reads what a model folder or a model's file holds.

    Raises:
        ToileError: a part is missing or damaged, or a file does not hold what its config asks for.
    """
    if Path(model).is_file():
        return _describe_file(Path(model))
    folder = find_model(model)
    facts = read_model_facts(model)
    unet = read_config(folder / "unet" / CONFIG_NAME, UNetConfig)
    vae = read_autoencoder_config(folder / "vae")
    text = read_config(folder / "text_encoder" / CONFIG_NAME, CLIPTextConfig)
    networks = (
        _describe_network(folder, "text_encoder", build_empty(CLIPTextModel, text), asdict(text)),
        _describe_network(folder, "unet", build_empty(UNet, unet), asdict(unet)),
        _describe_network(folder, "vae", build_empty(build_autoencoder, vae), asdict(vae)),
        *_describe_more(folder),
    )
    tokenizer = Tokenizer.load(folder / "tokenizer")
    schedule = NoiseSchedule(read_config(folder / "scheduler" / SCHEDULE_NAME, ScheduleConfig))
    settings, reader = read_settings(folder, unet, vae), load_reader(folder)
    described = _description(facts, str(folder), networks, vae, schedule, tokenizer, settings)
    return described if reader is None else replace(described, phrases=reader.num_phrases)


def _describe_more(folder: Path) -> Iterator[NetworkDescription]:
    """What not every model has: the upscaler, and what chooses among noises."""
    upscaler = folder / UPSCALER_FOLDER
    if upscaler.is_dir():
        unet = read_config(upscaler / "unet" / CONFIG_NAME, UNetConfig)
        use = asdict(read_config(upscaler / UPSCALER_NAME, UpscalerConfig))
        yield _describe_network(folder, f"{UPSCALER_FOLDER}/unet", build_empty(UNet, unet), {**asdict(unet), **use})
    for ranker in ranker_folders(folder):
        config = read_config(ranker / CONFIG_NAME, AttributeClassifierConfig)
        labels = {name: len(config.labels.of(name)) for name in config.labels.attributes}
        shown = {"block_out_channels": config.block_out_channels, "labels": labels, "trained_on": config.trained_on}
        name = str(ranker.relative_to(folder).as_posix())
        yield _describe_network(folder, name, build_empty(AttributeClassifier, config), shown)


def _describe_file(path: Path) -> ModelDescription:
    parts = read_model(path)
    configs = {"text_encoder": asdict(parts.text_encoder), "unet": asdict(parts.unet), "vae": asdict(parts.vae)}
    networks = []
    for name, config in configs.items():
        tensors = parts.tensors[name]
        groups = _groups({tensor: tuple(values.shape) for tensor, values in tensors.items()})
        num_bytes = sum(values.numel() * values.element_size() for values in tensors.values())
        dtypes = _dtype_names(values.dtype for values in tensors.values())
        total = sum(group.parameters for group in groups)
        networks.append(NetworkDescription(name, path.name, num_bytes, dtypes, total, groups, config))
    assert parts.tokenizer is not None
    schedule, facts = NoiseSchedule(parts.schedule), read_model_facts(path)
    return _description(facts, str(path), tuple(networks), parts.vae, schedule, parts.tokenizer, parts.default_settings)


def _description(
    facts: ModelFacts,
    folder: str,
    networks: tuple[NetworkDescription, ...],
    vae: AutoencoderConfig,
    schedule: NoiseSchedule,
    tokenizer: Tokenizer,
    settings: ModelSettings,
) -> ModelDescription:
    return ModelDescription(
        name=facts.name,
        folder=folder,
        hash=facts.hash,
        parameters=sum(network.parameters for network in networks),
        networks=networks,
        downsampling=vae.downsampling,
        latent_channels=vae.latent_channels,
        schedule=asdict(schedule.config),
        sigma_min=float(schedule.sigmas[0]),
        sigma_max=float(schedule.sigmas[-1]),
        vocabulary=tokenizer.vocab_size,
        longest_prompt=tokenizer.max_length - 2,
        defaults=settings.defaults,
        qualities=settings.qualities,
    )


def _describe_network(folder: Path, name: str, empty: nn.Module, config: Mapping[str, Any]) -> NetworkDescription:
    files = component_files(folder / name)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: list[torch.dtype] = []
    ignored = ignored_weights(type(empty.config))
    for path in files:
        checkpoint = open_checkpoint(path)
        shapes |= {tensor: shape for tensor, shape in checkpoint.shapes.items() if tensor not in ignored}
        dtypes += [dtype for tensor, dtype in checkpoint.dtypes.items() if tensor not in ignored]
    expected = sum(parameter.numel() for parameter in empty.parameters())
    groups = _groups(shapes)
    total = sum(group.parameters for group in groups)
    if total != expected:
        raise ToileError(f"{files[0]} holds {total:,} parameters, but {CONFIG_NAME} beside it describes {expected:,}")
    num_bytes = sum(path.stat().st_size for path in files)
    return NetworkDescription(name, files[0].name, num_bytes, _dtype_names(dtypes), total, groups, config)


def _dtype_names(dtypes: Iterable[torch.dtype]) -> tuple[str, ...]:
    return tuple(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))


def _groups(shapes: Mapping[str, tuple[int, ...]]) -> tuple[GroupDescription, ...]:
    members: dict[str, list[str]] = {}
    for tensor in shapes:
        *path, _ = tensor.split(".")
        members.setdefault(".".join(path[:_DEPTH]), []).append(tensor)
    groups = []
    for group, tensors in members.items():
        largest = max(tensors, key=lambda tensor: math.prod(shapes[tensor]))
        parameters = sum(math.prod(shapes[tensor]) for tensor in tensors)
        groups.append(GroupDescription(group, len(tensors), parameters, largest, shapes[largest]))
    return tuple(sorted(groups, key=lambda group: group.name))
