"""Fixtures that every test folder may use, and how tests are shared out among processes."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.upscaler import Upscaler, UpscalerConfig

NUM_PICTURES = 90
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30), "black": (20, 20, 20)}
SHAPES = {
    "bar": (slice(2, 14), slice(6, 10)),
    "belt": (slice(6, 10), slice(1, 15)),
    "box": (slice(4, 12), slice(4, 12)),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay in one process, where they share what their fixtures make; so do those of the cluster,
    because a machine has one.
    """
    for item in items:
        folder = item.path.parent
        item.add_marker(pytest.mark.xdist_group(str(folder if folder.name == "cluster" else item.path)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the published data sets: TOILE_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("TOILE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "fashion-product-images-small.zip").exists():
        pytest.skip(f"no published data in {folder}; set TOILE_DATA to the folder of fashion-product-images-small.zip")
    return folder


def build_tiny_model() -> LatentDiffusion:
    """A model of random weights with all the parts of a real one: 4x downsampling, v-prediction, zero terminal SNR."""
    torch.manual_seed(0)
    captions = ["navy blue checked shirt for men", "red floral dress for women", "black leather belt"] * 20
    tokenizer = Tokenizer.train(captions, vocab_size=560, max_length=16)
    text = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=16,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )
    unet = UNetConfig(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=(8, 6),
    )
    vae = VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.5)
    schedule = ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return LatentDiffusion(
        VAE(vae),
        CLIPTextModel(text),
        tokenizer,
        UNet(unet),
        NoiseSchedule(schedule),
        GenerationSettings(width=24, height=32, steps=3, guidance=2.0, sampler="ddim", batch_size=4),
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random float32 weights; do not change it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_model().save(folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LatentDiffusion:
    """The model of `tiny_folder` in float32 on the CPU; do not change it."""
    return LatentDiffusion.load(tiny_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def enlarging_folder(tiny_folder: Path, tiny_model: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an upscaler of random weights, from 24x32 to 48x80 in two steps; do not change it."""
    folder = tmp_path_factory.mktemp("enlarging") / "tiny"
    shutil.copytree(tiny_folder, folder)
    unet = UNetConfig(
        in_channels=24,
        out_channels=12,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        num_class_embeds=4,
    )
    config = UpscalerConfig(
        small_width=24, small_height=32, left=2, right=22, width=48, height=80, residual_std=0.3, steps=2
    )
    torch.manual_seed(0)
    Upscaler(UNet(unet), NoiseSchedule(tiny_model.schedule.config), config).save(folder / "upscaler", torch.float32)
    return folder


def write_picture_folder(folder: Path) -> Path:
    """90 pictures of 16x16, a coloured shape on white with some noise, each with a caption file.

    They are BMP files, because another version of a codec would change their bytes and so the split.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        colour, shape = list(COLOURS)[number % 4], list(SHAPES)[number // 4 % 3]
        pixels = np.full((16, 16, 3), 255, dtype=np.uint8)
        pixels[SHAPES[shape]] = COLOURS[colour]
        pixels[SHAPES[shape]] += rng.integers(0, 30, pixels[SHAPES[shape]].shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.bmp")
        (folder / f"{number}.txt").write_text(f"{colour} {shape}\n{shape} in {colour}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_folder(tmp_path_factory.mktemp("pictures") / "data")


_PRODUCT = {"gender": "Men", "masterCategory": "Apparel", "articleType": "Shirts", "baseColour": "Red"}


@pytest.fixture(scope="session")
def write_products(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Iterable[tuple[np.ndarray, Mapping[str, str]]]], Path]:
    """Writes (H, W, 3) uint8 pixels, each with what its product differs in from a red shirt for men, as a folder with
    a table; gives the folder.
    """

    def write(products: Iterable[tuple[np.ndarray, Mapping[str, str]]]) -> Path:
        folder = tmp_path_factory.mktemp("products")
        (folder / "images").mkdir()
        with (folder / "styles.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["id", *_PRODUCT, "usage", "productDisplayName"])
            table.writeheader()
            for number, (pixels, fields) in enumerate(products):
                Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
                usual = {**_PRODUCT, "usage": "Casual", "productDisplayName": f"product {number}"}
                table.writerow({"id": number, **usual, **fields})
        return folder

    return write
