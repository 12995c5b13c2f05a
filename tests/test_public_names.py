"""`import toile` is free, and its names are real."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import toile


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("code", ["import toile", "import toile.cli.main"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert not modules_after(code) & {"torch", "numpy", "PIL", "tokenizers", "safetensors", "matplotlib"}


def test_every_public_name_exists() -> None:
    for name in toile.__all__:
        assert getattr(toile, name) is not None
    assert set(dir(toile)) == set(toile.__all__)
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        toile.generat  # noqa: B018


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["version"] == toile.__version__
