"""Where runs compute: what is brought to a device, in which type what does not learn is held, and which is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from toile.cli.main import run
from toile.device import CPU, choose_dtype
from toile.errors import ToileError
from toile.training.placing import brought_to, device_of, frozen_dtype
from toile.training.recipes import load_recipe
from toile.training.run import run_recipe

META = torch.device("meta")


@dataclass(frozen=True)
class Inner:
    """A tensor and what is none."""

    x: Tensor
    name: str


@dataclass(frozen=True)
class Outer:
    """Tensors in all that can hold them."""

    inner: Inner
    rows: tuple[Tensor, ...]
    named: dict[str, Tensor]
    listed: list[Inner]
    seeds: tuple[int, ...]
    absent: Tensor | None = None


def test_all_tensors_are_brought_and_nothing_else_changes() -> None:
    inner = Inner(torch.ones(2, 3), "first")
    outer = Outer(inner, (torch.ones(1), torch.ones(2)), {"a": torch.ones(3)}, [inner], (3, 4))
    there = brought_to(META, outer)
    tensors = [there.inner.x, *there.rows, there.named["a"], there.listed[0].x]
    assert all(tensor.is_meta for tensor in tensors) and [len(tensor) for tensor in tensors] == [2, 1, 2, 3, 2]
    assert (there.inner.name, there.seeds, there.absent) == ("first", (3, 4), None)
    assert isinstance(there.rows, tuple) and isinstance(there.listed, list)
    assert not outer.inner.x.is_meta
    assert brought_to(CPU, outer).inner.x is outer.inner.x, "where it is there already, nothing is copied"


def test_a_module_lies_where_its_weights_or_buffers_do() -> None:
    assert device_of(nn.Linear(2, 2)) == CPU and device_of(nn.Linear(2, 2, device=META)) == META
    assert device_of(nn.BatchNorm1d(2, affine=False, device=META)) == META


def test_what_does_not_learn_is_never_in_float16() -> None:
    assert frozen_dtype("bf16", torch.device("cuda")) == frozen_dtype("bf16", torch.device("mps")) == torch.bfloat16
    assert frozen_dtype("bf16", CPU) == choose_dtype("auto", CPU)
    assert frozen_dtype("float32", torch.device("cuda")) == torch.float32


@pytest.fixture
def lora(picture_folder: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "lora.toml"
    path.write_text(
        f'task = "lora"\nbase = "{tiny_folder}"\n[data]\npath = "{picture_folder}"\nwidth = 16\nheight = 16\n'
        "[loop]\nsteps = 1\nbatch_size = 2\nlearning_rate = 1e-3\n",
        encoding="utf-8",
    )
    return path


def test_several_processes_train_on_cpus(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toile.training.run.join_processes", lambda: type("Two", (), {"count": 2})())
    with pytest.raises(ToileError, match="device meta: several processes train on CPUs"):
        next(run_recipe(load_recipe(lora), tmp_path / "run", device=META))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_refused(lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(lora), "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    assert "device 'cuda' is not available here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
