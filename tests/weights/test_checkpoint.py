"""Files of weights are read by what they hold; what is unsafe, inflated or damaged is refused, and nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import time
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toile.weights import pickles
from toile.weights.checkpoint import METADATA_KEY, open_checkpoint
from toile.weights.files import WeightsError, save_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


class Trap:
    """Touches a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


def zip_of(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


# ---------------------------------------------------------------------------------------------------- by content


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model", "model.safetensors.ckpt"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_content_decides_whatever_the_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_tensors(path, TENSORS, {"title": "x"})
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
    checkpoint = open_checkpoint(path)
    assert checkpoint.shapes == {"a.weight": (2, 3), "b": (2,)}
    assert checkpoint.pickled == (kind != "safetensors")
    assert checkpoint.metadata == ({"title": "x"} if kind == "safetensors" else {})
    assert_same(checkpoint.load(TENSORS), TENSORS)
    assert_same(checkpoint.load(["b"]), {"b": TENSORS["b"]})


def test_a_state_dict_inside_a_trainers_file(tmp_path: Path) -> None:
    content = {"epoch": 3, "global_step": 470_000, "state_dict": OrderedDict(TENSORS), "lr_schedulers": [{"_step": 1}]}
    torch.save(content, tmp_path / "x.ckpt")
    checkpoint = open_checkpoint(tmp_path / "x.ckpt")
    assert checkpoint.global_step == 470_000
    assert_same(checkpoint.load(checkpoint.shapes), TENSORS)


def test_what_a_trainer_left_behind_is_read_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})  # type: ignore[attr-defined]
    for package in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, package, module)
    callback = module.ModelCheckpoint()
    callback.best = 0.5
    content = {
        "callbacks": {module.ModelCheckpoint: {"best_model_score": np.float64(0.25)}, "again": callback},
        "state_dict": TENSORS,
    }
    torch.save(content, tmp_path / "sd-v1-4.ckpt")
    monkeypatch.undo()
    checkpoint = open_checkpoint(tmp_path / "sd-v1-4.ckpt")
    assert_same(checkpoint.load(checkpoint.shapes), TENSORS)
    assert name not in sys.modules


def test_four_parts_and_their_metadata(tmp_path: Path) -> None:
    torch.save({"encoder": {"0.weight": TENSORS["a.weight"]}, "clip": {}, METADATA_KEY: "{}"}, tmp_path / "x.ckpt")
    checkpoint = open_checkpoint(tmp_path / "x.ckpt")
    assert checkpoint.shapes == {"encoder.0.weight": (2, 3)}
    assert checkpoint.metadata == {METADATA_KEY: "{}"}


def test_tensors_of_a_zip_file_stay_on_the_disk(tmp_path: Path) -> None:
    torch.save({"large": torch.zeros(64, 1024, 1024, dtype=torch.uint8)}, tmp_path / "x.ckpt")
    before = _resident_bytes()
    checkpoint = open_checkpoint(tmp_path / "x.ckpt")
    assert checkpoint.shapes["large"] == (64, 1024, 1024)
    assert _resident_bytes() - before < 32 * 2**20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------------------------------------------- W4, W5, W6


@pytest.mark.parametrize("name", ["x.safetensors", "X.SAFETENSORS", "x.SafeTensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_named_safetensors_is_refused_even_if_harmless(tmp_path: Path, name: str, legacy: bool) -> None:
    torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="is named a safetensors file but is a Python pickle"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_a_pickle_that_would_touch_a_file_is_refused_and_named(tmp_path: Path, protocol: int, kind: str) -> None:
    path, sprung = tmp_path / "x.ckpt", tmp_path / "sprung"
    content = {"state_dict": {**TENSORS, "trap": Trap(sprung)}}
    if kind == "bare":
        path.write_bytes(pickle.dumps(content["state_dict"]["trap"], protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    fault = (
        "wants to run '(posix|nt).mkdir', which weights never need" if protocol < 4 else "hides what it wants to run"
    )
    with pytest.raises(WeightsError, match=fault):
        open_checkpoint(path)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "torch.hub.load", "torch.load", "torch.Tensor", "numpy.load"])
def test_no_other_function_gets_through(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    program = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X\x01\x00\x00\x001\x85R."
    zip_of(tmp_path / "x.ckpt", {"x/data.pkl": program, "x/version": b"3"})
    with pytest.raises(WeightsError, match=f"wants to run '{name}'"):
        open_checkpoint(tmp_path / "x.ckpt")


def test_a_failed_read_is_not_tried_again_unsafely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, tmp_path / "x.ckpt")
    calls: list[dict[str, Any]] = []

    def failing_load(*_: Any, **options: Any) -> None:
        calls.append(options)
        raise pickle.UnpicklingError("no")

    monkeypatch.setattr(torch, "load", failing_load)
    with pytest.raises(WeightsError, match="cannot be read as PyTorch weights: no"):
        open_checkpoint(tmp_path / "x.ckpt")
    assert [call["weights_only"] for call in calls] == [True]


# ---------------------------------------------------------------------------------------------------- W7


def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    entries = {"x/data/0": bytes(100_000_000), "x/data.pkl": b"\x80\x02}."}
    path = zip_of(tmp_path / "bomb.ckpt", entries, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(WeightsError, match="'x/data/0' is compressed, to .* of 100,000,000 bytes"):
        open_checkpoint(path)


def test_a_million_entries_are_refused_quickly(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * 1_000_000
    end_64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, len(directory), 4
    ) + struct.pack("<4sLQL", b"PK\x06\x07", 0, 4 + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path = tmp_path / "many.ckpt"
    path.write_bytes(b"PK\x03\x04" + directory + end_64 + end)
    start = time.process_time()
    with pytest.raises(WeightsError, match="1,000,000 entries"):
        open_checkpoint(path)
    assert time.process_time() - start < 0.5
    lying = end[:10] + struct.pack("<HL", 3, len(directory)) + end[16:]  # says 3 entries in the same directory
    path.write_bytes(b"PK\x03\x04" + directory + lying)
    with pytest.raises(WeightsError, match="3 entries"):
        open_checkpoint(path)


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.ckpt", {"x/data.pkl": b"\x80\x02}.", "x/data/0": bytes(1000), "x/data/1": bytes(1000)})
    content = path.read_bytes()
    for old, new in ((b"x/data/1", b"x/data/2"),):
        assert content.count(old) == 2
        content = content.replace(old, new)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    with pytest.raises(WeightsError, match="overlap"):
        pickles._check_entries(entries, 1500, path)


def test_a_tensor_that_repeats_a_few_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"wide": torch.zeros(1).expand(10**12)}, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match="'wide' claims 4,000,000,000,000 bytes"):
        open_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_storage_that_claims_more_than_the_file_has_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.zeros(77)}, path, _use_new_zipfile_serialization=not legacy)
    claim = path.read_bytes().replace(b"K\x4d", b"M\xff\xff")  # 77 as a byte -> 65535 as two bytes
    if not legacy:
        with zipfile.ZipFile(path) as archive:
            contents = {entry: archive.read(entry) for entry in archive.namelist()}
        contents = {name: content.replace(b"K\x4d", b"M\xff\xff") for name, content in contents.items()}
        zip_of(path, contents)
    else:
        path.write_bytes(claim)
    with pytest.raises(WeightsError):
        open_checkpoint(path)


def test_a_pickle_of_endless_operations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 1000)
    zip_of(tmp_path / "x.ckpt", {"x/data.pkl": b"\x80\x02" + b"N0" * 1000 + b"}."})
    with pytest.raises(WeightsError, match="more than 1,000 operations"):
        open_checkpoint(tmp_path / "x.ckpt")


# ---------------------------------------------------------------------------------------------------- damaged, W8


@pytest.mark.parametrize("legacy", [False, True])
def test_any_truncation_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError):
            open_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_any_changed_byte_is_refused_or_read(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x15]) + content[position + 1 :])
        try:
            open_checkpoint(path)
        except WeightsError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_nan_and_infinity_are_refused_unless_allowed(tmp_path: Path, value: float, kind: str) -> None:
    tensors = {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}
    path = tmp_path / "x"
    if kind == "zip":
        torch.save(tensors, path)
    else:
        save_tensors(path, tensors, {})
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.load(["good"])) == {"good"}
    with pytest.raises(WeightsError, match="'bad' holds NaN or infinity"):
        checkpoint.load(["good", "bad"])
    assert set(checkpoint.load(["bad"], allow_nonfinite=True)) == {"bad"}


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text"])
def test_what_holds_no_names_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match="not tensors with names"):
        open_checkpoint(tmp_path / "x.ckpt")


def test_torchscript_other_archives_and_missing_files_are_refused(tmp_path: Path) -> None:
    zip_of(tmp_path / "script.pt", {"x/data.pkl": b"\x80\x02}.", "x/constants.pkl": b"", "x/code/a.py": b""})
    with pytest.raises(WeightsError, match="TorchScript, a program"):
        open_checkpoint(tmp_path / "script.pt")
    zip_of(tmp_path / "letters.zip", {"a.txt": b"hello"})
    with pytest.raises(WeightsError, match="no file of torch.save"):
        open_checkpoint(tmp_path / "letters.zip")
    with pytest.raises(WeightsError, match="cannot read"):
        open_checkpoint(tmp_path / "absent")
