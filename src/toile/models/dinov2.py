"""DINOv2: a vision transformer that learnt from pictures alone (Oquab et al. 2023), with or without registers.

Parameter names and config keys are those of published checkpoints (transformers' `Dinov2Model` and
`Dinov2WithRegistersModel`). Registers are tokens of no patch, which take what is of no place (Darcet et al. 2023).
Shapes: B pictures, H x W their size, N patches, R registers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.attention import attend

_IGNORED = (
    "apply_layernorm architectures attention_probs_dropout_prob drop_path_rate dtype hidden_dropout_prob "
    "initializer_range layerscale_value model_type out_features out_indices reshape_hidden_states return_dict "
    "stage_names torch_dtype transformers_version"
)


@dataclass(frozen=True)
class Dinov2Config:
    """Size of the network; field names are the keys of transformers' config.json.

    Attributes:
        image_size: side of the pictures the position embeddings are for; others take interpolated ones.
        mlp_ratio: width inside the MLPs in multiples of D.
        num_register_tokens: R; 0 is without.
        use_mask_token: whether the file has the token that stands for hidden patches, which nothing here uses.
        use_swiglu_ffn: gated MLPs, which only the giant one has; not supported.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    qkv_bias: bool = True
    num_register_tokens: int = 0
    use_mask_token: bool = True
    use_swiglu_ffn: bool = False

    IGNORED: ClassVar[frozenset[str]] = frozenset(_IGNORED.split())

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.patch_size) < 1:
            raise ToileError("hidden_size, num_hidden_layers, num_attention_heads and patch_size must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ToileError(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")
        if self.image_size < self.patch_size or self.num_register_tokens < 0:
            raise ToileError(
                f"image_size {self.image_size} must be at least patch_size {self.patch_size}, num_register_tokens "
                f"{self.num_register_tokens} at least 0"
            )
        if self.use_swiglu_ffn or self.hidden_act != "gelu":
            raise ToileError(
                f"DINOv2 with use_swiglu_ffn {self.use_swiglu_ffn}, hidden_act {self.hidden_act!r}: only plain MLPs "
                "with gelu are supported; take the small, base or large network"
            )

    @property
    def grid(self) -> int:
        """Patches along a side of `image_size`."""
        return self.image_size // self.patch_size


class PatchEmbeddings(nn.Module):
    """Squares of the picture to vectors: (B, 3, H, W) -> (B, N, D)."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        patch = config.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2)


class Dinov2Embeddings(nn.Module):
    """Class token, registers and patches, with positions: (B, 3, H, W) -> (B, 1 + R + N, D)."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.use_mask_token or config.num_register_tokens:
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.position_embeddings = nn.Parameter(torch.randn(1, 1 + config.grid**2, dim) * 0.02)
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, dim))
        self.patch_embeddings = PatchEmbeddings(config)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        patches, patch = self.patch_embeddings(images), self.config.patch_size
        tokens = torch.cat([self.cls_token.expand(len(images), 1, -1), patches], dim=1)
        tokens = tokens + self._positions(height // patch, width // patch)
        if not self.config.num_register_tokens:
            return tokens
        return torch.cat([tokens[:, :1], self.register_tokens.expand(len(images), -1, -1), tokens[:, 1:]], dim=1)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, D); those with registers were interpolated with smoothing when they were trained."""
        grid, known = self.config.grid, self.position_embeddings
        if (rows, columns) == (grid, grid):
            return known
        of_patches = known[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)  # (1, D, grid, grid)
        smooth = self.config.num_register_tokens > 0
        resized = F.interpolate(of_patches, (rows, columns), mode="bicubic", align_corners=False, antialias=smooth)
        return torch.cat([known[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class SelfAttention(nn.Module):
    """Queries, keys and values: (B, L, D) -> (B, L, D), heads side by side."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        dim = config.hidden_size
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=config.qkv_bias) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return attend(query, key, value).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """The layer that mixes the heads, under the name it has in the files."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)


class Attention(nn.Module):
    """Self-attention with several heads: (B, L, D) -> the same."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.output = Output(config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.output.dense(self.attention(x))


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al. 2021, "Going deeper with image transformers", eq. 5)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class MLP(nn.Module):
    """Two linear layers with GELU between: (..., D) -> the same."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Dinov2Layer(nn.Module):
    """Attention and MLP, each on normalised input, scaled and added to it."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attention = Attention(config)
        self.layer_scale1, self.layer_scale2 = LayerScale(dim), LayerScale(dim)
        self.mlp = MLP(dim, int(dim * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Dinov2Encoder(nn.Module):
    """The layers one after the other."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Dinov2Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Dinov2Model(nn.Module):
    """Pictures to one state a token."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Dinov2Embeddings(config)
        self.encoder = Dinov2Encoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised states.

        Args:
            images: (B, 3, H, W), normalised as the checkpoint was trained; H and W at least `patch_size`, what is over
                whole patches is left out.

        Returns:
            (B, 1 + R + N, D), class token first.
        """
        patch = self.config.patch_size
        if min(images.shape[-2:]) < patch:
            raise ToileError(f"images of height x width {tuple(images.shape[-2:])} are smaller than a patch of {patch}")
        return self.layernorm(self.encoder(self.embeddings(images)))

    def pooled(self, hidden: Tensor) -> Tensor:
        """(B, 1 + R + N, D) -> (B, D): the normalised state of the class token."""
        return hidden[:, 0]
