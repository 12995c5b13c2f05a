"""What commands share that make pictures one after the other: the loop, its progress, a drawn seed."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from toile.cli.picture_folder import PictureFolder
from toile.cli.progress import ProgressDisplay
from toile.generation.pictures import Picture, generate
from toile.generation.reading import told_readings
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion

_LARGEST_DRAWN_SEED = 2**32


def drawn_seed() -> int:
    """A seed for pictures that were asked for without one."""
    return secrets.randbelow(_LARGEST_DRAWN_SEED)


def make_series(
    verb: str, model: LatentDiffusion, requests: Sequence[GenerateRequest], labels: Sequence[str], folder: PictureFolder
) -> tuple[list[list[Picture]], list[str]]:
    """Makes the pictures of several requests, showing how far it is and how prompts are read; saves them on no sheet.

    Args:
        verb: of the command.
        requests, labels: what is made, and what the progress calls it.

    Returns:
        The pictures of each request, and the paths of all.
    """
    made: list[list[Picture]] = []
    paths: list[str] = []
    told = dict.fromkeys(line for request in requests for line in told_readings(model, request))
    with ProgressDisplay(verb) as display:
        for line in told:
            display.print(line)
        for number, (request, label) in enumerate(zip(requests, labels, strict=True)):
            made.append([])
            for event in generate(model, request):
                if not isinstance(event, Picture):
                    display.show((number + event.fraction) / len(requests), label)
                else:
                    made[-1].append(event)
                    paths.append(str(folder.add(event, on_sheet=False)))
    return made, paths
