"""Times the U-Net's training step beside a plain loop of diffusers parts of the same size, in one run, turn by turn.

    python benchmarks/training_speed.py

Both train a U-Net (64, 128, 256) with one block a level and cross-attention at the two lower levels on latents of
4x20x16, jointly with a text encoder of 2 layers, width 192, over 16 words, in bfloat16 autocast with AdamW, batch 64.
Ours is the loop and the objective that `toile train` runs: captions are written and noise is drawn within the clock,
and two averages of the weights are kept. Theirs is what one would write from the parts, on one ready batch, without
compilation and without averages.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from interleaved import time_interleaved
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from toile.data.captions import CaptionWriter
from toile.data.records import Record
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.models.vae import VAE, VAEConfig
from toile.text.tokenizer import Tokenizer
from toile.training.denoising_objective import DenoisingObjective, DenoisingObjectiveConfig, TextConditionedUNet
from toile.training.loop import LoopConfig, train
from toile.training.pictures import PictureSet
from toile.training.records import Record as TrainingRecord
from toile.weights.files import write_json_atomically

OURS, THEIRS = "toile", "diffusers parts"
WIDTHS, TEXT_WIDTH, NUM_WORDS, VOCABULARY = (64, 128, 256), 192, 16, 1024
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
UP = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
LATENTS = (4, 20, 16)
NUM_PICTURES = 1024
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Words:
    """The part of a picture set that training on latents reads: records without pictures."""

    records: tuple[Record, ...]
    train: np.ndarray
    validation: np.ndarray


def our_objective(compiled: bool) -> DenoisingObjective:
    """The objective of `toile train recipes/fashion-64x80.toml` at the yardstick's size, on random latents."""
    colours, types, genders = ("Blue", "Red", "Black"), ("Shirts", "Watches", "Heels", "Jeans"), ("Men", "Women")
    records = tuple(
        Record(str(i), {"articleType": types[i % 4], "baseColour": colours[i % 3], "gender": genders[i % 2]})
        for i in range(NUM_PICTURES)
    )
    writer = CaptionWriter()
    captions = [writer.write(record, draw) for record in records for draw in range(4)]
    tokenizer = Tokenizer.train(captions, VOCABULARY, NUM_WORDS)
    text = CLIPTextConfig(
        TEXT_WIDTH,
        4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=6,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=NUM_WORDS,
        eos_token_id=tokenizer.end_id,
    )
    unet = UNetConfig(
        block_out_channels=WIDTHS,
        down_block_types=DOWN,
        up_block_types=UP,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
    )
    return DenoisingObjective(
        TextConditionedUNet(UNet(unet), CLIPTextModel(text)),
        VAE(VAEConfig(block_out_channels=(32, 32))),
        tokenizer,
        NoiseSchedule(ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True)),
        cast(PictureSet, Words(records, np.arange(NUM_PICTURES), np.arange(1))),
        torch.randn(NUM_PICTURES, *LATENTS).half(),
        DenoisingObjectiveConfig(compile=compiled),
        seed=0,
    )


def our_steps(batch_size: int, compiled: bool, folder: Path) -> Generator[TrainingRecord, None, None]:
    """One update of our loop a record; nothing is validated, drawn or saved before the end."""
    config = LoopConfig(1_000_000, batch_size, LEARNING_RATE, validate_every=0, save_every=0)
    yield from train(our_objective(compiled), config, folder, {})


def their_step(batch_size: int) -> Callable[[], object]:
    """One update of a plain loop a call: flow matching on one batch, as in the yardstick."""
    latents, noise = torch.randn(batch_size, *LATENTS), torch.randn(batch_size, *LATENTS)
    words, timesteps = torch.randint(VOCABULARY, (batch_size, NUM_WORDS)), torch.randint(1000, (batch_size,))
    unet = UNet2DConditionModel(
        sample_size=LATENTS[1:],
        in_channels=LATENTS[0],
        out_channels=LATENTS[0],
        block_out_channels=WIDTHS,
        down_block_types=DOWN,
        up_block_types=UP,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )
    embedding = nn.Embedding(VOCABULARY, TEXT_WIDTH)
    layer = nn.TransformerEncoderLayer(TEXT_WIDTH, 6, 4 * TEXT_WIDTH, dropout=0.0, activation="gelu", batch_first=True)
    text_encoder = nn.TransformerEncoder(layer, 2)
    parameters = [*unet.parameters(), *embedding.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)

    def step() -> None:
        time = timesteps[:, None, None, None] / 1000
        with torch.autocast("cpu", torch.bfloat16):
            states = text_encoder(embedding(words))
            x_in = (1 - time) * latents + time * noise
            prediction = unet(x_in, timesteps, states).sample
        loss = F.mse_loss(prediction.float(), noise - latents)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        with closing(our_steps(arguments.batch, not arguments.eager, Path(folder))) as records:
            steps = {OURS: lambda: next(records), THEIRS: their_step(arguments.batch)}
            timings = time_interleaved(steps, arguments.rounds, warmups=3)
    speeds = {name: arguments.batch / timing.median for name, timing in timings.items()}
    ratio = speeds[OURS] / speeds[THEIRS]
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batch {arguments.batch}")
    for name, timing in timings.items():
        console.print(f"{name}: {speeds[name]:.1f} pictures/s, a step {timing.describe()}")
    console.print(f"ratio {ratio:.2f}")
    if arguments.out is not None:
        facts = {name: timing.seconds for name, timing in timings.items()}
        write_json_atomically(arguments.out, {"seconds": facts, "pictures_per_second": speeds, "ratio": ratio})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--eager", action="store_true", help="ours without compilation")
    parser.add_argument("--out", type=Path, help="a JSON file for all the times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
