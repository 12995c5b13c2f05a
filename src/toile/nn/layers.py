"""Linear layers, convolutions and group normalisation, each with what usually follows it.

A layer computes the same as its namesake in torch.nn and has the same parameters. What is new are the arguments for the
operation next to it: a sum (`plus`), a shift of channels, SiLU. Gradients flow through plain PyTorch. Without
gradients, on CPUs, such a pair is one kernel of oneDNN: the second operation is done while the result is still in
registers, and is rounded once instead of twice. Where these kernels are missing, everything is plain PyTorch.

Shapes: B batch, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.device import page_out

# PyTorch's own compiler calls these; they take plain and packed weights, and what is to be done to the result.
_ONEDNN = getattr(torch.ops, "mkldnn", None)
_HAS_FUSED_KERNELS = torch.backends.mkldnn.is_available() and all(
    hasattr(_ONEDNN, name) for name in ("_linear_pointwise", "_convolution_pointwise")
)
_HAS_PACKING = (
    _HAS_FUSED_KERNELS
    and hasattr(_ONEDNN, "_reorder_linear_weight")
    and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
)

_LARGE_LAYER = 2**16  # weights

# In channels_last memory, PyTorch's group normalisation is slow on CPUs for groups of fewer channels than a vector
# register holds, unless there are so many positions that it chooses another algorithm.
_NARROW_GROUP = 16
_MANY_POSITIONS = 1024


class _Packing(nn.Module):
    """Keeps a layer's weights in the memory layout that oneDNN chooses for inputs of the last size.

    Otherwise weights are brought to that layout at each call, which takes longer than the layer itself when positions
    are few.

    Attributes:
        packs: whether packed weights are kept, made at the first use without gradients. They follow changes of the
            weights, in place (but not behind autograd's back, through `.data`) or by other tensors.
        replaces: whether they take the place of the plain ones, so that no memory is needed twice: `weight` is then on
            the device "meta". They are for inputs of the first size, and become plain again whenever the layer is
            saved, copied, moved, given other weights or used in another way. Changing `weight` in place is an error.
    """

    weight: Tensor
    packs = False
    replaces = False
    can_replace = True
    _packed: tuple[tuple[Tensor, ...], list[object]] | None = None

    @property
    def keeps_packed(self) -> bool:
        """Whether it packs, and would see a change: tensors made in inference mode do not count theirs."""
        return self.packs and not self.weight.is_inference()

    def packed(
        self, weights: Sequence[Tensor], use: object, pack: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `pack` returned last for these weights and this use: shape of the input, and what tells uses apart."""
        if self._packed is not None and self.weight.is_meta:
            return self._packed[0]
        mark = [use, *[weight.data_ptr() for weight in weights], *[weight._version for weight in weights]]
        if self._packed is None or self._packed[1] != mark:  # a version counts the changes in place
            self._packed = (pack(), mark)
            if self.replaces:
                page_out(self.weight)
                self._set_weight(torch.empty_like(self.weight, device="meta"))
        return self._packed[0]

    def restore(self) -> None:
        """Makes packed weights that took the place of the plain ones plain again."""
        if self._packed is not None and self.weight.is_meta:
            self._set_weight(self._plain_weight(self._packed[0]))
            self._packed = None

    def _set_weight(self, weight: Tensor) -> None:
        with torch.inference_mode(False):
            self.weight = nn.Parameter(weight.clone() if weight.is_inference() else weight, requires_grad=False)

    def _plain_weight(self, packed: Sequence[Tensor]) -> Tensor:
        joined = torch.cat([part.to_dense() for part in packed]).view(self.weight.shape)
        return torch.empty_like(self.weight, device=joined.device).copy_(joined)  # in the memory layout it had

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Packing:
        self.restore()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, object], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._packed is not None and self.weight.is_meta:
            destination[f"{prefix}weight"] = self._plain_weight(self._packed[0])

    def _load_from_state_dict(self, *arguments: object) -> None:
        self.restore()
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict[str, object]:
        self.restore()
        return {**self.__dict__, "_packed": None}  # packed tensors can be neither copied nor pickled


class Linear(_Packing, nn.Linear):
    """torch.nn.Linear, optionally added to something: (..., in) -> (..., out)."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if not has_fused_kernels(x) or x.dtype != torch.bfloat16:  # in float32 the plain kernels are as fast
            self.restore()
            result = F.linear(x, self.weight.flatten(1), self.bias)
            return result if plus is None else plus + result
        weight = self.weight.flatten(1)
        if self.keeps_packed:
            (weight,) = self.packed([self.weight], x.shape, lambda: (_packed_matrix(weight, x),))
        fused = torch.ops.mkldnn._linear_pointwise
        if plus is None:
            return fused(x, weight, self.bias, "none", [], "none")
        return fused.binary(x, plus, weight, self.bias, "add")


def linear_together(layers: Sequence[Linear], x: Tensor) -> Sequence[Tensor]:
    """What each of several layers without bias makes of the same input; one matrix product if their weights are packed.

    Args:
        layers: of the same input width.
        x: (..., in).

    Returns:
        (..., out) of each layer.
    """
    first = layers[0]
    if first.replaces or not (first.keeps_packed and has_fused_kernels(x) and x.dtype == torch.bfloat16):
        return [layer(x) for layer in layers]
    weights = [layer.weight for layer in layers]
    (joined,) = first.packed(weights, x.shape, lambda: (_packed_matrix(torch.cat(weights), x),))
    result = torch.ops.mkldnn._linear_pointwise(x, joined, None, "none", [], "none")
    return result.split([len(weight) for weight in weights], dim=-1)


class PixelLinear(Linear):
    """A linear layer whose weights have the shape of a 1x1 convolution's, which computes the same."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight[:, :, None, None])


class GatedLinear(Linear):
    """A linear function gated by the GELU of another (GEGLU, Shazeer 2020): (..., in) -> (..., out).

    The first half of the 2 out rows of its weights is the function, the other its gate.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, 2 * out_features)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if not has_fused_kernels(x) or x.dtype != torch.bfloat16:
            self.restore()
            value, gate = F.linear(x, self.weight, self.bias).chunk(2, dim=-1)
            result = value * F.gelu(gate)
        else:
            weights = self.weight.chunk(2)
            if self.keeps_packed:
                weights = self.packed([self.weight], x.shape, lambda: tuple(_packed_matrix(w, x) for w in weights))
            value_bias, gate_bias = self.bias.chunk(2)
            fused = torch.ops.mkldnn._linear_pointwise
            gate = fused(x, weights[1], gate_bias, "gelu", [], "none")
            result = fused.binary(x, gate, weights[0], value_bias, "mul")
        return result if plus is None else plus + result


class Conv2d(_Packing, nn.Conv2d):
    """torch.nn.Conv2d with zero padding, optionally added to something: (B, in, H, W) -> (B, out, H', W')."""

    if TYPE_CHECKING:
        padding: tuple[int, ...]

    def forward(self, x: Tensor, plus: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Adds `plus` (B, out, H', W') and `shift` (1 or B, out), the same for all positions."""
        bias = self.bias
        if shift is not None and len(shift) == 1 and bias is not None:
            bias, shift = bias + shift[0], None
        result = self._convolved(x, bias, plus)
        return result if shift is None else result + shift[:, :, None, None]

    def _convolved(self, x: Tensor, bias: Tensor | None, plus: Tensor | None) -> Tensor:
        if not has_fused_kernels(x):
            self.restore()
            result = F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation, self.groups)
            return result if plus is None else plus + result
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight = self.weight
        if self.keeps_packed:
            (weight,) = self.packed([weight], x.shape, lambda: (packed_kernel(weight, x, geometry),))
        fused = torch.ops.mkldnn._convolution_pointwise
        if plus is None:
            return fused(x, weight, bias, *geometry, "none", [], "none")
        return fused.binary(x, plus, weight, bias, *geometry, "add", None, None, [], None)


def _packed_matrix(weight: Tensor, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), x.numel() // x.shape[-1])


def packed_kernel(weight: Tensor, x: Tensor, geometry: tuple[object, ...]) -> Tensor:
    """Weights of a convolution in the memory layout that oneDNN chooses for this input; geometry as it takes it."""
    reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(weight.detach().to_mkldnn(), *geometry, x.shape)


def pack_weights(network: nn.Module, max_bytes: int = 128 * 2**20) -> None:
    """Lets every layer of a network keep packed weights: beside the plain ones if these copies fit into `max_bytes`.

    In larger networks the packed weights of large layers take the place of the plain ones.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _Packing)]
    fits = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers) <= max_bytes
    for layer in layers:
        layer.packs = _HAS_PACKING and (fits or layer.weight.numel() >= _LARGE_LAYER)
        layer.replaces = layer.packs and not fits and layer.can_replace


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm (Wu & He 2018), optionally followed by SiLU: (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        if not has_fused_kernels(x):
            normalised = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
            return F.silu(normalised) if silu else normalised
        # Where the kernel for channels_last is slow, it is faster to change the memory layout to and fro.
        relaid = self._is_slow_for(x)
        x = x.contiguous() if relaid else x
        normalised = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        normalised = F.silu(normalised, inplace=True) if silu else normalised
        return normalised.contiguous(memory_format=torch.channels_last) if relaid else normalised

    def _is_slow_for(self, x: Tensor) -> bool:
        return (
            self.num_channels < self.num_groups * _NARROW_GROUP
            and x.ndim == 4
            and x.shape[-2] * x.shape[-1] < _MANY_POSITIONS
            and x.is_contiguous(memory_format=torch.channels_last)
        )


def has_fused_kernels(x: Tensor) -> bool:
    """Whether oneDNN's fused kernels may be used for a tensor: a CPU's, without gradients, uncompiled."""
    return (
        _HAS_FUSED_KERNELS
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
    )
