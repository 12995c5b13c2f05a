"""toile: pictures of clothing and art from words.

    import toile

    model = toile.load("fashion")
    request = toile.GenerateRequest(prompts=("navy blue checked shirt for men",), seed=7)
    for event in toile.generate(model, request):
        if isinstance(event, toile.Picture):
            event.save(Path("shirt.png"))

Names are imported when they are first used, so that `import toile` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toile.embeddings import with_embeddings
    from toile.errors import ToileError
    from toile.generation.pictures import GenerateStep, NoiseChosen, Picture, generate, remake
    from toile.generation.request import GenerateRequest
    from toile.generation_settings import GenerationSettings
    from toile.latent_diffusion import LatentDiffusion, load
    from toile.picture_recipe import PictureRecipe, read_recipe, write_png
    from toile.text.lora_tags import LoRAUse

__version__ = "0.1.0"

_HOMES = {
    "ToileError": "toile.errors",
    "GenerateStep": "toile.generation.pictures",
    "NoiseChosen": "toile.generation.pictures",
    "Picture": "toile.generation.pictures",
    "generate": "toile.generation.pictures",
    "remake": "toile.generation.pictures",
    "GenerateRequest": "toile.generation.request",
    "GenerationSettings": "toile.generation_settings",
    "LatentDiffusion": "toile.latent_diffusion",
    "LoRAUse": "toile.text.lora_tags",
    "load": "toile.latent_diffusion",
    "PictureRecipe": "toile.picture_recipe",
    "read_recipe": "toile.picture_recipe",
    "with_embeddings": "toile.embeddings",
    "write_png": "toile.picture_recipe",
}

__all__ = [
    "GenerateRequest",
    "GenerateStep",
    "GenerationSettings",
    "LatentDiffusion",
    "LoRAUse",
    "NoiseChosen",
    "Picture",
    "PictureRecipe",
    "ToileError",
    "__version__",
    "generate",
    "load",
    "read_recipe",
    "remake",
    "with_embeddings",
    "write_png",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toile' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
