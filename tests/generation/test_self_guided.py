"""Models that guide themselves: the scale reaches the network, one call a step, and nothing is silently ignored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.training.distillation_task import self_guided

REQUEST = GenerateRequest(("red dress",), seed=3, num_images=2, steps=3, sampler="lcm", guidance=3.0)


@pytest.fixture
def model(tiny_model: LatentDiffusion) -> LatentDiffusion:
    unet = self_guided(tiny_model.unet).eval().requires_grad_(False)
    return replace(tiny_model, unet=unet)


def make(model: LatentDiffusion, request: GenerateRequest) -> np.ndarray:
    return np.stack([event.pixels for event in generate(model, request) if isinstance(event, Picture)]).astype(float)


def test_it_begins_as_the_model_without_guidance(model: LatentDiffusion, tiny_model: LatentDiffusion) -> None:
    expected = make(tiny_model, replace(REQUEST, guidance=1.0))
    assert np.abs(make(model, REQUEST) - expected).max() <= 1
    assert np.abs(make(tiny_model, REQUEST) - expected).max() > 5


def test_the_scale_is_told_and_one_call_a_step_is_enough(model: LatentDiffusion) -> None:
    plain = make(model, REQUEST)
    with torch.no_grad():
        weight = model.unet.time_embedding.cond_proj.weight
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    rows: list[int] = []
    handle = model.unet.conv_out.register_forward_hook(lambda module, inputs, result: rows.append(len(result)))
    told = {scale: make(model, replace(REQUEST, guidance=scale)) for scale in (1.0, 3.0)}
    handle.remove()
    assert rows == [1] * 12 or rows == [2] * 6
    assert np.abs(told[3.0] - told[1.0]).max() > 5 and np.abs(told[3.0] - plain).max() > 5


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("negative", "belt"),
        ("guidance_interval", (0.5, 5.0)),
        ("guidance_rescale", 0.5),
        ("tgate", 0.5),
        ("deepcache", 2),
    ],
)
def test_what_it_did_not_learn_is_refused(model: LatentDiffusion, setting: str, value: Any) -> None:
    changes: dict[str, Any] = {setting: value}
    with pytest.raises(ToileError, match=setting):
        make(model, replace(REQUEST, **changes))
