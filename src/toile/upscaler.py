"""The second stage of a cascade: a small picture and its words -> a large picture (Ho et al. 2022).

A folder holds it: `unet/`, `scheduler/`, `upscaler.json`.
Shapes: B pictures, H x W large, C channels of squares of p x p pixels, L tokens, D width of text states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.diffusion.denoiser import Denoiser
from toile.diffusion.samplers import find_sampler
from toile.diffusion.samplers.steps import NoiseSource
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig, start_latents
from toile.diffusion.upscaling import UpscalingNetwork, enlarge_smoothly, images_of_squares, squares_of
from toile.errors import ToileError
from toile.model_folder import SCHEDULE_NAME, UPSCALER_NAME, schedule_constants, unet_constants
from toile.models.unet import UNet, UNetConfig
from toile.nn.layers import pack_weights
from toile.weights.folder import load_component, read_config, save_component, write_config
from toile.weights.mapping import FLOAT32_ON_CPU, Placement

_SMALL_NOISE = 2**20  # the number of the draw for the small picture, which no sampler's step takes


@dataclass(frozen=True)
class UpscalerConfig:
    """From which pictures to which, and how.

    Attributes:
        small_width, small_height: of the pictures that come in.
        left, right: from which column up to which they have content; what is beside it is padding, and is cut off.
        width, height: of the pictures that come out.
        residual_std: standard deviation of the difference between true and smoothly enlarged pictures in [-1, 1].
        noise_step: standard deviation of the noise on the small picture from one level to the next.
        noise_level: the level at use, 0 = none.
        steps: calls of the network.
        sampler: see `toile.diffusion.samplers`; with one step all are the same.
        detail: 0 to 2, times what the upscaler adds to the smoothly enlarged picture: 1 is what it learnt, more makes
            up for what networks leave out because they cannot know where it lies.
    """

    small_width: int = 64
    small_height: int = 80
    left: int = 2
    right: int = 62
    width: int = 192
    height: int = 256
    residual_std: float = 1.0
    noise_step: float = 0.01
    noise_level: int = 2
    steps: int = 1
    sampler: str = "ddim"
    detail: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.left < self.right <= self.small_width or min(self.small_height, self.width, self.height) < 1:
            raise ToileError(
                f"upscaler: content from column {self.left} to {self.right} of a picture of "
                f"{self.small_width}x{self.small_height}, enlarged to {self.width}x{self.height}: not possible"
            )
        if not self.residual_std > 0 or not self.noise_step >= 0 or self.noise_level < 0 or self.steps < 1:
            raise ToileError(
                f"upscaler: residual_std {self.residual_std} above 0, noise_step {self.noise_step} and noise_level "
                f"{self.noise_level} 0 or more, steps {self.steps} at least 1"
            )
        if not 0 <= self.detail <= 2:
            raise ToileError(f"upscaler: detail {self.detail}; allowed are values from 0 to 2")
        find_sampler(self.sampler)

    @property
    def small_size(self) -> tuple[int, int]:
        """(width, height) of the pictures that come in."""
        return self.small_width, self.small_height

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the pictures that come out."""
        return self.width, self.height


@dataclass(frozen=True, eq=False)
class Upscaler:
    """Enlarges pictures that a model made, with the words they were made of.

    Attributes:
        unet: sees the noisy difference and the enlarged picture in squares, and is told words and level of noise.
        schedule: the noise levels it was trained with; it predicts v, as differences begin with pure noise.
        config: sizes, and how it is used.

    Raises:
        ToileError: the parts do not fit together.
    """

    unet: UNet
    schedule: NoiseSchedule
    config: UpscalerConfig

    def __post_init__(self) -> None:
        unet, config, side = self.unet.config, self.config, self.side
        if side < 1 or 3 * side**2 != unet.out_channels or unet.in_channels != 2 * unet.out_channels:
            raise ToileError(
                f"upscaler: U-Net of {unet.in_channels} channels in and {unet.out_channels} out; squares of 4x4 pixels "
                "make 96 and 48, of 2x2 pixels 24 and 12"
            )
        if config.width % side or config.height % side:
            raise ToileError(f"upscaler: {config.width}x{config.height} are no multiples of its squares' side, {side}")
        levels = unet.num_class_embeds
        if levels is None or config.noise_level >= levels:
            raise ToileError(
                f"upscaler: noise_level {config.noise_level}, and the U-Net's num_class_embeds is {levels}: it must be "
                "more than any level"
            )

    @classmethod
    def load(cls, folder: Path, placement: Placement = FLOAT32_ON_CPU) -> Upscaler:
        """Reads the folder of an upscaler.

        Raises:
            ToileError: a part is missing, damaged or does not fit.
        """
        folder = Path(folder)
        placement = replace(placement, memory_format=torch.channels_last)
        unet = load_component(folder / "unet", UNet, UNetConfig, placement).eval().requires_grad_(False)
        pack_weights(unet)
        schedule = NoiseSchedule(read_config(folder / "scheduler" / SCHEDULE_NAME, ScheduleConfig))
        return cls(unet, schedule, read_config(folder / UPSCALER_NAME, UpscalerConfig))

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes a folder that `load` reads; weights in `dtype`.

        Raises:
            ToileError: a weight is not finite in `dtype`, or the disk refuses.
        """
        folder = Path(folder)
        save_component(folder / "unet", self.unet, self.unet.config, unet_constants(self.unet.config), dtype)
        write_config(folder / "scheduler" / SCHEDULE_NAME, self.schedule.config, schedule_constants())
        write_config(folder / UPSCALER_NAME, self.config, {})

    @property
    def side(self) -> int:
        """p: pixels that a position of the U-Net's finest level spans in each direction."""
        return math.isqrt(max(self.unet.config.out_channels, 0) // 3)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(C, H / p, W / p) of the noise of a picture."""
        return 3 * self.side**2, self.config.height // self.side, self.config.width // self.side

    def reduce_images(self, images: Tensor) -> Tensor:
        """The way back, of pictures to begin with: (B, 3, H, W) -> (B, 3, small_height, small_width), padded white."""
        config = self.config
        height, width = config.small_height, config.right - config.left
        return self._padded(F.interpolate(images, (height, width), mode="bicubic", antialias=True).clamp(-1, 1), 1.0)

    def reduce_mask(self, mask: Tensor) -> Tensor:
        """The same of a mask (B, 1, H, W), 1 = repaint: 1 wherever a pixel is; what is beside the content is kept."""
        config = self.config
        return self._padded(F.adaptive_max_pool2d(mask, (config.small_height, config.right - config.left)), 0.0)

    def cut_maps(self, maps: Tensor) -> Tensor:
        """Maps over the small pictures, without what lies over their padding, as large pictures show the content alone.

        Args:
            maps: (B, L, h, w).

        Returns:
            (B, L, small_height, right - left).
        """
        whole = F.interpolate(maps, (self.config.small_height, self.config.small_width), mode="bilinear")
        return whole[..., self.config.left : self.config.right]

    def _padded(self, small: Tensor, value: float) -> Tensor:
        return F.pad(small, (self.config.left, self.config.small_width - self.config.right), value=value)

    @torch.no_grad()
    def enlarge(self, images: Tensor, states: Tensor, noise: NoiseSource) -> Tensor:
        """Makes large pictures of small ones.

        Args:
            images: (B, 3, small_height, small_width) in [-1, 1].
            states: (B, L, D) text states of their prompts, of the width that the U-Net reads.
            noise: `noise(k)`, the k-th draw of standard normal noise (B, *noise_shape), for example `ImageNoise.draw`.

        Returns:
            (B, 3, H, W) float32 around [-1, 1], not clamped.

        Raises:
            ToileError: pictures of another size.
        """
        config = self.config
        if images.shape[1:] != (3, config.small_height, config.small_width):
            raise ToileError(
                f"this upscaler enlarges pictures of {config.small_width}x{config.small_height}, given are some of "
                f"{images.shape[-1]}x{images.shape[-2]}"
            )
        weight = self.unet.conv_in.weight
        small = images[..., config.left : config.right].to(weight.device, torch.float32).clamp(-1, 1)
        if config.noise_level:
            drawn = noise(_SMALL_NOISE).flatten(1)[:, : small[0].numel()].view(small.shape)
            small = small + config.noise_level * config.noise_step * drawn.to(small)
        smooth = enlarge_smoothly(small, config.height, config.width)
        level = torch.tensor([config.noise_level], device=weight.device)
        network = UpscalingNetwork(self.unet, squares_of(smooth, self.side), level)
        denoiser = Denoiser(network, self.schedule, weight.dtype)
        cond = states.to(weight.device, weight.dtype)
        sigmas = self.schedule.sampling_sigmas(config.steps)
        x = start_latents(noise(0).to(smooth), sigmas[0])
        sampler = find_sampler(config.sampler).function
        for step in sampler(lambda x, sigma: denoiser(x, sigma, cond), x, sigmas, noise):
            x = step.x
        return smooth + images_of_squares(x, self.side) * (config.residual_std * config.detail)


def is_upscaler(folder: Path) -> bool:
    """Whether a folder holds an upscaler."""
    return (Path(folder) / UPSCALER_NAME).is_file()
