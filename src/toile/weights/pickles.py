"""Reading PyTorch's own files (.ckpt, .bin, .pt) without running what they hold.

Such a file is a pickle, a program that may call anything. It is read in three steps, and refused at the first that
fails: its size and structure are checked from the directory of the zip archive; the pickle's operations are listed,
without running them, and every name it wants to import must be one that tensors need; only then PyTorch reads it, with
weights_only and mapped into memory. Nothing is ever read in another, less careful way.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toile.weights.files import WeightsError

MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 32_000_000
MAX_PICKLE_BYTES = 64_000_000
MAX_OPERATIONS = 5_000_000

_ZIP_MAGIC = b"PK\x03\x04"
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _END_64_SIZE, _LOCATOR_64_SIZE, _LONGEST_COMMENT = 22, 56, 20, 65535
_HIDDEN_IMPORTS = frozenset({"STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_PICKLES_OF_OLD_FILES = 5  # magic number, version, byte order, the object, the keys of its storages

_ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.device",
        "_codecs.encode",
        *(f"torch.{name}Storage" for name in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()),
        *(f"torch.{name}" for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()),
    }
)
# What training programs leave in their files beside the weights. It is read as an empty object: none of it is imported.
_INERT_PREFIXES = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "lightning_utilities.")
_INERT = frozenset(
    {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.ndarray"}
    | {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
)


class _Inert:
    """Stands in for an object that is of no use here; takes whatever it is given, and keeps nothing."""

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


@dataclass(frozen=True)
class Pickled:
    """What torch.save wrote.

    Attributes:
        content: the object.
        mapped: whether its tensors lie in the file, and are read when used; else they are in memory.
    """

    content: Any
    mapped: bool


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins so is one of PyTorch's: a zip archive, or an old one, which is a bare pickle."""
    return start.startswith(_ZIP_MAGIC) or (len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5)


def load_pickle(path: Path) -> Pickled:
    """Reads what torch.save wrote, on the CPU; tensors of zip archives stay mapped to the file.

    Raises:
        WeightsError: it is no such file, is larger inside than outside, or wants to import what tensors do not need.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == _ZIP_MAGIC
        names, mapped = _checked_archive(path) if zipped else (_checked_stream(path), False)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    inert: list[Any] = [(_Inert, name) for name in names if _is_inert(name)]
    try:
        with torch.serialization.safe_globals(inert):
            return Pickled(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), mapped)
    except Exception as error:  # hostile bytes make the reader fail in any way; each of them is a refusal
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path} cannot be read as PyTorch weights: {reason[:300]}") from error


# ---------------------------------------------------------------------------------------------------- the archive


def _checked_archive(path: Path) -> tuple[set[str], bool]:
    """The names that the pickle inside wants to import, after the checks, and whether its numbers can be mapped."""
    size = path.stat().st_size
    _check_directory(path, size)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, size, path)
            [program] = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            content = archive.read(program)
            orders = [entry for entry in entries if entry.filename.rpartition("/")[2] == "byteorder"]
            mapped = all(archive.read(order) == sys.byteorder.encode() for order in orders)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: a damaged zip archive ({error})") from error
    return _imports(io.BytesIO(content), 1, path), mapped


def _check_directory(path: Path, size: int) -> None:
    """Refuses directories of too many entries before any of them is read."""
    with open(path, "rb") as file:
        start = max(0, size - _END_SIZE - _LONGEST_COMMENT)
        file.seek(start)
        tail = file.read()
        place = tail.rfind(_END)
        if place < 0 or len(tail) - place < _END_SIZE:
            raise WeightsError(f"{path}: the end of the zip archive is missing; the file may be cut off")
        entries, directory_bytes = struct.unpack_from("<HI", tail, place + 10)
        locator_at = start + place - _LOCATOR_64_SIZE
        file.seek(max(0, locator_at))
        locator = file.read(_LOCATOR_64_SIZE)
        if locator.startswith(_LOCATOR_64):
            end_at = struct.unpack_from("<Q", locator, 8)[0]
            if end_at != locator_at - _END_64_SIZE:
                raise WeightsError(f"{path}: the zip archive has two ends; it was made to mislead")
            file.seek(end_at)
            end = file.read(_END_64_SIZE)
            if not end.startswith(_END_64):
                raise WeightsError(f"{path}: the end of the zip archive is damaged")
            entries, directory_bytes = struct.unpack_from("<QQ", end, 32)
    if entries > MAX_ENTRIES or directory_bytes > MAX_DIRECTORY_BYTES:
        raise WeightsError(
            f"{path}: a zip archive of {entries:,} entries ({directory_bytes:,} bytes of directory); allowed are "
            f"{MAX_ENTRIES:,} ({MAX_DIRECTORY_BYTES:,} bytes)"
        )


def _check_entries(entries: list[zipfile.ZipInfo], size: int, path: Path) -> None:
    if len(entries) > MAX_ENTRIES:
        raise WeightsError(f"{path}: a zip archive of {len(entries):,} entries; allowed are {MAX_ENTRIES:,}")
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if names.count("data.pkl") != 1 or "constants.pkl" in names:
        what = "TorchScript, a program" if "constants.pkl" in names else "no file of torch.save"
        raise WeightsError(f"{path}: the zip archive is {what}; only weights saved by torch.save can be read")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise WeightsError(
                f"{path}: {entry.filename!r:.80} is compressed, to {entry.compress_size:,} of {entry.file_size:,} "
                "bytes; torch.save never does that"
            )
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES:
            raise WeightsError(
                f"{path}: its pickle has {entry.file_size:,} bytes; allowed are {MAX_PICKLE_BYTES:,}, as weights lie "
                "outside of it"
            )
    if sum(entry.file_size for entry in entries) > size:
        raise WeightsError(f"{path}: the zip archive's entries overlap; it was made to fill the memory")


def _checked_stream(path: Path) -> set[str]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _imports(content, _PICKLES_OF_OLD_FILES, path)


# ---------------------------------------------------------------------------------------------------- the pickle


def _imports(stream: io.BytesIO | mmap.mmap, num_pickles: int, path: Path) -> set[str]:
    """The names that pickles want to import; they are listed, not run.

    Raises:
        WeightsError: one is neither needed for tensors nor known as harmless.
    """
    names: set[str] = set()
    try:
        for name in _listed_imports(stream, num_pickles, path):
            if name not in _ALLOWED and not _is_inert(name):
                raise WeightsError(
                    f"{path}: its pickle wants to run {name!r:.100}, which weights never need; it is not read. Only "
                    "tensors are taken from such files"
                )
            names.add(name)
    except (ValueError, KeyError, IndexError, struct.error, MemoryError, OverflowError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: a damaged pickle ({str(error)[:200]})") from error
    return names


def _listed_imports(stream: io.BytesIO | mmap.mmap, num_pickles: int, path: Path) -> Iterator[str]:
    operations = 0
    for _ in range(num_pickles):
        for operation, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            operations += 1
            if operations > MAX_OPERATIONS:
                raise WeightsError(f"{path}: its pickle has more than {MAX_OPERATIONS:,} operations")
            if operation.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif operation.name in _HIDDEN_IMPORTS:
                raise WeightsError(
                    f"{path}: its pickle imports by {operation.name}, which hides what it wants to run; it is not "
                    "read. Let the program that made it save with torch.save's own protocol, 2"
                )


def _is_inert(name: str) -> bool:
    return name in _INERT or name.startswith(_INERT_PREFIXES)
