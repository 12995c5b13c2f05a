"""Controls on real pictures, seen by the judges that come with the program: they say what scores can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toile.evaluation.bench import Bench, Measured
from toile.evaluation.feature_networks import ATTRIBUTES, find_judge, open_feature_network
from toile.evaluation.features import load_evaluator
from toile.evaluation.real_side import RealSide, alike_in_training, divide_real
from toile.training.pictures import DataConfig, PictureSet
from toile.user_folders import CACHE_VARIABLE

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

NUM = 400


@pytest.fixture(scope="module")
def real(shared_data: Path) -> RealSide:
    return divide_real(PictureSet(DataConfig(64, 80, path=shared_data / "fashion-product-images-small.zip")))


@pytest.fixture(scope="module")
def bench(real: RealSide, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With a part of the training pictures, to be quick."""
    real.pictures.train = real.pictures.train[::32]
    judge = load_evaluator(find_judge(ATTRIBUTES), real.pictures.pixels_identity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        made = Bench(real, [open_feature_network(ATTRIBUTES)], judge, None, num_sets=4)
        _ = made.centre
    return made


@pytest.fixture(scope="module")
def held_out(bench: Bench, real: RealSide) -> Measured:
    return bench.measure(real.pixels(real.own_positions(NUM)), real.prompts_for(NUM))


def test_held_out_pictures_are_what_was_asked_for_and_no_copies(held_out: Measured) -> None:
    assert 0.7 < held_out.scores["article_type"].value < 0.9
    assert held_out.scores["gender"].value > 0.8
    assert held_out.audit is not None and not held_out.audit.alarm
    assert abs(held_out.scores["kernel[attributes]"].value) < 15  # unbiased: around 0 for real pictures


def test_shuffled_prompts_fall_to_chance(bench: Bench, real: RealSide) -> None:
    """Chance is how often two prompts happen to ask for the same."""
    prompts = real.prompts_for(NUM)
    order = np.random.default_rng(0).permutation(NUM)
    scores = bench.faithfulness(real.pixels(real.own_positions(NUM)), [prompts[place] for place in order])
    for attribute, field in (("article_type", "articleType"), ("base_colour", "baseColour")):
        asked = [prompt.fields.get(field) for prompt in prompts]
        chance = np.mean([one == other for one in asked for other in asked])
        assert scores[attribute].low < chance + 0.03 and scores[attribute].value < 2 * chance + 0.02


def test_copies_of_training_pictures_trip_alarm_and_mifid(bench: Bench, real: RealSide, held_out: Measured) -> None:
    prompts = real.prompts_for(NUM)
    alike = alike_in_training(real, [prompt.fields for prompt in prompts], seed=0)
    copies = bench.measure(real.pixels(alike), prompts)
    assert copies.audit is not None and copies.audit.alarm
    assert copies.scores["copies"].value == 1.0 and held_out.scores["copies"].value < 0.04
    assert copies.scores["mifid"].value > 100 * held_out.scores["mifid"].value
    # In everything else they are as good as new ones.
    assert copies.scores["article_type"].value > held_out.scores["article_type"].low
