"""How pictures are made: every number a picture depends on, besides its prompt, its seed and the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from toile.diffusion.samplers import find_sampler
from toile.diffusion.schedule import SPACINGS
from toile.errors import ToileError
from toile.schema import build_config
from toile.text.prompt import parse_prompt
from toile.text.word_weights import WORD_WEIGHTS

MAX_SIDE = 8192
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_HIRES_SCALE = 4.0
MAX_CANDIDATES = 64
MAX_CLASSIFIER_GUIDANCE = 1.0
MAX_BATCH_SIZE = 1024
MAX_PROMPT_LENGTH = 100_000
SAFETY_ACTIONS = ("blur", "refuse", "report", "off")
ETA_SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m_sde")
# How much work is done for a picture, not what it is of: what a quality may set.
QUALITY_SETTINGS = (
    "steps",
    "guidance",
    "guidance_interval",
    "guidance_rescale",
    "classifier_guidance",
    "sampler",
    "spacing",
    "eta",
    "noise_candidates",
    "deepcache",
    "tgate",
)
EVERYWHERE = (0.0, 1e9)
"""The guidance interval that a request names for guidance at all noise levels, as None leaves it to the model."""
_QUALITIES = "qualities"


@dataclass(frozen=True)
class GenerationSettings:
    """A full set of choices; a model folder's toile.json holds the ones that suit the model.

    Attributes:
        width, height: of the pictures in pixels, up to 8192; models ask for multiples of their downsampling.
        steps: sampler steps, 1 to 1000.
        guidance: guidance_scale, 0 to 100; 1 = off (and half the work).
        guidance_interval: (low, high) noise levels; guidance is on where low < sigma <= high; None = everywhere, for
            which requests say `EVERYWHERE`.
        guidance_rescale: 0 to 1, how far guided predictions get back the spread of unguided ones.
        classifier_guidance: 0 to 1, how far the model's ranker leads to pictures that show what the prompt says, see
            `toile.diffusion.guidance.ClassifierGuidance`; 0 = off.
        sampler: any name that `find_sampler` knows.
        sharpness: 0 to 1, by how much details of pictures are raised, before they are enlarged, see
            `toile.diffusion.upscaling.sharpen`: what a model makes may have less contrast in them than real pictures.
        spacing: of the noise levels: "trailing", "leading", "linspace", "karras"; None = the model's.
        eta: share of fresh noise, 0 to 1, for the samplers in `ETA_SAMPLERS`; None = the sampler's own.
        strength: with a picture to begin with, the share of the steps that is done: above 0, to 1 = from pure noise.
        hires_scale: 1 to 4, makes pictures so many times as large in a second pass over the enlarged result of the
            first; None = one pass.
        hires_strength: share of the steps that the second pass does, above 0 to 1.
        upscale: whether the model's upscaler enlarges the pictures; None = if it has one that takes this size.
        edit_cross, edit_self: of an edit of another prompt's picture, for which share of the steps that picture leads
            where words act, and which positions belong together; 0 to 1.
        negative: what pictures should not show; "" = nothing in particular.
        batch_size: pictures that pass the networks together, 1 to 1024.
        noise_candidates: 1 to 64; of so many noises to begin with, one is taken that answers the prompt, see
            `toile.generation.noise_search`.
        word_weights: what a weight like that of (word:1.3) does: "embedding" multiplies the word's text states, as the
            A1111 web UI, "attention" what the word brings through cross-attention; see `toile.text.word_weights`.
        safety: what happens to pictures that the model's safety checker flags, if it has one: "blur" them, "refuse" to
            make them, only "report" it; "off" does not ask.
        deepcache: 1 to 1000, at each how many-th step all but the U-Net's outermost layers work; 1 = at every step.
        tgate: 0 to 1, the share of the steps after which words act as they last did, without guidance; 1 = never.
        vae_bands: whether the autoencoder works in bands of rows, which gives the same picture but for rounding, slower
            and in less memory; None = where the whole would not fit.

    Raises:
        ToileError: a value out of range, with its name and what is allowed.
    """

    width: int = 512
    height: int = 512
    steps: int = 30
    guidance: float = 7.5
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    classifier_guidance: float = 0.0
    sharpness: float = 0.0
    sampler: str = "dpmpp_2m"
    spacing: str | None = None
    eta: float | None = None
    strength: float = 0.7
    hires_scale: float | None = None
    hires_strength: float = 0.5
    upscale: bool | None = None
    edit_cross: float = 0.8
    edit_self: float = 0.4
    negative: str = ""
    batch_size: int = 1
    noise_candidates: int = 1
    word_weights: str = "embedding"
    safety: str = "blur"
    deepcache: int = 1
    tgate: float = 1.0
    vae_bands: bool | None = None

    def __post_init__(self) -> None:
        check_whole("width", self.width, 1, MAX_SIDE)
        check_whole("height", self.height, 1, MAX_SIDE)
        check_whole("steps", self.steps, 1, MAX_STEPS)
        check_whole("noise_candidates", self.noise_candidates, 1, MAX_CANDIDATES)
        check_whole("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        check_whole("deepcache", self.deepcache, 1, MAX_STEPS)
        check_number("tgate", self.tgate, 0.0, 1.0)
        check_number("guidance", self.guidance, 0.0, MAX_GUIDANCE)
        check_number("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        check_number("classifier_guidance", self.classifier_guidance, 0.0, MAX_CLASSIFIER_GUIDANCE)
        check_number("sharpness", self.sharpness, 0.0, 1.0)
        for name, strength in (("strength", self.strength), ("hires_strength", self.hires_strength)):
            check_number(name, strength, 0.0, 1.0)
            if strength == 0:
                raise ToileError(f"{name} is 0, which would change nothing; allowed: above 0, to 1")
        if self.hires_scale is not None:
            check_number("hires_scale", self.hires_scale, 1.0, MAX_HIRES_SCALE)
        if not isinstance(self.upscale, bool | None):
            raise ToileError(f"upscale is {self.upscale!r}; allowed: true, false, or none to let the model decide")
        check_number("edit_cross", self.edit_cross, 0.0, 1.0)
        check_number("edit_self", self.edit_self, 0.0, 1.0)
        check_prompt("negative", self.negative)
        if self.word_weights not in WORD_WEIGHTS:
            raise ToileError(f"word_weights is {self.word_weights!r}; allowed: {', '.join(WORD_WEIGHTS)}")
        if self.safety not in SAFETY_ACTIONS:
            raise ToileError(f"safety is {self.safety!r}; allowed: {', '.join(SAFETY_ACTIONS)}")
        if not isinstance(self.vae_bands, bool | None):
            raise ToileError(f"vae_bands is {self.vae_bands!r}; allowed: true, false, or none to let memory decide")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low < high < math.inf:
                raise ToileError(
                    f"guidance_interval is {low:g} to {high:g}; allowed: two noise levels with 0 <= low < high"
                )
        if self.spacing is not None and self.spacing not in SPACINGS:
            raise ToileError(f"spacing is {self.spacing!r}; allowed: {', '.join(SPACINGS)}")
        sampler = find_sampler(self.sampler)
        if self.eta is not None:
            check_number("eta", self.eta, 0.0, 1.0)
            if sampler.name not in ETA_SAMPLERS:
                raise ToileError(f"eta does not apply to sampler {sampler.name}; it does to {', '.join(ETA_SAMPLERS)}")

    def final_size(self, factor: int) -> tuple[int, int]:
        """(width, height) of the pictures after all passes, the second one's a multiple of `factor`."""
        if self.hires_scale is None:
            return self.width, self.height
        scaled = (round(side * self.hires_scale / factor) * factor for side in (self.width, self.height))
        width, height = scaled
        return width, height

    def resolved_spacing(self, of_model: str) -> str:
        """The spacing that counts: the one asked for, else the sampler name's ("... Karras"), else the model's."""
        return self.spacing or find_sampler(self.sampler).spacing or of_model


@dataclass(frozen=True)
class ModelSettings:
    """The settings that suit a model, as its toile.json has them.

    Attributes:
        defaults: for whatever a request leaves open.
        qualities: full settings by name, for example "draft"; of the defaults they change only `QUALITY_SETTINGS`.

    Raises:
        ToileError: a quality without a name, or one that changes another setting.
    """

    defaults: GenerationSettings
    qualities: Mapping[str, GenerationSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, changes in self._changes().items():
            if not name.strip():
                raise ToileError(f"a quality is named {name!r}; give it a name that can be typed")
            if others := sorted(set(changes) - set(QUALITY_SETTINGS)):
                raise ToileError(
                    f"quality {name!r} sets {', '.join(others)}; a quality may set {', '.join(QUALITY_SETTINGS)}"
                )

    @staticmethod
    def from_json(content: Mapping[str, Any], where: str) -> ModelSettings:
        """Reads what a file said: the defaults, and under "qualities" by name what each has instead.

        Args:
            content: of the file.
            where: the file, for messages.

        Raises:
            ToileError: an unknown key, or a value that is not allowed, by name.
        """
        plain = {name: value for name, value in content.items() if name != _QUALITIES}
        named = content.get(_QUALITIES, {})
        if not isinstance(named, dict) or not all(isinstance(changes, dict) for changes in named.values()):
            raise ToileError(f'{where}: {_QUALITIES} must hold settings by name, as in {{"draft": {{"steps": 8}}}}')
        defaults = build_config(GenerationSettings, plain, where)
        qualities = {}
        for name, changes in named.items():
            try:
                qualities[name] = build_config(GenerationSettings, {**plain, **changes}, f"{where}: quality {name!r}")
            except ToileError as error:
                message = str(error)
                raise ToileError(message if where in message else f"{where}: quality {name!r}: {message}") from error
        try:
            return ModelSettings(defaults, qualities)
        except ToileError as error:
            raise ToileError(f"{where}: {error}") from error

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads; qualities only if there are any."""
        whole = dataclasses.asdict(self.defaults)
        return {**whole, _QUALITIES: self._changes()} if self.qualities else whole

    def of_quality(self, name: str | None) -> GenerationSettings:
        """The settings of a quality; the defaults for None.

        Raises:
            ToileError: there is no such quality; those that there are are named.
        """
        if name is None:
            return self.defaults
        if name in self.qualities:
            return self.qualities[name]
        if not self.qualities:
            raise ToileError(f"quality is {name!r}, but this model names no qualities; say steps, sampler and guidance")
        raise ToileError(f"quality is {name!r}; allowed for this model: {', '.join(self.qualities)}")

    def unranked(self) -> ModelSettings:
        """The same for a copy of the model without its ranker: pictures begin with the first noise, and go unled."""
        first = {name: replace(settings, noise_candidates=1) for name, settings in self.qualities.items()}
        return ModelSettings(replace(self.defaults, noise_candidates=1), first).unled()

    def unled(self) -> ModelSettings:
        """The same without classifier guidance."""
        unled = {name: replace(settings, classifier_guidance=0.0) for name, settings in self.qualities.items()}
        return ModelSettings(replace(self.defaults, classifier_guidance=0.0), unled)

    def _changes(self) -> dict[str, dict[str, Any]]:
        """Of each quality, what is not as in the defaults."""
        usual = dataclasses.asdict(self.defaults)
        return {
            name: {key: value for key, value in dataclasses.asdict(of_quality).items() if value != usual[key]}
            for name, of_quality in self.qualities.items()
        }


def check_whole(name: str, value: int, low: int, high: int) -> None:
    """Refuses anything but a whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ToileError(f"{name} is {value!r}; allowed: whole numbers from {low} to {high}")


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Refuses NaN and anything outside low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ToileError(f"{name} is {value!r}; allowed: {low:g} to {high:g}")


def check_text(name: str, value: str) -> None:
    """Refuses what is no text, and texts so long that they must be a mistake."""
    if not isinstance(value, str):
        raise ToileError(f"{name} is {value!r}; give a text")
    if len(value) > MAX_PROMPT_LENGTH:
        raise ToileError(f"{name} has {len(value):,} characters; allowed: up to {MAX_PROMPT_LENGTH:,}")


def check_prompt(name: str, value: str) -> None:
    """Refuses what is no text, too long, or has weights that the prompt grammar refuses."""
    check_text(name, value)
    try:
        parse_prompt(value)
    except ToileError as error:
        raise ToileError(f"{name}: {error}") from error
