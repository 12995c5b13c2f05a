"""Numbers for Prometheus: what was answered, and how busy the engine is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from toile.web.jobs.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_DIALECTS = {"/v1/": "openai", "/sdapi/": "a1111", "/api/": "native"}
_SECONDS = (0.005, 0.02, 0.05, 0.2, 1, 5, 20, 60, 300)


class Metrics:
    """Of one server.

    Args:
        engine: that is asked when the numbers are.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        labels = ("dialect", "method", "status")
        self._answers = Counter("toile_http_answers", "Answers that were begun.", labels, registry=self._registry)
        self._seconds = Histogram(
            "toile_http_seconds", "Until an answer began.", ("dialect",), registry=self._registry, buckets=_SECONDS
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_EngineCollector(engine))

    def answered(self, path: str, method: str, status: int, seconds: float) -> None:
        """An answer has begun. Paths are not labels: there is no end to what people ask for."""
        dialect = next((name for prefix, name in _DIALECTS.items() if path.startswith(prefix)), "other")
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self._answers.labels(dialect, known, str(status)).inc()
        self._seconds.labels(dialect).observe(seconds)

    def text(self) -> bytes:
        """All of them, in the format of Prometheus."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Asked anew each time."""
        status = self._engine.status()
        workshop = status.workshop
        jobs = GaugeMetricFamily("toile_jobs", "Jobs that have not ended.", labels=["state"])
        jobs.add_metric(["queued"], status.queued)
        jobs.add_metric(["running"], status.running)
        yield jobs
        ended = CounterMetricFamily("toile_jobs_ended", "Jobs that have ended.", labels=["state"])
        for state in ("done", "failed", "cancelled"):
            ended.add_metric([state], workshop.ended.get(state, 0))
        yield ended
        yield CounterMetricFamily("toile_jobs_refused", "Jobs that found no room.", value=status.refused)
        yield CounterMetricFamily("toile_pictures", "Pictures that were saved.", value=workshop.pictures)
        yield CounterMetricFamily("toile_works", "Works that workers were given.", value=workshop.works)
        yield GaugeMetricFamily("toile_accepting", "1 if jobs are taken.", value=float(status.is_accepting))
        where = ["worker", "device", "host"]
        ready = GaugeMetricFamily("toile_worker_ready", "1 if a worker can begin.", labels=where)
        busy = GaugeMetricFamily("toile_worker_busy", "1 if a worker has a work.", labels=["worker"])
        works = CounterMetricFamily("toile_worker_works", "Works that a worker was given.", labels=["worker"])
        starts = CounterMetricFamily("toile_worker_starts", "How often a worker was started.", labels=["worker"])
        memory = GaugeMetricFamily(
            "toile_worker_resident_bytes", "Memory of a worker of this machine.", labels=["worker"]
        )
        for number, worker in enumerate(workshop.workers):
            ready.add_metric([str(number), worker.device, worker.host], float(worker.is_ready))
            busy.add_metric([str(number)], float(worker.is_busy))
            works.add_metric([str(number)], worker.works)
            starts.add_metric([str(number)], worker.starts)
            if not worker.host and (resident := _resident_bytes(worker.pid)) is not None:
                memory.add_metric([str(number)], resident)
        yield from (ready, busy, works, starts, memory)


def _resident_bytes(pid: int | None) -> int | None:
    """Memory of a process; None where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)
