"""The server under load: pictures a second beside those of one offline batch, a burst, and what 500 jobs leave behind.

    python benchmarks/serving.py [--model fashion] [--rounds 5] [--out serving.json]

Server and offline batch take turns in one run, on the same cores, with the same settings. The load comes from this
process over HTTP, from 127.0.0.1 only; it counts against the server, as it has the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
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


async def ask(client: httpx.AsyncClient, number: int, seed: int, **more: Any) -> tuple[int, float, float]:
    """Asks for one picture; tells the status, how long it took, and when it came."""
    begun = time.perf_counter()
    body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": seed + number, **more}
    answer = await client.post("/v1/images/generations", json=body)
    now = time.perf_counter()
    return answer.status_code, now - begun, now


async def sustained(address: str, count: int, seed: int) -> float:
    """Pictures a second while as many clients as there are ask one after the other."""
    numbers = iter(range(count))
    came: list[float] = []

    async def keep_asking(client: httpx.AsyncClient) -> None:
        for number in numbers:
            status, _, when = await ask(client, number, seed)
            assert status == 200, status
            came.append(when)

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(keep_asking(client) for _ in range(CLIENTS)))
    return count / (max(came) - begun)


async def burst(address: str) -> dict[str, Any]:
    """200 requests at once."""
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        answers = await asyncio.gather(*(ask(client, number, 0) for number in range(200)))
    refused = sorted(seconds for status, seconds, _ in answers if status == 429)
    return {
        "served": sum(status == 200 for status, _, _ in answers),
        "refused": len(refused),
        "others": sum(status not in (200, 429) for status, _, _ in answers),
        "refused_median_ms": round(statistics.median(refused) * 1000, 1),
        "refused_p95_ms": round(refused[int(len(refused) * 0.95)] * 1000, 1),
        "server_share_within_50_ms": within_50_ms(address),
    }


def within_50_ms(address: str) -> float:
    """The share of answers to OpenAI's dialect, counted from when a request was read, but for those that made one."""
    text = httpx.get(f"{address}/metrics").text
    quick = number_of(text, r'toile_http_seconds_bucket\{dialect="openai",le="0.05"\}')
    refused = number_of(text, r'toile_http_answers_total\{dialect="openai",method="POST",status="429"\}')
    return round(min(1.0, quick / refused), 4)


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
        asyncio.run(sustained(address, 32, 0))
        for number in range(arguments.rounds):
            result["offline"].append(offline.work(1000 * number))
            result["served"].append(asyncio.run(sustained(address, arguments.count, 1000 * number)))
            print(
                f"round {number + 1}: offline {result['offline'][-1]:.1f}, served {result['served'][-1]:.1f} pictures/s"
            )
        before = footprint(address)
        asyncio.run(sustained(address, arguments.jobs, 10**6))
        after = footprint(address)
    ratios = [one / other for one, other in zip(result["served"], result["offline"], strict=True)]
    result |= {"ratio": statistics.median(ratios), "before": before, "after": after}
    print(f"served / offline: {result['ratio']:.3f} (median of {len(ratios)}; {min(ratios):.3f} to {max(ratios):.3f})")
    for name in ("server_mb", "worker_mb", "handles"):
        slope = (after[name] - before[name]) / arguments.jobs
        print(f"{arguments.jobs} jobs, {name}: {before[name]:.1f} to {after[name]:.1f}, {slope:+.4f} a job")
    with served(arguments.model, "--queue", "16", "--max-batch", "1") as address:
        result["burst"] = asyncio.run(burst(address))
    print(f"200 at once with a queue of 16: {result['burst']}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
