"""Recipes: TOML files that say everything about a run. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toile.diffusion.schedule import ScheduleConfig
from toile.errors import ToileError
from toile.generation_settings import GenerationSettings
from toile.models.classifier import AttributeClassifierConfig
from toile.models.clip import CLIPConfig
from toile.models.cvae import ConditionalVAEConfig
from toile.models.gan import ConditionalGANConfig
from toile.models.text_autoencoder import TextAutoencoderConfig
from toile.models.unet import UNetConfig
from toile.models.vae import VAEConfig
from toile.schema import build_config
from toile.training.classifier_objective import ClassifierObjectiveConfig
from toile.training.cvae_objective import CVAEObjectiveConfig
from toile.training.denoising_objective import DenoisingObjectiveConfig
from toile.training.distillation_objective import ConsistencyConfig, GuidanceDistillationConfig
from toile.training.gan_objective import GANObjectiveConfig
from toile.training.loop import LoopConfig
from toile.training.lora_targets import LoRAConfig
from toile.training.pictures import DataConfig
from toile.training.prior_preservation import PriorConfig
from toile.training.text_autoencoder_objective import TextAutoencoderObjectiveConfig
from toile.training.upscaling_objective import UpscalingObjectiveConfig
from toile.training.vae_objective import VAEObjectiveConfig
from toile.upscaler import UpscalerConfig


@dataclasses.dataclass(frozen=True)
class VAERecipe:
    """`task = "vae"`: an autoencoder from scratch, or from the weights in `start`."""

    task: str
    data: DataConfig
    model: VAEConfig
    loop: LoopConfig
    objective: VAEObjectiveConfig = VAEObjectiveConfig()
    seed: int = 0
    start: Path | None = None


@dataclasses.dataclass(frozen=True)
class CLIPRecipe:
    """`task = "clip"`: a vocabulary, a text tower and an image tower from scratch.

    Attributes:
        model: sizes; ids and vocabulary size are filled in from the vocabulary that the captions give.
        vocab_size: most ids the vocabulary may have.
    """

    task: str
    data: DataConfig
    model: CLIPConfig
    loop: LoopConfig
    vocab_size: int = 4096
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DenoisingRecipe:
    """`task = "denoising"`: a U-Net on the latents of a trained autoencoder, with the words of a trained CLIP pair.

    Attributes:
        vae: folder of the run that trained the autoencoder, or a model whose autoencoder is taken; "pixels" for none:
            the U-Net works on pixels as they are (its in_channels are 3) or in squares of 2 x 2 (12) or 4 x 4 (48).
        clip: folder of the run that trained the CLIP pair; or a model, whose text encoder is the start of this one and
            whose vocabulary is taken.
        start: a model with the weights that U-Net and text encoder start from; `None` is from scratch. The U-Net is of
            the architecture that `model` says, which must have weights of the same names and shapes.
        defaults: generation settings written into the model.
    """

    task: str
    data: DataConfig
    vae: Path
    clip: Path
    model: UNetConfig
    loop: LoopConfig
    schedule: ScheduleConfig
    defaults: GenerationSettings
    objective: DenoisingObjectiveConfig = DenoisingObjectiveConfig()
    seed: int = 0
    start: Path | None = None


@dataclasses.dataclass(frozen=True)
class ClassifierRecipe:
    """`task = "classifier"`: the judge of generated pictures, or what leads to them, from real pictures only.

    Attributes:
        vae: whose latents are looked at, a run's or a model's; None for the pictures themselves, as a judge does.
    """

    task: str
    data: DataConfig
    model: AttributeClassifierConfig
    loop: LoopConfig
    objective: ClassifierObjectiveConfig = ClassifierObjectiveConfig()
    seed: int = 0
    vae: Path | None = None


@dataclasses.dataclass(frozen=True)
class LoRARecipe:
    """`task = "lora"`: changes of low rank to a model that is there, for pictures it lacks or does badly.

    Attributes:
        base: the model: the name of the bundled one, a folder or a file.
        lora: which layers learn, and how much.
        prior: a class that the model is to keep as it draws it now (DreamBooth).
    """

    task: str
    base: str
    data: DataConfig
    loop: LoopConfig
    lora: LoRAConfig = LoRAConfig()
    objective: DenoisingObjectiveConfig = DenoisingObjectiveConfig()
    prior: PriorConfig | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class FineTuneRecipe:
    """`task = "fine_tune"`: all weights of a model's U-Net and, unless told otherwise, of its text encoder.

    Attributes:
        base: the model: the name of the bundled one, a folder or a file.
        prior: a class that the model is to keep as it draws it now (DreamBooth).
    """

    task: str
    base: str
    data: DataConfig
    loop: LoopConfig
    objective: DenoisingObjectiveConfig = DenoisingObjectiveConfig()
    prior: PriorConfig | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class GuidanceDistillationRecipe:
    """`task = "guidance_distillation"`: a U-Net that is told the guidance scale, so that guidance takes one call.

    Attributes:
        teacher: the model, which is also the start: the name of the bundled one, a folder or a file.
    """

    task: str
    teacher: str
    data: DataConfig
    loop: LoopConfig
    objective: GuidanceDistillationConfig = GuidanceDistillationConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class ConsistencyRecipe:
    """`task = "consistency_distillation"`: a U-Net that makes pictures in one to four calls, guidance included.

    Attributes:
        teacher: the model, which is also the start: the name of the bundled one, a folder or a file.
    """

    task: str
    teacher: str
    data: DataConfig
    loop: LoopConfig
    objective: ConsistencyConfig = ConsistencyConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class WordConfig:
    """A word to learn.

    Attributes:
        name: how prompts write it, for example "<monet>"; best something that no one would write otherwise.
        start: words that are near, whose vectors it starts from.
        num_vectors: how many tokens it counts as; more hold more.
    """

    name: str
    start: str
    num_vectors: int = 4

    def __post_init__(self) -> None:
        if self.num_vectors < 1:
            raise ToileError(f"word: num_vectors {self.num_vectors}; give at least 1")


@dataclasses.dataclass(frozen=True)
class TextualInversionRecipe:
    """`task = "textual_inversion"`: a new word for a model that is there, none of whose weights change.

    Attributes:
        base: the model: the name of the bundled one, a folder or a file.
        word: what is learned; `data.trigger` or `data.caption` must say it.
    """

    task: str
    base: str
    data: DataConfig
    loop: LoopConfig
    word: WordConfig
    objective: DenoisingObjectiveConfig = DenoisingObjectiveConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class CVAERecipe:
    """`task = "cvae"`: a baseline that makes pictures in one pass, a conditional variational autoencoder.

    Attributes:
        words: the model whose text encoder and tokenizer give the words: the name of the bundled one, or a folder.
    """

    task: str
    words: str
    data: DataConfig
    model: ConditionalVAEConfig
    loop: LoopConfig
    objective: CVAEObjectiveConfig = CVAEObjectiveConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TextAutoencoderRecipe:
    """`task = "text_autoencoder"`: a baseline whose pictures are those of the codes that texts are mapped to.

    Attributes:
        words: the model whose text encoder and tokenizer give the words: the name of the bundled one, or a folder.
    """

    task: str
    words: str
    data: DataConfig
    model: TextAutoencoderConfig
    loop: LoopConfig
    objective: TextAutoencoderObjectiveConfig = TextAutoencoderObjectiveConfig()
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class GANRecipe:
    """`task = "gan"`: a baseline that makes pictures in one pass, a conditional generative adversarial network.

    Attributes:
        words: the model whose text encoder and tokenizer give the words: the name of the bundled one, or a folder.
        model: of both networks.
    """

    task: str
    words: str
    data: DataConfig
    model: ConditionalGANConfig
    loop: LoopConfig
    objective: GANObjectiveConfig = GANObjectiveConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loop.sharded:
            raise ToileError("loop.sharded: a GAN needs its discriminator whole, once as it is and once as constants")


@dataclasses.dataclass(frozen=True)
class UpscalingRecipe:
    """`task = "upscaling"`: a network that makes large pictures of a model's small ones and their words.

    Attributes:
        base: the model whose pictures will be enlarged: the name of the bundled one, or a folder.
        true_pictures: a zip or folder of large pictures named by the keys of the small ones; None for the published.
        upscaler: sizes, and how it is used; `residual_std` is measured.
        start: an upscaler's folder, or a model with one, whose weights this one begins with; None is from scratch.
    """

    task: str
    base: str
    data: DataConfig
    model: UNetConfig
    loop: LoopConfig
    schedule: ScheduleConfig
    upscaler: UpscalerConfig = UpscalerConfig()
    true_pictures: Path | None = None
    objective: UpscalingObjectiveConfig = UpscalingObjectiveConfig()
    seed: int = 0
    start: Path | None = None

    def __post_init__(self) -> None:
        schedule = self.schedule
        if schedule.prediction_type != "v_prediction" or not schedule.rescale_betas_zero_snr:
            raise ToileError(
                'schedule: an upscaler begins with pure noise: prediction_type = "v_prediction" and '
                "rescale_betas_zero_snr = true"
            )
        if self.upscaler.residual_std != UpscalerConfig.residual_std:
            raise ToileError(f"upscaler.residual_std {self.upscaler.residual_std}: it is measured, so leave it out")
        if self.loop.sharded and self.objective.adversary is not None:
            raise ToileError("loop.sharded: an adversary is needed whole, once as it is and once as constants")


Recipe = (
    VAERecipe
    | CLIPRecipe
    | DenoisingRecipe
    | ClassifierRecipe
    | LoRARecipe
    | FineTuneRecipe
    | GuidanceDistillationRecipe
    | ConsistencyRecipe
    | TextualInversionRecipe
    | CVAERecipe
    | TextAutoencoderRecipe
    | GANRecipe
    | UpscalingRecipe
)
RECIPES: Mapping[str, type[Recipe]] = {
    "vae": VAERecipe,
    "clip": CLIPRecipe,
    "denoising": DenoisingRecipe,
    "classifier": ClassifierRecipe,
    "lora": LoRARecipe,
    "fine_tune": FineTuneRecipe,
    "guidance_distillation": GuidanceDistillationRecipe,
    "consistency_distillation": ConsistencyRecipe,
    "textual_inversion": TextualInversionRecipe,
    "cvae": CVAERecipe,
    "text_autoencoder": TextAutoencoderRecipe,
    "gan": GANRecipe,
    "upscaling": UpscalingRecipe,
}


def compiles(recipe: Recipe) -> bool:
    """Whether the networks of a run are compiled; those of CLIP, of a GAN and of an upscaler never are."""
    return not isinstance(recipe, CLIPRecipe | GANRecipe | UpscalingRecipe) and recipe.objective.compile


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies overrides such as "loop.steps=100" (values in TOML syntax, bare words are strings).

    Args:
        path: a TOML file; or the recipe.json of a run, from which it can be resumed.
        overrides: changes to it.

    Raises:
        ToileError: no such file, neither TOML nor JSON, an unknown task or key, a value of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # those of JSON and TOML are ValueErrors
        raise ToileError(f"recipe {path}: {error}") from error
    if not isinstance(content, dict):
        raise ToileError(f"recipe {path}: a list or a value, where keys were expected")
    for override in overrides:
        _apply_override(content, override)
    task = content.get("task")
    if not isinstance(task, str) or task not in RECIPES:
        raise ToileError(f"recipe {path}: task {task!r}; known tasks: {', '.join(RECIPES)}")
    return build_config(RECIPES[task], content, f"recipe {path}")


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """The full recipe as plain JSON values, defaults included."""
    return {key: _plain(value) for key, value in dataclasses.asdict(recipe).items()}


def _apply_override(content: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise ToileError(f"override {override!r}: write key=value, for example loop.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ToileError(f"override {override!r}: {section!r} is not a section")
    content[key] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
