"""What a person asks for, checked before anything is loaded or allocated."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from toile.diffusion.noise import NUM_SEEDS, ImageNoise, image_seeds, noise_between
from toile.errors import ToileError
from toile.generation.source import SourceImage
from toile.generation_settings import GenerationSettings, check_prompt, check_text, check_whole
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import Toward
from toile.text.lora_tags import LoRAUse, lora_tags

MAX_PICTURES = 1_000_000


@dataclass(frozen=True)
class ImageRequest:
    """One picture of a request; the fields are those of its recipe.

    `typed` is the prompt as a person wrote it, where `prompt` is what the model reads in it; None where they are one.
    `chosen_noises` is empty until they are chosen.
    """

    prompt: str
    seed: int
    original: str | None = None
    toward: Toward | None = None
    loras: tuple[LoRAUse, ...] = ()
    typed: str | None = None
    chosen_noises: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[tuple[str, int], ...]:
        """Prompts and seeds whose pictures decide which noises it begins with: what leads, and what it lies towards."""
        own = (self.prompt if self.original is None else self.original, self.seed)
        return (own,) if self.toward is None else (own, (self.toward.prompt, self.toward.seed))

    def noise(self, shape: tuple[int, int, int], draws: tuple[int, ...]) -> Tensor:
        """(1, *shape) of its seed's draw, or on the way from there to a draw of what it lies towards.

        Args:
            shape: (C, h, w).
            draws: numbers of the draws, of either end.
        """
        own = ImageNoise([self.seed], shape).draw(draws[0])
        if self.toward is None:
            return own
        return noise_between(own, ImageNoise([self.toward.seed], shape).draw(draws[1]), self.toward.share)

    @property
    def texts(self) -> tuple[str, ...]:
        """All prompts that are read for it."""
        others = (self.original, self.toward.prompt if self.toward else None)
        return (self.prompt, *(text for text in others if text is not None))


@dataclass(frozen=True)
class GenerateRequest:
    """Pictures to make; whatever is None is the model's default.

    Image i, counted over all prompts, has seed + i: the same picture whatever the batch size.

    Attributes:
        prompts: at least one text, with weights as `toile.text.prompt` says; "" asks for nothing in particular.
        seed: of the first picture, 0 to 2 ** 64 - 1.
        num_images: pictures for each prompt.
        source: a picture to begin with, of the size of the result; with a mask only that part is repainted.
        original: a prompt whose pictures, of the same seeds, lead the layout (prompt-to-prompt); None for none.
        toward: another prompt and seed that the pictures lie towards; of several pictures its seed counts up instead
            of theirs, so that they are variations of one.
        loras: that act on all pictures, besides those that a prompt names: `<lora:name:0.8>`.
        maps: collect which position looked at which word.
        quality: name of one of the model's sets of settings, which are then the defaults; for example "draft".
        as_written: give the model the prompts as they are, not as its tables of words read them.
        negative, width, height, steps, guidance, guidance_interval, guidance_rescale, classifier_guidance, sharpness,
            sampler, spacing, eta, strength, hires_scale, hires_strength, upscale, edit_cross, edit_self, batch_size,
            noise_candidates, word_weights, safety, deepcache, tgate, vae_bands: see `GenerationSettings`.

    Raises:
        ToileError: a value out of range, with its name and what is allowed.
    """

    prompts: tuple[str, ...]
    seed: int = 0
    num_images: int = 1
    source: SourceImage | None = None
    original: str | None = None
    toward: Toward | None = None
    loras: tuple[LoRAUse, ...] = ()
    maps: bool = False
    as_written: bool = False
    quality: str | None = None
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    classifier_guidance: float | None = None
    sharpness: float | None = None
    sampler: str | None = None
    spacing: str | None = None
    eta: float | None = None
    strength: float | None = None
    hires_scale: float | None = None
    hires_strength: float | None = None
    upscale: bool | None = None
    edit_cross: float | None = None
    edit_self: float | None = None
    batch_size: int | None = None
    noise_candidates: int | None = None
    word_weights: str | None = None
    safety: str | None = None
    deepcache: int | None = None
    tgate: float | None = None
    vae_bands: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or not self.prompts:
            raise ToileError(f"prompts is {self.prompts!r}; give a tuple of one or more texts")
        for number, prompt in enumerate(self.prompts, start=1):
            check_prompt(f"prompt {number}", prompt)
        if self.original is not None:
            check_prompt("original", self.original)
            if self.maps or self.source is not None or self.toward is not None:
                raise ToileError("an edit of another prompt's picture goes with no maps, source or toward")
        if self.toward is not None:
            check_prompt("toward", self.toward.prompt)
        self._check_tags()
        if self.quality is not None:
            check_text("quality", self.quality)
        check_whole("seed", self.seed, 0, NUM_SEEDS - 1)
        check_whole("num_images", self.num_images, 1, MAX_PICTURES)
        check_whole("number of pictures", len(self.prompts) * self.num_images, 1, MAX_PICTURES)
        self.settings_over(GenerationSettings(sampler="ddim"))

    def settings_over(self, defaults: GenerationSettings) -> GenerationSettings:
        """The full settings: what was asked for, and the defaults for the rest."""
        names = {field.name for field in fields(GenerationSettings)}
        given = {name: value for name, value in vars(self).items() if name in names and value is not None}
        return replace(defaults, **given)

    def settings_for(self, model: LatentDiffusion) -> GenerationSettings:
        """The full settings: what was asked for, for the rest those of the quality, or the model's defaults.

        Raises:
            ToileError: the model has no such quality.
        """
        return self.settings_over(model.settings_of(self.quality))

    def images(self) -> list[ImageRequest]:
        """Every picture, in order: all of the first prompt, then all of the second, ..."""
        prompts = [prompt for prompt in self.prompts for _ in range(self.num_images)]
        if self.toward is None:
            seeds = image_seeds(self.seed, len(prompts))
            return [
                ImageRequest(prompt, seed, self.original, None, self._loras_of(prompt))
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
        others = image_seeds(self.toward.seed, len(prompts))
        return [
            ImageRequest(prompt, self.seed, None, replace(self.toward, seed=other), self._loras_of(prompt))
            for prompt, other in zip(prompts, others, strict=True)
        ]

    def _loras_of(self, prompt: str) -> tuple[LoRAUse, ...]:
        return (*self.loras, *lora_tags(prompt))

    def _check_tags(self) -> None:
        if self.negative is not None and lora_tags(self.negative):
            raise ToileError(
                "the negative prompt names a LoRA; LoRAs act on the whole picture: name them in the prompt"
            )
        other = self.original if self.toward is None else self.toward.prompt
        for prompt in self.prompts:
            if other is not None and lora_tags(other) not in ((), lora_tags(prompt)):
                raise ToileError(f"{prompt!r} and {other!r} are of one picture and must name the same LoRAs")
