"""The one training loop: a generator of records that knows nothing but an objective.

The caller logs, draws and stops; closing the generator saves the state first. A resumed run equals an uninterrupted
one bit for bit on a CPU, because every draw is a function of the step and the state holds all the rest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toile.errors import ToileError, WorkFailedError
from toile.training.ema import PowerEMA
from toile.training.objective import Batch, Objective
from toile.training.placing import autocast, brought_to, device_of
from toile.training.processes import Processes
from toile.training.records import (
    PLUS_MINUS,
    EndRecord,
    Record,
    SampleRecord,
    SavedRecord,
    StepRecord,
    ValidationRecord,
)
from toile.training.sharding import WholeWeights
from toile.training.state import TrainingState, build_state
from toile.weights.files import load_tensors, read_metadata
from toile.weights.snapshot import RunLock, Snapshot, load_latest, save_snapshot

_MAX_BAD_STEPS_IN_A_ROW = 3
ALONE = Processes()
AUTO = "auto"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        steps: updates of the whole run; the learning rate is planned over them.
        batch_size: examples of one update.
        micro_batch_size: examples that pass the network at once; gradients add up to the batch. `None`: the batch, or
            each process's part of it; "auto": as many of them as fit into memory, see `toile.training.plan`.
        learning_rate: peak, reached after `warmup_steps`, falling to zero over the last `decay_share` of the steps.
        betas, weight_decay: of AdamW; biases, norms and scalars do not decay.
        clip_norm: largest gradient norm.
        ema_widths: relative widths of the averages kept.
        precision: "bf16" runs the networks under autocast with float32 master weights; "float32" does not.
        validate_every, sample_every, save_every: in steps; 0 is never (a finished run is always saved).
        stage_every: export what is trained every so many steps, with the first average of the weights, so that stages
            of a run can be compared; 0 is never.
        sharded: of several processes each holds a part of the weights, and of all that belongs to them; one process
            holds all. How they are held is no part of a run: it may change when the run is resumed.
    """

    steps: int
    batch_size: int
    learning_rate: float
    micro_batch_size: int | str | None = None
    warmup_steps: int = 500
    decay_share: float = 0.3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_widths: tuple[float, ...] = (0.05, 0.10)
    precision: str = "bf16"
    validate_every: int = 500
    sample_every: int = 0
    save_every: int = 500
    stage_every: int = 0
    sharded: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0 or not self.clip_norm > 0:
            raise ToileError("steps, batch_size, learning_rate and clip_norm must be positive")
        rhythms = (self.validate_every, self.sample_every, self.save_every, self.stage_every)
        if min(self.warmup_steps, self.weight_decay, *rhythms) < 0:
            raise ToileError("warmup_steps, weight_decay and the numbers of steps between things must be 0 or more")
        micro = self.micro_batch_size if isinstance(self.micro_batch_size, int) else self.batch_size
        if isinstance(self.micro_batch_size, str) and self.micro_batch_size != AUTO:
            raise ToileError(f'micro_batch_size {self.micro_batch_size!r}: a number, "{AUTO}", or left out')
        if micro < 1 or self.batch_size % micro:
            raise ToileError(f"batch_size {self.batch_size} must be a multiple of micro_batch_size {micro}")
        if self.precision not in ("bf16", "float32"):
            raise ToileError(f"precision {self.precision!r}: bf16 or float32")
        if not 0 <= self.decay_share <= 1:
            raise ToileError(f"decay_share {self.decay_share}: between 0 and 1")
        if len(set(self.ema_widths)) < len(self.ema_widths) or any(not 0 < w <= 0.28 for w in self.ema_widths):
            raise ToileError(f"ema_widths {self.ema_widths}: different numbers above 0, at most 0.28")

    def parts_of(self, processes: Processes) -> tuple[int, range]:
        """How many examples pass at once, and which of these parts of a batch this process takes.

        Raises:
            ToileError: the batch cannot be divided evenly.
        """
        given = self.micro_batch_size
        size = given if isinstance(given, int) else max(1, self.batch_size // processes.count)
        num_parts = self.batch_size // size
        if self.batch_size % size or num_parts % processes.count:
            raise ToileError(
                f"batch_size {self.batch_size} in parts of {size} cannot be divided among {processes.count} processes"
            )
        return size, range(processes.rank, num_parts, processes.count)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        decay_steps = self.decay_share * self.steps
        cool = min(1.0, (self.steps - step) / decay_steps) if decay_steps > 0 else 1.0
        return self.learning_rate * warm * cool


def train(
    objective: Objective[Batch],
    config: LoopConfig,
    directory: Path,
    identity: Mapping[str, Any],
    *,
    resume: bool = False,
    accept_changes: bool = False,
    completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    minutes: float | None = None,
    export: Callable[[], None] | None = None,
    export_stage: Callable[[int], None] | None = None,
    weights: WholeWeights | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Record, None, None]:
    """Trains until the steps are done, the time is over, or it is told to stop; closing the generator saves too.

    Args:
        objective: what to train, where its networks lie.
        directory: the run's folder; its `state/` holds the snapshots. One trainer at a time.
        identity: what must not change when the run is resumed: recipe, data, split; plain JSON values.
        resume: go on from the latest complete state in `directory`.
        accept_changes: resume even though `identity` changed.
        completed: adds to an identity that was saved what it did not know of, as an earlier version wrote it.
        minutes: stop, resumable, after this time.
        export: called at the end, while the objective's module holds its best weights; not when told to stop.
        export_stage: called with the step where `stage_every` says so, while the module holds its first average.
        weights: how the processes that train together hold the module; by default this one is alone. All processes
            yield their steps; only the first writes, validates and samples.
        should_stop: asked after each step; one process that is told to stop stops all.

    Raises:
        ToileError: nothing to resume, something to overwrite, a changed identity.
        WorkFailedError: three bad steps in a row; another process has ended.
    """
    weights = weights or WholeWeights(objective.module, ALONE)
    processes = weights.processes
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    is_first, takes_part = processes.is_first, processes.is_first or weights.is_sharded
    config.parts_of(processes)
    with RunLock(directory) if is_first else nullcontext():
        state = build_state(weights, config.learning_rate, config.betas, config.weight_decay, config.ema_widths)
        yield from _restore(state, directory, identity, resume, accept_changes, completed)
        reason = "done"
        try:
            if state.step == 0 and config.sample_every and takes_part:
                yield from _sample(objective, config, state)
            while state.step < config.steps:
                asked, late = processes.add_up([float(should_stop()), float(time.monotonic() >= deadline)])
                if asked or late:
                    reason = "stopped" if asked else "time"
                    break
                yield _update(objective, config, state, processes)
                if not takes_part:
                    continue
                if _due(state.step, config.validate_every, config.steps):
                    yield from _validate(objective, config, state)
                if _due(state.step, config.sample_every, config.steps + 1):
                    yield from _sample(objective, config, state)
                if _due(state.step, config.stage_every, config.steps + 1) and export_stage is not None:
                    with _weights_of(_name_of_shown(state), state) as looks:
                        if looks:
                            export_stage(state.step)
                if _due(state.step, config.save_every, config.steps):
                    yield from _save(state, directory / "state", identity)
        except GeneratorExit:
            if is_first and not weights.is_sharded:  # which a process cannot save alone: the latest state stands
                list(_save(state, directory / "state", identity))
            raise
        if not takes_part:
            yield EndRecord(state.step, reason, "")
            return
        yield from _save(state, directory / "state", identity)
        if reason == "stopped":
            yield EndRecord(state.step, reason, "")
            return
        names, best = _names_of_weights(state), 0
        for held_out in _validate(objective, config, state):
            yield held_out
            best = names.index(_lowest(held_out.losses))
        best = weights.from_first(best)
        with _weights_of(names[best], state) as looks:
            if looks and export is not None:
                export()
        yield EndRecord(state.step, reason, names[best] if is_first else "")


def _due(step: int, every: int, last: int) -> bool:
    return every > 0 and step % every == 0 and step < last


def _update(objective: Objective[Batch], config: LoopConfig, state: TrainingState, processes: Processes) -> StepRecord:
    started = time.monotonic()
    weights = state.weights
    weights.module.train()
    rate = config.learning_rate_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    weights.forget_gradients()
    size, own_parts = config.parts_of(processes)
    device = device_of(weights.module)
    num_parts = config.batch_size // size
    total, parts = 0.0, dict[str, float]()
    for part in own_parts:
        first = state.step * config.batch_size + part * size
        batch = brought_to(device, objective.batch(range(first, first + size)))
        with autocast(config.precision, device, keeps_casts=not weights.is_sharded):
            loss = weights.loss(partial(objective.loss, batch, state.step))
        weights.send_back(loss.total / num_parts)
        total += float(loss.total.detach()) / num_parts
        for name, value in loss.parts.items():
            parts[name] = parts.get(name, 0.0) + float(value) / num_parts
    norm = weights.collect_gradients(config.clip_norm)
    total, *sums = processes.add_up([total, *parts.values()])
    parts = dict(zip(parts, sums, strict=True))
    skipped = not (math.isfinite(total) and math.isfinite(norm))
    if skipped:
        state.skipped_steps += 1
        state.bad_steps_in_a_row += 1
        if state.bad_steps_in_a_row >= _MAX_BAD_STEPS_IN_A_ROW:
            raise WorkFailedError(
                f"the loss was not finite {_MAX_BAD_STEPS_IN_A_ROW} times in a row at step {state.step}; "
                "the last saved state is sound: lower the learning rate or check the data"
            )
    else:
        state.bad_steps_in_a_row = 0
        state.optimizer.step()
    state.step += 1
    if not skipped:
        for average in state.averages:
            average.update(weights, state.step - state.skipped_steps)
    seconds = time.monotonic() - started
    return StepRecord(state.step, total, parts, rate, norm, config.batch_size / seconds, skipped)


def _weights_of(who: str, state: TrainingState) -> AbstractContextManager[bool]:
    """Puts an average into the module for a while, "live" changes nothing; tells whether this process is to look."""
    return state.weights.shown({_name(average): average for average in state.averages}.get(who))


def _names_of_weights(state: TrainingState) -> list[str]:
    return ["live", *map(_name, state.averages)]


def _name_of_shown(state: TrainingState) -> str:
    """The weights that samples and stages show: the first average, if there is one."""
    return _name(state.averages[0]) if state.averages else "live"


def _name(average: PowerEMA) -> str:
    return f"ema {average.relative_width:g}"


@torch.no_grad()
def _validate(objective: Objective[Batch], config: LoopConfig, state: TrainingState) -> Iterator[ValidationRecord]:
    """One record on the first process, none on the others."""
    losses = {}
    for who in _names_of_weights(state):
        with _weights_of(who, state) as looks:
            if looks:
                losses[who] = _held_out_losses(objective, config, state)
    if losses:
        yield ValidationRecord(state.step, losses)


def _lowest(losses: Mapping[str, Mapping[str, float]]) -> str:
    """The weights with the lowest held-out loss; one that is not finite is never the best."""
    finite = {who: parts["loss"] for who, parts in losses.items() if math.isfinite(parts["loss"])}
    if not finite:
        raise ToileError("no weights have a finite held-out loss: lower the learning rate or check the held-out data")
    return min(finite, key=lambda who: finite[who])


def _held_out_losses(objective: Objective[Batch], config: LoopConfig, state: TrainingState) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    each: list[float] = []
    device = device_of(state.weights.module)
    for batch in objective.validation_batches():
        with autocast(config.precision, device):
            loss = objective.loss(brought_to(device, batch), state.step)
        for name, value in {"loss": loss.total, **loss.parts}.items():
            values.setdefault(name, []).append(float(value))
        each += [] if loss.each is None else loss.each.tolist()
    means = {name: sum(of_batches) / len(of_batches) for name, of_batches in values.items()}
    if len(each) > 1:
        means[PLUS_MINUS] = 1.96 * float(torch.tensor(each, dtype=torch.float64).std()) / math.sqrt(len(each))
    return means


@torch.no_grad()
def _sample(objective: Objective[Batch], config: LoopConfig, state: TrainingState) -> Iterator[SampleRecord]:
    images = None
    with _weights_of(_name_of_shown(state), state) as looks:
        if looks:
            with autocast(config.precision, device_of(state.weights.module)):
                images = objective.samples()
    if images is not None:
        yield SampleRecord(state.step, images.float().cpu())


def _save(state: TrainingState, directory: Path, identity: Mapping[str, Any]) -> Iterator[SavedRecord]:
    """One record on the first process, none on the others."""
    facts = {
        "step": state.step,
        "skipped_steps": state.skipped_steps,
        "bad_steps_in_a_row": state.bad_steps_in_a_row,
        "identity": dict(identity),
    }
    path = None
    with state.saved_tensors(directory) as tensors:
        if tensors is not None:
            path = save_snapshot(directory, state.step, tensors, facts)
    if path is not None:
        yield SavedRecord(state.step, path)


def check_start(directory: Path, resume: bool) -> None:
    """Refuses to resume nothing and to overwrite a run; reads no state, so it can come before all other work."""
    states = sorted((directory / "state").glob("step-*.safetensors"))
    if resume and not states:
        raise ToileError(f"nothing to resume in {directory}: start the run without --resume")
    if states and not resume:
        raise ToileError(f"{directory} holds a run, {states[-1].name}: add --resume or choose another folder")


def _restore(
    state: TrainingState,
    directory: Path,
    identity: Mapping[str, Any],
    resume: bool,
    accept_changes: bool,
    completed: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> Iterator[SavedRecord]:
    check_start(directory, resume)
    snapshot = _latest(state.weights, directory / "state") if resume else None
    if snapshot is None:
        return
    changed = [key for key in changed_keys(completed(snapshot.facts["identity"]), identity) if key != "loop.sharded"]
    if changed and not accept_changes:
        raise ToileError(
            f"resuming would change {', '.join(changed)}: undo the change, or add --accept-changes to go on with it"
        )
    state.load(snapshot.tensors, snapshot.facts)
    yield SavedRecord(state.step, snapshot.path, snapshot.warnings)


def _latest(weights: WholeWeights, directory: Path) -> Snapshot | None:
    """The latest sound state; of sharded weights, the others than the first process map its file, to take a part."""
    if not weights.is_sharded:
        return load_latest(directory)
    snapshot = load_latest(directory) if weights.processes.is_first else None
    step = weights.from_first(snapshot.step if snapshot is not None else 0)
    if snapshot is not None:
        return snapshot
    [path] = (path for path in directory.glob("step-*.safetensors") if int(path.stem.removeprefix("step-")) == step)
    return Snapshot(
        step, load_tensors(path, allow_nonfinite=True), json.loads(read_metadata(path)["facts"]), path, warnings=()
    )


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values that differ between two nested mappings."""
    changed: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changed += changed_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            changed.append(f"{prefix}{key}")
    return changed
