"""The task that trains classifiers: judges of pictures, and rankers, which look at latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.model_folder import find_model, load_autoencoder
from toile.models.classifier import PICTURE_CHANNELS
from toile.training.classifier_objective import ClassifierObjective, build_classifier
from toile.training.latents import autoencoder_folder, load_latents
from toile.training.made_latents import load_made_latents
from toile.training.pictures import PictureSet
from toile.training.recipes import ClassifierRecipe
from toile.weights.files import file_sha256
from toile.weights.folder import find_weights, save_component


class ClassifierTask:
    """Exports `classifier/`."""

    def __init__(self, recipe: ClassifierRecipe, pictures: PictureSet) -> None:
        self.identity: Mapping[str, str] = {}
        classifier = build_classifier(recipe.model, pictures, recipe.objective)
        vae = None if recipe.vae is None else load_autoencoder(autoencoder_folder(recipe.vae))
        seen = PICTURE_CHANNELS if vae is None else vae.config.latent_channels
        if recipe.model.in_channels != seen:
            raise ToileError(f"model.in_channels {recipe.model.in_channels}: what it looks at has {seen} channels")
        latents: Tensor | None = None
        if recipe.vae is not None and vae is not None:
            self.identity = {"vae_weights": file_sha256(find_weights(autoencoder_folder(recipe.vae)))}
            found = load_latents(vae.eval().requires_grad_(False), pictures)
            assert isinstance(found, Tensor)  # there are no buckets for this task
            latents = found
        made, wanted = None, recipe.objective.made
        if wanted.num:
            if recipe.vae is None:
                raise ToileError("objective.made: what is made are latents: name the model as vae")
            model = LatentDiffusion.load(find_model(recipe.vae), device="cpu")
            made = load_made_latents(model, pictures, classifier.config.labels, wanted)
        self.objective = ClassifierObjective(
            classifier, pictures, recipe.objective, recipe.seed, latents=latents, made=made
        )

    def export(self, folder: Path) -> None:
        classifier = self.objective.module
        names = {"_class_name": "AttributeClassifier"}
        save_component(folder / "classifier", classifier, classifier.config, names, torch.float32)
