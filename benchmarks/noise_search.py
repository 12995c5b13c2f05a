"""Measures what searching the noise gains: the same captions from the best of 1, 2, 4, 8 and 16 noises, judged.

    TOILE_DATA=data python benchmarks/noise_search.py --model fashion --evaluator runs/evaluator/model/classifier

For each number of candidates: how often the judge finds the article type and the colour that the caption's product has,
with Wilson's 95 % intervals, and the gain over the first noise, with the 95 % interval of a paired bootstrap.
"""

from __future__ import annotations

from dataclasses import asdict

from paired import as_table, compare, parse_arguments
from rich.console import Console

from toile.weights.files import write_json_atomically

CANDIDATES = (1, 2, 4, 8, 16)


def main() -> None:
    arguments = parse_arguments(__doc__)
    console = Console()
    comparisons = compare({f"of {count}": {"noise_candidates": count} for count in CANDIDATES}, arguments)
    console.print(as_table(f"{arguments.n} captions, {arguments.steps} steps", comparisons))
    if arguments.out is not None:
        write_json_atomically(arguments.out, [asdict(comparison) for comparison in comparisons])
        console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
