"""Model folders as other versions of diffusers and transformers write them: their files, names and keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.model_conversion import convert_model
from toile.model_files.folder import read_folder
from toile.model_files.parts import ModelParts
from toile.weights.checkpoint import open_checkpoint
from toile.weights.files import WeightsError, load_tensors, save_tensors
from toile.weights.folder import component_files, find_weights

Same = Callable[[ModelParts, ModelParts], None]


def rewritten(source: Path, target: Path, how: str) -> Path:
    """The folder with the weights of its U-Net, and old names in its autoencoder, as other versions write them."""
    shutil.copytree(source, target)
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = find_weights(target / part)
        tensors = {name: tensor.clone() for name, tensor in load_tensors(path).items()}
        path.unlink()
        pickled = "pytorch_model" if part == "text_encoder" else stem
        if how == "bin":
            torch.save(tensors, target / part / f"{pickled}.bin")
        elif how == "fp16 bin":
            torch.save(tensors, target / part / f"{pickled}.fp16.bin", _use_new_zipfile_serialization=False)
        elif how == "fp16":
            save_tensors(target / part / f"{stem}.fp16.safetensors", tensors, {})
        else:
            names = sorted(tensors)
            shards = {f"{stem}-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
            for shard, held in shards.items():
                save_tensors(target / part / shard, {name: tensors[name] for name in held}, {})
            places = {name: shard for shard, held in shards.items() for name in held}
            index = {"metadata": {"total_size": 1}, "weight_map": places}
            (target / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("how", ["bin", "fp16 bin", "fp16", "sharded"])
def test_each_way_in_which_folders_hold_weights(tmp_path: Path, sd1_folder: Path, how: str, same_model: Same) -> None:
    folder = rewritten(sd1_folder, tmp_path / "x", how)
    same_model(read_folder(folder), read_folder(sd1_folder))
    loaded = LatentDiffusion.load(folder, "cpu", "float32")
    assert loaded.facts is not None
    assert len(component_files(folder / "unet")) == (2 if how == "sharded" else 1)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, sd1_folder: Path) -> None:
    folder = rewritten(sd1_folder, tmp_path / "x", "sharded")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for name in ("../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", "absent.safetensors", "..\\a"):
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
        with pytest.raises(WeightsError, match="which is no file beside it"):
            read_folder(folder)


def test_an_old_folder_of_diffusers(tmp_path: Path, sd1_folder: Path, same_model: Same) -> None:
    shutil.copytree(sd1_folder, tmp_path / "old")
    vae, text = find_weights(tmp_path / "old" / "vae"), find_weights(tmp_path / "old" / "text_encoder")
    old_names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, tensor in load_tensors(vae).items():
        is_attention = ".attentions." in name
        for new, old in old_names.items():
            name = name.replace(new, old)
        is_matrix = is_attention and tensor.dim() == 2
        renamed[name] = (tensor[..., None, None] if is_matrix else tensor).clone()
    save_tensors(vae, renamed, {})
    tensors = {name: tensor.clone() for name, tensor in load_tensors(text).items()}
    save_tensors(text, {**tensors, "text_model.embeddings.position_ids": torch.arange(16)[None]}, {})
    same_model(read_folder(tmp_path / "old"), read_folder(sd1_folder))
    LatentDiffusion.load(tmp_path / "old", "cpu", "float32")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("unet", "addition_embed_type", "text_time"),
        ("unet", "addition_time_embed_dim", 256),
        ("unet", "transformer_layers_per_block", [1, 2, 10]),
        ("unet", "flip_sin_to_cos", 1),
        ("unet", "act_fn", "gelu"),
        ("unet", "only_cross_attention", [True, False, False]),
        ("vae", "use_quant_conv", False),
        ("vae", "latents_mean", [0.1, 0.2]),
        ("vae", "down_block_types", ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"]),
    ],
)
def test_a_key_that_changes_the_computation_is_refused(
    tmp_path: Path, sd1_folder: Path, part: str, key: str, value: Any
) -> None:
    shutil.copytree(sd1_folder, tmp_path / "x")
    path = tmp_path / "x" / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ToileError, match=f"{key} is .*can be computed: this is another family"):
        read_folder(tmp_path / "x")


def test_keys_of_other_programs_are_written_again(tmp_path: Path, sd2_folder: Path) -> None:
    shutil.copytree(sd2_folder, tmp_path / "x")
    path = tmp_path / "x" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "upcast_attention": True}))
    convert_model(tmp_path / "x", tmp_path / "x.safetensors")
    convert_model(tmp_path / "x.safetensors", tmp_path / "back")
    written = json.loads((tmp_path / "back" / "unet" / "config.json").read_text())
    assert written["upcast_attention"] is True
    assert open_checkpoint(tmp_path / "x.safetensors").metadata["format"] == "pt"
