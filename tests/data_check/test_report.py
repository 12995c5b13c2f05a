"""The report: nothing in it runs, nothing that was there is overwritten, lists name the right records."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from toile.data.sources import open_source
from toile.data_check.doctor import check_source
from toile.data_check.findings import Diagnosis, printable
from toile.data_check.reader import load_reader
from toile.data_check.report import check_report_folder, write_report
from toile.errors import ToileError


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "<b>data"
    folder.mkdir()
    for number, name in enumerate(["<script>alert(1)<", "b'\"&", "\u202eevil\x07", "line\nbreak"]):
        Image.new("RGB", (80, 90), (60 * number, 20, 200)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a <img src=x onerror=alert(1)> None shoes", encoding="utf-8")
    return folder


def report(folder: Path, out: Path, tiny_folder: Path, fix: bool = True) -> Diagnosis:
    source = open_source(folder, "")
    *_, diagnosis = check_source(source, load_reader(str(tiny_folder)))
    assert isinstance(diagnosis, Diagnosis)
    check_report_folder(out, folder)
    write_report(out, diagnosis, source, folder, fix)
    return diagnosis


def test_text_from_the_data_stays_text(hostile_folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    report(hostile_folder, tmp_path / "out", tiny_folder)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    tags = set(re.findall(r"<(\w+)", page))
    assert not tags & {"script", "b", "iframe", "link", "object"} and "onerror=alert(1)&gt;" in page
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'<img[^>]* src="([^"]*)', page))
    assert "default-src 'none'" in page and not re.search(r"https?:", page)
    assert "\u202e" not in page and "\x07" not in page


def test_the_page_shows_the_pictures_of_the_cases(sick_folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    report(sick_folder, tmp_path / "out", tiny_folder)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    near = page[page.index("Near-duplicate pictures: 1") :].split("</div>")[0]
    encoded = re.findall(r"base64,([^\"]+)", near)
    first, second = (Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded)
    assert first.size == (84, 112) and second.size == (72, 96)


def test_the_cleaned_list_names_what_stays_and_no_name_of_two_lines(
    hostile_folder: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    report(hostile_folder, tmp_path / "out", tiny_folder)
    kept = (tmp_path / "out" / "kept.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert sorted(kept) == sorted(path.name for path in hostile_folder.glob("*.png") if "\n" not in path.name)


def test_findings_hold_every_case(sick_folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    diagnosis = report(sick_folder, tmp_path / "out", tiny_folder)
    stored = json.loads((tmp_path / "out" / "findings.json").read_text(encoding="utf-8"))
    assert stored["kept"] == len(diagnosis.kept) and stored["records"] == diagnosis.num_records
    counts = {finding["kind"]: len(finding["cases"]) for finding in stored["findings"]}
    assert counts == {finding.kind: finding.count for finding in diagnosis.findings}


def test_an_earlier_report_is_replaced_and_its_list_does_not_outlive_it(
    sick_folder: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    out = tmp_path / "out"
    report(sick_folder, out, tiny_folder, fix=True)
    (sick_folder / "tiny.png").unlink()
    report(sick_folder, out, tiny_folder, fix=False)
    assert sorted(path.name for path in out.iterdir()) == ["findings.json", "index.html"]
    assert "tiny.png" not in (out / "findings.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["index.html", "findings.json", "kept.txt"])
def test_files_that_are_no_report_are_not_overwritten(sick_folder: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": true}', encoding="utf-8")
    with pytest.raises(ToileError, match="no report"):
        check_report_folder(out, sick_folder)


def test_the_report_may_not_lie_in_the_data(sick_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sick_folder)
    for out in (sick_folder, sick_folder / "check", tmp_path / "link" / "check"):
        with pytest.raises(ToileError, match="inside the data"):
            check_report_folder(out, sick_folder)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ToileError, match="is a file"):
        check_report_folder(tmp_path / "file", sick_folder)


def test_texts_from_anywhere_can_be_shown() -> None:
    assert printable("a\x1b[31m\udc80b\n") == "a\ufffd[31m\ufffdb\ufffd"
    assert printable("x" * 300, 10) == "xxxxxxx..."


def test_the_page_says_what_each_picture_is_called_and_nothing_is_cut(
    sick_folder: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    (sick_folder / "copy-of-1.txt").write_text("a green hat", encoding="utf-8")
    (sick_folder / "twin.png").write_bytes((sick_folder / "palette.png").read_bytes())
    (sick_folder / "twin.txt").write_text("a grey tie", encoding="utf-8")
    diagnosis = report(sick_folder, tmp_path / "out", tiny_folder)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert all(html.escape(finding.meaning) in page for finding in diagnosis.findings if finding.count)
    cases = page[page.index("The same picture several times: 2") :].split("</div>")[:2]
    # Of the same picture with two captions one is wrong: it comes first, whatever its name.
    assert "their captions differ" in cases[0] and "their captions differ" not in cases[1]
    figures = re.findall(r'<figure><img alt="([^"]*)".*?<span class="name">([^<]*)</span><br>([^<]*)<', cases[0])
    assert sorted(figures) == [
        ("a green hat", "copy-of-1.png", "a green hat"),
        ("a red dress for women", "good-1.png", "a red dress for women"),
    ]
    missing = [finding.title for finding in diagnosis.findings if not finding.count]
    assert html.escape("; ".join(missing)) in page


def test_a_clean_data_set_is_said_to_be_clean(sick_folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    for path in sick_folder.iterdir():
        if not path.name.startswith("good"):
            path.unlink()
    report(sick_folder, tmp_path / "out", tiny_folder)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Nothing was found." in page and "<table" not in page and page.count("<h2") == 1
