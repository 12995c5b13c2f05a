"""What workers must have in common with the process that starts them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from toile import __version__
from toile.errors import ToileError

_VARIABLES = "TOILE_"


@dataclass(frozen=True)
class Surroundings:
    """What workers must have in common with the process that starts them.

    Attributes:
        folder: the working folder, which relative paths start from.
        versions: of the packages that decide the last bit of a result.
        variables: of the environment, those of toile.
    """

    folder: Path
    versions: Mapping[str, str]
    variables: Mapping[str, str]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        return cls(Path.cwd(), _versions(), variables)

    def take_on(self, threads: int, needs_folder: bool) -> None:
        """Makes these the surroundings of this process, which is a worker.

        Args:
            threads: that it computes with.
            needs_folder: whether it cannot work elsewhere; else it stays where it is if the folder is not there.

        Raises:
            ToileError: other versions, or no such folder.
        """
        for name, version in _versions().items():
            if version != self.versions[name]:
                raise ToileError(
                    f"{name} {version} is installed here, {self.versions[name]} where the work was started; results "
                    "would not be the same: install one version on all machines"
                )
        try:
            os.chdir(self.folder)
        except OSError as error:
            if needs_folder:
                raise ToileError(
                    f"cannot enter {self.folder}, where the work was started ({error.strerror}); all machines need "
                    "the same folder, for example over NFS"
                ) from error
        for name in [name for name in os.environ if name.startswith(_VARIABLES)]:
            del os.environ[name]
        os.environ.update(self.variables)
        torch.set_num_threads(threads)


def _versions() -> dict[str, str]:
    return {"toile": __version__, "torch": torch.__version__}
