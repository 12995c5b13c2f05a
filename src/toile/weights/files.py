"""Safe reading and atomic writing of weights files (the safetensors format) and of small text files.

A safetensors file is: 8 bytes N (little-endian), N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data.
Everything in it is checked against the size of the file before a tensor is allocated. No code here can run a pickle.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from toile.device import drop_pages
from toile.errors import ToileError
from toile.weights.mapping import ALIGNMENT, MappedFile, Placement

MAX_HEADER_BYTES = 100_000_000
ASIDE_SUFFIX = ".partial"
"""Ends the hidden name of a file that is still being written; one that stays was left by a killed process."""

_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
_DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in _DTYPES.items()}

_FOREIGN_CONTENT: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (a PyTorch .ckpt or .pt?)"),
    *((bytes((0x80, protocol)), "a Python pickle") for protocol in range(2, 6)),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<", "a web page: the download went wrong"),
)


class WeightsError(ToileError):
    """A file of weights or of training state that cannot be read, trusted or written."""


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says about one tensor.

    Attributes:
        dtype: type of the elements.
        shape: sizes of the dimensions; () is a single number.
        start: first byte, counted from the end of the header.
        stop: the byte after the last one.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


# ---------------------------------------------------------------------------------------------------- reading


def read_header(path: Path) -> Mapping[str, TensorInfo]:
    """Names, types, shapes and places of the tensors of a safetensors file, fully checked; reads the header only.

    Raises:
        WeightsError: the file is missing, is something else, or its header contradicts itself or the file's size.
    """
    return _tensor_infos(*_raw_header(path), path=path)


def read_metadata(path: Path) -> dict[str, str]:
    """The free text entries (`__metadata__`) of a safetensors file; {} where there are none."""
    return dict(_raw_header(path)[0].get("__metadata__", {}))


def load_tensors(
    path: Path,
    *,
    names: Iterable[str] | None = None,
    placement: Placement | None = None,
    allow_nonfinite: bool = False,
) -> dict[str, Tensor]:
    """Tensors of a safetensors file; those that stay as they are share the file's memory map until written to.

    Args:
        path: the file; its name and suffix do not matter.
        names: which tensors; all by default.
        placement: where they go and in which form; None leaves them on the CPU as the file has them.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        WeightsError: as `read_header`; or a tensor is not there, or holds NaN or infinity.
    """
    raw, data_bytes = _raw_header(path)
    header = _tensor_infos(raw, data_bytes, path)
    wanted = list(header if names is None else names)
    if missing := [name for name in wanted if name not in header]:
        raise WeightsError(f"{path} has no tensor {missing[0]!r}")
    try:
        file, data_start = MappedFile(path), os.path.getsize(path) - data_bytes
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    infos = {name: header[name] for name in wanted}
    mapped = {name: file.tensor(data_start + info.start, info.dtype, info.shape) for name, info in infos.items()}
    return place_tensors(mapped, str(path), placement, mapped=True, allow_nonfinite=allow_nonfinite)


def place_tensors(
    tensors: Mapping[str, Tensor], where: str, placement: Placement | None, *, mapped: bool, allow_nonfinite: bool
) -> dict[str, Tensor]:
    """Tensors in their place, each checked for NaN and infinity, with little more memory at once than they take.

    Args:
        tensors: as a file holds them.
        where: the file, for messages.
        placement: see `load_tensors`.
        mapped: whether all are mapped from the file, and nobody has written to them.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        WeightsError: a tensor holds NaN or infinity.
    """
    placed = {}
    for name, tensor in tensors.items():
        if not allow_nonfinite and not is_finite(tensor):
            raise WeightsError(f"{where}: tensor {name!r} holds NaN or infinity; the file is damaged")
        placed[name] = tensor if placement is None else placement(tensor)
        if mapped:
            drop_pages(tensor)
    return placed


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of any dtype holds no NaN and no infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:
        tensor = tensor.to(torch.float32)  # 8-bit floats have no reductions
    # The extremes carry NaN and infinity, and cost an eighth of torch.isfinite().all(), which builds a mask.
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; duplicate keys, NaN and other than UTF-8 are refused."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    return parse_json(content, str(path))


def _raw_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header as parsed JSON, and the number of data bytes after it."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(32)
            length = int.from_bytes(start[:8], "little")
            if len(start) < 9 or start[8:9] != b"{" or length > min(MAX_HEADER_BYTES, size - 8):
                raise WeightsError(f"{path}: not a safetensors file: {_why_not(start, length, size)}")
            file.seek(8)
            content = file.read(length)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    header = parse_json(content, f"{path}: header")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"{path}: __metadata__ must map text to text")
    return header, size - 8 - length


def _why_not(start: bytes, length: int, size: int) -> str:
    for magic, description in _FOREIGN_CONTENT:
        if start.startswith(magic):
            return f"it is {description}"
    if len(start) < 9:
        return f"it has only {size} bytes"
    if length > MAX_HEADER_BYTES:
        return f"its header claims {length} bytes, more than the allowed {MAX_HEADER_BYTES}"
    if length > size - 8:
        return f"its header claims {length} bytes, the file has {size}; it may be cut off"
    return "its header is not a JSON object"


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object from bytes; `where` names them in errors. Refuses what `read_json` refuses."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            raise WeightsError(f"{where}: {next(n for n in names if names.count(n) > 1)!r} appears twice")
        return result

    def refuse_constant(name: str) -> None:
        raise WeightsError(f"{where}: {name} is not allowed")

    try:
        parsed = json.loads(
            content.decode("utf-8"), object_pairs_hook=refuse_duplicates, parse_constant=refuse_constant
        )
    except WeightsError:
        raise
    except UnicodeDecodeError as error:
        raise WeightsError(f"{where}: not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise WeightsError(f"{where}: must be a JSON object, got {type(parsed).__name__}")
    return parsed


def _tensor_infos(header: dict[str, Any], data_bytes: int, path: Path) -> dict[str, TensorInfo]:
    infos = {
        name: _tensor_info(entry, data_bytes, f"{path}: tensor {name!r}")
        for name, entry in header.items()
        if name != "__metadata__"
    }
    end = 0
    for name, info in sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != end:
            fault = "overlaps the tensor before it" if info.start < end else f"leaves a gap of {info.start - end} bytes"
            raise WeightsError(f"{path}: tensor {name!r} starts at byte {info.start} and {fault}")
        end = info.stop
    if end != data_bytes:
        raise WeightsError(f"{path}: the last {data_bytes - end} bytes belong to no tensor")
    return infos


def _tensor_info(entry: Any, data_bytes: int, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise WeightsError(f"{where} has unknown dtype {dtype!r:.40}; known are {', '.join(_DTYPES)}")
    if not _are_sizes(shape):
        raise WeightsError(f"{where} has shape {shape!r:.80}, not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightsError(f"{where} has data_offsets {offsets!r:.80}, not [start, stop]")
    if offsets[1] > data_bytes:
        raise WeightsError(f"{where} ends at byte {offsets[1]} of {data_bytes}; the file may be cut off")
    num_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if num_bytes != offsets[1] - offsets[0]:
        raise WeightsError(f"{where}: {dtype} of shape {shape} is {num_bytes} bytes, not {offsets[1] - offsets[0]}")
    return TensorInfo(_DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(values: Any) -> bool:
    """Whether it is a short list of counts that fit 64 bits (so that their product is quick to take)."""
    return (
        isinstance(values, list)
        and len(values) <= 64
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


# ---------------------------------------------------------------------------------------------------- writing


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file atomically; equal tensors and metadata give equal bytes.

    Raises:
        WeightsError: a dtype the format does not know, or the disk refuses; the earlier file is then unchanged.
    """
    write_pieces_atomically(path, encode_tensors(tensors, metadata))


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The content of a safetensors file in pieces: the header, then each tensor's bytes without a copy (on the CPU).

    The library's own writer orders metadata at random, and files of equal state must be equal byte for byte.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise WeightsError(f"tensor {name!r} has dtype {tensor.dtype}, which a safetensors file cannot hold")
    # Whole blocks first, then wide elements first: each then starts at a multiple of a block, or of its element size.
    names = sorted(
        tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT > 0, -tensors[name].element_size(), name)
    )
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    data: list[bytes | memoryview] = []
    end = 0
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        data.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *data]


def write_pieces_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Replaces a file's content by these pieces, wholly or not at all; see `write_by_atomically`."""

    def write(file: BinaryIO) -> None:
        for piece in pieces:
            file.write(piece)

    write_by_atomically(path, write)


def write_by_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Replaces a file's content wholly or not at all, whatever kills the process or the machine meanwhile.

    The content is written beside the file, flushed to the disk and renamed over it. Missing parent folders are made.

    Args:
        path: the file.
        write: writes the content into the open file it is given.

    Raises:
        WeightsError: disk full, read-only and the like; the earlier file is unchanged and nothing is left beside it.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ASIDE_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file's content wholly or not at all; see `write_pieces_atomically`."""
    write_pieces_atomically(path, [content])


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces a file's content by UTF-8 text, wholly or not at all."""
    write_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: Path, value: Any) -> None:
    """Replaces a file's content by indented JSON, wholly or not at all; NaN and infinity are refused."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"cannot write {path}: {error}") from error
    write_text_atomically(path, text + "\n")


def _sync_directory(directory: Path) -> None:
    """Makes a rename survive a power cut, where the system has a way to ask for it."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that have no such request answer so
            raise
    finally:
        os.close(descriptor)
