"""Masks: which parts of a picture count, from the file to the loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.training.denoising_objective import (
    DenoisingBatch,
    DenoisingObjective,
    MaskedBatch,
)
from toile.training.fine_tuning import LoRATask
from toile.training.latents import latent_masks
from toile.training.pictures import DataConfig, PictureSet
from toile.training.prior_preservation import PriorConfig, PriorPreservation
from toile.training.recipes import load_recipe
from toile.training.records import EndRecord, Record, StepRecord, ValidationRecord
from toile.training.run import build_task, run_recipe
from toile.user_folders import CACHE_VARIABLE, cache_folder

RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[lora]
rank = 2
[objective]
uncond_share = 0.0
[loop]
steps = 3
batch_size = 4
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = [0.1]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def grey(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_masks(folder: Path, picture_folder: Path, pixels: np.ndarray) -> Path:
    """The same mask for every picture."""
    for picture in picture_folder.glob("*.bmp"):
        grey(folder / f"{picture.stem}.png", pixels)
    return folder


@pytest.fixture
def half(picture_folder: Path, tmp_path: Path) -> Path:
    """Masks that are white on the left half."""
    pixels = np.zeros((16, 16))
    pixels[:, :8] = 255
    return write_masks(tmp_path / "half", picture_folder, pixels)


Build = Callable[..., DenoisingObjective]


def masked(plain: DenoisingObjective, mask: Tensor) -> DenoisingObjective:
    """The same objective with one mask (8, 8) for all pictures."""
    of_all = mask.expand(len(plain.pictures.records), 1, 8, 8)
    return DenoisingObjective(
        plain.networks,
        plain.vae,
        plain.tokenizer,
        plain.schedule,
        plain.pictures,
        plain._latents[0],
        plain.config,
        plain.seed,
        masks=(of_all,),
    )


# ---------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("changes", [{}, {"min_snr": 1.0, "huber": 0.1, "noise_offset": 0.1}])
def test_a_mask_of_ones_is_no_mask_bit_for_bit(build_denoising: Build, changes: dict[str, float]) -> None:
    def facts(objective: DenoisingObjective) -> tuple[Tensor, list[Tensor]]:
        loss = objective.loss(objective.batch(range(6)), 0).total
        parameters = list(objective.networks.parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return loss, [gradient for gradient in gradients if gradient is not None]

    plain = build_denoising(**changes)
    (loss, gradients), (other, others) = facts(plain), facts(masked(plain, torch.ones(8, 8)))
    assert torch.equal(loss, other) and len(gradients) > 20
    assert all(torch.equal(one, two) for one, two in zip(gradients, others, strict=True))


def test_the_loss_is_the_weighted_mean_of_squared_errors(build_denoising: Build) -> None:
    mask = torch.zeros(8, 8)
    mask[:, :4], mask[0, 5] = 1.0, 0.25
    objective = masked(build_denoising(), mask)
    batch = objective.batch(range(3))
    target = objective.schedule.velocity_target(batch.latents, batch.noise, batch.timesteps)
    predicted = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    objective._compiled = lambda *_: predicted  # type: ignore[assignment]
    squares = (predicted - target).square()
    per_channel = squares[..., :4].sum(dim=(2, 3)) + 0.25 * squares[:, :, 0, 5]
    expected = per_channel.mean(dim=1) / (8 * 4 + 0.25)
    loss = objective.loss(batch, 0)
    assert loss.each is not None
    torch.testing.assert_close(loss.each, expected)
    torch.testing.assert_close(loss.total, expected.mean())


def test_a_picture_with_a_small_mask_counts_as_much_as_others(build_denoising: Build) -> None:
    """Errors of 2 everywhere make a loss of 4, however little is white or grey."""
    for mask in (torch.full((8, 8), 1e-2), torch.zeros(8, 8).index_fill(0, torch.tensor([3]), 1.0)):
        objective = masked(build_denoising(), mask)
        batch = objective.batch(range(4))
        target = objective.schedule.velocity_target(batch.latents, batch.noise, batch.timesteps)
        objective._compiled = lambda *_, target=target: target + 2.0  # type: ignore[assignment]
        assert float(objective.loss(batch, 0).total) == pytest.approx(4.0, rel=1e-5)


def test_what_is_black_teaches_nothing(build_denoising: Build) -> None:
    mask = torch.zeros(8, 8)
    mask[2:5, 1:3] = 1.0
    objective = masked(build_denoising(), mask)
    batch = objective.batch(range(4))
    predicted = torch.zeros_like(batch.noise).requires_grad_()
    objective._compiled = lambda *_: predicted  # type: ignore[assignment]
    [gradient] = torch.autograd.grad(objective.loss(batch, 0).total, predicted)
    assert torch.equal(gradient.abs().sum(dim=(0, 1)) > 0, mask > 0)


def test_masks_go_with_their_pictures_held_out_too(build_denoising: Build) -> None:
    plain = build_denoising()
    numbers = torch.arange(len(plain.pictures.records)).float() + 1
    objective = masked(plain, torch.ones(8, 8))
    objective._masks = (numbers.view(-1, 1, 1, 1).expand(-1, 1, 8, 8),)
    held_out = next(objective.validation_batches())
    for batch in (objective.batch(range(20)), held_out):
        assert isinstance(batch, MaskedBatch)
        for latents, mask in zip(batch.latents, batch.mask, strict=True):
            assert torch.equal(latents, plain._latents[0][int(mask[0, 0, 0]) - 1].float())
    objective.module.eval()
    with torch.no_grad():
        flat = objective.loss(held_out, 0).total
        objective._masks = (torch.eye(8).expand(len(numbers), 1, 8, 8),)
        assert not torch.equal(objective.loss(next(objective.validation_batches()), 0).total, flat)


def test_pictures_of_a_class_to_keep_count_wholly(build_denoising: Build) -> None:
    objective = masked(build_denoising(), torch.eye(8))
    batch = PriorPreservation(objective, torch.zeros(2, 3, 8, 8), PriorConfig("red box")).batch(range(3))
    assert isinstance(batch.own, MaskedBatch) and type(batch.prior) is DenoisingBatch


# ---------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("buckets", [False, True])
def test_a_mask_is_scaled_padded_and_cropped_as_its_picture(tmp_path: Path, buckets: bool) -> None:
    """Grey pictures that are their own masks come out alike; what is padded is white, and so counts."""
    rng = np.random.default_rng(0)
    for number, shape in enumerate(((32, 16), (16, 16), (9, 40), (24, 24), (6, 5), (50, 33))):
        grey(tmp_path / "data" / f"{number}.png", rng.integers(1, 255, shape))
    (tmp_path / "data").rename(tmp_path / "masks")
    (tmp_path / "data").mkdir()
    for mask in (tmp_path / "masks").iterdir():
        Image.open(mask).save(tmp_path / "data" / f"{mask.stem}.bmp")
    config = DataConfig(
        16, 16, path=tmp_path / "data", caption="x", masks=tmp_path / "masks", buckets=buckets, bucket_step=8
    )
    pictures = PictureSet(config)
    assert pictures.masks is not None and len(pictures.masks) == len(pictures.sizes) == (3 if buckets else 1)
    for masks, pixels in zip(pictures.masks, pictures._pixels, strict=True):
        assert torch.equal(masks, pixels[..., 0]) and masks.dtype == torch.uint8


def test_masks_are_averaged_to_the_size_of_latents(
    picture_folder: Path, tmp_path: Path, tiny_model: LatentDiffusion
) -> None:
    pixels = np.zeros((16, 16))
    pixels[:4, :4], pixels[:4, 4:6], pixels[4:8, 8:12] = 255, 255, 51
    masks = write_masks(tmp_path / "masks", picture_folder, pixels)
    pictures = PictureSet(DataConfig(16, 16, path=picture_folder, masks=masks))
    found = latent_masks(tiny_model.vae, pictures)
    assert found is not None and tiny_model.vae.config.downsampling == 4
    expected = torch.zeros(4, 4)
    expected[0, 0], expected[0, 1], expected[1, 2] = 1.0, 0.5, 0.2
    assert found[0].shape == (90, 1, 4, 4)
    torch.testing.assert_close(found[0], expected.expand(90, 1, 4, 4))


def test_a_smaller_mask_of_the_same_shape_is_scaled(picture_folder: Path, tmp_path: Path) -> None:
    masks = write_masks(tmp_path / "masks", picture_folder, np.full((8, 8), 102))
    pictures = PictureSet(DataConfig(16, 16, path=picture_folder, masks=masks))
    assert pictures.masks is not None and bool((pictures.masks[0] == 102).all())


def test_masks_in_folders_belong_to_the_pictures_there(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        grey(tmp_path / "data" / folder / "1.png", np.full((16, 16), 9 * number))
        grey(tmp_path / "masks" / folder / "1.png", np.full((16, 16), 50 + number))
    config = DataConfig(16, 16, path=tmp_path / "data", caption="x", masks=tmp_path / "masks")
    pictures = PictureSet(config)
    assert pictures.masks is not None and [int(mask[0, 0]) for mask in pictures.masks[0]] == [50, 51]
    (tmp_path / "masks" / "b" / "1.png").unlink()  # a/1.png is then the only one of its name, but not b's
    with pytest.raises(ToileError, match=r"1 of 2 pictures have none .* such as 'b/1.png': add 1.png"):
        PictureSet(config)


def test_transparency_can_be_the_mask(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 255, dtype=np.uint8)
    pixels[..., :3], pixels[:, 8:, 3] = (200, 10, 10), 0
    for number in range(2):
        grey(tmp_path / f"{number}.png", pixels - np.uint8(number))
    pictures = PictureSet(DataConfig(16, 16, path=tmp_path, caption="x", masks=Path("alpha")))
    assert pictures.masks is not None
    assert bool((pictures.masks[0][0, :, :8] == 255).all()) and not pictures.masks[0][0, :, 8:].any()
    assert bool((pictures.pixels[0, :, 8:] == 255).all()), "what does not show is white"
    Image.fromarray(pixels[..., :3]).save(tmp_path / "2.png")
    with pytest.raises(ToileError, match=r"2\.png says nothing of transparency"):
        PictureSet(DataConfig(16, 16, path=tmp_path, caption="x", masks=Path("alpha")))


def test_other_masks_are_other_data_with_the_same_latents(
    picture_folder: Path, half: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    config = DataConfig(16, 16, path=picture_folder, masks=half)
    none, first = PictureSet(DataConfig(16, 16, path=picture_folder)), PictureSet(config)
    grey(half / "7.png", np.full((16, 16), 255))
    second = PictureSet(config)
    assert len({pictures.identity for pictures in (none, first, second, PictureSet(config))}) == 3
    assert len({pictures.pixels_identity for pictures in (none, first, second)}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda half: (half / "7.png").unlink(),
            r"masks: 1 of 90 pictures have none in .*, such as '7.bmp': add 7.png",
        ),
        (lambda half: grey(half / "7.png", np.zeros((16, 16))), r"masks: that of '7.bmp' is all black"),
        (lambda half: grey(half / "7.png", np.full((20, 16), 255)), r"7.png in .* is 16x20, its picture 16x16"),
        (lambda half: (half / "7.png").write_bytes(b"no picture"), r"masks: 7.png in .*cannot be read"),
        (lambda half: half.rename(half.with_name("away")), r"masks: .*half does not exist"),
    ],
)
def test_faults_are_named(picture_folder: Path, half: Path, change: Callable[[Path], object], said: str) -> None:
    change(half)
    with pytest.raises(ToileError, match=said):
        PictureSet(DataConfig(16, 16, path=picture_folder, masks=half))


def test_tasks_that_take_whole_pictures_refuse_masks() -> None:
    data = DataConfig(16, 16, masks=Path("masks"))
    for task in ("vae", "clip", "classifier"):
        with pytest.raises(ToileError, match=f"data.masks: task '{task}' takes pictures of one shape, whole"):
            data.check_use(task, sharded=False, compiles=False)
    data.check_use("lora", sharded=True, compiles=True)


# ---------------------------------------------------------------------------------------------------- runs


def follow(recipe: Path, folder: Path, *overrides: str, resume: bool = False) -> list[Record]:
    return list(run_recipe(load_recipe(recipe, overrides), folder, resume=resume))


def test_a_run_with_masks(tiny_folder: Path, picture_folder: Path, half: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "lora.toml"
    recipe.write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    white = write_masks(tmp_path / "white", picture_folder, np.full((16, 16), 255))

    def facts(name: str, *overrides: str) -> list[object]:
        records = follow(recipe, tmp_path / name, *overrides)
        assert isinstance(records[-1], EndRecord) and records[-1].reason == "done"
        return [
            record.losses if isinstance(record, ValidationRecord) else record.loss
            for record in records
            if isinstance(record, ValidationRecord | StepRecord)
        ]

    plain = facts("plain")
    assert facts("white", f"data.masks={white}") == plain
    masked = facts("half", f"data.masks={half}")
    assert all(one != other for one, other in zip(masked, plain, strict=True)), "held-out losses change too"
    assert len(list(cache_folder().glob("latents-*"))) == 1
    grey(half / "7.png", np.full((16, 16), 255))
    with pytest.raises(ToileError, match="would change pictures"):
        follow(recipe, tmp_path / "half", f"data.masks={half}", resume=True)


def test_masks_reach_the_objective_of_a_task(
    tiny_folder: Path, picture_folder: Path, half: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "lora.toml"
    recipe.write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    read = load_recipe(recipe, [f"data.masks={half}"])
    task = build_task(read, PictureSet(read.data))
    assert isinstance(task, LoRATask)
    batch = task.objective.batch(range(4))
    assert isinstance(batch, MaskedBatch)
    expected = torch.zeros(4, 1, 4, 4)
    expected[..., :2] = 1.0
    assert torch.equal(batch.mask, expected)
