"""Where workers run: the machines of a cluster, divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toile.errors import ToileError


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes:
        node: Ray's id of the machine.
        host: its name, for people.
        cpus: of the worker alone, and the number of its threads; at least 1.
        gpus: of the worker alone, 0 or 1.
    """

    node: str
    host: str
    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        gpu = "a GPU and " if self.gpus else ""
        return f"{self.host} with {gpu}{self.cpus} {'processor' if self.cpus == 1 else 'processors'}"


def divide(nodes: Sequence[Mapping[str, Any]], workers: int | None, with_gpus: bool) -> tuple[Place, ...]:
    """Divides machines among workers.

    Args:
        nodes: machines as Ray describes them.
        workers: how many, as evenly as the processors allow; by default one a machine, or one a GPU.
        with_gpus: whether workers may have a GPU each; then only machines with GPUs are used, if there are any.

    Raises:
        ToileError: more workers than processors or GPUs, or a cluster without any.
    """
    cpus = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in nodes}
    gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) if with_gpus else 0 for node in nodes}
    hosts = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in nodes}
    use_gpus = any(gpus[node] and cpus[node] for node in hosts)
    most = {node: min(cpus[node], gpus[node]) if use_gpus else cpus[node] for node in hosts}
    if not any(most.values()):
        raise ToileError("the cluster has no processors: give some to Ray, as in ray start --num-cpus 4")
    if workers is not None and not 1 <= workers <= sum(most.values()):
        what = "GPUs" if use_gpus else "processors"
        raise ToileError(f"workers is {workers}; the cluster has {what} for 1 to {sum(most.values())}")
    if workers is None:
        counts = {node: count if use_gpus else min(1, count) for node, count in most.items()}
    else:
        counts = dict.fromkeys(most, 0)
        for _ in range(workers):
            widest = max(most, key=lambda node: 0 if counts[node] >= most[node] else cpus[node] / (counts[node] + 1))
            counts[widest] += 1
    return tuple(
        Place(node, hosts[node], cpus[node] // counts[node], int(use_gpus))
        for node in sorted(hosts, key=lambda node: (hosts[node], node))
        for _ in range(counts[node])
    )
