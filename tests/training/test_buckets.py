"""Pictures of several shapes: which size each gets, and that nothing else changes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toile.data.images import cover
from toile.data.sources import MOST_ENLARGED, bucket_sizes, nearest_size
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.training.denoising_objective import DenoisingBatch, DenoisingObjective, MixedBatch
from toile.training.fine_tuning import LoRATask
from toile.training.latents import load_latents
from toile.training.pictures import DataConfig, PictureSet
from toile.training.prior_preservation import AccompaniedBatch, PriorConfig, PriorPreservation
from toile.training.recipes import LoRARecipe, load_recipe
from toile.training.records import DataRecord, EndRecord, Record, SampleRecord, StepRecord, ValidationRecord
from toile.training.run import build_task, run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE, cache_folder
from toile.weights.files import load_tensors

RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
buckets = true
bucket_step = 8
[lora]
rank = 2
[objective]
uncond_share = 0.1
sample_prompts = ["red belt"]
sample_steps = 2
[loop]
steps = 6
batch_size = 6
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = [0.1]
validate_every = 3
sample_every = 3
save_every = 2
"""
SHAPES = ((16, 16), (40, 10), (10, 25))  # width, height
SIZES = ((16, 16), (32, 8), (8, 24))  # which these get


@pytest.fixture(scope="module")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of three shapes with captions, each of one colour of its own."""
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(60):
        colour = (4 * number + 3, 255 - 4 * number, 30 * (number % 3))
        Image.new("RGB", SHAPES[number % 3], colour).save(folder / f"{number:02}.bmp")
        (folder / f"{number:02}.txt").write_text(f"{('red', 'black')[number % 2]} {('belt', 'dress')[number % 5 % 2]}")
    return folder


@pytest.fixture
def recipe(tiny_folder: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "lora.toml"
    path.write_text(RECIPE.format(base=tiny_folder, data=shapes_folder), encoding="utf-8")
    return path


def follow(recipe: Path, folder: Path, *overrides: str, resume: bool = False) -> list[Record]:
    return list(run_recipe(load_recipe(recipe, overrides), folder, resume=resume))


def task_of(recipe: Path, *overrides: str) -> LoRATask:
    read = load_recipe(recipe, overrides)
    assert isinstance(read, LoRARecipe)
    task = build_task(read, PictureSet(read.data))
    assert isinstance(task, LoRATask)
    return task


def objective_of(recipe: Path, *overrides: str) -> DenoisingObjective:
    objective = task_of(recipe, *overrides).objective
    assert isinstance(objective, DenoisingObjective)
    return objective


def parts_of(batch: object) -> tuple[DenoisingBatch, ...]:
    assert isinstance(batch, MixedBatch)
    return batch.parts


# ---------------------------------------------------------------------------------------------------- sizes


def test_the_sizes_are_those_of_kohyas_scripts() -> None:
    """What they make of 512x512 in steps of 64, sides from 256 to 1024."""
    tall = [(4, 16), (4, 15), (4, 14), (4, 13), (5, 12), (5, 11), (6, 10), (7, 9)]
    expected = [(64 * a, 64 * b) for a, b in [*tall, (8, 8), *[(b, a) for a, b in reversed(tall)]]]
    assert list(bucket_sizes(512, 512, 64)) == expected


@pytest.mark.parametrize(("width", "height", "step"), [(512, 512, 64), (64, 80, 16), (768, 512, 32), (16, 16, 8)])
def test_sizes_have_one_area_and_sides_in_steps(width: int, height: int, step: int) -> None:
    sizes, side = bucket_sizes(width, height, step), (width * height) ** 0.5
    assert (width, height) in sizes and len(set(sizes)) == len(sizes) > 3
    for size in sizes:
        assert size[0] * size[1] <= width * height and not size[0] % step and not size[1] % step
        assert all(side / 2 <= one <= 2 * side for one in size)
        grown = [(size[0] + step, size[1]), (size[0], size[1] + step)]
        assert any(max(more) > 2 * side or more[0] * more[1] > width * height for more in grown)
    assert {size[::-1] for size in sizes} >= set(sizes) - {(width, height)}


def test_a_picture_gets_the_size_of_most_like_shape() -> None:
    sizes = bucket_sizes(64, 80, 16)
    assert sizes == ((48, 96), (64, 80), (80, 64), (96, 48))
    assert nearest_size((640, 800), sizes) == (64, 80) and nearest_size((100, 1000), sizes) == (48, 96)
    assert nearest_size((3, 2), sizes) == (80, 64) and nearest_size((2, 1), sizes) == (96, 48)
    assert nearest_size((500, 500), ((32, 32), (64, 64))) == (64, 64), "the largest of one shape"


@pytest.mark.parametrize(
    ("size", "left", "top"),
    [((32, 16), 8, 0), ((16, 40), 0, 12), ((16, 16), 0, 0), ((17, 16), None, 0)],
)
def test_covering_cuts_evenly_and_never_stretches(size: tuple[int, int], left: int | None, top: int) -> None:
    across, down = np.meshgrid(np.arange(size[0]) * 6, np.arange(size[1]) * 6)
    image = Image.fromarray(np.stack([across, down, 0 * down], axis=-1).astype(np.uint8))
    covered = np.asarray(cover(image, 16, 16))
    assert covered.shape == (16, 16, 3)
    if left is not None:
        assert np.array_equal(covered, np.asarray(image)[top : top + 16, left : left + 16])
    else:  # half a column is cut off at either side
        assert np.abs(covered[..., 0].astype(float) - (np.arange(16) * 6 + 3)).max() <= 2
        assert np.array_equal(covered[..., 1], np.asarray(image)[:, :16, 1])


def test_small_pictures_grow_only_so_much(tmp_path: Path) -> None:
    covered = np.asarray(cover(Image.new("RGB", (5, 3), (9, 9, 9)), 16, 16, MOST_ENLARGED))
    inside = np.zeros((16, 16), dtype=bool)
    inside[5:11, 3:13] = True
    assert (covered[inside] == 9).all() and (covered[~inside] == 255).all()
    assert (np.asarray(cover(Image.new("RGB", (8, 8), (9, 9, 9)), 16, 16, MOST_ENLARGED)) == 9).all()
    for number, side in enumerate((8, 7, 16)):
        Image.new("RGB", (side, side), (number, 9, 9)).save(tmp_path / f"{number}.png")
    pictures = PictureSet(DataConfig(16, 16, path=tmp_path, caption="x", buckets=True, bucket_step=8))
    assert pictures.summary.endswith(
        "Shapes: 3 of 16x16. 1 are too small for theirs: enlarged 2 times and padded with white."
    )


# ---------------------------------------------------------------------------------------------------- sets


def test_a_set_holds_each_picture_in_its_shape(shapes_folder: Path) -> None:
    pictures = PictureSet(DataConfig(16, 16, path=shapes_folder, buckets=True, bucket_step=8))
    assert set(pictures.sizes) == set(SIZES) and pictures.bucket_step == 8
    assert "Shapes: 20 of 32x8, 20 of 16x16, 20 of 8x24." in pictures.summary
    for position, record in enumerate(pictures.records):
        number = int(record.key[:2])
        [image] = pictures.images(np.array([position]))
        width, height = SIZES[number % 3]
        colour = torch.tensor([4 * number + 3, 255 - 4 * number, 30 * (number % 3)]) / 127.5 - 1
        torch.testing.assert_close(image, colour.view(3, 1, 1).expand(3, height, width))
    plain = PictureSet(DataConfig(16, 16, path=shapes_folder))
    for side in ("train", "validation", "test"):
        assert np.array_equal(getattr(pictures, side), getattr(plain, side)), "the split does not depend on shapes"
    other = PictureSet(DataConfig(16, 16, path=shapes_folder, buckets=True, bucket_step=4))
    assert len({pictures.identity, plain.identity, other.identity}) == 3


def test_latents_of_each_shape_are_cached_together(
    tiny_model: LatentDiffusion, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    pictures = PictureSet(DataConfig(16, 16, path=shapes_folder, buckets=True, bucket_step=8))
    once, twice = load_latents(tiny_model.vae, pictures), load_latents(tiny_model.vae, pictures)
    assert isinstance(once, tuple) and isinstance(twice, tuple)
    assert all(torch.equal(one, other) for one, other in zip(once, twice, strict=True))
    [path] = cache_folder().iterdir()
    assert set(load_tensors(path)) == {f"latents {width}x{height}" for width, height in SIZES}
    assert pictures.places is not None
    for position in (0, 1, 2, 33, 59):
        shape, row = pictures.places[position]
        with torch.no_grad():
            expected = tiny_model.vae.encode_images(pictures.images(np.array([position])))[0]
        torch.testing.assert_close(once[shape][row].float(), expected.float(), atol=0.05, rtol=0.05)


# ---------------------------------------------------------------------------------------------------- the objective


def test_every_picture_is_used_equally_often(recipe: Path) -> None:
    objective = objective_of(recipe)
    num = len(objective.pictures.train)
    seen: Counter[bytes] = Counter()
    for first in range(0, 3 * num, 7):
        for part in parts_of(objective.batch(range(first, min(first + 7, 3 * num)))):
            seen.update(latents.numpy().tobytes() for latents in part.latents)
    assert len(seen) == num and set(seen.values()) == {3}


def test_what_an_example_gets_depends_on_its_number_alone(recipe: Path) -> None:
    objective = objective_of(recipe, "objective.noise_offset=0.1")
    whole = parts_of(objective.batch(range(20, 44)))
    assert {tuple(part.latents.shape[2:]) for part in whole} == {(4, 4), (2, 8), (6, 2)}
    rows = {
        tuple(value.numpy().tobytes() for value in row)
        for part in whole
        for row in zip(*vars(part).values(), strict=True)
    }
    assert len(rows) == 24
    for number in range(20, 44):
        [alone] = parts_of(objective.batch(range(number, number + 1)))
        assert tuple(value[0].numpy().tobytes() for value in vars(alone).values()) in rows


def test_captions_belong_to_their_pictures(recipe: Path) -> None:
    objective = objective_of(recipe, "objective.uncond_share=0.0")
    pictures = objective.pictures
    assert pictures.places is not None
    own = {
        objective._latents[shape][row].float().numpy().tobytes(): record.captions[0]
        for (shape, row), record in zip(pictures.places, pictures.records, strict=True)
    }
    for part in (*parts_of(objective.batch(range(30))), *parts_of(next(objective.validation_batches()))):
        for latents, ids in zip(part.latents, part.token_ids, strict=True):
            assert torch.equal(objective.tokenizer.batch([own[latents.numpy().tobytes()]])[0][0], ids)


def gradients_of(objective: DenoisingObjective | PriorPreservation, examples: list[range]) -> list[Tensor]:
    objective.module.zero_grad()
    count = sum(map(len, examples))
    for some in examples:
        (objective.loss(objective.batch(some), 0).total * len(some) / count).backward()
    return [parameter.grad for parameter in objective.module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("wrap", [False, True])
def test_accumulated_parts_equal_the_whole_batch(recipe: Path, wrap: bool) -> None:
    plain = objective_of(recipe)
    with torch.no_grad():  # from where both factors of a change have a gradient
        for parameter in plain.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 10)
    latents = torch.randn(3, *plain.sample_shape, generator=torch.Generator().manual_seed(1)).half()
    objective = PriorPreservation(plain, latents, PriorConfig("red box")) if wrap else plain
    whole = gradients_of(objective, [range(12)])
    assert len(whole) > 10 and all(float(gradient.abs().max()) > 0 for gradient in whole)
    for size in (1, 4):
        parts = gradients_of(objective, [range(first, first + size) for first in range(0, 12, size)])
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_loss_is_the_mean_over_examples(recipe: Path) -> None:
    objective = objective_of(recipe)
    objective.module.eval()
    batch = objective.batch(range(13))
    parts = parts_of(batch)
    assert len({len(part.latents) for part in parts}) > 1, "unequal shares, or weights would not show"
    with torch.no_grad():
        loss, of_parts = objective.loss(batch, 0), [objective.loss(part, 0).total for part in parts]
    expected = sum(len(part.latents) * own for part, own in zip(parts, of_parts, strict=True)) / 13
    torch.testing.assert_close(loss.total, expected)
    assert loss.each is not None and loss.each.shape == (13,) and {"low", "high"} <= set(loss.parts)


def test_pictures_of_one_shape_are_trained_as_without_buckets(recipe: Path, picture_folder: Path) -> None:
    with_buckets, without = (
        objective_of(recipe, f"data.path={picture_folder}", f"data.buckets={value}") for value in ("true", "false")
    )
    [own], other = parts_of(with_buckets.batch(range(9))), without.batch(range(9))
    assert isinstance(other, DenoisingBatch)
    assert all(torch.equal(value, vars(other)[name]) for name, value in vars(own).items())
    losses = [objective.loss(objective.batch(range(9)), 0).total for objective in (with_buckets, without)]
    assert torch.equal(*losses)


def test_a_class_to_keep_is_of_the_configured_size(recipe: Path) -> None:
    task = task_of(recipe, "prior.prompt=red box", "prior.num=2", "prior.steps=1")
    assert isinstance(task.objective, PriorPreservation)
    batch = task.objective.batch(range(5))
    assert isinstance(batch, AccompaniedBatch) and isinstance(batch.own, MixedBatch)
    assert batch.prior.latents.shape == (5, 4, 4, 4)
    assert bool(task.objective.loss(batch, 0).total.isfinite())


# ---------------------------------------------------------------------------------------------------- runs


def test_a_run_on_pictures_of_three_shapes(recipe: Path, tmp_path: Path) -> None:
    whole = follow(recipe, tmp_path / "whole")
    [said] = [record.summary for record in whole if isinstance(record, DataRecord)]
    assert "Shapes: 20 of 32x8, 20 of 16x16, 20 of 8x24." in said
    assert isinstance(whole[-1], EndRecord) and whole[-1].reason == "done"
    samples = [record.images.shape for record in whole if isinstance(record, SampleRecord)]
    assert samples == [(1, 3, 16, 16)] * 3
    records = run_recipe(load_recipe(recipe), tmp_path / "parts")
    for record in records:
        if isinstance(record, StepRecord) and record.step == 3:
            records.close()
            break
    rest = follow(recipe, tmp_path / "parts", resume=True)
    losses = {r.step: r.loss for r in whole if isinstance(r, StepRecord)}
    assert {r.step: r.loss for r in rest if isinstance(r, StepRecord)} == {step: losses[step] for step in (4, 5, 6)}
    files = [tmp_path / name / MODEL_FOLDER / "lora.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    small = follow(recipe, tmp_path / "small", "loop.micro_batch_size=1")
    for one, other in zip(whole, small, strict=True):
        if isinstance(one, StepRecord):
            assert isinstance(other, StepRecord) and other.loss == pytest.approx(one.loss, rel=1e-4)
        if isinstance(one, ValidationRecord):
            assert isinstance(other, ValidationRecord)
            assert other.losses["live"]["loss"] == pytest.approx(one.losses["live"]["loss"], rel=1e-3)


# ---------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.bucket_step=12"], "16x16 is no multiple of the buckets' step, 12"),
        (["data.bucket_step=0"], "no multiple of the buckets' step, 0"),
        (["data.bucket_step=16"], "16x16 is then the only size there is"),
        (["data.bucket_step=4"], "shrink pictures by 8; give a multiple of that"),
        (["loop.sharded=true"], "loop.sharded=true needs pictures of one shape"),
        (["objective.compile=true"], "objective.compile=true compiles anew for each number"),
    ],
)
def test_what_cannot_be_is_refused(recipe: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ToileError, match=said):
        follow(recipe, tmp_path / "run", *overrides)
    assert not (tmp_path / "run" / "state").exists() and not (tmp_path / "cache").exists()


def test_tasks_that_take_whole_pictures_refuse_buckets(shapes_folder: Path) -> None:
    data = DataConfig(16, 16, path=shapes_folder, buckets=True, bucket_step=8)
    for task in ("vae", "clip", "classifier"):
        with pytest.raises(ToileError, match=f"data.buckets: task '{task}' takes pictures of one shape"):
            data.check_use(task, sharded=False, compiles=False)
    pictures = PictureSet(data)
    use: Callable[[], Tensor]
    for use in (lambda: pictures.pixels, lambda: pictures.images(np.arange(3))):
        with pytest.raises(ToileError, match=r"data\.buckets: .* several shapes"):
            use()
