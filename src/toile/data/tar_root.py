"""Uncompressed tar files as data root: one file, or a folder of shards, read by place without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from toile.data.roots import MAX_MEMBER_BYTES, FolderRoot, is_inside, member_name
from toile.errors import ToileError

SHARD_SUFFIX = ".tar"
PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_PACKED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"(\xb5/\xfd")
# Nothing but headers is read while an archive is listed; the longest legal ones hold a path and its attributes.
_MAX_HEADER_BYTES = 1 << 20
_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of a member are."""

    shard: Path
    start: int
    size: int


class TarRoot:
    """The members of a tar file, or of all `.tar` files in a folder; implements Root.

    Only where members are is kept in memory. Links, devices and names that lead outside are left out: `left_out` says
    which, as (reason, name). A tar file has no checksums, so the mark of a member is that of the file it is in (size
    and time) with its place.

    path: a tar file, whose members keep their names; or a folder, where they follow the name of their file, as in
    `train/shard-000000.tar/17.jpg`.
    Raises ToileError when a file is compressed, no tar, damaged, or cut off: half a shard is never taken for a whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        members: dict[str, str] = {}
        left_out: list[tuple[str, str]] = []
        self._places: dict[str, _Place] = {}
        for prefix, shard, mark in _shards(path):
            for member in _listed(shard):
                shown = f"{prefix}{member.name}"
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    left_out.append(("links and devices", shown))
                    continue
                if not is_inside(member.name):
                    left_out.append(("paths outside the data root", shown))
                    continue
                name = prefix + member_name(member.name)
                if name in members:
                    left_out.append(("members named twice", shown))
                    continue
                self._places[name] = _Place(shard, member.offset_data, member.size)
                members[name] = f"{mark} {member.offset_data} {member.size}"
        self.members: Mapping[str, str] = members
        self.left_out: tuple[tuple[str, str], ...] = tuple(left_out)

    def size(self, name: str) -> int:
        """How many bytes a member has."""
        return self._place(name).size

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        place = self._place(name)
        if place.size > MAX_MEMBER_BYTES:
            raise ToileError(f"{name} in {self.path} has {place.size:,} bytes; refused")
        try:
            # Opened anew each time: shards may be more than there are file handles, and processes may share this.
            with place.shard.open("rb") as file:
                file.seek(place.start)
                data = file.read(place.size)
        except OSError as error:
            raise ToileError(f"{name} in {self.path} cannot be read ({error.strerror})") from error
        if len(data) != place.size:
            raise ToileError(f"{name} in {self.path} is damaged: {place.shard.name} became shorter")
        return data

    def _place(self, name: str) -> _Place:
        place = self._places.get(member_name(name))
        if place is None:
            raise ToileError(f"{name} is not in {self.path}")
        return place


def is_shard_name(name: str) -> bool:
    """Whether a file looks like a tar, packed or not, and is no hidden companion of one."""
    base = name.rpartition("/")[2].lower()
    return not base.startswith(".") and base.endswith((SHARD_SUFFIX, *PACKED_SUFFIXES))


def _shards(path: Path) -> Iterator[tuple[str, Path, str]]:
    """The prefix of members, the file, and a mark that changes with it, for each tar file in a fixed order."""
    if path.is_dir():
        marks = FolderRoot(path).members
        for name in sorted(filter(is_shard_name, marks)):
            yield f"{name}/", path / name, marks[name]
        return
    try:
        stat = path.stat()
    except OSError as error:
        raise ToileError(f"{path} cannot be read ({error.strerror})") from error
    yield "", path, f"{stat.st_size} {stat.st_mtime_ns}"


def _listed(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar file from its first to its end mark."""
    try:
        with shard.open("rb") as file:
            if file.read(8).startswith(_PACKED_STARTS) or shard.name.lower().endswith(PACKED_SUFFIXES):
                raise ToileError(
                    f"{shard} is compressed, so pictures in it have no place to read from; unpack it to .tar"
                )
            num_bytes = file.seek(0, 2)
            file.seek(0)
            with tarfile.open(fileobj=_HeadersOnly(file), mode="r:") as archive:  # type: ignore[call-overload]
                reached = -1
                while (member := archive.next()) is not None:
                    archive.members.clear()  # it would keep every header
                    if member.size < 0 or member.offset_data <= reached:
                        raise ToileError(f"{shard} is damaged: the header of {member.name[:80]!r} contradicts itself")
                    if member.offset_data + (0 if member.issparse() else member.size) > num_bytes:
                        raise ToileError(f"{shard} ends inside {member.name[:80]!r}: it was cut off; get it again")
                    reached = member.offset_data
                    yield member
                end = archive.offset
            _check_end(shard, file, end)
    except (tarfile.TarError, RecursionError, EOFError) as error:
        raise ToileError(f"{shard} cannot be read as a tar ({error}); get it again") from error
    except OSError as error:
        raise ToileError(f"{shard} cannot be read ({error.strerror or error})") from error


def _check_end(shard: Path, file: BinaryIO, end: int) -> None:
    """Listing stops at the first block that is no header; only zeros from there on are the end of an archive."""
    file.seek(end)
    if len(file.read(_BLOCK_BYTES)) < _BLOCK_BYTES:
        raise ToileError(f"{shard} has no end mark: it was cut off after {end:,} bytes; get it again")
    file.seek(end)
    while chunk := file.read(_CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise ToileError(f"{shard} is damaged or two archives in one: after byte {end:,} it cannot be read on")


class _HeadersOnly:
    """A file for listing an archive: a header that claims to be huge is not read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
