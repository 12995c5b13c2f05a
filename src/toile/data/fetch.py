"""Published data fetched once, each set in a folder of its own with a record of where it is from.

Nothing here goes online but `fetch_data`. A download is prepared in a hidden folder and gets its name when it is whole,
so what is interrupted is never taken for data; a second try goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toile.data.download import download_file, file_sha256
from toile.data.from_hub import fetch_from_hub
from toile.data.from_kaggle import fetch_contest, fetch_dataset
from toile.data.places import RECORD_NAME, data_folder, folder_of
from toile.data.roots import is_picture_name
from toile.data.tar_root import is_shard_name
from toile.errors import ToileError, WorkFailedError
from toile.schema import build_config

FASHION_MNIST_ADDRESSES = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
# SHA-256 of the files whose MD5 Zalando's README gives.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
PRODUCTS_HANDLE = "paramagarwal/fashion-product-images-small"
MONET_CONTEST, MONET_PART = "gan-getting-started", "monet_jpg"


@dataclass(frozen=True)
class DataRecord:
    """A fetched data set.

    Attributes:
        name: by which it was asked for.
        origin: where it is from.
        revision: the commit or version it came from; "" where there are none.
        files: SHA-256 of each file by its name in the folder.
        num_bytes: of all files.
    """

    name: str
    origin: str
    revision: str
    files: Mapping[str, str]
    num_bytes: int


@dataclass(frozen=True)
class FetchProgress:
    """How far a download is: a share from 0 to 1, and what is being downloaded."""

    fraction: float
    note: str


@dataclass(frozen=True)
class FetchedData:
    """Where the data is, and what is known of it; `was_there`: nothing had to be downloaded."""

    folder: Path
    record: DataRecord
    was_there: bool


def fetch_data(
    name: str,
    out: Path | None = None,
    revision: str | None = None,
    *,
    addresses: Sequence[str] = FASHION_MNIST_ADDRESSES,
    endpoint: str | None = None,
) -> Iterator[FetchProgress | FetchedData]:
    """Downloads a data set, unless it is there.

    Args:
        name: "products", "fashion-mnist", "monet", or "owner/name" of a data set on the hub.
        out: the folder to make its folder in; by default the one in which `find_data` looks.
        revision: of a data set on the hub a branch, tag or commit; of the products the number of a version. By default
            what is there stays, and else the newest is fetched.
        addresses: where the files of Fashion-MNIST are, the first that answers is taken.
        endpoint: address of another hub than the public one.

    Yields:
        progress where it is known (the libraries of Kaggle and the hub show their own), and at last where the data is.

    Raises:
        ToileError: no such name, data set or revision; it asks for an account; a library is missing; or there is
            something else in its place.
        WorkFailedError: the download came to nothing, or what was downloaded is not what was published.
    """
    inside = out or data_folder()
    folder = folder_of(name, inside)
    if revision is not None and name in ("fashion-mnist", "monet"):
        raise ToileError(f"{name} has no revisions; leave out --revision")
    there = _read_record(folder)
    if there is not None and revision in (None, there.revision):
        yield FetchedData(folder, there, was_there=True)
        return
    aside = folder.with_name(f".{folder.name}.partial")
    made = [path for path in (aside, *aside.parents) if not path.exists()]
    try:
        aside.mkdir(parents=True, exist_ok=True)
        if name == "fashion-mnist":
            origin, version, payload = yield from _fetch_fashion_mnist(aside, addresses)
        elif name == "products":
            origin, version, payload = fetch_dataset(PRODUCTS_HANDLE, revision, aside)
        elif name == "monet":
            origin, version, payload = fetch_contest(MONET_CONTEST, MONET_PART, aside)
        else:
            origin, version, payload = fetch_from_hub(name, revision or "main", aside, endpoint)
        record = _record(name, origin, version, payload)
        if not any(map(_is_readable, record.files)):
            raise WorkFailedError(f"{name} came without a picture; {aside} has what was downloaded")
        _install(record, payload, folder)
        shutil.rmtree(aside, ignore_errors=True)  # notes of the libraries
    except OSError as error:
        raise WorkFailedError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        _remove_traces(aside, made)
    yield FetchedData(folder, record, was_there=False)


def check_data(folder: Path, record: DataRecord) -> list[str]:
    """What differs from what was fetched: a line for each file that is missing or changed."""
    lines = []
    for name, digest in record.files.items():
        if not (folder / name).is_file():
            lines.append(f"{name} is missing")
        elif file_sha256(folder / name) != digest:
            lines.append(f"{name} is not what was fetched")
    return lines


def _read_record(folder: Path) -> DataRecord | None:
    """The record of what is in a folder; None if there is no such folder.

    Raises:
        ToileError: the folder is there without a record, or its files are not what was fetched.
    """
    if not folder.exists():
        return None
    path = folder / RECORD_NAME
    if not path.is_file():
        raise ToileError(f"{folder} is there and was not made by toile data get; give another place with --out")
    try:
        record = build_config(DataRecord, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise ToileError(f"{path} cannot be read ({error}); delete {folder} to fetch it anew") from error
    faults = check_data(folder, record)
    if faults:
        raise ToileError(f"{folder} was changed: {'; '.join(faults[:3])}; delete it to fetch it anew")
    return record


def _fetch_fashion_mnist(
    aside: Path, addresses: Sequence[str]
) -> Generator[FetchProgress, None, tuple[str, str, Path]]:
    """Downloads the four files; origin, revision, and the folder that is to get the name of the data."""
    payload = aside / "files"
    payload.mkdir(exist_ok=True)
    origin = ""
    for number, (name, digest) in enumerate(FASHION_MNIST_FILES.items()):
        faults: list[str] = []
        for address in addresses:
            try:
                for share in download_file(address + name, payload / name, digest):
                    yield FetchProgress((number + share) / len(FASHION_MNIST_FILES), name)
                origin = address
                break
            except WorkFailedError as error:
                faults.append(str(error))
        else:
            raise WorkFailedError("; ".join(faults))
    return origin, "", payload


def _record(name: str, origin: str, revision: str, payload: Path) -> DataRecord:
    paths = {path.relative_to(payload).as_posix(): path for path in payload.rglob("*") if path.is_file()}
    paths.pop(RECORD_NAME, None)  # of a try that was stopped at its last step
    files = {file: file_sha256(path) for file, path in sorted(paths.items())}
    return DataRecord(name, origin, revision, files, sum(path.stat().st_size for path in paths.values()))


def _is_readable(name: str) -> bool:
    return is_picture_name(name) or is_shard_name(name) or name.endswith((".zip", "-ubyte.gz"))


def _install(record: DataRecord, payload: Path, folder: Path) -> None:
    """Gives what was downloaded its name, in place of an earlier revision."""
    (payload / RECORD_NAME).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    earlier = folder.with_name(f".{folder.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if folder.exists():
        os.rename(folder, earlier)
    os.rename(payload, folder)
    shutil.rmtree(earlier, ignore_errors=True)


def _remove_traces(aside: Path, made: Sequence[Path]) -> None:
    """Leaves no folder of those that were made, deepest first, where nothing arrived."""
    if aside.is_dir() and not any(path.is_file() for path in aside.rglob("*")):
        shutil.rmtree(aside, ignore_errors=True)
    for path in made:
        with contextlib.suppress(OSError):  # it is gone, or something is in it
            path.rmdir()
