"""What goes wrong around an engine: workers that die, models that change, servers that are stopped and started."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toile.errors import ToileError
from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.nn.lora import LowRank
from toile.picture_recipe import read_recipe
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.engine import Engine
from toile.web.jobs.errors import ClosingError, NoSuchJobError, TooManyJobsError
from toile.web.jobs.events import Ended
from toile.web.jobs.job import Job
from toile.web.jobs.store import Store
from toile.weights.lora_file import write_lora


@pytest.fixture
def config(tiny_config: EngineConfig, tmp_path: Path) -> EngineConfig:
    return replace(tiny_config, out=tmp_path / "studio")


@pytest.fixture(scope="module")
def two_models(
    tiny_config: EngineConfig, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine of the tiny model and of another one by the name of other, with a folder of LoRAs."""
    folder = tmp_path_factory.mktemp("two")
    other = folder / "other"
    shutil.copytree(tiny_folder, other)
    model = LatentDiffusion.load(other, "cpu", "float32")
    with torch.no_grad():
        model.unet.conv_out.weight.mul_(-1)
    model.save(other, torch.float32)
    changes = {
        name: LowRank(torch.ones(1, *shape[1:]), torch.ones(shape[0], 1), 1.0)
        for name, shape in lora_targets(model).items()
        if "attn2" in name
    }
    (folder / "loras").mkdir()
    write_lora(folder / "loras" / "monet.safetensors", changes, "kohya", {})
    patch = pytest.MonkeyPatch()
    patch.setenv("TOILE_LORAS", str(folder / "loras"))
    models = (*tiny_config.models, str(other))
    with Engine(replace(tiny_config, out=folder / "studio", models=models, kept_models=1)) as engine:
        yield engine
    patch.undo()


def kill_worker(engine: Engine) -> int:
    pid = engine.status().workshop.workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_killed_worker_fails_its_job_comes_back_and_the_queue_is_kept(config: EngineConfig, desk: Any) -> None:
    with Engine(config) as engine:
        made = desk.running(engine, desk.long_wanted())
        waits = [engine.submit(desk.wanted(steps=steps), desk.OWNER) for steps in (2, 3)]
        killed = kill_worker(engine)
        lost = desk.finished(engine, made)
        assert (lost.state, lost.reason) == ("failed", "lost") and "signal 9" in str(lost.error)
        assert [desk.finished(engine, job).state for job in waits] == ["done", "done"]
        worker = engine.status().workshop.workers[0]
        assert worker.pid != killed and worker.starts == 2


def test_jobs_that_were_made_together_get_one_more_try_each_alone(config: EngineConfig, desk: Any) -> None:
    with Engine(config) as engine:
        busy = desk.running(engine, desk.long_wanted(guidance=3.0))
        jobs = [engine.submit(desk.wanted(steps=60, seed=seed), desk.OWNER) for seed in (1, 2)]
        engine.cancel(busy.id, desk.OWNER)
        desk.until(lambda: all(engine.job(job.id, desk.OWNER).fraction > 0 for job in jobs))
        kill_worker(engine)
        for job in jobs:
            assert desk.finished(engine, job).state == "done"
            assert read_recipe(engine.picture_file(job.id, desk.OWNER, 0)).batch_rows == 1


def test_a_job_that_fails_takes_no_other_with_it(two_models: Engine, desk: Any) -> None:
    busy = desk.running(two_models, desk.long_wanted())
    # This one's LoRA is damaged only after it was accepted.
    folder = Path(os.environ["TOILE_LORAS"])
    (folder / "broken.safetensors").write_bytes((folder / "monet.safetensors").read_bytes())
    wrong = two_models.submit(desk.wanted("dress <lora:broken>"), desk.OWNER)
    right = two_models.submit(desk.wanted("dress"), desk.OWNER)
    (folder / "broken.safetensors").write_bytes(b"no weights")
    two_models.cancel(busy.id, desk.OWNER)
    failed = desk.finished(two_models, wrong)
    assert (failed.state, failed.reason) == ("failed", "refused") and "broken" in str(failed.error)
    assert desk.finished(two_models, right).state == "done"
    (folder / "broken.safetensors").unlink()


def test_loras_and_models_are_switched_for_later_jobs_only(two_models: Engine, desk: Any) -> None:
    jobs = [
        desk.running(two_models, desk.wanted("dress", steps=20, num_images=2)),
        two_models.submit(desk.wanted("dress", model="other", steps=20), desk.OWNER),
        two_models.submit(desk.wanted("dress <lora:monet:0.5>", steps=20), desk.OWNER),
        two_models.submit(desk.wanted("dress", steps=20), desk.OWNER),
    ]
    pictures = []
    for job, model, lora in zip(jobs, ("tiny", "other", "tiny", "tiny"), ([], [], ["monet"], []), strict=True):
        assert desk.finished(two_models, job).state == "done"
        path = two_models.picture_file(job.id, desk.OWNER, 0)
        recipe = read_recipe(path)
        assert recipe.model is not None and recipe.model.name == model
        assert [use.name for use in recipe.loras] == lora
        pictures.append(path.read_bytes()[-400:])
    assert len(set(pictures[:3])) == 3
    assert list(two_models.models()) == ["tiny", "other"] and two_models.loras() == ("monet",)


def test_a_full_queue_says_when_to_come_back(config: EngineConfig, desk: Any) -> None:
    with Engine(replace(config, queue=2, per_owner=2)) as engine:
        desk.running(engine, desk.long_wanted(), "bob")
        engine.submit(desk.wanted(), desk.OWNER)
        engine.submit(desk.wanted(), desk.OWNER)
        with pytest.raises(TooManyJobsError, match="2 jobs of yours") as of_owner:
            engine.submit(desk.wanted(), desk.OWNER)
        with pytest.raises(TooManyJobsError, match="the queue is full: 2 jobs wait") as of_queue:
            engine.submit(desk.wanted(), "eve")
        assert of_owner.value.retry_after >= 1 and of_queue.value.retry_after >= 1
        assert engine.status().refused == 2 and engine.status().queued == 2


def test_what_is_finished_outlives_a_stop_and_what_is_not_goes_on(config: EngineConfig, desk: Any) -> None:
    with Engine(config) as engine:
        done = desk.finished(engine, engine.submit(desk.wanted(), desk.OWNER))
        content = engine.picture_file(done.id, desk.OWNER, 0).read_bytes()
        made = desk.running(engine, desk.wanted(steps=100))
        waits = engine.submit(desk.wanted(steps=3, seed=2**64 - 1, num_images=2), desk.OWNER)
        attached = engine.submit(desk.wanted(steps=4), desk.OWNER, attached=True)
        watched = engine.events(waits.id, desk.OWNER)
        next(watched)
    assert not any(isinstance(event, Ended) for event in watched)  # the stream is closed, the job goes on
    with Engine(config) as again:
        assert again.job(done.id, desk.OWNER) == done
        assert again.picture_file(done.id, desk.OWNER, 0).read_bytes() == content
        assert again.job(attached.id, desk.OWNER).reason == "stopped"
        assert [picture.seed for picture in desk.finished(again, waits).pictures] == [2**64 - 1, 0]
        assert desk.finished(again, made).state == "done"


def test_a_server_that_dies_loses_nothing_finished(config: EngineConfig, desk: Any) -> None:
    engine = Engine(config)
    engine.start()
    done = desk.finished(engine, engine.submit(desk.wanted(), desk.OWNER))
    running = desk.running(engine, desk.wanted(steps=300, num_images=6))
    crashed = config.out.parent / "crashed"
    shutil.copytree(config.out, crashed)  # the disk as a kill would leave it
    engine.close()
    with Engine(replace(config, out=crashed)) as again:
        assert again.job(done.id, desk.OWNER) == done
        assert again.cancel(running.id, desk.OWNER).state == "cancelled"


def test_a_job_that_killed_the_server_three_times_is_not_tried_again(config: EngineConfig, desk: Any) -> None:
    job = Job("0" * 24, desk.OWNER, desk.wanted(), "queued", 0.0)
    store = Store(config.out / "studio.sqlite3")
    store.add(job, attached=False)
    store.close()
    database = sqlite3.connect(config.out / "studio.sqlite3")
    with database:
        database.execute("UPDATE jobs SET starts = 3, state = 'running'")
    database.close()
    with Engine(config) as again:
        assert again.job(job.id, desk.OWNER).reason == "lost"


def test_draining_finishes_what_there_is_and_takes_nothing_new(config: EngineConfig, desk: Any) -> None:
    engine = Engine(config)
    engine.start()
    jobs = [engine.submit(desk.wanted(steps=steps), desk.OWNER, attached=True) for steps in (50, 51)]
    engine.stop_accepting()
    with pytest.raises(ClosingError):
        engine.submit(desk.wanted(), desk.OWNER)
    engine.close(drain_seconds=180)
    store = Store(config.out / "studio.sqlite3")
    assert [job.state for job in store.history(desk.OWNER, 9, None)] == ["done", "done"]
    assert [job.id for job in store.history(desk.OWNER, 9, None)] == [job.id for job in reversed(jobs)]
    store.close()


def test_two_engines_do_not_share_a_folder(config: EngineConfig) -> None:
    with Engine(config), pytest.raises(ToileError, match="is in use"):
        Engine(config)


def test_a_database_of_a_newer_version_and_what_is_none_are_refused(tmp_path: Path) -> None:
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ToileError, match="is of version 99"):
        Store(tmp_path / "newer")
    (tmp_path / "none").write_bytes(b"this is a text, and no database at all" * 99)
    with pytest.raises(ToileError, match="cannot open"):
        Store(tmp_path / "none")


def test_links_among_the_pictures_are_not_followed(config: EngineConfig, desk: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    with Engine(config) as engine:
        job = desk.finished(engine, engine.submit(desk.wanted(), desk.OWNER))
        path = engine.picture_file(job.id, desk.OWNER, 0)
        path.unlink()
        path.symlink_to(secret)
        with pytest.raises(NoSuchJobError):
            engine.picture_file(job.id, desk.OWNER, 0)
        path.unlink()
        shutil.move(path.parent, tmp_path / "away")
        path.parent.symlink_to(tmp_path / "away")
        (tmp_path / "away" / path.name).write_bytes(b"secret")
        with pytest.raises(NoSuchJobError):
            engine.picture_file(job.id, desk.OWNER, 0)
        engine.forget(job.id, desk.OWNER)
    assert (tmp_path / "away" / path.name).read_bytes() == b"secret"
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"models": ("nowhere",)}, "nowhere"), ({"devices": ("quantum",)}, "quantum"), ({"dtype": "int3"}, "int3")],
)
def test_an_engine_that_cannot_work_is_refused(config: EngineConfig, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ToileError, match=what):
        Engine(replace(config, **settings))
    with pytest.raises(ToileError, match="queue is 0"):
        replace(config, queue=0)
