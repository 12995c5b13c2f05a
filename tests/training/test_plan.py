"""What a run will take is told before it begins, and what cannot fit is refused; trials leave no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.errors import ToileError
from toile.training import plan
from toile.training.loop import LoopConfig, train
from toile.training.plan import check_memory, largest_that_fits, plan_run
from toile.training.records import StepRecord

CONFIG = LoopConfig(steps=12, batch_size=8, learning_rate=1e-2, warmup_steps=2, precision="float32", validate_every=0)
GIGABYTE = 10**9


def test_a_plan_holds_and_trials_leave_no_trace(toy: Any, tmp_path: Path) -> None:
    tried, untried = toy(), toy()
    found = plan_run(tried, CONFIG, tmp_path / "run")
    assert found.micro_batch_size == 8
    assert found.seconds == pytest.approx(12 * found.seconds_per_step) and found.seconds_per_step > 0
    assert found.peak_bytes > 10**7
    for one, other in zip(tried.module.parameters(), untried.module.parameters(), strict=True):
        assert torch.equal(one, other) and one.grad is None
    records = list(train(tried, CONFIG, tmp_path / "run", {}))
    expected = list(train(untried, CONFIG, tmp_path / "other", {}))
    losses = [[r.loss for r in of if isinstance(r, StepRecord)] for of in (records, expected)]
    assert losses[0] == losses[1]
    sizes = [file.stat().st_size for file in (tmp_path / "run" / "state").glob("*.safetensors")]
    numbers = 4 * sum(value.numel() for value in toy().module.parameters())
    assert found.num_weights == numbers // 4
    assert found.disk_bytes == 3 * numbers * 5  # weights, two averages, two moments; three states
    assert max(sizes) < found.disk_bytes / 3 + 20_000  # names, steps, counters


def test_as_many_examples_as_fit() -> None:
    config = replace(CONFIG, batch_size=12)
    fits = [largest_that_fits(config, 1, GIGABYTE, free * GIGABYTE, 0) for free in (0, 1, 2, 3, 6, 7, 12, 13)]
    assert fits == [1, 1, 2, 3, 6, 6, 6, 12]
    assert largest_that_fits(config, 3, GIGABYTE, 100 * GIGABYTE, 0) == 4  # of each process
    assert largest_that_fits(config, 1, GIGABYTE, 7 * GIGABYTE, 4 * GIGABYTE) == 3
    assert largest_that_fits(config, 1, 0, 1, 0) == largest_that_fits(config, 1, GIGABYTE, None, 0) == 12


def test_the_batch_passes_in_parts_where_memory_is_short(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "available_bytes", lambda device: 4 * GIGABYTE)
    monkeypatch.setattr(plan, "_bytes_of_one_more", lambda objective, config: GIGABYTE)
    assert plan_run(toy(), replace(CONFIG, micro_batch_size="auto"), tmp_path).micro_batch_size == 4
    with pytest.raises(ToileError, match='8 examples at once need about 7.0 GB more.*micro_batch_size="auto"'):
        plan_run(toy(), CONFIG, tmp_path)


def test_what_cannot_fit_is_refused(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToileError, match="1 examples at once need about 2.0 GB more"):
        check_memory(1, GIGABYTE, GIGABYTE, 2 * GIGABYTE)
    check_memory(2, GIGABYTE, None, GIGABYTE)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(ToileError, match=f"on the disk of {tmp_path}"):
        plan_run(toy(), CONFIG, tmp_path / "deep" / "run")


def test_compiled_networks_are_tried_with_the_sizes_of_the_run_alone(toy: Any, tmp_path: Path) -> None:
    objective = toy()
    plan_run(objective, CONFIG, tmp_path, compiles=True)
    assert len(objective.seen) == 3 * 8
    with pytest.raises(ToileError, match="objective.compile=false"):
        plan_run(objective, replace(CONFIG, micro_batch_size="auto"), tmp_path, compiles=True)


def test_other_words_than_auto_are_refused() -> None:
    with pytest.raises(ToileError, match="micro_batch_size 'some'"):
        replace(CONFIG, micro_batch_size="some")
