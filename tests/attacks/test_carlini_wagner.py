"""Carlini and Wagner's attack against closed forms on linear victims, at the edges of the box, and pass by pass."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniL2Method
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from advtrack.attacks import carlini_wagner as module
from advtrack.attacks.batches import in_batches
from advtrack.attacks.carlini_wagner import CarliniWagner, carlini_wagner


@pytest.fixture
def attacked(mlp_victim, clips, predict, other_labels):
    """A nonlinear victim in training mode, inputs that it sees as ``y``, and a wrong target for each."""
    network = mlp_victim()
    x = clips(12)
    y = predict(network, x)
    return network, x, y, other_labels(y)


def margins(logits, y):
    """How far class ``y`` lies below the best other class."""
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("confidence", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_two_classes_fall_at_the_distance_of_their_hyperplane(
    linear_victim, clips, predict, targeted, confidence, scale
):
    network = linear_victim(classes=2)
    with torch.no_grad():
        network[1].weight.mul_(scale)
        network[1].bias.mul_(scale)
    x = clips(10, margin=0.35)
    y = predict(network, x)
    w = network[1].weight[1] - network[1].weight[0]
    logits = network(x)
    confidence *= scale
    minimal = ((logits[:, 0] - logits[:, 1]).abs() + confidence) / w.norm()
    # Inputs in the middle, whose minimal perturbation leaves the box untouched.
    inside = (minimal / w.norm())[:, None] * w.abs() < 0.34
    keep = inside.all(1)
    assert keep.sum() >= 5
    outcome = carlini_wagner(
        network, x[keep], (1 - y if targeted else y)[keep], targeted=targeted, confidence=confidence
    )
    assert outcome.success.all()
    assert (outcome.l2 >= minimal[keep] * (1 - 1e-9)).all()
    assert (outcome.l2 <= 1.05 * minimal[keep]).all()


def nearest_of_class(network, x, target):
    """The least l2 distance to where ``target`` is not below any other logit of a linear victim; infinite if nowhere.

    A quadratic programme, which SLSQP solves exactly.
    """
    weight, logits = network[1].weight.detach().numpy(), network(x[None])[0].detach().numpy()
    others = np.arange(len(weight)) != target
    lead = weight[target] - weight[others]
    origin = x.flatten().numpy()
    solution = minimize(
        lambda step: step @ step,
        np.zeros(len(origin)),
        jac=lambda step: 2 * step,
        bounds=list(zip(-origin, 1 - origin, strict=True)),
        constraints={
            "type": "ineq",
            "fun": lambda step: lead @ step + logits[target] - logits[others],
            "jac": lambda step: lead,
        },
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-12},
    )
    return np.sqrt(solution.fun) if solution.success else np.inf


@pytest.mark.parametrize(("classes", "seed"), [(20, 6), (20, 29), (20, 48), (50, 3), (50, 14), (50, 24), (50, 58)])
def test_a_target_among_many_classes_is_reached_where_it_is_nearest(linear_victim, classes, seed):
    # With constants that are too small Adam's first steps overshoot into the target's region, and drift out of it.
    network = linear_victim(classes=classes, shape=(1, 4, 4), seed=seed)
    x = 0.3 + 0.4 * torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = (network(x).argmax(1) + 1) % classes
    nearest = torch.tensor([nearest_of_class(network, *each) for each in zip(x, target.tolist(), strict=True)])
    assert nearest.isfinite().all()
    outcome = carlini_wagner(network, x, target, binary_search_steps=9, max_iter=200)
    assert outcome.success.all()
    assert (outcome.l2 >= nearest * (1 - 1e-6)).all()
    assert (outcome.l2 <= 1.05 * nearest).all()


def test_untargeted_makes_for_the_class_that_is_nearest_within_the_box():
    # By its slope alone class 2 is nearer, but the features that lead there soon come to an end of [0, 1].
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        network[1].weight.copy_(
            torch.tensor(
                [
                    [0.419, 0.305, 1.641, 0.846, -0.236, -0.638, 0.052, -0.418, 2.129],
                    [0.735, -0.512, -0.874, -1.017, -1.174, -0.456, -0.218, 0.512, -0.389],
                    [-0.558, -0.158, -1.035, -0.005, 0.057, -0.479, -0.347, -0.386, 0.293],
                ]
            )
        )
        network[1].bias.copy_(torch.tensor([0.148, -0.205, -0.28]))
    x = torch.tensor([[0, 0, 0.162, 0.862, 0, 0.006, 1, 0, 0], [0, 0, 0.691, 0.886, 0, 0.363, 0, 0.124, 0]])
    x = x.view(2, 1, 3, 3).double()
    nearest = torch.tensor([min(nearest_of_class(network, each, rival) for rival in (1, 2)) for each in x])
    outcome = carlini_wagner(network, x, torch.tensor([0, 0]), targeted=False)
    assert outcome.success.all()
    assert (outcome.l2 >= nearest * (1 - 1e-6)).all()
    assert (outcome.l2 <= 1.05 * nearest).all()


@pytest.mark.parametrize(("classes", "seed"), [(5, 0), (5, 1), (10, 2), (10, 3)])
def test_untargeted_finds_the_nearest_of_several_classes(linear_victim, clips, predict, classes, seed):
    network = linear_victim(classes=classes, seed=seed)
    x = clips(60, margin=0.4)
    y = predict(network, x)
    logits, weight = network(x), network[1].weight
    gaps = logits.gather(1, y[:, None]) - logits
    distances = gaps / (weight[y][:, None] - weight[None]).norm(dim=2)
    nearest = distances.scatter(1, y[:, None], torch.inf).amin(1)
    keep = nearest < 0.4
    assert keep.sum() >= 5
    outcome = carlini_wagner(network, x[keep], y[keep], targeted=False)
    assert outcome.success.all()
    assert (outcome.l2 >= nearest[keep] * (1 - 1e-9)).all()
    assert (outcome.l2 <= 1.05 * nearest[keep]).all()

    # With a margin to reach, another boundary may be the nearest.
    distances = (gaps + 0.5) / (weight[y][:, None] - weight[None]).norm(dim=2)
    nearest = distances.scatter(1, y[:, None], torch.inf).amin(1)
    keep = nearest < 0.4
    outcome = carlini_wagner(network, x[keep], y[keep], targeted=False, confidence=0.5)
    assert keep.sum() >= 5 and outcome.success.all()
    assert (outcome.l2 <= 1.05 * nearest[keep]).all()


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_boundary_that_blocked_features_seem_to_bring_near_is_not_the_nearest(linear_victim, end):
    # Both rivals trail by 1. Class 1 has steep features that would have to leave the box and two that reach it at
    # 1 / sqrt(2); class 2 has two others that reach it at 0.4 / sqrt(2).
    network, outwards = linear_victim(classes=3), -1.0 if end == 0 else 1.0
    weight = torch.zeros(3, 16, dtype=torch.float64)
    weight[1, :12], weight[1, 12:14], weight[2, 14:] = 3 * outwards, 1.0, 2.5
    x = torch.full((1, 1, 4, 4), end, dtype=torch.float64)
    x.flatten(1)[:, 12:] = 0.4
    with torch.no_grad():
        network[1].weight.copy_(weight)
        network[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]) - torch.cat([torch.zeros(1), (weight[1:] @ x.flatten())]))
    outcome = carlini_wagner(network, x, torch.tensor([0]), targeted=False)
    minimal = 0.4 / 2**0.5
    assert outcome.success.item() and minimal <= outcome.l2.item() <= 1.05 * minimal


class Saturating(nn.Module):
    """Seen from the middle, class 1 has the nearest boundary, which it never reaches; class 2, on top of it, does.

    Logits 1, 0.9 tanh(20 u) and 0.5 + 2 v, of the means u and v of the two halves of the features, less 0.5.
    """

    def forward(self, x):
        u, v = (half.mean(1) - 0.5 for half in x.flatten(1).chunk(2, 1))
        return torch.stack([torch.ones_like(u), 0.9 * torch.tanh(20 * u), 0.5 + 2 * v], 1)


@pytest.mark.parametrize(("binary_search_steps", "farther"), [(1, 1.15), (3, 1.05), (5, 1.05)])
def test_a_rival_that_cannot_be_reached_is_given_up(clips, binary_search_steps, farther):
    x = clips(8, margin=0.46)
    outcome = carlini_wagner(
        Saturating(), x, torch.zeros(8, dtype=torch.int64), targeted=False, binary_search_steps=binary_search_steps
    )
    # Class 2 is on top at v = 0.25: 8 features by what they lack on average.
    minimal = (0.75 - x.flatten(1)[:, 8:].mean(1)) * 8**0.5
    assert outcome.success.all() and (outcome.first_success > 0).all()
    assert (outcome.l2 >= minimal).all() and (outcome.l2 <= farther * minimal).all()


@dataclass
class Run:
    """One constant each: for whom, which one, those that begin afresh, and who succeeded with it."""

    rows: torch.Tensor
    const: torch.Tensor
    afresh: torch.Tensor
    solved: torch.Tensor


@pytest.fixture
def runs(monkeypatch):
    """The constants that the attack tries, in their order."""
    tried = []

    def spy(network, y, found, rows, const, least, afresh, **params):
        solved = minimise(network, y, found, rows, const, least, afresh, **params)
        tried.append(Run(rows.clone(), const.clone(), afresh.clone(), solved.clone()))  # the constants are filled in
        return solved

    minimise = module._minimise
    monkeypatch.setattr(module, "_minimise", spy)
    return tried


def test_a_rival_that_leads_to_examples_is_kept(linear_victim, clips, predict, runs):
    """Also where the runner-up in logits, which Eq. 6 would take, is another class."""
    network, x = linear_victim(classes=10, seed=2), clips(60, margin=0.4)
    assert carlini_wagner(network, x, predict(network, x), targeted=False).success.all()
    # A constant each, and none tried again; Eq. 6 itself is followed by the fourth, which looks around.
    assert [bool(run.afresh.any()) for run in runs] == [False, False, False, True, False]


def test_a_look_around_in_vain_leaves_the_search_for_the_constant_as_it_was(linear_victim, clips, predict, runs):
    network, x = linear_victim(classes=10, seed=2), clips(60, margin=0.4)
    y = predict(network, x)
    three, four = (carlini_wagner(network, x, y, targeted=False, binary_search_steps=steps).l2 for steps in (3, 4))
    in_vain = four == three
    runs.clear()
    carlini_wagner(network, x, y, targeted=False, binary_search_steps=6)
    constants = torch.stack([run.const for run in runs])
    solved = torch.stack([run.solved for run in runs])
    lower, upper = torch.zeros(60, dtype=torch.float64), torch.full((60,), torch.inf, dtype=torch.float64)
    assert len(runs) == 6 and in_vain.sum() >= 10
    for step, following in (0, 1), (1, 2), (2, 4), (4, 5):
        upper, lower = constants[step].where(solved[step], upper), lower.where(solved[step], constants[step])
        expected = torch.where(upper.isinf(), constants[step] * 10, (lower + upper) / 2)
        assert torch.equal(constants[following][in_vain], expected[in_vain])


class Reluctant(nn.Module):
    """As `Saturating`, but the end of the way to class 2 is nearly flat: the first guess at a constant is too small."""

    def forward(self, x):
        own, near, far = Saturating()(x).unbind(1)
        return torch.stack([own, near, far.minimum(0.98 + 0.05 * (far - 0.98))], 1)


def test_what_is_tried_again_takes_no_smaller_a_constant_than_the_one_that_failed(clips, runs):
    x = clips(8, margin=0.46)
    assert carlini_wagner(Reluctant(), x, torch.zeros(8, dtype=torch.int64), targeted=False).success.all()
    again = [(first, second) for first, second in pairwise(runs) if second.afresh.any() and not first.afresh.any()]
    assert len(again) >= 2
    for first, second in again:
        assert (second.const[second.rows] >= first.const[second.rows]).all()


@pytest.mark.parametrize("features", [2, 3, 16])
def test_the_nearest_boundaries_are_met_as_closely(linear_victim, clips, predict, features):
    """Samples next to a boundary need small steps throughout."""
    network = linear_victim(classes=2, shape=(1, 1, features), seed=5)
    x = clips(120, shape=(1, 1, features), margin=0.3)
    y = predict(network, x)
    w = network[1].weight[1] - network[1].weight[0]
    minimal = (network(x)[:, 0] - network(x)[:, 1]).abs() / w.norm()
    keep = minimal < 0.2
    assert keep.sum() >= 30 and minimal[keep].min() < 0.01
    outcome = carlini_wagner(network, x[keep], 1 - y[keep])
    assert (outcome.l2 <= 1.05 * minimal[keep]).all()


def test_features_at_exactly_0_and_1_can_move(linear_victim):
    network = linear_victim(classes=2)
    with torch.no_grad():
        network[1].weight.copy_(torch.cat([torch.full((1, 16), -1.0), torch.full((1, 16), 1.0)]))
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    # On the floor: Z_1 - Z_0 = 2 sum(x) - 1, reached at 1 / 32 for every feature.
    floor = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    outcome = carlini_wagner(network, floor, torch.tensor([1]))
    assert outcome.success.item() and outcome.l2.item() <= 1.05 * 0.5 / 4
    assert outcome.x_adv.min() >= 0
    # At the ceiling: Z_0 - Z_1 = b - 2 sum(x), with b = 31 reached at 1 - 1 / 32.
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([31.0, 0.0]))
    outcome = carlini_wagner(network, 1 - floor, torch.tensor([0]))
    assert outcome.success.item() and outcome.l2.item() <= 1.05 * 0.5 / 4
    assert outcome.x_adv.max() <= 1


def test_features_without_influence_stay_exactly_where_they_are(linear_victim, predict):
    network = linear_victim(classes=2)
    with torch.no_grad():
        network[1].weight[:, 8:] = 0
        network[1].bias.copy_(-0.5 * network[1].weight.sum(1))
    x = torch.rand(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x.flatten(1)[:, 8:12], x.flatten(1)[:, 12:] = 0, 1
    outcome = carlini_wagner(network, x, 1 - predict(network, x))
    assert (outcome.l2[outcome.success] > 0).all() and outcome.success.any()
    assert torch.equal(outcome.x_adv.flatten(1)[:, 8:], x.flatten(1)[:, 8:])


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_what_is_called_a_success_is_one(attacked, targeted, confidence):
    network, x, y, t = attacked
    labels = t if targeted else y
    outcome = carlini_wagner(network, x, labels, targeted=targeted, confidence=confidence)
    network.eval()
    logits = network(outcome.x_adv)
    margin = margins(logits, labels) * (1 if targeted else -1)
    assert outcome.success.float().mean() >= 0.9
    assert (margin[outcome.success] <= -confidence + 1e-9).all()
    assert torch.equal(outcome.success, outcome.first_success >= 0)
    fooled = logits.argmax(1) == labels if targeted else logits.argmax(1) != labels
    assert fooled[outcome.success].all()


def test_the_search_finds_its_way_from_any_first_constant(attacked):
    network, x, _, t = attacked
    best = carlini_wagner(network, x, t, binary_search_steps=9, max_iter=300).l2
    for initial_const in (1e-4, 1.0, None):
        outcome = carlini_wagner(network, x, t, initial_const=initial_const, binary_search_steps=9)
        assert outcome.success.all()
        assert outcome.l2.mean() <= 1.1 * best.mean()


def constants_tried(monkeypatch, attack, x, y):
    """The constants that ART tries on a single input, in order."""
    tried = []

    def spy(x, x_adv, target, c_weight, loss=attack._loss):
        tried.extend(c_weight.tolist())
        return loss(x, x_adv, target, c_weight)

    monkeypatch.setattr(attack, "_loss", spy)
    attack.generate(x, y)
    return list(dict.fromkeys(tried))


def test_art_never_bisects_the_constant(mlp_victim, clips, predict, other_labels, art_classifier, monkeypatch):
    # ART's lower bound is an alias of the constant, doubled a line before: after the failures c, 2 c and the success
    # 4 c it bisects between 4 c and 4 c, and so tries nothing between 2 c and 4 c.
    network = mlp_victim(dtype=torch.float32)
    x = clips(1, dtype=torch.float32)
    t = other_labels(predict(network, x))
    art = CarliniL2Method(
        art_classifier(network), targeted=True, initial_const=1e-3, binary_search_steps=15, max_iter=30, verbose=False
    )
    tried = constants_tried(monkeypatch, art, x.numpy(), np.eye(4, dtype=np.float32)[t])
    assert len(tried) < 15
    assert np.allclose(np.diff(np.log2(tried)), 1)  # each twice the one before, and then the last again and again


def test_the_constant_falls_after_a_success_and_rises_after_a_failure(attacked, monkeypatch):
    network, x, _, t = attacked
    tried, solved = [], []

    def spy(const, lower, upper, success):
        tried.append(const)
        solved.append(success)
        return following(const, lower, upper, success)

    following = module._next_constants
    monkeypatch.setattr(module, "_next_constants", spy)
    assert carlini_wagner(network, x, t, binary_search_steps=9).success.all()
    tried, solved = torch.stack(tried), torch.stack(solved)
    assert torch.equal(tried[1:] < tried[:-1], solved[:-1])
    # Each constant lies between the largest that has failed and the smallest that has succeeded.
    for step in range(1, 9):
        failed = tried[:step].where(~solved[:step], 0).amax(0)
        enough = tried[:step].where(solved[:step], torch.inf).amin(0)
        assert ((failed < tried[step]) & (tried[step] < enough)).all()
    rises = ~solved[:-1] & (solved.cumsum(0)[:-1] > 0)
    assert rises.sum() >= 10  # the search goes both ways, also once it has succeeded


def test_more_constants_never_lengthen_a_perturbation(attacked):
    network, x, _, t = attacked
    previous = torch.full((12,), torch.inf, dtype=torch.float64)
    for steps in (1, 2, 4, 6):
        outcome = carlini_wagner(network, x, t, binary_search_steps=steps, max_iter=40)
        norm = outcome.l2.where(outcome.success, torch.inf)
        assert (norm <= previous).all()
        previous = norm


def test_leaving_early_saves_passes_and_costs_little(attacked):
    network, x, _, t = attacked
    whole = carlini_wagner(network, x, t, abort_early=False)
    early = carlini_wagner(network, x, t, abort_early=True)
    assert (whole.forwards == 5 * 101).all()
    assert early.forwards.sum() < whole.forwards.sum()
    assert torch.equal(early.success, whole.success)
    assert early.l2.mean() <= 1.02 * whole.l2.mean()


def test_first_success_counts_iterations_through_all_constants(linear_victim, clips, predict):
    network = linear_victim(classes=2)
    x = clips(1, margin=0.3)
    t = 1 - predict(network, x)
    # Far too small a constant: nothing in its ten iterations, nor in those of the next two, each ten times larger.
    outcome = carlini_wagner(network, x, t, initial_const=1e-6, max_iter=10, abort_early=False, binary_search_steps=12)
    assert outcome.success.item() and outcome.first_success.item() > 20


@pytest.mark.parametrize("targeted", [True, False])
def test_an_adversarial_input_is_left_alone(attacked, targeted):
    network, x, y, t = attacked
    outcome = carlini_wagner(network, x, y if targeted else t, targeted=targeted)
    assert outcome.success.all() and not outcome.first_success.any() and not outcome.backwards.any()
    assert (outcome.forwards == 1).all() and torch.equal(outcome.x_adv, x)


def test_a_tie_is_broken(linear_victim):
    network = linear_victim(classes=2)
    with torch.no_grad():
        network[1].bias.zero_()
        network[1].weight[0] = network[1].weight[1].flip(0)
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    logits = network(x)
    t = 1 - logits.argmax(1)
    assert (logits[0, 0] - logits[0, 1]).abs() < 1e-12
    outcome = carlini_wagner(network, x, t)
    assert outcome.success.item() and 0 < outcome.l2.item() < 1e-3


def test_a_constant_victim_is_not_fooled(linear_victim, clips):
    network = linear_victim()
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.zero_()
    x = clips(3)
    outcome = carlini_wagner(network, x, torch.full((3,), 2))
    assert not outcome.success.any() and torch.equal(outcome.x_adv, x)


@pytest.mark.parametrize("max_iter", [1, 7])
@pytest.mark.parametrize("abort_early", [True, False])
def test_passes_are_those_that_hooks_see(attacked, count_passes, max_iter, abort_early):
    network, x, _, t = attacked
    with count_passes(network) as passes:
        outcome = carlini_wagner(network, x, t, max_iter=max_iter, abort_early=abort_early)
    assert (outcome.forwards.sum(), outcome.backwards.sum()) == (passes.forwards, passes.backwards)


def test_the_victim_and_the_inputs_are_left_as_they_came(attacked):
    network, x, _, t = attacked
    before = x.clone()
    network[1].weight.requires_grad_(False)
    carlini_wagner(network, x, t, max_iter=3, binary_search_steps=2)
    assert torch.equal(x, before) and not x.requires_grad
    assert network.training and network[4].training
    assert not network[1].weight.requires_grad and network[5].weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("batch_size", [1, 5])
def test_results_do_not_depend_on_the_batch(attacked, batch_size):
    network, x, _, t = attacked
    whole, split = carlini_wagner(network, x, t), in_batches(carlini_wagner, network, x, t, batch_size, targeted=True)
    assert torch.equal(whole.x_adv, split.x_adv)
    assert torch.equal(whole.first_success, split.first_success)
    assert torch.equal(whole.forwards, split.forwards)


def test_an_empty_batch(attacked):
    network, x, _, t = attacked
    outcome = carlini_wagner(network, x[:0], t[:0])
    assert outcome.x_adv.shape == (0, 1, 4, 4) and outcome.success.shape == (0,)


@pytest.mark.parametrize("targeted", [True, False])
def test_a_victim_with_one_class(linear_victim, clips, targeted):
    x, y = clips(3), torch.zeros(3, dtype=torch.int64)
    outcome = carlini_wagner(linear_victim(classes=1), x, y, targeted=targeted)
    assert torch.equal(outcome.success, torch.full((3,), targeted)) and torch.equal(outcome.x_adv, x)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_sample_fails_alone(mlp_victim, clips, predict, other_labels, poison):
    network, x = mlp_victim(), clips(6)
    t = other_labels(predict(network, x))

    class Poisoned(nn.Module):
        def forward(self, batch):
            bad = torch.where(batch[:, 0, 0, 0] > 0.9, poison, 1.0)
            return network.eval()(batch) * bad[:, None]

    x[:, 0, 0, 0] = 0.2
    x[3, 0, 0, 0] = 1.0
    alone, mixed = carlini_wagner(network, x, t), carlini_wagner(Poisoned(), x, t)
    others = torch.arange(6) != 3
    assert not mixed.success[3] and torch.equal(mixed.x_adv[3], x[3])
    assert torch.equal(mixed.x_adv[others], alone.x_adv[others])


@pytest.mark.parametrize("targeted", [True, False])
def test_a_derivative_that_is_not_finite_leads_nowhere_and_the_others_do(linear_victim, clips, predict, targeted):
    """The root of a feature at 0, the floor of a spectrogram, has an infinite slope."""
    linear = linear_victim()

    class Rooted(nn.Module):
        def forward(self, x):
            return linear(x) + 0 * x[:, 0, 0, :1].sqrt()

    x = clips(6)
    x[::2, 0, 0, 0] = 0
    y = predict(linear, x)
    labels = (y + 1) % 4 if targeted else y
    free, met = (carlini_wagner(network, x, labels, targeted=targeted) for network in (linear, Rooted()))
    assert met.success.all()
    torch.testing.assert_close(met.l2, free.l2, rtol=0.15, atol=0)


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-7, 0.4, 1 - 1e-7, 1.0]), min_size=16, max_size=16),
    learning_rate=st.sampled_from([0.01, 0.1, 10.0]),
    targeted=st.booleans(),
)
def test_the_result_stays_in_the_box(values, learning_rate, targeted):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.tensor(values).view(1, 1, 4, 4).repeat(3, 1, 1, 1)
    outcome = carlini_wagner(
        network,
        x,
        torch.arange(3),
        learning_rate=learning_rate,
        targeted=targeted,
        max_iter=8,
        binary_search_steps=2,
    )
    assert outcome.x_adv.isfinite().all() and outcome.x_adv.min() >= 0 and outcome.x_adv.max() <= 1


def test_as_an_art_attack(mlp_victim, clips, predict, other_labels, art_classifier):
    network = mlp_victim(dtype=torch.float32)
    x = clips(6, dtype=torch.float32)
    t = other_labels(predict(network, x))
    classifier = art_classifier(network)
    x_adv = CarliniWagner(classifier, max_iter=30, binary_search_steps=3).generate(x.numpy(), t.numpy())
    native = carlini_wagner(network, x, t, max_iter=30, binary_search_steps=3)
    assert torch.equal(torch.from_numpy(x_adv), native.x_adv)
    for bad in (
        {"confidence": -1.0},
        {"learning_rate": 0.0},
        {"initial_const": 0.0},
        {"binary_search_steps": 0},
        {"max_iter": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            CarliniWagner(classifier, **bad)


class Curved(nn.Module):
    """Class 1 begins 0.3 to the right of the centre, 0.24 as its slope at the centre has it; class 2 0.26 above it."""

    def forward(self, x):
        right, up = (x - 0.5).flatten(1).unbind(1)
        return torch.stack([0 * up, 10 * (right - 2 / 3 * right.square() - 0.24), 2 * (up - 0.26)], 1)


def test_a_boundary_that_is_nearer_than_the_slopes_said_is_found():
    x, y = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    first, more = (
        carlini_wagner(Curved(), x, y, targeted=False, binary_search_steps=constants) for constants in (1, 5)
    )
    assert first.success.all() and Curved()(first.x_adv).argmax(1) == 1 and first.l2 >= 0.3
    assert more.success.all() and 0.26 <= more.l2 <= 0.26 * 1.02


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize(("floors", "steep"), [(1, 1000.0), (3000, 1.0)])
def test_floors_that_bear_most_of_the_slope_and_cannot_fall_do_not_count(floors, steep, targeted):
    """As of spectrograms: ten features can move, and what the others would bring is not to be had."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(floors + 10, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.cat([torch.full((floors,), -steep), torch.full((10,), 0.3)]) * torch.eye(2)[1:].T)
        network[1].bias.copy_(torch.tensor([0.0, -1.0]))
    x = torch.cat([torch.zeros(floors), torch.full((10,), 0.2)]).view(1, 1, 1, -1)
    outcome = carlini_wagner(network, x, torch.tensor([int(targeted)]), targeted=targeted)
    nearest = 0.4 / 0.3 / math.sqrt(10)
    assert outcome.success.all() and nearest <= outcome.l2.item() <= 1.01 * nearest
