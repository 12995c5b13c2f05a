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
from toile.user_folders import cache_folder
from toile.weights.files import load_tensors, save_tensors

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
        self.true, kept = _true_pixels(true_pictures, [keys[place] for place in wanted], width, height, self.identity)
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


def _true_pixels(
    true_pictures: TruePictures, keys: list[str], width: int, height: int, identity: str
) -> tuple[Tensor, np.ndarray]:
    """Pixels (n, H, W, 3) uint8 of the products that have a readable picture, and their places in `keys`; cached."""
    name = hashlib.sha256(f"true:{identity}".encode()).hexdigest()[:32]
    path = cache_folder() / f"true-pictures-{name}.safetensors"
    if not path.exists():
        pixels, kept, _ = true_pictures.load(keys, width, height)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(
            path, {"pixels": torch.from_numpy(pixels), "kept": torch.tensor(kept.tolist())}, {"pairs": identity}
        )
    found = load_tensors(path)
    return found["pixels"], found["kept"].numpy()


@torch.no_grad()
def _rebuilt_pixels(vae: Autoencoder, pictures: PictureSet, positions: np.ndarray, identity: str) -> Tensor:
    """Pixels (n, h, w', 3) uint8 of whole small pictures that went through the autoencoder; cached."""
    digest = hashlib.sha256(f"{pictures.pixels_identity}:{identity}:{vae.config}".encode())
    for name, weight in sorted(vae.state_dict().items()):
        digest.update(f"{name}:".encode())
        digest.update(weight.float().contiguous().numpy().tobytes())
    path = cache_folder() / f"rebuilt-pictures-{digest.hexdigest()[:32]}.safetensors"
    if not path.exists():
        parts = []
        latents = load_latents(vae, pictures)
        assert isinstance(latents, Tensor)  # as the pictures are of one shape
        for some in np.split(positions, range(_TOGETHER, len(positions), _TOGETHER)):
            parts.append(pixels_from_images(vae.decode_latents(latents[torch.from_numpy(some)].float())))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {"pixels": torch.cat(parts)}, {"pairs": identity})
    return load_tensors(path)["pixels"]
