"""Files of learned words: both dialects, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from toile.weights.embedding_file import read_embedding, write_embedding
from toile.weights.files import WeightsError, read_metadata

VECTORS = torch.arange(8.0).reshape(2, 4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "monet.safetensors"
    write_embedding(path, "<monet>", VECTORS.requires_grad_(), {"toile_start": "printed"})
    found = read_embedding(path)
    assert list(found.words) == ["<monet>"] and torch.equal(found.words["<monet>"], VECTORS)
    assert (found.name, found.path, len(found.hash)) == ("monet", str(path), 64)
    assert read_metadata(path)["toile_start"] == "printed"


@pytest.mark.parametrize("kind", ["safetensors", "pt", "parameter"])
def test_a1111(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("bad-hands.safetensors" if kind == "safetensors" else "bad-hands.pt")
    if kind == "safetensors":
        save_file({"emb_params": VECTORS.detach().half()}, path)
    else:
        vectors = VECTORS.detach()
        held = torch.nn.Parameter(vectors) if kind == "parameter" else vectors
        content = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": held},
            "name": "bad-hands",
            "step": 99,
            "sd_checkpoint": None,
        }
        torch.save(content, path)
    assert list(read_embedding(path).words) == ["bad-hands"]
    assert torch.equal(read_embedding(path).words["bad-hands"], VECTORS.detach())


def test_one_vector_of_diffusers(tmp_path: Path) -> None:
    torch.save({"<cat>": VECTORS.detach()[0]}, tmp_path / "learned_embeds.bin")
    assert torch.equal(read_embedding(tmp_path / "learned_embeds.bin").words["<cat>"], VECTORS.detach()[:1])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"clip_g": torch.zeros(2, 8), "clip_l": torch.zeros(2, 4)}, "Stable Diffusion XL"),
        ({"a": torch.zeros(2, 4), "b": torch.zeros(2, 5)}, "several widths"),
        ({"lora_unet.alpha": torch.tensor(1.0)}, "no learned words"),
        ({"conv.weight": torch.zeros(2, 4, 3, 3)}, "no learned words"),
        ({"a": torch.zeros(0, 4)}, "no learned words"),
        ({"a": torch.full((1, 4), torch.nan)}, "finite|NaN"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=message):
        read_embedding(tmp_path / "a.safetensors")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(WeightsError):
        read_embedding(tmp_path / "a.pt")
