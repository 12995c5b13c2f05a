"""The official client of OpenAI drives the server unchanged."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def png(image: Image.Image) -> tuple[str, bytes, str]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return ("picture.png", file.getvalue(), "image/png")


def test_generations(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="red dress", n=2, extra_body={"seed": 5, "steps": 2})
    pictures = [opened(entry.b64_json) for entry in answer.data or ()]
    assert [picture.size for picture in pictures] == [(24, 32)] * 2 and answer.size == "24x32"
    assert ["Seed: 5," in p.info["parameters"] or "Seed: 6," in p.info["parameters"] for p in pictures] == [True] * 2
    again = client.images.generate(prompt="red dress", extra_body={"seed": 5, "steps": 2}, output_format="jpeg")
    assert opened((again.data or [])[0].b64_json).format == "JPEG"


def test_sizes_and_addresses(client: openai.OpenAI, server: Any) -> None:
    answer = client.images.generate(
        prompt="belt",
        size="32x24",
        response_format="url",
        extra_body={"steps": 2},  # type: ignore[call-overload]
    )
    with server.client() as plain:
        assert Image.open(io.BytesIO(plain.get(answer.data[0].url).content)).size == (32, 24)


def test_edits_keep_what_the_mask_does_not_show(client: openai.OpenAI) -> None:
    picture = Image.new("RGB", (24, 32), (10, 200, 30))
    mask = Image.new("RGBA", (24, 32), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 24, 16))
    answer = client.images.edit(image=png(picture), mask=png(mask), prompt="red dress", extra_body={"steps": 2})
    pixels = np.array(opened((answer.data or [])[0].b64_json))
    assert (pixels[16:] == (10, 200, 30)).all() and not (pixels[:16] == (10, 200, 30)).all()
    whole = client.images.edit(image=[png(picture)], prompt="red dress", n=2)
    assert len(whole.data or ()) == 2
    # Without a mask what is transparent in the picture itself is repainted.
    seen = picture.convert("RGBA")
    seen.putalpha(mask.getchannel("A"))
    pixels = np.array(opened((client.images.edit(image=png(seen), prompt="red").data or [])[0].b64_json))
    assert (pixels[16:] == (10, 200, 30)).all()


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-1")


@pytest.mark.parametrize(
    ("request_of", "param"),
    [
        ({"model": "dall-e-3"}, "model"),
        ({"model": "../../etc"}, "model"),
        ({"size": "25x32"}, "width"),
        ({"size": "huge"}, "size"),
        ({"quality": "hd"}, "quality"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "number"),
        ({"background": "transparent"}, "background"),
        ({"extra_body": {"steps": 0}}, "steps"),
        ({"extra_body": {"guidance": 1e9}}, "guidance"),
        ({"extra_body": {"seed": -1}}, "seed"),
        ({"extra_body": {"seed": 2**64}}, "seed"),
        ({"extra_body": {"sampler": "magic"}}, "sampler"),
        ({"extra_body": {"loras": [{"name": "/etc/passwd"}]}}, "loras"),
        ({"extra_body": {"unheard_of": 1}}, "unheard_of"),
    ],
)
def test_what_is_refused_is_told_by_name(client: openai.OpenAI, request_of: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.images.generate(prompt="dress", **request_of)
    error = refused.value
    assert error.status_code in (400, 422)
    assert error.param == param or param in error.message


def test_masks_that_say_nothing_are_refused(client: openai.OpenAI) -> None:
    picture = png(Image.new("RGB", (24, 32)))
    wrong = {
        "no transparency": {"image": picture, "mask": picture},
        "must have the size": {"image": picture, "mask": png(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))},
        "is no picture": {"image": ("a.png", b"<svg/>", "image/png")},
        "send one": {"image": [picture, picture]},
    }
    for what, files in wrong.items():
        with pytest.raises(openai.BadRequestError, match=what):
            client.images.edit(prompt="dress", **files)  # type: ignore[arg-type]


@pytest.mark.slow
def test_streams_show_what_pictures_look_like_before_they_are_finished(client: openai.OpenAI) -> None:
    more = {"seed": 5, "steps": 400, "guidance": 1.0}
    stream = client.images.generate(prompt="red dress", stream=True, partial_images=2, extra_body=more)
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    for event in events:
        picture = opened(event.b64_json)
        assert (picture.format, f"{picture.width}x{picture.height}") == ("PNG", event.size)
        assert (event.output_format, event.quality, event.background) == ("png", "auto", "opaque")
    assert events[0].b64_json != events[1].b64_json
    assert events[2].size == "24x32" and events[2].usage.total_tokens == 0  # type: ignore[union-attr]
    whole = client.images.generate(prompt="red dress", extra_body=more)
    assert (whole.data or [])[0].b64_json == events[2].b64_json


def test_streams_of_several_pictures_and_of_edits(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="belt", n=3, stream=True, output_format="webp", extra_body={"steps": 2})
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 3
    assert len({event.b64_json for event in events}) == 3 and opened(events[0].b64_json).format == "WEBP"
    picture = png(Image.new("RGB", (24, 32), (10, 200, 30)))
    edits = list(client.images.edit(image=picture, prompt="red dress", stream=True, partial_images=1))
    assert edits[-1].type == "image_edit.completed" and opened(edits[-1].b64_json).size == (24, 32)
    assert {event.type for event in edits[:-1]} <= {"image_edit.partial_image"}


def test_streams_that_fail_say_so_and_those_that_are_left_stop(client: openai.OpenAI, server: Any, desk: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"stream": True, "response_format": "url"}, "response_format is 'url'"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"partial_images": 1}, "partial_images is 1"),
        ({"stream": True, "size": "25x32"}, "width is 25"),
    ]
    for asked, what in wrong:
        with pytest.raises(openai.APIStatusError, match=what) as refused:
            client.images.generate(prompt="dress", **asked)
        assert refused.value.status_code in (400, 422)
    long = {"steps": desk.LONG_STEPS}
    with pytest.raises(openai.APIError, match="the job was cancelled"):
        for _ in client.images.generate(prompt="dress", stream=True, partial_images=1, extra_body=long):
            [job] = [job for job in server.engine.history("local", 1) if not job.is_ended]
            server.engine.cancel(job.id, "local")
    left = client.images.generate(prompt="dress", stream=True, partial_images=1, extra_body=long)
    next(iter(left))
    left.close()
    desk.until(lambda: server.engine.status().running == 0, 10)
    assert server.engine.history("local", 1)[0].state == "cancelled"
