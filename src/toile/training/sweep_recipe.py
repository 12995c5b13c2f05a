"""Recipes of sweeps: TOML files that say which settings of a training recipe are tried, and how."""

from __future__ import annotations

import itertools
import json
import math
import random
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError
from toile.schema import build_config
from toile.training.recipes import Recipe, load_recipe, recipe_facts
from toile.training.run_summary import changes_what_is_measured

MAX_TRIALS = 10_000
Setting = Mapping[str, Any]  # dotted key of the training recipe -> value


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, whole ones if both ends are; `log`: evenly in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ToileError(f"range from {self.low} to {self.high}: give finite numbers, low below high")
        if self.log and not self.low > 0:
            raise ToileError(f"range from {self.low} to {self.high} with log: low must be above 0")


@dataclass(frozen=True)
class SearchConfig:
    """How settings are chosen.

    Attributes:
        sampler: "grid" tries every combination of the lists; "tpe" lets earlier results guide (Bergstra et al. 2011).
        trials: how many settings; left out with "grid" for all, fewer are drawn at random from the grid.
        seed: of these draws.
        seeds: training seeds; every setting is trained with each of them, so that settings are compared in pairs.
        pruner: "halving" stops a setting at its 1st, 2nd, 4th, 8th ... validation if its held-out loss is in the worse
            half of those seen there (Li et al. 2020); "none" trains all to the end.
    """

    sampler: str = "grid"
    trials: int | None = None
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    pruner: str = "none"

    def __post_init__(self) -> None:
        if self.sampler not in ("grid", "tpe"):
            raise ToileError(f"sampler {self.sampler!r}: grid or tpe")
        if self.pruner not in ("none", "halving"):
            raise ToileError(f"pruner {self.pruner!r}: none or halving")
        if self.trials is not None and not 1 <= self.trials <= MAX_TRIALS:
            raise ToileError(f"trials {self.trials}: 1 to {MAX_TRIALS:,}")
        if self.sampler == "tpe" and self.trials is None:
            raise ToileError("sampler 'tpe' goes on for ever: say how many trials")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ToileError(f"seeds {list(self.seeds)}: one or more different whole numbers, 0 or more")


@dataclass(frozen=True)
class SweepRecipe:
    """A sweep as its file says.

    Attributes:
        recipe: file of the training recipe.
        space: dotted key -> the values to try, or a range.
        storage: an SQLAlchemy URL; `None` is an SQLite file in the sweep's folder.
    """

    recipe: Path
    space: Mapping[str, tuple[Any, ...] | Range]
    search: SearchConfig
    storage: str | None = None

    @property
    def num_trials(self) -> int:
        """How many settings are tried."""
        if self.search.trials is not None:
            return self.search.trials
        return math.prod(len(values) for values in self.space.values() if not isinstance(values, Range))

    def recipe_of(self, setting: Setting, seed: int) -> Recipe:
        """The training recipe with a setting and a seed.

        Raises:
            ToileError: the recipe does not allow the setting.
        """
        overrides = [f"{key}={json_text(value)}" for key, value in setting.items()]
        return load_recipe(self.recipe, [*overrides, f"seed={seed}"])

    def facts(self) -> dict[str, Any]:
        """What must stay the same while a sweep goes on, as plain JSON values."""
        space = {key: asdict(each) if isinstance(each, Range) else list(each) for key, each in self.space.items()}
        facts = {"recipe": recipe_facts(load_recipe(self.recipe)), "space": space, "search": asdict(self.search)}
        return json.loads(json.dumps(facts))


@dataclass(frozen=True)
class _File:
    recipe: Path
    space: Mapping[str, Any]
    search: SearchConfig = SearchConfig()
    storage: str | None = None


def is_sweep(path: Path) -> bool:
    """Whether a TOML file has the keys of a sweep, not of a training recipe."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return "recipe" in content and "task" not in content


def load_sweep(path: Path) -> SweepRecipe:
    """Reads the recipe of a sweep and tries every value of its lists on the training recipe.

    Raises:
        ToileError: no such file, not TOML, an unknown key, a value that the training recipe does not allow, a key whose
            change would make held-out losses incomparable.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ToileError(f"sweep {path}: {error}") from error
    if "task" in content:
        raise ToileError(f"{path} is a recipe for toile train; a sweep names one: recipe = {path.name!r}, and [space]")
    file = build_config(_File, content, f"sweep {path}")
    space = {key: _values(value, f"sweep {path}: {key}") for key, value in _flat(file.space).items()}
    sweep = SweepRecipe(path.parent / file.recipe, space, file.search, file.storage)
    _check(sweep, f"sweep {path}")
    return sweep


def grid_settings(sweep: SweepRecipe) -> list[Setting]:
    """The settings of a grid in order: all, or the drawn ones; the last key of the space changes fastest."""
    values = [list(each) for each in sweep.space.values() if not isinstance(each, Range)]
    settings = [dict(zip(sweep.space, each, strict=True)) for each in itertools.product(*values)]
    if sweep.num_trials == len(settings):
        return list(settings)
    drawn = random.Random(sweep.search.seed).sample(range(len(settings)), sweep.num_trials)
    return [settings[number] for number in sorted(drawn)]


def json_text(value: Any) -> str:
    """A value as JSON, which is TOML too for what a setting may be: numbers, texts, booleans and lists of them."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _flat(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested sections, as TOML makes them of `lora.rank = [4, 8]` without quotes."""
    flat: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _values(value: Any, where: str) -> tuple[Any, ...] | Range:
    if isinstance(value, Mapping):
        return build_config(Range, value, where)
    if not isinstance(value, list) or not value:
        raise ToileError(f"{where}: give a list of values to try, or low and high")
    try:
        texts = [json_text(each) for each in value]
    except (TypeError, ValueError) as error:
        raise ToileError(f"{where}: {error}; give finite numbers, texts, booleans or lists of them") from error
    if len(set(texts)) < len(texts):
        raise ToileError(f"{where}: a value is there twice")
    return tuple(value)


def _check(sweep: SweepRecipe, where: str) -> None:
    if not sweep.space:
        raise ToileError(f"{where}: [space] is empty; give the keys to vary and their values")
    for key in sweep.space:
        if key == "seed":
            raise ToileError(f"{where}: seed is no setting; list the training seeds as search.seeds")
        if changes_what_is_measured(key):
            raise ToileError(f"{where}: {key} changes what the held-out loss measures, so settings cannot be compared")
    ranges = [key for key, values in sweep.space.items() if isinstance(values, Range)]
    if ranges and sweep.search.sampler == "grid":
        raise ToileError(f"{where}: {ranges[0]} is a range, and a grid needs lists; use sampler = 'tpe'")
    if sweep.search.sampler == "grid":
        size = math.prod(len(values) for values in sweep.space.values() if not isinstance(values, Range))
        if sweep.num_trials > size or size > MAX_TRIALS:
            raise ToileError(f"{where}: the grid has {size:,} settings; allowed: up to {MAX_TRIALS:,}, trials no more")
    rungs = {"loop.steps", "loop.validate_every"} & set(sweep.space)
    if rungs and sweep.search.pruner == "halving":
        raise ToileError(f"{where}: halving compares validations, so {min(rungs)} must be the same for all")
    for key, values in sweep.space.items():
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            _check_value(sweep, key, value)


def _check_value(sweep: SweepRecipe, key: str, value: Any) -> None:
    """Refuses a value that the training recipe allows neither by itself nor in any setting of the grid."""

    def allowed(setting: Setting) -> bool:
        try:
            sweep.recipe_of(setting, sweep.search.seeds[0])
        except ToileError:
            return False
        return True

    try:
        sweep.recipe_of({key: value}, sweep.search.seeds[0])
    except ToileError:
        settings = grid_settings(sweep) if sweep.search.sampler == "grid" else []
        if not any(setting[key] == value and allowed(setting) for setting in settings):
            raise
