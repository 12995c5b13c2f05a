"""Examples for learning to enlarge pictures: crops of true ones, with noise, a level and words of each.

Shapes: B examples, s side of a crop, C channels of squares of p x p pixels, h = w = s / p, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.diffusion.upscaling import enlarge_smoothly
from toile.text.tokenizer import Tokenizer
from toile.training.denoising_objective import with_trigger
from toile.training.draws import ShuffledOrder, example_noise, generator, seed_of, spread_places
from toile.training.picture_pairs import PicturePairs
from toile.upscaler import UpscalerConfig

_MEASURED = 512
_PLACES = 3
_WHITE = 250


@dataclass(frozen=True)
class UpscalingBatch:
    """true, smooth: (B, 3, s, s) in [-1, 1], what is wanted and the small picture enlarged, with its noise; levels:
    (B,) int64 of that noise; noise: (B, C, h, w); timesteps: (B,) int64; token_ids: (B, L) int64.
    """

    true: Tensor
    smooth: Tensor
    levels: Tensor
    noise: Tensor
    timesteps: Tensor
    token_ids: Tensor


@dataclass(frozen=True)
class WholePictures:
    """Held-out pictures to be enlarged: small: (B, 3, h, w) as a model would have made them, with their padding; true:
    (B, 3, H, W); token_ids: (B, L); seeds: of the noise of each.
    """

    small: Tensor
    true: Tensor
    token_ids: Tensor
    seeds: tuple[int, ...]


class UpscalingExamples:
    """Draws examples from pairs of pictures; each depends on its number alone.

    Args:
        pairs: the pictures.
        tokenizer: reads captions.
        config: sizes; `residual_std` is measured here.
        side: p.
        crop: s, a multiple of p.
        num_levels: levels of noise on the small picture are drawn from so many.
        uncond_share: share of the examples without words.
        seed: of all draws.
    """

    def __init__(
        self,
        pairs: PicturePairs,
        tokenizer: Tokenizer,
        config: UpscalerConfig,
        side: int,
        crop: int,
        num_levels: int,
        uncond_share: float,
        seed: int,
    ) -> None:
        self.pairs, self.tokenizer, self.side, self.crop = pairs, tokenizer, side, crop
        self.num_levels, self.uncond_share, self.seed = num_levels, uncond_share, seed
        self._order, self._writer = ShuffledOrder(len(pairs.train), seed), CaptionWriter()
        self.config = replace(config, residual_std=self._measured_std(config))

    def _measured_std(self, config: UpscalerConfig) -> float:
        """Of pictures of the training side, white parts included; rounded, so that it is the same in every file."""
        rows = self.pairs.train[:_MEASURED]
        squares = []
        for some in np.array_split(rows, max(1, len(rows) // 32)):
            smooth = enlarge_smoothly(self.pairs.rebuilt_images(some), config.height, config.width)
            squares.append(float((self.pairs.true_images(some) - smooth).square().mean()) * len(some))
        return round((sum(squares) / len(rows)) ** 0.5, 4)

    def batch(self, examples: range, timesteps: Tensor) -> UpscalingBatch:
        """Pairs in shuffled order with what is drawn for each; timesteps (B,) as given."""
        return self._crops(self.pairs.train[self._order.positions(examples)], examples, timesteps, "train")

    def spread_timesteps(self, examples: range, num_timesteps: int) -> Tensor:
        """(B,) int64: evenly spread over any row of examples, in another order in each run."""
        shift = seed_of(self.seed, "timesteps") / 2**63
        return (torch.tensor(spread_places(examples, shift), dtype=torch.float64) * num_timesteps).long()

    def held_out_pictures(self, number: int, together: int) -> Iterator[WholePictures]:
        """Whole held-out pictures, the same at every call."""
        chosen = self.pairs.validation[:number]
        for rows in np.split(chosen, range(together, len(chosen), together)):
            captions = [self._caption(row, 0, "validation") for row in rows]
            token_ids = self.tokenizer.batch(captions)[0]
            yield WholePictures(
                self._padded(self.pairs.rebuilt_images(rows)),
                self.pairs.true_images(rows),
                token_ids,
                tuple(rows.tolist()),
            )

    def _padded(self, small: Tensor) -> Tensor:
        config = self.config
        whole = torch.ones(len(small), 3, config.small_height, config.small_width)
        whole[..., config.left : config.right] = small
        return whole

    def _crops(self, rows: np.ndarray, examples: range, timesteps: Tensor, purpose: str) -> UpscalingBatch:
        config, crop = self.config, self.crop
        small = self.pairs.rebuilt_images(rows)
        levels = [seed_of(self.seed, f"level {purpose}", example) % self.num_levels for example in examples]
        strength = torch.tensor(levels, dtype=torch.float32)[:, None, None, None] * config.noise_step
        small = small + strength * example_noise(self.seed, f"small {purpose}", examples, tuple(small.shape[1:]))
        smooth = enlarge_smoothly(small, config.height, config.width)
        true = self.pairs.true_images(rows)
        places = [self._place(row, example, purpose) for row, example in zip(rows, examples, strict=True)]
        cut = [
            torch.stack(
                [picture[:, y : y + crop, x : x + crop] for picture, (y, x) in zip(images, places, strict=True)]
            )
            for images in (true, smooth)
        ]
        shape = (3 * self.side**2, crop // self.side, crop // self.side)
        noise = example_noise(self.seed, purpose, examples, shape)
        token_ids = self.tokenizer.batch(
            [self._caption(row, example, purpose) for row, example in zip(rows, examples, strict=True)]
        )[0]
        return UpscalingBatch(cut[0], cut[1], torch.tensor(levels), noise, timesteps, token_ids)

    def _place(self, row: int, example: int, purpose: str) -> tuple[int, int]:
        """Top and left of a crop, multiples of p: of a few random places the one with the least white."""
        rows, columns = ((length - self.crop) // self.side + 1 for length in (self.config.height, self.config.width))
        draws = torch.rand(_PLACES, 2, generator=generator(self.seed, f"place {purpose}", example))
        whole, best, most = self.pairs.true[row], (0, 0), -1
        for down, right in draws.tolist():
            y, x = int(down * rows) * self.side, int(right * columns) * self.side
            seen = whole[y : y + self.crop : 4, x : x + self.crop : 4]
            content = int((seen.amin(dim=-1) < _WHITE).sum())
            if content > most:
                best, most = (y, x), content
        return best

    def _caption(self, row: int, example: int, purpose: str) -> str:
        record, trigger = self.pairs.records[row], self.pairs.trigger
        if purpose != "train":
            return with_trigger(trigger, self._writer.full(record))
        if seed_of(self.seed, "uncond", example) / 2**63 < self.uncond_share:
            return ""
        return with_trigger(trigger, self._writer.write(record, self.seed, example))
