"""The objectives: each learns, each setting matters, and a batch is a function of its examples' numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toile.data.captions import CaptionWriter
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.errors import ToileError
from toile.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.training.clip_objective import CLIPObjective, train_tokenizer
from toile.training.denoising_objective import DenoisingObjective, DenoisingObjectiveConfig, TextConditionedUNet
from toile.training.objective import Objective
from toile.training.pictures import PictureSet
from toile.training.vae_objective import VAEObjective, VAEObjectiveConfig, narrow_posterior

VAE_CONFIG = VAEConfig(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False, latent_channels=3
)
UNET_CONFIG = UNetConfig(
    in_channels=3,
    out_channels=3,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=16,
    attention_head_dim=2,
    norm_num_groups=4,
)
SCHEDULE = ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
MAX_LENGTH = 10


@pytest.fixture(scope="module")
def tokenizer(pictures: PictureSet) -> Tokenizer:
    return train_tokenizer(pictures, 560, MAX_LENGTH, seed=0)


@pytest.fixture(scope="module")
def text_config(tokenizer: Tokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )


@pytest.fixture(scope="module")
def latents(pictures: PictureSet) -> Tensor:
    """Averages of 2x2 pixels stand in for latents: (N, 3, 8, 8) float16."""
    images = pictures.images(np.arange(len(pictures.records)))
    return torch.nn.functional.avg_pool2d(images, 2).to(torch.float16)


@pytest.fixture
def build_vae(pictures: PictureSet) -> Callable[..., VAEObjective]:
    def build(seed: int = 0, **changes: Any) -> VAEObjective:
        torch.manual_seed(0)
        vae = VAE(VAE_CONFIG)
        narrow_posterior(vae)
        return VAEObjective(vae, pictures, VAEObjectiveConfig(**changes), seed)

    return build


@pytest.fixture
def build_clip(pictures: PictureSet, tokenizer: Tokenizer, text_config: CLIPTextConfig) -> Callable[..., CLIPObjective]:
    def build(seed: int = 0) -> CLIPObjective:
        torch.manual_seed(0)
        vision = CLIPVisionConfig(16, 32, 16, 1, 2, image_size=16, patch_size=8)
        return CLIPObjective(CLIPModel(CLIPConfig(text_config, vision, 16)), tokenizer, pictures, seed)

    return build


@pytest.fixture
def build_denoising(
    pictures: PictureSet, tokenizer: Tokenizer, text_config: CLIPTextConfig, latents: Tensor
) -> Callable[..., DenoisingObjective]:
    def build(seed: int = 0, schedule: ScheduleConfig = SCHEDULE, **changes: Any) -> DenoisingObjective:
        torch.manual_seed(0)
        networks = TextConditionedUNet(UNet(UNET_CONFIG), CLIPTextModel(text_config))
        config = DenoisingObjectiveConfig(**changes)
        vae = VAE(VAE_CONFIG).requires_grad_(False)
        return DenoisingObjective(networks, vae, tokenizer, NoiseSchedule(schedule), pictures, latents, config, seed)

    return build


def overfit(objective: Objective[Any], num_examples: int, num_steps: int, rate: float) -> tuple[float, float]:
    """The loss of one batch before and after so many steps on it."""
    batch = objective.batch(range(num_examples))
    optimizer = torch.optim.AdamW((p for p in objective.module.parameters() if p.requires_grad), lr=rate)
    losses = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = objective.loss(batch, step)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
        assert all(not part.requires_grad for part in loss.parts.values())
    return losses[0], losses[-1]


def assert_same(batch: object, other: object, rows: slice) -> None:
    """Every tensor of a batch, cut to the rows, equals that of the other."""
    assert vars(batch).keys() == vars(other).keys()
    for name, value in vars(batch).items():
        assert torch.equal(value[rows], vars(other)[name]), name


# ---------------------------------------------------------------------------------------------------- learning


def test_the_autoencoder_overfits_one_batch(build_vae: Callable[..., VAEObjective]) -> None:
    objective = build_vae()
    first, last = overfit(objective, 8, 60, 5e-3)
    assert last < 0.4 * first
    parts = objective.loss(objective.batch(range(8)), 0).parts
    assert float(parts["psnr"]) > 14.0


def test_the_towers_overfit_one_batch(build_clip: Callable[..., CLIPObjective]) -> None:
    objective = build_clip()
    first, last = overfit(objective, 6, 40, 3e-3)
    assert last < 0.6 * first


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_the_denoiser_overfits_one_batch(
    build_denoising: Callable[..., DenoisingObjective], prediction_type: str
) -> None:
    schedule = ScheduleConfig(prediction_type=prediction_type)
    first, last = overfit(build_denoising(schedule=schedule), 8, 60, 5e-3)
    assert last < 0.6 * first


# ---------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("builder", ["build_vae", "build_clip", "build_denoising"])
def test_a_batch_is_a_function_of_its_numbers(builder: str, request: pytest.FixtureRequest) -> None:
    build = request.getfixturevalue(builder)
    whole = build().batch(range(80, 100))  # over the end of an epoch
    torch.manual_seed(99)
    assert_same(whole, build().batch(range(85, 90)), slice(5, 10))
    other = build(seed=1).batch(range(80, 100))
    assert not any(torch.equal(value, vars(other)[name]) for name, value in vars(whole).items())


@pytest.mark.parametrize("builder", ["build_vae", "build_clip", "build_denoising"])
def test_held_out_batches_are_fixed_and_held_out(
    builder: str, request: pytest.FixtureRequest, pictures: PictureSet, latents: Tensor
) -> None:
    objective = request.getfixturevalue(builder)()
    once, twice = list(objective.validation_batches()), list(objective.validation_batches())
    for first, second in zip(once, twice, strict=True):
        assert_same(first, second, slice(None))
    name, everything = ("latents", latents) if builder == "build_denoising" else ("images", None)
    held_out = torch.cat([getattr(batch, name) for batch in once])
    expected = pictures.images(pictures.validation) if everything is None else everything[pictures.validation].float()
    assert torch.equal(held_out, expected)
    assert not set(pictures.validation) & set(pictures.train)


def test_held_out_pictures_are_encoded_without_noise(build_vae: Callable[..., VAEObjective]) -> None:
    assert all(not batch.noise.any() for batch in build_vae().validation_batches())


def test_the_share_of_empty_captions(build_denoising: Callable[..., DenoisingObjective], tokenizer: Tokenizer) -> None:
    empty = tokenizer.batch([""])[0]
    for share in (0.0, 0.1, 0.5, 1.0):
        token_ids = build_denoising(uncond_share=share).batch(range(1000)).token_ids
        assert float((token_ids == empty).all(dim=1).float().mean()) == pytest.approx(share, abs=0.035)


def test_captions_belong_to_their_pictures(
    build_clip: Callable[..., CLIPObjective], pictures: PictureSet, tokenizer: Tokenizer
) -> None:
    batch, writer, found = build_clip().batch(range(30)), CaptionWriter(), 0
    for image, token_ids in zip(batch.images, batch.token_ids, strict=True):
        for position in pictures.train:
            if torch.equal(image, pictures.images(np.array([position]))[0]):
                record = pictures.records[position]
                captions = {writer.write(record, 0, example) for example in range(30)}
                assert any(torch.equal(token_ids, tokenizer.batch([caption])[0][0]) for caption in captions)
                found += 1
    assert found >= 30


def test_timesteps_are_drawn_as_configured(build_denoising: Callable[..., DenoisingObjective]) -> None:
    def timesteps(**changes: float) -> Tensor:
        drawn = build_denoising(**changes).batch(range(1000)).timesteps
        assert drawn.dtype == torch.int64 and int(drawn.min()) >= 0 and int(drawn.max()) <= 999
        return drawn.float()

    uniform = timesteps(uniform_share=1.0)
    assert float(uniform.mean()) == pytest.approx(499.5, abs=30) and float(uniform.std()) == pytest.approx(289, abs=15)
    middle = timesteps(uniform_share=0.0, logit_mean=0.0, logit_std=1.0)
    assert float(middle.mean()) == pytest.approx(499.5, abs=25) and float(middle.std()) == pytest.approx(208, abs=15)
    assert float(timesteps(uniform_share=0.0, logit_mean=1.0).median()) == pytest.approx(731, abs=30)
    assert float(timesteps(uniform_share=0.0, logit_mean=0.0, logit_std=0.2).std()) == pytest.approx(50, abs=8)
    mixed = timesteps()
    assert not torch.equal(mixed, uniform) and not torch.equal(mixed, middle)


# ---------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("field", ["gradient_weight", "square_weight", "kl_weight"])
def test_each_weight_of_the_autoencoder_matters(build_vae: Callable[..., VAEObjective], field: str) -> None:
    without, plain, double = (
        float(objective.loss(objective.batch(range(4)), 0).total.detach())
        for objective in (build_vae(**{field: value}) for value in (0.0, 0.5, 1.0))
    )
    assert without < plain < double
    assert double - plain == pytest.approx(plain - without, rel=1e-3)


def test_the_terms_of_the_autoencoder(build_vae: Callable[..., VAEObjective]) -> None:
    objective = build_vae(gradient_weight=0.0, square_weight=0.0, kl_weight=1.0)
    batch = objective.batch(range(4))
    with torch.no_grad():
        loss = objective.loss(batch, 0)
        posterior = objective.module.posterior(batch.images)
        made = objective.module.reconstruct(posterior.sample(batch.noise))
    kl = posterior.kl().mean() / (3 * 16 * 16)
    torch.testing.assert_close(loss.total, (made - batch.images).abs().mean() + kl)
    error = ((made.clamp(-1, 1) - batch.images) / 2).square().mean()
    torch.testing.assert_close(loss.parts["psnr"], -10 * error.log10())
    assert float(posterior.log_variance.mean()) < -4.0


def test_each_setting_of_the_denoiser_matters(build_denoising: Callable[..., DenoisingObjective]) -> None:
    def facts(**changes: Any) -> dict[str, Tensor]:
        objective = build_denoising(**changes)
        batch = objective.batch(range(40))
        trained = sum(parameter.numel() for parameter in objective.module.parameters() if parameter.requires_grad)
        with torch.no_grad():
            pictures = objective.samples()
        return {
            "captions": batch.token_ids,
            "timesteps": batch.timesteps,
            "trained": torch.tensor(trained),
            "pictures": pictures,
        }

    plain = facts(sample_steps=2)
    changes = {
        "uncond_share": (0.9, "captions"),
        "uniform_share": (1.0, "timesteps"),
        "logit_mean": (2.0, "timesteps"),
        "logit_std": (0.1, "timesteps"),
        "train_text_encoder": (False, "trained"),
        "sample_guidance": (5.0, "pictures"),
        "sample_steps": (3, "pictures"),
    }
    assert {*changes, "compile"} == set(asdict(DenoisingObjectiveConfig()))
    for field, (value, changed) in changes.items():
        found = facts(**{"sample_steps": 2, field: value})
        differing = [name for name in plain if not torch.equal(plain[name], found[name])]
        assert differing == [changed], field
    assert plain["pictures"].shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("changes", [{"uncond_share": 1.5}, {"uniform_share": -0.1}])
def test_impossible_shares_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ToileError, match="between 0 and 1"):
        DenoisingObjectiveConfig(**changes)


# ---------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(("prediction_type", "expected"), [("epsilon", "noise"), ("v_prediction", "velocity")])
def test_a_perfect_prediction_costs_nothing(
    build_denoising: Callable[..., DenoisingObjective], prediction_type: str, expected: str
) -> None:
    objective = build_denoising(schedule=replace(SCHEDULE, prediction_type=prediction_type))
    batch, schedule = objective.batch(range(8)), objective.schedule
    signal = schedule.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    velocity = signal.sqrt() * batch.noise - (1 - signal).sqrt() * batch.latents
    asked: list[Tensor] = []

    class Oracle(nn.Module):
        def forward(self, x_in: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
            asked.append(x_in)
            return batch.noise if expected == "noise" else velocity.float()

    objective._compiled = Oracle()  # type: ignore[assignment]
    assert float(objective.loss(batch, 0).total) < 1e-10
    noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * batch.noise
    torch.testing.assert_close(asked[0], noisy.float())


def test_thirds_of_the_noise_range_are_reported_where_there_are_any(
    build_denoising: Callable[..., DenoisingObjective],
) -> None:
    objective = build_denoising()
    objective.module.eval()
    batch = objective.batch(range(40))
    loss = objective.loss(batch, 0)
    third = batch.timesteps * 3 // 1000
    counts = torch.stack([(third == k).sum() for k in range(3)])
    assert list(loss.parts) == ["low", "middle", "high"] and bool((counts > 0).all())
    weighted = sum(part * count for part, count in zip(loss.parts.values(), counts, strict=True)) / 40
    torch.testing.assert_close(torch.as_tensor(weighted), loss.total.detach())
    [single] = objective.loss(objective.batch(range(1)), 0).parts.values()
    assert bool(single.isfinite())


def test_the_temperature_is_capped_in_training_and_held_out_losses_change_nothing(
    build_clip: Callable[..., CLIPObjective],
) -> None:
    objective = build_clip()
    batch = objective.batch(range(4))
    with torch.no_grad():
        objective.module.logit_scale.fill_(7.0)
    objective.module.eval()
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    objective.loss(batch, 0)
    assert all(torch.equal(value, before[name]) for name, value in objective.module.state_dict().items())
    objective.module.train()
    assert float(objective.loss(batch, 0).parts["scale"]) == pytest.approx(100.0, abs=0.01)
    assert float(objective.module.logit_scale.detach()) == pytest.approx(4.6052, abs=1e-5)


def test_a_fresh_pair_of_towers_guesses(build_clip: Callable[..., CLIPObjective]) -> None:
    objective = build_clip()
    loss = objective.loss(objective.batch(range(32)), 0)
    assert float(loss.total.detach()) == pytest.approx(np.log(32), abs=1.0)
    assert 0.0 <= float(loss.parts["right"]) < 0.5


def test_a_vocabulary_comes_from_training_captions(pictures: PictureSet, tokenizer: Tokenizer) -> None:
    assert tokenizer.max_length == MAX_LENGTH
    assert "red</w>" in tokenizer.vocab and "belt</w>" in tokenizer.vocab
    again = train_tokenizer(pictures, 560, MAX_LENGTH, seed=0)
    assert (again.vocab, again.merges) == (tokenizer.vocab, tokenizer.merges)


def test_samples_show_held_out_pictures_over_their_reconstructions(
    build_vae: Callable[..., VAEObjective], pictures: PictureSet
) -> None:
    objective, count = build_vae(), min(16, len(pictures.validation))
    with torch.no_grad():
        sheet = objective.samples()
    assert sheet.shape == (2 * count, 3, 16, 16)
    assert torch.equal(sheet[:count], pictures.images(pictures.validation[:16]))
    assert not torch.equal(sheet[count:], sheet[:count])
