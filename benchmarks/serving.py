"""The server under load: pictures a second beside those of one offline batch, a burst, and what 500 jobs leave behind.

    python benchmarks/serving.py [--model fashion] [--rounds 5] [--out serving.json]

Server and offline batch take turns in one run, on the same cores, with the same settings. Served pictures are saved as
PNG files and sent; those of the offline batch are only made. The load comes from this process over HTTP, from 127.0.0.1
only, by a client that does next to nothing; it counts against the server, as it has the same cores.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from bare_http import ask_all, post
from processes import Worker

PROMPTS = ("navy blue checked shirt for men", "red floral dress for women", "brown leather belt", "white t-shirt")
CLIENTS = 48
SERVE = "import sys; from toile.cli.main import main; sys.argv[0] = 'toile'; main()"


def prepare_offline(model: str, count: int) -> Callable[[Any], float]:
    """In a process of its own: pictures a second of one request."""
    from toile.generation.pictures import generate
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import load

    loaded = load(model)
    prompts = tuple(PROMPTS[number % len(PROMPTS)] for number in range(count))

    def make(seed: Any) -> float:
        begun = time.perf_counter()
        for _ in generate(loaded, GenerateRequest(prompts, seed=int(seed))):
            pass
        return count / (time.perf_counter() - begun)

    return make


@contextmanager
def served(model: str, *flags: str) -> Iterator[str]:
    """A server; gives its address when its model is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SERVE, "serve", "--model", model, "--port", "0", "--out", folder, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split(" on ")[1].split(";")[0]
            while httpx.get(f"{address}/readyz").status_code != 200:
                time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def requests(count: int, seed: int) -> Iterator[bytes]:
    """Each for one picture."""
    for number in range(count):
        yield post("/v1/images/generations", {"prompt": PROMPTS[number % len(PROMPTS)], "seed": seed + number})


def sustained(address: str, count: int, seed: int) -> float:
    """Pictures a second while as many clients as there are ask one after the other, from the first to the last."""
    begun = time.perf_counter()
    answers = ask_all(address, requests(count, seed), CLIENTS)
    assert len(answers) == count and all(answer.status == 200 for answer in answers)
    return count / (max(answer.came for answer in answers) - begun)


def burst(address: str) -> dict[str, Any]:
    """200 clients connect and ask in one moment.

    How long refusals take is told twice: as clients see it, from before they connect to the last byte of the answer, in
    which all the others' waiting in the same line is contained; and from when the server has read a request's head to
    when its answer begins.
    """
    answers = ask_all(address, requests(200, 0), 200)
    refused = sorted(answer.seconds for answer in answers if answer.status == 429)
    return {
        "served": sum(answer.status == 200 for answer in answers),
        "refused": len(refused),
        "with_retry_after": sum(b"retry-after:" in answer.headers for answer in answers if answer.status == 429),
        "others": sum(answer.status not in (200, 429) for answer in answers),
        "sending_all_took_ms": round((max(a.sent for a in answers) - min(a.sent for a in answers)) * 1000, 1),
        "clients_median_ms": round(statistics.median(refused) * 1000, 1),
        "clients_p95_ms": round(refused[int(len(refused) * 0.95)] * 1000, 1),
        "clients_last_ms": round(refused[-1] * 1000, 1),
        "clients_share_within_50_ms": round(sum(seconds <= 0.05 for seconds in refused) / len(refused), 4),
        "server_share_within_5_ms": share_within(address, "0.005"),
        "server_share_within_50_ms": share_within(address, "0.05"),
    }


def share_within(address: str, seconds: str) -> float:
    """The share of refusals that were begun within so many seconds; no picture is made as quickly."""
    text = httpx.get(f"{address}/metrics").text
    quick = number_of(text, rf'toile_http_seconds_bucket\{{dialect="openai",le="{seconds}"\}}')
    refused = number_of(text, r'toile_http_answers_total\{dialect="openai",method="POST",status="429"\}')
    return round(quick / refused, 4)


def footprint(address: str) -> dict[str, float]:
    """Memory in megabytes and handles, as the server tells them."""
    text = httpx.get(f"{address}/metrics").text
    return {
        "server_mb": number_of(text, "process_resident_memory_bytes") / 1e6,
        "worker_mb": number_of(text, r'toile_worker_resident_bytes\{worker="0"\}') / 1e6,
        "handles": number_of(text, "process_open_fds"),
    }


def number_of(text: str, name: str) -> float:
    """A value in the format of Prometheus."""
    found = re.search(rf"^{name} (\S+)$", text, flags=re.MULTILINE)
    assert found is not None, name
    return float(found.group(1))


def main() -> None:
    """Measures, prints, and writes if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=160, help="pictures of a round")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"offline": [], "served": []}
    with Worker(prepare_offline, arguments.model, arguments.count) as offline, served(arguments.model) as address:
        offline.work(0)
        sustained(address, 32, 0)
        for number in range(arguments.rounds):
            result["offline"].append(offline.work(1000 * number))
            result["served"].append(sustained(address, arguments.count, 1000 * number))
            print(
                f"round {number + 1}: offline {result['offline'][-1]:.1f}, served {result['served'][-1]:.1f} pictures/s"
            )
        before = footprint(address)
        sustained(address, arguments.jobs, 10**6)
        after = footprint(address)
    ratios = [one / other for one, other in zip(result["served"], result["offline"], strict=True)]
    result |= {"ratio": statistics.median(ratios), "before": before, "after": after}
    print(f"served / offline: {result['ratio']:.3f} (median of {len(ratios)}; {min(ratios):.3f} to {max(ratios):.3f})")
    for name in ("server_mb", "worker_mb", "handles"):
        slope = (after[name] - before[name]) / arguments.jobs
        print(f"{arguments.jobs} jobs, {name}: {before[name]:.1f} to {after[name]:.1f}, {slope:+.4f} a job")
    with served(arguments.model, "--queue", "16", "--max-batch", "1") as address:
        result["burst"] = burst(address)
    print(f"200 at once with a queue of 16: {result['burst']}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
