"""Pictures that pass the networks together: how start, wrappers of the denoiser and sampler are put together.

Shapes: B rows of a batch, C x h x w latents, H x W pictures, L tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from toile.data.images import pixels_from_images
from toile.diffusion.denoiser import Denoiser
from toile.diffusion.noise import ImageNoise
from toile.diffusion.samplers import SamplerStep, ddim, dpmpp_2m_sde, euler_ancestral, find_sampler
from toile.diffusion.samplers.steps import Denoise, NoiseSource
from toile.diffusion.schedule import start_latents
from toile.diffusion.upscaling import sharpen
from toile.generation.guides import Guides
from toile.generation.noise_search import best_answered, candidate_draw, first_good, sketch_settings, unweighted
from toile.generation.prompt_forms import form_of
from toile.generation.request import ImageRequest
from toile.generation.source import EncodedSource, SourceImage, encode_source, steps_of_strength
from toile.generation.text_states import TextStates
from toile.generation.word_maps import WordMaps
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.lora import LoRA, ModelAdaptation
from toile.models.safety_checker import SafetyScores, blurred
from toile.ranker import Ranker

_SAMPLERS_WITH_ETA = {"ddim": ddim, "euler_ancestral": euler_ancestral, "dpmpp_2m_sde": dpmpp_2m_sde}
_BLACK = -1 + 1 / 255  # decoded values below it round to 0
_SECOND_PASS = 2**16  # number of its first draw of noise, beyond all steps of the first pass
_UPSCALER = 2**17  # the same of the upscaler
_SHARE_OF_CHOICE = 0.4  # of the time that a batch takes, about, if there are noises to choose from


@dataclass(frozen=True)
class NoiseChosen:
    """Of several noises, the one that a picture of a batch begins with was chosen.

    Attributes:
        first_image: number of the batch's first picture, from 0.
        num_images: pictures of the whole request.
        num_rows: pictures of the batch.
        choice: choices made, 1 to num_choices.
        num_choices: of the batch.
    """

    first_image: int
    num_images: int
    num_rows: int
    choice: int
    num_choices: int

    @property
    def batch_fraction(self) -> float:
        """Share of the batch's work that is done, 0 to 1."""
        return _SHARE_OF_CHOICE * self.choice / self.num_choices

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        return (self.first_image + self.num_rows * self.batch_fraction) / self.num_images


@dataclass(frozen=True)
class GenerateStep:
    """A sampler step is done for one batch.

    Attributes:
        first_image: number of the batch's first picture, from 0.
        num_images: pictures of the whole request.
        step: steps done, 1 to num_steps.
        num_steps: steps of a batch, in all its passes.
        denoised: (B, C, h, w) estimate of the clean latents; `model.decode_latents(denoised)` is a preview.
        chose: whether the batch's noises were chosen before.
    """

    first_image: int
    num_images: int
    step: int
    num_steps: int
    denoised: Tensor
    chose: bool = False

    @property
    def num_rows(self) -> int:
        """Pictures of the batch."""
        return len(self.denoised)

    @property
    def batch_fraction(self) -> float:
        """Share of the batch's work that is done, 0 to 1."""
        before = _SHARE_OF_CHOICE if self.chose else 0.0
        return before + (1 - before) * self.step / self.num_steps

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        return (self.first_image + self.num_rows * self.batch_fraction) / self.num_images


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
        ranker: that chooses among noises, without one attention does; and that leads the sampler.
        chose: whether the noises were chosen just now.
        texts: what its prompts became so far.
    """

    first: int
    num_images: int
    images: tuple[ImageRequest, ...]
    settings: GenerationSettings
    source: SourceImage | None
    with_maps: bool = False
    loras: Mapping[str, LoRA] = field(default_factory=dict)
    ranker: Ranker | None = None
    chose: bool = False
    texts: TextStates = field(default_factory=TextStates)

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

    def with_chosen_noises(self, model: LatentDiffusion) -> Generator[NoiseChosen, None, Batch]:
        """Returns the same pictures, with the noises they begin with chosen, if there are several to choose from."""
        begins_with_noise = self.source is None or self.settings.strength == 1
        if self.settings.noise_candidates == 1 or not begins_with_noise:
            return self
        ends = dict.fromkeys(end for image in self.images if not image.chosen_noises for end in image.ends)
        if not ends:
            return self
        # Where nothing is named that the ranker knows, there is nothing to choose by.
        searched = [end for end in ends if self.ranker is None or self.ranker.wanted(unweighted(end[0]))]
        adaptation, best = self._adaptation(model), dict.fromkeys(ends, 0)
        with adaptation.applied():
            source = self._encoded_source(model)
        for number, end in enumerate(searched, 1):
            with adaptation.applied():  # not while the caller has the event in hand
                best[end] = self._best_noise(model, source, *end)
            yield NoiseChosen(self.first, self.num_images, len(self.images), number, len(searched))
        chosen = [image.chosen_noises or tuple(best[end] for end in image.ends) for image in self.images]
        images = tuple(replace(image, chosen_noises=its) for image, its in zip(self.images, chosen, strict=True))
        return replace(self, images=images, chose=bool(searched))

    def _adaptation(self, model: LatentDiffusion) -> ModelAdaptation:
        return ModelAdaptation(model, [(self.loras[use.source], use.strength) for use in self.images[0].loras])

    def sample(self, model: LatentDiffusion) -> Generator[GenerateStep, None, Made | None]:
        """Yields steps; returns what was made, or None if a picture is not worth keeping: not finite, or black."""
        maps = self._word_maps(model)
        adaptation = self._adaptation(model)
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
        decoded = sharpen(decoded, self.settings.sharpness)
        if self.settings.upscale:
            decoded = self._enlarged(model, decoded)
        images = decoded if start.source is None else start.source.pasted(decoded)
        safety = self._checked(model, images)
        if safety is not None and self.settings.safety == "blur":
            images = torch.stack([blurred(i) if s.flagged else i for i, s in zip(images, safety, strict=True)])
        return Made(pixels_from_images(images).cpu(), self._shown_maps(model, maps), safety)

    def _guides(self, model: LatentDiffusion, start: _Pass) -> Guides:
        return Guides(model, self.images, self.rows, self.settings, start.source, self.ranker, self.texts)

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
        states = self.texts.of(model, prompts, self.settings.word_weights, form, loras=())
        noise = ImageNoise([image.seed for image in self.images], model.upscaler.noise_shape)
        return model.upscaler.enlarge(decoded, states, lambda index: noise.draw(_UPSCALER + index))

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
        return WordMaps(len(self.images), self._shape(model)[1:])

    def _shape(self, model: LatentDiffusion) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the first pass makes."""
        return model.latent_shape(self.settings.width, self.settings.height)

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
            plain = self._guides(model, start).denoise(start.sigmas, maps)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with adaptation.applied():  # not while the caller has a step in hand
                return plain(x, sigma)

        for step in _run_sampler(self.settings, denoise, x, start.sigmas, start.noise):
            x = step.x
            denoised = self._of_images(step.denoised)
            yield GenerateStep(self.first, self.num_images, done + step.index + 1, total, denoised, self.chose)
        return x

    # ------------------------------------------------------------------------------------------------ where it begins

    def _first_pass(self, model: LatentDiffusion) -> _Pass:
        settings = self.settings
        shape = self._shape(model)
        noise = self._noise(shape)
        sigmas = model.schedule.sampling_sigmas(settings.steps, settings.spacing)
        source = self._encoded_source(model)
        if source is None or settings.strength == 1:
            start = start_latents(self._first_noise(shape), sigmas[0]).to(model.device)
            return _Pass(start, sigmas, noise, source)
        sigmas = steps_of_strength(sigmas, settings.strength)
        return _Pass(source.latents + noise(0).to(model.device) * float(sigmas[0]), sigmas, noise, source)

    def _encoded_source(self, model: LatentDiffusion) -> EncodedSource | None:
        if self.source is None:
            return None
        return encode_source(model, self.source, self._in_bands, is_enlarged=self.settings.upscale is True)

    def _first_noise(self, shape: tuple[int, int, int]) -> Tensor:
        """What the rows begin with: draw 0, or those that were chosen; both rows of an edit begin alike."""
        draws = [tuple(map(candidate_draw, row.chosen_noises or (0, 0))) for row in self.rows]
        return torch.cat([row.noise(shape, numbers) for row, numbers in zip(self.rows, draws, strict=True)])

    def _best_noise(self, model: LatentDiffusion, source: EncodedSource | None, prompt: str, seed: int) -> int:
        """The number of the candidate that answers a prompt best, whatever else is in the batch."""
        settings, count = self.settings, self.settings.noise_candidates
        prompt, shape = unweighted(prompt), self._shape(model)
        noise = ImageNoise([seed], shape)
        candidates = torch.cat([noise.draw(candidate_draw(number)) for number in range(count)])
        if self.ranker is None:
            sigma = model.schedule.sampling_sigmas(settings.steps, settings.spacing)[0]
            encoded = model.encode_prompts([prompt], settings.word_weights, form_of(self.images, model, settings))
            denoiser = Denoiser(model.unet, model.schedule, model.dtype)
            x = start_latents(candidates, sigma).to(model.device)
            return best_answered(denoiser, model.unet, x, sigma, encoded.states, encoded.tokens[0])
        ranker, image = self.ranker, ImageRequest(prompt, seed, loras=self.images[0].loras)

        def scores(noise: Tensor) -> Tensor:
            sketches = replace(self, images=(image,) * len(noise), settings=sketch_settings(settings))
            return ranker.scores(sketches._sketched(model, noise, source), prompt)

        return first_good(scores, candidates)

    def _sketched(self, model: LatentDiffusion, noise: Tensor, source: EncodedSource | None) -> Tensor:
        """Clean latents (B, C, h, w) from this noise, without second pass and enlarging."""
        sigmas = model.schedule.sampling_sigmas(self.settings.steps, self.settings.spacing)
        start = _Pass(start_latents(noise, sigmas[0]).to(model.device), sigmas, self._noise(self._shape(model)), source)
        denoise = self._guides(model, start).denoise(sigmas, None)
        x = start.x
        for step in _run_sampler(self.settings, denoise, x, sigmas, start.noise):
            x = step.x
        return x

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
        """The draws of all rows, (rows, *shape)."""
        return lambda index: torch.cat([row.noise(shape, (index, index)) for row in self.rows])


def _run_sampler(
    settings: GenerationSettings, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource
) -> Generator[SamplerStep, None, None]:
    if settings.eta is not None:
        yield from _SAMPLERS_WITH_ETA[settings.sampler](denoise, x, sigmas, noise, eta=settings.eta)
    else:
        yield from find_sampler(settings.sampler).function(denoise, x, sigmas, noise)
