"""Tasks that make a model of few calls of one that is there: guidance distillation and consistency distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from toile.device import CPU, dtype_name
from toile.errors import ToileError
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.models.unet import UNet
from toile.nn.layers import pack_for_gradients
from toile.training.denoising_objective import DenoisingObjective, DenoisingObjectiveConfig, TextConditionedUNet
from toile.training.distillation_objective import (
    ConsistencyConfig,
    ConsistencyDistillation,
    DistillationConfig,
    GuidanceDistillation,
    GuidanceDistillationConfig,
    Teacher,
)
from toile.training.latents import load_latents
from toile.training.pictures import PictureSet
from toile.training.placing import device_of, frozen_dtype
from toile.training.recipes import ConsistencyRecipe, GuidanceDistillationRecipe

_GUIDANCE_DIM = 256
_NUM_HELD_OUT = 64  # of which the teacher goes each path to its end


class DistillationTask:
    """Exports a whole model folder, whose U-Net guides itself and whose settings are those of few steps.

    The student begins with the teacher's weights; what it is told of the scale counts nothing at first.

    Raises:
        ToileError: pictures of several shapes, or with masks.
    """

    def __init__(
        self,
        recipe: GuidanceDistillationRecipe | ConsistencyRecipe,
        pictures: PictureSet,
        device: torch.device = CPU,
    ) -> None:
        if pictures.places is not None or pictures.masks is not None:
            raise ToileError(f"data.buckets, data.masks: task {recipe.task!r} takes pictures of one shape, whole")
        self.model = LatentDiffusion.load(recipe.teacher, str(device), "float32")
        assert self.model.facts is not None
        self.identity: Mapping[str, str] = {"teacher": self.model.facts.hash}
        dtype = frozen_dtype(recipe.loop.precision, device)
        teacher = LatentDiffusion.load(recipe.teacher, str(device), dtype_name(dtype))
        self.student = self_guided(self.model.unet)
        pack_for_gradients(self.student)
        config = recipe.objective
        examples = DenoisingObjective(
            TextConditionedUNet(self.student, self.model.text_encoder),
            self.model.vae,
            self.model.tokenizer,
            self.model.schedule,
            pictures,
            load_latents(self.model.vae, pictures),
            _of_examples(config),
            recipe.seed,
            num_validation=_NUM_HELD_OUT,
            trained=self.student,
        )
        examples.prepare_texts()
        guide = Teacher(teacher.unet, examples.networks.states(self.model.tokenizer.batch([""])[0]))
        self.objective: GuidanceDistillation
        if isinstance(config, ConsistencyConfig):
            self.objective = ConsistencyDistillation(examples, guide, config)
        else:
            self.objective = GuidanceDistillation(examples, guide, config)

    def export(self, folder: Path) -> None:
        defaults = few_step_settings(self.model.defaults, self.objective.config)
        replace(self.model, unet=self.student, defaults=defaults, qualities={}).save(folder)


def self_guided(unet: UNet) -> UNet:
    """A U-Net that is told the guidance scale and works as the given one, whatever it is told; it is free to learn."""
    width = unet.config.time_cond_proj_dim or _GUIDANCE_DIM
    student = UNet(replace(unet.config, time_cond_proj_dim=width))  # whose layer for the scale is zero
    student.load_state_dict({**student.state_dict(), **unet.state_dict()})
    return student.to(device_of(unet), memory_format=torch.channels_last)  # type: ignore[call-overload]


def few_step_settings(defaults: GenerationSettings, config: DistillationConfig) -> GenerationSettings:
    """A teacher's settings with those that a student wants instead."""
    return replace(
        defaults,
        steps=config.sample_steps,
        guidance=config.sample_guidance,
        guidance_interval=None,
        guidance_rescale=0.0,
        sampler=config.sampler,
        spacing="trailing",
        eta=None,
        negative="",
        noise_candidates=1,
        classifier_guidance=0.0,
        deepcache=1,
        tgate=1.0,
    )


def _of_examples(config: GuidanceDistillationConfig | ConsistencyConfig) -> DenoisingObjectiveConfig:
    """How pictures, captions and timesteps are drawn; the latter do not count on whole paths."""
    uniform = config.uniform_share if isinstance(config, GuidanceDistillationConfig) else 1.0
    return DenoisingObjectiveConfig(
        uncond_share=config.uncond_share,
        uniform_share=uniform,
        train_text_encoder=False,
        sample_prompts=config.sample_prompts,
    )
