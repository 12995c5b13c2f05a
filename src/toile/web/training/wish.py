"""What a person asks a training for, and the recipe that it becomes."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from toile.data.sources import open_source
from toile.data.split import first_seed_with_held_out
from toile.errors import ToileError
from toile.training.denoising_objective import DenoisingObjectiveConfig
from toile.training.loop import AUTO, LoopConfig
from toile.training.lora_targets import TARGETS, LoRAConfig
from toile.training.pictures import DataConfig
from toile.training.recipes import FineTuneRecipe, LoRARecipe
from toile.web.jobs.shelf import ServedModel

LORA, ALL_WEIGHTS = "lora", "fine_tune"
# What learns: words and where they act, which is enough for articles; everything, which styles and textures need.
LAYERS = {
    "usual": ("attention", "feed_forward", "text_attention"),
    "all": tuple(name for name in TARGETS if name not in ("time", "text_feed_forward")),
}
_FEW_PICTURES = 300  # of so many, a split may hold none back
_LONGEST_WORDS, _MOST_PROMPTS = 500, 16


@dataclass(frozen=True)
class Wish:
    """A training as it is asked for.

    Attributes:
        what: "lora", or "fine_tune" for all weights.
        caption: of pictures that have no words of their own; None leaves them out.
        trigger: a word before every caption.
        width, height: pictures are fitted into it; None is the model's own.
        steps: updates; minutes: after which it stops, resumable, or None.
        batch: pictures of one update.
        rate: peak of the learning rate.
        rank: of a LoRA.
        layers: of a LoRA, one of `LAYERS`.
        prompts: of the pictures that are drawn on the way; () for held-out captions.
        seed: of all draws.

    Raises:
        ToileError: a value that is not allowed.
    """

    what: str = LORA
    caption: str | None = None
    trigger: str = ""
    width: int | None = None
    height: int | None = None
    steps: int = 600
    minutes: float | None = None
    batch: int = 16
    rate: float = 5e-4
    rank: int = 8
    layers: str = "usual"
    prompts: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.what not in (LORA, ALL_WEIGHTS):
            raise ToileError(f"what is {self.what!r}; allowed: {LORA}, {ALL_WEIGHTS}")
        if self.layers not in LAYERS:
            raise ToileError(f"layers is {self.layers!r}; allowed: {', '.join(LAYERS)}")
        for name, value, most in (("steps", self.steps, 1_000_000), ("batch", self.batch, 1024)):
            if not 1 <= value <= most:
                raise ToileError(f"{name} is {value}; allowed: 1 to {most:,}")
        if not 0 < self.rate <= 1:
            raise ToileError(f"rate is {self.rate}; allowed: above 0, to 1")
        if self.minutes is not None and not 0 < self.minutes <= 100_000:
            raise ToileError(f"minutes is {self.minutes}; allowed: above 0, to 100,000")
        if len(self.prompts) > _MOST_PROMPTS:
            raise ToileError(f"prompts has {len(self.prompts)} lines; allowed: {_MOST_PROMPTS}")
        for words in (self.caption or "", self.trigger, *self.prompts):
            if len(words) > _LONGEST_WORDS:
                raise ToileError(f"caption, trigger or prompt has {len(words)} characters; allowed: {_LONGEST_WORDS}")

    def recipe(self, base: ServedModel, pictures: Path) -> LoRARecipe | FineTuneRecipe:
        """The recipe, with the same choices as those in recipes/.

        Args:
            base: the model that learns.
            pictures: where they are.

        Raises:
            ToileError: the model makes no pictures of that size, or there are no pictures.
        """
        defaults = base.settings.defaults
        width, height = self.width or defaults.width, self.height or defaults.height
        for name, side in (("width", width), ("height", height)):
            if side < base.multiple or side % base.multiple:
                raise ToileError(f"{name} is {side}; allowed for {base.name}: multiples of {base.multiple}")
        caption = self.caption.strip() if self.caption else ""
        data = DataConfig(
            width=width,
            height=height,
            path=pictures.absolute(),
            split_seed=_split_seed(pictures, caption or None),
            caption=caption or None,
            trigger=self.trigger.strip(),
        )
        objective = DenoisingObjectiveConfig(sample_prompts=self.prompts, sample_guidance=defaults.guidance)
        loop = LoopConfig(
            steps=self.steps,
            batch_size=self.batch,
            learning_rate=self.rate,
            micro_batch_size=AUTO,
            warmup_steps=min(50, self.steps // 20),
            decay_share=0.5,
            weight_decay=0.0 if self.what == LORA else 0.01,
            ema_widths=(0.1,),
            validate_every=max(1, self.steps // 8),
            sample_every=max(1, self.steps // 4),
            save_every=max(1, min(500, self.steps // 4)),
        )
        if self.what == ALL_WEIGHTS:
            return FineTuneRecipe(ALL_WEIGHTS, base.source, data, loop, objective, seed=self.seed)
        return LoRARecipe(
            LORA, base.source, data, loop, LoRAConfig(self.rank, targets=LAYERS[self.layers]), objective, seed=self.seed
        )


def _split_seed(path: Path, caption: str | None) -> int:
    """A seed that holds pictures back even where there are few."""
    source = open_source(path, caption)
    if len(source.records) > _FEW_PICTURES:
        return 0
    hashes, titles = [], []
    for number in range(len(source.records)):
        with contextlib.suppress(ToileError):  # what cannot be read is counted when all is read
            hashes.append(hashlib.sha256(source.read_picture(number)).hexdigest())
            titles.append(source.title(number))
    return first_seed_with_held_out(hashes, titles)
