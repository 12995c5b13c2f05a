"""The KL autoencoder: pictures to latents and back (Rombach et al. 2022, sec. 3.1; architecture of Esser et al. 2021).

Shapes: B batch, H x W picture, f = 2 ** (levels - 1) downsampling, h = H / f, w = W / f, C latent channels.
Parameter names are those of diffusers' AutoencoderKL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from toile.device import give_back_freed_memory
from toile.errors import ToileError
from toile.models.bands import normalise_and_convolve, through_levels
from toile.nn.attention import SpatialSelfAttention
from toile.nn.blocks import Downsample, ResnetBlock, Upsample
from toile.nn.layers import Conv2d, GroupNorm

_EPS = 1e-6
_LARGE_MAP = 2**26  # bytes


@dataclass(frozen=True)
class VAEConfig:
    """Size of an autoencoder; field names are the keys of diffusers' config.json.

    Attributes:
        block_out_channels: channels of each level, finest first; every level after the first halves H and W.
        layers_per_block: residual blocks of a level in the encoder (the decoder has one more).
        mid_block_add_attention: self-attention over all positions at the coarsest level.
        scaling_factor: latents = (mean - shift_factor) * scaling_factor, chosen so that latents have unit variance.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    sample_size: int | tuple[int, ...] = 512

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {
            "act_fn",
            "down_block_types",
            "up_block_types",
            "force_upcast",
            "latents_mean",
            "latents_std",
            "use_quant_conv",
            "use_post_quant_conv",
        }
    )

    def __post_init__(self) -> None:
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ToileError(
                f"block_out_channels {self.block_out_channels}: each must be a multiple of norm_num_groups "
                f"({self.norm_num_groups})"
            )
        if self.layers_per_block < 1 or self.latent_channels < 1 or not self.block_out_channels:
            raise ToileError("an autoencoder needs at least one level, one layer and one latent channel")

    @property
    def downsampling(self) -> int:
        """f: how many picture pixels one latent position spans in each direction."""
        return 2 ** (len(self.block_out_channels) - 1)


SD15_VAE = VAEConfig()


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over unscaled latents (Kingma & Welling 2014).

    Attributes:
        mean: (B, C, h, w).
        log_variance: (B, C, h, w), clamped to [-30, 20].
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, for noise of the mean's shape."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian in nats, summed over C, h, w: (B,)."""
        terms = self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        return 0.5 * terms.flatten(1).sum(1)


class _MidBlock(nn.Module):
    def __init__(self, channels: int, *, num_groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, num_groups=num_groups, eps=_EPS) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialSelfAttention(channels, num_groups, _EPS)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


def _resnets(in_channels: int, out_channels: int, num_layers: int, num_groups: int) -> nn.ModuleList:
    widths = [in_channels] + [out_channels] * num_layers
    return nn.ModuleList(
        ResnetBlock(a, b, num_groups=num_groups, eps=_EPS) for a, b in zip(widths, widths[1:], strict=False)
    )


class _DownLevel(nn.Module):
    """Residual blocks, then half the size; the coarsest level keeps its size."""

    def __init__(self, resnets: nn.ModuleList, channels: int, *, last: bool) -> None:
        super().__init__()
        self.resnets = resnets
        self.downsamplers = nn.ModuleList([] if last else [Downsample(channels, pad_end_only=True)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class _UpLevel(nn.Module):
    """Residual blocks, then twice the size; the finest level keeps its size."""

    def __init__(self, resnets: nn.ModuleList, channels: int, *, last: bool) -> None:
        super().__init__()
        self.resnets = resnets
        self.upsamplers = nn.ModuleList([] if last else [Upsample(channels)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> moments (B, 2C, h, w), before `quant_conv`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, width in enumerate(channels):
            resnets = _resnets(channels[max(i - 1, 0)], width, config.layers_per_block, groups)
            self.down_blocks.append(_DownLevel(resnets, width, last=i == len(channels) - 1))
        self.mid_block = _MidBlock(channels[-1], num_groups=groups, attention=config.mid_block_add_attention)
        self.conv_norm_out = GroupNorm(groups, channels[-1], eps=_EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor, in_bands: bool = False) -> Tensor:
        x = self.conv_in(images)
        if in_bands:
            x = through_levels(self.down_blocks, x)
        else:
            for level in self.down_blocks:
                x = level(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(nn.Module):
    """Unscaled latents (B, C, h, w), after `post_quant_conv` -> images (B, 3, H, W), not clamped."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = _MidBlock(channels[0], num_groups=groups, attention=config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList()
        for i, width in enumerate(channels):
            resnets = _resnets(channels[max(i - 1, 0)], width, config.layers_per_block + 1, groups)
            self.up_blocks.append(_UpLevel(resnets, width, last=i == len(channels) - 1))
        self.conv_norm_out = GroupNorm(groups, channels[-1], eps=_EPS)
        self.conv_out = Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, in_bands: bool = False) -> Tensor:
        x = self.mid_block(self.conv_in(latents))
        if in_bands:
            return normalise_and_convolve(self.conv_norm_out, self.conv_out, through_levels(self.up_blocks, x))
        for level in self.up_blocks:
            if x.numel() * x.element_size() >= _LARGE_MAP:  # what smaller maps left free is too small for larger ones
                give_back_freed_memory()
            x = level(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class VAE(nn.Module):
    """Encoder, decoder and the two 1x1 convolutions around the latent space.

    What works `in_bands` gives the same but for rounding, slower, without gradients and in less memory; see
    `toile.models.bands`.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.post_quant_conv.weight.dtype

    def posterior(self, images: Tensor, in_bands: bool = False) -> Posterior:
        """Images (B, 3, H, W) in [-1, 1], H and W multiples of f -> Gaussian over unscaled latents (B, C, h, w)."""
        factor = self.config.downsampling
        if images.shape[-1] % factor or images.shape[-2] % factor:
            raise ToileError(
                f"picture is {images.shape[-1]}x{images.shape[-2]}: width and height must be multiples of {factor}"
            )
        mean, log_variance = self.quant_conv(self.encoder(images, in_bands)).float().chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30.0, 20.0))

    def reconstruct(self, unscaled: Tensor, in_bands: bool = False) -> Tensor:
        """Unscaled latents (B, C, h, w) -> images (B, 3, H, W) around [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(unscaled), in_bands)

    def encode_images(self, images: Tensor, in_bands: bool = False) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w), the posterior's mean, scaled to unit variance."""
        mean = self.posterior(images, in_bands).mean
        return (mean - (self.config.shift_factor or 0.0)) * self.config.scaling_factor

    def decode_latents(self, latents: Tensor, in_bands: bool = False) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped."""
        return self.reconstruct(latents / self.config.scaling_factor + (self.config.shift_factor or 0.0), in_bands)
