"""CLIP: a text tower and an image tower whose outputs share one space (Radford et al. 2021, sec. 2).

Shapes: B batch, L tokens, H x W picture, N patches, D width of a tower, P width of the shared space.
Parameter names are those of transformers (`text_model.encoder.layers.0.self_attn.q_proj`), as in published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.attention import attend
from toile.nn.layers import Linear


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with (Hendrycks & Gimpel 2016, sec. 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}
_IGNORED = "architectures attention_dropout dropout dtype initializer_factor initializer_range model_type torch_dtype"


@dataclass(frozen=True)
class CLIPTowerConfig:
    """What both towers have; field names are the keys of transformers' config.json.

    Attributes:
        projection_dim: P; used only where both towers are together.
        hidden_act: "quick_gelu" (OpenAI, Stable Diffusion 1.x) or "gelu" (OpenCLIP, Stable Diffusion 2.x).
    """

    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    IGNORED: ClassVar[frozenset[str]] = frozenset([*_IGNORED.split(), "transformers_version"])

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ToileError(f"hidden_act {self.hidden_act!r} is unknown; allowed: {', '.join(ACTIVATIONS)}")
        if min(self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.num_attention_heads) < 1:
            raise ToileError(
                "hidden_size, intermediate_size, num_hidden_layers, num_attention_heads must be at least 1"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ToileError(f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")


@dataclass(frozen=True)
class CLIPTextConfig(CLIPTowerConfig):
    """Size of a text tower.

    Attributes:
        max_position_embeddings: the largest L.
        eos_token_id: id of <|endoftext|>; 2 marks old files, where it is wrong and the largest id of a row is meant.
    """

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_position_embeddings < 3:
            raise ToileError(
                f"max_position_embeddings {self.max_position_embeddings}: at least 3, for a token and two ends"
            )
        # An end token that never occurs would make every pooled state that of the start token.
        if not 0 <= self.eos_token_id < self.vocab_size:
            raise ToileError(f"eos_token_id {self.eos_token_id} must be an id below vocab_size {self.vocab_size}")


@dataclass(frozen=True)
class CLIPVisionConfig(CLIPTowerConfig):
    """Size of an image tower; `image_size` is the side of a square, or (height, width), a multiple of `patch_size`."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int | tuple[int, int] = 224
    patch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size < 1 or any(side < 1 or side % self.patch_size for side in self.height_width):
            raise ToileError(f"image_size {self.image_size}: sides must be multiples of patch_size {self.patch_size}")

    @property
    def height_width(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def num_patches(self) -> int:
        """N = H / patch_size * W / patch_size."""
        height, width = self.height_width
        return (height // self.patch_size) * (width // self.patch_size)


@dataclass(frozen=True)
class CLIPConfig:
    """A text and an image tower with projections into one space of width P = `projection_dim`."""

    text_config: CLIPTextConfig
    vision_config: CLIPVisionConfig
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592  # ln(1 / 0.07): the temperature the paper starts from

    IGNORED: ClassVar[frozenset[str]] = CLIPTowerConfig.IGNORED | {"text_config_dict", "vision_config_dict"}


CLIP_VIT_L14_TEXT = CLIPTextConfig(768, 3072, 768, num_hidden_layers=12, num_attention_heads=12)
CLIP_VIT_L14_VISION = CLIPVisionConfig(1024, 4096, 768, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
FASHION_TEXT = CLIPTextConfig(192, 768, 192, num_hidden_layers=4, num_attention_heads=6, max_position_embeddings=32)
FASHION_VISION = CLIPVisionConfig(
    192, 768, 192, num_hidden_layers=6, num_attention_heads=6, image_size=(80, 64), patch_size=8
)


class CLIPAttention(nn.Module):
    """Self-attention with several heads; in the text tower a token sees itself and the ones before it."""

    def __init__(self, dim: int, num_heads: int, num_layers: int, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        in_std = (dim * 2 * num_layers) ** -0.5
        self.k_proj, self.v_proj, self.q_proj = (_linear(dim, dim, in_std) for _ in range(3))
        self.out_proj = _linear(dim, dim, dim**-0.5)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); `seen` (B, L, L) bool says for each token which ones it sees instead."""
        query, key, value = self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        if seen is None:
            mixed = attend(query, key, value, causal=self.causal)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, L, D) -> (B, heads, L, D / heads)


class CLIPMLP(nn.Module):
    """Two linear layers with an activation between: (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden_dim: int, num_layers: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = _linear(dim, hidden_dim, (2 * dim) ** -0.5)
        self.fc2 = _linear(hidden_dim, dim, (dim * 2 * num_layers) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class CLIPEncoderLayer(nn.Module):
    """Attention and MLP, each on normalised input and added to it."""

    def __init__(self, config: CLIPTowerConfig, causal: bool) -> None:
        super().__init__()
        dim, num_layers = config.hidden_size, config.num_hidden_layers
        self.self_attn = CLIPAttention(dim, config.num_attention_heads, num_layers, causal)
        self.layer_norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = CLIPMLP(dim, config.intermediate_size, num_layers, config.hidden_act)
        self.layer_norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), seen)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nn.Module):
    """The stack of layers both towers have."""

    def __init__(self, config: CLIPTowerConfig, causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([CLIPEncoderLayer(config, causal) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor, skip_last: int = 0, seen: Tensor | None = None) -> Tensor:
        if not 0 <= skip_last < len(self.layers):
            raise ToileError(f"skip_last {skip_last} must be between 0 and {len(self.layers) - 1}")
        for layer in self.layers[: len(self.layers) - skip_last]:
            x = layer(x, seen)
        return x


class CLIPTextEmbeddings(nn.Module):
    """Token plus position: (B, L) -> (B, L, D).

    Attributes:
        learned: (K, D), what the ids from `vocab_size` on stand for, see `toile.models.learned_words`; mostly None.
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = _embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = _embedding(config.max_position_embeddings, config.hidden_size)
        self.learned: Tensor | None = None

    def forward(self, token_ids: Tensor) -> Tensor:
        length, longest = token_ids.shape[1], self.position_embedding.num_embeddings
        if length > longest:
            raise ToileError(f"{length} tokens were given, this text encoder takes at most {longest}")
        return self._tokens(token_ids) + self.position_embedding.weight[:length]

    def _tokens(self, token_ids: Tensor) -> Tensor:
        if self.learned is None:
            return self.token_embedding(token_ids)
        size = self.token_embedding.num_embeddings
        own = self.token_embedding(token_ids.clamp(max=size - 1))
        added = self.learned.to(own)[(token_ids - size).clamp(min=0)]
        return torch.where((token_ids < size)[..., None], own, added)


class CLIPVisionEmbeddings(nn.Module):
    """A class token and the patches, plus position: (B, 3, H, W) -> (B, 1 + N, D)."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.height_width = config.height_width
        dim, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.patch_embedding = nn.Conv2d(config.num_channels, dim, kernel_size=patch, stride=patch, bias=False)
        nn.init.normal_(self.patch_embedding.weight, std=0.02)
        self.position_embedding = _embedding(1 + config.num_patches, dim)

    def forward(self, images: Tensor) -> Tensor:
        given = tuple(images.shape[-2:])
        if given != self.height_width:
            raise ToileError(f"images of height x width {given} were given, this tower takes {self.height_width}")
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, D, H/p, W/p) -> (B, N, D)
        class_token = self.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding.weight


class CLIPTextTransformer(nn.Module):
    """The text tower itself; `CLIPTextModel` and `CLIPModel` both hold one as `text_model`."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPEncoder(config, causal=True)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, token_ids: Tensor, skip_last: int = 0, hidden: Tensor | None = None) -> Tensor:
        """(B, L) int64 -> (B, L, D)."""
        seen = None if hidden is None else seen_without(hidden)
        return self.final_layer_norm(self.encoder(self.embeddings(token_ids), skip_last, seen))

    def pooled(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """(B, L, D) states -> (B, D): the state of the first end token, which alone has seen the whole text."""
        # Old files call id 2 the end token; there <|endoftext|> is found as the largest id of the vocabulary.
        size = self.embeddings.token_embedding.num_embeddings
        of_vocabulary = token_ids.where(token_ids < size, 0)
        is_end = of_vocabulary if self.eos_token_id == 2 else (token_ids == self.eos_token_id).int()
        return hidden[torch.arange(len(hidden), device=hidden.device), is_end.argmax(dim=-1)]


class CLIPVisionTransformer(nn.Module):
    """The image tower itself; `pre_layrnorm` is spelt as in every published checkpoint."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config, causal=False)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + N, D), not yet normalised."""
        return self.encoder(self.pre_layrnorm(self.embeddings(images)))

    def pooled(self, hidden: Tensor) -> Tensor:
        """(B, 1 + N, D) -> (B, D): the normalised state of the class token."""
        return self.post_layernorm(hidden[:, 0])


class CLIPTextModel(nn.Module):
    """The text encoder of Stable Diffusion: one state a token; `CLIP_VIT_L14_TEXT` is the size of version 1.x."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = CLIPTextTransformer(config)

    def forward(self, token_ids: Tensor, skip_last: int = 0, hidden: Tensor | None = None) -> Tensor:
        """Token ids to states after the final layer norm.

        Args:
            token_ids: (B, L) int64, L <= max_position_embeddings, ids in [0, vocab_size).
            skip_last: layers left out at the end ("clip skip"), 0 .. num_hidden_layers - 1.
            hidden: (B, L) bool, tokens that only themselves see: the others are as if these had said nothing.

        Returns:
            (B, L, D).
        """
        return self.text_model(token_ids, skip_last, hidden)

    def pooled(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """(B, L, D) states of (B, L) `token_ids` -> (B, D): the state of the first end token."""
        return self.text_model.pooled(hidden, token_ids)


class CLIPVisionModel(nn.Module):
    """The image encoder of CLIP: pictures to one state a patch."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = CLIPVisionTransformer(config)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised as the checkpoint was trained -> (B, 1 + N, D), class token first."""
        return self.vision_model(images)

    def pooled(self, hidden: Tensor) -> Tensor:
        """(B, 1 + N, D) -> (B, D): the normalised state of the class token."""
        return self.vision_model.pooled(hidden)


class CLIPModel(nn.Module):
    """Both towers, their projections and the learned temperature (Radford et al. 2021, fig. 3)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        text_dim, vision_dim = config.text_config.hidden_size, config.vision_config.hidden_size
        self.text_model = CLIPTextTransformer(config.text_config)
        self.vision_model = CLIPVisionTransformer(config.vision_config)
        self.visual_projection = _linear(vision_dim, config.projection_dim, vision_dim**-0.5, bias=False)
        self.text_projection = _linear(text_dim, config.projection_dim, text_dim**-0.5, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """(B, L) int64, each row with an end token -> (B, P) of length 1."""
        pooled = self.text_model.pooled(self.text_model(token_ids), token_ids)
        return F.normalize(self.text_projection(pooled), dim=-1)

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised as the checkpoint was trained (ours: [-1, 1]) -> (B, P) of length 1."""
        return F.normalize(self.visual_projection(self.vision_model.pooled(self.vision_model(images))), dim=-1)


def seen_without(hidden: Tensor) -> Tensor:
    """(B, L) bool, hidden tokens -> (B, L, L) bool: each sees itself and those before it that are not hidden."""
    itself = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
    return (~hidden[:, None, :] | itself).tril()


def _linear(in_dim: int, out_dim: int, std: float, bias: bool = True) -> Linear:
    layer = Linear(in_dim, out_dim, bias=bias)
    nn.init.normal_(layer.weight, std=std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _embedding(num_rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(num_rows, dim)
    nn.init.normal_(table.weight, std=0.02)
    return table
