"""What every attack may rely on, and what every entry of ATTACKS must say about itself."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.attacks.base import Attack, Choices, Range, frozen, in_batches, is_adversarial
from advtrack.attacks.fgsm import fgsm
from advtrack.attacks.norms import perturbation_norms


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


def test_in_batches_splits_what_has_a_value_per_sample(clips):
    seen = []

    def spy(network, x, y, *, start, weights, eps):
        seen.append((len(x), len(start), len(weights)))
        return fgsm(network, x, y, eps=eps)

    x = clips(5)
    y = torch.zeros(5, dtype=torch.int64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    outcome = in_batches(spy, network, x, y, 2, start=x, weights=torch.ones(3), eps=0.1)
    assert seen == [(2, 2, 3), (2, 2, 3), (1, 1, 3)]
    assert torch.equal(outcome.x_adv, fgsm(network, x, y, eps=0.1).x_adv)


def test_in_batches_of_nothing(clips, linear_victim):
    outcome = in_batches(fgsm, linear_victim(), clips(0), torch.zeros(0, dtype=torch.int64), 4, eps=0.1)
    assert outcome.x_adv.shape == (0, 1, 4, 4)
    assert len(outcome.success) == len(outcome.l2) == 0


def test_norms_by_hand():
    x = torch.zeros(2, 1, 2, 2)
    x_adv = torch.tensor([[[[0.0, 0.3], [-0.4, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    norms = perturbation_norms(x_adv, x)
    assert set(norms) == {"l0", "l2", "linf"}
    torch.testing.assert_close(norms["l0"], torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(norms["l2"], torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(norms["linf"], torch.tensor([0.4, 0.0]))


def test_preprocessing_outside_the_network_is_refused(art_classifier, linear_victim):
    classifier = art_classifier(linear_victim(dtype=torch.float32), preprocessing=(0.5, 0.25))
    with pytest.raises(ValueError, match="inside the network"):
        ATTACKS["fgsm"](classifier)


@pytest.mark.parametrize("clip_values", [None, (0.0, 255.0), (-1.0, 1.0)])
def test_other_ranges_of_inputs_are_refused(art_classifier, linear_victim, clip_values):
    classifier = art_classifier(linear_victim(dtype=torch.float32), clip_values=clip_values)
    with pytest.raises(ValueError, match="clip_values"):
        ATTACKS["fgsm"](classifier)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"targeted": "yes"}, "targeted"),
        ({"eps": -0.1}, "eps"),
        ({"eps": math.nan}, "eps"),
    ],
)
def test_bad_parameters_are_refused(art_classifier, linear_victim, params, message):
    with pytest.raises(ValueError, match=message):
        ATTACKS["fgsm"](art_classifier(linear_victim(dtype=torch.float32)), **params)


def test_generate_takes_labels_one_hot_labels_or_predictions(art_classifier, linear_victim, clips, predict):
    network = linear_victim(dtype=torch.float32)
    x = clips(6, dtype=torch.float32)
    y = predict(network, x)
    attack = ATTACKS["fgsm"](art_classifier(network), eps=0.1)
    from_labels = attack.generate(x.numpy(), y.numpy())
    np.testing.assert_array_equal(from_labels, attack.generate(x.numpy(), np.eye(4)[y.numpy()]))
    np.testing.assert_array_equal(from_labels, attack.generate(x.numpy()))
    assert from_labels.dtype == np.float32

    attack.set_params(targeted=True)
    with pytest.raises(ValueError, match="target classes"):
        attack.generate(x.numpy())


def test_the_paper_attacks_are_the_registry_without_fgsm():
    assert set(TABLE_ATTACKS) == set(ATTACKS) - {"fgsm"}


@pytest.mark.parametrize("name", list(ATTACKS))
class TestEveryAttack:
    def test_describes_itself_consistently(self, name):
        attack = ATTACKS[name]
        assert issubclass(attack, Attack)
        assert attack.norm in {"l0", "l2", "linf"}
        assert attack.shorter_runs in {"first_success", "iterates", "none"}
        assert isinstance(attack.minimises, bool)
        assert attack.targets is (name != "deepfool")  # DeepFool alone is untargeted in the paper
        assert attack.sample_limit is None or attack.sample_limit > 0

    def test_its_search_space_is_sourced_and_sane(self, name):
        for parameter, space in ATTACKS[name].space.items():
            assert parameter in ATTACKS[name].attack_params
            assert space.source
            if isinstance(space, Range):
                assert space.low < space.high
                assert space.low > 0 or not space.log
            else:
                assert isinstance(space, Choices)
                assert len(set(space.values)) == len(space.values) > 1

    def test_constructor_takes_exactly_the_attack_parameters(self, name, art_classifier, linear_victim):
        first, *others = inspect.signature(ATTACKS[name]).parameters
        assert first == "estimator"
        assert set(others) == set(ATTACKS[name].attack_params) == {*ATTACKS[name].defaults, "batch_size"}
        classifier = art_classifier(linear_victim(dtype=torch.float32))
        assert all(getattr(ATTACKS[name](classifier), k) == v for k, v in ATTACKS[name].defaults.items())
        with pytest.raises(TypeError, match="has no parameter magic"):
            ATTACKS[name](classifier, magic=1)

    def test_native_takes_what_the_class_passes_on(self, name, art_classifier, linear_victim):
        attack = ATTACKS[name](art_classifier(linear_victim(dtype=torch.float32)))
        accepted = inspect.signature(type(attack).native).parameters
        assert set(attack.native_params()) <= set(accepted)
        assert ("start" in accepted) == attack.starts
