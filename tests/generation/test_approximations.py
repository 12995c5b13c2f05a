"""Savings that change pictures: what works when, and that nothing is saved where nothing should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toile.generation.approximations import DeepCache
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion

REQUEST = GenerateRequest(("red dress",), seed=1, steps=6, guidance=3.0, sampler="ddim", guidance_interval=(0.0, 1e9))


def make(model: LatentDiffusion, request: GenerateRequest) -> list[np.ndarray]:
    return [event.pixels for event in generate(model, request) if isinstance(event, Picture)]


class Rows:
    """Counts the rows of a module's results while it is open."""

    def __init__(self, module: nn.Module) -> None:
        self.seen: list[int] = []
        self.handle = module.register_forward_hook(lambda module, inputs, result: self.seen.append(len(result)))

    def __enter__(self) -> list[int]:
        return self.seen

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def test_coarse_levels_work_at_every_nth_step(tiny_model: LatentDiffusion) -> None:
    request = replace(REQUEST, deepcache=2)
    with Rows(tiny_model.unet.mid_block) as coarse, Rows(tiny_model.unet.conv_out) as all_steps:
        make(tiny_model, request)
    assert (len(coarse), len(all_steps)) == (3, 6)


def test_a_cache_of_one_call_is_the_network(tiny_model: LatentDiffusion) -> None:
    x, words = torch.randn(2, 4, 8, 6), torch.randn(2, 16, tiny_model.unet.config.cross_attention_dim)
    cached = DeepCache(tiny_model.unet, 1)
    with torch.inference_mode():
        for time in (900.0, 500.0, 100.0):
            timestep = torch.tensor([time])
            assert torch.equal(cached(x, timestep, words), tiny_model.unet(x, timestep, words))


def test_the_cache_follows_the_number_of_rows(tiny_model: LatentDiffusion) -> None:
    # Guidance that ends doubles the rows no longer: what is cached would be of other rows.
    sigmas = tiny_model.schedule.sampling_sigmas(6)
    request = replace(REQUEST, deepcache=6, guidance_interval=(float(sigmas[3]), 1e9))
    with Rows(tiny_model.unet.mid_block) as coarse:
        make(tiny_model, request)
    assert coarse == [2, 1]


def test_from_the_gate_on_words_are_not_looked_at_and_nothing_is_guided(tiny_model: LatentDiffusion) -> None:
    with Rows(tiny_model.unet.conv_out) as rows:
        looks: list[Tensor] = []
        query = tiny_model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q
        handle = query.register_forward_hook(lambda module, inputs, result: looks.append(result))
        make(tiny_model, replace(REQUEST, tgate=0.5))
        handle.remove()
    assert rows == [2, 2, 2, 1, 1, 1]
    assert len(looks) == 3


def test_what_is_kept_is_the_mean_with_and_without_the_prompt(tiny_model: LatentDiffusion) -> None:
    # Where the negative prompt is the prompt, both are one: up to the gate guidance changes nothing, nor after it.
    request = replace(REQUEST, negative="red dress", tgate=0.5)
    plain = replace(REQUEST, guidance=1.0, tgate=0.5)
    guided, without = make(tiny_model, request), make(tiny_model, plain)
    assert int(np.abs(guided[0].astype(int) - without[0].astype(int)).max()) <= 1


@pytest.mark.parametrize("change", [{"tgate": 1.0}, {"deepcache": 1}])
def test_without_saving_pictures_are_the_same(tiny_model: LatentDiffusion, change: dict[str, float]) -> None:
    exact, same = make(tiny_model, REQUEST), make(tiny_model, replace(REQUEST, **change))  # type: ignore[arg-type]
    assert np.array_equal(exact[0], same[0])


def test_both_go_together_and_with_the_other_modes(tiny_model: LatentDiffusion) -> None:
    both = replace(REQUEST, deepcache=2, tgate=0.5)
    for request in (
        both,
        replace(both, deepcache=3, tgate=0.0),
        replace(both, original="blue dress"),
        replace(both, maps=True),
        replace(both, hires_scale=1.5),
        replace(both, sampler="heun"),
    ):
        first, again = make(tiny_model, request), make(tiny_model, request)
        assert np.array_equal(first[0], again[0])


def test_after_it_the_network_is_as_before(tiny_model: LatentDiffusion) -> None:
    before = make(tiny_model, REQUEST)
    make(tiny_model, replace(REQUEST, deepcache=2, tgate=0.3))
    assert np.array_equal(make(tiny_model, REQUEST)[0], before[0])
