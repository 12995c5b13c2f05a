"""The task that trains classifiers: judges of pictures, and rankers, which look at latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from toile.device import CPU
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import find_model, load_autoencoder
from toile.models.classifier import PICTURE_CHANNELS
from toile.training.classifier_objective import ClassifierObjective, build_classifier
from toile.training.latents import autoencoder_folder, load_latents
from toile.training.made_latents import MadeLatents, load_made_latents
from toile.training.pictures import PictureSet
from toile.training.recipes import ClassifierRecipe
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights, save_component


class ClassifierTask:
    """Exports `classifier/`."""

    def __init__(self, recipe: ClassifierRecipe, pictures: PictureSet, device: torch.device = CPU) -> None:
        identity: dict[str, str] = {}
        classifier = build_classifier(recipe.model, pictures, recipe.objective).to(device)
        seen, wanted = PICTURE_CHANNELS, recipe.objective.made
        latents: Tensor | None = None
        made: MadeLatents | None = None
        if recipe.vae is not None:
            folder = autoencoder_folder(recipe.vae)
            vae = load_autoencoder(folder).eval().requires_grad_(False).to(device)
            seen = vae.config.latent_channels
            identity["vae_weights"] = file_sha256(find_weights(folder))
        if recipe.model.in_channels != seen:
            raise ToileError(f"model.in_channels {recipe.model.in_channels}: what it looks at has {seen} channels")
        if wanted.num:
            if recipe.vae is None:
                raise ToileError("objective.made: what is made are latents: name the model as vae")
            model = LatentDiffusion.load(find_model(recipe.vae), device=str(device))
            made = load_made_latents(model, pictures, classifier.config.labels, wanted)
            identity["made"] = made.identity
        if recipe.vae is not None:
            found = load_latents(vae, pictures)
            assert isinstance(found, Tensor)  # there are no buckets for this task
            latents = found
        self.identity: Mapping[str, str] = identity
        self.objective = ClassifierObjective(
            classifier, pictures, recipe.objective, recipe.seed, latents=latents, made=made
        )

    def export(self, folder: Path) -> None:
        classifier = self.objective.module
        names = {"_class_name": "AttributeClassifier"}
        save_component(folder / "classifier", classifier, classifier.config, names, torch.float32)
