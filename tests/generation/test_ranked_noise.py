"""Of several noises a picture begins with the one whose sketch shows best what the prompt says, and keeps it."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.data.images import pixels_from_images
from toile.errors import ToileError
from toile.generation.batch import Batch, GenerateStep, Made, NoiseChosen
from toile.generation.noise_search import first_good
from toile.generation.pictures import Picture, generate, plan_pictures, remake
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.generation_settings import ModelSettings
from toile.latent_diffusion import LatentDiffusion
from toile.model_files.folder import read_folder
from toile.model_folder import RANKER_FOLDER
from toile.models.classifier import AttributeClassifier
from toile.picture_recipe import Toward, read_recipe
from toile.ranker import Ranker
from toile.weights.files import write_json_atomically

PROMPT = "red dress for women"
NUM = 6


def made(model: LatentDiffusion, prompt: str = PROMPT, **given: object) -> list[Picture]:
    """Made as sketches are, which are then the pictures themselves."""
    plain = {"seed": 3, "steps": 4, "guidance": 1.0, "sampler": "unipc", "spacing": "trailing", "noise_candidates": NUM}
    request = GenerateRequest((prompt,), **{**plain, **given})  # type: ignore[arg-type]
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def test_what_a_prompt_names_is_found_among_the_labels(ranker: Ranker) -> None:
    everything = {"article_type": (1,), "base_colour": (1, 2), "gender": (1,)}
    assert ranker.wanted("a burgundy frock for my wife") == everything
    assert ranker.wanted("shirt") == {"article_type": (2,)}  # all other types
    assert ranker.wanted("red and maroon") == {"base_colour": (0, 1, 2)}
    assert ranker.wanted("what else") == {}


def test_a_score_is_the_least_probability_of_what_is_named(ranker: Ranker, classifier: AttributeClassifier) -> None:
    latents = torch.randn(3, 4, 8, 6)
    outputs = {name: logits.softmax(1) for name, logits in classifier(latents).items()}
    named = outputs["article_type"][:, 1], outputs["base_colour"][:, 1:3].sum(1), outputs["gender"][:, 1]
    torch.testing.assert_close(ranker.scores(latents, "maroon dress for women"), torch.stack(named).amin(0).detach())
    assert ranker.scores(latents, "what else").tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("probabilities", "chosen", "looked_at"),
    [
        ([0.1, 0.2, 0.6, 0.9, 0.99, 0.1, 0.1, 0.1, 0.9, 0.8], 2, 8),
        ([0.1, 0.2, 0.3, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1, 0.5], 9, 10),
        ([0.1, 0.2, 0.49, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1, 0.3], 2, 10),
        ([0.7], 0, 1),
    ],
)
def test_the_first_that_is_good_is_taken_or_the_best(probabilities: list[float], chosen: int, looked_at: int) -> None:
    seen: list[float] = []

    def scores(noise: torch.Tensor) -> torch.Tensor:
        seen.extend(noise.flatten().tolist())
        return noise.flatten()

    noise = torch.tensor(probabilities, dtype=torch.float64)
    assert first_good(scores, noise.view(-1, 1, 1, 1)) == chosen
    assert seen == probabilities[:looked_at]


def test_the_picture_of_the_chosen_noise_is_made(
    ranked_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[torch.Tensor] = []
    scored = Ranker.scores

    def watched(ranker: Ranker, latents: torch.Tensor, prompt: str) -> torch.Tensor:
        looked_at.append(latents)
        return scored(ranker, latents, prompt)

    monkeypatch.setattr(Ranker, "scores", watched)
    assert ranked_model.ranker is not None
    pictures = made(ranked_model, num_images=3)
    for picture, latents in zip(pictures, looked_at, strict=True):
        chosen, seed = picture.recipe.chosen_noises, picture.recipe.seed
        others = torch.stack([_with_noise(ranked_model, picture, number) for number in range(NUM)])
        shown = pixels_from_images(ranked_model.decode_latents(latents))
        assert int((shown.int() - others.int()).abs().max()) <= 1
        scores = scored(ranked_model.ranker, latents, PROMPT).tolist()
        good = [number for number, score in enumerate(scores) if score >= 0.5]
        assert chosen == ((good or [scores.index(max(scores))])[0],), seed
        assert np.array_equal(others[chosen[0]].numpy(), picture.pixels)
    assert len({picture.recipe.chosen_noises for picture in made(ranked_model, num_images=5)}) > 1


def _with_noise(model: LatentDiffusion, picture: Picture, number: int) -> torch.Tensor:
    recipe = replace(picture.recipe, chosen_noises=(number,), batch_rows=1, batch_row=0)
    return torch.from_numpy(remake(model, recipe).pixels)


def test_the_choice_is_the_pictures_own_whatever_else_is_made(ranked_model: LatentDiffusion) -> None:
    together = made(ranked_model, num_images=3, batch_size=3)
    alone = [made(ranked_model, seed=3 + number)[0] for number in range(3)]
    assert [one.recipe.chosen_noises for one in together] == [one.recipe.chosen_noises for one in alone]


def test_replay_chooses_nothing_anew(
    ranked_model: LatentDiffusion, tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    picture = next(one for one in made(ranked_model, num_images=5) if one.recipe.chosen_noises != (0,))
    picture.save(tmp_path / "a.png")
    assert read_recipe(tmp_path / "a.png") == picture.recipe
    assert replay(tmp_path / "a.png", ranked_model).identical
    assert replay(tmp_path / "a.png", tiny_model).identical  # which has no ranker


def test_a_damaged_ranker_is_told_before_anything_is_made(ranked_model: LatentDiffusion, tmp_path: Path) -> None:
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "damaged"))
    weights = folder / RANKER_FOLDER / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    damaged = LatentDiffusion.load(folder, device="cpu", dtype="float32")
    with pytest.raises(ToileError, match="ranker"):
        plan_pictures(damaged, GenerateRequest((PROMPT,), noise_candidates=2))
    assert made(damaged, noise_candidates=1)


@pytest.mark.parametrize("prompt", ["", "what else"])
def test_where_nothing_is_named_the_first_noise_stays(ranked_model: LatentDiffusion, prompt: str) -> None:
    [searched], [plain] = made(ranked_model, prompt), made(ranked_model, prompt, noise_candidates=1)
    assert np.array_equal(searched.pixels, plain.pixels)
    assert (searched.recipe.chosen_noises, plain.recipe.chosen_noises) == ((0,), ())


def test_ways_between_pictures_begin_and_end_with_them(ranked_model: LatentDiffusion, tmp_path: Path) -> None:
    other = "maroon dress"
    [own], [end] = made(ranked_model), made(ranked_model, other, seed=9)
    first, last = (made(ranked_model, toward=Toward(other, 9, share))[0] for share in (0.0, 1.0))
    assert first.recipe.chosen_noises == (*own.recipe.chosen_noises, *end.recipe.chosen_noises)
    assert np.array_equal(first.pixels, own.pixels) and np.array_equal(last.pixels, end.pixels)
    [between] = made(ranked_model, toward=Toward(other, 9, 0.4))
    between.save(tmp_path / "a.png")
    assert replay(tmp_path / "a.png", ranked_model).identical


def test_an_edit_begins_like_the_picture_that_leads_it(ranked_model: LatentDiffusion) -> None:
    led, leading = made(ranked_model, "maroon dress", original=PROMPT, num_images=9), made(ranked_model, num_images=9)
    alone = made(ranked_model, "maroon dress", num_images=9)
    chosen = [[one.recipe.chosen_noises for one in pictures] for pictures in (led, leading, alone)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_what_a_prompt_does_not_name_is_not_looked_for(ranker: Ranker) -> None:
    # As LoRAs, learned words and prompts as written leave them: no article is drawn, and nothing is a slip of the pen.
    assert ranker.wanted("red xyz <lora:monet:0.8>") == ranker.wanted("red <my-word>") == {"base_colour": (0,)}
    assert ranker.wanted("red sirt") == {"base_colour": (0,)}


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"guidance": 5.0}, {"sampler": "heun"}, {"spacing": "karras"}, {"deepcache": 2}, {"maps": True}],
    ids=str,
)
def test_pictures_of_one_seed_begin_alike_in_other_settings(
    ranked_model: LatentDiffusion, change: dict[str, object]
) -> None:
    usual, changed = made(ranked_model, num_images=5), made(ranked_model, num_images=5, **change)
    assert [one.recipe.chosen_noises for one in usual] == [one.recipe.chosen_noises for one in changed]


@pytest.mark.parametrize("prompt", ["(red:1.4) dress for women", "red (dress:-1) for women", "[red] dress for women"])
def test_pictures_of_one_seed_begin_alike_with_other_weights(ranked_model: LatentDiffusion, prompt: str) -> None:
    usual, weighted = made(ranked_model, num_images=5), made(ranked_model, prompt, num_images=5)
    assert [one.recipe.chosen_noises for one in usual] == [one.recipe.chosen_noises for one in weighted]


def test_a_choice_that_was_none_is_refused(ranked_model: LatentDiffusion) -> None:
    [picture] = made(ranked_model)
    for numbers, message in (((NUM,), "allowed"), ((0, 1), "one for each end")):
        with pytest.raises(ToileError, match=message):
            replace(picture.recipe, chosen_noises=numbers)


def test_copies_without_the_ranker_begin_with_the_first_noise(ranked_model: LatentDiffusion, tmp_path: Path) -> None:
    searching = replace(ranked_model.defaults, noise_candidates=NUM)
    ranked = replace(ranked_model, defaults=searching, qualities={"draft": replace(searching, noise_candidates=2)})
    ranked.save(tmp_path / "copy")
    copy = LatentDiffusion.load(tmp_path / "copy", device="cpu", dtype="float32")
    assert copy.ranker is None
    assert [copy.settings_of(name).noise_candidates for name in (None, "draft")] == [1, 1]
    assert ranked_model.origin is not None
    folder = Path(shutil.copytree(ranked_model.origin, tmp_path / "ranked"))
    write_json_atomically(folder / "toile.json", ModelSettings(searching).as_json())
    settings = read_folder(folder).settings
    assert settings is not None and settings.defaults.noise_candidates == 1


def test_noises_are_chosen_before_a_batch_is_tried(
    ranked_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a second try, in float32, makes the same pictures."""
    tried: list[tuple[tuple[int, ...], ...]] = []
    sample = Batch.sample

    def watched(batch: Batch, with_model: LatentDiffusion) -> Generator[GenerateStep, None, Made | None]:
        tried.append(tuple(image.chosen_noises for image in batch.images))
        return (yield from sample(batch, with_model))

    monkeypatch.setattr(Batch, "sample", watched)
    pictures = made(ranked_model, num_images=3, batch_size=3)
    assert tried == [tuple(picture.recipe.chosen_noises for picture in pictures)] and all(tried[0])


def test_each_choice_is_told_before_the_batch_begins(ranked_model: LatentDiffusion) -> None:
    request = GenerateRequest((PROMPT,), seed=3, num_images=3, batch_size=2, steps=1, noise_candidates=2)
    told = list(generate(ranked_model, request))
    kinds = [type(event) for event in told]
    fractions = [event.fraction for event in told if not isinstance(event, Picture)]
    assert fractions == sorted(set(fractions)) and fractions[-1] == 1
    first, second = [NoiseChosen] * 2 + [GenerateStep] + [Picture] * 2, [NoiseChosen, GenerateStep, Picture]
    assert kinds == first + second
    events = generate(ranked_model, request)
    assert next(events) == NoiseChosen(0, 3, 2, 1, 2)
    events.close()  # as a person who cancels does
    unsearched = replace(request, noise_candidates=1)
    assert not any(isinstance(event, NoiseChosen) for event in generate(ranked_model, unsearched))
