"""The product table is read tolerantly, with exact counts, and never outside its folder (D1, D3)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from toile.data.products import ProductTable
from toile.errors import ToileError

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"


def jpeg(colour: str = "red", size: tuple[int, int] = (60, 80)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def table_zip(path: Path, table: str | bytes, pictures: dict[str, bytes], prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{prefix}styles.csv", table)
        for name, data in pictures.items():
            archive.writestr(zipfile.ZipInfo(f"{prefix}{name}"), data)
    return path


def rows(*lines: str, header: str = HEADER) -> str:
    return "\n".join([header, *lines]) + "\n"


SHIRT = "1,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt"


def test_every_kind_of_drop_and_repair_is_counted_exactly(tmp_path: Path) -> None:
    table = rows(
        SHIRT,
        "2,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Shirt, with, commas",
        "3,Women,Apparel,Dress,Dresses,,NA,None,nan,",
        "4,Women,Apparel,Dress,Dresses,Red,Fall,2011,Casual,No picture",
        "1,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Again",
        ",Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Nameless",
        "../x,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Escape",
        "/etc/passwd,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Absolute",
        "C:\\x,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Drive",
        "5,Men,Apparel,Topwear",
        "",
    )
    source = ProductTable(table_zip(tmp_path / "p.zip", table, {f"images/{i}.jpg": jpeg() for i in (1, 2, 3, 5)}))
    assert [record.key for record in source.records] == ["1", "2", "3", "5"]
    assert dict(source.report.counts) == {
        "missing pictures": 1, "repeated ids": 1, "blank ids": 1, "paths outside the data root": 3,
    }  # fmt: skip
    assert dict(source.report.repaired) == {"rows with too many commas": 1, "rows with too few cells": 1}
    assert (source.report.total_read, source.report.kept, source.report.dropped) == (10, 4, 6)
    assert source.title(1) == "Shirt, with, commas"
    assert dict(source.records[2].fields) == {
        "gender": "Women", "masterCategory": "Apparel", "subCategory": "Dress", "articleType": "Dresses",
    }  # fmt: skip
    assert source.title(2) == ""
    summary = source.report.summary()
    assert "10 read, 4 kept, 6 dropped" in summary and "3 paths outside the data root (such as ../x" in summary


def test_broken_quotes_do_not_swallow_the_next_row(tmp_path: Path) -> None:
    table = rows(
        '1,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,"Broken',
        '2,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,"Quoted, with comma"',
        "3,Men,Apparel,Topwear,Shirts,Red,Fall,2011,Casual,Strange\u2028line\x0bends",
    )
    source = ProductTable(table_zip(tmp_path / "p.zip", table, {f"images/{i}.jpg": jpeg() for i in (1, 2, 3)}))
    assert [source.title(index) for index in range(3)] == ["Broken", "Quoted, with comma", "Strange line ends"]
    assert source.report.dropped == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_marks_and_other_encodings(tmp_path: Path, encoding: str) -> None:
    table = rows(SHIRT.replace("Turtle", "Caf\u00e9")).replace("\n", "\r\n").encode(encoding)
    source = ProductTable(table_zip(tmp_path / "p.zip", table, {"images/1.jpg": jpeg()}))
    assert source.title(0).startswith("Caf\u00e9 Check")
    assert "\ufeff" not in "".join(source.records[0].fields)


def test_backslashes_depth_and_other_endings(tmp_path: Path) -> None:
    picture = jpeg("blue")
    source = ProductTable(
        table_zip(tmp_path / "p.zip", rows(SHIRT), {"images\\1.PNG": picture, "__MACOSX/._1.jpg": b""}, "data/")
    )
    assert source.read_picture(0) == picture


def test_a_column_of_paths_is_followed_inside_the_folder(tmp_path: Path) -> None:
    table = rows("7,Men,Shirts,pictures\\a.jpg", "8,Men,Shirts,..\\a.jpg", header="ID,Gender,articletype,Image")
    source = ProductTable(table_zip(tmp_path / "p.zip", table, {"pictures/a.jpg": jpeg()}))
    assert [record.key for record in source.records] == ["7"]
    assert source.records[0].fields["gender"] == "Men" and source.records[0].fields["articleType"] == "Shirts"
    assert source.report.counts["paths outside the data root"] == 1


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(jpeg())
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "styles.csv").write_text(rows(SHIRT, SHIRT.replace("1,", "2,", 1)))
    (data / "images" / "1.jpg").write_bytes(jpeg())
    (data / "images" / "2.jpg").symlink_to(outside)
    source = ProductTable(data)
    assert [record.key for record in source.records] == ["1"]
    assert source.report.counts["missing pictures"] == 1
    (data / "images" / "1.jpg").unlink()
    (data / "images" / "1.jpg").symlink_to(outside)
    with pytest.raises(ToileError, match="outside"):
        source.read_picture(0)


def test_identity_follows_the_content_not_the_name(tmp_path: Path) -> None:
    first = ProductTable(table_zip(tmp_path / "a.zip", rows(SHIRT), {"images/1.jpg": jpeg()})).identity
    assert ProductTable(table_zip(tmp_path / "b.zip", rows(SHIRT), {"images/1.jpg": jpeg()})).identity == first
    assert ProductTable(table_zip(tmp_path / "c.zip", rows(SHIRT), {"images/1.jpg": jpeg("blue")})).identity != first
    assert ProductTable(table_zip(tmp_path / "d.zip", rows(SHIRT + "!"), {"images/1.jpg": jpeg()})).identity != first


def test_useless_tables_say_why(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="no `id` column"):
        ProductTable(table_zip(tmp_path / "a.zip", "name,colour\nx,y\n", {}))
    with pytest.raises(ToileError, match="no usable product: 1 read, 0 kept, 1 dropped: 1 missing pictures"):
        ProductTable(table_zip(tmp_path / "b.zip", rows(SHIRT), {}))
    with pytest.raises(ToileError, match="no `id` column"):
        ProductTable(table_zip(tmp_path / "c.zip", b"", {}))
    (tmp_path / "d.zip").write_bytes(b"not a zip")
    with pytest.raises(ToileError, match="cannot be read as a zip"):
        ProductTable(tmp_path / "d.zip")
