"""CLIP's byte-pair encoding: words to the ids a text encoder reads (Sennrich et al. 2016; Radford et al. 2021, 2.4).

A text is lower-cased, split into words, single digits and runs of signs; each of these becomes bytes, and bytes that
often stand together become one token. The last token of a word carries the suffix `</w>`. Every byte is a token, so any
text can be encoded.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import BPE
from torch import Tensor

from toile.errors import ToileError

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
DEFAULT_MAX_LENGTH = 77
MIN_FREQUENCY = 20

_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_LEARNABLE = re.compile(r"[^\s()\[\]\\:,|]+")
_LARGEST_MAX_LENGTH = 2**16  # files without a limit say 1e30, or nothing


@dataclass(frozen=True)
class Encoding:
    """A text as token ids.

    Attributes:
        ids: the tokens, without start and end.
        cut: the end of the text that did not fit; "" if all of it did.
        unknown_words: words of the text that are no token of their own and had to be spelt in pieces.
    """

    ids: tuple[int, ...]
    cut: str
    unknown_words: tuple[str, ...]


class Token(NamedTuple):
    """One token of a text: `text[start:end]`, a part of the text's word number `word`."""

    id: int
    start: int
    end: int
    word: int


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens with a meaning of their own; each may also be typed in a text.

    Attributes:
        pad: fills a row up; Stable Diffusion 1.x pads with the end token, 2.x with "!".
        lowercased: those that are found after lower-casing, that is in any case.
    """

    start: str = START
    end: str = END
    pad: str = END
    unknown: str = END
    lowercased: frozenset[str] = frozenset()

    def added(self) -> list[AddedToken]:
        names = dict.fromkeys((self.start, self.end, self.unknown, self.pad))
        return [AddedToken(name, special=True, normalized=name in self.lowercased) for name in names]


class Tokenizer:
    """Text to ids and back to what was left out; made by `Tokenizer.load` or `Tokenizer.train`.

    Args:
        vocab: token -> id, holding the special tokens and the parts and the result of every merge.
        merges: pairs of tokens that become one, most frequent first.
        max_length: length of a row of ids, start and end included; at least 3.
        special: the special tokens.

    Attributes:
        learned: words of its own and their ids, see `with_words`.

    Raises:
        ToileError: a token is missing from `vocab`, or `max_length` is too small.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: list[tuple[str, str]],
        max_length: int = DEFAULT_MAX_LENGTH,
        special: SpecialTokens | None = None,
    ) -> None:
        special = special or SpecialTokens()
        if max_length < 3:
            raise ToileError(f"max_length {max_length} has no room between start and end; give at least 3")
        _check_vocab(vocab, merges, special)
        self.vocab = vocab
        self.merges = merges
        self.max_length = max_length
        self.special = special
        self.learned: Mapping[str, range] = {}
        self._learned: re.Pattern[str] | None = None
        self.start_id, self.end_id, self.pad_id = vocab[special.start], vocab[special.end], vocab[special.pad]
        self._library = _build_library(BPE(vocab, merges, end_of_word_suffix=WORD_END, unk_token=special.unknown))
        self._library.add_special_tokens(special.added())

    @property
    def vocab_size(self) -> int:
        """Number of ids: what the text encoder's vocab_size must be at least."""
        return max(self.vocab.values()) + 1

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a `tokenizer/` folder as Stable Diffusion models have it.

        Args:
            folder: holds vocab.json and merges.txt, and if need be tokenizer_config.json and special_tokens_map.json.

        Raises:
            ToileError: a file is missing, is not what its name says, or the files do not fit together.
        """
        settings: dict[str, object] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            settings |= _read_json(folder / name) if (folder / name).exists() else {}
        max_length = settings.get("model_max_length", DEFAULT_MAX_LENGTH)
        if not isinstance(max_length, int | float) or not max_length <= _LARGEST_MAX_LENGTH:
            max_length = DEFAULT_MAX_LENGTH
        return cls(
            _read_vocab(folder / "vocab.json"),
            _read_merges(folder / "merges.txt"),
            int(max_length),
            _read_special(settings),
        )

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, max_length: int = DEFAULT_MAX_LENGTH) -> Tokenizer:
        """Learn merges from captions: the most frequent pair first, pairs seen fewer than 20 times never.

        Args:
            captions: texts of the kind the model will read.
            vocab_size: largest number of ids, at least 514 (all bytes in both forms, start and end).
            max_length: length of a row of ids, start and end included.

        Returns:
            A tokenizer that depends on the captions' word counts only, not on their order.

        Raises:
            ToileError: `vocab_size` is below 514.
        """
        base = _byte_symbols()
        if vocab_size < len(base) + 2:
            raise ToileError(f"vocab_size {vocab_size} is too small: bytes, start and end alone need {len(base) + 2}")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            min_frequency=MIN_FREQUENCY,
            end_of_word_suffix=WORD_END,
            # Named first, the byte symbols get fixed ids, and ties between pairs are broken the same way every time.
            special_tokens=[AddedToken(symbol, special=True) for symbol in base],
            show_progress=False,
        )
        learner = _build_library(BPE(end_of_word_suffix=WORD_END))
        learner.train_from_iterator(captions, trainer)
        learned = json.loads(learner.to_str())["model"]
        tokens = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
        vocab = {token: index for index, token in enumerate([*tokens, START, END])}
        return cls(vocab, [(first, second) for first, second in learned["merges"]], max_length)

    def save(self, folder: Path) -> None:
        """Write the four files that `load` and transformers' CLIPTokenizer read into `folder` (made if absent)."""
        folder.mkdir(parents=True, exist_ok=True)
        special = {
            "bos_token": self.special.start,
            "eos_token": self.special.end,
            "unk_token": self.special.unknown,
            "pad_token": self.special.pad,
        }
        tokens = {key: _special_entry(name, name in self.special.lowercased) for key, name in special.items()}
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.max_length,
            "do_lower_case": True,
            **tokens,
        }
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        _write_text(folder / "vocab.json", json.dumps(self.vocab, ensure_ascii=False))
        _write_text(folder / "merges.txt", f"#version: 0.2\n{merges}")
        _write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        _write_text(folder / "special_tokens_map.json", json.dumps(tokens, indent=2) + "\n")

    def with_words(self, words: Mapping[str, int]) -> Tokenizer:
        """The same tokenizer with words of its own, found before all others, whatever their capitals.

        Args:
            words: how many ids each stands for. They follow one another from `vocab_size` on, which stays as it is: the
                text encoder must have learned vectors for them (Gal et al. 2022, "An Image is Worth One Word").

        Raises:
            ToileError: a word with white space or signs of the prompt grammar, twice, or of more ids than a row holds.
        """
        first, learned = self.vocab_size, dict[str, range]()
        for word, count in words.items():
            if not _LEARNABLE.fullmatch(word):
                raise ToileError(f"{word!r} cannot be a word of its own: no white space and none of ( ) [ ] : , | \\")
            if word.casefold() in learned:
                raise ToileError(f"{word!r} is there twice; rename one of the files")
            if not 1 <= count <= self.max_length - 2:
                raise ToileError(f"{word!r} has {count} vectors; a row holds 1 to {self.max_length - 2}")
            learned[word.casefold()] = range(first, first + count)
            first += count
        other = copy.copy(self)
        other.learned, other._learned = learned, _pattern_of(learned) if learned else None
        return other

    def encode(self, text: str, truncate: bool = True) -> Encoding:
        """Split a text into tokens.

        Args:
            text: anything, also empty.
            truncate: keep only what fits into one row (`max_length` - 2 tokens) and report the rest as `cut`.
        """
        tokens = self.tokens(text)
        limit = self.max_length - 2 if truncate else len(tokens)
        ids = tuple(token.id for token in tokens[:limit])
        return Encoding(ids, _cut_text(text, tokens, limit), self._unknown_words(text, tokens))

    def tokens(self, text: str) -> list[Token]:
        """All tokens of a text, without start and end, with their places in it; see the module for what a word is."""
        text, tokens, place = _printable_unicode(text), list[Token](), 0
        for found in self._learned.finditer(text) if self._learned else ():
            self._split(text, place, found.start(), tokens)
            number = tokens[-1].word + 1 if tokens else 0
            ids = self.learned[found.group().casefold()]
            tokens += [Token(id_, found.start(), found.end(), number) for id_ in ids]
            place = found.end()
        self._split(text, place, len(text), tokens)
        return tokens

    def _split(self, text: str, start: int, end: int, tokens: list[Token]) -> None:
        """Adds the tokens of `text[start:end]`, which holds no learned word."""
        encoded, previous = self._library.encode(text[start:end]), None
        for id_, (first, last), word in zip(encoded.ids, encoded.offsets, encoded.word_ids, strict=True):
            continues = tokens and word is not None and word == previous
            number = tokens[-1].word + (not continues) if tokens else 0
            tokens.append(Token(id_, start + first, start + last, number))
            previous = word

    def _unknown_words(self, text: str, tokens: Sequence[Token]) -> tuple[str, ...]:
        words = []
        for _, same in groupby(tokens, key=lambda token: token.word):
            first, *others = same
            if others and first.id < self.vocab_size:
                words.append(text[first.start : others[-1].end])
        return tuple(dict.fromkeys(word for word in words if any(sign.isalpha() for sign in word)))

    def row(self, ids: Sequence[int]) -> list[int]:
        """Up to `max_length` - 2 ids as a row of `max_length`: start, ids, end, padding."""
        row = [self.start_id, *ids, self.end_id]
        return row + [self.pad_id] * (self.max_length - len(row))

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
        """Rows of ids for a text encoder: start, tokens, end, padding.

        Args:
            texts: B texts.

        Returns:
            ids (B, max_length) int64, and for each text the end that did not fit ("" if all of it did).
        """
        limit = self.max_length - 2
        rows, cuts = [], []
        for text in texts:
            tokens = self.tokens(text)
            rows.append(self.row([token.id for token in tokens[:limit]]))
            cuts.append(_cut_text(text, tokens, limit))
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), self.max_length), tuple(cuts)


def _build_library(model: BPE) -> LibraryTokenizer:
    library = LibraryTokenizer(model)
    library.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return library


def _byte_symbols() -> list[str]:
    """The 512 tokens every vocabulary starts with: one character a byte, inside a word and at its end."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    return symbols + [symbol + WORD_END for symbol in symbols]


def _printable_unicode(text: str) -> str:
    """Half surrogates (undecodable bytes of a command line) cannot be written as UTF-8; each becomes "?"."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _cut_text(text: str, tokens: Sequence[Token], limit: int) -> str:
    return _printable_unicode(text)[tokens[limit].start :] if len(tokens) > limit else ""


def _pattern_of(words: Iterable[str]) -> re.Pattern[str]:
    """Finds whole words, the longest first."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def _check_vocab(vocab: dict[str, int], merges: list[tuple[str, str]], special: SpecialTokens) -> None:
    needed = [special.start, special.end, special.pad, special.unknown]
    needed += [part for first, second in merges for part in (first, second, first + second)]
    missing = [token for token in dict.fromkeys(needed) if token not in vocab]
    if missing:
        raise ToileError(
            f"the vocabulary lacks {len(missing)} tokens (first: {missing[:3]}); "
            "vocab.json and merges.txt must be the two files of one CLIP tokenizer"
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ToileError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ToileError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def _read_vocab(path: Path) -> dict[str, int]:
    vocab = {token: index for token, index in _read_json(path).items() if isinstance(index, int) and index >= 0}
    if not vocab or len(vocab) < len(_read_json(path)):
        raise ToileError(f"{path}: every token needs a whole number >= 0 as its id")
    return vocab


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in _read_text(path).split("\n") if line.strip() and not line.startswith("#version")]
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines]
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2:
            raise ToileError(f"{path}, merge {number}: {' '.join(pair)!r} must be two tokens with a space between")
    return [(first, second) for first, second in pairs]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ToileError(f"{path} is missing; a tokenizer folder holds vocab.json and merges.txt") from error
    except UnicodeDecodeError as error:
        raise ToileError(f"{path} is not UTF-8 text: {error}") from error


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", newline="\n")


def _read_special(settings: dict[str, object]) -> SpecialTokens:
    """An entry is a string, or an object with "content" and "normalized"; the last entry for a token counts."""
    names: dict[str, str] = {}
    normalized: dict[str, bool] = {}
    for key, default in (("bos_token", START), ("eos_token", END), ("unk_token", END), ("pad_token", END)):
        entry = settings.get(key) or default
        if isinstance(entry, dict):
            names[key] = str(entry.get("content"))
            normalized[names[key]] = bool(entry.get("normalized"))
        else:
            names[key] = str(entry)
            normalized[names[key]] = False
    lowercased = frozenset(name for name, is_normalized in normalized.items() if is_normalized)
    return SpecialTokens(names["bos_token"], names["eos_token"], names["pad_token"], names["unk_token"], lowercased)


def _special_entry(name: str, normalized: bool) -> str | dict[str, object]:
    if not normalized:
        return name
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": name, **flags}
