"""From a recipe to a trained component on disk: what each task trains, and what it leaves in the run's `model/`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from toile import __version__
from toile.device import CPU
from toile.diffusion.schedule import NoiseSchedule
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import find_model, vae_constants
from toile.models.autoencoders import Autoencoder
from toile.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel
from toile.models.pixel_space import PixelSpace, PixelSpaceConfig
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.schema import build_config
from toile.text.tokenizer import Tokenizer
from toile.training.classifier_task import ClassifierTask
from toile.training.clip_objective import CLIPObjective, train_tokenizer
from toile.training.denoising_objective import DenoisingObjective, TextConditionedUNet
from toile.training.distillation_task import DistillationTask
from toile.training.fine_tuning import FineTuneTask, LoRATask
from toile.training.latents import autoencoder_folder, check_buckets, encode_pictures, latent_masks, load_latents
from toile.training.loop import AUTO, LoopConfig, check_start, train
from toile.training.objective import Objective
from toile.training.one_shot_task import build_cvae_task, build_gan_task, build_text_autoencoder_task
from toile.training.pictures import PictureSet, data_record
from toile.training.plan import plan_run
from toile.training.processes import join_processes
from toile.training.recipes import (
    ClassifierRecipe,
    CLIPRecipe,
    ConsistencyRecipe,
    CVAERecipe,
    DenoisingRecipe,
    FineTuneRecipe,
    GANRecipe,
    GuidanceDistillationRecipe,
    LoRARecipe,
    Recipe,
    TextAutoencoderRecipe,
    TextualInversionRecipe,
    UpscalingRecipe,
    VAERecipe,
    compiles,
    recipe_facts,
)
from toile.training.records import Record
from toile.training.run_folder import MODEL_FOLDER, RunFolder, read_log
from toile.training.sharding import hold_weights
from toile.training.textual_inversion import TextualInversionTask
from toile.training.upscaling_task import UpscalingTask, upscaler_folder
from toile.training.vae_objective import VAEObjective, narrow_posterior
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights, load_component, load_weights, save_component
from toile.weights.provenance import Provenance, ancestry_of

STAGES_FOLDER = "stages"
PIXELS = "pixels"
_MEASURED_PICTURES = 2048


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
    device: torch.device = CPU,
) -> Generator[Record, None, None]:
    """Trains what the recipe says; log, curves, samples and state go to `directory`, the weights to its `model/`.

    The exported weights are the average (or the live weights) with the lowest held-out loss. A run that is stopped by
    time exports too, so that what there is can be used. Processes that torchrun started train together, on CPUs.

    Args, errors: see `toile.training.loop.train`; and the device to train on, which is no part of a run's identity.
    """
    processes = join_processes()
    if processes.count > 1 and device != CPU:
        raise ToileError(f"device {device}: several processes train on CPUs; give --device cpu, or start one process")
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
        task = build_task(recipe, pictures, device)
    identity = {**facts, "pictures": pictures.identity, **task.identity}
    networks = ancestry_of(weights_read(recipe))
    done = 0

    def export(folder: Path, steps: int) -> None:
        # First, so that there are never weights of which nothing is known.
        Provenance(__version__, facts, pictures.identity, pictures.pixels_identity, steps, networks).write(folder)
        task.export(folder)

    yield data_record(pictures)
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
        export=lambda: export(directory / MODEL_FOLDER, done),
        export_stage=lambda step: export(directory / STAGES_FOLDER / f"step-{step:07d}", step),
        weights=weights,
        should_stop=should_stop,
    )
    with closing(records):
        for record in records:
            done = record.step
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


def weights_read(recipe: Recipe) -> dict[str, Path]:
    """What weights a recipe begins with or uses: role -> file, folder of a component, or folder of a model."""
    if isinstance(recipe, VAERecipe):
        return {} if recipe.start is None else {"start": recipe.start}
    if isinstance(recipe, DenoisingRecipe):
        read = {"clip": words_folders(recipe.clip)[0]}
        if str(recipe.vae) != PIXELS:
            read["vae"] = autoencoder_folder(recipe.vae)
        return read if recipe.start is None else {**read, "start": find_model(recipe.start)}
    if isinstance(recipe, UpscalingRecipe):
        read = {"vae": find_model(recipe.base) / "vae", "words": find_model(recipe.base) / "text_encoder"}
        return read if recipe.start is None else {**read, "start": upscaler_folder(recipe.start)}
    if isinstance(recipe, LoRARecipe | FineTuneRecipe | TextualInversionRecipe):
        return {"base": Path(recipe.base) if Path(recipe.base).is_file() else find_model(recipe.base)}
    if isinstance(recipe, GuidanceDistillationRecipe | ConsistencyRecipe):
        return {"teacher": Path(recipe.teacher) if Path(recipe.teacher).is_file() else find_model(recipe.teacher)}
    if isinstance(recipe, ClassifierRecipe):
        read = {} if recipe.vae is None else {"vae": autoencoder_folder(recipe.vae)}
        if recipe.objective.made.num and recipe.vae is not None:
            read["model"] = find_model(recipe.vae)
        return read | {f"teacher {number}": path for number, path in enumerate(recipe.objective.made.teachers, 1)}
    if isinstance(recipe, CLIPRecipe):
        return {}
    return {"words": find_model(recipe.words) / "text_encoder"}


def build_task(recipe: Recipe, pictures: PictureSet, device: torch.device = CPU) -> Task:
    """Networks on a device, initialised from the recipe's seed (alike on all), and the objective over them."""
    torch.manual_seed(recipe.seed)
    if isinstance(recipe, VAERecipe):
        return VAETask(recipe, pictures, device)
    if isinstance(recipe, CLIPRecipe):
        return CLIPTask(recipe, pictures, device)
    if isinstance(recipe, DenoisingRecipe):
        return DenoisingTask(recipe, pictures, device)
    if isinstance(recipe, LoRARecipe):
        return LoRATask(recipe, pictures, device)
    if isinstance(recipe, FineTuneRecipe):
        return FineTuneTask(recipe, pictures, device)
    if isinstance(recipe, GuidanceDistillationRecipe | ConsistencyRecipe):
        return DistillationTask(recipe, pictures, device)
    if isinstance(recipe, TextualInversionRecipe):
        return TextualInversionTask(recipe, pictures, device)
    if isinstance(recipe, CVAERecipe):
        return build_cvae_task(recipe, pictures, device)
    if isinstance(recipe, TextAutoencoderRecipe):
        return build_text_autoencoder_task(recipe, pictures, device)
    if isinstance(recipe, GANRecipe):
        return build_gan_task(recipe, pictures, device)
    if isinstance(recipe, UpscalingRecipe):
        return UpscalingTask(recipe, pictures, device)
    return ClassifierTask(recipe, pictures, device)


class VAETask:
    """Exports `vae/`, with the scaling factor that gives training latents unit variance."""

    def __init__(self, recipe: VAERecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        self.identity: Mapping[str, str] = {}
        vae = VAE(recipe.model)
        if recipe.start is not None:
            load_weights(vae, load_component(recipe.start, VAE, VAEConfig).state_dict(), str(recipe.start))
        else:
            narrow_posterior(vae)
        self.pictures = pictures
        self.objective = VAEObjective(vae.to(device), pictures, recipe.objective, recipe.seed)

    def export(self, folder: Path) -> None:
        vae = self.objective.module
        some = self.pictures.train[:_MEASURED_PICTURES]
        latents = encode_pictures(vae, self.pictures, some).float() / vae.config.scaling_factor
        config = replace(vae.config, scaling_factor=round(1.0 / float(latents.std()), 5))
        save_component(folder / "vae", vae, config, vae_constants(config), torch.float32)


class CLIPTask:
    """Exports `clip/` (both towers) and `tokenizer/`."""

    def __init__(self, recipe: CLIPRecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
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
        clip = CLIPModel(replace(recipe.model, text_config=text)).to(device)
        self.objective = CLIPObjective(clip, tokenizer, pictures, recipe.seed)

    def export(self, folder: Path) -> None:
        clip = self.objective.module
        save_component(folder / "clip", clip, clip.config, {"model_type": "clip"}, torch.float32, "model.safetensors")
        self.objective.tokenizer.save(folder / "tokenizer")


class DenoisingTask:
    """Exports a whole model folder."""

    def __init__(self, recipe: DenoisingRecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        self.recipe = recipe
        identity: dict[str, str] = {}
        if str(recipe.vae) == PIXELS:
            vae: Autoencoder = build_pixel_space(recipe.model, pictures)
        else:
            vae_folder = autoencoder_folder(recipe.vae)
            vae = load_component(vae_folder, VAE, VAEConfig)
            identity["vae_weights"] = file_sha256(find_weights(vae_folder))
        vae.eval().requires_grad_(False).to(device)
        texts, words = words_folders(recipe.clip)
        text_encoder, tokenizer = load_text_encoder(texts), Tokenizer.load(words)
        identity["vocabulary"] = file_sha256(words / "vocab.json")
        self.identity: Mapping[str, str] = identity
        if recipe.start is None:
            unet = UNet(recipe.model)
        else:
            start = find_model(recipe.start)
            text_encoder = load_component(start / "text_encoder", CLIPTextModel, CLIPTextConfig)
            # The weights are those of the start, the architecture is what the recipe says: both are written down.
            unet = UNet(recipe.model)
            load_weights(unet, load_component(start / "unet", UNet, UNetConfig).state_dict(), str(start / "unet"))
        check_buckets(vae, unet, pictures)
        self.objective = DenoisingObjective(
            TextConditionedUNet(unet, text_encoder).to(device),
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


def build_pixel_space(unet: UNetConfig, pictures: PictureSet) -> PixelSpace:
    """Pixels as a U-Net of this size takes them, on the scale that training pictures have."""
    if unet.in_channels != unet.out_channels:
        raise ToileError(f"model.in_channels {unet.in_channels} and out_channels {unet.out_channels} must be equal")
    pixels = PixelSpace(PixelSpaceConfig(unet.in_channels))
    pixels.measure(pictures.images(pictures.train[:_MEASURED_PICTURES]))
    return pixels


def words_folders(source: Path) -> tuple[Path, Path]:
    """Where a start of a text encoder and a vocabulary lie: of a run that trained a CLIP pair, or of a model.

    Returns:
        the folder of the pair, or of the text encoder; the folder of the tokenizer.

    Raises:
        ToileError: it is neither.
    """
    run = source / MODEL_FOLDER
    if (run / "clip").is_dir():
        return run / "clip", run / "tokenizer"
    model = find_model(source)
    return model / "text_encoder", model / "tokenizer"


def load_text_encoder(folder: Path) -> CLIPTextModel:
    """A text encoder with the weights in the folder of one, or of a CLIP pair."""
    if folder.name == "text_encoder":
        return load_component(folder, CLIPTextModel, CLIPTextConfig)
    clip = load_component(folder, CLIPModel, CLIPConfig)
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.text_model.load_state_dict(clip.text_model.state_dict())
    return text_encoder
