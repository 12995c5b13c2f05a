"""Pictures that pass the networks together: how start, wrappers of the denoiser and sampler are put together.

Shapes: B rows of a batch, C x h x w latents, H x W pictures, L tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.data.images import pixels_from_images
from toile.diffusion.denoiser import Denoiser, DenoiserLike, Network
from toile.diffusion.guidance import ClassifierFreeGuidance, ScaledNetwork
from toile.diffusion.inpainting import InpaintingNetwork, KnownRegion
from toile.diffusion.noise import ImageNoise, noise_between
from toile.diffusion.samplers import SamplerStep, ddim, dpmpp_2m_sde, euler_ancestral, find_sampler
from toile.diffusion.samplers.steps import Denoise, NoiseSource
from toile.diffusion.schedule import start_latents
from toile.errors import ToileError
from toile.generation.approximations import DeepCache, TemporalGate
from toile.generation.attention_control import EditedAttention
from toile.generation.noise_search import best_candidate, candidate_draw
from toile.generation.prompt_to_prompt import EditShares, PromptToPrompt, align
from toile.generation.request import ImageRequest
from toile.generation.source import EncodedSource, SourceImage, encode_source, steps_of_strength
from toile.generation.word_maps import WordMaps
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion, PromptForm
from toile.lora import LoRA, ModelAdaptation
from toile.models.safety_checker import SafetyScores
from toile.text.rows import tokenize_prompt

_SAMPLERS_WITH_ETA = {"ddim": ddim, "euler_ancestral": euler_ancestral, "dpmpp_2m_sde": dpmpp_2m_sde}
_BLACK = -1 + 1 / 255  # decoded values below it round to 0
_SECOND_PASS = 2**16  # number of its first draw of noise, beyond all steps of the first pass
_UPSCALER = 2**17  # the same of the upscaler


@dataclass(frozen=True)
class GenerateStep:
    """A sampler step is done for one batch.

    Attributes:
        first_image: number of the batch's first picture, from 0.
        num_images: pictures of the whole request.
        step: steps done, 1 to num_steps.
        num_steps: steps of a batch, in all its passes.
        denoised: (B, C, h, w) estimate of the clean latents; `model.decode_latents(denoised)` is a preview.
    """

    first_image: int
    num_images: int
    step: int
    num_steps: int
    denoised: Tensor

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        return (self.first_image + len(self.denoised) * self.step / self.num_steps) / self.num_images


@dataclass(frozen=True, eq=False)
class Made:
    """What a batch became.

    Attributes:
        pixels: (B, H, W, 3) uint8.
        maps: (B, L, h, w) float32, how much each position looked at each token, if that was asked for.
        safety: what the model's safety checker says of each picture, if it was asked.
    """

    pixels: Tensor
    maps: Tensor | None
    safety: tuple[SafetyScores, ...] | None


@dataclass(frozen=True, eq=False)
class _Pass:
    """Where a pass of the sampler begins.

    Attributes:
        x: (rows, C, h, w) noisy latents at the first of the sigmas.
        sigmas: (N + 1,).
        noise: of the sampler's steps.
        source: what the picture began with.
    """

    x: Tensor
    sigmas: Tensor
    noise: NoiseSource
    source: EncodedSource | None = None


@dataclass(frozen=True)
class Batch:
    """Pictures that pass the networks together.

    Attributes:
        first: number of the first picture in the request, from 0.
        num_images: pictures of the whole request.
        images: of this batch; either all are edits of another prompt's picture or none is.
        settings: with names resolved.
        source: what they begin with.
        with_maps: whether attention to words is collected.
        loras: those that the images use, by their sources; all images use the same.
    """

    first: int
    num_images: int
    images: tuple[ImageRequest, ...]
    settings: GenerationSettings
    source: SourceImage | None
    with_maps: bool = False
    loras: Mapping[str, LoRA] = field(default_factory=dict)

    @property
    def is_edit(self) -> bool:
        """Whether each picture is made beside the one it is an edit of."""
        return self.images[0].original is not None

    @property
    def rows(self) -> tuple[ImageRequest, ...]:
        """What passes the networks: the images, each behind the original it is an edit of."""
        if not self.is_edit:
            return self.images
        pairs = [(replace(image, prompt=image.original or "", original=None), image) for image in self.images]
        return tuple(row for pair in pairs for row in pair)

    def sample(self, model: LatentDiffusion) -> Generator[GenerateStep, None, Made | None]:
        """Yields steps; returns what was made, or None if a picture is not worth keeping: not finite, or black."""
        maps = self._word_maps(model)
        adaptation = ModelAdaptation(model, [(self.loras[use.source], use.strength) for use in self.images[0].loras])
        with adaptation.applied():
            start = self._first_pass(model)
        second_steps = 0 if self.settings.hires_scale is None else self._second_sigmas(model).numel() - 1
        total = start.sigmas.numel() - 1 + second_steps
        x = yield from self._run(model, start, adaptation, maps, 0, total)
        if self.settings.hires_scale is not None and bool(x.isfinite().all()):
            second = self._second_pass(model, x)
            x = yield from self._run(model, second, adaptation, None, total - second_steps, total)
        x = self._of_images(x)
        decoded = model.decode_latents(x, self._in_bands)
        if not bool(x.isfinite().all() and decoded.isfinite().all()):
            return None
        if bool((decoded.flatten(1).amax(1) < _BLACK).any()):
            return None
        if self.settings.upscale:
            decoded = self._enlarged(model, decoded)
        images = decoded if start.source is None else start.source.pasted(decoded)
        safety = self._checked(model, images)
        if safety is not None and self.settings.safety == "blur":
            images = torch.stack([blurred(i) if s.flagged else i for i, s in zip(images, safety, strict=True)])
        return Made(pixels_from_images(images).cpu(), self._shown_maps(model, maps), safety)

    def _shown_maps(self, model: LatentDiffusion, maps: WordMaps | None) -> Tensor | None:
        """The maps, over what finished pictures show."""
        if maps is None:
            return None
        found = maps.maps().cpu()
        if not self.settings.upscale:
            return found
        assert model.upscaler is not None
        return model.upscaler.cut_maps(found)

    def _enlarged(self, model: LatentDiffusion, decoded: Tensor) -> Tensor:
        """What the model's upscaler makes of the pictures; it has learnt words without LoRAs."""
        assert model.upscaler is not None
        prompts = [image.prompt for image in self.images]
        form = form_of(self.images, model, self.settings)
        states = model.encode_prompts(prompts, self.settings.word_weights, form).states
        noise = ImageNoise([image.seed for image in self.images], model.upscaler.noise_shape)
        return model.upscaler.enlarge_made(decoded, states, lambda index: noise.draw(_UPSCALER + index))

    @property
    def _in_bands(self) -> bool:
        return self.settings.vae_bands is True

    def _checked(self, model: LatentDiffusion, images: Tensor) -> tuple[SafetyScores, ...] | None:
        if self.settings.safety == "off" or model.safety_checker is None:
            return None
        return tuple(model.safety_checker(images))

    def _word_maps(self, model: LatentDiffusion) -> WordMaps | None:
        if not self.with_maps:
            return None
        return WordMaps(len(self.images), model.latent_shape(self.settings.width, self.settings.height)[1:])

    def _of_images(self, rows: Tensor) -> Tensor:
        return rows[1::2] if self.is_edit else rows

    def _run(
        self,
        model: LatentDiffusion,
        start: _Pass,
        adaptation: ModelAdaptation,
        maps: WordMaps | None,
        done: int,
        total: int,
    ) -> Generator[GenerateStep, None, Tensor]:
        x = start.x
        with adaptation.applied():
            plain = self._denoise(model, start, maps)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with adaptation.applied():  # not while the caller has a step in hand
                return plain(x, sigma)

        for step in _run_sampler(self.settings, denoise, x, start.sigmas, start.noise):
            x = step.x
            denoised = self._of_images(step.denoised)
            yield GenerateStep(self.first, self.num_images, done + step.index + 1, total, denoised)
        return x

    # ------------------------------------------------------------------------------------------------ where it begins

    def _first_pass(self, model: LatentDiffusion) -> _Pass:
        settings = self.settings
        noise = self._noise(model.latent_shape(settings.width, settings.height))
        sigmas = model.schedule.sampling_sigmas(settings.steps, settings.spacing)
        source = self._encoded_source(model)
        if source is None or settings.strength == 1:
            start = start_latents(noise(0), sigmas[0]).to(model.device)
            return _Pass(self._searched(model, start, sigmas[0], noise), sigmas, noise, source)
        sigmas = steps_of_strength(sigmas, settings.strength)
        return _Pass(source.latents + noise(0).to(model.device) * float(sigmas[0]), sigmas, noise, source)

    def _encoded_source(self, model: LatentDiffusion) -> EncodedSource | None:
        if self.source is None:
            return None
        return encode_source(model, self.source, self._in_bands, is_enlarged=self.settings.upscale is True)

    def _searched(self, model: LatentDiffusion, start: Tensor, sigma: Tensor, noise: NoiseSource) -> Tensor:
        """For each row the start, among as many as the settings ask for, that answers its prompt best."""
        if self.settings.noise_candidates == 1:
            return start
        others = [
            start_latents(noise(candidate_draw(number)), sigma).to(model.device)
            for number in range(1, self.settings.noise_candidates)
        ]
        candidates = torch.stack([start, *others], dim=1)  # (rows, K, C, h, w)
        form = form_of(self.images, model, self.settings)
        denoiser = Denoiser(model.unet, model.schedule, model.dtype)
        chosen = []
        for row, of_row in zip(self.rows, candidates, strict=True):
            encoded = model.encode_prompts([row.prompt], self.settings.word_weights, form)
            best = best_candidate(denoiser, model.unet, of_row, sigma, encoded.states, encoded.tokens[0])
            chosen.append(of_row[best])
        return torch.stack(chosen)

    def _second_pass(self, model: LatentDiffusion, x: Tensor) -> _Pass:
        """Image-to-image from the enlarged result of the first pass."""
        width, height = self.settings.final_size(model.vae.config.downsampling)
        shape = model.latent_shape(width, height)
        images = model.decode_latents(x, self._in_bands).clamp(-1, 1)
        images = F.interpolate(images, (height, width), mode="bicubic", align_corners=False)
        latents = model.encode_images(images, self._in_bands)
        noise, sigmas = self._noise(shape), self._second_sigmas(model)
        start = latents + noise(_SECOND_PASS).to(model.device) * float(sigmas[0])
        return _Pass(start, sigmas, lambda index: noise(_SECOND_PASS + index))

    def _second_sigmas(self, model: LatentDiffusion) -> Tensor:
        sigmas = model.schedule.sampling_sigmas(self.settings.steps, self.settings.spacing)
        return steps_of_strength(sigmas, self.settings.hires_strength)

    def _noise(self, shape: tuple[int, int, int]) -> NoiseSource:
        rows = self.rows
        own = ImageNoise([row.seed for row in rows], shape)
        if not any(row.toward for row in rows):
            return own.draw
        other = ImageNoise([row.seed if row.toward is None else row.toward.seed for row in rows], shape)

        def between(index: int) -> Tensor:
            pairs = zip(own.draw(index).split(1), other.draw(index).split(1), rows, strict=True)
            return torch.cat([noise_between(a, b, row.toward.share if row.toward else 0.0) for a, b, row in pairs])

        return between

    # ---------------------------------------------------------------------------------------- what guides the sampler

    def _denoise(self, model: LatentDiffusion, start: _Pass, maps: WordMaps | None) -> Denoise:
        settings, source = self.settings, start.source
        form = form_of(self.images, model, settings)
        cond = self._encoded(model, form)
        network = self._network(model)
        if source is not None and source.kept is not None and source.grey_mask is not None:
            network = InpaintingNetwork(network, source.grey_mask, source.kept)
        plain = Denoiser(network, model.schedule, model.dtype)
        denoiser: DenoiserLike = plain
        if settings.guidance != 1 and not model.unet.config.guides_itself:
            uncond = model.encode_prompts([settings.negative], settings.word_weights, form).states
            denoiser = ClassifierFreeGuidance(
                denoiser, uncond, settings.guidance, settings.guidance_interval, settings.guidance_rescale
            )
        if settings.tgate < 1:
            denoiser = TemporalGate(denoiser, plain, model.unet, start.sigmas, settings.tgate)
        if source is not None and source.latent_mask is not None:
            denoiser = KnownRegion(denoiser, source.latents, source.latent_mask)
        if self.is_edit:
            denoiser = self._editing(denoiser, model, form, start.sigmas)
        if maps is not None:
            denoiser = EditedAttention(denoiser, model.unet, maps)
        return lambda x, sigma: denoiser(x, sigma, cond)

    def _network(self, model: LatentDiffusion) -> Network:
        settings = self.settings
        if model.unet.config.guides_itself:
            check_self_guided(settings)
            return ScaledNetwork(model.unet, settings.guidance)
        return model.unet if settings.deepcache == 1 else DeepCache(model.unet, settings.deepcache)

    def _encoded(self, model: LatentDiffusion, form: PromptForm) -> Tensor:
        rows, weights = self.rows, self.settings.word_weights
        states = model.encode_prompts([row.prompt for row in rows], weights, form).states
        if not any(row.toward for row in rows):
            return states
        others = [row.prompt if row.toward is None else row.toward.prompt for row in rows]
        other = model.encode_prompts(others, weights, form).states
        shares = states.new_tensor([row.toward.share if row.toward else 0.0 for row in rows])
        return states.lerp(other, shares.view(-1, *[1] * (states.ndim - 1)))

    def _editing(
        self, denoiser: DenoiserLike, model: LatentDiffusion, form: PromptForm, sigmas: Tensor
    ) -> PromptToPrompt:
        tokens = [tokenize_prompt(model.tokenizer, row.prompt) for row in self.rows]
        pairs = zip(tokens[::2], tokens[1::2], strict=True)
        alignments = [align(original, edited, form.num_rows) for original, edited in pairs]
        shares = EditShares(self.settings.edit_cross, self.settings.edit_self)
        return PromptToPrompt(denoiser, model.unet, alignments, sigmas, shares)


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


def blurred(image: Tensor) -> Tensor:
    """An image (3, H, W) in which only large areas of colour are left: a sixteenth of the size, enlarged again."""
    height, width = image.shape[-2:]
    small = F.interpolate(image[None], (max(1, height // 16), max(1, width // 16)), mode="area")
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0]


def form_of(images: Sequence[ImageRequest], model: LatentDiffusion, settings: GenerationSettings) -> PromptForm:
    """The form that all prompts of these images have together, with the negative one if there is guidance."""
    texts = [text for image in images for text in image.texts]
    return model.prompt_form(texts if settings.guidance == 1 else [*texts, settings.negative], settings.word_weights)


def of_one_form(
    images: Sequence[ImageRequest], model: LatentDiffusion, settings: GenerationSettings
) -> tuple[ImageRequest, ...]:
    """The images up to the first with other LoRAs, or whose prompt has another form: padding it would change it, or
    the others.
    """
    forms: dict[tuple[str, ...], PromptForm] = {}
    for number, image in enumerate(images):
        if image.texts not in forms:
            forms[image.texts] = form_of([image], model, settings)
        if forms[image.texts] != forms[images[0].texts] or image.loras != images[0].loras:
            return tuple(images[:number])
    return tuple(images)


def _run_sampler(
    settings: GenerationSettings, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource
) -> Generator[SamplerStep, None, None]:
    if settings.eta is not None:
        yield from _SAMPLERS_WITH_ETA[settings.sampler](denoise, x, sigmas, noise, eta=settings.eta)
    else:
        yield from find_sampler(settings.sampler).function(denoise, x, sigmas, noise)
