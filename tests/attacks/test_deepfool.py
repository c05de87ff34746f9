"""DeepFool against closed-form minimal perturbations of linear victims, ART's faults, and an own count of passes."""

import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool as ArtDeepFool
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advtrack.attacks.batches import in_batches
from advtrack.attacks.deepfool import DeepFool, deepfool

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.fixture
def attacked(mlp_victim, clips, predict):
    """A nonlinear victim, inputs, and the classes that it sees in them."""
    network = mlp_victim()
    x = clips(12)
    return network, x, predict(network, x)


def minimal(network, x, y, norm):
    """Distance of each input to the nearest boundary of a linear victim, away from the ends of [0, 1]."""
    weight = network[1].weight.detach()
    logits = network(x).detach()
    f = (logits - logits.gather(1, y[:, None])).abs()
    w = weight[None] - weight[y][:, None]
    distance = f / w.norm(p=1 if norm == "linf" else 2, dim=2)
    return distance.scatter(1, y[:, None], math.inf).amin(1)


@NORMS
@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("overshoot", [0.02, 0.0])
def test_linear_victim_falls_to_the_minimal_perturbation(linear_victim, clips, predict, norm, classes, overshoot):
    network = linear_victim(classes=classes, shape=(1, 8, 8))
    x = clips(20, shape=(1, 8, 8), margin=0.35)
    y = predict(network, x)
    outcome = deepfool(network, x, y, norm=norm, overshoot=overshoot)
    best = minimal(network, x, y, norm)
    found = getattr(outcome, norm)
    free = best < (0.3 if norm == "linf" else 0.6)  # else the ends of [0, 1] may stand in the way
    assert free.sum() > 10 and outcome.success.all()
    assert (found[free] >= best[free]).all()
    assert (found[free] <= 1.01 * (1 + overshoot) * best[free] + 1e-6).all()
    # Without overshoot the first step ends on the boundary, give or take a rounding.
    assert (outcome.first_success[free] <= (1 if overshoot else 2)).all()


@NORMS
@pytest.mark.parametrize("overshoot", [0.1, 0.5])
def test_examples_lie_a_fiftieth_of_the_overshoot_beyond_the_boundary(linear_victim, clips, predict, norm, overshoot):
    network = linear_victim(classes=2, shape=(1, 8, 8))
    x = clips(20, shape=(1, 8, 8), margin=0.35)
    y = predict(network, x)
    best = minimal(network, x, y, norm)
    found = getattr(deepfool(network, x, y, norm=norm, overshoot=overshoot), norm)
    free = best < (0.2 if norm == "linf" else 0.4)
    assert free.sum() > 10
    torch.testing.assert_close(found[free], (1 + overshoot / 50) * best[free], rtol=2e-3, atol=0)


@NORMS
@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", range(6))
def test_with_features_at_the_ends_of_the_box_it_is_still_minimal(
    linear_victim, clips, predict, norm, side, classes, seed
):
    # Within a box the nearest point of a hyperplane is clamp(x + t d), d the direction across it: find t by bisection,
    # for each class.
    network = linear_victim(classes=classes, shape=(1, side, side), seed=seed)
    x = ((clips(20, shape=(1, side, side), seed=seed) - 0.5) * 3 + 0.5).clamp(0, 1)  # two thirds at 0 or 1, as silence
    y = predict(network, x)
    weight, best = network[1].weight.detach(), torch.full((20,), math.inf).double()
    for rival in range(classes):
        w = weight[rival] - weight[y]
        direction = (w.sign() if norm == "linf" else w).view_as(x)
        low, high = torch.zeros(20, 1, 1, 1).double(), torch.full((20, 1, 1, 1), 10.0).double()
        for _ in range(60):
            t = (low + high) / 2
            logits = network((x + t * direction).clamp(0, 1)).detach()
            crossed = (logits[:, rival] > logits.gather(1, y[:, None])[:, 0]).view_as(t)
            low, high = torch.where(crossed, low, t), torch.where(crossed, t, high)
        way = ((x + high * direction).clamp(0, 1) - x).flatten(1).norm(p=math.inf if norm == "linf" else 2, dim=1)
        best = best.minimum(way.where((high < 10).flatten(), torch.inf))

    outcome = deepfool(network, x, y, norm=norm)
    assert torch.equal(outcome.success, best.isfinite())
    found, best = getattr(outcome, norm)[outcome.success], best[outcome.success]
    assert len(best) >= 10
    assert (found >= best * (1 - 1e-9)).all()
    assert (found <= 1.01 * best).all()


@NORMS
def test_a_boundary_is_reached_from_a_floor_that_blocks_nearly_all_of_the_slope(norm):
    # Of 400 features at 0 only four can follow the slope: 0.1 in l-inf, 0.2 in l2.
    network = nn.Sequential(nn.Flatten(), nn.Linear(400, 2)).double()
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[1] = torch.tensor([1.0] * 4 + [-1.0] * 396)
        network[1].bias.copy_(torch.tensor([0.4, 0.0]))
    outcome = deepfool(network, torch.zeros(1, 1, 20, 20).double(), torch.tensor([0]), norm=norm)
    best = 0.1 if norm == "linf" else 0.2
    assert outcome.success.item() and best <= getattr(outcome, norm).item() <= 1.02 * best


@NORMS
@pytest.mark.parametrize("features", [2, 3, 4, 6, 10, 16, 20, 30, 100])
def test_however_much_of_the_slope_is_blocked_it_arrives(norm, features):
    # Two features can follow the slope, 0.15 each; the others stand at 0.
    network = nn.Sequential(nn.Flatten(), nn.Linear(features, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, features))
        network[1].bias.copy_(torch.tensor([0.0, 0.7]))
    x = torch.zeros(1, 1, 1, features)
    x[..., :2] = 0.5
    outcome = deepfool(network, x, torch.tensor([0]), norm=norm, max_iter=30)
    best = 0.15 if norm == "linf" else 0.15 * math.sqrt(2)
    assert outcome.success.item() and best <= getattr(outcome, norm).item() <= 1.01 * best


@NORMS
def test_a_boundary_that_only_blocked_features_lead_to_is_left_alone(norm):
    # Class 1 is nearer, but only features at 0 that would have to fall lead to it; class 2 can be reached.
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0] * 4, [-5.0, -5.0, 0, 0], [0, 0, 1.0, 1.0]]))
        network[1].bias.copy_(torch.tensor([0.5, 0.0, 0.0]))
    outcome = deepfool(network, torch.zeros(1, 1, 2, 2).double(), torch.tensor([0]), norm=norm)
    assert outcome.success.item() and outcome.first_success.item() == 1
    assert network(outcome.x_adv).argmax().item() == 2


@NORMS
def test_success_is_what_the_victim_says_of_the_lengthened_and_clipped_iterate(attacked, predict, norm):
    network, x, y = attacked
    outcome = deepfool(network, x, y, norm=norm)
    assert outcome.success.all()
    assert (predict(network, outcome.x_adv) != y).all()
    assert ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()


@pytest.mark.parametrize("max_iter", [1, 2])
def test_the_last_iterate_is_checked(attacked, max_iter):
    network, x, y = attacked
    long = deepfool(network, x, y, overshoot=0.0)
    short = deepfool(network, x, y, overshoot=0.0, max_iter=max_iter)
    assert torch.equal(short.success, long.first_success <= max_iter)
    assert short.first_success.max() == max_iter


@NORMS
@pytest.mark.parametrize("candidates", [1, 2, 10])
def test_counts_its_passes(attacked, count_passes, norm, candidates):
    network, x, y = attacked
    with count_passes(network) as passes:
        outcome = deepfool(network, x, y, norm=norm, candidates=candidates)
    assert passes.forwards == outcome.forwards.sum()
    assert passes.backwards == outcome.backwards.sum()
    # Each sample pays for its own iterations only: at most two forwards and a backward per
    # rival, then the last check and the line search.
    rivals = min(candidates, 3)
    assert (outcome.backwards[outcome.first_success == 1] == rivals).all()
    assert (outcome.backwards <= outcome.first_success * rivals).all()
    assert (outcome.forwards <= outcome.first_success * 2 + 1 + 3).all()


@NORMS
@pytest.mark.parametrize("batch_size", [1, 5])
def test_does_not_depend_on_the_batch_or_its_order(attacked, norm, batch_size):
    network, x, y = attacked
    whole = deepfool(network, x, y, norm=norm, candidates=2)
    split = in_batches(deepfool, network, x, y, batch_size, targeted=False, norm=norm, candidates=2)
    turned = deepfool(network, x.flip(0), y.flip(0), norm=norm, candidates=2)
    for name in ("x_adv", "success", "first_success", "l2", "linf"):
        assert torch.equal(getattr(whole, name), getattr(split, name))
        assert torch.equal(getattr(whole, name), getattr(turned, name).flip(0))


@NORMS
@pytest.mark.parametrize("seed", range(4))
def test_boundaries_that_are_left_out_are_not_the_nearest(norm, seed, monkeypatch, predict):
    """On steep victims of ten classes, whose inputs lie half on the floor, as spectrograms of short clips do."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    x = (torch.rand(48, 1, 8, 8).double() * 2 - 1).clamp(min=0)
    y = predict(network, x)
    quick = deepfool(network, x, y, norm=norm)
    monkeypatch.setattr("advtrack.attacks.deepfool._GROWTH", math.inf)  # every boundary may be the nearest
    thorough = deepfool(network, x, y, norm=norm)
    assert torch.equal(quick.x_adv, thorough.x_adv)
    assert quick.backwards.sum() < 0.9 * thorough.backwards.sum()
    assert torch.equal(thorough.backwards, 9 * thorough.first_success)


@NORMS
def test_where_slopes_jump_what_is_left_out_costs_little_on_average(norm, monkeypatch, predict):
    sums = torch.zeros(2)
    for seed in range(10):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
        with torch.no_grad():
            network[1].weight.normal_(0, 3)
            network[3].weight.normal_()
        x = (torch.rand(16, 1, 8, 8).double() * 2 - 1).clamp(min=0)
        y = predict(network, x)
        for i, growth in enumerate((2.0, math.inf)):
            monkeypatch.setattr("advtrack.attacks.deepfool._GROWTH", growth)
            sums[i] += getattr(deepfool(network, x, y, norm=norm), norm).sum()
    assert sums[0] <= 1.15 * sums[1]


def test_art_lets_the_company_of_a_clip_choose_its_classes(mlp_victim, clips, predict, art_classifier):
    # ART takes gradients of the union of all clips' top classes. With nb_grads = 1 a clip alone has no rival but its
    # own class and is not moved, while among others the same clip is.
    network = mlp_victim(dtype=torch.float32)
    x = clips(12, dtype=torch.float32)
    y = predict(network, x)
    classifier = art_classifier(network)
    art = ArtDeepFool(classifier, max_iter=20, nb_grads=1, batch_size=12, verbose=False)
    together, alone = art.generate(x.numpy())[0], art.generate(x[:1].numpy())[0]
    assert not np.allclose(together, alone, atol=1e-3)

    ours = DeepFool(classifier, max_iter=20, nb_grads=1, batch_size=12)
    together, alone = ours.generate(x.numpy(), y.numpy())[0], ours.generate(x[:1].numpy(), y[:1].numpy())[0]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_art_perturbs_what_the_victim_gets_wrong_anyway(mlp_victim, clips, predict, art_classifier):
    # ART ignores y and leads each input away from its prediction, be it wrong.
    network = mlp_victim(dtype=torch.float32)
    x = clips(3, dtype=torch.float32)
    wrong = (predict(network, x) + 1) % 4
    classifier = art_classifier(network)
    art = ArtDeepFool(classifier, max_iter=20, verbose=False).generate(x.numpy(), wrong.numpy())
    assert not np.array_equal(art, x.numpy())
    np.testing.assert_array_equal(DeepFool(classifier, max_iter=20).generate(x.numpy(), wrong.numpy()), x.numpy())


def test_needs_no_more_than_art_in_l2(mlp_victim, clips, predict, art_classifier):
    network = mlp_victim(dtype=torch.float32)
    x = clips(12, dtype=torch.float32)
    y = predict(network, x)
    classifier = art_classifier(network)
    ours = DeepFool(classifier, norm="l2").generate(x.numpy(), y.numpy())
    art = ArtDeepFool(classifier, epsilon=0.02, batch_size=12, verbose=False).generate(x.numpy())
    assert (predict(network, torch.tensor(ours)) != y).all()
    size = [np.linalg.norm((x_adv - x.numpy()).reshape(12, -1), axis=1) for x_adv in (ours, art)]
    assert np.median(size[0]) <= 1.01 * np.median(size[1])


def test_misclassified_inputs_are_left_as_they_are(attacked):
    network, x, y = attacked
    outcome = deepfool(network, x, (y + 1) % 4)
    assert outcome.first_success.eq(0).all() and outcome.success.all()
    assert torch.equal(outcome.x_adv, x) and outcome.linf.eq(0).all()
    assert outcome.forwards.eq(1).all() and outcome.backwards.eq(0).all()


def test_leaves_victim_and_input_alone(attacked):
    network, x, y = attacked
    network.train()
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    before = x.clone()
    deepfool(network, x, y)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, statistics[name]) for name, value in network.state_dict().items())


def test_empty_batch(linear_victim, clips):
    outcome = deepfool(linear_victim(), clips(0), torch.zeros(0, dtype=torch.int64))
    assert outcome.x_adv.shape == (0, 1, 4, 4) and len(outcome.success) == 0


def test_a_victim_with_one_class_has_no_boundary(linear_victim, clips):
    outcome = deepfool(linear_victim(classes=1), clips(3), torch.zeros(3, dtype=torch.int64))
    assert not outcome.success.any() and outcome.linf.eq(0).all()


@NORMS
def test_a_tie_is_crossed(norm):
    # Equal logits: the boundary is 0 away, and a zero step, however lengthened, would stay on it.
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    outcome = deepfool(network, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), norm=norm)
    assert outcome.success.item() and 0 < outcome.linf.item() < 1e-5


@NORMS
@pytest.mark.parametrize("sickness", [0.0, math.nan, math.inf])
def test_one_sample_without_gradients_leaves_and_harms_no_other(linear_victim, clips, predict, norm, sickness):
    class Sick(nn.Module):
        """Its gradient is ``sickness`` times the true one for inputs whose first feature is 1."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            factor = torch.where(x[:, :1, :1, :1] == 1, sickness, 1.0).double()
            if x.requires_grad:
                x.register_hook(lambda gradient: gradient * factor)
            return self.network(x)

    healthy = linear_victim()
    x = clips(4, margin=0.2)
    x[2, 0, 0, 0] = 1
    y = predict(healthy, x)
    outcome, others = deepfool(Sick(healthy), x, y, norm=norm), torch.tensor([0, 1, 3])
    assert outcome.success.tolist() == [True, True, False, True]
    assert torch.equal(outcome.x_adv[2], x[2]) and outcome.backwards[2] == 3
    torch.testing.assert_close(outcome.x_adv[others], deepfool(healthy, x, y, norm=norm).x_adv[others])


def test_logits_that_overflow_are_no_success():
    class Blown(nn.Module):
        def forward(self, x):
            return x.flatten(1) * math.inf

    x = torch.tensor([[[[0.0, 0.5]]]])
    outcome = deepfool(Blown(), x, torch.tensor([0]), max_iter=3)
    assert not outcome.success.item() and torch.equal(outcome.x_adv, x)


@NORMS
@settings(max_examples=30, deadline=None)
@given(x=st.lists(st.floats(0, 1), min_size=8, max_size=8), overshoot=st.floats(0, 1), seed=st.integers(0, 1000))
def test_stays_in_the_box(norm, x, overshoot, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    x = torch.tensor(x, dtype=torch.float64).view(2, 1, 2, 2)
    outcome = deepfool(network, x, network(x).argmax(1), norm=norm, overshoot=overshoot, max_iter=5)
    assert ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epsilon": -0.1}, "overshoot"),
        ({"nb_grads": 0}, "candidates"),
        ({"norm": "l1"}, "norm"),
        ({"targeted": True}, "untargeted"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_parameters_are_refused(art_classifier, linear_victim, params, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(art_classifier(linear_victim(dtype=torch.float32)), **params)


@NORMS
@pytest.mark.parametrize("common", [0.0, 300.0, 1e4])
def test_ties_of_logits_too_large_to_tell_short_steps_apart_are_left(norm, common, mlp_victim, clips):
    """What all logits have in common changes nothing but their rounding, which makes for ties."""
    network, x = mlp_victim(dtype=torch.float32).eval(), clips(24, dtype=torch.float32)
    y = network(x).argmax(1)
    expected = deepfool(network, x, y, norm=norm)

    class Raised(nn.Module):
        def forward(self, x):
            return network(x) + common

    y = Raised()(x).argmax(1)
    outcome = deepfool(Raised(), x, y, norm=norm)
    assert expected.success.all() and outcome.success.all()
    assert getattr(outcome, norm).mean() <= 1.2 * getattr(expected, norm).mean()


class Kinked(nn.Module):
    """The slope towards the boundary is steep up to just beyond it, at 0.2, and then next to nothing."""

    def forward(self, x):
        beyond = x.flatten(1)[:, 0] - 0.2
        return torch.stack([(-100 * beyond).maximum(-1e-3 - 0.01 * beyond), 0 * beyond], 1)


@NORMS
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.1])
def test_what_is_hardly_beyond_the_boundary_is_led_no_farther_than_the_overshoot(norm, overshoot):
    x = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    outcome = deepfool(Kinked(), x, torch.tensor([0]), norm=norm, overshoot=overshoot)
    assert outcome.success.item() and 0.1 < getattr(outcome, norm).item() <= 0.1 * (1 + overshoot) ** 2 * (1 + 1e-4)


@NORMS
@pytest.mark.parametrize("strength", [1.0, 30.0, 1000.0])
def test_a_class_that_comes_from_far_behind_is_met_where_it_takes_the_lead(norm, strength):
    """The lead over all others falls only from where that class overtakes the runner-up, which is never the nearest."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 3)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0], [0.0], [100.0 * strength]]))
        network[1].bias.copy_(torch.tensor([0.3, 0.0, 0.3 - 40.0 * strength]))
    x = torch.full((1, 1, 1, 1), 0.2, dtype=torch.float64)
    outcome = deepfool(network, x, torch.tensor([0]), norm=norm)
    assert outcome.success.all()
    assert 0.2 < getattr(outcome, norm).item() <= 0.2 * 1.001


@pytest.mark.parametrize("overshoot", [0.02, 0.1, 0.5])
def test_a_feature_that_comes_to_an_end_of_the_box_does_not_hold_the_others_back(overshoot):
    """The first has 0.05 to go, so the second makes up 0.3; on a straight line to where both end it would take more."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        network[1].bias.copy_(torch.tensor([0.0, -1.5]))
    x = torch.tensor([0.95, 0.2], dtype=torch.float64).view(1, 1, 1, 2)
    outcome = deepfool(network, x, torch.tensor([0]), overshoot=overshoot)
    assert outcome.success.all() and 0.3 < outcome.linf.item() <= 0.3 * (1 + overshoot / 40)
