"""Training a U-Net to do in few calls what another one, the teacher, does in many: guidance first, then whole paths.

- `GuidanceDistillation`: one call in place of the two of classifier-free guidance, at any scale of a range (Meng et al.
  2023, sec. 3.1).
- `ConsistencyDistillation`: one jump in place of the steps of a sampler, with guidance (Luo et al. 2023, Alg. 1).

Shapes: B batch, C x h x w latents, L tokens, D width of text states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from toile.data.captions import CaptionWriter
from toile.diffusion.consistency import NoiseLevels, level_timesteps
from toile.diffusion.denoiser import Denoiser
from toile.diffusion.guidance import ScaledNetwork
from toile.diffusion.samplers import find_sampler
from toile.diffusion.schedule import start_latents
from toile.errors import ToileError
from toile.models.unet import UNet
from toile.training.denoising_objective import DenoisingBatch, DenoisingObjective, MixedBatch, with_trigger
from toile.training.draws import example_noise, generator, spread_places
from toile.training.objective import Loss
from toile.training.placing import brought_to, device_of

_SAMPLE_PROMPTS = 16


@dataclass(frozen=True)
class DistillationConfig:
    """What both ways have in common.

    Attributes:
        scales: the guidance scales that are learnt, from the first to the second, evenly drawn; 1 = off.
        uncond_share: share of the examples whose caption is empty.
        sample_prompts: of the pictures drawn while training; none = held-out captions.
        sample_guidance, sample_steps: of these pictures, and what the model is told to be used with.
        compile: run what learns through torch.compile (needs a C++ compiler; the first step takes minutes).
    """

    scales: tuple[float, float] = (1.0, 4.0)
    uncond_share: float = 0.05
    sample_prompts: tuple[str, ...] = ()
    sample_guidance: float = 2.0
    sample_steps: int = 4
    compile: bool = False

    def __post_init__(self) -> None:
        low, high = self.scales
        if not 0 <= low <= high < math.inf:
            raise ToileError(f"scales {low:g} to {high:g}: two guidance scales of 0 or more, the lower one first")
        if not 0 <= self.uncond_share <= 1:
            raise ToileError(f"uncond_share {self.uncond_share}: between 0 and 1")
        if self.sample_steps < 1:
            raise ToileError(f"sample_steps {self.sample_steps}: at least 1")

    @property
    def sampler(self) -> str:
        """The sampler that suits what is learnt."""
        return "dpmpp_2m"


@dataclass(frozen=True)
class GuidanceDistillationConfig(DistillationConfig):
    """How guidance is distilled.

    Attributes:
        uniform_share: share of the timesteps drawn uniformly; the others are logit-normal, see
            `DenoisingObjectiveConfig`.
    """

    uniform_share: float = 1.0
    sample_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.uniform_share <= 1:
            raise ToileError(f"uniform_share {self.uniform_share}: between 0 and 1")


@dataclass(frozen=True)
class ConsistencyConfig(DistillationConfig):
    """How paths are distilled.

    Attributes:
        levels: noise levels on a path; the teacher steps from each to the next (the skipping steps of Luo et al. 2023,
            sec. 4.3: of 1000 timesteps, 20 at once if there are 50 levels).
        segments: 1 = what is learnt jumps to the end of the path, from any level, for the sampler "lcm" with any few
            steps. More = the path is cut into so many parts, and it jumps to the end of its part, for "ddim" with as
            many steps (Heek et al. 2024, "Multistep Consistency Models"): easier to learn, and no noise is added.
        huber: errors far below it, in units of the latents, count by their squares, those far above by their length
            (Song & Dhariwal 2024, sec. 3.3); None = squares.
    """

    levels: int = 50
    segments: int = 1
    huber: float | None = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 2 or self.segments < 1 or self.levels % self.segments or self.levels == self.segments:
            raise ToileError(
                f"levels {self.levels}, segments {self.segments}: give at least 2 levels, a multiple of the segments, "
                "and more than these"
            )
        if self.huber is not None and not self.huber > 0:
            raise ToileError(f"huber {self.huber}: above 0, or left out")
        if self.segments > 1 and self.sample_steps != self.segments:
            raise ToileError(f"sample_steps {self.sample_steps} must be the number of segments, {self.segments}")

    @property
    def sampler(self) -> str:
        """The sampler that suits what is learnt."""
        return "lcm" if self.segments == 1 else "ddim"


@dataclass(frozen=True)
class DistillationBatch:
    """latents, noise: (B, C, h, w); timesteps: (B,) int64; token_ids: (B, L) int64; scales: (B,) float32."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    token_ids: Tensor
    scales: Tensor


@dataclass(frozen=True)
class PathBatch(DistillationBatch):
    """timesteps, nexts, ends: (B,) int64, of a point on a path, of the next level and of the end of its segment.

    answers: (B, C, h, w), the estimates that lead to the ends at which the teacher arrives step by step; held out only.
    """

    nexts: Tensor
    ends: Tensor
    answers: Tensor | None = None


class Student(Protocol):
    """x_in (B, C, h, w), timesteps (B,), text states (B, L, D), scales (B,) -> prediction (B, C, h, w)."""

    def __call__(self, x_in: Tensor, timestep: Tensor, cond: Tensor, /, *, guidance: Tensor) -> Tensor: ...


class Teacher:
    """A frozen U-Net with guidance.

    Args:
        unet: in the precision it works in; one that guides itself is told the scale.
        uncond: (1, L, D) text states of the empty prompt.
    """

    def __init__(self, unet: UNet, uncond: Tensor) -> None:
        self.unet, self.uncond = unet, uncond

    @torch.no_grad()
    def __call__(self, x_in: Tensor, timesteps: Tensor, states: Tensor, scales: Tensor) -> Tensor:
        """The guided prediction (B, C, h, w) float32, each example with its own timestep and scale (B,)."""
        dtype = self.unet.conv_in.weight.dtype
        x_in, states = x_in.to(dtype).contiguous(memory_format=torch.channels_last), states.to(dtype)
        with torch.autocast(x_in.device.type, enabled=False):  # the weights are in the precision they are to work in
            if self.unet.config.guides_itself:
                return self.unet(x_in, timesteps, states, guidance=scales).float()
            both = torch.cat([self.uncond.to(dtype).expand_as(states), states])
            found = self.unet(torch.cat([x_in, x_in]), torch.cat([timesteps, timesteps]), both)
        without, prediction = found.float().chunk(2)
        return without + scales.view(-1, 1, 1, 1) * (prediction - without)


class GuidanceDistillation:
    """Mean squared error between a network that is told the scale and the guided teacher (Meng et al. 2023, eq. 7).

    The error is of what the networks predict, as in the teacher's own training.

    Args:
        examples: latents, captions and noise; its networks are the student and the frozen text encoder.
        teacher: what is to be learnt.
    """

    def __init__(
        self, examples: DenoisingObjective, teacher: Teacher, config: GuidanceDistillationConfig | ConsistencyConfig
    ) -> None:
        self.examples, self.teacher, self.config = examples, teacher, config
        self.module = examples.networks.unet
        if not self.module.config.guides_itself:
            raise ToileError("the U-Net that learns must be told the scale: set its time_cond_proj_dim")
        self._compiled: Student = torch.compile(self.module, dynamic=False) if config.compile else self.module

    def batch(self, examples: range) -> DistillationBatch:
        """Pictures, captions and noise as when a teacher is trained, and a scale that depends on the number alone."""
        found = self._one_shape(self.examples.batch(examples))
        return DistillationBatch(**vars(found), scales=self._scales([self._draw("scale", n) for n in examples]))

    def loss(self, batch: DistillationBatch, step: int) -> Loss:
        """Mean over examples of the mean over latents."""
        states = self._states(batch)
        x_in = self.examples.schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
        target = self.teacher(x_in, batch.timesteps, states, batch.scales)
        prediction = self._predict(x_in, batch.timesteps, states, batch.scales)
        errors = (prediction - target).square().mean(dim=(1, 2, 3))
        return Loss(errors.mean(), {}, errors.detach())

    def validation_batches(self) -> Iterator[DistillationBatch]:
        """Held-out latents with full captions, fixed noise, evenly spread timesteps and scales."""
        first = 0
        for batch in self.examples.validation_batches():
            found = self._one_shape(batch)
            numbers = range(first, first + len(found.latents))
            # Another irrational step than that of the timesteps, so that all pairs come up.
            yield DistillationBatch(**vars(found), scales=self._scales([n * math.sqrt(2) % 1.0 for n in numbers]))
            first = numbers.stop

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Pictures (N, 3, H, W) for the sample prompts, or for up to 16 held-out captions, on fixed noise."""
        prompts = self._sample_prompts()
        shape, seed, config = self.examples.sample_shape, self.examples.seed, self.config

        def noise(draw: int) -> Tensor:
            return example_noise(seed, f"samples {draw}" if draw else "samples", range(len(prompts)), shape)

        schedule = self.examples.schedule
        cond = self.examples.networks.states(self.examples.tokenizer.batch(prompts)[0])
        denoise = Denoiser(ScaledNetwork(self.module, config.sample_guidance), schedule)
        sigmas = schedule.sampling_sigmas(config.sample_steps, "trailing")
        x = start_latents(noise(0).to(cond.device), sigmas[0])
        for step in find_sampler(config.sampler).function(lambda x, s: denoise(x, s, cond), x, sigmas, noise):
            x = step.x
        return self.examples.vae.decode_latents(x.to(self.examples.vae.dtype)).float()

    def _sample_prompts(self) -> list[str]:
        pictures, writer = self.examples.pictures, CaptionWriter()
        held_out = [pictures.records[position] for position in pictures.validation[:_SAMPLE_PROMPTS]]
        captions = [with_trigger(pictures.trigger, writer.full(record)) for record in held_out]
        return list(self.config.sample_prompts) or captions

    def _states(self, batch: DistillationBatch) -> Tensor:
        return self.examples.networks.states(batch.token_ids)

    def _predict(self, x_in: Tensor, timesteps: Tensor, states: Tensor, scales: Tensor) -> Tensor:
        """What the student predicts, float32."""
        network = self._compiled if self.module.training else self.module
        x_in = x_in.contiguous(memory_format=torch.channels_last)
        return network(x_in, timesteps, states, guidance=scales).float()

    def _scales(self, places: list[float]) -> Tensor:
        low, high = self.config.scales
        return low + (high - low) * torch.tensor(places, dtype=torch.float32)

    def _draw(self, purpose: str, example: int) -> float:
        """Uniform in [0, 1), a function of purpose and example."""
        return float(torch.rand((), generator=generator(self.examples.seed, purpose, example)))

    def _one_shape(self, batch: DenoisingBatch | MixedBatch) -> DenoisingBatch:
        assert isinstance(batch, DenoisingBatch)  # pictures in buckets were refused
        return batch


class ConsistencyDistillation(GuidanceDistillation):
    """Consistency distillation of the guided teacher (Song et al. 2023, Alg. 2; guided, Luo et al. 2023, Alg. 1).

    From a noisy picture the teacher steps to the next level; what is learnt is to say the same at both, and at the end
    of a segment what is there. The target is the student itself as it is, without gradients: an average that lags
    behind, as in both papers, only biases it (Song & Dhariwal 2024, sec. 3.2).

    The held-out loss is the distance to where the teacher arrives step by step, so it tells how good pictures are.

    Args:
        examples, teacher: as for `GuidanceDistillation`; of the examples, the timesteps are not used.
    """

    config: ConsistencyConfig

    def __init__(self, examples: DenoisingObjective, teacher: Teacher, config: ConsistencyConfig) -> None:
        super().__init__(examples, teacher, config)
        self._noise_levels = NoiseLevels(examples.schedule)
        self._timesteps = level_timesteps(examples.schedule, config.levels)
        self._held_out: list[PathBatch] = []

    def batch(self, examples: range) -> PathBatch:
        """As in guidance distillation, at one of the noise levels, each as likely as any other."""
        places = [self._draw("level", example) for example in examples]
        return self._at_levels(super().batch(examples), places)

    def loss(self, batch: DistillationBatch, step: int) -> Loss:
        """Mean over examples of the distance; held out of that to the teacher's answers."""
        assert isinstance(batch, PathBatch)
        states, levels = self._states(batch), self._noise_levels
        x_in = self.examples.schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
        target = batch.answers
        if target is None:
            target = self._target(batch, x_in, states)
        prediction = self._predict(x_in, batch.timesteps, states, batch.scales)
        errors = self._distances(levels.denoised(prediction, x_in, batch.timesteps) - target)
        return Loss(errors.mean(), {}, errors.detach())

    def validation_batches(self) -> Iterator[PathBatch]:
        """Held-out latents at evenly spread noise levels, with the teacher's answers, which are worked out once."""
        if not self._held_out:
            first = 0
            for batch in super().validation_batches():
                numbers = range(first, first + len(batch.latents))
                path = brought_to(device_of(self.module), self._at_levels(batch, spread_places(numbers)))
                self._held_out.append(replace(path, answers=self._answers(path)))
                first = numbers.stop
        yield from self._held_out

    @torch.no_grad()
    def _target(self, batch: PathBatch, x_in: Tensor, states: Tensor) -> Tensor:
        """The estimate at the timesteps that agrees with the student's at the next level, or with the end itself."""
        levels = self._noise_levels
        found = levels.denoised(self.teacher(x_in, batch.timesteps, states, batch.scales), x_in, batch.timesteps)
        x_next = levels.step(found, x_in, batch.timesteps, batch.nexts)
        inside = batch.nexts != batch.ends
        nexts = batch.nexts.where(inside, batch.timesteps)  # any timestep there is, for what is thrown away
        prediction = self._predict(x_next, nexts, states, batch.scales)
        x_end = levels.step(levels.denoised(prediction, x_next, nexts), x_next, nexts, batch.ends)
        x_end = x_end.where(inside.view(-1, 1, 1, 1), x_next)
        return levels.estimate_that_steps_to(x_end, x_in, batch.timesteps, batch.ends)

    @torch.no_grad()
    def _answers(self, batch: PathBatch) -> Tensor:
        """As `_target`, where the teacher goes all the way, level by level."""
        states, levels = self._states(batch), self._noise_levels
        start = x = self.examples.schedule.noise_latents(batch.latents, batch.noise, batch.timesteps)
        timesteps = self._timesteps.to(start.device)
        for timestep, following in zip(timesteps[:-1], timesteps[1:], strict=True):
            on_the_way = (batch.timesteps >= timestep) & (batch.ends < timestep)
            rows = on_the_way.nonzero().flatten()
            if not len(rows):
                continue
            here, there = timestep.expand(len(rows)), following.expand(len(rows))
            prediction = self.teacher(x[rows], here, states[rows], batch.scales[rows])
            x = x.index_copy(0, rows, levels.step(levels.denoised(prediction, x[rows], here), x[rows], here, there))
        return levels.estimate_that_steps_to(x, start, batch.timesteps, batch.ends)

    def _at_levels(self, batch: DistillationBatch, places: list[float]) -> PathBatch:
        numbers = torch.tensor([int(place * self.config.levels) for place in places])
        in_segment = self.config.levels // self.config.segments
        ends = (numbers // in_segment + 1) * in_segment
        rest = {**vars(batch), "timesteps": self._timesteps[numbers]}
        return PathBatch(**rest, nexts=self._timesteps[numbers + 1], ends=self._timesteps[ends])

    def _distances(self, differences: Tensor) -> Tensor:
        """(B,), in units of the latents; pseudo-Huber of the length of the whole (Song & Dhariwal 2024, eq. 8)."""
        squares = differences.square().mean(dim=(1, 2, 3))
        c = self.config.huber
        return squares if c is None else (squares + c**2).sqrt() - c
