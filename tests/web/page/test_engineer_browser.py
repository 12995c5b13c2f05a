"""The engineers' tabs in a real browser: a plan before anything, a run that is watched, runs compared, reports read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toile.evaluation.scores import EVALUATION_FORMAT
from toile.lora import LORAS
from toile.user_folders import CACHE_VARIABLE
from toile.web.jobs.engine import Engine
from toile.web.training.desk import Desk, DeskConfig

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def page_desk(page_engine: Engine, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """With pictures, two runs of others and reports, all of whose names are hostile somewhere."""
    root = tmp_path_factory.mktemp("offered")
    shutil.copytree(picture_folder, root / "pictures" / "shapes")
    shutil.copytree(picture_folder, root / "pictures" / HOSTILE)
    (root / "pictures" / HOSTILE / "0.txt").write_text(HOSTILE)
    for name, rate in (("steady", 1e-3), (HOSTILE, 2e-3)):
        write_run(root / "runs" / name, rate)
    write_report(root / "reports" / "good", ["one is first in realism."], "<h1 id='found'>The page itself</h1>")
    owned = "<script>parent.document.title = top.document.title = document.title = 'owned'</script>"
    write_report(root / "reports" / HOSTILE, [HOSTILE], f"<h1>bad</h1>{owned}{HOSTILE}")
    folders = {LORAS.variable: str(root / "loras"), CACHE_VARIABLE: str(root / "cache")}
    before = {name: os.environ.get(name) for name in folders}
    os.environ.update(folders)
    config = DeskConfig(
        page_engine.config.out,
        (root / "pictures",),
        (root / "runs",),
        (root / "reports",),
        threads=1,
        niceness=0,
    )
    desk = Desk(config)
    yield desk
    desk.close()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def write_run(folder: Path, rate: float) -> None:
    folder.mkdir(parents=True)
    recipe = {"task": "lora", "loop": {"steps": 3, "learning_rate": rate}, "data": {"trigger": HOSTILE}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    more = {"parts": {}, "learning_rate": rate, "grad_norm": 1.0, "examples_per_second": 9.0, "skipped": False}
    lines: list[dict[str, Any]] = [{"kind": "step", "step": step, "loss": 1 / step, **more} for step in (1, 2, 3)]
    lines += [{"kind": "validation", "step": step, "losses": {HOSTILE: {"loss": 10 * rate}}} for step in (1, 3)]
    lines += [{"kind": "end", "step": 3, "reason": "done", "exported": ""}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_report(folder: Path, headline: list[str], page: str) -> None:
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(f"<!doctype html><title>report</title>{page}")
    facts = {"format": EVALUATION_FORMAT, "protocol": {"id": "12ab", "num_pictures": 1300}, "headline": headline}
    (folder / "evaluation.json").write_text(json.dumps({**facts, "entries": [{"name": HOSTILE}]}))


@pytest.fixture
def page(browser: Any, studio_address: str) -> Iterator[Any]:
    """Of somebody new; whatever a script complains about, and every dialog, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = opened_page(context, studio_address)
    yield opened
    title, complaints = opened.title(), opened.complaints
    context.close()
    assert not complaints and title == "toile studio"


def opened_page(context: Any, address: str) -> Any:
    opened = context.new_page()
    opened.set_default_timeout(90_000)  # on machines that have other things to do
    opened.complaints = []
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector("html[data-started=true]")
    return opened


def plan(page: Any, name: str, steps: int) -> None:
    """Fills the form and waits for the plan."""
    page.click("#tab-train")
    page.wait_for_selector("#t-set option:text('shapes (90)')", state="attached")
    page.select_option("#t-set", label="shapes (90)")
    page.fill("#t-name", name)
    page.fill("#t-steps", str(steps))
    page.evaluate("document.querySelector('#train .finer').open = true")
    for field, value in (("rank", "2"), ("batch", "2"), ("width", "16"), ("height", "16"), ("prompts", "red belt")):
        page.fill(f"#t-{field}", value)
    page.click("#t-plan")
    page.wait_for_selector("#t-start")


def test_a_plan_comes_first_then_a_run_then_its_lora_is_in_the_picker(page: Any, page_desk: Desk) -> None:
    plan(page, "linen", 24)
    told = page.inner_text("#t-state")
    assert "90 read, 90 kept" in told and "24 steps of" in told and "weights that learn" in told and "red bar" in told
    page.wait_for_function("document.querySelector('.learnt').naturalWidth > 0")
    assert not page_desk.config.own_runs.exists()  # nothing has begun
    page.click("#t-start")
    page.wait_for_selector("#t-chart .curve")
    first = page.get_attribute("#t-chart .curve", "d")
    page.wait_for_selector("#t-use")
    moved = "(first) => ![first, undefined].includes(document.querySelector('#t-chart .curve')?.getAttribute('d'))"
    page.wait_for_function(moved, arg=first)
    assert page.locator(".message:has-text('linen has learnt')").count() == 1
    page.click("#t-run")
    page.wait_for_selector("#r-facts:has-text('24 of 24 steps')")
    assert page.locator("#r-shown .sheets figure").count() == 5
    sheet = page.locator("#r-shown .sheets img").first
    assert sheet.evaluate("node => node.decode().then(() => node.naturalWidth)") > 0
    page.click("#tab-design")
    assert page.locator("#lora option").all_text_contents() == ["linen"]
    page.click("#tab-train")
    page.click("#t-use")
    assert page.is_visible("#design") and page.locator("#loras .lora:has-text('linen')").count() == 1
    page.fill("#prompt", "red belt")
    page.fill("#num", "1")
    page.click("#make")
    page.wait_for_selector("#board .tile img:not(.preview, .veil)")  # which was made with it


def test_it_goes_on_without_the_page_stops_saved_and_is_resumed(
    page: Any, page_desk: Desk, studio_address: str
) -> None:
    plan(page, "long", 100_000)
    page.click("#t-start")
    page.wait_for_selector("#t-chart .curve")
    page.goto("about:blank")
    before = page_desk.trainer.now()
    assert before is not None and before.is_active
    page.goto(f"{studio_address}/#train")  # somebody comes back
    page.wait_for_selector("#t-stop")
    assert page.locator("#tab-train.busy").count() == 1 and page.is_disabled("#t-plan")
    page.click("#t-stop")
    page.wait_for_selector("#t-resume")
    stopped = page_desk.trainer.now()
    assert stopped is not None and stopped.state == "stopped" and stopped.step > before.step
    page.click("#t-run")
    page.click("#r-resume")
    told = "Number(document.querySelector('#t-told')?.textContent.split(' ')[1].replaceAll(',', ''))"
    page.wait_for_function(f"(step) => {told} > step", arg=stopped.step)
    page.click("#t-stop")
    page.wait_for_selector("#t-resume")


def test_runs_are_compared_in_one_chart_and_a_table(page: Any) -> None:
    page.click("#tab-runs")
    for name in ("steady", HOSTILE):
        page.locator("#r-list li").filter(has=page.get_by_text(name, exact=True)).locator(".pick").check()
    page.wait_for_selector("#r-compared")
    heads = page.locator("#r-compared thead th").all_inner_texts()
    assert sorted(heads) == sorted(["", "steady", HOSTILE])
    row = page.locator("#r-compared tr:has(th:text-is('loop.learning_rate')) td").all_inner_texts()
    assert sorted(row) == ["0.001", "0.002"]
    assert page.locator("#r-chart .curve").count() == 4 and page.locator("#r-chart .legend span").count() == 2
    page.focus("#r-chart svg")
    page.keyboard.press("ArrowLeft")
    told = page.inner_text("#r-chart .chart-told")
    assert told.startswith("step 1: ") and "steady, held out 0.01000" in told


def test_reports_are_listed_and_read_but_run_nothing(page: Any) -> None:
    page.click("#tab-reports")
    page.wait_for_selector("#e-list li >> nth=1")
    good = page.locator("#e-list li:has-text('one is first in realism.')")
    assert "1,300 pictures each" in good.inner_text()
    good.locator(".read").click()
    page.frame_locator("iframe.report").locator("#found").wait_for()
    page.locator("#e-list li:has-text('onerror') .read").click()
    page.frame_locator("iframe.report").locator("h1:text('bad')").wait_for()
    with page.context.expect_page() as opened:
        good.locator("a").click()
    alone = opened.value
    alone.wait_for_selector("#found")
    assert alone.evaluate("window.origin") == "null" and alone.title() == "report"  # it is nobody here
    page.wait_for_timeout(300)
    assert page.title() == "toile studio" and page.locator("main img[src='x'], main script").count() == 0


def test_hostile_names_of_pictures_and_runs_are_text(page: Any) -> None:
    page.goto(page.url + "#runs")
    page.get_by_text(HOSTILE, exact=True).first.click()
    page.wait_for_selector("#r-shown h2:text('onerror')")
    page.click("#r-shown summary")
    page.click("#tab-train")
    page.wait_for_selector("#t-set option:text('onerror')", state="attached")
    page.wait_for_timeout(300)
    assert page.locator("main img[src='x']").count() == 0


def test_pictures_are_uploaded_where_they_are_dropped(page: Any, page_desk: Desk, picture_folder: Path) -> None:
    page.click("#tab-train")
    page.click("#train summary:text('Upload pictures')")
    page.fill("#t-upload-name", "mine")
    files = []
    for number in (0, 1):
        path = page_desk.config.out / f"{number}.png"
        Image.open(picture_folder / f"{number}.bmp").save(path)
        files.append(str(path))
    words = page_desk.config.out / "0.txt"
    words.write_text(HOSTILE)
    wrong = page_desk.config.out / "wrong.png"
    wrong.write_text("<svg onload='x'/>")
    page.set_input_files("#t-files", [*files, str(words), str(wrong)])
    page.wait_for_selector("#t-upload-told:text('2 of 3 are there')")
    page.wait_for_selector(".message.error:has-text('wrong.png: this is no picture')")
    page.wait_for_selector("#t-set option:checked:text-is('mine (2)')", state="attached")  # the list is read again
    assert page.is_visible("#t-forget")


def test_tabs_are_moved_with_keys_and_every_control_has_a_name(page: Any) -> None:
    page.focus("#tab-design")
    for name in ("train", "runs", "reports", "design", "train"):
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"#tab-{name}[aria-selected=true]:focus")
        assert page.is_visible(f"#{name}") and page.locator("main > [role=tabpanel]:visible").count() == 1
    page.wait_for_selector("#t-plan")
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, select, textarea, input')].filter((node) =>
            !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()))
            .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("Control+Enter")  # makes pictures only where they are designed
    assert page.locator("#board h2").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_tabs(browser: Any, studio_address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page = opened_page(context, studio_address)
    for name, there in (("train", "#t-plan"), ("runs", "#r-chart"), ("reports", "#e-list .read")):
        page.click(f"#tab-{name}")
        page.wait_for_selector(there)
        page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
    assert not page.complaints
