"""Everything that is measured, in the order it is shown; what each of it means, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toile.evaluation.failures import NOT_CLOTHING, OUT_OF_FRAME, SEVERAL, WRONG_ARTICLE
from toile.evaluation.scores import FAITHFULNESS, HIGHER, LOWER, ORIGINALITY, REALISM, VARIETY, Measure

FAILURES: Mapping[str, tuple[str, str]] = {
    NOT_CLOTHING: ("nothing recognisable", "Unlike any real picture, or with no article that can be named."),
    WRONG_ARTICLE: ("plainly another article", "The article is less probable to the judge than 99 % of real ones are."),
    SEVERAL: ("several items", "A second piece larger than 99 % of real pictures of that article have."),
    OUT_OF_FRAME: ("out of frame", "Cut off at the borders more than 99 % of real pictures of that article are."),
}
_OF_NETWORKS = (
    (
        "frechet_infinity",
        "Frechet distance without end",
        "How far the pictures as a whole are from real ones, each set one cloud of features; what few pictures "
        "add to it is taken away.",
        REALISM,
        LOWER,
    ),
    (
        "frechet",
        "Frechet distance",
        "The same as it is for this number of pictures; makers of little variety suffer less from few.",
        REALISM,
        LOWER,
    ),
    (
        "kernel",
        "kernel distance x 1000",
        "Another distance of the two sets, in which few pictures do not count against a maker; real ones scatter at 0.",
        REALISM,
        LOWER,
    ),
    (
        "sliced",
        "sliced distance",
        "How far apart the sets are along single directions; it needs no assumption and few pictures.",
        REALISM,
        LOWER,
    ),
    ("precision", "precision", "Pictures that lie among real ones: do they look real?", REALISM, HIGHER),
    (
        "density",
        "density",
        "How tightly real ones lie around the pictures; 1 as real ones do, more where all are typical.",
        REALISM,
        HIGHER,
    ),
    ("coverage", "coverage", "Real pictures with at least one of these close by.", VARIETY, HIGHER),
    ("recall", "recall", "Real pictures that lie among these: is all that is real made?", VARIETY, HIGHER),
)
FAILURES_OF_WORDS = frozenset({WRONG_ARTICLE, SEVERAL})  # they depend on the article that was asked for
SHARES = {"precision", "recall", "coverage"}
_JUDGED: Mapping[str, tuple[str, str]] = {
    "article_type": ("article", "The judge names the article that was asked for."),
    "base_colour": ("colour", "The judge names the colour that was asked for."),
    "gender": ("gender", "The judge names the wearer that was asked for."),
    "usage": ("usage", "The judge names the usage (casual, sports, formal) that was asked for."),
    "colour_lab": ("colour by its pixels", "The colour of the pixels of the article is the one that was asked for."),
}


def of_network(key: str, network: str) -> str:
    """The key of a measure in one network's features."""
    return f"{key}[{network}]"


def all_measures(networks: Sequence[str]) -> dict[str, Measure]:
    """Every measure by key: group by group, the most telling of each group first.

    Args:
        networks: names of the feature networks, the most trusted first.
    """
    found: list[Measure] = []
    for key, title, meaning, group, better in _OF_NETWORKS:
        for network in networks:
            name = f"{title} ({network})"
            found.append(Measure(of_network(key, network), name, meaning, group, better, key in SHARES))
    for key, (title, meaning) in _JUDGED.items():
        found.append(Measure(key, title, meaning, FAITHFULNESS, HIGHER, True))
    for key, (title, meaning) in FAILURES.items():
        group = FAITHFULNESS if key in FAILURES_OF_WORDS else REALISM
        found.append(Measure(key, title, meaning, group, LOWER, True))
    found += [
        Measure(
            "clip_score",
            "CLIP score",
            "How well picture and words agree in the space where a judge of words has both, 0 to 2.5.",
            FAITHFULNESS,
            HIGHER,
        ),
        Measure(
            "classifier_accuracy",
            "classifier accuracy",
            "A plain classifier that learnt from these pictures alone names the article of real ones.",
            FAITHFULNESS,
            HIGHER,
            True,
        ),
        Measure(
            "unseen_colour",
            "colour never seen on its article",
            "The judge names the colour, which no learnt picture shows on that article; nor did the judge learn one.",
            FAITHFULNESS,
            HIGHER,
            True,
        ),
        Measure(
            "unseen_article",
            "article never seen in its colour",
            "The judge names the article of the same pictures.",
            FAITHFULNESS,
            HIGHER,
            True,
        ),
        Measure(
            "reports",
            "prompts of the reports",
            "Everything that the prompts of five published reports name, and the judge knows, is right.",
            FAITHFULNESS,
            HIGHER,
            True,
        ),
        Measure(
            "swap_follows",
            "colour follows its word",
            "With one word changed to another colour, the judge names the new colour.",
            FAITHFULNESS,
            HIGHER,
            True,
        ),
        Measure(
            "swap_keeps",
            "article stays when its colour changes",
            "With one word changed to another colour, the judge names the same article as before.",
            FAITHFULNESS,
            HIGHER,
            True,
        ),
        Measure(
            "diversity",
            "difference within a prompt",
            "How far apart the pictures of one prompt are, in the first network's features; 0 when all are the same. "
            "Noise varies too: read it beside real ones.",
            VARIETY,
            HIGHER,
            is_contest=False,
        ),
        Measure(
            "vendi",
            "different pictures of a prompt",
            "How many really different pictures there are among six of one prompt (Vendi score), 1 to 6. "
            "Noise varies too: read it beside real ones.",
            VARIETY,
            HIGHER,
            is_contest=False,
        ),
        Measure(
            "copies",
            "nearer to training pictures than real ones are",
            "Pictures nearer to a training picture than the nearest hundredth of new real pictures are; 1 % is chance.",
            ORIGINALITY,
            LOWER,
            True,
            False,
        ),
        Measure(
            "memorisation",
            "distance to training pictures",
            "How far, by angle, the nearest training picture is on average. What is like nothing real is far from all.",
            ORIGINALITY,
            HIGHER,
            is_contest=False,
        ),
        Measure(
            "mifid",
            "MiFID",
            "The Frechet distance to training pictures, made worse for sets that copy: divided by how far the nearest "
            "training picture is, where that is below a limit (0.1 for Inception, else half of real pictures').",
            ORIGINALITY,
            LOWER,
        ),
    ]
    groups = (REALISM, FAITHFULNESS, VARIETY, ORIGINALITY)
    return {measure.key: measure for group in groups for measure in found if measure.group == group}
