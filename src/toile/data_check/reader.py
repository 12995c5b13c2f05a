"""What a model would read of a data set: its tokenizer, and the size of its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toile.data.captions import CaptionWriter
from toile.data.records import Record
from toile.model_files.reading import read_model
from toile.model_folder import find_model, read_autoencoder_config, read_settings
from toile.models.unet import UNetConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.folder import CONFIG_NAME, read_config


@dataclass(frozen=True)
class ModelReader:
    """How a model takes words and pictures in: its tokenizer, and the width and height of pictures it is made for."""

    name: str
    tokenizer: Tokenizer
    width: int
    height: int


def load_reader(model: str) -> ModelReader:
    """Reads what is needed of a model.

    Args:
        model: the name of the bundled model, a model folder, or a model's file.

    Raises:
        ToileError: it is no model.
    """
    if Path(model).is_file():
        parts = read_model(model)
        assert parts.tokenizer is not None
        tokenizer, settings = parts.tokenizer, parts.default_settings.defaults
    else:
        folder = find_model(model)
        tokenizer = Tokenizer.load(folder / "tokenizer")
        unet = read_config(folder / "unet" / CONFIG_NAME, UNetConfig)
        settings = read_settings(folder, unet, read_autoencoder_config(folder / "vae")).defaults
    return ModelReader(model, tokenizer, settings.width, settings.height)


def training_captions(writer: CaptionWriter, record: Record, num_drawn: int = 2) -> tuple[str, ...]:
    """Captions of a record as training has them: all that people wrote, else the full one and some that are drawn."""
    if record.captions:
        return record.captions
    drawn = (writer.write(record, draw) for draw in range(num_drawn))
    return tuple(dict.fromkeys((writer.full(record), *drawn)))
