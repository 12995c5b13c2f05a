r"""Prompts with choices in them, which an image's seed makes: `{red|dark green} dress`, `__colour__ dress`.

- `{one|two|three}` becomes one of its texts, each as likely as the others; they may be empty, and nest. Braces without
  `|` are text, and so are braces and `|` that belong to none.
- `__colour__` becomes a line of colour.txt in the folder of wildcards, `__shoes/heel__` one of shoes/heel.txt. Lines
  can hold choices again; blank ones and those that begin with # do not count.
- A backslash before a sign leaves it alone. It stays in the text, where the prompt grammar then leaves it out.

The k-th choice of a prompt is a function of the seed and k, so that a seed always chooses the same.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toile.errors import ToileError

MAX_NESTING = 32
MAX_LENGTH = 100_000

_SIGNS = re.compile(r"\\.|__(?P<name>[^\s_](?:[^_\n]|_(?!_))*)__|[{|}]", re.DOTALL)


@dataclass
class _Group:
    """Texts between braces, or at the outside a single one; a text is a row of strings, names and groups."""

    options: list[list[str | _Name | _Group]] = field(default_factory=lambda: [[]])


@dataclass(frozen=True)
class _Name:
    name: str


def load_wildcards(folder: Path) -> dict[str, tuple[str, ...]]:
    """What can stand for each `__name__`: the lines of every .txt file in a folder and its subfolders.

    Args:
        folder: of UTF-8 text files; subfolders are parts of names, with `/`.

    Raises:
        ToileError: no such folder, no such file in it, a file that is no text or holds no line.
    """
    if not folder.is_dir():
        raise ToileError(f"{folder} is no folder; give one with a text file for each wildcard, such as colour.txt")
    wildcards: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.rglob("*.txt")):
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
        except OSError as error:
            raise ToileError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ToileError(f"{path} is no UTF-8 text (byte {error.start})") from error
        choices = tuple(line for line in lines if line and not line.startswith("#"))
        if not choices:
            raise ToileError(f"{path} holds nothing to choose from; write one choice a line")
        wildcards[path.relative_to(folder).with_suffix("").as_posix()] = choices
    if not wildcards:
        raise ToileError(f"{folder} holds no .txt file; write for example colour.txt, with one colour a line")
    return wildcards


def has_choices(text: str, wildcards: Mapping[str, tuple[str, ...]] | None = None) -> bool:
    """Whether different seeds could make different prompts of a text."""
    return _has_choices(_parse(text), wildcards is not None)


def resolve_wildcards(text: str, seed: int, wildcards: Mapping[str, tuple[str, ...]] | None = None) -> str:
    """A prompt with all its choices made.

    Args:
        text: a prompt, usually with choices; without, it is returned as it is.
        seed: of the image, at least 0.
        wildcards: as `load_wildcards` gives them; without, `__name__` is text.

    Raises:
        ToileError: an unknown wildcard, one that leads to itself, braces too deep, or a result that is too long.
    """
    return _Resolver(seed, wildcards).text_of(text, 0)


class _Resolver:
    """Makes the choices of one prompt, in reading order."""

    def __init__(self, seed: int, wildcards: Mapping[str, tuple[str, ...]] | None) -> None:
        self.seed = seed
        self.wildcards = wildcards
        self.num_choices = 0
        self.length = 0

    def text_of(self, text: str, level: int) -> str:
        return self._joined(_parse(text).options[0], level)

    def _joined(self, items: list[str | _Name | _Group], level: int) -> str:
        if level > MAX_NESTING:
            raise ToileError(
                f"the prompt's choices are more than {MAX_NESTING} deep; does a wildcard lead back to itself?"
            )
        return "".join(self._resolved(item, level) for item in items)

    def _resolved(self, item: str | _Name | _Group, level: int) -> str:
        if isinstance(item, str):
            self.length += len(item)
            if self.length > MAX_LENGTH:
                raise ToileError(f"with its choices made the prompt has more than {MAX_LENGTH:,} characters")
            return item
        if isinstance(item, _Group):
            if len(item.options) == 1:
                return "{" + self._joined(item.options[0], level + 1) + "}"
            return self._joined(item.options[self._choose(len(item.options))], level + 1)
        if self.wildcards is None:
            return f"__{item.name}__"
        lines = self.wildcards.get(item.name.strip())
        if lines is None:
            near = difflib.get_close_matches(item.name, self.wildcards, 3, cutoff=0.4) or list(self.wildcards)[:10]
            raise ToileError(f"there is no wildcard {item.name!r}; near it: {', '.join(near)}")
        return self.text_of(lines[self._choose(len(lines))], level + 1)

    def _choose(self, num_options: int) -> int:
        key = f"toile wildcard {self.seed} {self.num_choices}".encode()
        self.num_choices += 1
        drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
        return drawn * num_options >> 64


def _parse(text: str) -> _Group:
    """The text as a tree whose root has one option; braces that are never closed are text."""
    open_groups = [_Group()]
    end = 0
    for match in _SIGNS.finditer(text):
        group = open_groups[-1]
        group.options[-1].append(text[end : match.start()])
        end = match.end()
        sign = match.group()
        if match["name"] is not None:
            group.options[-1].append(_Name(match["name"]))
        elif sign == "{":
            open_groups.append(_Group())
        elif sign == "}" and len(open_groups) > 1:
            open_groups.pop()
            open_groups[-1].options[-1].append(group)
        elif sign == "|" and len(open_groups) > 1:
            group.options.append([])
        else:
            group.options[-1].append(sign)
    open_groups[-1].options[-1].append(text[end:])
    root, *unclosed = open_groups
    for group in unclosed:
        root.options[-1].append("{")
        for number, option in enumerate(group.options):
            root.options[-1] += ["|", *option] if number else option
    return root


def _has_choices(group: _Group, with_names: bool) -> bool:
    groups = [group]
    while groups:
        for option in groups.pop().options:
            for item in option:
                if (isinstance(item, _Name) and with_names) or (isinstance(item, _Group) and len(item.options) > 1):
                    return True
                if isinstance(item, _Group):
                    groups.append(item)
    return False
