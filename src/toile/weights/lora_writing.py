"""Writing LoRA files as other programs expect them; equal changes and header give equal bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from toile.nn.lora import LowRank
from toile.weights.files import (
    ASIDE_SUFFIX,
    WeightsError,
    encode_tensors,
    is_finite,
    save_tensors,
    write_json_atomically,
)
from toile.weights.lora_names import DIFFUSERS, KOHYA, PEFT, component_of, kohya_name, peft_name
from toile.weights.peft_config import config_for

ADAPTER_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
METADATA = "lora_adapter_metadata"
"""Under it files of diffusers say PEFT's config of each component, as JSON."""

# Entries of a header that say what the tensors are; those of the file it was read from would be wrong in another.
_DERIVED = ("format", METADATA, "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
_DERIVED_OF_KOHYA = ("ss_network_module", "ss_network_dim", "ss_network_alpha")
_ARCHITECTURES = {
    "sd_v1": "stable-diffusion-v1/lora",
    "sd_v1_v": "stable-diffusion-v1/lora",
    "sd_v2": "stable-diffusion-v2-512/lora",
    "sd_v2_v": "stable-diffusion-v2-768-v/lora",
}
_LEGACY_START, _LEGACY_BYTES = 0x100000, 0x10000  # the part of a file that A1111's first hash was of

_EMPTY: Mapping[str, str] = MappingProxyType({})


def write_lora(
    path: Path,
    changes: Mapping[str, LowRank],
    dialect: str = KOHYA,
    header: Mapping[str, str] = _EMPTY,
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes a LoRA, wholly or not at all.

    Args:
        path: the file; for peft the folder, which must not exist.
        changes: of each layer, by its path with the component in front; at least one, and for peft of one component.
        dialect: "kohya", which most programs read; "diffusers", whose alpha other programs do not see; "peft".
        header: texts for the file. kohya's has what it needs of `ss_*` and `modelspec.*` already, for Stable Diffusion
            1.x if it does not say another `ss_base_model_version`; no date.
        dtype: of the tensors; alpha is float32.

    Raises:
        WeightsError: an unknown dialect, changes that it cannot hold, numbers too large for `dtype`, or the disk
            refuses; an earlier file is then unchanged.
    """
    path = Path(path)
    if dialect not in _WRITERS:
        raise WeightsError(f"{dialect!r} is no dialect that is written; allowed: {', '.join(_WRITERS)}")
    if not changes:
        raise WeightsError(f"{path}: there are no changes to write")
    if wrong := [key for key, text in header.items() if not isinstance(text, str)]:
        raise WeightsError(f"{path}: {wrong[0]} in the header is {header[wrong[0]]!r:.40}; give text")
    tensors = {layer: _converted(layer, change, dtype) for layer, change in changes.items()}
    kept = {key: text for key, text in header.items() if key not in _DERIVED}
    _WRITERS[dialect](path, changes, tensors, kept)


Parts = Mapping[str, Mapping[str, Tensor]]


def _converted(layer: str, change: LowRank, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parts of a change as a file holds them, but for the names."""
    component_of(layer)
    parts = {"down": change.down, "up": change.up}
    if change.magnitude is not None:
        parts["magnitude"] = change.magnitude
    converted = {part: tensor.detach().to("cpu", dtype).contiguous() for part, tensor in parts.items()}
    for part, tensor in converted.items():
        if not is_finite(tensor):
            reason = "it has numbers too large for it" if is_finite(parts[part]) else "it has NaN or infinity"
            raise WeightsError(f"{layer}: {part} cannot be written as {dtype}: {reason}")
    if change.alpha == 0:
        raise WeightsError(f"{layer}: alpha is 0, which programs read in different ways; leave the layer out")
    return converted


# ---------------------------------------------------------------------------------------------------- kohya


def _write_kohya(path: Path, changes: Mapping[str, LowRank], parts: Parts, header: Mapping[str, str]) -> None:
    tensors = {}
    for layer, change in changes.items():
        name = kohya_name(layer)
        tensors[f"{name}.lora_down.weight"] = parts[layer]["down"]
        tensors[f"{name}.lora_up.weight"] = parts[layer]["up"]
        tensors[f"{name}.alpha"] = torch.tensor(change.alpha, dtype=torch.float32)
        if "magnitude" in parts[layer]:
            tensors[f"{name}.dora_scale"] = parts[layer]["magnitude"].view(-1, *[1] * (change.down.dim() - 1))
    if len({name.partition(".")[0] for name in tensors}) < len(changes):
        raise WeightsError(f"{path}: two layers have the same name in kohya's dialect, where points become _")
    save_tensors(path, tensors, _kohya_header(changes, tensors, header))


def _kohya_header(
    changes: Mapping[str, LowRank], tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> dict[str, str]:
    version = header.get("ss_base_model_version", "sd_v1")
    result = {
        "ss_base_model_version": version,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES.get(version, f"{version}/lora"),
        "modelspec.implementation": "diffusers",
        "modelspec.title": header.get("ss_output_name", "LoRA"),
        **header,
        "ss_network_module": "networks.lora",
        "ss_network_dim": _common(str(change.rank) for change in changes.values()),
        "ss_network_alpha": _common(str(float(change.alpha)) for change in changes.values()),
    }
    if any(change.magnitude is not None for change in changes.values()):  # kohya's own network has no DoRA
        result["ss_network_module"] = "lycoris.kohya"
        result["ss_network_args"] = json.dumps({"algo": "lora", "dora_wd": "True"})
    training = {key: text for key, text in result.items() if key.startswith("ss_")}
    result["sshs_model_hash"], result["sshs_legacy_hash"] = kohya_hashes(encode_tensors(tensors, training))
    return result


def _common(values: Iterable[str]) -> str:
    """The value of all; "Dynamic", as in kohya's resized files, where there are several."""
    different = set(values)
    return different.pop() if len(different) == 1 else "Dynamic"


def kohya_hashes(pieces: Sequence[bytes | memoryview]) -> tuple[str, str]:
    """The hashes by which A1111 and kohya know a file, whatever is later said in its header.

    Args:
        pieces: content of a safetensors file whose metadata has only the entries `ss_*`; the first is the header.

    Returns:
        SHA-256 of the data behind the header, and 8 digits of that of 64 KiB after the first MiB.
    """
    whole, part, position = hashlib.sha256(), hashlib.sha256(), 0
    for index, piece in enumerate(pieces):
        if index:
            whole.update(piece)
        start, stop = (max(edge - position, 0) for edge in (_LEGACY_START, _LEGACY_START + _LEGACY_BYTES))
        part.update(piece[start:stop])
        position += len(piece)
    return whole.hexdigest(), part.hexdigest()[:8]


# ---------------------------------------------------------------------------------------------------- Hugging Face


def _write_diffusers(path: Path, changes: Mapping[str, LowRank], parts: Parts, header: Mapping[str, str]) -> None:
    entries: dict[str, Any] = {}
    for component in dict.fromkeys(map(component_of, changes)):
        own = {layer: change for layer, change in changes.items() if component_of(layer) == component}
        entries |= {f"{component}.{name}": value for name, value in config_for(own).to_json(own).items()}
    metadata = {**_foreign(header), "format": "pt", METADATA: json.dumps(entries, indent=2, sort_keys=True)}
    save_tensors(path, _named(parts, lambda layer: layer), metadata)


def _write_peft(path: Path, changes: Mapping[str, LowRank], parts: Parts, header: Mapping[str, str]) -> None:
    if path.exists():
        raise WeightsError(f"{path} exists already; choose another name, or remove it")
    if len(components := dict.fromkeys(map(component_of, changes))) > 1:
        raise WeightsError(f"a folder of PEFT is for one network; these changes are for {' and '.join(components)}")
    config = {**config_for(changes).to_json(changes), "peft_type": "LORA", "task_type": None, "inference_mode": True}
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ASIDE_SUFFIX}")
    try:
        save_tensors(aside / PEFT_WEIGHTS, _named(parts, peft_name), {**_foreign(header), "format": "pt"})
        write_json_atomically(aside / ADAPTER_CONFIG, {**config, "base_model_name_or_path": None})
        os.replace(aside, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _foreign(header: Mapping[str, str]) -> dict[str, str]:
    """A header without what only kohya's files say of their tensors."""
    return {key: text for key, text in header.items() if key not in _DERIVED_OF_KOHYA}


def _named(parts: Parts, name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors under PEFT's names; the magnitude of a convolution is (1, out, 1, 1) there."""
    tensors = {}
    for layer, held in parts.items():
        name, down = name_of(layer), held["down"]
        tensors[f"{name}.lora_A.weight"] = down
        tensors[f"{name}.lora_B.weight"] = held["up"]
        if (magnitude := held.get("magnitude")) is not None:
            shaped = magnitude if down.dim() == 2 else magnitude.view(1, -1, *[1] * (down.dim() - 2))
            tensors[f"{name}.lora_magnitude_vector"] = shaped
    return tensors


_WRITERS: Mapping[str, Callable[[Path, Mapping[str, LowRank], Parts, Mapping[str, str]], None]] = {
    KOHYA: _write_kohya,
    DIFFUSERS: _write_diffusers,
    PEFT: _write_peft,
}
