"""The real pictures that everything is held against: which give the prompts, which are the reference, what judges see.

Shapes: P prompts, R pictures of the reference, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.feature_networks import FeatureNetwork
from toile.evaluation.quality import divide_held_out
from toile.evaluation.suites import Prompt, Suite, held_out
from toile.training.pictures import PictureSet
from toile.weights.cache import cached

SHARE_OF_PROMPTS = 0.55
_TOGETHER = 1024


@dataclass(frozen=True, eq=False)
class RealSide:
    """Real pictures, divided.

    Attributes:
        pictures: all of them, with their split.
        prompts: positions of the held-out pictures whose captions are asked for, (P,) int64.
        reference: positions of the other held-out pictures, (R,) int64.
        suite: the captions and labels of `prompts`.
    """

    pictures: PictureSet
    prompts: np.ndarray
    reference: np.ndarray
    suite: Suite
    _features: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def learnt(self) -> np.ndarray:
        """Positions of the training pictures, each once, ascending; copies are looked for among them."""
        return np.unique(self.pictures.train)

    def prompts_for(self, num_pictures: int) -> tuple[Prompt, ...]:
        """A prompt for each of so many pictures; with more pictures than prompts they begin again, with other seeds."""
        prompts = self.suite.prompts
        return tuple(prompts[number % len(prompts)] for number in range(num_pictures))

    def own_positions(self, num_pictures: int) -> np.ndarray:
        """The real picture of each prompt, (N,) int64."""
        return self.prompts[np.arange(num_pictures) % len(self.prompts)]

    def pixels(self, positions: np.ndarray) -> Tensor:
        """(N, H, W, 3) uint8."""
        return self.pictures.pixels[torch.from_numpy(positions)]

    def features(self, network: FeatureNetwork, positions: np.ndarray) -> Tensor:
        """What a network sees in real pictures of one side, (N, F) float32.

        It is computed once for the whole side and kept on disk.

        Args:
            positions: all held out, or all learnt.
        """
        is_learnt = bool(len(positions)) and bool(np.isin(positions, self.learnt).all())
        side = self.learnt if is_learnt else np.union1d(self.pictures.validation, self.pictures.test)
        key = f"{network.sha256} {network.preparation} {'learnt' if is_learnt else 'held out'}"
        if key not in self._features:
            self._features[key] = self._load_features(network, key, side)
        return self._features[key][torch.from_numpy(np.searchsorted(side, positions))]

    def _load_features(self, network: FeatureNetwork, key: str, side: np.ndarray) -> Tensor:
        def make() -> dict[str, Tensor]:
            parts = np.array_split(side, max(1, len(side) // _TOGETHER))
            return {"features": torch.cat([network.features(self.pixels(part)) for part in parts])}

        identity = hashlib.sha256(f"{key} {self.pictures.identity}".encode()).hexdigest()
        return cached("features", identity, make).tensors["features"]


def divide_real(pictures: PictureSet, seed: int = 0, least_reference: int = 0) -> RealSide:
    """Divides the held-out pictures into prompts and reference, at random.

    Args:
        seed: of the division.
        least_reference: pictures that the reference must have, as a network with so many features needs.

    Raises:
        ToileError: too few pictures are held out.
    """
    positions = np.concatenate([pictures.validation, pictures.test])
    if len(positions) < 20:
        raise ToileError(f"{len(positions)} pictures are held out, which is too few to judge by; give more data")
    num_prompts = max(10, min(round(SHARE_OF_PROMPTS * len(positions)), len(positions) - least_reference))
    division = divide_held_out(positions, num_prompts, seed)
    return RealSide(pictures, division.prompts, division.reference, held_out(pictures, num_prompts, seed))


def alike_in_training(real: RealSide, prompts: Sequence[Mapping[str, str]], seed: int) -> np.ndarray:
    """For each prompt a training picture that fits it: same article and colour and gender, or what comes nearest.

    Args:
        prompts: fields of N prompts.

    Returns:
        positions (N,) int64.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, ...], list[int]] = {}
    names = ("articleType", "baseColour", "gender")
    for position in real.pictures.train.tolist():
        fields = real.pictures.records[position].fields
        for depth in range(len(names) + 1):
            groups.setdefault(tuple(fields.get(name, "") for name in names[:depth]), []).append(position)
    chosen = []
    for fields in prompts:
        wanted = tuple(fields.get(name, "") for name in names)
        depth = next(depth for depth in range(len(names), -1, -1) if wanted[:depth] in groups)
        chosen.append(int(rng.choice(groups[wanted[:depth]])))
    return np.array(chosen, dtype=np.int64)
