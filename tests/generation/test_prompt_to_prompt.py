"""Word maps and prompt-to-prompt: attention is seen as it is, and changed only where and when it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from toile.diffusion.denoiser import Denoiser
from toile.errors import ToileError
from toile.generation.attention_control import AttentionPlace, EditedAttention, attention_edited
from toile.generation.prompt_to_prompt import Alignment, EditShares, PromptToPrompt, align
from toile.generation.word_maps import WordMaps, map_of, map_sheet, map_size
from toile.latent_diffusion import LatentDiffusion
from toile.text.rows import PromptTokens, tokenize_prompt

SIGMAS = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])


def latents(rows: int = 2) -> Tensor:
    return torch.randn(rows, 4, 8, 6, generator=torch.Generator().manual_seed(0)) * 2


def read(model: LatentDiffusion, prompt: str) -> PromptTokens:
    return tokenize_prompt(model.tokenizer, prompt)


def aligned(model: LatentDiffusion, original: str, edited: str) -> Alignment:
    return align(read(model, original), read(model, edited), 1)


@torch.inference_mode()
def test_looking_changes_nothing_but_rounding(tiny_model: LatentDiffusion) -> None:
    cond = tiny_model.encode_prompts(["red dress", "black belt"]).states
    denoiser = Denoiser(tiny_model.unet, tiny_model.schedule)
    maps = WordMaps(2, (8, 6))
    plain = denoiser(latents(), 2.0, cond)
    seen = EditedAttention(denoiser, tiny_model.unet, maps)(latents(), 2.0, cond)
    torch.testing.assert_close(seen, plain, rtol=0, atol=1e-5)
    assert torch.equal(denoiser(latents(), 2.0, cond), plain)  # nothing stays behind
    shares = maps.maps()
    assert shares.shape == (2, cond.shape[1], 8, 6)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 8, 6), rtol=0, atol=1e-5)


def test_every_attention_is_shown_and_given_back_after_an_error(tiny_model: LatentDiffusion) -> None:
    places: list[AttentionPlace] = []

    def edit(place: AttentionPlace, probabilities: Tensor) -> Tensor:
        places.append(place)
        return probabilities

    with pytest.raises(ToileError), attention_edited(tiny_model.unet, edit):
        tiny_model.unet(latents(1), torch.zeros(1), torch.zeros(1, 3, 16))
        raise ToileError("stop")
    seen = len(places)
    assert {place.is_cross for place in places} == {True, False}
    assert len({place.name for place in places}) == seen
    tiny_model.unet(latents(1), torch.zeros(1), torch.zeros(1, 3, 16))
    assert len(places) == seen


def test_sizes_of_feature_maps() -> None:
    assert [map_size(n, (20, 16)) for n in (320, 80, 20)] == [(20, 16), (10, 8), (5, 4)]
    assert map_size(3 * 2, (5, 3)) == (3, 2)
    with pytest.raises(ToileError, match="fit no level"):
        map_size(7, (20, 16))


def test_the_map_of_a_word_is_that_of_its_tokens(tiny_model: LatentDiffusion) -> None:
    tokens = read(tiny_model, "a red dress")
    maps = torch.zeros(16, 8, 6)
    maps[list(tokens.positions_of("dress"))] = 0.25
    heat = map_of(maps, tokens, "Dress")
    assert torch.equal(heat, torch.full((8, 6), 0.25 * len(tokens.positions_of("dress"))))
    sheet = map_sheet(np.zeros((32, 24, 3), np.uint8), maps, tokens)
    assert sheet.width > 4 * 24  # the picture, a, red, dress
    with pytest.raises(ToileError, match="not in the prompt"):
        map_of(maps, tokens, "belt")


def test_equal_prompts_align_one_to_one(tiny_model: LatentDiffusion) -> None:
    alignment = aligned(tiny_model, "red dress for women", "red dress for women")
    assert torch.equal(alignment.matrix, torch.eye(16))
    assert not alignment.own.any()


def test_a_replaced_word_takes_the_place_of_the_old_one(tiny_model: LatentDiffusion) -> None:
    original, edited = read(tiny_model, "red dress for women"), read(tiny_model, "red zq for women")
    alignment = align(original, edited, 1)
    old, new = original.positions_of("dress"), edited.positions_of("zq")
    assert len(old) != len(new)
    block = alignment.matrix[list(old)][:, list(new)]
    torch.testing.assert_close(block, torch.full_like(block, 1 / len(new)))
    for word in ("red", "for", "women"):
        for before, after in zip(original.positions_of(word), edited.positions_of(word), strict=True):
            assert alignment.matrix[before, after] == 1
    torch.testing.assert_close(alignment.matrix.sum(1), torch.ones(16))  # no attention is lost
    assert not alignment.own.any()


def test_a_new_word_keeps_its_own_attention(tiny_model: LatentDiffusion) -> None:
    original, edited = read(tiny_model, "red dress"), read(tiny_model, "red checked dress")
    alignment = align(original, edited, 1)
    assert alignment.own.nonzero().flatten().tolist() == list(edited.positions_of("checked"))
    [before], [after] = original.positions_of("dress")[-1:], edited.positions_of("dress")[-1:]
    assert alignment.matrix[before, after] == 1
    torch.testing.assert_close(alignment.matrix.sum(1), torch.ones(16))


@torch.inference_mode()
@pytest.mark.parametrize("guided", [False, True])
def test_an_unchanged_prompt_gives_the_unchanged_picture(tiny_model: LatentDiffusion, guided: bool) -> None:
    prompts = ["red dress", "red dress"] if not guided else ["", "", "red dress", "red dress"]
    cond = tiny_model.encode_prompts(prompts).states
    pair = latents(1).repeat(len(prompts), 1, 1, 1)
    denoiser = Denoiser(tiny_model.unet, tiny_model.schedule)
    editor = PromptToPrompt(
        denoiser, tiny_model.unet, [aligned(tiny_model, "red dress", "red dress")], SIGMAS, EditShares(1, 1)
    )
    torch.testing.assert_close(editor(pair, 2.0, cond), denoiser(pair, 2.0, cond), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_original_is_untouched_and_leads_only_for_its_share(tiny_model: LatentDiffusion) -> None:
    cond = tiny_model.encode_prompts(["red dress", "black belt"]).states
    pair = latents(1).repeat(2, 1, 1, 1)
    denoiser = Denoiser(tiny_model.unet, tiny_model.schedule)
    alignment = aligned(tiny_model, "red dress", "black belt")
    editor = PromptToPrompt(denoiser, tiny_model.unet, [alignment], SIGMAS, EditShares(0.5, 0.25))
    for sigma, leads in ((4.0, True), (2.0, True), (1.0, False), (0.5, False)):
        plain, edited = denoiser(pair, sigma, cond), editor(pair, sigma, cond)
        torch.testing.assert_close(edited[0], plain[0], rtol=0, atol=1e-5)
        assert torch.allclose(edited[1], plain[1], rtol=0, atol=1e-5) != leads


@torch.inference_mode()
def test_led_in_everything_only_the_values_of_the_words_differ(tiny_model: LatentDiffusion) -> None:
    seen: dict[str, Tensor] = {}

    def remember(place: AttentionPlace, probabilities: Tensor) -> Tensor:
        result = editor._edited(place, probabilities)
        seen[place.name] = result
        return result

    cond = tiny_model.encode_prompts(["red dress", "red belt"]).states
    alignment = aligned(tiny_model, "red dress", "red belt")
    editor = PromptToPrompt(
        Denoiser(tiny_model.unet, tiny_model.schedule), tiny_model.unet, [alignment], SIGMAS, EditShares(1, 1)
    )
    with attention_edited(tiny_model.unet, remember):
        editor.denoiser(latents(1).repeat(2, 1, 1, 1), 2.0, cond)
    for name, result in seen.items():
        expected = result[0] if name.endswith("attn1") else result[0] @ alignment.matrix
        torch.testing.assert_close(result[1], expected)


def test_shares_are_shares() -> None:
    with pytest.raises(ToileError, match="cross-attention is 1.5"):
        EditShares(cross=1.5)
    with pytest.raises(ToileError, match="self-attention is -1"):
        EditShares(self=-1)
