"""toile evaluate, toile compare: how good pictures are, with intervals, and who is better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from toile.evaluation.run import EvaluationRequest

_PAGE, _FACTS = "index.html", "evaluation.json"


def evaluate(
    source: str,
    *,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 1300,
    sets: int = 5,
    seed: int = 0,
    networks: list[str] | None = None,
    quick: bool = False,
    data: str = "products",
    data_path: Path | None = None,
    split_seed: int = 0,
    size: str = "64x80",
    out: Path = Path("evaluation"),
    device: str = "auto",
    dtype: str = "auto",
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Say how real, faithful, varied and original pictures are, between floors and ceilings, with intervals.

    Pictures are made for captions of real pictures that nobody learnt from, and held against others. The result is a
    page, index.html, with all numbers in evaluation.json beside it. The real pictures are looked for in the folder that
    the environment variable TOILE_DATA names.

    Args:
        source: a model by name, folder or file, with settings if they are not its own: "fashion steps=10"; or a folder
            of pictures.
        num: pictures to make and judge.
        sets: disjoint sets of them, with seeds and prompts of their own, that intervals come from.
        seed: of the first picture.
        networks: what looks at pictures, the most trusted first: attributes, words and random come with the program;
            inception=FILE, clip=FOLDER and dinov2=FOLDER are for published weights that you have.
        quick: leave out what needs more pictures and trainings: unseen pairs, swapped words, variety, teaching.
        data: the real pictures: products, fashion-mnist, or what toile data get fetched.
        data_path: a zip or folder of real pictures instead.
        split_seed: of the split that keeps some of them away from training.
        size: width x height at which pictures are judged.
        out: folder for the page, the numbers and the pictures; pictures that are there already are not made again.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the numbers as JSON.
    """
    return compare(
        [source],
        num=num,
        sets=sets,
        seed=seed,
        networks=networks,
        quick=quick,
        data=data,
        data_path=data_path,
        split_seed=split_seed,
        size=size,
        out=out,
        device=device,
        dtype=dtype,
        json_output=json_output,
    )


def compare(
    sources: list[str],
    *,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 1300,
    sets: int = 5,
    seed: int = 0,
    networks: list[str] | None = None,
    quick: bool = False,
    data: str = "products",
    data_path: Path | None = None,
    split_seed: int = 0,
    size: str = "64x80",
    out: Path = Path("evaluation"),
    device: str = "auto",
    dtype: str = "auto",
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Say which of several makers of pictures is better at what, or that they cannot be told apart.

    Makers are models, stages of a training (runs/NAME/stages/*), LoRAs, samplers or guidance values, for example
    fashion "fashion steps=10" "fashion lora=monet:0.8 name=painted". All get the same prompts and seeds.

    Args:
        sources: see toile evaluate; each in quotes if it has settings.
        num: pictures of each.
        sets: see toile evaluate.
        seed: of the first picture.
        networks: see toile evaluate.
        quick: see toile evaluate.
        data: see toile evaluate.
        data_path: see toile evaluate.
        split_seed: see toile evaluate.
        size: width x height at which pictures are judged.
        out: see toile evaluate.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the numbers as JSON.
    """
    from toile.cli.generate import parse_size
    from toile.evaluation.run import NETWORKS, EvaluationRequest
    from toile.training.pictures import DataConfig

    width, height = parse_size(size)
    request = EvaluationRequest(
        tuple(sources),
        out,
        num,
        sets,
        seed,
        tuple(networks or NETWORKS),
        DataConfig(width, height, data, data_path, split_seed),
        not quick,
        device,
        dtype,
    )
    return _run(request, json_output)


def _run(request: EvaluationRequest, json_output: bool) -> int:
    from rich.console import Console

    from toile.cli.progress import ProgressDisplay
    from toile.evaluation.page import render_page
    from toile.evaluation.run import evaluate as evaluation_of
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
    facts = result.evaluation.facts()
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
