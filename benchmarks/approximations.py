"""Measures what approximations do to pictures: the same captions and seeds, exact and with each saving, judged.

    TOILE_DATA=data python benchmarks/approximations.py --model fashion --evaluator runs/evaluator/model/classifier

For each saving: the mean difference of pixels from the exact picture, how often the judge finds the article type and
the colour that the caption's product has, with Wilson's 95 % intervals, and what is gained or lost against the exact
pictures, with the 95 % interval of a paired bootstrap. Fewer steps stand beside, as the saving that needs no trick.
"""

from __future__ import annotations

from dataclasses import asdict

from paired import as_table, compare, parse_arguments
from rich.console import Console

from toile.weights.files import write_json_atomically

SETTINGS = {
    "exact": {},
    "deepcache 2": {"deepcache": 2},
    "deepcache 3": {"deepcache": 3},
    "tgate 0.5": {"tgate": 0.5},
    "deepcache 2, tgate 0.5": {"deepcache": 2, "tgate": 0.5},
}


def main() -> None:
    arguments = parse_arguments(__doc__)
    settings = {**SETTINGS, "half the steps": {"steps": arguments.steps // 2}}
    console = Console()
    comparisons = compare(settings, arguments)
    console.print(as_table(f"{arguments.n} captions, {arguments.steps} steps", comparisons))
    if arguments.out is not None:
        write_json_atomically(arguments.out, [asdict(comparison) for comparison in comparisons])
        console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
