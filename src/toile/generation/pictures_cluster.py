"""Pictures by workers on several machines, the same as by one.

What a picture looks like is a function of its seed and of the batch it is made in, so batches are divided among the
machines, never cut differently, and what comes back is put into order.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from toile.cluster.crew import Crew, WorkerRecord
from toile.cluster.joining import Cluster, Worker, WorkerLostError
from toile.cluster.places import Place
from toile.cluster.surroundings import Surroundings
from toile.device import dtype_name
from toile.errors import ToileError
from toile.generation.pictures import Picture, PicturePlan, load_loras, plan_pictures
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.lora import LoRA
from toile.weights.embedding_file import Embedding

_POLL_SECONDS = 0.2
_CALLS_AHEAD = 2  # of each worker, so that it need not wait for this process
_BATCHES_AHEAD = 16  # for each place; what is made out of order waits in memory


@dataclass(frozen=True)
class ClusterStart:
    """The first worker has loaded the model: where networks run, and in which precision; all others are alike."""

    device: str
    dtype: str


@dataclass(frozen=True)
class ClusterStep:
    """A batch is done: so many pictures are, not always the first ones."""

    num_done: int
    num_images: int

    @property
    def fraction(self) -> float:
        """Share of the whole work that is done, 0 to 1."""
        return self.num_done / self.num_images


ClusterEvent = ClusterStart | ClusterStep | WorkerRecord | Picture


@dataclass(frozen=True)
class ModelSource:
    """How workers load a model.

    Attributes:
        model, device, dtype: see `LatentDiffusion.load`.
        hash: of what must be there; `None` if it is not known.
        embeddings: learned words that it has besides.
    """

    model: str
    device: str
    dtype: str
    hash: str | None
    embeddings: tuple[Embedding, ...] = ()


def generate_on_cluster(
    cluster: Cluster,
    model: LatentDiffusion,
    request: GenerateRequest,
    *,
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
) -> Generator[ClusterEvent, None, None]:
    """Makes the pictures of `generate`, each batch by one of the workers of a cluster; closing it ends them all.

    All machines need the model at the same path; LoRAs, learned words and the picture to begin with are sent to them.
    Pictures and recipes are those of `generate` on a machine like theirs with as many threads as a worker has. A batch
    whose worker dies is made again.

    Args:
        cluster: from `joined`.
        model: the same model, in this process; it makes no picture.
        request: what to make.
        device, dtype: of the workers' models; a worker gets a GPU of its own where there are any, unless device says
            otherwise.
        workers: how many; by default one a machine, or one a GPU.

    Returns:
        A generator of a `ClusterStart`, a `ClusterStep` after each batch, and the `Picture`s, in order.

    Raises:
        ToileError: LoRAs that are not there or do not fit, at once; what else `generate` refuses, a machine without the
            model, or one that would compute differently, before the first picture.
        WorkFailedError: as `generate`; or workers die, one after the other.
    """
    if model.origin is None:
        raise ToileError("workers load the model from its files, and this one has none: save it first")
    known = None if model.facts is None else model.facts.hash
    source = ModelSource(model.origin, device, dtype, known, model.embeddings)
    places = cluster.places(workers, with_gpus=device.partition(":")[0] in ("auto", "cuda"))
    loras = load_loras(model, request.images())
    return _events(Crew(cluster, places), source, request, loras)


def _events(
    crew: Crew, source: ModelSource, request: GenerateRequest, loras: Mapping[str, LoRA]
) -> Generator[ClusterEvent, None, None]:
    num_images = len(request.prompts) * request.num_images
    work = _Work(crew, source, crew.cluster.share(request), crew.cluster.share(loras), num_images)
    try:
        while not work.is_done:
            yield from work.events()
    finally:
        crew.dismiss()


@dataclass(frozen=True)
class Prepared:
    """What a worker says when it has loaded the model.

    Attributes:
        process: its id.
        device: of the networks.
        dtype: of the networks.
        vae_bands: whether the autoencoder would work in bands of rows there, see `GenerationSettings`.
    """

    process: int
    device: str
    dtype: str
    vae_bands: bool | None


class PictureWorker:
    """What runs in the process of a worker. Wrong input is returned, because Ray would wrap what is raised."""

    def __init__(self) -> None:
        self._plan: PicturePlan | None = None

    def prepare(
        self,
        surroundings: Surroundings,
        place: Place,
        source: ModelSource,
        request: GenerateRequest,
        loras: Mapping[str, LoRA],
    ) -> Prepared | ToileError:
        """Loads the model and checks the request."""
        try:
            surroundings.take_on(place.cpus, needs_folder=False)
            model = LatentDiffusion.load(source.model, "cuda" if place.gpus else source.device, source.dtype)
            if source.hash is not None and (model.facts is None or model.facts.hash != source.hash):
                raise ToileError(f"{source.model} is another model here than where the work was started")
            if source.embeddings:
                model = model.with_embeddings(source.embeddings)
        except ToileError as error:
            return ToileError(f"worker on {place.host}: {error}")
        try:
            self._plan = plan_pictures(model, request, loras)
        except ToileError as error:
            return error
        return Prepared(os.getpid(), str(model.device), dtype_name(model.dtype), self._plan.settings.vae_bands)

    def batches(self) -> list[range]:
        """The numbers of the pictures that are made together."""
        assert self._plan is not None
        return list(self._plan.batches())

    def make(self, batch: range, vae_bands: bool | None) -> list[Picture] | ToileError:
        """The pictures of a batch; all workers are given the same `vae_bands`, as memory may differ."""
        assert self._plan is not None
        plan = replace(self._plan, settings=replace(self._plan.settings, vae_bands=vae_bands))
        try:
            return [event for event in plan.make(batch) if isinstance(event, Picture)]
        except ToileError as error:
            return error


class _Work:
    """Which batches wait, which are being made, and which are done but not yet told.

    Attributes:
        is_done: all pictures were told.
    """

    def __init__(self, crew: Crew, source: ModelSource, request: Any, loras: Any, num_images: int) -> None:
        self.crew, self.cluster = crew, crew.cluster
        self.source, self.request, self.loras = source, request, loras
        self.surroundings = Surroundings.here()
        self.num_images, self.num_done, self.num_told = num_images, 0, 0
        self.calls: dict[Any, tuple[Worker, str, int]] = {}  # what was called, and for `make` which batch
        self.prepared: list[Worker] = []
        self.first: Prepared | None = None
        self.batches: list[range] = []
        self.waiting: list[int] = []  # a heap of numbers of batches
        self.outcomes: dict[int, list[Picture] | ToileError] = {}
        self.ahead = _BATCHES_AHEAD * len(crew.free)

    @property
    def is_done(self) -> bool:
        return 0 < len(self.batches) == self.num_told

    def events(self) -> Iterator[ClusterEvent]:
        """What happens next, after waiting for it for a moment.

        Raises:
            ToileError: a machine that cannot make the pictures, or pictures that cannot be made.
        """
        while self.crew.free and (self.waiting or not self.batches):
            worker = self.crew.start(PictureWorker)
            self._call(worker, "prepare", self.surroundings, worker.place, self.source, self.request, self.loras)
        self._hand_out()
        yield from self.crew.waiting()
        for call in self.cluster.ready(list(self.calls), _POLL_SECONDS):
            if call not in self.calls:
                continue  # of a worker whose death was just seen
            worker, method, batch = self.calls[call]
            try:
                outcome = self.cluster.result(call)
            except WorkerLostError as error:
                self._take_back(worker)
                yield self.crew.lost(worker, error)
                continue
            del self.calls[call]
            if method == "make":
                yield self._made(batch, outcome)
            elif method == "batches":
                self.batches, self.waiting = outcome, list(range(len(outcome)))
            else:
                yield from self._welcome(worker, outcome)
        yield from self._in_order()

    def _call(self, worker: Worker, method: str, *arguments: Any, batch: int = -1) -> None:
        self.calls[self.cluster.call(worker, method, *arguments)] = (worker, method, batch)

    def _hand_out(self) -> None:
        if not self.batches:
            if self.prepared and not any(method == "batches" for _, method, _ in self.calls.values()):
                self._call(self.prepared[0], "batches")
            return
        assert self.first is not None
        busy = [worker for worker, _, _ in self.calls.values()]
        for worker in self.prepared * _CALLS_AHEAD:
            if busy.count(worker) < _CALLS_AHEAD and self.waiting and self.waiting[0] < self.num_told + self.ahead:
                number = heapq.heappop(self.waiting)
                self._call(worker, "make", self.batches[number], self.first.vae_bands, batch=number)
                busy.append(worker)

    def _take_back(self, worker: Worker) -> None:
        """What a worker that has died was at waits again."""
        for call, (other, _, batch) in list(self.calls.items()):
            if other is worker:
                del self.calls[call]
                if batch >= 0:
                    heapq.heappush(self.waiting, batch)
        self.prepared = [other for other in self.prepared if other is not worker]

    def _welcome(self, worker: Worker, told: Prepared | ToileError) -> Iterator[ClusterEvent]:
        if isinstance(told, ToileError):
            raise told
        self.crew.begun()
        self.prepared.append(worker)
        yield WorkerRecord(worker.place, told.process, "begun")
        if self.first is None:
            self.first = told
            yield ClusterStart(told.device, told.dtype)
        kinds = [(each.device.partition(":")[0], each.dtype) for each in (self.first, told)]
        if kinds[0] != kinds[1]:
            one, other = (f"on {device} in {dtype}" for device, dtype in kinds)
            raise ToileError(
                f"the worker on {worker.place.host} would compute {other}, another one {one}, so pictures would "
                "depend on where they are made: give --device and --dtype"
            )

    def _made(self, batch: int, outcome: list[Picture] | ToileError) -> ClusterStep:
        self.crew.progressed()
        self.outcomes[batch] = outcome
        self.num_done += len(self.batches[batch])
        return ClusterStep(self.num_done, self.num_images)

    def _in_order(self) -> Iterator[Picture]:
        while self.num_told in self.outcomes:
            outcome = self.outcomes.pop(self.num_told)
            if isinstance(outcome, ToileError):
                raise outcome
            self.num_told += 1
            for picture in outcome:
                yield replace(picture, pixels=picture.pixels.copy())  # what Ray gives cannot be written to
