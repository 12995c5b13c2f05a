"""The verb convert: a model from one layout of files into another, without loss; no network is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from toile.errors import ToileError
from toile.model_files.reading import read_model
from toile.model_files.writing import write_model


@dataclass(frozen=True)
class ConvertedComponent:
    """A network that was converted: its tensors, their numbers, and the dtypes they were and are stored in."""

    name: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Conversion:
    """What was read and what was written.

    Attributes:
        source, target: as they were given.
        source_layout, target_layout: "folder", "single file" or "four parts".
        components: the networks; nothing of them was missing, or there would be no conversion.
        left_out: what else the source holds, a phrase each.
        notes: what had to be told from something else than the files' own words, a sentence each.
        target_bytes: size of the target on disk.
    """

    source: str
    source_layout: str
    target: str
    target_layout: str
    components: tuple[ConvertedComponent, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    target_bytes: int


def convert_model(
    source: str | Path,
    target: Path,
    tokenizer: Path | None = None,
    *,
    ema: bool = False,
    prediction: str | None = None,
) -> Conversion:
    """Writes a model in the layout that the target's name asks for; each tensor keeps its values and dtype.

    Args:
        source: a model folder, the name of the bundled model, a single file or a four-part file.
        target: must not exist; a single file if it ends in .safetensors, four parts if in .ckpt, else a folder.
        tokenizer: a tokenizer folder, for files that have none with them.
        ema: take the averaged copy of the U-Net that original files may hold besides its last state.
        prediction: "epsilon" or "v_prediction", where a person knows better than the file.

    Raises:
        ToileError: the source is damaged, unsafe, incomplete or of another family; the target exists or cannot hold
            the model. Nothing is written then.
    """
    target = Path(target)
    if target.exists():
        raise ToileError(f"{target} exists already; choose another name, or remove it")
    parts = read_model(source, tokenizer, ema=ema, prediction=prediction)
    layout = write_model(parts, target)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return Conversion(
        str(source),
        parts.layout,
        str(target),
        layout,
        tuple(_component(name, tensors) for name, tensors in parts.tensors.items()),
        parts.left_out,
        parts.notes,
        sum(path.stat().st_size for path in files),
    )


def _component(name: str, tensors: Mapping[str, Tensor]) -> ConvertedComponent:
    dtypes = tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))
    return ConvertedComponent(name, len(tensors), sum(tensor.numel() for tensor in tensors.values()), dtypes)
