"""The text-conditioned U-Net of the Stable Diffusion family (Rombach et al. 2022; Ho et al. 2020).

Shapes: B batch, C latent channels, H x W latent size, L words, M their width, D time embedding width.
Parameter names are those of diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.attention import SpatialTransformer, repeat_rows
from toile.nn.blocks import Downsample, ResnetBlock, Upsample
from toile.nn.embeddings import TimestepEmbedding, guidance_features, timestep_features
from toile.nn.layers import Conv2d, GroupNorm


@dataclass(frozen=True)
class UNetConfig:
    """Size of a U-Net; field names are the keys of diffusers' config.json.

    Attributes:
        block_out_channels: channels of each level, finest first.
        down_block_types, up_block_types: "CrossAttn..." where a level has transformers; up is listed coarsest first.
        layers_per_block: residual blocks of a level on the way down (one more on the way up).
        cross_attention_dim: M.
        attention_head_dim: despite the name the number of heads, one for all levels or one per level, as in diffusers.
        num_class_embeds: how many classes the network is told apart, besides time and words; None = it is told none. An
            upscaler's classes are the noise levels of the picture it enlarges (Ho et al. 2022, sec. 4.2).
        time_cond_proj_dim: width of the features of the guidance scale, for a network that is told it and guides
            itself (Meng et al. 2023); None for one that is not.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: tuple[str, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    num_class_embeds: int | None = None
    sample_size: int | tuple[int, ...] | None = 64
    time_cond_proj_dim: int | None = None

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {
            "act_fn",
            "center_input_sample",
            "downsample_padding",
            "dual_cross_attention",
            "flip_sin_to_cos",
            "freq_shift",
            "mid_block_scale_factor",
            "mid_block_type",
            "only_cross_attention",
            "resnet_time_scale_shift",
            "upcast_attention",
        }
    )

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if len(self.down_block_types) != levels or len(self.up_block_types) != levels:
            raise ToileError(
                f"block_out_channels has {levels} levels, down_block_types {len(self.down_block_types)}, "
                f"up_block_types {len(self.up_block_types)}: they must agree"
            )
        known = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
        if unknown := sorted(set(self.down_block_types + self.up_block_types) - known):
            raise ToileError(f"unknown block types {unknown}: known are {sorted(known)}")
        if self.cross_attention != tuple("CrossAttn" in name for name in self.up_block_types[::-1]):
            raise ToileError("a level must have cross-attention on both ways, down and up, or on neither")
        if self.num_class_embeds is not None and self.num_class_embeds < 1:
            raise ToileError(f"num_class_embeds {self.num_class_embeds}: at least 1, or left out")
        if isinstance(self.attention_head_dim, tuple) and len(self.attention_head_dim) != levels:
            raise ToileError(f"attention_head_dim {self.attention_head_dim}: one number, or one for each level")
        if (told := self.time_cond_proj_dim) is not None and (told < 4 or told % 2):
            raise ToileError(f"time_cond_proj_dim {told}: an even number from 4 on, or none")
        for channels, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            if channels % self.norm_num_groups or channels % heads:
                raise ToileError(
                    f"{channels} channels must be a multiple of norm_num_groups ({self.norm_num_groups}) and of "
                    f"the number of heads ({heads})"
                )

    @property
    def cross_attention(self) -> tuple[bool, ...]:
        """Per level, finest first: whether it has transformers."""
        return tuple("CrossAttn" in name for name in self.down_block_types)

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Heads per level, finest first."""
        heads = self.attention_head_dim
        return heads if isinstance(heads, tuple) else (heads,) * len(self.block_out_channels)

    @property
    def guides_itself(self) -> bool:
        """Whether the network is told the guidance scale."""
        return self.time_cond_proj_dim is not None

    @property
    def time_dim(self) -> int:
        """D, four times the finest width."""
        return 4 * self.block_out_channels[0]


SD15_UNET = UNetConfig()


class _Level(nn.Module):
    """Pairs of residual block and transformer at one size."""

    def __init__(self, config: UNetConfig, level: int, in_channels: Sequence[int]) -> None:
        super().__init__()
        width = config.block_out_channels[level]
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, width, config.time_dim, num_groups=config.norm_num_groups, eps=config.norm_eps)
            for channels in in_channels
        )
        self.attentions = nn.ModuleList(
            _transformer(config, level) for _ in in_channels if config.cross_attention[level]
        )

    def layer(self, index: int, x: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        x = self.resnets[index](x, time)
        return self.attentions[index](x, cond) if len(self.attentions) else x


class _DownLevel(_Level):
    """Keeps the result of every layer for the way up, then halves the size (but for the coarsest level)."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        width = config.block_out_channels[level]
        first = config.block_out_channels[max(level - 1, 0)]
        super().__init__(config, level, [first] + [width] * (config.layers_per_block - 1))
        last = level == len(config.block_out_channels) - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width, pad_end_only=False)])

    def forward(self, x: Tensor, time: Tensor, cond: Tensor) -> list[Tensor]:
        skips = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, time, cond)
            skips.append(x)
        for downsample in self.downsamplers:
            skips.append(downsample(skips[-1]))
        return skips


class _UpLevel(_Level):
    """Joins the kept results of the way down, then doubles the size (but for the finest level)."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        widths = config.block_out_channels
        num_layers, coarsest = config.layers_per_block + 1, len(widths) - 1
        inputs = [widths[min(level + 1, coarsest)]] + [widths[level]] * (num_layers - 1)
        skips = [widths[level]] * (num_layers - 1) + [widths[max(level - 1, 0)]]
        super().__init__(config, level, [a + b for a, b in zip(inputs, skips, strict=True)])
        self.upsamplers = nn.ModuleList([Upsample(widths[level])] if level > 0 else [])

    def forward(
        self, x: Tensor, skips: list[Tensor], time: Tensor, cond: Tensor, size: tuple[int, int] | None
    ) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.joined(index, x, skips.pop(), time, cond)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x

    def joined(self, index: int, x: Tensor, skip: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        return self.layer(index, torch.cat([x, repeat_rows(skip, len(x))], dim=1), time, cond)


class _MidBlock(nn.Module):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.attentions = nn.ModuleList([_transformer(config, -1)])
        self.resnets = nn.ModuleList(
            ResnetBlock(width, width, config.time_dim, num_groups=config.norm_num_groups, eps=config.norm_eps)
            for _ in range(2)
        )

    def forward(self, x: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), cond), time)


def _transformer(config: UNetConfig, level: int) -> SpatialTransformer:
    return SpatialTransformer(
        config.block_out_channels[level],
        config.cross_attention_dim,
        config.num_heads[level],
        num_groups=config.norm_num_groups,
        linear_projection=config.use_linear_projection,
    )


class UNet(nn.Module):
    """Noisy latents, a timestep and the words -> the prediction (noise or velocity).

    Latents of any size are accepted; odd sizes are rounded up on the way down and restored on the way up. What comes
    before the first look at the words is computed once for latents that several words are given for.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_dim, config.time_cond_proj_dim)
        classes = config.num_class_embeds
        self.class_embedding = nn.Embedding(classes, config.time_dim) if classes is not None else None
        self.down_blocks = nn.ModuleList(_DownLevel(config, level) for level in range(len(widths)))
        self.mid_block = _MidBlock(config)
        self.up_blocks = nn.ModuleList(_UpLevel(config, level) for level in reversed(range(len(widths))))
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        x_in: Tensor,
        timestep: Tensor,
        cond: Tensor,
        class_labels: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predicts noise or velocity.

        Args:
            x_in: (B, C, H, W) latents of unit variance.
            timestep: (1 or B,) in 0..999; (1,) if G is not 1.
            cond: (G B, L, M) words, or (G B, 2, L, M): the words as keys and as values of cross-attention. Row b of
                the latents goes with the rows b, B + b, ... of the words.
            class_labels: (1 or B,) int64, below `num_class_embeds`; only for networks that are told classes.
            guidance: (1 or B,) scales, for networks that guide themselves; None is 1, no guidance. (In diffusers None
                leaves out the features of the scale, as the network never saw it in training.)

        Returns:
            (G B, C, H, W).

        Raises:
            ToileError: classes are missing, or the network knows none; or it is not told a scale.
        """
        return self.predict(x_in, timestep, cond, class_labels=class_labels, guidance=guidance)[0]

    def predict(
        self,
        x_in: Tensor,
        timestep: Tensor,
        cond: Tensor,
        deep: Tensor | None = None,
        class_labels: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The prediction, and what the last layer worked on besides the result of the first: nearly all of the work.

        Args:
            x_in, timestep, cond, class_labels, guidance: as `forward` takes them.
            deep: what a call with another x_in and timestep returned, to be used again; None = computed.

        Returns:
            (G B, C, H, W) the prediction, and (G B, C', H, W) what was deep, C' channels of the finest level.
        """
        time, first = self._time(timestep, x_in.dtype, class_labels, guidance), self.conv_in(x_in)
        if deep is None:
            deep = self._deep(first, time, cond)
        finest = self._finest_up
        x = finest.joined(len(finest.resnets) - 1, deep, first, time, cond)
        return self.conv_out(self.conv_norm_out(x, silu=True)), deep

    def _deep(self, first: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        skips = [first]
        for down in self.down_blocks:
            skips.extend(down(skips[-1], time, cond))
        x = self.mid_block(skips[-1], time, cond)
        for up in self.up_blocks[:-1]:
            below = len(skips) - (self.config.layers_per_block + 1)
            x = up(x, skips, time, cond, _size_of(skips[below - 1]))
        finest = self._finest_up
        for index in range(len(finest.resnets) - 1):
            x = finest.joined(index, x, skips.pop(), time, cond)
        return x

    @property
    def _finest_up(self) -> _UpLevel:
        finest = self.up_blocks[-1]
        assert isinstance(finest, _UpLevel)
        return finest

    def _time(
        self, timestep: Tensor, dtype: torch.dtype, class_labels: Tensor | None, guidance: Tensor | None
    ) -> Tensor:
        """(1 or B, D); every block takes SiLU of the time first, so it is taken once here."""
        features = timestep_features(timestep, self.config.block_out_channels[0]).to(dtype)
        time = self.time_embedding(features, self._scale(guidance, features))
        if (self.class_embedding is None) != (class_labels is None):
            told = "none were given" if class_labels is None else "some were given"
            raise ToileError(f"this U-Net has num_class_embeds {self.config.num_class_embeds}; of class labels {told}")
        if self.class_embedding is not None:
            time = time + self.class_embedding(class_labels).to(time.dtype)
        return F.silu(time)

    def _scale(self, guidance: Tensor | None, like: Tensor) -> Tensor | None:
        """(1 or B, time_cond_proj_dim), if the network is told the scale."""
        told = self.config.time_cond_proj_dim
        if told is None and guidance is not None:
            raise ToileError("this U-Net is not told a guidance scale: use classifier-free guidance")
        if told is None:
            return None
        scales = like.new_ones(1, dtype=torch.float32) if guidance is None else guidance
        return guidance_features(scales, told).to(like.dtype)


def _size_of(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]
