"""What the sampler of a batch calls: the network, and all that leads it.

Shapes: B rows of a batch, C x h x w latents, H x W pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.diffusion.denoiser import Denoiser, DenoiserLike, Network
from toile.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance, ScaledNetwork
from toile.diffusion.inpainting import InpaintingNetwork, KnownRegion
from toile.diffusion.samplers.steps import Denoise
from toile.errors import ToileError
from toile.generation.approximations import DeepCache, TemporalGate
from toile.generation.attention_control import EditedAttention
from toile.generation.noise_search import unweighted
from toile.generation.prompt_forms import form_of
from toile.generation.prompt_to_prompt import EditShares, PromptToPrompt, align
from toile.generation.request import ImageRequest
from toile.generation.source import EncodedSource
from toile.generation.text_states import TextStates
from toile.generation.word_maps import WordMaps
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.ranker import Ranker
from toile.text.encoded_prompts import PromptForm
from toile.text.rows import tokenize_prompt

# Where a ranker leads: above, estimates are blurs, below, nothing but texture can still change (docs/runs.md).
_RANKER_LEVELS = (0.2, 1.5)
_RANKER_NOISE = 0.45


@dataclass(frozen=True, eq=False)
class Guides:
    """All that leads the sampler of a batch.

    Attributes:
        model: whose network it is.
        images: of the batch.
        rows: what passes the network; the images, or each of them behind the original that it is an edit of.
        settings: with names resolved.
        source: what the pictures begin with.
        ranker: that leads to pictures which show what prompts say, if the settings ask for it.
        texts: of the batch.
    """

    model: LatentDiffusion
    images: Sequence[ImageRequest]
    rows: Sequence[ImageRequest]
    settings: GenerationSettings
    source: EncodedSource | None
    ranker: Ranker | None
    texts: TextStates

    def denoise(self, sigmas: Tensor, maps: WordMaps | None) -> Denoise:
        """The estimate of clean latents, for a sampler that passes these noise levels.

        Args:
            sigmas: (N + 1,).
            maps: that collect attention.
        """
        model, settings, source = self.model, self.settings, self.source
        form = form_of(self.images, model, settings)
        cond = self._encoded(form)
        network = self._network()
        if source is not None and source.kept is not None and source.grey_mask is not None:
            network = InpaintingNetwork(network, source.grey_mask, source.kept)
        plain = Denoiser(network, model.schedule, model.dtype)
        denoiser: DenoiserLike = plain
        if settings.guidance != 1 and not model.unet.config.guides_itself:
            uncond = self._states([settings.negative], form)
            denoiser = ClassifierFreeGuidance(
                denoiser, uncond, settings.guidance, settings.guidance_interval, settings.guidance_rescale
            )
        if settings.tgate < 1:
            denoiser = TemporalGate(denoiser, plain, model.unet, sigmas, settings.tgate)
        answer = self._answer()
        if answer is not None:
            denoiser = ClassifierGuidance(denoiser, answer, settings.classifier_guidance, _RANKER_LEVELS)
        if source is not None and source.latent_mask is not None:
            denoiser = KnownRegion(denoiser, source.latents, source.latent_mask)
        if len(self.rows) > len(self.images):
            denoiser = self._editing(denoiser, form, sigmas)
        if maps is not None:
            denoiser = EditedAttention(denoiser, model.unet, maps)
        return lambda x, sigma: denoiser(x, sigma, cond)

    def _answer(self) -> Callable[[Tensor], Tensor] | None:
        """Clean latents (B, C, h, w) -> (B,), how surely each row shows what it is asked to, as a logarithm; None if
        no row is asked for anything that the ranker knows, or none is to be led.
        """
        ranker, model, settings = self.ranker, self.model, self.settings
        if ranker is None or settings.classifier_guidance == 0:
            return None
        own = [ranker.wanted(insisted_on(row.prompt)) for row in self.rows]
        other = [ranker.wanted(insisted_on(row.toward.prompt)) if row.toward else {} for row in self.rows]
        if not any(own) and not any(other):
            return None
        _, height, width = model.latent_shape(model.defaults.width, model.defaults.height)
        positions = height * width  # of the pictures that the model and its ranker have learnt
        shares = [row.toward.share if row.toward else 0.0 for row in self.rows]

        def answer(latents: Tensor) -> Tensor:
            found = ranker.log_probabilities(_shrunk(latents, positions), _RANKER_NOISE)
            its_own, of_other = ranker.answers(found, own), ranker.answers(found, other)
            return its_own.lerp(of_other, torch.tensor(shares, device=its_own.device))

        return answer

    def _network(self) -> Network:
        model, settings = self.model, self.settings
        if model.unet.config.guides_itself:
            check_self_guided(settings)
            return ScaledNetwork(model.unet, settings.guidance)
        return model.unet if settings.deepcache == 1 else DeepCache(model.unet, settings.deepcache)

    def _encoded(self, form: PromptForm) -> Tensor:
        """Text states of all rows."""
        pairs = [(row.prompt, row.prompt if row.toward is None else row.toward.prompt) for row in self.rows]
        states = self._states([prompt for pair in pairs for prompt in pair], form)
        own, other = (column.contiguous() for column in (states[::2], states[1::2]))
        if not any(row.toward for row in self.rows):
            return own
        shares = states.new_tensor([row.toward.share if row.toward else 0.0 for row in self.rows])
        return own.lerp(other, shares.view(-1, *[1] * (states.ndim - 1)))

    def _states(self, prompts: Sequence[str], form: PromptForm) -> Tensor:
        return self.texts.of(self.model, prompts, self.settings.word_weights, form, self.images[0].loras)

    def _editing(self, denoiser: DenoiserLike, form: PromptForm, sigmas: Tensor) -> PromptToPrompt:
        tokens = [tokenize_prompt(self.model.tokenizer, row.prompt) for row in self.rows]
        pairs = zip(tokens[::2], tokens[1::2], strict=True)
        alignments = [align(original, edited, form.num_rows) for original, edited in pairs]
        shares = EditShares(self.settings.edit_cross, self.settings.edit_self)
        return PromptToPrompt(denoiser, self.model.unet, alignments, sigmas, shares)


def check_self_guided(settings: GenerationSettings) -> None:
    """Refuses what needs guidance from outside, for a model that guides itself.

    Raises:
        ToileError: a setting that would have no effect, or another one than it has elsewhere.
    """
    plain = GenerationSettings(settings.width, settings.height)
    for name in ("negative", "guidance_interval", "guidance_rescale", "tgate", "deepcache"):
        if getattr(settings, name) != getattr(plain, name):
            raise ToileError(
                f"{name} is {getattr(settings, name)!r}: this model was distilled and guides itself, in few steps and "
                "as it learnt to; leave it out, or use the model it was distilled from"
            )


def _shrunk(latents: Tensor, positions: int) -> Tensor:
    """Latents (B, C, h, w) brought to about so many positions, if they have more."""
    height, width = latents.shape[-2:]
    scale = math.sqrt(positions / (height * width))
    if scale >= 1:
        return latents
    return F.interpolate(latents, (max(1, round(height * scale)), max(1, round(width * scale))), mode="area")


def insisted_on(prompt: str) -> str:
    """A prompt without the words that it weighs less than others."""
    return unweighted(prompt, least=1.0)
