"""Learned words do in diffusers' pipeline what they do here, whoever wrote the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from toile.embeddings import with_embeddings
from toile.latent_diffusion import LatentDiffusion
from toile.weights.embedding_file import write_embedding

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = "red {word} dress"
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture
def pipeline(tiny_folder: Path) -> StableDiffusionPipeline:
    """The tiny model as diffusers loads it, anew for each test."""
    return StableDiffusionPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32, safety_checker=None)


def vectors(count: int) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def theirs(pipeline: StableDiffusionPipeline, prompt: str) -> Tensor:
    return pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]


@pytest.mark.parametrize("count", [1, 4])
def test_diffusers_reads_our_file(
    tmp_path: Path, tiny_model: LatentDiffusion, pipeline: StableDiffusionPipeline, count: int
) -> None:
    path, prompt = tmp_path / "monet.safetensors", PROMPT.format(word="<monet>")
    write_embedding(path, "<monet>", vectors(count), {})
    pipeline.load_textual_inversion(str(path))
    ours = with_embeddings(tiny_model, [str(path)]).encode_prompts([prompt]).states
    assert (ours - tiny_model.encode_prompts([prompt]).states).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs(pipeline, prompt), **TOLERANCE)


@pytest.mark.parametrize("dialect", ["diffusers", "a1111"])
def test_both_read_a_pickled_file_alike(
    tmp_path: Path, tiny_model: LatentDiffusion, pipeline: StableDiffusionPipeline, dialect: str
) -> None:
    if dialect == "diffusers":
        path, word = tmp_path / "learned_embeds.bin", "<cat>"
        torch.save({word: vectors(1)[0]}, path)
        pipeline.load_textual_inversion(str(path))
    else:
        path, word = tmp_path / "sketch.pt", "sketch"
        content = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors(3)}, "name": word}
        torch.save(content, path)
        pipeline.load_textual_inversion(str(path), token=word)
    prompt = PROMPT.format(word=word)
    ours = with_embeddings(tiny_model, [str(path)]).encode_prompts([prompt]).states
    torch.testing.assert_close(ours, theirs(pipeline, prompt), **TOLERANCE)
