"""Our CLIP towers against transformers, on the same random weights in float32."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from toile.models.clip import (
    CLIP_VIT_L14_TEXT,
    CLIP_VIT_L14_VISION,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}
TEXT = CLIPTextConfig(
    24,
    40,
    12,
    num_hidden_layers=3,
    num_attention_heads=4,
    vocab_size=60,
    max_position_embeddings=11,
    bos_token_id=58,
    eos_token_id=59,
    pad_token_id=59,
)
VISION = CLIPVisionConfig(32, 48, 12, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=8)


def randomize(model: nn.Module) -> None:
    """Weights large enough that each norm, bias and activation shows in the result."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def random_ids() -> Tensor:
    ids = torch.randint(0, 58, (3, 11), generator=torch.Generator().manual_seed(2))
    ids[:, 0], ids[:, -1] = 58, 59
    ids[1, 6:] = 59
    return ids


def build_ours(config: CLIPTextConfig = TEXT) -> CLIPTextModel:
    model = CLIPTextModel(config).requires_grad_(False)
    randomize(model)
    return model


def load_theirs(model: CLIPTextModel | CLIPVisionModel, kind: type, folder: Path) -> nn.Module:
    """Write a component folder as Stable Diffusion models have it, and let transformers read it."""
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(asdict(model.config)))
    theirs, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return theirs.eval()


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos_token_id", [59, 2])
def test_text_encoder(hidden_act: str, eos_token_id: int, tmp_path: Path) -> None:
    ours, ids = build_ours(replace(TEXT, hidden_act=hidden_act, eos_token_id=eos_token_id)), random_ids()
    theirs = load_theirs(ours, transformers.CLIPTextModel, tmp_path)
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        final_layer_norm = theirs.get_submodule(
            "text_model.final_layer_norm" if hasattr(theirs, "text_model") else "final_layer_norm"
        )
        skipped = {skip: final_layer_norm(expected.hidden_states[-(skip + 1)]) for skip in (1, 2)}
    hidden = ours(ids)
    torch.testing.assert_close(hidden, expected.last_hidden_state, **TOLERANCE)
    torch.testing.assert_close(ours.pooled(hidden, ids), expected.pooler_output, **TOLERANCE)
    for skip_last, states in skipped.items():
        torch.testing.assert_close(ours(ids, skip_last), states, **TOLERANCE)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_image_encoder(hidden_act: str, tmp_path: Path) -> None:
    ours = CLIPVisionModel(replace(VISION, hidden_act=hidden_act)).requires_grad_(False)
    randomize(ours)
    theirs = load_theirs(ours, transformers.CLIPVisionModel, tmp_path)
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(images)
    hidden = ours(images)
    torch.testing.assert_close(hidden, expected.last_hidden_state, **TOLERANCE)
    torch.testing.assert_close(ours.pooled(hidden), expected.pooler_output, **TOLERANCE)


def test_both_towers_and_a_file_transformers_wrote(tmp_path: Path) -> None:
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=asdict(TEXT), vision_config=asdict(VISION), projection_dim=12)
    ).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours = CLIPModel(CLIPConfig(TEXT, VISION, projection_dim=12)).requires_grad_(False)
    ours.load_state_dict(load_file(tmp_path / "model.safetensors"))

    ids, images = random_ids(), torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=images)
    text, image = ours.encode_text(ids), ours.encode_images(images)
    torch.testing.assert_close(text, expected.text_embeds, **TOLERANCE)
    torch.testing.assert_close(image, expected.image_embeds, **TOLERANCE)
    torch.testing.assert_close(ours.logit_scale.exp() * text @ image.T, expected.logits_per_text, rtol=0, atol=1e-4)


def test_full_size_towers_have_the_same_shapes() -> None:
    with torch.device("meta"):
        ours = CLIPModel(CLIPConfig(CLIP_VIT_L14_TEXT, CLIP_VIT_L14_VISION, projection_dim=768))
        theirs = transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=asdict(CLIP_VIT_L14_TEXT), vision_config=asdict(CLIP_VIT_L14_VISION), projection_dim=768
            )
        )
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == 427_616_513


def test_new_towers_start_like_theirs() -> None:
    torch.manual_seed(0)
    wide_text = replace(TEXT, hidden_size=256, intermediate_size=1024)
    wide_vision = replace(VISION, hidden_size=256, intermediate_size=1024)
    ours = CLIPModel(CLIPConfig(wide_text, wide_vision, projection_dim=128))
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=asdict(wide_text), vision_config=asdict(wide_vision), projection_dim=128)
    ).state_dict()
    for name, value in ours.state_dict().items():
        if value.numel() > 1:
            torch.testing.assert_close(
                value.std(), theirs[name].std(), rtol=0.2, atol=1e-4, msg=lambda m, n=name: n + m
            )
