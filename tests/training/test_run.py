"""Runs of every task from a recipe to files: an autoencoder, words, a model that makes pictures, a judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig
from toile.models.vae import VAE, VAEConfig
from toile.training.latents import encode_pictures, load_latents
from toile.training.pictures import DataConfig, PictureSet
from toile.training.recipes import load_recipe
from toile.training.records import (
    DataRecord,
    EndRecord,
    PlanRecord,
    Record,
    SampleRecord,
    SavedRecord,
    StepRecord,
    ValidationRecord,
)
from toile.training.run import run_recipe
from toile.training.run_folder import MODEL_FOLDER, read_log
from toile.user_folders import CACHE_VARIABLE, cache_folder
from toile.weights.files import load_tensors, save_tensors
from toile.weights.folder import load_component

LOOP = """
[loop]
steps = 4
batch_size = 4
learning_rate = 1e-3
warmup_steps = 2
validate_every = 2
sample_every = 4
save_every = 3
"""
VAE_TOML = f"""
task = "vae"
[model]
latent_channels = 3
block_out_channels = [8, 16]
layers_per_block = 1
norm_num_groups = 4
mid_block_add_attention = false
sample_size = 16
{LOOP}
[data]
"""
CLIP_TOML = f"""
task = "clip"
vocab_size = 560
[model]
projection_dim = 8
[model.text_config]
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 8
eos_token_id = 1
[model.vision_config]
hidden_size = 8
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 1
image_size = 16
patch_size = 8
{LOOP}
[data]
"""
CLASSIFIER_TOML = f"""
task = "classifier"
[model]
block_out_channels = [8]
norm_num_groups = 4
[objective]
num_article_types = 2
min_label_count = 2
max_shift = 1
{LOOP}
[data]
"""


@dataclass(frozen=True)
class Workshop:
    """A folder with a recipe for each task, the data and the cache."""

    folder: Path

    def records(self, task: str, overrides: Sequence[str] = (), resume: bool = False) -> list[Record]:
        return list(run_recipe(load_recipe(self.folder / f"{task}.toml", overrides), self.folder / task, resume=resume))

    def pictures(self) -> PictureSet:
        return PictureSet(DataConfig(width=16, height=16, path=self.folder / "data"))


@pytest.fixture(scope="module")
def workshop(
    tmp_path_factory: pytest.TempPathFactory,
    picture_folder: Path,
    denoising_recipe: Callable[[Mapping[str, Any], str], str],
) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workshop")
    denoising = denoising_recipe({}, f"{LOOP}\n[data]\n")
    (folder / "data").symlink_to(picture_folder)
    for task, toml in (("vae", VAE_TOML), ("clip", CLIP_TOML), ("denoising", denoising)):
        (folder / f"{task}.toml").write_text(f'{toml}path = "data"\nwidth = 16\nheight = 16\n', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        patch.chdir(folder)
        yield Workshop(folder)


@pytest.fixture(scope="module")
def runs(workshop: Workshop) -> dict[str, list[Record]]:
    """The records of the three runs that make a model, each from the one before."""
    return {task: workshop.records(task) for task in ("vae", "clip", "denoising")}


def test_stages_of_a_run_are_models_of_their_own(workshop: Workshop, runs: dict[str, list[Record]]) -> None:
    folder = workshop.folder / "staged"
    recipe = load_recipe(workshop.folder / "denoising.toml", ["loop.stage_every=2"])
    list(run_recipe(recipe, folder))
    stages = sorted(path.name for path in (folder / "stages").iterdir())
    assert stages == ["step-0000002", "step-0000004"]
    first, last = (LatentDiffusion.load(folder / "stages" / name, dtype="float32") for name in stages)
    assert not torch.equal(first.unet.conv_in.weight, last.unet.conv_in.weight)


@pytest.mark.parametrize("task", ["vae", "clip", "denoising"])
def test_a_run_ends_and_leaves_its_log(task: str, workshop: Workshop, runs: dict[str, list[Record]]) -> None:
    records, folder = runs[task], workshop.folder / task
    sampled = [] if task == "clip" else [SampleRecord]
    kinds = [
        DataRecord,
        PlanRecord,
        *sampled,
        StepRecord,
        StepRecord,
        ValidationRecord,
        StepRecord,
        SavedRecord,
        StepRecord,
    ]
    kinds += sampled
    assert [type(record) for record in records] == [*kinds, SavedRecord, ValidationRecord, EndRecord]
    end = records[-1]
    assert isinstance(end, EndRecord) and (end.step, end.reason) == (4, "done")
    assert json.loads((folder / "recipe.json").read_text())["loop"]["decay_share"] == 0.3
    logged = [line["kind"] for line in read_log(folder / "log.jsonl") if line["kind"] not in ("data", "plan")]
    assert logged == ["step", "step", "validation", "step", "saved", "step", "saved", "validation", "end"]
    assert (folder / "curves.png").is_file()
    for picture in ("samples/step-0000000.png", "samples/step-0000004.png", "stages.png"):
        assert (folder / picture).is_file() == (task != "clip")


def test_latents_have_unit_variance(workshop: Workshop, runs: dict[str, list[Record]]) -> None:
    vae, pictures = load_component(workshop.folder / "vae" / MODEL_FOLDER / "vae", VAE, VAEConfig), workshop.pictures()
    assert float(encode_pictures(vae, pictures, pictures.train).float().std()) == pytest.approx(1.0, abs=0.01)


def test_the_model_makes_pictures(workshop: Workshop, runs: dict[str, list[Record]]) -> None:
    model = LatentDiffusion.load(workshop.folder / "denoising" / MODEL_FOLDER, "cpu", "float32")
    made = [event for event in generate(model, GenerateRequest(("red belt", "blue box"))) if isinstance(event, Picture)]
    assert [picture.pixels.shape for picture in made] == [(16, 16, 3)] * 2
    assert not np.array_equal(made[0].pixels, made[1].pixels)


def test_the_model_holds_what_was_trained(workshop: Workshop, runs: dict[str, list[Record]]) -> None:
    end = runs["denoising"][-1]
    assert isinstance(end, EndRecord)
    prefix = {"live": "module.", "ema 0.05": "ema0.", "ema 0.1": "ema1."}[end.exported]
    state = load_tensors(workshop.folder / "denoising" / "state" / "step-00000004.safetensors")
    model = LatentDiffusion.load(workshop.folder / "denoising" / MODEL_FOLDER, "cpu", "float32")
    for part in ("unet", "text_encoder"):
        for name, value in getattr(model, part).state_dict().items():
            assert torch.equal(value, state[f"{prefix}{part}.{name}"].half().float()), name
    start = load_tensors(workshop.folder / "clip" / MODEL_FOLDER / "clip" / "model.safetensors")
    name = "text_model.final_layer_norm.weight"
    assert not torch.equal(model.text_encoder.state_dict()[name], start[name].half().float())  # it was tuned along


def test_latents_come_from_the_cache_the_second_time(
    workshop: Workshop, runs: dict[str, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], VAE.encode_images
    monkeypatch.setattr(VAE, "encode_images", lambda vae, images: (encoded.append(len(images)), encode(vae, images))[1])
    [cached] = cache_folder().iterdir()
    assert cache_folder() == workshop.folder / "cache"
    vae, pictures = load_component(workshop.folder / "vae" / MODEL_FOLDER / "vae", VAE, VAEConfig), workshop.pictures()
    latents = load_latents(vae, pictures).clone()  # type: ignore[union-attr]
    assert latents.dtype == torch.float16 and latents.shape == (90, 3, 8, 8)
    content = cached.read_bytes()
    encoded.clear()
    assert torch.equal(load_latents(vae, pictures), latents) and not encoded
    cached.write_bytes(content[:-1])
    assert torch.equal(load_latents(vae, pictures), latents) and encoded
    assert cached.read_bytes() == content and "latents were damaged" in pictures.summary
    with torch.no_grad():
        vae.encoder.conv_in.weight.add_(0.1)
    assert not torch.equal(load_latents(vae, pictures), latents)
    assert len(list(cache_folder().iterdir())) == 2


def test_another_autoencoder_is_a_change_of_the_data(workshop: Workshop, runs: dict[str, list[Record]]) -> None:
    weights = workshop.folder / "vae" / MODEL_FOLDER / "vae" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    tensors = load_tensors(weights)
    try:
        save_tensors(weights, {**tensors, "quant_conv.bias": tensors["quant_conv.bias"] + 0.1}, {"format": "pt"})
        with pytest.raises(ToileError, match="would change vae_weights: "):
            workshop.records("denoising", resume=True)
    finally:
        weights.write_bytes(content)
    assert isinstance(workshop.records("denoising", resume=True)[-1], EndRecord)


@pytest.mark.parametrize(
    ("override", "named"),
    [("loop.learning_rate=2e-3", "loop.learning_rate"), ("data.split_seed=1", "data.split_seed, pictures")],
)
def test_a_changed_recipe_is_refused(
    workshop: Workshop, runs: dict[str, list[Record]], override: str, named: str
) -> None:
    with pytest.raises(ToileError, match=f"would change {named}: "):
        workshop.records("vae", [override], resume=True)


def test_a_run_starts_from_a_trained_autoencoder(
    workshop: Workshop, runs: dict[str, list[Record]], tmp_path: Path
) -> None:
    trained = workshop.folder / "vae" / MODEL_FOLDER / "vae"
    recipe = load_recipe(workshop.folder / "vae.toml", [f"start={trained}", "loop.learning_rate=1e-9", "loop.steps=1"])
    list(run_recipe(recipe, tmp_path / "tuned"))
    before = load_component(trained, VAE, VAEConfig).state_dict()
    after = load_component(tmp_path / "tuned" / MODEL_FOLDER / "vae", VAE, VAEConfig).state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)


def test_a_start_gives_weights_and_the_recipe_the_architecture(
    workshop: Workshop, runs: dict[str, list[Record]], tmp_path: Path
) -> None:
    trained = workshop.folder / "vae" / MODEL_FOLDER / "vae"
    overrides = [f"start={trained}", "loop.learning_rate=1e-9", "loop.steps=1", "model.norm_num_groups=2"]
    list(run_recipe(load_recipe(workshop.folder / "vae.toml", overrides), tmp_path / "tuned"))
    tuned = load_component(tmp_path / "tuned" / MODEL_FOLDER / "vae", VAE, VAEConfig)
    assert tuned.config.norm_num_groups == 2
    other = load_recipe(workshop.folder / "vae.toml", [f"start={trained}", "model.latent_channels=2"])
    with pytest.raises(ToileError, match="does not fit VAE"):
        list(run_recipe(other, tmp_path / "other"))


@pytest.fixture(scope="module")
def product_folder(write_products: Callable[..., Path]) -> Path:
    """60 pictures of 16x16 with a table of products."""
    noise = np.random.default_rng(1).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    return write_products((noise[number], {"articleType": ("Shirts", "Jeans")[number % 2]}) for number in range(60))


@pytest.fixture
def classifier_recipe(tmp_path: Path, product_folder: Path) -> Path:
    path = tmp_path / "judge.toml"
    path.write_text(f'{CLASSIFIER_TOML}path = "{product_folder}"\nwidth = 16\nheight = 16\n', encoding="utf-8")
    return path


def test_a_judge_is_trained_from_a_product_table(tmp_path: Path, classifier_recipe: Path) -> None:
    end = list(run_recipe(load_recipe(classifier_recipe), tmp_path / "judge"))[-1]
    assert isinstance(end, EndRecord) and end.reason == "done"
    judge = tmp_path / "judge" / MODEL_FOLDER / "classifier"
    labels = load_component(judge, AttributeClassifier, AttributeClassifierConfig).config.labels
    assert set(labels.article_type) == {"Shirts", "Jeans"}


def test_a_ranker_is_trained_on_latents(
    tmp_path: Path, classifier_recipe: Path, tiny_folder: Path, workshop: Workshop
) -> None:
    of_latents = [f"vae={tiny_folder}", "model.in_channels=4", "model.conv_in_stride=1", "objective.max_noise=0.1"]
    end = list(run_recipe(load_recipe(classifier_recipe, of_latents), tmp_path / "ranker"))[-1]
    assert isinstance(end, EndRecord) and end.reason == "done"
    folder = tmp_path / "ranker" / MODEL_FOLDER / "classifier"
    trained = load_component(folder, AttributeClassifier, AttributeClassifierConfig)
    assert trained.conv_in.weight.shape == (8, 4, 3, 3) and trained.conv_in.stride == (1, 1)
    provenance = json.loads((tmp_path / "ranker" / MODEL_FOLDER / "provenance.json").read_text(encoding="utf-8"))
    assert list(provenance["networks"]) == ["vae"]
    with pytest.raises(ToileError, match=r"in_channels 3: what it looks at has 4"):
        list(run_recipe(load_recipe(classifier_recipe, of_latents[:1]), tmp_path / "other"))


def test_a_ranker_learns_from_what_its_model_makes(
    tmp_path: Path, classifier_recipe: Path, tiny_folder: Path, workshop: Workshop
) -> None:
    list(run_recipe(load_recipe(classifier_recipe), tmp_path / "judge"))
    teacher = tmp_path / "judge" / MODEL_FOLDER / "classifier"
    made = [f'objective.made.teachers=["{teacher}"]', "objective.made.num=20", "objective.made.steps=1"]
    of_latents = [f"vae={tiny_folder}", "model.in_channels=4", "model.conv_in_stride=1"]
    end = list(run_recipe(load_recipe(classifier_recipe, [*of_latents, *made]), tmp_path / "ranker"))[-1]
    assert isinstance(end, EndRecord) and end.reason == "done"
    provenance = json.loads((tmp_path / "ranker" / MODEL_FOLDER / "provenance.json").read_text(encoding="utf-8"))
    assert set(provenance["networks"]) == {"model/text_encoder", "model/unet", "model/vae", "teacher 1", "vae"}
    fewer = load_recipe(classifier_recipe, [*of_latents, *made[:1], "objective.made.num=10", "objective.made.steps=1"])
    with pytest.raises(ToileError, match="would change made, "):
        list(run_recipe(fewer, tmp_path / "ranker", resume=True))
    with pytest.raises(ToileError, match="name the model as vae"):
        list(run_recipe(load_recipe(classifier_recipe, made), tmp_path / "other"))


@pytest.mark.parametrize(("task", "resume", "named"), [("vae", False, "holds a run"), ("absent", True, "nothing to")])
def test_a_wrong_start_is_refused_before_anything_is_read(
    workshop: Workshop, runs: dict[str, list[Record]], task: str, resume: bool, named: str
) -> None:
    recipe = load_recipe(workshop.folder / "vae.toml", ["data.path=nowhere"])
    with pytest.raises(ToileError, match=named):
        next(run_recipe(recipe, workshop.folder / task, resume=resume))
    assert not (workshop.folder / "absent").exists()


def test_too_few_pictures_are_refused_at_once(tmp_path: Path, workshop: Workshop) -> None:
    recipe = load_recipe(workshop.folder / "vae.toml", ["data.limit=1"])
    with pytest.raises(ToileError, match="of 1 pictures 1 are for training and 0 held out|0 are for training"):
        next(run_recipe(recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
