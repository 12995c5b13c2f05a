"""The measuring bench: everything that real pictures say is prepared once, then each maker's pictures are held to it.

The same function measures models, baselines, folders and controls, so that all numbers of a table come about alike.
Shapes: N judged pictures, R reference, T training pictures, F features, K disjoint sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

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
    mifid,
    nearest_training,
)
from toile.evaluation.failures import WRONG_ARTICLE, FailureLimits, Failures, Looks, count_failures
from toile.evaluation.feature_networks import INCEPTION, FeatureNetwork
from toile.evaluation.features import observe
from toile.evaluation.frechet import FeatureStatistics, extrapolate_frechet, frechet_distance
from toile.evaluation.kernel_distance import kernel_distance
from toile.evaluation.lab_colour import ColourTable
from toile.evaluation.measures import FAILURES, of_network
from toile.evaluation.neighbours import COVERAGE_K, compare_neighbours
from toile.evaluation.real_side import RealSide
from toile.evaluation.scores import Score, WorstCase
from toile.evaluation.silhouette import measure_shapes, silhouettes
from toile.evaluation.sliced import sliced_distance
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import score_of_pictures, score_of_sets, score_without_sets
from toile.model_files.clip_pair import ClipPair
from toile.models.classifier import ARTICLE_TYPE, MISSING, AttributeClassifier

COLOUR = "base_colour"
NUM_WORST = 12
_KERNEL_SCALE = 1000.0
_LOOKED_AT = 4000  # real pictures that limits and colours are learnt from, besides the held-out ones


@dataclass(frozen=True)
class Measured:
    """What the bench says of one maker's pictures.

    Attributes:
        scores: by keys of measures.
        worst: the worst pictures, worst first.
        audit: of copies; None where too few pictures are held out for it.
        predictions: for each attribute (N,), what the judge finds.
    """

    scores: Mapping[str, Score]
    worst: tuple[WorstCase, ...]
    audit: CopyAudit | None
    predictions: Mapping[str, Tensor]


class Bench:
    """Measures pictures.

    Args:
        real: the real pictures.
        networks: what looks, the most trusted first; distances are measured in all of them, copies in the first.
        judge: names attributes.
        words: says how well pictures and words agree; None leaves that out.
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
    ) -> None:
        self.real, self.networks, self.judge, self.words = real, tuple(networks), judge.eval(), words
        self.num_sets, self.seed = num_sets, seed
        self._statistics = {
            network.name: FeatureStatistics.of(real.features(network, real.reference)) for network in self.networks
        }

    def check_number(self, num_pictures: int) -> None:
        """Refuses numbers of pictures that give no honest distance.

        Raises:
            ToileError: all sets but one, or the reference, have fewer pictures than a network has features.
        """
        of_set = num_pictures // self.num_sets
        judged = self._without_a_set(num_pictures)
        for network in self.networks:
            width, reference = network.feature_dim, len(self.real.reference)
            if min(judged, reference) < width:
                few = f"the reference has {reference}" if judged >= width else f"without one set there are {judged}"
                raise ToileError(
                    f"{network.name} has {width:,} features, and {few} pictures: distances would measure little but "
                    f"their number. Give at least {math.ceil(width * self.num_sets / (self.num_sets - 1)):,} pictures, "
                    "more real ones, or leave out the network"
                )
        if of_set <= COVERAGE_K:
            raise ToileError(
                f"{self.num_sets} sets of {of_set} pictures: give at least {COVERAGE_K + 1} a set, for precision and "
                "coverage look at neighbours within one"
            )

    def measure(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Measured:
        """Measures N pictures.

        Args:
            pixels: (N, H, W, 3) uint8, N a multiple of K; the i-th set is the i-th part of them.
            prompts: N, what each was asked to show.
        """
        scores: dict[str, Score] = {}
        features = {network.name: network.features(pixels) for network in self.networks}
        strangeness = torch.zeros(len(pixels), dtype=torch.float64)
        for network in self.networks:
            found, strange = self._distances(network, features[network.name])
            scores |= found
            if network is self.networks[0]:
                strangeness = strange
        looks, predictions = self._looks(pixels)
        wanted = wanted_labels(self.judge.config.labels, [prompt.fields for prompt in prompts])
        for attribute, labels in wanted.items():
            if bool((labels != MISSING).any()):
                scores[attribute] = score_of_pictures(hits(predictions[attribute], labels))
        if COLOUR in wanted and self._colours is not None:
            scores["colour_lab"] = score_of_pictures(hits(self._colours.predict(pixels), wanted[COLOUR]))
        failures = count_failures(self._limits, looks, wanted[ARTICLE_TYPE])
        for kind in FAILURES:
            flags = failures.flags[kind].double()
            if kind == WRONG_ARTICLE:
                flags = flags.masked_fill(wanted[ARTICLE_TYPE] == MISSING, math.nan)
            scores[kind] = score_of_pictures(flags.numpy())
        if self.words is not None and any(prompt.text for prompt in prompts):
            texts = [prompt.text for prompt in prompts]
            scores["clip_score"] = score_of_pictures(clip_scores(self.words, pixels, texts).scores.double().numpy())
        audit = self._audit(features[self.networks[0].name])
        scores |= self._originality(features[self.networks[0].name], audit)
        worst = self._worst(prompts, wanted, predictions, failures, strangeness)
        return Measured(scores, worst, audit, predictions)

    def _distances(self, network: FeatureNetwork, features: Tensor) -> tuple[dict[str, Score], Tensor]:
        """The scores in one network's features, and how strange each picture is."""
        reference, n = self.real.features(network, self.real.reference), len(features)
        found: dict[str, list[float]] = {}
        strangeness = []
        for part in features.tensor_split(self.num_sets):
            neighbours = compare_neighbours(part, reference)
            strangeness.append(neighbours.strangeness)
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
        scores[of_network("frechet", network.name)] = self._of_all(features, partial(self._frechet, network))
        if self._without_a_set(n) >= 2 * network.feature_dim:
            without_end = partial(self._frechet_without_end, network)
            scores[of_network("frechet_infinity", network.name)] = self._of_all(features, without_end)
        return scores, torch.cat(strangeness)

    def _of_all(self, features: Tensor, value_of: Callable[[Tensor], float]) -> Score:
        """A value of all pictures, with the interval that leaving out set after set gives."""
        parts = features.tensor_split(self.num_sets)
        without = [torch.cat([*parts[:number], *parts[number + 1 :]]) for number in range(len(parts))]
        return score_without_sets(value_of(features), [value_of(rest) for rest in without], len(features))

    def _frechet(self, network: FeatureNetwork, features: Tensor) -> float:
        return frechet_distance(FeatureStatistics.of(features), self._statistics[network.name])

    def _frechet_without_end(self, network: FeatureNetwork, features: Tensor) -> float:
        return extrapolate_frechet(features, self._statistics[network.name], self.seed).value

    def _without_a_set(self, num_pictures: int) -> int:
        return num_pictures - math.ceil(num_pictures / self.num_sets)

    @torch.no_grad()
    def _looks(self, pixels: Tensor) -> tuple[Looks, dict[str, Tensor]]:
        """As `look_at`, with the judge's answers, from one look."""
        seen = observe(self.judge, pixels)
        probabilities = self.judge.logits(seen.features)[ARTICLE_TYPE].softmax(dim=1)
        return Looks(seen.features, probabilities, measure_shapes(silhouettes(pixels))), dict(seen.predictions)

    @cached_property
    def _limits(self) -> FailureLimits:
        """Of the reference, which neither judge nor makers know; shapes of learnt pictures too, which are more."""
        positions = np.concatenate([self.real.reference, self._some_learnt])
        articles = wanted_labels(self.judge.config.labels, self._fields(positions))[ARTICLE_TYPE]
        shapes = measure_shapes(silhouettes(self.real.pixels(positions)))
        looks, _ = self._looks(self.real.pixels(self.real.reference))
        return FailureLimits.of(looks, articles[: len(self.real.reference)], shapes, articles)

    @cached_property
    def _colours(self) -> ColourTable | None:
        """Learnt from training pictures; None where the judge knows no colours."""
        labels = self.judge.config.labels
        if COLOUR not in labels.attributes:
            return None
        positions = self._some_learnt
        wanted = wanted_labels(labels, self._fields(positions))[COLOUR]
        return ColourTable.of(self.real.pixels(positions), wanted, len(labels.of(COLOUR)))

    @property
    def _some_learnt(self) -> np.ndarray:
        train = np.unique(self.real.pictures.train)
        return np.random.default_rng(self.seed).permutation(train)[:_LOOKED_AT]

    def _fields(self, positions: np.ndarray) -> list[Mapping[str, str]]:
        return [self.real.pictures.records[position].fields for position in positions.tolist()]

    @cached_property
    def learnt(self) -> np.ndarray:
        """Positions of the training pictures that copies are looked for among."""
        return np.unique(self.real.pictures.train)

    @cached_property
    def centre(self) -> Tensor:
        """Mean features of training pictures; angles around it tell more than those around the origin."""
        return self._learnt_features.mean(dim=0)

    def _mifid(self, features: Tensor) -> float:
        return mifid(features, self._learnt_features, self._mifid_epsilon).value

    @cached_property
    def _mifid_epsilon(self) -> float:
        """The painter challenge's in its features; in others half of how far new real pictures are from learnt ones."""
        if self.networks[0].name == INCEPTION:
            return MIFID_EPSILON
        features = self.real.features(self.networks[0], self.real.reference)
        return memorisation_distance(features, self._learnt_features) / 2

    @property
    def _learnt_features(self) -> Tensor:
        return self.real.features(self.networks[0], self.learnt)

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

    def _originality(self, features: Tensor, audit: CopyAudit | None) -> dict[str, Score]:
        found = {"mifid": self._of_all(features, self._mifid)}
        if audit is not None:
            distances = audit.nearest.distances.numpy()
            found["copies"] = score_of_pictures((distances <= audit.limit).astype(np.float64))
            found["memorisation"] = score_of_pictures(distances)
        return found

    def _worst(
        self,
        prompts: Sequence[Prompt],
        wanted: Mapping[str, Tensor],
        predictions: Mapping[str, Tensor],
        failures: Failures,
        strangeness: Tensor,
    ) -> tuple[WorstCase, ...]:
        """Pictures that fail in most ways first; of equal ones those that are least like real pictures."""
        labels = self.judge.config.labels
        reasons: list[list[str]] = [[] for _ in prompts]
        for attribute in (ARTICLE_TYPE, COLOUR):
            for index in (
                torch.nonzero(torch.from_numpy(hits(predictions[attribute], wanted[attribute]) == 0.0))
                if (attribute in wanted)
                else ()
            ):
                names = [*labels.of(attribute), "another"]
                asked, seen = (names[int(values[attribute][int(index)])] for values in (wanted, predictions))
                reasons[int(index)].append(f"asked for {asked}, looks like {seen}")
        for kind in FAILURES:
            for index in torch.nonzero(failures.flags[kind]):
                reasons[int(index)].append(FAILURES[kind][0])
        order = sorted(range(len(prompts)), key=lambda i: (-len(reasons[i]), -float(strangeness[i])))
        return tuple(
            WorstCase(
                i, "; ".join(reasons[i]) or f"{float(strangeness[i]):.1f} times as far from real ones as they are"
            )
            for i in order[:NUM_WORST]
        )


def hits(found: Tensor, wanted: Tensor) -> np.ndarray:
    """(N,) float64: 1 where the label that is wanted was found, 0 where another, NaN where none is wanted."""
    right = (found == wanted).double()
    return right.masked_fill(wanted == MISSING, math.nan).numpy()
