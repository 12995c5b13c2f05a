"""Workers that are processes of this machine."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import torch

from toile.device import choose_device, choose_dtype
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine_worker import EngineWorker
from toile.web.jobs.worker import WorkerConfig, run_worker

_SECONDS_TO_END = 10.0


class WorkerProcess(EngineWorker):
    """One process on one device.

    Args:
        config: how it is set up.
    """

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__()
        self.config = config
        self._process: SpawnProcess | None = None

    @property
    def pid(self) -> int | None:
        """Known from the start."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.kill()

    def _begin(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=run_worker, args=(theirs, self.config), daemon=True, name="toile-worker")
        self._process.start()
        theirs.close()  # else its end would stay open when it dies
        return ours

    def _end_of_dead(self) -> str:
        assert self._process is not None
        self._process.join(_SECONDS_TO_END)
        if self._process.exitcode is None:  # it closed its end but lives
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self._process.close()
        self._process = None
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _end(self) -> None:
        assert self._process is not None
        if self.ready is not None:  # else it is still loading, and would not hear of it for long
            self._process.join(_SECONDS_TO_END)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = None


def hire_processes(config: EngineConfig, warm: str) -> list[EngineWorker]:
    """Workers of this machine, a process each; none is started yet.

    Args:
        config: how many, and where; a device of several GPUs that is named without a number is each of them in turn.
        warm: what `load` opens before the first work.

    Raises:
        ToileError: no such device, or an unknown precision.
    """
    num_workers = len(config.devices) if config.workers is None else config.workers
    devices = [choose_device(config.devices[number % len(config.devices)]) for number in range(num_workers)]
    devices = list(_on_all_gpus(devices, torch.cuda.device_count()))
    num_on_cpu = sum(device.type == "cpu" for device in devices)
    share = max(1, torch.get_num_threads() // num_on_cpu) if num_on_cpu > 1 else None
    workers: list[EngineWorker] = []
    for device in devices:
        choose_dtype(config.dtype, device)  # workers would find out too late
        threads = share if config.threads is None and device.type == "cpu" else config.threads
        workers.append(WorkerProcess(WorkerConfig(str(device), config.dtype, warm, config.kept_models, threads)))
    return workers


def _on_all_gpus(devices: Sequence[torch.device], num_gpus: int) -> Iterator[torch.device]:
    turns = itertools.cycle(range(max(1, num_gpus)))
    for device in devices:
        anywhere = device.type == "cuda" and device.index is None and len(devices) > 1
        yield torch.device("cuda", next(turns)) if anywhere else device
