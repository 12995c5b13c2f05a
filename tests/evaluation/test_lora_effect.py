"""What a LoRA does to pictures: found where there is something, and not where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.evaluation.lora_effect import contrast, measure_lora, patches, sign_flip_test, spread_of_colours
from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.nn.lora import LowRank
from toile.text.lora_tags import LoRAUse
from toile.weights.lora_file import write_lora


def test_a_common_direction_is_told_from_chance() -> None:
    draws = np.random.default_rng(0)
    noise = draws.standard_normal((200, 12, 30))
    by_chance = [sign_flip_test(changes, 0, 200)[1] for changes in noise]
    assert np.mean(np.array(by_chance) < 0.05) == pytest.approx(0.05, abs=0.04)  # as often as 0.05 says
    shift, p_value = sign_flip_test(noise[0] + 2.0, 0)
    assert shift == pytest.approx(2.0, abs=0.1) and p_value < 0.005


def test_no_change_is_no_shift() -> None:
    assert sign_flip_test(np.zeros((8, 5)), 0) == (0.0, 1.0)


def test_means_of_parts() -> None:
    pictures = np.arange(2 * 16 * 24 * 3, dtype=float).reshape(2, 16, 24, 3)
    found = patches(pictures)
    assert found.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(found[1, 2, 3], pictures[1, 4:6, 9:12].mean((0, 1)))
    assert patches(pictures[:, :5, :3]).shape == (2, 5, 3, 3)


def test_colour_and_contrast_of_known_pictures() -> None:
    red, grey = np.zeros((4, 4, 3)), np.full((4, 4, 3), 90.0)
    red[..., 0] = 200.0
    halves = grey.copy()
    halves[:2] = 30.0
    assert spread_of_colours(np.stack([red, grey])).tolist() == [200.0, 0.0]
    assert contrast(np.stack([grey, halves])).tolist() == [0.0, 30.0]


def write(path: Path, model: LatentDiffusion, size: float) -> Path:
    draws = torch.Generator().manual_seed(0)
    changes = {
        name: LowRank(
            torch.randn(2, *shape[1:], generator=draws), torch.full((shape[0], 2, *[1] * (len(shape) - 2)), size), 2
        )
        for name, shape in lora_targets(model).items()
    }
    write_lora(path, changes, "kohya", {})
    return path


def test_an_effect_is_measured(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    strong = write(tmp_path / "strong.safetensors", tiny_model, 0.5)
    found = measure_lora(tiny_model, LoRAUse(str(strong)), ["red dress", "belt"], 4)
    assert found.num == 8 and found.change > 5 and found.p_value < 0.05 and found.shift > 1
    none = measure_lora(tiny_model, LoRAUse(str(strong), 0.0), ["red dress", "belt"], 4)
    assert (none.change, none.shift, none.p_value) == (0.0, 0.0, 1.0)
    assert none.between_seeds == found.between_seeds > 0


def test_too_few_pairs_are_refused(tiny_model: LatentDiffusion) -> None:
    with pytest.raises(ToileError, match="5 pairs of pictures tell nothing"):
        measure_lora(tiny_model, LoRAUse("any"), ["red dress"], 5)
