"""Training an upscaler as a diffusion model, whose network predicts the velocity of the difference it adds.

Shapes: B examples, s side of a crop, C channels of squares, h x w squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toile.diffusion.noise import ImageNoise
from toile.diffusion.schedule import NoiseSchedule
from toile.diffusion.upscaling import UpscalingNetwork, enlarge_smoothly, squares_of
from toile.errors import ToileError
from toile.models.patch_discriminator import PatchDiscriminatorConfig
from toile.models.unet import UNet
from toile.training.known_text_states import KnownTextStates
from toile.training.objective import Loss
from toile.training.placing import brought_to, device_of
from toile.training.spectral_distance import spectral_distance
from toile.training.upscaling_examples import UpscalingBatch, UpscalingExamples, WholePictures
from toile.upscaler import Upscaler

_SAMPLES = 6
_TOGETHER = 8


@dataclass(frozen=True)
class AdversaryConfig:
    """The losses of a network that enlarges in one call, and of its adversary.

    Attributes:
        discriminator: size of the adversary.
        weight: of its loss for the upscaler, beside the mean absolute error, whose weight is 1.
        after, warmup: from this step on, growing over so many steps.
        gradient_weight: of the mean absolute error of differences of neighbouring pixels.
        feature_weight: of the difference between what the adversary sees in made and true pictures, beside its loss for
            the upscaler (Wang et al. 2018, eq. 5).
        spectrum_weight: of the differences in power, of each crop by fineness and of the batch wave by wave, in nepers,
            beside the mean absolute error.
        r1_weight: gamma of the penalty on the adversary's gradient at true pictures (Mescheder et al. 2018, eq. 9),
            for each patch; 0 leaves it out.
        r1_every: the penalty is computed every so many steps and counts so many times as much (Karras et al. 2020,
            app. B).
    """

    discriminator: PatchDiscriminatorConfig = PatchDiscriminatorConfig()
    weight: float = 0.02
    after: int = 100
    warmup: int = 100
    gradient_weight: float = 0.5
    feature_weight: float = 0.0
    spectrum_weight: float = 0.0
    r1_weight: float = 1.0
    r1_every: int = 8

    def __post_init__(self) -> None:
        weights = self.weight, self.gradient_weight, self.feature_weight, self.spectrum_weight, self.r1_weight
        if min(*weights, self.after, self.warmup) < 0 or self.r1_every < 1:
            raise ToileError("adversary: weights, after and warmup must be 0 or more, r1_every at least 1")

    def weight_at(self, step: int) -> float:
        """Of the adversary's loss at a step of the run."""
        if step < self.after:
            return 0.0
        return self.weight * min(1.0, (step - self.after + 1) / max(self.warmup, 1))


@dataclass(frozen=True)
class UpscalingObjectiveConfig:
    """What an upscaler learns from, and how.

    Attributes:
        crop: side of the parts of pictures it learns from, in pixels.
        uncond_share: share of the examples without words.
        adversary: None: the network learns to remove noise of any level; else it learns to enlarge in one call, against
            an adversary.
        held_out_pictures: that are enlarged to judge it.
    """

    crop: int = 96
    uncond_share: float = 0.1
    adversary: AdversaryConfig | None = None
    held_out_pictures: int = 32

    def __post_init__(self) -> None:
        if self.crop < 1 or not 0 <= self.uncond_share <= 1 or self.held_out_pictures < 1:
            raise ToileError("crop and held_out_pictures must be at least 1, uncond_share between 0 and 1")


class UpscalingObjective:
    """Mean squared error of the velocity, at timesteps spread evenly (Salimans & Ho 2022; Saharia et al. 2021).

    Args:
        upscaler: its U-Net learns.
        states: of texts; the text encoder does not learn.
        examples: the pictures, in crops.
    """

    def __init__(
        self, upscaler: Upscaler, states: KnownTextStates, examples: UpscalingExamples, config: UpscalingObjectiveConfig
    ) -> None:
        upscaler.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.upscaler, self.states, self.examples, self.config = upscaler, states, examples, config

    @property
    def module(self) -> nn.Module:
        """The U-Net."""
        return self.upscaler.unet

    @property
    def unet(self) -> UNet:
        """What enlarges."""
        return self.upscaler.unet

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels."""
        return self.upscaler.schedule

    def batch(self, examples: range) -> UpscalingBatch:
        """Crops in shuffled order; all draws depend on the example's number alone."""
        timesteps = self.examples.spread_timesteps(examples, self.schedule.config.num_train_timesteps)
        return self.examples.batch(examples, timesteps)

    def loss(self, batch: UpscalingBatch | WholePictures, step: int) -> Loss:
        """Mean squared error of the velocity; of whole pictures see `picture_loss`."""
        if isinstance(batch, WholePictures):
            return self.picture_loss(batch)
        clean = self.residual(batch.true, batch.smooth)
        x_in = self.schedule.noise_latents(clean, batch.noise, batch.timesteps)
        prediction = self.predict(x_in, batch)
        target = self.schedule.velocity_target(clean, batch.noise, batch.timesteps)
        errors = (prediction - target).square().mean(dim=(1, 2, 3))
        return Loss(errors.mean(), {}, errors.detach())

    def predict(self, x_in: Tensor, batch: UpscalingBatch) -> Tensor:
        """What the network makes of noisy differences (B, C, h, w) of a batch: the same shape, float32."""
        network = UpscalingNetwork(self.unet, squares_of(batch.smooth, self.upscaler.side), batch.levels)
        return network(x_in, batch.timesteps, self.states(batch.token_ids).to(x_in.device)).float()

    def residual(self, true: Tensor, smooth: Tensor) -> Tensor:
        """What is diffused of images (B, 3, s, s): (B, C, h, w) of about unit variance."""
        return squares_of(true - smooth, self.upscaler.side) / self.upscaler.config.residual_std

    def picture_loss(self, batch: WholePictures) -> Loss:
        """How whole enlarged pictures differ from the true ones: their spectra in dB.

        Parts: "l1", "psnr" in dB, pooled; for comparison "smooth_psnr" and "smooth_db" of the same smoothly enlarged.
        """
        made = self.enlarge(batch)
        config = self.upscaler.config
        smooth = enlarge_smoothly(batch.small[..., config.left : config.right], config.height, config.width).clamp(
            -1, 1
        )
        distances = spectral_distance(made, batch.true)
        parts = {
            "l1": (made - batch.true).abs().mean(),
            "psnr": psnr(made, batch.true),
            "smooth_psnr": psnr(smooth, batch.true),
            "smooth_db": spectral_distance(smooth, batch.true).mean(),
        }
        return Loss(distances.mean(), parts, distances)

    @torch.no_grad()
    def enlarge(self, batch: WholePictures) -> Tensor:
        """(B, 3, H, W) in [-1, 1], made with the noise of their seeds."""
        noise = ImageNoise(batch.seeds, self.upscaler.noise_shape)
        return self.upscaler.enlarge(batch.small, self.states(batch.token_ids), noise.draw).clamp(-1, 1)

    def validation_batches(self) -> Iterator[UpscalingBatch | WholePictures]:
        """Whole held-out pictures."""
        yield from self.examples.held_out_pictures(self.config.held_out_pictures, _TOGETHER)

    def samples(self) -> Tensor:
        """Held-out pictures, four images of each: as they come in, smoothly enlarged, as made, and true."""
        [batch] = brought_to(device_of(self.module), list(self.examples.held_out_pictures(_SAMPLES, _SAMPLES)))
        config = self.upscaler.config
        small = batch.small[..., config.left : config.right]
        coarse = nn.functional.interpolate(small, (config.height, config.width), mode="nearest")
        smooth = enlarge_smoothly(small, config.height, config.width)
        return torch.stack([coarse, smooth, self.enlarge(batch), batch.true], dim=1).flatten(0, 1)


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], pooled: a scalar."""
    return 10.0 * torch.log10(4.0 / (made - true).square().mean())
