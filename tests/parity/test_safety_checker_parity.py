"""Our safety checker against diffusers', on the same random weights and the same pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch import Tensor, nn

from toile.models.safety_checker import PublishedVisionConfig, SafetyChecker, SafetyCheckerConfig, clip_input
from toile.weights.folder import load_component

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def theirs(randomize: Callable[[nn.Module], None]) -> StableDiffusionSafetyChecker:
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        vision_config=VISION, text_config={"hidden_size": 16, "num_hidden_layers": 1}, projection_dim=12
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.concept_embeds.data.normal_()
    checker.special_care_embeds.data.normal_()
    checker.concept_embeds_weights.data.uniform_(0.2, 0.6)
    checker.special_care_embeds_weights.data.uniform_(0.0, 0.5)
    randomize(checker.vision_model)
    return checker


@pytest.fixture(scope="module")
def ours(theirs: StableDiffusionSafetyChecker, tmp_path_factory: pytest.TempPathFactory) -> SafetyChecker:
    folder = tmp_path_factory.mktemp("safety_checker")
    theirs.save_pretrained(folder)
    return load_component(folder, SafetyChecker, SafetyCheckerConfig)


def random_images() -> Tensor:
    return torch.rand(12, 3, 24, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_scores_are_those_of_diffusers(ours: SafetyChecker, theirs: StableDiffusionSafetyChecker) -> None:
    images = random_images()
    prepared = clip_input(images, (24, 24))
    with torch.no_grad():
        embeds = theirs.visual_projection(theirs.vision_model(prepared)[1])
        scores = ours(images)
    flags = theirs(clip_input=prepared, images=[np.zeros((1, 1, 3))] * len(images))[1]
    assert [score.flagged for score in scores] == flags
    assert 0 < sum(flags) < len(flags)
    normalised = torch.nn.functional.normalize
    special = normalised(embeds) @ normalised(theirs.special_care_embeds).T - theirs.special_care_embeds_weights
    torch.testing.assert_close(torch.tensor([score.special for score in scores]), special, rtol=0, atol=6e-4)
    concepts = normalised(embeds) @ normalised(theirs.concept_embeds).T - theirs.concept_embeds_weights
    concepts = concepts + 0.01 * (special.round(decimals=3) > 0).any(1, keepdim=True)
    torch.testing.assert_close(torch.tensor([score.concepts for score in scores]), concepts, rtol=0, atol=6e-4)


def test_the_highest_score_is_named(ours: SafetyChecker) -> None:
    [score, *_] = ours(random_images()[:1])
    number, value = score.highest
    assert value == max(score.concepts) == score.concepts[number]


@pytest.mark.parametrize("size", [(64, 80), (300, 200), (24, 24)])
def test_pictures_are_prepared_as_transformers_does(size: tuple[int, int]) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8))
    picture = smooth.resize(size, Image.Resampling.BICUBIC)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    expected = torch.as_tensor(np.array(processor(picture, return_tensors="np")["pixel_values"]))
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(clip_input(images, (24, 24)), expected, rtol=0, atol=0.08)


def test_the_published_size() -> None:
    config = SafetyCheckerConfig(PublishedVisionConfig(1024, 4096, 768, 24, 16, patch_size=14))
    with torch.device("meta"):
        checker = SafetyChecker(config)
    # 303,179,776 of the tower, 1024 x 768 of the projection, 20 concepts of 768 and their thresholds
    assert sum(parameter.numel() for parameter in checker.parameters()) == 303_179_776 + 1024 * 768 + 20 * 769
