"""The measuring bench: everything that real pictures say is prepared once, then each maker's pictures are held to it.

The same function measures models, baselines, folders and controls, so that all numbers of a table come about alike.
Shapes: N judged pictures, R reference, T training pictures, F features, K disjoint sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.attributes import wanted_labels
from toile.evaluation.clip_score import clip_scores
from toile.evaluation.copies import (
    MIFID_EPSILON,
    YARDSTICK,
    CopyAudit,
    NearestTraining,
    audit_copies,
    memorisation_distance,
    memorisation_distances,
    mifid_of,
    nearest_training,
)
from toile.evaluation.failures import (
    NOT_CLOTHING,
    WRONG_ARTICLE,
    FailureLimits,
    Failures,
    Looks,
    count_failures,
    look_at,
)
from toile.evaluation.feature_networks import INCEPTION, FeatureNetwork
from toile.evaluation.frechet import FeatureStatistics, extrapolate_frechet, frechet_distance
from toile.evaluation.kernel_distance import kernel_distance
from toile.evaluation.lab_colour import ColourTable
from toile.evaluation.measures import FAILURES, FAILURES_OF_WORDS, of_network
from toile.evaluation.neighbours import COVERAGE_K, compare_neighbours
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.real_side import RealSide
from toile.evaluation.scores import Score, WorstCase
from toile.evaluation.silhouette import shapes_of
from toile.evaluation.sliced import sliced_distance
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import score_of_pictures, score_of_sets
from toile.model_files.clip_pair import ClipPair
from toile.models.classifier import ARTICLE_TYPE, BASE_COLOUR, MISSING, AttributeClassifier

NUM_WORST = 12
_KERNEL_SCALE = 1000.0
_LEAST_SPREAD = 0.02  # of the areas of silhouettes, in shares of the picture
_LOOKED_AT = 4000  # real pictures that limits and colours are learnt from, besides the held-out ones


@dataclass(frozen=True)
class Measured:
    """What the bench says of one maker's pictures.

    Attributes:
        scores: by keys of measures.
        worst: the worst pictures, worst first.
        audit: of copies; None where too few pictures are held out for it.
    """

    scores: Mapping[str, Score]
    worst: tuple[WorstCase, ...]
    audit: CopyAudit | None


class Bench:
    """Measures pictures.

    Args:
        real: the real pictures.
        networks: what looks, the most trusted first; distances are measured in all of them, copies in the first.
        judge: names attributes.
        words: says how well pictures and words agree; None leaves that out.
        prefix: what it is told before each prompt.
        num_sets: K.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        real: RealSide,
        networks: Sequence[FeatureNetwork],
        judge: AttributeClassifier,
        words: ClipPair | None,
        num_sets: int,
        seed: int = 0,
        prefix: str = "",
    ) -> None:
        self.prefix = prefix
        self.real, self.networks, self.judge, self.words = real, tuple(networks), judge.eval(), words
        self.num_sets, self.seed = num_sets, seed
        self._statistics = {
            network.name: FeatureStatistics.of(real.features(network, real.reference)) for network in self.networks
        }

    def prepare(self, sets: PictureSets) -> None:
        """Works out all that real pictures say, and refuses what cannot be measured, before pictures are made.

        Args:
            sets: of the pictures that will be judged.

        Raises:
            ToileError: all sets but one, or the reference, have fewer pictures than a network has features; or real
                pictures say too little for limits, colours or the audit of copies.
        """
        for network in self.networks:
            width, judged, reference = network.feature_dim, sets.fewest_without_one, len(self.real.reference)
            if min(judged, reference) < width:
                few = f"the reference has {reference}" if judged >= width else f"without one set there are {judged}"
                least = math.ceil(width * self.num_sets / (self.num_sets - 1))
                raise ToileError(
                    f"{network.name} has {width:,} features, and {few} pictures: distances would measure little but "
                    f"their number. Give at least about {least:,} pictures, more real ones, or leave out the network"
                )
        if sets.fewest <= COVERAGE_K:
            raise ToileError(
                f"{self.num_sets} sets, one of {sets.fewest} pictures: give at least {COVERAGE_K + 1} a set, for "
                "precision and coverage look at neighbours within one"
            )
        _ = self._limits, self._colours, self._mifid_epsilon, self._learnt_statistics
        if len(self.real.reference) >= YARDSTICK:
            audit_copies(self._held_out_nearest, self._held_out_nearest)

    def measure(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Measured:
        """Measures N pictures.

        Args:
            pixels: (N, H, W, 3) uint8.
            prompts: N, what each was asked to show.
        """
        sets = PictureSets(prompts, self.num_sets, self.seed)
        scores: dict[str, Score] = {}
        strangeness = torch.zeros(len(pixels), dtype=torch.float64)
        for network in reversed(self.networks):  # the first comes last: copies are looked for in its features
            features = network.features(pixels)
            found, strangeness = self._distances(network, features, sets)
            scores |= found
        faithful, looks, failures = self._faithfulness(pixels, prompts, sets)
        audit = self._audit(features)
        scores |= faithful | self._originality(features, audit, sets)
        return Measured(scores, self._worst(prompts, looks, failures, strangeness), audit)

    def faithfulness(self, pixels: Tensor, prompts: Sequence[Prompt]) -> dict[str, Score]:
        """Only what depends on words; arguments as for `measure`."""
        scores, *_ = self._faithfulness(pixels, prompts, PictureSets(prompts, self.num_sets, self.seed))
        return {key: score for key, score in scores.items() if key not in FAILURES or key in FAILURES_OF_WORDS}

    def _faithfulness(
        self, pixels: Tensor, prompts: Sequence[Prompt], sets: PictureSets
    ) -> tuple[dict[str, Score], Looks, Failures]:
        """Also failures that need no words: all are found together."""
        shares: dict[str, np.ndarray] = {}
        looks, wanted = look_at(self.judge, pixels), self._wanted(prompts)
        for attribute, labels in wanted.items():
            shares[attribute] = hits(looks.predictions[attribute], labels)
        if self._colours is not None:
            shares["colour_lab"] = hits(self._colours.predict(pixels), wanted[BASE_COLOUR])
        failures = count_failures(self._limits, looks, wanted[ARTICLE_TYPE])
        for kind in FAILURES if self._shapes_tell else (NOT_CLOTHING, WRONG_ARTICLE):
            shares[kind] = failures.flags[kind].double().numpy()
        shares[WRONG_ARTICLE] = np.where(wanted[ARTICLE_TYPE] == MISSING, math.nan, shares[WRONG_ARTICLE])
        scores = {
            key: score_of_pictures(each, True, sets.prompts) for key, each in shares.items() if not np.isnan(each).all()
        }
        if self.words is not None and any(prompt.text for prompt in prompts):
            texts = [prompt.text for prompt in prompts]
            agreed = clip_scores(self.words, pixels, texts, self.prefix).scores.double().numpy()
            scores["clip_score"] = score_of_pictures(agreed, prompts=sets.prompts)
        return scores, looks, failures

    def _wanted(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        return wanted_labels(self.judge.config.labels, [prompt.fields for prompt in prompts])

    def _distances(
        self, network: FeatureNetwork, features: Tensor, sets: PictureSets
    ) -> tuple[dict[str, Score], Tensor]:
        """The scores in one network's features, and how strange each picture is."""
        reference, n = self.real.features(network, self.real.reference), len(features)
        found: dict[str, list[float]] = {}
        strangeness = torch.zeros(n, dtype=torch.float64)
        for rows in sets.rows:
            part = features[rows]
            neighbours = compare_neighbours(part, reference)
            strangeness[rows] = neighbours.strangeness
            values = {
                "kernel": _KERNEL_SCALE * kernel_distance(part, reference),
                "sliced": sliced_distance(part, reference, seed=self.seed),
                "precision": neighbours.precision,
                "density": neighbours.density,
                "recall": neighbours.recall,
                "coverage": neighbours.coverage,
            }
            for key, value in values.items():
                found.setdefault(key, []).append(value)
        scores = {of_network(key, network.name): score_of_sets(values, n) for key, values in found.items()}
        statistics = self._statistics[network.name]
        scores[of_network("frechet", network.name)] = sets.score(
            lambda rows: frechet_distance(FeatureStatistics.of(features[rows]), statistics)
        )
        if sets.fewest_without_one >= 2 * network.feature_dim:
            scores[of_network("frechet_infinity", network.name)] = sets.score(
                lambda rows: extrapolate_frechet(features[rows], statistics, self.seed).value
            )
        return scores, strangeness

    @cached_property
    def _limits(self) -> FailureLimits:
        """Of the reference, which neither judge nor makers know; shapes of learnt pictures too, which are more."""
        positions = np.concatenate([self.real.reference, self._some_learnt])
        articles = wanted_labels(self.judge.config.labels, self._fields(positions))[ARTICLE_TYPE]
        shapes = shapes_of(self.real.pixels(positions))
        looks = look_at(self.judge, self.real.pixels(self.real.reference))
        return FailureLimits.of(looks, articles[: len(self.real.reference)], shapes, articles)

    @cached_property
    def _shapes_tell(self) -> bool:
        """Whether silhouettes of real pictures differ: those of pictures without a plain light backdrop do not."""
        return float(shapes_of(self.real.pixels(self.real.reference[:500])).area.std()) > _LEAST_SPREAD

    @cached_property
    def _colours(self) -> ColourTable | None:
        """Learnt from training pictures; None where the judge knows no colours."""
        labels = self.judge.config.labels
        if BASE_COLOUR not in labels.attributes:
            return None
        positions = self._some_learnt
        wanted = wanted_labels(labels, self._fields(positions))[BASE_COLOUR]
        return ColourTable.of(self.real.pixels(positions), wanted, len(labels.of(BASE_COLOUR)))

    @property
    def _some_learnt(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(self.real.learnt)[:_LOOKED_AT]

    def _fields(self, positions: np.ndarray) -> list[Mapping[str, str]]:
        return [self.real.pictures.records[position].fields for position in positions.tolist()]

    @cached_property
    def centre(self) -> Tensor:
        """Mean features of training pictures; angles around it tell more than those around the origin."""
        return self._learnt_features.mean(dim=0)

    @cached_property
    def _mifid_epsilon(self) -> float:
        """The painter challenge's in its features; in others half of how far new real pictures are from learnt ones."""
        if self.networks[0].name == INCEPTION:
            return MIFID_EPSILON
        features = self.real.features(self.networks[0], self.real.reference)
        return memorisation_distance(features, self._learnt_features) / 2

    @cached_property
    def _learnt_statistics(self) -> FeatureStatistics:
        return FeatureStatistics.of(self._learnt_features)

    @property
    def _learnt_features(self) -> Tensor:
        return self.real.features(self.networks[0], self.real.learnt)

    @cached_property
    def _held_out_nearest(self) -> NearestTraining:
        """The yardstick: reference pictures, which no maker's prompts are of."""
        features = self.real.features(self.networks[0], self.real.reference)
        return nearest_training(features - self.centre, self._learnt_features - self.centre)

    def _audit(self, features: Tensor) -> CopyAudit | None:
        """None where too few pictures are held out to know what chance gives."""
        if len(self.real.reference) < YARDSTICK:
            return None
        nearest = nearest_training(features - self.centre, self._learnt_features - self.centre)
        return audit_copies(nearest, self._held_out_nearest)

    def _originality(self, features: Tensor, audit: CopyAudit | None, sets: PictureSets) -> dict[str, Score]:
        distances = memorisation_distances(features, self._learnt_features)

        def mifid(rows: Tensor) -> float:
            frechet = frechet_distance(FeatureStatistics.of(features[rows]), self._learnt_statistics)
            return mifid_of(frechet, float(distances[rows].nanmean()), self._mifid_epsilon).value

        found = {
            "mifid": sets.score(mifid),
            "memorisation": score_of_pictures(distances.numpy(), prompts=sets.prompts),
        }
        if audit is not None:
            near = (audit.nearest.distances <= audit.limit).double().numpy()
            found["copies"] = score_of_pictures(near, True, sets.prompts)
        return found

    def _worst(
        self, prompts: Sequence[Prompt], looks: Looks, failures: Failures, strangeness: Tensor
    ) -> tuple[WorstCase, ...]:
        """Pictures that fail in most ways first; of equal ones those that are least like real pictures."""
        labels, wanted = self.judge.config.labels, self._wanted(prompts)
        reasons: list[list[str]] = [[] for _ in prompts]
        for attribute in (ARTICLE_TYPE, BASE_COLOUR):
            if attribute not in wanted:
                continue
            names, found = [*labels.of(attribute), "another"], looks.predictions[attribute]
            for index in np.flatnonzero(hits(found, wanted[attribute]) == 0).tolist():
                asked, seen = names[int(wanted[attribute][index])], names[int(found[index])]
                reasons[index].append(f"asked for {asked}, looks like {seen}")
        for kind in FAILURES:
            for index in torch.nonzero(failures.flags[kind])[:, 0].tolist():
                reasons[index].append(FAILURES[kind][0])
        order = sorted(range(len(prompts)), key=lambda i: (-len(reasons[i]), -float(strangeness[i])))[:NUM_WORST]
        return tuple(
            WorstCase(
                i, "; ".join(reasons[i]) or f"{float(strangeness[i]):.1f} times as far from real ones as they are"
            )
            for i in order
        )


def hits(found: Tensor, wanted: Tensor) -> np.ndarray:
    """(N,) float64: 1 where the label that is wanted was found, 0 where another, NaN where none is wanted."""
    right = (found == wanted).double()
    return right.masked_fill(wanted == MISSING, math.nan).numpy()
