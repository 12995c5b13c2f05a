"""Fetching published data: in its place only once it is whole, found there, nothing of others' overwritten."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toile.data import fetch
from toile.data.fetch import FetchedData, FetchProgress, check_data, fetch_data
from toile.data.idx import IdxFiles
from toile.data.places import data_folder, find_data
from toile.data.sources import open_source
from toile.errors import ToileError, WorkFailedError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for data, which is not there yet."""
    monkeypatch.delenv("TOILE_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "share" / "toile" / "data"


@pytest.fixture
def mnist(web: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server with the four files of a small Fashion-MNIST."""
    files = {}
    for prefix, count in (("train", 3), ("t10k", 2)):
        pictures = struct.pack(">4B3I", 0, 0, 8, 3, count, 2, 2) + bytes(range(4 * count))
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(pictures)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(count))
    web.files.update({f"/data/{name}": content for name, content in files.items()})
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(fetch, "FASHION_MNIST_FILES", digests)
    return web


def get(name: str, web: Any = None, **settings: Any) -> FetchedData:
    addresses = {} if web is None else {"addresses": [f"{web.address}/data/"]}
    *_, last = fetch_data(name, **addresses, **settings)
    assert isinstance(last, FetchedData)
    return last


def test_fashion_mnist_is_fetched_found_and_opened(mnist: Any, place: Path) -> None:
    events = list(fetch_data("fashion-mnist", addresses=[mnist.address + "/absent/", mnist.address + "/data/"]))
    shares = [event.fraction for event in events if isinstance(event, FetchProgress)]
    assert shares == sorted(shares) and shares[-1] == 1.0
    fetched = events[-1]
    assert isinstance(fetched, FetchedData) and not fetched.was_there
    assert fetched.folder == place / "fashion-mnist" == find_data("fashion-mnist")
    assert fetched.record.files == fetch.FASHION_MNIST_FILES and fetched.record.origin == mnist.address + "/data/"
    assert os.listdir(place) == ["fashion-mnist"]
    source = open_source(find_data("fashion-mnist"))
    assert isinstance(source, IdxFiles) and len(source.records) == 5

    asked = len(mnist.asked)
    again = get("fashion-mnist", mnist)
    assert again.was_there and again.record == fetched.record and len(mnist.asked) == asked


def test_where_data_goes_and_is_looked_for(mnist: Any, place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert get("fashion-mnist", mnist, out=tmp_path / "mine").folder == tmp_path / "mine" / "fashion-mnist"
    assert not place.exists() and data_folder() == place
    monkeypatch.setenv("TOILE_DATA", str(tmp_path / "named"))
    assert get("fashion-mnist", mnist).folder == tmp_path / "named" / "fashion-mnist" == find_data("fashion-mnist")
    monkeypatch.delenv("TOILE_DATA")
    with pytest.raises(ToileError, match=r"no fashion-mnist data in .*share/toile/data .*TOILE_DATA is not set"):
        find_data("fashion-mnist")


def test_a_download_that_breaks_off_looks_like_nothing_and_goes_on(mnist: Any, place: Path) -> None:
    del mnist.files["/data/t10k-labels-idx1-ubyte.gz"]
    with pytest.raises(WorkFailedError, match="404"):
        get("fashion-mnist", mnist)
    assert os.listdir(place) == [".fashion-mnist.partial"]
    with pytest.raises(ToileError, match="no fashion-mnist data"):
        find_data("fashion-mnist")
    before = len(mnist.asked)
    mnist.files["/data/t10k-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes(2))
    get("fashion-mnist", mnist)
    assert [path for path, _ in mnist.asked[before:]] == ["/data/t10k-labels-idx1-ubyte.gz"]
    assert os.listdir(place) == ["fashion-mnist"]


def test_a_stop_in_the_middle_looks_like_nothing(mnist: Any, place: Path) -> None:
    running = fetch_data("fashion-mnist", addresses=[f"{mnist.address}/data/"])
    next(running)
    running.close()  # as when a person stops the program
    assert os.listdir(place) == [".fashion-mnist.partial"]


def test_where_nothing_arrives_nothing_is_left(place: Path) -> None:
    with pytest.raises(WorkFailedError, match="cannot be reached.*cannot be reached"):
        list(fetch_data("fashion-mnist", addresses=["http://127.0.0.1:9/", "http://127.0.0.1:9/other/"]))
    assert not place.parents[1].exists()


def test_a_wrong_checksum_is_refused(mnist: Any, place: Path) -> None:
    mnist.files["/data/t10k-images-idx3-ubyte.gz"] = gzip.compress(b"something else")
    with pytest.raises(WorkFailedError, match="t10k-images-idx3-ubyte.gz is not what was published"):
        get("fashion-mnist", mnist)
    assert not (place / "fashion-mnist").exists()


def test_what_is_in_the_way_is_not_overwritten(mnist: Any, place: Path) -> None:
    fetched = get("fashion-mnist", mnist)
    (fetched.folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"changed")
    assert check_data(fetched.folder, fetched.record) == ["t10k-images-idx3-ubyte.gz is not what was fetched"]
    with pytest.raises(ToileError, match="was changed: t10k-images-idx3-ubyte.gz is not what was fetched; delete it"):
        get("fashion-mnist", mnist)
    (fetched.folder / "toile-data.json").write_text("{}")
    with pytest.raises(ToileError, match=r"toile-data\.json cannot be read"):
        get("fashion-mnist", mnist)
    (fetched.folder / "toile-data.json").unlink()
    with pytest.raises(ToileError, match="was not made by toile data get"):
        get("fashion-mnist", mnist)
    assert (fetched.folder / "t10k-images-idx3-ubyte.gz").read_bytes() == b"changed"


@pytest.mark.parametrize("name", ["shoes", "", "../x", "a/b/c", "a/..", "/etc/x", "https://a/b", "a\\b/c"])
def test_other_names_are_refused(place: Path, name: str) -> None:
    with pytest.raises(ToileError, match="no data that can be fetched; known are products, fashion-mnist, monet"):
        list(fetch_data(name))
    assert not place.parents[1].exists()


def test_a_folder_that_cannot_be_written_is_one_line(mnist: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkFailedError, match=r"file/fashion-mnist cannot be written: Not a directory"):
        get("fashion-mnist", mnist, out=tmp_path / "file")


# ---------------------------------------------------------------------------------------------------- Kaggle


class KaggleStub(types.ModuleType):
    """In the place of kagglehub: makes the folders it would make, or fails as it would."""

    def __init__(self) -> None:
        super().__init__("kagglehub")
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.elsewhere: Path | None = None
        self.exceptions = types.ModuleType("kagglehub.exceptions")

        class KaggleApiHTTPError(Exception):
            def __init__(self, message: str, status: int) -> None:
                super().__init__(message)
                self.response = types.SimpleNamespace(status_code=status)

        class UnauthenticatedError(Exception):
            pass

        self.exceptions.KaggleApiHTTPError = KaggleApiHTTPError  # type: ignore[attr-defined]
        self.exceptions.UnauthenticatedError = UnauthenticatedError  # type: ignore[attr-defined]

    def _folder(self, handle: str, name: str) -> Path:
        print("the library writes on the standard output")
        self.asked.append(handle)
        (Path(os.environ["KAGGLEHUB_CACHE"]) / "part.archive").write_bytes(b"half")
        if self.error is not None:
            raise self.error
        return self.elsewhere or Path(os.environ["KAGGLEHUB_CACHE"]) / name

    def dataset_download(self, handle: str) -> str:
        owner_name, _, version = handle.partition("/versions/")
        folder = self._folder(handle, f"datasets/{owner_name}/versions/{version or 3}")
        (folder / "images").mkdir(parents=True)
        (folder / "styles.csv").write_text("id,articleType\n1,Shirts\n")
        Image.new("RGB", (6, 8), "red").save(folder / "images" / "1.jpg")
        return str(folder)

    def competition_download(self, handle: str) -> str:
        folder = self._folder(handle, f"competitions/{handle}")
        for part in ("monet_jpg", "photo_jpg"):
            (folder / part).mkdir(parents=True)
            Image.new("RGB", (6, 8), "red").save(folder / part / "1.jpg")
        return str(folder)


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch) -> KaggleStub:
    stub = KaggleStub()
    monkeypatch.setitem(sys.modules, "kagglehub", stub)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", stub.exceptions)
    monkeypatch.setenv("KAGGLEHUB_CACHE", "as it was")
    return stub


def test_the_products_come_from_kaggle_in_a_version(kaggle: KaggleStub, place: Path, capsys: Any) -> None:
    fetched = get("products")
    assert kaggle.asked == ["paramagarwal/fashion-product-images-small"]
    assert fetched.record.revision == "3" and set(fetched.record.files) == {"styles.csv", "images/1.jpg"}
    assert find_data("products") == fetched.folder == place / "fashion-product-images-small"
    assert len(open_source(fetched.folder).records) == 1
    assert os.listdir(place) == ["fashion-product-images-small"]
    assert os.environ["KAGGLEHUB_CACHE"] == "as it was"
    assert capsys.readouterr().out == ""  # results go there, and nothing else


def test_another_version_takes_the_place_of_the_first(kaggle: KaggleStub, place: Path) -> None:
    get("products")
    assert get("products").was_there and get("products", revision="3").was_there
    other = get("products", revision="1")
    assert not other.was_there and other.record.revision == "1" and len(kaggle.asked) == 2
    assert kaggle.asked[-1].endswith("/versions/1") and os.listdir(place) == ["fashion-product-images-small"]
    with pytest.raises(ToileError, match="'main' is no version"):
        get("products", revision="main")


def test_of_the_contest_only_the_paintings_are_kept(kaggle: KaggleStub, place: Path) -> None:
    fetched = get("monet")
    assert kaggle.asked == ["gan-getting-started"] and set(fetched.record.files) == {"1.jpg"}
    assert find_data("monet") == fetched.folder == place / "monet"
    assert len(open_source(fetched.folder, "a painting").records) == 1
    with pytest.raises(ToileError, match="monet has no revisions"):
        get("monet", revision="1")


def test_what_lies_on_kaggles_own_machines_is_copied_and_stays(kaggle: KaggleStub, place: Path, tmp_path: Path) -> None:
    kaggle.elsewhere = tmp_path / "input"
    fetched = get("products")
    assert (fetched.folder / "images" / "1.jpg").is_file() and (tmp_path / "input" / "images" / "1.jpg").is_file()


def test_refusals_of_kaggle_say_what_to_do(kaggle: KaggleStub, place: Path) -> None:
    errors = kaggle.exceptions
    for error, kind, said in [
        (errors.UnauthenticatedError(), ToileError, "asks for an account: make a token.*accept the rules"),
        (errors.KaggleApiHTTPError("no", 403), ToileError, r"is refused \(403\): make a token.*accept the rules"),
        (errors.KaggleApiHTTPError("no", 404), ToileError, "does not exist"),
        (errors.KaggleApiHTTPError("no", 500), WorkFailedError, "could not be downloaded: no"),
        (ConnectionError("no route"), WorkFailedError, "could not be downloaded: no route"),
        (OSError(28, "No space left on device"), WorkFailedError, "No space left on device"),
    ]:
        kaggle.error = error
        with pytest.raises(ToileError, match=said) as caught:
            get("monet")
        assert type(caught.value) is kind
        assert os.listdir(place) == [".monet.partial"]  # with what arrived, to go on from
        with pytest.raises(ToileError, match="no monet data"):
            find_data("monet")


def test_a_missing_library_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(ToileError, match=r"needs kagglehub: pip install 'toile\[kaggle\]'"):
        get("products")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ToileError, match=r"needs huggingface_hub: pip install 'toile\[hub\]'"):
        get("somebody/pictures")
    assert not place.parents[1].exists()
