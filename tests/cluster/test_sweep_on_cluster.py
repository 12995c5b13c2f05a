"""A sweep on two nodes: the table of one process, with workers that are killed, stopped and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toile.cli.main import run
from toile.cluster.crew import WorkerRecord
from toile.cluster.joining import joined
from toile.cluster.places import Place
from toile.cluster.surroundings import Surroundings
from toile.errors import ToileError
from toile.training.run_folder import read_log
from toile.training.sweep import SweepEndRecord, SweepRecord, run_sweep
from toile.training.sweep_cluster import SweepWorker, run_sweep_on_cluster
from toile.training.sweep_recipe import SweepRecipe, load_sweep
from toile.user_folders import CACHE_VARIABLE

Output = pytest.CaptureFixture[str]
RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[loop]
steps = 24
batch_size = 2
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = []
validate_every = 0
save_every = 2
"""
SWEEP = """
recipe = "lora.toml"
[space]
lora.rank = [1, 2]
[search]
seeds = [0, 1]
"""
COMMAND = [sys.executable, "-c", "from toile.cli.main import main; main()", "sweep", "stopped.toml", "--out", "stopped"]


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep-on-cluster")
    (folder / "lora.toml").write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    (folder / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "cache"))


@pytest.fixture
def sweep(in_the_folder: None) -> SweepRecipe:
    return load_sweep(Path("sweep.toml"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[bytes, SweepRecord]:
    """The report and the last record of the sweep in one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv(CACHE_VARIABLE, str(folder / "cache"))
        *_, end = run_sweep(load_sweep(Path("sweep.toml")), Path("plain"))
    torch.set_num_threads(threads)
    return (folder / "plain" / "sweep.json").read_bytes(), end


def process_at(directory: Path, trial: int) -> int:
    """Who took the trial last."""
    return int((directory / "sweep" / "claims" / f"{trial:04d}" / "trainer.lock").read_text())


def steps_in(log: Path) -> list[int]:
    return [line["step"] for line in read_log(log) if line["kind"] == "step"]


@pytest.mark.slow
def test_two_nodes_share_a_sweep_and_its_table_is_that_of_one_process(
    address: str, sweep: SweepRecipe, plain: tuple[bytes, SweepRecord], capfd: Output
) -> None:
    with joined(address) as cluster:
        records = list(run_sweep_on_cluster(cluster, sweep, Path("shared")))
    report, end = plain
    assert records[-1] == end
    assert Path("shared/sweep.json").read_bytes() == report
    begun = [record for record in records if isinstance(record, WorkerRecord)]
    assert len({record.place.node for record in begun}) == 2 and all(record.place.cpus == 1 for record in begun)
    assert {process_at(Path("shared"), trial) for trial in (0, 1)} == {record.process for record in begun}
    for log in Path("shared/trials").glob("*/log.jsonl"):
        assert steps_in(log) == list(range(1, 25))
    assert sorted(path.name for path in Path("shared/sweep").iterdir()) == ["claims", "index.html", "turn"]
    assert capfd.readouterr() == ("", "")


@contextmanager
def killing(directory: Path, killed: list[int]) -> Iterator[None]:
    """Kills the first worker that has saved something of its trial's first run; what it tells may come too late."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            for trial in (0, 1):
                log = directory / "trials" / f"{trial:04d}-seed-0" / "log.jsonl"
                if log.exists() and len(steps_in(log)) > 2:
                    killed.append(process_at(directory, trial))
                    os.kill(killed[0], signal.SIGKILL)
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_but_time(
    address: str, sweep: SweepRecipe, plain: tuple[bytes, SweepRecord], capfd: Output
) -> None:
    killed: list[int] = []
    with joined(address) as cluster, killing(Path("killed"), killed):
        records = list(run_sweep_on_cluster(cluster, sweep, Path("killed")))
    assert records[-1] == plain[1]
    told = [record for record in records if isinstance(record, WorkerRecord)]
    assert len([record for record in told if "died" in record.event]) == 1
    processes = [record.process for record in told if record.event == "begun"]
    assert len(processes) == 3 and killed[0] in processes
    assert Path("killed/sweep.json").read_bytes() == plain[0]
    for log in Path("killed/trials").glob("*/log.jsonl"):
        assert steps_in(log) == list(range(1, 25))
    assert capfd.readouterr() == ("", "")  # Ray reports deaths on the output, where a result may stand


@pytest.mark.slow
def test_sigterm_stops_all_workers_with_their_states_saved(address: str, plain: tuple[bytes, SweepRecord]) -> None:
    Path("unsaved.toml").write_text(Path("lora.toml").read_text().replace("save_every = 2", "save_every = 0"))
    Path("stopped.toml").write_text(SWEEP.replace("lora.toml", "unsaved.toml"))
    child = subprocess.Popen([*COMMAND, "--ray", address], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    logs = [Path(f"stopped/trials/{trial:04d}-seed-0/log.jsonl") for trial in (0, 1)]
    while child.poll() is None and not all(log.exists() and len(steps_in(log)) > 1 for log in logs):
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    said = child.communicate()[1].decode()
    assert child.returncode == 143, said
    assert "stopped by SIGTERM, state saved; go on with: toile sweep stopped.toml --resume --out stopped" in said
    assert "Traceback" not in said
    runs = sorted(Path("stopped/trials").iterdir())
    unfinished = [each for each in runs if steps_in(each / "log.jsonl")[-1] < 24]
    assert 1 <= len(unfinished) <= said.count("worker on ")
    for each in unfinished:  # every 0 steps is never: these states are those of the stop
        done = steps_in(each / "log.jsonl")[-1]
        states = [int(path.stem.removeprefix("step-")) for path in (each / "state").glob("step-*.safetensors")]
        assert max(states) - done in (0, 1)
    assert run(["sweep", "stopped.toml", "--resume", "--out", "stopped", "--ray", address]) == 0
    table = [json.loads(each)["trials"] for each in (Path("stopped/sweep.json").read_bytes(), plain[0])]
    assert table[0] == table[1]


# ------------------------------------------------------------------------------------------------------- refusing


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    there = Surroundings.here()
    monkeypatch.setattr(Surroundings, "here", lambda: replace(there, folder=Path("/nowhere")))
    assert run(["sweep", "sweep.toml", "--out", "refused", "--ray", address]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("toile: worker on ") and "all machines need the same folder" in line
    assert run(["sweep", "sweep.toml", "--out", "absent", "--resume", "--ray", address]) == 2
    assert "nothing to resume in absent" in capsys.readouterr().err


def test_another_folder_at_the_same_path_is_refused(sweep: SweepRecipe) -> None:
    place = Place("node", "host", 1)
    records = SweepWorker().work(Surroundings.here(), place, sweep, Path("other"), "mark", 1.0)
    [refusal] = list(records)
    assert isinstance(refusal, ToileError) and "other is not the sweep's folder here" in str(refusal)
    assert not Path("other").exists()


def test_several_machines_need_a_database(sweep: SweepRecipe) -> None:
    class TwoMachines:
        addresses = {"10.0.0.1", "10.0.0.2"}

        def places(self, workers: int | None) -> tuple[Place, ...]:
            return (Place("a", "a", 1), Place("b", "b", 1))

    for storage in (None, "sqlite:///study.sqlite3"):
        with pytest.raises(ToileError, match="SQLite works for one machine"):
            next(run_sweep_on_cluster(TwoMachines(), replace(sweep, storage=storage), Path("db")))  # type: ignore[arg-type]
    assert not Path("db").exists()


@pytest.mark.slow
def test_time_that_is_over_stops_a_sweep(address: str, sweep: SweepRecipe) -> None:
    with joined(address) as cluster:
        *_, end = run_sweep_on_cluster(cluster, sweep, Path("timed"), workers=1, minutes=1e-6)
    assert isinstance(end, SweepEndRecord) and end.reason == "time" and end.ranking.rows == ()
