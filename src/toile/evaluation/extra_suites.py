"""What needs pictures or trainings of its own: unseen pairs, reports' prompts, swapped words, variety, teaching.

Shapes: P prompts, K pictures of each, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from toile.evaluation.attributes import wanted_labels
from toile.evaluation.bench import Bench
from toile.evaluation.classifier_accuracy import accuracy, learn, lesson
from toile.evaluation.diversity import draw_groups, measure_diversity
from toile.evaluation.feature_networks import RANDOM, FeatureNetwork, open_feature_network
from toile.evaluation.features import observe
from toile.evaluation.label_bench import LabelBench, hits
from toile.evaluation.page_pictures import PromptRow
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.scores import Score
from toile.evaluation.suites import Prompt, Suite, reports, unseen_pairs, word_swaps
from toile.evaluation.verdict import score_of_pictures
from toile.evaluation.word_swap import JudgedPictures, measure_word_swap
from toile.models.classifier import ARTICLE_TYPE, BASE_COLOUR, MISSING
from toile.training.pictures import colour_and_article

NUM_UNSEEN, NUM_SWAPS, NUM_VARIED, NUM_EACH, NUM_OF_REPORTS = 60, 60, 30, 6, 4
_ROWS_SHOWN = 6
_RESEEDED = 500_000


@dataclass
class Extras:
    """What the further suites say of a maker: scores, other facts, and rows of pictures of one prompt."""

    scores: dict[str, Score] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    variety: tuple[PromptRow, ...] = ()


class ExtraSuites:
    """The further suites, the same for all makers.

    Args:
        bench: the judge and the real pictures.
        seed: of what is drawn, and of the pictures.
        removed: colours and articles that no maker learnt together on purpose (`DataConfig.unseen`); they are asked
            first.
    """

    def __init__(self, bench: Bench, seed: int, removed: Sequence[str] = ()) -> None:
        self.bench, self.seed = bench, seed
        self._unseen: Suite | None = None
        self._swaps: Suite | None = None
        self._reports: Suite | None = None
        if bench.labels is not None and BASE_COLOUR in bench.labels.judge.attributes:
            self._unseen = unseen_pairs(bench.real.pictures, seed=seed, removed=removed)
            self._swaps = word_swaps(bench.real.pictures, NUM_SWAPS, seed)
            self._reports = reports() if self._swaps is not None else None

    @cached_property
    def wanted(self) -> dict[str, tuple[list[str], int]]:
        """The texts of each part, and the seed of its first picture; the two sides of a swap share their seeds."""
        parts: dict[str, tuple[list[str], int]] = {}
        if self._unseen is not None:
            parts["unseen"] = ([prompt.text for prompt in self._unseen.prompts[:NUM_UNSEEN]], self.seed)
        if self._reports is not None:
            texts = [prompt.text for prompt in self._reports.prompts for _ in range(NUM_OF_REPORTS)]
            parts["reports"] = (texts, self.seed)
        if self._swaps is not None:
            first, second = ([pair[side].text for pair in self._swaps.groups] for side in (0, 1))
            parts["swap-first"], parts["swap-second"] = (first, self.seed), (second, self.seed)
            parts["swap-reseeded"] = (first, self.seed + _RESEEDED)
        texts = [prompt.text for prompt in self._varied for _ in range(NUM_EACH)]
        return {**parts, "variety": (texts, self.seed)}

    @property
    def _labels(self) -> LabelBench:
        """Of suites that there are only where somebody names labels."""
        assert self.bench.labels is not None
        return self.bench.labels

    @property
    def _varied(self) -> Sequence[Prompt]:
        return self.bench.real.suite.prompts[:NUM_VARIED]

    def measure(self, pixels: Mapping[str, Tensor]) -> Extras:
        """What the pictures of all parts show.

        Args:
            pixels: (n, H, W, 3) uint8 for each part of `wanted`.
        """
        extras = Extras()
        if self._unseen is not None:
            found = observe(self._labels.judge, pixels["unseen"]).predictions
            fields = [prompt.fields for prompt in self._unseen.prompts[:NUM_UNSEEN]]
            wanted = wanted_labels(self._labels.judge.config.labels, fields)
            for key, attribute in (("unseen_colour", BASE_COLOUR), ("unseen_article", ARTICLE_TYPE)):
                extras.scores[key] = score_of_pictures(hits(found[attribute], wanted[attribute]), True)
        if self._reports is not None:
            prompts = tuple(prompt for prompt in self._reports.prompts for _ in range(NUM_OF_REPORTS))
            numbers = np.arange(len(prompts)) // NUM_OF_REPORTS
            extras.scores["reports"] = score_of_pictures(self._all_right(pixels["reports"], prompts), True, numbers)
        if self._swaps is not None:
            self._measure_swaps(self._swaps, pixels, extras)
        self._measure_variety(pixels["variety"], extras)
        return extras

    def _all_right(self, pixels: Tensor, prompts: Sequence[Prompt]) -> np.ndarray:
        """(N,) 1 where article and colour, as far as they are asked for, are right; NaN where neither is."""
        found = observe(self._labels.judge, pixels).predictions
        wanted = wanted_labels(self._labels.judge.config.labels, [prompt.fields for prompt in prompts])
        rows = [hits(found[name], wanted[name]) for name in (ARTICLE_TYPE, BASE_COLOUR) if name in wanted]
        # A wrong one makes 0, an unknown one does not count.
        lowest = np.fmin.reduce(rows)
        return np.asarray(lowest, dtype=np.float64)

    def _measure_swaps(self, swaps: Suite, pixels: Mapping[str, Tensor], extras: Extras) -> None:
        judged = [
            JudgedPictures(pixels[part], observe(self._labels.judge, pixels[part]).predictions)
            for part in ("swap-first", "swap-second", "swap-reseeded")
        ]
        labels = self._labels.judge.config.labels
        first, second = (
            wanted_labels(labels, [pair[side].fields for pair in swaps.groups])[BASE_COLOUR] for side in (0, 1)
        )
        found = measure_word_swap(judged[0], judged[1], judged[2], first, second)
        same = judged[0].predictions[ARTICLE_TYPE] == judged[1].predictions[ARTICLE_TYPE]
        extras.scores["swap_follows"] = score_of_pictures(hits(judged[1].predictions[BASE_COLOUR], second), True)
        extras.scores["swap_keeps"] = score_of_pictures(same.double().numpy(), True)
        extras.facts["word_swap"] = {
            "pairs": len(first),
            "colour_obeyed": found.colour_obeyed.value,
            "colour_followed": found.colour_followed.value,
            "colour_stayed": found.colour_stayed.value,
            "overlap": found.swapped.overlap,
            "overlap_of_other_seeds": found.reseeded.overlap,
            "outside": found.swapped.outside_mean,
            "outside_of_other_seeds": found.reseeded.outside_mean,
            "article_kept_of_other_seeds": found.reseeded.article_kept.value,
        }

    def _measure_variety(self, pixels: Tensor, extras: Extras) -> None:
        features = self.bench.networks[0].features(pixels).unflatten(0, (-1, NUM_EACH))
        extras.scores |= self._diversity(features)
        rows = pixels.unflatten(0, (-1, NUM_EACH))[:_ROWS_SHOWN].numpy()
        # Where pictures are all called the same, one row of them says it.
        captions = dict(zip((prompt.text for prompt in self._varied), rows, strict=False))
        extras.variety = tuple(PromptRow(*row) for row in captions.items())

    def _diversity(self, features: Tensor) -> dict[str, Score]:
        found = measure_diversity(features, self.bench.centre)
        return {
            "diversity": score_of_pictures(found.distances.numpy()),
            "vendi": score_of_pictures(found.vendi.numpy()),
        }

    def taught(self, pixels: Tensor, prompts: Sequence[Prompt]) -> dict[str, Score]:
        """What a classifier that learnt from these pictures alone finds in real ones; nothing without labels.

        Its interval is that of other pictures of the same maker: the classifier learns anew without each set of them.

        Args:
            pixels: (N, H, W, 3) uint8.
            prompts: N.
        """
        if self.bench.labels is None:
            return {}
        targets = self._articles([prompt.fields for prompt in prompts])
        if bool((targets == MISSING).all()):
            return {}
        # The bench has looked with this network too. What it saw is not kept: it would lie among what is freed in
        # between, and memory would grow with the number of pictures.
        lessons = lesson(self._unlearnt.features(pixels), pixels)
        sets = PictureSets(prompts, self.bench.num_sets, self.seed)
        return {"classifier_accuracy": sets.score(lambda rows: self._learnt_accuracy(lessons[rows], targets[rows]))}

    def _learnt_accuracy(self, lessons: Tensor, targets: Tensor) -> float:
        classifier = learn(lessons, targets, self._labels.judge.config.labels.num_classes(ARTICLE_TYPE))
        return accuracy(classifier, *self._test)

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        """What is asked of classifiers: the reference pictures and their articles."""
        real = self.bench.real
        fields = [real.pictures.records[position].fields for position in real.reference.tolist()]
        features = real.features(self._unlearnt, real.reference)
        return lesson(features, real.pixels(real.reference)), self._articles(fields)

    @cached_property
    def _unlearnt(self) -> FeatureNetwork:
        among = (network for network in self.bench.networks if network.name == RANDOM)
        return next(among, None) or open_feature_network(RANDOM)

    def _articles(self, fields: Sequence[Mapping[str, str]]) -> Tensor:
        return wanted_labels(self._labels.judge.config.labels, fields)[ARTICLE_TYPE]

    def of_real_pictures(self, num_pictures: int) -> dict[str, Score]:
        """The ceilings: as many training pictures teach, and real pictures of one colour and article differ."""
        learnt, records = self.bench.real.learnt, self.bench.real.pictures.records
        drawn = np.random.default_rng(self.seed).choice(learnt, min(num_pictures, len(learnt)), replace=False)
        prompts = [Prompt("", records[position].fields) for position in drawn.tolist()]
        found = self.taught(self.bench.real.pixels(drawn), prompts)
        positions = self._real_groups(learnt)
        if not len(positions):
            return found
        features = self.bench.real.features(self.bench.networks[0], positions.reshape(-1))
        return {**found, **self._diversity(features.unflatten(0, positions.shape))}

    def _real_groups(self, learnt: np.ndarray) -> np.ndarray:
        """(P, K) positions of real pictures that one prompt could be of; P is 0 where there are no such groups."""
        records = self.bench.real.pictures.records
        groups = [_group_of(records[position].fields) for position in learnt.tolist()]
        if not any(groups):
            if len({prompt.text for prompt in self.bench.real.suite.prompts}) > 1:
                return np.empty((0, NUM_EACH), dtype=np.int64)  # each picture has words of its own
            num = min(NUM_VARIED, len(learnt) // NUM_EACH)
            return np.random.default_rng(self.seed).permutation(learnt)[: num * NUM_EACH].reshape(num, NUM_EACH)
        names, places = draw_groups(groups, NUM_EACH, self.seed)
        asked = {_group_of(prompt.fields) for prompt in self._varied}
        rows = [row for row, name in enumerate(names) if name in asked]
        drawn: np.ndarray = learnt[places[rows] if rows else places]
        return drawn


def _group_of(fields: Mapping[str, str]) -> str:
    """Colour and article, or the article alone where the data has no colours."""
    return colour_and_article(fields) or fields.get("articleType", "")
