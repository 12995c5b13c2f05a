"""From a recipe to a trained component on disk: what each task trains, and what it leaves in the run's `model/`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from toile.diffusion.schedule import NoiseSchedule
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import find_model, vae_constants
from toile.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.schema import build_config
from toile.text.tokenizer import Tokenizer
from toile.training.classifier_objective import ClassifierObjective, build_classifier
from toile.training.clip_objective import CLIPObjective, train_tokenizer
from toile.training.denoising_objective import DenoisingObjective, TextConditionedUNet
from toile.training.fine_tuning import FineTuneTask, LoRATask
from toile.training.latents import check_buckets, encode_pictures, latent_masks, load_latents
from toile.training.loop import AUTO, LoopConfig, check_start, train
from toile.training.objective import Objective
from toile.training.pictures import PictureSet
from toile.training.plan import plan_run
from toile.training.processes import join_processes
from toile.training.recipes import (
    ClassifierRecipe,
    CLIPRecipe,
    DenoisingRecipe,
    FineTuneRecipe,
    LoRARecipe,
    Recipe,
    TextualInversionRecipe,
    VAERecipe,
    compiles,
    recipe_facts,
)
from toile.training.records import DataRecord, Record
from toile.training.run_folder import RunFolder, read_log
from toile.training.sharding import hold_weights
from toile.training.textual_inversion import TextualInversionTask
from toile.training.vae_objective import VAEObjective, narrow_posterior
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights, load_component, load_weights, save_component

MODEL_FOLDER = "model"


class Task(Protocol):
    """An objective and what becomes of its weights.

    Attributes:
        identity: what else must not change when the run is resumed: hashes of the files that were read.
    """

    identity: Mapping[str, str]

    @property
    def objective(self) -> Objective[Any]:
        """What the loop trains."""

    def export(self, folder: Path) -> None:
        """Writes the present weights as a model or a component of one."""


def run_recipe(
    recipe: Recipe,
    directory: Path,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    minutes: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Record, None, None]:
    """Trains what the recipe says; log, curves, samples and state go to `directory`, the weights to its `model/`.

    The exported weights are the average (or the live weights) with the lowest held-out loss. A run that is stopped by
    time exports too, so that what there is can be used. Processes that torchrun started train together.

    Args, errors: see `toile.training.loop.train`.
    """
    processes = join_processes()
    check_start(directory, resume)
    facts = recipe_facts(recipe)
    recipe.data.check_use(recipe.task, sharded=recipe.loop.sharded, compiles=compiles(recipe))
    pictures = PictureSet(recipe.data)
    if not len(pictures.train) or not len(pictures.validation):
        raise ToileError(
            f"{recipe.data.path or recipe.data.source}: of {len(pictures.records)} pictures {len(pictures.train)} are "
            f"for training and {len(pictures.validation)} held out; give more pictures, or another split_seed"
        )
    with processes.first_before_others():  # which find what it has cached
        task = build_task(recipe, pictures)
    identity = {**facts, "pictures": pictures.identity, **task.identity}
    yield DataRecord(0, pictures.summary)
    config = recipe.loop if not resume else resumed_config(recipe.loop, directory)
    weights = hold_weights(task.objective.module, config.sharded, processes)
    plan = plan_run(task.objective, config, directory, weights, compiles=compiles(recipe))
    config = replace(config, micro_batch_size=plan.micro_batch_size)
    yield plan
    folder: RunFolder | None = None
    records = train(
        task.objective,
        config,
        directory,
        identity,
        resume=resume,
        accept_changes=accept_changes,
        completed=partial(with_defaults, type(recipe)),
        minutes=minutes,
        export=lambda: task.export(directory / MODEL_FOLDER),
        weights=weights,
        should_stop=should_stop,
    )
    with closing(records):
        for record in records:
            if processes.is_first:
                if folder is None:
                    folder = RunFolder(directory, facts)
                    folder.write(plan)
                folder.write(record)
            yield record


def with_defaults(recipe_class: type[Recipe], identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """A run's identity as an earlier version wrote it, with the defaults of the recipe's keys that are new since.

    A recipe of another kind, or with keys that are no more, stays as it is: comparing then names what changed.
    """
    names = {field.name for field in fields(recipe_class)}
    try:
        recipe = build_config(recipe_class, {name: identity[name] for name in identity if name in names}, "saved state")
    except ToileError:
        return identity
    return {**identity, **recipe_facts(recipe)}


def resumed_config(config: LoopConfig, directory: Path) -> LoopConfig:
    """The loop of a run that goes on: with as many examples at once as it had, which decides how sums are rounded."""
    plans = [line for line in read_log(directory / "log.jsonl") if line["kind"] == "plan"]
    if config.micro_batch_size != AUTO or not plans:
        return config
    return replace(config, micro_batch_size=plans[0]["micro_batch_size"])


def build_task(recipe: Recipe, pictures: PictureSet) -> Task:
    """Networks, initialised from the recipe's seed, and the objective over them."""
    torch.manual_seed(recipe.seed)
    if isinstance(recipe, VAERecipe):
        return VAETask(recipe, pictures)
    if isinstance(recipe, CLIPRecipe):
        return CLIPTask(recipe, pictures)
    if isinstance(recipe, DenoisingRecipe):
        return DenoisingTask(recipe, pictures)
    if isinstance(recipe, LoRARecipe):
        return LoRATask(recipe, pictures)
    if isinstance(recipe, FineTuneRecipe):
        return FineTuneTask(recipe, pictures)
    if isinstance(recipe, TextualInversionRecipe):
        return TextualInversionTask(recipe, pictures)
    return ClassifierTask(recipe, pictures)


class VAETask:
    """Exports `vae/`, with the scaling factor that gives training latents unit variance."""

    def __init__(self, recipe: VAERecipe, pictures: PictureSet) -> None:
        self.identity: Mapping[str, str] = {}
        vae = VAE(recipe.model)
        if recipe.start is not None:
            load_weights(vae, load_component(recipe.start, VAE, VAEConfig).state_dict(), str(recipe.start))
        else:
            narrow_posterior(vae)
        self.pictures = pictures
        self.objective = VAEObjective(vae, pictures, recipe.objective, recipe.seed)

    def export(self, folder: Path) -> None:
        vae = self.objective.module
        latents = encode_pictures(vae, self.pictures, self.pictures.train[:2048]).float() / vae.config.scaling_factor
        config = replace(vae.config, scaling_factor=round(1.0 / float(latents.std()), 5))
        save_component(folder / "vae", vae, config, vae_constants(config), torch.float32)


class CLIPTask:
    """Exports `clip/` (both towers) and `tokenizer/`."""

    def __init__(self, recipe: CLIPRecipe, pictures: PictureSet) -> None:
        self.identity: Mapping[str, str] = {}
        text = recipe.model.text_config
        tokenizer = train_tokenizer(pictures, recipe.vocab_size, text.max_position_embeddings, recipe.seed)
        text = replace(
            text,
            vocab_size=tokenizer.vocab_size,
            bos_token_id=tokenizer.start_id,
            eos_token_id=tokenizer.end_id,
            pad_token_id=tokenizer.pad_id,
        )
        clip = CLIPModel(replace(recipe.model, text_config=text))
        self.objective = CLIPObjective(clip, tokenizer, pictures, recipe.seed)

    def export(self, folder: Path) -> None:
        clip = self.objective.module
        save_component(folder / "clip", clip, clip.config, {"model_type": "clip"}, torch.float32, "model.safetensors")
        self.objective.tokenizer.save(folder / "tokenizer")


class DenoisingTask:
    """Exports a whole model folder."""

    def __init__(self, recipe: DenoisingRecipe, pictures: PictureSet) -> None:
        self.recipe = recipe
        vae_folder, words = recipe.vae / MODEL_FOLDER / "vae", recipe.clip / MODEL_FOLDER / "tokenizer"
        vae = load_component(vae_folder, VAE, VAEConfig)
        vae.eval().requires_grad_(False)
        clip = load_component(recipe.clip / MODEL_FOLDER / "clip", CLIPModel, CLIPConfig)
        tokenizer = Tokenizer.load(words)
        self.identity: Mapping[str, str] = {
            "vae_weights": file_sha256(find_weights(vae_folder)),
            "vocabulary": file_sha256(words / "vocab.json"),
        }
        if recipe.start is None:
            text_encoder, unet = CLIPTextModel(clip.config.text_config), UNet(recipe.model)
            text_encoder.text_model.load_state_dict(clip.text_model.state_dict())
        else:
            start = find_model(recipe.start)
            text_encoder = load_component(start / "text_encoder", CLIPTextModel, CLIPTextConfig)
            # The weights are those of the start, the architecture is what the recipe says: both are written down.
            unet = UNet(recipe.model)
            load_weights(unet, load_component(start / "unet", UNet, UNetConfig).state_dict(), str(start / "unet"))
        check_buckets(vae, unet, pictures)
        self.objective = DenoisingObjective(
            TextConditionedUNet(unet, text_encoder),
            vae,
            tokenizer,
            NoiseSchedule(recipe.schedule),
            pictures,
            load_latents(vae, pictures),
            recipe.objective,
            recipe.seed,
            masks=latent_masks(vae, pictures),
        )
        self.objective.prepare_texts()

    def export(self, folder: Path) -> None:
        objective, networks = self.objective, self.objective.networks
        LatentDiffusion(
            objective.vae,
            networks.text_encoder,
            objective.tokenizer,
            networks.unet,
            objective.schedule,
            self.recipe.defaults,
        ).save(folder)


class ClassifierTask:
    """Exports `classifier/`."""

    def __init__(self, recipe: ClassifierRecipe, pictures: PictureSet) -> None:
        self.identity: Mapping[str, str] = {}
        classifier = build_classifier(recipe.model, pictures, recipe.objective)
        self.objective = ClassifierObjective(classifier, pictures, recipe.objective, recipe.seed)

    def export(self, folder: Path) -> None:
        classifier = self.objective.module
        names = {"_class_name": "AttributeClassifier"}
        save_component(folder / "classifier", classifier, classifier.config, names, torch.float32)
