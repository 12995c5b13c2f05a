"""toile sweep: trains a recipe under several settings, and says which differ by more than chance."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.cli.train import StopRequest, listening
from toile.errors import ToileError, WorkFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toile.training.sweep import RunRecord, SweepEndRecord
    from toile.training.sweep_cluster import ClusterRecord
    from toile.training.sweep_ranking import Ranking, TrialResult
    from toile.training.sweep_recipe import SweepRecipe


def sweep(
    recipe: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    out: Path | None = None,
    ray: str | None = None,
    workers: int | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Train a recipe under several settings and seeds, and say which are better by more than chance.

    The table and the page sweep/index.html give the held-out loss of every run; settings that chance may have put in
    their order are called tied. Interrupted by Ctrl-C or SIGTERM, it stops within a step and ends with exit code 130 or
    143. With --resume it goes on inside the run that it was at; started again beside itself with --resume, it shares
    the work. With --ray, workers on all machines of a Ray cluster share it, and this command shows what they do.

    Args:
        recipe: a TOML file, see recipes/fashion-lora-sweep.toml.
        resume: go on with the sweep in the folder, or join it.
        minutes: stop after this time, resumable.
        out: the sweep's folder; by default runs/ and the recipe's name.
        ray: share the work on a Ray cluster: auto (the one this machine belongs to), HOST:PORT, or local (this machine
            alone). All machines need this folder, for example over NFS.
        workers: with --ray, how many in the whole cluster; by default one a machine.
        json_output: print the result as JSON.
    """
    if minutes is not None and not minutes > 0:
        raise ToileError(f"minutes is {minutes}; give a positive number")
    if workers is not None and ray is None:
        raise ToileError("--workers are those of a cluster: add --ray auto, or --ray local for this machine alone")
    from toile.training.sweep_recipe import load_sweep

    loaded = load_sweep(recipe)
    from toile.training.sweep_page import report_facts

    folder = out or Path("runs") / recipe.stem
    stop = StopRequest()
    with listening(stop), _records(loaded, folder, resume, minutes, ray, workers, stop) as records:
        end = _follow(records, loaded, stop)
    again = f"go on with: toile sweep {recipe} --resume --out {folder}"
    if end is None:
        print(f"stopped by {signal.Signals(stop.signal or 0).name}, state saved; {again}", file=sys.stderr)
        return stop.exit_code
    if json_output:
        print(json.dumps(report_facts(loaded, end.ranking), indent=2))
    else:
        _print_ranking(end.ranking, loaded)
        print(f"report: {folder / 'sweep' / 'index.html'} (runs: toile runs {folder / 'trials'})")
    if end.reason != "done":
        why = "time is over" if end.reason == "time" else "others are at the last trials"
        print(f"{why}; {again}", file=sys.stderr)
    failed = [row.trial for row in end.ranking.rows if row.trial.state == "failed"]
    if failed and len(failed) == loaded.num_trials:
        raise WorkFailedError(f"all {len(failed)} trials failed; the first: {failed[0].note}")
    return 0


@contextmanager
def _records(
    loaded: SweepRecipe,
    folder: Path,
    resume: bool,
    minutes: float | None,
    ray: str | None,
    workers: int | None,
    stop: StopRequest,
) -> Iterator[Iterator[ClusterRecord]]:
    """The records of the sweep, here or on a cluster; leaving saves the state of what is not finished."""
    if ray is None:
        from toile.training.sweep import run_sweep

        with closing(run_sweep(loaded, folder, resume=resume, minutes=minutes)) as records:
            yield records
        return
    from toile.cluster.joining import joined
    from toile.training.sweep_cluster import run_sweep_on_cluster

    with joined(ray) as cluster:
        on_cluster = run_sweep_on_cluster(
            cluster,
            loaded,
            folder,
            workers=workers,
            resume=resume,
            minutes=minutes,
            should_stop=lambda: stop.signal is not None,
        )
        with closing(on_cluster) as shared:
            yield shared


def _follow(records: Iterator[ClusterRecord], loaded: SweepRecipe, stop: StopRequest) -> SweepEndRecord | None:
    """Follows the records to the end; `None` if a signal came before."""
    from toile.cli.progress import ProgressDisplay
    from toile.cluster.crew import WorkerRecord
    from toile.training.sweep import SweepEndRecord, TrialRecord

    shares: dict[int, float] = {}  # of each trial that was seen, how much is done
    with ProgressDisplay("sweep") as display:
        for record in records:
            if isinstance(record, SweepEndRecord):
                return record
            if isinstance(record, WorkerRecord):
                display.print(str(record))
            elif isinstance(record, TrialRecord):
                shares[record.result.number] = 1.0
                display.print(_describe(record.result))
            else:
                shares[record.trial] = _share(record, loaded)
                earlier = max(shares) + 1 - len(shares)  # done before, or by others
                display.show((earlier + sum(shares.values())) / loaded.num_trials, _note(record))
            if stop.signal is not None:
                return None
    if stop.signal is not None:
        return None
    raise ToileError("the sweep ended without saying why")


def _share(record: RunRecord, loaded: SweepRecipe) -> float:
    seeds = loaded.search.seeds
    return (seeds.index(record.seed) + min(1.0, record.record.step / record.steps)) / len(seeds)


def _note(record: RunRecord) -> str:
    return f"trial {record.trial} seed {record.seed} step {record.record.step} of {record.steps}"


def _describe(result: TrialResult) -> str:
    from toile.training.sweep_page import setting_text

    losses = [f"seed {seed} {loss:.4f}" for seed, loss in result.losses.items()]
    state = f"{result.state}: {result.note}" if result.note else result.state
    setting = setting_text(result.setting)
    return ", ".join([f"trial {result.number} ({setting}) {state}", *losses])


def _print_ranking(ranking: Ranking, loaded: SweepRecipe) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from toile.training.sweep_page import interval_text, mean_text, verdict_text
    from toile.training.sweep_recipe import json_text

    table = Table("trial", box=None, pad_edge=False)
    for name in (*loaded.space, *(f"seed {seed}" for seed in loaded.search.seeds), "mean", "to the best"):
        table.add_column(Text(name), justify="right")
    table.add_column("")
    for row in ranking.rows:
        setting = [json_text(row.trial.setting[key]) if key in row.trial.setting else "" for key in loaded.space]
        losses = [row.trial.losses.get(seed) for seed in loaded.search.seeds]
        shown = ["" if loss is None else f"{loss:.4f}" for loss in losses]
        cells = [str(row.trial.number), *setting, *shown, mean_text(row), interval_text(row.difference, signed=True)]
        # Text, because what stands in square brackets in a value is no markup.
        table.add_row(*map(Text, [*cells, verdict_text(row)]))
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width: lines are never broken there
    console = Console(highlight=False, markup=False, width=width)
    console.print(table)
    for note in ranking.notes:
        console.print(note, soft_wrap=True)
