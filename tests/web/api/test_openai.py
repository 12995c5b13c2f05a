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
