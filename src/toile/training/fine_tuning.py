"""Tasks that begin with a model that is there: changes of low rank to it, or all of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from toile.device import CPU, dtype_name
from toile.latent_diffusion import LatentDiffusion
from toile.lora import base_version
from toile.nn.layers import pack_for_gradients
from toile.nn.lora import LearningChanges
from toile.training.denoising_objective import DenoisingObjective, DenoisingObjectiveConfig, TextConditionedUNet
from toile.training.draws import generator
from toile.training.latents import check_buckets, latent_masks, load_latents
from toile.training.lora_targets import target_layers
from toile.training.pictures import PictureSet
from toile.training.placing import frozen_dtype
from toile.training.prior_preservation import PriorConfig, PriorPreservation, prior_latents
from toile.training.recipes import FineTuneRecipe, LoRARecipe
from toile.weights.lora_file import write_lora


class LoRATask:
    """Exports `lora.safetensors`, in the dialect that most programs read."""

    def __init__(self, recipe: LoRARecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        self.recipe, self.num_pictures = recipe, len(pictures.train)
        dtype = frozen_dtype(recipe.loop.precision, device)
        model = LatentDiffusion.load(recipe.base, str(device), dtype_name(dtype))
        assert model.facts is not None
        self.identity: Mapping[str, str] = {"base": model.facts.hash}
        self.base_version = base_version(model)
        for network in (model.unet, model.text_encoder):
            pack_for_gradients(network)
        draws = generator(recipe.seed, "lora")
        layers = target_layers(model, recipe.lora)
        config = recipe.lora
        self.changes = LearningChanges(layers, config.rank, config.scaled_alpha, draws, magnitude=config.dora)
        objective = objective_of(model, pictures, recipe.objective, recipe.seed, trained=self.changes)
        self.objective = with_prior(objective, recipe.prior, self.identity["base"])

    def export(self, folder: Path) -> None:
        loop, config = self.recipe.loop, self.recipe.lora
        header = {
            "ss_output_name": "lora",
            "ss_base_model_version": self.base_version,
            "ss_seed": str(self.recipe.seed),
            "ss_max_train_steps": str(loop.steps),
            "ss_learning_rate": str(loop.learning_rate),
            "ss_unet_lr": str(loop.learning_rate),
            "ss_num_train_images": str(self.num_pictures),
            "ss_total_batch_size": str(loop.batch_size),
            "ss_resolution": str((self.recipe.data.width, self.recipe.data.height)),
            "ss_mixed_precision": "bf16" if loop.precision == "bf16" else "no",
            "toile_base": self.identity["base"],
            "toile_targets": ",".join(config.targets),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_lora(folder / "lora.safetensors", self.changes.found(), "kohya", header)


class FineTuneTask:
    """Exports a whole model folder."""

    def __init__(self, recipe: FineTuneRecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        self.model = LatentDiffusion.load(recipe.base, str(device), "float32")
        assert self.model.facts is not None
        self.identity: Mapping[str, str] = {"base": self.model.facts.hash}
        self.model.unet.requires_grad_(True)
        self.model.text_encoder.requires_grad_(recipe.objective.train_text_encoder)
        for network in (self.model.unet, self.model.text_encoder):
            pack_for_gradients(network)
        objective = objective_of(self.model, pictures, recipe.objective, recipe.seed)
        self.objective = with_prior(objective, recipe.prior, self.identity["base"])

    def export(self, folder: Path) -> None:
        self.model.save(folder)


def objective_of(
    model: LatentDiffusion,
    pictures: PictureSet,
    config: DenoisingObjectiveConfig,
    seed: int,
    *,
    trained: nn.Module | None = None,
) -> DenoisingObjective:
    """The objective over a model's networks; `trained` as it takes it."""
    check_buckets(model.vae, model.unet, pictures)
    objective = DenoisingObjective(
        TextConditionedUNet(model.unet, model.text_encoder),
        model.vae,
        model.tokenizer,
        model.schedule,
        pictures,
        load_latents(model.vae, pictures),
        config,
        seed,
        trained=trained,
        masks=latent_masks(model.vae, pictures),
    )
    objective.prepare_texts()
    return objective


def with_prior(
    objective: DenoisingObjective, prior: PriorConfig | None, base: str
) -> DenoisingObjective | PriorPreservation:
    """The same with examples of a class to keep, if there is one; `base` is the model's hash."""
    return objective if prior is None else PriorPreservation(objective, prior_latents(objective, prior, base), prior)
