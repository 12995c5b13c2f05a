"""Networks of the baselines: sizes, shapes, and that both sides see the words."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from toile.errors import ToileError
from toile.models.cvae import CodePosterior, ConditionalVAE, ConditionalVAEConfig
from toile.models.text_autoencoder import TextAutoencoder, TextAutoencoderConfig

LINEAR = ConditionalVAEConfig((16, 8), words_dim=6, latent_dim=3, hidden_dim=10)
CONVOLUTIONS = ConditionalVAEConfig((16, 8), words_dim=6, latent_dim=3, hidden_dim=10, block_out_channels=(8, 24))
AUTOENCODER = TextAutoencoderConfig((16, 8), words_dim=6, code_dim=5, hidden_dim=10, block_out_channels=(8, 24))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_linear_layers_have_fifty_million_parameters_at_the_products_size() -> None:
    with torch.device("meta"):
        network = ConditionalVAE(ConditionalVAEConfig((80, 64), words_dim=192, latent_dim=8, hidden_dim=1616))
    values, words, latent, hidden = 3 * 80 * 64, 192, 8, 1616
    encoder = (values + words + 1) * hidden + (hidden + 1) * 2 * latent
    decoder = (latent + words + 1) * hidden + (hidden + 1) * values
    assert num_parameters(network) == encoder + decoder == 50_321_456


def test_convolutions_need_a_few_million() -> None:
    widths = (24, 48, 96, 192)
    with torch.device("meta"):
        cvae = ConditionalVAE(ConditionalVAEConfig((80, 64), 192, 64, 128, widths))
        autoencoder = TextAutoencoder(TextAutoencoderConfig((80, 64), 192, 128, 512, widths))
    assert 3e6 < num_parameters(cvae) < 5e6 and 3e6 < num_parameters(autoencoder) < 5e6


@pytest.mark.parametrize("config", [LINEAR, CONVOLUTIONS], ids=["linear", "convolutions"])
def test_encoder_and_decoder_both_see_the_words(config: ConditionalVAEConfig) -> None:
    torch.manual_seed(0)
    network = ConditionalVAE(config)
    images, words, noise = torch.rand(4, 3, 16, 8) * 2 - 1, torch.randn(4, 6), torch.randn(4, 3)
    posterior, made = network.posterior(images, words), network.decode(noise, words)
    assert posterior.mean.shape == posterior.log_variance.shape == noise.shape
    assert made.shape == images.shape and float(made.detach().abs().max()) <= 1
    other = words.roll(1, dims=0)
    for before, after in (
        (posterior.mean, network.posterior(images, other).mean),
        (made, network.decode(noise, other)),
        (made, network.decode(-noise, words)),
        (posterior.mean, network.posterior(-images, words).mean),
    ):
        assert float((before - after).detach().abs().amax(dim=tuple(range(1, before.ndim))).min()) > 1e-4
    torch.testing.assert_close(network.decode(noise[2:3], words[2:3]), made[2:3])


@pytest.mark.parametrize("config", [LINEAR, CONVOLUTIONS], ids=["linear", "convolutions"])
def test_a_narrow_start_leaves_the_means(config: ConditionalVAEConfig) -> None:
    torch.manual_seed(0)
    network = ConditionalVAE(config)
    images, words = torch.rand(4, 3, 16, 8) * 2 - 1, torch.randn(4, 6)
    before = network.posterior(images, words)
    network.narrow_posterior(-4.0)
    after = network.posterior(images, words)
    assert torch.equal(after.mean, before.mean)
    assert float(after.log_variance.detach().mean()) == pytest.approx(-4.0, abs=0.5)


def test_kl_and_draws_of_a_known_posterior() -> None:
    posterior = CodePosterior(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(4)]]))
    expected = [0.0, 0.5 * 9 + 0.5 * (4 - 1 - math.log(4))]
    torch.testing.assert_close(posterior.kl(), torch.tensor(expected))
    torch.testing.assert_close(posterior.sample(torch.tensor([[1.0, -1.0]])), torch.tensor([[1.0, -1.0], [4.0, -2.0]]))


def test_the_text_autoencoder_has_no_noise() -> None:
    torch.manual_seed(0)
    network = TextAutoencoder(AUTOENCODER)
    images, words = torch.rand(3, 3, 16, 8) * 2 - 1, torch.randn(3, 6)
    assert AUTOENCODER.noise_dim == 0
    assert network.encode_images(images).shape == network.encode_words(words).shape == (3, 5)
    made = network.decode(torch.empty(3, 0), words)
    assert torch.equal(made, network.decode_code(network.encode_words(words))) and made.shape == images.shape


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"block_out_channels": (8, 12)}, "multiples of 8"),
        ({"block_out_channels": (8,) * 4}, "multiples of 16"),
        ({"words_dim": 0}, "at least 1"),
    ],
)
def test_wrong_sizes_are_named(changes: dict[str, object], named: str) -> None:
    for config_class, given in (
        (ConditionalVAEConfig, {"latent_dim": 3}),
        (TextAutoencoderConfig, {"code_dim": 3, "block_out_channels": (8,)}),
    ):
        with pytest.raises(ToileError, match=named):
            config_class(**{"sample_size": (24, 8), "words_dim": 6, "hidden_dim": 4, **given, **changes})  # type: ignore[arg-type]
