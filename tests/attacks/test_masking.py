"""Victims that mask their gradients in known ways, and one that does not."""

import pytest
import torch
from torch import nn

from advtrack.attacks.masking import MaskingSigns, black_box_sign, masking_signs
from advtrack.attacks.sign import Sign


class Scaled(nn.Module):
    """Saturated: logits so far apart that the loss is flat."""

    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.scale * self.network(x)


class Quantised(nn.Module):
    """Inputs in two levels: no gradient passes (and what does not is a zero)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x > 0.5).to(x.dtype) + 0 * x)


class Wrinkled(nn.Module):
    """Fine ripples on top, whose slope covers that of the victim and leads nowhere far."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x + 0.002 * torch.sin(5000 * x))


def signs(network, clips, predict, eps=0.1):
    x = clips(40, dtype=torch.float32)
    return masking_signs(network, x, predict(network, x), eps=eps)


def there(found):
    return {name for name, sign in found.signs().items() if sign.there}


def test_an_honest_victim_has_no_sign(mlp_victim, clips, predict):
    found = signs(mlp_victim(dtype=torch.float32), clips, predict)
    assert there(found) == set()
    assert found.many_steps > 0 and found.one_step <= found.many_steps and found.unbounded == 1
    assert found.vanishing == 0 and found.loss_short <= found.loss_long


def test_saturation_shows_in_the_gradients(mlp_victim, clips, predict):
    found = signs(Scaled(mlp_victim(dtype=torch.float32), 1e4), clips, predict)
    assert "gradients_vanish" in there(found) and found.vanishing > 0.5


def test_quantisation_leaves_no_gradient_and_no_way_out(mlp_victim, clips, predict):
    found = signs(Quantised(mlp_victim(dtype=torch.float32)), clips, predict)
    assert found.vanishing == 1 and found.unbounded < 1
    assert {"gradients_vanish", "unbounded_fails"} <= there(found)


def test_ripples_make_longer_runs_useless(mlp_victim, clips, predict):
    honest, rippled = mlp_victim(dtype=torch.float32), Wrinkled(mlp_victim(dtype=torch.float32))
    assert signs(rippled, clips, predict).many_steps < signs(honest, clips, predict).many_steps
    assert there(signs(rippled, clips, predict))


def test_a_black_box_is_nearer_where_the_white_box_fails_within_its_distance(linear_victim, clips, predict):
    network, x = linear_victim(classes=2), clips(20, margin=0.3)
    target = 1 - predict(network, x)
    weight = network[1].weight[1] - network[1].weight[0]
    missing = (network(x)[:, 0] - network(x)[:, 1]).abs() / weight.abs().sum()  # the smallest eps of each
    missing = missing.detach()
    for share, there in (0.05, False), (0.2, True):
        eps = missing * 1.01
        eps[: int(share * 20)] = missing[: int(share * 20)] * 0.99
        sign = black_box_sign(network, x, target, eps, max_iter=20)
        assert (sign.there, sign.numbers["black_box_nearer"]) == (there, share)
    eps[5:] = torch.inf
    found = black_box_sign(network, x, target, eps, max_iter=20).numbers
    assert found == {"black_box_nearer": 0.2, "pia_median_eps": float("inf"), "clips": 20}
    none = black_box_sign(network, x, target, torch.full_like(eps, torch.inf), max_iter=20)
    assert not none.there and none.numbers["black_box_nearer"] == 0


def test_a_sign_is_told_with_the_numbers_that_say_so():
    found = MaskingSigns(0.05, one_step=0.7, many_steps=0.65, unbounded=1, loss_short=-1.5, loss_long=2, vanishing=0.1)
    assert there(found) == {"one_step_beats_many"}
    told = {name: sign.told() for name, sign in found.signs().items()}
    assert told == {
        "one_step_beats_many": "one step 0.7, many steps 0.65, eps 0.05",
        "unbounded_fails": "unbounded 1",
        "more_iterations_do_not_help": "loss short -1.5, loss long 2, eps 0.05",
        "gradients_vanish": "vanishing 0.1",
    }
    assert Sign(True, {"pia_median_eps": float("inf")}).told() == "pia median eps none"


@pytest.mark.parametrize("training", [True, False])
def test_the_victim_and_its_inputs_stay_as_they_are(mlp_victim, clips, predict, training):
    network, x = mlp_victim(dtype=torch.float32).train(training), clips(6, dtype=torch.float32)
    y, before = predict(network, x), x.clone()
    first = masking_signs(network.train(training), x, y, eps=0.1)
    assert network.training == training and torch.equal(x, before)
    assert masking_signs(network, x, y, eps=0.1) == first
