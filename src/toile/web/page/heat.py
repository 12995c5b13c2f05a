"""Where a picture looked for a word, as a veil to lay over it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_COLOUR = (226, 62, 38)
_MOST_OPAQUE = 0.82


def heat_png(heat: np.ndarray) -> bytes:
    """A PNG with transparency: clear where the word was looked at least, coloured where most.

    Args:
        heat: (h, w) share of attention, at least 0.
    """
    low, high = float(heat.min()), float(heat.max())
    share = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    veil = np.empty((*heat.shape, 4), dtype=np.uint8)
    veil[..., :3] = _COLOUR
    veil[..., 3] = np.round(share**1.3 * _MOST_OPAQUE * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(veil, "RGBA").save(file, "PNG")
    return file.getvalue()
