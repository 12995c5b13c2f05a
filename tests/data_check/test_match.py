"""Similarities are those of the CLIP itself, on pictures prepared as its folder says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.data.images import open_image, pad_to, pixels_of
from toile.data.sources import open_source
from toile.data_check.doctor import CheckConfig, check_source
from toile.data_check.findings import Diagnosis
from toile.data_check.match import similarities
from toile.data_check.reader import load_reader
from toile.errors import ToileError
from toile.model_files.clip_pair import load_clip_pair
from toile.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from toile.text.tokenizer import Tokenizer
from toile.weights.folder import save_component


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP of random weights as a run leaves it: `clip/` beside `tokenizer/`."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["red dress", "blue shirt"] * 30, vocab_size=560, max_length=12)
    text = CLIPTextConfig(
        16, 32, 16, 2, 2, vocab_size=tokenizer.vocab_size, max_position_embeddings=12, bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(16, 32, 16, 2, 2, image_size=(32, 24), patch_size=8)
    clip = CLIPModel(CLIPConfig(text, vision, projection_dim=16))
    folder = tmp_path / "model" / "clip"
    save_component(folder, clip, clip.config, {"model_type": "clip"}, torch.float32, "model.safetensors")
    tokenizer.save(tmp_path / "model" / "tokenizer")
    return folder


@pytest.mark.parametrize("prepared", [False, True])
def test_similarities_are_the_cosines_of_the_clip(clip_folder: Path, sick_folder: Path, prepared: bool) -> None:
    mean, std = ((0.5,) * 3, (0.5,) * 3) if not prepared else ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    if prepared:
        facts = {"image_mean": mean, "image_std": std}
        (clip_folder / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")
    matcher, source = load_clip_pair(clip_folder), open_source(sick_folder, "")
    indices = [0, 1, 4]
    captions = [source.records[index].captions[0] for index in indices]
    *shares, scores = similarities(matcher, source, indices, captions)
    assert shares == [0.0] and isinstance(scores, np.ndarray)
    for index, caption, score in zip(indices, captions, scores, strict=True):
        pixels = pixels_of(pad_to(open_image(source.read_picture(index)), 24, 32, enlarge=True)) / 255.0
        image = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        place = matcher.clip.encode_images(image), matcher.clip.encode_text(matcher.tokenizer.batch([caption])[0])
        torch.testing.assert_close(float(score), float((place[0] * place[1]).sum()), rtol=1e-4, atol=1e-5)


def test_the_check_lists_the_worst_pairs_first(clip_folder: Path, sick_folder: Path, tiny_folder: Path) -> None:
    reader, source = load_reader(str(tiny_folder)), open_source(sick_folder, "")
    *_, found = check_source(source, reader, CheckConfig(num_mismatches=4), load_clip_pair(clip_folder))
    assert isinstance(found, Diagnosis)
    cases = found.finding("mismatch").cases
    scores = [float(case.note.split(":")[0]) for case in cases]
    assert len(cases) == 4 and scores == sorted(scores)
    assert not any("--clip" in line for line in found.not_checked)
    *_, without = check_source(source, reader)
    assert isinstance(without, Diagnosis) and any("--clip" in line for line in without.not_checked)
    assert [finding.kind for finding in found.findings] == [*(f.kind for f in without.findings), "mismatch"]
    assert found.kept == without.kept


def test_a_published_clip_must_say_how_pictures_are_prepared(clip_folder: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (clip_folder / name).write_bytes((clip_folder.parent / "tokenizer" / name).read_bytes())
    with pytest.raises(ToileError, match="preprocessor_config.json"):
        load_clip_pair(clip_folder)


@pytest.mark.parametrize(
    "facts",
    [{}, {"image_mean": [0.5] * 3, "image_std": [0.5, 0, 0.5]}, {"image_mean": ["a"] * 3, "image_std": [1] * 3}],
)
def test_impossible_preparation_is_refused(clip_folder: Path, facts: dict[str, list[object]]) -> None:
    (clip_folder / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ToileError, match="image_std"):
        load_clip_pair(clip_folder)


def test_a_folder_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="no tokenizer"):
        load_clip_pair(tmp_path)
