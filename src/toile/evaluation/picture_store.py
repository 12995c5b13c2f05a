"""Pictures to judge, on disk: memory stays the same however many there are, and what was made is not made twice.

Shapes: N pictures of H x W.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toile import __version__
from toile.data.images import pad_to, pixels_of
from toile.device import keep_freed_memory
from toile.errors import ToileError
from toile.evaluation.contestants import Contestant
from toile.weights.files import read_json, write_json_atomically

_FLUSH_EVERY = 100


class PictureStore:
    """N pictures of one maker in a file that is mapped into memory.

    Args:
        folder: of all stores.
        key: everything that the pictures depend on, plain values; it names the file.
        shape: (N, H, W).
    """

    def __init__(self, folder: Path, key: Any, shape: tuple[int, int, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        named = json.dumps([__version__, key, shape], sort_keys=True, default=str)
        name = hashlib.sha256(named.encode()).hexdigest()[:24]
        path, self._told = folder / f"{name}.npy", folder / f"{name}.json"
        self.count = int(read_json(self._told)["count"]) if path.is_file() and self._told.is_file() else 0
        mode = "r+" if self.count else "w+"
        self.pixels = np.lib.format.open_memmap(path, mode, dtype=np.uint8, shape=None if self.count else (*shape, 3))

    def __len__(self) -> int:
        return len(self.pixels)

    def fill(self, pictures: Iterator[np.ndarray]) -> Iterator[int]:
        """Takes the pictures that are still missing; yields how many there are after each.

        Args:
            pictures: from number `count` on, (H', W', 3) uint8; one of another size is fitted into H x W on white.

        Raises:
            ToileError: there are fewer than are missing.
        """
        height, width = self.pixels.shape[1:3]
        for picture in pictures:
            if picture.shape[:2] != (height, width):
                picture = pixels_of(pad_to(Image.fromarray(picture), width, height, enlarge=True))
            self.pixels[self.count] = picture
            self.count += 1
            if self.count % _FLUSH_EVERY == 0 or self.count == len(self):
                self.pixels.flush()
                self._tell()
            yield self.count
        if self.count < len(self):
            raise ToileError(f"{self.count} of {len(self)} pictures were made")

    def _tell(self) -> None:
        write_json_atomically(self._told, {"count": self.count})


def make_pictures(
    contestant: Contestant, prompts: Sequence[str], seed: int, folder: Path, size: tuple[int, int]
) -> Iterator[PictureStore | int]:
    """Makes the pictures of a contestant, or finds those that were made before.

    Args:
        prompts: N.
        seed: of the first picture.
        folder: where they are kept.
        size: width and height at which they are judged.

    Yields:
        how many there are, and at last the store.
    """
    key = [dict(contestant.settings), dict(contestant.facts), list(prompts), seed]
    store = PictureStore(folder, key, (len(prompts), size[1], size[0]))
    if store.count < len(store):
        keep_freed_memory()  # as when the model was loaded; judging those of another maker has ended it
        yield from store.fill(contestant.make(prompts[store.count :], seed + store.count))
    yield store
