"""Models that make a picture in one pass, from noise and the words of a prompt: baselines to compare with.

One folder holds such a model: `model_index.json`, `generator/`, `text_encoder/`, `tokenizer/`.
Shapes: B pictures, H x W their size, N noise_dim, D words_dim, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from toile.data.images import pixels_from_images
from toile.diffusion.noise import ImageNoise
from toile.errors import ToileError
from toile.model_folder import INDEX_NAME, ONE_SHOT_CLASS, find_model, text_encoder_constants
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.cvae import ConditionalVAE, ConditionalVAEConfig
from toile.models.gan import ConditionalGAN, ConditionalGANConfig
from toile.models.text_autoencoder import TextAutoencoder, TextAutoencoderConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.files import read_json, write_json_atomically
from toile.weights.folder import CONFIG_NAME, load_component, save_component

_TOGETHER = 64
_TOKENIZER_CLASS = "CLIPTokenizer"


class GeneratorConfig(Protocol):
    """What is asked of the config of a generator."""

    @property
    def noise_dim(self) -> int:
        """N, how many numbers of noise a picture is made of; 0 where the words alone decide."""

    @property
    def words_dim(self) -> int:
        """D, the width of the words."""


class Generator(Protocol):
    """A network that makes pictures in one pass; it is a module whose config is a dataclass."""

    @property
    def config(self) -> Any:
        """A dataclass that satisfies `GeneratorConfig`."""

    def decode(self, noise: Tensor, words: Tensor) -> Tensor:
        """Standard normal noise (B, N) and words (B, D) -> images (B, 3, H, W) in [-1, 1]."""


# Networks by the name that stands in their config.json: how each is built, and the dataclass of its config.
GENERATORS: Mapping[str, tuple[Callable[[Any], nn.Module], type]] = {
    "ConditionalVAE": (ConditionalVAE, ConditionalVAEConfig),
    "TextAutoencoder": (TextAutoencoder, TextAutoencoderConfig),
    "ConditionalGAN": (ConditionalGAN, ConditionalGANConfig),
}


@dataclass(frozen=True, eq=False)
class OneShotModel:
    """A baseline that turns prompts into pictures of one size, in float32 on the CPU.

    Attributes:
        generator: makes the pictures; satisfies `Generator`.
        text_encoder, tokenizer: make words of prompts.
        width, height: of the pictures.

    Raises:
        ToileError: the parts do not fit together.
    """

    generator: nn.Module
    text_encoder: CLIPTextModel
    tokenizer: Tokenizer
    width: int
    height: int

    def __post_init__(self) -> None:
        config: GeneratorConfig = self.generator.config  # type: ignore[assignment]
        if config.words_dim != self.text_encoder.config.hidden_size:
            raise ToileError(
                f"the generator reads words of {config.words_dim} numbers, the text encoder gives "
                f"{self.text_encoder.config.hidden_size}: set model.words_dim to that, or take the words of another"
            )

    @classmethod
    def load(cls, folder: str | Path) -> OneShotModel:
        """Reads a model folder.

        Raises:
            ToileError: it is none of a baseline, or a part is missing, damaged or does not fit.
        """
        folder = Path(folder)
        if not is_one_shot(folder):
            raise ToileError(f"{folder} is no baseline: its {INDEX_NAME} does not name a {ONE_SHOT_CLASS}")
        index = read_json(folder / INDEX_NAME)
        width, height = index.get("width"), index.get("height")
        if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
            raise ToileError(f"{folder / INDEX_NAME}: width {width!r}, height {height!r}; two numbers of pixels")
        name = str(read_json(folder / "generator" / CONFIG_NAME).get("_class_name"))
        if name not in GENERATORS:
            raise ToileError(f"{folder} names its generator {name!r}; known are {', '.join(GENERATORS)}")
        build, config_class = GENERATORS[name]
        generator = load_component(folder / "generator", build, config_class)
        text_encoder, tokenizer = load_words_of(folder)
        return cls(generator.eval().requires_grad_(False), text_encoder, tokenizer, width, height)

    def save(self, folder: Path) -> None:
        """Writes a model folder that `load` reads, in float32; files of the same names are replaced.

        Raises:
            ToileError: a weight is not finite, the generator is none of `GENERATORS`, or the disk refuses.
        """
        folder = Path(folder)
        name = type(self.generator).__name__
        if name not in GENERATORS:
            raise ToileError(f"a {name} cannot be saved as a baseline; known are {', '.join(GENERATORS)}")
        config, text = self.generator.config, self.text_encoder.config
        save_component(folder / "generator", self.generator, config, {"_class_name": name}, torch.float32)  # type: ignore[arg-type]
        constants = text_encoder_constants(text)
        save_component(folder / "text_encoder", self.text_encoder, text, constants, torch.float32, "model.safetensors")
        self.tokenizer.save(folder / "tokenizer")
        parts = {
            "generator": ["toile", name],
            "text_encoder": ["transformers", constants["architectures"][0]],
            "tokenizer": ["transformers", _TOKENIZER_CLASS],
        }
        entries = {"_class_name": ONE_SHOT_CLASS, "width": self.width, "height": self.height, **parts}
        write_json_atomically(folder / INDEX_NAME, entries)

    @torch.no_grad()
    def pictures(self, prompts: Sequence[str], seeds: Sequence[int], batch_size: int = _TOGETHER) -> Tensor:
        """Makes a picture of each prompt; its noise is a function of its seed alone.

        Pictures pass the networks in parts of one size, the last one filled up, because how kernels add depends on the
        number of rows: so a picture is the same alone and among others, bit for bit.

        Args:
            prompts: N texts; what does not fit into the text encoder's rows is cut.
            seeds: one for each, 0 to 2 ** 64 - 1.
            batch_size: how many pass the generator together; another one may change a picture by a rounding.

        Returns:
            (N, H, W, 3) uint8.

        Raises:
            ToileError: numbers of prompts and seeds differ, or a seed is out of range.
        """
        if len(prompts) != len(seeds) or batch_size < 1:
            raise ToileError(
                f"{len(prompts)} prompts, {len(seeds)} seeds, batch_size {batch_size}: a seed a prompt, parts of 1 up"
            )
        if not prompts:
            return torch.empty(0, self.height, self.width, 3, dtype=torch.uint8)
        texts = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        words = encode_words(self.text_encoder, self.tokenizer, list(texts))
        words = words[[texts[prompt] for prompt in prompts]]
        generator: Generator = self.generator  # type: ignore[assignment]
        noise = ImageNoise(seeds, (generator.config.noise_dim, 1, 1)).draw(0).flatten(1)
        made = []
        for some_noise, some_words in zip(noise.split(batch_size), words.split(batch_size), strict=True):
            images = generator.decode(_filled(some_noise, batch_size), _filled(some_words, batch_size))
            made.append(pixels_from_images(images[: len(some_noise)]))
        return torch.cat(made)


def is_one_shot(folder: str | Path) -> bool:
    """Whether a folder holds a model that `OneShotModel` loads."""
    index = Path(folder) / INDEX_NAME
    return index.is_file() and read_json(index).get("_class_name") == ONE_SHOT_CLASS


def load_words(model: str | Path) -> tuple[CLIPTextModel, Tokenizer]:
    """Text encoder and tokenizer of a model of the usual layout, by name or folder; frozen, float32 on the CPU.

    Raises:
        ToileError: there is no such model, or a part is missing, damaged or does not fit.
    """
    return load_words_of(find_model(model))


def load_words_of(folder: Path) -> tuple[CLIPTextModel, Tokenizer]:
    """The same of the folder of any model that has both."""
    text_encoder = load_component(folder / "text_encoder", CLIPTextModel, CLIPTextConfig)
    return text_encoder.eval().requires_grad_(False), Tokenizer.load(folder / "tokenizer")


@torch.no_grad()
def encode_words(text_encoder: CLIPTextModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """What texts say as a whole: the state of the end token, in the encoder's precision whatever autocast says.

    Texts of one length pass together, without the padding that no token before it sees, in parts of one size; so the
    words of a text do not depend on the others.

    Returns:
        (N, D) for N texts, of which there must be one.
    """
    token_ids = tokenizer.batch(texts)[0]
    ends = (token_ids == tokenizer.end_id).int().argmax(dim=1)
    weight = next(text_encoder.parameters())
    words = torch.empty(len(token_ids), text_encoder.config.hidden_size, dtype=weight.dtype)
    with torch.autocast(weight.device.type, enabled=False):
        for end in ends.unique().tolist():
            for rows in torch.nonzero(ends == end)[:, 0].split(_TOGETHER):
                ids = _filled(token_ids[rows, : end + 1], _TOGETHER)
                words[rows] = text_encoder.pooled(text_encoder(ids), ids)[: len(rows)]
    return words


def _filled(rows: Tensor, number: int) -> Tensor:
    """(n, ...) -> (number, ...), with copies of the first row at the end."""
    return torch.cat([rows, rows[:1].expand(number - len(rows), *rows.shape[1:])])
