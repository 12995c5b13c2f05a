"""The assembled system: autoencoder, text encoder, tokenizer, U-Net and noise schedule, as one folder holds them.

Shapes: B batch, H x W picture, h x w latents (h = H / f), C latent channels, R rows of L tokens, D width of text
states.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from toile.device import choose_device, choose_dtype, keep_freed_memory
from toile.diffusion.schedule import NoiseSchedule, ScheduleConfig
from toile.errors import ToileError
from toile.generation_settings import MAX_SIDE, GenerationSettings, ModelSettings
from toile.model_files.reading import read_model
from toile.model_folder import (
    RANKER_FOLDER,
    SCHEDULE_NAME,
    SETTINGS_NAME,
    UPSCALER_FOLDER,
    ModelFacts,
    find_model,
    load_autoencoder,
    load_reader,
    ranker_folders,
    read_model_facts,
    read_settings,
    schedule_constants,
    text_encoder_constants,
    unet_constants,
    vae_constants,
    write_model_index,
)
from toile.models.autoencoders import Autoencoder, build_autoencoder
from toile.models.bands import pictures_together
from toile.models.clip import CLIPTextConfig, CLIPTextModel
from toile.models.learned_words import with_words
from toile.models.safety_checker import SafetyChecker, SafetyCheckerConfig
from toile.models.unet import UNet, UNetConfig
from toile.nn.layers import pack_weights
from toile.ranker import Ranker
from toile.text.encoded_prompts import EncodedPrompts, PromptForm, form_together
from toile.text.reader import PromptReader
from toile.text.rows import stack_prompts, tokenize_prompt
from toile.text.tokenizer import Tokenizer
from toile.text.word_weights import weigh_states, weigh_values
from toile.upscaler import Upscaler
from toile.weights.embedding_file import Embedding
from toile.weights.files import write_json_atomically
from toile.weights.folder import build_empty, fill_component, load_component, read_config, save_component, write_config
from toile.weights.mapping import Placement

_READ_ONCE = ("facts", "safety_checker", "upscaler", "ranker")  # from a model's files, whatever words it learns


@dataclass(frozen=True, eq=False)
class LatentDiffusion:
    """A model that turns prompts into pictures.

    Attributes:
        vae, text_encoder, unet: the networks, in one dtype and on one device; the first may be pixels themselves, see
            `toile.models.pixel_space`.
        tokenizer: turns prompts into the ids the text encoder reads.
        schedule: the noise levels the U-Net was trained with, and what it predicts.
        defaults: the settings that suit the model.
        origin: the folder, file or name it was loaded from; None for one put together in memory.
        notes: what a file did not say itself and was told from something else, a sentence each.
        embeddings: files of learned words that the tokenizer and the text encoder know besides their own.
        reader: says prompts in the words the model learnt; None leaves them as they are typed. `save` does not write
            its tables, nor the ranker that goes by them: a model that learns further learns other words.
        qualities: settings by name, between which people choose instead of the defaults.

    Raises:
        ToileError: the parts do not fit together.
    """

    vae: Autoencoder
    text_encoder: CLIPTextModel
    tokenizer: Tokenizer
    unet: UNet
    schedule: NoiseSchedule
    defaults: GenerationSettings
    origin: str | None = None
    notes: tuple[str, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    reader: PromptReader | None = None
    qualities: Mapping[str, GenerationSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unet, vae, text = self.unet.config, self.vae.config, self.text_encoder.config
        told = vae.latent_channels + 1 if self.repaints else 0  # a mask and a picture, besides the noisy latents
        pairs = (
            ("latent channels of the U-Net's input", unet.in_channels - told, "the autoencoder's", vae.latent_channels),
            ("latent channels of the U-Net's output", unet.out_channels, "the autoencoder's", vae.latent_channels),
            ("text width of the U-Net", unet.cross_attention_dim, "the text encoder's", text.hidden_size),
        )
        for one, first, other, second in pairs:
            if first != second:
                raise ToileError(f"{one} ({first}) must equal {other} ({second}): these parts belong to two models")
        if self.tokenizer.vocab_size > text.vocab_size or self.tokenizer.max_length > text.max_position_embeddings:
            raise ToileError(
                f"the tokenizer ({self.tokenizer.vocab_size} ids, rows of {self.tokenizer.max_length}) is larger than "
                f"the text encoder ({text.vocab_size} ids, rows of {text.max_position_embeddings})"
            )

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        tokenizer: Path | Tokenizer | None = None,
    ) -> LatentDiffusion:
        """Loads a model of any layout; no random weights are drawn and no code is run.

        Args:
            model: a folder in the layout of diffusers, the name of the bundled model, "fashion", or a file: an original
                one (.safetensors, .ckpt) or one of four parts, whatever its name.
            device: see `choose_device`; the choice of "auto" stands in `self.device`.
            dtype: see `choose_dtype`; the choice of "auto" stands in `self.dtype`.
            tokenizer: one, or its folder; by default the model's own, or that for a file, see `find_tokenizer`.

        Raises:
            ToileError: a part is missing, damaged or does not fit; the device is not there.
        """
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
        if chosen_device.type == "cpu":
            keep_freed_memory()
        read = _read_file if Path(model).is_file() else _read_folder
        loaded = read(model, Placement(chosen_dtype, chosen_device, torch.channels_last), tokenizer)
        for network in (loaded.unet, loaded.vae, loaded.text_encoder):
            network.eval().requires_grad_(False)
            pack_weights(network)
        return replace(loaded, origin=str(model))

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes a model folder that `load` and diffusers' StableDiffusionPipeline read; diffusers not if it works on
        pixels.

        Args:
            folder: made if absent; files of the same names are replaced.
            dtype: of the weights in the files.

        Raises:
            ToileError: a weight is not finite in `dtype`, or the disk refuses.
        """
        folder = Path(folder)
        unet, vae, text = self.unet.config, self.vae.config, self.text_encoder.config
        save_component(folder / "unet", self.unet, unet, unet_constants(unet), dtype)
        save_component(folder / "vae", self.vae, vae, vae_constants(vae), dtype)
        constants = text_encoder_constants(text)
        save_component(folder / "text_encoder", self.text_encoder, text, constants, dtype, "model.safetensors")
        self.tokenizer.save(folder / "tokenizer")
        write_config(folder / "scheduler" / SCHEDULE_NAME, self.schedule.config, schedule_constants())
        settings = ModelSettings(self.defaults, self.qualities)
        settings = settings if self._folder_of(RANKER_FOLDER) is None else settings.unranked()
        write_json_atomically(folder / SETTINGS_NAME, settings.as_json())
        write_model_index(folder)

    def settings_of(self, quality: str | None) -> GenerationSettings:
        """The settings of a quality, see `ModelSettings.of_quality`; the defaults for None."""
        return ModelSettings(self.defaults, self.qualities).of_quality(quality)

    @property
    def own_words(self) -> tuple[str, ...]:
        """The learned words of its embeddings."""
        return tuple(word for file in self.embeddings for word in file.words)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.unet.conv_in.weight.dtype

    @cached_property
    def safety_checker(self) -> SafetyChecker | None:
        """The safety checker in the model's folder, read when it is first asked for; None if there is none."""
        folder = self._folder_of("safety_checker")
        if folder is None:
            return None
        checker = load_component(folder, SafetyChecker, SafetyCheckerConfig, Placement(self.dtype, self.device))
        return checker.eval().requires_grad_(False)

    @cached_property
    def upscaler(self) -> Upscaler | None:
        """What enlarges its pictures, read from the folder when it is first asked for; None if there is none."""
        folder = self._folder_of(UPSCALER_FOLDER)
        return None if folder is None else Upscaler.load(folder, Placement(self.dtype, self.device))

    @cached_property
    def ranker(self) -> Ranker | None:
        """What leads to pictures that show what a prompt says; None if its folder has none, or no words.

        Raises:
            ToileError: it is damaged, or learnt other latents than this model's.
        """
        folder = self._folder_of(RANKER_FOLDER)
        if folder is None or self.reader is None:
            return None
        found = Ranker.load(ranker_folders(folder.parent), self.reader, Placement(self.dtype, self.device))
        channels, depth = found.classifiers[0].config.in_channels, self.vae.config.latent_channels
        if channels != depth:
            raise ToileError(
                f"{folder} looks at {channels} channels, this model's latents have {depth}: train it anew on them "
                "(vae = the model, see recipes/ranker.toml), or remove it"
            )
        return found

    def _folder_of(self, part: str) -> Path | None:
        """Of a part that not every model has."""
        if self.origin is None or Path(self.origin).is_file():
            return None
        folder = find_model(self.origin) / part
        return folder if folder.is_dir() else None

    @cached_property
    def facts(self) -> ModelFacts | None:
        """Name and content hash of the folder it was loaded from, read once; None if it was put together in memory."""
        return read_model_facts(self.origin) if self.origin is not None else None

    def in_float32(self) -> LatentDiffusion:
        """The same model in float32: read anew from its files, or converted if it has none."""
        if self.origin is not None:
            single = LatentDiffusion.load(self.origin, str(self.device), "float32", self.tokenizer.with_words({}))
            return single.with_embeddings(self.embeddings)
        vae, text_encoder, unet = copy.deepcopy((self.vae, self.text_encoder, self.unet))
        return replace(self, vae=vae.float(), text_encoder=text_encoder.float(), unet=unet.float())

    def with_embeddings(self, embeddings: Sequence[Embedding]) -> LatentDiffusion:
        """The same model, weights shared, whose prompts may hold these learned words instead of those it had.

        Raises:
            ToileError: two files have one word, or vectors are of another width than this text encoder's.
        """
        found = [(word, vectors, file) for file in embeddings for word, vectors in file.words.items()]
        width = self.text_encoder.config.hidden_size
        for word, vectors, file in found:
            if vectors.shape[1] != width:
                raise ToileError(
                    f"{file.path}: {word!r} has vectors of {vectors.shape[1]} numbers, the text encoder of this model "
                    f"reads {width}: it was learned for another family of models"
                )
        if len({word.casefold() for word, _, _ in found}) < len(found):
            raise ToileError(f"two embeddings have one word: {', '.join(sorted(word for word, _, _ in found))}")
        learned = torch.cat([vectors for _, vectors, _ in found]).to(self.device) if found else None
        other = replace(
            self,
            tokenizer=self.tokenizer.with_words({word: len(vectors) for word, vectors, _ in found}),
            text_encoder=with_words(self.text_encoder, learned),
            embeddings=tuple(embeddings),
        )
        other.__dict__.update({name: self.__dict__[name] for name in _READ_ONCE if name in self.__dict__})
        return other

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture.

        Raises:
            ToileError: width or height is no multiple of the autoencoder's downsampling.
        """
        factor = self.vae.config.downsampling
        for name, side in (("width", width), ("height", height)):
            if not 0 < side <= MAX_SIDE or side % factor:
                raise ToileError(f"{name} is {side}; allowed for this model: multiples of {factor} up to {MAX_SIDE}")
        return self.vae.config.latent_channels, height // factor, width // factor

    @property
    def repaints(self) -> bool:
        """Whether the U-Net is one for inpainting, which is told the mask and the picture around it."""
        return self.unet.config.in_channels == 2 * self.vae.config.latent_channels + 1

    def encode_images(self, images: Tensor, in_bands: bool = False) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], H and W as `latent_shape` allows -> float32 latents (B, C, h, w).

        Large pictures pass the autoencoder one after the other; `in_bands` saves memory within a picture, see `VAE`.
        """
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        parts = images.split(pictures_together(images.shape[-2] * images.shape[-1]))
        return torch.cat([self.vae.encode_images(part, in_bands).float() for part in parts])

    def prompt_form(self, prompts: Sequence[str], word_weights: str = "embedding") -> PromptForm:
        """The form that these prompts have together: as many rows as the longest needs, values if any needs them.

        Args:
            prompts: at least one text; with guidance the negative prompt is one of them.
            word_weights: see `GenerationSettings`.
        """
        return form_together([tokenize_prompt(self.tokenizer, prompt) for prompt in prompts], word_weights)

    def encode_prompts(
        self, prompts: Sequence[str], word_weights: str = "embedding", form: PromptForm | None = None
    ) -> EncodedPrompts:
        """Encodes B prompts of any content and length; what does not fit into `MAX_ROWS` rows is cut and reported.

        Args:
            prompts: B texts, in any writing, B at least 1; "" is the prompt that asks for nothing.
            word_weights: what weights do, see `GenerationSettings`.
            form: that of all prompts which meet in the U-Net; by default these prompts' own.

        Raises:
            ToileError: a weight that the prompt grammar refuses.
        """
        read = tuple(tokenize_prompt(self.tokenizer, prompt) for prompt in prompts)
        form = form or form_together(read, word_weights)
        ids, weights = stack_prompts(self.tokenizer, read, form.num_rows)
        ids, weights = ids.to(self.device), weights.to(self.device)
        states = self._encode_rows(ids)  # (B, R, L, D)
        encode_without = partial(self._encode_rows, ids)
        if word_weights == "embedding" and any(prompt.is_weighted for prompt in read):
            states = weigh_states(states, weights, encode_without)
        if form.has_values:
            states = weigh_values(states, weights, encode_without)  # (B, 2, R, L, D)
        return EncodedPrompts(states.flatten(-3, -2), tuple(prompt.cut for prompt in read), read)

    def _encode_rows(self, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, R, L) -> (B, R, L, D), each row on its own; `hidden` (B, R, L) as `CLIPTextModel` takes it."""
        states = self.text_encoder(ids.flatten(0, 1), hidden=None if hidden is None else hidden.flatten(0, 1))
        return states.unflatten(0, ids.shape[:2])

    def decode_latents(self, latents: Tensor, in_bands: bool = False) -> Tensor:
        """Latents (B, C, h, w) -> float32 images (B, 3, H, W) around [-1, 1], not clamped.

        Large pictures pass the autoencoder one after the other; `in_bands` saves memory within a picture, see `VAE`.
        """
        latents = latents.to(self.device, self.dtype, memory_format=torch.channels_last)
        pixels = latents.shape[-2] * latents.shape[-1] * self.vae.config.downsampling**2
        parts = latents.split(pictures_together(pixels))
        return torch.cat([self.vae.decode_latents(part, in_bands).float() for part in parts])


def _read_folder(model: str | Path, placement: Placement, tokenizer: Path | Tokenizer | None) -> LatentDiffusion:
    folder = find_model(model)
    unet = load_component(folder / "unet", UNet, UNetConfig, placement)
    vae = load_autoencoder(folder / "vae", placement)
    text_encoder = load_component(folder / "text_encoder", CLIPTextModel, CLIPTextConfig, placement)
    schedule = NoiseSchedule(read_config(folder / "scheduler" / SCHEDULE_NAME, ScheduleConfig))
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.load(Path(tokenizer or folder / "tokenizer"))
    settings = read_settings(folder, unet.config, vae.config)
    parts = vae, text_encoder, tokenizer, unet, schedule, settings.defaults
    return LatentDiffusion(*parts, reader=load_reader(folder), qualities=settings.qualities)


def _read_file(model: str | Path, placement: Placement, tokenizer: Path | Tokenizer | None) -> LatentDiffusion:
    parts = read_model(model, tokenizer, placement=placement)
    assert parts.tokenizer is not None
    tensors, what = parts.tensors, str(model)
    return LatentDiffusion(
        fill_component(build_empty(build_autoencoder, parts.vae), tensors["vae"], what),
        fill_component(build_empty(CLIPTextModel, parts.text_encoder), tensors["text_encoder"], what),
        parts.tokenizer,
        fill_component(build_empty(UNet, parts.unet), tensors["unet"], what),
        NoiseSchedule(parts.schedule),
        parts.default_settings.defaults,
        notes=parts.notes,
        qualities=parts.default_settings.qualities,
    )


def load(
    model: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: Path | Tokenizer | None = None,
) -> LatentDiffusion:
    """Loads a model; see `LatentDiffusion.load`."""
    return LatentDiffusion.load(model, device, dtype, tokenizer)
