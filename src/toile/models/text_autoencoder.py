"""A plain autoencoder of pictures, and a map from words to its codes: no noise, one picture for each text.

Nothing shapes the space of the codes, so the map can only learn the mean code of all pictures that a text fits.
Shapes: B pictures, H x W their size, K width of the code, D width of the words.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.models.picture_code import PictureDecoder, PictureEncoder, smallest_size
from toile.nn.layers import Linear


@dataclass(frozen=True)
class TextAutoencoderConfig:
    """Size of the network.

    Attributes:
        sample_size: height and width of the pictures.
        words_dim: D.
        code_dim: K.
        hidden_dim: width of the hidden layer between words and code.
        block_out_channels: channels of each level, see `toile.models.picture_code`.
    """

    sample_size: tuple[int, int]
    words_dim: int
    code_dim: int
    hidden_dim: int
    block_out_channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if min(self.words_dim, self.code_dim, self.hidden_dim, *self.sample_size) < 1 or not self.block_out_channels:
            raise ToileError(f"{self}: sizes, widths and the number of levels must be at least 1")
        smallest_size(self.sample_size, self.block_out_channels)

    @property
    def noise_dim(self) -> int:
        """0: the words alone decide."""
        return 0


class WordsToCode(nn.Module):
    """One hidden layer."""

    def __init__(self, config: TextAutoencoderConfig) -> None:
        super().__init__()
        self.hidden = Linear(config.words_dim, config.hidden_dim)
        self.out = Linear(config.hidden_dim, config.code_dim)

    def forward(self, words: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        return self.out(F.silu(self.hidden(words)))


class TextAutoencoder(nn.Module):
    """Encoder and decoder of pictures, and what makes codes of words."""

    def __init__(self, config: TextAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PictureEncoder(config.sample_size, config.block_out_channels, config.code_dim)
        self.decoder = PictureDecoder(config.sample_size, config.block_out_channels, config.code_dim)
        self.words_to_code = WordsToCode(config)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> codes (B, K)."""
        return self.encoder(images)

    def encode_words(self, words: Tensor) -> Tensor:
        """Words (B, D) -> codes (B, K)."""
        return self.words_to_code(words)

    def decode_code(self, codes: Tensor) -> Tensor:
        """Codes (B, K) -> images (B, 3, H, W) in [-1, 1]."""
        return self.decoder(codes)

    def decode(self, noise: Tensor, words: Tensor) -> Tensor:
        """Words (B, D) -> images (B, 3, H, W) in [-1, 1]; the noise (B, 0) has no numbers."""
        return self.decode_code(self.encode_words(words))
