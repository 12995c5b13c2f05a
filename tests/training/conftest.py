"""Fixtures of the training tests: small folders of pictures with words, a toy objective, and small real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.training.clip_objective import CLIPObjective, train_tokenizer
from toile.training.denoising_objective import DenoisingObjective, DenoisingObjectiveConfig, TextConditionedUNet
from toile.training.draws import ShuffledOrder, example_noise
from toile.training.objective import Loss, Objective
from toile.training.pictures import DataConfig, PictureSet
from toile.training.placing import brought_to
from toile.training.vae_objective import VAEObjective, VAEObjectiveConfig, narrow_posterior


@pytest.fixture(scope="session")
def pictures(picture_folder: Path) -> PictureSet:
    """The pictures of `picture_folder`, split; do not change it."""
    return PictureSet(DataConfig(width=16, height=16, path=picture_folder))


@dataclass(frozen=True)
class ToyBatch:
    """x: (B, 2, 4, 4); target: (B, 2, 4, 4); examples: their numbers."""

    x: Tensor
    target: Tensor
    examples: range


class ToyNetwork(nn.Module):
    """Two convolutions around a scalar: matrices, vectors and a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * self.scale


class ToyObjective:
    """Learns to blur; the loss of the examples in `poisoned` is not a number, and every batch's numbers are noted."""

    def __init__(self, poisoned: frozenset[int] = frozenset()) -> None:
        torch.manual_seed(0)
        self.module = ToyNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.poisoned = poisoned
        self.seen: list[int] = []
        self.order = ShuffledOrder(10, seed=0)
        self.held_out_of: Callable[[ToyNetwork], float] | None = None

    def batch(self, examples: range) -> ToyBatch:
        positions = self.order.positions(examples)
        self.seen += [int(position) for position in positions]
        x = example_noise(0, "toy", examples, (2, 4, 4)) + torch.from_numpy(positions).float().view(-1, 1, 1, 1) / 10
        return ToyBatch(x, x.mean(dim=(2, 3), keepdim=True).expand_as(x), examples)

    def loss(self, batch: ToyBatch, step: int) -> Loss:
        errors = (self.module(batch.x) - batch.target).square().mean(dim=(1, 2, 3))
        if not self.module.training and self.held_out_of is not None:
            return Loss(torch.tensor(self.held_out_of(self.module)), {})
        if self.module.training and not self.poisoned.isdisjoint(batch.examples):
            errors = errors * float("nan")
        return Loss(errors.mean(), {"largest": errors.detach().max()})

    def validation_batches(self) -> Iterator[ToyBatch]:
        x = example_noise(0, "held out", range(4), (2, 4, 4))
        yield ToyBatch(x, x.mean(dim=(2, 3), keepdim=True).expand_as(x), range(4))

    def samples(self) -> Tensor:
        return self.module(next(self.validation_batches()).x).clamp(-1, 1)


@pytest.fixture
def toy() -> type[ToyObjective]:
    return ToyObjective


class OneDevice(TorchDispatchMode):
    """Refuses what accelerators refuse: work on tensors of two devices, but for copies and for places from a CPU."""

    def __torch_dispatch__(
        self, function: Any, types: object, arguments: Sequence[Any] = (), more: Mapping[str, Any] | None = None
    ) -> Any:
        seen = [value for value in tree_leaves((arguments, more)) if isinstance(value, Tensor) and value.ndim]
        devices = {value.device.type for value in seen}
        may_differ = function in _COPIES or (function in _LOOK_UPS and devices and not seen[0].device.type == "cpu")
        assert may_differ or len(devices) < 2, f"{function} of tensors on {sorted(devices)}"
        return function(*arguments, **(more or {}))


_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_LOOK_UPS = (torch.ops.aten.index.Tensor,)


_torch_autocast = torch.autocast


def _autocast(device_type: str, *arguments: Any, **more: Any) -> AbstractContextManager[object]:
    """That of PyTorch, which there is not for every device."""
    return nullcontext() if device_type == "meta" else _torch_autocast(device_type, *arguments, **more)


def _learns_elsewhere(
    objective: Objective[Any], *companions: nn.Module, step: int = 0, keeps_texts: bool = False
) -> None:
    meta = torch.device("meta")
    for networks in (objective.module, *companions):
        networks.to(meta)
    objective.module.train()
    for part in (objective.batch(range(4)), objective.batch(range(4, 8))):
        batch = brought_to(meta, part)
        if hasattr(part, "token_ids") and keeps_texts:
            batch = replace(batch, token_ids=part.token_ids)
        with pytest.MonkeyPatch.context() as patch, OneDevice():
            patch.setattr(torch, "autocast", _autocast)
            loss = objective.loss(batch, step)
            loss.total.backward()
        assert loss.total.is_meta
    learnt = [weight.grad for weight in objective.module.parameters() if weight.grad is not None]
    assert learnt and all(gradient.is_meta for gradient in learnt)


@pytest.fixture
def learns_elsewhere() -> Callable[..., None]:
    """Checks that an objective computes where its networks lie, on a device that knows shapes only.

    What it takes: the objective, networks besides its module, the step that the loss is told, and whether states of
    texts are looked up, on the CPU. The networks are of no use after it.
    """
    return _learns_elsewhere


VAE_CONFIG = VAEConfig(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False, latent_channels=3
)
UNET_CONFIG = UNetConfig(
    in_channels=3,
    out_channels=3,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=16,
    attention_head_dim=2,
    norm_num_groups=4,
)
SCHEDULE = ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
MAX_LENGTH = 10


# The smallest latent diffusion as a recipe's tables; [loop] and [data] are the tests' own.
_DENOISING: Mapping[str, Mapping[str, Any]] = {
    "": {"task": "denoising", "vae": "vae", "clip": "clip"},
    "model": {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
    },
    "schedule": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "defaults": {"width": 16, "height": 16, "steps": 2, "guidance": 2.0, "sampler": "ddim"},
    "objective": {"sample_steps": 2},
}


def _denoising_recipe(changes: Mapping[str, Any], rest: str) -> str:
    unknown = {name.rpartition(".")[0] for name in changes} - set(_DENOISING)
    assert not unknown, f"no table of the recipe: {unknown}"
    lines = []
    for table, values in _DENOISING.items():
        own = {name.rpartition(".")[2]: value for name, value in changes.items() if name.rpartition(".")[0] == table}
        lines += [f"[{table}]"] if table else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in {**values, **own}.items()]
    return "\n".join([*lines, rest])


@pytest.fixture(scope="session")
def denoising_recipe() -> Callable[[Mapping[str, Any], str], str]:
    """The smallest latent diffusion as TOML: changes by name ("vae", "model.in_channels"), then further tables."""
    return _denoising_recipe


@pytest.fixture(scope="module")
def tokenizer(pictures: PictureSet) -> Tokenizer:
    return train_tokenizer(pictures, 560, MAX_LENGTH, seed=0)


@pytest.fixture(scope="module")
def text_config(tokenizer: Tokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )


@pytest.fixture(scope="module")
def latents(pictures: PictureSet) -> Tensor:
    """Averages of 2x2 pixels stand in for latents: (N, 3, 8, 8) float16."""
    images = pictures.images(np.arange(len(pictures.records)))
    return torch.nn.functional.avg_pool2d(images, 2).to(torch.float16)


@pytest.fixture
def build_vae(pictures: PictureSet) -> Callable[..., VAEObjective]:
    def build(seed: int = 0, **changes: Any) -> VAEObjective:
        torch.manual_seed(0)
        vae = VAE(VAE_CONFIG)
        narrow_posterior(vae)
        return VAEObjective(vae, pictures, VAEObjectiveConfig(**changes), seed)

    return build


@pytest.fixture
def build_clip(pictures: PictureSet, tokenizer: Tokenizer, text_config: CLIPTextConfig) -> Callable[..., CLIPObjective]:
    def build(seed: int = 0) -> CLIPObjective:
        torch.manual_seed(0)
        vision = CLIPVisionConfig(16, 32, 16, 1, 2, image_size=16, patch_size=8)
        return CLIPObjective(CLIPModel(CLIPConfig(text_config, vision, 16)), tokenizer, pictures, seed)

    return build


@pytest.fixture
def build_denoising(
    pictures: PictureSet, tokenizer: Tokenizer, text_config: CLIPTextConfig, latents: Tensor
) -> Callable[..., DenoisingObjective]:
    def build(seed: int = 0, schedule: ScheduleConfig = SCHEDULE, **changes: Any) -> DenoisingObjective:
        torch.manual_seed(0)
        networks = TextConditionedUNet(UNet(UNET_CONFIG), CLIPTextModel(text_config))
        config = DenoisingObjectiveConfig(**changes)
        vae = VAE(VAE_CONFIG).requires_grad_(False)
        return DenoisingObjective(networks, vae, tokenizer, NoiseSchedule(schedule), pictures, latents, config, seed)

    return build
