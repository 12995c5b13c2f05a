"""What happens to pictures that a model's safety checker flags."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError, WorkFailedError
from toile.generation.pictures import Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.models.safety_checker import PublishedVisionConfig, SafetyChecker, SafetyCheckerConfig
from toile.weights.folder import save_component

REQUEST = GenerateRequest(("red dress",), seed=3, num_images=2, steps=2)


def with_checker(tiny_folder: Path, folder: Path, threshold: float) -> LatentDiffusion:
    shutil.copytree(tiny_folder, folder)
    torch.manual_seed(0)
    vision = PublishedVisionConfig(16, 16, 8, 1, 2, image_size=16, patch_size=8)
    config = SafetyCheckerConfig(vision, 8)
    checker = SafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(threshold)
    save_component(folder / "safety_checker", checker, config, {}, torch.float32, "model.safetensors")
    return LatentDiffusion.load(folder, "cpu", "float32")


def make(model: LatentDiffusion, request: GenerateRequest) -> list[Picture]:
    return [event for event in generate(model, request) if isinstance(event, Picture)]


@pytest.fixture(scope="module")
def strict(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    """Flags every picture."""
    return with_checker(tiny_folder, tmp_path_factory.mktemp("strict") / "model", -2.0)


def test_pictures_below_every_threshold_are_left_alone(
    tiny_folder: Path, tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    lenient = with_checker(tiny_folder, tmp_path / "model", 2.0)
    for picture, plain in zip(make(lenient, REQUEST), make(tiny_model, REQUEST), strict=True):
        assert picture.safety is not None and not picture.safety.flagged
        assert plain.safety is None
        assert np.array_equal(picture.pixels, plain.pixels)
        assert picture.warnings == ()


def test_flagged_pictures_are_blurred_and_made_again_so(
    strict: LatentDiffusion, tiny_model: LatentDiffusion, tmp_path: Path
) -> None:
    [picture, _], [plain, _] = make(strict, REQUEST), make(tiny_model, REQUEST)
    assert picture.safety is not None and picture.safety.flagged
    assert "flagged by the safety checker (concept" in picture.warnings[0] and "blurred" in picture.warnings[0]
    roughness = [float(np.abs(np.diff(each.pixels.astype(float), axis=0)).mean()) for each in (picture, plain)]
    assert roughness[0] < 0.3 * roughness[1]
    picture.save(tmp_path / "picture.png")
    assert replay(tmp_path / "picture.png", strict).identical


def test_the_user_chooses(strict: LatentDiffusion, tiny_model: LatentDiffusion) -> None:
    plain = make(tiny_model, REQUEST)
    [reported, _] = make(strict, replace(REQUEST, safety="report"))
    assert np.array_equal(reported.pixels, plain[0].pixels)
    assert "nothing was done" in reported.warnings[0]
    [unasked, _] = make(strict, replace(REQUEST, safety="off"))
    assert unasked.safety is None and unasked.warnings == ()
    with pytest.raises(WorkFailedError, match="not shown"):
        make(strict, replace(REQUEST, safety="refuse"))
    with pytest.raises(ToileError, match="blur, refuse, report, off"):
        replace(REQUEST, safety="maybe")
