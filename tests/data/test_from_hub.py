"""Data sets of a hub: a stub server in the place of the real one, everything else as it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toile.data.fetch import FetchedData, fetch_data
from toile.data.from_hub import wanted_names
from toile.data.places import find_data
from toile.data.sources import open_source
from toile.errors import ToileError, WorkFailedError

ID = "somebody/pictures"
FIRST, SECOND = "0" * 39 + "1", "0" * 39 + "2"


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


FILES = {
    "README.md": b"# Pictures",
    "data/1.jpg": jpeg("red"),
    "data/metadata.jsonl": b'{"file_name": "1.jpg", "text": "red"}',
    "loader.py": b"import os",
    "data/train.parquet": b"PAR1",
}


def publish(web: Any, commit: str, files: dict[str, bytes], branch: str = "main") -> None:
    """Puts a commit on the hub; pictures are kept as large files are, the others in git."""
    for revision in (branch, commit):
        web.files[f"/api/datasets/{ID}/revision/{revision}"] = json.dumps({"id": ID, "sha": commit}).encode()
    tree = []
    for name, content in files.items():
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }
        etag = entry["oid"]
        if name.endswith(".jpg"):
            etag = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": etag, "size": len(content), "pointerSize": 130}
        tree.append(entry)
        path = f"/datasets/{ID}/resolve/{commit}/{name}"
        web.files[path] = content
        web.headers[path] = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
    web.files[f"/api/datasets/{ID}/tree/{commit}"] = json.dumps(tree).encode()


def get(web: Any, **settings: Any) -> FetchedData:
    *_, last = fetch_data(ID, endpoint=web.address, **settings)
    assert isinstance(last, FetchedData)
    return last


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOILE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_a_data_set_is_pinned_and_opens_by_its_id(web: Any, place: Path) -> None:
    publish(web, FIRST, FILES)
    with pytest.raises(ToileError, match="`toile data get somebody/pictures` fetches it"):
        find_data(ID)
    fetched = get(web)
    assert (fetched.record.revision, fetched.record.origin) == (FIRST, f"hub: {ID}")
    # Neither programs nor what toile cannot read.
    assert set(fetched.record.files) == {"README.md", "data/1.jpg", "data/metadata.jsonl"}
    assert find_data(ID) == fetched.folder == place / "hub" / ID
    assert [record.captions for record in open_source(find_data(ID)).records] == [("red",)]
    assert os.listdir(fetched.folder.parent) == ["pictures"] and ".cache" not in os.listdir(fetched.folder)


def test_what_is_there_stays_unless_another_revision_is_asked_for(web: Any, place: Path) -> None:
    publish(web, FIRST, FILES)
    get(web)
    publish(web, SECOND, FILES | {"data/1.jpg": jpeg("blue")})
    asked = len(web.asked)
    assert get(web).was_there and get(web, revision=FIRST).was_there and len(web.asked) == asked
    newer = get(web, revision="main")
    assert not newer.was_there and newer.record.revision == SECOND
    assert (newer.folder / "data" / "1.jpg").read_bytes() == jpeg("blue")
    assert os.listdir(newer.folder.parent) == ["pictures"]


@pytest.mark.parametrize("name", ["data/1.jpg", "data/metadata.jsonl"])
def test_a_file_that_is_not_the_published_one_is_refused_and_fetched_anew(web: Any, place: Path, name: str) -> None:
    publish(web, FIRST, FILES)
    web.files[f"/datasets/{ID}/resolve/{FIRST}/{name}"] = bytes(reversed(FILES[name]))
    with pytest.raises(WorkFailedError, match=f"{name} did not arrive as published"):
        get(web)
    with pytest.raises(ToileError, match="data get"):
        find_data(ID)
    publish(web, FIRST, FILES)
    assert (get(web).folder / name).read_bytes() == FILES[name]


def test_a_hub_that_falls_silent_leaves_nothing_that_looks_complete(web: Any, place: Path) -> None:
    publish(web, FIRST, FILES)
    path = f"/datasets/{ID}/resolve/{FIRST}/data/1.jpg"
    content = web.files.pop(path)
    with pytest.raises(WorkFailedError, match="could not be downloaded|did not arrive"):
        get(web)
    assert not (place / "hub" / ID).exists()
    web.files[path] = content
    assert len(get(web).record.files) == 3


def test_what_cannot_be_fetched_is_refused(web: Any, place: Path) -> None:
    with pytest.raises(ToileError, match=f"no data set {ID} at main, or it needs an account"):
        get(web)
    with pytest.raises(WorkFailedError, match="could not be downloaded"):
        list(fetch_data(ID, endpoint="http://127.0.0.1:9"))
    publish(web, FIRST, {"a.parquet": b"PAR1", "b.parquet": b"PAR1", "README.md": b""})
    with pytest.raises(ToileError, match=r"holds 2 \.parquet, 1 \.md; read are pictures, \.zip and \.tar files"):
        get(web)
    assert not place.exists()


def test_names_that_lead_outside_are_refused_before_anything_is_downloaded(web: Any, place: Path) -> None:
    publish(web, FIRST, FILES | {"../../evil.jpg": jpeg("red")})
    with pytest.raises(ToileError, match=r"'\.\./\.\./evil\.jpg', which leads outside"):
        get(web)
    assert not any("resolve" in path for path, _ in web.asked) and not place.exists()


def test_which_files_are_wanted() -> None:
    names = ["a.JPG", "train-0001.tar", "b.webp", "x/metadata.csv", "setup.py", "model.bin", "images.zip", "c.txt"]
    assert wanted_names(names, ID) == sorted(set(names) - {"setup.py", "model.bin"})
    with pytest.raises(ToileError, match="it holds nothing"):
        wanted_names([], ID)
