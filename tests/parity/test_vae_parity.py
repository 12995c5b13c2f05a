"""Our autoencoder against diffusers', on the same random weights in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from toile.errors import ToileError
from toile.models.vae import SD15_VAE, VAE, Posterior, VAEConfig

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}
WITH_ATTENTION = VAEConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, scaling_factor=0.5, sample_size=16)
CONFIGS = {
    "attention": WITH_ATTENTION,
    "no attention": replace(
        WITH_ATTENTION, mid_block_add_attention=False, layers_per_block=1, latent_channels=8, shift_factor=0.25
    ),
}
SIZES = [(16, 16), (20, 12), (4, 28)]


def build_theirs(config: VAEConfig) -> AutoencoderKL:
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        sample_size=config.sample_size,
        scaling_factor=config.scaling_factor,
        shift_factor=config.shift_factor,
        mid_block_add_attention=config.mid_block_add_attention,
    )


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def both(request: pytest.FixtureRequest, randomize: Callable[[nn.Module], None]) -> tuple[VAE, AutoencoderKL]:
    torch.manual_seed(0)
    theirs, ours = build_theirs(request.param), VAE(request.param)
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), theirs.eval()


def some_images(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_latents_and_images_are_those_of_diffusers(both: tuple[VAE, AutoencoderKL], size: tuple[int, int]) -> None:
    ours, theirs = both
    images, shift = some_images(*size), ours.config.shift_factor or 0.0
    with torch.inference_mode():
        expected = theirs.encode(images).latent_dist
        posterior = ours.posterior(images)
        torch.testing.assert_close(posterior.mean, expected.mean, **TOLERANCE)
        torch.testing.assert_close(posterior.log_variance, expected.logvar, **TOLERANCE)
        latents = (expected.mean - shift) * theirs.config.scaling_factor
        torch.testing.assert_close(ours.encode_images(images), latents, **TOLERANCE)
        decoded = theirs.decode(expected.mean).sample
        torch.testing.assert_close(ours.decode_latents(latents), decoded, **TOLERANCE)
        assert decoded.shape == images.shape and float(decoded.std()) > 0.1
    # With gradients attention takes the other of its two paths.
    torch.testing.assert_close(ours.posterior(images).mean.detach(), expected.mean.clone(), **TOLERANCE)
    torch.testing.assert_close(ours.decode_latents(latents.clone()).detach(), decoded.clone(), **TOLERANCE)


def test_the_posterior_is_that_of_diffusers(both: tuple[VAE, AutoencoderKL]) -> None:
    ours, theirs = both
    images = some_images(8, 8)
    with torch.inference_mode():
        expected, posterior = theirs.encode(images).latent_dist, ours.posterior(images)
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(posterior.kl(), expected.kl(), rtol=1e-5, atol=1e-4)
        sampled = expected.sample(generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(posterior.sample(noise), sampled, **TOLERANCE)


def test_the_divergence_of_a_unit_gaussian_is_zero() -> None:
    zeros = torch.zeros(2, 4, 3, 3)
    assert Posterior(zeros, zeros).kl().tolist() == [0.0, 0.0]
    assert Posterior(zeros + 1, zeros).kl().tolist() == [18.0, 18.0]  # half of 36 squared means of 1


def test_sizes_that_do_not_halve_are_refused(both: tuple[VAE, AutoencoderKL]) -> None:
    with pytest.raises(ToileError, match="18x16.*multiples of 4"):
        both[0].posterior(some_images(16, 18))


def test_the_size_of_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        ours, theirs = VAE(SD15_VAE), build_theirs(SD15_VAE)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 83_653_863
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
