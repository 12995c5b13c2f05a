"""Training state on disk: complete or absent, checked by digest, one trainer per run directory.

A state is one safetensors file, `step-00001234.safetensors`: the tensors, and in its metadata the facts as JSON and the
SHA-256 of the whole file (taken with zeros in the place of the digest).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from toile.errors import ToileError
from toile.weights.files import (
    ASIDE_SUFFIX,
    WeightsError,
    encode_tensors,
    load_tensors,
    read_metadata,
    write_pieces_atomically,
)

_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Snapshot:
    """A training state read back.

    Attributes:
        step: number of optimiser steps done.
        tensors: name -> tensor, bit for bit as saved; the caller owns them.
        facts: the JSON facts as saved (tuples have become lists).
        path: the file it came from.
        warnings: one line for each newer state that was damaged and passed over.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    path: Path
    warnings: tuple[str, ...]


def save_snapshot(
    directory: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = 2
) -> Path:
    """Writes a training state atomically, then removes older ones; the caller holds the directory's `RunLock`.

    States of later steps, which stem from an earlier course of the run, are renamed `*.superseded`: the state saved
    last is always the one that `load_latest` finds.

    Args:
        directory: where the states of this run lie; made if missing.
        step: number of optimiser steps done, 0 or more.
        tensors: weights, optimiser, averages, random states...; any dtype, kept exactly.
        facts: what JSON can hold, text keys: config, counters, losses.
        keep: how many states stay, 1 or more; with 1 there is nothing to fall back to.

    Raises:
        WeightsError: the disk refuses or the facts are not JSON; the earlier states are unchanged.
    """
    directory = Path(directory)
    if keep < 1 or step < 0:
        raise WeightsError(f"step {step} must be 0 or more, keep {keep} must be 1 or more")
    _remove_leftovers(directory)
    path = directory / f"step-{step:08d}.safetensors"
    write_pieces_atomically(path, _encode(step, tensors, facts))
    states = _states(directory)
    for later in (state for number, state in states if number > step):
        later.replace(later.with_suffix(".superseded"))
    for older in [state for number, state in states if number < step][keep - 1 :]:
        older.unlink()
    return path


def load_latest(directory: Path) -> Snapshot | None:
    """The newest undamaged training state of a directory, or None where none was ever completed.

    Raises:
        WeightsError: there are states, but every one is damaged.
    """
    faults: list[str] = []
    for step, path in _states(Path(directory)):
        try:
            tensors, facts = _decode(step, path)
        except (WeightsError, OSError) as error:
            faults.append(str(error))
            continue
        warnings = tuple(f"{fault}; {path.name} (step {step}) is used instead" for fault in faults)
        return Snapshot(step, tensors, facts, path, warnings)
    if faults:
        raise WeightsError(f"no usable training state in {directory}: " + "; ".join(faults))
    return None


def _encode(step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[bytes | memoryview]:
    try:
        metadata = {"step": str(step), "facts": json.dumps(facts), "sha256": _NO_DIGEST}
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the facts of a training state must be JSON: {error}") from error
    header, *data = encode_tensors(tensors, metadata)
    digest = hashlib.sha256(header)
    for piece in data:
        digest.update(piece)
    return [bytes(header).replace(_digest_entry(_NO_DIGEST), _digest_entry(digest.hexdigest())), *data]


def _decode(step: int, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    metadata = read_metadata(path)
    if metadata.get("step") != str(step) or "facts" not in metadata:
        raise WeightsError(f"{path} is not the training state of step {step}")
    if not _matches_digest(path, metadata.get("sha256", "")):
        raise WeightsError(f"{path} is damaged: its content does not match its digest")
    # Copies, because the file may be removed or replaced while they are in use.
    tensors = {name: tensor.clone() for name, tensor in load_tensors(path, allow_nonfinite=True).items()}
    return tensors, json.loads(metadata["facts"])


def _digest_entry(digest: str) -> bytes:
    """How the digest stands in the header; inside the facts the quotes would be escaped, so it occurs once."""
    return f'"sha256":"{digest}"'.encode()


def _matches_digest(path: Path, recorded: str) -> bool:
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        digest = hashlib.sha256(length + header.replace(_digest_entry(recorded), _digest_entry(_NO_DIGEST)))
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == recorded


def _states(directory: Path) -> list[tuple[int, Path]]:
    """(step, file) of the completed states, latest first."""
    if not directory.is_dir():
        return []
    names = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted(((int(match[1]), path) for match, path in names if match), reverse=True)


def _remove_leftovers(directory: Path) -> None:
    """Removes what saves that were killed left behind; the caller is the only one who saves here."""
    for leftover in directory.glob(f".step-*{ASIDE_SUFFIX}"):
        leftover.unlink(missing_ok=True)


class RunLock:
    """Keeps a second trainer out of a run directory: `with RunLock(directory): ...`.

    The system holds the lock for the process, so it ends with the process however that dies; the file that stays
    behind means nothing.

    Raises:
        ToileError: on entering, when another process (or another RunLock of this one) holds the directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        path = self._directory / "trainer.lock"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ToileError(f"cannot use {self._directory} as a run directory: {error.strerror}") from error
        try:
            _lock(descriptor)
        except OSError as error:
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                raise ToileError(f"cannot lock {path}: {error.strerror}") from error
            raise ToileError(
                f"{self._directory} is in use by another trainer (process {owner}, lock {path}); "
                "wait for it, stop it, or choose another run directory"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # the file stays: removing it would race with a trainer that just opened it
            self._descriptor = None


if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 20  # beyond the text, because a locked byte cannot be read by others

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
