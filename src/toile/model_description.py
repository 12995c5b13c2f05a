"""The verb describe: what is inside a model folder, read from configs and file headers; no weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.errors import ToileError
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import read_settings
from toile.model_folder import SCHEDULE_NAME, find_model, read_model_facts
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.files import read_header
from toile.weights.folder import CONFIG_NAME, build_empty, find_weights, read_config

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
    """A model folder.

    Attributes:
        parameters: of all networks; the sum of theirs.
        downsampling: picture pixels that one latent position spans in each direction.
        latent_channels: of the autoencoder and the U-Net.
        sigma_min, sigma_max: the schedule's lowest and highest noise level.
        vocabulary: number of token ids.
        longest_prompt: tokens of a prompt that are read, start and end not counted.
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


def describe_model(model: str | Path) -> ModelDescription:
    """Reads what a model folder holds.

    Raises:
        ToileError: a part is missing or damaged, or a file does not hold what its config asks for.
    """
    folder = find_model(model)
    facts = read_model_facts(model)
    unet = read_config(folder / "unet" / CONFIG_NAME, UNetConfig)
    vae = read_config(folder / "vae" / CONFIG_NAME, VAEConfig)
    text = read_config(folder / "text_encoder" / CONFIG_NAME, CLIPTextConfig)
    networks = (
        _describe_network(folder, "text_encoder", build_empty(CLIPTextModel, text), asdict(text)),
        _describe_network(folder, "unet", build_empty(UNet, unet), asdict(unet)),
        _describe_network(folder, "vae", build_empty(VAE, vae), asdict(vae)),
    )
    tokenizer = Tokenizer.load(folder / "tokenizer")
    schedule = NoiseSchedule(read_config(folder / "scheduler" / SCHEDULE_NAME, ScheduleConfig))
    return ModelDescription(
        name=facts.name,
        folder=str(folder),
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
        defaults=read_settings(folder, unet, vae),
    )


def _describe_network(folder: Path, name: str, empty: nn.Module, config: Mapping[str, Any]) -> NetworkDescription:
    path = find_weights(folder / name)
    header = read_header(path)
    shapes = {tensor: info.shape for tensor, info in header.items()}
    expected = sum(parameter.numel() for parameter in empty.parameters())
    groups = _groups(shapes)
    total = sum(group.parameters for group in groups)
    if total != expected:
        raise ToileError(f"{path} holds {total:,} parameters, but {CONFIG_NAME} beside it describes {expected:,}")
    dtypes = tuple(sorted({str(info.dtype).removeprefix("torch.") for info in header.values()}))
    return NetworkDescription(name, path.name, path.stat().st_size, dtypes, total, groups, config)


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
