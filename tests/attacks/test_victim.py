"""How a victim is attacked and left, and when it is fooled."""

import math

import pytest
import torch

from advtrack.attacks.victim import frozen, is_adversarial


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


def test_a_label_that_the_victim_does_not_have_is_refused():
    with pytest.raises(ValueError, match="y must be labels from 0 to 1"):
        is_adversarial(torch.zeros(2, 2), torch.tensor([0, 2]), targeted=False)


def test_success_is_argmax_and_needs_finite_logits():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, math.nan], [0.0, math.inf]])
    y = torch.ones(4, dtype=torch.int64)
    assert is_adversarial(logits, y, targeted=True).tolist() == [True, False, False, False]
    assert is_adversarial(logits, y, targeted=False).tolist() == [False, True, False, False]
