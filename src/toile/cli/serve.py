"""toile serve: pictures for programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.web.jobs.engine_worker import Hire

_TOKEN_VARIABLE = "TOILE_TOKEN"


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    tokens_file: Path | None = None,
    model: list[str] | None = None,
    out: Path = Path("studio"),
    queue: int = 64,
    per_owner: int | None = None,
    max_batch: int | None = None,
    deadline: float = 600.0,
    drain: float = 30.0,
    max_body: Annotated[int, Parameter(name="--max-body")] = 32,
    max_pictures: int = 64,
    max_steps: int = 200,
    max_pixels: int = 1024 * 1024,
    allow_host: list[str] | None = None,
    device: list[str] | None = None,
    dtype: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> int:
    """Serve pictures to programs, in the dialects of OpenAI, of the A1111 web UI, and one of its own.

    Stops on Ctrl-C or SIGTERM, after the jobs that there are. What was made stays in the folder --out, which the
    server takes up again when it is next started there.

    Args:
        host: address to listen on; one that other machines can reach needs a token.
        port: 0 takes a free one, and says which.
        token: whoever shows it may come in; better in the environment variable TOILE_TOKEN, which others cannot see.
        tokens_file: a text file with a name and a token a line, one for each who may come in, with jobs of their own.
        model: served under its name: of the bundled model, of one that toile models get fetched, or a model folder,
            which is called by its name. May be given several times; the first one is the default. By default the
            bundled model and all that were fetched.
        out: folder of the pictures and of the database.
        queue: how many jobs may wait; further ones are told when to try again.
        per_owner: how many jobs each who comes in may have; by default half of the queue if there are several.
        max_batch: pictures of several jobs that are made together; by default as many as the model's settings say.
        deadline: seconds after which a job fails, if it names no other.
        drain: seconds for which jobs may go on after the server is told to stop.
        max_body: megabytes of a request.
        max_pictures: of a request.
        max_steps: of a request.
        max_pixels: of a picture.
        allow_host: a name under which the server may be reached, besides its addresses; may be given several times.
        device: auto, cpu, cuda, cuda:N or mps; given several times there is a worker on each.
        dtype: auto, float32, bfloat16 or float16.
        threads: of the CPU, for each worker; by default those there are, in equal shares.
        workers: how many make pictures at the same time, on the devices in turn; with --ray how many in the whole
            cluster, by default one a machine, or one a GPU.
        ray: have pictures made on the machines of a Ray cluster: auto (the one this machine belongs to), HOST:PORT, or
            local (this machine alone).
    """
    from toile.web.api.config import ServerConfig

    tokens = _tokens(token or os.environ.get(_TOKEN_VARIABLE), tokens_file)
    # What is wrong with the address is said before anything heavy is loaded.
    server = ServerConfig(host, port, tokens, tuple(allow_host or ()), max_body * 1024 * 1024, drain_seconds=drain)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ToileError("serving needs more packages: pip install 'toile[studio]'") from error
    from toile.web.api.app import build_app
    from toile.web.jobs.config import EngineConfig
    from toile.web.jobs.engine import Engine
    from toile.web.jobs.limits import Limits
    from toile.web.server import serve_app

    if per_owner is None and len(set(tokens.values())) > 1:
        per_owner = max(1, queue // 2)
    config = EngineConfig(
        out,
        tuple(model or ()),
        tuple(device or ("auto",)),
        dtype,
        queue,
        per_owner,
        max_batch,
        deadline_seconds=deadline,
        limits=Limits(pictures=max_pictures, steps=max_steps, pixels=max_pixels),
        threads=threads,
        workers=workers,
    )
    with _hiring(ray) as hire:
        engine = Engine(config, hire)

        def say(address: str) -> None:
            print(f"toile serves {', '.join(engine.models())} on {address}; pictures are kept in {out}", flush=True)

        serve_app(build_app(engine, server), engine, server, say)
    return 0


@contextmanager
def _hiring(ray: str | None) -> Iterator[Hire]:
    """What gives an engine its workers: processes of this machine, or replicas on a cluster's."""
    if ray is None:
        from toile.web.jobs.worker_process import hire_processes

        yield hire_processes
        return
    from toile.cluster.joining import joined
    from toile.cluster.serving import serving
    from toile.web.jobs.replicas import hire_replicas

    with joined(ray) as cluster, serving():
        yield partial(hire_replicas, cluster)


def _tokens(token: str | None, file: Path | None) -> dict[str, str]:
    """Names of owners by their tokens."""
    tokens = {} if token is None else {token: "owner"}
    if file is None:
        return tokens
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ToileError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ToileError(f"{file}, line {number}: write a name and a token")
        if words[1] in tokens:
            raise ToileError(f"{file}, line {number}: this token stands for {tokens[words[1]]} already")
        tokens[words[1]] = words[0]
    return tokens
