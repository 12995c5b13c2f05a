"""The measuring bench: everything that real pictures say is prepared once, then each maker's pictures are held to it.

The same function measures models, baselines, folders and controls, so that all numbers of a table come about alike.
Shapes: N judged pictures, R reference, T training pictures, F features, K disjoint sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from toile.device import stop_keeping_freed_memory
from toile.errors import ToileError
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
from toile.evaluation.feature_networks import INCEPTION, RANDOM, FeatureNetwork
from toile.evaluation.frechet import FeatureStatistics, extrapolate_frechet, frechet_distance
from toile.evaluation.kernel_distance import kernel_distance
from toile.evaluation.label_bench import LabelBench
from toile.evaluation.measures import FAILURES, FAILURES_OF_WORDS, SHARES, of_network
from toile.evaluation.neighbours import COVERAGE_K, compare_neighbours
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.real_side import RealSide
from toile.evaluation.scores import Score, WorstCase
from toile.evaluation.sliced import sliced_distance
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import score_of_pictures, score_of_sets
from toile.model_files.clip_pair import ClipPair
from toile.models.classifier import AttributeClassifier

NUM_WORST = 12
_KERNEL_SCALE = 1000.0


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
        judge: names attributes; None where nobody can, which leaves out all that labels say.
        words: says how well pictures and words agree; None leaves that out.
        num_sets: K.
        seed: of everything that is drawn.
        prefix: what the judge of words is told before each prompt.
    """

    def __init__(
        self,
        real: RealSide,
        networks: Sequence[FeatureNetwork],
        judge: AttributeClassifier | None,
        words: ClipPair | None,
        num_sets: int,
        seed: int = 0,
        prefix: str = "",
    ) -> None:
        self.prefix = prefix
        self.real, self.networks, self.words = real, tuple(networks), words
        self.labels = None if judge is None else LabelBench(real, judge, seed)
        self.num_sets, self.seed = num_sets, seed
        self._statistics = {
            network.name: FeatureStatistics.of(real.features(network, real.reference)) for network in self.networks
        }

    def prepare(self, sets: PictureSets) -> None:
        """Works out all that real pictures say, and refuses what cannot be measured, before pictures are made.

        Args:
            sets: of the pictures that will be judged.

        Raises:
            ToileError: all sets but one, the reference, or what was learnt, have fewer pictures than a network has
                features; or real pictures say too little for limits, colours or the audit of copies.
        """
        if shortage := self.shortage(sets):
            raise ToileError(shortage)
        if self.labels is not None:
            self.labels.prepare()
        _ = self._mifid_epsilon, self._learnt_statistics
        if len(self.real.reference) >= YARDSTICK:
            audit_copies(self._held_out_nearest, self._held_out_nearest)

    def shortage(self, sets: PictureSets) -> str:
        """What there are too few pictures for, and what to do; "" where there are enough."""
        reference, learnt = len(self.real.reference), len(self.real.learnt)
        for network in self.networks:
            width = network.feature_dim
            if min(sets.fewest_without_one, reference, learnt) >= width:
                continue
            few = f"of real pictures {reference:,} are the reference and {learnt:,} were learnt"
            more = "Give more real pictures"
            if sets.fewest_without_one < width:
                few = f"without one set there are {sets.fewest_without_one:,} pictures"
                more = f"Give at least about {math.ceil(width * self.num_sets / (self.num_sets - 1)):,} pictures"
            return (
                f"{network.name} has {width:,} features, and {few}: distances would measure little but their number. "
                f"{more}, or a network of fewer features, such as {RANDOM}=16"
            )
        if sets.fewest <= COVERAGE_K:
            return (
                f"{self.num_sets} sets, one of {sets.fewest} pictures: give at least {COVERAGE_K + 1} a set, for "
                "precision and coverage look at neighbours within one"
            )
        return ""

    def measure(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Measured:
        """Measures N pictures, in memory that does not grow with N but for their features.

        Args:
            pixels: (N, H, W, 3) uint8.
            prompts: N, what each was asked to show.
        """
        stop_keeping_freed_memory()
        sets = PictureSets(prompts, self.num_sets, self.seed)
        scores: dict[str, Score] = {}
        strangeness = torch.zeros(len(pixels), dtype=torch.float64)
        for network in reversed(self.networks):  # the first comes last: copies are looked for in its features
            features = network.features(pixels)
            found, strangeness = self._distances(network, features, sets)
            scores |= found
        faithful, faults = self._faithfulness(pixels, prompts, sets)
        audit = self._audit(features)
        scores |= faithful | self._originality(features, audit, sets)
        return Measured(scores, _worst(faults, strangeness), audit)

    def faithfulness(self, pixels: Tensor, prompts: Sequence[Prompt]) -> dict[str, Score]:
        """Only what depends on words; arguments as for `measure`."""
        scores, _ = self._faithfulness(pixels, prompts, PictureSets(prompts, self.num_sets, self.seed))
        return {key: score for key, score in scores.items() if key not in FAILURES or key in FAILURES_OF_WORDS}

    def _faithfulness(
        self, pixels: Tensor, prompts: Sequence[Prompt], sets: PictureSets
    ) -> tuple[dict[str, Score], Sequence[Sequence[str]]]:
        """Also failures that need no words, as all are found together; and what is wrong with each picture."""
        scores: dict[str, Score] = {}
        faults: Sequence[Sequence[str]] = [()] * len(prompts)
        if self.labels is not None:
            labelled = self.labels.measure(pixels, prompts, sets)
            scores, faults = dict(labelled.scores), labelled.faults
        if self.words is not None and any(prompt.text for prompt in prompts):
            texts = [prompt.text for prompt in prompts]
            agreed = clip_scores(self.words, pixels, texts, self.prefix).scores.double().numpy()
            scores["clip_score"] = score_of_pictures(agreed, prompts=sets.prompts)
        return scores, faults

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
        scores = {
            of_network(key, network.name): score_of_sets(values, n, key in SHARES) for key, values in found.items()
        }
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


def _worst(faults: Sequence[Sequence[str]], strangeness: Tensor) -> tuple[WorstCase, ...]:
    """Pictures that fail in most ways first; of equal ones those that are least like real pictures."""
    order = sorted(range(len(faults)), key=lambda i: (-len(faults[i]), -float(strangeness[i])))[:NUM_WORST]
    return tuple(
        WorstCase(i, "; ".join(faults[i]) or f"{float(strangeness[i]):.1f} times as far from real ones as they are")
        for i in order
    )
