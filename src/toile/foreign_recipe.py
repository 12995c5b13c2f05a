"""What other programs write into their pictures, read as far as it means something here.

The A1111 web UI (and its forks) writes a text `parameters`, in JPEG and WebP files as EXIF user comment; Fooocus the
same or JSON under that name; InvokeAI JSON `invokeai_metadata`, formerly `sd-metadata`; ComfyUI JSON `prompt`, its
graph of nodes. A picture made from this on another model or another program's noise is a relative of the original, no
copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from toile.diffusion.samplers import find_sampler
from toile.errors import ToileError
from toile.picture_recipe import read_texts

_USER_COMMENT, _EXIF_FOLDER = 0x9286, 0x8769
_SCHEDULES_WITH_KARRAS = ("karras", "exponential_karras")
# Names that differ from ours, A1111's and diffusers' by more than case and signs.
_SAMPLER_NAMES = {
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "euler_a": "euler_ancestral",
    "k_euler": "euler",
    "k_euler_a": "euler_ancestral",
    "k_heun": "heun",
    "k_lms": "lms",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_2m_k": "dpmpp_2m_karras",
    "dpmpp_2m_sde_k": "dpmpp_2m_sde_karras",
    "euler_k": "euler_karras",
    "heun_k": "heun_karras",
    "lms_k": "lms_karras",
    "pndm": "plms",
}


@dataclass(frozen=True)
class ForeignRecipe:
    """How another program says it made a picture.

    Attributes:
        program: "A1111", "Fooocus", "InvokeAI" or "ComfyUI".
        prompt, negative: the texts, as written there.
        seed: None if it is not told.
        settings: of `GenerateRequest`, by name: width, height, steps, guidance, guidance_rescale, sampler, strength.
        unused: what was told and has no counterpart here, as "name: value".
    """

    program: str
    prompt: str
    negative: str
    seed: int | None
    settings: Mapping[str, Any]
    unused: tuple[str, ...]


def read_foreign_recipe(path: Path) -> ForeignRecipe:
    """Reads what another program wrote into a picture.

    Raises:
        ToileError: no picture, or none that such a program left its settings in.
    """
    texts = read_texts(path)
    comment = _user_comment(path)
    if comment:
        texts.setdefault("parameters", comment)
    readers: tuple[tuple[str, Callable[[str], ForeignRecipe | None]], ...] = (
        ("invokeai_metadata", _from_invoke),
        ("sd-metadata", _from_old_invoke),
        ("parameters", _from_parameters),
        ("prompt", _from_comfy),
    )
    for name, reader in readers:
        if name in texts and (recipe := reader(texts[name])) is not None:
            return recipe
    raise ToileError(
        f"{path} holds no settings; pictures straight from A1111, Fooocus, InvokeAI and ComfyUI do, "
        "pictures sent through chats and web sites usually lost them"
    )


class _Settings:
    """Collects settings, and what could not be used."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.unused: list[str] = []

    def number(self, name: str, value: Any, kind: type[int] | type[float]) -> None:
        try:
            if value not in (None, ""):
                self.found[name] = kind(value)
        except (TypeError, ValueError, OverflowError):
            self.unused.append(f"{name}: {value}")

    def size(self, width: Any, height: Any) -> None:
        self.number("width", width, int)
        self.number("height", height, int)

    def sampler(self, name: Any, schedule: Any = None) -> None:
        if not name:
            return
        plain = str(name).lower().replace(" ", "_")
        known = _SAMPLER_NAMES.get(plain, str(name))
        if str(schedule or "").lower() in _SCHEDULES_WITH_KARRAS and not known.lower().endswith("karras"):
            known += " Karras"
            schedule = None
        try:
            find_sampler(known)
        except ToileError:
            self.unused.append(f"sampler: {name}")
        else:
            self.found["sampler"] = known
        if schedule and str(schedule).lower() not in ("karras", "automatic", "normal"):
            self.unused.append(f"schedule: {schedule}")

    def recipe(self, program: str, prompt: Any, negative: Any) -> ForeignRecipe:
        seed = self.found.pop("seed", None)
        texts = (str(prompt or "").strip(), str(negative or "").strip())
        return ForeignRecipe(program, *texts, seed, self.found, tuple(self.unused))


# ------------------------------------------------------------------------------------------------ A1111 and Fooocus

_ENTRY = re.compile(r'\s*([\w][\w \-/]*?):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')


def _from_parameters(text: str) -> ForeignRecipe | None:
    if text.lstrip().startswith("{"):
        return _from_fooocus(text)
    prompt, negative, entries = _split_parameters(text)
    if "Steps" not in entries:
        return None
    settings = _Settings()
    settings.number("seed", entries.pop("Seed", None), int)
    settings.number("steps", entries.pop("Steps"), int)
    settings.number("guidance", entries.pop("CFG scale", None), float)
    settings.number("guidance_rescale", entries.pop("CFG Rescale φ", None), float)
    settings.number("strength", entries.pop("Denoising strength", None), float)
    settings.size(*entries.pop("Size", "x").split("x", 1))
    settings.sampler(entries.pop("Sampler", None), entries.pop("Schedule type", None))
    program = "Fooocus" if str(entries.pop("Version", "")).startswith("Fooocus") else "A1111"
    settings.unused += [f"{name}: {value}" for name, value in entries.items()]
    return settings.recipe(program, prompt, negative)


def _split_parameters(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and the entries of the last line, which need not be there."""
    lines = text.strip().split("\n")
    entries = {name.strip(): _unquoted(value) for name, value in _ENTRY.findall(lines[-1])}
    if len(entries) >= 3:
        lines.pop()
    else:
        entries = {}
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:")
    return "\n".join(lines[:start]), negative, entries


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value.strip()


def _from_fooocus(text: str) -> ForeignRecipe | None:
    content = _json_object(text)
    if content is None or "prompt" not in content:
        return None
    settings = _Settings()
    settings.number("seed", content.pop("seed", None), int)
    settings.number("steps", content.pop("steps", None), int)
    settings.number("guidance", content.pop("guidance_scale", None), float)
    size = re.findall(r"\d+", str(content.pop("resolution", "")))
    if len(size) == 2:
        settings.size(*size)
    settings.sampler(content.pop("sampler", None), content.pop("scheduler", None))
    prompt, negative = content.pop("prompt"), content.pop("negative_prompt", "")
    settings.unused += [f"{name}: {value}" for name, value in content.items() if value not in ("", [], None)]
    return settings.recipe("Fooocus", prompt, negative)


# ---------------------------------------------------------------------------------------------------------- InvokeAI


def _from_invoke(text: str) -> ForeignRecipe | None:
    content = _json_object(text)
    if content is None or "positive_prompt" not in content:
        return None
    settings = _Settings()
    settings.number("seed", content.pop("seed", None), int)
    settings.number("steps", content.pop("steps", None), int)
    settings.number("guidance", content.pop("cfg_scale", None), float)
    settings.number("guidance_rescale", content.pop("cfg_rescale_multiplier", None), float)
    settings.number("strength", content.pop("strength", None), float)
    settings.size(content.pop("width", None), content.pop("height", None))
    settings.sampler(content.pop("scheduler", None))
    prompt, negative = content.pop("positive_prompt"), content.pop("negative_prompt", "")
    settings.unused += [f"{name}: {_short(value)}" for name, value in content.items() if value not in ("", [], None)]
    return settings.recipe("InvokeAI", prompt, negative)


def _from_old_invoke(text: str) -> ForeignRecipe | None:
    content = _json_object(text)
    image = content.get("image") if content is not None else None
    if not isinstance(image, dict):
        return None
    parts = image.get("prompt", "")
    prompt = ", ".join(str(part.get("prompt", "")) for part in parts) if _are_objects(parts) else str(parts)
    # The negative prompt stands in square brackets inside the prompt.
    negative = ", ".join(re.findall(r"\[([^\]]*)\]", prompt))
    settings = _Settings()
    settings.number("seed", image.get("seed"), int)
    settings.number("steps", image.get("steps"), int)
    settings.number("guidance", image.get("cfg_scale"), float)
    settings.number("strength", image.get("strength"), float)
    settings.size(image.get("width"), image.get("height"))
    settings.sampler(image.get("sampler"))
    return settings.recipe("InvokeAI", re.sub(r"\s*\[[^\]]*\]", "", prompt), negative)


# ----------------------------------------------------------------------------------------------------------- ComfyUI


def _from_comfy(text: str) -> ForeignRecipe | None:
    nodes = _json_object(text)
    if nodes is None:
        return None
    sampler = next((node for node in _inputs(nodes) if {"positive", "negative", "steps"} <= set(node)), None)
    if sampler is None:
        return None
    settings = _Settings()
    settings.number("seed", _number_of(nodes, sampler.get("seed", sampler.get("noise_seed"))), int)
    settings.number("steps", _number_of(nodes, sampler.get("steps")), int)
    settings.number("guidance", _number_of(nodes, sampler.get("cfg")), float)
    if float(_number_of(nodes, sampler.get("denoise")) or 1) < 1:
        settings.number("strength", _number_of(nodes, sampler.get("denoise")), float)
    latents = next(
        (node for node in _upstream(nodes, sampler.get("latent_image")) if {"width", "height"} <= set(node)), {}
    )
    settings.size(_number_of(nodes, latents.get("width")), _number_of(nodes, latents.get("height")))
    settings.sampler(sampler.get("sampler_name"), sampler.get("scheduler"))
    for name in ("ckpt_name", "lora_name", "vae_name"):
        settings.unused += [f"{name}: {_short(node[name])}" for node in _inputs(nodes) if name in node]
    return settings.recipe("ComfyUI", _text_of(nodes, sampler["positive"]), _text_of(nodes, sampler["negative"]))


def _inputs(nodes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for node in nodes.values():
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict):
            yield node["inputs"]


def _upstream(nodes: Mapping[str, Any], link: Any) -> Iterator[dict[str, Any]]:
    """Inputs of the node that a link [node, output] names, then of those it is made from, nearest first."""
    waiting, seen = [link], set()
    while waiting:
        link = waiting.pop(0)
        if not _is_link(link) or link[0] in seen:
            continue
        seen.add(link[0])
        node = nodes.get(link[0])
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict):
            yield node["inputs"]
            waiting += list(node["inputs"].values())


def _text_of(nodes: Mapping[str, Any], link: Any) -> str:
    for inputs in _upstream(nodes, link):
        for name in ("text", "text_g", "string", "value"):
            if isinstance(inputs.get(name), str):
                return str(inputs[name])
    return ""


def _number_of(nodes: Mapping[str, Any], value: Any) -> Any:
    """A number, or the first one that the node a link names holds."""
    if not _is_link(value):
        return value
    for inputs in _upstream(nodes, value):
        for name in ("seed", "noise_seed", "value", "int", "float", "number"):
            if isinstance(inputs.get(name), int | float):
                return inputs[name]
    return None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


# ------------------------------------------------------------------------------------------------------------- files


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _user_comment(path: Path) -> str:
    """The EXIF user comment, where JPEG and WebP files keep what PNG files have as text; "" without one."""
    with Image.open(path) as image:
        content = image.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT, b"")
    if isinstance(content, str):
        return content
    head, body = bytes(content[:8]), bytes(content[8:])
    if head.startswith(b"UNICODE"):
        # The standard leaves the byte order open; ASCII text shows it.
        return body.decode("utf-16-le" if body[1:2] == b"\0" else "utf-16-be", errors="replace")
    return (body if head.startswith(b"ASCII") else bytes(content)).decode("utf-8", errors="replace")
