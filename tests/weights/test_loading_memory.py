"""Loading takes hardly more memory than the weights it leaves, and reads no more than it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from toile.weights.checkpoint import open_checkpoint
from toile.weights.files import load_tensors, save_tensors
from toile.weights.folder import WEIGHTS_NAMES
from toile.weights.mapping import ALIGNMENT, FLOAT32_ON_CPU, Placement

LARGEST_PEAK = 1.15
MEGABYTE = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts and returns memory in this way")

# Prints the bytes of a network's weights, and the most memory that loading them took.
MEASURING_SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from toile.weights.folder import load_component
from toile.weights.mapping import Placement
from dataclasses import dataclass

@dataclass(frozen=True)
class NetConfig:
    pass

class Net(nn.ModuleList):
    def __init__(self, config):
        super().__init__([*(nn.Conv2d(256, 256, 3) for _ in range(40)), *(nn.Linear(1024, 1024) for _ in range(30))])

def bytes_of(*kinds):
    status = dict(line.split(":") for line in open("/proc/self/status"))
    return sum(int(status[kind].split()[0]) * 1024 for kind in kinds)

if sys.argv[2] == "write":
    torch.save({name: t.half() for name, t in Net(None).state_dict().items()}, sys.argv[1])
else:
    torch.ones(4, 4, 3, 3).half().to(torch.bfloat16, memory_format=torch.channels_last).aminmax()  # the kernels' code
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = bytes_of("RssAnon", "RssFile")
    place = Placement(getattr(torch, sys.argv[2]), memory_format=torch.channels_last)
    net = load_component(Path(sys.argv[1]), Net, NetConfig, place)
    print(sum(tensor.nbytes for tensor in net.state_dict().values()), bytes_of("VmHWM") - before)
"""


def run_script(*arguments: object) -> list[int]:
    command = [sys.executable, "-c", MEASURING_SCRIPT, *map(str, arguments)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(word) for word in output.split()]


@pytest.fixture(scope="module")
def pickled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A component of 107 MB of float16 weights in a file of torch.save."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text("{}")
    run_script(folder / "pytorch_model.bin", "write")
    return folder


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("pickled", [False, True])
def test_the_peak_is_hardly_above_the_weights(pickled_folder: Path, tmp_path: Path, dtype: str, pickled: bool) -> None:
    folder = pickled_folder
    if not pickled:
        folder = tmp_path
        (folder / "config.json").write_text("{}")
        save_tensors(folder / WEIGHTS_NAMES[0], torch.load(pickled_folder / "pytorch_model.bin", mmap=True), {})
    weights, peak = run_script(folder, dtype)
    assert weights > 100e6
    assert peak <= LARGEST_PEAK * weights


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@on_linux
@pytest.mark.parametrize("pickled", [False, True])
def test_tensors_stay_on_the_disk_until_they_are_used(tmp_path: Path, pickled: bool) -> None:
    tensors = {"large": torch.ones(64, MEGABYTE // 4)}
    if pickled:
        torch.save(tensors, tmp_path / "x")
    else:
        save_tensors(tmp_path / "x", tensors, {})
    before = resident_bytes()
    loaded = open_checkpoint(tmp_path / "x").load(["large"])  # has looked at each number once
    assert resident_bytes() - before < 16 * MEGABYTE
    assert torch.equal(loaded["large"], tensors["large"])
    assert resident_bytes() - before > 48 * MEGABYTE


@pytest.mark.parametrize("pickled", [False, True])
def test_what_is_placed_has_the_values_of_the_file(tmp_path: Path, pickled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    kernel, matrix = torch.randn(64, 64, 3, 3, generator=generator), torch.randn(200, 300, generator=generator)
    tensors = {"kernel": kernel.half(), "matrix": matrix.half(), "counts": torch.arange(5000), "none": torch.zeros(0)}
    if pickled:
        torch.save(tensors, tmp_path / "x")
    else:
        save_tensors(tmp_path / "x", tensors, {})
    checkpoint = open_checkpoint(tmp_path / "x")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        placed = checkpoint.load(tensors, Placement(dtype, memory_format=torch.channels_last))
        for name, tensor in tensors.items():
            expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
            assert placed[name].dtype == expected.dtype
            assert torch.equal(placed[name], expected), name
        assert placed["kernel"].is_contiguous(memory_format=torch.channels_last)
        assert placed["matrix"].is_contiguous()


def test_tensors_that_share_memory_in_a_pickle_are_all_there(tmp_path: Path) -> None:
    whole = torch.arange(100_000.0)
    tensors = {"whole": whole, "turned": whole[50_000:].view(100, 500).T}
    torch.save(tensors, tmp_path / "x.ckpt")
    checkpoint = open_checkpoint(tmp_path / "x.ckpt")
    for placement in (None, FLOAT32_ON_CPU, Placement(torch.float64)):
        for name, tensor in checkpoint.load(tensors, placement).items():
            assert torch.equal(tensor.float(), tensors[name]), name


def test_a_pickle_of_a_machine_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    """Its numbers are turned round in memory, so they cannot stay on the disk."""
    numbers = torch.arange(100_000.0)
    other = {"little": b"big", "big": b"little"}[sys.byteorder]
    torch.save({"a": numbers}, tmp_path / "here.ckpt")
    with zipfile.ZipFile(tmp_path / "here.ckpt") as archive, zipfile.ZipFile(tmp_path / "there.ckpt", "w") as turned:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("byteorder"):
                content = other
            elif name.endswith("data/0"):
                content = numbers.numpy().byteswap().tobytes()
            turned.writestr(name, content)
    checkpoint = open_checkpoint(tmp_path / "there.ckpt")
    assert torch.equal(checkpoint.load(["a"])["a"], numbers)
    assert torch.equal(checkpoint.load(["a"], Placement(torch.float64))["a"], numbers.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_weights_begin_at_equal_places_whatever_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    """Else kernels add in another order, and the last bits of pictures depend on the file they were loaded from."""
    matrices = {f"{letter}.weight": torch.ones(8, 16) for letter in "abc"}
    safetensors.torch.save_file({"0": torch.ones(3), **matrices}, tmp_path / "theirs")
    save_tensors(tmp_path / "ours", {"0": torch.ones(3), **matrices}, {})
    for name in ("ours", "theirs"):
        placed = load_tensors(tmp_path / name, placement=Placement(dtype))
        assert [placed[matrix].data_ptr() % ALIGNMENT for matrix in matrices] == [0, 0, 0]
    mapped = load_tensors(tmp_path / "ours")
    assert [mapped[matrix].data_ptr() % ALIGNMENT for matrix in matrices] == [0, 0, 0]  # no copy is needed


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"damaged": torch.tensor([float("nan")]), "sound": torch.ones(3)}, {})
    assert set(load_tensors(tmp_path / "x", names=["sound"])) == {"sound"}
