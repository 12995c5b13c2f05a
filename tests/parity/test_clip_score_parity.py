"""CLIP scores against the cosines in transformers' logits, for a folder that transformers wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from toile.evaluation.clip_score import clip_scores
from toile.evaluation.feature_networks import open_feature_network
from toile.model_files.clip_pair import load_clip_pair
from toile.text.tokenizer import Tokenizer

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
CAPTIONS = ["red dress", "blue shirt for men", "red shirt"]


@pytest.fixture
def folder(tmp_path: Path, randomize: Callable[[nn.Module], None]) -> Path:
    """As published ones are: both towers, the tokenizer's files and the preparation in one folder."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(CAPTIONS * 20, vocab_size=560, max_length=12)
    sizes = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    text = {**sizes, **ends, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 12, "hidden_size": 16}
    vision = {**sizes, "hidden_size": 20, "image_size": 24, "patch_size": 8}
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    ).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    facts = {"image_mean": MEAN, "image_std": STD}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")
    return tmp_path


@torch.no_grad()
def test_cosines_and_pooled_states(folder: Path) -> None:
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    words = transformers.CLIPTokenizer.from_pretrained(folder)(
        CAPTIONS, padding="max_length", max_length=12, return_tensors="pt"
    )
    pixels = torch.randint(0, 256, (3, 24, 24, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    expected = theirs(input_ids=words.input_ids, pixel_values=images)
    cosines = expected.logits_per_image.diagonal() / theirs.logit_scale.exp()

    found = clip_scores(load_clip_pair(folder), pixels, CAPTIONS)
    torch.testing.assert_close(found.cosines, cosines, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scores, 2.5 * cosines.clamp(min=0), rtol=0, atol=1e-5)
    network = open_feature_network(f"clip={folder}")
    pooled = theirs.vision_model(pixel_values=images).pooler_output
    torch.testing.assert_close(network.features(pixels), pooled, rtol=0, atol=1e-5)
    assert network.feature_dim == 20 and network.trained_on is None
