"""The engine: what it is asked for becomes the pictures of `generate`, told step by step, and kept."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toile.data.images import open_image, pixels_of
from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.replay import replay
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.picture_recipe import Toward, read_recipe
from toile.web.jobs.engine import Engine
from toile.web.jobs.errors import NoSuchJobError
from toile.web.jobs.events import Ended, PictureReady, Progress


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As the workers have: with another number pictures are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def png(size: tuple[int, int], colour: tuple[int, int, int] | int = (200, 30, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(file, "PNG")
    return file.getvalue()


def offline(model: LatentDiffusion, request: GenerateRequest) -> list[np.ndarray]:
    return [event.pixels for event in generate(model, request) if isinstance(event, Picture)]


def test_a_job_makes_the_pictures_of_generate(engine: Engine, desk: Any, tiny_model: LatentDiffusion) -> None:
    request = desk.wanted(num_images=3, negative="logo", sampler="heun", guidance=3.0)
    job = desk.finished(engine, engine.submit(request, desk.OWNER))
    assert (job.state, job.fraction, job.error) == ("done", 1.0, None)
    assert [picture.seed for picture in job.pictures] == [1, 2, 3]
    for picture, pixels in zip(job.pictures, offline(tiny_model, request.wanted), strict=True):
        path = engine.picture_file(job.id, desk.OWNER, picture.number)
        assert np.array_equal(pixels_of(open_image(path)), pixels)
        assert read_recipe(path).prompt == "red dress"


def test_jobs_that_agree_are_made_together_and_each_gets_its_own(
    engine: Engine, desk: Any, tiny_model: LatentDiffusion
) -> None:
    busy = desk.running(engine, desk.long_wanted())
    requests = [desk.wanted(prompt, seed=seed) for prompt, seed in (("red dress", 5), ("blue shirt", 70), ("belt", 5))]
    jobs = [engine.submit(request, desk.OWNER) for request in requests]
    works = engine.status().workshop.works
    engine.cancel(busy.id, desk.OWNER)
    for job, request in zip(jobs, requests, strict=True):
        done = desk.finished(engine, job)
        path = engine.picture_file(job.id, desk.OWNER, 0)
        recipe = read_recipe(path)
        assert (recipe.batch_rows, recipe.seed, recipe.prompt) == (3, request.wanted.seed, request.wanted.prompts[0])
        assert done.pictures[0].seed == request.wanted.seed
        [alone] = offline(tiny_model, request.wanted)
        assert np.abs(pixels_of(open_image(path)).astype(int) - alone).max() <= 1
        assert replay(path, tiny_model).identical
    assert engine.status().workshop.works == works + 1


def test_other_settings_are_not_made_together(engine: Engine, desk: Any) -> None:
    busy = desk.running(engine, desk.long_wanted())
    jobs = [engine.submit(desk.wanted(steps=steps), desk.OWNER) for steps in (2, 3)]
    engine.cancel(busy.id, desk.OWNER)
    for job in jobs:
        desk.finished(engine, job)
        assert read_recipe(engine.picture_file(job.id, desk.OWNER, 0)).batch_rows == 1


def test_prompts_of_two_forms_in_one_work_come_to_their_own_jobs(engine: Engine, desk: Any) -> None:
    busy = desk.running(engine, desk.long_wanted())
    prompts = ["red dress", "blue " * 40, "black belt", "blue " * 41]
    jobs = [engine.submit(desk.wanted(prompt), desk.OWNER) for prompt in prompts]
    engine.cancel(busy.id, desk.OWNER)
    for job, prompt in zip(jobs, prompts, strict=True):
        desk.finished(engine, job)
        recipe = read_recipe(engine.picture_file(job.id, desk.OWNER, 0))
        assert (recipe.prompt, recipe.batch_rows) == (prompt, 2)


def test_events_lead_from_the_queue_to_the_end(engine: Engine, desk: Any) -> None:
    first = engine.submit(desk.wanted(steps=40), desk.OWNER)
    second = engine.submit(desk.wanted(steps=41), desk.OWNER)
    events = list(engine.events(second.id, desk.OWNER))
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "Queued" and kinds[-2:] == ["PictureReady", "Ended"] and "Progress" in kinds
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions) and len(set(fractions)) > 2
    assert isinstance(events[-1], Ended) and events[-1].state == "done"
    assert [type(event) for event in engine.events(first.id, desk.OWNER)] == [PictureReady, Ended]


def test_coroutines_see_the_same_events(engine: Engine, desk: Any) -> None:
    async def watch() -> list[str]:
        job = engine.submit(desk.wanted(steps=50), desk.OWNER)
        return [type(event).__name__ async for event in engine.watch(job.id, desk.OWNER)]

    assert asyncio.run(watch())[-2:] == ["PictureReady", "Ended"]


def test_previews_are_small_pictures_and_change_nothing(engine: Engine, desk: Any) -> None:
    request = desk.wanted(steps=400, guidance=1.5)  # longer than the half second before the first one
    plain = desk.finished(engine, engine.submit(request, desk.OWNER))
    shown = engine.submit(request, desk.OWNER)
    events = list(engine.events(shown.id, desk.OWNER, previews=True))
    previews = [event.preview for event in events if isinstance(event, Progress) and event.preview]
    assert previews and Image.open(io.BytesIO(previews[0])).size == (24, 32)
    [one, other] = [engine.picture_file(job.id, desk.OWNER, 0).read_bytes() for job in (plain, shown)]
    assert np.array_equal(pixels_of(open_image(one)), pixels_of(open_image(other)))


def test_a_picture_to_begin_with_and_its_mask_pass_through(
    engine: Engine, desk: Any, tiny_model: LatentDiffusion
) -> None:
    request = desk.wanted(image=png((48, 64)), mask=png((48, 64), 0), strength=0.5, steps=4)
    job = desk.finished(engine, engine.submit(request, desk.OWNER))
    path = engine.picture_file(job.id, desk.OWNER, 0)
    assert np.array_equal(pixels_of(open_image(path)), np.full((32, 24, 3), (200, 30, 30)))  # all of it was kept
    assert replay(path, tiny_model).identical
    without = desk.finished(engine, engine.submit(desk.wanted(image=png((20, 10)), strength=0.5), desk.OWNER))
    assert replay(engine.picture_file(without.id, desk.OWNER, 0), tiny_model).identical


def test_maps_of_words_variations_and_edits_pass_through(engine: Engine, desk: Any) -> None:
    job = desk.finished(engine, engine.submit(desk.wanted("red dress", maps=True), desk.OWNER))
    maps = engine.word_maps(job.id, desk.OWNER, 0)
    assert maps.words == ("red", "dress") and maps.heat.shape == (2, 8, 6)
    assert job.pictures[0].has_maps
    varied = desk.wanted(toward=Toward("red dress", 9, 0.3), num_images=2)
    edited = desk.wanted("blue dress", original="red dress")
    for request in (varied, edited):
        done = desk.finished(engine, engine.submit(request, desk.OWNER))
        recipe = read_recipe(engine.picture_file(done.id, desk.OWNER, 0))
        assert (recipe.toward, recipe.original) == (request.wanted.toward, request.wanted.original)
    with pytest.raises(NoSuchJobError):
        engine.word_maps(done.id, desk.OWNER, 0)


def test_jobs_belong_to_their_owners(engine: Engine, desk: Any) -> None:
    job = desk.running(engine, desk.long_wanted())
    for forbidden in (engine.job, engine.cancel, engine.forget, engine.preview):
        with pytest.raises(NoSuchJobError, match="no such job"):
            forbidden(job.id, "eve")
    with pytest.raises(NoSuchJobError):
        next(iter(engine.events(job.id, "eve")))
    assert engine.history("eve") == ()
    assert engine.cancel(job.id, desk.OWNER).state == "cancelled"
    assert engine.job(job.id, desk.OWNER).state == "cancelled"


def test_a_cancelled_job_stops_and_the_next_one_begins(engine: Engine, desk: Any) -> None:
    job = desk.running(engine, desk.long_wanted(num_images=4))
    waiting = engine.submit(desk.wanted(steps=999), desk.OWNER)
    assert engine.job(waiting.id, desk.OWNER).position == 0
    engine.cancel(job.id, desk.OWNER)
    desk.until(lambda: engine.job(waiting.id, desk.OWNER).state == "running")
    assert engine.cancel(waiting.id, desk.OWNER).state == "cancelled"
    desk.until(lambda: not engine.status().workshop.workers[0].is_busy)


def test_a_deadline_ends_what_waits_and_what_is_made(engine: Engine, desk: Any) -> None:
    made = engine.submit(desk.long_wanted(), desk.OWNER, deadline_seconds=0.3)
    waits = engine.submit(desk.wanted(steps=7), desk.OWNER, deadline_seconds=0.1)
    assert (desk.finished(engine, waits).reason, desk.finished(engine, made).reason) == ("deadline", "deadline")


def test_history_ratings_and_forgetting(engine: Engine, desk: Any) -> None:
    jobs = [desk.finished(engine, engine.submit(desk.wanted(seed=n), "bob"), "bob") for n in range(3)]
    assert [job.id for job in engine.history("bob", 2)] == [jobs[2].id, jobs[1].id]
    assert [job.id for job in engine.history("bob", before=jobs[1].id)] == [jobs[0].id]
    engine.rate(jobs[0].id, "bob", 0, 1)
    engine.rate(jobs[0].id, "bob", 0, -1)
    engine.rate(jobs[1].id, "bob", 0, 1)
    engine.rate(jobs[1].id, "bob", 0, 0)
    engine.rate_pair("bob", (jobs[0].id, 0), (jobs[1].id, 0), "b")
    thumbs, pairs = engine.ratings("bob")
    assert [(rating.job, rating.thumb) for rating in thumbs] == [(jobs[0].id, -1)]
    assert [(rating.a, rating.b, rating.choice) for rating in pairs] == [((jobs[0].id, 0), (jobs[1].id, 0), "b")]
    path = engine.picture_file(jobs[0].id, "bob", 0)
    engine.forget(jobs[0].id, "bob")
    assert not path.exists() and engine.ratings("bob") == ((), ())
    with pytest.raises(NoSuchJobError):
        engine.job(jobs[0].id, "bob")
    with pytest.raises(NoSuchJobError):
        engine.rate(jobs[2].id, "bob", 1, 1)
    for wrong in (lambda: engine.rate(jobs[2].id, "bob", 0, 2), lambda: engine.history("bob", 0)):
        with pytest.raises(ToileError, match="allowed"):
            wrong()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"model": "/etc/passwd"}, "model is '/etc/passwd'"),
        ({"model": "https://example.com/x"}, "served are: tiny"),
        ({"prompt": "dress <lora:monet:0.8>"}, "loras: 'monet' is none that is served"),
        ({"width": 25}, "width is 25"),
        ({"width": 4096, "height": 4096}, "width x height"),
        ({"steps": 1001}, "steps is 1001|steps is"),
        ({"num_images": 65}, "number of pictures is 65"),
        ({"prompt": "a" * 10_001}, "prompt has 10,001 characters"),
        ({"negative": "a" * 10_001}, "negative has 10,001 characters"),
        ({"quality": "draft"}, "quality is 'draft'"),
        ({"image": b"<svg onload='alert(1)'/>"}, "image is no picture"),
        ({"image": b"<html><script>alert(1)</script></html>"}, "image is no picture"),
        ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "image is no picture"),
        ({"image": png((9, 9))[:50]}, "image"),
        ({"image": png((5000, 4000))}, "image is 5000x4000"),
        ({"image": png((9, 9)), "mask": b"GIF89a"}, "mask is no picture"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(engine: Engine, desk: Any, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ToileError, match=what):
        engine.submit(desk.wanted(**settings), desk.OWNER)


def test_what_only_the_model_can_tell_fails_the_one_job(engine: Engine, desk: Any) -> None:
    busy = desk.running(engine, desk.long_wanted())
    wrong = engine.submit(desk.wanted(deepcache=3, tgate=0.5, maps=True), desk.OWNER)
    right = engine.submit(desk.wanted(), desk.OWNER)
    engine.cancel(busy.id, desk.OWNER)
    assert desk.finished(engine, right).state == "done"
    assert desk.finished(engine, wrong).is_ended


def test_names_of_files_hold_nothing_that_was_typed(engine: Engine, desk: Any) -> None:
    job = desk.finished(engine, engine.submit(desk.wanted("../../x <script> \n dress"), desk.OWNER))
    path = engine.picture_file(job.id, desk.OWNER, 0)
    assert path.name == f"{job.id}-0.png" and path.parent.name == job.id[:2]
    assert Path(path).is_file()
