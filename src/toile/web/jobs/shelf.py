"""The models and LoRAs that are served, by name: whatever a request says, nothing else is opened."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toile.errors import ToileError
from toile.generation_settings import MAX_SIDE, GenerationSettings, ModelSettings
from toile.model_files.parts import default_settings
from toile.model_files.reading import describe_model_file
from toile.model_files.registry import registered_models, single_files
from toile.model_files.tokenizers import find_tokenizer
from toile.model_folder import (
    BUNDLED_MODEL,
    UPSCALER_FOLDER,
    UPSCALER_NAME,
    find_model,
    read_autoencoder_config,
    read_settings,
)
from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.upscaler import UpscalerConfig
from toile.weights.folder import CONFIG_NAME, read_config

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model, as far as its configs tell.

    Attributes:
        name: what requests call it.
        source: what `load` opens; of the operator, never of a request.
        settings: its defaults and qualities.
        multiple: widths and heights are multiples of it.
        enlarges: from which size to which its upscaler leads, if it has one.
        text_width: of its text encoder, which learned words must have.
    """

    name: str
    source: str
    settings: ModelSettings
    multiple: int
    enlarges: tuple[tuple[int, int], tuple[int, int]] | None
    text_width: int

    def final_size(self, settings: GenerationSettings) -> tuple[int, int]:
        """(width, height) of the pictures that it makes with these settings.

        Raises:
            ToileError: it makes none of that size.
        """
        for name, side in (("width", settings.width), ("height", settings.height)):
            if side % self.multiple:
                raise ToileError(
                    f"{name} is {side}; allowed for this model: multiples of {self.multiple} up to {MAX_SIDE}"
                )
        width, height = settings.final_size(self.multiple)
        if self.enlarges is not None and settings.upscale is not False and (width, height) == self.enlarges[0]:
            return self.enlarges[1]
        return width, height


def open_shelf(sources: Sequence[str]) -> Mapping[str, ServedModel]:
    """Models by name, the default first.

    Args:
        sources: names, ids of fetched models, folders or files, of whoever runs the server; () for the bundled model,
            all that were fetched, and the files beside them that can be read. A folder or a file is called by its name,
            without suffix.

    Raises:
        ToileError: there is no such model, or two have one name.
    """
    shelf: dict[str, ServedModel] = {}
    for source in sources or (BUNDLED_MODEL, *(record.id for record in registered_models())):
        _put(shelf, _read(source))
    for path in () if sources else single_files():
        try:
            _put(shelf, _read_file(path))
        except ToileError as error:  # people put there what they like
            _log.warning("%s is not served: %s", path.name, error)
    return shelf


def _put(shelf: dict[str, ServedModel], model: ServedModel) -> None:
    if model.name in shelf:
        raise ToileError(f"two models are called {model.name!r}: {shelf[model.name].source} and {model.source}")
    shelf[model.name] = model


def _read_file(path: Path) -> ServedModel:
    told = describe_model_file(path)
    if told.tokenizer is None:
        find_tokenizer(path, told.text_encoder)  # its absence is said now, not when the first picture is asked for
    settings = told.settings or default_settings(told.unet, told.vae)
    source = str(path.resolve())
    return ServedModel(path.stem, source, settings, told.vae.downsampling, None, told.text_encoder.hidden_size)


def _read(source: str) -> ServedModel:
    if Path(source).is_file():
        return _read_file(Path(source))
    folder = find_model(source)
    unet = read_config(folder / "unet" / CONFIG_NAME, UNetConfig)
    vae = read_autoencoder_config(folder / "vae")
    upscaler = folder / UPSCALER_FOLDER / UPSCALER_NAME
    enlarges = None
    if upscaler.is_file():
        config = read_config(upscaler, UpscalerConfig)
        enlarges = (config.small_size, config.size)
    is_path = Path(source).is_dir()
    name = folder.resolve().name if is_path else source
    # A path is pinned now: the server may later be told nothing about where it was started.
    return ServedModel(
        name,
        str(folder.resolve()) if is_path else source,
        read_settings(folder, unet, vae),
        vae.downsampling,
        enlarges,
        read_config(folder / "text_encoder" / CONFIG_NAME, CLIPTextConfig).hidden_size,
    )
