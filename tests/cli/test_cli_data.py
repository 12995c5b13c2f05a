"""toile data, as people type it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run
from toile.data import fetch

Output = pytest.CaptureFixture[str]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures, two of them equal, one without words."""
    monkeypatch.chdir(tmp_path)
    folder = Path("pictures")
    folder.mkdir()
    for number, name in enumerate(["a [red]", "b", "copy of b", "c"]):
        colours = np.random.default_rng(min(number, 1 if number < 3 else 9)).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((66, 80), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
        if name != "c":
            (folder / f"{name}.txt").write_text("a orange [bold]dress[/bold] for women", encoding="utf-8")
    return folder


def shard_of(pictures: Path) -> bytes:
    """A tar shard of a folder of pictures."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.add(path, path.name)
    return buffer.getvalue()


def test_a_table_a_page_and_a_cleaned_list(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    assert run(["data", "check", str(pictures), "--fix", "--model", str(tiny_folder)]) == 0
    shown = capsys.readouterr().out
    assert "4 of 4 records looked at" in shown and "a [red].png" in shown
    assert "cleaned list of 3 records" in shown and "check/index.html" in shown
    assert Path("check/kept.txt").read_text(encoding="utf-8") == "a [red].png\nb.png\nc.png\n"
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_the_result_for_programs(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    arguments = ["data", "check", str(pictures), "--json", "--out", "elsewhere", "--model", str(tiny_folder)]
    assert run(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["records"] == facts["checked"] == 4 and facts["kept"] == 3
    counts = facts["counts"]
    assert (counts["same-picture"], counts["wrong-article"], counts["no-words"]) == (1, 3, 1)
    assert facts["files"]["kept"] is None and not Path("elsewhere/kept.txt").exists()
    assert Path(facts["files"]["page"]).is_file() and Path(facts["files"]["findings"]).is_file()


def test_a_caption_for_pictures_without_words(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    assert run(["data", "check", str(pictures), "--json", "--caption", "a hat", "--model", str(tiny_folder)]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["no-words"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nowhere"], "nowhere does not exist"),
        (["check", "pictures", "--limit", "0"], "limit 0"),
        (["check", "pictures", "--radius", "99"], "radius 99"),
        (["check", "pictures", "--model", "nowhere"], "nowhere"),
        (["check", "pictures", "--clip", "pictures"], "no tokenizer"),
        (["check", "pictures", "--out", "pictures/check"], "inside the data"),
        (["check", "products"], "TOILE_DATA is not set); `toile data get products` fetches it"),
        (["check", "somebody/pictures"], "somebody/pictures does not exist"),
        (["get", "shoes"], "'shoes' is no data that can be fetched; known are products, fashion-mnist, monet"),
        (["get", "fashion-mnist", "--revision", "2"], "no revisions"),
        (["get", "products"], "pip install 'toile[kaggle]'"),
        (["get", "products", "--revision", "newest"], "no version"),
        (["get", "somebody/pictures"], "pip install 'toile[hub]'"),
        (["get", "fashion-mnist", "--out", "full"], "was not made by toile data get"),
        (["check", "cut.tar"], "it was cut off; get it again"),
        (["check", "empty"], "no known kind of data"),
        (["show", "pictures", "-n", "0"], "--num 0"),
        (["show", "pictures", "--size", "big"], "big"),
        (["show", "pictures", "--out", "pictures"], "inside the data"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("TOILE_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "share")
    for library in ("kagglehub", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, library, None)
    Path("empty").mkdir()
    Path("full/fashion-mnist").mkdir(parents=True)
    Path("cut.tar").write_bytes(shard_of(pictures)[:5000])
    before = sorted(Path().rglob("*"))
    assert run(["data", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_sheet_as_a_model_would_see_it(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    (pictures / "b.txt").write_text("red " * 20, encoding="utf-8")
    arguments = ["data", "show", str(pictures), "--json", "--caption", "a hat", "--model", str(tiny_folder)]
    assert run(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    by_key = {picture["key"]: picture for picture in facts["pictures"]}
    assert list(by_key) == sorted(["a [red].png", "b.png", "copy of b.png", "c.png"])
    assert by_key["c.png"]["caption"] == "a hat" and by_key["c.png"]["cut"] == ""
    # Rows of 16 tokens, two of them for start and end.
    assert by_key["b.png"]["caption"] == " ".join(["red"] * 14) and by_key["b.png"]["cut"] == " ".join(["red"] * 6)
    with Image.open(facts["sheet"]) as sheet:
        assert sheet.width > 2 * 24 and sheet.height > 2 * 32


def test_which_pictures_are_shown_depends_on_the_seed_only(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    def drawn(seed: int) -> list[str]:
        assert (
            run(["data", "show", str(pictures), "-n", "2", "--seed", str(seed), "--json", "--model", str(tiny_folder)])
            == 0
        )
        return [picture["key"] for picture in json.loads(capsys.readouterr().out)["pictures"]]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 1
    assert len(list(Path("check").glob("data*.png"))) == 8


def test_tar_shards_are_checked_and_shown_like_any_data(pictures: Path, tiny_folder: Path, capsys: Output) -> None:
    Path("shards").mkdir()
    Path("shards/train-0000.tar").write_bytes(shard_of(pictures))
    assert run(["data", "check", "shards", "--json", "--model", str(tiny_folder)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["records"] == 4 and facts["kept"] == 3
    assert (facts["counts"]["same-picture"], facts["counts"]["no-words"]) == (1, 1)
    arguments = ["data", "show", "shards/train-0000.tar", "--json", "--caption", "a hat", "--model", str(tiny_folder)]
    assert run(arguments) == 0
    shown = {picture["key"]: picture["caption"] for picture in json.loads(capsys.readouterr().out)["pictures"]}
    assert list(shown) == ["a [red].png", "b.png", "c.png", "copy of b.png"]
    assert shown["c.png"] == "a hat" and shown["b.png"].startswith("a orange [bold]dress")


def test_data_that_is_fetched_is_found_by_its_name(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOILE_DATA", "data")
    colours = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    files = {
        "t10k-images-idx3-ubyte.gz": gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 6, 28, 28) + colours.tobytes()),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 6) + bytes(range(6))),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(fetch, "FASHION_MNIST_FILES", digests)
    # What an earlier try has brought is not asked for again, so no address is needed.
    begun = Path("data/.fashion-mnist.partial/files")
    begun.mkdir(parents=True)
    for name, content in files.items():
        (begun / name).write_bytes(content)
    assert run(["data", "get", "fashion-mnist"]) == 0
    assert "fashion-mnist was fetched" in (said := capsys.readouterr().out) and "2 files: data/fashion-mnist" in said
    assert run(["data", "get", "fashion-mnist", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["was_there"] and facts["files"] == 2 and facts["folder"] == "data/fashion-mnist"
    assert run(["data", "check", "fashion-mnist", "--json", "--model", str(tiny_folder)]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 6
    Path("data/fashion-mnist/t10k-labels-idx1-ubyte.gz").unlink()
    assert run(["data", "get", "fashion-mnist"]) == 2
    assert "t10k-labels-idx1-ubyte.gz is missing; delete it to fetch it anew" in capsys.readouterr().err


def test_a_download_that_comes_to_nothing_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("TOILE_DATA", str(tmp_path / "data"))
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens
    assert run(["data", "get", "fashion-mnist"]) == 1
    said = capsys.readouterr().err
    assert "train-images-idx3-ubyte.gz cannot be reached" in said and said.count("\n") == 1
    assert not (tmp_path / "data").exists()
