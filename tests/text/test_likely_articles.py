"""Which article is meant, and which is drawn where none is named."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from toile.text.likely_articles import draw_article, likeliest_article, probability
from toile.text.word_tables import ArticleCounts

ARTICLES = {
    "shirt": ArticleCounts("Shirts", "Apparel", 300, {"red": 30, "blue": 200}, {"men": 290}, {"formal": 200}),
    "dress": ArticleCounts("Dresses", "Apparel", 100, {"red": 60, "blue": 10}, {"women": 100}, {"party": 20}),
    "heels": ArticleCounts("Heels", "Footwear", 100, {"red": 20}, {"women": 100}, {}),
}


def test_probability_is_that_of_naive_bayes() -> None:
    expected = 100 * (60 + 0.05) / 101 * (20 + 0.05) / 101
    assert probability(ARTICLES["dress"], {"colour": "red", "usage": "party"}) == pytest.approx(expected)


def test_other_words_decide_which_article_is_meant() -> None:
    both = ("shirt", "dress")
    assert likeliest_article(ARTICLES, both, {}) == "shirt"
    assert likeliest_article(ARTICLES, both, {"people": "women"}) == "dress"
    assert likeliest_article(ARTICLES, both, {"colour": "red and blue"}) == "shirt"


def test_articles_are_drawn_as_often_as_they_are_likely() -> None:
    drawn = Counter(draw_article(ARTICLES, {"colour": "red"}, "Apparel", random.Random(seed)) for seed in range(3000))
    share = probability(ARTICLES["dress"], {"colour": "red"})
    share /= share + probability(ARTICLES["shirt"], {"colour": "red"})
    assert set(drawn) == {"shirt", "dress"}
    assert drawn["dress"] / 3000 == pytest.approx(share, abs=0.03)  # 3.3 standard deviations


def test_what_is_not_typical_is_not_drawn() -> None:
    drawn = {draw_article(ARTICLES, {"usage": "party"}, "Apparel", random.Random(seed)) for seed in range(200)}
    assert drawn == {"dress"}


def test_a_catalogue_without_the_part_gives_none() -> None:
    assert draw_article(ARTICLES, {}, "Home", random.Random(0)) == ""
