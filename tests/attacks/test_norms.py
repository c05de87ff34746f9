"""Norms of perturbations, by hand."""

import torch

from advtrack.attacks.norms import perturbation_norms


def test_norms_by_hand():
    x = torch.zeros(2, 1, 2, 2)
    x_adv = torch.tensor([[[[0.0, 0.3], [-0.4, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    norms = perturbation_norms(x_adv, x)
    assert set(norms) == {"l0", "l2", "linf"}
    torch.testing.assert_close(norms["l0"], torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(norms["l2"], torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(norms["linf"], torch.tensor([0.4, 0.0]))
