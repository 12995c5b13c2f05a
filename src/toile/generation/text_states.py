"""Text states of a batch, each encoded once: rows share them, and sketches, sampler and upscaler do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toile.latent_diffusion import LatentDiffusion
from toile.text.encoded_prompts import PromptForm
from toile.text.lora_tags import LoRAUse


class TextStates:
    """Remembers what prompts became, for as long as a batch takes.

    The same prompts in another company are encoded anew: how sums are rounded depends on how many there are, and a
    picture that is made again must have the same states to the bit.
    """

    def __init__(self) -> None:
        self._known: dict[object, Tensor] = {}

    def of(
        self,
        model: LatentDiffusion,
        prompts: Sequence[str],
        word_weights: str,
        form: PromptForm,
        loras: tuple[LoRAUse, ...],
    ) -> Tensor:
        """States as `LatentDiffusion.encode_prompts` gives them for B prompts; equal ones are encoded once.

        Args:
            model, prompts, word_weights, form: as there.
            loras: that are applied to the model now.
        """
        unique = tuple(dict.fromkeys(prompts))
        asked = model, unique, word_weights, form, loras
        if asked not in self._known:
            self._known[asked] = model.encode_prompts(unique, word_weights, form).states
        return self._known[asked][[unique.index(prompt) for prompt in prompts]]
