"""Where the tokenizer comes from for files that have none: original ones rely on CLIP's, which all of them use."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from toile.errors import ToileError
from toile.models.clip import CLIPTextConfig
from toile.text.tokenizer import Tokenizer

_CLIP_REPOSITORY = "models--openai--clip-vit-large-patch14"
_OPEN_CLIP_PADDING = "!"  # the token of id 0, with which OpenCLIP fills rows up


def find_tokenizer(path: Path, text: CLIPTextConfig) -> Tokenizer:
    """The tokenizer for a file: that in a folder `tokenizer` beside it, else CLIP's in the cache of Hugging Face.

    Nothing is downloaded.

    Args:
        path: the file.
        text: the config of its text encoder, which must have as many ids.

    Raises:
        ToileError: there is none in either place, or it does not fit.
    """
    beside = path.parent / "tokenizer"
    cached = sorted(_cache_folder().glob(f"{_CLIP_REPOSITORY}/snapshots/*"))
    for folder in (beside, *cached):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            tokenizer = Tokenizer.load(folder)
            return tokenizer if folder == beside else fitted(tokenizer, text)
    raise ToileError(
        f"{path.name} has no tokenizer with it: put one into {beside} (the tokenizer folder of any model of the same "
        "kind), name one with --tokenizer FOLDER, or fetch CLIP's once with "
        "`hf download openai/clip-vit-large-patch14 vocab.json merges.txt`"
    )


def fitted(tokenizer: Tokenizer, text: CLIPTextConfig) -> Tokenizer:
    """CLIP's tokenizer as a text encoder was trained with it: OpenCLIP fills rows up with another token."""
    length = min(tokenizer.max_length, text.max_position_embeddings)
    special = tokenizer.special
    if text.hidden_act == "gelu" and _OPEN_CLIP_PADDING in tokenizer.vocab:
        special = replace(special, pad=_OPEN_CLIP_PADDING)
    return Tokenizer(tokenizer.vocab, tokenizer.merges, length, special)


def _cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
