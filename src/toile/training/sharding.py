"""How several processes hold the weights of a run: whole in each of them, or each a part.

In parts, the weights of a block of layers are gathered from all processes when it is used and given back after it, and
its gradients are divided as soon as they are there; the optimizer's moments and the averages are made in parts. This is
ZeRO's third stage (Rajbhandari et al. 2020), by PyTorch's `fully_shard` (Zhao et al. 2023, "PyTorch FSDP"). Tensors are
divided along their first dimension, as `torch.chunk` does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from toile.device import stop_keeping_freed_memory
from toile.errors import ToileError
from toile.models.clip import CLIPEncoderLayer, CLIPTextEmbeddings, CLIPVisionEmbeddings
from toile.nn.attention import SpatialSelfAttention, SpatialTransformer
from toile.nn.blocks import Downsample, ResnetBlock, Upsample
from toile.nn.layers import AdaptableLayer
from toile.training.ema import PowerEMA
from toile.training.objective import Loss
from toile.training.processes import Processes

# What is gathered at once. All of these are used by a call alone, never by reaching for their layers from outside.
_BLOCKS = (
    ResnetBlock,
    SpatialTransformer,
    SpatialSelfAttention,
    Downsample,
    Upsample,
    CLIPEncoderLayer,
    CLIPTextEmbeddings,
    CLIPVisionEmbeddings,
)
# Of a module, what dividing it changes besides its parameters.
_HOOKS = [
    name
    for name, value in vars(nn.Module()).items()
    if isinstance(value, dict) and name not in ("_modules", "_buffers")
]


class WholeWeights:
    """Weights that every process holds whole; gradients are added up before each update, so all stay alike.

    Args:
        module: what is trained, saved and averaged.
        processes: those that train together.

    Attributes:
        is_sharded: whether each process holds a part only. Then all take part when the whole is looked at or saved;
            else the first does this alone.
    """

    is_sharded = False

    def __init__(self, module: nn.Module, processes: Processes) -> None:
        self.module, self.processes = module, processes

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, as far as this process holds it."""
        return self.module.named_parameters()

    def trained(self) -> dict[str, Tensor]:
        """Those that learn: what the optimizer of this process updates."""
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers that are saved, as far as this process holds them."""
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave, whole."""
        self.module.load_state_dict(dict(state))

    def loss(self, compute: Callable[[], Loss]) -> Loss:
        """What it returns; all processes call this together."""
        return compute()

    def send_back(self, total: Tensor) -> None:
        """Adds the gradients of a loss to those that are there; all processes call this together."""
        total.backward()

    def collect_gradients(self, clip_norm: float) -> float:
        """Adds up the gradients of all processes, returns their length, and makes them no longer than `clip_norm`.

        Raises:
            ToileError: of sharded weights, one has no gradient, so that it cannot learn.
        """
        self.processes.add_up_gradients(self.module.parameters())
        return float(nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm))

    def forget_gradients(self) -> None:
        """Before the gradients of another batch."""
        self.module.zero_grad(set_to_none=True)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What this process holds of a tensor that belongs to a weight: its average, for example."""
        return whole

    def whole(self, name: str, part: Tensor) -> Tensor | None:
        """The opposite of `part`, on the first process; None on others, if these take part."""
        return part

    def from_first(self, number: int) -> int:
        """The first process's number, for all that take part."""
        return number

    @contextmanager
    def shown(self, average: PowerEMA | None) -> Iterator[bool]:
        """Puts an average (None: the live weights) into the module, whole, to be looked at.

        Yields:
            whether this process is to look.
        """
        if average is not None:
            average.swap(self.module)
        self.module.eval()
        try:
            yield True
        finally:
            if average is not None:
                average.swap(self.module)


class ShardedWeights(WholeWeights):
    """Weights of which every process holds a part. What does not learn, and single numbers, are whole in each.

    Between `shown` the module cannot be used but through `loss`.
    """

    is_sharded = True

    def __init__(self, module: nn.Module, processes: Processes) -> None:
        super().__init__(module, processes)
        # Layers that do not learn stay whole: their results may be kept, so that not all processes call them at once.
        kept = {weight for weight in module.parameters() if not weight.requires_grad or weight.ndim == 0}
        _forget_prepared(module)
        self._like = {name: _on_meta(weight) for name, weight in module.named_parameters() if weight not in kept}
        self._plain = {part: (type(part), {hook: vars(part)[hook] for hook in _HOOKS}) for part in module.modules()}
        for part, (_, hooks) in self._plain.items():
            vars(part).update({hook: value.copy() for hook, value in hooks.items()})
            hooks["_parameters"] = {}  # or the whole weights would stay
        for weight in set(module.parameters()) - kept:
            weight.data = weight.data.contiguous()  # what is divided must be
        learning = {name for name, weight in module.named_parameters() if weight.requires_grad}
        self._door = _divided(module, kept, processes.count)
        self._held = {name: _held(weight) for name, weight in module.named_parameters()}
        self._trained = {name: held for name, held in self._held.items() if name in learning}
        stop_keeping_freed_memory()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._held.items())

    def trained(self) -> dict[str, Tensor]:
        return self._trained

    def state(self) -> dict[str, Tensor]:
        return {name: self._held.get(name, value.detach()) for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.state().items():
            value.copy_(self.part(name, state[name]))

    def loss(self, compute: Callable[[], Loss]) -> Loss:
        with self.processes.together(), warnings.catch_warnings():
            # Transformers return views; nothing is done to these in place, which alone would be wrong.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
            loss: Loss = self._door(compute)[1]
            return loss

    def send_back(self, total: Tensor) -> None:
        with self.processes.together():
            total.backward()

    @torch.no_grad()
    def collect_gradients(self, clip_norm: float) -> float:
        weights, squares = dict(self.module.named_parameters()), 0.0
        self.processes.add_up_gradients(weights[name] for name in self._trained if name not in self._like)
        for name, held in self._trained.items():
            gradient = weights[name].grad
            if gradient is None:
                raise ToileError(
                    f"loop.sharded=true: what is divided must be used by the module that it belongs to, and {name} got "
                    "no gradient; leave loop.sharded out for this task"
                )
            held.grad = _held(gradient)
            if name in self._like or self.processes.is_first:  # those that are whole count once
                squares += float(torch.linalg.vector_norm(held.grad, dtype=torch.float64)) ** 2
        norm = math.sqrt(self.processes.add_up([squares])[0])
        nn.utils.clip_grads_with_norm_(self._trained.values(), clip_norm, torch.tensor(norm))
        return norm

    def forget_gradients(self) -> None:
        super().forget_gradients()
        for held in self._held.values():
            held.grad = None

    def part(self, name: str, whole: Tensor) -> Tensor:
        if name not in self._like or whole.shape != self._like[name].shape:
            return whole
        return self.processes.rows_of(whole)

    def whole(self, name: str, part: Tensor) -> Tensor | None:
        if name not in self._like or part.ndim == 0:
            return part if self.processes.is_first else None
        return self.processes.gather_rows(part, len(self._like[name]))

    def from_first(self, number: int) -> int:
        return int(self.processes.add_up([float(number) if self.processes.is_first else 0.0])[0])

    @contextmanager
    def shown(self, average: PowerEMA | None) -> Iterator[bool]:
        values = self._held if average is None else average.averages
        whole: dict[str, Tensor] = {}
        for name, value in values.items():
            gathered = self.whole(name, value)
            if gathered is not None:
                like = self._like.get(name)
                whole[name] = gathered if like is None else torch.empty_like(like, device="cpu").copy_(gathered)
        if not self.processes.is_first:
            yield False
            return
        with self._undivided(whole):
            self.module.eval()
            yield True

    @contextmanager
    def _undivided(self, whole: Mapping[str, Tensor]) -> Iterator[None]:
        """Makes the module what it was before it was divided, with these weights: a process alone can use it."""
        divided = {part: (type(part), {hook: vars(part)[hook] for hook in _HOOKS}) for part in self._plain}
        plain = {part: (kind, {**hooks, "_parameters": {}}) for part, (kind, hooks) in self._plain.items()}
        for name, value in whole.items():
            path, _, leaf = name.rpartition(".")
            parameters = plain[self.module.get_submodule(path)][1]["_parameters"]
            parameters[leaf] = nn.Parameter(value, requires_grad=name in self._trained)
        for part, (_, hooks) in divided.items():
            absent = {leaf: None for leaf, weight in hooks["_parameters"].items() if weight is None}
            plain[part][1]["_parameters"].update(absent)
        _become(plain)
        try:
            yield
        finally:
            _become(divided)
            _forget_prepared(self.module)


def hold_weights(module: nn.Module, sharded: bool, processes: Processes) -> WholeWeights:
    """A module's weights among the processes, in parts if that is wanted and there are several processes."""
    return (ShardedWeights if sharded and processes.count > 1 else WholeWeights)(module, processes)


class _Door(nn.Module):
    """What passes through it finds the weights that belong to no block, whatever it calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], Loss]) -> tuple[Tensor, Loss]:
        loss = compute()
        return loss.total, loss  # the first of these tells when gradients begin to flow


def _divided(module: nn.Module, kept: set[nn.Parameter], count: int) -> nn.Module:
    # Here, because this import takes a second, and most runs have one process.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, door = init_device_mesh("cpu", (count,)), _Door(module)
    blocks: list[nn.Module] = [
        part for part in module.modules() if isinstance(part, _BLOCKS) and not kept.issuperset(part.parameters())
    ]
    for part in (*blocks, door):
        divided = fully_shard(part, mesh=mesh, ignored_params=kept)
        # Each process gives its share of the mean, so a sum is wanted, and gloo can only add up.
        divided.set_gradient_divide_factor(1.0)
        divided.set_force_sum_reduction_for_comms(True)
    return door


def _held(weight: Tensor) -> Tensor:
    """The part of a weight or gradient that is in this process, sharing its memory."""
    from torch.distributed.tensor import DTensor

    return (weight.to_local() if isinstance(weight, DTensor) else weight).detach()


def _on_meta(weight: Tensor) -> Tensor:
    """Shape and layout without the numbers."""
    return torch.empty_like(weight, device="meta", requires_grad=False)


def _forget_prepared(module: nn.Module) -> None:
    """Weights that learn are others from now on than those that layers keep in another form."""
    for layer in module.modules():
        if isinstance(layer, AdaptableLayer) and layer.weight.requires_grad:
            layer.forget_packed()


def _become(forms: Mapping[nn.Module, tuple[type[nn.Module], Mapping[str, dict[str, object]]]]) -> None:
    for part, (kind, hooks) in forms.items():
        part.__class__ = kind
        vars(part).update(hooks)
