"""Pictures without labels, such as paintings: what can be measured is, and the rest is named, never made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from toile.cli.main import run
from toile.errors import ToileError
from toile.evaluation.asking import data_for
from toile.evaluation.contestants import Contestant, FolderContestant, OneShotContestant
from toile.evaluation.feature_networks import open_feature_network
from toile.evaluation.judges import refuse_unfit
from toile.one_shot import OneShotModel
from toile.training.pictures import DataConfig, PictureSet
from toile.user_folders import CACHE_VARIABLE
from toile.weights.provenance import Provenance

SIDE, NUM = 16, 400


def paint(folder: Path, first: int, num: int, striped: bool = False) -> Path:
    """Coarse random fields of colour with some grain; striped ones lie under stripes that none of the others has."""
    folder.mkdir(parents=True)
    for number in range(first, first + num):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(60, 220, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        pixels = np.clip(np.asarray(coarse) + rng.normal(0, 10, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
        if striped:
            pixels[:, ::4] = 0
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("art")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        yield paint(folder / "real", 0, NUM)


def learnt_from(paintings: Path, **data: object) -> Provenance:
    """What a training on the paintings leaves behind."""
    held_out = PictureSet(DataConfig(SIDE, SIDE, path=paintings, caption="x")).pixels_identity
    return Provenance("0.1.0", {"data": data}, held_out, held_out, 10)


def maker(*known: Provenance) -> Contestant:
    """A model of which nothing but its training matters."""
    return OneShotContestant("maker", cast(OneShotModel, None), known)


def flags(paintings: Path, out: Path, *more: str) -> list[str]:
    size = ["--data-path", str(paintings), "--size", f"{SIDE}x{SIDE}", "--device", "cpu"]
    return [*size, "--sets", "4", "--out", str(out), "--json", *more]


@pytest.mark.slow
def test_two_folders_are_compared_and_what_is_not_measured_is_named(
    paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, striped = paint(tmp_path / "fresh", NUM, 64), paint(tmp_path / "striped", NUM + 64, 64, striped=True)
    assert run(["compare", str(fresh), str(striped), *flags(paintings, tmp_path / "out")]) == 0
    facts = json.loads(capsys.readouterr().out)
    first, second = facts["entries"]
    [name] = facts["protocol"]["networks"]
    assert name.startswith("random:")  # few pictures are held out, so it has few features
    assert set(first["scores"]) >= {f"kernel[{name}]", f"precision[{name}]", f"coverage[{name}]", "mifid"}
    assert {"article_type", "base_colour", "clip_score", "not clothing", "colour_lab"}.isdisjoint(first["scores"])
    frechet = [entry["scores"][f"frechet[{name}]"]["value"] for entry in (first, second)]
    assert frechet[0] < frechet[1]
    left = " ".join(facts["left_out"])
    assert "Article, colour" in left and "no such labels" in left and "CLIP score" in left and "Audit of copies" in left
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Not measured" in page and "no such labels" in page


@pytest.mark.slow
def test_training_pictures_are_counted_as_copies_where_no_audit_is_possible(
    paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = PictureSet(DataConfig(SIDE, SIDE, path=paintings, caption=""))
    (tmp_path / "stolen").mkdir()
    for position in pictures.train[:40].tolist():
        key = pictures.records[position].key
        (tmp_path / "stolen" / Path(key).name).write_bytes((paintings / key).read_bytes())
    assert run(["evaluate", str(tmp_path / "stolen"), *flags(paintings, tmp_path / "out")]) == 0
    [entry] = json.loads(capsys.readouterr().out)["entries"]
    assert "Copies: 40 pictures look exactly like a training picture to the first network." in entry["notes"]
    assert entry["scores"]["memorisation"]["value"] == 0


@pytest.mark.slow
def test_a_model_is_asked_for_what_it_is_told(
    tiny_folder: Path, paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"{tiny_folder} steps=1 name=tiny"
    asked = ["-n", "32", "--caption", "painting of a landscape", "--trigger", "mnt"]
    assert run(["evaluate", model, *flags(paintings, tmp_path / "out", *asked)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"diversity", "vendi"} <= set(facts["entries"][0]["scores"])
    real = [entry for entry in facts["controls"] if "diversity" in entry["scores"]]
    assert len(real) == 1  # real pictures of the one caption, to read variety beside
    assert "mnt painting of a landscape" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_nobody_says_is_not_made_up(
    tiny_folder: Path, paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, named in (
        ([], "has pictures without words"),
        (["--caption", "art", "--networks", "attributes", "random"], "attributes learnt from products"),
        (["--caption", "art", "--networks", "words"], "words learnt from products"),
        (["--caption", "art", "--networks", "random", "-n", "32"], "random has 256 features"),
    ):
        assert run(["evaluate", str(tiny_folder), *flags(paintings, tmp_path / "out", *more)]) == 2
        assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recipes_of_what_learnt_from_the_pictures_say_their_words(paintings: Path) -> None:
    config = DataConfig(SIDE, SIDE, path=paintings)
    painter = maker(learnt_from(paintings, caption="a painting", trigger="mnt"))
    assert (data_for(config, [painter]).caption, data_for(config, [painter]).trigger) == ("a painting", "mnt")
    given = replace(config, caption="art", trigger="art")
    assert (data_for(given, [painter]).caption, data_for(given, [painter]).trigger) == ("art", "art")
    elsewhere = Provenance("0.1.0", {"data": {"caption": "a dress"}}, "other", "other:64x80:0:9", 10)
    assert data_for(config, [maker(learnt_from(paintings, caption="a painting"), elsewhere)]).caption == "a painting"
    for disagreed in (
        maker(elsewhere),
        maker(learnt_from(paintings, caption="b"), learnt_from(paintings, caption="c")),
    ):
        with pytest.raises(ToileError, match="say what models are asked for"):
            data_for(config, [disagreed])
    folder = FolderContestant("folder", (), ())
    assert data_for(config, [folder]).caption == ""  # nobody is asked for anything


def test_pairs_that_other_data_lack_are_no_pairs_of_theirs(paintings: Path) -> None:
    elsewhere = Provenance("0.1.0", {"data": {"unseen": ["Pink Ties"]}}, "other", "other", 10)
    assert data_for(DataConfig(SIDE, SIDE, path=paintings, caption="art"), [maker(elsewhere)]).unseen == ()


def test_the_judges_of_products_are_none_of_paintings(paintings: Path, tmp_path: Path) -> None:
    pictures = PictureSet(DataConfig(SIDE, SIDE, path=paintings, caption="art"))
    refuse_unfit(["random", "inception=FILE", f"words={tmp_path}"], pictures)  # of the user's choice
    for spec in ("attributes", "words", f"attributes={tmp_path}"):
        with pytest.raises(ToileError, match="it is no judge of them"):
            refuse_unfit([spec], pictures)


def test_a_small_random_network_is_another_network() -> None:
    whole, small = open_feature_network("random"), open_feature_network("random=16")
    assert (whole.feature_dim, small.feature_dim, small.name) == (256, 16, "random:16") and whole.sha256 != small.sha256
    assert open_feature_network("random=256").sha256 == whole.sha256
    for spec in ("random=0", "random=12", "random=512", "random=x"):
        with pytest.raises(ToileError, match="give a multiple of 8, at most 256"):
            open_feature_network(spec)
