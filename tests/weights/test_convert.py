"""Models between folder, single file and four parts: no number changes, and what does not fit is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from toile.cli.main import run
from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.model_conversion import convert_model
from toile.model_description import describe_model
from toile.model_files.folder import read_folder
from toile.model_files.parts import ModelParts
from toile.model_files.reading import read_model
from toile.model_files.writing import write_model
from toile.weights.checkpoint import METADATA_KEY
from toile.weights.files import WeightsError, load_tensors, read_metadata, save_tensors
from toile.weights.folder import WEIGHTS_NAMES, find_weights

Output = pytest.CaptureFixture[str]
Original = Callable[..., Path]
Same = Callable[[ModelParts, ModelParts], None]


# ---------------------------------------------------------------------------------------------------- round trips


def test_folder_single_file_folder(tmp_path: Path, their_folder: Path, same_model: Same) -> None:
    first = convert_model(their_folder, tmp_path / "x.safetensors")
    second = convert_model(tmp_path / "x.safetensors", tmp_path / "back")
    assert (first.source_layout, first.target_layout) == ("folder", "single file")
    assert (second.source_layout, second.target_layout) == ("single file", "folder")
    assert (first.left_out, second.left_out, second.notes) == ((), (), ())
    same_model(read_folder(tmp_path / "back"), read_folder(their_folder))
    for part, name in (("unet", WEIGHTS_NAMES[0]), ("vae", WEIGHTS_NAMES[0]), ("text_encoder", WEIGHTS_NAMES[1])):
        assert find_weights(tmp_path / "back" / part).name == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "x.safetensors"]


def test_folder_four_parts_folder(tmp_path: Path, sd1_folder: Path, same_model: Same) -> None:
    convert_model(sd1_folder, tmp_path / "x.ckpt")
    convert_model(tmp_path / "x.ckpt", tmp_path / "back")
    same_model(read_folder(tmp_path / "back"), read_folder(sd1_folder))
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert set(content) == {"diffusion", "encoder", "decoder", "clip", METADATA_KEY}
    convert_model(tmp_path / "x.ckpt", tmp_path / "x.safetensors")
    same_model(read_model(tmp_path / "x.safetensors"), read_folder(sd1_folder))


def test_settings_and_every_config_of_a_model_of_ours_come_back(
    tmp_path: Path, tiny_folder: Path, same_model: Same
) -> None:
    for name in ("x.safetensors", "x.ckpt"):
        convert_model(tiny_folder, tmp_path / name)
        same_model(read_model(tmp_path / name), read_folder(tiny_folder))
    assert read_folder(tiny_folder).settings is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_are_kept(tmp_path: Path, tiny_folder: Path, dtype: torch.dtype, same_tensors: Same) -> None:
    LatentDiffusion.load(tiny_folder, "cpu", "float32").save(tmp_path / "half", dtype)
    parts = read_folder(tmp_path / "half")
    mixed = {**parts.tensors, "vae": {name: tensor.float() for name, tensor in parts.tensors["vae"].items()}}
    parts = replace(parts, tensors=mixed)
    for name in ("x.safetensors", "x.ckpt", "folder"):
        write_model(parts, tmp_path / name)
        same_tensors(read_model(tmp_path / name), parts)


def test_equal_models_make_equal_files(tmp_path: Path, sd1_folder: Path) -> None:
    for name in ("1.safetensors", "2.safetensors"):
        convert_model(sd1_folder, tmp_path / name)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_diffusers_and_transformers_load_what_we_wrote(
    tmp_path: Path, their_folder: Path, original_file: Original
) -> None:
    original_file(tmp_path / "x.safetensors", their_folder)
    convert_model(tmp_path / "x.safetensors", tmp_path / "back")
    parts = read_folder(their_folder)
    for part, theirs in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)):
        loaded = theirs.from_pretrained(tmp_path / "back" / part).state_dict()
        before = theirs.from_pretrained(their_folder / part).state_dict()
        assert set(loaded) == set(before)
        for name, tensor in before.items():
            assert torch.equal(loaded[name], tensor), name
        assert parts.tensors[part]


# ---------------------------------------------------------------------------------------------------- told by tensors


def test_the_sizes_of_an_original_file_are_told_from_its_tensors(
    tmp_path: Path, their_folder: Path, same_tensors: Same, original_file: Original
) -> None:
    path = original_file(tmp_path / "x.safetensors", their_folder)
    expected = read_folder(their_folder)
    parts = read_model(path, prediction=expected.schedule.prediction_type)
    same_tensors(parts, expected)
    assert parts.unet == replace(expected.unet, sample_size=parts.unet.sample_size)
    assert parts.vae == replace(expected.vae, sample_size=parts.vae.sample_size)
    assert parts.text_encoder == expected.text_encoder
    assert parts.schedule == expected.schedule
    assert parts.notes


def test_a_four_part_file_of_others_is_read_too(tmp_path: Path, sd1_folder: Path, same_tensors: Same) -> None:
    convert_model(sd1_folder, tmp_path / "ours.ckpt")
    content = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    del content[METADATA_KEY]
    torch.save(content, tmp_path / "theirs.pt")
    parts, expected = read_model(tmp_path / "theirs.pt", sd1_folder / "tokenizer"), read_folder(sd1_folder)
    assert parts.layout == "four parts"
    same_tensors(parts, expected)
    assert parts.unet == replace(expected.unet, sample_size=64)
    assert parts.vae == replace(expected.vae, sample_size=512)
    assert parts.text_encoder == expected.text_encoder


def test_a_trainers_ckpt_with_an_averaged_copy(
    tmp_path: Path, sd1_folder: Path, same_tensors: Same, original_file: Original
) -> None:
    plain = load_tensors(original_file(tmp_path / "x.safetensors", sd1_folder))
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in plain.items()
        if name.startswith("model.diffusion_model.")
    }
    extras = {
        "model_ema.decay": torch.tensor(0.9999),
        "scale_factor": torch.tensor(0.25),
        "betas": torch.zeros(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(16.0)[None],
        "first_stage_model.loss.logvar": torch.zeros(()),
        "mystery": torch.zeros(1),
    }
    content = {"global_step": 470_000, "state_dict": {**plain, **averaged, **extras}}
    torch.save(content, tmp_path / "trained.ckpt")
    expected = read_folder(sd1_folder)
    last = read_model(tmp_path / "trained.ckpt")
    same_tensors(last, expected)
    assert last.vae.scaling_factor == 0.25
    said = "; ".join(last.left_out)
    for phrase in (
        f"averaged copy of the U-Net (model_ema): {len(averaged) + 1} tensors",
        "the noise schedule: 2 tensors",
        "position_ids): 1 tensors",
        "the loss of the autoencoder's training: 1 tensors",
        "of unknown use: 1 tensors (mystery)",
    ):
        assert phrase in said
    copy = read_model(tmp_path / "trained.ckpt", ema=True)
    for name, tensor in expected.tensors["unet"].items():
        assert torch.equal(copy.tensors["unet"][name], tensor + 1), name
    assert torch.equal(copy.tensors["vae"]["quant_conv.weight"], expected.tensors["vae"]["quant_conv.weight"])
    with pytest.raises(ToileError, match="has no averaged copy"):
        read_model(tmp_path / "x.safetensors", ema=True)
    with pytest.raises(ToileError, match="is no single file"):
        read_model(sd1_folder, ema=True)


def test_the_last_layer_of_a_whole_open_clip_is_left_out(
    tmp_path: Path, sd2_folder: Path, same_tensors: Same, original_file: Original
) -> None:
    root = "cond_stage_model.model."
    plain = load_tensors(original_file(tmp_path / "plain.safetensors", sd2_folder))
    layer = {name: tensor for name, tensor in plain.items() if ".resblocks.1." in name}
    whole: dict[str, Tensor | None] = {
        name.replace(".resblocks.1.", ".resblocks.2."): tensor + 1 for name, tensor in layer.items()
    }
    whole |= {f"{root}text_projection": torch.ones(64, 64), f"{root}logit_scale": torch.ones(())}
    parts = read_model(original_file(tmp_path / "x.safetensors", sd2_folder, whole))
    same_tensors(parts, read_folder(sd2_folder))
    assert parts.left_out == (
        "the projection of CLIP, which pictures do not need: 2 tensors",
        "the last layer of OpenCLIP, which Stable Diffusion 2.x does not use: 12 tensors",
    )


def test_old_names_of_the_text_encoder(
    tmp_path: Path, sd1_folder: Path, same_tensors: Same, original_file: Original
) -> None:
    plain = load_tensors(original_file(tmp_path / "x.safetensors", sd1_folder))
    old = {name.replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."): tensor.clone()
           for name, tensor in plain.items()}  # fmt: skip
    save_tensors(tmp_path / "old.safetensors", old, {})
    same_tensors(read_model(tmp_path / "old.safetensors"), read_folder(sd1_folder))


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "shape", "fault"),
    [
        (
            "first_stage_model.decoder.conv_in.weight",
            None,
            "lacks tensors: 1 of the autoencoder: first_stage_model.deco",
        ),
        ("model.diffusion_model.out.2.bias", None, "lacks tensors: 1 of the U-Net: model.diffusion_model.out.2.bias"),
        ("model.diffusion_model.extra.weight", (2,), "1 tensors that its networks do not have: .*extra.weight"),
        ("model.diffusion_model.out.2.bias", (7,), r"conv_out.bias is \[7\], must be \[4\]"),
        ("model.diffusion_model.label_emb.0.0.weight", (2,), "further conditions"),
        ("conditioner.embedders.0.x", (2,), "is Stable Diffusion XL"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(
    tmp_path: Path, sd1_folder: Path, name: str, shape: tuple[int, ...] | None, fault: str, original_file: Original
) -> None:
    change: dict[str, Tensor | None] = {name: None if shape is None else torch.zeros(shape)}
    path = original_file(tmp_path / "x.safetensors", sd1_folder, change)
    with pytest.raises(WeightsError, match=fault) as refusal:
        convert_model(path, tmp_path / "back")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "back").exists()


def test_other_files_are_named_for_what_they_are(tmp_path: Path, sd1_folder: Path) -> None:
    unet = find_weights(sd1_folder / "unet")
    for content, fault in (
        (load_tensors(unet), "the U-Net of a model folder; give the whole folder"),
        ({"lora_unet_x.lora_up.weight": torch.zeros(2)}, "a LoRA"),
        ({"a": torch.zeros(2)}, r"is no model of Stable Diffusion: .*\(a, \.\.\.\)"),
        ({"first_stage_model.encoder.x": torch.zeros(2)}, "has no U-Net and no text encoder; a whole model"),
    ):
        save_tensors(tmp_path / "x.safetensors", content, {})
        with pytest.raises(WeightsError, match=fault):
            read_model(tmp_path / "x.safetensors")


def test_metadata_is_read_strictly(tmp_path: Path, sd1_folder: Path) -> None:
    convert_model(sd1_folder, tmp_path / "x.safetensors")
    tensors, metadata = load_tensors(tmp_path / "x.safetensors"), read_metadata(tmp_path / "x.safetensors")
    sound = json.loads(metadata[METADATA_KEY])
    for change, fault in (
        ({"unet": {**sound["unet"], "act_fn": "gelu"}}, "unet: act_fn is 'gelu'"),
        ({"vae": {**sound["vae"], "new_key": 1}}, "vae: unknown key 'new_key'"),
        ({"tokenizer": {"vocab": {"a": -1}}}, "tokenizer must have"),
        ({"schedule": None}, "schedule must be an object"),
        ({"version": 2}, "a newer file"),
    ):
        text: dict[str, Any] = {**sound, **change}
        save_tensors(tmp_path / "y.safetensors", tensors, {METADATA_KEY: json.dumps(text)})
        with pytest.raises(ToileError, match=fault):
            read_model(tmp_path / "y.safetensors")


def test_the_target_is_never_replaced_and_nothing_is_left_by_a_failure(
    tmp_path: Path, sd2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ToileError, match="exists already"):
        convert_model(sd2_folder, tmp_path / "there")
    with pytest.raises(WeightsError, match="four-part layout is for Stable Diffusion 1.x"):
        convert_model(sd2_folder, tmp_path / "x.ckpt")

    def full_disk(*_: Any) -> None:
        raise WeightsError("cannot write: No space left on device")

    monkeypatch.setattr("toile.model_files.folder.write_model_index", full_disk)
    with pytest.raises(WeightsError, match="No space left"):
        convert_model(sd2_folder, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


# ---------------------------------------------------------------------------------------------------- pictures


def test_a_single_file_makes_the_pictures_of_its_folder(tmp_path: Path, tiny_folder: Path) -> None:
    convert_model(tiny_folder, tmp_path / "x.safetensors")
    model, file = (LatentDiffusion.load(path, "cpu", "float32") for path in (tiny_folder, tmp_path / "x.safetensors"))
    request = GenerateRequest(("red dress",), seed=3)
    first, second = (_pixels(one, request) for one in (model, file))
    assert first and first == second
    assert file.facts is not None and file.facts.name == "x.safetensors"
    assert asdict(file.defaults) == asdict(model.defaults)
    assert describe_model(tmp_path / "x.safetensors").parameters == describe_model(tiny_folder).parameters
    again = file.in_float32()
    assert _pixels(again, request) == first


def _pixels(model: LatentDiffusion, request: GenerateRequest) -> list[bytes]:
    return [event.pixels.tobytes() for event in generate(model, request) if isinstance(event, Picture)]


def test_the_tokenizer_of_an_original_file(
    tmp_path: Path, sd2_folder: Path, monkeypatch: pytest.MonkeyPatch, original_file: Original
) -> None:
    path = original_file(tmp_path / "x.safetensors", sd2_folder)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert read_model(path).tokenizer is not None
    (tmp_path / "tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(ToileError, match="has no tokenizer with it: put one into .*tokenizer"):
        read_model(path)
    given = read_model(path, tmp_path / "elsewhere").tokenizer
    assert given is not None
    snapshot = tmp_path / "cache" / "models--openai--clip-vit-large-patch14" / "snapshots" / "0123"
    shutil.copytree(tmp_path / "elsewhere", snapshot)
    cached = read_model(path).tokenizer
    assert cached is not None
    assert cached.vocab == given.vocab
    assert cached.special.pad == "!"  # as OpenCLIP was trained


# ---------------------------------------------------------------------------------------------------- command


def test_the_command_says_what_it_read_and_wrote(
    tmp_path: Path, sd1_folder: Path, capsys: Output, original_file: Original
) -> None:
    path = original_file(tmp_path / "x.safetensors", sd1_folder, {"betas": torch.zeros(1000)})
    assert run(["convert", str(path), str(tmp_path / "back")]) == 0
    out = capsys.readouterr().out
    assert f"read: {path} (single file)" in out
    assert "missing: nothing" in out
    assert "left out: the noise schedule: 1 tensors" in out
    assert "note: the U-Net predicts noise (epsilon)" in out
    assert f"written: {tmp_path / 'back'} (folder, " in out
    assert run(["convert", str(tmp_path / "back"), str(tmp_path / "y.ckpt"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["target_layout"] == "four parts"
    assert [part["name"] for part in result["components"]] == ["unet", "vae", "text_encoder"]
    assert run(["convert", str(path), str(tmp_path / "back")]) == 2
    assert "exists already" in capsys.readouterr().err
