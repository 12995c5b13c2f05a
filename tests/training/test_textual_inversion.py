"""Learning a word: only its vectors change, resuming is exact, and the file does what was learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.training.pictures import PictureSet
from toile.training.recipes import TextualInversionRecipe, load_recipe
from toile.training.records import EndRecord, Record, StepRecord, ValidationRecord
from toile.training.run import build_task, run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.training.textual_inversion import TextualInversionTask, file_stem
from toile.user_folders import CACHE_VARIABLE
from toile.weights.embedding_file import read_embedding

RECIPE = """
task = "textual_inversion"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
trigger = "<shape>"
[word]
name = "<shape>"
start = "red belt"
num_vectors = 3
[objective]
uncond_share = 0.0
uniform_share = 1.0
sample_prompts = ["<shape>"]
sample_steps = 2
[loop]
steps = 6
batch_size = 4
learning_rate = 3e-1
warmup_steps = 1
precision = "float32"
ema_widths = [0.1]
validate_every = 3
sample_every = 3
save_every = 2
"""


@pytest.fixture
def recipe(tiny_folder: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "word.toml"
    path.write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    return path


def build(recipe: Path, *overrides: str) -> TextualInversionTask:
    loaded = load_recipe(recipe, overrides)
    assert isinstance(loaded, TextualInversionRecipe)
    task = build_task(loaded, PictureSet(loaded.data))
    assert isinstance(task, TextualInversionTask)
    return task


def follow(recipe: Path, folder: Path, *overrides: str, resume: bool = False, stop_at: int = -1) -> list[Record]:
    records = []
    for record in run_recipe(load_recipe(recipe, overrides), folder, resume=resume):
        records.append(record)
        if isinstance(record, StepRecord) and record.step == stop_at:
            break
    return records


def test_it_starts_as_the_words_it_is_given(recipe: Path, tiny_model: LatentDiffusion) -> None:
    task = build(recipe)
    table = tiny_model.text_encoder.text_model.embeddings.token_embedding.weight
    ids = tiny_model.tokenizer.encode("red belt").ids
    expected = table[[(*ids, *ids, *ids)[number] for number in range(3)]]
    assert torch.equal(task.word.vectors.detach(), expected)


def test_only_the_word_learns(recipe: Path) -> None:
    task = build(recipe)
    objective = task.objective
    assert [name for name, _ in objective.module.named_parameters()] == ["vectors"]
    before = {name: value.clone() for name, value in objective.networks.state_dict().items() if "learned" not in name}
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=0.3)
    batch = objective.batch(range(8))
    losses = []
    for step in range(30):
        loss = objective.loss(batch, step).total
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0], losses
    after = objective.networks.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(before["unet.conv_in.weight"], after["unet.conv_in.weight"])


def test_the_file_is_what_was_learnt(recipe: Path, tmp_path: Path, tiny_folder: Path) -> None:
    records = follow(recipe, tmp_path / "run")
    assert isinstance(records[-1], EndRecord)
    assert [record.step for record in records if isinstance(record, ValidationRecord)] == [3, 6]
    found = read_embedding(tmp_path / "run" / MODEL_FOLDER / "shape.safetensors")
    assert found.words["<shape>"].shape == (3, 16)
    start = build(recipe).word.vectors
    assert (found.words["<shape>"] - start).abs().max() > 0.1
    states = LatentDiffusion.load(tiny_folder, "cpu", "float32").with_embeddings([found]).encode_prompts(["<shape>"])
    assert bool(states.states.isfinite().all())


def test_a_resumed_run_is_the_same_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    follow(recipe, tmp_path / "whole")
    follow(recipe, tmp_path / "parts", stop_at=3)
    follow(recipe, tmp_path / "parts", resume=True)
    files = [(tmp_path / run / MODEL_FOLDER / "shape.safetensors").read_bytes() for run in ("whole", "parts")]
    assert files[0] == files[1]


def test_faults(recipe: Path) -> None:
    with pytest.raises(ToileError, match="no caption says <shape>: set data.trigger"):
        build(recipe, 'data.trigger=""')
    with pytest.raises(ToileError, match="has no words"):
        build(recipe, 'word.start=" "')
    with pytest.raises(ToileError, match="a row holds 1 to 14"):
        build(recipe, "word.num_vectors=15")
    with pytest.raises(ToileError, match="cannot be a word of its own"):
        build(recipe, 'word.name="two words"', 'data.trigger="two words"')


def test_names_of_files() -> None:
    assert [file_stem(word) for word in ("<monet>", "bad-hands.5", "<>", "../x")] == [
        "monet",
        "bad-hands.5",
        "word",
        "x",
    ]
