"""Changes of low rank to a network's layers: LoRA (Hu et al. 2022) and DoRA (Liu et al. 2024), without file formats.

A change can be merged into the weights, or attached: the layer then adds what the change makes of its input. Attached
is exact in every precision; merging rounds to that of the weights, in bfloat16 more coarsely than most changes are
large. Detaching leaves the layers as they were, bit for bit.

Shapes: r rank, `in` and `out` widths of a layer, k side of a convolution's kernel.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toile.errors import ToileError
from toile.nn.layers import AdaptableLayer, Conv2d


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of one layer's weights: `W + (alpha / r) B A` (Hu et al. 2022, eq. 3).

    With a magnitude it is DoRA's, `m (W + (alpha / r) B A) / ||W + (alpha / r) B A||`, the norm over what
    each output is made from (Liu et al. 2024, eq. 5).

    Attributes:
        down: A, (r, in); of a convolution (r, in, k, k).
        up: B, (out, r); of a convolution (out, r, 1, 1).
        alpha: the change is multiplied by alpha / r.
        magnitude: m, (out,); None for LoRA.

    Raises:
        ToileError: these do not belong together.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    def __post_init__(self) -> None:
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        if len(down) not in (2, 4) or up != (up[0], down[0], *[1] * (len(down) - 2)):
            raise ToileError(
                f"down {list(down)} and up {list(up)} are no pair; they must be (r, in, ...) and (out, r, ...)"
            )
        if not math.isfinite(self.alpha):
            raise ToileError(f"alpha is {self.alpha}; it must be a number")
        if self.magnitude is not None and tuple(self.magnitude.shape) != up[:1]:
            raise ToileError(
                f"the magnitude is {list(self.magnitude.shape)}; it must be ({up[0]},), one for each output"
            )

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the layer: (out, in) or (out, in, k, k)."""
        return (self.up.shape[0], *self.down.shape[1:])

    def difference(self, weight: Tensor) -> Tensor:
        """What is added to `weight`, (out, in) or (out, in, k, k): float32, of the same shape."""
        product = (self.up.float().flatten(1) @ self.down.float().flatten(1)) * self.scale
        if self.magnitude is None:
            return product.view(weight.shape)
        plain = weight.float().flatten(1)
        return (with_magnitude(plain + product, self.magnitude.float()) - plain).view(weight.shape)


def with_magnitude(weight: Tensor, magnitude: Tensor) -> Tensor:
    """Rows (out, in) of the given lengths (out,); their own lengths get no gradient (Liu et al. 2024, sec. 4.3)."""
    lengths = weight.detach().norm(dim=1)
    return weight * (magnitude / lengths)[:, None]


# ------------------------------------------------------------------------------------------------- attached to a layer


class LowRankSum(nn.Module):
    """`up(down(x))`, what a change of low rank adds to a layer's result; its scale is in `up` already, or given.

    Args:
        down, up: as in `LowRank`.
        layer: the layer, for the geometry of a convolution.
        scale: of the result.
    """

    def __init__(self, down: Tensor, up: Tensor, layer: AdaptableLayer, scale: float = 1.0) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.scale = scale
        self._apply_down = _like(layer)
        self._is_convolution = isinstance(layer, Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self._apply_down(x, self.down.to(x.dtype)) * self.scale
        up = self.up.to(x.dtype)
        return F.conv2d(hidden, up) if self._is_convolution else F.linear(hidden, up.flatten(1))


class WeightSum(nn.Module):
    """What a change of any rank adds to a layer's result: the input through the difference of the weights."""

    def __init__(self, difference: Tensor, layer: AdaptableLayer) -> None:
        super().__init__()
        self.difference = nn.Parameter(difference)
        self._apply_weight = _like(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_weight(x, self.difference.to(x.dtype))


class MagnitudeSum(nn.Module):
    """What DoRA adds to a layer's result, while its three parts learn.

    Args:
        down, up: as in `LowRank`.
        layer: the layer, whose weights are read at every call, but do not learn.
        scale: of `up @ down`.
    """

    def __init__(self, down: Tensor, up: Tensor, layer: AdaptableLayer, scale: float) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.magnitude = nn.Parameter(layer.weight.detach().float().flatten(1).norm(dim=1))
        self.scale = scale
        self._weight_of: Callable[[], Tensor] = lambda: layer.weight.detach()  # not a module of this one
        self._apply_weight = _like(layer)

    def forward(self, x: Tensor) -> Tensor:
        change = LowRank(self.down, self.up, self.scale * len(self.down), self.magnitude)
        return self._apply_weight(x, change.difference(self._weight_of()).to(x.dtype))


class Together(nn.Module):
    """The sum of several changes of one layer."""

    def __init__(self, changes: Sequence[nn.Module]) -> None:
        super().__init__()
        self.changes = nn.ModuleList(changes)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.changes[0](x)
        for change in self.changes[1:]:
            total = total + change(x)
        return total


def _like(layer: AdaptableLayer) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of input and weights that does what the layer does, without bias."""
    if isinstance(layer, Conv2d):
        stride, padding = layer.stride, layer.padding
        return lambda x, weight: F.conv2d(x, weight, None, stride, padding)
    return lambda x, weight: F.linear(x, weight.flatten(1))


# ------------------------------------------------------------------------------------------------------------ networks


def adaptable_layers(network: nn.Module) -> dict[str, AdaptableLayer]:
    """The layers that can be changed, by their paths: all linear layers and convolutions that are ours."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AdaptableLayer)}


class Adaptation:
    """Changes of a network's layers, prepared once, in force while `applied` is open.

    Args:
        network: the network.
        changes: for each path of a layer its changes, each with a strength: 0 is none, 1 the whole change, between them
            and beyond in proportion.

    Raises:
        ToileError: no such layer, or a change of another shape.
    """

    def __init__(self, network: nn.Module, changes: Mapping[str, Sequence[tuple[LowRank, float]]]) -> None:
        layers = adaptable_layers(network) if changes else {}
        self._attached: list[tuple[AdaptableLayer, nn.Module]] = []
        with torch.inference_mode(False), torch.no_grad():
            for path, of_layer in changes.items():
                layer = find_layer(layers, path, of_layer)
                counting = [(change, strength) for change, strength in of_layer if strength]
                if counting:
                    self._attached.append((layer, _attachment(layer, counting)))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While it is open, the layers add their changes. It opens only where nothing is attached."""
        for layer, change in self._attached:
            assert layer.lora is None, "changes are attached already"
            layer.lora = change
        try:
            yield
        finally:
            for layer, _ in self._attached:
                layer.lora = None


class LearningChanges(nn.Module):
    """Changes that learn, attached to layers for good; the layers themselves are frozen.

    A is drawn from a Gaussian of variance 1 / r^2, B is zero, so that at first nothing changes.

    Args:
        layers: by their paths.
        rank: r.
        alpha: as in `LowRank`.
        generator: of A, in the order of the paths.
        magnitude: DoRA instead of LoRA.
    """

    def __init__(
        self,
        layers: Mapping[str, AdaptableLayer],
        rank: int,
        alpha: float,
        generator: torch.Generator,
        *,
        magnitude: bool = False,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.of_layers = nn.ModuleDict()  # by paths with / for the points, which names may not hold
        kind = MagnitudeSum if magnitude else LowRankSum
        for path, layer in layers.items():
            layer.requires_grad_(False)
            out, *rest = layer.weight.shape
            down = torch.randn(rank, *rest, generator=generator) / rank
            up = torch.zeros(out, rank, *[1] * (len(rest) - 1))
            change = kind(down, up, layer, alpha / rank).to(layer.weight.device)
            layer.lora = self.of_layers[path.replace(".", "/")] = change

    def found(self) -> dict[str, LowRank]:
        """What has been learnt so far, a copy on the CPU: path -> change."""
        return {path.replace("/", "."): self._change(module) for path, module in self.of_layers.items()}

    def _change(self, module: nn.Module) -> LowRank:
        parts = {name: value.detach().float().cpu().clone() for name, value in module.named_parameters()}
        return LowRank(parts["down"], parts["up"], self.alpha, parts.get("magnitude"))


def find_layer(
    layers: Mapping[str, AdaptableLayer], path: str, changes: Sequence[tuple[LowRank, float]]
) -> AdaptableLayer:
    """The layer at a path.

    Raises:
        ToileError: there is none, or a change has another shape.
    """
    if path not in layers:
        raise ToileError(f"the network has no layer {path} that could be changed")
    layer = layers[path]
    for change, _ in changes:
        if math.prod(change.weight_shape) != layer.weight.numel() or change.weight_shape[0] != layer.weight.shape[0]:
            raise ToileError(
                f"{path}: the change is for weights {list(change.weight_shape)}, not {list(layer.weight.shape)}"
            )
    return layer


def _attachment(layer: AdaptableLayer, changes: Sequence[tuple[LowRank, float]]) -> nn.Module:
    """One module for all changes of a layer, in the dtype and on the device of its weights."""
    parts: list[nn.Module] = []
    if pairs := [(change, strength) for change, strength in changes if change.magnitude is None]:
        down = torch.cat([change.down.float() for change, _ in pairs])
        up = torch.cat([change.up.float() * (strength * change.scale) for change, strength in pairs], dim=1)
        parts.append(LowRankSum(down, up, layer))
    if dense := [(change, strength) for change, strength in changes if change.magnitude is not None]:
        layer.restore()
        parts.append(WeightSum(sum_of_differences(layer.weight, dense), layer))
    whole = parts[0] if len(parts) == 1 else Together(parts)
    device = torch.device("cpu") if layer.weight.is_meta else layer.weight.device  # packed weights are a CPU's
    return whole.to(device, layer.weight.dtype).requires_grad_(False).eval()


def sum_of_differences(weight: Tensor, changes: Sequence[tuple[LowRank, float]]) -> Tensor:
    """What several changes of one layer, each with its strength, add to its weights: float32."""
    total = torch.zeros_like(weight, dtype=torch.float32)
    for change, strength in changes:
        total += change.difference(weight) * strength
    return total
