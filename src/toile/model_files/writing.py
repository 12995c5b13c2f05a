"""Writing a model in any layout; tensors keep their values and dtypes, and the name of the target tells the layout."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from toile.model_files.folder import write_folder
from toile.model_files.metadata import encode_metadata
from toile.model_files.parts import FOLDER, FOUR_PARTS, SINGLE_FILE, ModelParts, expected_tensors
from toile.model_files.reading import rules_of
from toile.weights.checkpoint import METADATA_KEY
from toile.weights.files import WeightsError, save_tensors, write_by_atomically
from toile.weights.four_parts import PARTS
from toile.weights.names import to_file
from toile.weights.schedule import metadata_of


def layout_for(target: Path) -> str:
    """The layout that a name asks for: a single file for .safetensors, four parts for .ckpt, else a folder."""
    return {".safetensors": SINGLE_FILE, ".ckpt": FOUR_PARTS}.get(Path(target).suffix.lower(), FOLDER)


def write_model(parts: ModelParts, target: Path) -> str:
    """Writes a model, wholly or not at all; returns the layout, see `layout_for`.

    Raises:
        ToileError: the target exists, cannot hold this model, or the disk refuses.
    """
    target, layout = Path(target), layout_for(target)
    if target.exists():
        raise WeightsError(f"{target} exists already; choose another name, or remove it")
    if layout == FOLDER:
        write_folder(parts, target)
    elif layout == SINGLE_FILE:
        metadata = {"format": "pt", METADATA_KEY: encode_metadata(parts), **metadata_of(parts.schedule)}
        save_tensors(target, _renamed(parts, layout), metadata)
    else:
        _write_four_parts(parts, target)
    return layout


def _write_four_parts(parts: ModelParts, path: Path) -> None:
    content: dict[str, object] = {part: {} for part in PARTS}
    for name, tensor in _renamed(parts, FOUR_PARTS).items():
        part, _, inner = name.partition(".")
        # Copies, because torch.save writes all of the memory that a tensor is a part of: here, the whole file.
        content[part][inner] = tensor.clone(memory_format=torch.contiguous_format)  # type: ignore[index]
    content[METADATA_KEY] = encode_metadata(parts)

    def write(file: BinaryIO) -> None:
        torch.save(content, file)

    write_by_atomically(path, write)


def _renamed(parts: ModelParts, layout: str) -> dict[str, Tensor]:
    expected = expected_tensors(parts.unet, parts.vae, parts.text_encoder)
    rules = rules_of(layout, parts, expected, open_clip=parts.text_encoder.hidden_act == "gelu")
    ours = {f"{component}.{name}": t for component, network in parts.tensors.items() for name, t in network.items()}
    return to_file(rules, ours)
