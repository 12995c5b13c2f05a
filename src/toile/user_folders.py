"""Folders of the user in which models, data and what goes with them are kept."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder(variable: str, name: str) -> Path:
    """The folder that an environment variable names, else `toile/NAME` in the user's data folder."""
    if named := os.environ.get(variable):
        return Path(named)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "toile" / name
