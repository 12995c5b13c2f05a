"""Where weights come from, written beside them: the recipe, the data, and every network that had a part in it.

Without it nobody can tell whether a judge looks at pictures that it helped to make (see `refuse_partial` in
`toile.evaluation.feature_networks`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toile.schema import build_config
from toile.weights.files import WeightsError, file_sha256, read_json, write_json_atomically
from toile.weights.folder import component_files

PROVENANCE_NAME = "provenance.json"
_COMPONENTS = ("unet", "vae", "text_encoder", "generator")  # of a model folder: those that have weights


@dataclass(frozen=True)
class Provenance:
    """What a run leaves beside the weights it trained.

    Attributes:
        toile: version of the program that trained them.
        recipe: all of it, defaults included, as plain JSON values.
        pictures: identity of the data, its split, and what of the training side was learnt.
        held_out: identity of the data and its split alone; all who share it hold out the same pictures.
        steps: how many were done.
        networks: role -> SHA-256 of every file of weights that took part, and of those that took part in theirs.
    """

    toile: str
    recipe: Mapping[str, Any]
    pictures: str
    held_out: str
    steps: int
    networks: Mapping[str, str] = field(default_factory=dict)

    @property
    def took_part(self) -> frozenset[str]:
        """SHA-256 of all networks."""
        return frozenset(self.networks.values())

    def write(self, folder: Path) -> None:
        """Writes provenance.json into a folder of weights, wholly or not at all.

        Raises:
            WeightsError: the disk refuses.
        """
        write_json_atomically(folder / PROVENANCE_NAME, asdict(self))


def read_provenance(place: Path) -> Provenance | None:
    """What is known of weights.

    Args:
        place: a file of weights, a model folder, or the folder of a component in one; provenance.json is looked for
            there, or else one folder higher, where runs leave it.

    Returns:
        None where there is no such file: nothing is known.

    Raises:
        ToileError: the file is damaged.
    """
    folder = place if place.is_dir() else place.parent
    for path in (folder / PROVENANCE_NAME, folder.parent / PROVENANCE_NAME):
        if path.is_file():
            return build_config(Provenance, read_json(path), str(path))
    return None


def weights_sha256(place: Path) -> str:
    """SHA-256 of a file of weights, or of the one in a component folder; of a list of all where they are several.

    Raises:
        WeightsError: there are no weights.
    """
    if place.is_file():
        return file_sha256(place)
    files = component_files(place)
    if len(files) == 1:
        return file_sha256(files[0])
    lines = "".join(f"{path.name} {file_sha256(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def ancestry_of(sources: Mapping[str, Path]) -> dict[str, str]:
    """Every network that weights stem from: those that were read, and those that took part in theirs.

    Args:
        sources: role -> a file of weights, a component folder, or a model folder, whose components are taken one by
            one. What took part in making the "clip" is listed as "clip: ROLE".

    Returns:
        role -> SHA-256, as `Provenance.networks`.

    Raises:
        ToileError: there are no weights, or a provenance.json is damaged.
    """
    networks: dict[str, str] = {}
    for role, place in sources.items():
        networks |= _hashes(role, place)
        if (known := read_provenance(place)) is not None:
            networks |= {f"{role}: {name}": digest for name, digest in known.networks.items()}
    return networks


def _hashes(role: str, place: Path) -> dict[str, str]:
    parts = [name for name in _COMPONENTS if (place / name).is_dir()]
    if parts:
        return {f"{role}/{name}": weights_sha256(place / name) for name in parts}
    if not place.exists():
        raise WeightsError(f"{place}: no such file or folder")
    return {role: weights_sha256(place)}
