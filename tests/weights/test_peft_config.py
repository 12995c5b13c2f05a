"""PEFT's folders: its config scales the changes as PEFT does, and what is not read is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.nn.lora import LowRank
from toile.weights.files import WeightsError, load_tensors
from toile.weights.lora_file import read_lora, write_lora

Shapes = Mapping[str, tuple[int, ...]]

QUERY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_encoder.text_model.encoder.layers.1.mlp.fc1"


@pytest.fixture(scope="module")
def shapes(tiny_model: LatentDiffusion) -> Shapes:
    """Of all layers of the tiny model that can be changed."""
    return lora_targets(tiny_model)


def draw(shape: tuple[int, ...]) -> LowRank:
    """A change of rank 3."""
    draws = torch.Generator().manual_seed(0)
    down, up = torch.randn(3, shape[1], generator=draws), torch.randn(shape[0], 3, generator=draws)
    return LowRank(down.half(), up.half(), 1.5)


def refusal(path: Path, shapes: Shapes) -> str:
    with pytest.raises(WeightsError) as caught:
        read_lora(path, shapes)
    return str(caught.value)


def assert_is_read_as(expected: LowRank, path: Path, shapes: Shapes) -> None:
    read = read_lora(path, shapes)
    assert read.dialect == "peft" and list(read.changes) == [TEXT]
    change = read.changes[TEXT]
    assert torch.equal(change.down, expected.down) and torch.equal(change.up, expected.up)
    assert change.alpha == expected.alpha


def peft_folder(folder: Path, shapes: Shapes, layer: str = QUERY, **entries: Any) -> Path:
    write_lora(folder, {layer: draw(shapes[layer])}, "peft")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


def test_patterns_and_the_root_in_the_config_of_peft_count(tmp_path: Path, shapes: Shapes) -> None:
    def alpha(name: str, **entries: Any) -> float:
        folder = peft_folder(tmp_path / name, shapes, **entries)
        return read_lora(folder, shapes).changes[QUERY].alpha

    assert alpha("plain", lora_alpha=5) == 5
    assert alpha("root", lora_alpha=5, use_rslora=True) == pytest.approx(5 * math.sqrt(3))
    assert alpha("pattern", lora_alpha=5, alpha_pattern={"to_k": 2, "attn1.to_q": 9, "to_q": 8}) == 9
    assert alpha("ranks", lora_alpha=5, r=64, rank_pattern={r"attn1\.to_q": 3}) == 5
    assert alpha("no end of a name", lora_alpha=5, alpha_pattern={"o_q": 9, "^attn1.to_q": 8}) == 5


def test_a_folder_of_peft_may_hold_what_torch_save_wrote_and_be_named_by_its_file(
    tmp_path: Path, shapes: Shapes
) -> None:
    folder = peft_folder(tmp_path / "lora", shapes, TEXT)
    expected = draw(shapes[TEXT])
    assert_is_read_as(expected, folder / "adapter_model.safetensors", shapes)
    tensors = load_tensors(folder / "adapter_model.safetensors")
    torch.save({name: tensor.clone() for name, tensor in tensors.items()}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert_is_read_as(expected, folder, shapes)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"r": 0}, "r is 0"),
        ({"r": 4}, "rank 3, but its config says 4"),
        ({"use_dora": True}, "the magnitude is missing"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "has the expression '(a+)+b'"),
        ({"rank_pattern": {"to_q": 2.5}}, "ranks are whole numbers"),
    ],
)
def test_what_a_config_of_peft_asks_for_and_is_not_read_is_refused(
    tmp_path: Path, shapes: Shapes, entries: dict[str, Any], words: str
) -> None:
    assert words in refusal(peft_folder(tmp_path / "lora", shapes, **entries), shapes)


def test_a_folder_without_its_parts_is_refused(tmp_path: Path, shapes: Shapes) -> None:
    folder = peft_folder(tmp_path / "lora", shapes)
    assert "is no folder of a LoRA" in refusal(tmp_path, shapes)
    (folder / "adapter_config.json").rename(folder / "other.json")
    assert "beside it must lie adapter_config.json" in refusal(folder / "adapter_model.safetensors", shapes)
    (folder / "other.json").rename(folder / "adapter_config.json")
    (folder / "adapter_model.safetensors").unlink()
    assert "neither adapter_model.safetensors nor adapter_model.bin" in refusal(folder, shapes)
