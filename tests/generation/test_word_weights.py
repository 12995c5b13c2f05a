"""Weights of words and long prompts: none changes nothing, each changes what it says, and batch-mates do not matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.errors import ToileError
from toile.generation.pictures import Picture, generate, remake
from toile.generation.request import GenerateRequest
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.nn.attention import Attention
from toile.picture_recipe import read_recipe
from toile.text.encoded_prompts import PromptForm
from toile.text.word_weights import LATER_SHARE, WORD_WEIGHTS, weigh_states, weigh_values

LONG = "navy blue checked shirt for men, black leather belt, red floral dress for women"  # 2 rows of the tiny model


def make(model: LatentDiffusion, *prompts: str, **changes: object) -> list[Picture]:
    request = replace(GenerateRequest(prompts, seed=1), **changes)  # type: ignore[arg-type]
    return [event for event in generate(model, request) if isinstance(event, Picture)]


def pixels(model: LatentDiffusion, prompt: str, **changes: object) -> np.ndarray:
    [picture] = make(model, prompt, **changes)
    return picture.pixels


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_equal(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def unasked(hidden: Tensor) -> Tensor:
    raise AssertionError("nothing is weighted, so nothing is encoded without it")


# Formulas.


def test_embedding_multiplies_states_and_keeps_the_mean() -> None:
    states, weights = random(2, 3, 5, 8) + 1, torch.ones(2, 3, 5)
    weights[0, 1, 2], weights[1, 0, 3] = 1.5, 0.0
    weighted = weigh_states(states, weights, unasked)
    torch.testing.assert_close(weighted.mean(dim=(-2, -1)), states.mean(dim=(-2, -1)))
    row = states[0, 1] * weights[0, 1, :, None]
    torch.testing.assert_close(weighted[0, 1], row * states[0, 1].mean() / row.mean())
    assert weighted[1, 0, 3].abs().max() == 0
    assert_equal(weighted[0, 0], states[0, 0])
    assert_equal(weighted[0, 2], states[0, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_one_change_no_bit(dtype: torch.dtype) -> None:
    states = random(2, 1, 5, 8).to(dtype)
    zeros = torch.zeros(1, 1, 5, 8, dtype=dtype)
    assert_equal(weigh_states(states, torch.ones(2, 1, 5), unasked), states)
    assert_equal(weigh_states(zeros, torch.ones(1, 1, 5), unasked), zeros)
    keys, values = weigh_values(states, torch.ones(2, 1, 5), unasked).unbind(1)
    assert_equal(keys, states)
    assert_equal(values, states)


def test_a_mean_of_cancelling_states_is_not_brought_back() -> None:
    states = torch.tensor([1.0, -1.0, 0.01])[None, None, :, None].expand(1, 1, 3, 4)
    weights = torch.tensor([[[1.5, 1.0, 1.0]]])  # the mean grows 51 times, though no weight is above 1.5
    assert_equal(weigh_states(states, weights, unasked), states * weights[..., None])


@pytest.mark.parametrize("weight", [0.0, -1.0, -100.0, 100.0])
def test_a_row_whose_mean_cannot_be_kept_is_not_blown_up(weight: float) -> None:
    states = random(1, 1, 5, 8) + 1
    weighted = weigh_states(states, torch.full((1, 1, 5), weight), lambda hidden: states)
    assert bool(weighted.isfinite().all())
    if weight > 0:
        torch.testing.assert_close(weighted, states)
    else:
        assert_equal(weighted, states * weight)


def test_embedding_goes_on_below_zero_from_where_it_was() -> None:
    states, without = random(1, 1, 4, 6) + 1, random(1, 1, 4, 6, seed=1)

    def weighed(weight: float) -> Tensor:
        return weigh_states(states, torch.tensor([[[1.0, weight, 1.0, 1.0]]]), lambda hidden: without)

    at_zero = weighed(0.0)
    torch.testing.assert_close(weighed(-1e-6), at_zero, rtol=0, atol=1e-5)
    below = weighed(-2.0)
    assert_equal(below[:, :, 0], at_zero[:, :, 0])
    torch.testing.assert_close(below[:, :, 1], -2 * states[:, :, 1])
    difference = (states - without)[:, :, 2:]
    torch.testing.assert_close(below[:, :, 2:], at_zero[:, :, 2:] - 2 * LATER_SHARE * difference)


def test_attention_multiplies_what_each_word_brings_without_renormalising() -> None:
    torch.manual_seed(0)
    layer, tokens, words = Attention(8, 6, 2).eval(), random(2, 5, 8), random(2, 4, 6, seed=1)
    weights = torch.tensor([[1.0, 0.0, -2.0, 1.5], [1.0, 1.0, 1.0, 1.0]])

    def weighed(weights: Tensor) -> Tensor:  # words that say nothing to each other
        return weigh_values(words[:, None], weights[:, None], lambda hidden: words[:, None]).flatten(2, 3)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    with torch.no_grad():
        got = layer(tokens, weighed(weights))
        query, key, value = heads(layer.to_q(tokens)), heads(layer.to_k(words)), heads(layer.to_v(words))
        shares = (query @ key.transpose(-1, -2) / 2).softmax(-1) * weights[:, None, None, :]
        expected = layer.to_out[0]((shares @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(got, expected)
        assert_equal(layer(tokens, weighed(torch.ones(2, 4))), layer(tokens, words))


def test_what_a_word_brings_to_others_is_weighed_with_it() -> None:
    states, without = random(1, 1, 4, 6), random(1, 1, 4, 6, seed=1)
    weights = torch.tensor([[[1.0, 3.0, 1.0, 1.0]]])
    keys, values = weigh_values(states, weights, lambda hidden: without).unbind(1)
    assert_equal(keys, states)
    assert_equal(values[:, :, 0], states[:, :, 0])
    torch.testing.assert_close(values[:, :, 1], 3 * states[:, :, 1])
    difference = (states - without)[:, :, 2:]
    torch.testing.assert_close(values[:, :, 2:], states[:, :, 2:] + 2 * LATER_SHARE * difference)


def test_what_words_of_several_weights_bring_adds_up() -> None:
    states = random(1, 2, 5, 6)
    weights = torch.ones(1, 2, 5)
    weights[0, 0, 1], weights[0, 1, 2] = 0.5, -1.0

    def encode_without(hidden: Tensor) -> Tensor:
        return states * (1 - 0.1 * hidden.sum(-1, keepdim=True)[..., None])

    def change(weights: Tensor) -> Tensor:
        return weigh_values(states, weights, encode_without)[:, 1] - states

    alone = [torch.where(weights == weight, weights, torch.ones(())) for weight in (0.5, -1.0)]
    torch.testing.assert_close(change(weights), change(alone[0]) + change(alone[1]))
    assert change(alone[0])[0, 1].abs().max() == 0  # the other row


def test_weights_reach_packed_layers_in_half_precision(tiny_folder: Path) -> None:
    model = LatentDiffusion.load(tiny_folder, device="cpu", dtype="bfloat16")
    attention = model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2  # type: ignore[index, union-attr]
    tokens, words = random(2, 48, 16).bfloat16(), random(2, 16, 16, seed=1).bfloat16()
    weights = torch.ones(2, 1, 16)
    weights[..., 3] = 2.0

    def weighed(words: Tensor) -> Tensor:
        return weigh_values(words[:, None], weights, lambda hidden: words[:, None]).flatten(2, 3)

    with torch.inference_mode():
        got = attention(tokens, weighed(words))
        exact = attention.float()(tokens.float(), weighed(words.float()))
    torch.testing.assert_close(got.float(), exact, rtol=0.05, atol=0.02)


def test_guidance_joins_weighted_conditions_and_refuses_mixed_ones() -> None:
    def denoiser(x: Tensor, sigma: float | Tensor, cond: Tensor) -> Tensor:
        return x.repeat(len(cond) // len(x), 1, 1, 1) + cond.mean(dim=(2, 3)).diff(dim=1).view(-1, 1, 1, 1)

    denoiser.prediction_type = "epsilon"  # type: ignore[attr-defined]
    x, cond, uncond = random(3, 4, 2, 2), random(3, 2, 5, 8, seed=1), random(1, 2, 5, 8, seed=2)
    guided = ClassifierFreeGuidance(denoiser, uncond, 3.0)(x, 1.0, cond)  # type: ignore[arg-type]
    without = denoiser(x, 1.0, uncond.expand(3, -1, -1, -1))
    torch.testing.assert_close(guided, without + 3 * (denoiser(x, 1.0, cond) - without))
    with pytest.raises(ToileError, match="same number of tokens"):
        ClassifierFreeGuidance(denoiser, uncond[:, 0], 3.0)(x, 1.0, cond)  # type: ignore[arg-type]


# Encoding.


@pytest.mark.parametrize("word_weights", WORD_WEIGHTS)
def test_a_short_prompt_without_weights_is_encoded_as_the_text_encoder_does(
    tiny_model: LatentDiffusion, word_weights: str
) -> None:
    for prompts in (["red dress", ""], ["red (dress:1)", "((belt:0.5):2)"]):
        plain = [prompt.translate(str.maketrans("", "", "():.0125")) for prompt in prompts]
        ids, _ = tiny_model.tokenizer.batch(plain)
        encoded = tiny_model.encode_prompts(prompts, word_weights)
        assert_equal(encoded.states, tiny_model.text_encoder(ids))
        assert encoded.cut == ("", "")


def test_rows_are_encoded_apart_and_joined(tiny_model: LatentDiffusion) -> None:
    encoded = tiny_model.encode_prompts(["red dress BREAK belt", "belt"])
    assert encoded.states.shape == (2, 32, 16)
    rows = tiny_model.text_encoder(tiny_model.tokenizer.batch(["red dress", "belt", ""])[0])
    torch.testing.assert_close(encoded.states[0], rows[:2].flatten(0, 1))
    torch.testing.assert_close(encoded.states[1], rows[1:].flatten(0, 1))


def test_weights_act_on_their_words(tiny_model: LatentDiffusion) -> None:
    plain = tiny_model.encode_prompts(["red dress"]).states
    encoded = tiny_model.encode_prompts(["red (dress:0)"], "attention")
    positions = list(encoded.tokens[0].positions_of("dress"))
    keys, values = encoded.states.unbind(1)
    assert_equal(keys, plain)
    assert values[0, positions].abs().max() == 0
    assert_equal(values[:, : positions[0]], plain[:, : positions[0]])
    later = slice(positions[-1] + 1, None)
    ids, hidden = encoded.tokens[0].ids, torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, positions] = True
    without = tiny_model.text_encoder(ids, hidden=hidden)
    torch.testing.assert_close(values[:, later], plain.lerp(without, LATER_SHARE)[:, later])

    states = tiny_model.encode_prompts(["red (dress:0)"], "embedding").states
    others = [place for place in range(16) if place not in positions]
    assert states[0, positions].abs().max() == 0
    factors = (states / plain)[:, others]
    torch.testing.assert_close(factors, factors[:1, :1, :1].expand_as(factors))


def test_the_form_is_what_prompts_need_together(tiny_model: LatentDiffusion) -> None:
    form = tiny_model.prompt_form
    assert form(["red", "belt"]) == PromptForm(1, False)
    assert form(["red", LONG]) == PromptForm(2, False)
    assert form(["red", "(belt:2)"]) == PromptForm(1, False)
    assert form(["red", "(belt:2)"], "attention") == PromptForm(1, True)
    encoded = tiny_model.encode_prompts(["red"], "attention", PromptForm(3, True))
    assert encoded.states.shape == (1, 2, 48, 16)


# Pictures.


@pytest.mark.parametrize("word_weights", WORD_WEIGHTS)
def test_a_weight_of_one_is_no_weight(tiny_model: LatentDiffusion, word_weights: str) -> None:
    plain = pixels(tiny_model, "red dress")
    for prompt in ("red dress", "red (dress:1.0)", "(red:2) dress".replace(":2", ":1")):
        assert np.array_equal(pixels(tiny_model, prompt, word_weights=word_weights), plain)


def test_every_weight_and_meaning_gives_its_own_picture(tiny_model: LatentDiffusion) -> None:
    made = {
        (word_weights, weight): pixels(tiny_model, f"red (dress:{weight})", word_weights=word_weights, guidance=8.0)
        for word_weights in WORD_WEIGHTS
        for weight in ("0", "-1", "0.5", "2", "5")
    }
    assert len({picture.tobytes() for picture in made.values()}) == len(made)
    assert all(picture.std() > 0 for picture in made.values())


@pytest.mark.parametrize("word_weights", WORD_WEIGHTS)
def test_weights_in_the_negative_prompt_count(tiny_model: LatentDiffusion, word_weights: str) -> None:
    one = pixels(tiny_model, "red dress", negative="(belt:3)", word_weights=word_weights, guidance=8.0)
    other = pixels(tiny_model, "red dress", negative="belt", word_weights=word_weights, guidance=8.0)
    assert not np.array_equal(one, other)


def test_the_network_is_told_of_values_of_their_own(tiny_model: LatentDiffusion) -> None:
    cond = tiny_model.encode_prompts(["red (dress:0)"], "attention").states
    x, timestep = random(1, 4, 8, 6), torch.tensor([500.0])
    with torch.inference_mode():
        unweighted = tiny_model.unet(x, timestep, cond[:, 0])
        assert not torch.allclose(unweighted, tiny_model.unet(x, timestep, cond))


def test_the_tail_of_a_long_prompt_changes_the_picture(tiny_model: LatentDiffusion) -> None:
    assert tiny_model.encode_prompts([LONG]).tokens[0].num_rows == 2
    [one, other] = make(tiny_model, LONG, LONG.replace("floral dress", "belt"), guidance=8.0)
    assert not one.warnings
    assert not np.array_equal(pixels(tiny_model, LONG, seed=2, guidance=8.0), other.pixels)


def test_a_long_negative_prompt_counts_to_its_end(tiny_model: LatentDiffusion) -> None:
    one = pixels(tiny_model, "belt", negative=LONG, guidance=8.0)
    other = pixels(tiny_model, "belt", negative=LONG.replace("floral dress", "belt"), guidance=8.0)
    assert not np.array_equal(one, other)
    without_guidance = pixels(tiny_model, "belt", negative=LONG, guidance=1.0)
    assert np.array_equal(without_guidance, pixels(tiny_model, "belt", guidance=1.0))


@pytest.mark.parametrize("word_weights", WORD_WEIGHTS)
def test_batch_mates_do_not_change_a_picture(tiny_model: LatentDiffusion, word_weights: str) -> None:
    prompts = ("red dress", "belt", LONG, "red (dress:1.5)", "red BREAK dress", "(belt:-1)", "belt")
    together = make(tiny_model, *prompts, word_weights=word_weights, batch_size=4)
    assert [picture.index for picture in together] == list(range(len(prompts)))
    for index, (prompt, picture) in enumerate(zip(prompts, together, strict=True)):
        alone = pixels(tiny_model, prompt, seed=1 + index, word_weights=word_weights, batch_size=1)
        assert np.abs(alone.astype(int) - picture.pixels.astype(int)).max() <= 1
        assert picture.recipe.prompt == prompt


def test_a_weighted_picture_can_be_made_again_from_its_file(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    [picture] = make(tiny_model, f"(red:1.4) dress BREAK {LONG}", word_weights="attention", negative="[belt]")
    picture.save(tmp_path / "picture.png")
    recipe = read_recipe(tmp_path / "picture.png")
    assert recipe.settings.word_weights == "attention"
    assert np.array_equal(remake(tiny_model, recipe).pixels, picture.pixels)


# Requests.


def test_bad_weights_are_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(ToileError, match="prompt 2: a weight in the prompt is nan"):
        GenerateRequest(("a", "(b:nan)"))
    with pytest.raises(ToileError, match="negative: a weight in the prompt is 1000"):
        GenerateRequest(("a",), negative="(b:1000)")
    with pytest.raises(ToileError, match="word_weights is 'strong'; allowed: embedding, attention"):
        GenerateRequest(("a",), word_weights="strong")
    assert GenerationSettings().word_weights == "embedding"
