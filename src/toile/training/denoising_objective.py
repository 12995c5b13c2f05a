"""Training a text-conditioned U-Net to remove noise from latents, with the text encoder frozen or tuned along.

Shapes: B batch, C x h x w latents, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.data.captions import CaptionWriter
from toile.data.records import Record
from toile.diffusion.denoiser import Denoiser
from toile.diffusion.schedule import NoiseSchedule
from toile.errors import ToileError
from toile.models.autoencoders import Autoencoder
from toile.models.clip import CLIPTextModel
from toile.models.unet import UNet
from toile.text.tokenizer import Tokenizer
from toile.training.draws import ShuffledOrder, example_noise, generator, seed_of, spread_places
from toile.training.known_text_states import KnownTextStates
from toile.training.objective import Loss
from toile.training.pictures import PictureSet
from toile.training.placing import device_of
from toile.training.sampling import sample_guided

_SAMPLE_PROMPTS = 16
_FEWEST_HELD_OUT = 64


@dataclass(frozen=True)
class DenoisingObjectiveConfig:
    """How noise, words and timesteps are drawn.

    Attributes:
        uncond_share: share of the examples whose caption is empty, for classifier-free guidance (Ho & Salimans 2022).
        uniform_share: share of the timesteps drawn uniformly; the others are logit-normal (Esser et al. 2024,
            sec. 3.1), which spends more on the middle, where pictures take shape.
        logit_mean, logit_std: of the logit-normal; a mean above 0 leans to more noise.
        train_text_encoder: tune the text encoder along; else it stays as it is.
        min_snr: gamma of the loss weight `min(SNR, gamma)`, in terms of the clean latents (Hang et al. 2023, sec. 3.4),
            which lets easy timesteps count less; 5 is usual, None leaves all alike.
        huber: from this error on, in units of the latents, the loss grows linearly (pseudo-Huber, Charbonnier et al.
            1997), so that odd examples pull less; None = squares.
        noise_offset: spread of a shift of the noise of each channel, 0.05 to 0.1 for darker and brighter pictures.
        sample_prompts: of the pictures drawn while training; none = held-out captions.
        sample_guidance, sample_steps: of these pictures.
        compile: run what learns through torch.compile (needs a C++ compiler; the first step takes minutes).
    """

    uncond_share: float = 0.1
    uniform_share: float = 0.3
    logit_mean: float = 0.3
    logit_std: float = 1.0
    train_text_encoder: bool = True
    min_snr: float | None = None
    huber: float | None = None
    noise_offset: float = 0.0
    sample_prompts: tuple[str, ...] = ()
    sample_guidance: float = 2.0
    sample_steps: int = 20
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("uncond_share", "uniform_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ToileError(f"{name} {getattr(self, name)}: between 0 and 1")
        for name in ("min_snr", "huber"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ToileError(f"{name} {value}: above 0, or left out")
        if not self.noise_offset >= 0:
            raise ToileError(f"noise_offset {self.noise_offset}: 0 or more")


@dataclass(frozen=True)
class DenoisingBatch:
    """latents, noise: (B, C, h, w); timesteps: (B,) int64 in 0..999; token_ids: (B, L) int64."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    token_ids: Tensor


@dataclass(frozen=True)
class MaskedBatch(DenoisingBatch):
    """mask: (B, 1, h, w) float32, how much each position counts, 0 to 1 and nowhere 0 throughout."""

    mask: Tensor


@dataclass(frozen=True)
class MixedBatch:
    """Examples of pictures of several shapes: a batch of each."""

    parts: tuple[DenoisingBatch, ...]


class TextConditionedUNet(nn.Module):
    """The two networks that learn together, as one module to train, save and average.

    States of a text encoder that does not learn are computed once for each text, and kept.
    """

    def __init__(self, unet: UNet, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.known_states = KnownTextStates(text_encoder)

    @property
    def learns_texts(self) -> bool:
        """Whether the text encoder, changes to it or words of its own learn."""
        return any(parameter.requires_grad for parameter in self.text_encoder.parameters())

    def forward(self, x_in: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """(B, C, h, w), (B,), (B, L) -> prediction (B, C, h, w)."""
        return self.unet(self.like_weights(x_in), timesteps, self.states(token_ids))

    def states(self, token_ids: Tensor) -> Tensor:
        """(B, L) on any device -> text states (B, L, D) on that of the U-Net."""
        device = device_of(self.unet)
        if self.learns_texts:
            return self.text_encoder(token_ids.to(device))
        return self.known_states(token_ids).to(device)

    def like_weights(self, x_in: Tensor) -> Tensor:
        """In the precision of the U-Net's weights."""
        return x_in.to(self.unet.conv_in.weight.dtype)


def compile_networks(networks: TextConditionedUNet) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The networks as one compiled graph; where texts do not learn the U-Net alone, as looking up is no computation."""
    both, unet = torch.compile(networks, dynamic=False), torch.compile(networks.unet, dynamic=False)

    def forward(x_in: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        if networks.learns_texts:
            return both(x_in, timesteps, token_ids)
        return unet(networks.like_weights(x_in), timesteps, networks.states(token_ids))

    return forward


class DenoisingObjective:
    """Mean squared error of the prediction: noise (Ho et al. 2020, eq. 14) or velocity (Salimans & Ho 2022).

    With masks the loss of an example is its weighted mean, `sum(w e) / sum(w)`. kohya's `--masked_loss` does not divide
    by the weights, so that a small mask makes a picture count little; here all pictures count alike.

    Pictures of several shapes are drawn as those of one, in one order and each as often as the others. The examples of
    a batch are grouped by shape, and pass the networks one group after another.

    Args:
        networks: what predicts; see `train_text_encoder`.
        vae: only to show samples.
        latents: (N, C, h, w) of every picture of the set; of each shape, where there are several.
        trained: the part of the networks that learns; None for all that is not frozen.
        masks: for each shape (n, 1, h, w) in [0, 1], how much each position counts; None = all alike.
    """

    def __init__(
        self,
        networks: TextConditionedUNet,
        vae: Autoencoder,
        tokenizer: Tokenizer,
        schedule: NoiseSchedule,
        pictures: PictureSet,
        latents: Tensor | tuple[Tensor, ...],
        config: DenoisingObjectiveConfig,
        seed: int,
        num_validation: int = 1024,
        trained: nn.Module | None = None,
        masks: tuple[Tensor, ...] | None = None,
    ) -> None:
        self.networks = networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if trained is None:
            networks.text_encoder.requires_grad_(config.train_text_encoder)
        self.module = self.networks if trained is None else trained
        self.vae, self.tokenizer, self.schedule = vae, tokenizer, schedule
        self.pictures, self.config, self.seed = pictures, config, seed
        self._has_shapes = not isinstance(latents, Tensor)
        self._latents = (latents,) if isinstance(latents, Tensor) else latents
        self._masks = masks
        # Of few pictures each is looked at several times, with other noise.
        self.num_validation = min(num_validation, max(len(pictures.validation), _FEWEST_HELD_OUT))
        self._writer = CaptionWriter()
        self._order = ShuffledOrder(len(pictures.train), seed)
        self._snr = schedule.snr(torch.arange(schedule.config.num_train_timesteps)).float()
        self._is_single = networks.unet.conv_in.weight.dtype == torch.float32
        self._compiled = compile_networks(networks) if config.compile else self.networks

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, h, w) of the latents of a picture of the configured size."""
        if not self._has_shapes:
            return tuple(self._latents[0].shape[1:])
        factor = self.vae.config.downsampling
        return self._latents[0].shape[1], self.pictures.height // factor, self.pictures.width // factor

    def prepare_texts(self) -> None:
        """Has the states of captions that are fixed (not drawn from fields) read from the cache, or stored there."""
        if self.networks.learns_texts:
            return
        records = self.pictures.records
        held_out = [
            self._full_caption(records[position]) for position in self.pictures.validation[: self.num_validation]
        ]
        own = [
            with_trigger(self.pictures.trigger, caption)
            for position in np.unique(self.pictures.train)
            for caption in records[position].captions
        ]
        always = ["", *self.config.sample_prompts, *held_out]
        note = self.networks.known_states.prepare(self.tokenizer.batch(always)[0], self.tokenizer.batch(own)[0])
        self.pictures.tell(note)

    def batch(self, examples: range) -> DenoisingBatch | MixedBatch:
        """Latents in shuffled order; caption, noise and timestep of each depend on the example's number alone."""
        positions = self.pictures.train[self._order.positions(examples)]
        captions = [
            self._caption(int(position), example) for position, example in zip(positions, examples, strict=True)
        ]
        return self._batch_of(positions, captions, examples, "train")

    def loss(self, batch: DenoisingBatch | MixedBatch, step: int) -> Loss:
        """Mean over examples of the mean over latents, weighted as configured.

        Held out also "low", "middle" and "high", the means of the thirds of the noise range.
        """
        of_shapes = batch.parts if isinstance(batch, MixedBatch) else (batch,)
        errors = torch.cat([self._example_errors(part) for part in of_shapes])
        timesteps = torch.cat([part.timesteps for part in of_shapes])
        parts = {} if self.module.training else self._thirds(errors.detach(), timesteps)
        return Loss(errors.mean(), parts, errors.detach())

    def _example_errors(self, batch: DenoisingBatch) -> Tensor:
        """(B,)."""
        x_in = self.schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
        if self.schedule.config.prediction_type == "v_prediction":
            target = self.schedule.velocity_target(batch.latents, batch.noise, batch.timesteps)
        else:
            target = batch.noise
        network = self._compiled if self.module.training else self.networks
        x_in = x_in.contiguous(memory_format=torch.channels_last)
        # Autocast is for weights of single precision; others are used as they are.
        with nullcontext() if self._is_single else torch.autocast(x_in.device.type, enabled=False):
            prediction = network(x_in, batch.timesteps, batch.token_ids)
        errors = self._errors(prediction.float(), target)
        if isinstance(batch, MaskedBatch):
            errors = (errors * batch.mask).mean(dim=(1, 2, 3)) / batch.mask.mean(dim=(1, 2, 3))
        else:
            errors = errors.mean(dim=(1, 2, 3))
        return errors * self._weights(batch.timesteps)

    def _errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        squares = F.mse_loss(prediction, target, reduction="none")
        delta = self.config.huber
        return squares if delta is None else 2 * delta**2 * ((1 + squares / delta**2).sqrt() - 1)

    def _weights(self, timesteps: Tensor) -> Tensor | float:
        """(B,) weights of the errors of what the network predicts that make the loss `min(SNR, gamma)` times the error
        of the clean latents; an error of noise is SNR times that, one of velocity SNR + 1 times.
        """
        if self.config.min_snr is None:
            return 1.0
        snr = self._snr.to(timesteps.device)[timesteps]
        of_prediction = snr + 1 if self.schedule.config.prediction_type == "v_prediction" else snr
        return snr.clamp(max=self.config.min_snr) / of_prediction.clamp_min(torch.finfo(snr.dtype).tiny)

    def validation_batches(self) -> Iterator[DenoisingBatch | MixedBatch]:
        """Held-out latents with full captions, fixed noise and evenly spread timesteps."""
        for first in range(0, self.num_validation, 64):
            examples = range(first, min(first + 64, self.num_validation))
            positions = self.pictures.validation[
                np.arange(examples.start, examples.stop) % len(self.pictures.validation)
            ]
            captions = [self._full_caption(self.pictures.records[position]) for position in positions]
            yield self._batch_of(positions, captions, examples, "validation")

    def samples(self) -> Tensor:
        """Pictures (N, 3, H, W) for the sample prompts, or for up to 16 held-out captions, on fixed noise."""
        records = [self.pictures.records[position] for position in self.pictures.validation[:_SAMPLE_PROMPTS]]
        captions = self.config.sample_prompts or [self._full_caption(record) for record in records]
        noise = example_noise(self.seed, "samples", range(len(captions)), self.sample_shape)
        x = sample_latents(self, captions, noise, self.config.sample_steps, self.config.sample_guidance)
        return self.vae.decode_latents(x.to(self.vae.dtype)).float()

    def _caption(self, position: int, example: int) -> str:
        if seed_of(self.seed, "uncond", example) / 2**63 < self.config.uncond_share:
            return ""
        return with_trigger(
            self.pictures.trigger, self._writer.write(self.pictures.records[position], self.seed, example)
        )

    def _full_caption(self, record: Record) -> str:
        return with_trigger(self.pictures.trigger, self._writer.full(record))

    def _batch_of(
        self, positions: np.ndarray, captions: list[str], examples: range, purpose: str
    ) -> DenoisingBatch | MixedBatch:
        """The pictures at these positions with what `assemble` draws for the examples."""
        if not self._has_shapes:
            return self._batch_of_shape(0, positions, captions, examples, purpose)
        assert self.pictures.places is not None
        shapes, rows = self.pictures.places[positions].T
        parts = []
        for shape in np.unique(shapes):
            own = np.flatnonzero(shapes == shape)
            own_captions, own_examples = [captions[place] for place in own], [examples[place] for place in own]
            parts.append(self._batch_of_shape(shape, rows[own], own_captions, own_examples, purpose))
        return MixedBatch(tuple(parts))

    def _batch_of_shape(
        self, shape: int, rows: np.ndarray, captions: list[str], examples: Sequence[int], purpose: str
    ) -> DenoisingBatch:
        chosen = torch.from_numpy(rows)
        batch = self.assemble(self._latents[shape][chosen].float(), captions, examples, purpose)
        return batch if self._masks is None else MaskedBatch(**vars(batch), mask=self._masks[shape][chosen])

    def assemble(self, latents: Tensor, captions: list[str], examples: Sequence[int], purpose: str) -> DenoisingBatch:
        """Latents (B, C, h, w) float32 and their captions with the noise and the timesteps of these examples.

        Timesteps are drawn as configured, or spread evenly for the purpose "validation"; noise differs by purpose.
        """
        noise = self._noise(purpose, examples, tuple(latents.shape[1:]))
        if self.config.noise_offset and purpose != "validation":
            shifts = self._noise("noise offset", examples, (latents.shape[1], 1, 1))
            noise = noise + self.config.noise_offset * shifts
        if purpose != "validation":
            timesteps = torch.stack([self._timestep(example) for example in examples])
        else:
            golden = torch.tensor(spread_places(examples), dtype=torch.float64)
            timesteps = (golden * self.schedule.config.num_train_timesteps).long()
        return DenoisingBatch(latents, noise, timesteps, self.tokenizer.batch(captions)[0])

    def _noise(self, purpose: str, examples: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        """(B, *shape)."""
        return torch.cat([example_noise(self.seed, purpose, range(one, one + 1), shape) for one in examples])

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


@torch.no_grad()
def sample_latents(
    objective: DenoisingObjective, captions: Sequence[str], noise: Tensor, num_steps: int, guidance: float
) -> Tensor:
    """Latents (N, C, h, w) float32 that the present weights make of N captions and noise, by DDIM."""
    networks, schedule = objective.networks, objective.schedule
    states = networks.states(objective.tokenizer.batch([*captions, ""])[0])
    denoiser = Denoiser(networks.unet, schedule, networks.unet.conv_in.weight.dtype)
    return sample_guided(denoiser, schedule, states, noise.to(states.device), num_steps, guidance, "ddim")


def with_trigger(trigger: str, caption: str) -> str:
    """A caption behind the word that calls up what is learnt."""
    return f"{trigger} {caption}".strip()
