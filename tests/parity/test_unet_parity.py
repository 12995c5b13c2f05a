"""Our U-Net against diffusers', on the same random weights in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel
from torch import Tensor, nn

from toile.models.unet import SD15_UNET, UNet, UNetConfig

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}
SD1_LIKE = UNetConfig(
    block_out_channels=(8, 16, 16),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=4,
    sample_size=16,
)
SD2_LIKE = replace(SD1_LIKE, attention_head_dim=(1, 2, 4), use_linear_projection=True)
OURS_LIKE = UNetConfig(
    in_channels=8,
    out_channels=8,
    block_out_channels=(8, 16, 24),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=(1, 2, 3),
    norm_num_groups=4,
    norm_eps=1e-4,
    sample_size=(20, 16),
)
CONFIGS = {"sd1": SD1_LIKE, "sd2": SD2_LIKE, "ours": OURS_LIKE}
SELF_GUIDED = replace(OURS_LIKE, time_cond_proj_dim=32)
SIZES = [(16, 16), (17, 13), (5, 20)]


def build_theirs(config: UNetConfig) -> UNet2DConditionModel:
    # diffusers takes (height, width), but writes the same for a square; its other defaults are Stable Diffusion's.
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        down_block_types=config.down_block_types,
        up_block_types=config.up_block_types,
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.attention_head_dim,
        use_linear_projection=config.use_linear_projection,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
        sample_size=config.sample_size,
        time_cond_proj_dim=config.time_cond_proj_dim,
        num_class_embeds=config.num_class_embeds,
    )


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def both(request: pytest.FixtureRequest, randomize: Callable[[nn.Module], None]) -> tuple[UNet, UNet2DConditionModel]:
    torch.manual_seed(0)
    theirs, ours = build_theirs(request.param), UNet(request.param)
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), theirs.eval()


def inputs(config: UNetConfig, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    x_in = torch.randn(2, config.in_channels, *size, generator=draws)
    return x_in, torch.tensor([0, 801]), torch.randn(2, 7, config.cross_attention_dim, generator=draws)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_predictions_are_those_of_diffusers(both: tuple[UNet, UNet2DConditionModel], size: tuple[int, int]) -> None:
    ours, theirs = both
    x_in, timestep, cond = inputs(ours.config, size)
    with torch.inference_mode():
        expected = theirs(x_in, timestep, cond).sample
        torch.testing.assert_close(ours(x_in, timestep, cond), expected, **TOLERANCE)
    # With gradients attention takes the other of its two paths.
    torch.testing.assert_close(ours(x_in, timestep, cond).detach(), expected.clone(), **TOLERANCE)
    assert float(expected.std()) > 0.1


def test_gradients_are_those_of_diffusers(both: tuple[UNet, UNet2DConditionModel]) -> None:
    ours, theirs = both
    x_in, timestep, cond = inputs(ours.config, (9, 7))
    found, expected = (
        torch.autograd.grad(prediction.square().mean(), list(model.parameters()))
        for model, prediction in ((ours, ours(x_in, timestep, cond)), (theirs, theirs(x_in, timestep, cond).sample))
    )
    order = [name for name, _ in theirs.named_parameters()]
    by_name = dict(zip(order, expected, strict=True))
    for (name, _), gradient in zip(ours.named_parameters(), found, strict=True):
        torch.testing.assert_close(gradient, by_name[name], rtol=1e-3, atol=1e-5, msg=name)


def test_timesteps_between_two_whole_ones(both: tuple[UNet, UNet2DConditionModel]) -> None:
    ours, theirs = both
    x_in, _, cond = inputs(ours.config, (8, 8))
    timestep = torch.tensor([250.5, 998.25])
    with torch.inference_mode():
        torch.testing.assert_close(ours(x_in, timestep, cond), theirs(x_in, timestep, cond).sample, **TOLERANCE)


def test_predictions_of_a_network_that_guides_itself_are_those_of_diffusers(
    randomize: Callable[[nn.Module], None],
) -> None:
    torch.manual_seed(0)
    theirs, ours = build_theirs(SELF_GUIDED), UNet(SELF_GUIDED)
    assert not ours.time_embedding.cond_proj.weight.any(), "what is told of the scale counts nothing at first"
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x_in, timestep, cond = inputs(SELF_GUIDED, (9, 7))
    scales, told = torch.tensor([1.0, 3.25]), LatentConsistencyModelPipeline.get_guidance_scale_embedding
    with torch.inference_mode():
        features = told(None, scales - 1, embedding_dim=32)  # as the pipeline calls it, with w = s - 1
        expected = theirs(x_in, timestep, cond, timestep_cond=features).sample
        found = ours(x_in, timestep, cond, guidance=scales)
        torch.testing.assert_close(found, expected, **TOLERANCE)
        torch.testing.assert_close(ours(x_in, timestep, cond)[:1], expected[:1], **TOLERANCE)  # untold is 1
        assert not torch.allclose(ours(x_in, timestep, cond)[1:], expected[1:], atol=1e-2)


def test_classes_are_told_as_diffusers_tells_them(randomize: Callable[[nn.Module], None]) -> None:
    config = replace(OURS_LIKE, num_class_embeds=5)
    torch.manual_seed(0)
    theirs, ours = build_theirs(config).eval(), UNet(config).eval()
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x_in, timestep, cond = inputs(config, (9, 7))
    with torch.inference_mode():
        predictions = [ours(x_in, timestep, cond, torch.tensor(labels)) for labels in ([4, 0], [4, 3])]
        expected = theirs(x_in, timestep, cond, class_labels=torch.tensor([4, 0])).sample
    torch.testing.assert_close(predictions[0], expected, **TOLERANCE)
    torch.testing.assert_close(predictions[0][0], predictions[1][0], **TOLERANCE)
    assert float((predictions[0][1] - predictions[1][1]).abs().max()) > 0.1


def test_the_size_of_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        ours, theirs = UNet(SD15_UNET), build_theirs(SD15_UNET)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 859_520_964
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
