"""How well captions match their pictures, in the opinion of a CLIP that was given for it.

Shapes: B pictures, 3 x H x W the size the image tower takes, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toile.data.images import images_from_pixels, open_image, pad_to, pixels_of
from toile.data.records import Source
from toile.errors import ToileError
from toile.models.clip import CLIPConfig, CLIPModel
from toile.text.tokenizer import Tokenizer
from toile.weights.files import read_json
from toile.weights.folder import load_component

PREPROCESSOR_NAME = "preprocessor_config.json"
_BATCH_SIZE = 64


@dataclass(frozen=True, eq=False)
class Matcher:
    """A CLIP with its tokenizer, and the mean and spread of channels in [0, 1] that its pictures are brought to."""

    clip: CLIPModel
    tokenizer: Tokenizer
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_matcher(folder: Path) -> Matcher:
    """Reads a CLIP: `model/clip` of a run of `task = "clip"`, or a folder as published ones are.

    The tokenizer is in the folder itself, in a folder `tokenizer` inside, or in one beside it. Pictures have values in
    [-1, 1], unless preprocessor_config.json says otherwise.

    Raises:
        ToileError: there is no CLIP or no tokenizer, they do not fit, or it is not known how pictures are prepared.
    """
    candidates = (folder, folder / "tokenizer", folder.parent / "tokenizer")
    words = next((place for place in candidates if (place / "vocab.json").is_file()), None)
    if words is None:
        raise ToileError(f"--clip {folder} has no tokenizer; put vocab.json and merges.txt into {folder / 'tokenizer'}")
    mean, std = _preparation(folder, published=words == folder)
    clip = load_component(folder, CLIPModel, CLIPConfig)
    tokenizer, text = Tokenizer.load(words), clip.config.text_config
    if tokenizer.vocab_size > text.vocab_size or tokenizer.max_length > text.max_position_embeddings:
        raise ToileError(f"the tokenizer in {words} is larger than the text tower in {folder}; give the CLIP's own")
    return Matcher(clip.eval().requires_grad_(False), tokenizer, mean, std)


def _preparation(folder: Path, published: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        if published:
            raise ToileError(f"--clip {folder} has no {PREPROCESSOR_NAME}, which says how its pictures are prepared")
        return (0.5,) * 3, (0.5,) * 3
    settings = read_json(path)
    values = tuple(settings.get(name) for name in ("image_mean", "image_std"))
    for value in values:
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
            raise ToileError(f"{path}: image_mean and image_std must be three numbers each; it has {values}")
    mean, std = (tuple(map(float, value)) for value in values if value is not None)
    if min(std) <= 0:
        raise ToileError(f"{path}: image_std {std} must be above 0")
    return mean, std


@torch.no_grad()
def similarities(
    matcher: Matcher, source: Source, indices: Sequence[int], captions: Sequence[str]
) -> Iterator[float | np.ndarray]:
    """The cosine of each picture's and its caption's place in the shared space; yields the share done, then all.

    Args:
        indices: positions in the source of N pictures that can be read; each is padded to the tower's size with white.
        captions: N, one for each.

    Yields:
        shares, and at last (N,) float32 from -1 to 1.
    """
    height, width = matcher.clip.config.vision_config.height_width
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (matcher.mean, matcher.std))
    found: list[Tensor] = []
    for first in range(0, len(indices), _BATCH_SIZE):
        yield first / len(indices)
        some = slice(first, first + _BATCH_SIZE)
        pictures = [open_image(source.read_picture(index)) for index in indices[some]]
        pixels = np.stack([pixels_of(pad_to(picture, width, height, enlarge=True)) for picture in pictures])
        images = ((images_from_pixels(torch.from_numpy(pixels)) + 1) / 2 - mean) / std
        token_ids = matcher.tokenizer.batch(captions[some])[0]
        found.append((matcher.clip.encode_images(images) * matcher.clip.encode_text(token_ids)).sum(dim=1).float())
    yield torch.cat(found).numpy() if found else np.empty(0, dtype=np.float32)
