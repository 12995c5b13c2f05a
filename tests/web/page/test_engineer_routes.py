"""What the engineers' tabs ask for: nothing without a session or from elsewhere, nothing by path."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from toile.web.training.desk import Desk
from toile.web.training.places import place_id

READ = ("training", "picture-sets", "runs", "reports", "runs/a", "comparisons?run=a&run=b", "reports/a/page")
ESCAPES = ("..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "..%5c..%5cetc", "%2fetc%2fpasswd", "a%00b", "~", "C:%5C")


@pytest.fixture(scope="module")
def user(studio_address: str) -> Iterator[httpx.Client]:
    with closing(httpx.Client(base_url=studio_address, timeout=60)) as client:
        assert client.post("/studio/session").status_code == 200
        yield client


@pytest.fixture(scope="module")
def secret(page_desk: Desk) -> Path:
    """What no request may reach, beside what is served."""
    run = page_desk.config.out / "training" / "secret"
    run.mkdir(parents=True)
    for name in ("recipe.json", "log.jsonl", "index.html", "evaluation.json"):
        (run / name).write_text("{}")
    page_desk.config.own_runs.mkdir(parents=True)
    return run


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("path", READ)
def test_without_a_session_nothing_is_told(studio_address: str, path: str) -> None:
    assert httpx.get(f"{studio_address}/studio/{path}").status_code == 401


def test_without_a_session_or_from_elsewhere_nothing_is_done(user: httpx.Client, studio_address: str) -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "training", {"json": {"name": "a", "pictures": "a"}}),
        ("POST", "training/a/start", {}),
        ("POST", "training/a/stop", {}),
        ("POST", "training/a/resume", {}),
        ("PUT", "picture-sets/a/pictures", {"content": png()}),
        ("PUT", "picture-sets/a/zip", {"content": b"PK"}),
        ("DELETE", "picture-sets/a", {}),
    ]
    for method, path, more in asked:
        assert httpx.request(method, f"{studio_address}/studio/{path}", **more).status_code == 401, path
        foreign = {"Origin": "https://elsewhere.example"}
        assert user.request(method, f"/studio/{path}", headers=foreign, **more).status_code == 403, path
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert user.post("/studio/training/a/start", content="x=1", headers=form).status_code == 415


@pytest.mark.parametrize("place", [*ESCAPES, "secret", "..%2fsecret"])
def test_no_path_leads_anywhere(user: httpx.Client, secret: Path, place: str) -> None:
    for path in (
        f"runs/{place}",
        f"runs/{place}/sheets/0.png",
        f"reports/{place}/page",
        f"training/{place}/pictures.png",
        f"comparisons?run={place}&run=b",
    ):
        assert user.get(f"/studio/{path}").status_code == 404, path
    assert user.delete(f"/studio/picture-sets/{place}").status_code in (404, 405)
    assert user.post(f"/studio/training/{place}/resume").status_code in (404, 405)
    body = {"name": "a", "pictures": httpx.URL(f"http://a/{place}").path[1:]}
    assert user.post("/studio/training", json=body).status_code == 404
    assert secret.is_dir()


def test_a_folder_that_is_no_run_of_the_page_has_no_id(user: httpx.Client, secret: Path) -> None:
    assert user.get(f"/studio/runs/{place_id(secret)}").status_code == 404
    assert user.get(f"/studio/reports/{place_id(secret)}/page").status_code == 404


@pytest.mark.parametrize("name", ["..%2fa", "%2e%2e", ".a", "a%5cb", "%3Cimg%3E", "a%00"])
def test_uploads_stay_in_their_folder(user: httpx.Client, page_desk: Desk, name: str) -> None:
    answer = user.put(f"/studio/picture-sets/{name}/pictures", content=png())
    assert answer.status_code in (400, 404, 405), answer.text
    assert not page_desk.config.own_pictures.exists()


def test_pictures_are_uploaded_offered_and_deleted(user: httpx.Client, page_desk: Desk) -> None:
    answer = user.put("/studio/picture-sets/linen/pictures", params={"caption": "a <b>patch</b>"}, content=png())
    assert answer.status_code == 200 and "path" not in answer.json()
    [known] = user.get("/studio/picture-sets").json()["sets"]
    assert known == answer.json() and known["has_words"] and known["is_own"]
    refused = user.put("/studio/picture-sets/linen/pictures", content=b"<svg onload='x'/>")
    assert refused.status_code == 400 and "no picture" in refused.json()["detail"]
    assert user.delete(f"/studio/picture-sets/{known['id']}").status_code == 200
    assert user.get("/studio/picture-sets").json()["sets"] == []


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "../a"}, 400, "name is '../a'"),
        ({"base": "/etc"}, 400, "base is '/etc'; served are: tiny"),
        ({"steps": 0}, 400, "steps is 0"),
        ({"rate": "fast"}, 422, "rate: "),
        ({"folder": "/etc"}, 422, "folder: "),
        ({"prompts": ["a" * 501]}, 400, "501 characters"),
        ({}, 404, "no such set of pictures"),
    ],
)
def test_what_is_wrong_with_a_training_is_named(
    user: httpx.Client, page_desk: Desk, body: dict[str, Any], status: int, says: str
) -> None:
    answer = user.post("/studio/training", json={"name": "linen", "pictures": "a", **body})
    assert answer.status_code == status and says in answer.json()["detail"]
    assert page_desk.trainer.now() is None


def test_the_page_lets_only_its_own_frames_in(studio_address: str) -> None:
    assert "frame-src 'self'" in httpx.get(studio_address).headers["content-security-policy"]
