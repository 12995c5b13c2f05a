"""Training an upscaler that needs one call, against an adversary that looks at patches (Ledig et al. 2017, "SRGAN").

The network is that of the diffusion model and is called at the last timestep, at which its input is pure noise, so the
upscaler is used in the same way. Both players' losses are added up as in `toile.training.gan_objective`: each takes the
other as constant.

Shapes: B examples, s side of a crop, P patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from toile.diffusion.upscaling import images_of_squares
from toile.models.patch_discriminator import PatchDiscriminator
from toile.models.unet import UNet
from toile.training.known_text_states import KnownTextStates
from toile.training.objective import Loss
from toile.training.spectral_distance import pattern_distance, spectral_distance
from toile.training.upscaling_examples import UpscalingBatch, UpscalingExamples, WholePictures
from toile.training.upscaling_objective import AdversaryConfig, UpscalingObjective, UpscalingObjectiveConfig
from toile.upscaler import Upscaler

_SMALLEST = 1e-6
_DECIBELS = 10 / math.log(10)  # in a neper of power


class UpscalingPlayers(nn.Module):
    """Both networks, as one module to train, save and average."""

    def __init__(self, unet: UNet, config: AdversaryConfig) -> None:
        super().__init__()
        self.unet, self.discriminator = unet, PatchDiscriminator(config.discriminator)


class AdversarialUpscalingObjective(UpscalingObjective):
    """Mean absolute error of pixels and of their differences, and non-saturating losses of both players.

    What the adversary sees in a made picture can be held to what it sees in the true one as well ("feature matching",
    Wang et al. 2018, eq. 4), which is a perceptual loss by a network that nobody else judges with; and its power at
    each fineness to that of the true one, as the mean absolute error is least where detail that cannot be known is
    left out.

    Args:
        upscaler, states, examples: as of `UpscalingObjective`.
        config: with an adversary.
    """

    def __init__(
        self, upscaler: Upscaler, states: KnownTextStates, examples: UpscalingExamples, config: UpscalingObjectiveConfig
    ) -> None:
        super().__init__(upscaler, states, examples, config)
        assert config.adversary is not None
        self.adversary = config.adversary
        self.players = UpscalingPlayers(upscaler.unet, self.adversary)
        self.players.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def module(self) -> nn.Module:
        """Both players."""
        return self.players

    def batch(self, examples: range) -> UpscalingBatch:
        """Crops in shuffled order, all at the last timestep; all draws depend on the example's number alone."""
        last = self.schedule.config.num_train_timesteps - 1
        return self.examples.batch(examples, torch.full((len(examples),), last))

    def loss(self, batch: UpscalingBatch | WholePictures, step: int) -> Loss:
        """The sum of both players' losses; of whole pictures see `picture_loss`.

        Parts: "l1", "gradient", "features", the upscaler's errors; "spectrum", the same in nepers; "loss_upscaler",
        "loss_adversary", in nats; "d_real", "d_fake", the mean probabilities of being real that the adversary gives;
        where there is a penalty, "r1".
        """
        if isinstance(batch, WholePictures):
            return self.picture_loss(batch)
        config, discriminator = self.adversary, self.players.discriminator
        made = self.made(batch)
        error = made - batch.true
        l1 = error.abs().mean()
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        real, seen = discriminator(batch.true, batch.smooth)
        fake, _ = discriminator(made.detach(), batch.smooth)
        real, fake = real.float(), fake.float()
        loss_d = F.softplus(-real).mean() + F.softplus(fake).mean()
        total = l1 + config.gradient_weight * gradient + loss_d
        parts = {"l1": l1, "gradient": gradient, "loss_adversary": loss_d}
        if config.spectrum_weight > 0:
            spectrum = spectral_distance(made, batch.true).mean() / _DECIBELS + pattern_distance(made, batch.true)
            total = total + config.spectrum_weight * spectrum
            parts["spectrum"] = spectrum
        weight = config.weight_at(step)
        if weight > 0:
            constants = {name: value.detach() for name, value in discriminator.named_parameters()}
            scores, seen_in_made = functional_call(discriminator, constants, (made, batch.smooth))
            loss_g = F.softplus(-scores.float()).mean()
            matching = feature_distance(seen_in_made, seen)
            total = total + weight * (loss_g + config.feature_weight * matching)
            parts |= {"loss_upscaler": loss_g, "features": matching}
        parts |= {"d_real": real.sigmoid().mean(), "d_fake": fake.sigmoid().mean()}
        if config.r1_weight > 0 and (step + 1) % config.r1_every == 0:
            r1 = patch_gradient_penalty(discriminator, batch.true, batch.smooth)
            total = total + 0.5 * config.r1_weight * config.r1_every * r1
            parts["r1"] = r1
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def made(self, batch: UpscalingBatch) -> Tensor:
        """What one call makes of a batch: (B, 3, s, s)."""
        # At zero terminal SNR the input is the noise and the velocity the clean difference, with the other sign.
        clean = -self.predict(batch.noise, batch)
        return batch.smooth + images_of_squares(clean, self.upscaler.side) * self.upscaler.config.residual_std


def feature_distance(seen: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of what levels saw, each (B, channels, h, w), as a scalar; `wanted` is constant.

    Each level's is taken in units of what is wanted, so that none counts for more because its numbers are larger.
    """
    distances = []
    for made, true in zip(seen, wanted, strict=True):
        true = true.detach().float()
        distances.append((made.float() - true).abs().mean() / (true.abs().mean() + _SMALLEST))
    return torch.stack(distances).mean()


def patch_gradient_penalty(discriminator: PatchDiscriminator, images: Tensor, given: Tensor) -> Tensor:
    """R1 of a discriminator of patches: the squared length of the gradient of all their scores' sum, for each patch.

    Mescheder et al. 2018, eq. 9, in float32, as rounding would be a good part of gradients of gradients.

    Args:
        images: (B, 3, s, s), true; given: the same shape, what the discriminator sees besides.

    Returns:
        a scalar.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().requires_grad_(True)
        scores, _ = discriminator(images, given)
        [gradient] = torch.autograd.grad(scores.sum(), images, create_graph=True)
        return gradient.square().sum() / scores.numel()
