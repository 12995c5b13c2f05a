"""How much memory pictures need, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

from dataclasses import replace

from toile.device import available_bytes
from toile.errors import ToileError
from toile.generation.noise_search import tried_together
from toile.generation_settings import GenerationSettings
from toile.latent_diffusion import LatentDiffusion
from toile.models.autoencoders import AutoencoderConfig
from toile.models.bands import BAND_POSITIONS, pictures_together
from toile.models.pixel_space import PixelSpaceConfig
from toile.models.unet import UNetConfig

_MARGIN = 1.25
_WIDEST = 12  # the gated feed-forward holds 8 times the width, attention and the residual path the rest
_MAPS = 5  # feature maps that live at once inside a residual block or its upsampling, with the scratch of convolutions
_MAPS_OF_BAND = 12  # the same, with bands in float32 beside
_MAPS_OF_ATTENTION = 8
_MAPS_FOR_GRADIENT = 18  # what a classifier of a ranker keeps for the way back, of the width of its first level


def estimated_bytes(model: LatentDiffusion, settings: GenerationSettings) -> int:
    """Largest working memory of one batch, besides the weights.

    Four moments compete: the U-Net at its finest level while it keeps the results of the way down, with the doubled
    batch of guidance; the decoder, see `decoding_values`; a ranker that leads; and the U-Net of the upscaler, if it
    works.
    """
    unet, vae = model.unet.config, model.vae.config
    width, height = settings.final_size(vae.downsampling)
    pixels = width * height
    positions = pixels // vae.downsampling**2
    rows = max(settings.batch_size * (1 if settings.guidance == 1 else 2), tried_together(settings))
    unet_values = rows * _unet_values(unet, positions)
    if settings.upscale and model.upscaler is not None:
        _, squares_down, squares_across = model.upscaler.noise_shape
        large = settings.batch_size * _unet_values(model.upscaler.unet.config, squares_down * squares_across)
        unet_values = max(unet_values, large)
        pixels = model.upscaler.config.width * model.upscaler.config.height
    together = min(max(settings.batch_size, tried_together(settings)), pictures_together(width * height))
    decoder_values = decoding_values(vae, together, width * height, settings.vae_bands is True)
    ranker_values = 0
    if settings.classifier_guidance > 0 and model.ranker is not None:
        widths = sum(classifier.config.block_out_channels[0] for classifier in model.ranker.classifiers)
        usual = model.defaults.width * model.defaults.height // vae.downsampling**2
        seen = min(positions, usual)  # larger ones are shrunk for it
        numbers = model.ranker.dtype.itemsize / model.dtype.itemsize
        ranker_values = round(_MAPS_FOR_GRADIENT * widths * settings.batch_size * seen * numbers)
    images = settings.batch_size * pixels * 3 * 9  # float32 twice and uint8
    return round(_MARGIN * max(unet_values, decoder_values, ranker_values) * model.dtype.itemsize) + images


def _unet_values(unet: UNetConfig, positions: int) -> int:
    kept = sum(
        (unet.layers_per_block + 1) * channels * positions // 4**level
        for level, channels in enumerate(unet.block_out_channels)
    )
    return kept + _WIDEST * unet.block_out_channels[0] * positions


def decoding_values(vae: AutoencoderConfig, num_images: int, pixels: int, in_bands: bool) -> int:
    """How many numbers live at once in the decoder, besides weights and images.

    Either at its coarsest level, with attention, or at its last one, at the size of the pictures; encoding asks for no
    more. In bands, two maps of the last level and what they are enlarged from are whole, and all else is a band's.

    Args:
        vae: of the autoencoder.
        num_images: that are decoded together.
        pixels: of one of them.
        in_bands: see `GenerationSettings.vae_bands`.
    """
    if isinstance(vae, PixelSpaceConfig):
        return 3 * num_images * pixels
    finest, enlarged = (*vae.block_out_channels, vae.block_out_channels[-1])[:2]
    coarsest = _MAPS_OF_ATTENTION * vae.block_out_channels[-1] * num_images * pixels // vae.downsampling**2
    if in_bands:
        last = (2 * finest + enlarged // 4) * pixels + _MAPS_OF_BAND * enlarged * min(pixels, BAND_POSITIONS)
    else:
        last = _MAPS * enlarged * num_images * pixels
    return max(coarsest, last)


def fits_memory(model: LatentDiffusion, settings: GenerationSettings, batch_size: int) -> bool:
    """Whether a batch of this size needs no more memory than there is."""
    available = available_bytes(model.device)
    return available is None or estimated_bytes(model, replace(settings, batch_size=batch_size)) <= available


def needs_bands(model: LatentDiffusion, settings: GenerationSettings) -> bool:
    """Whether the pictures fit into memory only if the autoencoder works in bands of rows, if at all."""
    # Bands save nothing of what classifier guidance keeps, so it does not count here.
    return not fits_memory(model, replace(settings, vae_bands=False, classifier_guidance=0.0), settings.batch_size)


def check_memory(model: LatentDiffusion, settings: GenerationSettings) -> None:
    """Refuses a batch that needs more memory than there is.

    Raises:
        ToileError: with the estimate and what is available.
    """
    needed, available = estimated_bytes(model, settings), available_bytes(model.device)
    width, height = settings.final_size(model.vae.config.downsampling)
    if available is not None and needed > available:
        raise ToileError(
            f"{settings.batch_size} pictures of {width}x{height} at once need about "
            f"{needed / 1e9:,.1f} GB of memory, {available / 1e9:,.1f} GB are free on {model.device}; "
            "make them smaller or lower the batch size"
        )
