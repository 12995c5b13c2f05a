"""toile evaluate, toile compare: how good pictures are, with intervals, and who is better."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from toile.cli.evaluation_flags import EvaluationFlags, MachineFlags, RealDataFlags

if TYPE_CHECKING:
    from toile.evaluation.run import EvaluationRequest

_PAGE, _FACTS = "index.html", "evaluation.json"
_HOW, _REAL, _MACHINE = EvaluationFlags(), RealDataFlags(), MachineFlags()


def evaluate(
    source: str, *, how: EvaluationFlags = _HOW, real: RealDataFlags = _REAL, machine: MachineFlags = _MACHINE
) -> int:
    """Say how real, faithful, varied and original pictures are, between floors and ceilings, with intervals.

    Pictures are made for captions of real pictures that nobody learnt from, and held against others. The result is a
    page, index.html, with all numbers in evaluation.json beside it. The real pictures are looked for in the folder that
    the environment variable TOILE_DATA names.

    Args:
        source: a model by name, folder or file, with settings if they are not its own: "fashion steps=10"; or a folder
            of pictures.
    """
    return _run(how.request([source], real, machine), machine.json_output)


def compare(
    sources: list[str], *, how: EvaluationFlags = _HOW, real: RealDataFlags = _REAL, machine: MachineFlags = _MACHINE
) -> int:
    """Say which of several makers of pictures is better at what, or that they cannot be told apart.

    Makers are models, stages of a training (runs/NAME/stages/*), LoRAs, samplers or guidance values, for example
    fashion "fashion steps=10" "fashion lora=monet:0.8 name=painted". All get the same prompts and seeds.

    Args:
        sources: see toile evaluate; each in quotes if it has settings.
    """
    return _run(how.request(sources, real, machine), machine.json_output)


def _run(request: EvaluationRequest, json_output: bool) -> int:
    from rich.console import Console

    from toile.cli.progress import ProgressDisplay
    from toile.evaluation.page import render_page
    from toile.evaluation.run import evaluate as evaluation_of
    from toile.evaluation.standing import headline
    from toile.evaluation.terminal_table import table_of, verdict_lines
    from toile.weights.files import write_json_atomically, write_text_atomically

    work = evaluation_of(request)
    with ProgressDisplay("evaluate") as progress:
        try:
            while True:
                done = next(work)
                progress.show(done.share, done.what)
        except StopIteration as end:
            result = end.value
    page = request.folder / _PAGE
    write_text_atomically(page, render_page(result.evaluation, result.pictures))
    facts = {**result.evaluation.facts(), "headline": list(headline(result.evaluation))}
    write_json_atomically(request.folder / _FACTS, facts)
    if json_output:
        print(json.dumps({**facts, "page": str(page)}, indent=2))
        return 0
    console = Console()
    for table in table_of(result.evaluation):
        console.print(table)
    for line in verdict_lines(result.evaluation):
        console.print(line, markup=False, highlight=False)
    console.print(f"the page: {page}   the numbers: {request.folder / _FACTS}", markup=False, highlight=False)
    return 0
