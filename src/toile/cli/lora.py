"""toile lora: what is inside a LoRA, what it does, and into which files it can go."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.evaluation.lora_effect import LoRAEffect
    from toile.lora_description import LoRADescription

lora = App(name="lora", help="Look into LoRAs, merge them into models, and convert their files.")
_Json = Annotated[bool, Parameter(name="--json")]


@lora.command
def doctor(
    source: str,
    *,
    model: str = "fashion",
    pictures: Annotated[bool, Parameter(negative="--no-pictures")] = True,
    prompt: Annotated[list[str] | None, Parameter(name=["--prompt", "-p"])] = None,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 8,
    seed: int = 0,
    strength: float = 1.0,
    device: str = "auto",
    dtype: str = "auto",
    json_output: _Json = False,
) -> int:
    """Say what is in a LoRA, which layers it changes and how much, and whether pictures change more than by chance.

    The exit code is 1 if part of it fits no layer of the model.

    Args:
        source: a name in the folder of LoRAs, or a path: a file of kohya's, diffusers' or ours, or a folder of PEFT's.
        model: the model it is for.
        pictures: make pictures with it and without; --no-pictures looks at the file alone.
        prompt: what these pictures show; may be given several times. By default nothing in particular.
        num: seeds of each prompt.
        seed: of the first.
        strength: of the LoRA in these pictures.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the result as JSON.
    """
    from toile.evaluation.lora_effect import measure_lora
    from toile.latent_diffusion import LatentDiffusion
    from toile.lora_description import describe_lora
    from toile.text.lora_tags import LoRAUse

    loaded = LatentDiffusion.load(model, device, dtype)
    description = describe_lora(source, loaded)
    effect = None
    if pictures and not description.unmatched:
        effect = measure_lora(loaded, LoRAUse(source, strength), prompt or [""], num, seed)
    if json_output:
        print(json.dumps({**asdict(description), "effect": None if effect is None else asdict(effect)}, indent=2))
    else:
        print("\n".join([*_file_lines(description), *(() if effect is None else _effect_lines(effect))]))
    return 1 if description.unmatched else 0


@lora.command
def merge(
    source: list[str],
    *,
    out: Path,
    model: str = "fashion",
    dtype: str = "float16",
    json_output: _Json = False,
) -> int:
    """Add LoRAs to a model's weights and save the whole as a model folder, computed in float32.

    Args:
        source: one or more LoRAs by name or path, each with its strength, as in monet:0.8.
        out: the new model folder; must not exist.
        model: the model they are for.
        dtype: of the weights in the files: float16, bfloat16 or float32.
        json_output: print the result as JSON.
    """
    from toile.device import DTYPES
    from toile.latent_diffusion import LatentDiffusion
    from toile.lora import load_lora, merge_loras
    from toile.text.lora_tags import read_use

    if out.exists():
        raise ToileError(f"{out} exists; give a folder that does not")
    if dtype not in DTYPES:
        raise ToileError(f"dtype {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
    uses = [read_use(text) for text in source]
    loaded = LatentDiffusion.load(model, "cpu", "float32")
    loras = [(load_lora(use.source, loaded), use.strength) for use in uses]
    merge_loras(loaded, loras)
    loaded.save(out, DTYPES[dtype])
    merged = [{"name": lora.name, "hash": lora.hash, "strength": strength} for lora, strength in loras]
    if json_output:
        print(json.dumps({"model": str(out), "base": model, "merged": merged}, indent=2))
    else:
        print(f"{out}: {model} with {', '.join(f'{each.name} at {strength:g}' for each, strength in loras)}")
    return 0


@lora.command
def convert(
    source: str, target: Path, *, dialect: str = "kohya", model: str = "fashion", json_output: _Json = False
) -> int:
    """Write a LoRA as other programs name its parts; values keep their precision.

    Args:
        source: a LoRA by name or path.
        target: the new file, or the new folder of dialect peft; must not exist.
        dialect: kohya (A1111, ComfyUI and most others), diffusers, or peft.
        model: the model it is for.
        json_output: print the result as JSON.
    """
    from toile.latent_diffusion import LatentDiffusion
    from toile.lora import find_lora, lora_targets
    from toile.weights.lora_file import read_lora, write_lora

    if target.exists():
        raise ToileError(f"{target} exists; give a name that is free")
    path = find_lora(source)
    read = read_lora(path, lora_targets(LatentDiffusion.load(model, "cpu", "auto")))
    dtypes = {change.down.dtype for change in read.changes.values()}
    if len(dtypes) != 1:
        raise ToileError(f"{path} mixes {', '.join(sorted(map(str, dtypes)))}; such a file cannot keep its precision")
    write_lora(target, read.changes, dialect, read.header, dtype=dtypes.pop())
    if json_output:
        result = {"source": str(path), "target": str(target), "from": read.dialect, "to": dialect}
        print(json.dumps({**result, "layers": len(read.changes)}, indent=2))
    else:
        print(f"{target}: {len(read.changes)} layers, {read.dialect} -> {dialect}")
    return 0


def _file_lines(description: LoRADescription) -> list[str]:
    from toile.lora_description import by_kind

    ranks = ", ".join(f"{rank} ({count} layers)" for rank, count in sorted(description.ranks.items()))
    alphas = ", ".join(f"{alpha:g}" for alpha in sorted({layer.alpha for layer in description.layers}))
    kind = "DoRA" if any(layer.dora for layer in description.layers) else "LoRA"
    lines = [f"{description.path}: {kind} in the dialect {description.dialect}", f"rank {ranks}; alpha {alphas}"]
    lines += [f"  {name}: {value[:100]}" for name, value in sorted(description.header.items())]
    lines.append("size of the change beside the weights, smallest to largest:")
    groups = by_kind(description.layers)
    width = max((len(name) for name in groups), default=0)
    for name, layers in groups.items():
        sizes = sorted(layer.relative for layer in layers)
        lines.append(f"  {name:<{width}}  {len(layers):>3} layers  {sizes[0]:.2%} to {sizes[-1]:.2%}")
    untouched = ", ".join(f"{count} of {name}" for name, count in description.untouched.items())
    lines.append(f"left as they are: {untouched}")
    if description.unmatched:
        shown = ", ".join(description.unmatched[:10])
        lines.append(f"FITS NOTHING in this model: {len(description.unmatched)} names, such as {shown}")
    return lines


def _effect_lines(effect: LoRAEffect) -> list[str]:
    verdict = "more than chance" if effect.p_value < 0.05 else "no more than chance would do"
    return [
        f"{effect.num} pairs of pictures, with it and without, from the same noise (levels of 255):",
        f"  change {effect.change:.1f}; another seed changes {effect.between_seeds:.1f}",
        f"  common shift {effect.shift:.1f}, {verdict} (p = {effect.p_value:.3f})",
        f"  brightness {effect.brightness:+.1f}, colour {effect.saturation:+.1f}, contrast {effect.contrast:+.1f}",
    ]
