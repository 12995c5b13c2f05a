"""Writing is all or nothing: a full disk or a bad folder leaves the earlier file as it was, and nothing beside it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from toile.errors import ToileError
from toile.weights.files import (
    WeightsError,
    read_json,
    save_tensors,
    write_atomically,
    write_json_atomically,
    write_pieces_atomically,
    write_text_atomically,
)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_content_is_replaced_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


def test_text_and_json(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "text", "naïve\n")
    assert (tmp_path / "text").read_bytes() == "naïve\n".encode()
    write_json_atomically(tmp_path / "json", {"a": [1, 0.1], "b": None})
    assert read_json(tmp_path / "json") == {"a": [1, 0.1], "b": None}


@pytest.mark.parametrize("value", [{"loss": float("nan")}, {"path": Path("x")}])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "json"
    write_json_atomically(path, {})
    with pytest.raises(WeightsError, match="cannot write"):
        write_json_atomically(path, value)
    assert read_json(path) == {}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {})
    before = path.read_bytes()
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(ToileError, match=r"cannot write .*weights\.safetensors: No space left on device"):
        save_tensors(path, {"a": torch.zeros(3)}, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_write_that_fails_or_is_interrupted_midway_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"earlier")

    def pieces(fault: BaseException) -> Iterator[bytes]:
        yield b"x" * 1_000_000
        assert len(os.listdir(tmp_path)) == 2  # it is being written, aside
        raise fault

    with pytest.raises(WeightsError):
        write_pieces_atomically(path, pieces(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(KeyboardInterrupt):
        write_pieces_atomically(path, pieces(KeyboardInterrupt()))
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_in_the_place_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WeightsError, match="cannot write .*out"):
        write_atomically(tmp_path / "taken" / "out", b"x")
    assert (tmp_path / "taken").read_text() == "a file"


def test_the_data_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths))[1])
    write_atomically(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, the rename, the folder
