"""Pictures made on two nodes: the same files as by one process, in the same order, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toile.cli.main import run
from toile.cluster.crew import Crew, WorkerRecord
from toile.cluster.joining import Cluster, Worker, joined
from toile.cluster.places import Place
from toile.cluster.surroundings import Surroundings
from toile.errors import ToileError
from toile.generation.pictures import Picture, generate, plan_pictures
from toile.generation.pictures_cluster import (
    ClusterEvent,
    ClusterStart,
    ClusterStep,
    ModelSource,
    PictureWorker,
    Prepared,
    _Work,
    generate_on_cluster,
)
from toile.generation.request import GenerateRequest
from toile.generation.source import SourceImage
from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.nn.lora import LowRank
from toile.picture_recipe import Toward
from toile.text.lora_tags import LoRAUse
from toile.weights.embedding_file import Embedding
from toile.weights.lora_file import write_lora

Output = pytest.CaptureFixture[str]
LONG = "blue checked shirt for men " * 8  # more than one row of tokens: a batch of its own


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pictures_of(events: Iterator[Any]) -> list[Picture]:
    return [event for event in events if isinstance(event, Picture)]


def assert_the_same(ours: list[Picture], expected: list[Picture]) -> None:
    assert [picture.index for picture in ours] == list(range(len(expected)))
    for one, other in zip(ours, expected, strict=True):
        assert one.pixels.tobytes() == other.pixels.tobytes()
        assert one.recipe == other.recipe and one.warnings == other.warnings
        assert (one.source is None) == (other.source is None)
        assert (one.maps is None) == (other.maps is None)
        if one.maps is not None and other.maps is not None:
            assert torch.equal(one.maps, other.maps)


def on_cluster(cluster: Cluster, model: LatentDiffusion, request: GenerateRequest) -> Iterator[ClusterEvent]:
    return generate_on_cluster(cluster, model, request, device="cpu", dtype="float32")


# --------------------------------------------------------------------------------------------------------- parts


def test_whole_batches_are_made_alike_alone_and_in_any_order(tiny_model: LatentDiffusion) -> None:
    request = GenerateRequest(("red dress", LONG, "belt"), seed=3, num_images=3, batch_size=2)
    whole = pictures_of(generate(tiny_model, request))
    plan = plan_pictures(tiny_model, request)
    batches = list(plan.batches())
    assert batches == [range(0, 2), range(2, 3), range(3, 5), range(5, 6), range(6, 8), range(8, 9)]
    parts = [picture for batch in reversed(batches) for picture in pictures_of(plan.make(batch))]
    assert_the_same(sorted(parts, key=lambda picture: picture.index), whole)


# ------------------------------------------------------------------------------------------------------ on two nodes


@pytest.mark.slow
def test_files_sheet_and_result_are_those_of_one_process(address: str, tiny_folder: Path, capfd: Output) -> None:
    Path("prompts.txt").write_text(f"red dress\n{LONG}\nblack belt\n", encoding="utf-8")
    flags = ["--prompts-file", "prompts.txt", "-n", "5", "--seed", "7", "--batch-size", "2", "--steps", "2", "--json"]
    command = ["generate", "--model", str(tiny_folder), "--device", "cpu", "--dtype", "float32", *flags]
    assert run([*command, "--out", "plain"]) == 0
    plain = json.loads(capfd.readouterr().out)
    assert run([*command, "--out", "shared", "--ray", address]) == 0
    captured = capfd.readouterr()
    shared = json.loads(captured.out)
    names = sorted(path.name for path in Path("plain").iterdir())
    assert len(names) == 16 and sorted(path.name for path in Path("shared").iterdir()) == names
    for name in names:
        assert Path("shared", name).read_bytes() == Path("plain", name).read_bytes(), name
    assert {**shared, "seconds": 0} == json.loads(json.dumps({**plain, "seconds": 0}).replace("plain/", "shared/")) | {
        "folder": "shared"
    }
    assert "with 1 processor: begun" in captured.err and "on cpu in float32, seed 7" in captured.err


class Counting(Cluster):
    """Waits until both workers have begun, notes which makes how much, and kills the first that makes three batches."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster._ray)
        self.made: Counter[str] = Counter()
        self.waits = self.kills = True
        self.processes: dict[str, int] = {}

    def ready(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        if self.waits:
            self._ray.wait(list(calls), num_returns=2)
            self.waits = False
        return super().ready(calls, seconds)

    def call(self, worker: Worker, method: str, *arguments: Any) -> Any:
        self.made[worker.place.node] += method == "make"
        call = super().call(worker, method, *arguments)
        if method == "make" and self.kills and self.made[worker.place.node] == 3:
            self.kills = False
            os.kill(self.processes[worker.place.node], signal.SIGKILL)
        return call


@pytest.mark.slow
def test_both_nodes_work_and_a_worker_that_is_killed_is_replaced(
    address: str, tiny_model: LatentDiffusion, capfd: Output
) -> None:
    request = GenerateRequest(("red dress", "belt"), seed=3, num_images=30, batch_size=2, steps=4)
    expected = pictures_of(generate(tiny_model, request))
    with joined(address) as joined_cluster:
        cluster = Counting(joined_cluster)
        events: list[ClusterEvent] = []
        for event in on_cluster(cluster, tiny_model, request):
            events.append(event)
            if isinstance(event, WorkerRecord) and event.process is not None:
                cluster.processes[event.place.node] = event.process
    assert_the_same(pictures_of(iter(events)), expected)
    assert len(cluster.made) == 2 and sum(cluster.made.values()) > 30  # what the dead one was at was made again
    workers = [event for event in events if isinstance(event, WorkerRecord)]
    assert len([event for event in workers if "died" in event.event]) == 1
    steps = [event.num_done for event in events if isinstance(event, ClusterStep)]
    assert steps == sorted(steps) and steps[-1] == 60
    assert [event for event in events if isinstance(event, ClusterStart)] == [ClusterStart("cpu", "float32")]
    assert capfd.readouterr() == ("", "")  # Ray reports deaths on the output, where a result may stand


@pytest.mark.slow
def test_everything_a_request_holds_reaches_the_workers(
    address: str, tiny_model: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOILE_LORAS", str(tmp_path))
    draws = torch.Generator().manual_seed(0)
    changes = {
        path: LowRank(torch.randn(2, shape[1], generator=draws), torch.randn(shape[0], 2, generator=draws), 2.0)
        for path, shape in lora_targets(tiny_model).items()
        if len(shape) == 2
    }
    write_lora(tmp_path / "lace.safetensors", changes, "kohya", {}, dtype=torch.float32)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 24, 3), np.uint8)
    mask = np.zeros((32, 24), np.uint8)
    mask[8:20] = 255
    plain = GenerateRequest(("red dress",), seed=5, num_images=5, batch_size=2)
    requests = [
        replace(plain, source=SourceImage(pixels, mask), strength=0.7),
        replace(plain, loras=(LoRAUse("lace", 0.8),), maps=True),
        replace(plain, toward=Toward("belt", 9, 0.3), hires_scale=2.0, vae_bands=True),
        replace(plain, prompts=("red belt", "red <lora:lace:0.3> belt"), original=None, num_images=2),
    ]
    lace = Embedding("lace", str(tmp_path / "lace.pt"), "0" * 64, {"<lace>": torch.randn(2, 16, generator=draws)})
    with_words = tiny_model.with_embeddings([lace])
    cases = [(tiny_model, request) for request in requests]
    cases.append((with_words, replace(plain, prompts=("red <lace> dress",))))
    with joined(address) as cluster:
        for model, request in cases:
            assert_the_same(pictures_of(on_cluster(cluster, model, request)), pictures_of(generate(model, request)))
    [plain_picture, *_] = pictures_of(generate(tiny_model, cases[-1][1]))
    [with_lace, *_] = pictures_of(generate(with_words, cases[-1][1]))
    assert with_lace.pixels.tobytes() != plain_picture.pixels.tobytes()


@pytest.mark.slow
def test_leaving_early_ends_the_workers(address: str, tiny_model: LatentDiffusion) -> None:
    request = GenerateRequest(("red dress",), seed=1, num_images=200, batch_size=1)
    with joined(address) as cluster:
        events = on_cluster(cluster, tiny_model, request)
        processes = {event.process for event in islice(events, 8) if isinstance(event, WorkerRecord)}
        events.close()  # type: ignore[attr-defined]
        while any(process is not None and Path(f"/proc/{process}").exists() for process in processes):
            time.sleep(0.02)  # until the time of the test is over
        again = replace(request, num_images=2)
        assert_the_same(pictures_of(on_cluster(cluster, tiny_model, again)), pictures_of(generate(tiny_model, again)))


# ------------------------------------------------------------------------------------------------------ refusing


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [["--size", "25x32"], ["--lora", "nowhere.safetensors"], ["--size", "8192x8192", "--batch-size", "1024"]],
    ids=["size", "lora", "memory"],
)
def test_what_is_wrong_is_said_as_without(address: str, tiny_folder: Path, capsys: Output, flags: list[str]) -> None:
    said = []
    for where in ([], ["--ray", address]):
        command = ["generate", "red dress", "--model", str(tiny_folder), "--device", "cpu", "--seed", "1"]
        assert run([*command, *flags, *where]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and "Traceback" not in captured.err and not Path("pictures").exists()
        said.append(captured.err.splitlines()[-1].partition(" GB are free")[0].rstrip("0123456789.,"))
    assert said[0] == said[1] and said[0].startswith("toile: ")


@pytest.mark.slow
def test_pictures_before_a_bad_one_are_kept_and_the_work_fails(
    address: str, tiny_folder: Path, tmp_path: Path, capsys: Output
) -> None:
    model = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    assert model.vae.decoder.conv_out.bias is not None
    model.vae.decoder.conv_out.bias = torch.nn.Parameter(torch.full((3,), -1e4), requires_grad=False)
    model.save(tmp_path / "black", torch.float32)
    command = ["generate", "red dress", "-n", "3", "--model", str(tmp_path / "black"), "--device", "cpu"]
    assert run([*command, "--ray", address]) == 1
    assert "came out black or not finite" in capsys.readouterr().err.splitlines()[-1]


def test_a_machine_with_another_model_or_another_precision_is_refused(
    tiny_folder: Path, tiny_model: LatentDiffusion
) -> None:
    request, place, here = GenerateRequest(("belt",)), Place("node", "elsewhere", 1), Surroundings.here()
    source = ModelSource(str(tiny_folder), "cpu", "float32", "0" * 64)
    refusal = PictureWorker().prepare(here, place, source, request, {})
    assert isinstance(refusal, ToileError) and "worker on elsewhere: " in str(refusal)
    assert "is another model here" in str(refusal)
    refusal = PictureWorker().prepare(here, place, replace(source, model="nowhere"), request, {})
    assert isinstance(refusal, ToileError) and "worker on elsewhere: model 'nowhere'" in str(refusal)
    work = _Work(Crew(None, ()), source, None, None, 1)  # type: ignore[arg-type]
    [begun, start] = work._welcome(Worker(place, None), Prepared(1, "cuda:0", "bfloat16", None))
    assert isinstance(begun, WorkerRecord) and start == ClusterStart("cuda:0", "bfloat16")
    with pytest.raises(ToileError, match="elsewhere would compute on cuda in float16, another one on cuda in bf"):
        list(work._welcome(Worker(place, None), Prepared(2, "cuda:1", "float16", None)))
    with pytest.raises(ToileError, match="save it first"):
        generate_on_cluster(None, replace(tiny_model, origin=None), request)  # type: ignore[arg-type]
