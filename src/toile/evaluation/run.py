"""Evaluates makers of pictures: same prompts, seeds and judges, beside floors and ceilings; then says who is better.

Shapes: N pictures of each maker, K disjoint sets of them.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from toile.errors import ToileError
from toile.evaluation.bench import Bench, Measured
from toile.evaluation.clip_score import PUBLISHED_PREFIX
from toile.evaluation.contestants import (
    Contestant,
    DiffusionContestant,
    FolderContestant,
    open_contestant,
    with_own_names,
)
from toile.evaluation.extra_suites import Extras, ExtraSuites
from toile.evaluation.feature_networks import (
    ATTRIBUTES,
    CLIP,
    WORDS,
    FeatureNetwork,
    find_judge,
    open_feature_network,
    refuse_partial,
)
from toile.evaluation.features import load_evaluator
from toile.evaluation.measures import all_measures
from toile.evaluation.page_pictures import CopyPair, CopyPairs, Pictures
from toile.evaluation.picture_sets import PictureSets
from toile.evaluation.picture_store import PictureStore, make_pictures
from toile.evaluation.real_side import RealSide, alike_in_training, divide_real
from toile.evaluation.scores import Entry, Evaluation, Protocol
from toile.evaluation.suites import Prompt
from toile.evaluation.verdict import compare_all
from toile.model_files.clip_pair import load_clip_pair
from toile.training.pictures import DataConfig, PictureSet

NETWORKS = ("attributes", "words", "random")
NUM_PICTURES, NUM_SETS = 1300, 5
REAL_PICTURES, SHUFFLED_PROMPTS = "real pictures", "shuffled prompts"
_PAIRS_SHOWN = 12
_MAKERS_SHARE, _MAKING_SHARE = 0.9, 0.8  # of the time: of makers beside controls, and of making beside judging
_T = TypeVar("_T")
_TOGETHER = 200


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, and how.

    Attributes:
        specs: makers as `open_contestant` takes them, at least one.
        folder: pictures are kept in its `pictures/`, so that what was made is not made again.
        num_pictures: N, of each maker; rounded down to a multiple of `num_sets`.
        num_sets: K, at least 2.
        seed: of the first picture, and of everything that is drawn but the division of real pictures.
        division_seed: of that into prompts and reference.
        networks: as `open_feature_network` takes them, the most trusted first; one of them names attributes.
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
    networks: tuple[str, ...] = NETWORKS
    data: DataConfig = field(default_factory=lambda: DataConfig(64, 80))
    extras: bool = True
    device: str = "auto"
    dtype: str = "auto"
    division_seed: int = 0

    def __post_init__(self) -> None:
        if not self.specs:
            raise ToileError("nothing to evaluate: give at least one model or folder of pictures")
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
    networks = [open_feature_network(spec) for spec in request.networks]
    contestants = [open_contestant(spec, request.device, request.dtype) for spec in request.specs]
    with_own_names(contestants)
    removed = _removed_for_all(contestants)
    pictures = PictureSet(replace(request.data, unseen=removed))
    for network in networks:
        refuse_partial(network, None, pictures.pixels_identity)
        for contestant in contestants:
            for provenance in contestant.provenances:
                refuse_partial(network, provenance)
    real = divide_real(pictures, request.division_seed, max(network.feature_dim for network in networks))
    bench = _bench(real, networks, request)
    prompts, suite = _prompts(real, contestants, request)
    bench.prepare(PictureSets(prompts, request.num_sets, request.seed))
    protocol = _protocol(bench, prompts, suite, request)
    extra = ExtraSuites(bench, request.seed, removed) if request.extras else None
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
    measures = all_measures([network.name for network in networks])
    controls: list[Entry] = []
    for name, meaning, pixels, of_prompts in _controls(bench, prompts, contestants, request):
        yield Progress(f"judging {name}", _MAKERS_SHARE + (1 - _MAKERS_SHARE) * len(controls) / 4)
        measured = bench.measure(pixels, of_prompts)
        ceilings = extra.of_real_pictures(len(prompts)) if extra is not None and name == REAL_PICTURES else {}
        scores = {**measured.scores, **ceilings}
        controls.append(Entry(name, scores, protocol.id, True, meaning, notes=_audit_notes(measured)))
        shown.take(name, pixels.numpy(), measured, bench, Extras())
    controls.append(_shuffled(bench, prompts, contestants[0].name, made, protocol))
    measured_keys = {key for entry in (*entries, *controls) for key in entry.scores}
    measures = {key: measure for key, measure in measures.items() if key in measured_keys}
    evaluation = Evaluation(
        protocol,
        measures,
        tuple(entries),
        tuple(controls),
        compare_all(measures, entries),
        tuple(prompt.text for prompt in prompts),
        _notes(entries, measures),
        (time.monotonic() - started) / 60,
    )
    return Result(evaluation, shown.pictures())


def _removed_for_all(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """Pairs of colour and article that every model's training left out on purpose (`data.unseen`)."""
    known = [provenance for contestant in contestants for provenance in contestant.provenances]
    left_out = [set(provenance.recipe.get("data", {}).get("unseen", ())) for provenance in known]
    trained = [contestant for contestant in contestants if not isinstance(contestant, FolderContestant)]
    if not left_out or any(not contestant.provenances for contestant in trained):
        return ()
    return tuple(sorted(set.intersection(*left_out)))


def _bench(real: RealSide, networks: Sequence[FeatureNetwork], request: EvaluationRequest) -> Bench:
    """The judge of attributes is the one among the networks; that of words too, or a published CLIP if it is there."""

    def folder_of(kind: str) -> Path | None:
        for spec in request.networks:
            name, _, place = spec.partition("=")
            if name == kind:
                return Path(place) if place else find_judge(kind)
        return None

    attributes, clip, words = folder_of(ATTRIBUTES), folder_of(CLIP), folder_of(WORDS)
    if attributes is None:
        raise ToileError(f"--networks must have one that names attributes: {ATTRIBUTES}, or {ATTRIBUTES}=FOLDER")
    judge = load_evaluator(attributes, real.pictures.pixels_identity)
    place, prefix = (words, "") if clip is None else (clip, PUBLISHED_PREFIX)
    pair = None if place is None else load_clip_pair(place)
    return Bench(real, networks, judge, pair, request.num_sets, request.seed, prefix)


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


def _prompts(
    real: RealSide, contestants: Sequence[Contestant], request: EvaluationRequest
) -> tuple[tuple[Prompt, ...], str]:
    """A prompt for each picture, and what they are called: those of held-out pictures, or those of a folder."""
    folders = [contestant for contestant in contestants if isinstance(contestant, FolderContestant)]
    whole = request.num_pictures - request.num_pictures % request.num_sets
    if not folders:
        return real.prompts_for(whole), real.suite.name
    known: dict[str, list[Prompt]] = {}
    for prompt in real.suite.prompts:
        known.setdefault(prompt.text, []).append(prompt)
    fewest = min(len(folder.paths) for folder in folders)
    texts = folders[0].prompts[: min(whole, fewest - fewest % request.num_sets)]
    if len(contestants) > len(folders) and not all(texts):
        raise ToileError(f"{folders[0].name} has pictures without a recipe: nobody knows what a model should make")
    for folder in folders[1:]:
        if folder.prompts[: len(texts)] != texts:
            raise ToileError(f"{folders[0].name} and {folder.name} have pictures of different prompts: not comparable")
    if not texts:
        raise ToileError(f"{folders[0].name}: {fewest} pictures are too few")
    counts = Counter[str]()
    prompts = []
    for text in texts:  # of several real pictures of one caption each is taken in turn
        of_text = known.get(text, [Prompt(text)])
        prompts.append(of_text[counts[text] % len(of_text)])
        counts[text] += 1
    return tuple(prompts), f"prompts of {folders[0].name}"


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
    return () if measured.audit is None else (measured.audit.sentence,)


def _controls(
    bench: Bench, prompts: Sequence[Prompt], contestants: Sequence[Contestant], request: EvaluationRequest
) -> Generator[tuple[str, str, Tensor, Sequence[Prompt]], None, None]:
    """Floors and ceilings: name, meaning, pixels, and the prompts they are held to; no real picture comes twice."""
    real = bench.real
    described = prompts
    if any(prompt.position is None for prompt in prompts):  # prompts of people: those of the suite stand in
        described = real.prompts_for(len(prompts))
    own = {prompt.position: prompt for prompt in described if prompt.position is not None}
    of_own = tuple(own.values())
    pixels = real.pixels(np.array(list(own), dtype=np.int64))
    yield REAL_PICTURES, "Held-out pictures of held-out captions: what the best maker could reach.", pixels, of_own
    size = (real.pictures.width, real.pictures.height)
    model = next((each for each in contestants if isinstance(each, DiffusionContestant) and each.size == size), None)
    if model is not None:
        rebuilt = torch.cat([model.reconstruct(part) for part in pixels.split(_TOGETHER)])
        meaning = f"The same pictures through the autoencoder of {model.name}: what it loses before it starts."
        yield "reconstructions", meaning, rebuilt, of_own
    alike = alike_in_training(real, [prompt.fields for prompt in of_own], request.seed)
    meaning = "Training pictures of the same article and colour: good in everything but originality."
    yield "copies of training pictures", meaning, real.pixels(alike), of_own


def _shuffled(
    bench: Bench, prompts: Sequence[Prompt], name: str, made: Mapping[str, PictureStore], protocol: Protocol
) -> Entry:
    """A maker's pictures beside each other's prompts."""
    order = np.random.default_rng(bench.seed).permutation(len(prompts))
    scores = bench.faithfulness(torch.from_numpy(made[name].pixels), [prompts[place] for place in order])
    meaning = f"The pictures of {name} beside each other's prompts: what chance gives."
    return Entry(SHUFFLED_PROMPTS, scores, protocol.id, True, meaning)


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
