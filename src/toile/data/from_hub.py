"""Data sets of the Hugging Face hub: files with pictures and words, pinned to a commit."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from toile.data.download import check_space, file_sha256
from toile.data.roots import PICTURE_SUFFIXES, is_inside
from toile.errors import ToileError, WorkFailedError

_HOLDING_PICTURES = (*PICTURE_SUFFIXES, ".tar", ".zip", "-ubyte.gz")
_HOLDING_WORDS = (".txt", ".caption", ".json", ".jsonl", ".csv", ".md")
PATTERNS = tuple(
    f"*{spelt}" for suffix in (*_HOLDING_PICTURES, *_HOLDING_WORDS) for spelt in dict.fromkeys((suffix, suffix.upper()))
)


def fetch_from_hub(data_id: str, revision: str, aside: Path, endpoint: str | None) -> tuple[str, str, Path]:
    """Downloads the files of a data set that toile can read.

    Args:
        data_id: "owner/name".
        revision: a branch, tag or commit; what it stands for now is what is pinned.
        aside: where to work.
        endpoint: address of another hub than the public one.

    Returns:
        Where it is from, the commit, and a folder inside `aside` with its files.

    Raises:
        ToileError: no such data set or revision, it asks for an account, holds nothing that can be read, or
            huggingface_hub is missing.
        WorkFailedError: the download came to nothing, or files are not those of the commit.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
        from huggingface_hub.hf_api import RepoFile
    except ImportError as error:
        raise ToileError("downloading from the hub needs huggingface_hub: pip install 'toile[hub]'") from error
    try:
        api = HfApi(endpoint=endpoint)
        commit = str(api.dataset_info(data_id, revision=revision).sha)
        tree = api.list_repo_tree(data_id, recursive=True, revision=commit, repo_type="dataset")
        files = {file.path: file for file in tree if isinstance(file, RepoFile)}
        wanted = wanted_names(files, data_id)
        payload = aside / commit  # another commit must not be mixed with it
        payload.mkdir(exist_ok=True)
        check_space(aside, sum(files[name].size for name in wanted))
        snapshot_download(
            data_id,
            repo_type="dataset",
            revision=commit,
            local_dir=payload,
            allow_patterns=list(PATTERNS),
            endpoint=endpoint,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ToileError(
            f"the hub has no data set {data_id} at {revision}, or it needs an account with access"
        ) from error
    except ToileError:
        raise
    except Exception as error:  # the library lets the errors of whatever carries its requests through
        raise WorkFailedError(f"{data_id} could not be downloaded: {error}") from error
    # Where the hub stops answering, the library may hand out a folder in which files are missing.
    for name in wanted:
        if not is_published(payload / name, files[name]):
            (payload / name).unlink(missing_ok=True)
            raise WorkFailedError(f"{data_id}: {name} did not arrive as published; a second try fetches it anew")
    shutil.rmtree(payload / ".cache", ignore_errors=True)  # notes of the download
    return f"hub: {data_id}", commit, payload


def wanted_names(names: Iterable[str], data_id: str) -> list[str]:
    """The files of a data set that hold pictures or words.

    Raises:
        ToileError: none has pictures that can be read, or a name leads outside the folder.
    """
    wanted = sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in PATTERNS))
    if not any(name.lower().endswith(_HOLDING_PICTURES) for name in wanted):
        kinds = Counter(PurePosixPath(name).suffix or "no ending" for name in names)
        found = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5)) or "nothing"
        raise ToileError(
            f"{data_id} has no pictures that can be read: it holds {found}; read are pictures, .zip and .tar files"
        )
    outside = next((name for name in wanted if not is_inside(name)), None)
    if outside is not None:
        raise ToileError(f"{data_id} has a file named {outside[:80]!r}, which leads outside its folder; refused")
    return wanted


def is_published(path: Path, file: Any) -> bool:
    """Whether a file is the one of the commit: of its size, and by its SHA-256 or git's hash of its content.

    Args:
        path: the file.
        file: what the hub says of it, a `RepoFile`.
    """
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return file_sha256(path) == file.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % file.size + path.read_bytes(), usedforsecurity=False).hexdigest() == file.blob_id
