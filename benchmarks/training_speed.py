"""Times the U-Net's training step beside a plain loop of diffusers parts of the same size, in one run, turn by turn.

    python benchmarks/training_speed.py

Both train a U-Net (64, 128, 256) with one block a level and cross-attention at the two lower levels on latents of
4x20x16, jointly with a text encoder of 2 layers, width 192, over 16 words, in bfloat16 autocast with AdamW, batch 64,
on random latents and words made before the clock starts. Ours is the loop that `toile train` runs, with two averages of
the weights; theirs is what one would write from the parts, without compilation and without averages.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from interleaved import time_interleaved
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.unet import UNet, UNetConfig
from toile.training.loop import LoopConfig, Record, train
from toile.training.objective import Loss
from toile.weights.files import write_json_atomically

OURS, THEIRS = "toile", "diffusers parts"
WIDTHS, TEXT_WIDTH, NUM_WORDS, VOCABULARY = (64, 128, 256), 192, 16, 1024
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
UP = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
LATENTS = (4, 20, 16)
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Batch:
    """latents, noise: (B, 4, 20, 16); words: (B, 16) int64; timesteps: (B,) int64."""

    latents: Tensor
    noise: Tensor
    words: Tensor
    timesteps: Tensor


def random_batch(batch_size: int) -> Batch:
    """One batch that all steps share."""
    return Batch(
        torch.randn(batch_size, *LATENTS),
        torch.randn(batch_size, *LATENTS),
        torch.randint(VOCABULARY, (batch_size, NUM_WORDS)),
        torch.randint(1000, (batch_size,)),
    )


class TextToLatents(nn.Module):
    """Our two networks as the loop trains them together."""

    def __init__(self) -> None:
        super().__init__()
        text = CLIPTextConfig(
            TEXT_WIDTH,
            4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=6,
            vocab_size=VOCABULARY,
            max_position_embeddings=NUM_WORDS,
            eos_token_id=VOCABULARY - 1,
        )
        self.text_encoder = CLIPTextModel(text)
        self.unet = UNet(
            UNetConfig(
                block_out_channels=WIDTHS,
                down_block_types=DOWN,
                up_block_types=UP,
                layers_per_block=1,
                cross_attention_dim=TEXT_WIDTH,
            )
        )

    def forward(self, x_in: Tensor, timesteps: Tensor, words: Tensor) -> Tensor:
        return self.unet(x_in, timesteps, self.text_encoder(words))


class VelocityObjective:
    """v-prediction on one batch, for the loop of `toile train`."""

    def __init__(self, batch: Batch, compiled: bool) -> None:
        self.module = TextToLatents().to(memory_format=torch.channels_last)
        self._batch = batch
        self._schedule = NoiseSchedule(ScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True))
        self._network = torch.compile(self.module, dynamic=False) if compiled else self.module

    def batch(self, examples: range) -> Batch:
        return self._batch

    def loss(self, batch: Batch, step: int) -> Loss:
        x_in = self._schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
        target = self._schedule.velocity_target(batch.latents, batch.noise, batch.timesteps)
        x_in = x_in.contiguous(memory_format=torch.channels_last)
        prediction = self._network(x_in, batch.timesteps, batch.words)
        return Loss(F.mse_loss(prediction.float(), target), {})

    def validation_batches(self) -> Iterator[Batch]:
        return iter(())

    def samples(self) -> None:
        return None


def our_steps(batch: Batch, compiled: bool, folder: Path) -> Generator[Record, None, None]:
    """One update of our loop a record; nothing is validated or drawn, and saved only at the end."""
    config = LoopConfig(1_000_000, len(batch.latents), LEARNING_RATE, validate_every=0, save_every=0)
    yield from train(VelocityObjective(batch, compiled), config, folder, {})


def their_step(batch: Batch) -> Callable[[], object]:
    """One update of a plain loop a call: flow matching, as in the yardstick."""
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
        time = batch.timesteps[:, None, None, None] / 1000
        with torch.autocast("cpu", torch.bfloat16):
            states = text_encoder(embedding(batch.words))
            x_in = (1 - time) * batch.latents + time * batch.noise
            prediction = unet(x_in, batch.timesteps, states).sample
        loss = F.mse_loss(prediction.float(), batch.noise - batch.latents)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    torch.manual_seed(0)
    batch = random_batch(arguments.batch)
    with tempfile.TemporaryDirectory() as folder:
        with closing(our_steps(batch, not arguments.eager, Path(folder))) as records:
            steps = {OURS: lambda: next(records), THEIRS: their_step(batch)}
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
