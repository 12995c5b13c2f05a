"""What the A1111 web UI's API is asked for, in its own words, made into a request of the engine."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from toile.data.images import open_image
from toile.diffusion.samplers import find_sampler
from toile.errors import ToileError
from toile.generation.request import GenerateRequest
from toile.generation_settings import ETA_SAMPLERS
from toile.picture_recipe import Toward
from toile.web.api.bodies import drawn_seed, file_of
from toile.web.jobs.engine import Engine
from toile.web.jobs.request import JobRequest
from toile.web.jobs.shelf import ServedModel

# Fields that mean nothing here, and the values at which they ask for nothing either; in all others that are not named
# in a body, nothing is what is false, 0, -1 or empty.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "s_noise": (1,),
    "s_tmax": (float("inf"),),
    "script_name": ("", "None"),
    "refiner_switch_at": (0.8, 1),
    "initial_noise_multiplier": (1,),
    "image_cfg_scale": (1.5,),
    "hr_checkpoint_name": ("Use same checkpoint",),
    "hr_sampler_name": ("Use same sampler",),
    "hr_scheduler": ("Use same scheduler",),
    "inpainting_fill": (0, 1, 2, 3),
    "inpaint_full_res": (True,),
    "inpaint_full_res_padding": tuple(range(257)),
}
# What is kept, sent and restored is the same whatever these say.
_WITHOUT_EFFECT = (
    "do_not_save_samples",
    "do_not_save_grid",
    "save_images",
    "override_settings_restore_afterwards",
    "include_init_images",
    "firstphase_width",
    "firstphase_height",
    "seed_resize_from_w",
    "seed_resize_from_h",
    "force_task_id",
)
_OVERRIDES: Mapping[str, tuple[Any, ...]] = {
    "CLIP_stop_at_last_layers": (1,),
    "sd_vae": (None, "", "None", "Automatic"),
    "eta_noise_seed_delta": (0,),
    "samples_format": ("png",),
}
_FITS = {0: "stretch", 1: "crop", 2: "pad"}
_SCHEDULES = {None: None, "": None, "automatic": None, "normal": None, "karras": "karras"}
_STRENGTH = 0.75  # of that program, where none is given
_SAME_SHAPE = 0.02  # by which sides that were rounded to whole pixels may differ
_ENLARGERS = ("", "None", "Latent", "Latent (bicubic)", "Lanczos")


class TextBody(BaseModel):
    """Pictures from words."""

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    negative_prompt: str | None = None
    styles: list[str] | None = None
    seed: int | None = Field(-1, description="-1 draws one.")
    subseed: int | None = -1
    subseed_strength: float | None = 0.0
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = Field(1, ge=1, le=1024)
    n_iter: int = Field(1, ge=1, le=1024)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    eta: float | None = None
    denoising_strength: float | None = None
    enable_hr: bool = False
    hr_scale: float | None = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    override_settings: dict[str, Any] | None = None
    send_images: bool = True

    def wanted(self, engine: Engine, model: str | None) -> JobRequest:
        """For the engine.

        Args:
            engine: that knows the models.
            model: the one to use if none is named.

        Raises:
            ToileError: a field that asks for something that is not done here, or a value that is refused.
        """
        self._refuse_what_is_not_done()
        served = self._served(engine, model)
        wanted = self._request(served, self._hires(served))
        return JobRequest(served.name, wanted, embeddings=self._embeddings(engine, served))

    def _request(self, served: ServedModel, more: Mapping[str, Any]) -> GenerateRequest:
        seed = drawn_seed() if self.seed in (None, -1) else self.seed
        toward = None
        if self.subseed_strength:
            other = drawn_seed() if self.subseed in (None, -1) else self.subseed
            toward = Toward(self.prompt, int(other or 0), self.subseed_strength)
        sampler = self.sampler_name or self.sampler_index or None
        takes_eta = find_sampler(sampler or served.settings.defaults.sampler).name in ETA_SAMPLERS
        return GenerateRequest(
            (self.prompt,),
            seed=int(seed or 0),
            num_images=self.batch_size * self.n_iter,
            toward=toward,
            negative=self.negative_prompt,
            sampler=sampler,
            spacing=self._spacing(),
            eta=self.eta if takes_eta else None,
            steps=self.steps,
            guidance=self.cfg_scale,
            width=self.width or None,
            height=self.height or None,
            **more,
        )

    def _spacing(self) -> str | None:
        name = None if self.scheduler is None else self.scheduler.lower()
        if name not in _SCHEDULES:
            raise ToileError(f"scheduler is {self.scheduler!r}; allowed: Automatic, Karras")
        return _SCHEDULES[name]

    def _hires(self, served: ServedModel) -> dict[str, Any]:
        if not self.enable_hr:
            return {}
        if self.hr_second_pass_steps not in (None, 0, self.steps):
            raise ToileError(f"hr_second_pass_steps is {self.hr_second_pass_steps}; allowed: 0, which is as many")
        if (self.hr_upscaler or "") not in _ENLARGERS:
            raise ToileError(f"hr_upscaler is {self.hr_upscaler!r}; allowed: {', '.join(_ENLARGERS[1:])}")
        strength = _STRENGTH if self.denoising_strength is None else self.denoising_strength
        return {"hires_scale": self._hires_scale(served), "hires_strength": strength}

    def _hires_scale(self, served: ServedModel) -> float | None:
        """How many times as large, where the size may be given instead: both sides, or 0 for the one that follows."""
        wide, high = self.hr_resize_x or 0, self.hr_resize_y or 0
        if not wide and not high:
            return self.hr_scale
        usual = served.settings.defaults
        scales = {wide / (self.width or usual.width), high / (self.height or usual.height)} - {0.0}
        if max(scales) - min(scales) > _SAME_SHAPE * abs(max(scales)):
            raise ToileError(
                f"hr_resize_x x hr_resize_y is {wide}x{high}; allowed: the shape of the first pass, nothing is cut off"
            )
        return max(scales)

    def _embeddings(self, engine: Engine, served: ServedModel) -> tuple[str, ...]:
        """Files of learned words that fit the model and have a word in the prompts, as that program finds them."""
        texts = (self.prompt, self.negative_prompt or "")
        known = engine.embeddings().values()
        return tuple(file.name for file in known if file.width == served.text_width and file.are_in(texts))

    def _served(self, engine: Engine, default: str | None) -> ServedModel:
        """The model that is named here, else the one that was chosen, else the first."""
        name = self._model(default)
        models = engine.models()
        if name is not None and name not in models:
            raise ToileError(f"model is {name!r}; served are: {', '.join(models)}")
        return models[name] if name is not None else next(iter(models.values()))

    def _model(self, default: str | None) -> str | None:
        overrides = dict(self.override_settings or {})
        model = overrides.pop("sd_model_checkpoint", None) or default
        for name, value in overrides.items():
            if name not in _OVERRIDES or value not in _OVERRIDES[name]:
                raise ToileError(f"override_settings.{name} is {value!r}; only sd_model_checkpoint can be set here")
        if model is not None and not isinstance(model, str):
            raise ToileError(f"override_settings.sd_model_checkpoint is {model!r}; give the name of a model")
        return model

    def _refuse_what_is_not_done(self) -> None:
        if self.styles:
            raise ToileError(f"styles is {self.styles!r}; there are none here: write them into the prompt")
        for name, value in (self.model_extra or {}).items():
            is_nothing = value is None or value in (False, 0, -1, "", [], {}) or value in _NEUTRAL.get(name, ())
            is_of_no_pass = name.startswith("hr_") and not self.enable_hr
            if not is_nothing and not is_of_no_pass and name not in _WITHOUT_EFFECT:
                raise ToileError(f"{name[:80]} is {str(value)[:80]!r}; it is not done here: leave it out")


class ImageBody(TextBody):
    """Pictures from a picture and words."""

    init_images: list[str] = Field(default_factory=list, max_length=8)
    mask: str | None = None
    mask_blur: float | None = 4
    inpainting_mask_invert: int | None = 0
    resize_mode: int = 0

    def wanted(self, engine: Engine, model: str | None) -> JobRequest:
        """See there."""
        self._refuse_what_is_not_done()
        if len(self.init_images) != 1:
            raise ToileError(f"init_images: {len(self.init_images)} were sent; send one")
        if self.resize_mode not in _FITS:
            raise ToileError(f"resize_mode is {self.resize_mode}; allowed: 0 stretch, 1 crop, 2 pad")
        image, mask = file_of("init_images", self.init_images[0]), file_of("mask", self.mask or None)
        if mask is not None and self.inpainting_mask_invert:
            engine.config.limits.check_file("mask", mask)
            mask = _inverted(mask)
        strength = _STRENGTH if self.denoising_strength is None else self.denoising_strength
        served = self._served(engine, model)
        request = self._request(served, {"strength": strength})
        blur = float(self.mask_blur or 0) if mask is not None else 0.0
        embeddings = self._embeddings(engine, served)
        return JobRequest(served.name, request, image, mask, _FITS[self.resize_mode], blur, embeddings)


class PictureBody(BaseModel):
    """A picture whose settings are to be read."""

    image: str


def _inverted(mask: bytes) -> bytes:
    file = io.BytesIO()
    grey: Image.Image = open_image(mask).convert("L")
    ImageOps.invert(grey).save(file, "PNG")
    return file.getvalue()
