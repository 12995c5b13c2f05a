"""The networks that look at pictures: each from its files, none without them, and none that took part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_networks import (
    PUBLISHED,
    FeatureNetwork,
    LoadedNetwork,
    find_judge,
    fitted,
    open_feature_network,
    refuse_partial,
)
from toile.evaluation.features import load_evaluator, observe, same_held_out
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.models.dinov2 import Dinov2Config, Dinov2Model
from toile.models.inception import InceptionConfig, InceptionV3
from toile.weights.files import save_tensors
from toile.weights.folder import save_component
from toile.weights.provenance import Provenance, read_provenance, weights_sha256

FROZEN = {
    "attributes": ("3ddd421c71dd666c56c58dd17fa8c8f2dc169391dd14e3e78e93eb43fcd92984", 256),
    "words": ("bae42d55e1a3f818db061248b8072c24452a4bf2089f28a7148a9c8372c0956b", 192),
}


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(seed)).byte()


def network(digest: str = "aa", trained_on: str | None = None, others: frozenset[str] = frozenset()) -> FeatureNetwork:
    return LoadedNetwork(
        "judge", digest, 3, "", lambda pixels: pixels, lambda x: x.float().mean((1, 2)), trained_on, others
    )


@pytest.fixture
def classifier() -> AttributeClassifier:
    torch.manual_seed(0)
    labels = AttributeLabels(("Shirts", "Jeans"), ("Red", "Blue"))
    return AttributeClassifier(AttributeClassifierConfig((4, 8), 2, labels, trained_on="data:16x20:0:9")).eval()


@pytest.mark.parametrize("name", FROZEN)
def test_shipped_judges_are_the_frozen_ones(name: str) -> None:
    """Scores are comparable only while the judges stay as they are: new ones need new names."""
    judge, (digest, width) = open_feature_network(name), FROZEN[name]
    known = read_provenance(find_judge(name))
    assert (judge.name, judge.sha256, judge.feature_dim) == (name, digest, width)
    assert known is not None and known.took_part and judge.made_of == {digest} | known.took_part
    assert judge.trained_on is not None and same_held_out(judge.trained_on, known.held_out)
    assert "64x80" in judge.preparation and (find_judge(name) / "README.md").is_file()
    seen = judge.features(pictures(3, 80, 64))
    assert seen.shape == (3, width) and seen.dtype == torch.float32 and bool(seen.isfinite().all())


@pytest.mark.parametrize("spec", ["attributes", "words", "random"])
def test_batches_change_nothing_and_sizes_are_fitted(spec: str) -> None:
    judge, whole = open_feature_network(spec), pictures(5, 80, 64)
    expected = judge.features(whole)
    torch.testing.assert_close(judge.features(whole, batch_size=2), expected, rtol=1e-4, atol=1e-5)
    assert not expected.requires_grad and bool((expected[0] - expected[1]).abs().max() > 0.01)
    with pytest.raises(ToileError, match="no pictures"):
        judge.features(whole[:0])
    if spec != "random":
        narrow = torch.full((1, 80, 64, 3), 255, dtype=torch.uint8)
        narrow[:, :, 2:62] = whole[:1, :, 2:62]
        torch.testing.assert_close(judge.features(whole[:1, :, 2:62]), judge.features(narrow))


def test_fitting_scales_until_two_sides_touch_and_pads_with_white() -> None:
    black = torch.zeros(1, 10, 10, 3, dtype=torch.uint8)
    seen = fitted(black, 64, 80)
    assert seen.shape == (1, 80, 64, 3)
    assert bool((seen[0, 8:72] == 0).all()) and bool((seen[0, :8] == 255).all()) and bool((seen[0, 72:] == 255).all())


def test_the_random_network_depends_on_nothing_but_its_seed() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = open_feature_network("random")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = open_feature_network("random")
    assert first.sha256 == second.sha256 and first.feature_dim == 256 and first.trained_on is None
    pixels = pictures(2, 24, 16)
    assert torch.equal(first.features(pixels), second.features(pixels))


def test_another_judge_has_its_hash_in_its_name(classifier: AttributeClassifier, tmp_path: Path) -> None:
    save_component(tmp_path, classifier, classifier.config, {"_class_name": "AttributeClassifier"}, torch.float32)
    judge, pixels = open_feature_network(f"attributes={tmp_path}"), pictures(4, 20, 16)
    assert judge.name == f"attributes:{judge.sha256[:8]}" and judge.sha256 == weights_sha256(tmp_path)
    assert judge.trained_on == "data:16x20:0:9" and judge.preparation.startswith("16x20, ")
    torch.testing.assert_close(judge.features(pixels), observe(classifier, pixels).features)
    assert judge.features(pictures(2, 50, 70)).shape == (2, 8)


@pytest.mark.slow
def test_inception_is_read_from_the_file_that_is_published(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = InceptionV3(InceptionConfig()).state_dict()
    path = tmp_path / "inception.pth"
    torch.save({name: value for name, value in weights.items() if "num_batches" not in name}, path)
    judge = open_feature_network(f"inception={path}")
    seen = judge.features(pictures(3, 80, 64), batch_size=2)
    assert seen.shape == (3, judge.feature_dim) == (3, 2048) and bool((seen >= 0).all())
    assert judge.preparation == "bilinear without antialias to 299x299, stretched, [-1, 1]"
    save_tensors(tmp_path / "short.safetensors", {"fc.bias": torch.zeros(1008)}, {})
    with pytest.raises(ToileError, match="does not fit InceptionV3"):
        open_feature_network(f"inception={tmp_path / 'short.safetensors'}")


def test_dinov2_is_given_pictures_as_its_paper_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    model = Dinov2Model(config).eval()
    save_component(tmp_path, model, config, {"model_type": "dinov2"}, torch.float32, "model.safetensors")
    judge = open_feature_network(f"dinov2={tmp_path}")
    grey = torch.full((2, 30, 20, 3), 128, dtype=torch.uint8)
    channels = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    images = ((128 / 255 - channels[0]) / channels[1]).expand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(judge.features(grey), model.pooled(model(images)))


@pytest.mark.parametrize("kind", ["inception", "clip", "dinov2", "attributes", "words"])
def test_what_is_not_there_is_said_in_one_line(kind: str, tmp_path: Path) -> None:
    for spec in (f"{kind}={tmp_path / 'absent'}", f"{kind}="):
        with pytest.raises(ToileError) as caught:
            open_feature_network(spec)
        assert "\n" not in str(caught.value) and f"{kind}=PATH" in str(caught.value)
        assert PUBLISHED.get(kind, "model/") in str(caught.value)


@pytest.mark.parametrize("spec", ["resnet", ""])
def test_unknown_networks_are_refused(spec: str) -> None:
    with pytest.raises(ToileError, match="known are attributes, words, random"):
        open_feature_network(spec)


def test_a_judge_that_took_part_is_refused() -> None:
    """Itself, or a network it is made of, as a network of the training."""
    nothing = Provenance("0.1.0", {}, "data", "data", 4)
    refuse_partial(network(), None)
    refuse_partial(network(), nothing)
    refuse_partial(network(), Provenance("0.1.0", {}, "data", "data", 4, {"vae": "bb"}))
    with pytest.raises(ToileError, match=r"took part in training what it is to judge \(as clip\)"):
        refuse_partial(network(), Provenance("0.1.0", {}, "data", "data", 4, {"vae": "bb", "clip": "aa"}))
    with pytest.raises(ToileError, match="took part"):
        refuse_partial(
            network("half", None, frozenset({"aa"})), Provenance("0.1.0", {}, "data", "data", 4, {"clip": "aa"})
        )


def test_a_judge_that_may_have_seen_the_held_out_pictures_is_refused() -> None:
    for trained_on in (None, "data", "data:learnt 12", "data:masks 3:learnt 4", "data:balanced 0.3"):
        refuse_partial(network(trained_on=trained_on), None, "data")
    for trained_on in ("", "other", "data2"):
        with pytest.raises(ToileError, match="may have seen the held-out pictures"):
            refuse_partial(network(trained_on=trained_on), None, "data")


def test_what_looks_at_latents_is_no_judge(tmp_path: Path) -> None:
    config = AttributeClassifierConfig((4, 8), 2, AttributeLabels(("Shirts",)), in_channels=8, conv_in_stride=1)
    save_component(tmp_path / "ranker", AttributeClassifier(config), config, {}, torch.float32)
    with pytest.raises(ToileError, match="looks at latents of 8 channels"):
        load_evaluator(tmp_path / "ranker")


def test_the_shipped_classifier_can_name_things() -> None:
    judge = load_evaluator(find_judge("attributes"))
    seen = observe(judge, pictures(2, 80, 64))
    assert set(seen.predictions) == {"article_type", "base_colour", "gender", "usage"}
    with pytest.raises(ToileError, match="attributes and words"):
        find_judge("faces")
