"""Idx files: headers are checked before values, classes become captions."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from toile.data.idx import IdxFiles, read_idx
from toile.data.images import open_image, pixels_of
from toile.errors import ToileError


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_pair(folder: Path, prefix: str, pictures: np.ndarray, labels: list[int], gzipped: bool = True) -> None:
    for kind, values in (("images-idx3", pictures), ("labels-idx1", np.array(labels, dtype=np.uint8))):
        name = f"{prefix}-{kind}-ubyte"
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / name).write_bytes(idx(values))


def test_both_files_in_order_with_class_names(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    write_pair(tmp_path, "train", pictures[:3], [0, 11, 9])
    write_pair(tmp_path, "t10k", pictures[3:], [1], gzipped=False)
    source = IdxFiles(tmp_path)
    assert [record.captions for record in source.records] == [("t-shirt",), ("ankle boot",), ("trousers",)]
    assert [record.fields["split"] for record in source.records] == ["train", "train", "test"]
    assert [record.key for record in source.records] == ["train/0", "train/2", "test/0"]
    assert dict(source.report.counts) == {"unknown labels": 1} and source.report.total_read == 4
    for index, original in enumerate((0, 2, 3)):
        pixels = pixels_of(open_image(source.read_picture(index)))
        assert (pixels == pictures[original][..., None]).all()
    assert source.title(0) == ""
    assert IdxFiles(tmp_path).identity == source.identity
    write_pair(tmp_path, "train", pictures[:3] ^ 1, [0, 11, 9])
    assert IdxFiles(tmp_path).identity != source.identity


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    good = idx(np.zeros((2, 3, 3), dtype=np.uint8))
    cases = {
        "not an idx": b"\0\0\x0d\x03" + good[4:],
        "only 17": good[:-1],
        "holds more": good + b"\0",
        "at most": good[:4] + struct.pack(">3I", 2**31, 2**31, 2**31),
        "is not": b"",
    }
    for number, (words, data) in enumerate(cases.items()):
        path = tmp_path / f"{number}.idx"
        path.write_bytes(data)
        with pytest.raises(ToileError, match=words):
            read_idx(path, dimensions=3)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(good)[:-12])
    with pytest.raises(ToileError, match="cannot be read"):
        read_idx(tmp_path / "cut.gz", dimensions=3)


def test_pictures_and_labels_belong_together(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", np.zeros((3, 2, 2), dtype=np.uint8), [0, 1])
    with pytest.raises(ToileError, match="3 train pictures but 2 labels"):
        IdxFiles(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ToileError, match="no train-labels"):
        IdxFiles(tmp_path)
    with pytest.raises(ToileError, match="no idx pictures"):
        IdxFiles(tmp_path / "empty")
