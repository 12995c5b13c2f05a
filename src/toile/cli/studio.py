"""toile studio: the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from toile.errors import ToileError

_LARGEST_UPLOAD = 64 * 1024 * 1024


def studio(
    *,
    port: int = 7860,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    model: list[str] | None = None,
    out: Path = Path("studio"),
    pictures: list[Path] | None = None,
    runs: list[Path] | None = None,
    reports: list[Path] | None = None,
    queue: int = 64,
    deadline: float = 600.0,
    device: list[str] | None = None,
    dtype: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
) -> int:
    """Open the page on which clothing is designed: words, sliders and a brush, with all that was made at hand.

    On further tabs models are fine-tuned on pictures, runs are watched and compared, and evaluations are read. Only
    browsers on this machine reach the page. It stops on Ctrl-C; what was made stays in the folder --out and is there
    again at the next start. A training stops then with its state saved, and can be resumed on the page.

    Args:
        port: 0 takes a free one, and says which.
        browser: open the page in the browser; --no-browser only says where it is.
        model: offered under its name: of the bundled model, of one that toile models get fetched, or a model folder,
            which is called by its name. May be given several times; the first one is the default. By default the
            bundled model and all that were fetched.
        out: folder of the pictures and of the database, and of the trainings that are started on the page.
        pictures: a folder whose pictures, folders of pictures and zips can be learnt from; may be given several times.
            Others can be uploaded on the page.
        runs: a folder of training runs to show; may be given several times. By default runs/, if it is there.
        reports: a folder in which to look for evaluations; may be given several times. By default evaluation/, if it
            is there.
        queue: how many jobs may wait.
        deadline: seconds after which a job fails.
        device: auto, cpu, cuda, cuda:N or mps; given several times there is a worker on each.
        dtype: auto, float32, bfloat16 or float16.
        threads: of the CPU, for each worker, by default those there are, in equal shares; and for a training.
        workers: how many make pictures at the same time, on the devices in turn.
    """
    from toile.web.api.config import ServerConfig

    # Ctrl-C on a page means now; jobs go on at the next start.
    server = ServerConfig(port=port, max_body_bytes=_LARGEST_UPLOAD, drain_seconds=0.0)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ToileError("the page needs more packages: pip install 'toile[studio]'") from error
    from toile.web.api.app import build_app
    from toile.web.jobs.config import EngineConfig
    from toile.web.jobs.engine import Engine
    from toile.web.page.app import add_page
    from toile.web.server import serve_app
    from toile.web.training.desk import Desk, DeskConfig

    config = EngineConfig(
        out,
        tuple(model or ()),
        tuple(device or ("auto",)),
        dtype,
        queue,
        deadline_seconds=deadline,
        threads=threads,
        workers=workers,
    )
    desk = Desk(DeskConfig(out, tuple(pictures or ()), _or(runs, "runs"), _or(reports, "evaluation"), threads))
    engine = Engine(config)

    def say(address: str) -> None:
        print(f"toile studio is on {address} (Ctrl-C ends it); pictures are kept in {out}", flush=True)
        if browser:
            import threading
            import webbrowser

            # Some browsers hold the caller up until they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    try:
        serve_app(build_app(engine, server, lambda app: add_page(app, engine, desk)), engine, server, say)
    finally:
        training = desk.trainer.now()
        if training is not None and training.state in ("running", "stopping"):
            print(f"{training.name} is being trained: it stops after this step, its state is saved", flush=True)
        desk.close()
    return 0


def _or(named: list[Path] | None, usual: str) -> tuple[Path, ...]:
    """The folders that were named; without any the usual one, if it is there."""
    if named is not None:
        return tuple(named)
    return (Path(usual),) if Path(usual).is_dir() else ()
