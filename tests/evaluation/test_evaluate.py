"""An evaluation from pictures to verdict, at tiny size: controls behave, copies are found, partial judges refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from toile.cli.main import run
from toile.errors import ToileError
from toile.evaluation.bench import Bench
from toile.evaluation.contestants import open_contestant
from toile.evaluation.controls import REAL_PICTURES, SHUFFLED_PROMPTS
from toile.evaluation.feature_networks import open_feature_network
from toile.evaluation.features import load_evaluator
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.real_side import RealSide, divide_real
from toile.evaluation.run import EvaluationRequest, Result, evaluate
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import score_of_pictures
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.training.pictures import DataConfig, PictureSet
from toile.user_folders import CACHE_VARIABLE
from toile.weights.folder import save_component
from toile.weights.provenance import Provenance, read_provenance

pytestmark = pytest.mark.slow

COLOURS = {"Red": (200, 30, 30), "Blue": (30, 30, 200), "Black": (20, 20, 20), "Green": (20, 160, 40)}
ARTICLES = {"Shirts": np.s_[4:28, 6:18], "Belts": np.s_[13:19, 2:22], "Ties": np.s_[2:30, 10:14]}
UNSEEN = ("Green", "Ties")
WIDTH, HEIGHT, NUM = 24, 32, 2400


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataConfig]:
    """A product table of drawn articles, none of them a green tie."""
    folder = tmp_path_factory.mktemp("products")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    pairs = [(colour, article) for colour in COLOURS for article in ARTICLES if (colour, article) != UNSEEN]
    columns = ["id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage"]
    with (folder / "styles.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*columns, "productDisplayName"])
        for number in range(NUM):
            colour, article = pairs[number % len(pairs)]
            pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
            pixels[ARTICLES[article]] = COLOURS[colour]
            moved = np.roll(pixels, tuple(rng.integers(-2, 3, 2)), axis=(0, 1))
            noisy = np.clip(moved + rng.normal(0, 4, moved.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "images" / f"{number}.jpg", quality=95)
            row = [number, "Men", "Apparel", "Topwear", article, colour, "Fall", 2011, "Casual", f"Item {number}"]
            table.writerow(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield DataConfig(WIDTH, HEIGHT, path=folder)


@pytest.fixture(scope="module")
def real(products: DataConfig) -> RealSide:
    return divide_real(PictureSet(products))


@pytest.fixture(scope="module")
def judge(real: RealSide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge of random weights, whose answers mean nothing but are always the same."""
    torch.manual_seed(0)
    labels = AttributeLabels(tuple(ARTICLES), tuple(COLOURS), ("Men", "Women"))
    config = AttributeClassifierConfig((4, 8), 2, labels, trained_on=real.pictures.identity)
    folder = tmp_path_factory.mktemp("judge") / "classifier"
    save_component(folder, AttributeClassifier(config), config, {"_class_name": "AttributeClassifier"}, torch.float32)
    return folder


@pytest.fixture(scope="module")
def bench(real: RealSide, judge: Path) -> Bench:
    return Bench(real, [open_feature_network(f"attributes={judge}")], load_evaluator(judge), None, num_sets=4)


def request_for(folder: Path, judge: Path, products: DataConfig, *specs: str) -> EvaluationRequest:
    networks = (f"attributes={judge}",)
    return EvaluationRequest(specs, folder, 40, 4, networks=networks, data=products, extras=False, device="cpu")


def result_of(request: EvaluationRequest) -> Result:
    work = evaluate(request)
    shares = []
    while True:
        try:
            shares.append(next(work).share)
        except StopIteration as end:
            assert np.all(np.diff(shares) > -1e-9) and 0 <= shares[0] <= shares[-1] <= 1
            result: Result = end.value
            return result


def test_copies_of_training_pictures_trip_the_alarm_and_held_out_ones_do_not(bench: Bench, real: RealSide) -> None:
    prompts = real.suite.prompts[:120]
    held_out = bench.measure(real.pixels(real.prompts[:120]), prompts)
    copies = bench.measure(real.pixels(real.learnt[:120]), prompts)
    assert held_out.audit is not None and not held_out.audit.alarm
    assert copies.audit is not None and copies.audit.alarm
    assert copies.scores["memorisation"].value == 0 and held_out.scores["memorisation"].value > 0
    assert copies.scores["mifid"].value > 1000 * held_out.scores["mifid"].value
    assert copies.scores["copies"].value == 1 and held_out.scores["copies"].value < 0.1


def test_identical_sets_are_at_distance_zero(bench: Bench, real: RealSide) -> None:
    reference = real.reference[: len(real.reference) // 4 * 4]
    whole = Bench(replace(real, reference=reference), bench.networks, None, None, num_sets=4)
    [name] = [network.name for network in bench.networks]
    each_alone = [Prompt("", position=number) for number in range(len(reference))]
    scores = whole.measure(real.pixels(reference), each_alone).scores
    assert scores[f"frechet[{name}]"].value == pytest.approx(0.0, abs=1e-6)


def test_fewer_pictures_than_features_are_refused(bench: Bench, real: RealSide) -> None:
    with pytest.raises(ToileError, match="has 8 features, and without one set there are 6 pictures"):
        bench.prepare(PictureSets(real.suite.prompts[:8], 4))
    with pytest.raises(ToileError, match="4 sets, one of 5 pictures"):
        bench.prepare(PictureSets(real.prompts_for(20), 4))
    bench.prepare(PictureSets([Prompt("", position=number) for number in range(24)], 4))


def test_a_reference_is_as_large_as_the_widest_network_needs(real: RealSide) -> None:
    held_out = len(real.pictures.validation) + len(real.pictures.test)
    wide = divide_real(real.pictures, 0, held_out - 30)
    assert (len(wide.prompts), len(wide.reference)) == (30, held_out - 30)
    assert not set(wide.prompts) & set(wide.reference)


def test_the_order_of_pictures_changes_nothing_but_rounding(bench: Bench, real: RealSide) -> None:
    """A folder may be sorted by article: sets made of its parts would be unlike each other."""
    prompts = sorted(real.suite.prompts[:100], key=lambda prompt: prompt.fields["articleType"])
    positions = np.array([prompt.position for prompt in prompts])
    scores = bench.measure(real.pixels(positions), prompts).scores
    name = bench.networks[0].name
    kernel, frechet = scores[f"kernel[{name}]"], scores[f"frechet[{name}]"]
    assert abs(kernel.value) < 20 and frechet.high - frechet.low < 0.2


def test_pictures_of_one_prompt_are_in_one_set_and_count_once() -> None:
    prompts = [Prompt(f"prompt {number % 10}", position=number % 10) for number in range(40)]
    sets = PictureSets(prompts, 5)
    for rows in sets.rows:
        assert len(rows) == 8 and len({prompts[row].text for row in rows.tolist()}) == 2
    each = np.array([float(number % 10 < 5) for number in range(40)])
    once, often = score_of_pictures(each[:10]), score_of_pictures(each, True, sets.prompts)
    assert (often.low, often.high) == pytest.approx((once.low, once.high)) and often.n == 40


def test_what_was_made_is_not_made_again_and_numbers_stay(
    tiny_folder: Path, judge: Path, products: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(tmp_path / "out", judge, products, f"{tiny_folder} steps=1 name=tiny")
    first = result_of(request).evaluation
    monkeypatch.setattr("toile.evaluation.contestants.generate", None)  # nothing is to be made any more
    second = result_of(request).evaluation
    assert first.facts() | {"minutes": 0} == second.facts() | {"minutes": 0}
    assert [entry.name for entry in first.controls][0] == REAL_PICTURES
    shuffled = next(entry for entry in first.controls if entry.name == SHUFFLED_PROMPTS)
    assert {first.measures[key].group for key in shuffled.scores} == {"faithfulness"}
    assert first.protocol.num_pictures == 40 and first.entries[0].scores["article_type"].n == 40


def test_an_evaluator_that_took_part_in_training_is_refused(
    tiny_folder: Path, judge: Path, products: DataConfig, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.symlink_to(tiny_folder)
    digest = open_feature_network(f"attributes={judge}").sha256
    taught = tmp_path / "taught"
    taught.mkdir()
    for part in tiny_folder.iterdir():
        (taught / part.name).symlink_to(part)
    Provenance("0.1.0", {}, "data", "split", 10, {"perceptual": digest}).write(taught)
    assert read_provenance(taught) is not None
    with pytest.raises(ToileError, match="took part in training"):
        result_of(request_for(tmp_path / "out", judge, products, str(taught)))
    assert not (tmp_path / "out").exists()  # before anything is made


def test_a_judge_of_another_split_is_refused(
    tiny_folder: Path, judge: Path, products: DataConfig, tmp_path: Path
) -> None:
    other = replace(products, split_seed=1)
    with pytest.raises(ToileError, match="may have seen the held-out pictures"):
        result_of(request_for(tmp_path / "out", judge, other, str(tiny_folder)))


def test_a_folder_of_pictures_is_judged_by_the_prompts_inside(
    tiny_folder: Path, judge: Path, products: DataConfig, real: RealSide, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(prompt.text for prompt in real.suite.prompts[:24]), encoding="utf-8")
    made = tmp_path / "made"
    flags = ["--model", str(tiny_folder), "--seed", "0", "--steps", "1", "--device", "cpu", "--batch-size", "50"]
    assert run(["generate", "--prompts-file", str(prompts), "--out", str(made), *flags]) == 0
    evaluation = result_of(
        request_for(tmp_path / "out", judge, products, str(made), f"{tiny_folder} steps=1 name=model")
    ).evaluation
    pictures, model = evaluation.entries
    assert pictures.name == "made" and evaluation.protocol.num_pictures == 24
    # The same model makes the same pictures for the same prompts and seeds: nothing can tell them apart.
    assert pictures.scores["article_type"].value == model.scores["article_type"].value
    assert not any(verdict.is_told for verdict in evaluation.verdicts)


def test_pictures_without_a_recipe_are_judged_alone(
    tiny_folder: Path, judge: Path, products: DataConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", pnginfo=PngImagePlugin.PngInfo())
    evaluation = result_of(request_for(tmp_path / "out", judge, products, str(folder))).evaluation
    assert "article_type" not in evaluation.entries[0].scores
    with pytest.raises(ToileError, match="without a recipe"):
        result_of(request_for(tmp_path / "out", judge, products, str(folder), str(tiny_folder)))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("fashion stepss=3", "'stepss=3' is no setting"),
        ("fashion steps=many", "steps takes values of type int"),
        ("fashion steps=0", "steps is 0"),
        ("nowhere", "there is no folder nowhere"),
        ("'fashion", "No closing quotation"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec: str, named: str) -> None:
    with pytest.raises(ToileError, match=named):
        open_contestant(spec, "cpu")


def test_names_must_differ(tiny_folder: Path, judge: Path, products: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="two contestants are called"):
        result_of(request_for(tmp_path / "out", judge, products, str(tiny_folder), str(tiny_folder)))


def test_the_command_writes_a_page_and_numbers(
    tiny_folder: Path,
    judge: Path,
    products: DataConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With all further suites: unseen pairs, swapped words, variety, teaching."""
    out = tmp_path / "out"
    flags = ["-n", "80", "--sets", "4", "--data-path", str(products.path), "--size", f"{WIDTH}x{HEIGHT}"]
    makers = [f"{tiny_folder} steps=1 name=one", f"{tiny_folder} steps=2 name=two"]
    networks = ["--networks", f"attributes={judge}"]
    assert run(["compare", *makers, *flags, *networks, "--out", str(out), "--device", "cpu", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((out / "evaluation.json").read_text(encoding="utf-8")) | {
        "page": str(out / "index.html")
    }
    scores = facts["entries"][0]["scores"]
    assert {"unseen_colour", "unseen_article", "swap_follows", "swap_keeps"} <= set(scores)
    assert {"diversity", "vendi", "classifier_accuracy"} <= set(scores)
    assert scores["unseen_colour"]["n"] == 1  # the green tie
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "one" in page and facts["protocol"]["id"] in page
    assert f"<h1>{facts['headline'][0]}</h1>" in page
    # A classifier that learnt from real pictures names real ones; one that learnt from noise does not.
    ceiling = next(entry for entry in facts["controls"] if entry["name"] == REAL_PICTURES)["scores"]
    assert ceiling["classifier_accuracy"]["value"] > 0.9 > scores["classifier_accuracy"]["value"]
