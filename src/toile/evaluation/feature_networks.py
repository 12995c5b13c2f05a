"""The networks that look at pictures for evaluation, by name, and which of them may judge which model.

Two are ours and come with the program: "attributes", convolutions that learnt labels, and "words", attention that
learnt captions. "random" has learnt nothing, "random=16" is one of 16 features, for few pictures. Published ones are
read from files that the user has.
Shapes: N pictures, B of them at a time, H x W their size, F features.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from toile.data.images import images_from_pixels, pad_to, pixels_of
from toile.errors import ToileError
from toile.evaluation.features import load_evaluator, same_held_out
from toile.model_files.clip_pair import PREPROCESSOR_NAME, channel_statistics, load_clip_pair
from toile.models.classifier import AttributeClassifier, AttributeClassifierConfig, AttributeLabels
from toile.models.dinov2 import Dinov2Config, Dinov2Model
from toile.models.inception import InceptionConfig, InceptionV3
from toile.weights.checkpoint import open_checkpoint
from toile.weights.folder import build_empty, fill_component, load_component
from toile.weights.mapping import FLOAT32_ON_CPU
from toile.weights.provenance import Provenance, read_provenance, weights_sha256

ATTRIBUTES, WORDS, RANDOM, INCEPTION, CLIP, DINOV2 = "attributes", "words", "random", "inception", "clip", "dinov2"
SHIPPED = (ATTRIBUTES, WORDS)
PUBLISHED: Mapping[str, str] = {
    INCEPTION: "the file pt_inception-2015-12-05-6726825d.pth, which the project mseitzer/pytorch-fid publishes",
    CLIP: "a folder as openai/clip-vit-base-patch32 on the Hugging Face hub: config.json, model.safetensors, "
    "vocab.json, merges.txt, preprocessor_config.json",
    DINOV2: "a folder as facebook/dinov2-large on the Hugging Face hub: config.json, model.safetensors",
}
RANDOM_DIM, _RANDOM_STEP = 256, 8
_RANDOM_SEED = 20150512
_SMALL_BATCH, _LARGE_BATCH = 128, 16
_DINOV2_SIDE = 224
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNetwork(Protocol):
    """A network that looks at pictures and says what it sees in numbers.

    Attributes:
        name: what people call it, such as "attributes"; other weights of the kind have the start of their hash added.
        sha256: of its file of weights.
        feature_dim: F.
        preparation: how pictures are brought to what it takes, for protocols.
        trained_on: identity of the data and split whose held-out pictures it has not seen; "" if that is not known;
            None if it learnt from other pictures than ours, or from none.
        made_of: SHA-256 of it, and of the networks that took part in its training.
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def feature_dim(self) -> int: ...

    @property
    def preparation(self) -> str: ...

    @property
    def trained_on(self) -> str | None: ...

    @property
    def made_of(self) -> frozenset[str]: ...

    def features(self, pixels: Tensor, batch_size: int | None = None) -> Tensor:
        """What it sees.

        Args:
            pixels: (N, H, W, 3) uint8 of any size, N at least 1; brought to its size as `preparation` says.
            batch_size: pictures at a time, which changes nothing but the memory needed; None is one that suits it.

        Returns:
            (N, F) float32, without gradients.
        """


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A `FeatureNetwork` in memory.

    Attributes:
        prepare: pixels (B, H, W, 3) uint8 -> what `embed` takes.
        embed: -> (B, F).
        batch_size: pictures at a time where nothing else is asked for.
        others: see `made_of`, without itself.
    """

    name: str
    sha256: str
    feature_dim: int
    preparation: str
    prepare: Callable[[Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    trained_on: str | None = None
    others: frozenset[str] = field(default_factory=frozenset)
    batch_size: int = _SMALL_BATCH

    @property
    def made_of(self) -> frozenset[str]:
        """See `FeatureNetwork`."""
        return self.others | {self.sha256}

    @torch.no_grad()
    def features(self, pixels: Tensor, batch_size: int | None = None) -> Tensor:
        """See `FeatureNetwork`.

        Raises:
            ToileError: no pictures, or no pixels.
        """
        if not len(pixels):
            raise ToileError("no pictures to look at; give at least one")
        size = batch_size or self.batch_size
        parts = (pixels[first : first + size] for first in range(0, len(pixels), size))
        return torch.cat([self.embed(self.prepare(part)).float() for part in parts])


def open_feature_network(spec: str) -> FeatureNetwork:
    """A network by what people type: "attributes", "words", "random", or KIND=PLACE of weights that they have.

    Args:
        spec: "attributes=FOLDER" or "words=FOLDER" for a judge that a run trained (`model/classifier`, `model/clip`),
            "inception=FILE", "clip=FOLDER", "dinov2=FOLDER" for published ones, "random=16" for one that has learnt
            nothing and has so many features.

    Raises:
        ToileError: an unknown kind, or there are no weights, or they do not fit; nothing stands in for them.
    """
    kind, named, place = spec.partition("=")
    openers = {ATTRIBUTES: _attributes, WORDS: _words, INCEPTION: _inception, CLIP: _clip, DINOV2: _dinov2}
    if kind == RANDOM:
        return _random(_random_width(spec, place) if named else RANDOM_DIM)
    if kind in SHIPPED and not named:
        return openers[kind](find_judge(kind), kind)
    if kind not in openers:
        known = ", ".join([*SHIPPED, RANDOM, f"{RANDOM}=16", *(f"{each}=PLACE" for each in openers)])
        raise ToileError(f"feature network {spec!r}: known are {known}")
    path, what = Path(place), PUBLISHED.get(kind, "the folder of a judge that a run trained, in its model/")
    if not place or not (path.is_file() if kind == INCEPTION else path.is_dir()):
        given = f"there is no {place}" if place else "it does not come with this program"
        raise ToileError(f"{kind}: {given}. It needs {what}. Put that anywhere, and write {kind}=PATH")
    return openers[kind](path, f"{kind}:{weights_sha256(path)[:8]}" if kind in SHIPPED else kind)


def find_judge(name: str) -> Path:
    """The folder of a judge that comes with the program: "attributes" (a classifier) or "words" (a CLIP)."""
    if name not in SHIPPED:
        raise ToileError(f"judge {name!r}: with this program come {' and '.join(SHIPPED)}")
    return Path(__file__).parents[1] / "assets" / "judges" / name


def refuse_partial(network: FeatureNetwork, provenance: Provenance | None, held_out: str | None = None) -> None:
    """Refuses a judge that took part in training what it is to judge, or may have seen the held-out pictures.

    Args:
        provenance: of the weights that made the pictures; None where nothing is known of them, then neither is this.
        held_out: of the data and split whose held-out pictures are looked at (`PictureSet.pixels_identity`).

    Raises:
        ToileError: it, or a network it is made of, is among the networks of the provenance; or it learnt from another
            split.
    """
    if provenance is not None:
        roles = [role for role, digest in provenance.networks.items() if digest in network.made_of]
        if roles:
            raise ToileError(
                f"the judge {network.name} took part in training what it is to judge (as {', '.join(sorted(roles))}): "
                "it would praise what it helped to make; look with another network"
            )
    if held_out is not None and network.trained_on is not None and not same_held_out(network.trained_on, held_out):
        raise ToileError(
            f"the judge {network.name} was trained on {network.trained_on or 'unknown data'}, not on the training side "
            f"of {held_out}: it may have seen the held-out pictures; look with another network"
        )


# ---------------------------------------------------------------------------------------------------- ours


def _attributes(folder: Path, name: str) -> LoadedNetwork:
    classifier = load_evaluator(folder).eval().requires_grad_(False)
    trained_on, known = classifier.config.trained_on, read_provenance(folder)
    return _of_classifier(classifier, name, weights_sha256(folder), trained_on, known)


def _of_classifier(
    classifier: AttributeClassifier, name: str, digest: str, trained_on: str | None, known: Provenance | None = None
) -> LoadedNetwork:
    def embed(pixels: Tensor) -> Tensor:
        return classifier.features(images_from_pixels(pixels))

    size = re.search(r":(\d+)x(\d+):", trained_on or "")
    prepare, preparation = (_as_they_are, "as they are") if size is None else _fitting(int(size[1]), int(size[2]))
    others = known.took_part if known is not None else frozenset()
    return LoadedNetwork(
        name, digest, classifier.config.feature_dim, preparation, prepare, embed, trained_on, frozenset(others)
    )


def random_spec(most: int) -> str:
    """The random network of most features, at most 256, that so many pictures are enough for."""
    width = max(_RANDOM_STEP, min(RANDOM_DIM, most // _RANDOM_STEP * _RANDOM_STEP))
    return RANDOM if width == RANDOM_DIM else f"{RANDOM}={width}"


def _random_width(spec: str, text: str) -> int:
    width = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
    if not _RANDOM_STEP <= width <= RANDOM_DIM or width % _RANDOM_STEP:
        raise ToileError(f"feature network {spec!r}: give a multiple of {_RANDOM_STEP}, at most {RANDOM_DIM}")
    return width


def _random(width: int) -> LoadedNetwork:
    default = AttributeClassifierConfig(labels=AttributeLabels(article_type=("none",)))
    config = replace(default, block_out_channels=(*default.block_out_channels[:-1], width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        classifier = AttributeClassifier(config).eval().requires_grad_(False)
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    name = RANDOM if width == RANDOM_DIM else f"{RANDOM}:{width}"
    return _of_classifier(classifier, name, digest.hexdigest(), None)


def _words(folder: Path, name: str) -> LoadedNetwork:
    known = read_provenance(folder)
    return _of_clip(folder, name, "" if known is None else known.held_out, known)


# ---------------------------------------------------------------------------------------------------- published


def _clip(folder: Path, name: str) -> LoadedNetwork:
    return _of_clip(folder, name, None, read_provenance(folder))


def _of_clip(folder: Path, name: str, trained_on: str | None, known: Provenance | None) -> LoadedNetwork:
    pair = load_clip_pair(folder)
    tower = pair.clip.vision_model
    height, width = pair.height_width
    prepare, preparation = _fitting(width, height)

    def embed(pixels: Tensor) -> Tensor:
        return tower.pooled(tower(pair.images(pixels)))

    return LoadedNetwork(
        name,
        weights_sha256(folder),
        pair.clip.config.vision_config.hidden_size,
        f"{preparation}, mean {_numbers(pair.mean)}, spread {_numbers(pair.std)}",
        prepare,
        embed,
        trained_on,
        frozenset() if known is None else known.took_part,
        _SMALL_BATCH if height * width <= 128 * 128 else _LARGE_BATCH,
    )


def _inception(path: Path, name: str) -> LoadedNetwork:
    """Pictures are prepared as pytorch-fid does: enlarged in float, without smoothing where they are larger."""
    network = build_empty(InceptionV3, InceptionConfig())
    # Files may leave out how many batches normalisations have seen, which changes nothing.
    counts = {
        each: torch.zeros_like(tensor, device="cpu")
        for each, tensor in network.state_dict().items()
        if each.endswith(".num_batches_tracked")
    }
    checkpoint = open_checkpoint(path)
    fill_component(network, {**counts, **checkpoint.load(checkpoint.shapes, FLOAT32_ON_CPU)}, str(path))
    network.eval().requires_grad_(False)
    side = network.config.image_size

    def prepare(pixels: Tensor) -> Tensor:
        images = images_from_pixels(pixels)
        return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)

    preparation = f"bilinear without antialias to {side}x{side}, stretched, [-1, 1]"
    return LoadedNetwork(
        name, weights_sha256(path), network.feature_dim, preparation, prepare, network, batch_size=_LARGE_BATCH
    )


def _dinov2(folder: Path, name: str) -> LoadedNetwork:
    """Pictures are prepared as for the FD-DINOv2 of Stein et al. 2023 (dgm-eval)."""
    network = load_component(folder, Dinov2Model, Dinov2Config).eval().requires_grad_(False)
    described = folder / PREPROCESSOR_NAME
    mean, std = channel_statistics(described) if described.is_file() else _IMAGENET
    channels = torch.tensor(mean).reshape(3, 1, 1), torch.tensor(std).reshape(3, 1, 1)
    # 16 patches of 14 pixels; for other patches the nearest side that holds whole ones.
    side = max(1, round(_DINOV2_SIDE / network.config.patch_size)) * network.config.patch_size

    def prepare(pixels: Tensor) -> Tensor:
        whole = pixels.permute(0, 3, 1, 2).contiguous()
        resized = F.interpolate(whole, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        return (resized.float() / 255 - channels[0]) / channels[1]

    def embed(images: Tensor) -> Tensor:
        return network.pooled(network(images))

    preparation = f"bicubic, antialias, {side}x{side}, stretched, mean {_numbers(mean)}, spread {_numbers(std)}"
    return LoadedNetwork(
        name,
        weights_sha256(folder),
        network.config.hidden_size,
        preparation,
        prepare,
        embed,
        batch_size=_LARGE_BATCH,
    )


# ---------------------------------------------------------------------------------------------------- preparation


def _as_they_are(pixels: Tensor) -> Tensor:
    return pixels


def _fitting(width: int, height: int) -> tuple[Callable[[Tensor], Tensor], str]:
    """Brings pixels to one size as training does, and the words for it."""
    words = f"{width}x{height}, as they are; of other sizes scaled to fit (Lanczos) and padded with white"
    return lambda pixels: fitted(pixels, width, height), words


def fitted(pixels: Tensor, width: int, height: int) -> Tensor:
    """Pixels (N, H, W, 3) uint8 of width x height: each scaled until it touches two sides, the rest white."""
    if tuple(pixels.shape[1:3]) == (height, width):
        return pixels
    pictures = (Image.fromarray(each.numpy()) for each in pixels)
    return torch.from_numpy(np.stack([pixels_of(pad_to(each, width, height, enlarge=True)) for each in pictures]))


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
