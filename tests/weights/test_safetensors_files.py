"""Reading safetensors: what is sound comes back bit for bit, what is not is refused before anything is allocated."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from toile.errors import ToileError
from toile.weights.files import (
    WeightsError,
    encode_tensors,
    file_sha256,
    load_tensors,
    read_header,
    read_json,
    read_metadata,
    save_tensors,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64]


def content(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start: int, stop: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (3, 4, 8), generator=generator, dtype=torch.uint8)
    patterns[..., 1::2] &= 0x3F  # no exponent of ones in any float type
    patterns[..., 0::2] &= 0x3F
    tensors = {str(dtype): patterns.view(dtype).clone() for dtype in FLOATS + INTEGERS}
    tensors["bool"] = patterns > 20
    tensors["a number"] = torch.tensor(1.5)
    tensors["nothing"] = torch.zeros(2, 0, 3)
    tensors["channels last"] = torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last)
    tensors["a view"] = torch.arange(10, dtype=torch.int32)[2:9:3]
    return tensors


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (tensor.dtype, tensor.shape), name
        bits, expected_bits = (t.contiguous().reshape(-1).view(torch.uint8) for t in (actual[name], tensor))
        assert torch.equal(bits, expected_bits), name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


# ---------------------------------------------------------------------------------------------------- round trips


def test_every_dtype_comes_back_bit_for_bit(path: Path) -> None:
    tensors = some_tensors()
    save_tensors(path, tensors, {"format": "pt", "title": "naïve ☂"})
    assert_same_bits(load_tensors(path), tensors)
    assert read_metadata(path) == {"format": "pt", "title": "naïve ☂"}


def test_the_library_reads_what_we_write_and_we_read_what_it_writes(path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in some_tensors().items()}
    save_tensors(path, tensors, {"format": "pt"})
    assert_same_bits(safetensors.torch.load_file(path), tensors)
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    assert_same_bits(load_tensors(path), tensors)


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path: Path) -> None:
    tensors, metadata = some_tensors(), {letter: letter for letter in "abcdefgh"}
    save_tensors(tmp_path / "1", tensors, metadata)
    save_tensors(tmp_path / "2", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert file_sha256(tmp_path / "1") == file_sha256(tmp_path / "2")


def test_header_tells_dtype_shape_and_place_and_tensors_are_aligned(path: Path) -> None:
    save_tensors(path, {"small": torch.zeros(3, dtype=torch.uint8), "wide": torch.zeros(2, 2)}, {})
    header = read_header(path)
    assert header["wide"].dtype == torch.float32
    assert header["wide"].shape == (2, 2)
    assert (header["wide"].start, header["wide"].stop) == (0, 16)
    assert (header["small"].start, header["small"].stop) == (16, 19)
    assert read_metadata(path) == {}


def test_loaded_tensors_can_be_changed_without_changing_the_file(path: Path) -> None:
    save_tensors(path, {"a": torch.ones(4)}, {})
    before = path.read_bytes()
    load_tensors(path)["a"].zero_()
    assert path.read_bytes() == before


def test_a_dtype_the_format_lacks_is_refused_with_the_tensor_named(path: Path) -> None:
    with pytest.raises(WeightsError, match="'waves'.*complex"):
        save_tensors(path, {"waves": torch.zeros(2, dtype=torch.complex128)}, {})
    assert not path.exists()


# ---------------------------------------------------------------------------------------------------- W1: length


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**31, 100])
def test_header_longer_than_the_file_is_refused(path: Path, length: int) -> None:
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":1}')
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_header(path)


def test_header_over_100_mb_is_refused_before_it_is_read(path: Path) -> None:
    length = 100_000_001
    with open(path, "wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(length + 8)  # sparse: takes no room on the disk
    tracemalloc.start()
    with pytest.raises(WeightsError, match="100000001 bytes, more than the allowed 100000000"):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02" + b"\0" * 7])
def test_empty_and_tiny_files_are_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_tensors(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ToileError, match="cannot read"):
            load_tensors(path)


# ---------------------------------------------------------------------------------------------------- W2: offsets


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b'.*overlaps"),
        ({"a": entry(0, 8), "b": entry(0, 12)}, "'b'.*overlaps"),
        ({"a": entry(0, 4), "b": entry(6, 12)}, "'b'.*gap of 2 bytes"),
        ({"a": entry(1, 12)}, "'a'.*gap of 1 bytes"),
        ({"a": entry(0, 13)}, "'a'.*ends at byte 13 of 12"),
        ({"a": entry(0, 11)}, "last 1 bytes belong to no tensor"),
        ({"a": entry(0, 12) | {"data_offsets": [12, 0]}}, "'a'.*data_offsets"),
        ({"a": entry(0, 12) | {"data_offsets": [-12, 0]}}, "'a'.*data_offsets"),
        ({"a": entry(0, 12) | {"data_offsets": [0]}}, "'a'.*data_offsets"),
        ({"a": entry(0, 12) | {"data_offsets": [0, 12.0]}}, "'a'.*data_offsets"),
        ({"a": entry(0, 12) | {"data_offsets": [False, 12]}}, "'a'.*data_offsets"),
        ({"a": entry(0, 12) | {"data_offsets": [2**64, 2**64 + 12]}}, "'a'.*data_offsets"),
    ],
)
def test_offsets_that_do_not_tile_the_data_are_refused(path: Path, header: dict[str, Any], fault: str) -> None:
    path.write_bytes(content(header, bytes(12)))
    with pytest.raises(WeightsError, match=fault):
        load_tensors(path)


# ---------------------------------------------------------------------------------------------------- W3: header


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{}}', "'a' appears twice"),
        (b'{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', "'dtype' appears twice"),
        (json.dumps({"a": entry(0, 4, "F33")}).encode(), "'a'.*unknown dtype 'F33'"),
        (json.dumps({"a": entry(0, 4) | {"dtype": ["U8"]}}).encode(), "'a'.*unknown dtype"),
        (json.dumps({"a": entry(0, 4, "F32", [2])}).encode(), r"'a': F32 of shape \[2\] is 8 bytes, not 4"),
        (json.dumps({"a": entry(0, 4, "U8", [2**40, 2**40])}).encode(), "'a'.*bytes, not 4"),
        (json.dumps({"a": entry(0, 4, "U8", [-2, -2])}).encode(), "'a' has shape"),
        (json.dumps({"a": entry(0, 4, "U8", [1] * 65)}).encode(), "'a' has shape"),
        (b'{"a":{"dtype":"U8","shape":[true,4],"data_offsets":[0,4]}}', "'a' has shape"),
        (b'{"a":{"dtype":"U8","shape":"4","data_offsets":[0,4]}}', "'a' has shape"),
        (b'{"a":[0,4]}', "'a' must have exactly"),
        (b'{"a":{"dtype":"U8","shape":[4]}}', "'a' must have exactly"),
        (b'{"\xff":{}}', "not UTF-8"),
        (b"{]", "not valid JSON"),
        (b'{"a":' + b"[" * 100_000, "not valid JSON"),
        (b'{"a":' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"a":NaN}', "NaN is not allowed"),
        (b'{} {"a":1}', "not valid JSON"),
        (b"[1, 2, 3]", "not a JSON object"),
    ],
)
def test_headers_that_are_malformed_are_refused(path: Path, header: bytes, fault: str) -> None:
    path.write_bytes(content(header, bytes(4)))
    with pytest.raises(WeightsError, match=fault):
        load_tensors(path)


@pytest.mark.parametrize("metadata", [[], {"a": 1}, "text"])
def test_metadata_other_than_text_is_refused(path: Path, metadata: Any) -> None:
    path.write_bytes(content({"__metadata__": metadata}))
    with pytest.raises(WeightsError):
        read_metadata(path)
    with pytest.raises(WeightsError):
        load_tensors(path)


# ---------------------------------------------------------------------------------------------------- W4: pickles


class Trap:
    """Touches a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["model.safetensors", "MODEL.SAFETENSORS", "model.SafeTensors", "model.bin"])
@pytest.mark.parametrize("kind", ["pickle 0", "pickle 2", "pickle 4", "pickle 5", "torch zip", "torch legacy"])
def test_a_pickle_is_refused_by_content_and_never_run(tmp_path: Path, name: str, kind: str) -> None:
    path, sprung = tmp_path / name, tmp_path / "sprung"
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=int(kind[-1])))
    else:
        buffer = io.BytesIO()
        torch.save({"state_dict": Trap(sprung)}, buffer, _use_new_zipfile_serialization=kind == "torch zip")
        path.write_bytes(buffer.getvalue())
    expected = {"pickle 0": "not a safetensors file", "torch zip": "a zip archive"}.get(kind, "a Python pickle")
    with pytest.raises(WeightsError, match=expected):
        load_tensors(path)
    assert not sprung.exists()


def test_a_sound_file_whose_header_length_looks_like_a_pickle_is_read(path: Path) -> None:
    header = json.dumps({"a": entry(0, 4)}).encode().ljust(0x0480)  # its first bytes are 80 04
    path.write_bytes(content(header, b"abcd"))
    assert path.read_bytes()[:2] == b"\x80\x04"
    assert bytes(load_tensors(path)["a"].tolist()) == b"abcd"


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"), (b"<!DOCTYPE html><html></html>", "web page")],
)
def test_other_content_is_named(path: Path, data: bytes, name: str) -> None:
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=name):
        load_tensors(path)


# ---------------------------------------------------------------------------------------------------- W8: NaN


NONFINITE = [(dtype, value) for dtype in FLOATS for value in (float("nan"), float("inf"), float("-inf"))]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [pair for pair in NONFINITE if pair[0] != torch.float8_e4m3fn or pair[1] != pair[1]],  # that type has NaN only
)
def test_nan_and_infinity_are_refused_unless_allowed(path: Path, dtype: torch.dtype, value: float) -> None:
    bad = torch.zeros(1000)
    bad[617] = value
    bad = bad.to(dtype)
    save_tensors(path, {"good": torch.ones(3), "bad.weight": bad}, {})
    assert torch.equal(load_tensors(path, allow_nonfinite=True)["bad.weight"].view(torch.uint8), bad.view(torch.uint8))
    with pytest.raises(WeightsError, match="'bad.weight' holds NaN or infinity"):
        load_tensors(path)


# ---------------------------------------------------------------------------------------------------- any bytes

SOUND = b"".join(encode_tensors({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(5, dtype=torch.uint8)}, {}))


def load_or_refuse(folder: Path, data: bytes) -> None:
    """Either refused by our error, or accepted with exactly what the format's own library reads."""
    path = folder / "any.safetensors"
    path.write_bytes(data)
    try:
        tensors = load_tensors(path, allow_nonfinite=True)
    except WeightsError as error:
        assert "\n" not in str(error)
        return
    assert_same_bits(tensors, safetensors.torch.load(data))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_get_past_the_checks(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    load_or_refuse(tmp_path_factory.getbasetemp(), data)
    load_or_refuse(tmp_path_factory.getbasetemp(), content(b"{" + data, bytes(16)))


@given(st.integers(0, len(SOUND) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    data = bytearray(SOUND)
    data[position] ^= change
    load_or_refuse(tmp_path_factory.getbasetemp(), bytes(data))


@given(st.integers(0, len(SOUND) - 1))
def test_any_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(SOUND[:length])
    with pytest.raises(WeightsError):
        load_tensors(path)


SIZES = st.integers(-1, 30)


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.builds(
            lambda dtype, shape, start, stop: {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]},
            st.sampled_from(["U8", "F16", "F32", "F7", "BOOL"]),
            st.lists(SIZES, max_size=3),
            SIZES,
            SIZES,
        ),
        max_size=3,
    ),
    st.integers(0, 30),
)
def test_any_offsets_and_shapes_are_refused_or_sound(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], num_bytes: int
) -> None:
    load_or_refuse(tmp_path_factory.getbasetemp(), content(header, b"\x01" * num_bytes))


# ---------------------------------------------------------------------------------------------------- JSON


def test_json_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": [1, 2.5, null]}')
    assert read_json(path) == {"a": [1, 2.5, None]}
    for text, fault in {'{"a": 1, "a": 2}': "'a' appears twice", "[1]": "object", "{,}": "not valid JSON"}.items():
        path.write_text(text)
        with pytest.raises(WeightsError, match=fault):
            read_json(path)
    with pytest.raises(WeightsError, match="cannot read"):
        read_json(tmp_path / "absent.json")
