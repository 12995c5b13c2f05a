"""The sizes of the networks in a file, told from the shapes of its tensors.

Shapes do not show everything. Where they do not, the family does: Stable Diffusion 1.x has 8 heads a level, 2.x heads
of width 64, all of them 32 groups in every group norm, and OpenAI's or OpenCLIP's text encoder with heads of width 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from toile.models.clip import CLIPTextConfig
from toile.models.unet import UNetConfig
from toile.models.vae import VAEConfig
from toile.weights import four_parts
from toile.weights.files import WeightsError
from toile.weights.names import CLIP_ROOT, OPEN_CLIP_ROOT, VAE_ROOT, UNetNames

Shapes = Mapping[str, tuple[int, ...]]

SD1_HEADS = 8
HEAD_WIDTH = 64
NUM_GROUPS = 32
SD_SCALING_FACTOR = 0.18215
SD_LATENT_CHANNELS = 4
_OPEN_CLIP_H = (1024, 24)  # width and layers of the whole text tower that Stable Diffusion 2.x was trained with


def infer_unet(shapes: Shapes, names: UNetNames, where: str) -> UNetConfig:
    """The config of a U-Net.

    Args:
        shapes: name -> sizes of the file's tensors.
        names: how the file calls them.
        where: the file, for messages.

    Raises:
        WeightsError: tensors are missing, or it is no U-Net of Stable Diffusion 1.x or 2.x.
    """
    root = names.root
    norm, proj_in, to_k = (
        names.transformer.get(leaf, leaf) for leaf in ("norm", "proj_in", "transformer_blocks.0.attn2.to_k")
    )
    levels: list[tuple[int, int, bool]] = []  # width, layers, transformers
    width, layers, attends = 0, 0, False
    for block in (f"{root}{names.down}.{number}" for number in count(1)):
        conv = f"{block}.0.{names.resnet['conv1']}.weight"
        if conv in shapes:
            has_transformer = f"{block}.1.{norm}.weight" in shapes
            if layers and (shapes[conv][0], has_transformer) != (width, attends):
                raise WeightsError(f"{where}: {block} is unlike the block before it; no U-Net of this family is so")
            width, layers, attends = shapes[conv][0], layers + 1, has_transformer
            continue
        levels.append((width, layers, attends))
        layers = 0
        if f"{block}{names.downsample}.weight" not in shapes:
            break
    if len({layers for _, layers, _ in levels}) != 1 or not levels[0][1]:
        raise WeightsError(f"{where}: the levels of its U-Net have {[n for _, n, _ in levels]} layers; must be equal")
    if any("transformer_blocks.1." in name for name in shapes if name.startswith(root)):
        raise WeightsError(f"{where}: several transformer blocks a level; only Stable Diffusion 1.x and 2.x are read")
    middle = f"{root}{names.middle}.1"
    linear = len(_shape(shapes, f"{middle}.{proj_in}.weight", where)) == 2
    widths = tuple(width for width, _, _ in levels)
    _check_widths(widths, NUM_GROUPS, where, "U-Net")
    if linear:
        _check_widths(widths, HEAD_WIDTH, where, "U-Net")
    return UNetConfig(
        in_channels=_shape(shapes, f"{root}{names.down}.0.0.weight", where)[1],
        out_channels=_shape(shapes, f"{root}{names.conv}.weight", where)[0],
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for _, _, a in levels),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for _, _, a in reversed(levels)),
        layers_per_block=levels[0][1],
        cross_attention_dim=_shape(shapes, f"{middle}.{to_k}.weight", where)[1],
        attention_head_dim=tuple(width // HEAD_WIDTH for width in widths) if linear else SD1_HEADS,
        use_linear_projection=linear,
        norm_num_groups=NUM_GROUPS,
    )


def infer_vae(shapes: Shapes, where: str) -> VAEConfig:
    """The config of an autoencoder in an original file; see `infer_unet`."""
    block = VAE_ROOT + "encoder.down.{}.block.{}.conv1.weight"
    widths: list[int] = []
    while block.format(len(widths), 0) in shapes:
        widths.append(shapes[block.format(len(widths), 0)][0])
    layers = next(layer for layer in count() if block.format(0, layer) not in shapes)
    return _vae_config(
        tuple(widths),
        layers,
        _shape(shapes, f"{VAE_ROOT}encoder.conv_in.weight", where)[1],
        _shape(shapes, f"{VAE_ROOT}decoder.conv_out.weight", where)[0],
        _shape(shapes, f"{VAE_ROOT}post_quant_conv.weight", where)[0],
        f"{VAE_ROOT}encoder.mid.attn_1.norm.weight" in shapes,
        where,
    )


def infer_four_part_vae(shapes: Shapes, where: str) -> VAEConfig:
    """The config of an autoencoder whose layers are counted through: level after level, then the middle."""
    conv, norm = four_parts.VAE_RESNET["conv1"], four_parts.VAE_ATTENTION["group_norm"]
    widths: list[int] = []
    layers = [0]
    for number in count(1):
        if f"encoder.{number}.{norm}.weight" in shapes:
            break
        if f"encoder.{number}.{conv}.weight" in shapes:
            layers[-1] += 1
        else:
            widths.append(_shape(shapes, f"encoder.{number}.weight", where)[0])
            layers.append(0)
    widths.append(_shape(shapes, f"encoder.{number}.{norm}.weight", where)[0])
    layers[-1] -= 1  # the first block of the middle
    if len(set(layers)) != 1:
        raise WeightsError(f"{where}: the levels of its encoder have {layers} layers; must be equal")
    last = max((int(n.split(".")[1]) for n in shapes if n.startswith("decoder.") and n.count(".") == 2), default=0)
    return _vae_config(
        tuple(widths),
        layers[0],
        _shape(shapes, "encoder.0.weight", where)[1],
        _shape(shapes, f"decoder.{last}.weight", where)[0],
        _shape(shapes, "decoder.0.weight", where)[0],
        True,
        where,
    )


def infer_text(shapes: Shapes, where: str) -> CLIPTextConfig:
    """The config of the text encoder in an original file, of transformers' or of OpenCLIP's names.

    Of OpenCLIP, Stable Diffusion 2.x uses all layers but the last: where the file has that one, it is not counted.
    """
    if is_open_clip(shapes):
        layer = OPEN_CLIP_ROOT + "transformer.resblocks.{}"
        layers = _count(shapes, layer + ".ln_1.weight")
        vocab_size, width = _shape(shapes, f"{OPEN_CLIP_ROOT}token_embedding.weight", where)[:2]
        whole = f"{OPEN_CLIP_ROOT}text_projection" in shapes or (width, layers) == _OPEN_CLIP_H
        return _text_config(
            vocab_size,
            _shape(shapes, f"{OPEN_CLIP_ROOT}positional_embedding", where)[0],
            width,
            _shape(shapes, layer.format(0) + ".mlp.c_fc.weight", where)[0],
            layers - 1 if whole else layers,
            "gelu",
            where,
        )
    root = CLIP_ROOT + "text_model."
    return _text_config(
        _shape(shapes, f"{root}embeddings.token_embedding.weight", where)[0],
        _shape(shapes, f"{root}embeddings.position_embedding.weight", where)[0],
        _shape(shapes, f"{root}embeddings.position_embedding.weight", where)[-1],
        _shape(shapes, f"{root}encoder.layers.0.mlp.fc1.weight", where)[0],
        _count(shapes, root + "encoder.layers.{}.layer_norm1.weight"),
        "quick_gelu",
        where,
    )


def infer_four_part_text(shapes: Shapes, where: str) -> CLIPTextConfig:
    """The config of the text encoder in a four-part file."""
    return _text_config(
        _shape(shapes, "clip.embedding.token_embedding.weight", where)[0],
        _shape(shapes, "clip.embedding.position_embedding", where)[0],
        _shape(shapes, "clip.embedding.position_embedding", where)[-1],
        _shape(shapes, f"clip.layers.0.{four_parts.CLIP_LAYER['mlp.fc1']}.weight", where)[0],
        _count(shapes, "clip.layers.{}.layernorm_1.weight"),
        "quick_gelu",
        where,
    )


def is_open_clip(shapes: Shapes) -> bool:
    """Whether an original file's text encoder has the names of OpenCLIP."""
    return any(name.startswith(OPEN_CLIP_ROOT) for name in shapes)


def _vae_config(
    widths: tuple[int, ...], layers: int, inputs: int, outputs: int, latents: int, attention: bool, where: str
) -> VAEConfig:
    if not widths or not layers:
        raise WeightsError(f"{where} has no autoencoder, or one of unknown names")
    _check_widths(widths, NUM_GROUPS, where, "autoencoder")
    if latents != SD_LATENT_CHANNELS:
        raise WeightsError(
            f"{where}: an autoencoder of {latents} latent channels; the scale of its latents cannot be told from a "
            f"file, only that of Stable Diffusion's {SD_LATENT_CHANNELS} channels is known. Use its folder instead"
        )
    return VAEConfig(
        in_channels=inputs,
        out_channels=outputs,
        latent_channels=latents,
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=NUM_GROUPS,
        mid_block_add_attention=attention,
        scaling_factor=SD_SCALING_FACTOR,
    )


def _text_config(
    vocab_size: int, positions: int, width: int, hidden: int, layers: int, activation: str, where: str
) -> CLIPTextConfig:
    _check_widths((width,), HEAD_WIDTH, where, "text encoder")
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=hidden,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        hidden_act=activation,
        vocab_size=vocab_size,
        max_position_embeddings=positions,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )


def _check_widths(widths: tuple[int, ...], unit: int, where: str, what: str) -> None:
    if any(width % unit for width in widths):
        raise WeightsError(
            f"{where}: the {what} has widths {list(widths)}; in files that do not say their config they must be "
            f"multiples of {unit}, as in Stable Diffusion. Use its folder instead"
        )


def _count(shapes: Shapes, name: str) -> int:
    return next(number for number in count() if name.format(number) not in shapes)


def _shape(shapes: Shapes, name: str, where: str) -> tuple[int, ...]:
    if name not in shapes or not 1 <= len(shapes[name]) <= 4:
        raise WeightsError(f"{where}: {name} is missing, from which the size of the network is told")
    return shapes[name]
