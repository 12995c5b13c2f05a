"""What a run will take, told before it begins: time, memory, disk, from a few trial passes that change no weights."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from toile.device import available_bytes, give_back_freed_memory, peak_memory, reset_peak_memory, wait_for
from toile.errors import ToileError
from toile.training.loop import ALONE, AUTO, LoopConfig
from toile.training.objective import Batch, Objective
from toile.training.placing import autocast, brought_to, device_of
from toile.training.records import PlanRecord
from toile.training.sharding import WholeWeights

_NUM_TRIALS = 3
_FLOAT32_BYTES = 4
_STATES_ON_DISK = 3  # the last two, and the one that is being written
_USABLE = 0.9  # of the free memory: trial passes see neither validation nor samples


def plan_run(
    objective: Objective[Batch],
    config: LoopConfig,
    directory: Path,
    weights: WholeWeights | None = None,
    *,
    compiles: bool = False,
) -> PlanRecord:
    """Tries a few passes forwards and back, and says what the run will take.

    Args:
        objective: what will be trained; its weights stay as they are.
        config: with `micro_batch_size` "auto" the largest part of a batch is chosen that fits into memory.
        directory: of the run.
        weights: how the processes that train together hold the module, each its share of the moments; the first one
            chooses. By default this one is alone.
        compiles: the networks are compiled for each number of examples, so no other than the run's is tried.

    Raises:
        ToileError: the run does not fit into memory, or its states do not fit on the disk; compiled networks cannot be
            sharded, nor tried with several numbers of examples.
    """
    weights = weights or WholeWeights(objective.module, ALONE)
    processes = weights.processes
    objective.module.train()
    trained = list(weights.trained().values())
    own = sum(weight.numel() for weight in trained)
    moments = 2 * _FLOAT32_BYTES * own
    device = device_of(objective.module)
    free = available_bytes(device)
    trial = partial(_trial, objective, config, weights)
    if compiles:
        if weights.is_sharded:
            raise ToileError(
                "loop.sharded=true divides the layers' weights, which torch.compile wants whole: "
                "add objective.compile=false"
            )
        if config.micro_batch_size == AUTO:
            raise ToileError(
                f'micro_batch_size "{AUTO}" tries several numbers of examples: add objective.compile=false'
            )
        size, parts = config.parts_of(processes)
    else:
        each = _bytes_of_one_more(trial, (1, 3))
        if config.micro_batch_size == AUTO:
            chosen = largest_that_fits(config, processes.count, each, free, moments)
            config = replace(config, micro_batch_size=int(processes.add_up([chosen * float(processes.is_first)])[0]))
        size, parts = config.parts_of(processes)
        check_memory(size, each, free, moments)
    trials = [trial(size) for _ in range(_NUM_TRIALS)]
    seconds = min(trial[0] for trial in trials[1:]) * len(parts)
    peak = max(trial[1] for trial in trials) + moments
    numbers = sum(weight.numel() for weight in objective.module.parameters() if weight.requires_grad)
    num_states = _STATES_ON_DISK + weights.is_sharded  # which are laid aside on the way there
    disk = num_states * _FLOAT32_BYTES * numbers * (3 + len(config.ema_widths))
    _check_disk(disk, directory)
    return PlanRecord(0, size, seconds, seconds * config.steps, peak, disk, numbers, str(device))


def _trial(objective: Objective[Batch], config: LoopConfig, weights: WholeWeights, size: int) -> tuple[float, int]:
    """Seconds and most memory of one pass forwards and back with so many examples."""
    device = device_of(weights.module)
    give_back_freed_memory()
    reset_peak_memory(device)
    started = time.monotonic()
    batch = brought_to(device, objective.batch(range(size)))
    try:
        with autocast(config.precision, device, keeps_casts=not weights.is_sharded):
            loss = weights.loss(partial(objective.loss, batch, 0))
        weights.send_back(loss.total)
        wait_for(device)
    except torch.OutOfMemoryError as error:
        raise ToileError(
            f"{size} examples at once do not fit into the memory of {device}: give loop.micro_batch_size a smaller "
            "number, or train less or smaller pictures"
        ) from error
    weights.forget_gradients()
    return time.monotonic() - started, peak_memory(device) or 0


def _bytes_of_one_more(trial: Callable[[int], tuple[float, int]], sizes: tuple[int, int]) -> int:
    """How much more memory a pass takes for one more example, from two numbers of them; 0 where it is not told."""
    trial(1)  # whatever is allocated once
    few, many = (trial(size)[1] for size in sizes)
    return max(0, (many - few) // (sizes[1] - sizes[0]))


def largest_that_fits(config: LoopConfig, num_processes: int, each: int, free: int | None, more: int) -> int:
    """The largest part of a process's share of a batch, a divisor of it, that fits; 1 if none does.

    Args:
        config: of the loop.
        num_processes: that share a batch.
        each: bytes for one more example.
        free: bytes that are free once one example has passed; None if that is not known.
        more: bytes that are needed besides.
    """
    own = max(1, config.batch_size // num_processes)
    sizes = (size for size in range(own, 0, -1) if own % size == 0)
    return next((size for size in sizes if free is None or (size - 1) * each + more <= free * _USABLE), 1)


def check_memory(size: int, each: int, free: int | None, more: int) -> None:
    """Refuses a number of examples that would not fit; the arguments are those of `largest_that_fits`."""
    needed = (size - 1) * each + more
    if free is not None and needed > free * _USABLE:
        raise ToileError(
            f"{size} examples at once need about {needed / 1e9:.1f} GB more memory, and {free / 1e9:.1f} GB are free: "
            f'set loop.micro_batch_size="{AUTO}" to pass the batch in parts, or train less or smaller pictures'
        )


def _check_disk(needed: int, directory: Path) -> None:
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ToileError(
            f"the states of the run need {needed / 1e9:.1f} GB on the disk of {existing}, and {free / 1e9:.1f} GB are "
            "free; give another folder with --out"
        )
