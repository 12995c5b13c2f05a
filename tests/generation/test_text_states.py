"""Prompts of a batch are encoded once, whoever asks for their states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from toile.generation.pictures import generate
from toile.generation.prompt_forms import form_of
from toile.generation.request import GenerateRequest, ImageRequest
from toile.generation.text_states import TextStates
from toile.latent_diffusion import LatentDiffusion
from toile.text.encoded_prompts import EncodedPrompts, PromptForm
from toile.text.lora_tags import LoRAUse


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is encoded from now on."""
    found: list[tuple[str, ...]] = []
    encode = LatentDiffusion.encode_prompts

    def watched(
        model: LatentDiffusion, prompts: Sequence[str], word_weights: str = "embedding", form: PromptForm | None = None
    ) -> EncodedPrompts:
        found.append(tuple(prompts))
        return encode(model, prompts, word_weights, form)

    monkeypatch.setattr(LatentDiffusion, "encode_prompts", watched)
    return found


def test_sketches_and_sampler_share_a_prompt(ranked_model: LatentDiffusion, asked: list[tuple[str, ...]]) -> None:
    list(generate(ranked_model, GenerateRequest(("red dress",), steps=1, guidance=3.0, noise_candidates=2)))
    assert asked == [("red dress",), ("",)]


def test_the_upscaler_shares_them_too(enlarging_folder: Path, asked: list[tuple[str, ...]]) -> None:
    model = LatentDiffusion.load(enlarging_folder, device="cpu", dtype="float32")
    list(generate(model, GenerateRequest(("shirt", "cap"), num_images=2, steps=1, guidance=1.0, batch_size=4)))
    assert asked == [("shirt", "cap")]


def test_other_company_or_changed_weights_are_encoded_anew(
    tiny_model: LatentDiffusion, asked: list[tuple[str, ...]]
) -> None:
    texts, form = TextStates(), form_of([ImageRequest("shirt", 0)], tiny_model, tiny_model.defaults)
    lace = (LoRAUse("lace", 0.5),)
    ways: list[tuple[list[str], tuple[LoRAUse, ...]]] = [(["shirt"], ()), (["shirt", "cap"], ()), (["shirt"], lace)]
    for prompts, loras in (*ways, *ways):
        states = texts.of(tiny_model, prompts, "embedding", form, loras)
        assert torch.equal(states, tiny_model.encode_prompts(prompts, "embedding", form).states)
    assert len(asked) == len(ways) + 2 * len(ways)
