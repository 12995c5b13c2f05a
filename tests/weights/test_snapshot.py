"""Training state survives kills, full disks and flipped bits; one trainer per run directory."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from toile.errors import ToileError
from toile.weights.files import WeightsError
from toile.weights.snapshot import RunLock, load_latest, save_snapshot


def some_state(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model.weight": torch.randn(7, 5, generator=generator),
        "optimiser.step": torch.tensor(float(step)),
        "optimiser.exp_avg": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),  # exactly means exactly
        "ema.0.weight": torch.randn(7, 5, generator=generator, dtype=torch.float64),
        "random": generator.get_state(),
        "counts": torch.arange(3),
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "empty": torch.zeros(0, 4),
    }


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (tensor.dtype, tensor.shape), name
        assert actual[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


# ---------------------------------------------------------------------------------------------------- round trip


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    facts = {"loss": 0.1 + 0.2, "note": 'a "quoted" ☂ line\n', "sha256": "0" * 64, "history": [1, None, {"a": True}]}
    path = save_snapshot(tmp_path, 3, some_state(3), facts)
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert (snapshot.step, snapshot.path, snapshot.warnings) == (3, path, ())
    assert snapshot.facts == facts
    assert_same_bits(snapshot.tensors, some_state(3))


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    first = save_snapshot(tmp_path / "1", 3, some_state(3), {"loss": 0.5, "step": 3})
    second = save_snapshot(tmp_path / "2", 3, dict(reversed(some_state(3).items())), {"loss": 0.5, "step": 3})
    assert first.read_bytes() == second.read_bytes()


def test_the_tensors_belong_to_the_caller(tmp_path: Path) -> None:
    path = save_snapshot(tmp_path, 1, {"a": torch.ones(4)}, {})
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    snapshot.tensors["a"].zero_()
    path.write_bytes(b"")
    assert snapshot.tensors["a"].tolist() == [0, 0, 0, 0]


def test_no_state_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    for step in (5, 99_999_999, 100_000_000, 100_000_001):  # a ninth digit must not upset the order
        save_snapshot(tmp_path, step, {"a": torch.tensor(step)}, {}, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-100000000.safetensors", "step-100000001.safetensors"]
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert snapshot.step == 100_000_001
    save_snapshot(tmp_path, 100_000_002, {"a": torch.tensor(1)}, {}, keep=1)
    assert os.listdir(tmp_path) == ["step-100000002.safetensors"]


def test_a_state_can_be_saved_again_at_the_same_step(tmp_path: Path) -> None:
    save_snapshot(tmp_path, 1, {"a": torch.tensor(1)}, {})
    save_snapshot(tmp_path, 1, {"a": torch.tensor(2)}, {})
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert snapshot.tensors["a"].item() == 2
    assert len(os.listdir(tmp_path)) == 1


def test_the_state_saved_last_is_found_even_after_going_back(tmp_path: Path) -> None:
    save_snapshot(tmp_path, 10, {"a": torch.tensor(10)}, {})
    save_snapshot(tmp_path, 20, {"a": torch.tensor(20)}, {})
    save_snapshot(tmp_path, 15, {"a": torch.tensor(15)}, {})
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert snapshot.tensors["a"].item() == 15
    expected = ["step-00000010.safetensors", "step-00000015.safetensors", "step-00000020.superseded"]
    assert sorted(os.listdir(tmp_path)) == expected  # nothing was lost


@pytest.mark.parametrize(("step", "keep"), [(-1, 2), (1, 0)])
def test_impossible_numbers_are_refused(tmp_path: Path, step: int, keep: int) -> None:
    with pytest.raises(ToileError, match="must be"):
        save_snapshot(tmp_path, step, {}, {}, keep=keep)


def test_facts_other_than_json_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="facts of a training state must be JSON"):
        save_snapshot(tmp_path, 1, {}, {"path": Path("x")})
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- C1: kills

_SAVED_VALUES = 300_000


def _save_forever(directory: Path, first_step: int, acknowledge: int) -> None:
    """What the killed child runs: every tensor and fact of a state says its step; each finished save is reported."""
    torch.set_num_threads(1)
    step = first_step
    while True:
        save_snapshot(directory, step, {"a": torch.full((_SAVED_VALUES,), step), "b": torch.tensor(step)}, {"s": step})
        os.write(acknowledge, step.to_bytes(8, "little"))
        step += 1


def _is_being_written(directory: Path) -> bool:
    return any(name.endswith(".partial") for name in os.listdir(directory))


def _kill_after(directory: Path, first_step: int, seconds: float, while_writing: bool) -> int:
    """Runs a saving child, kills it that long after its first finished save; the last step it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _save_forever(directory, first_step, writer)
        finally:
            os._exit(1)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 30)
    assert ready, "the child saved nothing"
    time.sleep(seconds)
    deadline = time.monotonic() + 5
    while while_writing and not _is_being_written(directory) and time.monotonic() < deadline:
        pass
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child must end by the kill, not by an error"
    with os.fdopen(reader, "rb") as reports:
        return int.from_bytes(reports.read()[-8:], "little")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_twenty_kills_while_saving_never_cost_a_complete_state(tmp_path: Path) -> None:
    chance = random.Random(0)
    interrupted, step = 0, 0
    for kill in range(20):
        # Every second kill waits for a file to be under way, so that kills in the middle of one are certain to occur.
        reported = _kill_after(tmp_path, step + 1, chance.uniform(0.0, 0.04), while_writing=kill % 2 == 1)
        interrupted += _is_being_written(tmp_path)
        snapshot = load_latest(tmp_path)
        assert snapshot is not None
        assert snapshot.warnings == ()  # no half-written state under a final name
        assert snapshot.step in (reported, reported + 1)  # a reported save is never lost
        step = snapshot.step
        assert snapshot.facts == {"s": step}
        assert snapshot.tensors["b"].item() == step
        assert torch.equal(snapshot.tensors["a"], torch.full((_SAVED_VALUES,), step))
    assert interrupted >= 3, "too few kills came while a file was being written: the test proves nothing"
    save_snapshot(tmp_path, step + 1, {}, {})
    visible = [f"step-{number:08d}.safetensors" for number in (step, step + 1)]
    assert sorted(os.listdir(tmp_path)) == visible  # leftovers are gone after the next save


def test_leftovers_of_killed_saves_are_ignored(tmp_path: Path) -> None:
    save_snapshot(tmp_path, 1, {"a": torch.tensor(1)}, {})
    (tmp_path / ".step-00000002.safetensors.0123456789ab.partial").write_bytes(b"half")
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert (snapshot.step, snapshot.warnings) == (1, ())


# ---------------------------------------------------------------------------------------------------- C2: the disk


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    for step in (1, 2):
        save_snapshot(tmp_path, step, some_state(step), {}, keep=2)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(WeightsError, match="step-00000003.*No space left on device"):
        save_snapshot(tmp_path, 3, some_state(3), {}, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001.safetensors", "step-00000002.safetensors"]
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert_same_bits(snapshot.tensors, some_state(2))


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WeightsError, match="cannot write .*taken"):
        save_snapshot(tmp_path / "taken", 1, {}, {})


# ---------------------------------------------------------------------------------------------------- C3: damage


def test_a_flipped_byte_falls_back_and_names_both(tmp_path: Path) -> None:
    save_snapshot(tmp_path, 1, some_state(1), {"loss": 1.0})
    newest = save_snapshot(tmp_path, 2, some_state(2), {"loss": 2.0})
    flip(newest, newest.stat().st_size - 10)
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert (snapshot.step, snapshot.facts) == (1, {"loss": 1.0})
    assert_same_bits(snapshot.tensors, some_state(1))
    (warning,) = snapshot.warnings
    assert "step-00000002.safetensors is damaged: its content does not match its digest" in warning
    assert "step-00000001.safetensors (step 1) is used instead" in warning


@given(position=st.integers(0, 10**9), mask=st.integers(1, 255), cut=st.booleans())
def test_any_flipped_byte_or_truncation_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, position: int, mask: int, cut: bool
) -> None:
    directory = tmp_path_factory.mktemp("run")
    save_snapshot(directory, 1, {"a": torch.tensor(1)}, {})
    newest = save_snapshot(directory, 2, {"a": torch.tensor(2)}, {"loss": 2.0})
    position %= newest.stat().st_size
    if cut:
        os.truncate(newest, position)
    else:
        flip(newest, position, mask)
    snapshot = load_latest(directory)
    assert snapshot is not None
    assert snapshot.step == 1
    assert len(snapshot.warnings) == 1


def test_a_state_under_another_name_is_not_taken_for_that_step(tmp_path: Path) -> None:
    save_snapshot(tmp_path, 1, {}, {}).rename(tmp_path / "step-00000009.safetensors")
    save_snapshot(tmp_path, 1, {}, {})
    (tmp_path / "step-00000009.superseded").rename(tmp_path / "step-00000009.safetensors")
    snapshot = load_latest(tmp_path)
    assert snapshot is not None
    assert snapshot.step == 1
    assert "is not the training state of step 9" in snapshot.warnings[0]


def test_only_damaged_states_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    for step in (1, 2):
        flip(save_snapshot(tmp_path, step, some_state(step), {}), -1)
    with pytest.raises(WeightsError, match="no usable training state.*step-00000002.*step-00000001"):
        load_latest(tmp_path)


# ---------------------------------------------------------------------------------------------------- C7: the lock

_HOLDER = """
import sys, time
from toile.weights.snapshot import RunLock
with RunLock(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_trainer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ToileError) as refusal, RunLock(run):
            pass
        assert f"process {holder.pid}" in str(refusal.value)
        assert str(run) in str(refusal.value)
    finally:
        holder.kill()
        holder.communicate()
    assert (run / "trainer.lock").exists()  # stale, and means nothing
    with RunLock(run):
        assert (run / "trainer.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_holds_within_one_process_and_ends_with_the_block(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(ToileError, match=f"in use by another trainer.*{os.getpid()}"), RunLock(tmp_path):
            pass
        with pytest.raises(ToileError), RunLock(tmp_path):  # the refusal did not free it
            pass
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError("a training that fails")
    with RunLock(tmp_path):
        pass


def test_a_run_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ToileError, match="cannot use .*taken"), RunLock(tmp_path / "taken"):
        pass
