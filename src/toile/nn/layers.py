"""Linear layers, convolutions and group normalisation, each with what usually follows it.

A layer computes the same as its namesake in torch.nn and has the same parameters. What is new are the arguments for the
operation next to it: a sum (`plus`), a shift of channels, SiLU. Gradients flow through plain PyTorch. Without
gradients, on CPUs, such a pair is one kernel of oneDNN: the second operation is done while the result is still in
registers, and is rounded once instead of twice. Where these kernels are missing, everything is plain PyTorch.

Shapes: B batch, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.device import give_back_freed_memory, page_out

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
_MOST_LAYOUTS = 4  # of a layer's weights: for sketches, for a picture with and without guidance, for one size more

# In channels_last memory, PyTorch's group normalisation is slow on CPUs for groups of fewer channels than a vector
# register holds, unless there are so many positions that it chooses another algorithm.
_NARROW_GROUP = 16
_MANY_POSITIONS = 1024


class AdaptableLayer(nn.Module):
    """A layer with weights, which can add what a change of low rank makes of its input, and keep packed weights.

    Packed is the memory layout that oneDNN chooses for inputs of one size. Otherwise weights are brought to that
    layout at each call, which takes longer than the layer itself when positions are few.

    Attributes:
        lora: given an input, returns what is added to the result; None for nothing. See `toile.nn.lora`.
        packs: whether packed weights are kept, made at the first use without gradients. They follow changes of the
            weights, in place (but not behind autograd's back, through `.data`) or by other tensors.
        layouts: for how many uses they are kept at a time, those that were used last. Sampling goes to and fro between
            sizes: noises to choose among, a picture with and without guidance.
        replaces: whether they take the place of the plain ones, so that no memory is needed twice: `weight` is then on
            the device "meta". They are for inputs of the first size, and become plain again whenever the layer is
            saved, copied, moved, given other weights or used in another way. Changing `weight` in place is an error.
    """

    weight: Tensor
    lora: nn.Module | None
    packs = False
    layouts = 1
    replaces = False
    can_replace = True
    _packed: dict[object, tuple[Tensor, ...]]  # by use
    _packed_of: list[int]  # which weights, after how many changes
    _packed_back: tuple[Tensor, object] | None = None  # what gradients pass, see `Conv2d.packed_both_ways`

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.register_module("lora", None)
        self._packed, self._packed_of = {}, []

    @property
    def keeps_packed(self) -> bool:
        """Whether it packs, and would see a change: tensors made in inference mode do not count theirs."""
        return self.packs and not self.weight.is_inference()

    def packed(
        self, weights: Sequence[Tensor], use: object, pack: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `pack` returned for these weights and this use: shape of the input, and what tells uses apart."""
        if self._packed and self.weight.is_meta:
            return next(iter(self._packed.values()))
        of = [*[weight.data_ptr() for weight in weights], *[weight._version for weight in weights]]
        if self._packed_of != of:  # a version counts the changes in place
            self._packed, self._packed_of = {}, of
        packed = self._packed.pop(use, None) or pack()
        while len(self._packed) >= self.layouts:
            del self._packed[next(iter(self._packed))]
        self._packed[use] = packed  # the last used is the last
        if self.replaces:
            page_out(self.weight)
            self._set_weight(torch.empty_like(self.weight, device="meta"))
        return packed

    def restore(self) -> None:
        """Makes packed weights that took the place of the plain ones plain again."""
        if self._packed and self.weight.is_meta:
            self._set_weight(self._plain_weight(next(iter(self._packed.values()))))
            self._packed, self._packed_back = {}, None

    def forget_packed(self) -> None:
        """Drops what is kept of plain weights in another form, for weights that are exchanged for others.

        Weights are told apart by address and number of changes, which those of new tensors can have by chance.
        """
        self.restore()
        self._packed, self._packed_back = {}, None

    def _set_weight(self, weight: Tensor) -> None:
        with torch.inference_mode(False):
            self.weight = nn.Parameter(weight.clone() if weight.is_inference() else weight, requires_grad=False)

    def _with_change(self, x: Tensor, plus: Tensor | None) -> Tensor | None:
        """What is added to the result for an input, the change of low rank included."""
        if self.lora is None:
            return plus
        change: Tensor = self.lora(x)
        return change if plus is None else plus + change

    def _plain_weight(self, packed: Sequence[Tensor]) -> Tensor:
        joined = torch.cat([part.to_dense() for part in packed]).view(self.weight.shape)
        return torch.empty_like(self.weight, device=joined.device).copy_(joined)  # in the memory layout it had

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptableLayer:
        self.forget_packed()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, object], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._packed and self.weight.is_meta:
            destination[f"{prefix}weight"] = self._plain_weight(next(iter(self._packed.values())))

    def _load_from_state_dict(self, *arguments: object) -> None:
        self.restore()
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict[str, object]:
        self.restore()
        # Packed tensors can be neither copied nor pickled.
        return {**self.__dict__, "_packed": {}, "_packed_back": None}


class Linear(AdaptableLayer, nn.Linear):
    """torch.nn.Linear, optionally added to something: (..., in) -> (..., out)."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        plus = self._with_change(x, plus)
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
    together = first.keeps_packed and not first.replaces and has_fused_kernels(x) and x.dtype == torch.bfloat16
    if not together or any(layer.lora is not None for layer in layers):
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
        change = self._with_change(x, None)
        if not has_fused_kernels(x) or x.dtype != torch.bfloat16:
            self.restore()
            both = F.linear(x, self.weight, self.bias)
            value, gate = (both if change is None else both + change).chunk(2, dim=-1)
            result = value * F.gelu(gate)
        else:
            weights = self.weight.chunk(2)
            if self.keeps_packed:
                weights = self.packed([self.weight], x.shape, lambda: tuple(_packed_matrix(w, x) for w in weights))
            value_bias, gate_bias = self.bias.chunk(2)
            fused = torch.ops.mkldnn._linear_pointwise
            if change is None:
                gate = fused(x, weights[1], gate_bias, "gelu", [], "none")
                result = fused.binary(x, gate, weights[0], value_bias, "mul")
            else:
                of_value, of_gate = (part.contiguous() for part in change.chunk(2, dim=-1))
                gate = F.gelu(fused.binary(x, of_gate, weights[1], gate_bias, "add"))
                result = fused.binary(x, of_value, weights[0], value_bias, "add") * gate
        return result if plus is None else plus + result


class Conv2d(AdaptableLayer, nn.Conv2d):
    """torch.nn.Conv2d with zero padding, optionally added to something: (B, in, H, W) -> (B, out, H', W')."""

    if TYPE_CHECKING:
        padding: tuple[int, ...]

    def forward(self, x: Tensor, plus: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Adds `plus` (B, out, H', W') and `shift` (1 or B, out), the same for all positions."""
        plus = self._with_change(x, plus)
        bias = self.bias
        if shift is not None and len(shift) == 1 and bias is not None:
            bias, shift = bias + shift[0], None
        result = self._convolved(x, bias, plus)
        return result if shift is None else result + shift[:, :, None, None]

    def _convolved(self, x: Tensor, bias: Tensor | None, plus: Tensor | None) -> Tensor:
        if self._passes_gradients_packed(x, bias):
            result = _PackedConvolution.apply(x, bias, self)
            return result if plus is None else plus + result
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

    def _passes_gradients_packed(self, x: Tensor, bias: Tensor | None) -> bool:
        """Whether gradients go through packed weights: those of frozen layers, which need none themselves."""
        return (
            torch.is_grad_enabled()
            and self.keeps_packed
            and x.dtype == torch.bfloat16
            and x.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and not self.weight.requires_grad
            and not (bias is not None and bias.requires_grad)
            and self.groups == 1
            and self.dilation == (1, 1)
            and self.stride == (1, 1)
            and all(2 * side + 1 == length for side, length in zip(self.padding, self.kernel_size, strict=True))
        )

    def packed_both_ways(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights packed for an input (B, in, H, W), and those that bring the result's gradient back to it."""
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if self._packed_back is None:
            self.restore()
        was_plain = not self.weight.is_meta
        if was_plain:
            mark = self.weight.data_ptr(), self.weight._version
            if self._packed_back is None or self._packed_back[1] != mark:
                back = self.weight.detach().flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
                like = x.new_empty(len(x), self.out_channels, *x.shape[2:], device="meta")
                self._packed_back = packed_kernel(back, like, geometry), mark
        (ahead,) = self.packed([self.weight], x.shape, lambda: (packed_kernel(self.weight, x, geometry),))
        if was_plain and self.replaces:
            give_back_freed_memory()  # or what both kinds of packing left behind would add up
        assert self._packed_back is not None
        return ahead, self._packed_back[0]


class _PackedConvolution(torch.autograd.Function):
    """A convolution that keeps the size, by frozen weights, packed for both ways.

    The gradient of its input is the convolution of the result's gradient with the kernels turned round, inputs and
    outputs exchanged.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: Conv2d) -> Tensor:
        weight, ctx.back = layer.packed_both_ways(x)
        ctx.padding = layer.padding
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups, "none", [], "none"
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = torch.ops.mkldnn._convolution_pointwise(
            gradient, ctx.back, None, ctx.padding, (1, 1), (1, 1), 1, "none", [], "none"
        )
        return back, None, None


def _packed_matrix(weight: Tensor, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), x.numel() // x.shape[-1])


def packed_kernel(weight: Tensor, x: Tensor, geometry: tuple[object, ...]) -> Tensor:
    """Weights of a convolution in the memory layout that oneDNN chooses for this input; geometry as it takes it."""
    reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(weight.detach().to_mkldnn(), *geometry, x.shape)


def pack_weights(network: nn.Module, max_bytes: int = 128 * 2**20) -> None:
    """Lets every layer of a network keep packed weights: beside the plain ones if these copies fit into `max_bytes`.

    As many layouts of them are kept as fit, up to four. In larger networks the packed weights of large layers take the
    place of the plain ones.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, AdaptableLayer)]
    num_bytes = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    fits = num_bytes <= max_bytes
    for layer in layers:
        layer.layouts = max(1, min(_MOST_LAYOUTS, max_bytes // max(num_bytes, 1)))
        layer.packs = _HAS_PACKING and (fits or layer.weight.numel() >= _LARGE_LAYER)
        layer.replaces = layer.packs and not fits and layer.can_replace


def pack_for_gradients(network: nn.Module, max_bytes: int = 128 * 2**20) -> None:
    """Lets the frozen convolutions of a network keep packed weights for both ways, and undoes `pack_weights` for all
    other layers, which gradients pass plain.
    """
    pack_weights(network, max_bytes)
    for layer in network.modules():
        if isinstance(layer, AdaptableLayer) and (layer.weight.requires_grad or not isinstance(layer, Conv2d)):
            layer.restore()
            layer.packs = layer.replaces = False


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
