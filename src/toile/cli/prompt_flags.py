"""The flags that say which words the pictures are made from: prompts, styles and wildcards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toile.errors import ToileError
from toile.text.styles import Style, apply_style, find_styles, load_styles
from toile.text.wildcards import has_choices, load_wildcards, resolve_wildcards

if TYPE_CHECKING:
    from toile.generation.request import GenerateRequest


def read_prompts(prompt: str | None, prompts_file: Path | None) -> tuple[str, ...]:
    """The prompt that was typed, or one a line of a file.

    Raises:
        ToileError: both or neither are given, or the file cannot be read or is empty.
    """
    if (prompt is None) == (prompts_file is None):
        raise ToileError('give either a prompt, for example toile generate "red dress", or --prompts-file FILE')
    if prompts_file is None:
        return (prompt or "",)
    try:
        text = prompts_file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ToileError(f"cannot read {prompts_file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ToileError(f"{prompts_file} is no UTF-8 text (byte {error.start})") from error
    prompts = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not prompts:
        raise ToileError(f"{prompts_file} holds no prompt; write one a line")
    return prompts


@dataclass(frozen=True)
class Wording:
    """What is done to prompts before pictures are made of them.

    Attributes:
        styles: applied one after the other.
        wildcards: what may stand for each name; None leaves names as they are.
    """

    styles: tuple[Style, ...]
    wildcards: Mapping[str, tuple[str, ...]] | None

    def of(self, request: GenerateRequest, default_negative: str = "") -> GenerateRequest:
        """The request in the words the pictures are made from; every image's seed makes its own choices.

        A negative prompt is one for all pictures, so its choices are made once, by the first seed.

        Args:
            request: as typed.
            default_negative: the model's, for when none was typed.
        """
        prompts = request.prompts
        for style in self.styles:
            prompts = tuple(apply_style(prompt, style.prompt) for prompt in prompts)
        request = replace(request, prompts=prompts)
        if any(has_choices(prompt, self.wildcards) for prompt in set(prompts)):
            chosen = [resolve_wildcards(image.prompt, image.seed, self.wildcards) for image in request.images()]
            request = replace(request, prompts=tuple(chosen), num_images=1)
        return replace(request, negative=self._negative(request, default_negative))

    def _negative(self, request: GenerateRequest, default: str) -> str | None:
        negative = default if request.negative is None else request.negative
        for style in self.styles:
            negative = apply_style(negative, style.negative)
        negative = resolve_wildcards(negative, request.seed, self.wildcards)
        return None if request.negative is None and negative == default else negative


def read_wording(names: Sequence[str], styles_file: Path | None, wildcards: Path | None) -> Wording:
    """What --style, --styles-file and --wildcards say.

    Raises:
        ToileError: styles without a file, unknown ones, or files that cannot be read.
    """
    if names and styles_file is None:
        raise ToileError("--style needs a file of styles: add --styles-file FILE, for example styles.csv")
    styles = find_styles({} if styles_file is None else load_styles(styles_file), names)
    return Wording(styles, None if wildcards is None else load_wildcards(wildcards))
