"""Fetching models from a hub: a stub server in the place of the real one, everything else as it is."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from toile.cli.main import run
from toile.errors import ToileError, WorkFailedError
from toile.latent_diffusion import LatentDiffusion
from toile.model_files.registry import (
    check_model,
    fetch_model,
    models_folder,
    registered_folder,
    registered_models,
    remove_model,
    wanted_files,
)
from toile.model_folder import find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "somebody/tiny"


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a hub that has one model, in a folder with more than is wanted."""
    monkeypatch.setenv("TOILE_MODELS", str(tmp_path / "models"))
    names = [path.relative_to(tiny_folder).as_posix() for path in tiny_folder.rglob("*") if path.is_file()]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            if self.path.startswith(f"/api/models/{ID}/revision/"):
                siblings = [{"rfilename": name} for name in [*names, "README.txt", "unet/model.ckpt"]]
                self.send(json.dumps({"id": ID, "sha": COMMIT, "siblings": siblings}).encode(), with_body)
            elif self.path.startswith(f"/{ID}/resolve/{COMMIT}/"):
                self.send((tiny_folder / self.path.partition(f"{COMMIT}/")[2]).read_bytes(), with_body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def send(self, content: bytes, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_fetched_model_is_pinned_and_loads_by_its_id(hub: str, tiny_folder: Path) -> None:
    assert registered_models() == []
    record = fetch_model(ID, endpoint=hub)
    assert (record.id, record.revision) == (ID, COMMIT)
    assert "README.txt" not in record.files and "unet/model.ckpt" not in record.files
    for name, digest in record.files.items():
        assert hashlib.sha256((tiny_folder / name).read_bytes()).hexdigest() == digest
    assert registered_models() == [record]
    assert check_model(record) == []
    fetched = LatentDiffusion.load(ID, "cpu", "float32")
    original = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    assert fetched.facts is not None and original.facts is not None
    assert fetched.facts.hash == original.facts.hash


def test_changes_are_found_and_models_removed(hub: str) -> None:
    record = fetch_model(ID, endpoint=hub)
    folder = registered_folder(ID)
    assert folder is not None
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "model_index.json").unlink()
    assert check_model(record) == ["model_index.json is missing", "vae/config.json is not what was fetched"]
    assert run(["models", "list", "--check"]) == 1
    remove_model(ID)
    assert registered_folder(ID) is None and not folder.exists()
    with pytest.raises(ToileError, match="was not fetched"):
        remove_model(ID)


def test_what_cannot_be_fetched_is_refused(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToileError, match="no model somebody/else"):
        fetch_model("somebody/else", endpoint=hub)
    for wrong in ("tiny", "../tiny", "a/b/c", "a/..", ""):
        with pytest.raises(ToileError, match="no model id"):
            fetch_model(wrong, endpoint=hub)
        assert registered_folder(wrong) is None
    with pytest.raises(WorkFailedError, match="could not be downloaded"):
        fetch_model(ID, endpoint="http://127.0.0.1:9")
    assert registered_models() == []


def test_the_commands(hub: str, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_model(ID, endpoint=hub)
    assert run(["models", "list"]) == 0
    assert f"{ID}: 0.00 GB, commit {COMMIT[:12]}" in capsys.readouterr().out
    assert run(["models", "list", "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["faults"] == []
    assert run(["models", "remove", ID]) == 0
    assert str(models_folder()) in capsys.readouterr().out
    assert run(["models", "get", "nonsense"]) == 2
    assert "owner/name" in capsys.readouterr().err


SMALL = ["model_index.json", *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))]


def weights(unet: list[str]) -> list[str]:
    return [
        *SMALL,
        *(f"unet/{name}" for name in unet),
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.safetensors",
    ]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (
            ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"],
            ["diffusion_pytorch_model.safetensors"],
        ),
        (
            ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"],
            ["diffusion_pytorch_model.fp16.safetensors"],
        ),
        (
            [
                "diffusion_pytorch_model-00001-of-00002.safetensors",
                "diffusion_pytorch_model-00002-of-00002.safetensors",
                "diffusion_pytorch_model.safetensors.index.json",
                "diffusion_pytorch_model.fp16.safetensors",
            ],
            [
                "diffusion_pytorch_model-00001-of-00002.safetensors",
                "diffusion_pytorch_model-00002-of-00002.safetensors",
                "diffusion_pytorch_model.safetensors.index.json",
            ],
        ),
    ],
)
def test_one_set_of_weights_of_the_best_kind(there: list[str], taken: list[str]) -> None:
    wanted = wanted_files(weights(there), ID)
    assert [name for name in wanted if name.startswith("unet/") and "config" not in name] == [
        f"unet/{t}" for t in taken
    ]
    assert "vae/diffusion_pytorch_model.bin" in wanted


def test_what_leads_and_enlarges_comes_along() -> None:
    folder = find_model("fashion")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    notes = {name for name in names if name.endswith(("README.md", "provenance.json"))}
    assert set(wanted_files(sorted(names), ID)) == names - notes
    unreadable = names - {"ranker/2/diffusion_pytorch_model.safetensors"}
    assert set(wanted_files(sorted(unreadable), ID)) == unreadable - notes - {"ranker/2/config.json"}


def test_repositories_of_another_layout_are_refused() -> None:
    with pytest.raises(ToileError, match=r"single files: v1.safetensors"):
        wanted_files(["v1.safetensors", "README.md"], ID)
    with pytest.raises(ToileError, match="no weights of its unet"):
        wanted_files(weights(["flax_model.msgpack"]), ID)
