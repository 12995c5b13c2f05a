"""Measures what searching the noise gains: the same captions from the best of 1, 2, 4, 8 and 16 noises, judged.

    TOILE_DATA=data python benchmarks/noise_search.py --model fashion --evaluator runs/evaluator/model/classifier

For each number of candidates: how often the judge finds the article type and the colour that the caption's product has,
with Wilson's 95 % intervals, and the gain over the first noise, with the 95 % interval of a paired bootstrap.
"""

from __future__ import annotations

from paired import main

CANDIDATES = (1, 2, 4, 8, 16)

if __name__ == "__main__":
    main(__doc__, lambda _: {f"of {count}": {"noise_candidates": count} for count in CANDIDATES})
