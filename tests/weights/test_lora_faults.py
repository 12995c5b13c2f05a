"""LoRA files that are damaged, for other models, or of other kinds: refused in words, and nothing half written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.nn.lora import LowRank
from toile.weights.files import WeightsError, save_tensors
from toile.weights.lora_file import read_lora, write_lora
from toile.weights.lora_names import kohya_name

Shapes = Mapping[str, tuple[int, ...]]

BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
QUERY, WORDS = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k"
TEXT = "text_encoder.text_model.encoder.layers.1.mlp.fc1"
KOHYA_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def shapes(tiny_model: LatentDiffusion) -> Shapes:
    """Of all layers of the tiny model that can be changed."""
    return lora_targets(tiny_model)


def draw(shape: tuple[int, ...], *, dora: bool = False) -> LowRank:
    """A change of rank 3 in float16."""
    draws = torch.Generator().manual_seed(0)
    return LowRank(
        torch.randn(3, *shape[1:], generator=draws).half(),
        torch.randn(shape[0], 3, *[1] * (len(shape) - 2), generator=draws).half(),
        1.5,
        torch.ones(shape[0]).half() if dora else None,
    )


def kohya_tensors(shapes: Shapes, *layers: str) -> dict[str, Tensor]:
    """The tensors of a sound file; of two layers, if none are given."""
    tensors: dict[str, Tensor] = {}
    for layer in layers or (QUERY, TEXT):
        change, root = draw(shapes[layer]), kohya_name(layer)
        tensors |= {f"{root}.lora_down.weight": change.down, f"{root}.lora_up.weight": change.up}
        tensors[f"{root}.alpha"] = torch.tensor(1.5)
    return tensors


def saved(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    path = folder / "lora.safetensors"
    save_tensors(path, tensors, {})
    return path


def refusal(path: Path, shapes: Shapes) -> str:
    with pytest.raises(WeightsError) as caught:
        read_lora(path, shapes)
    return str(caught.value)


def test_the_sound_file_that_the_others_are_made_from_is_read(tmp_path: Path, shapes: Shapes) -> None:
    assert set(read_lora(saved(tmp_path, kohya_tensors(shapes)), shapes).changes) == {QUERY, TEXT}


def test_unknown_layers_are_counted_and_the_first_ten_named(tmp_path: Path, shapes: Shapes) -> None:
    tensors = kohya_tensors(shapes, QUERY)
    tensors |= {f"lora_unet_down_blocks_9_conv_{n:02}.alpha": torch.tensor(1.0) for n in range(12)}
    path = saved(tmp_path, tensors)
    words = refusal(path, shapes)
    assert "none of 12 layers" in words and "(it has 1 others)" in words
    assert "conv_00" in words and "conv_09" in words and "conv_10" not in words
    read = read_lora(path, shapes, strict=False)
    assert list(read.changes) == [QUERY]
    assert sorted(read.unmatched) == [f"lora_unet_down_blocks_9_conv_{n:02}" for n in range(12)]


def test_names_that_are_no_part_of_a_change_are_unmatched_too(tmp_path: Path, shapes: Shapes) -> None:
    tensors = {**kohya_tensors(shapes), f"{KOHYA_Q}.lora_down.bias": torch.zeros(3)}
    path = saved(tmp_path, tensors)
    assert f"{KOHYA_Q}.lora_down.bias" in refusal(path, shapes)
    assert read_lora(path, shapes, strict=False).unmatched == (f"{KOHYA_Q}.lora_down.bias",)


def test_a_lora_for_other_layers_alone_has_no_changes(tmp_path: Path, shapes: Shapes) -> None:
    path = saved(tmp_path, {"lora_unet_conv_no.alpha": torch.tensor(1.0)})
    assert read_lora(path, shapes, strict=False).unmatched == ("lora_unet_conv_no",)
    assert "made for another model" in refusal(path, shapes)


@pytest.mark.parametrize(
    ("part", "replacement", "words"),
    [
        ("lora_up.weight", torch.zeros(16, 4), "are of different ranks"),
        ("lora_down.weight", torch.zeros(3), "are of different ranks, or of none"),
        ("lora_down.weight", torch.zeros(3, 17), "but the layer's weights are [16, 16]"),
        ("lora_down.weight", torch.zeros(3, 16, 3, 3), "but the layer's weights are [16, 16]"),
        ("lora_up.weight", torch.zeros(15, 3), "but the layer's weights are [16, 16]"),
        ("lora_down.weight", torch.zeros(3, 16, dtype=torch.int32), "down is torch.int32, not floating-point"),
        ("lora_up.weight", None, "half a pair, up is missing"),
        ("lora_down.weight", None, "half a pair, down is missing"),
        ("alpha", None, "alpha is missing"),
        ("alpha", torch.tensor([1.0, 2.0]), "alpha is [2], not one number"),
        ("alpha", torch.tensor(0.0), "alpha is 0"),
        ("alpha", torch.tensor(math.nan), "holds NaN or infinity"),
        ("lora_up.weight", torch.full((16, 3), math.inf), "holds NaN or infinity"),
        ("dora_scale", torch.ones(15, 1), "the magnitude is [15, 1]"),
        ("dora_scale", torch.ones(1, 16), "belongs to the inputs"),
    ],
)
def test_a_pair_that_is_none_of_the_layers_is_refused(
    tmp_path: Path, shapes: Shapes, part: str, replacement: Tensor | None, words: str
) -> None:
    tensors = kohya_tensors(shapes)
    tensors.pop(f"{KOHYA_Q}.{part}", None)
    if replacement is not None:
        tensors[f"{KOHYA_Q}.{part}"] = replacement
    assert words in refusal(saved(tmp_path, tensors), shapes)


def test_of_many_misfits_ten_are_told(tmp_path: Path, shapes: Shapes) -> None:
    layers = list(shapes)[:14]
    tensors = kohya_tensors(shapes, *layers)
    path = saved(tmp_path, {name: value for name, value in tensors.items() if not name.endswith(".alpha")})
    words = refusal(path, shapes)
    assert "does not fit in 14 of 14 layers" in words
    assert words.count("alpha is missing") == 10


def test_the_width_of_the_words_names_the_family(tmp_path: Path, shapes: Shapes) -> None:
    tensors = {**kohya_tensors(shapes, WORDS), f"{kohya_name(WORDS)}.lora_down.weight": torch.zeros(3, 1024)}
    assert "words of width 1024, as Stable Diffusion 2.x has; the model's: 16" in refusal(
        saved(tmp_path, tensors), shapes
    )


def test_one_part_may_not_be_there_twice(tmp_path: Path, shapes: Shapes) -> None:
    change = draw(shapes[QUERY])
    names = (f"{QUERY}.lora_A.weight", f"{QUERY}.lora.down.weight")
    assert "are both the down of" in refusal(saved(tmp_path, dict.fromkeys(names, change.down)), shapes)


def test_half_a_character_in_the_header_does_no_harm(tmp_path: Path, shapes: Shapes) -> None:
    layer = draw(shapes[QUERY])
    path = saved(tmp_path, {f"{QUERY}.lora_A.weight": layer.down, f"{QUERY}.lora_B.weight": layer.up})
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]

    def with_metadata(text: str) -> Path:
        encoded = json.dumps({"__metadata__": json.loads(text), **header}).encode()
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
        return path

    header = json.loads(content[8 : len(content) - len(data)])
    read = read_lora(with_metadata(r'{"modelspec.title": "a \ud800 b"}'), shapes)
    assert read.header == {"modelspec.title": "a ? b"}
    assert "lora_adapter_metadata: not UTF-8" in refusal(with_metadata(r'{"lora_adapter_metadata": "\ud800"}'), shapes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "Stable Diffusion XL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "Stable Diffusion XL"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.alpha", "Stable Diffusion XL"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight", "Stable Diffusion XL"),
        ("lora_unet_double_blocks_0_img_attn_qkv.alpha", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.alpha", "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "Stable Diffusion 3"),
        ("diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "a transformer such as Flux"),
        ("down_blocks.0.motion_modules.0.proj_in.lora.down.weight", "AnimateDiff"),
        (f"{KOHYA_Q}.hada_w1_a", "LoHa"),
        (f"{KOHYA_Q}.lokr_w1", "LoKr"),
        (f"{KOHYA_Q}.lora_mid.weight", "Tucker"),
        (f"{KOHYA_Q}.oft_blocks", "OFT"),
        (f"{KOHYA_Q}.diff", "differences of whole weights"),
        ("bundle_emb.word.string_to_param.*", "embeddings for words"),
        ("model.diffusion_model.input_blocks.0.0.weight", "is no LoRA of a dialect that is known"),
    ],
)
def test_other_families_and_kinds_are_refused_by_name(tmp_path: Path, shapes: Shapes, name: str, words: str) -> None:
    whole = {} if "model.diffusion_model" in name else kohya_tensors(shapes)
    path = saved(tmp_path, {**whole, name: torch.ones(1)})
    assert words in refusal(path, shapes)
    with pytest.raises(WeightsError, match="LoRA"):
        read_lora(path, shapes, strict=False)


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path, shapes: Shapes) -> None:
    path = tmp_path / "lora.safetensors"
    write_lora(path, {QUERY: draw(shapes[QUERY])})
    before = path.read_bytes()
    large = LowRank(torch.full((1, 16), 1e5), torch.ones(16, 1), 1.0)
    broken = LowRank(torch.full((1, 16), math.nan), torch.ones(16, 1), 1.0)
    for changes, words in (
        ({QUERY: large}, "numbers too large"),
        ({QUERY: broken}, "NaN or infinity"),
        ({QUERY: LowRank(torch.ones(1, 16), torch.ones(16, 1), 0.0)}, "alpha is 0"),
        ({"vae.encoder.conv_in": draw((8, 3, 3, 3))}, "hold changes of unet and text_encoder"),
        ({}, "no changes"),
    ):
        with pytest.raises(WeightsError, match=words):
            write_lora(path, changes)
    with pytest.raises(WeightsError, match="allowed: kohya, diffusers, peft"):
        write_lora(path, {QUERY: draw(shapes[QUERY])}, "a1111")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_lora(path, {QUERY: large}, dtype=torch.bfloat16)
    assert path.read_bytes() != before


def test_what_peft_cannot_hold_is_refused(tmp_path: Path, shapes: Shapes) -> None:
    both = {layer: draw(shapes[layer]) for layer in (QUERY, TEXT)}
    with pytest.raises(WeightsError, match="for one network"):
        write_lora(tmp_path / "both", both, "peft")
    mixed = {layer: draw(shapes[layer]) for layer in (QUERY, WORDS)}
    mixed[QUERY] = draw(shapes[QUERY], dora=True)
    for dialect in ("peft", "diffusers"):
        with pytest.raises(WeightsError, match="has a magnitude"):
            write_lora(tmp_path / "mixed", mixed, dialect)
    assert not list(tmp_path.iterdir())
    write_lora(tmp_path / "mixed", mixed, "kohya")
    read = read_lora(tmp_path / "mixed", shapes).changes
    assert {layer: change.magnitude is not None for layer, change in read.items()} == {QUERY: True, WORDS: False}
    with pytest.raises(WeightsError, match="exists already"):
        write_lora(tmp_path / "mixed", {layer: draw(shapes[layer]) for layer in (QUERY, WORDS)}, "peft")
