"""What is known of weights: written beside them, found again, and handed on to what is made of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from toile.errors import ToileError
from toile.weights.files import save_tensors
from toile.weights.provenance import PROVENANCE_NAME, Provenance, ancestry_of, read_provenance, weights_sha256

KNOWN = Provenance("0.1.0", {"task": "clip", "loop": {"steps": 4}}, "data:learnt 1", "data", 4, {"start": "aa"})


def write_weights(folder: Path, value: float, name: str = "model.safetensors") -> str:
    save_tensors(folder / name, {"x": torch.full((3,), value)}, {})
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_it_is_found_beside_a_file_in_a_folder_and_one_folder_higher(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    write_weights(model / "clip", 1.0)
    assert read_provenance(model) is None
    KNOWN.write(model)
    for place in (model, model / "clip", model / "clip" / "model.safetensors", model / "word.safetensors"):
        assert read_provenance(place) == KNOWN
    assert read_provenance(tmp_path) is None
    (model / PROVENANCE_NAME).write_text(json.dumps({"toile": "0.1.0", "stepz": 3}), encoding="utf-8")
    with pytest.raises(ToileError, match="stepz"):
        read_provenance(model)


def test_a_folder_of_one_file_has_that_files_hash_and_of_several_another(tmp_path: Path) -> None:
    digest = write_weights(tmp_path / "one", 1.0)
    assert weights_sha256(tmp_path / "one") == weights_sha256(tmp_path / "one" / "model.safetensors") == digest
    places = {}
    for number in (1, 2):
        write_weights(tmp_path / "two", number, f"part-{number}.safetensors")
        places[f"x{number}"] = f"part-{number}.safetensors"
    index = tmp_path / "two" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    first = weights_sha256(tmp_path / "two")
    write_weights(tmp_path / "two", 3.0, "part-2.safetensors")
    assert len({digest, first, weights_sha256(tmp_path / "two")}) == 3


def test_what_took_part_in_a_source_took_part_in_what_is_made_of_it(tmp_path: Path) -> None:
    clip = write_weights(tmp_path / "words" / "model" / "clip", 1.0)
    KNOWN.write(tmp_path / "words" / "model")
    first = ancestry_of({"clip": tmp_path / "words" / "model" / "clip"})
    assert first == {"clip": clip, "clip: start": "aa"}

    model = tmp_path / "run" / "model"
    parts = {f"base/{name}": write_weights(model / name, 2.0 + n) for n, name in enumerate(("unet", "vae"))}
    Provenance("0.1.0", {}, "data", "data", 4, first).write(model)
    second = ancestry_of({"base": model})
    assert second == {**parts, "base: clip": clip, "base: clip: start": "aa"}
    assert Provenance("0.1.0", {}, "data", "data", 4, second).took_part == {*parts.values(), clip, "aa"}


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ToileError, match="no such"):
        ancestry_of({"clip": tmp_path / "absent"})
    with pytest.raises(ToileError, match="no weights"):
        ancestry_of({"clip": tmp_path})
