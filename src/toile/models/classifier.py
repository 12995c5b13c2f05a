"""A small residual network that names the attributes of a product picture.

One is the judge of generated pictures, trained on real ones and used for nothing but evaluation; others, which
never judge, look at the latents of pictures and lead to those that show what prompts say, see `toile.ranker`.
Shapes: B pictures, C channels and H x W size of what is looked at (3 and their size, for pictures), F = `feature_dim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.blocks import ResnetBlock

ARTICLE_TYPE, BASE_COLOUR = "article_type", "base_colour"
# Each attribute with the field of a product record that holds its label.
FIELDS: Mapping[str, str] = {
    ARTICLE_TYPE: "articleType",
    BASE_COLOUR: "baseColour",
    "gender": "gender",
    "usage": "usage",
    "pattern": "pattern",
}
MISSING = -1
PICTURE_CHANNELS = 3
_EPS = 1e-5


@dataclass(frozen=True)
class AttributeLabels:
    """The labels the classifier tells apart, in the order of its outputs; none where it does not judge an attribute.

    `article_type` has one more output after the last label, for all other types. Labels of the other attributes that
    are not listed count as missing.
    """

    article_type: tuple[str, ...] = ()
    base_colour: tuple[str, ...] = ()
    gender: tuple[str, ...] = ()
    usage: tuple[str, ...] = ()
    pattern: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for attribute in FIELDS:
            labels = self.of(attribute)
            if len(set(labels)) != len(labels):
                raise ToileError(f"{attribute} has a label twice: {', '.join(labels)}")

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that have labels."""
        return tuple(attribute for attribute in FIELDS if self.of(attribute))

    def of(self, attribute: str) -> tuple[str, ...]:
        """The labels of one of `FIELDS`."""
        labels: tuple[str, ...] = getattr(self, attribute)
        return labels

    def num_classes(self, attribute: str) -> int:
        """How many outputs an attribute has."""
        return len(self.of(attribute)) + (attribute == ARTICLE_TYPE)

    def target(self, attribute: str, fields: Mapping[str, str]) -> int:
        """The output that a record's label belongs to, or `MISSING`."""
        label = fields.get(FIELDS[attribute])
        if label is None:
            return MISSING
        if label in self.of(attribute):
            return self.of(attribute).index(label)
        return len(self.article_type) if attribute == ARTICLE_TYPE else MISSING


@dataclass(frozen=True)
class AttributeClassifierConfig:
    """Size and labels of a classifier.

    Attributes:
        block_out_channels: channels of each level, every one half the size of the one before. The last is F, the number
            of features.
        norm_num_groups: groups of every GroupNorm.
        in_channels: C; 3 for pictures, those of an autoencoder for latents.
        conv_in_stride: 2 for a first level of half the size of what is looked at, 1 for one of its size.
        labels: what the heads tell apart; found in the training pictures when a recipe leaves them out.
        trained_on: identity of the data and the split whose training side taught this classifier.
    """

    block_out_channels: tuple[int, ...] = (24, 64, 128, 256)
    norm_num_groups: int = 8
    labels: AttributeLabels = field(default_factory=AttributeLabels)
    trained_on: str = ""
    in_channels: int = PICTURE_CHANNELS
    conv_in_stride: int = 2

    def __post_init__(self) -> None:
        widths = self.block_out_channels
        if not widths or any(width < 1 or width % self.norm_num_groups for width in widths):
            raise ToileError(f"block_out_channels {widths}: multiples of norm_num_groups ({self.norm_num_groups})")
        if self.in_channels < 1 or self.conv_in_stride not in (1, 2):
            raise ToileError(
                f"in_channels {self.in_channels} must be at least 1, conv_in_stride {self.conv_in_stride} 1 or 2"
            )

    @property
    def feature_dim(self) -> int:
        """F, the width of the features that the heads see."""
        return self.block_out_channels[-1]


class AttributeClassifier(nn.Module):
    """Convolution, one residual block a level, mean over positions, one linear head an attribute.

    The default size has 1.2 M parameters and costs 0.13 GFLOP for a 64x80 picture. Groups instead of batches are
    normalised, so a picture's features do not depend on the others in its batch.

    Raises:
        ToileError: article types have no labels; it may leave out the other attributes.
    """

    def __init__(self, config: AttributeClassifierConfig) -> None:
        super().__init__()
        if not config.labels.of(ARTICLE_TYPE):
            raise ToileError(f"the classifier's config has no labels for {ARTICLE_TYPE}")
        self.config = config
        self.attributes = config.labels.attributes
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, stride=config.conv_in_stride, padding=1)
        self.levels = nn.ModuleList(
            ResnetBlock(widths[max(i - 1, 0)], width, num_groups=groups, eps=_EPS) for i, width in enumerate(widths)
        )
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.heads = nn.ModuleDict(
            {attribute: nn.Linear(widths[-1], config.labels.num_classes(attribute)) for attribute in self.attributes}
        )

    def features(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], or scaled latents (B, C, H, W) -> (B, F), what the heads see."""
        x = self.conv_in(inputs)
        for index, level in enumerate(self.levels):
            x = level(F.avg_pool2d(x, 2) if index else x)
        return F.silu(self.norm_out(x)).mean(dim=(2, 3))

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """Features (B, F) -> for each of `attributes` (B, classes)."""
        return {attribute: self.heads[attribute](features) for attribute in self.attributes}

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [-1, 1], or scaled latents (B, C, H, W) -> for each of `attributes` (B, classes)."""
        return self.logits(self.features(inputs))

    def targets(self, records: list[Mapping[str, str]]) -> Tensor:
        """The outputs that the fields of B records belong to: (B, attributes) int64, `MISSING` where unknown."""
        labels = self.config.labels
        rows = [[labels.target(attribute, fields) for attribute in self.attributes] for fields in records]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, len(self.attributes))
