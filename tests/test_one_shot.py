"""Baselines as files: they load as they were saved, and a picture depends on its prompt and seed alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from toile.cli.main import run
from toile.data.idx import CLASS_NAMES
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.models.cvae import ConditionalVAE, ConditionalVAEConfig
from toile.models.text_autoencoder import TextAutoencoder, TextAutoencoderConfig
from toile.one_shot import OneShotModel, encode_words, is_one_shot, load_words

PROMPTS = ["red dress for women", "black leather belt", "red dress for women", "navy blue checked shirt for men", ""]
SEEDS = [3, 3, 2**64 - 1, 0, 17]
CONFIGS = {
    "linear": ConditionalVAEConfig((16, 8), 16, latent_dim=4, hidden_dim=12),
    "convolutions": ConditionalVAEConfig((16, 8), 16, latent_dim=4, hidden_dim=12, block_out_channels=(8, 16)),
    "autoencoder": TextAutoencoderConfig((16, 8), 16, code_dim=4, hidden_dim=12, block_out_channels=(8, 16)),
}


def build(kind: str, tiny_model: LatentDiffusion) -> OneShotModel:
    torch.manual_seed(0)
    config = CONFIGS[kind]
    network: nn.Module = ConditionalVAE(config) if isinstance(config, ConditionalVAEConfig) else TextAutoencoder(config)
    for parameter in network.parameters():  # contrast, so that differences are not rounded away
        parameter.data *= 1.5
    return OneShotModel(network.eval(), tiny_model.text_encoder, tiny_model.tokenizer, width=8, height=16)


@pytest.fixture
def folder(tiny_model: LatentDiffusion, tmp_path: Path) -> Path:
    build("linear", tiny_model).save(tmp_path / "baseline")
    return tmp_path / "baseline"


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_baseline_makes_the_same_pictures(kind: str, tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    model = build(kind, tiny_model)
    model.save(tmp_path / "baseline")
    loaded = OneShotModel.load(tmp_path / "baseline")
    assert is_one_shot(tmp_path / "baseline") and type(loaded.generator) is type(model.generator)
    pictures = model.pictures(PROMPTS, SEEDS)
    assert (
        pictures.shape == (5, 16, 8, 3) and pictures.dtype == torch.uint8 and int(pictures.max() - pictures.min()) > 9
    )
    assert torch.equal(loaded.pictures(PROMPTS, SEEDS), pictures)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_picture_is_the_same_alone_and_among_others(kind: str, tiny_model: LatentDiffusion) -> None:
    model = build(kind, tiny_model)
    together = model.pictures(PROMPTS, SEEDS, batch_size=4)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert torch.equal(model.pictures([prompt], [seed], batch_size=4)[0], together[row])
    other_seed, other_prompt = model.pictures(PROMPTS[:1], [4]), model.pictures(["black leather belt"], [3])
    assert torch.equal(other_seed[0], together[0]) == (kind == "autoencoder")
    assert not torch.equal(other_prompt[0], together[0])
    assert model.pictures([], []).shape == (0, 16, 8, 3)


def test_words_are_the_state_of_the_end_token(tiny_model: LatentDiffusion) -> None:
    encoder, tokenizer = tiny_model.text_encoder, tiny_model.tokenizer
    words = encode_words(encoder, tokenizer, PROMPTS)
    ids = tokenizer.batch(PROMPTS)[0]
    torch.testing.assert_close(words, encoder.pooled(encoder(ids), ids))
    assert torch.equal(words[0], words[2])
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(encode_words(encoder, tokenizer, [prompt])[0], words[row])


def test_the_bundled_words_tell_the_classes_of_fashion_mnist_apart() -> None:
    text_encoder, tokenizer = load_words("fashion")
    words = encode_words(text_encoder, tokenizer, CLASS_NAMES)
    distances = torch.cdist(words, words) + torch.eye(len(words)) * 1e9
    assert float(distances.min()) > 0.1 * float(words.norm(dim=1).mean())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((["a"], [1, 2]), "1 prompts, 2 seeds"),
        ((["a"], [-1]), "seed is -1"),
        ((["a"], [1], 0), "batch_size 0"),
    ],
)
def test_wrong_requests_are_named(folder: Path, arguments: tuple[object, ...], named: str) -> None:
    with pytest.raises(ToileError, match=named):
        OneShotModel.load(folder).pictures(*arguments)  # type: ignore[arg-type]


def test_what_is_no_baseline_is_refused(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    assert not is_one_shot(tiny_folder) and not is_one_shot(tmp_path)
    with pytest.raises(ToileError, match="is no baseline"):
        OneShotModel.load(tiny_folder)
    config = json.loads((folder / "generator" / "config.json").read_text(encoding="utf-8"))
    for name, changes, named in (
        ("generator/config.json", {"_class_name": "Oracle"}, "names its generator 'Oracle'; known are ConditionalVAE"),
        ("generator/config.json", {"words_dim": 17}, "does not fit|words of 17"),
        ("generator/config.json", {"colour": 1}, "unknown key 'colour'"),
        ("model_index.json", {"width": "wide"}, "width 'wide'"),
    ):
        broken = tmp_path / "broken"
        shutil.copytree(folder, broken, dirs_exist_ok=True)
        entries = json.loads((broken / name).read_text(encoding="utf-8"))
        (broken / name).write_text(json.dumps({**entries, **changes}), encoding="utf-8")
        with pytest.raises(ToileError, match=named):
            OneShotModel.load(broken)
    assert config["_class_name"] == "ConditionalVAE" and config["sample_size"] == [16, 8]


def test_parts_that_do_not_fit_are_refused(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    network = ConditionalVAE(ConditionalVAEConfig((16, 8), 9, latent_dim=4, hidden_dim=12))
    with pytest.raises(ToileError, match="reads words of 9 numbers, the text encoder gives 16"):
        OneShotModel(network, tiny_model.text_encoder, tiny_model.tokenizer, 8, 16)


def test_generate_says_what_a_baseline_is_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "red dress", "--model", str(folder)]) == 2
    said = capsys.readouterr().err.strip()
    assert "holds a baseline, for `toile evaluate` and `toile compare`" in said and "\n" not in said
