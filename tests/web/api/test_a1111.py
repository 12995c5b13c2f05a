"""A public client library of the A1111 web UI drives the server unchanged."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import webuiapi
from PIL import Image

SMALL = {"width": 24, "height": 32, "steps": 2, "cfg_scale": 2}


@pytest.fixture
def api(server: Any) -> webuiapi.WebUIApi:
    host, port = server.url.removeprefix("http://").split(":")
    return webuiapi.WebUIApi(host=host, port=int(port))


def test_pictures_from_words(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt="red dress", negative_prompt="logo", seed=3, batch_size=2, n_iter=2, **SMALL)
    assert [image.size for image in result.images] == [(24, 32)] * 4
    assert result.info["all_seeds"] == [3, 4, 5, 6]
    assert result.info["infotexts"][0].startswith("red dress\nNegative prompt: logo\nSteps: 2, Sampler: Euler a, CFG")
    assert result.images[0].info["parameters"] == result.info["infotexts"][0]
    again = api.txt2img(prompt="red dress", negative_prompt="logo", seed=6, **SMALL)
    assert np.abs(np.array(again.image).astype(int) - np.array(result.images[3])).max() <= 1


def test_second_passes_variations_and_schedules(api: webuiapi.WebUIApi) -> None:
    large = api.txt2img(prompt="dress", enable_hr=True, hr_scale=2, denoising_strength=0.5, seed=1, **SMALL)
    assert large.image.size == (48, 64)
    varied = api.txt2img(prompt="dress", seed=1, subseed=7, subseed_strength=0.3, batch_size=2, **SMALL)
    assert "Variation seed: 7" in varied.info["infotexts"][0] and "Variation seed: 8" in varied.info["infotexts"][1]
    named = api.txt2img(prompt="dress", sampler_name="DPM++ 2M Karras", seed=1, **SMALL)
    assert "Sampler: DPM++ 2M" in named.info["infotexts"][0] and "Karras" in named.info["infotexts"][0]


def test_pictures_from_pictures(api: webuiapi.WebUIApi) -> None:
    picture = Image.new("RGB", (24, 32), (10, 200, 30))
    result = api.img2img(images=[picture], prompt="dress", denoising_strength=0.5, **SMALL)
    assert result.image.size == (24, 32)
    mask = Image.new("L", (24, 32), 0)
    mask.paste(255, (0, 0, 24, 16))
    for invert, kept in ((0, slice(20, None)), (1, slice(None, 12))):
        result = api.img2img(
            images=[picture], mask_image=mask, inpainting_mask_invert=invert, mask_blur=0, prompt="dress", **SMALL
        )
        pixels = np.array(result.image)
        assert (pixels[kept] == (10, 200, 30)).all() and not (pixels == (10, 200, 30)).all()


def test_progress_and_interrupt(api: webuiapi.WebUIApi, server: Any, desk: Any) -> None:
    results: list[Any] = []
    long = {**SMALL, "steps": desk.LONG_STEPS}
    thread = threading.Thread(target=lambda: results.append(api.txt2img(prompt="dress", **long)))
    thread.start()
    seen: list[dict[str, Any]] = []

    def is_shown() -> bool:
        seen.append(api.get_progress())
        return seen[-1]["current_image"] is not None

    desk.until(is_shown)
    assert 0 < seen[-1]["progress"] < 1 and seen[-1]["state"]["job_count"] == 1
    assert seen[-1]["state"]["sampling_steps"] == desk.LONG_STEPS and seen[-1]["eta_relative"] > 0
    api.interrupt()
    thread.join(10)
    assert results[0].images == []
    assert api.get_progress()["state"]["job_count"] == 0
    api.util_wait_for_ready(0.01)


def test_what_there_is(api: webuiapi.WebUIApi) -> None:
    assert api.util_get_model_names() == ["tiny"] and api.util_get_current_model() == "tiny"
    assert {"DDIM", "Euler a", "DPM++ 2M", "UniPC"} <= {sampler["name"] for sampler in api.get_samplers()}
    assert api.get_loras() == [] and api.get_prompt_styles() == [] and api.get_sd_vae() == []
    assert [upscaler["name"] for upscaler in api.get_upscalers()][0] == "None"
    api.util_set_model("tiny")
    assert api.get_options()["sd_model_checkpoint"] == "tiny"
    assert api.refresh_checkpoints() is None and api.get_scripts() == {"txt2img": [], "img2img": []}


def test_what_a_picture_carries(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt="red dress", seed=3, **SMALL)
    assert api.png_info(result.image).info == result.info["infotexts"][0]
    assert api.png_info(Image.new("RGB", (3, 3))).info == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("restore_faces", True),
        ("tiling", True),
        ("styles", ["anime"]),
        ("script_name", "x/y/z plot"),
        ("alwayson_scripts", {"ControlNet": {"args": []}}),
        ("refiner_checkpoint", "other"),
        ("sampler_name", "magic"),
        ("scheduler", "Exponential"),
        ("batch_size", 10_000),
        ("steps", 10**6),
        ("cfg_scale", "much"),
        ("width", 25),
        ("override_settings", {"sd_model_checkpoint": "/etc/passwd"}),
        ("override_settings", {"CLIP_stop_at_last_layers": 2}),
        ("subseed_strength", 2.0),
        ("enable_hr", "perhaps"),
        ("seed", "x"),
    ],
)
def test_what_is_not_done_is_refused_by_name(server: Any, field: str, value: Any) -> None:
    names = {"override_settings": "model|override_settings", "width": "width", "subseed_strength": "share of the other"}
    with server.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": "dress", **SMALL, field: value})
    assert answer.status_code in (400, 422)
    message = answer.json()["detail"]
    expected = {"sampler_name": "sampler", "batch_size": "batch_size"}.get(field, names.get(field, field))
    assert any(name in message for name in expected.split("|")), message


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "init_images: 0 were sent"),
        ({"init_images": ["https://example.com/a.png"]}, "init_images is no base64"),
        ({"init_images": ["PHN2Zy8+"]}, "image is no picture"),
        ({"init_images": ["AAAA"], "resize_mode": 3}, "resize_mode is 3"),
    ],
)
def test_pictures_to_begin_with_are_sent_not_named(server: Any, body: dict[str, Any], what: str) -> None:
    with server.client() as client:
        answer = client.post("/sdapi/v1/img2img", json={"prompt": "dress", **SMALL, **body})
    assert answer.status_code == 400 and what in answer.json()["detail"]


def test_options_that_are_not_set_here(server: Any) -> None:
    with server.client() as client:
        for body in ({"sd_model_checkpoint": "nowhere"}, {"CLIP_stop_at_last_layers": 2}):
            answer = client.post("/sdapi/v1/options", json=body)
            assert answer.status_code == 400 and next(iter(body)) in answer.json()["detail"]


def test_the_size_of_the_second_pass_may_be_given_instead_of_its_scale(api: webuiapi.WebUIApi) -> None:
    scaled = api.txt2img(prompt="dress", enable_hr=True, hr_scale=2, seed=1, **SMALL)
    for wide, high in ((48, 64), (48, 0), (0, 64)):
        sized = api.txt2img(prompt="dress", enable_hr=True, hr_resize_x=wide, hr_resize_y=high, seed=1, **SMALL)
        assert np.array_equal(np.array(sized.image), np.array(scaled.image))
    off = api.txt2img(prompt="dress", hr_sampler_name="Euler", hr_resize_x=7, seed=1, **SMALL)
    assert off.image.size == (24, 32)


def test_eta_acts_where_the_sampler_has_one(api: webuiapi.WebUIApi) -> None:
    def made(**settings: Any) -> Any:
        return np.array(api.txt2img(prompt="dress", seed=1, **SMALL, **settings).image)

    for settings in ({"sampler_name": "DDIM"}, {"sampler_name": "Euler a"}):
        assert not np.array_equal(made(eta=0.0, **settings), made(eta=1.0, **settings))
    assert np.array_equal(made(eta=0.0, sampler_name="DPM++ 2M"), made(eta=1.0, sampler_name="DPM++ 2M"))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"hr_resize_x": 48, "hr_resize_y": 48}, "hr_resize_x x hr_resize_y is 48x48"),
        ({"hr_resize_x": -48}, "hires_scale"),
        ({"hr_second_pass_steps": 7}, "hr_second_pass_steps is 7"),
        ({"hr_sampler_name": "Euler"}, "hr_sampler_name is 'Euler'"),
        ({"hr_upscaler": "ESRGAN_4x"}, "hr_upscaler is 'ESRGAN_4x'"),
    ],
)
def test_second_passes_that_are_not_done_are_refused(server: Any, body: dict[str, Any], what: str) -> None:
    with server.client() as client:
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": "dress", **SMALL, "enable_hr": True, **body})
    assert answer.status_code == 400 and what in answer.json()["detail"]
