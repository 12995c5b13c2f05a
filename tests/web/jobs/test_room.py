"""Room for jobs: places are given at once and counted exactly, and jobs that come together are made together."""

from __future__ import annotations

from typing import Any

import pytest

from toile.errors import ToileError
from toile.web.jobs import workshop
from toile.web.jobs.engine import Engine
from toile.web.jobs.errors import ClosingError, TooManyJobsError
from toile.web.jobs.room import Place, Room


def opened(queue: int = 2, per_owner: int | None = None, workers: int = 1) -> Room:
    room = Room(queue, per_owner, workers, lambda: 7)
    room.is_open = True
    return room


def entered(room: Room, most: int, owner: str = "ada") -> list[Place]:
    """Places until there is no more room."""
    places = []
    for _ in range(most):
        try:
            places.append(room.enter(owner))
        except TooManyJobsError as error:
            assert error.retry_after == 7
            break
    return places


def test_requests_on_their_way_in_hold_places() -> None:
    room = opened()
    places = entered(room, 10)
    assert (len(places), room.num_coming, room.num_refused) == (3, 3, 1)
    with pytest.raises(TooManyJobsError, match="the queue is full: 2 jobs wait"):
        room.check("bob")
    room.give_up(places[0])
    room.give_up(places[0])  # once more changes nothing
    assert len(entered(room, 10)) == 1


def test_what_has_begun_waits_no_more_and_a_worker_that_has_ended_makes_room() -> None:
    room = opened()
    places = entered(room, 10)
    for place in places:
        room.settle(place)
        room.give_up(place)  # a job keeps its place
    assert room.num_coming == 0 and not entered(room, 1)
    room.begin_work(places[:2])  # two jobs in one work: two wait no more, and one worker is free no more
    places += entered(room, 10)
    assert len(places) == 4
    room.leave(places[0])
    room.leave(places[1])
    assert not entered(room, 1)
    room.end_work()
    assert len(entered(room, 10)) == 1


def test_an_owner_has_as_many_as_allowed_until_they_end() -> None:
    room = opened(queue=10, per_owner=2)
    first, _ = entered(room, 10)
    room.settle(first)
    room.begin_work([first])
    with pytest.raises(TooManyJobsError, match="2 jobs of yours"):
        room.enter("ada")
    assert len(entered(room, 10, "bob")) == 2
    room.leave(first)
    room.enter("ada")


def test_nobody_comes_into_a_closed_room() -> None:
    room = opened()
    room.is_open = False
    with pytest.raises(ClosingError):
        room.enter("ada")


def test_a_refused_request_gives_its_place_back(engine: Engine, desk: Any) -> None:
    place = engine.room.enter(desk.OWNER)
    with pytest.raises(ToileError, match="deadline_seconds"):
        engine.submit(desk.wanted(), desk.OWNER, deadline_seconds=-1, place=place)
    engine.room.give_up(place)
    assert engine.room.num_coming == 0


def test_an_idle_worker_waits_for_requests_that_are_being_read(
    engine: Engine, desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "_SECONDS_TO_GATHER", 60.0)
    desk.until(lambda: engine.status().workshop.is_ready)
    works = engine.status().workshop.works
    place = engine.room.enter(desk.OWNER)
    first = engine.submit(desk.wanted(seed=1), desk.OWNER)
    assert engine.status().workshop.works == works
    second = engine.submit(desk.wanted(seed=2), desk.OWNER, place=place)
    assert desk.finished(engine, first).state == desk.finished(engine, second).state == "done"
    assert engine.status().workshop.works == works + 1


def test_it_does_not_wait_for_long(engine: Engine, desk: Any) -> None:
    place = engine.room.enter(desk.OWNER)
    assert desk.finished(engine, engine.submit(desk.wanted(), desk.OWNER)).state == "done"
    engine.room.give_up(place)
