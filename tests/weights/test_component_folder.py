"""Component folders: strict configs, strict weights, all or nothing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from toile.errors import ToileError
from toile.weights.files import WeightsError, load_tensors, save_tensors
from toile.weights.folder import (
    find_weights,
    load_component,
    load_weights,
    read_config,
    save_component,
    write_config,
)
from toile.weights.mapping import Placement


@dataclass(frozen=True)
class NetConfig:
    in_dim: int
    widths: tuple[int, ...] = (4, 8)
    scale: float = 1.0
    sample_size: int | tuple[int, ...] | None = None
    bias: bool = True

    IGNORED: ClassVar[frozenset[str]] = frozenset({"act_fn"})
    IGNORED_WEIGHTS: ClassVar[frozenset[str]] = frozenset({"position_ids"})

    def __post_init__(self) -> None:
        if self.in_dim < 1:
            raise ToileError(f"in_dim {self.in_dim} must be 1 or more")


class Net(nn.Module):
    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        sizes = [config.in_dim, *config.widths]
        self.layers = nn.ModuleList(nn.Linear(a, b, config.bias) for a, b in zip(sizes, sizes[1:], strict=False))
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in module.state_dict().items()}


def write(path: Path, entries: dict[str, object]) -> Path:
    path.write_text(json.dumps(entries))
    return path


# ---------------------------------------------------------------------------------------------------- configs


def test_config_round_trip(tmp_path: Path) -> None:
    config = NetConfig(3, (5, 6, 7), 0.1, (64, 80), False)
    write_config(tmp_path / "config.json", config, {"_class_name": "Net", "act_fn": "silu"})
    assert read_config(tmp_path / "config.json", NetConfig) == config
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["_class_name"] == "Net"
    assert written["widths"] == [5, 6, 7]


def test_config_skips_private_and_ignored_keys_and_fills_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {"_diffusers_version": "0.6", "act_fn": "silu", "in_dim": 2, "scale": 3})
    config = read_config(path, NetConfig)
    assert config == NetConfig(2, scale=3.0)
    assert isinstance(config.scale, float)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"in_dim": 1, "width": [1]}, "'width'"),
        ({}, "'in_dim' is missing"),
        ({"in_dim": "1"}, "in_dim: expected int, got '1'"),
        ({"in_dim": True}, "in_dim: expected int, got True"),
        ({"in_dim": 1.5}, "in_dim: expected int"),
        ({"in_dim": 1, "widths": [1, "2"]}, "widths"),
        ({"in_dim": 1, "sample_size": "64"}, "sample_size"),
        ({"in_dim": 0}, "in_dim 0 must be 1 or more"),
    ],
)
def test_bad_configs_are_refused_with_the_key_named(tmp_path: Path, entries: dict[str, object], fault: str) -> None:
    with pytest.raises(ToileError, match=fault):
        read_config(write(tmp_path / "config.json", entries), NetConfig)


def test_extra_entries_cannot_shadow_a_field(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="in_dim are fields of NetConfig"):
        write_config(tmp_path / "config.json", NetConfig(3), {"in_dim": 4})
    assert not (tmp_path / "config.json").exists()


# ---------------------------------------------------------------------------------------------------- W9


def changed(tensors: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    if fault == "missing":
        del tensors["layers.1.bias"]
    elif fault == "unexpected":
        tensors["lora.weight"] = torch.zeros(1)
    elif fault == "shape":
        tensors["layers.1.weight"] = torch.zeros(4, 8)
    else:
        tensors["counts"] = torch.zeros(3)
    return tensors


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"1 mismatches\): missing layers.1.bias \[8\]"),
        ("unexpected", r"1 mismatches\): unexpected lora.weight \[1\]"),
        ("shape", r"layers.1.weight is \[4, 8\], must be \[8, 4\]"),
        ("kind", "counts is torch.float32, must be torch.int64"),
    ],
)
def test_weights_that_do_not_fit_leave_the_module_unchanged(fault: str, message: str) -> None:
    module, other = Net(NetConfig(3)), Net(NetConfig(3))
    before = bits(module)
    with pytest.raises(WeightsError, match=f"other.safetensors does not fit Net .*{message}"):
        load_weights(module, changed(dict(other.state_dict()), fault), "other.safetensors")
    assert bits(module) == before


def test_the_first_ten_mismatches_are_listed_in_one_line() -> None:
    strangers = {f"stranger.{i}": torch.zeros(1) for i in range(20)}
    with pytest.raises(WeightsError) as refusal:
        load_weights(Net(NetConfig(3)), strangers, "x")
    message = str(refusal.value)
    assert "(25 mismatches)" in message
    assert message.count("missing ") + message.count("unexpected ") == 10
    assert message.endswith("and 15 more")
    assert "\n" not in message


def test_fitting_weights_are_copied_so_that_both_stay_independent() -> None:
    module, other = Net(NetConfig(3)), Net(NetConfig(3))
    load_weights(module, other.state_dict(), "x")
    assert bits(module) == bits(other)
    with torch.no_grad():
        module.layers[0].weight.zero_()
    assert bits(module) != bits(other)


# ---------------------------------------------------------------------------------------------------- components


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_component_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    config = NetConfig(3, (5, 6))
    module = Net(config)
    module.counts += 2**40
    save_component(tmp_path / "net", module, config, {"_class_name": "Net"}, dtype=dtype)
    assert {t.dtype for t in load_tensors(find_weights(tmp_path / "net")).values()} == {dtype, torch.int64}
    loaded = load_component(tmp_path / "net", Net, NetConfig)
    for name, tensor in module.state_dict().items():
        expected = tensor.to(dtype).to(torch.float32) if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], expected)
    loaded(torch.zeros(1, 3)).sum().backward()  # real, trainable parameters
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.parametrize(
    "filename", ["model.safetensors", "model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors"]
)
def test_weights_are_found_under_each_standard_name(tmp_path: Path, filename: str) -> None:
    module = Net(NetConfig(3))
    save_component(tmp_path, module, NetConfig(3), {}, dtype=torch.float32, filename=filename)
    assert find_weights(tmp_path).name == filename
    assert bits(load_component(tmp_path, Net, NetConfig)) == bits(module)


def test_loading_half_precision_keeps_half_precision(tmp_path: Path) -> None:
    save_component(tmp_path, Net(NetConfig(3)), NetConfig(3), {})
    loaded = load_component(tmp_path, Net, NetConfig, Placement(torch.float16))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}


def test_tensors_a_config_does_not_mind_are_dropped(tmp_path: Path) -> None:
    config = NetConfig(3)
    save_component(tmp_path, Net(config), config, {})
    tensors = load_tensors(find_weights(tmp_path))
    save_tensors(find_weights(tmp_path), {**tensors, "position_ids": torch.arange(77)}, {})
    load_component(tmp_path, Net, NetConfig)


def test_another_network_is_refused_with_the_file_named(tmp_path: Path) -> None:
    save_component(tmp_path, Net(NetConfig(4)), NetConfig(3), {})
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model.safetensors does not fit Net.*\[4, 4\]"):
        load_component(tmp_path, Net, NetConfig)


def test_a_folder_without_weights_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {"in_dim": 3})
    (tmp_path / "optimizer.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="none of .*model.safetensors.*it has config.json, optimizer.bin"):
        load_component(tmp_path, Net, NetConfig)
    with pytest.raises(WeightsError, match="no such folder"):
        find_weights(tmp_path / "absent")


def test_a_weight_too_large_for_half_precision_is_refused_and_the_earlier_folder_stays(tmp_path: Path) -> None:
    module, config = Net(NetConfig(3)), NetConfig(3)
    save_component(tmp_path, module, config, {})
    before = find_weights(tmp_path).read_bytes()
    with torch.no_grad():
        module.layers[0].weight[0, 0] = 70_000.0
    with pytest.raises(WeightsError, match="layers.0.weight is not finite in torch.float16"):
        save_component(tmp_path, module, config, {})
    assert find_weights(tmp_path).read_bytes() == before


def test_a_buffer_that_no_file_holds_is_a_programming_error_not_garbage(tmp_path: Path) -> None:
    class WithTable(Net):
        def __init__(self, config: NetConfig) -> None:
            super().__init__(config)
            self.register_buffer("table", torch.arange(4.0), persistent=False)

    save_component(tmp_path, WithTable(NetConfig(3)), NetConfig(3), {})
    with pytest.raises(RuntimeError, match="buffers table of WithTable"):
        load_component(tmp_path, WithTable, NetConfig)


def test_twenty_million_parameters_load_quickly(tmp_path: Path) -> None:
    config = NetConfig(2_000, (2_000,) * 5)
    with torch.device("meta"):
        empty = Net(config)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.empty(t.shape).uniform_(-1, 1, generator=generator) for name, t in empty.named_parameters()}
    load_weights(empty, {**tensors, "counts": torch.zeros(3, dtype=torch.int64)}, "random")
    save_component(tmp_path, empty, config, {})
    start = time.process_time()
    loaded = load_component(tmp_path, Net, NetConfig)
    assert time.process_time() - start < 0.6
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 20_010_000
