"""Training a text-conditioned U-Net to remove noise from latents, with the text encoder frozen or tuned along.

Shapes: B batch, C x h x w latents, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.data.captions import CaptionWriter
from toile.diffusion.denoiser import Denoiser
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.diffusion.samplers import find_sampler
from toile.diffusion.schedule import NoiseSchedule, start_latents
from toile.errors import ToileError
from toile.models.clip import CLIPTextModel
from toile.models.unet import UNet
from toile.models.vae import VAE
from toile.text.tokenizer import Tokenizer
from toile.training.draws import ShuffledOrder, example_noise, generator, seed_of
from toile.training.objective import Loss
from toile.training.pictures import PictureSet

_SAMPLE_PROMPTS = 16


@dataclass(frozen=True)
class DenoisingObjectiveConfig:
    """How noise, words and timesteps are drawn.

    Attributes:
        uncond_share: share of the examples whose caption is empty, for classifier-free guidance (Ho & Salimans 2022).
        uniform_share: share of the timesteps drawn uniformly; the others are logit-normal (Esser et al. 2024,
            sec. 3.1), which spends more on the middle, where pictures take shape.
        logit_mean, logit_std: of the logit-normal; a mean above 0 leans to more noise.
        train_text_encoder: tune the text encoder along; else it stays as it is.
        sample_guidance, sample_steps: of the pictures drawn while training.
        compile: run the networks through torch.compile (needs a C++ compiler; the first step takes minutes).
    """

    uncond_share: float = 0.1
    uniform_share: float = 0.3
    logit_mean: float = 0.3
    logit_std: float = 1.0
    train_text_encoder: bool = True
    sample_guidance: float = 2.0
    sample_steps: int = 20
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("uncond_share", "uniform_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ToileError(f"{name} {getattr(self, name)}: between 0 and 1")


@dataclass(frozen=True)
class DenoisingBatch:
    """latents, noise: (B, C, h, w); timesteps: (B,) int64 in 0..999; token_ids: (B, L) int64."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    token_ids: Tensor


class TextConditionedUNet(nn.Module):
    """The two networks that learn together, as one module to train, save and average."""

    def __init__(self, unet: UNet, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x_in: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """(B, C, h, w), (B,), (B, L) -> prediction (B, C, h, w)."""
        return self.unet(x_in, timesteps, self.text_encoder(token_ids))


class DenoisingObjective:
    """Mean squared error of the prediction: noise (Ho et al. 2020, eq. 14) or velocity (Salimans & Ho 2022).

    Args:
        networks: what is trained; see `train_text_encoder`.
        vae: only to show samples.
        latents: (N, C, h, w) of every picture of the set.
    """

    def __init__(
        self,
        networks: TextConditionedUNet,
        vae: VAE,
        tokenizer: Tokenizer,
        schedule: NoiseSchedule,
        pictures: PictureSet,
        latents: Tensor,
        config: DenoisingObjectiveConfig,
        seed: int,
        num_validation: int = 1024,
    ) -> None:
        networks.text_encoder.requires_grad_(config.train_text_encoder)
        self.module = networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vae, self.tokenizer, self.schedule = vae, tokenizer, schedule
        self.pictures, self.latents, self.config, self.seed = pictures, latents, config, seed
        self.num_validation = min(num_validation, len(pictures.validation))
        self._writer = CaptionWriter()
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._compiled = torch.compile(self.module, dynamic=False) if config.compile else self.module

    def batch(self, examples: range) -> DenoisingBatch:
        """Latents in shuffled order; caption, noise and timestep of each depend on the example's number alone."""
        positions = self.pictures.train[self._order.positions(examples)]
        captions = [
            self._caption(int(position), example) for position, example in zip(positions, examples, strict=True)
        ]
        return self._assemble(positions, captions, examples, "train")

    def loss(self, batch: DenoisingBatch, step: int) -> Loss:
        """Mean over latents; held out also "low", "middle" and "high", the means of the thirds of the noise range."""
        x_in = self.schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
        if self.schedule.config.prediction_type == "v_prediction":
            target = self.schedule.velocity_target(batch.latents, batch.noise, batch.timesteps)
        else:
            target = batch.noise
        network = self._compiled if self.module.training else self.module
        x_in = x_in.contiguous(memory_format=torch.channels_last)
        prediction = network(x_in, batch.timesteps, batch.token_ids)
        errors = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))
        return Loss(errors.mean(), {} if self.module.training else self._thirds(errors.detach(), batch.timesteps))

    def validation_batches(self) -> Iterator[DenoisingBatch]:
        """Held-out latents with full captions, fixed noise and evenly spread timesteps."""
        for first in range(0, self.num_validation, 64):
            examples = range(first, min(first + 64, self.num_validation))
            positions = self.pictures.validation[examples.start : examples.stop]
            captions = [self._writer.full(self.pictures.records[position]) for position in positions]
            yield self._assemble(positions, captions, examples, "validation")

    def samples(self) -> Tensor:
        """Pictures (16, 3, H, W) for held-out captions on fixed noise."""
        records = [self.pictures.records[position] for position in self.pictures.validation[:_SAMPLE_PROMPTS]]
        captions = [self._writer.full(record) for record in records]
        states = self.module.text_encoder(self.tokenizer.batch([*captions, ""])[0])
        sigmas = self.schedule.sampling_sigmas(self.config.sample_steps)
        shape = tuple(self.latents.shape[1:])
        noise = example_noise(self.seed, "samples", range(len(captions)), shape)
        denoise = ClassifierFreeGuidance(
            Denoiser(self.module.unet, self.schedule), states[-1:], self.config.sample_guidance
        )
        x = start_latents(noise, sigmas[0])
        cond = states[:-1]
        for step in find_sampler("ddim").function(lambda x, s: denoise(x, s, cond), x, sigmas, lambda k: noise):
            x = step.x
        return self.vae.decode_latents(x).float()

    def _caption(self, position: int, example: int) -> str:
        if seed_of(self.seed, "uncond", example) / 2**63 < self.config.uncond_share:
            return ""
        return self._writer.write(self.pictures.records[position], self.seed, example)

    def _assemble(self, positions: np.ndarray, captions: list[str], examples: range, purpose: str) -> DenoisingBatch:
        latents = self.latents[torch.from_numpy(positions)].float()
        noise = example_noise(self.seed, purpose, examples, tuple(latents.shape[1:]))
        if purpose == "train":
            timesteps = torch.stack([self._timestep(example) for example in examples])
        else:
            golden = torch.tensor([example * 0.6180339887498949 % 1.0 for example in examples], dtype=torch.float64)
            timesteps = (golden * self.schedule.config.num_train_timesteps).long()
        return DenoisingBatch(latents, noise, timesteps, self.tokenizer.batch(captions)[0])

    def _timestep(self, example: int) -> Tensor:
        draws = generator(self.seed, "timestep", example)
        uniform, normal = torch.rand(2, generator=draws), torch.randn((), generator=draws)
        middle = torch.sigmoid(self.config.logit_mean + self.config.logit_std * normal)
        place = uniform[1] if uniform[0] < self.config.uniform_share else middle
        last = self.schedule.config.num_train_timesteps - 1
        return (place * (last + 1)).long().clamp(0, last)

    def _thirds(self, errors: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        third = timesteps * 3 // self.schedule.config.num_train_timesteps
        names = enumerate(("low", "middle", "high"))
        return {name: errors[third == k].mean() for k, name in names if bool((third == k).any())}
