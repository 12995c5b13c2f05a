"""A denoising run on pixels, whose words start from a model: from a recipe to pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from toile.cli.main import run
from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.models.pixel_space import PixelSpace
from toile.training.pictures import PictureSet
from toile.training.recipes import load_recipe
from toile.training.run import build_task, run_recipe
from toile.user_folders import CACHE_VARIABLE

REST = """[loop]
steps = 3
batch_size = 4
learning_rate = 1e-3
sample_every = 3
[data]
path = "{data}"
width = 16
height = 16
"""


@pytest.fixture
def recipe(
    denoising_recipe: Callable[[Mapping[str, Any], str], str],
    tmp_path: Path,
    tiny_folder: Path,
    picture_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "pixels.toml"
    changes = {"vae": "pixels", "clip": str(tiny_folder), "model.in_channels": 12, "model.out_channels": 12}
    changes |= {"defaults.guidance": 1.0, "objective.train_text_encoder": False}
    path.write_text(denoising_recipe(changes, REST.format(data=picture_folder)), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_on_pixels_leaves_a_model_that_makes_pictures(
    recipe: Path, tmp_path: Path, tiny_model: LatentDiffusion
) -> None:
    list(run_recipe(load_recipe(recipe), tmp_path / "run"))
    model = LatentDiffusion.load(tmp_path / "run" / "model", "cpu", "float32")
    assert isinstance(model.vae, PixelSpace) and model.vae.config.downsampling == 2
    assert model.vae.mean.min() > 0, "these pictures are mostly white"
    assert model.tokenizer.vocab == tiny_model.tokenizer.vocab
    words, start = model.text_encoder.state_dict(), tiny_model.text_encoder.state_dict()
    assert all(torch.allclose(words[name], start[name], atol=1e-3) for name in start)  # but for float16 in the file
    folder = tmp_path / "pictures"
    assert run(["generate", "red bar", "--model", str(tmp_path / "run" / "model"), "--out", str(folder)]) == 0
    [path] = folder.glob("0001-*.png")
    with Image.open(path) as picture:
        assert picture.size == (16, 16)


def test_latents_are_the_pictures(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    pictures = PictureSet(loaded.data)
    objective = build_task(loaded, pictures).objective
    batch = objective.batch(range(4))
    positions = pictures.train[objective._order.positions(range(4))]  # type: ignore[attr-defined]
    shown = objective.vae.decode_latents(batch.latents)  # type: ignore[attr-defined]
    torch.testing.assert_close(shown, pictures.images(positions).contiguous(), atol=2e-3, rtol=0)  # kept in float16


def test_sizes_that_make_no_pixels_and_words_of_nothing_are_refused(recipe: Path) -> None:
    for override, message in (
        ("model.in_channels=8", "must be equal"),
        ("clip=nowhere", "nowhere"),
    ):
        loaded = load_recipe(recipe, [override])
        with pytest.raises(ToileError, match=message):
            build_task(loaded, PictureSet(loaded.data))
