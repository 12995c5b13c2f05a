"""What describe says adds up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.model_description import describe_model


def test_parameters_add_up_to_the_loaded_model(tiny_folder: Path, tiny_model: LatentDiffusion) -> None:
    description = describe_model(tiny_folder)
    for network in description.networks:
        loaded = sum(parameter.numel() for parameter in getattr(tiny_model, network.name).parameters())
        assert network.parameters == loaded == sum(group.parameters for group in network.groups)
        assert network.dtypes == ("float32",)
        assert network.file_bytes > 4 * loaded
    assert description.parameters == sum(network.parameters for network in description.networks)


def test_facts_are_those_of_the_parts(tiny_folder: Path, tiny_model: LatentDiffusion) -> None:
    description = describe_model(tiny_folder)
    assert (description.latent_channels, description.downsampling) == (4, 4)
    assert description.vocabulary == tiny_model.tokenizer.vocab_size
    assert description.longest_prompt == 14
    assert description.sigma_max == 4096.0 or abs(description.sigma_max - 4096) < 1
    assert description.defaults == tiny_model.defaults
    assert tiny_model.facts is not None and description.hash == tiny_model.facts.hash


def test_a_config_that_describes_another_network_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copied"))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    with pytest.raises(ToileError, match=r"holds 200,644 parameters, but config.json beside it describes [\d,]+"):
        describe_model(folder)
