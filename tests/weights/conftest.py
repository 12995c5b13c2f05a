"""Model folders of random weights, written by diffusers and transformers themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from toile.model_files.folder import read_folder
from toile.model_files.parts import ModelParts
from toile.model_files.writing import write_model
from toile.model_folder import write_model_index
from toile.text.tokenizer import Tokenizer
from toile.weights.files import load_tensors, save_tensors


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Gives each number of a model a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def write_theirs(folder: Path, *, version: int) -> Path:
    """A small model of the shape of Stable Diffusion 1.x or 2.x; sizes that files of one piece show."""
    second = version == 2
    tokenizer = Tokenizer.train(
        ["red floral dress for women", "black leather belt"] * 20, vocab_size=540, max_length=16
    )
    text = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=96,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act="gelu" if second else "quick_gelu",
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=16,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1 if second else 2,
        cross_attention_dim=64,
        attention_head_dim=(1, 2, 2) if second else 8,
        use_linear_projection=second,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
    )
    randomised(unet, 1).save_pretrained(folder / "unet")
    randomised(vae, 2).save_pretrained(folder / "vae")
    randomised(CLIPTextModel(text), 3).save_pretrained(folder / "text_encoder")
    tokenizer.save(folder / "tokenizer")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction" if second else "epsilon",
    ).save_pretrained(folder / "scheduler")
    write_model_index(folder)
    return folder


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion 1.x; do not change it."""
    return write_theirs(tmp_path_factory.mktemp("theirs") / "sd1", version=1)


@pytest.fixture(scope="session")
def sd2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion 2.x that predicts velocity; do not change it."""
    return write_theirs(tmp_path_factory.mktemp("theirs") / "sd2", version=2)


@pytest.fixture(params=[1, 2], ids=["sd1", "sd2"])
def their_folder(request: pytest.FixtureRequest, sd1_folder: Path, sd2_folder: Path) -> Path:
    """Each of the two."""
    return (sd1_folder, sd2_folder)[request.param - 1]


def assert_same_tensors(actual: ModelParts, expected: ModelParts) -> None:
    assert set(actual.tensors) == set(expected.tensors)
    for part, network in expected.tensors.items():
        assert set(actual.tensors[part]) == set(network)
        for name, tensor in network.items():
            other = actual.tensors[part][name]
            assert other.dtype == tensor.dtype
            bits, expected_bits = (each.contiguous().reshape(-1).view(torch.uint8) for each in (other, tensor))
            assert torch.equal(bits, expected_bits), f"{part}.{name}"


def assert_same_model(actual: ModelParts, expected: ModelParts) -> None:
    assert_same_tensors(actual, expected)
    assert (actual.unet, actual.vae, actual.text_encoder) == (expected.unet, expected.vae, expected.text_encoder)
    assert (actual.schedule, actual.settings) == (expected.schedule, expected.settings)
    assert actual.tokenizer is not None and expected.tokenizer is not None
    assert actual.tokenizer.vocab == expected.tokenizer.vocab
    assert actual.tokenizer.merges == expected.tokenizer.merges
    assert actual.tokenizer.special == expected.tokenizer.special
    assert actual.tokenizer.max_length == expected.tokenizer.max_length


@pytest.fixture
def same_tensors() -> Callable[[ModelParts, ModelParts], None]:
    """Asserts that two models have the same tensors, bit for bit."""
    return assert_same_tensors


@pytest.fixture
def same_model() -> Callable[[ModelParts, ModelParts], None]:
    """Asserts that two models have the same tensors, configs, schedule, settings and tokenizer."""
    return assert_same_model


def write_original(path: Path, folder: Path, changes: dict[str, Tensor | None] | None = None) -> Path:
    """A single file as others publish it: the tensors alone; the tokenizer lies beside it."""
    converted = path.with_name("converted.safetensors")
    write_model(read_folder(folder), converted)
    tensors = {name: tensor.clone() for name, tensor in load_tensors(converted).items()}
    converted.unlink()
    for name, tensor in (changes or {}).items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_tensors(path, tensors, {"format": "pt"})
    shutil.copytree(folder / "tokenizer", path.parent / "tokenizer", dirs_exist_ok=True)
    return path


@pytest.fixture
def original_file() -> Callable[..., Path]:
    """Writes a single file as others publish it, see `write_original`."""
    return write_original
