"""Models fetched from the Hugging Face hub once, kept on disk under their ids, and found there offline afterwards.

Nothing here goes online but `fetch_model`. A fetched model is pinned: to the commit it came from, and each file to its
SHA-256, which `check_model` compares.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toile.errors import ToileError, WorkFailedError
from toile.schema import build_config
from toile.user_folders import user_folder
from toile.weights.files import file_sha256, read_json, write_json_atomically

RECORD_NAME = "toile-model.json"
_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_SINGLE_FILES = (".safetensors", ".ckpt")
_NEEDED = ("unet", "vae", "text_encoder")
_NETWORK = rf"({'|'.join(_NEEDED)}|safety_checker|upscaler/unet|ranker(/[\w.-]+)?)"
_SMALL_FILES = re.compile(
    rf"model_index\.json|toile\.json|words\.json|upscaler/upscaler\.json|{_NETWORK}/config\.json"
    r"|(upscaler/)?scheduler/scheduler_config\.json"
    r"|tokenizer/(vocab\.json|merges\.txt|tokenizer_config\.json|special_tokens_map\.json)"
)
# Best first: safe files before pickles, full precision before half. Each may be in several parts with an index.
_WEIGHTS = tuple(
    re.compile(rf"(diffusion_pytorch_model|model|pytorch_model){variant}(-\d+-of-\d+)?\.{suffix}(\.index\.json)?")
    for suffix in ("safetensors", "bin")
    for variant in ("", r"\.fp16")
)


@dataclass(frozen=True)
class ModelRecord:
    """A fetched model.

    Attributes:
        id: "owner/name" on the hub.
        revision: the commit it came from.
        files: SHA-256 of each file by its name in the folder.
        num_bytes: of all files.
    """

    id: str
    revision: str
    files: Mapping[str, str]
    num_bytes: int


def models_folder() -> Path:
    """Where fetched models are: TOILE_MODELS, else `toile/models` in the user's data folder."""
    return user_folder("TOILE_MODELS", "models")


def registered_folder(model_id: str) -> Path | None:
    """The folder of a fetched model; None if this is no id, or one that was not fetched."""
    folder = models_folder() / model_id
    return folder if _ID.fullmatch(model_id) and (folder / RECORD_NAME).is_file() else None


def registered_models() -> list[ModelRecord]:
    """All fetched models, by id."""
    found = sorted(models_folder().glob(f"*/*/{RECORD_NAME}"))
    return [build_config(ModelRecord, read_json(path), str(path)) for path in found]


def single_files() -> list[Path]:
    """Files in the folder of fetched models, by name: models in one file that a person put there."""
    return sorted(path for path in models_folder().glob("*") if path.suffix in _SINGLE_FILES and path.is_file())


def fetch_model(model_id: str, revision: str = "main", endpoint: str | None = None) -> ModelRecord:
    """Downloads a model in the layout of diffusers from the hub, and registers it.

    Args:
        model_id: "owner/name".
        revision: a branch, tag or commit; what it stands for now is what is pinned.
        endpoint: address of another hub than the public one.

    Raises:
        ToileError: no id, no such model, one of another layout, or the library for it is not installed.
        WorkFailedError: the hub cannot be reached, or the download broke off; a second try goes on from there.
    """
    if not _ID.fullmatch(model_id):
        raise ToileError(f"{model_id!r} is no model id; write owner/name")
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise ToileError("downloading needs huggingface_hub: pip install 'toile[hub]'") from error
    folder = models_folder() / model_id
    try:
        info = HfApi(endpoint=endpoint).model_info(model_id, revision=revision)
        names = wanted_files([sibling.rfilename for sibling in info.siblings or ()], model_id)
        commit = str(info.sha)
        for name in names:
            hf_hub_download(model_id, name, revision=commit, local_dir=folder, endpoint=endpoint)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ToileError(
            f"the hub has no model {model_id} at {revision}, or it needs an account with access"
        ) from error
    except ToileError:
        raise
    except Exception as error:  # the library lets the errors of whatever carries its requests through
        raise WorkFailedError(f"{model_id} could not be downloaded: {error}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # notes of the download
    files = {name: file_sha256(folder / name) for name in sorted(names)}
    record = ModelRecord(model_id, commit, files, sum((folder / name).stat().st_size for name in names))
    write_json_atomically(folder / RECORD_NAME, asdict(record))
    return record


def check_model(record: ModelRecord) -> list[str]:
    """What differs from what was fetched: a line for each file that is missing or changed."""
    folder = models_folder() / record.id
    lines = []
    for name, digest in record.files.items():
        if not (folder / name).is_file():
            lines.append(f"{name} is missing")
        elif file_sha256(folder / name) != digest:
            lines.append(f"{name} is not what was fetched")
    return lines


def remove_model(model_id: str) -> Path:
    """Deletes a fetched model.

    Raises:
        ToileError: none of this id was fetched.
    """
    folder = registered_folder(model_id)
    if folder is None:
        known = ", ".join(record.id for record in registered_models()) or "none"
        raise ToileError(f"{model_id!r} was not fetched; fetched are: {known}")
    shutil.rmtree(folder)
    return folder


def wanted_files(names: Sequence[str], model_id: str) -> list[str]:
    """The files of a repository that make the model: one set of weights of each network, of the best kind there is.

    Raises:
        ToileError: it is not in the layout of diffusers, or a network has no weights that can be read.
    """
    if "model_index.json" not in names:
        single = [name for name in names if name.endswith(_SINGLE_FILES)]
        hint = f"; it has single files: {', '.join(single[:5])}, to be downloaded by hand" if single else ""
        raise ToileError(f"{model_id} has no model_index.json, so it is not in the layout of diffusers{hint}")
    wanted = [name for name in names if _SMALL_FILES.fullmatch(name)]
    folders = {folder for folder, _, _ in (name.rpartition("/") for name in names) if re.fullmatch(_NETWORK, folder)}
    for network in sorted({*_NEEDED, *folders}):
        own = [file for folder, _, file in (name.rpartition("/") for name in names) if folder == network]
        kinds = ([f"{network}/{file}" for file in own if kind.fullmatch(file)] for kind in _WEIGHTS)
        best = next((kind for kind in kinds if kind), [])
        if not best:
            wanted = [name for name in wanted if name != f"{network}/config.json"]
        if not best and network in _NEEDED:
            raise ToileError(f"{model_id} has no weights of its {network} that can be read")
        wanted += best
    return sorted(wanted)
