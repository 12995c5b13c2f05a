"""Files that people keep beside models, models in one file too: they are listed, and requests use them by name."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
import webuiapi
from PIL import Image

from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.model_conversion import convert_model
from toile.nn.lora import LowRank
from toile.picture_recipe import read_recipe
from toile.web.jobs.config import EngineConfig
from toile.web.jobs.shelf import open_shelf
from toile.weights.embedding_file import write_embedding
from toile.weights.files import save_tensors
from toile.weights.lora_file import write_lora

SMALL = {"width": 24, "height": 32, "steps": 2, "cfg_scale": 2, "seed": 1}
WORD = "<monet>"


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tiny_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders of models, LoRAs and learned words, each with something in it that cannot be used."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("models", "loras", "embeddings"):
        (folder / name).mkdir()
    convert_model(tiny_folder, folder / "models" / "single.safetensors")
    (folder / "models" / "broken.safetensors").write_bytes(b"no weights")
    changes = {
        name: LowRank(torch.ones(1, *shape[1:]), torch.ones(shape[0], 1), 1.0)
        for name, shape in lora_targets(tiny_model).items()
        if "attn2" in name
    }
    write_lora(folder / "loras" / "soft.safetensors", changes, "kohya", {})
    vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    write_embedding(folder / "embeddings" / "monet.safetensors", WORD, vectors, {})
    save_tensors(folder / "embeddings" / "velvety.safetensors", {"emb_params": vectors.flip(0)}, {})
    save_tensors(folder / "embeddings" / "wide.safetensors", {"<wide>": torch.ones(1, 32)}, {})
    (folder / "embeddings" / "broken.pt").write_bytes(b"no words")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("models", "loras", "embeddings"):
            patch.setenv(f"TOILE_{name.upper()}", str(folder / name))
        yield folder


@pytest.fixture(scope="module")
def served(
    run_server: Any, folders: Path, tiny_config: EngineConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    models = (*tiny_config.models, str(folders / "models" / "single.safetensors"))
    with run_server(replace(tiny_config, out=tmp_path_factory.mktemp("served"), models=models)) as running:
        yield running


@pytest.fixture
def api(served: Any) -> webuiapi.WebUIApi:
    host, port = served.url.removeprefix("http://").split(":")
    return webuiapi.WebUIApi(host=host, port=int(port))


def pixels(result: Any) -> np.ndarray:
    return np.array(result.image)


def test_models_in_one_file_are_offered_beside_those_that_were_fetched(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = open_shelf(())
    assert list(shelf) == ["fashion", "single"]
    assert shelf["single"].source == str((folders / "models" / "single.safetensors").resolve())
    assert (shelf["single"].multiple, shelf["single"].text_width) == (4, 16)
    defaults = shelf["single"].settings.defaults
    assert (defaults.width, defaults.height) == (24, 32)
    assert "broken.safetensors is not served" in caplog.text


def test_a_model_in_one_file_makes_the_pictures_of_its_folder(api: webuiapi.WebUIApi) -> None:
    assert api.util_get_model_names() == ["single", "tiny"]
    ours = api.txt2img(prompt="red dress", override_settings={"sd_model_checkpoint": "single"}, **SMALL)
    assert np.array_equal(pixels(ours), pixels(api.txt2img(prompt="red dress", **SMALL)))
    assert ours.info["sd_model_name"] == "single"


def test_loras_and_learned_words_are_listed(api: webuiapi.WebUIApi, served: Any) -> None:
    assert [lora["name"] for lora in api.get_loras()] == ["soft"]
    told = api.get_embeddings()
    assert {name: (facts["shape"], facts["vectors"]) for name, facts in told["loaded"].items()} == {
        "monet": (16, 2),
        "velvety": (16, 2),
        "wide": (32, 1),
    }
    assert list(told["skipped"]) == ["broken"]
    with served.client() as client:
        listed = client.get("/api/embeddings").json()["embeddings"]
        assert {"name": "monet", "words": [WORD]} in listed


def test_a1111_finds_learned_words_in_the_prompt(api: webuiapi.WebUIApi, tmp_path: Path) -> None:
    plain = api.txt2img(prompt="red dress", **SMALL)
    learned = api.txt2img(prompt=f"red dress, {WORD}", negative_prompt="(Velvety:1.2)", **SMALL)
    assert not np.array_equal(pixels(plain), pixels(learned))
    assert "monet: " in learned.info["infotexts"][0] and "velvety: " in learned.info["infotexts"][0]
    assert "TI hashes" not in plain.info["infotexts"][0]
    # A part of a longer word is none, and what is of another width is left alone.
    other = api.txt2img(prompt="red dress, velvetyish <wide>", **SMALL)
    assert "velvety: " not in other.info["infotexts"][0]
    changed = api.txt2img(prompt="red dress <lora:soft:0.5>", **SMALL)
    assert not np.array_equal(pixels(plain), pixels(changed))


def test_other_dialects_name_learned_words(served: Any, tmp_path: Path) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        more = {"seed": 1, "steps": 2, "embeddings": ["monet"]}
        answer = client.images.generate(prompt=f"red dress, {WORD}", extra_body=more)
        (tmp_path / "a.png").write_bytes(base64.b64decode(str((answer.data or [])[0].b64_json)))
    assert [file.name for file in read_recipe(tmp_path / "a.png").embeddings] == ["monet"]
    with served.client() as client:
        body = {"prompt": f"red dress, {WORD}", "steps": 2, "seed": 1, "embeddings": ["monet"]}
        job = client.post("/api/jobs", json=body).json()
        assert job["request"]["embeddings"] == ["monet"]
        while (state := client.get(f"/api/jobs/{job['id']}").json()["state"]) not in ("done", "failed"):
            pass
        assert state == "done"
        picture = client.get(f"/api/jobs/{job['id']}/pictures/0").content
        assert np.array_equal(np.array(Image.open(io.BytesIO(picture))), np.array(Image.open(tmp_path / "a.png")))
        for names, what in (
            (["nowhere"], "embeddings: 'nowhere' is none that is served; served are: monet, velvety, wide"),
            (["../models/single"], "is none that is served"),
            (["wide"], "'wide' has vectors of 32 numbers; allowed for this model: 16"),
            (["monet", "monet"], "name each once"),
        ):
            answer = client.post("/api/jobs", json={"prompt": "dress", "embeddings": names})
            assert answer.status_code == 400 and what in answer.json()["detail"]
