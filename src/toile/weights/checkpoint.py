"""A file of weights, opened by what it holds: safetensors, or what torch.save wrote. Names and suffixes do not matter.

Only names and shapes are read at first; tensors stay mapped to the file until they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toile.weights.files import WeightsError, load_tensors, place_tensors, read_header, read_metadata
from toile.weights.four_parts import PARTS
from toile.weights.mapping import Placement
from toile.weights.pickles import is_pickle, load_pickle

METADATA_KEY = "toile"
"""Under it our own files say, as JSON, what tensors cannot: configs, noise schedule, tokenizer, settings."""

WORDS = "string_to_param"
"""Under it the A1111 web UI keeps the vectors of learned words."""


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights.

    Attributes:
        path: the file.
        shapes: name -> sizes; names of four-part files have the part in front (`encoder.0.weight`).
        dtypes: name -> type of the elements.
        metadata: texts that stand in the file beside the tensors.
        global_step: training steps that the file says it had; None where it says nothing.
        pickled: it was written by torch.save.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    metadata: Mapping[str, str]
    global_step: int | None = None
    pickled: bool = False
    _tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    _mapped: bool = False

    def load(
        self, names: Iterable[str], placement: Placement | None = None, *, allow_nonfinite: bool = False
    ) -> dict[str, Tensor]:
        """Some of the tensors.

        Args:
            names: which; each must be one of `shapes`.
            placement: where they go and in which form; None leaves them on the CPU as the file has them.
            allow_nonfinite: accept NaN and infinity.

        Raises:
            WeightsError: a tensor holds NaN or infinity.
        """
        if not self.pickled:
            return load_tensors(self.path, names=names, placement=placement, allow_nonfinite=allow_nonfinite)
        tensors = {name: self._tensors[name] for name in names}
        return place_tensors(tensors, str(self.path), placement, mapped=self._mapped, allow_nonfinite=allow_nonfinite)


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads names and shapes of a file of weights; its content decides how, and nothing in it is run.

    Raises:
        WeightsError: it is missing, damaged, neither kind, unsafe, or pretends to be a safetensors file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    # A header of 0x0480 bytes begins like a pickle; the brace behind the length tells them apart.
    if not is_pickle(start) or start[8:9] == b"{":
        header = read_header(path)
        shapes = {name: info.shape for name, info in header.items()}
        return Checkpoint(path, shapes, {name: info.dtype for name, info in header.items()}, read_metadata(path))
    if path.suffix.lower() == ".safetensors":
        raise WeightsError(
            f"{path} is named a safetensors file but is a Python pickle; it is not read. If you trust where it comes "
            "from, give it the ending .ckpt"
        )
    pickled = load_pickle(path)
    content = pickled.content
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not tensors with names")
    tensors = _checked(dict(_named_tensors(content)), path)
    ours = content.get(METADATA_KEY)
    step = content.get("global_step")
    return Checkpoint(
        path,
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        {METADATA_KEY: ours} if isinstance(ours, str) else {},
        step if isinstance(step, int) else None,
        True,
        tensors,
        pickled.mapped,
    )


def _named_tensors(content: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the state of a model: under "state_dict" where a trainer wrote the file, else of the whole."""
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        return
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            yield name, value
        elif name in (*PARTS, WORDS) and isinstance(value, Mapping):
            for inner, tensor in value.items():
                if isinstance(inner, str) and isinstance(tensor, Tensor):
                    yield f"{name}.{inner}", tensor


def _checked(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Refuses tensors that would be larger in memory than in the file, and kinds that weights do not have."""
    size = path.stat().st_size
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            raise WeightsError(f"{path}: tensor {name!r:.100} is of a kind that is not read ({tensor.layout})")
        num_bytes = tensor.numel() * tensor.element_size()
        total += num_bytes
        if num_bytes > size or total > 2 * size:
            raise WeightsError(f"{path}: tensor {name!r:.100} claims {num_bytes:,} bytes; the file has {size:,}")
    return {name: tensor.detach() for name, tensor in tensors.items()}
