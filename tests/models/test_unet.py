"""The U-Net: latents that several words are given for, and words that stay the same over the steps of a picture."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from torch import Tensor

from toile.models.unet import UNet, UNetConfig
from toile.nn.attention import Attention

CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def unet(first_level_has_words: bool = True) -> UNet:
    torch.manual_seed(0)
    kinds = (CROSS if first_level_has_words else PLAIN, CROSS)
    config = UNetConfig(
        block_out_channels=(8, 16),
        down_block_types=(kinds[0][0], kinds[1][0]),
        up_block_types=(kinds[1][1], kinds[0][1]),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return UNet(config).requires_grad_(False).eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("first_level_has_words", [True, False])
@pytest.mark.parametrize("groups", [2, 3])
@torch.no_grad()
def test_latents_that_several_words_are_given_for_are_computed_once_where_words_do_not_act(
    groups: int, first_level_has_words: bool
) -> None:
    network = unet(first_level_has_words)
    x, words, timestep = draw(2, 4, 7, 6), draw(2 * groups, 5, 12, seed=1), torch.tensor([300.0])
    rows: list[int] = []
    network.conv_in.register_forward_hook(lambda module, inputs, result: rows.append(len(result)))
    together = network(x, timestep, words)
    assert rows == [2]
    torch.testing.assert_close(together, network(x.repeat(groups, 1, 1, 1), timestep, words), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_keys_and_values_of_words_are_computed_once_and_follow_the_weights() -> None:
    network = unet()
    x, words, timestep = draw(1, 4, 8, 8), draw(1, 5, 12, seed=1), torch.tensor([300.0])
    attention = network.mid_block.attentions[0].transformer_blocks[0].attn2
    assert isinstance(attention, Attention)
    first = network(x, timestep, words)
    (known,) = attention._of_words.values()
    assert torch.equal(network(x, timestep, words), first)
    assert next(iter(attention._of_words.values())) is known
    assert torch.equal(network(x, timestep, words.clone()), first)
    attention.to_v.weight.mul_(3)
    changed = network(x, timestep, words)
    assert not torch.equal(changed, first)
    assert torch.equal(changed, network(x, timestep, words.clone()))
    assert torch.equal(copy.deepcopy(network)(x, timestep, words), changed)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x, timestep, words), changed)


@torch.no_grad()
def test_keys_and_values_go_with_the_words() -> None:
    network, words = unet(), draw(1, 5, 12, seed=1)
    attention = network.mid_block.attentions[0].transformer_blocks[0].attn2
    network(draw(1, 4, 8, 8), torch.tensor([300.0]), words)
    assert len(attention._of_words) == 1
    del words
    gc.collect()
    assert len(attention._of_words) == 0


def test_gradients_reach_the_words_at_every_call() -> None:
    network = unet()
    x, timestep = draw(1, 4, 8, 8), torch.tensor([300.0])
    words = draw(1, 5, 12, seed=1)
    with torch.no_grad():
        network(x, timestep, words)
    words.requires_grad_()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(network(x, timestep, words).square().sum(), words)
        assert float(gradient.abs().max()) > 0
