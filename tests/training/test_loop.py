"""The training loop: resumes bit for bit, saves when it is stopped, refuses what would be wrong, survives bad steps."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toile.errors import ToileError, WorkFailedError
from toile.training.loop import LoopConfig, train
from toile.training.objective import Loss
from toile.training.records import (
    PLUS_MINUS,
    EndRecord,
    Record,
    SampleRecord,
    SavedRecord,
    StepRecord,
    ValidationRecord,
)
from toile.weights.snapshot import Snapshot, load_latest

CONFIG = LoopConfig(
    steps=12,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=3,
    decay_share=0.5,
    precision="float32",
    validate_every=4,
    sample_every=5,
    save_every=3,
)
IDENTITY = {"loop": {"learning_rate": 1e-2, "steps": 12}, "pictures": "a", "seed": 0}


def losses(records: Iterable[Record]) -> list[tuple[int, float, float, float, bool]]:
    """What must be equal of the steps: all but the speed."""
    steps = [record for record in records if isinstance(record, StepRecord)]
    return [(step.step, step.loss, step.grad_norm, step.learning_rate, step.skipped) for step in steps]


def follow(records: Generator[Record, None, None], until: int) -> list[Record]:
    """The records up to the step `until`, where the generator is closed."""
    followed = []
    for record in records:
        followed.append(record)
        if isinstance(record, StepRecord) and record.step == until:
            records.close()
    return followed


def latest(directory: Path) -> Snapshot:
    snapshot = load_latest(directory / "state")
    assert snapshot is not None
    return snapshot


def final_state(directory: Path) -> bytes:
    return (directory / "state" / f"step-{CONFIG.steps:08d}.safetensors").read_bytes()


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("stop", [6, 7])
def test_a_resumed_run_equals_an_uninterrupted_one(toy: Any, tmp_path: Path, stop: int, precision: str) -> None:
    config, poisoned = replace(CONFIG, precision=precision), frozenset([17])  # step 5 is skipped
    whole, first, second = toy(poisoned), toy(poisoned), toy(poisoned)
    uninterrupted = losses(train(whole, config, tmp_path / "whole", IDENTITY))
    before = losses(follow(train(first, config, tmp_path / "parts", IDENTITY), stop))
    after = losses(train(second, config, tmp_path / "parts", IDENTITY, resume=True))
    assert [step[0] for step in after] == list(range(stop + 1, 13))
    assert [step[4] for step in uninterrupted].count(True) == 1
    assert repr(before + after) == repr(uninterrupted)  # repr, because the skipped loss is NaN
    assert first.seen + second.seen == whole.seen
    # One file holds weights, optimiser, averages and counters; equal states are equal files.
    assert final_state(tmp_path / "parts") == final_state(tmp_path / "whole")


def test_the_state_holds_everything(toy: Any, tmp_path: Path) -> None:
    list(train(toy(), CONFIG, tmp_path, IDENTITY))
    snapshot, module = latest(tmp_path), toy().module
    names = {name for name, _ in module.named_parameters()}
    assert set(below("module.", snapshot.tensors)) == names
    assert set(below("ema0.", snapshot.tensors)) == set(below("ema1.", snapshot.tensors)) == names
    assert len(below("optimizer.", snapshot.tensors)) == 3 * len(names)  # two moments and a counter each
    assert snapshot.facts["step"] == 12
    assert snapshot.facts["identity"] == IDENTITY
    live, average = below("module.", snapshot.tensors), below("ema1.", snapshot.tensors)
    assert not any(torch.equal(live[name], average[name]) for name in names)


def test_closing_saves_the_step_that_was_done(toy: Any, tmp_path: Path) -> None:
    objective = toy()
    follow(train(objective, replace(CONFIG, save_every=0), tmp_path, IDENTITY), 5)
    snapshot = latest(tmp_path)
    assert snapshot.step == 5
    for name, value in objective.module.state_dict().items():
        assert torch.equal(snapshot.tensors[f"module.{name}"], value)
    records = list(train(toy(), replace(CONFIG, save_every=0), tmp_path, IDENTITY, resume=True))
    assert records[0] == SavedRecord(5, snapshot.path)
    assert isinstance(records[-1], EndRecord) and records[-1].step == 12


def test_what_is_reported_and_when(toy: Any, tmp_path: Path) -> None:
    records = list(train(toy(), CONFIG, tmp_path, IDENTITY))
    at = {kind: [r.step for r in records if isinstance(r, kind)] for kind in (ValidationRecord, SampleRecord)}
    assert at == {ValidationRecord: [4, 8, 12], SampleRecord: [0, 5, 10]}
    assert [r.step for r in records if isinstance(r, SavedRecord)] == [3, 6, 9, 12]
    assert [step[0] for step in losses(records)] == list(range(1, 13))
    validation = next(record for record in records if isinstance(record, ValidationRecord))
    assert list(validation.losses) == ["live", "ema 0.05", "ema 0.1"]
    assert set(validation.losses["live"]) == {"loss", "largest"}
    end = records[-1]
    assert isinstance(end, EndRecord) and (end.step, end.reason) == (12, "done")
    first, last = losses(records)[0][1], losses(records)[-1][1]
    assert last < 0.8 * first


def test_looking_at_a_run_does_not_change_it(toy: Any, tmp_path: Path) -> None:
    list(train(toy(), CONFIG, tmp_path / "watched", IDENTITY))
    quiet = replace(CONFIG, validate_every=0, sample_every=0, save_every=0)
    list(train(toy(), quiet, tmp_path / "alone", IDENTITY))
    assert final_state(tmp_path / "watched") == final_state(tmp_path / "alone")


CHANGED = {"loop": {"learning_rate": 2e-2, "steps": 12}, "pictures": "b", "seed": 0, "start": None}


def test_changes_are_refused_by_name_unless_accepted(toy: Any, tmp_path: Path) -> None:
    follow(train(toy(), CONFIG, tmp_path, IDENTITY), 5)
    before = files_of(tmp_path / "state")
    with pytest.raises(ToileError, match="loop.learning_rate, pictures: .*--accept-changes"):
        next(train(toy(), CONFIG, tmp_path, CHANGED, resume=True))
    assert files_of(tmp_path / "state") == before
    records = list(train(toy(), CONFIG, tmp_path, CHANGED, resume=True, accept_changes=True))
    assert losses(records)[0][0] == 6
    assert latest(tmp_path).facts["identity"] == CHANGED


def test_an_existing_run_is_not_overwritten(toy: Any, tmp_path: Path) -> None:
    follow(train(toy(), CONFIG, tmp_path, IDENTITY), 5)
    before = files_of(tmp_path / "state")
    with pytest.raises(ToileError, match="holds a run, step-00000005.safetensors: add --resume"):
        next(train(toy(), CONFIG, tmp_path, IDENTITY))
    assert files_of(tmp_path / "state") == before


def test_nothing_to_resume(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="nothing to resume"):
        next(train(toy(), CONFIG, tmp_path, IDENTITY, resume=True))


def test_held_out_losses_have_an_interval_where_examples_tell_theirs(toy: Any, tmp_path: Path) -> None:
    class Telling(toy):  # type: ignore[misc]
        def loss(self, batch: Any, step: int) -> Loss:
            errors = (self.module(batch.x) - batch.target).square().mean(dim=(1, 2, 3))
            return Loss(errors.mean(), {}, errors.detach())

    objective = Telling()
    [last] = [
        r
        for r in train(objective, replace(CONFIG, steps=1, ema_widths=()), tmp_path, {})
        if isinstance(r, ValidationRecord)
    ]
    [batch] = objective.validation_batches()
    with torch.no_grad():
        each = objective.loss(batch, 0).each
    assert each is not None and len(each) == 4
    assert last.losses["live"][PLUS_MINUS] == pytest.approx(1.96 * float(each.std()) / 2, rel=1e-5)
    plain = [
        r for r in train(toy(), replace(CONFIG, steps=1), tmp_path / "plain", {}) if isinstance(r, ValidationRecord)
    ]
    assert PLUS_MINUS not in plain[0].losses["live"]


def test_a_second_trainer_is_refused(toy: Any, tmp_path: Path) -> None:
    first = train(toy(), CONFIG, tmp_path, IDENTITY)
    assert isinstance(next(first), SampleRecord) and isinstance(next(first), StepRecord)
    with pytest.raises(ToileError, match="in use by another trainer"):
        next(train(toy(), CONFIG, tmp_path, IDENTITY, resume=True))
    first.close()
    assert losses(train(toy(), CONFIG, tmp_path, IDENTITY, resume=True))[0][0] == 2


def test_a_damaged_state_is_named_and_the_one_before_is_used(toy: Any, tmp_path: Path) -> None:
    list(train(toy(), CONFIG, tmp_path / "whole", IDENTITY))
    follow(train(toy(), CONFIG, tmp_path / "parts", IDENTITY), 8)
    damaged = tmp_path / "parts" / "state" / "step-00000008.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    records = list(train(toy(), CONFIG, tmp_path / "parts", IDENTITY, resume=True))
    assert isinstance(records[0], SavedRecord) and records[0].step == 6
    [warning] = records[0].warnings
    assert damaged.name in warning and "step-00000006.safetensors" in warning
    assert final_state(tmp_path / "parts") == final_state(tmp_path / "whole")


# ---------------------------------------------------------------------------------------------------- bad steps


def test_a_bad_step_changes_nothing_and_is_counted(toy: Any, tmp_path: Path) -> None:
    config = replace(CONFIG, save_every=1)
    states: dict[int, Snapshot] = {}
    skipped = []
    for record in train(toy(frozenset([9])), config, tmp_path, IDENTITY):
        if isinstance(record, SavedRecord):
            states[record.step] = latest(tmp_path)
        elif isinstance(record, StepRecord) and record.skipped:
            skipped.append(record)
    assert [record.step for record in skipped] == [3]
    assert math.isnan(skipped[0].loss)
    assert [states[step].facts["skipped_steps"] for step in (2, 3, 12)] == [0, 1, 1]
    assert states[2].tensors.keys() == states[3].tensors.keys()
    for name, value in states[2].tensors.items():
        assert torch.equal(value, states[3].tensors[name]), name
        assert bool(torch.isfinite(states[12].tensors[name]).all()), name
        assert name.startswith("optimizer.") or not torch.equal(value, states[12].tensors[name]), name


def test_three_bad_steps_in_a_row_stop(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkFailedError, match="3 times in a row.*saved state is sound"):
        list(train(toy(frozenset([17, 20, 24])), CONFIG, tmp_path, IDENTITY))
    snapshot = latest(tmp_path)
    assert snapshot.step in (3, 6)
    assert all(bool(torch.isfinite(value).all()) for value in snapshot.tensors.values())


def test_two_bad_steps_in_a_row_do_not_stop(toy: Any, tmp_path: Path) -> None:
    records = list(train(toy(frozenset([8, 12, 20, 24])), CONFIG, tmp_path, IDENTITY))
    assert [step[0] for step in losses(records) if step[4]] == [3, 4, 6, 7]
    assert isinstance(records[-1], EndRecord) and records[-1].reason == "done"


# ---------------------------------------------------------------------------------------------------- the best weights


@pytest.mark.parametrize(
    ("held_out", "best", "prefix"),
    [
        ([0.9, 0.5, 0.7], "ema 0.05", "ema0."),
        ([0.9, 0.5, 0.4], "ema 0.1", "ema1."),
        ([0.3, 0.5, 0.7], "live", "module."),
        ([math.nan, 0.8, 0.7], "ema 0.1", "ema1."),
        ([0.9, math.nan, math.inf], "live", "module."),
    ],
)
def test_the_weights_with_the_lowest_held_out_loss_are_exported(
    toy: Any, tmp_path: Path, held_out: list[float], best: str, prefix: str
) -> None:
    objective, values = toy(), iter(held_out)
    objective.held_out_of = lambda module: next(values)
    exported: dict[str, Tensor] = {}

    def export() -> None:
        assert not objective.module.training
        exported.update({name: value.clone() for name, value in objective.module.state_dict().items()})

    records = list(train(objective, replace(CONFIG, validate_every=0), tmp_path, IDENTITY, export=export))
    assert records[-1] == EndRecord(12, "done", best)
    expected = below(prefix, latest(tmp_path).tensors)
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    live = below("module.", latest(tmp_path).tensors)
    assert all(torch.equal(value, live[name]) for name, value in objective.module.state_dict().items())


def test_weights_without_a_finite_held_out_loss_are_not_exported(toy: Any, tmp_path: Path) -> None:
    objective, exports = toy(), []
    objective.held_out_of = lambda module: math.nan
    with pytest.raises(ToileError, match="finite held-out loss"):
        list(train(objective, CONFIG, tmp_path, IDENTITY, export=lambda: exports.append(1)))
    assert not exports
    assert latest(tmp_path).step == 12


# ---------------------------------------------------------------------------------------------------- time and size


def test_stopped_by_time_a_run_exports_and_can_be_resumed(toy: Any, tmp_path: Path) -> None:
    config, exports = replace(CONFIG, steps=1_000_000, validate_every=0, sample_every=0, save_every=0), []
    end = list(train(toy(), config, tmp_path, IDENTITY, minutes=0.002, export=lambda: exports.append(1)))[-1]
    assert isinstance(end, EndRecord) and end.reason == "time"
    assert exports == [1]
    assert latest(tmp_path).step == end.step < 1_000_000
    records = train(toy(), config, tmp_path, IDENTITY, resume=True)
    assert [next(records).step, next(records).step] == [end.step, end.step + 1]
    records.close()


def test_resuming_a_finished_run_trains_no_more(toy: Any, tmp_path: Path) -> None:
    list(train(toy(), CONFIG, tmp_path, IDENTITY))
    before = final_state(tmp_path)
    records = list(train(toy(), CONFIG, tmp_path, IDENTITY, resume=True))
    assert losses(records) == []
    assert isinstance(records[-1], EndRecord) and records[-1].reason == "done"
    assert final_state(tmp_path) == before


def test_accumulated_gradients_are_those_of_the_big_batch(toy: Any, tmp_path: Path) -> None:
    found = []
    for micro in (None, 4, 2, 1):
        config = replace(CONFIG, batch_size=8, micro_batch_size=micro, learning_rate=1e-3)
        steps = losses(follow(train(toy(), config, tmp_path / str(micro), IDENTITY), 5))
        weights = below("module.", latest(tmp_path / str(micro)).tensors)
        found.append((steps, weights))
    for steps, weights in found[1:]:
        assert [step[1:3] for step in steps] == [pytest.approx(step[1:3], rel=1e-5) for step in found[0][0]]
        for name, value in weights.items():
            torch.testing.assert_close(value, found[0][1][name], rtol=0, atol=1e-6)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = LoopConfig(steps=100, batch_size=1, learning_rate=2.0, warmup_steps=10, decay_share=0.2)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9:81] == [2.0] * 72
    assert rates[90] == pytest.approx(1.0) and rates[99] == pytest.approx(0.1)
    constant = replace(config, warmup_steps=0, decay_share=0.0)
    assert [constant.learning_rate_at(step) for step in (0, 99)] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"micro_batch_size": 3}, "multiple"),
        ({"micro_batch_size": -1}, "multiple"),
        ({"precision": "fp8"}, "bf16 or float32"),
        ({"decay_share": 1.5}, "between 0 and 1"),
        ({"warmup_steps": -1}, "0 or more"),
        ({"save_every": -5}, "0 or more"),
        ({"ema_widths": (0.05, 0.05)}, "ema_widths"),
        ({"ema_widths": (0.0,)}, "ema_widths"),
        ({"ema_widths": (0.5,)}, "ema_widths"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ToileError, match=named):
        replace(CONFIG, **changes)
