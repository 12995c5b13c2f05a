"""A CLIP with what it needs to look at pictures and captions: its tokenizer, and how its pictures are prepared.

Shapes: B pictures or captions, 3 x H x W the size the image tower takes, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toile.data.images import images_from_pixels
from toile.errors import ToileError
from toile.models.clip import CLIPConfig, CLIPModel
from toile.text.tokenizer import Tokenizer
from toile.weights.files import read_json
from toile.weights.folder import load_component

PREPROCESSOR_NAME = "preprocessor_config.json"


@dataclass(frozen=True, eq=False)
class ClipPair:
    """A CLIP with its tokenizer, and the mean and spread of channels in [0, 1] that its pictures are brought to."""

    clip: CLIPModel
    tokenizer: Tokenizer
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def height_width(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.clip.config.vision_config.height_width

    def images(self, pixels: Tensor) -> Tensor:
        """Pixels (B, H, W, 3) uint8 of the tower's size -> what the tower takes, (B, 3, H, W) float32."""
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (self.mean, self.std))
        return ((images_from_pixels(pixels) + 1) / 2 - mean) / std

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (B, H, W, 3) uint8 of the tower's size -> (B, P) of length 1."""
        return self.clip.encode_images(self.images(pixels))

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """B captions -> (B, P) of length 1; words over the tower's length are cut."""
        return self.clip.encode_text(self.tokenizer.batch(captions)[0])


def load_clip_pair(folder: Path) -> ClipPair:
    """Reads a CLIP: `model/clip` of a run of `task = "clip"`, or a folder as published ones are.

    The tokenizer is in the folder itself, in a folder `tokenizer` inside, or in one beside it. Pictures have values in
    [-1, 1], unless preprocessor_config.json says otherwise.

    Raises:
        ToileError: there is no CLIP or no tokenizer, they do not fit, or it is not known how pictures are prepared.
    """
    candidates = (folder, folder / "tokenizer", folder.parent / "tokenizer")
    words = next((place for place in candidates if (place / "vocab.json").is_file()), None)
    if words is None:
        raise ToileError(
            f"the CLIP in {folder} has no tokenizer; put vocab.json and merges.txt into {folder / 'tokenizer'}"
        )
    mean, std = _preparation(folder, published=words == folder)
    clip = load_component(folder, CLIPModel, CLIPConfig)
    tokenizer, text = Tokenizer.load(words), clip.config.text_config
    if tokenizer.vocab_size > text.vocab_size or tokenizer.max_length > text.max_position_embeddings:
        raise ToileError(f"the tokenizer in {words} is larger than the text tower in {folder}; give the CLIP's own")
    return ClipPair(clip.eval().requires_grad_(False), tokenizer, mean, std)


def _preparation(folder: Path, published: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        if published:
            raise ToileError(
                f"the CLIP in {folder} has no {PREPROCESSOR_NAME}, which says how its pictures are prepared"
            )
        return (0.5,) * 3, (0.5,) * 3
    return channel_statistics(path)


def channel_statistics(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the spread of channels in [0, 1] that a preprocessor_config.json brings pictures to.

    Raises:
        ToileError: they are not three numbers each, or a spread is not above 0.
    """
    settings = read_json(path)
    values = tuple(settings.get(name) for name in ("image_mean", "image_std"))
    for value in values:
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
            raise ToileError(f"{path}: image_mean and image_std must be three numbers each; it has {values}")
    mean, std = (tuple(map(float, value)) for value in values if value is not None)
    if min(std) <= 0:
        raise ToileError(f"{path}: image_std {std} must be above 0")
    return mean, std
