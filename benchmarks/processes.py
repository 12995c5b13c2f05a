"""Contestants in processes of their own: kept alive for timing turn by turn, or new ones, with their peak of memory."""

from __future__ import annotations

import json
import multiprocessing
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# A child begins with the peak memory of the process that starts it, so a small process must start what is measured.
MEASURING_SCRIPT = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
with open(sys.argv[1], "wb") as log:
    exit_code = subprocess.call(sys.argv[2:], stdout=log, stderr=subprocess.STDOUT)
seconds, usage = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"exit_code": exit_code, "seconds": seconds, "maxrss": usage.ru_maxrss}))
"""


class Worker:
    """A process that prepares something once, for example a model, and then works whenever it is told to.

    Args:
        make: called there with the arguments; returns what does the work, and may be told what to do.
    """

    def __init__(self, make: Callable[..., Callable[[Any], object]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, make, arguments), daemon=True)
        self.process.start()
        other_end.close()

    def work(self, task: object) -> Any:
        """What the process makes of a task.

        Raises:
            RuntimeError: it failed; its error is the text.
        """
        self.connection.send(task)
        answer, error = self.connection.recv()
        if error is not None:
            raise RuntimeError(error)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the process end."""
        self.connection.close()
        self.process.join()


def serve(connection: Connection, make: Callable[..., Callable[[Any], object]], arguments: tuple[object, ...]) -> None:
    """Answers each task with a pair: what was made of it, and the error's text or None."""
    work: Callable[[Any], object] | None = None
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            work = work or make(*arguments)
            connection.send((work(task), None))
        except Exception as error:
            connection.send((None, f"{type(error).__name__}: {error}"))


@dataclass(frozen=True)
class ColdRun:
    """A whole process: wall time, and the most memory it held."""

    seconds: float
    peak_bytes: int


def run_cold(command: list[str], log: Path) -> ColdRun:
    measured = subprocess.run(
        [sys.executable, "-c", MEASURING_SCRIPT, str(log), *command], capture_output=True, text=True, check=True
    )
    facts = json.loads(measured.stdout)
    if facts["exit_code"]:
        message = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with {facts['exit_code']}: {message}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return ColdRun(facts["seconds"], facts["maxrss"] * unit)
