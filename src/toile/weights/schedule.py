"""What a file of one piece tells about the noise schedule its U-Net was trained with.

Tensors of the networks do not show it. What may: entries of the metadata, marks that some trainers leave, the schedule
itself, which original files keep as `alphas_cumprod`. Where nothing does, the family decides, and that is said.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.models.unet import UNetConfig
from toile.weights.checkpoint import Checkpoint
from toile.weights.files import WeightsError

# Stable Diffusion steps on timesteps that end in 1 (Rombach et al., configs/stable-diffusion/v1-inference.yaml).
SD_SCHEDULE = ScheduleConfig(steps_offset=1)

V_MARK, ZERO_SNR_MARK, ALPHAS = "v_pred", "ztsnr", "alphas_cumprod"
_METADATA_KEY = "modelspec.prediction_type"
_METADATA_VALUES = MappingProxyType(
    {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
)
_STEPS_OF_2_0_BASE = 875_000  # the published 512-base-ema.ckpt, which predicts noise
_TELLING_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
_TELLING_SPREAD = 0.09  # the published models that predict velocity lie above it, those that predict noise below


def metadata_of(schedule: ScheduleConfig) -> dict[str, str]:
    """What other programs look for in a file's metadata."""
    return {_METADATA_KEY: "v" if schedule.prediction_type == "v_prediction" else "epsilon"}


def infer_schedule(checkpoint: Checkpoint, unet: UNetConfig, prediction: str | None) -> tuple[ScheduleConfig, str]:
    """The schedule of a file's U-Net, and one sentence on what it was told from.

    Args:
        checkpoint: an original file.
        unet: its U-Net.
        prediction: "epsilon" or "v_prediction" where a person knows it; counts before anything in the file.

    Raises:
        WeightsError: the file keeps a schedule that is not Stable Diffusion's.
    """
    kind, source = _prediction_of(checkpoint, unet)
    if prediction is not None:
        kind, source = prediction, "as asked for"
    schedule = replace(SD_SCHEDULE, prediction_type=kind, rescale_betas_zero_snr=ZERO_SNR_MARK in checkpoint.shapes)
    if schedule.rescale_betas_zero_snr:
        schedule = replace(schedule, timestep_spacing="trailing")
    elif ALPHAS in checkpoint.shapes:
        schedule = _checked(schedule, checkpoint.load([ALPHAS])[ALPHAS], str(checkpoint.path))
    predicts = "velocity (v_prediction)" if kind == "v_prediction" else "noise (epsilon)"
    return schedule, f"the U-Net predicts {predicts}: {source}"


def _prediction_of(checkpoint: Checkpoint, unet: UNetConfig) -> tuple[str, str]:
    said = checkpoint.metadata.get(_METADATA_KEY, "").lower()
    if said in _METADATA_VALUES:
        return _METADATA_VALUES[said], "the file's metadata says so"
    if V_MARK in checkpoint.shapes:
        return "v_prediction", f"the file has the mark {V_MARK!r}"
    if not unet.use_linear_projection:
        return "epsilon", "all of Stable Diffusion 1.x does"
    if unet.in_channels != unet.out_channels:
        return "epsilon", "the inpainting models of Stable Diffusion 2.x do"
    if checkpoint.global_step == _STEPS_OF_2_0_BASE:
        return "epsilon", f"it had {_STEPS_OF_2_0_BASE:,} steps of training, as Stable Diffusion 2.0 base"
    doubt = "nothing in the file says it; if pictures are mere texture, convert with the other --prediction"
    if _TELLING_BIAS in checkpoint.shapes:
        bias = checkpoint.load([_TELLING_BIAS])[_TELLING_BIAS].float()
        kind = "v_prediction" if float(bias.std(correction=0)) > _TELLING_SPREAD else "epsilon"
        return kind, f"told from the spread of one bias, as in the published models of Stable Diffusion 2.x ({doubt})"
    return "v_prediction", f"taken to be Stable Diffusion 2.x at 768 pixels ({doubt})"


def _checked(schedule: ScheduleConfig, alphas: Tensor, where: str) -> ScheduleConfig:
    """The schedule that fits the one in the file: the usual one, or that with a last step of pure noise."""
    given = alphas.double().flatten()
    zero_snr = replace(schedule, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for candidate in (schedule, zero_snr):
        expected = NoiseSchedule(candidate).alphas_cumprod
        if expected.shape == given.shape and float((expected - given).abs().max()) < 1e-3:
            return candidate
    raise WeightsError(
        f"{where}: its noise schedule ({ALPHAS}, {given.numel()} steps) is not Stable Diffusion's; convert it to a "
        "folder with the program that made it, and load that"
    )
