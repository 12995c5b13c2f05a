"""Classifier guidance in pictures: a ranker leads to what prompts name, and to nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation.batch import Batch, GenerateStep, Made
from toile.generation.guides import insisted_on
from toile.generation.memory import estimated_bytes
from toile.generation.pictures import Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage
from toile.generation_settings import ModelSettings
from toile.latent_diffusion import LatentDiffusion
from toile.model_description import describe_model
from toile.model_folder import RANKER_FOLDER, WORDS_NAME, read_model_facts
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.picture_recipe import Toward, read_recipe
from toile.ranker import Ranker
from toile.weights.files import write_json_atomically
from toile.weights.folder import save_component

PROMPT = "red dress for women"


def request(prompt: str = PROMPT, **given: object) -> GenerateRequest:
    usual = {"seed": 3, "steps": 6, "guidance": 1.0, "classifier_guidance": 0.3}
    return GenerateRequest((prompt,), **{**usual, **given})  # type: ignore[arg-type]


def made(model: LatentDiffusion, prompt: str = PROMPT, **given: object) -> list[Picture]:
    return [event for event in generate(model, request(prompt, **given)) if isinstance(event, Picture)]


def surely(model: LatentDiffusion, **given: object) -> torch.Tensor:
    """How surely pictures show what is named, made together."""
    assert model.ranker is not None
    steps = [event for event in generate(model, request(batch_size=6, **given)) if isinstance(event, GenerateStep)]
    found = model.ranker.log_probabilities(steps[-1].denoised)
    return model.ranker.answers(found, [model.ranker.wanted(PROMPT)] * steps[-1].num_rows)


def test_pictures_show_more_surely_what_is_named(ranked_model: LatentDiffusion) -> None:
    gain = surely(ranked_model, num_images=6) - surely(ranked_model, num_images=6, classifier_guidance=0.0)
    assert float(gain.mean()) > 0.5 and int((gain > 0).sum()) >= 5
    led, free = (made(ranked_model, classifier_guidance=scale)[0] for scale in (0.3, 0.0))
    assert [picture.recipe.settings.classifier_guidance for picture in (led, free)] == [0.3, 0.0]


@pytest.mark.parametrize("prompt", ["", "what else", "[red] [dress]"])
def test_where_nothing_is_named_nothing_is_changed(ranked_model: LatentDiffusion, prompt: str) -> None:
    [led], [free] = made(ranked_model, prompt), made(ranked_model, prompt, classifier_guidance=0.0)
    assert np.array_equal(led.pixels, free.pixels)


@pytest.mark.parametrize(
    "how",
    [
        {"vae_bands": True},
        {"width": 48, "height": 64},
        {"hires_scale": 2.0},
        {"sampler": "heun"},
        {"maps": True},
        {"guidance": 3.0, "tgate": 0.5, "deepcache": 2},
        {"original": "maroon dress"},
    ],
    ids=str,
)
def test_it_goes_with_every_other_way(ranked_model: LatentDiffusion, how: dict[str, object], tmp_path: Path) -> None:
    [led], [free] = made(ranked_model, **how), made(ranked_model, classifier_guidance=0.0, **how)  # type: ignore[arg-type]
    assert led.pixels.shape == free.pixels.shape and not np.array_equal(led.pixels, free.pixels)
    led.save(tmp_path / "a.png")
    assert replay(tmp_path / "a.png", ranked_model).identical


def test_memory_for_the_way_back_is_counted(
    ranked_model: LatentDiffusion, classifier: AttributeClassifier, tmp_path: Path
) -> None:
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "several"))
    shutil.rmtree(folder / RANKER_FOLDER)
    for number in range(12):
        save_component(folder / RANKER_FOLDER / str(number), classifier, classifier.config, {}, torch.float32)
    model = LatentDiffusion.load(folder, device="cpu", dtype="float32")
    usual = replace(model.defaults, batch_size=64, guidance=1.0)
    led = replace(usual, classifier_guidance=0.1)
    assert estimated_bytes(model, led) > 1.2 * estimated_bytes(model, usual)
    assert estimated_bytes(ranked_model, led) == estimated_bytes(ranked_model, usual)  # one is less than the U-Net
    large = replace(led, width=10 * led.width, height=10 * led.height)  # shrunk for them: all else decides
    assert estimated_bytes(model, large) == estimated_bytes(model, replace(large, classifier_guidance=0.0))


def test_noise_is_the_same_each_time_and_another_for_each_classifier(ranker: Ranker) -> None:
    several = Ranker(ranker.classifiers * 2, ranker.reader)
    latents = torch.randn(3, 4, 8, 6)
    once, again = (several.log_probabilities(latents, 0.3)["gender"] for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, ranker.log_probabilities(latents, 0.3)["gender"])
    torch.testing.assert_close(
        several.log_probabilities(latents)["gender"], ranker.log_probabilities(latents)["gender"]
    )
    torch.testing.assert_close(once[1:2], several.log_probabilities(latents[1:2], 0.3)["gender"])


def test_who_names_nothing_is_not_changed_by_others_in_the_batch(ranked_model: LatentDiffusion) -> None:
    together = GenerateRequest((PROMPT, "a a"), 3, steps=6, batch_size=2, classifier_guidance=0.3)
    free = replace(together, classifier_guidance=0.0)
    led, alone = (
        [event for event in generate(ranked_model, request) if isinstance(event, Picture)]
        for request in (together, free)
    )
    assert not np.array_equal(led[0].pixels, alone[0].pixels)
    assert np.array_equal(led[1].pixels, alone[1].pixels)


def test_a_picture_is_replayed_to_the_bit(ranked_model: LatentDiffusion, tmp_path: Path) -> None:
    for number, picture in enumerate(made(ranked_model, num_images=3, batch_size=2)):
        picture.save(tmp_path / f"{number}.png")
        assert read_recipe(tmp_path / f"{number}.png") == picture.recipe
        assert replay(tmp_path / f"{number}.png", ranked_model).identical


def test_a_model_without_a_ranker_says_so(
    ranked_model: LatentDiffusion, tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    [wished], [free] = made(tiny_model), made(tiny_model, classifier_guidance=0.0)
    assert np.array_equal(wished.pixels, free.pixels) and wished.recipe.settings.classifier_guidance == 0
    assert "no ranker" in wished.warnings[0] and not free.warnings
    made(ranked_model)[0].save(tmp_path / "a.png")
    assert not replay(tmp_path / "a.png", tiny_model).identical
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ToileError, match="classifier_guidance"):
            made(tiny_model, classifier_guidance=wrong)


@pytest.mark.parametrize(
    ("prompt", "insisted"),
    [
        ("red dress", "red dress"),
        ("(red:1.2) dress", "red dress"),
        ("(red:0.4) dress", "dress"),
        ("red (dress:-1)", "red"),
        ("[red] [dress]", ""),
    ],
)
def test_what_weighs_less_is_not_insisted_on(ranker: Ranker, prompt: str, insisted: str) -> None:
    assert ranker.wanted(insisted_on(prompt)) == ranker.wanted(insisted)


def test_ways_between_pictures_begin_and_end_with_them(ranked_model: LatentDiffusion) -> None:
    other = "maroon dress"
    [own], [end] = made(ranked_model), made(ranked_model, other, seed=9)
    first, last = (made(ranked_model, toward=Toward(other, 9, share))[0] for share in (0.0, 1.0))
    assert np.array_equal(first.pixels, own.pixels) and np.array_equal(last.pixels, end.pixels)


def test_what_a_mask_keeps_is_kept(ranked_model: LatentDiffusion) -> None:
    [picture] = made(ranked_model, classifier_guidance=0.0)
    height, width = picture.pixels.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 255
    [repainted] = made(ranked_model, source=SourceImage(picture.pixels, mask), strength=0.9)
    assert np.array_equal(repainted.pixels[height // 2 :], picture.pixels[height // 2 :])
    assert not np.array_equal(repainted.pixels, picture.pixels)


def test_a_second_try_in_float32_is_led_too(ranked_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranked_model.origin is not None
    half = LatentDiffusion.load(ranked_model.origin, device="cpu", dtype="bfloat16")
    sample = Batch.sample

    def failing_in_half(batch: Batch, model: LatentDiffusion):  # type: ignore[no-untyped-def]
        found: Made | None = yield from sample(batch, model)
        return found if model.dtype == torch.float32 else None

    [expected] = made(ranked_model)
    monkeypatch.setattr(Batch, "sample", failing_in_half)
    [picture] = made(half)
    assert picture.warnings and np.abs(picture.pixels.astype(int) - expected.pixels).max() <= 1


def test_several_classifiers_answer_together(
    ranked_model: LatentDiffusion, classifier: AttributeClassifier, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    other = AttributeClassifier(classifier.config).eval()
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "several"))
    shutil.rmtree(folder / RANKER_FOLDER)
    for name, network in (("1", classifier), ("2", other)):
        save_component(folder / RANKER_FOLDER / name, network, network.config, {}, torch.float32)
    model = LatentDiffusion.load(folder, device="cpu", dtype="float32")
    assert model.ranker is not None
    latents = torch.randn(3, 4, 8, 6)
    mean = (classifier(latents)["gender"].softmax(1) + other(latents)["gender"].softmax(1)) / 2
    torch.testing.assert_close(model.ranker.log_probabilities(latents)["gender"].exp(), mean)
    described = [network.name for network in describe_model(folder).networks]
    assert described[-2:] == ["ranker/1", "ranker/2"]
    facts = read_model_facts(folder)
    save_component(folder / RANKER_FOLDER / "2", classifier, classifier.config, {}, torch.float32)
    assert len({facts.hash, read_model_facts(folder).hash, read_model_facts(ranked_model.origin).hash}) == 3


def test_a_folder_without_ranker_or_words_has_defaults_that_work(ranked_model: LatentDiffusion, tmp_path: Path) -> None:
    assert ranked_model.origin is not None
    led = ModelSettings(replace(ranked_model.defaults, classifier_guidance=0.2, noise_candidates=3))
    for missing in (RANKER_FOLDER, WORDS_NAME, None):
        folder = Path(shutil.copytree(ranked_model.origin, tmp_path / str(missing)))
        write_json_atomically(folder / "toile.json", led.as_json())
        if missing == RANKER_FOLDER:
            shutil.rmtree(folder / missing)
        elif missing is not None:
            (folder / missing).unlink()
        defaults = LatentDiffusion.load(folder, device="cpu", dtype="float32").defaults
        assert (defaults.classifier_guidance, defaults.noise_candidates) == (0.2 if missing is None else 0.0, 3)


def test_a_ranker_that_is_one_and_several_is_refused(ranked_model: LatentDiffusion, tmp_path: Path) -> None:
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "both"))
    shutil.copytree(folder / RANKER_FOLDER, folder / RANKER_FOLDER / "classifier")
    with pytest.raises(ToileError, match="others inside"):
        read_model_facts(folder)


@pytest.mark.parametrize("size", [(8, 8), (96, 8)])
def test_small_and_long_pictures_are_made_too(ranked_model: LatentDiffusion, size: tuple[int, int]) -> None:
    assert made(ranked_model, width=size[0], height=size[1])


def test_classifiers_of_other_labels_or_latents_are_refused(ranker: Ranker) -> None:
    other = AttributeClassifier(AttributeClassifierConfig((8, 16), 4, AttributeLabels(("Belts",))))
    with pytest.raises(ToileError, match="same labels"):
        Ranker((*ranker.classifiers, other), ranker.reader)
    of_pictures = AttributeClassifier(replace(ranker.classifiers[0].config, in_channels=3))
    with pytest.raises(ToileError, match="latents of one autoencoder"):
        Ranker((*ranker.classifiers, of_pictures), ranker.reader)


def test_a_ranker_that_learnt_other_latents_is_refused(
    ranked_model: LatentDiffusion, classifier: AttributeClassifier, tmp_path: Path
) -> None:
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "of pictures"))
    of_pictures = AttributeClassifier(replace(classifier.config, in_channels=3))
    save_component(folder / RANKER_FOLDER, of_pictures, of_pictures.config, {}, torch.float32)
    model = LatentDiffusion.load(folder, device="cpu", dtype="float32")
    with pytest.raises(ToileError, match=r"ranker looks at 3 channels, .* have 4: train it anew"):
        made(model)
    assert made(model, classifier_guidance=0.0)


def test_in_half_precision_a_ranker_sees_nearly_the_same(ranked_model: LatentDiffusion) -> None:
    assert ranked_model.origin is not None and ranked_model.ranker is not None
    half = LatentDiffusion.load(ranked_model.origin, device="cpu", dtype="bfloat16").ranker
    assert half is not None and {p.dtype for p in half.classifiers[0].parameters()} == {torch.bfloat16}
    latents = torch.randn(4, 4, 20, 16, generator=torch.Generator().manual_seed(0))
    wanted = [half.wanted("red dress for women")] * len(latents)
    gradients = []
    for ranker in (ranked_model.ranker, half):
        leaf = latents.clone().requires_grad_()
        answers = ranker.answers(ranker.log_probabilities(leaf, noise=0.3), wanted)
        assert answers.dtype == torch.float32
        gradients += torch.autograd.grad(answers.sum(), leaf)
    assert torch.cosine_similarity(gradients[0].flatten(1), gradients[1].flatten(1)).amin() > 0.99
