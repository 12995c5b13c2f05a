"""A recipe names its autoencoder by the run that trained it or by a model that has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from toile.errors import ToileError
from toile.model_folder import find_model
from toile.training.latents import autoencoder_folder


def test_of_a_run_or_of_a_model(tmp_path: Path) -> None:
    of_run = tmp_path / "run" / "model" / "vae"
    of_run.mkdir(parents=True)
    assert autoencoder_folder(tmp_path / "run") == of_run
    assert autoencoder_folder(Path("fashion")) == find_model("fashion") / "vae"
    with pytest.raises(ToileError, match="there is no folder .*absent"):
        autoencoder_folder(tmp_path / "absent")
