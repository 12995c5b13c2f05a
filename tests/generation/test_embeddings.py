"""Learned words in prompts: they act where they are typed, recipes name them, and replay finds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toile.cli.main import run
from toile.embeddings import EMBEDDINGS, with_embeddings
from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import read_recipe
from toile.weights.embedding_file import write_embedding


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    monkeypatch.setenv(EMBEDDINGS.variable, str(folder))
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    write_embedding(folder / "monet.safetensors", "<monet>", vectors, {})
    return folder


def make(model: LatentDiffusion, *prompts: str, **fields: object) -> list[Picture]:
    request = GenerateRequest(prompts, seed=3, **fields)  # type: ignore[arg-type]
    return [event for event in generate(model, request) if isinstance(event, Picture)]


@pytest.mark.usefixtures("folder")
def test_a_word_acts_where_it_is_typed(tiny_model: LatentDiffusion) -> None:
    taught = with_embeddings(tiny_model, ["monet"])
    plain, other = (make(tiny_model, prompt)[0] for prompt in ("red <monet> dress", "red dress"))
    changed, same = (make(taught, prompt)[0] for prompt in ("red <monet> dress", "red dress"))
    assert np.array_equal(same.pixels, other.pixels)
    assert not np.array_equal(changed.pixels, plain.pixels)
    assert not np.array_equal(make(taught, "red dress", negative="<monet>")[0].pixels, same.pixels)
    again = make(tiny_model, "red <monet> dress")[0]
    assert np.array_equal(again.pixels, plain.pixels), "the model it came from has the word too"
    assert "learned" not in " ".join(tiny_model.text_encoder.state_dict())


def test_a_vector_of_the_vocabulary_is_that_token(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    [red] = tiny_model.tokenizer.encode("red").ids
    vector = tiny_model.text_encoder.text_model.embeddings.token_embedding.weight[red : red + 1]
    write_embedding(tmp_path / "copy.safetensors", "<copy>", vector, {})
    taught = with_embeddings(tiny_model, [str(tmp_path / "copy.safetensors")])
    assert np.array_equal(make(taught, "<copy> dress")[0].pixels, make(tiny_model, "red dress")[0].pixels)


def test_recipes_name_the_file_and_replay_finds_it(tiny_model: LatentDiffusion, folder: Path, tmp_path: Path) -> None:
    [picture] = make(with_embeddings(tiny_model, ["monet"]), "red <monet> dress")
    picture.save(tmp_path / "a.png")
    facts = read_recipe(tmp_path / "a.png").embeddings
    assert [(file.name, file.path) for file in facts] == [("monet", str(folder / "monet.safetensors"))]
    assert replay(tmp_path / "a.png", tiny_model).identical
    write_embedding(folder / "monet.safetensors", "<monet>", torch.ones(3, 16), {})
    changed = replay(tmp_path / "a.png", tiny_model)
    assert not changed.identical and any(line.startswith("embedding monet: was") for line in changed.circumstances)


@pytest.mark.usefixtures("folder")
def test_in_float32_they_are_still_there(tiny_folder: Path) -> None:
    taught = with_embeddings(LatentDiffusion.load(tiny_folder, "cpu", "bfloat16"), ["monet"])
    single = taught.in_float32()
    assert single.embeddings == taught.embeddings
    assert single.tokenizer.encode("<monet>").ids == taught.tokenizer.encode("<monet>").ids
    assert single.encode_prompts(["<monet>"]).states.dtype == torch.float32


def test_faults(tiny_model: LatentDiffusion, folder: Path) -> None:
    with pytest.raises(ToileError, match=r"no embedding 'manet'.*it holds monet"):
        with_embeddings(tiny_model, ["manet"])
    with pytest.raises(ToileError, match="two embeddings have one word"):
        with_embeddings(tiny_model, ["monet", str(folder / "monet.safetensors")])
    write_embedding(folder / "wide.safetensors", "<wide>", torch.ones(1, 768), {})
    with pytest.raises(ToileError, match="768 numbers, the text encoder of this model reads 16"):
        with_embeddings(tiny_model, ["wide"])


@pytest.mark.usefixtures("folder")
def test_the_command(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    arguments = ["generate", "--model", str(tiny_folder), "--device", "cpu", "--seed", "1", "--out", str(out), "--json"]
    assert run([*arguments, "red <monet>", "--embedding", "monet"]) == 0
    path = json.loads(capsys.readouterr().out)["pictures"][0]["path"]
    assert [file.name for file in read_recipe(Path(path)).embeddings] == ["monet"]
    assert 'TI hashes: "monet: ' in read_recipe(Path(path)).parameters()
    assert run([*arguments, "--like", path]) == 0
    other = json.loads(capsys.readouterr().out)["pictures"][0]["path"]
    assert read_recipe(Path(other)).embeddings == read_recipe(Path(path)).embeddings
    assert run(["edit", path, "blue <monet>", "--out", str(out)]) == 0
    assert run([*arguments, "red", "--embedding", "nothing"]) == 2


@pytest.mark.usefixtures("folder")
def test_series_know_them_too(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", str(tiny_folder), "--device", "cpu", "--seed", "1", "--out", str(tmp_path / "out"), "--json"]
    series = (
        ["grid", "red <monet>", "--x", "steps=2,3"],
        ["blend", "red <monet>", "blue belt", "--frames", "2"],
        ["weigh", "red <monet>", "--word", "<monet>", "--stops", "2"],
    )
    for arguments in series:
        assert run([*arguments, "--embedding", "monet", *common]) == 0
        path = Path(json.loads(capsys.readouterr().out)["pictures"][0])
        assert [file.name for file in read_recipe(path).embeddings] == ["monet"], arguments[0]
