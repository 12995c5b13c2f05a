"""A data root: a folder or a zip whose members are read by relative name, never outside it."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from toile.errors import ToileError

MAX_MEMBER_BYTES = 512 * 1024 * 1024
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def member_name(name: str) -> str:
    """Normalises a relative path from a table: backslashes to slashes, no `.` parts.

    Raises ToileError for an absolute path, a drive letter, `..`, a NUL character or an empty name.
    """
    slashed = name.strip().replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    outside = slashed.startswith("/") or slashed[1:2] == ":" or ".." in parts or "\0" in slashed
    if outside or not parts:
        raise ToileError(f"path {name[:80]!r} is not allowed; give a path relative to and inside the data folder")
    return "/".join(parts)


def is_inside(name: str) -> bool:
    """Whether `member_name` allows a name."""
    try:
        member_name(name)
    except ToileError:
        return False
    return True


def is_picture_name(name: str) -> bool:
    """Whether a member looks like a picture (and is not a hidden companion file of some system)."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not hidden and path.suffix.lower() in PICTURE_SUFFIXES


class Root(Protocol):
    """The members of a folder or zip."""

    @property
    def path(self) -> Path:
        """Where the folder or zip is."""

    @property
    def members(self) -> Mapping[str, str]:
        """Normalised name -> a mark that changes with the content (checksum, or size and time)."""

    def read(self, name: str) -> bytes:
        """The bytes of a member, by normalised name; raises ToileError when it cannot be read."""


class ZipRoot:
    """A zip file as data root; stays open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ToileError(f"{path} cannot be read as a zip ({error})") from error
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if not info.is_dir() and is_inside(info.filename):
                self._infos.setdefault(member_name(info.filename), info)
        self.members: Mapping[str, str] = {
            name: f"{info.CRC:08x} {info.file_size}" for name, info in self._infos.items()
        }

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        info = self._infos.get(member_name(name))
        if info is None:
            raise ToileError(f"{name} is not in {self.path}")
        if info.file_size > MAX_MEMBER_BYTES:
            raise ToileError(f"{name} in {self.path} would unpack to {info.file_size:,} bytes; refused")
        try:
            return self._zip.read(info)
        except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise ToileError(f"{name} in {self.path} is damaged ({error})") from error


class FolderRoot:
    """A folder as data root; links that lead outside it are refused."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ToileError(f"{path} is not a folder")
        self.path = path
        self._resolved = path.resolve()
        members: dict[str, str] = {}
        for folder, _, names in os.walk(path):
            for name in names:
                full = Path(folder, name)
                if full.is_symlink() and not full.resolve().is_relative_to(self._resolved):
                    continue
                stat = full.stat() if full.exists() else None
                if stat is not None:
                    members[full.relative_to(path).as_posix()] = f"{stat.st_size} {stat.st_mtime_ns}"
        self.members: Mapping[str, str] = members

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        full = (self.path / member_name(name)).resolve()
        if not full.is_relative_to(self._resolved):
            raise ToileError(f"{name} leads outside {self.path}; refused")
        try:
            return full.read_bytes()
        except OSError as error:
            raise ToileError(f"{name} in {self.path} cannot be read ({error.strerror})") from error


def open_root(path: Path) -> ZipRoot | FolderRoot:
    """Opens a folder or zip as data root."""
    return FolderRoot(path) if path.is_dir() else ZipRoot(path)


def identity_of(root: Root) -> str:
    """A hash over names and content marks of all members: cheap, and different when the data changes."""
    digest = hashlib.sha256()
    for name, mark in sorted(root.members.items()):
        digest.update(f"{name}\0{mark}\n".encode())
    return digest.hexdigest()


def decode_text(data: bytes) -> str:
    """Decodes a text file whose encoding nobody wrote down: UTF-8, UTF-16 with its mark, else Windows-1252."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
