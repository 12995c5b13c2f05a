"""The process that makes pictures for the engine, on one device."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from PIL import Image

from toile.data.images import open_image, pixels_from_images
from toile.device import choose_device, choose_dtype, dtype_name
from toile.errors import ToileError, WorkFailedError
from toile.generation.batch import GenerateStep, NoiseChosen, form_of
from toile.generation.beginning import begin_with
from toile.generation.pictures import Event, Picture, plan_pictures
from toile.generation.request import GenerateRequest, ImageRequest
from toile.generation.word_maps import map_of
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import encode_png
from toile.text.rows import tokenize_prompt
from toile.web.jobs.messages import (
    Drop,
    Finished,
    FromWorker,
    Passed,
    Ready,
    Refused,
    Stepped,
    Watch,
    WordMapsOf,
    Work,
)
from toile.web.jobs.warm_models import WarmModels

_NICENESS = 5  # behind the server, which has little to do, but at once
_SECONDS_BETWEEN_STEPS = 0.05  # that are told, so that tiny models do not spend their time talking
_SECONDS_BETWEEN_PREVIEWS = 0.5
_SHARE_OF_PREVIEWS = 0.1  # of a worker's time at most
_PREVIEW_SIDE = 256


@dataclass(frozen=True)
class WorkerConfig:
    """How a worker is set up.

    Attributes:
        device, dtype: see `LatentDiffusion.load`.
        warm: what `load` opens before the first work; "" for nothing.
        kept_models: how many stay in memory.
        threads: of the CPU; None leaves PyTorch's choice.
    """

    device: str = "auto"
    dtype: str = "auto"
    warm: str = ""
    kept_models: int = 2
    threads: int | None = None


def run_worker(connection: Connection, config: WorkerConfig) -> None:
    """Makes what comes through the connection until its other end is closed; started in a process of its own."""
    # The engine decides when it is over: a terminal's Ctrl-C and a service manager's signal reach all processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        Worker(connection, config).run()


class Worker:
    """Makes works one after the other.

    Args:
        connection: to the engine.
        config: see there.
    """

    def __init__(self, connection: Connection, config: WorkerConfig) -> None:
        self._connection = connection
        self._config = config
        self._models = WarmModels(config.device, config.dtype, config.kept_models)
        self._dropped: set[str] = set()
        self._watched: set[str] = set()
        self._told = 0.0
        self._next_preview = 0.0
        # Files are packed beside each other, as the threads of the networks have nothing to do meanwhile.
        self._packers = ThreadPoolExecutor(torch.get_num_threads(), "toile-packer")

    def run(self) -> None:
        """Until the connection is closed, which raises EOFError."""
        device = choose_device(self._config.device)
        trouble = ""
        if self._config.warm:
            try:
                self._models.model(self._config.warm)
            except ToileError as error:
                trouble = str(error)
        dtype = dtype_name(choose_dtype(self._config.dtype, device))
        self._send(Ready(str(device), dtype, os.getpid(), trouble=trouble))
        while True:
            message = self._connection.recv()
            if isinstance(message, Work):
                self._work(message)

    def _work(self, work: Work) -> None:
        self._dropped.clear()
        self._watched.clear()
        # A picture that is there in a moment needs no preview, which would take a tenth of that moment.
        self._next_preview = time.monotonic() + _SECONDS_BETWEEN_PREVIEWS
        try:
            self._make(work)
        except ToileError as error:
            self._send(Refused(work.number, str(error), isinstance(error, WorkFailedError)))
        except (EOFError, ConnectionError):
            raise  # the engine is gone
        except Exception as error:  # whatever one job does, others follow
            traceback.print_exc()
            self._send(Refused(work.number, f"{type(error).__name__}: {error}", True))

    def _make(self, work: Work) -> None:
        model = self._models.with_words(self._models.model(work.model), work.embeddings)
        request, images, places = _gathered(model, work)
        jobs = [share.job for share in work.shares for _ in share.numbers]
        plan = plan_pictures(model, request, self._models.loras(model, images), images)
        packing: list[tuple[Picture, int, Future[bytes]]] = []
        with closing(plan.make(range(len(plan.images)))) as events:
            for event in self._while_wanted(events, set(jobs)):
                if isinstance(event, Picture):
                    packing.append((event, places[event.index], self._packers.submit(_packed, event)))
                    continue
                if packing:  # of the pass before
                    self._send(Passed(work.number, tuple(_finished(model, *each) for each in packing), False))
                    packing.clear()
                self._tell(work, model, event, places, jobs)
        self._send(Passed(work.number, tuple(_finished(model, *each) for each in packing), True))

    def _while_wanted(self, events: Generator[Event, None, None], jobs: set[str]) -> Generator[Event, None, None]:
        for event in events:
            while self._connection.poll():
                message = self._connection.recv()
                if isinstance(message, Drop):
                    self._dropped.add(message.job)
                elif isinstance(message, Watch):
                    self._watched.add(message.job)
            if jobs <= self._dropped:
                return
            yield event

    def _tell(
        self,
        work: Work,
        model: LatentDiffusion,
        event: NoiseChosen | GenerateStep,
        places: Sequence[int],
        jobs: Sequence[str],
    ) -> None:
        now = time.monotonic()
        is_last = isinstance(event, GenerateStep) and event.step == event.num_steps
        if not is_last and now < self._told + _SECONDS_BETWEEN_STEPS:
            return
        self._told = now
        rows = tuple(places[event.first_image : event.first_image + event.num_rows])
        previews = {}
        if self._watched and isinstance(event, GenerateStep) and not is_last and now >= self._next_preview:
            wanted = {jobs[place]: row for row, place in reversed(list(enumerate(rows)))}  # the first row of each
            previews = {job: _preview(model, event, row) for job, row in wanted.items() if job in self._watched}
            took = time.monotonic() - now
            self._next_preview = now + max(_SECONDS_BETWEEN_PREVIEWS, took / _SHARE_OF_PREVIEWS)
        self._send(Stepped(work.number, rows, event.batch_fraction, previews))

    def _send(self, message: FromWorker) -> None:
        self._connection.send(message)


def _gathered(model: LatentDiffusion, work: Work) -> tuple[GenerateRequest, list[ImageRequest], list[int]]:
    """The request that says the settings, all pictures of the work as typed, and the place of each.

    Pictures whose prompts have one form stand together, because only those pass the networks together.
    """
    request = work.shares[0].request
    if work.image is not None:
        image = open_image(work.image)
        mask = None if work.mask is None else open_image(work.mask)
        request = begin_with(image, mask, False, request, model, work.fit, work.mask_blur)
    images: list[ImageRequest] = []
    for share in work.shares:
        all_of_job = share.request.images()
        images += [all_of_job[number] for number in share.numbers]
    settings = request.settings_for(model)
    forms = [(form_of([image], model, settings), image.loras) for image in images]
    order = list(dict.fromkeys(forms))
    places = sorted(range(len(images)), key=lambda place: order.index(forms[place]))
    return request, [images[place] for place in places], places


def _packed(picture: Picture) -> bytes:
    source = picture.source
    return encode_png(picture.pixels, picture.recipe, None if source is None else source.as_texts())


def _finished(model: LatentDiffusion, picture: Picture, place: int, png: Future[bytes]) -> Finished:
    height, width = picture.pixels.shape[:2]
    return Finished(
        place,
        png.result(),
        picture.recipe.seed,
        width,
        height,
        picture.recipe.reading,
        picture.warnings,
        picture.safety is not None and picture.safety.flagged,
        _maps(model, picture),
    )


def _maps(model: LatentDiffusion, picture: Picture) -> WordMapsOf | None:
    if picture.maps is None:
        return None
    tokens = tokenize_prompt(model.tokenizer, picture.recipe.text)
    words = tuple(dict.fromkeys(word.text for word in tokens.words if any(map(str.isalnum, word.text))))
    if not words:
        return None
    heat = torch.stack([map_of(picture.maps, tokens, word) for word in words])
    return WordMapsOf(words, heat.float().numpy())


@torch.inference_mode()
def _preview(model: LatentDiffusion, step: GenerateStep, row: int) -> bytes:
    pixels = pixels_from_images(model.decode_latents(step.denoised[row : row + 1]))[0].cpu().numpy()
    image = Image.fromarray(pixels)
    image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
