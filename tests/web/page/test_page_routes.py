"""What the page's scripts ask for: jobs, words, pictures, and who may see them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toile.picture_recipe import read_recipe
from toile.web.jobs.engine import Engine
from toile.web.page.owners import COOKIE


@pytest.fixture(scope="module")
def user(studio_address: str) -> Iterator[httpx.Client]:
    with closing(new_user(studio_address)) as client:
        yield client


def new_user(address: str) -> httpx.Client:
    client = httpx.Client(base_url=address, timeout=60)
    assert client.post("/studio/session").status_code == 200
    return client


def ended(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """The job when all events have come."""
    answer = client.post("/studio/jobs", json={"prompt": "red dress", "settings": {"steps": 2}, "seed": "5", **body})
    assert answer.status_code == 200, answer.text
    told = client.get("/studio/events", params={"job": answer.json()["id"]}).text
    events = [json.loads(line.removeprefix("data: ")) for line in told.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == {"kind": "over"} and events[-2]["kind"] == "ended"
    job: dict[str, Any] = client.get(f"/studio/jobs/{answer.json()['id']}").json()
    return job


def png(size: tuple[int, int] = (24, 32), **texts: str) -> str:
    file, chunks = io.BytesIO(), PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    Image.new("RGB", size, (200, 30, 30)).save(file, "PNG", pnginfo=chunks)
    return base64.b64encode(file.getvalue()).decode()


def test_the_page_runs_nothing_but_its_own_scripts(studio_address: str) -> None:
    answer = httpx.get(studio_address)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert "onclick" not in answer.text and "<script>" not in answer.text and "style=" not in answer.text


def test_a_session_is_a_cookie_that_scripts_cannot_read_and_other_sites_cannot_send(studio_address: str) -> None:
    assert httpx.get(f"{studio_address}/studio/jobs").status_code == 401
    with httpx.Client(base_url=studio_address) as client:
        cookie = client.post("/studio/session").headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        value = client.cookies[COOKIE]
        client.post("/studio/session")
        assert client.cookies[COOKIE] == value


def test_pages_elsewhere_cannot_ask(user: httpx.Client) -> None:
    body = {"prompt": "red dress"}
    assert user.post("/studio/jobs", json=body, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    text = user.post("/studio/jobs", content=json.dumps(body), headers={"Content-Type": "text/plain"})
    assert text.status_code == 415


def test_a_job_and_its_pictures(user: httpx.Client, page_engine: Engine) -> None:
    job = ended(user, num=2, negative="logo", maps=True)
    assert (job["state"], job["seed"], len(job["pictures"])) == ("done", "5", 2)
    answer = user.get(f"/studio/pictures/{job['id']}/1.png")
    assert answer.headers["content-type"] == "image/png" and Image.open(io.BytesIO(answer.content)).size == (24, 32)
    words = user.get(f"/studio/pictures/{job['id']}/0/words").json()["words"]
    assert words == ["red", "dress"]
    veil = Image.open(io.BytesIO(user.get(f"/studio/pictures/{job['id']}/0/words/1.png").content))
    assert veil.mode == "RGBA" and veil.getextrema()[3][0] < veil.getextrema()[3][1]
    assert user.get(f"/studio/pictures/{job['id']}/0/words/9.png").status_code == 400
    assert user.get("/studio/jobs").json()["jobs"][0]["id"] == job["id"]
    assert user.delete(f"/studio/jobs/{job['id']}").status_code == 200
    assert user.get(f"/studio/pictures/{job['id']}/1.png").status_code == 404


def test_nobody_sees_what_belongs_to_somebody_else(user: httpx.Client, studio_address: str) -> None:
    job = ended(user)
    with closing(new_user(studio_address)) as other:
        assert other.get("/studio/jobs").json() == {"jobs": []}
        for path in (f"jobs/{job['id']}", f"pictures/{job['id']}/0.png", f"pictures/{job['id']}/0/recipe"):
            assert other.get(f"/studio/{path}").status_code == 404
        assert other.get("/studio/events", params={"job": job["id"]}).status_code == 404
        assert other.post(f"/studio/jobs/{job['id']}/cancel").status_code == 404
        assert other.delete(f"/studio/jobs/{job['id']}").status_code == 404
        assert other.put(f"/studio/pictures/{job['id']}/0/thumb", json={"thumb": 1}).status_code == 404
        place = {"job": job["id"], "number": 0}
        assert other.post("/studio/zips", json={"pictures": [place]}).status_code == 404
    assert user.get(f"/studio/pictures/{job['id']}/0.png").status_code == 200


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"steps": 0}}, "steps"),
        ({"settings": {"guidance": "strong"}}, "guidance"),
        ({"settings": {"batch_size": 2}}, "batch_size"),
        ({"num": 100_000}, "pictures"),
        ({"seed": "-1"}, "seed"),
        ({"seed": "1.5"}, "seed"),
        ({"model": "../tiny"}, "model"),
        ({"loras": [{"name": "/etc/passwd"}]}, "loras"),
        ({"image": "no base64!"}, "image"),
        ({"image": base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()}, "image"),
        ({"mask": png()}, "mask"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"toward": {"share": 2.0}}, "share"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(user: httpx.Client, changes: dict[str, Any], named: str) -> None:
    answer = user.post("/studio/jobs", json={"prompt": "red dress", **changes})
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["detail"]


def test_seeds_are_whole_to_the_last_digit(user: httpx.Client, page_engine: Engine) -> None:
    job = ended(user, seed=str(2**64 - 1))
    recipe = user.get(f"/studio/pictures/{job['id']}/0/recipe").json()
    assert job["pictures"][0]["seed"] == recipe["seed"] == str(2**64 - 1)


def test_a_recipe_makes_the_same_picture_again(user: httpx.Client) -> None:
    first = ended(user, settings={"steps": 3, "guidance": 1.5, "eta": 0.5}, seed="77", negative="logo")
    content = user.get(f"/studio/pictures/{first['id']}/0.png").content
    recipe = user.post("/studio/recipes", json={"file": base64.b64encode(content).decode()}).json()
    assert (recipe["seed"], recipe["settings"]["steps"], recipe["settings"]["eta"]) == ("77", 3, 0.5)
    body = {name: value for name, value in recipe.items() if name not in ("program", "notes")}
    again = ended(user, **body)
    assert user.get(f"/studio/pictures/{again['id']}/0.png").content == content


def test_a_repainted_picture_carries_what_it_began_with(user: httpx.Client) -> None:
    file = io.BytesIO()
    mask = Image.new("L", (24, 32))
    mask.paste(255, (0, 0, 24, 16))
    mask.save(file, "PNG")
    job = ended(user, image=png(), mask=base64.b64encode(file.getvalue()).decode(), settings={"strength": 0.9})
    content = user.get(f"/studio/pictures/{job['id']}/0.png").content
    made = Image.open(io.BytesIO(content)).convert("RGB")
    below, above = made.crop((0, 16, 24, 32)), made.crop((0, 0, 24, 16))
    assert below.getextrema() == ((200, 200), (30, 30), (30, 30)) and len(set(above.get_flattened_data())) > 20
    recipe = user.get(f"/studio/pictures/{job['id']}/0/recipe").json()
    body = {name: value for name, value in recipe.items() if name not in ("program", "notes")}
    again = ended(user, **body)
    assert Image.open(io.BytesIO(user.get(f"/studio/pictures/{again['id']}/0.png").content)).convert("RGB") == made


def test_pictures_of_other_programs_say_how_they_were_made(user: httpx.Client) -> None:
    text = "green kurta\nNegative prompt: logo\nSteps: 12, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 9, Size: 24x32"
    recipe = user.post("/studio/recipes", json={"file": png(parameters=text)}).json()
    assert (recipe["program"], recipe["prompt"], recipe["negative"], recipe["seed"]) == (
        "A1111",
        "green kurta",
        "logo",
        "9",
    )
    sampler = {"sampler": "dpmpp_2m", "spacing": "karras"}
    assert recipe["settings"] == {"steps": 12, "guidance": 5.0, "width": 24, "height": 32, **sampler}


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg onload='alert(1)'/>", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_refused(user: httpx.Client, content: bytes) -> None:
    answer = user.post("/studio/recipes", json={"file": base64.b64encode(content).decode()})
    assert answer.status_code == 400 and "allowed: PNG, JPEG and WebP" in answer.json()["detail"]


def test_what_a_picture_says_it_began_with_is_looked_at_too(user: httpx.Client) -> None:
    content = user.get(f"/studio/pictures/{ended(user)['id']}/0.png").content
    texts = {"toile": Image.open(io.BytesIO(content)).info["toile"]}
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    for carried in (base64.b64encode(file.getvalue()).decode(), base64.b64encode(b"<svg/>").decode(), "no base64!"):
        answer = user.post("/studio/recipes", json={"file": png(**texts, **{"toile-image": carried})})
        assert answer.status_code == 400, carried[:20]


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "..%5capp.py", "%2fetc/passwd", "a%00b"])
def test_nothing_but_the_page_is_read_from_its_folder(studio_address: str, path: str) -> None:
    host, _, port = studio_address.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", f"/static/{path}")
    assert connection.getresponse().status == 404


def test_a_picture_without_a_recipe_tells_no_path(user: httpx.Client) -> None:
    detail = user.post("/studio/recipes", json={"file": png()}).json()["detail"]
    assert detail.startswith("the picture holds no") and "/" not in detail.split(";")[0]


def test_variations_lie_near(user: httpx.Client) -> None:
    job = ended(user, num=2, toward={"share": 0.2})
    assert job["share"] == 0.2
    first = user.get(f"/studio/pictures/{job['id']}/0/recipe").json()
    assert first["seed"] == "5" and first["toward"]["share"] == 0.2 and first["toward"]["prompt"] == "red dress"


def test_a_grid_has_a_job_for_each_cell(user: httpx.Client) -> None:
    job = {"prompt": "red dress", "seed": "3", "settings": {"steps": 2}}
    body = {"job": job, "x": {"name": "guidance", "values": "1, 2"}, "y": {"name": "prompt", "values": "belt | tie"}}
    grid = user.post("/studio/grids", json=body).json()
    assert (grid["columns"], grid["rows"]) == (["1", "2"], ["belt", "tie"])
    cells = [cell for row in grid["cells"] for cell in row]
    told = user.get("/studio/events", params={"job": [cell["id"] for cell in cells]}).text
    assert told.count('"kind": "ended"') == 4
    assert [(cell["prompt"], cell["settings"]["guidance"], cell["seed"]) for cell in cells] == [
        ("belt", 1.0, "3"),
        ("belt", 2.0, "3"),
        ("tie", 1.0, "3"),
        ("tie", 2.0, "3"),
    ]


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (("steps", "1, 2"), ("steps", "3"), "both axes"),
        (("steps", ",".join("1" * 65)), None, "65 pictures"),
        (("source", "1"), None, "no setting of a grid"),
        (("steps", "few"), None, "steps takes"),
        (("steps", "5, 100000"), None, "steps"),
    ],
)
def test_grids_that_cannot_be_made(user: httpx.Client, x: Any, y: Any, told: str) -> None:
    axes = {name: dict(zip(("name", "values"), axis, strict=True)) for name, axis in (("x", x), ("y", y)) if axis}
    before = len(user.get("/studio/jobs?limit=200").json()["jobs"])
    answer = user.post("/studio/grids", json={"job": {"prompt": "red dress"}, **axes})
    assert answer.status_code == 400 and told in answer.json()["detail"]
    assert len(user.get("/studio/jobs?limit=200").json()["jobs"]) == before


def test_ratings_are_kept(user: httpx.Client, page_engine: Engine) -> None:
    job = ended(user, num=2)
    assert user.put(f"/studio/pictures/{job['id']}/0/thumb", json={"thumb": 1}).status_code == 200
    assert user.get(f"/studio/jobs/{job['id']}").json()["pictures"][0]["thumb"] == 1
    pair = {"a": {"job": job["id"], "number": 0}, "b": {"job": job["id"], "number": 1}, "choice": "b"}
    assert user.post("/studio/pairs", json=pair).status_code == 200
    owner = "page-" + hashlib.sha256(user.cookies[COOKIE].encode()).hexdigest()[:32]
    thumbs, pairs = page_engine.ratings(owner)
    assert [(thumb.job, thumb.thumb) for thumb in thumbs] == [(job["id"], 1)]
    assert [(kept.a, kept.b, kept.choice) for kept in pairs] == [((job["id"], 0), (job["id"], 1), "b")]


def test_sheets_and_zip_files(user: httpx.Client, tmp_path: Any) -> None:
    job = ended(user, num=2, prompt="../../<script>")
    places = [{"job": job["id"], "number": number} for number in (0, 1)]
    sheet = user.post("/studio/sheets", json={"pictures": places, "captions": ["one", "two"], "columns": 2})
    width, height = Image.open(io.BytesIO(sheet.content)).size
    assert width > 2 * 24 * 8 and height > 32 * 8
    packed = zipfile.ZipFile(io.BytesIO(user.post("/studio/zips", json={"pictures": places}).content))
    assert packed.namelist() == [f"toile-{job['id'][:8]}-{number}.png" for number in (0, 1)]
    packed.extractall(tmp_path)
    assert read_recipe(tmp_path / packed.namelist()[1]).seed == 6


def test_words_and_their_weights(user: httpx.Client) -> None:
    words = user.post("/studio/words", json={"prompt": "a red dress"}).json()["words"]
    assert [word["kind"] for word in words] == ["small", "gap", "word", "gap", "word"]
    words[2]["weight"] = 1.5
    weighed = user.post("/studio/weights", json={"words": words, "prompt": "a red dress"}).json()
    assert weighed == {"prompt": "a (red:1.5) dress"}
    assert user.post("/studio/words", json={"prompt": "(red:1000)"}).status_code == 400
    brief = user.post("/studio/briefs", json={"article": "dress", "colour": "red"}).json()
    assert brief == {"prompt": "red dress"}
