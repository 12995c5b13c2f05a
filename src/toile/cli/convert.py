"""toile convert: a model into another layout of files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from toile.model_conversion import Conversion


def convert(
    source: str,
    target: Path,
    /,
    *,
    tokenizer: Path | None = None,
    ema: bool = False,
    prediction: str | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Convert a model between a folder, a single file and the four-part layout; weights keep their values and dtypes.

    A target that ends in .safetensors becomes a single file, as other programs load it; one in .ckpt becomes four
    parts (diffusion, encoder, decoder, clip); any other a folder in the layout of diffusers. What the source is, its
    content tells. Files of PyTorch (.ckpt, .bin) are read without running anything in them.

    Args:
        source: a model folder, the name of the bundled model, or a model's file.
        target: what to write; must not exist.
        tokenizer: folder of the tokenizer, for files that have none with them.
        ema: take the averaged copy of the U-Net, where a file holds one besides the last state.
        prediction: epsilon or v_prediction: what the U-Net predicts, where you know better than the file.
        json_output: print the result as JSON.
    """
    from toile.model_conversion import convert_model

    result = convert_model(source, target, tokenizer, ema=ema, prediction=prediction)
    print(json.dumps(asdict(result), indent=2) if json_output else _as_text(result))
    return 0


def _as_text(result: Conversion) -> str:
    lines = [f"read: {result.source} ({result.source_layout})"]
    for part in result.components:
        dtypes = ", ".join(part.dtypes)
        lines.append(f"  {part.name:<12}  {part.tensors:>5} tensors, {part.parameters:>13,} numbers in {dtypes}")
    lines.append("missing: nothing")
    lines.append(f"left out: {'; '.join(result.left_out) or 'nothing'}")
    lines += [f"note: {note}" for note in result.notes]
    lines.append(f"written: {result.target} ({result.target_layout}, {result.target_bytes / 1e6:,.1f} MB)")
    return "\n".join(lines)
