"""Pairs of pictures for learning to enlarge: what an autoencoder makes of a small picture, and the true large one.

The sides of the split are those of all small pictures, so nothing that another model held out is learnt here.

Shapes: N pairs, h x w content of the small pictures, H x W true pictures.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from toile.data.images import images_from_pixels, pixels_from_images
from toile.data.true_pictures import TruePictures
from toile.errors import ToileError
from toile.models.autoencoders import Autoencoder
from toile.training.latents import load_latents
from toile.training.pictures import PictureSet
from toile.training.placing import device_of
from toile.weights.cache import Cached, cached, tensors_digest

_TOGETHER = 64


class PicturePairs:
    """Small pictures with their true partners, divided as the set they are from.

    Attributes:
        records: one for each pair.
        small: (N, h, w, 3) uint8, the small pictures' content as the data has it.
        rebuilt: (N, h, w, 3) uint8, the same as the autoencoder gives it back, which is how a model's pictures look.
        true: (N, H, W, 3) uint8.
        trigger: a word before every caption.
        train, validation, test: rows of pairs, int64 arrays.
        identity: changes when the true pictures, their size or the content's place change.

    Args:
        pictures: the small ones, each whole.
        true_pictures: the large ones.
        vae: the autoencoder of the model whose pictures will be enlarged; on the CPU, in float32.
        columns: from which column up to which the small pictures have content; the rest is white padding.
        width, height: of the true pictures.

    Raises:
        ToileError: no training picture, or none that is held out, has a partner.
    """

    def __init__(
        self,
        pictures: PictureSet,
        true_pictures: TruePictures,
        vae: Autoencoder,
        columns: tuple[int, int],
        width: int,
        height: int,
    ) -> None:
        keys = [record.key for record in pictures.records]
        wanted = np.array([place for place, key in enumerate(keys) if key in true_pictures], dtype=np.int64)
        if not len(wanted):
            raise ToileError(
                f"{true_pictures.path}: none of {len(keys):,} products has a true picture, named by its id"
            )
        sizes = f"{width}x{height} from columns {columns[0]} to {columns[1]}"
        chosen = hashlib.sha256(" ".join(keys[place] for place in wanted).encode()).hexdigest()[:16]
        self.identity = f"{true_pictures.identity}:{sizes}:{chosen}"
        of_true = _true_pixels(true_pictures, [keys[place] for place in wanted], width, height, self.identity)
        self.true, kept = of_true.tensors["pixels"], of_true.tensors["kept"].numpy()
        positions = wanted[kept]
        self.records = tuple(pictures.records[position] for position in positions)
        self.trigger = pictures.trigger
        left, right = columns
        self.small = pictures.pixels[torch.from_numpy(positions)][:, :, left:right].contiguous()
        whole = _rebuilt_pixels(vae, pictures, positions, self.identity)
        self.rebuilt = whole[:, :, left:right]
        self.train, self.validation, self.test = (
            np.flatnonzero(np.isin(positions, side)) for side in (pictures.train, pictures.validation, pictures.test)
        )
        if not len(self.train) or not len(self.validation):
            raise ToileError(
                f"{true_pictures.path}: of {len(positions)} pictures with a true partner {len(self.train)} are for "
                f"training and {len(self.validation)} held out: at least one of each is needed"
            )
        pictures.tell(of_true.note)
        pictures.tell(
            f"{len(positions):,} have a true partner of {width}x{height}: {len(self.train):,} for training, "
            f"{len(self.validation):,} and {len(self.test):,} held out."
        )

    def true_images(self, rows: np.ndarray) -> Tensor:
        """(B, 3, H, W) in [-1, 1]."""
        return images_from_pixels(self.true[torch.from_numpy(rows)])

    def rebuilt_images(self, rows: np.ndarray) -> Tensor:
        """(B, 3, h, w) in [-1, 1]."""
        return images_from_pixels(self.rebuilt[torch.from_numpy(rows)])


def _true_pixels(true_pictures: TruePictures, keys: list[str], width: int, height: int, identity: str) -> Cached:
    """Pixels (n, H, W, 3) uint8 of the products that have a readable picture, and their places `kept` in `keys`."""

    def make() -> dict[str, Tensor]:
        pixels, kept, _ = true_pictures.load(keys, width, height)
        return {"pixels": torch.from_numpy(pixels), "kept": torch.tensor(kept.tolist())}

    return cached("true pictures", hashlib.sha256(identity.encode()).hexdigest(), make)


@torch.no_grad()
def _rebuilt_pixels(vae: Autoencoder, pictures: PictureSet, positions: np.ndarray, identity: str) -> Tensor:
    """Pixels (n, h, w', 3) uint8 of whole small pictures that went through the autoencoder; cached."""

    def make() -> dict[str, Tensor]:
        parts = []
        latents = load_latents(vae, pictures)
        assert isinstance(latents, Tensor)  # as the pictures are of one shape
        for some in np.split(positions, range(_TOGETHER, len(positions), _TOGETHER)):
            decoded = vae.decode_latents(latents[torch.from_numpy(some)].to(device_of(vae), torch.float32))
            parts.append(pixels_from_images(decoded.cpu()))
        return {"pixels": torch.cat(parts)}

    weights = {name: weight.float() for name, weight in vae.state_dict().items()}
    named = tensors_digest(f"{pictures.pixels_identity}:{identity}:{vae.config}:{device_of(vae).type}", weights)
    found = cached("rebuilt pictures", named, make)
    pictures.tell(found.note)
    return found.tensors["pixels"]
