"""Who makes the pictures that are judged: a model with its settings, a baseline, or a folder of pictures.

A contestant is written as a model's name, folder or file, followed by what is not as the model has it by default:

    fashion
    fashion steps=10 sampler=ddim guidance=3
    fashion lora=monet:0.8 name="with monet"
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from toile.data.images import images_from_pixels, open_image, pixels_from_images, pixels_of
from toile.device import dtype_name
from toile.errors import ToileError
from toile.generation.named_settings import read_setting, setting_names
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.lora import content_hash, find_lora
from toile.model_folder import find_model
from toile.one_shot import OneShotModel, is_one_shot
from toile.picture_recipe import read_recipe
from toile.text.lora_tags import LoRAUse, read_use
from toile.weights.files import file_sha256
from toile.weights.provenance import Provenance, read_provenance

STAGE = "step-"
_BATCH_SIZE, _PIXELS_TOGETHER = 50, 50 * 64 * 80
_OF_A_MODEL = ("lora", "dtype", "name")


@dataclass(frozen=True)
class RunPlace:
    """Where a model lies in the folder of the run that trained it.

    Attributes:
        run: the folder; "" where it lies in none.
        step: of the training, where it is one of its stages.
        sheets: (step, file) of samples that were drawn on the way: the first, one in the middle and the last.
    """

    run: str = ""
    step: int | None = None
    sheets: tuple[tuple[int, Path], ...] = ()

    @staticmethod
    def of(model: Path) -> RunPlace:
        """The place of a model's folder."""
        if not model.is_dir():
            return RunPlace()
        number = model.name.removeprefix(STAGE)
        is_stage = model.name.startswith(STAGE) and number.isdigit()
        run = model.parent.parent if is_stage else model.parent
        found = sorted((run / "samples").glob(f"{STAGE}*.png"))
        chosen = dict.fromkeys([*found[:1], *found[len(found) // 2 : len(found) // 2 + 1], *found[-1:]])
        sheets = tuple((int(sheet.stem.removeprefix(STAGE)), sheet) for sheet in chosen)
        return RunPlace(str(run), int(number) if is_stage else None, sheets)


class Contestant(Protocol):
    """A maker of pictures.

    Attributes:
        name: for people, unlike those of the others.
        settings: what its pictures depend on besides weights, prompts and seeds.
        facts: what else is known of it, plain values.
        provenances: how it and its LoRAs were trained, as far as that is known.
        place: where it lies among the stages of a run, if it does.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def provenances(self) -> tuple[Provenance, ...]: ...

    @property
    def place(self) -> RunPlace: ...

    def make(self, prompts: Sequence[str], seed: int) -> Iterator[np.ndarray]:
        """A picture (H, W, 3) uint8 of each prompt, the i-th with seed + i."""


@dataclass(frozen=True, eq=False)
class DiffusionContestant:
    """A latent diffusion model with settings of its own."""

    name: str
    model: LatentDiffusion
    given: Mapping[str, Any]
    loras: tuple[LoRAUse, ...]
    provenances: tuple[Provenance, ...] = ()
    place: RunPlace = RunPlace()

    @property
    def settings(self) -> Mapping[str, Any]:
        """All of a request's settings, the LoRAs and the precision."""
        whole = asdict(self._request(("",), 0).settings_for(self.model))
        return {**whole, "loras": [asdict(use) for use in self.loras], "dtype": dtype_name(self.model.dtype)}

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Hashes of its weights and of those of its LoRAs, and how many parameters it has."""
        networks = (self.model.unet, self.model.text_encoder, self.model.vae)
        return {
            "kind": "latent diffusion",
            "hash": self.model.facts.hash if self.model.facts else None,
            "lora_hashes": [content_hash(find_lora(use.source)) for use in self.loras],
            "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
        }

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures, before any second pass."""
        settings = self._request(("",), 0).settings_for(self.model)
        return settings.width, settings.height

    def make(self, prompts: Sequence[str], seed: int) -> Iterator[np.ndarray]:
        """See `Contestant`."""
        for event in generate(self.model, self._request(tuple(prompts), seed)):
            if isinstance(event, Picture):
                yield event.pixels

    @torch.inference_mode()
    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Pixels (N, H, W, 3) through the autoencoder and back."""
        images = images_from_pixels(pixels).to(self.model.device, self.model.dtype)
        latents = self.model.vae.encode_images(images.contiguous(memory_format=torch.channels_last))
        return pixels_from_images(self.model.decode_latents(latents)).cpu()

    def _request(self, prompts: tuple[str, ...], seed: int) -> GenerateRequest:
        width, height = (self.given.get(name, getattr(self.model.defaults, name)) for name in ("width", "height"))
        together = max(1, min(_BATCH_SIZE, _PIXELS_TOGETHER // (width * height)))
        usual = {"batch_size": together, "upscale": False}  # enlarged only if asked for: judges look at small pictures
        return GenerateRequest(prompts, seed, loras=self.loras, **{**usual, **self.given})


@dataclass(frozen=True, eq=False)
class OneShotContestant:
    """A baseline that makes a picture in one pass."""

    name: str
    model: OneShotModel
    provenances: tuple[Provenance, ...] = ()
    place: RunPlace = RunPlace()

    @property
    def settings(self) -> Mapping[str, Any]:
        """It has none."""
        return {}

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Which network it is, a hash of its weights, and how many parameters it has."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.generator.state_dict().items()):
            digest.update(name.encode() + tensor.float().contiguous().numpy().tobytes())
        return {
            "kind": "one pass",
            "network": type(self.model.generator).__name__,
            "hash": digest.hexdigest(),
            "parameters": sum(parameter.numel() for parameter in self.model.generator.parameters()),
        }

    def make(self, prompts: Sequence[str], seed: int) -> Iterator[np.ndarray]:
        """See `Contestant`."""
        for first in range(0, len(prompts), _BATCH_SIZE):
            some = prompts[first : first + _BATCH_SIZE]
            yield from self.model.pictures(some, range(seed + first, seed + first + len(some))).numpy()


@dataclass(frozen=True, eq=False)
class FolderContestant:
    """Pictures that are there: PNG, JPEG or WebP files of one folder, in the order of their names.

    Attributes:
        paths: of the pictures.
        prompts: of each, from the recipe inside; "" where there is none.
    """

    name: str
    paths: tuple[Path, ...]
    prompts: tuple[str, ...]
    provenances: tuple[Provenance, ...] = ()
    place: RunPlace = RunPlace()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Pictures have no settings but their number."""
        return {"pictures": len(self.paths)}

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """A hash of all the files."""
        lines = "".join(f"{path.name} {file_sha256(path)}\n" for path in self.paths)
        return {"kind": "pictures", "hash": hashlib.sha256(lines.encode()).hexdigest()}

    def make(self, prompts: Sequence[str], seed: int) -> Iterator[np.ndarray]:
        """The pictures in order.

        Raises:
            ToileError: the prompts are not those of the pictures.
        """
        if tuple(prompts) != self.prompts[: len(prompts)]:
            raise ToileError(
                f"{self.name} is a folder of pictures, which cannot be made for other prompts: evaluate it alone, or "
                "beside models, which then make pictures for its prompts"
            )
        for path in self.paths[: len(prompts)]:
            yield pixels_of(open_image(path))


def open_contestant(spec: str, device: str = "auto", dtype: str = "auto") -> Contestant:
    """Opens what a person named.

    Args:
        spec: see the head of this module.
        device, dtype: of models that do not say theirs.

    Raises:
        ToileError: there is nothing of this name, or a setting is not known or not allowed.
    """
    try:
        source, *words = shlex.split(spec)
    except ValueError as error:
        raise ToileError(f"{spec!r}: {error}; write a model and its settings, such as 'fashion steps=10'") from error
    given, loras, name = _settings_of(spec, words)
    path = Path(source)
    shown = name or " ".join([_short(path) if path.exists() else source, *words])
    if path.is_dir() and is_one_shot(path):
        if given or loras:
            raise ToileError(f"{source} is a baseline, which makes a picture in one pass: it has no settings")
        return OneShotContestant(shown, OneShotModel.load(path), _known([path]), RunPlace.of(path))
    if path.is_dir() and not (path / "model_index.json").is_file():
        if given or loras:
            raise ToileError(f"{source} is a folder of pictures: it has no settings")
        return open_pictures(path, shown)
    dtype = str(given.pop("dtype", dtype))
    loaded = LatentDiffusion.load(source, device, dtype)
    places = [path if path.exists() else find_model(source), *(find_lora(use.source) for use in loras)]
    contestant = DiffusionContestant(shown, loaded, given, loras, _known(places), RunPlace.of(path))
    _ = contestant.settings  # refuses now what is out of range, before others make their pictures
    return contestant


def _known(places: Sequence[Path]) -> tuple[Provenance, ...]:
    """What is known of weights, of those of which something is."""
    found = [read_provenance(place) for place in places]
    return tuple(provenance for provenance in found if provenance is not None)


def open_pictures(folder: Path, name: str) -> FolderContestant:
    """A folder of pictures.

    Raises:
        ToileError: it holds none.
    """
    suffixes = (".png", ".jpg", ".jpeg", ".webp")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]
    prompts = [_prompt_of(path) for path in paths]
    if any(prompts):  # contact sheets lie beside the pictures, without a recipe
        paths = [path for path, prompt in zip(paths, prompts, strict=True) if prompt is not None]
        prompts = [prompt for prompt in prompts if prompt is not None]
    if not paths:
        raise ToileError(f"{folder} holds no model and no pictures ({', '.join(suffixes)})")
    return FolderContestant(name, tuple(paths), tuple(prompt or "" for prompt in prompts))


def with_own_names(contestants: Sequence[Contestant]) -> None:
    """Refuses two of one name: a table could not tell them apart.

    Raises:
        ToileError: there are two.
    """
    names = [contestant.name for contestant in contestants]
    for name in names:
        if names.count(name) > 1:
            raise ToileError(f'two contestants are called {name!r}: call one otherwise, as in "fashion name=other"')


def _settings_of(spec: str, words: Sequence[str]) -> tuple[dict[str, Any], tuple[LoRAUse, ...], str]:
    given: dict[str, Any] = {}
    loras: list[LoRAUse] = []
    name = ""
    known = [*setting_names(), *_OF_A_MODEL]
    for word in words:
        key, sign, text = word.partition("=")
        key = key.replace("-", "_")
        if not sign or key not in known:
            keys = ", ".join(sorted(known))
            raise ToileError(f"{spec!r}: {word!r} is no setting; write KEY=VALUE with one of {keys}")
        if key == "lora":
            loras.append(read_use(text))
        elif key == "name":
            name = text
        else:
            given[key] = text if key == "dtype" else read_setting(key, text)
    return given, tuple(loras), name


def _prompt_of(path: Path) -> str | None:
    try:
        return read_recipe(path).prompt
    except ToileError:
        return None


def _short(path: Path) -> str:
    """The folder that says most: of runs/NAME/model and of runs/NAME/stages/step-100 the run's name."""
    parts = [part for part in path.resolve().parts if part not in ("model", "stages")]
    shown = parts[-1]
    return f"{parts[-2]} {shown}" if shown.startswith(STAGE) and len(parts) > 1 else shown
