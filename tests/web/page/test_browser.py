"""The page as people use it, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toile.web.jobs.engine import Engine

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DONE = "#board .tile img:not(.preview, .veil)"


@pytest.fixture
def page(browser: Any, studio_address: str) -> Iterator[Any]:
    """Of somebody new; whatever a script complains about fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = open_page(context, studio_address)
    yield opened
    context.close()
    assert not opened.complaints


def open_page(context: Any, address: str) -> Any:
    opened = context.new_page()
    opened.set_default_timeout(90_000)  # on machines that have other things to do
    opened.complaints = []
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (opened.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    opened.goto(address)
    opened.wait_for_selector("html[data-started=true]")
    return opened


def made(page: Any, prompt: str, num: int = 1, steps: int | None = 2) -> None:
    """Types a prompt and waits for its pictures."""
    page.fill("#prompt", prompt)
    page.fill("#num", str(num))
    if steps is not None:
        set_range(page, "#steps", steps)
    page.click("#make")
    page.wait_for_selector(f"#board h2:text-is({json.dumps(prompt)})")
    page.wait_for_selector(f"{DONE} >> nth={num - 1}")


def set_range(page: Any, selector: str, value: float) -> None:
    """Moves a slider, wherever its ends are."""
    page.locator(selector).evaluate(
        """(node, value) => {
            if (Number(node.max) < value) node.max = value;
            node.value = value;
            for (const kind of ["input", "change"]) node.dispatchEvent(new Event(kind, { bubbles: true }));
        }""",
        value,
    )


def picture_bytes(page: Any, selector: str = DONE) -> bytes:
    address = page.locator(selector).first.evaluate("node => node.src")
    content: bytes = page.context.request.get(address).body()
    return content


def drop(page: Any, content: bytes, name: str, kind: str = "image/png") -> None:
    data = page.evaluate_handle(
        """([text, name, kind]) => {
            const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: kind }));
            return data;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": data})


def png(size: tuple[int, int] = (24, 32), **texts: str) -> bytes:
    file, chunks = io.BytesIO(), PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    Image.new("RGB", size, (30, 30, 200)).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def pixels(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_words_become_pictures_which_stay_on_the_wall(page: Any) -> None:
    made(page, "red dress", num=2)
    assert page.locator("#wall .tile").count() == 2
    assert pixels(picture_bytes(page)).size == (24, 32)
    page.reload()
    page.wait_for_selector("#wall .tile img")
    assert page.locator("#wall .tile").count() == 2 and page.locator("#wall h3").inner_text() == "red dress"


def test_the_first_picture_takes_one_click_on_an_example(page: Any) -> None:
    page.click("#board .example")
    page.wait_for_selector(DONE)


def test_a_preview_is_shown_and_a_job_can_be_cancelled(page: Any) -> None:
    page.fill("#prompt", "black belt")
    set_range(page, "#steps", 1000)
    page.click("#make")
    page.wait_for_selector("#board img.preview")
    page.click("#cancel")
    page.wait_for_selector("#board .trouble:text('cancelled')")
    assert page.locator("#cancel").count() == 0


def test_a_brief_becomes_a_sentence(page: Any) -> None:
    for part, word in (("article", "shirt"), ("colour", "navy blue"), ("pattern", "checked"), ("people", "men")):
        page.select_option(f"#brief-{part}", word)
    page.wait_for_selector("#word-sliders:has-text('checked')", state="attached")
    assert page.input_value("#prompt") == "navy blue checked shirt for men"


def test_the_slider_of_a_word_changes_the_picture(page: Any) -> None:
    made(page, "red dress")
    first, seed = picture_bytes(page), page.locator("#board figcaption").inner_text()
    page.click("#weigh summary")
    set_range(page, "#word-sliders label:text('red') + input", -1)
    page.wait_for_selector("#board h2:text-is('(red:-1.0) dress')")
    page.wait_for_selector(DONE)
    assert page.locator("#board figcaption").inner_text() == seed
    assert pixels(picture_bytes(page)).tobytes() != pixels(first).tobytes()


def test_words_show_where_they_acted(page: Any) -> None:
    made(page, "red dress")
    page.click("#board .tile button")
    page.hover("#viewer-words button:text('dress')")
    page.wait_for_selector("#veil:not([hidden])")
    assert page.locator("#veil").evaluate("node => node.decode().then(() => node.naturalWidth)") > 0
    page.mouse.move(5, 5)
    page.wait_for_selector("#veil[hidden]", state="attached")
    page.keyboard.press("Escape")
    page.click("#weigh summary")
    page.hover("#word-sliders label:text('dress')")
    page.wait_for_selector("#board .veil")
    page.mouse.move(640, 5)
    page.wait_for_selector("#board .veil", state="detached")


def test_the_brush_repaints_only_what_is_painted(page: Any) -> None:
    page.click("#begin summary")
    page.set_input_files("#begin-file", {"name": "a.png", "mimeType": "image/png", "buffer": png()})
    page.wait_for_selector("#begin-mask")
    page.locator("#begin-mask").scroll_into_view_if_needed()
    box = page.locator("#begin-mask").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 8, steps=4)
    page.mouse.up()
    assert "painted" in page.inner_text("#begin-told")
    set_range(page, "#strength", 1)
    made(page, "red dress")
    result = pixels(picture_bytes(page))
    kept = result.crop((0, 20, 24, 32)).getextrema()
    assert kept == ((30, 30), (30, 30), (200, 200))
    assert len(set(result.crop((0, 0, 24, 3)).get_flattened_data())) > 5


def test_a_dropped_picture_gives_its_settings_back_and_the_same_picture(page: Any) -> None:
    page.fill("#negative", "logo")
    page.fill("#seed", "18446744073709551615")
    set_range(page, "#guidance", 3.5)
    made(page, "green kurta", steps=7)
    content = picture_bytes(page)
    page.reload()
    page.wait_for_selector("html[data-started=true]")
    drop(page, content, "any.png")
    page.wait_for_selector(".message:has-text('settings of this picture are back')")
    found = {name: page.input_value(f"#{name}") for name in ("prompt", "negative", "seed", "steps", "guidance")}
    assert found == {
        "prompt": "green kurta",
        "negative": "logo",
        "seed": "18446744073709551615",
        "steps": "7",
        "guidance": "3.5",
    }
    page.click("#make")
    page.wait_for_selector("#wall .tile >> nth=1")
    assert picture_bytes(page) == content
    addresses = page.locator("#wall .tile img").evaluate_all("nodes => nodes.map((node) => node.src)")
    assert len(set(addresses)) == 2


def test_ratings_are_stored(page: Any, page_engine: Engine) -> None:
    made(page, "brown belt", num=2)
    page.click("#board .tile button >> nth=0")
    page.keyboard.press("l")
    page.wait_for_selector("#like[aria-pressed=true]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#board .thumb")
    for box in page.locator("#board .pick").all():
        box.check()
    page.click("#picked-compare")
    page.click("#better-b")
    page.wait_for_selector(".message:has-text('Kept')")
    [job] = page.context.request.get(page.url + "studio/jobs").json()["jobs"]
    assert [picture["thumb"] for picture in job["pictures"]] == [1, 0]
    [row] = page_engine._store._rows("SELECT number_a, number_b, choice FROM pairs WHERE job_a = ?", (job["id"],))
    assert row == (0, 1, "b")


def test_variations_and_a_grid(page: Any) -> None:
    made(page, "red dress")
    page.click("#board .tile button")
    page.wait_for_selector("#viewer-recipe dt")
    page.click("#vary")
    page.wait_for_selector(f"{DONE} >> nth=3")
    page.click("#grid summary")
    page.fill("#x-values", "1, 2")
    page.fill("#y-values", "4, 5")
    page.click("#make-grid")
    page.wait_for_selector(f"#board table.grid {DONE.removeprefix('#board ')} >> nth=3")
    titles = page.locator("#board table.grid th").all_inner_texts()
    assert titles == ["guidance 1", "guidance 2", "seed 4", "seed 5"]
    with page.expect_download() as download:
        page.click("#board button:text('Save as sheet')")
    assert Image.open(download.value.path()).format == "PNG"


def test_two_people_at_once_see_their_own(browser: Any, studio_address: str) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    pages = [open_page(context, studio_address) for context in contexts]
    for page, prompt in zip(pages, ("red dress", "blue shirt"), strict=True):
        page.fill("#prompt", prompt)
        page.fill("#num", "1")
        page.click("#make")
    for page, prompt in zip(pages, ("red dress", "blue shirt"), strict=True):
        page.wait_for_selector(DONE)
        assert page.locator("#wall h3").all_inner_texts() == [prompt]
    address = pages[0].locator(DONE).first.evaluate("node => node.src")
    assert contexts[0].request.get(address).status == 200
    assert contexts[1].request.get(address).status == 404
    for context in contexts:
        context.close()


def test_no_script_runs_from_a_prompt_a_file_name_or_an_upload(page: Any) -> None:
    made(page, HOSTILE)
    page.click("#board .tile button")
    page.wait_for_selector("#viewer-recipe dt")
    page.keyboard.press("Escape")
    drop(page, png(parameters=f"{HOSTILE}\nSteps: 2, Sampler: {HOSTILE}, CFG scale: 2, Seed: 1"), f"{HOSTILE}.png")
    page.wait_for_selector(".message:has-text('settings of this picture are back')")
    drop(page, f'<svg xmlns="http://www.w3.org/2000/svg" onload="{HOSTILE}"/>'.encode(), f"{HOSTILE}.png")
    page.wait_for_selector(".message.error:has-text('no picture that can be read')")
    drop(page, b"<html><script>document.title='owned'</script></html>", "a.html", "text/html")
    page.wait_for_timeout(300)
    assert page.title() == "toile studio"
    assert page.locator("main img[src='x'], .messages img, main script").count() == 0


def test_errors_are_plain(page: Any) -> None:
    page.fill("#prompt", "(red:1000)")
    page.wait_for_selector("#told.wrong")
    page.click("#make")
    page.wait_for_selector(".message.error:has-text('prompt 1')")
    page.fill("#prompt", "red dress")
    page.fill("#seed", "many")
    page.click("#make")
    page.wait_for_selector(".message.error:has-text('seed is')")


def test_keys_alone_are_enough(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("red belt")
    set_range(page, "#steps", 2)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(f"{DONE} >> nth=3")
    page.locator("#board .tile button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer-recipe dt")
    before = page.locator("#viewer-picture").evaluate("node => node.src")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#viewer-recipe dt")
    assert page.locator("#viewer-picture").evaluate("node => node.src") != before
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Any, studio_address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page = open_page(context, studio_address)
    made(page, "red dress", num=2)
    for summary in page.locator(".tune > details > summary").all():
        summary.evaluate("node => (node.parentElement.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.documentElement).backgroundColor]"
    )
    brightness = [sum(int(part) for part in re.findall(r"\d+", colour)[:3]) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    page.select_option("#theme", "dark" if scheme == "light" else "light")
    assert page.evaluate("getComputedStyle(document.body).color") != ink
    context.close()


def test_every_control_has_a_name(page: Any) -> None:
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, select, textarea, input')].filter((node) =>
            !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()))
            .map((node) => node.outerHTML)"""
    )
    assert nameless == []


def test_the_page_is_light(page: Any, studio_address: str) -> None:
    """What engineers alone need is loaded when they first look at it."""
    of_files = """performance.getEntries()
        .filter((entry) => "decodedBodySize" in entry && !entry.name.includes("/studio/"))
        .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
    first = page.evaluate(of_files)
    assert 50_000 < first < 100_000
    for tab, shown in (("train", "#t-plan"), ("runs", "#r-list"), ("reports", "#e-list")):
        page.click(f"#tab-{tab}")
        page.wait_for_selector(shown, state="attached")
    assert page.evaluate(of_files) - first < 35_000
    names = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith(studio_address) for name in names)
