"""Distillation: the student begins as its teacher, learns guidance and paths, and runs leave models of few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toile.diffusion.denoiser import Denoiser
from toile.diffusion.guidance import ClassifierFreeGuidance
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.training.distillation_objective import (
    ConsistencyConfig,
    ConsistencyDistillation,
    GuidanceDistillation,
    GuidanceDistillationConfig,
    PathBatch,
)
from toile.training.distillation_task import DistillationTask
from toile.training.pictures import DataConfig, PictureSet
from toile.training.recipes import load_recipe
from toile.training.records import EndRecord, Record, StepRecord
from toile.training.run import build_task, run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import load_tensors

GUIDANCE, PATHS = "guidance_distillation", "consistency_distillation"
RECIPE = """
task = "{task}"
teacher = "{teacher}"
[data]
path = "{data}"
width = 16
height = 16
[objective]
sample_prompts = ["red belt"]
sample_steps = 2
[loop]
steps = 6
batch_size = 4
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = [0.1]
validate_every = 3
sample_every = 3
save_every = 2
"""
LEVELS = "objective.levels=10"

BuildRecipe = Callable[[str], Path]


@pytest.fixture
def recipe_of(tiny_folder: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildRecipe:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def build(task: str) -> Path:
        path = tmp_path / f"{task}.toml"
        path.write_text(RECIPE.format(task=task, teacher=tiny_folder, data=picture_folder), encoding="utf-8")
        return path

    return build


@pytest.fixture
def objective_of(recipe_of: BuildRecipe, pictures: PictureSet) -> Callable[..., Any]:
    def build(task: str, *overrides: str) -> GuidanceDistillation:
        built = build_task(load_recipe(recipe_of(task), overrides), pictures)
        assert isinstance(built, DistillationTask)
        return built.objective

    return build


def follow(recipe: Path, folder: Path, *overrides: str, resume: bool = False) -> list[Record]:
    return list(run_recipe(load_recipe(recipe, overrides), folder, resume=resume))


def learn(objective: GuidanceDistillation, num_steps: int, rate: float = 1e-2) -> list[float]:
    batch = objective.batch(range(4))
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=rate, weight_decay=0.0)
    losses = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss = objective.loss(batch, step).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# ---------------------------------------------------------------------------------------------------- what is learnt


@torch.no_grad()
def test_the_student_begins_as_its_teacher_without_guidance(objective_of: Callable[..., Any]) -> None:
    objective: GuidanceDistillation = objective_of(GUIDANCE)
    batch = objective.batch(range(3))
    x_in = objective.examples.schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
    states = objective.examples.networks.states(batch.token_ids)
    off = objective.teacher(x_in, batch.timesteps, states, torch.ones(3))
    assert not torch.allclose(objective.teacher(x_in, batch.timesteps, states, batch.scales), off, atol=1e-3)
    for scale in (1.0, 3.7):
        found = objective.module(x_in, batch.timesteps, states, guidance=torch.full((3,), scale))
        torch.testing.assert_close(found, off, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_teacher_is_classifier_free_guidance(objective_of: Callable[..., Any]) -> None:
    objective: ConsistencyDistillation = objective_of(PATHS, LEVELS)
    batch, schedule, teacher = objective.batch(range(4)), objective.examples.schedule, objective.teacher
    states = objective.examples.networks.states(batch.token_ids)
    x_in = schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
    prediction = teacher(x_in, batch.timesteps, states, batch.scales)
    found = objective._noise_levels.denoised(prediction, x_in, batch.timesteps)
    for row in range(4):
        sigma = schedule.sigmas[batch.timesteps[row]]
        guided = ClassifierFreeGuidance(Denoiser(teacher.unet, schedule), teacher.uncond, float(batch.scales[row]))
        x = x_in[row : row + 1] * math.sqrt(1 + float(sigma) ** 2)
        expected = guided(x, sigma, states[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_guidance_of_one_batch_is_learnt_by_heart(objective_of: Callable[..., Any]) -> None:
    losses = learn(objective_of(GUIDANCE, "objective.scales=[3.0,6.0]"), 40)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2])
def test_paths_are_learnt_from_pairs_of_neighbouring_levels(objective_of: Callable[..., Any], segments: int) -> None:
    """The held-out loss is another: the distance to where the teacher arrives step by step."""
    objective: ConsistencyDistillation = objective_of(
        PATHS, "objective.levels=4", f"objective.segments={segments}", "objective.scales=[3.0,6.0]"
    )

    def held_out() -> float:
        with torch.no_grad():
            return float(torch.stack([objective.loss(each, 0).total for each in objective.validation_batches()]).mean())

    before = held_out()
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(60):
        optimizer.zero_grad()
        objective.loss(objective.batch(range(16 * step, 16 * step + 16)), step).total.backward()
        optimizer.step()
    assert held_out() < 0.9 * before


MEAN, SPREAD = 0.7, 0.4


@pytest.mark.parametrize(("segments", "huber"), [(1, None), (1, 0.03), (5, None)])
def test_the_consistency_function_of_gaussian_data_costs_nothing(
    objective_of: Callable[..., Any], segments: int, huber: float | None
) -> None:
    losses = {}
    for levels in (50, 200):
        sizes = {"levels": levels, "segments": segments, "sample_steps": segments}
        objective = objective_of(PATHS, *(f"objective.{name}={value}" for name, value in sizes.items()))
        objective.config = replace(objective.config, huber=huber)
        losses[levels] = gaussian_losses(objective)
    # What is left is the error of one step of the teacher's, of second order, here squared.
    assert losses[200][1] < 2e-5 and losses[200][1] < losses[50][1] / 8
    assert losses[200][0] > 20 * losses[200][1], "the mean of all pictures is no end of a path"


def gaussian_losses(objective: ConsistencyDistillation) -> tuple[float, float]:
    """Losses on N(MEAN, SPREAD ** 2) with the exact teacher, of a student that is the same, and of one that jumps.

    The paths are known: `x - mean` shrinks with the spread of the noisy data (Karras et al. 2022, eq. 1).
    """
    signals = torch.cat([objective.examples.schedule.alphas_cumprod, torch.ones(1, dtype=torch.float64)])
    levels, per = objective._timesteps.tolist(), objective.config.levels // objective.config.segments
    end_of = {levels[n]: levels[(n // per + 1) * per] for n in range(objective.config.levels)}

    def alpha_and_spread(timesteps: Tensor) -> tuple[Tensor, Tensor]:
        signal = signals[timesteps].view(-1, 1, 1, 1)
        return signal.sqrt(), (SPREAD**2 * signal + 1 - signal).sqrt()

    def velocity(denoised: Tensor, x_in: Tensor, timesteps: Tensor) -> Tensor:
        alpha, _ = alpha_and_spread(timesteps)
        return ((alpha * x_in - denoised) / (1 - alpha**2).sqrt()).float()

    def best(x_in: Tensor, timesteps: Tensor, states: Tensor, guidance: Tensor) -> Tensor:
        alpha, spread = alpha_and_spread(timesteps)
        return velocity(MEAN + SPREAD**2 * alpha / spread**2 * (x_in.double() - alpha * MEAN), x_in, timesteps)

    def jump(x_in: Tensor, timesteps: Tensor, states: Tensor, guidance: Tensor) -> Tensor:
        ends = torch.tensor([end_of[int(timestep)] for timestep in timesteps])
        (alpha, spread), (alpha_end, spread_end) = alpha_and_spread(timesteps), alpha_and_spread(ends)
        there = alpha_end * MEAN + (x_in.double() - alpha * MEAN) * spread_end / spread
        denoised = objective._noise_levels.estimate_that_steps_to(there, x_in.double(), timesteps, ends)
        return velocity(denoised, x_in, timesteps)

    batch = objective.batch(range(64))
    draws = torch.Generator().manual_seed(0)
    batch = replace(batch, latents=MEAN + SPREAD * torch.randn(batch.latents.shape, generator=draws))
    objective.module.train()
    objective.teacher = best  # type: ignore[assignment]
    losses = []
    for student in (best, jump):
        objective._compiled = student
        losses.append(float(objective.loss(batch, 0).total))
    return losses[0], losses[1]


# -------------------------------------------------------------------------------------------------- draws and settings


@pytest.mark.parametrize("task", [GUIDANCE, PATHS])
def test_a_draw_depends_on_the_number_of_the_example_alone(objective_of: Callable[..., Any], task: str) -> None:
    objective = objective_of(task)
    whole, part = vars(objective.batch(range(8))), vars(objective.batch(range(2, 5)))
    for name, value in part.items():
        assert value is None or torch.equal(value, whole[name][2:5]), name
    scales = objective.batch(range(200)).scales
    assert 1.0 <= float(scales.min()) < 1.1 and 3.9 < float(scales.max()) <= 4.0


def test_points_on_paths_have_their_next_level_and_their_end(objective_of: Callable[..., Any]) -> None:
    objective = objective_of(PATHS, LEVELS, "objective.segments=2")
    batch = objective.batch(range(100))
    assert sorted(set(batch.timesteps.tolist())) == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    for timestep, following, end in zip(batch.timesteps, batch.nexts, batch.ends, strict=True):
        assert int(following) == (int(timestep) - 100 if timestep > 99 else -1)
        assert int(end) == (499 if timestep > 499 else -1)


@pytest.mark.slow
def test_each_setting_matters(objective_of: Callable[..., Any]) -> None:
    def facts(task: str, **changes: Any) -> dict[str, Tensor]:
        options = {"sample_steps": 2, "levels": 10, **changes} if task == PATHS else {"sample_steps": 2, **changes}
        overrides = [f"objective.{key}={_toml(value)}" for key, value in options.items()]
        objective = objective_of(task, *overrides)
        with torch.no_grad():
            objective.module.time_embedding.cond_proj.weight.fill_(0.3)
            batch = objective.batch(range(40))
            return {
                "captions": batch.token_ids,
                "scales": batch.scales,
                "timesteps": batch.timesteps,
                "ends": batch.ends if isinstance(batch, PathBatch) else torch.empty(0),
                "loss": objective.loss(batch, 0).total,
                "pictures": objective.samples(),
            }

    both: dict[str, tuple[Any, set[str]]] = {
        "scales": ((2.0, 5.0), {"scales", "loss"}),
        "uncond_share": (0.9, {"captions", "loss"}),
        "sample_prompts": (("blue box",), {"pictures"}),
        "sample_guidance": (5.0, {"pictures"}),
        "sample_steps": (3, {"pictures"}),
    }
    guidance = {**both, "uniform_share": (0.0, {"timesteps", "loss"})}
    paths = {
        **both,
        "levels": (20, {"timesteps", "loss"}),
        "segments": (2, {"ends", "loss", "pictures"}),
        "huber": (1.0, {"loss"}),
    }
    assert {*guidance, "compile"} == set(asdict(GuidanceDistillationConfig()))
    assert {*paths, "compile"} == set(asdict(ConsistencyConfig()))
    for task, changes in ((GUIDANCE, guidance), (PATHS, paths)):
        plain = facts(task)
        for name, (value, expected) in changes.items():
            found = facts(task, **{name: value})
            differing = {
                key
                for key in plain
                if plain[key].shape != found[key].shape or not torch.allclose(plain[key], found[key], atol=1e-6)
            }
            assert differing == expected, (task, name)


def _toml(value: Any) -> str:
    return str(list(value)).replace("'", '"') if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(
    ("config", "changes", "named"),
    [
        (GuidanceDistillationConfig, {"scales": (3.0, 1.0)}, "scales"),
        (GuidanceDistillationConfig, {"scales": (1.0, math.inf)}, "scales"),
        (GuidanceDistillationConfig, {"uncond_share": 1.5}, "uncond_share"),
        (GuidanceDistillationConfig, {"uniform_share": -0.5}, "uniform_share"),
        (GuidanceDistillationConfig, {"sample_steps": 0}, "sample_steps"),
        (ConsistencyConfig, {"levels": 50, "segments": 3}, "segments"),
        (ConsistencyConfig, {"levels": 4, "segments": 4}, "segments"),
        (ConsistencyConfig, {"huber": 0.0}, "huber"),
        (ConsistencyConfig, {"segments": 2, "sample_steps": 4}, "sample_steps"),
    ],
)
def test_impossible_settings_are_refused(config: Any, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ToileError, match=named):
        config(**changes)


def test_pictures_of_several_shapes_are_refused(recipe_of: BuildRecipe, picture_folder: Path) -> None:
    data = DataConfig(width=16, height=16, path=picture_folder, buckets=True, bucket_step=8)
    with pytest.raises(ToileError, match="buckets"):
        build_task(load_recipe(recipe_of(PATHS)), PictureSet(data))


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.parametrize("task", [GUIDANCE, PATHS])
def test_resuming_equals_going_on(recipe_of: BuildRecipe, tmp_path: Path, task: str) -> None:
    recipe = recipe_of(task)
    overrides = [LEVELS] if task == PATHS else []
    whole = follow(recipe, tmp_path / "whole", *overrides)
    assert isinstance(whole[-1], EndRecord) and whole[-1].reason == "done"
    records = run_recipe(load_recipe(recipe, overrides), tmp_path / "parts")
    for record in records:
        if isinstance(record, StepRecord) and record.step == 3:
            records.close()
            break
    rest = follow(recipe, tmp_path / "parts", *overrides, resume=True)
    losses = {r.step: r.loss for r in whole if isinstance(r, StepRecord)}
    assert {r.step: r.loss for r in rest if isinstance(r, StepRecord)} == {step: losses[step] for step in (4, 5, 6)}
    files = [
        load_tensors(next((tmp_path / name / MODEL_FOLDER / "unet").glob("*.safetensors")))
        for name in ("whole", "parts")
    ]
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())
    assert bool(files[0]["time_embedding.cond_proj.weight"].any())


@pytest.mark.slow
def test_a_run_leaves_a_model_of_few_steps_which_can_teach_again(recipe_of: BuildRecipe, tmp_path: Path) -> None:
    follow(recipe_of(GUIDANCE), tmp_path / "first", "objective.sample_guidance=3.0")
    first = LatentDiffusion.load(tmp_path / "first" / MODEL_FOLDER, "cpu", "float32")
    assert first.unet.config.time_cond_proj_dim == 256
    assert (first.defaults.steps, first.defaults.guidance, first.defaults.sampler) == (2, 3.0, "dpmpp_2m")
    teacher = f'teacher="{tmp_path / "first" / MODEL_FOLDER}"'
    follow(recipe_of(PATHS), tmp_path / "second", LEVELS, teacher, "loop.steps=2", "objective.segments=2")
    second = LatentDiffusion.load(tmp_path / "second" / MODEL_FOLDER, "cpu", "float32")
    assert second.unet.config == first.unet.config and second.defaults.sampler == "ddim"
    follow(recipe_of(PATHS), tmp_path / "third", LEVELS, teacher, "loop.steps=2")
    assert LatentDiffusion.load(tmp_path / "third" / MODEL_FOLDER, "cpu", "float32").defaults.sampler == "lcm"


@pytest.mark.parametrize(
    ("task", "more"), [(GUIDANCE, ()), (PATHS, (LEVELS,)), (PATHS, (LEVELS, "objective.segments=2"))]
)
def test_the_loss_is_computed_where_the_networks_are(
    objective_of: Callable[..., Any], learns_elsewhere: Callable[..., None], task: str, more: tuple[str, ...]
) -> None:
    objective = objective_of(task, *more)
    objective.teacher.uncond = objective.teacher.uncond.to("meta")
    learns_elsewhere(objective, objective.teacher.unet, keeps_texts=True)
