"""Files mapped into memory: tensors whose bytes are read from the disk when they are used.

Pages that were read count as memory of the process until the system needs them elsewhere. Of a tensor that was copied,
or only looked at, they are given back at once: then loading takes hardly more memory than what it leaves behind.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: where a matrix begins decides in which order kernels add, so equal pictures need equal beginnings."""


@dataclass(frozen=True)
class Placement:
    """Where the tensors of a file go, and in which form; each begins at a multiple of `ALIGNMENT` in memory.

    Attributes:
        dtype: of floating-point tensors; others keep theirs.
        device: of all.
        memory_format: of tensors with four dimensions, the kernels of convolutions.
    """

    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    memory_format: torch.memory_format = torch.preserve_format

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor itself if it is there and so already, else a copy."""
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        memory_format = self.memory_format if tensor.ndim == 4 else torch.preserve_format
        placed = tensor.to(self.device, dtype, memory_format=memory_format)
        return placed.clone() if placed.data_ptr() % ALIGNMENT else placed


FLOAT32_ON_CPU = Placement()


class MappedFile:
    """A file as memory that is private to this process: what is written to its tensors does not reach the file.

    Args:
        path: a file that is not empty.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, start: int, dtype: torch.dtype, shape: Iterable[int]) -> Tensor:
        """The tensor that begins at a byte of the file; it keeps the file mapped."""
        sizes = tuple(shape)
        num_bytes = math.prod(sizes) * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(sizes, dtype=dtype)
        content = torch.frombuffer(self._memory, dtype=torch.uint8, count=num_bytes, offset=start)
        return content.view(dtype).view(sizes)
