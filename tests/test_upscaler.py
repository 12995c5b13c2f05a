"""The upscaler: one call adds what the network says, pictures do not depend on the batch, folders round-trip."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toile.diffusion.noise import ImageNoise
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.diffusion.upscaling import UpscalingNetwork, enlarge_smoothly, images_of_squares, sharpen, squares_of
from toile.errors import ToileError
from toile.models.unet import UNet, UNetConfig
from toile.upscaler import Upscaler, UpscalerConfig, is_upscaler

UNET = UNetConfig(
    in_channels=24,
    out_channels=12,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=6,
    attention_head_dim=2,
    norm_num_groups=4,
    num_class_embeds=4,
)
SCHEDULE = ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
CONFIG = UpscalerConfig(
    small_width=8, small_height=8, left=1, right=7, width=24, height=32, residual_std=0.3, noise_level=2
)


def upscaler(**changes: object) -> Upscaler:
    torch.manual_seed(0)
    unet = UNet(UNET).eval().requires_grad_(False)
    return Upscaler(unet, NoiseSchedule(SCHEDULE), replace(CONFIG, **changes))  # type: ignore[arg-type]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SMALL, STATES = draw(3, 3, 8, 8).clamp(-1, 1), draw(3, 5, 6, seed=1)


def enlarged(model: Upscaler, rows: slice = slice(None), first_seed: int = 0) -> Tensor:
    seeds = list(range(first_seed, first_seed + 3))[rows]
    return model.enlarge(SMALL[rows], STATES[rows], ImageNoise(seeds, model.noise_shape).draw)


def test_one_step_adds_the_negative_velocity_of_pure_noise_to_the_enlarged_picture() -> None:
    model = upscaler(noise_level=0)
    smooth = enlarge_smoothly(SMALL[..., 1:7], 32, 24)
    noise = ImageNoise([0, 1, 2], model.noise_shape).draw(0)
    with torch.no_grad():
        both = torch.cat([noise, squares_of(smooth, 2)], dim=1)
        velocity = model.unet(both, torch.tensor([999.0]), STATES, torch.tensor([0]))
    # Zero terminal SNR leaves 1/4096 of the noise.
    torch.testing.assert_close(enlarged(model), smooth - images_of_squares(velocity, 2) * 0.3, atol=1e-3, rtol=0)


def test_squares_keep_their_place_and_smooth_pictures_theirs() -> None:
    images = draw(1, 3, 8, 12)
    squares = squares_of(images, 4)
    assert squares.shape == (1, 48, 2, 3)
    torch.testing.assert_close(squares[0, :16, 1, 2], images[0, 0, 4:8, 8:12].flatten())
    assert torch.equal(images_of_squares(squares, 4), images)
    ramp = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    wide = enlarge_smoothly(ramp, 32, 32)[0, 0, 0]
    places = (torch.arange(32) + 0.5) / 4 - 0.5
    torch.testing.assert_close(wide[8:-8], (places / 3.5 - 1)[8:-8], atol=1e-5, rtol=0)


def test_sharpening_raises_waves_by_its_formula_and_leaves_flat_parts() -> None:
    places = torch.arange(64.0)
    for cycles in (2, 8, 16):
        frequency = cycles / 64
        wave = (0.5 * torch.cos(2 * math.pi * frequency * places)).expand(1, 3, 16, 64)
        raised = 1 + 0.1 * (1 - math.exp(-2 * (2 * math.pi * frequency) ** 2))
        torch.testing.assert_close(sharpen(wave, 0.1)[..., 8:-8], raised * wave[..., 8:-8], atol=2e-4, rtol=0)
    assert torch.equal(sharpen(SMALL, 0.0), SMALL)
    flat = torch.full((1, 3, 8, 8), 0.7)
    torch.testing.assert_close(sharpen(flat, 0.5), flat)


def test_detail_raises_what_is_added_and_nothing_else() -> None:
    smooth, learnt, raised = (enlarged(upscaler(detail=detail)) for detail in (0.0, 1.0, 1.25))
    torch.testing.assert_close(raised - smooth, 1.25 * (learnt - smooth))
    assert torch.equal(learnt, enlarged(upscaler()))
    with pytest.raises(ToileError, match="detail 2.5"):
        upscaler(detail=2.5)


def test_the_network_is_told_picture_and_level() -> None:
    seen = {}

    def network(x_in: Tensor, timestep: Tensor, cond: Tensor, class_labels: Tensor) -> Tensor:
        seen.update(x_in=x_in, labels=class_labels)
        return x_in[:, :12]

    told, x = draw(2, 12, 4, 3), draw(2, 12, 4, 3, seed=1)
    result = UpscalingNetwork(network, told, torch.tensor([3]))(x, torch.tensor([10.0]), STATES[:2])
    assert torch.equal(seen["x_in"], torch.cat([x, told], dim=1)) and seen["labels"].tolist() == [3]
    assert torch.equal(result, x)


@pytest.mark.parametrize("changes", [{}, {"steps": 3}, {"steps": 2, "sampler": "euler_ancestral"}], ids=str)
def test_a_picture_is_the_same_alone_and_depends_on_its_seed_and_words(changes: dict[str, object]) -> None:
    model = upscaler(**changes)
    together = enlarged(model)
    assert together.shape == (3, 3, 32, 24)
    torch.testing.assert_close(enlarged(model, slice(1, 2)), together[1:2], atol=1e-5, rtol=1e-5)
    assert float((enlarged(model, first_seed=7) - together).abs().max()) > 1e-2
    other = model.enlarge(SMALL, STATES + 1, ImageNoise([0, 1, 2], model.noise_shape).draw)
    assert float((other - together).abs().max()) > 1e-4


@pytest.mark.parametrize(
    "change", [{"residual_std": 0.5}, {"noise_level": 1}, {"noise_step": 0.2}, {"steps": 2}, {"left": 0}], ids=str
)
def test_each_setting_counts(change: dict[str, object]) -> None:
    assert float((enlarged(upscaler(**change)) - enlarged(upscaler())).abs().max()) > 1e-3


def test_padding_is_not_looked_at() -> None:
    model, changed = upscaler(), SMALL.clone()
    changed[..., [0, 7]] = 1.0
    other = model.enlarge(changed, STATES, ImageNoise([0, 1, 2], model.noise_shape).draw)
    assert torch.equal(other, enlarged(model))


def test_a_folder_gives_the_same_upscaler(tmp_path: Path) -> None:
    model = upscaler(steps=2)
    assert not is_upscaler(tmp_path)
    model.save(tmp_path, torch.float32)
    assert is_upscaler(tmp_path)
    loaded = Upscaler.load(tmp_path)
    assert loaded.config == model.config and loaded.schedule.config == SCHEDULE and loaded.unet.config == UNET
    torch.testing.assert_close(enlarged(loaded), enlarged(model), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    for change, message in (
        ({"noise_level": 4}, "noise_level 4.*num_class_embeds is 4"),
        ({"width": 25}, "no multiples of its squares' side, 2"),
        ({"left": 7}, "column 7 to 7"),
        ({"steps": 0}, "steps 0"),
        ({"sampler": "fast"}, "sampler 'fast' is unknown"),
    ):
        with pytest.raises(ToileError, match=message):
            upscaler(**change)
    unet = UNet(replace(UNET, in_channels=12))
    with pytest.raises(ToileError, match="12 channels in and 12 out"):
        Upscaler(unet, NoiseSchedule(SCHEDULE), CONFIG)
    with pytest.raises(ToileError, match="enlarges pictures of 8x8, given are some of 9x8"):
        upscaler().enlarge(draw(1, 3, 8, 9), STATES[:1], ImageNoise([0], (12, 16, 12)).draw)
    with pytest.raises(ToileError, match="of class labels none were given"):
        upscaler().unet(draw(1, 24, 4, 4), torch.tensor([5.0]), STATES[:1])
