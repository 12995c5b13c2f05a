"""Jobs that are submitted, watched, fetched, rated and forgotten over HTTP."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from toile.picture_recipe import read_recipe


def events_of(client: httpx.Client, job: str, query: str = "") -> list[tuple[str, dict[str, Any]]]:
    with client.stream("GET", f"/api/jobs/{job}/events{query}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(stream.iter_text()).split("\n\n")
    lines = [block.split("\n") for block in blocks if block and not block.startswith(":")]
    return [(first.removeprefix("event: "), json.loads(second.removeprefix("data: "))) for first, second in lines]


def test_a_job_from_submission_to_forgetting(server: Any, tmp_path: Path) -> None:
    with server.client() as client:
        answer = client.post("/api/jobs", json={"prompt": ["red dress", "belt"], "n": 2, "seed": 4, "steps": 400})
        assert answer.status_code == 202
        job = answer.json()["id"]
        assert answer.headers["location"] == f"/api/jobs/{job}"
        events = events_of(client, job, "?previews=true")
        kinds = [kind for kind, _ in events]
        assert kinds.count("picture") == 4 and kinds[-1] == "ended" and events[-1][1]["state"] == "done"
        fractions = [facts["fraction"] for kind, facts in events if kind == "progress"]
        assert fractions == sorted(fractions)
        previews = [facts["preview"] for kind, facts in events if kind == "progress" and facts["preview"]]
        assert Image.open(io.BytesIO(base64.b64decode(previews[0]))).size == (24, 32)
        facts = client.get(f"/api/jobs/{job}").json()
        assert [picture["seed"] for picture in facts["pictures"]] == [4, 5, 6, 7]
        assert facts["request"]["wanted"]["prompts"] == ["red dress", "belt"]
        file = client.get(facts["pictures"][3]["url"])
        assert file.headers["content-type"] == "image/png"
        (tmp_path / "picture.png").write_bytes(file.content)
        assert read_recipe(tmp_path / "picture.png").prompt == "belt"
        assert client.get("/api/jobs?limit=1").json()["jobs"][0]["id"] == job
        assert client.put(f"/api/jobs/{job}/pictures/0/thumb", json={"thumb": 1}).status_code == 204
        pair = {"a": {"job": job, "number": 0}, "b": {"job": job, "number": 1}, "choice": "tie"}
        assert client.post("/api/pairs", json=pair).status_code == 204
        ratings = client.get("/api/ratings").json()
        assert ratings["thumbs"][-1]["thumb"] == 1 and ratings["pairs"][-1]["b"] == [job, 1]
        assert client.delete(f"/api/jobs/{job}").status_code == 204
        assert client.get(f"/api/jobs/{job}").status_code == 404
        assert client.get(facts["pictures"][3]["url"]).status_code == 404


def test_maps_variations_edits_and_files_pass_through(server: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (24, 32), (10, 200, 30)).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    bodies: list[dict[str, Any]] = [
        {"prompt": "red dress", "maps": True},
        {"prompt": "red dress", "toward": {"prompt": "belt", "seed": 3, "share": 0.2}},
        {"prompt": "blue dress", "original": "red dress", "edit_cross": 0.5},
        {"prompt": "red dress", "image": picture, "mask": picture, "strength": 0.5, "fit": "crop", "mask_blur": 1},
    ]
    with server.client() as client:
        for body in bodies:
            job = client.post("/api/jobs", json={**body, "steps": 2}).json()["id"]
            assert events_of(client, job)[-1] == ("ended", {"state": "done", "error": None, "reason": None})
        first = client.get("/api/jobs?limit=4").json()["jobs"][-1]["id"]
        maps = client.get(f"/api/jobs/{first}/pictures/0/maps").json()
        assert maps["words"] == ["red", "dress"]
        assert [len(maps["heat"]), len(maps["heat"][0]), len(maps["heat"][0][0])] == [2, 8, 6]
        assert client.get(f"/api/jobs/{job}/pictures/0/maps").status_code == 404


def test_cancelling(server: Any, desk: Any) -> None:
    with server.client() as client:
        job = client.post("/api/jobs", json={"prompt": "dress", "steps": desk.LONG_STEPS}).json()["id"]
        desk.until(lambda: client.get(f"/api/jobs/{job}").json()["fraction"] > 0)
        assert client.post(f"/api/jobs/{job}/cancel").json()["state"] == "cancelled"
        assert events_of(client, job)[-1][1]["state"] == "cancelled"
        assert client.post(f"/api/jobs/{job}/cancel").json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompts"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "steps": "many"}, "steps"),
        ({"prompt": "x", "steps": 10**6}, "steps"),
        ({"prompt": "x", "width": 0}, "width"),
        ({"prompt": "x", "width": -8}, "width"),
        ({"prompt": "x", "height": 513}, "height"),
        ({"prompt": "x", "width": 10**9}, "width"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": 2**64}, "seed"),
        ({"prompt": "x", "n": 10**5}, "pictures"),
        ({"prompt": "x", "strength": 0}, "strength"),
        ({"prompt": "x", "mask": "AAAA"}, "mask"),
        ({"prompt": "x", "image": "not base64!"}, "image"),
        ({"prompt": "x", "fit": "melt"}, "fit"),
        ({"prompt": "x", "toward": {"prompt": "y", "share": 2}}, "share"),
        ({"prompt": "x", "loras": [{"name": "../x"}]}, "loras"),
        ({"prompt": "x <lora:../x:1>"}, "lora"),
        ({"prompt": "x", "model": "file:///etc"}, "model"),
        ({"prompt": "x", "deadline_seconds": 0}, "deadline_seconds"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"prompt": "x", "bogus": 1}, "bogus"),
    ],
)
def test_every_refused_value_is_told_by_name(server: Any, body: dict[str, Any], param: str) -> None:
    with server.client() as client:
        answer = client.post("/api/jobs", json=body)
    assert answer.status_code in (400, 422)
    assert param in answer.json()["detail"] or param in str(answer.json()["error"]["param"])


@pytest.mark.parametrize("content", [b'{"prompt": "x", "guidance": NaN}', b'{"prompt": "x", "guidance": 1e999}', b"{"])
def test_json_that_is_none_is_refused(server: Any, content: bytes) -> None:
    with server.client() as client:
        answer = client.post("/api/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["detail"]


def test_hostile_prompts_come_back_as_they_were_and_nowhere_else(server: Any) -> None:
    prompt = "<script>alert(1)</script>\r\n\r\nevent: ended\ndata: {}\n\n\x00 \u202e \U0001f457 \ud800"
    with server.client() as client:
        content = json.dumps({"prompt": prompt, "steps": 2}).encode()
        job = client.post("/api/jobs", content=content, headers={"Content-Type": "application/json"}).json()
        kinds = [kind for kind, _ in events_of(client, job["id"])]
        assert kinds.count("ended") == 1 and kinds[-1] == "ended"
        answer = client.get(f"/api/jobs/{job['id']}")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.json()["request"]["wanted"]["prompts"] == [prompt]
        assert "<script" not in client.get("/metrics").text


def test_what_is_served(server: Any) -> None:
    with server.client() as client:
        [model] = client.get("/api/models").json()["models"]
        assert (model["name"], model["defaults"]["width"], model["multiple"]) == ("tiny", 24, 4)
        assert client.get("/api/loras").json() == {"loras": []}
        assert "heun" in {sampler["name"] for sampler in client.get("/api/samplers").json()["samplers"]}
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/readyz").json()["ready"] is True
        numbers = client.get("/metrics").text
        assert 'toile_jobs_ended_total{state="done"}' in numbers
        assert 'toile_worker_ready{device="cpu",host="",worker="0"} 1.0' in numbers
