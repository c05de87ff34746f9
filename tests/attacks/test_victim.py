"""How a victim is attacked and left, and when it is fooled."""

import math

import pytest
import torch
from torch import nn

from advtrack.attacks.victim import boundary_distance, frozen, is_adversarial


def test_frozen_restores_modes_and_flags(mlp_victim):
    network = mlp_victim()
    network.train()
    network[2].eval()  # a mode of its own, as when batch normalisation is fine-tuned with fixed statistics
    network[1].weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]

    with pytest.raises(RuntimeError, match="out of patience"), frozen(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        raise RuntimeError("out of patience")

    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == flags


def test_success_is_argmax_and_needs_finite_logits():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, math.nan], [0.0, math.inf]])
    y = torch.ones(4, dtype=torch.int64)
    assert is_adversarial(logits, y, targeted=True).tolist() == [True, False, False, False]
    assert is_adversarial(logits, y, targeted=False).tolist() == [False, True, False, False]


def test_the_distance_to_the_boundary_is_exact_on_a_linear_victim():
    """Logits (0, w x - 1): success is |w x - 1| / |w|_1 away, without what stands at an end of [0, 1]."""
    w = torch.tensor([2.0, -1.0, 0.5])
    network = nn.Linear(3, 2).double()
    network.weight.data = torch.stack([torch.zeros(3), w]).double()
    network.bias.data = torch.tensor([0.0, -1.0]).double()
    x = torch.tensor([[0.2, 0.5, 0.5], [0.2, 0.0, 0.5], [0.9, 0.0, 0.5], [1.0, 0.0, 1.0]]).double()
    logit = (x @ w.double() - 1).abs()
    towards = torch.tensor([1, 1, 0, 0])  # the class that is missing
    expected = logit / torch.tensor([3.5, 2.5, 3.5, 3.5]).double()
    for y, targeted in ((towards, True), (1 - towards, False)):
        found = boundary_distance(network, x, y, targeted)
        assert torch.allclose(found, expected, rtol=1e-12, atol=0) and not found.requires_grad
        assert (boundary_distance(network, x, 1 - y, targeted) < 0).all()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    network.weight.data.zero_()
    assert boundary_distance(network, x, towards, True).tolist() == [torch.inf] * 2 + [-torch.inf] * 2
    network.bias.data.zero_()  # a tie
    assert boundary_distance(network, x, towards, True).tolist() == [torch.inf] * 4
