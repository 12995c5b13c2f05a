"""One file from the web: whole and as published, or not there at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from toile.data.download import download_file
from toile.errors import WorkFailedError

CONTENT = bytes(range(256)) * 3000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def get(web: Any, path: Path, digest: str = DIGEST) -> list[float]:
    web.files["/file"] = CONTENT
    return list(download_file(web.address + "/file", path, digest))


def test_a_file_arrives_whole_with_its_share_on_the_way(web: Any, tmp_path: Path) -> None:
    shares = get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert get(web, tmp_path / "file") == [] and len(web.asked) == 1  # it is there, so nothing is asked for


def test_a_second_try_goes_on_where_the_first_broke_off(web: Any, tmp_path: Path) -> None:
    web.breaks_after = 300_001
    with pytest.raises(WorkFailedError, match="broke off after 300,001 of 768,000 bytes; a second try goes on"):
        get(web, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    web.breaks_after = None
    assert get(web, tmp_path / "file")[0] > 300_001 / 768_000
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.asked == [("/file", ""), ("/file", "bytes=300001-")]


def test_a_server_without_ranges_sends_all_again(web: Any, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(b"other")
    web.with_ranges = False
    get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_beginning_that_was_whole_already_is_not_asked_for_twice(web: Any, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(CONTENT)
    get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_file_than_was_published_is_not_kept(web: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkFailedError, match="is not what was published"):
        get(web, tmp_path / "file", "0" * 64)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file.partial").write_bytes(b"the beginning of something else")
    with pytest.raises(WorkFailedError, match="is not what was published"):
        get(web, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    get(web, tmp_path / "file")  # and so the next try begins anew
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_part_than_asked_for_is_refused(web: Any, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(CONTENT[:100])
    web.headers["/file"] = {"Content-Range": "bytes 0-767999/768000"}
    web.with_ranges = False
    get(web, tmp_path / "file")  # a whole answer counts as whole whatever that header says
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_cannot_be_had_is_one_line(web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkFailedError, match="/absent cannot be downloaded: the server answers 404"):
        list(download_file(web.address + "/absent", tmp_path / "file", DIGEST))
    with pytest.raises(WorkFailedError, match="http://127.0.0.1:9/file cannot be reached"):
        list(download_file("http://127.0.0.1:9/file", tmp_path / "file", DIGEST))

    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(1, 1, 1000))
    with pytest.raises(WorkFailedError, match="0.00 GB do not fit into"):
        get(web, tmp_path / "file")
    monkeypatch.setattr("toile.data.download.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(1, 1, 10**12))
    with pytest.raises(WorkFailedError, match="more than 1,000 bytes; refused"):
        get(web, tmp_path / "file")
    assert not (tmp_path / "file").exists()
