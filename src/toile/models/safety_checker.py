"""The safety checker of Stable Diffusion 1.x: a CLIP image tower and the embeddings of seventeen concepts.

A picture is flagged when its embedding is nearer to a concept than that concept's threshold; three further concepts
make the thresholds a little stricter. What the concepts are was never published (Rando et al. 2022 found some out).
Shapes: B pictures, P width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.models.clip import CLIPVisionConfig, CLIPVisionModel

NUM_CONCEPTS, NUM_SPECIAL_CONCEPTS = 17, 3
_STRICTER = 0.01
# The normalisation that CLIP of OpenAI was trained with, for colours from 0 to 1.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


# The published config.json holds every default of the transformers of its time.
_DEFAULTS_OF_TRANSFORMERS = frozenset(
    """add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torchscript typical_p use_bfloat16""".split()
)


@dataclass(frozen=True)
class PublishedVisionConfig(CLIPVisionConfig):
    """An image tower whose config.json may hold much that says nothing about it."""

    IGNORED: ClassVar[frozenset[str]] = CLIPVisionConfig.IGNORED | _DEFAULTS_OF_TRANSFORMERS


@dataclass(frozen=True)
class SafetyCheckerConfig:
    """Size of the image tower; `projection_dim` is P."""

    vision_config: PublishedVisionConfig
    projection_dim: int = 768

    IGNORED: ClassVar[frozenset[str]] = PublishedVisionConfig.IGNORED | {
        "text_config",
        "text_config_dict",
        "vision_config_dict",
        "logit_scale_init_value",
    }


@dataclass(frozen=True)
class SafetyScores:
    """What the checker says of one picture.

    Attributes:
        concepts: for each concept the similarity minus its threshold; above 0 it flags the picture.
        special: the same for the concepts that only make the others stricter.
    """

    concepts: tuple[float, ...]
    special: tuple[float, ...]

    @property
    def flagged(self) -> bool:
        """Whether any concept is above its threshold."""
        return max(self.concepts) > 0

    @property
    def highest(self) -> tuple[int, float]:
        """Number of the concept that is nearest to flagging or flags most, and its score."""
        number = max(range(len(self.concepts)), key=self.concepts.__getitem__)
        return number, self.concepts[number]


class SafetyChecker(nn.Module):
    """Images -> scores; parameter names are those of diffusers' StableDiffusionSafetyChecker."""

    def __init__(self, config: SafetyCheckerConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = CLIPVisionModel(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.concept_embeds = nn.Parameter(torch.ones(NUM_CONCEPTS, config.projection_dim))
        self.special_care_embeds = nn.Parameter(torch.ones(NUM_SPECIAL_CONCEPTS, config.projection_dim))
        self.concept_embeds_weights = nn.Parameter(torch.ones(NUM_CONCEPTS))
        self.special_care_embeds_weights = nn.Parameter(torch.ones(NUM_SPECIAL_CONCEPTS))

    def forward(self, images: Tensor) -> list[SafetyScores]:
        """(B, 3, H, W) in [-1, 1], any size -> B scores."""
        prepared = clip_input(images, self.config.vision_config.height_width)
        prepared = prepared.to(self.visual_projection.weight.dtype)
        embeds = F.normalize(self.visual_projection(self.vision_model.pooled(self.vision_model(prepared))), dim=-1)
        special = _similarity(embeds, self.special_care_embeds) - self.special_care_embeds_weights.float()
        concepts = _similarity(embeds, self.concept_embeds) - self.concept_embeds_weights.float()
        stricter = (special.round(decimals=3) > 0).any(1, keepdim=True) * _STRICTER
        rows = zip((concepts + stricter).round(decimals=3).tolist(), special.round(decimals=3).tolist(), strict=True)
        return [SafetyScores(tuple(of_concepts), tuple(of_special)) for of_concepts, of_special in rows]


def clip_input(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images as CLIP of OpenAI takes them: the shorter side resized, the middle cut out, colours normalised.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        size: (height, width) of the result.

    Returns:
        (B, 3, height, width) float32.
    """
    height, width = images.shape[-2:]
    ratio = max(size[0] / height, size[1] / width)
    resized = F.interpolate(
        images.float(),
        (max(size[0], round(height * ratio)), max(size[1], round(width * ratio))),
        mode="bicubic",
        antialias=True,
    )
    top, left = (resized.shape[-2] - size[0]) // 2, (resized.shape[-1] - size[1]) // 2
    cut = resized[..., top : top + size[0], left : left + size[1]]
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return ((cut.clamp(-1, 1) + 1) / 2 - mean) / std


def _similarity(embeds: Tensor, others: Tensor) -> Tensor:
    """Cosines (B, number of others), float32."""
    return embeds.float() @ F.normalize(others.float(), dim=-1).T


def blurred(image: Tensor) -> Tensor:
    """An image (3, H, W) in which only large areas of colour are left: a sixteenth of the size, enlarged again."""
    height, width = image.shape[-2:]
    small = F.interpolate(image[None], (max(1, height // 16), max(1, width // 16)), mode="area")
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0]
