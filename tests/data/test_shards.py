"""Tar shards: samples by key, safe names, and nothing taken for whole that is cut off or damaged (D1, D3)."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from toile.data.idx import IdxFiles
from toile.data.shards import TarShards, sample_name
from toile.data.sources import load_pictures, open_source
from toile.data.tar_root import TarRoot
from toile.errors import ToileError


def png(colour: str, size: tuple[int, int] = (6, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(
    path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, colour: str, fields: dict[str, object] | None = None) -> list[tuple[str, bytes]]:
    """One picture as WebDataset's and img2dataset's writers have it."""
    row = {"caption": f"a {colour} square", "url": f"x/{key}", "width": 6, "exif": "{}"} | (fields or {})
    return [
        (f"{key}.json", json.dumps(row).encode()),
        (f"{key}.png", png(colour)),
        (f"{key}.txt", row["caption"].encode()),
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    write_tar(folder / "shard-000001.tar", [*sample("000000", "blue"), *sample("000001", "white")])
    write_tar(folder / "shard-000000.tar", [*sample("000000", "red"), *sample("000001", "lime", {"title": "Lime"})])
    (folder / "shard-000000_stats.json").write_text("{}")
    (folder / "metadata.csv").write_text("file_name,text\n")
    return folder


def test_shards_are_one_source_in_the_order_of_their_names(shards: Path) -> None:
    source = open_source(shards)
    assert isinstance(source, TarShards)
    assert [record.key for record in source.records] == [
        "shard-000000.tar/000000.png", "shard-000000.tar/000001.png",
        "shard-000001.tar/000000.png", "shard-000001.tar/000001.png",
    ]  # fmt: skip
    assert [record.captions for record in source.records][:2] == [("a red square",), ("a lime square",)]
    assert source.records[0].fields == {"url": "x/000000", "width": "6", "exif": "{}"}
    assert (source.title(0), source.title(1)) == ("", "Lime")
    assert source.read_picture(2) == png("blue")
    assert source.report.total_read == source.report.kept == 4
    # In any order, as a split reads them.
    pixels = load_pictures(source, 6, 8, [3, 0, 2]).pixels[:, 4, 3].tolist()
    assert pixels == [[255, 255, 255], [255, 0, 0], [0, 0, 255]]


def test_one_shard_alone_keeps_its_names(shards: Path) -> None:
    source = open_source(shards / "shard-000001.tar")
    assert [record.key for record in source.records] == ["000000.png", "000001.png"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_common_dialect_of_tar(tmp_path: Path, form: int) -> None:
    deep = "/".join(["a folder with a name of some length"] * 4)  # over 100 signs, so in a header of its own
    path = write_tar(tmp_path / "x.tar", [(f"{deep}/1.png", png("red")), (f"{deep}/1.txt", b"rot")], form)
    source = open_source(path)
    assert [(record.key, record.captions) for record in source.records] == [(f"{deep}/1.png", ("rot",))]
    assert source.read_picture(0) == png("red")


def test_keys_end_at_the_first_dot_of_the_last_part() -> None:
    assert sample_name("a.b/17.seg.PNG") == ("a.b/17", "seg.png")
    assert sample_name("17") == ("17", "")


def test_which_member_is_what(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("1.seg.png", png("black")), ("1.jpg", b"first"), ("1.png", b"second"), ("1.txt", b"one\n\n two  words \n"),
            ("1.caption", b"three"), ("1.npy", b"\0"),
            ("2.PNG", png("red")), ("2.cls", b"red dress\n"),
            ("3.png", png("red")), ("3.cls", b"7"),
            ("4.png", png("red")), ("4.json", b"{broken"), ("4.txt", b"four"),
            ("5.txt", b"no picture"),
            ("6.png", png("red")), ("6.json", json.dumps({"captions": ["six", "sechs"], "deep": {"x": 1}}).encode()),
            ("7.png", png("red")), ("7.txt", b"x" * 2_000_000),
            ("._8.png", b"mac"), ("__meta__/9.png", b"meta"), (".hidden/9.png", png("red")),
            ("1.txt", b"again"),
        ],
    )  # fmt: skip
    source = TarShards(path)
    found = {record.key: (record.captions, dict(record.fields)) for record in source.records}
    assert found == {
        "1.jpg": (("one", "two words", "three"), {}),
        "2.PNG": (("red dress",), {"cls": "red dress"}),
        "4.png": (("four",), {}),
        "6.png": (("six", "sechs"), {}),
    }
    assert source.read_picture(0) == b"first"
    assert dict(source.report.counts) == {
        "members named twice": 1, "further pictures of a sample": 1, "samples without a picture": 1,
        "pictures without words": 2,
    }  # fmt: skip
    assert source.report.examples["pictures without words"] == ("3.png", "7.png")
    assert dict(source.report.repaired) == {
        "samples without their .json, which cannot be read": 1,
        "samples without a text of more than 1,048,576 bytes": 1,
    }  # fmt: skip
    assert source.report.total_read == source.report.kept + source.report.dropped == 9
    with_caption = {record.key: record.captions for record in TarShards(path, "a thing").records}
    assert with_caption["3.png"] == ("a thing",) and with_caption["1.jpg"] == ("one", "two words", "three")


def link(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_leads_outside_is_left_out_and_counted(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png("red"))
    path = write_tar(
        tmp_path / "set" / "x.tar",
        [
            ("../secret.png", png("red")),
            (str(secret), png("red")),
            ("a/../../secret.png", png("red")),
            (link("2.png", tarfile.SYMTYPE, str(secret)), b""),
            (link("3.png", tarfile.LNKTYPE, "1.png"), b""),
            (link("4.png", tarfile.CHRTYPE), b""),
            (link("5.png", tarfile.FIFOTYPE), b""),
            (link("folder.png", tarfile.DIRTYPE), b""),
            ("1.png", png("lime")),
            ("1.txt", b"lime"),
        ],
    )
    source = open_source(path)
    assert [record.key for record in source.records] == ["1.png"]
    assert dict(source.report.counts) == {"paths outside the data root": 3, "links and devices": 4}
    with pytest.raises(ToileError, match="not allowed"):
        TarRoot(path).read("../secret.png")
    with pytest.raises(ToileError, match="is not in"):
        TarRoot(path).read("2.png")


def test_a_link_to_a_shard_outside_is_no_shard(shards: Path, tmp_path: Path) -> None:
    outside = write_tar(tmp_path / "outside.tar", sample("9", "red"))
    (shards / "shard-000009.tar").symlink_to(outside)
    assert len(open_source(shards).records) == 4


def test_a_shard_cut_off_anywhere_is_refused(shards: Path) -> None:
    path = shards / "shard-000001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in archive)
    for length in [*range(1, end + 512, 300), end, end + 511]:
        path.write_bytes(whole[:length])
        with pytest.raises(ToileError, match=r"shard-000001\.tar.*(cut off|cannot be read as a tar)"):
            open_source(shards)
    path.write_bytes(b"")
    with pytest.raises(ToileError, match=r"shard-000001\.tar cannot be read as a tar \(empty file\)"):
        open_source(shards)
    path.write_bytes(whole[: end + 512])  # some writers end with one block of zeros
    assert len(open_source(shards).records) == 4


def test_a_damaged_header_does_not_end_a_shard_early(shards: Path) -> None:
    path = shards / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"000001.json") + 3] ^= 0xFF  # the checksum of this header no longer holds
    path.write_bytes(data)
    with pytest.raises(ToileError, match="damaged or two archives in one"):
        open_source(shards)


def test_two_archives_in_one_file_are_refused(shards: Path) -> None:
    path = shards / "shard-000001.tar"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ToileError, match="two archives in one"):
        open_source(shards)


def pax(size: bytes) -> bytes:
    """An archive whose only member says in an extended header that it has another size."""
    info = tarfile.TarInfo("1.png")
    buffer = io.BytesIO()
    record = b" size=" + size + b"\n"
    length = len(record) + 2
    text = str(length).encode() + record
    info.pax_headers = {}
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(text)
    buffer.write(header.tobuf(tarfile.USTAR_FORMAT) + text.ljust(512, b"\0") + info.tobuf(tarfile.USTAR_FORMAT))
    buffer.write(bytes(10240))
    return buffer.getvalue()


@pytest.mark.parametrize("size", [b"-512", b"-1536", b"99999999"])
def test_sizes_that_contradict_the_file_are_refused(tmp_path: Path, size: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(pax(size))
    with pytest.raises(ToileError, match=r"x\.tar (is damaged|ends inside|cannot be read)"):
        TarRoot(tmp_path / "x.tar")


def test_flipped_bytes_in_headers_never_end_in_another_error_or_fewer_pictures(tmp_path: Path) -> None:
    deep = "/".join(["a folder with a name of some length"] * 4)
    names = ["1.png", f"{deep}/2.png", "3.png"]
    rng = random.Random(0)
    refused = 0
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / "x.tar", [(name, png("red")) for name in names], form)
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(8 * 512)] = rng.choice([0, 0xFF, rng.randrange(256)])
            path.write_bytes(data)
            try:
                root = TarRoot(path)
            except ToileError:
                refused += 1
                continue
            assert len(root.members) + len(root.left_out) == len(names)
            for name in root.members:
                root.read(name)
    assert 100 < refused < 450


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(1 << 32)  # the claim is true, though the file takes no place on the disk
    tracemalloc.start()
    with pytest.raises(ToileError, match="a header of 4,294,967,296 bytes"):
        TarRoot(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_huge_members_are_refused_when_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    info.size = 600 * 1024 * 1024
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(512 + info.size + 1024)
    source = TarShards(path, "a bomb")
    with pytest.raises(ToileError, match="629,145,600 bytes; refused"):
        source.read_picture(0)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar", "x.tar.zst"])
def test_compressed_shards_are_refused_with_what_to_do(shards: Path, name: str) -> None:
    data = gzip.compress((shards / "shard-000000.tar").read_bytes())
    (shards / name).write_bytes(data)
    for path in (shards, shards / name):
        with pytest.raises(ToileError, match=rf"{name} is compressed.*unpack it"):
            open_source(path)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"<!doctype html>" * 100)
    with pytest.raises(ToileError, match=r"x\.tar cannot be read as a tar"):
        open_source(tmp_path / "x.tar")


def test_a_damaged_picture_is_counted_not_fatal(tmp_path: Path) -> None:
    members = [(f"{n}.{end}", data) for n in range(100) for end, data in (("png", png("red")), ("txt", b"red"))]
    members[0] = ("0.png", png("red")[:30])
    loaded = load_pictures(open_source(write_tar(tmp_path / "x.tar", members)), 6, 8)
    assert dict(loaded.report.counts) == {"unreadable pictures": 1} and len(loaded.kept) == 99


def test_identity_changes_with_the_content_and_only_then(shards: Path) -> None:
    first = open_source(shards).identity
    assert open_source(shards).identity == first
    path = shards / "shard-000001.tar"
    time = path.stat().st_mtime_ns
    write_tar(path, [*sample("000000", "blue"), *sample("000001", "grey")])
    os.utime(path, ns=(time + 1, time + 1))
    second = open_source(shards).identity
    assert second != first
    path.rename(shards / "shard-000002.tar")
    assert open_source(shards).identity not in (first, second)


def test_a_shard_that_shrinks_afterwards_gives_an_error(shards: Path) -> None:
    source = open_source(shards)
    (shards / "shard-000001.tar").write_bytes(b"short")
    with pytest.raises(ToileError, match="became shorter"):
        source.read_picture(2)


def test_pictures_beside_a_tar_are_an_image_folder(shards: Path) -> None:
    (shards / "a.png").write_bytes(png("red"))
    (shards / "a.txt").write_text("red")
    (shards / "metadata.csv").unlink()
    assert [record.key for record in open_source(shards).records] == ["a.png"]


def test_the_shards_of_nothing_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "x.tar", [("1.png", png("red"))])
    with pytest.raises(ToileError, match=r"no usable picture.*1 pictures without words \(such as x.tar/1.png\)"):
        open_source(tmp_path / "set")
    assert open_source(tmp_path / "set", "a square").records[0].captions == ("a square",)
    with pytest.raises(ToileError, match=r"\.tar shards.*it holds a\.zip: give one of these"):
        (tmp_path / "zips").mkdir()
        (tmp_path / "zips" / "a.zip").touch()
        open_source(tmp_path / "zips")


def test_idx_files_stay_what_they_are_beside_a_tar(shards: Path) -> None:
    (shards / "t10k-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9)))
    (shards / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 1, 3)))
    assert isinstance(open_source(shards), IdxFiles)
