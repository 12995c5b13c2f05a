"""What is written into every picture, so that it can be made again: a `toile` text chunk with all of it as JSON, and a
`parameters` chunk in the words of the A1111 web UI, which other programs show.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from toile.diffusion.noise import NUM_SEEDS
from toile.diffusion.samplers import find_sampler
from toile.errors import ToileError
from toile.generation_settings import EVERYWHERE, GenerationSettings, check_number, check_whole
from toile.model_folder import ModelFacts
from toile.schema import build_config
from toile.text.lora_tags import LoRAUse, lora_tags
from toile.weights.files import write_atomically

CHUNK = "toile"
FORMAT = 1
# Of 1 to 9. 6, which is usual, takes twice as long for files that are 3 % smaller.
_COMPRESSION = 4
NOISE = "draw k of an image: torch.randn, float32, CPU generator seeded with toile.diffusion.noise.draw_seed(seed, k)"


@dataclass(frozen=True)
class Machine:
    """What besides the request decides the last bit of a picture.

    Attributes:
        toile, torch: versions.
        device: kind of device, for example "cpu".
        dtype: what the networks computed in.
        threads: of the CPU.
    """

    toile: str
    torch: str
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class SourceFacts:
    """The picture that another one began with, by its content.

    Attributes:
        image: SHA-256 of its uint8 pixels (H, W, 3), at the size of the result.
        mask: SHA-256 of its uint8 mask (H, W); None for image-to-image.
    """

    image: str
    mask: str | None = None


@dataclass(frozen=True)
class LoRAFacts:
    """A LoRA that acted on a picture.

    Attributes:
        name: of its file, without suffix.
        path: where it was.
        hash: SHA-256 of its content.
        strength: 1 as it was trained.
    """

    name: str
    path: str
    hash: str
    strength: float


@dataclass(frozen=True)
class EmbeddingFacts:
    """A file of learned words that prompts could use.

    Attributes:
        name: of the file, without suffix.
        path: where it was.
        hash: SHA-256 of its content.
    """

    name: str
    path: str
    hash: str


@dataclass(frozen=True)
class Toward:
    """Another prompt and seed that a picture lies towards: its words and its noise are on the way to theirs.

    Attributes:
        prompt, seed: of the other end.
        share: 0 is the picture's own prompt and seed, 1 the other's.

    Raises:
        ToileError: a seed or share out of range.
    """

    prompt: str
    seed: int
    share: float

    def __post_init__(self) -> None:
        check_whole("seed of the other end", self.seed, 0, NUM_SEEDS - 1)
        check_number("share of the other end", self.share, 0.0, 1.0)


@dataclass(frozen=True)
class PictureRecipe:
    """How one picture was made.

    Attributes:
        prompt: as it was typed.
        seed: of this picture alone, 0 to 2 ** 64 - 1.
        settings: all of them, with names resolved.
        model: None if it was never in a folder.
        machine: where it was made.
        source: what it began with, if not with noise alone.
        original: the prompt whose picture of the same seed led the layout, if one did.
        toward: what it lies towards, if anything.
        loras: all that acted on it, those that the prompt names too.
        embeddings: files of learned words that were there to be used.
        batch_rows, batch_row: how many pictures passed the networks together, and which of them this was (from 0). It
            does not change the noise, but kernels may round differently for another number of rows.
        noise: where the random numbers come from.
        format: of this record.
        reading: the prompt in the words that the model knows, which the picture was made from; None if it was made from
            the prompt as typed. `original` and `toward` hold what was read.
        chosen_noises: if the noise to begin with was chosen among several, which it was (0 = the seed's first), and
            which was that of what the picture lies towards.
    """

    prompt: str
    seed: int
    settings: GenerationSettings
    model: ModelFacts | None
    machine: Machine
    source: SourceFacts | None = None
    original: str | None = None
    toward: Toward | None = None
    loras: tuple[LoRAFacts, ...] = ()
    embeddings: tuple[EmbeddingFacts, ...] = ()
    batch_rows: int = 1
    batch_row: int = 0
    noise: str = NOISE
    format: int = FORMAT
    reading: str | None = None
    chosen_noises: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ToileError(f"recipe format {self.format} is unknown to this version, which reads {FORMAT}")
        if not 0 <= self.batch_row < self.batch_rows:
            raise ToileError(f"batch_row {self.batch_row} must be below batch_rows {self.batch_rows}")
        if self.chosen_noises and len(self.chosen_noises) != (1 if self.toward is None else 2):
            raise ToileError(f"chosen_noises {self.chosen_noises}: one for each end that a picture has")
        for number in self.chosen_noises:
            check_whole("chosen noise", number, 0, self.settings.noise_candidates - 1)

    def as_asked(self) -> dict[str, Any]:
        """All its settings as a request names them, which asks for them whatever the defaults of the model are."""
        given = {field.name: getattr(self.settings, field.name) for field in fields(GenerationSettings)}
        return {**given, "guidance_interval": self.settings.guidance_interval or EVERYWHERE}

    @property
    def text(self) -> str:
        """The words that the picture was made from."""
        return self.prompt if self.reading is None else self.reading

    def parameters(self) -> str:
        """The text that A1111 and the sites that read its pictures expect."""
        settings = self.settings
        entries = {
            "Steps": settings.steps,
            "Sampler": find_sampler(settings.sampler).label,
            "CFG scale": f"{settings.guidance:g}",
            "Seed": self.seed,
            "Size": f"{settings.width}x{settings.height}",
        }
        if self.model is not None:
            entries |= {"Model hash": self.model.hash[:10], "Model": self.model.name}
        if self.source is not None:
            entries["Denoising strength"] = f"{settings.strength:g}"
        if self.toward is not None and self.toward.prompt == self.prompt:
            entries["Variation seed"] = self.toward.seed
            entries["Variation seed strength"] = f"{self.toward.share:g}"
        if settings.hires_scale is not None:
            entries |= {"Hires upscale": f"{settings.hires_scale:g}", "Hires steps": settings.steps}
            entries["Denoising strength"] = f"{settings.hires_strength:g}"
        if settings.upscale:
            entries["Upscaler"] = "of the model"
        if settings.spacing is not None:
            entries["Schedule type"] = settings.spacing.capitalize()
        if self.loras:
            hashes = ", ".join(f"{lora.name}: {lora.hash[:12]}" for lora in self.loras)
            entries["Lora hashes"] = f'"{hashes}"'
        if self.embeddings:
            hashes = ", ".join(f"{file.name}: {file.hash[:12]}" for file in self.embeddings)
            entries["TI hashes"] = f'"{hashes}"'
        entries["Version"] = f"toile {self.machine.toile}"
        lines = [_one_line(self.prompt + self._unnamed_tags())]
        if settings.negative:
            lines.append(f"Negative prompt: {_one_line(settings.negative)}")
        lines.append(", ".join(f"{name}: {value}" for name, value in entries.items()))
        return "\n".join(lines)

    def _unnamed_tags(self) -> str:
        """Tags for the LoRAs that the prompt does not name itself."""
        named = {use.source for use in lora_tags(self.prompt)}
        return "".join(f" {LoRAUse(lora.name, lora.strength).tag}" for lora in self.loras if lora.name not in named)


def encode_png(pixels: np.ndarray, recipe: PictureRecipe, more: Mapping[str, str] | None = None) -> bytes:
    """A PNG file of uint8 pixels (H, W, 3) with its recipe inside, and more ASCII texts; equal input, equal bytes."""
    chunks = PngInfo()
    chunks.add_text("parameters", recipe.parameters())
    chunks.add_text(CHUNK, json.dumps(asdict(recipe), allow_nan=False))  # ASCII only, so any prompt survives
    for name, text in (more or {}).items():
        chunks.add_text(name, text)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=chunks, compress_level=_COMPRESSION)
    return file.getvalue()


def write_png(path: Path, pixels: np.ndarray, recipe: PictureRecipe, more: Mapping[str, str] | None = None) -> None:
    """Writes a picture with its recipe, wholly or not at all.

    Args:
        path: replaced if it exists.
        pixels: (H, W, 3) uint8.
        recipe: how they were made.
        more: further texts by their names, in ASCII.

    Raises:
        ToileError: the disk refuses.
    """
    write_atomically(path, encode_png(pixels, recipe, more))


def read_recipe(path: Path) -> PictureRecipe:
    """The recipe inside a picture.

    Raises:
        ToileError: no such file, no picture, no recipe inside, or a damaged one.
    """
    text = read_texts(path).get(CHUNK)
    if text is None:
        raise ToileError(f"{path} holds no toile recipe; only pictures saved by toile, and not edited since, have one")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToileError(f"the recipe in {path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ToileError(f"the recipe in {path} is damaged: not a JSON object")
    return build_config(PictureRecipe, content, f"recipe in {path}")


def read_texts(path: Path) -> dict[str, str]:
    """All texts that a picture carries, by their names.

    Raises:
        ToileError: no such file, or no picture.
    """
    try:
        with Image.open(path) as image:
            return {str(name): text for name, text in image.info.items() if isinstance(text, str)}
    except UnidentifiedImageError as error:
        raise ToileError(f"{path} is no picture that can be read") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ToileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _one_line(text: str) -> str:
    """Without control characters, and with half surrogates replaced: PNG text can hold neither."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text.encode("utf-8", errors="replace").decode("utf-8"))
