"""PIA as a black box: what it may see, what it asks, how near it gets, and that a seed fixes it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advtrack.attacks.batches import in_batches
from advtrack.attacks.pia import PIA, _TopScores, pia


class NoGradient(torch.autograd.Function):
    """The identity, whose backward pass raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("a black box has no gradient")


class BlackBox(nn.Module):
    """A victim that raises when gradients are asked for or recorded, and keeps what it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen, self.largest = network, 0, 0

    def forward(self, x):
        assert not torch.is_grad_enabled()
        assert x.min() >= 0 and x.max() <= 1
        self.seen += len(x)
        self.largest = max(self.largest, len(x))
        return NoGradient.apply(self.network(x))


@pytest.fixture
def attacked(mlp_victim, clips, predict):
    """A nonlinear victim, inputs, a wrong target for each, and an input of that target class."""
    network = mlp_victim()
    pool = clips(60)
    classes = predict(network, pool)
    x, t = pool[:8], (classes[:8] + 1) % 4
    start = torch.stack([pool[(classes == target).nonzero()[-1, 0]] for target in t])
    return network, x, t, start


def test_it_comes_near_the_hyperplane_of_a_linear_victim(linear_victim, clips, predict):
    network = linear_victim(classes=2)
    pool = clips(40, margin=0.2)
    classes = predict(network, pool)
    x, t = pool[:8], 1 - classes[:8]
    start = torch.stack([pool[(classes == target).nonzero()[-1, 0]] for target in t])
    w = network[1].weight[1] - network[1].weight[0]
    logits = network(x)
    minimal = (logits[:, 0] - logits[:, 1]).abs() / w.abs().sum()
    outcome = pia(network, x, t, start=start, top_k=2, max_iter=200)
    assert outcome.success.all()
    assert (outcome.linf >= minimal).all()
    ratio = (outcome.linf / minimal).sort().values
    assert ratio[4] <= 1.15 and ratio[-1] <= 1.5


@pytest.mark.parametrize("top_k", [1, 3])
def test_it_draws_the_start_towards_the_input(attacked, top_k):
    network, x, t, start = attacked
    outcome = pia(network, x, t, start=start, top_k=top_k, max_iter=100)
    network.eval()
    assert outcome.success.all() and not outcome.first_success.any()
    assert torch.equal(network(outcome.x_adv).argmax(1), t)
    assert outcome.linf.mean() <= 0.4 * (start - x).flatten(1).abs().amax(1).mean()


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_a_target_hidden_behind_the_winner_scores_less_the_surer_the_winner_is(linear_victim, classes):
    """The winner's own score, which bounds it, would rise."""
    network, points = linear_victim(classes=classes), torch.linspace(0, 1, 200).double().view(-1, 1, 1, 1)
    points = points * (network[1].weight[1] - network[1].weight[0]).view(1, 1, 4, 4).sign().clamp(min=0).detach()
    y = torch.zeros(200, dtype=torch.int64)
    score, shown, leads = _TopScores(network, y, 1, 256)(points, torch.arange(200))
    logits = network(points).detach().log_softmax(1)
    assert torch.equal(shown, leads) and (~shown).sum() >= 50
    assert torch.allclose(score[shown], logits[shown, 0])
    winner, order = logits[~shown].amax(1).sort()
    hidden = score[~shown][order]
    assert (hidden[1:] <= hidden[:-1]).all() and hidden[-1] < hidden[0]
    assert (hidden <= (-winner.expm1()).log() + 1e-12).all()  # no more than there is
    assert hidden.max() <= -math.log(classes)  # and than any class that is shown
    if classes == 2:
        assert torch.allclose(hidden, logits[~shown, 0][order])


def test_the_winner_alone_leads_as_near_as_more_classes_do(clips):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()
    with torch.no_grad():
        network[1].weight.mul_(8)
        network[3].weight.mul_(8)
    pool = clips(120, shape=(1, 8, 8))
    classes = network(pool).argmax(1)
    t = classes.mode().values
    x = pool[classes != t][:8]
    start = pool[classes == t][:1].expand_as(x)
    one, three = (pia(network, x, t.expand(8), start=start, top_k=k, max_iter=100).linf.mean() for k in (1, 3))
    assert one <= 1.1 * three


def test_more_iterations_never_lead_further_away(attacked):
    network, x, t, start = attacked
    previous = torch.ones(8, dtype=torch.float64)
    for max_iter in (1, 5, 25):
        norm = pia(network, x, t, start=start, max_iter=max_iter).linf
        assert (norm <= previous).all()
        previous = norm


def test_a_black_box_is_only_asked_and_every_query_is_counted(attacked):
    network, x, t, start = attacked
    victim = BlackBox(network.eval())
    outcome = pia(victim, x, t, start=start, max_iter=6, samples_per_draw=10, query_batch=32)
    assert outcome.forwards.sum() == victim.seen
    assert victim.largest <= 32
    assert not outcome.backwards.any()
    # Two first looks, the bisection, the line search, and at least one proposal an iteration.
    assert (outcome.forwards >= 2 + 10 + 3 * 11 + 6 * 11).all()


def test_the_scores_below_the_top_classes_do_not_matter(mlp_victim, clips, predict):
    network = mlp_victim(classes=6)
    pool = clips(60)
    classes = predict(network, pool)
    x, t = pool[:6], classes[6:12]
    start = pool[6:12]
    network.eval()

    class Hushed(nn.Module):
        """Shows the top 2 as they are, and one score for all the others."""

        def forward(self, batch):
            p = network(batch).softmax(1)
            top, order = p.topk(2, dim=1)
            rest = (1 - top.sum(1, keepdim=True)) / 4
            return rest.expand_as(p).scatter(1, order, top).log()

    full = pia(network, x, t, start=start, top_k=2, max_iter=5)
    hushed = pia(Hushed(), x, t, start=start, top_k=2, max_iter=5)
    torch.testing.assert_close(full.x_adv, hushed.x_adv)
    assert (t != classes[:6]).any()


def test_a_seed_fixes_the_result_whatever_the_batch(attacked):
    network, x, t, start = attacked
    first = pia(network, x, t, start=start, max_iter=8, seed=3)
    again = pia(network, x, t, start=start, max_iter=8, seed=3)
    other = pia(network, x, t, start=start, max_iter=8, seed=4)
    split = in_batches(pia, network, x, t, 3, targeted=True, start=start, max_iter=8, seed=3)
    assert torch.equal(first.x_adv, again.x_adv) and torch.equal(first.forwards, again.forwards)
    assert not torch.equal(first.x_adv, other.x_adv)
    torch.testing.assert_close(split.x_adv, first.x_adv)


def test_a_generator_is_as_good_as_a_seed_and_stays_as_it_is(attacked):
    network, x, t, start = attacked
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    first = pia(network, x, t, start=start, max_iter=8, seed=3)
    assert torch.equal(pia(network, x, t, start=start, max_iter=8, seed=generator).x_adv, first.x_adv)
    assert torch.equal(generator.get_state(), state)
    torch.rand(5, generator=generator)
    assert not torch.equal(pia(network, x, t, start=start, max_iter=8, seed=generator).x_adv, first.x_adv)


def test_eps_is_where_it_stops(attacked):
    network, x, t, start = attacked
    free = pia(network, x, t, start=start, max_iter=60)
    eps = 1.5 * free.linf.max().item()
    outcome = pia(network, x, t, start=start, eps=eps, max_iter=60)
    assert outcome.success.all() and (outcome.linf <= eps).all()
    assert outcome.forwards.sum() < free.forwards.sum()


def test_an_example_outside_of_eps_is_shown_and_is_no_success(attacked, predict):
    network, x, t, start = attacked
    nearest = pia(network, x, t, start=start, max_iter=4)
    eps = nearest.linf.median().item()
    outcome = pia(network, x, t, start=start, eps=eps, max_iter=4)
    assert 0 < outcome.success.sum() < len(x)
    assert torch.equal(outcome.success, outcome.linf <= eps)
    assert torch.equal(outcome.first_success >= 0, outcome.success)
    assert (predict(network, outcome.x_adv) == t).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stops_within_eps_and_asks_no_more(linear_victim, clips, predict, dtype):
    network, x = linear_victim(classes=2, dtype=dtype), clips(40, dtype=dtype)
    start = clips(40, dtype=dtype, seed=9)
    t = predict(network, start)
    outcome = pia(network, x, t, start=start, eps=0.3, max_iter=60, samples_per_draw=10)
    reached = outcome.success
    assert reached.sum() >= 20
    assert (outcome.linf[reached] <= 0.3).all() and (outcome.linf[~reached] > 0.3).all()
    assert (outcome.forwards[reached].max() < outcome.forwards[~reached].min()) or reached.all()


def test_too_many_queries_for_the_memory_are_halved(attacked, caplog):
    network, x, t, start = attacked
    expected = pia(network, x, t, start=start, max_iter=3)

    class Small(nn.Module):
        def forward(self, queries):
            if len(queries) > 20:
                raise torch.OutOfMemoryError
            return network.eval()(queries)

    outcome = pia(Small().eval(), x, t, start=start, max_iter=3)
    assert torch.equal(outcome.success, expected.success) and torch.equal(outcome.forwards, expected.forwards)
    assert "out of memory: going on with" in caplog.text


def test_a_start_that_does_not_show_the_target_fails(attacked, predict):
    network, x, t, _ = attacked
    outcome = pia(network, x, t, start=x, top_k=1)
    assert not outcome.success.any() and (outcome.first_success == -1).all()
    assert torch.equal(outcome.x_adv, x) and (outcome.forwards == 2).all()


def test_a_start_that_only_shows_the_target_climbs_to_it(linear_victim):
    network = linear_victim(classes=2)
    with torch.no_grad():
        network[1].weight.copy_(torch.cat([torch.zeros(1, 16), torch.ones(1, 16)]))
        network[1].bias.copy_(torch.tensor([8.0, 0.0]))
    x, start = torch.full((1, 1, 4, 4), 0.2, dtype=torch.float64), torch.full((1, 1, 4, 4), 0.49, dtype=torch.float64)
    # The features of the start add up to less than the 8 it takes, and those of x need 0.3 more each.
    start[..., 0, 0], start[..., 3, 3] = 1.0, 0.0
    outcome = pia(network, x, torch.tensor([1]), start=start, top_k=2, max_iter=40)
    assert outcome.success.item() and outcome.first_success.item() > 0
    assert outcome.linf.item() >= 0.3


def test_an_input_of_the_target_class_is_left_alone(attacked, predict):
    network, x, _, start = attacked
    outcome = pia(network, x, predict(network, x), start=start)
    assert outcome.success.all() and not outcome.first_success.any()
    assert torch.equal(outcome.x_adv, x) and (outcome.forwards == 2).all()


def test_the_victim_and_the_inputs_are_left_as_they_came(attacked):
    network, x, t, start = attacked
    before, start_before = x.clone(), start.clone()
    network[1].weight.requires_grad_(False)
    pia(network, x, t, start=start, max_iter=2)
    assert torch.equal(x, before) and torch.equal(start, start_before)
    assert network.training and network[4].training
    assert not network[1].weight.requires_grad and network[5].weight.requires_grad


def test_an_empty_batch(attacked):
    network, x, t, start = attacked
    outcome = pia(network, x[:0], t[:0], start=start[:0])
    assert outcome.x_adv.shape == (0, 1, 4, 4) and outcome.success.shape == (0,)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_sample_fails_alone(attacked, poison):
    network, x, t, start = attacked
    network.eval()

    class Poisoned(nn.Module):
        def forward(self, batch):
            return network(batch) * torch.where(batch[:, 0, 0, 0] > 0.99, poison, 1.0)[:, None]

    x[:, 0, 0, 0], start[:, 0, 0, 0] = 0.3, 0.3
    x[2, 0, 0, 0] = start[2, 0, 0, 0] = 1.0
    alone = pia(network, x, t, start=start, max_iter=5)
    mixed = pia(Poisoned(), x, t, start=start, max_iter=5)
    others = torch.arange(8) != 2
    assert not mixed.success[2] and mixed.x_adv.isfinite().all()
    torch.testing.assert_close(mixed.x_adv[others], alone.x_adv[others])


def test_what_it_refuses(attacked):
    network, x, t, start = attacked
    with pytest.raises(ValueError, match="targeted"):
        pia(network, x, t, start=start, targeted=False)
    with pytest.raises(ValueError, match="start"):
        pia(network, x, t, start=start[:3])


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-7, 0.4, 1.0]), min_size=16, max_size=16),
    learning_rate=st.sampled_from([1e-3, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_the_result_stays_in_the_box_and_never_leaves_the_start_behind(values, learning_rate, seed):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.tensor(values).view(1, 1, 4, 4).repeat(3, 1, 1, 1)
    start = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    params = {"learning_rate": learning_rate, "samples_per_draw": 6, "max_iter": 4, "seed": seed}
    outcome = pia(network, x, torch.arange(3), start=start, **params)
    assert outcome.x_adv.isfinite().all() and outcome.x_adv.min() >= 0 and outcome.x_adv.max() <= 1
    assert (outcome.linf <= (start - x).flatten(1).abs().amax(1) + 1e-6).all()


def test_as_an_art_attack(mlp_victim, clips, predict, art_classifier):
    network = mlp_victim(dtype=torch.float32)
    pool = clips(40, dtype=torch.float32)
    classes = predict(network, pool)
    x, t = pool[:5], (classes[:5] + 1) % 4
    start = torch.stack([pool[(classes == target).nonzero()[-1, 0]] for target in t])
    classifier = art_classifier(network)
    x_adv = PIA(classifier, max_iter=4).generate(x.numpy(), t.numpy(), start=start.numpy())
    assert torch.equal(torch.from_numpy(x_adv), pia(network, x, t, start=start, max_iter=4).x_adv)

    # Without starts, the first input of each target class is one.
    targets = (classes + 1) % 4
    first = torch.stack([pool[(classes == target).nonzero()[0, 0]] for target in targets])
    x_adv = PIA(classifier, max_iter=4).generate(pool.numpy(), targets.numpy())
    given = PIA(classifier, max_iter=4).generate(pool.numpy(), targets.numpy(), start=first.numpy())
    assert (x_adv == given).all() and (predict(network, torch.from_numpy(x_adv)) == targets).all()
    assert PIA(classifier).generate(pool[:0].numpy(), targets[:0].numpy()).shape == (0, *pool.shape[1:])
    for bad in (
        {"eps": -0.1},
        {"sigma": 0.0},
        {"learning_rate": 0.0},
        {"samples_per_draw": 5},
        {"top_k": 0},
        {"query_batch": 0},
        {"max_iter": 0},
        {"targeted": False},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PIA(classifier, **bad)


def test_a_victim_that_changes_what_it_is_given_changes_no_input(clips):
    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(16, 4)

        def forward(self, x):
            return self.last(x.sub_(0.5).flatten(1))

    x, start = clips(4, dtype=torch.float32), clips(4, dtype=torch.float32, seed=7)
    before = x.clone(), start.clone()
    outcome = pia(Normalising(), x, torch.zeros(4, dtype=torch.int64), start=start, max_iter=3)
    assert torch.equal(x, before[0]) and torch.equal(start, before[1])
    assert ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()
