"""The towers by themselves: what a state may depend on, what is refused, and that they learn."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toile.errors import ToileError
from toile.models.clip import (
    CLIP_VIT_L14_TEXT,
    CLIP_VIT_L14_VISION,
    FASHION_TEXT,
    FASHION_VISION,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)
from toile.schema import build_config

END = 49
TEXT = CLIPTextConfig(
    16,
    32,
    12,
    num_hidden_layers=3,
    num_attention_heads=2,
    vocab_size=50,
    max_position_embeddings=9,
    bos_token_id=48,
    eos_token_id=END,
    pad_token_id=END,
)
VISION = CLIPVisionConfig(16, 32, 12, num_hidden_layers=2, num_attention_heads=2, image_size=(20, 16), patch_size=4)


def random_ids(count: int, seed: int = 0) -> Tensor:
    """(count, 9): start, six tokens, end, end as padding."""
    middle = torch.randint(0, 48, (count, 6), generator=torch.Generator().manual_seed(seed))
    return F.pad(F.pad(middle, (1, 0), value=48), (0, 2), value=END)


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 20, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def build_text(config: CLIPTextConfig = TEXT) -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(config).requires_grad_(False)


def build_vision(config: CLIPVisionConfig = VISION) -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(config).requires_grad_(False)


def build_pair() -> CLIPModel:
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(TEXT, VISION, projection_dim=12))


def test_a_token_sees_only_what_stands_before_it() -> None:
    model, ids = build_text(), random_ids(1)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 48
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
    assert (before[:, 5:] - after[:, 5:]).abs().amax(dim=-1).min() > 1e-6


def test_what_a_hidden_token_says_matters_to_itself_alone() -> None:
    model, ids = build_text(), random_ids(2)
    changed, hidden = ids.clone(), torch.zeros(2, 9, dtype=torch.bool)
    changed[:, 3] = (changed[:, 3] + 1) % 48
    hidden[:, 3] = True
    moved = (model(ids, hidden=hidden) - model(changed, hidden=hidden)).abs().amax(-1) > 1e-6
    assert torch.equal(moved, hidden)
    torch.testing.assert_close(model(ids, hidden=torch.zeros_like(hidden)), model(ids))


def test_shorter_rows_give_the_same_states() -> None:
    model, ids = build_text(), random_ids(2)
    torch.testing.assert_close(model(ids[:, :4]), model(ids)[:, :4])


@pytest.mark.parametrize("skip_last", [1, 2])
def test_skip_last_equals_a_tower_without_those_layers(skip_last: int) -> None:
    model, ids = build_text(), random_ids(2)
    shorter = build_text(replace(TEXT, num_hidden_layers=3 - skip_last))
    kept = {name: value for name, value in model.state_dict().items() if name in shorter.state_dict()}
    shorter.load_state_dict(kept)
    torch.testing.assert_close(model(ids, skip_last), shorter(ids), rtol=0, atol=0)
    assert not torch.allclose(model(ids, skip_last), model(ids))


@pytest.mark.parametrize("skip_last", [-1, 3])
def test_skip_last_out_of_range_is_refused(skip_last: int) -> None:
    with pytest.raises(ToileError, match="between 0 and 2"):
        build_text()(random_ids(1), skip_last)


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ToileError, match="10 tokens.*at most 9"):
        build_text()(torch.zeros(1, 10, dtype=torch.int64))


def test_pooled_is_the_first_end_token() -> None:
    model, ids = build_text(), random_ids(3)
    ids[1, 3:] = END
    hidden = model(ids)
    expected = torch.stack([hidden[0, 7], hidden[1, 3], hidden[2, 7]])
    torch.testing.assert_close(model.pooled(hidden, ids), expected, rtol=0, atol=0)


def test_pooled_of_old_files_is_the_largest_id() -> None:
    model, ids = build_text(replace(TEXT, eos_token_id=2)), random_ids(2)
    ids[:, 2] = 2
    ids[1, 4:] = END
    hidden = model(ids)
    torch.testing.assert_close(model.pooled(hidden, ids), torch.stack([hidden[0, 7], hidden[1, 4]]), rtol=0, atol=0)


def test_each_patch_of_a_tall_picture_has_its_own_place() -> None:
    model, images = build_vision(), random_images(1)
    embeddings = model.vision_model.embeddings
    changed = images.clone()
    changed[0, :, 9, 13] += 1.0  # row 9 is in patch row 2 of 5, column 13 in patch column 3 of 4
    moved = (embeddings(images) - embeddings(changed)).abs().amax(dim=-1)[0].nonzero().flatten()
    assert moved.tolist() == [1 + 2 * 4 + 3]
    assert model(images).shape == (1, 1 + 5 * 4, 16)


def test_image_tower_looks_at_every_patch() -> None:
    model, images = build_vision(), random_images(1).requires_grad_()
    model.pooled(model(images)).square().sum().backward()
    assert images.grad is not None
    per_patch = F.max_pool2d(images.grad.abs(), 4)
    assert per_patch.min() > 0


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ToileError, match=r"\(16, 20\).*\(20, 16\)"):
        build_vision()(torch.zeros(1, 3, 16, 20))


def test_encodings_have_length_one_and_do_not_depend_on_the_batch() -> None:
    model = build_pair().requires_grad_(False)
    ids, images = random_ids(4), random_images(4)
    for encoded, single in (
        (model.encode_text(ids), model.encode_text(ids[2:3])),
        (model.encode_images(images), model.encode_images(images[2:3])),
    ):
        assert encoded.shape == (4, 12)
        torch.testing.assert_close(encoded.norm(dim=-1), torch.ones(4))
        torch.testing.assert_close(encoded[2:3], single)


def test_padding_does_not_change_a_text_encoding() -> None:
    model, ids = build_pair().requires_grad_(False), random_ids(2)
    other = ids.clone()
    other[:, 8] = 0
    torch.testing.assert_close(model.encode_text(ids), model.encode_text(other))


def test_contrastive_training_overfits_one_batch() -> None:
    model, ids, images = build_pair(), random_ids(8), random_images(8)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        logits = model.logit_scale.exp() * model.encode_text(ids) @ model.encode_images(images).T
        loss = (F.cross_entropy(logits, torch.arange(8)) + F.cross_entropy(logits.T, torch.arange(8))) / 2
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
    assert loss.item() < 0.1


def test_trained_pair_gives_its_text_tower_to_a_text_encoder() -> None:
    pair, ids = build_pair().requires_grad_(False), random_ids(2)
    encoder = build_text()
    encoder.load_state_dict({name: v for name, v in pair.state_dict().items() if name.startswith("text_model.")})
    torch.testing.assert_close(encoder(ids), pair.text_model(ids), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_act", "gelu"), ("layer_norm_eps", 1e-2), ("num_attention_heads", 4), ("num_hidden_layers", 2)],
)
def test_fields_that_keep_shapes_change_the_states(name: str, value: object) -> None:
    ids, images = random_ids(1), random_images(1)
    text, vision = build_text(replace(TEXT, **{name: value})), build_vision(replace(VISION, **{name: value}))
    if name == "num_hidden_layers":
        vision = build_vision(replace(VISION, num_hidden_layers=1))
    assert not torch.equal(text(ids), build_text()(ids))
    assert not torch.equal(vision(images), build_vision()(images))


def test_states_are_all_parameters() -> None:
    for model in (build_text(), build_vision(), build_pair()):
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_published_sizes_on_the_meta_device() -> None:
    with torch.device("meta"):
        text, vision = CLIPTextModel(CLIP_VIT_L14_TEXT), CLIPVisionModel(CLIP_VIT_L14_VISION)
    assert sum(p.numel() for p in text.parameters()) == 123_060_480
    assert sum(p.numel() for p in vision.parameters()) == 303_179_776


def test_fashion_presets_fit_together() -> None:
    text_config = replace(FASHION_TEXT, vocab_size=2000, bos_token_id=1998, eos_token_id=1999, pad_token_id=1999)
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(text_config, FASHION_VISION, projection_dim=192))
        ids, images = torch.zeros(2, 32, dtype=torch.int64), torch.zeros(2, 3, 80, 64)
        assert model.encode_text(ids).shape == model.encode_images(images).shape == (2, 192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "swish"}, "'swish'.*quick_gelu, gelu"),
        ({"num_attention_heads": 3}, "16 is no multiple of 3"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"vocab_size": 40}, "eos_token_id 49.*vocab_size 40"),
        ({"max_position_embeddings": 2}, "at least 3"),
    ],
)
def test_impossible_text_configs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ToileError, match=message):
        replace(TEXT, **change)


@pytest.mark.parametrize("image_size", [(20, 18), 0, (0, 16), 21])
def test_impossible_image_sizes_are_refused(image_size: int | tuple[int, int]) -> None:
    with pytest.raises(ToileError, match="multiples of patch_size 4"):
        replace(VISION, image_size=image_size)


def test_config_of_a_published_folder_is_read() -> None:
    published = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": 49408,
    }
    config = build_config(CLIPTextConfig, published, "text_encoder/config.json")
    assert config == replace(CLIP_VIT_L14_TEXT, bos_token_id=0, eos_token_id=2)
    assert {field.name for field in fields(CLIPTextConfig)} <= set(published)


def test_pair_config_survives_json() -> None:
    mapping = {
        "text_config": {field.name: getattr(TEXT, field.name) for field in fields(TEXT)},
        "vision_config": {field.name: getattr(VISION, field.name) for field in fields(VISION)}
        | {"image_size": [20, 16]},
        "projection_dim": 12,
    }
    assert build_config(CLIPConfig, mapping, "clip/config.json") == CLIPConfig(TEXT, VISION, projection_dim=12)
