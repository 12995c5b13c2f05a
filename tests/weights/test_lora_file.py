"""LoRA files: what we write comes back, others' names are understood, and what does not fit is refused in words."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.models.unet import SD15_UNET, UNet
from toile.nn.lora import LowRank, adaptable_layers
from toile.weights.files import WeightsError, load_tensors, read_metadata, save_tensors
from toile.weights.lora_file import LoRAFile, read_lora, write_lora
from toile.weights.lora_names import sort_names
from toile.weights.lora_writing import kohya_hashes

Shapes = Mapping[str, tuple[int, ...]]

BLOCK = "unet.down_blocks.0.attentions.0"
ATTENTION = f"{BLOCK}.transformer_blocks.0.attn1"
TEXT = "text_encoder.text_model.encoder.layers.1"
KOHYA_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
# Written by hand after files of kohya's sd-scripts for Stable Diffusion 1.5.
KOHYA_NAMES = {
    f"{ATTENTION}.to_q": KOHYA_Q,
    f"{ATTENTION}.to_out.0": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
    f"{BLOCK}.transformer_blocks.0.attn2.to_k": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    f"{BLOCK}.transformer_blocks.0.ff.net.0.proj": (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj"
    ),
    f"{BLOCK}.transformer_blocks.0.ff.net.2": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2",
    f"{BLOCK}.proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
    "unet.mid_block.attentions.0.proj_out": "lora_unet_mid_block_attentions_0_proj_out",
    "unet.up_blocks.1.resnets.0.conv1": "lora_unet_up_blocks_1_resnets_0_conv1",
    "unet.up_blocks.1.resnets.0.conv_shortcut": "lora_unet_up_blocks_1_resnets_0_conv_shortcut",
    "unet.down_blocks.0.resnets.0.time_emb_proj": "lora_unet_down_blocks_0_resnets_0_time_emb_proj",
    "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_down_blocks_0_downsamplers_0_conv",
    f"{TEXT}.self_attn.q_proj": "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
    f"{TEXT}.self_attn.out_proj": "lora_te_text_model_encoder_layers_1_self_attn_out_proj",
    f"{TEXT}.mlp.fc1": "lora_te_text_model_encoder_layers_1_mlp_fc1",
}
# The same for trainers that ran the original U-Net, for the layers of Stable Diffusion 1.5.
SINGLE_FILE_NAMES = {
    "unet.conv_in": "lora_unet_input_blocks_0_0",
    "unet.time_embedding.linear_2": "lora_unet_time_embed_2",
    f"{ATTENTION}.to_q": "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_3_0_op",
    "unet.down_blocks.1.resnets.0.conv_shortcut": "lora_unet_input_blocks_4_0_skip_connection",
    "unet.down_blocks.3.resnets.1.conv2": "lora_unet_input_blocks_11_0_out_layers_3",
    "unet.mid_block.attentions.0.proj_in": "lora_unet_middle_block_1_proj_in",
    "unet.mid_block.resnets.1.time_emb_proj": "lora_unet_middle_block_2_emb_layers_1",
    "unet.up_blocks.0.upsamplers.0.conv": "lora_unet_output_blocks_2_1_conv",
    "unet.up_blocks.1.upsamplers.0.conv": "lora_unet_output_blocks_5_2_conv",
    "unet.up_blocks.3.attentions.2.proj_out": "lora_unet_output_blocks_11_1_proj_out",
    "unet.conv_out": "lora_unet_out_2",
}


@pytest.fixture(scope="module")
def shapes(tiny_model: LatentDiffusion) -> Shapes:
    """Of all layers of the tiny model that can be changed."""
    return lora_targets(tiny_model)


def draw(shape: tuple[int, ...], *, rank: int = 3, alpha: float = 1.5, seed: int = 0, dora: bool = False) -> LowRank:
    draws = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(rank, *shape[1:], generator=draws).half(),
        torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=draws).half(),
        alpha,
        torch.rand(shape[0], generator=draws).half() + 0.5 if dora else None,
    )


def changes_of(shapes: Shapes, prefix: str = "", **given: Any) -> dict[str, LowRank]:
    names = [name for name in KOHYA_NAMES if name.startswith(prefix)]
    return {name: draw(shapes[name], seed=seed, **given) for seed, name in enumerate(names)}


def assert_same_changes(actual: Mapping[str, LowRank], expected: Mapping[str, LowRank]) -> None:
    assert set(actual) == set(expected)
    for name, change in expected.items():
        same = actual[name]
        for part, other in ((same.down, change.down), (same.up, change.up), (same.magnitude, change.magnitude)):
            assert (part is None) == (other is None), name
            if part is not None and other is not None:
                assert part.dtype == other.dtype and torch.equal(part, other), name
        assert same.alpha == pytest.approx(change.alpha, rel=1e-7), name


def kohya_tensors(shapes: Shapes, *names: str) -> dict[str, Tensor]:
    """The tensors of a file with some layers, kohya's names built from the list above."""
    tensors: dict[str, Tensor] = {}
    for name in names or (f"{ATTENTION}.to_q", f"{TEXT}.mlp.fc1"):
        change, root = draw(shapes[name]), KOHYA_NAMES[name]
        tensors |= {f"{root}.lora_down.weight": change.down, f"{root}.lora_up.weight": change.up}
        tensors[f"{root}.alpha"] = torch.tensor(1.5)
    return tensors


def saved(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    path = folder / "lora.safetensors"
    save_tensors(path, tensors, metadata or {})
    return path


# ---------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_what_is_written_comes_back(tmp_path: Path, shapes: Shapes, dialect: str, dora: bool) -> None:
    changes = changes_of(shapes, "unet." if dialect == "peft" else "", dora=dora)
    header = {"ss_output_name": "lace", "modelspec.author": "Ada", "toile_base": "fashion"}
    write_lora(tmp_path / "lora", changes, dialect, header)
    read = read_lora(tmp_path / "lora", shapes)
    assert_same_changes(read.changes, changes)
    assert (read.dialect, read.unmatched) == (dialect, ())
    assert header.items() <= read.header.items()


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_each_layer_keeps_its_own_rank_and_alpha(tmp_path: Path, shapes: Shapes, dialect: str) -> None:
    changes = changes_of(shapes, "text_encoder." if dialect == "peft" else "")
    changes |= {f"{TEXT}.mlp.fc1": draw(shapes[f"{TEXT}.mlp.fc1"], rank=5, alpha=0.7)}
    write_lora(tmp_path / "lora", changes, dialect, dtype=torch.float16)
    assert_same_changes(read_lora(tmp_path / "lora", shapes).changes, changes)


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_equal_changes_give_equal_bytes_and_are_read_and_written_alike(
    tmp_path: Path, shapes: Shapes, dialect: str
) -> None:
    changes, header = changes_of(shapes), {"ss_output_name": "lace", "modelspec.date": "2024-05-01"}
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    write_lora(first, changes, dialect, header)
    write_lora(second, dict(reversed(changes.items())), dialect, dict(reversed(header.items())))
    read = read_lora(first, shapes)
    write_lora(third, read.changes, dialect, read.header)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_a_file_of_another_dialect_says_nothing_of_the_one_it_came_from(tmp_path: Path, shapes: Shapes) -> None:
    write_lora(tmp_path / "diffusers", changes_of(shapes), "diffusers", {"toile_base": "fashion"})
    read = read_lora(tmp_path / "diffusers", shapes)
    write_lora(tmp_path / "kohya", read.changes, "kohya", read.header)
    header = read_metadata(tmp_path / "kohya")
    assert header["toile_base"] == "fashion" and "lora_adapter_metadata" not in header and "format" not in header
    write_lora(tmp_path / "back", read.changes, "diffusers", header)
    assert not {"sshs_model_hash", "ss_network_dim"} & set(read_metadata(tmp_path / "back"))
    assert_same_changes(read_lora(tmp_path / "back", shapes).changes, read.changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_precision_is_that_asked_for(tmp_path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
    write_lora(tmp_path / "lora", changes_of(shapes), dtype=dtype)
    assert {change.down.dtype for change in read_lora(tmp_path / "lora", shapes).changes.values()} == {dtype}


# ---------------------------------------------------------------------------------------------------- kohya's files


def test_names_and_shapes_are_kohyas(tmp_path: Path, shapes: Shapes) -> None:
    changes = changes_of(shapes)
    write_lora(tmp_path / "lora", changes)
    tensors = load_tensors(tmp_path / "lora")
    leaves = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(tensors) == {f"{name}.{leaf}" for name in KOHYA_NAMES.values() for leaf in leaves}
    assert tensors[f"{KOHYA_Q}.alpha"].shape == () and tensors[f"{KOHYA_Q}.alpha"].item() == 1.5
    conv = KOHYA_NAMES["unet.up_blocks.1.resnets.0.conv1"]
    assert tensors[f"{conv}.lora_down.weight"].shape[2:] == (3, 3)
    assert tensors[f"{conv}.lora_up.weight"].shape[2:] == (1, 1)


def test_the_header_says_what_kohyas_says(tmp_path: Path, shapes: Shapes) -> None:
    write_lora(tmp_path / "lora", changes_of(shapes))
    header = read_metadata(tmp_path / "lora")
    assert {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "1.5",
        "ss_base_model_version": "sd_v1",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "LoRA",
    }.items() == {key: text for key, text in header.items() if not key.startswith("sshs_")}.items()
    write_lora(tmp_path / "second", changes_of(shapes, dora=True), header={"ss_base_model_version": "sd_v2_v"})
    header = read_metadata(tmp_path / "second")
    assert header["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert header["ss_network_module"] == "lycoris.kohya"


def test_hashes_are_those_that_kohya_computes_of_the_file(tmp_path: Path, shapes: Shapes) -> None:
    write_lora(tmp_path / "lora", changes_of(shapes), header={"modelspec.author": "Ada"})
    content = (tmp_path / "lora").read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    header = read_metadata(tmp_path / "lora")
    assert header["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert header["sshs_legacy_hash"] == hashlib.sha256(b"").hexdigest()[:8]  # smaller than 1 MiB


def test_the_legacy_hash_is_of_64_kib_after_the_first_mib() -> None:
    draws = torch.Generator().manual_seed(0)
    content = bytes(torch.randint(0, 256, (1_200_000,), generator=draws, dtype=torch.uint8).tolist())
    pieces: list[bytes | memoryview] = [
        content[:700],
        memoryview(content)[700:1_050_000],
        memoryview(content)[1_050_000:],
    ]
    whole, part = kohya_hashes(pieces)
    assert whole == hashlib.sha256(content[700:]).hexdigest()
    assert part == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_names_of_the_original_unet_are_understood() -> None:
    with torch.device("meta"):
        layers = [f"unet.{name}" for name in adaptable_layers(UNet(SD15_UNET))]
    names = [f"{name}.alpha" for name in SINGLE_FILE_NAMES.values()]
    found = sort_names(names, "kohya", layers, "a file")
    assert {ours: parts["alpha"] for ours, parts in found.parts.items()} == {
        ours: f"{theirs}.alpha" for ours, theirs in SINGLE_FILE_NAMES.items()
    }
    every = {name.replace(".", "_") for name in layers}
    assert len(every) == len(layers) and not found.unmatched


def test_a_file_with_names_of_the_original_unet_is_read(tmp_path: Path, shapes: Shapes) -> None:
    tensors = kohya_tensors(shapes, f"{ATTENTION}.to_q")
    renamed = {name.replace("down_blocks_0_attentions_0", "input_blocks_1_1"): value for name, value in tensors.items()}
    read = read_lora(saved(tmp_path, renamed), shapes)
    assert_same_changes(read.changes, {f"{ATTENTION}.to_q": draw(shapes[f"{ATTENTION}.to_q"])})


def test_matrices_and_1x1_convolutions_are_the_same(tmp_path: Path, shapes: Shapes) -> None:
    name = f"{BLOCK}.proj_in"
    assert len(shapes[name]) == 4 and len(shapes[f"{ATTENTION}.to_q"]) == 2
    tensors = {key: value.flatten(1) for key, value in kohya_tensors(shapes, name).items() if value.dim()}
    tensors[f"{KOHYA_NAMES[name]}.alpha"] = torch.tensor([1.5])
    other = kohya_tensors(shapes, f"{ATTENTION}.to_q")
    tensors |= {key: value[..., None, None] if value.dim() else value for key, value in other.items()}
    read = read_lora(saved(tmp_path, tensors), shapes)
    assert_same_changes(read.changes, {key: draw(shapes[key]) for key in (name, f"{ATTENTION}.to_q")})


@pytest.mark.parametrize("name", ["lora.pt", "lora.ckpt"])
def test_files_of_torch_save_are_read(tmp_path: Path, shapes: Shapes, name: str) -> None:
    torch.save(kohya_tensors(shapes, f"{ATTENTION}.to_q"), tmp_path / name)
    read = read_lora(tmp_path / name, shapes)
    assert (read.dialect, read.header) == ("kohya", {})
    assert_same_changes(read.changes, {f"{ATTENTION}.to_q": draw(shapes[f"{ATTENTION}.to_q"])})


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, shapes: Shapes) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({**kohya_tensors(shapes), "evil": Touch()}, tmp_path / "lora.pt")
    with pytest.raises(WeightsError, match="its pickle wants to run"):
        read_lora(tmp_path / "lora.pt", shapes)
    assert not (tmp_path / "touched").exists()


# ---------------------------------------------------------------------------------------- names of diffusers and PEFT


@pytest.mark.parametrize(
    ("dialect", "layer", "down", "up"),
    [
        ("diffusers", f"{ATTENTION}.to_q", f"{ATTENTION}.to_q.lora_A.weight", f"{ATTENTION}.to_q.lora_B.weight"),
        (
            "diffusers old",
            f"{ATTENTION}.to_out.0",
            f"{ATTENTION}.processor.to_out_lora.down.weight",
            f"{ATTENTION}.processor.to_out_lora.up.weight",
        ),
        (  # as a U-Net alone was saved, without the component
            "diffusers old",
            f"{ATTENTION}.to_q",
            f"{ATTENTION.removeprefix('unet.')}.processor.to_q_lora.down.weight",
            f"{ATTENTION.removeprefix('unet.')}.processor.to_q_lora.up.weight",
        ),
        (
            "diffusers old",
            f"{BLOCK}.proj_in",
            f"{BLOCK}.proj_in.lora.down.weight",
            f"{BLOCK}.proj_in.lora.up.weight",
        ),
        (
            "diffusers old",
            f"{TEXT}.self_attn.q_proj",
            f"{TEXT}.self_attn.q_proj.lora_linear_layer.down.weight",
            f"{TEXT}.self_attn.q_proj.lora_linear_layer.up.weight",
        ),
        (
            "diffusers old",
            f"{TEXT}.self_attn.out_proj",
            f"{TEXT}.self_attn.to_out_lora.down.weight",
            f"{TEXT}.self_attn.to_out_lora.up.weight",
        ),
        (  # transformers from version 5 on
            "diffusers",
            f"{TEXT}.mlp.fc1",
            f"{TEXT.replace('.text_model', '')}.mlp.fc1.lora_A.weight",
            f"{TEXT.replace('.text_model', '')}.mlp.fc1.lora_B.weight",
        ),
    ],
)
def test_every_way_of_diffusers_to_name_a_pair_is_read(
    tmp_path: Path, shapes: Shapes, dialect: str, layer: str, down: str, up: str
) -> None:
    change = draw(shapes[layer])
    read = read_lora(saved(tmp_path, {down: change.down, up: change.up}), shapes)
    assert read.dialect == dialect
    assert_same_changes(read.changes, {layer: LowRank(change.down, change.up, alpha=3.0)})  # the rank


def test_both_ways_of_naming_may_be_in_one_file_of_diffusers(tmp_path: Path, shapes: Shapes) -> None:
    first, second = f"{ATTENTION}.to_q", f"{BLOCK}.transformer_blocks.0.ff.net.2"
    one, two = draw(shapes[first]), draw(shapes[second], seed=1)
    tensors = {
        f"{first}.lora.down.weight": one.down,
        f"{first}.lora.up.weight": one.up,
        f"{first}.alpha": torch.tensor(6.0),
        f"{second}.lora_A.weight": two.down,
        f"{second}.lora_B.weight": two.up,
    }
    read = read_lora(saved(tmp_path, tensors), shapes)
    expected = {first: LowRank(one.down, one.up, 6.0), second: LowRank(two.down, two.up, 3.0)}
    assert_same_changes(read.changes, expected)


def test_the_metadata_of_diffusers_scales_each_component(tmp_path: Path, shapes: Shapes) -> None:
    names = (f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", f"{TEXT}.mlp.fc1")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= {f"{name}.lora_A.weight": draw(shapes[name]).down, f"{name}.lora_B.weight": draw(shapes[name]).up}
    entries = {
        "unet.r": 3,
        "unet.lora_alpha": 7,
        "unet.alpha_pattern": {"^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": 2},
        "text_encoder.r": 3,
        "text_encoder.lora_alpha": 4,
        "text_encoder.use_rslora": True,
    }
    read = read_lora(saved(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(entries)}), shapes)
    assert [read.changes[name].alpha for name in names] == [7, 2, pytest.approx(4 * math.sqrt(3))]


def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path, shapes: Shapes) -> None:
    path = saved(tmp_path, kohya_tensors(shapes, f"{ATTENTION}.to_q"))
    read: LoRAFile = read_lora(path, shapes)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same_changes(read.changes, {f"{ATTENTION}.to_q": draw(shapes[f"{ATTENTION}.to_q"])})
