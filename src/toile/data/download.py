"""One file from the web: it has its name only once it is whole, and a second try goes on where the first broke off."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from toile.errors import WorkFailedError

MAX_FILE_BYTES = 1 << 30
_SECONDS_OF_SILENCE = 60.0
_CHUNK_BYTES = 1 << 18
_PARTIAL_SUFFIX = ".partial"
_RANGE = re.compile(r"bytes (\d+)-\d*/(?:\d+|\*)")


def download_file(url: str, path: Path, sha256: str) -> Iterator[float]:
    """Downloads a file; nothing happens if it is there as it should be.

    Args:
        url: where it is.
        path: what it becomes; until it is whole and its checksum holds, it is `.partial` beside that.
        sha256: of the whole file.

    Yields:
        the share that is there, 0 to 1.

    Raises:
        WorkFailedError: the address cannot be reached or has no such file, the download broke off, the disk is full, or
            the file is another than the one that was published.
    """
    if path.is_file() and file_sha256(path) == sha256:
        return
    partial = path.with_name(path.name + _PARTIAL_SUFFIX)
    try:
        yield from _download(url, partial)
        if file_sha256(partial) != sha256:
            partial.unlink()
            raise WorkFailedError(f"{url} is not what was published (its SHA-256 differs); nothing of it is kept")
        os.replace(partial, path)
    except urllib.error.HTTPError as error:
        raise WorkFailedError(f"{url} cannot be downloaded: the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise WorkFailedError(f"{url} cannot be reached: {error.reason}") from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise WorkFailedError(f"{url} broke off ({error}); a second try goes on from there") from error
    except OSError as error:
        raise WorkFailedError(f"{url} cannot be downloaded to {path}: {error.strerror or error}") from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, partial: Path) -> Iterator[float]:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        # Not urlopen, which keeps the proxies of its first call for all that follow.
        response = urllib.request.build_opener().open(request, timeout=_SECONDS_OF_SILENCE)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is missing, or all is wrong; the checksum tells
    with response:
        goes_on = response.status == http.client.PARTIAL_CONTENT
        if goes_on:
            begins = _RANGE.match(response.headers.get("Content-Range", ""))
            if begins is None or int(begins[1]) != have:
                raise WorkFailedError(f"{url} cannot be downloaded: its server sends another part than asked for")
        else:
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        check_space(partial.parent, (total or 0) - have)
        with partial.open("ab" if goes_on else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                have += len(chunk)
                if have > MAX_FILE_BYTES:
                    raise WorkFailedError(f"{url} has more than {MAX_FILE_BYTES:,} bytes; refused")
                file.write(chunk)
                yield have / total if total else 0.0
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have < total:
            raise WorkFailedError(f"{url} broke off after {have:,} of {total:,} bytes; a second try goes on from there")


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuses a download that does not fit on the disk.

    Raises:
        WorkFailedError: there are fewer bytes free than that.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise WorkFailedError(f"{num_bytes / 1e9:.2f} GB do not fit into {folder}: {free / 1e9:.2f} GB are free")
