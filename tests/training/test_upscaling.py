"""Learning to enlarge: pairs keep the split, draws depend on their numbers alone, both objectives learn and resume."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from toile.data.true_pictures import TruePictures
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.training.adversarial_upscaling import AdversarialUpscalingObjective, patch_gradient_penalty
from toile.training.picture_pairs import PicturePairs
from toile.training.pictures import PictureSet
from toile.training.recipes import UpscalingRecipe, load_recipe
from toile.training.run import build_task, run_recipe
from toile.training.spectral_distance import pattern_distance, spectral_distance
from toile.training.upscaling_objective import AdversaryConfig, UpscalingObjective
from toile.training.upscaling_task import UpscalingTask
from toile.upscaler import Upscaler
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import load_tensors

RECIPE = """
task = "upscaling"
base = "{base}"
true_pictures = "{true}"
[model]
in_channels = 24
out_channels = 12
block_out_channels = [8, 16]
down_block_types = ["DownBlock2D", "CrossAttnDownBlock2D"]
up_block_types = ["CrossAttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
cross_attention_dim = 16
attention_head_dim = 2
norm_num_groups = 4
num_class_embeds = 3
[schedule]
prediction_type = "v_prediction"
rescale_betas_zero_snr = true
timestep_spacing = "trailing"
[upscaler]
small_width = 16
small_height = 16
left = 2
right = 14
width = 24
height = 32
noise_level = 1
steps = 2
[objective]
crop = 16
held_out_pictures = 3
[loop]
steps = 4
batch_size = 4
learning_rate = 2e-3
validate_every = 2
sample_every = 4
save_every = 2
ema_widths = [0.1]
precision = "float32"
[data]
path = "{data}"
width = 16
height = 16
"""
ADVERSARY = (
    "upscaler.steps=1",
    "objective.adversary.after=1",
    "objective.adversary.warmup=2",
    "objective.adversary.discriminator.block_out_channels=[4, 8]",
    "objective.adversary.r1_every=2",
    "objective.adversary.feature_weight=3.0",
)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of 90 pictures, 80 have a true partner: the same, enlarged, squeezed to a square, and with fine stripes."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    true = tmp_path / "true.zip"
    with zipfile.ZipFile(true, "w") as file:
        for number in range(80):
            with Image.open(picture_folder / f"{number}.bmp") as small:
                pixels = np.asarray(small.crop((2, 0, 14, 16)).resize((32, 32), Image.Resampling.NEAREST)).copy()
            pixels[::2][pixels[::2] < 200] = 0
            data = BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            file.writestr(f"images/{number}.png", data.getvalue())
    path = tmp_path / "upscaler.toml"
    path.write_text(RECIPE.format(base=tiny_folder, true=true, data=picture_folder), encoding="utf-8")
    return path


def task_of(path: Path, *overrides: str) -> UpscalingTask:
    recipe = load_recipe(path, overrides)
    assert isinstance(recipe, UpscalingRecipe)
    task = build_task(recipe, PictureSet(recipe.data))
    assert isinstance(task, UpscalingTask)
    return task


def pairs_of(path: Path, model: LatentDiffusion) -> tuple[PictureSet, PicturePairs]:
    recipe = load_recipe(path)
    assert isinstance(recipe, UpscalingRecipe)
    pictures = PictureSet(recipe.data)
    return pictures, PicturePairs(pictures, TruePictures(recipe.true_pictures), model.vae, (2, 14), 24, 32)


def test_pairs_keep_the_sides_of_the_split_and_belong_together(recipe: Path, tiny_model: LatentDiffusion) -> None:
    pictures, pairs = pairs_of(recipe, tiny_model)
    assert len(pairs.records) == 80 and pairs.true.shape == (80, 32, 24, 3) and pairs.rebuilt.shape == (80, 16, 12, 3)
    for side in ("train", "validation", "test"):
        keys = {pairs.records[row].key for row in getattr(pairs, side)}
        whole = {pictures.records[position].key for position in getattr(pictures, side)}
        assert keys <= whole and len(keys) == len(getattr(pairs, side))
    assert len(pairs.train) + len(pairs.validation) + len(pairs.test) == 80
    coarse = F.interpolate(pairs.true_images(np.arange(80)), (16, 12), mode="area")
    near = (coarse - (pairs.small.permute(0, 3, 1, 2) / 127.5 - 1)).square().mean(dim=(1, 2, 3))
    far = (coarse - (pairs.small.roll(1, 0).permute(0, 3, 1, 2) / 127.5 - 1)).square().mean(dim=(1, 2, 3))
    assert float(near.mean()) < 0.5 * float(far.mean())
    expected = tiny_model.vae.decode_latents(tiny_model.vae.encode_images(pictures.images(np.arange(4))))[..., 2:14]
    places = [row for row, record in enumerate(pairs.records) if record.key in {r.key for r in pictures.records[:4]}]
    found = pairs.rebuilt_images(np.array(places))
    order = [[r.key for r in pictures.records[:4]].index(pairs.records[row].key) for row in places]
    torch.testing.assert_close(found, expected[order].clamp(-1, 1), atol=0.03, rtol=0)
    _, again = pairs_of(recipe, tiny_model)
    assert torch.equal(again.true, pairs.true) and torch.equal(again.rebuilt, pairs.rebuilt)
    assert again.identity == pairs.identity


def test_examples_depend_on_their_numbers_alone_and_crops_on_one_place(recipe: Path) -> None:
    objective = task_of(recipe).objective
    objective.examples.pairs.rebuilt = objective.examples.pairs.small  # an untrained autoencoder shows nothing
    batch, alone = objective.batch(range(6)), objective.batch(range(4, 5))
    for name, value in vars(batch).items():
        torch.testing.assert_close(value[4:5], getattr(alone, name), msg=name)
    assert batch.true.shape == batch.smooth.shape == (6, 3, 16, 16)
    assert set(objective.batch(range(40)).levels.tolist()) == {0, 1, 2}
    # What is seen of the true and of the enlarged picture is the same place.
    near, far = ((batch.true - other).square().mean() for other in (batch.smooth, batch.smooth.roll(1, 0)))
    assert float(near) < float(far)
    timesteps = objective.batch(range(40)).timesteps.sort().values
    assert int(timesteps.diff().max()) < 100, "timesteps are spread evenly"


def test_what_is_diffused_is_the_difference_in_units_of_its_spread(recipe: Path) -> None:
    objective = task_of(recipe).objective
    batch = objective.batch(range(64))
    residual = objective.residual(batch.true, batch.smooth)
    assert residual.shape == (64, 12, 8, 8)
    assert 0.5 < float(residual.std()) < 2


def test_a_network_that_knows_the_answer_has_no_loss(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = task_of(recipe).objective
    batch = objective.batch(range(6))
    clean = objective.residual(batch.true, batch.smooth)
    velocity = objective.schedule.velocity_target(clean, batch.noise, batch.timesteps)
    monkeypatch.setattr(objective, "predict", lambda x_in, batch: velocity)
    assert float(objective.loss(batch, 0).total) == 0.0
    adversarial = task_of(recipe, *ADVERSARY).objective
    assert isinstance(adversarial, AdversarialUpscalingObjective)
    batch = adversarial.batch(range(6))
    assert batch.timesteps.tolist() == [999] * 6
    clean = adversarial.residual(batch.true, batch.smooth)
    monkeypatch.setattr(adversarial, "predict", lambda x_in, batch: -clean)
    torch.testing.assert_close(adversarial.made(batch), batch.true, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ADVERSARY], ids=["diffusion", "adversarial"])
def test_it_overfits_one_batch(recipe: Path, overrides: tuple[str, ...]) -> None:
    objective = task_of(recipe, *overrides).objective
    batch, name = objective.batch(range(4)), "l1" if overrides else ""
    optimizer = torch.optim.Adam(objective.module.parameters(), lr=4e-3)
    values = []
    for _ in range(60):
        loss = objective.loss(batch, 0)
        values.append(float(loss.parts[name] if name else loss.total.detach()))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]


def test_each_player_gets_its_own_gradient(recipe: Path) -> None:
    objective = task_of(recipe, *ADVERSARY).objective
    assert isinstance(objective, AdversarialUpscalingObjective)
    batch, players = objective.batch(range(3)), objective.players
    objective.loss(batch, 2).total.backward()
    both = {name: p.grad.clone() for name, p in players.named_parameters() if p.grad is not None}
    players.zero_grad()
    discriminator = players.discriminator
    made = objective.made(batch)
    (real, seen), (fake, _) = discriminator(batch.true, batch.smooth), discriminator(made.detach(), batch.smooth)
    (F.softplus(-real).mean() + F.softplus(fake).mean()).backward()
    expected = {name: p.grad.clone() for name, p in players.named_parameters() if p.grad is not None}
    assert all(name.startswith("discriminator.") for name in expected)
    players.zero_grad()
    error = made - batch.true
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    scores, seen_in_made = discriminator(made, batch.smooth)
    wanted = [level.detach() for level in seen]
    apart = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(seen_in_made, wanted, strict=True)]
    fooled = F.softplus(-scores).mean() + 3.0 * torch.stack(apart).mean()
    (error.abs().mean() + 0.5 * gradient + objective.adversary.weight_at(2) * fooled).backward()
    expected |= {f"unet.{name}": p.grad.clone() for name, p in players.unet.named_parameters() if p.grad is not None}
    assert both.keys() == expected.keys()
    for name, value in both.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6, msg=name)


def test_power_is_held_to_that_of_true_pictures(recipe: Path) -> None:
    weighted = (*ADVERSARY, "objective.adversary.spectrum_weight=0.5")
    with_power, without = (task_of(recipe, *overrides).objective for overrides in (weighted, ADVERSARY))
    assert isinstance(with_power, AdversarialUpscalingObjective)
    batch = with_power.batch(range(4))
    loss, plain = (objective.loss(batch, 0) for objective in (with_power, without))
    made = with_power.made(batch)
    nepers = spectral_distance(made, batch.true).mean() * math.log(10) / 10 + pattern_distance(made, batch.true)
    torch.testing.assert_close(loss.parts["spectrum"], nepers.detach())
    torch.testing.assert_close(loss.total - plain.total, 0.5 * nepers)


def test_it_begins_with_the_weights_of_another_upscaler(recipe: Path, tmp_path: Path) -> None:
    first = task_of(recipe)
    torch.nn.init.ones_(first.objective.unet.conv_out.weight)
    first.export(tmp_path / "first")
    second = task_of(recipe, f"start={tmp_path / 'first' / 'upscaler'}")
    for one, other in zip(first.objective.unet.parameters(), second.objective.unet.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)  # files are of half precision
    assert "start_weights" in second.identity and "start_weights" not in first.identity


def test_the_penalty_is_the_squared_gradient_for_each_patch_and_comes_when_it_is_due(recipe: Path) -> None:
    def scores(images: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return 3 * images[:, 0, ::2, ::2], []  # a patch looks at one pixel, with slope 3

    assert float(patch_gradient_penalty(scores, torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))) == 9.0  # type: ignore[arg-type]
    objective = task_of(recipe, *ADVERSARY).objective
    batch = objective.batch(range(2))
    losses = [objective.loss(batch, step) for step in range(4)]
    assert ["r1" in loss.parts for loss in losses] == [False, True, False, True]
    assert ["loss_upscaler" in loss.parts for loss in losses] == [False, True, True, True]
    config = AdversaryConfig(weight=0.4, after=2, warmup=4)
    assert [config.weight_at(step) for step in range(1, 7)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ADVERSARY], ids=["diffusion", "adversarial"])
def test_a_run_leaves_an_upscaler_and_resumes_bit_for_bit(
    recipe: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    loaded = load_recipe(recipe, overrides)
    list(run_recipe(loaded, tmp_path / "whole"))
    stopped: list[Any] = []

    def after_two_steps() -> bool:
        stopped.append(None)
        return len(stopped) > 2

    list(run_recipe(loaded, tmp_path / "parts", should_stop=after_two_steps))
    list(run_recipe(loaded, tmp_path / "parts", resume=True))
    [one, other] = (
        load_tensors(tmp_path / name / "state" / "step-00000004.safetensors") for name in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    upscaler = Upscaler.load(tmp_path / "whole" / "model" / "upscaler")
    assert upscaler.config.residual_std != 1.0 and upscaler.config.steps == (1 if overrides else 2)
    with Image.open(tmp_path / "whole" / "samples" / "step-0000004.png") as sheet:
        assert sheet.width > 4 * 24


def test_held_out_losses_compare_with_smooth_enlargement(recipe: Path) -> None:
    objective = task_of(recipe).objective
    assert isinstance(objective, UpscalingObjective)
    objective.examples.pairs.rebuilt = objective.examples.pairs.small  # an untrained autoencoder shows nothing
    [batch] = objective.validation_batches()
    loss = objective.loss(batch, 0)
    assert loss.each is not None and len(loss.each) == 3
    torch.testing.assert_close(loss.total, loss.each.mean())
    assert float(loss.parts["smooth_db"]) > 0 and float(loss.parts["smooth_psnr"]) > float(loss.parts["psnr"])
    assert objective.samples().shape == (4 * min(6, len(objective.examples.pairs.validation)), 3, 32, 24)


def test_what_does_not_fit_is_refused(recipe: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("elsewhere.png", b"")
    for override, message in (
        ("data.width=32", "pictures of 32x16, and upscaler.small_width"),
        ("model.cross_attention_dim=8", "must be the width of the words"),
        ("objective.crop=10", "objective.crop 10: a multiple of 4, up to 24"),
        ("upscaler.residual_std=0.5", "it is measured"),
        ('schedule.prediction_type="epsilon"', "begins with pure noise"),
        ("start=fashion_without", "fashion_without"),
        (f"true_pictures={tmp_path / 'other.zip'}", "none of 90 products has a true picture"),
    ):
        with pytest.raises(ToileError, match=message):
            task_of(recipe, override)


@pytest.mark.parametrize(("overrides", "step"), [((), 0), (ADVERSARY, 0), (ADVERSARY, 3)])
def test_the_loss_is_computed_where_the_networks_are(
    recipe: Path, learns_elsewhere: Callable[..., None], overrides: tuple[str, ...], step: int
) -> None:
    learns_elsewhere(task_of(recipe, *overrides).objective, step=step, keeps_texts=True)
