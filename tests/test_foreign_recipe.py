"""Settings that other programs leave in their pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from toile.errors import ToileError
from toile.foreign_recipe import read_foreign_recipe

A1111 = """a (red:1.3) dress,
on a hanger
Negative prompt: blurry, text
two lines
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 18446744073709551615, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.45, Lora hashes: "a: 1, b: 2", \
Clip skip: 2, Version: v1.10.1"""

FOOOCUS = {
    "prompt": "red dress",
    "negative_prompt": "",
    "resolution": "(896, 1152)",
    "steps": 30,
    "guidance_scale": 4.0,
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "42",
    "base_model": "juggernaut",
}

INVOKE = {
    "positive_prompt": "red dress",
    "negative_prompt": "blue",
    "width": 512,
    "height": 640,
    "seed": 7,
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0.2,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "model": {"name": "sd15"},
}

OLD_INVOKE = {
    "model": "stable diffusion",
    "image": {
        "prompt": [{"prompt": "red dress [blue]", "weight": 1.0}],
        "steps": 50,
        "cfg_scale": 7.5,
        "seed": 9,
        "sampler": "k_euler_a",
        "width": 512,
        "height": 512,
    },
}

COMFY = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "red dress", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["9", 0], "clip": ["1", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "seed": ["8", 0],
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "uni_pc",
            "scheduler": "sgm_uniform",
            "denoise": 1.0,
            "model": ["1", 0],
            "positive": ["7", 0],
            "negative": ["3", 0],
            "latent_image": ["4", 0],
        },
    },
    "7": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["2", 0], "width": ["8", 0]}},
    "8": {"class_type": "PrimitiveNode", "inputs": {"value": 5}},
    "9": {"class_type": "PrimitiveString", "inputs": {"string": "blurry"}},
}


def png(folder: Path, **texts: str) -> Path:
    chunks = PngInfo()
    for name, text in texts.items():
        chunks.add_itxt(name.replace("_", "-") if name == "sd_metadata" else name, text)
    Image.new("RGB", (8, 8)).save(folder / "picture.png", pnginfo=chunks)
    return folder / "picture.png"


def test_a1111(tmp_path: Path) -> None:
    recipe = read_foreign_recipe(png(tmp_path, parameters=A1111))
    assert recipe.program == "A1111"
    assert recipe.prompt == "a (red:1.3) dress,\non a hanger"
    assert recipe.negative == "blurry, text\ntwo lines"
    assert recipe.seed == 2**64 - 1
    assert recipe.settings == {
        "steps": 25,
        "guidance": 6.5,
        "strength": 0.45,
        "width": 512,
        "height": 768,
        "sampler": "DPM++ 2M Karras",
    }
    assert "Clip skip: 2" in recipe.unused
    assert "Lora hashes: a: 1, b: 2" in recipe.unused


@pytest.mark.parametrize("order", ["le", "be"])
def test_a1111_in_jpeg(tmp_path: Path, order: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(f"utf-16-{order}")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.jpg", exif=exif)
    recipe = read_foreign_recipe(tmp_path / "picture.jpg")
    assert recipe.seed == 2**64 - 1
    assert recipe.negative == "blurry, text\ntwo lines"


def test_fooocus(tmp_path: Path) -> None:
    recipe = read_foreign_recipe(png(tmp_path, parameters=json.dumps(FOOOCUS)))
    assert (recipe.program, recipe.prompt, recipe.seed) == ("Fooocus", "red dress", 42)
    assert recipe.settings["sampler"] == "dpmpp_2m_sde Karras"
    assert (recipe.settings["width"], recipe.settings["height"]) == (896, 1152)
    assert recipe.unused == ("base_model: juggernaut",)


def test_invoke(tmp_path: Path) -> None:
    recipe = read_foreign_recipe(png(tmp_path, invokeai_metadata=json.dumps(INVOKE)))
    assert (recipe.program, recipe.negative, recipe.seed) == ("InvokeAI", "blue", 7)
    assert recipe.settings["sampler"] == "dpmpp_2m_karras"
    assert recipe.settings["guidance_rescale"] == 0.2
    assert recipe.unused == ('model: {"name": "sd15"}',)


def test_old_invoke(tmp_path: Path) -> None:
    recipe = read_foreign_recipe(png(tmp_path, sd_metadata=json.dumps(OLD_INVOKE)))
    assert (recipe.prompt, recipe.negative, recipe.seed) == ("red dress", "blue", 9)
    assert recipe.settings["sampler"] == "euler_ancestral"


def test_comfy_through_its_graph(tmp_path: Path) -> None:
    recipe = read_foreign_recipe(png(tmp_path, prompt=json.dumps(COMFY)))
    assert (recipe.program, recipe.prompt, recipe.negative, recipe.seed) == ("ComfyUI", "red dress", "blurry", 5)
    assert recipe.settings == {"steps": 20, "guidance": 8.0, "width": 512, "height": 768, "sampler": "unipc"}
    assert recipe.unused == ("schedule: sgm_uniform", "ckpt_name: sd15.safetensors")


def test_a_graph_that_goes_in_circles_ends(tmp_path: Path) -> None:
    nodes = json.loads(json.dumps(COMFY))
    nodes["2"]["inputs"] = {"text": ["7", 0]}
    assert read_foreign_recipe(png(tmp_path, prompt=json.dumps(nodes))).prompt == ""


def test_settings_that_mean_nothing_here_are_named(tmp_path: Path) -> None:
    text = "red\nSteps: many, Sampler: Restart, CFG scale: 7, Seed: 1, Size: 512x512"
    recipe = read_foreign_recipe(png(tmp_path, parameters=text))
    assert recipe.settings == {"guidance": 7.0, "width": 512, "height": 512}
    assert recipe.unused == ("steps: many", "sampler: Restart")


@pytest.mark.parametrize(
    "texts", [{}, {"parameters": "just words"}, {"prompt": "{"}, {"prompt": "[1]"}, {"prompt": "{}"}]
)
def test_pictures_without_settings_are_refused(tmp_path: Path, texts: dict[str, str]) -> None:
    with pytest.raises(ToileError, match="holds no settings"):
        read_foreign_recipe(png(tmp_path, **texts))
    with pytest.raises(ToileError, match="absent"):
        read_foreign_recipe(tmp_path / "absent.png")
