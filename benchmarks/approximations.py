"""Measures what approximations do to pictures: the same captions and seeds, exact and with each saving, judged.

    TOILE_DATA=data python benchmarks/approximations.py --model fashion --evaluator runs/evaluator/model/classifier

For each saving: the mean difference of pixels from the exact picture, how often the judge finds the article type and
the colour that the caption's product has, with Wilson's 95 % intervals, and what is gained or lost against the exact
pictures, with the 95 % interval of a paired bootstrap. Fewer steps stand beside, as the saving that needs no trick.
"""

from __future__ import annotations

from paired import main

SETTINGS = {
    "exact": {},
    "deepcache 2": {"deepcache": 2},
    "deepcache 3": {"deepcache": 3},
    "tgate 0.5": {"tgate": 0.5},
    "deepcache 2, tgate 0.5": {"deepcache": 2, "tgate": 0.5},
}


if __name__ == "__main__":
    main(__doc__, lambda arguments: {**SETTINGS, "half the steps": {"steps": arguments.steps // 2}})
