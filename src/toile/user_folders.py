"""Folders of the user in which models, data and what goes with them are kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "TOILE_CACHE"


def user_folder(variable: str, name: str) -> Path:
    """The folder that an environment variable names, else `toile/NAME` in the user's data folder."""
    if named := os.environ.get(variable):
        return Path(named)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "toile" / name


def cache_folder() -> Path:
    """The folder that TOILE_CACHE names, else ~/.cache/toile: of what can be computed anew."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "toile")
