"""How an engine is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from toile.errors import ToileError
from toile.web.jobs.limits import Limits

LONGEST_DEADLINE = 24 * 3600.0


@dataclass(frozen=True)
class EngineConfig:
    """How an engine is set up.

    Attributes:
        out: folder of the database and the pictures.
        models: see `open_shelf`; the first one is the default.
        devices: where workers compute, in turn; see `choose_device`.
        dtype: see `choose_dtype`.
        queue: how many jobs may wait, besides those that are being made.
        per_owner: how many jobs an owner may have that have not ended; None sets no limit of its own.
        max_batch: pictures of several jobs that are made together at most; None leaves it to the model's settings.
        kept_models: how many stay in the memory of a worker.
        deadline_seconds: after which a job fails, for those that name no deadline.
        limits: of one request.
        threads: of the CPU, for each worker; None leaves it to PyTorch, or shares them out if several compute there.
        workers: how many; None for one on each device.
    """

    out: Path
    models: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("auto",)
    dtype: str = "auto"
    queue: int = 64
    per_owner: int | None = None
    max_batch: int | None = None
    kept_models: int = 2
    deadline_seconds: float = 600.0
    limits: Limits = field(default_factory=Limits)
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("queue", "per_owner", "max_batch", "kept_models", "threads", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ToileError(f"{name} is {value}; allowed: 1 or more")
        if not self.devices:
            raise ToileError("devices is empty; name at least one, for example auto")
        if self.workers is not None and self.workers < len(self.devices):
            raise ToileError(f"workers is {self.workers} for {len(self.devices)} devices; allowed: one or more on each")
        if not 0 < self.deadline_seconds <= LONGEST_DEADLINE:
            raise ToileError(f"deadline_seconds is {self.deadline_seconds}; allowed: above 0, to {LONGEST_DEADLINE:g}")
