"""The memory of a sweep, kept by Optuna: which settings were tried, who is at work on which, and what came out.

Several workers may share it. A trial belongs to the process that holds the lock of its folder in `sweep/claims/`, so it
is free again however that process ends, and goes on where it was. Optuna alone cannot promise this for SQLite: its way
from "waiting" to "running" reads and writes in two steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from toile.errors import ToileError
from toile.training.loop import changed_keys
from toile.training.run_summary import is_run
from toile.training.sweep_ranking import DONE, FAILED, STOPPED_EARLY, UNFINISHED, TrialResult
from toile.training.sweep_recipe import Range, Setting, SweepRecipe, grid_settings, json_text
from toile.weights.snapshot import RunLock

try:
    import optuna
    import sqlalchemy
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, TPESampler
    from optuna.trial import FrozenTrial, TrialState
except ImportError as problem:
    raise ToileError("sweeps need Optuna: pip install 'toile[sweep]'") from problem

_DATABASE = "study.sqlite3"
_PATIENCE_SECONDS = 60.0
_STATES = {
    TrialState.COMPLETE: DONE,
    TrialState.PRUNED: STOPPED_EARLY,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: UNFINISHED,
    TrialState.WAITING: UNFINISHED,
}


class SweepStudy:
    """One sweep in its storage.

    Args:
        sweep: what is tried.
        directory: the sweep's folder; its name is the name of the study, where workers share a storage.
        resume: go on with a sweep that is there, or join it; otherwise begin one.

    Raises:
        ToileError: nothing to resume, something to overwrite, a changed sweep, a storage that cannot be opened.
    """

    def __init__(self, sweep: SweepRecipe, directory: Path, resume: bool) -> None:
        self.sweep, self.directory = sweep, directory
        if is_run(directory):
            raise ToileError(f"{directory} holds a training run; choose another folder for the sweep")
        if resume and sweep.storage is None and not (directory / _DATABASE).is_file():
            raise ToileError(f"nothing to resume in {directory}: start the sweep without --resume")
        with self.turn(), storage_errors():
            self._study = self._open(resume)

    def _open(self, resume: bool) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = self.sweep.storage or sqlalchemy.URL.create(
            "sqlite", database=str((self.directory / _DATABASE).resolve())
        ).render_as_string(hide_password=False)
        # Another worker may be writing: SQLite then waits instead of failing.
        arguments = {"connect_args": {"timeout": _PATIENCE_SECONDS}} if url.startswith("sqlite") else {}
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
        except ImportError as error:
            raise ToileError(f"the storage of the sweep needs a database driver: {error}") from error
        name = self.directory.resolve().name
        known = name in optuna.get_all_study_names(storage)
        if known and not resume:
            raise ToileError(f"{self.directory} holds a sweep: add --resume to go on with it or to join it")
        if resume and not known:
            raise ToileError(f"nothing to resume in {self.directory}: start the sweep without --resume")
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=_sampler(self.sweep),
            pruner=_pruner(self.sweep),
            direction="minimize",
            load_if_exists=True,
        )
        facts = self.sweep.facts()
        changed = changed_keys(study.user_attrs.get("sweep", facts), facts)
        if self.sweep.search.sampler == "tpe":  # which may be asked for more; trials of a grid have fixed numbers
            changed = [key for key in changed if key != "search.trials"]
        if changed:
            raise ToileError(f"going on would change {', '.join(changed)}: undo the change or choose another folder")
        study.set_user_attr("sweep", facts)
        return study

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps other workers on the same disk waiting while the storage is asked or the report is written."""
        folder = self.directory / "sweep" / "turn"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ToileError(f"cannot use {self.directory} as the folder of a sweep: {error.strerror}") from error
        with _wait_for(folder):
            yield

    def claim(self) -> ClaimedTrial | None:
        """A trial that nobody is at work on, begun earlier or new; `None` where there is none left."""
        with self.turn():
            trials = self._study.get_trials(deepcopy=False)
            for begun in trials[: self.sweep.num_trials]:
                if begun.state == TrialState.RUNNING and (lock := self._lock(begun.number, begun=True)):
                    return self._claimed(optuna.Trial(self._study, begun._trial_id), lock)
            if len(trials) >= self.sweep.num_trials:
                return None
            trial = self._study.ask()
            lock = self._lock(trial.number, begun=False)
            if trial.number >= self.sweep.num_trials or lock is None:
                # Workers on other machines do not see this turn: one of them was faster.
                trial.set_user_attr("error", "another worker had begun the last trial")
                self._study.tell(trial, state=TrialState.FAIL)
                return None
            return self._claimed(trial, lock)

    def _claimed(self, trial: optuna.Trial, lock: contextlib.ExitStack) -> ClaimedTrial:
        setting = {key: _suggest(trial, key, values) for key, values in self.sweep.space.items()}
        return ClaimedTrial(trial.number, setting, _losses(trial.user_attrs), self._study, trial, lock)

    def _lock(self, number: int, begun: bool) -> contextlib.ExitStack | None:
        """The lock of a trial, or `None` if another process has it, or it was begun on another machine."""
        folder = self.directory / "sweep" / "claims" / f"{number:04d}"
        if begun and self.sweep.storage is not None and not folder.is_dir():
            return None
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(RunLock(folder))
            except ToileError:
                return None
            return stack.pop_all()

    def results(self) -> list[TrialResult]:
        """What became of every trial so far, by number."""
        with storage_errors():
            trials = self._study.get_trials(deepcopy=False)
        return [_result(trial) for trial in trials if trial.number < self.sweep.num_trials]


@dataclass
class ClaimedTrial:
    """A trial that this process alone is at work on; leaving it as a context gives it back, done or not.

    Attributes:
        number: of the trial.
        setting: what it tries.
        losses: training seed -> held-out loss, of the runs that are done already.
    """

    number: int
    setting: Setting
    losses: dict[int, float]
    _study: optuna.Study
    _trial: optuna.Trial
    _lock: contextlib.ExitStack

    def __enter__(self) -> ClaimedTrial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def record(self, seed: int, loss: float) -> None:
        """Keeps the held-out loss of a finished run."""
        self.losses[seed] = loss
        self._trial.set_user_attr("losses", {str(each): value for each, value in self.losses.items()})

    def should_stop(self, validation: int, loss: float) -> bool:
        """Whether the pruner gives the setting up, after its n-th validation (from 1) of all its runs."""
        known = self._study._storage.get_trial(self._trial._trial_id).intermediate_values
        if validation not in known:  # a resumed run validates again
            self._trial.report(loss, validation)
        return self._trial.should_prune()

    def finish(self) -> None:
        """All runs are done."""
        self._study.tell(self._trial, sum(self.losses.values()) / len(self.losses))

    def stop_early(self, note: str) -> None:
        """The pruner gave it up."""
        self._trial.set_user_attr("error", note)
        self._study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self, error: str) -> None:
        """It cannot be done."""
        self._trial.set_user_attr("error", error)
        self._study.tell(self._trial, state=TrialState.FAIL)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what a database says into one line, without the password of its address."""
    try:
        yield
    except sqlalchemy.exc.ArgumentError as error:
        raise ToileError("storage is no SQLAlchemy URL, such as postgresql://user@host/name") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = getattr(error.__cause__ or error, "orig", None) or error
        raise ToileError(f"the storage of the sweep cannot be used: {reason}") from error


@contextlib.contextmanager
def _wait_for(folder: Path) -> Iterator[None]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(RunLock(folder))
                break
            except ToileError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield


def _result(trial: FrozenTrial) -> TrialResult:
    setting = {key: _value(value) for key, value in trial.params.items()}
    note = str(trial.user_attrs.get("error", ""))
    return TrialResult(trial.number, setting, _STATES[trial.state], _losses(trial.user_attrs), note)


def _losses(attributes: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): float(loss) for seed, loss in attributes.get("losses", {}).items()}


def _suggest(trial: optuna.Trial, key: str, values: tuple[Any, ...] | Range) -> Any:
    # Values of a list go in as JSON: Optuna takes no lists, and holds 1, 1.0 and true for the same.
    if not isinstance(values, Range):
        return _value(trial.suggest_categorical(key, [json_text(value) for value in values]))
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(key, values.low, values.high, log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _value(stored: Any) -> Any:
    return json.loads(stored) if isinstance(stored, str) else stored


# ---------------------------------------------------------------------------------------------------- samplers


def _sampler(sweep: SweepRecipe) -> BaseSampler:
    return _Grid(grid_settings(sweep)) if sweep.search.sampler == "grid" else _NumberedTPE(sweep.search.seed)


def _pruner(sweep: SweepRecipe) -> optuna.pruners.BasePruner:
    if sweep.search.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)


class _Independent(BaseSampler):
    """A sampler that draws each value by itself, as a function of the trial's number: no two workers draw alike."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class _Grid(_Independent):
    def __init__(self, settings: list[Setting]) -> None:
        self.settings = settings

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return json_text(self.settings[trial.number][param_name])


class _NumberedTPE(_Independent):
    """Optuna's tree-structured Parzen estimator, seeded anew for each trial and key: resuming draws nothing twice."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        digest = hashlib.sha256(f"{self.seed}/{trial.number}/{param_name}".encode()).digest()
        sampler = TPESampler(seed=int.from_bytes(digest[:4], "little"), multivariate=False)
        return sampler.sample_independent(study, trial, param_name, param_distribution)
