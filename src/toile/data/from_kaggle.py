"""Data sets of Kaggle, by its own library."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toile.errors import ToileError, WorkFailedError

_CACHE_VARIABLE = "KAGGLEHUB_CACHE"
_REFUSALS = (401, 403)
_NOT_FOUND = 404
_ACCOUNT = "make a token in the settings of your account at kaggle.com and put it where kagglehub finds it"


def fetch_dataset(handle: str, version: str | None, aside: Path) -> tuple[str, str, Path]:
    """Downloads a data set of Kaggle.

    Args:
        handle: "owner/name".
        version: its number; None = the newest.
        aside: where to work.

    Returns:
        Where it is from, the version, and a folder inside `aside` with its files.

    Raises:
        ToileError: no such version, it asks for an account, or kagglehub is missing.
        WorkFailedError: the download came to nothing.
    """
    if version is not None and not version.isdigit():
        raise ToileError(f"revision {version!r} is no version of a data set of Kaggle; give a number")
    kagglehub = _library()
    pinned = handle if version is None else f"{handle}/versions/{version}"
    with _inside(aside), _errors_of(f"{handle} of Kaggle", _ACCOUNT):
        result = Path(kagglehub.dataset_download(pinned))
    # The library's folder for a version has its number for a name.
    found = version or (result.name if result.parent.name == "versions" else "")
    return f"kaggle.com/datasets/{handle}", found, _taken(result, aside)


def fetch_contest(contest: str, part: str, aside: Path) -> tuple[str, str, Path]:
    """Downloads the data of a contest of Kaggle, of which one folder is wanted; see `fetch_dataset`."""
    kagglehub = _library()
    rules = f"{_ACCOUNT}, and accept the rules at kaggle.com/competitions/{contest}/rules"
    with _inside(aside), _errors_of(f"{contest} of Kaggle", rules):
        result = Path(kagglehub.competition_download(contest))
    if not (result / part).is_dir():
        raise WorkFailedError(f"{contest} of Kaggle came without its folder {part}; {result} has what was downloaded")
    return f"kaggle.com/competitions/{contest}", "", _taken(result / part, aside)


def _library() -> Any:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where its log goes to is settled when it is imported
            import kagglehub
    except ImportError as error:
        raise ToileError("downloading from Kaggle needs kagglehub: pip install 'toile[kaggle]'") from error
    return kagglehub


@contextlib.contextmanager
def _inside(aside: Path) -> Iterator[None]:
    """Lets the library work in a folder of ours, where it goes on with what broke off, and not print on our output."""
    before = os.environ.get(_CACHE_VARIABLE)
    os.environ[_CACHE_VARIABLE] = str(aside)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ[_CACHE_VARIABLE]
        else:
            os.environ[_CACHE_VARIABLE] = before


@contextlib.contextmanager
def _errors_of(what: str, account: str) -> Iterator[None]:
    from kagglehub.exceptions import KaggleApiHTTPError, UnauthenticatedError

    try:
        yield
    except UnauthenticatedError as error:
        raise ToileError(f"{what} asks for an account: {account}") from error
    except KaggleApiHTTPError as error:
        status = None if error.response is None else error.response.status_code
        if status in _REFUSALS:
            raise ToileError(f"{what} is refused ({status}): {account}") from error
        if status == _NOT_FOUND:
            raise ToileError(f"{what} does not exist in this version ({status})") from error
        raise WorkFailedError(f"{what} could not be downloaded: {error}") from error
    except Exception as error:  # the library lets the errors of whatever carries its requests through
        raise WorkFailedError(f"{what} could not be downloaded: {error}") from error


def _taken(result: Path, aside: Path) -> Path:
    """The folder with the files, as one that is ours: on Kaggle's own machines it is another, which must stay."""
    if result.resolve().is_relative_to(aside.resolve()):
        return result
    copy = aside / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(result, copy)
    return copy
