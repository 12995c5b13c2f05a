"""Imports only go down, as the design says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import toile

ROOT = Path(toile.__file__).parent
# Layer of each part of the package; a part may import its own layer's leaves (0), or lower layers.
LAYERS = {
    "errors": -2,
    "schema": -1,
    "nn": 0,
    "diffusion": 0,
    "text": 0,
    "data": 0,
    "device": -1,
    "user_folders": -2,
    "add_ons": -1,
    "cluster": -1,
    "models": 1,
    "weights": 2,
    "foreign_recipe": 2,
    "generation_settings": 2,
    "model_folder": 2,
    "model_files": 2,
    "latent_diffusion": 2,
    "embeddings": 2,
    "lora": 2,
    "one_shot": 2,
    "upscaler": 2,
    "ranker": 2,
    "picture_recipe": 2,
    "generation": 3,
    "data_check": 3,
    "training": 3,
    "evaluation": 3,
    "model_description": 3,
    "lora_description": 3,
    "model_conversion": 3,
    "web": 4,
    "cli": 5,
}
# Parts of one layer that may know each other: the assembled system and its files; evaluation makes pictures, and knows
# the data that models learnt from.
SAME_LAYER = {("evaluation", "generation"), ("evaluation", "training")}
FORBIDDEN = {"diffusers", "transformers", "accelerate"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def is_allowed(importer: str, imported: str) -> bool:
    if importer == imported or (importer, imported) in SAME_LAYER:
        return True
    upper, lower = LAYERS[importer], LAYERS[imported]
    return lower < upper or (upper == lower == 2)


def test_every_part_has_a_layer() -> None:
    assert {part_of(path) for path in sources()} <= set(LAYERS)


def test_imports_only_go_down() -> None:
    wrong = []
    for path in sources():
        for name in imports(path):
            package, _, rest = name.partition(".")
            imported = rest.split(".")[0]
            if package == "toile" and imported in LAYERS and not is_allowed(part_of(path), imported):
                wrong.append(f"{path.relative_to(ROOT)} imports toile.{imported}")
    assert not wrong


def test_the_engine_knows_nothing_of_what_is_before_it() -> None:
    for path in sorted((ROOT / "web" / "jobs").rglob("*.py")):
        names = [name for name in imports(path) if name.startswith("toile.web.")]
        assert all(name.startswith("toile.web.jobs.") for name in names), path


def test_trainings_know_nothing_of_pages_and_programs() -> None:
    for path in sorted((ROOT / "web" / "training").rglob("*.py")):
        names = [name for name in imports(path) if name.startswith("toile.web.")]
        assert all(name.startswith(("toile.web.training.", "toile.web.jobs.shelf.")) for name in names), path


def test_nothing_is_borrowed_from_the_libraries_we_are_compared_with() -> None:
    for path in sources():
        assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN, path


def test_files_are_short_and_named_for_what_they_hold() -> None:
    for path in [*sources(), *sorted(Path(__file__).parent.rglob("*.py"))]:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 400, path
        assert path.stem not in {"utils", "helpers", "misc", "common"}, path
