"""What the engine and its worker processes say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from toile.generation.request import GenerateRequest


@dataclass(frozen=True)
class Share:
    """A job's part of a work: some of its pictures, by number."""

    job: str
    request: GenerateRequest
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Pictures of one or several jobs that agree in all but prompts and seeds. A picture's place is its number here.

    Attributes:
        number: of the work.
        model: what `load` opens.
        shares: of the jobs, in order.
        image, mask, fit, mask_blur, embeddings: see `JobRequest`.
    """

    number: int
    model: str
    shares: tuple[Share, ...]
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)
    fit: str = "pad"
    mask_blur: float = 0.0
    embeddings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drop:
    """Nobody wants the pictures of this job any more."""

    job: str


@dataclass(frozen=True)
class Watch:
    """Somebody looks at this job, and wants previews."""

    job: str


@dataclass(frozen=True)
class Ready:
    """The worker can begin.

    Attributes:
        device, dtype: where it computes and in which precision, as chosen.
        pid: of its process.
        host: the name of its machine; "" for this one.
        trouble: why the model that it should have at hand could not be loaded; "" if it could.
    """

    device: str
    dtype: str
    pid: int
    host: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Stepped:
    """A step is done for the pictures at these places.

    Attributes:
        places: of the pictures that pass the networks together.
        fraction: of their work, 0 to 1.
        previews: small JPEGs by job.
    """

    work: int
    places: tuple[int, ...]
    fraction: float
    previews: Mapping[str, bytes]


@dataclass(frozen=True)
class WordMapsOf:
    """Where a picture looked for its words.

    Attributes:
        words: each once, as they stand in the prompt that was read.
        heat: (words, h, w) float32, the share of attention at each position of the latents.
    """

    words: tuple[str, ...]
    heat: np.ndarray


@dataclass(frozen=True)
class Finished:
    """A picture: its PNG file, and what is told of it; see `PictureInfo`."""

    place: int
    png: bytes = field(repr=False)
    seed: int
    width: int
    height: int
    reading: str | None
    warnings: tuple[str, ...]
    flagged: bool
    maps: WordMapsOf | None


@dataclass(frozen=True)
class Passed:
    """Pictures that are finished; with `is_last` the worker is free."""

    work: int
    pictures: tuple[Finished, ...]
    is_last: bool


@dataclass(frozen=True)
class Refused:
    """The work came to nothing, and the worker is free.

    Attributes:
        message: why, in one line.
        is_fault: the request was right, but the work failed.
    """

    work: int
    message: str
    is_fault: bool


FromWorker = Ready | Stepped | Passed | Refused
ToWorker = Work | Drop | Watch
