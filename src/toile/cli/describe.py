"""toile describe: what is inside a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from toile.model_description import ModelDescription, NetworkDescription


def describe(
    model: str = "fashion",
    /,
    *,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Print what is inside a model: parts, shapes, parameters that add up, noise schedule, vocabulary, defaults.

    Args:
        model: the name of the bundled model, a model folder, or a model's file.
        json_output: print the result as JSON.
    """
    from toile.model_description import describe_model

    description = describe_model(model)
    print(json.dumps(asdict(description), indent=2) if json_output else _as_text(description))
    return 0


def _as_text(model: ModelDescription) -> str:
    lines = [f"{model.name}: {model.folder}", f"content {model.hash}", ""]
    for network in model.networks:
        lines += [*_network_lines(network), ""]
    total = " + ".join(f"{network.name} {network.parameters:,}" for network in model.networks)
    lines += [f"parameters: {total} = {model.parameters:,}", ""]
    latents = f"{model.latent_channels} channels, one position for {model.downsampling}x{model.downsampling} pixels"
    schedule = ", ".join(f"{key} {value}" for key, value in model.schedule.items())
    lines += [
        f"latents: {latents}",
        f"schedule: {schedule}",
        f"noise levels: sigma {model.sigma_min:.4g} to {model.sigma_max:.4g}",
        f"words: {model.vocabulary:,} tokens known, {model.longest_prompt} of a prompt in a row",
        *([f"prompts: {model.phrases:,} words and phrases of people are read in its own"] if model.phrases else []),
        "defaults: " + ", ".join(f"{key} {value!r}" for key, value in asdict(model.defaults).items()),
        *_quality_lines(model),
    ]
    return "\n".join(lines)


def _quality_lines(model: ModelDescription) -> list[str]:
    usual = asdict(model.defaults)
    lines = []
    for name, settings in model.qualities.items():
        changes = [f"{key} {value!r}" for key, value in asdict(settings).items() if value != usual[key]]
        lines.append(f"quality {name}: {', '.join(changes) or 'the defaults'}")
    return lines


def _network_lines(network: NetworkDescription) -> list[str]:
    width = max(len(group.name) for group in network.groups)
    size = f"{network.file_bytes / 1e6:,.1f} MB in {', '.join(network.dtypes)}"
    lines = [f"{network.name}: {network.parameters:,} parameters, {size}"]
    for group in network.groups:
        shape = "x".join(map(str, group.largest_shape))
        lines.append(f"  {group.name:<{width}}  {group.parameters:>13,} in {group.tensors:>3} tensors, largest {shape}")
    settings = ", ".join(f"{key} {value}" for key, value in network.config.items())
    return [*lines, f"  config: {settings}"]
