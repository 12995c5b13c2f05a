"""CLIP score: equation 1 by hand, pictures of any size, and captions in any batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.clip_score import ClipScores, clip_scores
from toile.evaluation.feature_networks import find_judge
from toile.model_files.clip_pair import ClipPair, load_clip_pair
from toile.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from toile.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def pair() -> ClipPair:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["red dress", "blue shirt"] * 30, vocab_size=560, max_length=12)
    text = CLIPTextConfig(
        16, 32, 8, 1, 2, vocab_size=tokenizer.vocab_size, max_position_embeddings=12, bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(16, 32, 8, 1, 2, image_size=(16, 24), patch_size=8)
    clip = CLIPModel(CLIPConfig(text, vision, projection_dim=8)).eval().requires_grad_(False)
    return ClipPair(clip, tokenizer, (0.5,) * 3, (0.5,) * 3)


def test_what_points_away_scores_nothing() -> None:
    found = ClipScores(torch.tensor([0.4, -0.2, 0.0]))
    torch.testing.assert_close(found.scores, torch.tensor([1.0, 0.0, 0.0]))


def test_batches_change_nothing_and_words_do(pair: ClipPair) -> None:
    pixels = torch.randint(0, 256, (5, 16, 24, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    captions = ["red dress", "blue shirt", "red shirt", "dress", "blue"]
    found = clip_scores(pair, pixels, captions)
    torch.testing.assert_close(found.cosines, clip_scores(pair, pixels, captions, batch_size=2).cosines)
    assert bool((found.cosines != clip_scores(pair, pixels, captions[::-1]).cosines)[[0, 1, 3, 4]].all())
    assert bool((found.cosines != clip_scores(pair, pixels, captions, prefix="red ").cosines).all())


def test_pictures_of_another_size_are_padded_with_white(pair: ClipPair) -> None:
    small = torch.randint(0, 256, (1, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    padded = torch.full((1, 16, 24, 3), 255, dtype=torch.uint8)
    padded[:, :, 4:20] = small
    found = (clip_scores(pair, pixels, ["red dress"]).cosines for pixels in (small, padded))
    torch.testing.assert_close(*found)


def test_counts_must_match(pair: ClipPair) -> None:
    with pytest.raises(ToileError, match="2 pictures and 1 captions"):
        clip_scores(pair, torch.zeros(2, 16, 24, 3, dtype=torch.uint8), ["red dress"])


def test_the_shipped_judge_tells_words_apart() -> None:
    """A black square and a red one, asked for by both words."""
    pixels = torch.full((2, 80, 64, 3), 255, dtype=torch.uint8)
    pixels[0, 20:60, 12:52], pixels[1, 20:60, 12:52] = torch.tensor([20, 20, 20]), torch.tensor([200, 20, 30])
    pair = load_clip_pair(Path(find_judge("words")))
    black, red = (clip_scores(pair, pixels, [f"{word} tshirt"] * 2).cosines for word in ("black", "red"))
    assert black[0] - red[0] > 0.05 < red[1] - black[1]
