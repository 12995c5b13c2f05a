"""A file that is unsafe, damaged or of another family is one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.cli.main import run
from toile.weights.files import save_tensors


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def write_trap(path: Path) -> None:
    torch.save({"state_dict": {"trap": Trap(path.parent / "sprung")}}, path, pickle_protocol=2)


def write_cut_file(path: Path) -> None:
    save_tensors(path, {"a": torch.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:-1])


def write_other_family(path: Path) -> None:
    save_tensors(path, {"conditioner.embedders.0.x": torch.zeros(2)}, {})


FILES: list[tuple[Callable[[Path], None], str]] = [
    (write_trap, "which weights never need"),
    (write_cut_file, "the file may be cut off"),
    (write_other_family, "is Stable Diffusion XL"),
]


@pytest.mark.parametrize(("write", "fault"), FILES)
@pytest.mark.parametrize("command", ["convert", "generate"])
def test_what_cannot_be_trusted_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, write: Callable[[Path], None], fault: str
) -> None:
    path, out = tmp_path / "x.ckpt", tmp_path / "out"
    write(path)
    arguments = [str(path), str(out)] if command == "convert" else ["a dress", "--model", str(path), "--out", str(out)]
    assert run([command, *arguments]) == 2
    error = capsys.readouterr().err
    assert fault in error
    assert "Traceback" not in error
    assert [item.name for item in tmp_path.iterdir()] == ["x.ckpt"]
