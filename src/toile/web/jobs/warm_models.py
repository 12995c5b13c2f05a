"""Models and LoRAs that stay in a worker's memory: the ones used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from toile.embeddings import with_embeddings
from toile.generation.request import ImageRequest
from toile.latent_diffusion import LatentDiffusion
from toile.lora import LoRA, find_lora, load_lora

_KEPT_LORAS = 8


class WarmModels:
    """Loads each model once, as long as it is among the last ones that were asked for.

    Args:
        device, dtype: see `LatentDiffusion.load`.
        kept: how many models.
    """

    def __init__(self, device: str, dtype: str, kept: int) -> None:
        self._device, self._dtype, self._kept = device, dtype, kept
        self._models: OrderedDict[str, LatentDiffusion] = OrderedDict()
        self._loras: OrderedDict[tuple[str | None, str, float], LoRA] = OrderedDict()

    def model(self, source: str) -> LatentDiffusion:
        """A model.

        Args:
            source: what `load` opens.

        Raises:
            ToileError: it cannot be loaded.
        """
        if source not in self._models:
            while len(self._models) >= self._kept:  # before the new one comes, so that one more need never fit
                self._models.popitem(last=False)
            self._models[source] = LatentDiffusion.load(source, self._device, self._dtype)
        self._models.move_to_end(source)
        return self._models[source]

    def with_words(self, model: LatentDiffusion, names: Sequence[str]) -> LatentDiffusion:
        """The model, whose prompts may hold the words of these files; they are read anew each time.

        Raises:
            ToileError: one is gone, damaged, or does not fit the model.
        """
        if not names:
            return model
        _ = model.facts  # read once, and known to all that are made of it
        return with_embeddings(model, names)

    def loras(self, model: LatentDiffusion, images: Sequence[ImageRequest]) -> dict[str, LoRA]:
        """All LoRAs that these images use, by the sources they are named by; a file that has changed is read anew.

        Raises:
            ToileError: one is gone, damaged, or does not fit the model.
        """
        found = {}
        for source in dict.fromkeys(use.source for image in images for use in image.loras):
            key = (model.origin, source, find_lora(source).stat().st_mtime)
            if key not in self._loras:
                self._loras[key] = load_lora(source, model)
            self._loras.move_to_end(key)
            found[source] = self._loras[key]
        while len(self._loras) > _KEPT_LORAS:
            self._loras.popitem(last=False)
        return found
