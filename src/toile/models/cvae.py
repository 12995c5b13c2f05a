"""A conditional variational autoencoder: pictures from a few numbers of noise and the words of a prompt.

Kingma & Welling 2014, "Auto-encoding variational Bayes"; Sohn et al. 2015, "Learning structured output representation
using deep conditional generative models". Encoder and decoder both see the words.
Shapes: B pictures, H x W their size, N latent numbers, D width of the words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.models.picture_code import PictureDecoder, PictureEncoder, smallest_size
from toile.nn.layers import Linear

_LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class ConditionalVAEConfig:
    """Size of the network.

    Attributes:
        sample_size: height and width of the pictures.
        words_dim: D.
        latent_dim: N.
        hidden_dim: width of the one hidden layer on each side of linear layers; of convolutions, that of what the
            words, and the words with the latent numbers, become to steer the blocks.
        block_out_channels: channels of each level of convolutions, see `toile.models.picture_code`; none for linear
            layers over all values of a picture at once.
    """

    sample_size: tuple[int, int]
    words_dim: int
    latent_dim: int
    hidden_dim: int
    block_out_channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.words_dim, self.latent_dim, self.hidden_dim, *self.sample_size) < 1:
            raise ToileError(f"{self}: sizes and widths must be at least 1")
        if self.block_out_channels:
            smallest_size(self.sample_size, self.block_out_channels)

    @property
    def noise_dim(self) -> int:
        """N: a picture is made of noise of the latent numbers' width."""
        return self.latent_dim

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        return 3, *self.sample_size


@dataclass(frozen=True, eq=False)
class CodePosterior:
    """q(z | picture, words), a Gaussian of independent numbers: mean and log_variance, (B, N)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, N) -> a draw (B, N), differentiable (Kingma & Welling 2014, sec. 2.4)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """(B,) divergence from the standard normal in nats (Kingma & Welling 2014, app. B)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(dim=1)


class LinearPictureEncoder(nn.Module):
    """Picture and words, as one row of numbers -> hidden -> mean and log variance."""

    def __init__(self, config: ConditionalVAEConfig) -> None:
        super().__init__()
        height, width = config.sample_size
        self.hidden = Linear(3 * height * width + config.words_dim, config.hidden_dim)
        self.out = Linear(config.hidden_dim, 2 * config.latent_dim)

    @property
    def last_bias(self) -> Tensor:
        """(2 N,)."""
        return self.out.bias

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """(B, 3, H, W), (B, D) -> (B, 2 N)."""
        return self.out(F.relu(self.hidden(torch.cat([images.flatten(1), words.to(images.dtype)], dim=1))))


class LinearPictureDecoder(nn.Module):
    """Latent numbers and words -> hidden -> all values of the picture."""

    def __init__(self, config: ConditionalVAEConfig) -> None:
        super().__init__()
        self.shape = config.picture_shape
        height, width = config.sample_size
        # Apart, so that each starts with weights for its own width: beside many words few numbers would not be heard,
        # and the encoder would make them much larger than the prior does.
        self.from_noise = Linear(config.latent_dim, config.hidden_dim)
        self.from_words = Linear(config.words_dim, config.hidden_dim, bias=False)
        self.out = Linear(config.hidden_dim, 3 * height * width)

    def forward(self, noise: Tensor, words: Tensor) -> Tensor:
        """(B, N), (B, D) -> (B, 3, H, W) in [-1, 1]."""
        hidden = F.relu(self.from_noise(noise) + self.from_words(words))
        return torch.tanh(self.out(hidden)).view(-1, *self.shape)


class ConvolutionalPictureEncoder(nn.Module):
    """`PictureEncoder`, whose blocks the words steer."""

    def __init__(self, config: ConditionalVAEConfig) -> None:
        super().__init__()
        self.words = Linear(config.words_dim, config.hidden_dim)
        self.picture = PictureEncoder(
            config.sample_size, config.block_out_channels, 2 * config.latent_dim, config.hidden_dim
        )

    @property
    def last_bias(self) -> Tensor:
        """(2 N,)."""
        return self.picture.to_code.bias

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """(B, 3, H, W), (B, D) -> (B, 2 N)."""
        return self.picture(images, F.silu(self.words(words)))


class ConvolutionalPictureDecoder(nn.Module):
    """`PictureDecoder`, whose code is made of latent numbers and words."""

    def __init__(self, config: ConditionalVAEConfig) -> None:
        super().__init__()
        self.from_noise = Linear(config.latent_dim, config.hidden_dim)
        self.from_words = Linear(config.words_dim, config.hidden_dim, bias=False)
        self.picture = PictureDecoder(config.sample_size, config.block_out_channels, config.hidden_dim)

    def forward(self, noise: Tensor, words: Tensor) -> Tensor:
        """(B, N), (B, D) -> (B, 3, H, W) in [-1, 1]."""
        return self.picture(F.silu(self.from_noise(noise) + self.from_words(words)))


class ConditionalVAE(nn.Module):
    """Encoder q(z | picture, words) and decoder p(picture | z, words)."""

    def __init__(self, config: ConditionalVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: LinearPictureEncoder | ConvolutionalPictureEncoder
        self.decoder: LinearPictureDecoder | ConvolutionalPictureDecoder
        if config.block_out_channels:
            self.encoder, self.decoder = ConvolutionalPictureEncoder(config), ConvolutionalPictureDecoder(config)
        else:
            self.encoder, self.decoder = LinearPictureEncoder(config), LinearPictureDecoder(config)

    @torch.no_grad()
    def narrow_posterior(self, log_variance: float = -4.0) -> None:
        """Starts a fresh network with a narrow posterior.

        From a wide one it learns to be heard above the noise by means much larger than those of the prior, which takes
        thousands of steps to unlearn; noise from the prior would until then call up but the average picture.
        """
        self.encoder.last_bias[self.config.latent_dim :] = log_variance

    def posterior(self, images: Tensor, words: Tensor) -> CodePosterior:
        """Images (B, 3, H, W) in [-1, 1], words (B, D) -> what the latent numbers may be."""
        mean, log_variance = self.encoder(images, words).float().chunk(2, dim=1)
        return CodePosterior(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))

    def decode(self, noise: Tensor, words: Tensor) -> Tensor:
        """Latent numbers (B, N), standard normal for a new picture, and words (B, D) -> (B, 3, H, W) in [-1, 1]."""
        return self.decoder(noise, words)
