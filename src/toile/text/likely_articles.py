"""Which article is probably meant, by how often articles occur in a catalogue together with what is said of them.

The words of a prompt are taken as independent given the article (naive Bayes): P(a | words) is in proportion to
`n_a * prod_w (n_aw + s) / (n_a + 1)`, with n_a pictures of the article, n_aw of them with the word, s = 0.05.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from toile.text.word_tables import ArticleCounts

_SMOOTHING = 0.05
_LEAST_SHARE = 0.1  # of the likeliest article's probability; those below are not typical
_TOLD_BY = ("colour", "people", "usage")


def probability(counts: ArticleCounts, fields: Mapping[str, str]) -> float:
    """Of an article, given the words of a prompt by their slots; not normalised."""
    value = float(counts.count)
    for slot in _TOLD_BY:
        of_slot: Mapping[str, int] = getattr(counts, slot)
        for word in fields.get(slot, "").split(" and ") if slot == "colour" else (fields.get(slot, ""),):
            if word:
                value *= (of_slot.get(word, 0) + _SMOOTHING) / (counts.count + 1)
    return value


def likeliest_article(
    articles: Mapping[str, ArticleCounts], candidates: Sequence[str], fields: Mapping[str, str]
) -> str:
    """The likeliest of at least one candidate; of equally likely ones the first."""
    return max(candidates, key=lambda name: probability(articles[name], fields))


def draw_article(
    articles: Mapping[str, ArticleCounts], fields: Mapping[str, str], group: str, rng: random.Random
) -> str:
    """An article that is typical for these words, drawn as often as it occurs.

    Args:
        articles: those of a catalogue.
        fields: slot -> words of the prompt.
        group: the part of the catalogue to draw from.

    Returns:
        Its name; "" if the catalogue has no such part.
    """
    likely = {name: probability(counts, fields) for name, counts in articles.items() if counts.group == group}
    if not likely:
        return ""
    least = _LEAST_SHARE * max(likely.values())
    typical = sorted(name for name, value in likely.items() if value >= least)
    return rng.choices(typical, [likely[name] for name in typical])[0]
