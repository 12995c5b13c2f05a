"""Model folders: saved, loaded, recognised; refused when their parts do not belong together."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toile.errors import ToileError
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import read_model_facts
from toile.models.unet import UNet

NETWORKS = ("unet", "vae", "text_encoder")


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copied"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_saved_and_loaded_is_the_same_model(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    tiny_model.save(tmp_path / "again", dtype=torch.float32)
    again = LatentDiffusion.load(tmp_path / "again", device="cpu", dtype="float32")
    for name in NETWORKS:
        one, other = getattr(tiny_model, name), getattr(again, name)
        assert one.config == other.config
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert again.schedule.config == tiny_model.schedule.config
    assert again.tokenizer.vocab == tiny_model.tokenizer.vocab
    assert again.defaults == tiny_model.defaults


def test_saved_twice_is_equal_byte_for_byte(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny_model.save(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 13
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_networks_have_the_asked_precision_and_no_gradients(tiny_folder: Path, dtype: str) -> None:
    model = LatentDiffusion.load(tiny_folder, device="cpu", dtype=dtype)
    for name in NETWORKS:
        for parameter in getattr(model, name).parameters():
            assert parameter.dtype == getattr(torch, dtype)
            assert not parameter.requires_grad
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.dtype == getattr(torch, dtype)


def test_loading_draws_no_random_numbers_and_takes_no_time(tiny_folder: Path) -> None:
    state = torch.get_rng_state()
    started = time.process_time()
    LatentDiffusion.load(tiny_folder, device="cpu", dtype="float32")
    assert time.process_time() - started < 1.0
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_precision_is_half_where_the_processor_has_it(tiny_folder: Path) -> None:
    has_bfloat16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    model = LatentDiffusion.load(tiny_folder, device="cpu", dtype="auto")
    assert model.dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)


def test_unknown_device_and_precision_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ToileError, match="device 'tpu9'"):
        LatentDiffusion.load(tiny_folder, device="tpu9")
    with pytest.raises(ToileError, match="dtype 'int8'.*float32"):
        LatentDiffusion.load(tiny_folder, device="cpu", dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ToileError, match="not available here"):
            LatentDiffusion.load(tiny_folder, device="cuda")


def test_the_hash_follows_the_content_not_the_place(copied: Path, tiny_folder: Path) -> None:
    facts, before = read_model_facts(copied), read_model_facts(tiny_folder)
    assert facts.hash == before.hash
    assert (facts.name, before.name) == ("copied", "tiny")
    edit_json(copied / "toile.json", steps=7)
    assert read_model_facts(copied).hash == before.hash
    edit_json(copied / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    changed = read_model_facts(copied)
    assert changed.hash != before.hash
    assert changed.components.scheduler != before.components.scheduler
    assert changed.components.unet == before.components.unet


def test_without_settings_the_size_is_the_unets(copied: Path) -> None:
    (copied / "toile.json").unlink()
    model = LatentDiffusion.load(copied, device="cpu", dtype="float32")
    assert model.defaults == GenerationSettings(
        width=24, height=32, steps=30, guidance=7.5, sampler="dpmpp_2m", batch_size=1
    )


def test_a_wrong_setting_in_the_folder_is_refused(copied: Path) -> None:
    edit_json(copied / "toile.json", stepz=3)
    with pytest.raises(ToileError, match="toile.json.*stepz.*steps"):
        LatentDiffusion.load(copied, device="cpu")


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(copied: Path, missing: str) -> None:
    (copied / missing).unlink()
    with pytest.raises(ToileError, match=missing.rsplit("/", 1)[-1]):
        LatentDiffusion.load(copied, device="cpu")


def test_another_family_is_refused(copied: Path) -> None:
    edit_json(copied / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ToileError, match="FluxPipeline"):
        LatentDiffusion.load(copied, device="cpu")


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="no folder.*fashion"):
        LatentDiffusion.load(tmp_path / "nothing")


def test_parts_of_two_models_are_refused(tiny_model: LatentDiffusion) -> None:
    other = UNet(replace(tiny_model.unet.config, cross_attention_dim=8))
    with pytest.raises(ToileError, match=r"text width of the U-Net \(8\) must equal the text encoder's \(16\)"):
        replace(tiny_model, unet=other)
    other = UNet(replace(tiny_model.unet.config, in_channels=8))
    with pytest.raises(ToileError, match=r"\(8\) must equal the autoencoder's \(4\)"):
        replace(tiny_model, unet=other)
    inpainting = UNet(replace(tiny_model.unet.config, in_channels=9))
    assert replace(tiny_model, unet=inpainting).repaints and not tiny_model.repaints


def test_prompts_are_encoded_row_by_row(tiny_model: LatentDiffusion) -> None:
    encoded = tiny_model.encode_prompts(["red dress", "blue " * 200 + "end"])
    assert encoded.states.shape == (2, 8 * 16, 16)
    assert encoded.cut[0] == ""
    assert encoded.cut[1].endswith("end")
    assert [prompt.count for prompt in encoded.tokens] == [2, 8 * 14]
    torch.testing.assert_close(encoded.states[:1, :16], tiny_model.encode_prompts(["red dress"]).states)


def test_latents_decode_to_images_of_the_size_they_stand_for(tiny_model: LatentDiffusion) -> None:
    shape = tiny_model.latent_shape(24, 32)
    assert shape == (4, 8, 6)
    images = tiny_model.decode_latents(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (2, 3, 32, 24)
    assert images.dtype == torch.float32
    torch.testing.assert_close(tiny_model.decode_latents(tiny_model.vae.encode_images(images)).shape, images.shape)
