"""What a U-Net predicts stands in no tensor: what it is told from, and that this is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.model_conversion import convert_model
from toile.model_files.reading import read_model
from toile.models.unet import SD15_UNET, UNetConfig
from toile.weights.checkpoint import open_checkpoint
from toile.weights.files import WeightsError, load_tensors, read_metadata, save_tensors
from toile.weights.schedule import infer_schedule

Original = Callable[..., Path]
SD2_UNET = replace(SD15_UNET, cross_attention_dim=1024, use_linear_projection=True)
BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def test_the_prediction_type_and_what_it_was_told_from(
    tmp_path: Path, sd1_folder: Path, sd2_folder: Path, original_file: Original
) -> None:
    second = original_file(tmp_path / "second.safetensors", sd2_folder)
    guessed = read_model(second)
    assert guessed.schedule.prediction_type == "v_prediction"
    assert "nothing in the file says it" in guessed.notes[0]
    assert guessed.unet.sample_size == 96
    asked = read_model(second, prediction="epsilon")
    assert (asked.schedule.prediction_type, asked.unet.sample_size) == ("epsilon", 64)
    first = read_model(original_file(tmp_path / "first.safetensors", sd1_folder))
    assert first.schedule.prediction_type == "epsilon"
    marks: dict[str, Tensor | None] = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    marked = read_model(original_file(tmp_path / "marked.safetensors", sd1_folder, marks))
    assert (marked.schedule.prediction_type, marked.schedule.rescale_betas_zero_snr) == ("v_prediction", True)
    assert "has the mark 'v_pred'" in marked.notes[0]
    save_tensors(tmp_path / "said.safetensors", load_tensors(second), {"modelspec.prediction_type": "epsilon"})
    assert read_model(tmp_path / "said.safetensors").schedule.prediction_type == "epsilon"
    with pytest.raises(ToileError, match="prediction is 'x'; allowed: epsilon, v_prediction"):
        read_model(second, prediction="x")


def test_our_metadata_counts_unless_a_person_knows_better(tmp_path: Path, sd2_folder: Path) -> None:
    convert_model(sd2_folder, tmp_path / "x.safetensors")
    assert read_metadata(tmp_path / "x.safetensors")["modelspec.prediction_type"] == "v"
    assert read_model(tmp_path / "x.safetensors", prediction="epsilon").schedule.prediction_type == "epsilon"


def test_a_foreign_noise_schedule_is_refused(tmp_path: Path, sd1_folder: Path, original_file: Original) -> None:
    good = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    read_model(original_file(tmp_path / "x.safetensors", sd1_folder, {"alphas_cumprod": good}))
    bad = torch.linspace(0.999, 0.3, 1000)
    with pytest.raises(WeightsError, match="its noise schedule .* is not Stable Diffusion's"):
        read_model(original_file(tmp_path / "y.safetensors", sd1_folder, {"alphas_cumprod": bad}))


@pytest.mark.parametrize(
    ("unet", "spread", "steps", "kind", "source"),
    [
        (SD2_UNET, 0.2, None, "v_prediction", "told from the spread of one bias"),
        (SD2_UNET, 0.02, None, "epsilon", "told from the spread of one bias"),
        (SD2_UNET, 0.2, 875_000, "epsilon", "as Stable Diffusion 2.0 base"),
        (replace(SD2_UNET, in_channels=9), 0.2, None, "epsilon", "the inpainting models"),
        (SD15_UNET, 0.2, None, "epsilon", "all of Stable Diffusion 1.x does"),
    ],
)
def test_evidence_in_files_of_version_2(
    tmp_path: Path, unet: UNetConfig, spread: float, steps: int | None, kind: str, source: str
) -> None:
    values = torch.linspace(-1, 1, 320)
    content = {"state_dict": {BIAS: (values / values.std() * spread).half()}, "global_step": steps}
    torch.save(content, tmp_path / "x.ckpt")
    schedule, note = infer_schedule(open_checkpoint(tmp_path / "x.ckpt"), unet, None)
    assert schedule.prediction_type == kind
    assert source in note
    assert infer_schedule(open_checkpoint(tmp_path / "x.ckpt"), unet, "epsilon")[0].prediction_type == "epsilon"
