"""How long it takes from `toile studio` to a page that can be used, and to the first picture; and how much is loaded.

    python benchmarks/studio.py --runs 3

It needs Chromium, on the path or named by TOILE_CHROMIUM, and playwright.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from playwright.sync_api import sync_playwright

COMMAND = [sys.executable, "-c", "from toile.cli.main import main; main()", "studio", "--no-browser", "--port", "0"]


def measure(browser: Any, folder: str) -> dict[str, float]:
    """One start, in seconds from the command, and bytes of all that the page loads before anything is made."""
    begun = time.monotonic()
    process = subprocess.Popen([*COMMAND, "--out", folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split(" on ")[1].split()[0]
        listening = time.monotonic() - begun
        page = browser.new_context().new_page()
        sizes: list[int] = []
        page.on("response", lambda answer: sizes.append(len(answer.body())))
        page.goto(address)
        page.wait_for_selector("html[data-started=true]")
        usable = time.monotonic() - begun
        weight = sum(sizes)
        page.fill("#num", "1")
        page.click("#board .example")
        page.wait_for_selector("#board .tile img:not(.preview)", timeout=120_000)
        first = time.monotonic() - begun
        again = time.monotonic()
        page.fill("#prompt", "blue shirt for men")
        page.click("#make")
        page.wait_for_selector("#board h2:text-is('blue shirt for men')")
        page.wait_for_selector("#board .tile img:not(.preview)")
        warm = time.monotonic() - again
        page.context.close()
    finally:
        process.terminate()
        process.wait()
    return {"listening": listening, "usable": usable, "first picture": first, "a picture, warm": warm, "bytes": weight}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    chromium = os.environ.get("TOILE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = [measure(browser, f"{folder}/{number}") for number in range(runs)]
        browser.close()
    for name in found[0]:
        values = [run[name] for run in found]
        unit, form = ("kB", "{:.1f}") if name == "bytes" else ("s", "{:.2f}")
        scale = 1000 if name == "bytes" else 1
        shown = ", ".join(form.format(value / scale) for value in values)
        print(f"{name:16} {form.format(statistics.median(values) / scale)} {unit} (median of {shown})")


if __name__ == "__main__":
    main()
