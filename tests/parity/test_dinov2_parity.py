"""Our DINOv2 against transformers, on the same random weights in float32, through files that transformers wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from toile.errors import ToileError
from toile.models.dinov2 import Dinov2Config, Dinov2Model
from toile.weights.folder import build_empty, load_component

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}
SHAPE = {**SIZES, "image_size": 12, "patch_size": 4, "layerscale_value": 0.7}


def theirs_of(registers: int, randomize: Callable[[nn.Module], None], folder: Path) -> nn.Module:
    torch.manual_seed(0)
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**SHAPE, num_register_tokens=registers)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE))
    randomize(model)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("size", [(12, 12), (20, 8), (15, 26)])
@torch.no_grad()
def test_states(registers: int, size: tuple[int, int], randomize: Callable[[nn.Module], None], tmp_path: Path) -> None:
    theirs = theirs_of(registers, randomize, tmp_path)
    ours = load_component(tmp_path, Dinov2Model, Dinov2Config).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    expected, hidden = theirs(images), ours(images)
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.pooled(hidden), expected.pooler_output, rtol=0, atol=1e-5)


def test_positions_of_another_grid_are_not_those_of_the_file(
    randomize: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    theirs_of(0, randomize, tmp_path)
    ours = load_component(tmp_path, Dinov2Model, Dinov2Config)
    with torch.no_grad():
        small, large = (ours(torch.ones(1, 3, side, side)) for side in (12, 24))
    assert not torch.allclose(small[:, 1], large[:, 1], atol=1e-3)
    with pytest.raises(ToileError, match="smaller than a patch"):
        ours(torch.ones(1, 3, 3, 12))


def test_published_sizes() -> None:
    """Parameters of facebook/dinov2-large as transformers counts them."""
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518}
    ours = build_empty(Dinov2Model, Dinov2Config(**shape))
    with torch.device("meta"):
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**shape, patch_size=14))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 304_368_640


def test_the_gated_network_is_refused_in_words() -> None:
    with pytest.raises(ToileError, match="use_swiglu_ffn True"):
        Dinov2Config(use_swiglu_ffn=True)
