"""Evaluates makers of pictures: same prompts, seeds and judges, beside floors and ceilings; then says who is better.

Shapes: N pictures of each maker, K disjoint sets of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from toile.errors import ToileError
from toile.evaluation.asking import ask, data_for
from toile.evaluation.bench import Bench, Measured
from toile.evaluation.contestants import Contestant, FolderContestant, open_contestant, with_own_names
from toile.evaluation.controls import REAL_PICTURES, controls_of, left_out_of_controls, shuffled
from toile.evaluation.defaults import NETWORKS, NUM_PICTURES, NUM_SETS, SIZE
from toile.evaluation.extra_suites import Extras, ExtraSuites
from toile.evaluation.feature_networks import RANDOM_DIM, FeatureNetwork, open_feature_network, refuse_partial
from toile.evaluation.judges import has_labels, left_out, notes_on, open_judges, random_for, refuse_unfit
from toile.evaluation.measures import all_measures
from toile.evaluation.page_pictures import CopyPair, CopyPairs, Pictures
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.picture_store import PictureStore, make_pictures
from toile.evaluation.real_side import RealSide, divide_real
from toile.evaluation.scores import Entry, Evaluation, Protocol, Score
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import compare_all
from toile.training.pictures import DataConfig, PictureSet

_PAIRS_SHOWN = 12
_MAKERS_SHARE, _MAKING_SHARE = 0.9, 0.8  # of the time: of makers beside controls, and of making beside judging
_T = TypeVar("_T")


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, and how.

    Attributes:
        specs: makers as `open_contestant` takes them, at least one.
        folder: pictures are kept in its `pictures/`, so that what was made is not made again.
        num_pictures: N, of each maker; as many as the smallest folder has, where that has fewer.
        num_sets: K, at least 2.
        seed: of the first picture, and of everything that is drawn but the division of real pictures.
        division_seed: of that into prompts and reference.
        networks: as `open_feature_network` takes them, the most trusted first. None: `NETWORKS`; for pictures without
            labels of articles, of which these are no judges, a random network as wide as their number allows.
        data: the real pictures.
        extras: also measure what needs pictures or trainings of its own: unseen pairs, swapped words, diversity, what
            a classifier learns. It takes about half of the time.
        device, dtype: of models that do not say theirs.

    Raises:
        ToileError: numbers out of range.
    """

    specs: tuple[str, ...]
    folder: Path
    num_pictures: int = NUM_PICTURES
    num_sets: int = NUM_SETS
    seed: int = 0
    networks: tuple[str, ...] | None = None
    data: DataConfig = field(default_factory=lambda: DataConfig(*SIZE))
    extras: bool = True
    device: str = "auto"
    dtype: str = "auto"
    division_seed: int = 0

    def __post_init__(self) -> None:
        if not self.specs:
            raise ToileError("nothing to evaluate: give at least one model or folder of pictures")
        if self.networks is not None and not self.networks:
            raise ToileError("nothing looks at the pictures: give at least one network")
        if self.num_sets < 2 or self.num_pictures < self.num_sets:
            raise ToileError(f"{self.num_pictures} pictures in {self.num_sets} sets: give 2 sets or more, of 1 or more")


@dataclass(frozen=True)
class Progress:
    """What is being done, and how far that is, 0 to 1."""

    what: str
    share: float


@dataclass(frozen=True, eq=False)
class Result:
    """The evaluation, and the pictures that its page shows."""

    evaluation: Evaluation
    pictures: Pictures


def evaluate(request: EvaluationRequest) -> Generator[Progress, None, Result]:
    """Evaluates; a generator of progress that returns the result.

    Raises:
        ToileError: something cannot be opened, judged or compared: before any picture is made.
    """
    started = time.monotonic()
    yield Progress("reading the data and the judges", 0.0)
    given = [open_feature_network(spec) for spec in request.networks or ()]
    contestants = [open_contestant(spec, request.device, request.dtype) for spec in request.specs]
    with_own_names(contestants)
    data = data_for(request.data, contestants)
    bench, prompts, suite = _prepare(PictureSet(data), given, contestants, request)
    sets = PictureSets(prompts, request.num_sets, request.seed)
    bench.prepare(sets)
    real, protocol = bench.real, _protocol(bench, prompts, suite, request)
    extra = ExtraSuites(bench, request.seed, data.unseen) if request.extras else None
    entries: list[Entry] = []
    made: dict[str, PictureStore] = {}
    shown = _Shown(real)
    part = _MAKERS_SHARE / len(contestants)
    for number, contestant in enumerate(contestants):
        judged = _judge(contestant, prompts, bench, extra, request)
        store, measured, extras = yield from _within(judged, part * number, part)
        made[contestant.name] = store
        entries.append(_entry(contestant, measured, extras, protocol, real))
        shown.take(contestant.name, store.pixels, measured, bench, extras)
        shown.stages[contestant.name] = [(step, path.read_bytes()) for step, path in contestant.place.sheets]
    measures = all_measures([network.name for network in bench.networks])
    controls: list[Entry] = []
    for control in controls_of(bench, prompts, contestants, request.seed):
        yield Progress(f"judging {control.name}", _MAKERS_SHARE + (1 - _MAKERS_SHARE) * len(controls) / 4)
        measured = bench.measure(control.pixels, control.prompts)
        notes = _audit_notes(measured)
        controls.append(Entry(control.name, measured.scores, protocol.id, True, control.meaning, notes=notes))
        shown.take(control.name, control.pixels.numpy(), measured, bench, Extras())
    makes = request.extras and any(not isinstance(contestant, FolderContestant) for contestant in contestants)
    left = [*left_out(bench, prompts, sets, makes), *left_out_of_controls(bench, controls)]
    if extra is not None:
        controls = _with_ceilings(controls, extra.of_real_pictures(len(prompts)))
    if (by_chance := shuffled(bench, prompts, contestants[0].name, made, protocol)) is not None:
        controls.append(by_chance)
    measured_keys = {key for entry in entries for key in entry.scores}
    measures = {key: measure for key, measure in measures.items() if key in measured_keys}
    evaluation = Evaluation(
        protocol,
        measures,
        tuple(entries),
        tuple(controls),
        compare_all(measures, entries),
        tuple(prompt.text for prompt in prompts),
        (*_notes(entries, measures), *notes_on(bench.networks, real)),
        (time.monotonic() - started) / 60,
        tuple(left),
    )
    return Result(evaluation, shown.pictures())


def _prepare(
    pictures: PictureSet,
    given: Sequence[FeatureNetwork],
    contestants: Sequence[Contestant],
    request: EvaluationRequest,
) -> tuple[Bench, tuple[Prompt, ...], str]:
    """The bench, the prompt of each picture, and what these are called.

    Args:
        given: the networks of the request, opened.
    """
    specs = request.networks or (NETWORKS if has_labels(pictures) else ())
    refuse_unfit(specs, pictures)
    networks = list(given) or [open_feature_network(spec) for spec in specs]
    widest = max((network.feature_dim for network in networks), default=RANDOM_DIM)
    real = divide_real(pictures, request.division_seed, widest)
    prompts, suite = ask(real, contestants, request.num_pictures)
    if not networks:
        specs = (random_for(PictureSets(prompts, request.num_sets, request.seed), real),)
        networks = [open_feature_network(specs[0])]
    for network in networks:
        refuse_partial(network, None, pictures.pixels_identity)
        for contestant in contestants:
            for provenance in contestant.provenances:
                refuse_partial(network, provenance)
    judges = open_judges(specs, networks, pictures.pixels_identity)
    bench = Bench(real, judges.networks, judges.attributes, judges.words, request.num_sets, request.seed, judges.prefix)
    return bench, prompts, suite


def _protocol(bench: Bench, prompts: Sequence[Prompt], suite: str, request: EvaluationRequest) -> Protocol:
    lines = "".join(f"{prompt.position} {prompt.text}\n" for prompt in prompts)
    pictures = bench.real.pictures
    return Protocol(
        pictures.pixels_identity,
        suite,
        hashlib.sha256(lines.encode()).hexdigest(),
        len(prompts),
        request.num_sets,
        len(bench.real.reference),
        request.division_seed,
        request.seed,
        f"{pictures.width}x{pictures.height}",
        {network.name: (network.sha256, network.preparation) for network in bench.networks},
    )


def _within(work: Generator[Progress, None, _T], first: float, part: float) -> Generator[Progress, None, _T]:
    """The progress of a part of the whole, as progress of the whole."""
    while True:
        try:
            done = next(work)
        except StopIteration as end:
            value: _T = end.value
            return value
        yield Progress(done.what, first + part * done.share)


def _judge(
    contestant: Contestant,
    prompts: Sequence[Prompt],
    bench: Bench,
    extra: ExtraSuites | None,
    request: EvaluationRequest,
) -> Generator[Progress, None, tuple[PictureStore, Measured, Extras]]:
    """Makes all pictures of a maker and looks at them."""
    parts = {"": ([prompt.text for prompt in prompts], request.seed)}
    if extra is not None and not isinstance(contestant, FolderContestant):
        parts |= extra.wanted
    size = (bench.real.pictures.width, bench.real.pictures.height)
    stores: dict[str, PictureStore] = {}
    done, total = 0, sum(len(texts) for texts, _ in parts.values())
    for name, (texts, seed) in parts.items():
        for made in make_pictures(contestant, texts, seed, request.folder / "pictures", size):
            if isinstance(made, PictureStore):
                stores[name] = made
            else:
                yield Progress(f"making pictures of {contestant.name}", _MAKING_SHARE * (done + made) / total)
        done += len(texts)
    yield Progress(f"judging {contestant.name}", _MAKING_SHARE)
    pixels = {name: torch.from_numpy(store.pixels) for name, store in stores.items()}
    measured, extras = bench.measure(pixels[""], prompts), Extras()
    if len(pixels) > 1 and extra is not None:
        extras = extra.measure(pixels)
    if extra is not None:
        extras.scores |= extra.taught(pixels[""], prompts)
    return stores[""], measured, extras


def _entry(contestant: Contestant, measured: Measured, extras: Extras, protocol: Protocol, real: RealSide) -> Entry:
    settings = dict(contestant.settings)
    facts = {**contestant.facts, **extras.facts}
    if contestant.place.step is not None:
        facts["run"] = contestant.place.run  # the stages of one run make one curve
    notes = list(_audit_notes(measured))
    for known in contestant.provenances:
        facts |= {"pictures": known.pictures, "steps": known.steps, "toile": known.toile}
        if known.held_out != real.pictures.pixels_identity:
            notes.append("It learnt from other data or another split, so it may have seen the reference pictures.")
    if not contestant.provenances:
        notes.append("Nothing says what it learnt from, so it may have seen the reference pictures.")
    return Entry(
        contestant.name,
        {**measured.scores, **extras.scores},
        protocol.id_with(settings),
        settings=settings,
        facts=facts,
        worst=measured.worst,
        step=contestant.place.step,
        notes=tuple(notes),
    )


def _audit_notes(measured: Measured) -> tuple[str, ...]:
    """What the audit for copies found; without one, how many pictures are copies beyond doubt."""
    if measured.audit is not None:
        return (measured.audit.sentence,)
    each = measured.scores["memorisation"].each
    exact = 0 if each is None else int((each == 0).sum())
    return (f"Copies: {exact:,} pictures look exactly like a training picture to the first network.",) if exact else ()


def _with_ceilings(controls: Sequence[Entry], ceilings: Mapping[str, Score]) -> list[Entry]:
    """What real pictures reach in the further suites stands with the real pictures, or else with the first control."""
    if not controls:
        return []
    names = [control.name for control in controls]
    place = names.index(REAL_PICTURES) if REAL_PICTURES in names else 0
    return [
        replace(control, scores={**control.scores, **ceilings}) if number == place else control
        for number, control in enumerate(controls)
    ]


def _notes(entries: Sequence[Entry], measures: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = len(entries) * (len(entries) - 1) // 2
    notes = ["Intervals are of 95 %: from disjoint sets of pictures (Student), or from pictures (Wilson, normal)."]
    if pairs:
        notes.append(
            f"Each of up to {pairs * len(measures)} comparisons is made at 95 %, so about one in twenty of those "
            "between equals will tell them apart by chance: trust measures that agree."
        )
    return tuple(notes)


class _Shown:
    """Collects what the page shows."""

    def __init__(self, real: RealSide) -> None:
        self._real = real
        self._made: dict[str, Any] = {}
        self._nearest: dict[str, CopyPairs] = {}
        self._variety: dict[str, Any] = {}
        self.stages: dict[str, list[tuple[int, bytes]]] = {}

    def take(self, name: str, pixels: np.ndarray, measured: Measured, bench: Bench, extras: Extras) -> None:
        self._made[name] = pixels
        if extras.variety:
            self._variety[name] = extras.variety
        if measured.audit is not None:
            indices = measured.audit.most_alike[:_PAIRS_SHOWN]
            near = bench.real.learnt[measured.audit.nearest.indices[indices].numpy()]
            gaps = measured.audit.nearest.distances[indices].tolist()
            pairs = [
                CopyPair(*pair) for pair in zip(indices.tolist(), self._real.pixels(near).numpy(), gaps, strict=True)
            ]
            self._nearest[name] = CopyPairs(pairs, measured.audit.sentence, measured.audit.alarm)

    def pictures(self) -> Pictures:
        own = self._made.get(REAL_PICTURES)
        return Pictures(self._made, own, self._nearest, self._variety, self.stages)
