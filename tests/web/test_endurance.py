"""Five hundred jobs leave nothing behind but their pictures."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def num_handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="memory and handles are read from /proc")
def test_500_jobs_leave_no_memory_and_no_handles(tiny_config: EngineConfig, tmp_path: Path, desk: Any) -> None:
    with Engine(replace(tiny_config, out=tmp_path / "studio", queue=100)) as engine:

        def make(count: int) -> None:
            for first in range(0, count, 50):
                requests = [desk.wanted(seed=seed, steps=1 + seed % 2) for seed in range(first, first + 50)]
                jobs = [engine.submit(request, desk.OWNER) for request in requests]
                assert all(desk.finished(engine, job).state == "done" for job in jobs)

        def measured() -> list[tuple[float, int]]:
            gc.collect()
            worker = engine.status().workshop.workers[0].pid
            assert worker is not None
            return [(resident_megabytes(pid), num_handles(pid)) for pid in (os.getpid(), worker)]

        make(100)  # after which everything that is kept once is there
        before = measured()
        make(500)
        for (megabytes, handles), (more_megabytes, more_handles) in zip(before, measured(), strict=True):
            assert (more_megabytes - megabytes) / 500 < 0.1
            assert more_handles == handles
