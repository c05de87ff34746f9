"""Budget searches on victims whose smallest budgets are known exactly."""

import itertools
from dataclasses import asdict
from functools import partial

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from torch import nn

from advtrack import processes
from advtrack.attacks import ATTACKS
from advtrack.attacks.base import Choices
from advtrack.attacks.bim import BIMa
from advtrack.attacks.outcome import AttackOutcome
from advtrack.errors import InputError
from advtrack.processes import Process
from advtrack.search import claims
from advtrack.search.criterion import Criterion, successes_needed
from advtrack.search.note import publish
from advtrack.search.proving import prove
from advtrack.search.pursuit import Pursuit
from advtrack.search.space import Budget, Samples, Search
from advtrack.search.storage import open_storage
from advtrack.search.study import search_budget, strike_within, transferred_success

SHAPE = (1, 4, 4)
TOLERANCE = 0.05
BIM = pytest.mark.parametrize("attack", ["bim_a", "bim_b"])


@pytest.fixture
def storage():
    return optuna.storages.InMemoryStorage()


class TwoClasses(nn.Module):
    """Logits (0, w (x - 0.5)): the boundary is ``|w (x - 0.5)| / |w|_1`` away in l-inf."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(0.3 + torch.rand(SHAPE, generator=generator))
        self.w.data *= torch.randn(SHAPE, generator=generator).sign()

    def forward(self, x):
        margin = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(margin), margin], 1)

    def minimal(self, x):
        """Closed form of the smallest l-inf perturbation, shape (N,)."""
        return (self(x)[:, 1].abs() / self.w.abs().sum()).detach().double().numpy()

    def clips(self, smallest, seed=0):
        """Samples about ``smallest`` away from the boundary, on either side of it and well inside the box."""
        generator = torch.Generator().manual_seed(seed)
        distance = torch.as_tensor(smallest, dtype=torch.float32)
        side = torch.randn(len(distance), generator=generator).sign()
        x = 0.5 + (side * distance)[:, None, None, None] * self.w.sign()
        x += 0.02 * distance[:, None, None, None] * torch.randn(x.shape, generator=generator)
        y = self(x).argmax(1)
        return Samples(x.detach(), y, 1 - y, x.detach())


def known_victim(n=15, seed=0, low=0.002, high=0.2):
    """A victim, samples and their smallest l-inf perturbations, spread evenly in the logarithm."""
    victim = TwoClasses(seed)
    order = np.random.default_rng(seed).permutation(n)
    samples = victim.clips(np.geomspace(low, high, n)[order], seed)
    return victim, samples, victim.minimal(samples.x)


def searching(attack, target=0.9, trials=99, seed=0, *, criterion="fooling_rate", **changes):
    return Search(attack, Criterion(criterion, target), trials, seed, **changes)


def bim(attack="bim_a", target=0.9, trials=30, **changes):
    return searching(attack, target, trials, **{"max_iter": 10, **changes})


def find(victim, samples, search, storage, name="study", **options):
    return search_budget(victim, samples, search, storage, name, "a title", **options)


def note_of(storage, result, facts=()):
    """What the dashboard is told."""
    publish(result, storage, "sqlite:///optuna.db", "a title", dict(facts), {})
    return " ".join(map(str, storage.get_study_system_attrs(loaded(storage)._study_id).values()))


def loaded(storage, name="study"):
    return optuna.load_study(study_name=name, storage=storage)


@pytest.fixture
def script(monkeypatch):
    """Put known outcomes in the place of an attack's: a function of the samples' values and the attack's parameters
    gives success, first success and norm. The calls are listed, and how many samples each look at distances takes."""

    def install(outcome, per_iterate=None):
        calls = []

        def run(search, spec, network, samples, params):
            marks = samples.x[:, 0, 0, 0].numpy()
            # An iterate lies a thousandth per iteration from its sample.
            begun = params.pop("start", samples.x)
            spent = ((begun - samples.x) * 1000).round().long()[:, 0, 0, 0]
            calls.append((marks.tolist(), params))
            whole = {**params, "max_iter": int(spent.max()) + params["max_iter"]}
            success, first, norm = outcome(marks, **whole)
            success, first = torch.as_tensor(success, dtype=torch.bool), torch.as_tensor(first)
            iterates = per_iterate and spec is not BIMa
            if "eps" in params and not iterates:
                success &= first <= whole["max_iter"]
                first = torch.where(success, (first - spent).clamp(min=0), -1)
            ones = torch.ones(len(marks), dtype=torch.int64)
            norm = torch.as_tensor(norm, dtype=torch.float64)
            at = (
                [torch.as_tensor(table)[:, int(spent.max()) :] for table in per_iterate(marks, **whole)]
                if iterates
                else []
            )
            if iterates:
                first = torch.where(at[0].any(1), at[0].long().argmax(1) + 1, -1)
            return AttackOutcome(begun + params["max_iter"] / 1000, success, first, ones, ones, norm, norm, norm, *at)

        monkeypatch.setattr(Search, "_run", run)

        def distance(search, network, samples, x_adv):
            install.looks.append(len(x_adv))
            return np.full(len(x_adv), install.away)

        monkeypatch.setattr(Search, "distance", distance)
        return calls

    install.looks, install.away = [], 0.0

    return install


def marked(n):
    """Samples that bear their number."""
    x = torch.arange(float(n)).reshape(n, 1, 1, 1)
    return Samples(x, torch.zeros(n).long(), torch.ones(n).long(), x)


# Perturbation bounds


@BIM
@pytest.mark.parametrize(("target", "seed"), [(0.9, 0), (0.5, 1), (1.0, 2), (0.2, 3)])
def test_the_bound_is_the_needed_smallest_perturbation(storage, attack, target, seed):
    victim, samples, minimal = known_victim(seed=seed)
    result = find(victim, samples, bim(attack, target), storage)
    needed = successes_needed(target, len(samples))
    expected = np.sort(minimal)[needed - 1]
    assert expected * 0.999 <= result.budget.bound <= expected * (1 + TOLERANCE) * 1.001
    assert result.reached and result.fooling_rate >= target
    assert result.fooling_rate == result.success.mean() and result.success.sum() >= needed
    assert (minimal[result.success] <= result.budget.bound * 1.001).all()
    assert result.contradictions == 0 and len(result.trials) <= 12
    # Nine steps of bound / 8 suffice for the last of the needed, which is at the end of its ball.
    assert 1 <= result.budget.iterations <= 9
    assert result.norms["linf"].max() <= result.budget.bound * 1.001


@BIM
def test_the_budget_holds_when_it_is_applied_from_scratch(storage, attack):
    victim, samples, _ = known_victim()
    search = bim(attack)
    result = find(victim, samples, search, storage)
    again = search.strike(victim, samples, eps=result.budget.bound, max_iter=result.budget.iterations)
    assert again.success.numpy().tolist() == result.success.tolist()
    shorter = search.strike(victim, samples, eps=result.budget.bound, max_iter=max(1, result.budget.iterations - 1))
    assert result.budget.iterations > 1 and shorter.success.sum() < successes_needed(0.9, len(samples))


@BIM
def test_a_target_out_of_reach_is_a_finished_result(storage, attack):
    victim = TwoClasses()
    samples = victim.clips([0.01, 0.02, 0.05, 0.4, 0.45])
    result = find(victim, samples, bim(attack, 0.8), storage)
    assert not result.reached and result.fooling_rate == 0.6
    assert result.budget.bound == 0.3 and result.budget.iterations <= 10
    own = result.norms["linf"][result.success]
    assert result.perturbation() == pytest.approx((own.sum() + 2 * 0.3) / 5)
    assert [trial["step"] for trial in result.trials] == ["probe", "confirm"] and result.front == []
    assert "**0.600** (0.231 to 0.882, 5 clips)" in note_of(storage, result) and "misses" in note_of(storage, result)


@BIM
@pytest.mark.parametrize("longest", [21, 25])
def test_the_longest_run_need_be_no_whole_number_of_stages(storage, attack, longest):
    victim = TwoClasses()
    result = find(victim, victim.clips([0.01, 0.4, 0.45]), bim(attack, max_iter=longest), storage)
    assert not result.reached and result.budget.bound == 0.3


@BIM
def test_who_fools_nobody_has_failed_with_the_longest_run(storage, attack):
    victim = TwoClasses()
    result = find(victim, victim.clips([0.4, 0.45]), bim(attack), storage)
    assert not result.reached and result.fooling_rate == 0
    assert result.budget == Budget(0.3, 10, {})


def test_trials_are_limited(storage, monkeypatch):
    for disable in ("0", "1"):
        monkeypatch.setenv("TQDM_DISABLE", disable)
        victim, samples, minimal = known_victim()
        result = find(victim, samples, bim(trials=2), storage, name=disable)
        assert [trial["step"] for trial in result.trials] == ["probe", "probe", "confirm"]
        assert result.reached and result.budget.bound > np.sort(minimal)[13] * (1 + TOLERANCE)


def test_a_study_keeps_constraints_values_and_a_note(storage):
    victim, samples, minimal = known_victim()
    result = find(victim, samples, bim(), storage)
    trials = loaded(storage).trials
    assert len(trials) == len(result.trials) and loaded(storage).metric_names == ["perturbation_bound", "iterations"]
    verdicts = set()
    for trial, row in zip(trials, result.trials, strict=True):
        (violation,) = trial.constraints.values()
        assert (violation <= 0) == trial.user_attrs["reached"] == (trial.values[0] >= np.sort(minimal)[13])
        assert trial.user_attrs["step"] == row["step"]
        assert row["bound"] == trial.params["eps"] == trial.values[0] and row["reached"] == trial.user_attrs["reached"]
        assert (row["fooling_rate"] >= 0.9) == row["reached"]
        verdicts.add(row["reached"])
    assert verdicts == {True, False}
    note = note_of(storage, result, {"colour": "blue"})
    assert "# a title" in note and f"**{result.fooling_rate:.3f}**" in note and "reaches the target" in note
    assert "colour: `blue`" in note and loaded(storage).user_attrs == {"colour": "blue"}
    assert f"**{result.budget.bound:.4g}**" in note and f"**{result.budget.iterations}** iterations" in note


def test_decided_samples_are_not_attacked_again(storage, script):
    n = 20
    thresholds = np.geomspace(0.001, 0.2, n)
    calls = script(lambda marks, eps, max_iter: (thresholds[marks.astype(int)] <= eps, marks.astype(int) * 0, marks))
    result = find(None, marked(n), bim(target=0.5, batch_size=100), storage)
    assert thresholds[9] <= result.budget.bound <= thresholds[9] * (1 + TOLERANCE)
    proof, lost = (
        result.budget.bound,
        {t["bound"] for t in result.trials if t["step"] == "confirm" and not t["reached"]},
    )
    known = np.zeros(n), np.full(n, np.inf)  # resisted and fooled at
    for eps, steps in itertools.groupby(calls, lambda call: call[1]["eps"]):
        iterations = np.zeros(n, int)
        for marks, params in steps:
            iterations[np.array(marks, int)] += params["max_iter"]
        attacked = iterations > 0
        if eps == proof:
            assert attacked.all()
        elif eps in lost:  # shown by the eleven that half of the samples are not enough without
            assert attacked.sum() == 11 and (thresholds[attacked] > eps).all()
        else:
            assert (known[0][attacked] < eps).all() and (eps < known[1][attacked]).all()
        known[0][(thresholds > eps) & (iterations == 10)] = eps  # the longest run
        known[1][(thresholds <= eps) & attacked] = eps
    assert len(result.trials) > 1 + len(lost)
    assert result.passes == 2 * sum(len(marks) for marks, _ in calls) + 2 * sum(script.looks)


def test_a_probe_ends_with_the_batch_that_decides(storage, script):
    calls = script(lambda marks, eps, max_iter: (marks >= 0, marks.astype(int) * 0, marks))
    find(None, marked(20), bim(target=0.8, trials=2), storage)
    probes, confirmation = calls[:-1], calls[-1]
    # At the largest eps all at once; later on five, whose failure would lose the target, and more as these fall.
    assert [len(marks) for marks, _ in probes] == [20, 5, 10, 5]
    assert len(confirmation[0]) == 20


def test_a_hopeless_eps_is_given_up_and_the_answer_is_proven_all_the_same(storage, script):
    """All fall at 0.1; below, half of them never do, and are far away for as long as it is asked."""
    script.away = 1.0
    calls = script(lambda marks, eps, max_iter: ((eps >= 0.1) | (marks >= 5), np.full(len(marks), 5), marks))
    result = find(None, marked(10), bim(target=0.9, max_iter=100), storage)
    assert 0.1 <= result.budget.bound <= 0.1 * (1 + TOLERANCE) and result.missed_at < 0.1
    iterations = {params["eps"]: 0 for _, params in calls if params["eps"] < 0.1}
    for marks, params in calls:
        if params["eps"] in iterations:
            iterations[params["eps"]] += params["max_iter"] * (0 in marks)
    *given_up, proof = (iterations[eps] for eps in sorted(iterations))
    assert given_up and set(given_up) == {20} and proof == 100  # two looks
    assert [trial["reached"] for trial in result.trials if trial["bound"] < 0.1] == [False] * len(iterations)


def test_a_probe_attacks_the_hardest_samples_first(storage, script):
    """Of 20 samples, 16 are needed: five failures lose the target, and the five hardest are those that fail."""
    thresholds = np.geomspace(0.001, 0.2, 20)[::-1]
    firsts = np.arange(20, 0, -1)
    calls = script(lambda marks, eps, max_iter: (thresholds[(m := marks.astype(int))] <= eps, firsts[m], marks))
    find(None, marked(20), bim(target=0.8, max_iter=20), storage)
    missed = [eps for eps in dict.fromkeys(params["eps"] for _, params in calls[:-1]) if thresholds[4] > eps]
    assert missed
    for eps in missed:
        attacked = [marks for marks, params in calls[:-1] if params["eps"] == eps]
        assert attacked == [[*map(float, attacked[0])]] * 10 and sorted(attacked[0]) == [0, 1, 2, 3, 4]  # ten times two


@pytest.mark.parametrize("trials", [9, 30])
def test_a_bound_that_fails_its_confirmation_is_given_up(storage, script, trials):
    def fooled(marks, eps, max_iter):  # sample 0 resists once more between 0.05 and 0.058
        success = np.where(marks == 0, (eps >= 0.001) & ~((eps > 0.05) & (eps < 0.058)), eps >= 0.055)
        return success, np.zeros(len(marks), int), marks

    calls = script(fooled)
    result = find(None, marked(2), bim(target=1.0, trials=trials), storage)
    assert result.reached and result.fooling_rate == 1.0 and result.contradictions >= 1
    assert sum(trial["step"] == "probe" for trial in result.trials) <= trials
    if trials == 30:
        assert 0.058 <= result.budget.bound <= 0.058 * (1 + TOLERANCE)
    else:
        assert 0.058 <= result.budget.bound <= 0.075  # the next eps that is known to fool, and it is confirmed
    # The proof: the sample that decides, then the other.
    assert all(params["eps"] == result.budget.bound for _, params in calls[-2:])
    assert sorted([*calls[-2][0], *calls[-1][0]]) == [0, 1]
    *lost, proven = [trial["reached"] for trial in result.trials if trial["step"] == "confirm"]
    assert proven and lost and not any(lost)
    spent = 2 * sum(len(m) for m, _ in calls) + 2 * sum(script.looks)
    assert result.passes == sum(trial["passes"] for trial in result.trials) == spent


def test_the_next_bound_takes_the_place_of_one_that_fails(storage, script):
    thresholds, resists_again = np.array([0.001, 0.0110, 0.012]), []

    def fooled(marks, eps, max_iter):  # sample 0 falls at 0.001 and above, but where that is to be proven
        again = (marks == 0) & (eps in resists_again)
        return (thresholds[marks.astype(int)] <= eps) & ~again, np.zeros(len(marks), int), marks

    script(fooled)
    undisturbed = find(None, marked(3), bim(target=0.6), storage, name="undisturbed").budget.bound
    assert thresholds[1] <= undisturbed < thresholds[2]
    resists_again.append(undisturbed)
    result = find(None, marked(3), bim(target=0.6), storage)
    assert result.contradictions >= 1 and result.reached and result.success.sum() >= 2
    *_, failed, held = [(trial["bound"], trial["reached"]) for trial in result.trials if trial["step"] == "confirm"]
    assert failed == (undisturbed, False) and held == (result.budget.bound, True)
    assert undisturbed < result.budget.bound <= undisturbed * (1 + TOLERANCE) * (1 + 1e-9)


@pytest.mark.parametrize("criterion", ["fooling_rate", "auc"])
@pytest.mark.parametrize("seed", range(12))
def test_a_victim_that_contradicts_itself_ends_the_search_all_the_same(storage, script, criterion, seed):
    """One outcome in six is the wrong one, always the same for a sample and an eps."""
    thresholds = np.random.default_rng(seed).uniform(0.001, 0.3, 10)

    def outcome(marks, eps, max_iter):
        noise = np.array([np.random.default_rng([int(m), int(eps * 1e9), seed]).random() < 1 / 6 for m in marks])
        success = (thresholds[marks.astype(int)] <= eps) ^ noise
        return success, np.where(success, 1, -1), marks

    script(outcome)
    result = find(None, marked(10), bim(target=0.5, criterion=criterion, trials=12, tolerance=0.01), storage)
    steps = [trial["step"] for trial in result.trials]
    probes = [t.user_attrs["evidence"] for t in loaded(storage).trials if t.user_attrs["step"] == "probe"]
    counted = [len(shown["attacked"]) / 10 if criterion == "auc" else 1 for shown in probes]
    assert sum(counted[:-1]) < 12 and steps.count("confirm") <= 13
    if criterion == "fooling_rate":
        assert result.reached == (result.success.mean() >= 0.5)
    if result.reached:
        assert result.score() >= 0.5 - 1e-9
    assert result.missed_at is None or result.missed_at <= result.budget.bound or not result.reached


def test_an_area_that_later_trials_withdraw_is_not_reached(storage, script):
    """One sample resists once more above an eps that fools it: few trials do not see that, and more go on from them."""
    thresholds = np.array([0.00335, 0.00144, 0.03927, 0.08835, 0.07278, 0.00288, 0.00048])

    def outcome(marks, eps, max_iter):
        success = (thresholds[marks.astype(int)] <= eps) & ~((marks == 0) & (eps > 0.00971) & (eps < 0.01747))
        return success, np.where(success, 3, -1), marks

    script(outcome)
    for trials in (3, 24):
        search = bim(target=0.5, criterion="auc", trials=trials)
        result = find(None, marked(7), search, storage)
        assert result.reached and result.score() >= 0.5 - 1e-9
    assert result.contradictions == 1 and result.front[0][0] == result.budget.bound


def test_what_another_process_has_just_tried_does_not_end_the_search(storage, script, monkeypatch):
    """Both chose the same eps; the other's trial ended while this process let it go first."""
    thresholds = np.geomspace(0.002, 0.2, 10)

    def outcome(marks, eps, max_iter):
        success = thresholds[marks.astype(int)] <= eps
        return success, np.where(success, 1, -1), marks

    script(outcome)
    other = optuna.create_study(study_name="study", storage=storage, directions=["minimize"] * 2)
    first = other.ask()
    first.set_user_attr("process", asdict(Process.this()))

    def claim_the_same():
        eps = storage.get_all_trials(other._study_id)[1].params["eps"]
        other.sampler = optuna.samplers.PartialFixedSampler({"eps": eps}, other.sampler)
        first.suggest_float("eps", 1e-4, 0.3, log=True)
        first.set_user_attr("step", "probe")
        first.set_user_attr("claimed", True)

    def finish():
        fooled = (thresholds <= first.params["eps"]).tolist()
        evidence = {"attacked": list(range(10)), "fooled": fooled, "first_success": [1] * 10}
        evidence["iterations"] = [10] * 10
        told = {"evidence": evidence, "passes": 10, "fooling_rate": 1.0, "fooling_rate_at_most": 1.0, "reached": True}
        for name, value in told.items():
            first.set_user_attr(name, value)
        other.tell(first, (first.params["eps"], 1.0))

    deeds = iter([claim_the_same, finish])
    monkeypatch.setattr(claims, "wait", lambda: next(deeds)())
    result = find(None, marked(10), bim(tolerance=0.05), storage)
    assert next(deeds, None) is None
    assert thresholds[8] <= result.budget.bound <= thresholds[8] * 1.05


def test_bim_b_counts_the_iterate_it_ends_with(storage, script):
    """All three are fooled by iterate 5, but one of them is lost again: 3 of 3 hold from iterate 6 on."""
    table = np.array([[0, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]], bool)

    def outcome(marks, eps, max_iter):
        rows = table[marks.astype(int), :max_iter]
        return rows[:, -1], rows.argmax(1) + 1, marks

    def per_iterate(marks, eps, max_iter):
        norms = np.tile(np.arange(max_iter) / 10, (len(marks), 1))
        return table[marks.astype(int), :max_iter], norms, norms, norms

    calls = script(outcome, per_iterate)
    result = find(None, marked(3), bim("bim_b", 1.0, max_iter=8), storage)
    assert result.budget.iterations == 6 and result.success.all()
    assert result.norms["l2"].tolist() == [0.5] * 3  # of the sixth iterate
    # It ends with the iterate that reaches the target, for all three.
    proof = [
        (mark, params["max_iter"]) for marks, params in calls if params["eps"] == result.budget.bound for mark in marks
    ]
    assert sorted(proof) == [(mark, 1) for mark in (0, 1, 2) for _ in range(6)]


def test_the_front_of_bim_b_is_what_was_fooled_together(storage, script):
    """Both are fooled by iterate 4, but together only from iterate 6 on, or, from an eps of 0.2 on, from iterate 5."""
    far, near = ([[0, 0, 1, 0, last, 1], [0, 0, 0, 1, 1, 1]] for last in (1, 0))

    def per_iterate(marks, eps, max_iter):
        at = np.array(far if eps >= 0.2 else near, bool)[marks.astype(int), :max_iter]
        return at, *[np.full(at.shape, eps)] * 3

    def outcome(marks, eps, max_iter):
        at = per_iterate(marks, eps, 6)[0]
        return at[:, -1], at.argmax(1) + 1, marks

    script(outcome, per_iterate)
    few, many = (find(None, marked(2), bim("bim_b", 1.0, max_iter=6, trials=trials), storage) for trials in (1, 30))
    assert few.front == [(0.3, 5)]
    assert many.budget.bound < 0.2 and many.front == [(many.budget.bound, 6), (0.3, 5)]


def test_no_more_iterations_than_can_change_the_answer(storage, script):
    """The hardest of ten would take 70 iterations; the target is reached without it."""
    firsts = np.array([3, 1, 7, 2, 9, 4, 5, 6, 8, 70])
    calls = script(lambda marks, eps, max_iter: (marks >= 0, firsts[marks.astype(int)], marks))
    result = find(None, marked(10), bim("bim_a", 0.9, max_iter=100), storage)
    assert result.reached and result.fooling_rate == 0.9 and result.budget.iterations == 9
    for eps in {params["eps"] for _, params in calls}:
        runs = [params["max_iter"] for marks, params in calls if params["eps"] == eps and 9 in marks]
        assert sum(runs) <= 20  # one stage in which the others fall, in a trial and in its proof


def test_bim_a_needs_only_the_needed_firsts(storage, script):
    firsts = np.array([3, 1, 7, 2, 9])
    script(lambda marks, eps, max_iter: (marks >= 0, firsts[marks.astype(int)], marks))
    result = find(None, marked(5), bim("bim_a", 0.8), storage)
    assert result.budget.iterations == 7
    assert result.success.tolist() == [True, True, True, True, False] and result.fooling_rate == 0.8


@pytest.mark.parametrize(("tolerance", "budget"), [(0.05, (0.104, 3)), (0.01, (0.102, 9))])
def test_within_the_tolerance_fewer_iterations_are_the_better_budget(storage, script, tolerance, budget):
    """Two of three are needed. The two nearest take nine iterations; the first and the third, 2% farther, three."""
    distances, firsts = np.array([0.1, 0.102, 0.104]), np.array([2, 9, 3])
    script(lambda marks, max_iter: (marks >= 0, firsts[(m := marks.astype(int))], distances[m]))
    result = find(None, marked(3), searching("deepfool", 0.6, tolerance=tolerance), storage)
    assert (result.budget.bound, result.budget.iterations) == budget and result.fooling_rate == 2 / 3
    assert result.front[0] == (0.102, 9) and (0.104, 3) in result.front


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_whoever_proposes_the_budget_reaches_the_target(storage, sampler):
    victim, samples, minimal = known_victim()
    result = find(victim, samples, bim(sampler=sampler, trials=14), storage)
    expected = np.sort(minimal)[13]
    assert result.reached and result.fooling_rate >= 0.9 and result.budget.bound >= expected * 0.999
    assert sum(trial["step"] == "probe" for trial in result.trials) <= 14
    tried = [trial["bound"] for trial in result.trials if trial["bound"] >= expected]
    assert result.budget.bound == min(tried)
    for trial in loaded(storage).trials:
        assert (max(trial.constraints.values()) <= 0) == (trial.values[0] >= expected * 0.999)


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 4), ("random", 4), ("bounds", 2), ("bounds", 30)])
def test_a_bracket_that_is_still_open_at_the_end_is_said_to_be(storage, sampler, trials):
    victim, samples, minimal = known_victim()
    result = find(victim, samples, bim(sampler=sampler, trials=trials), storage)
    missed = result.missed_at or 1e-4
    assert missed < np.sort(minimal)[13] <= result.budget.bound * 1.001
    assert result.settled == (result.budget.bound <= missed * (1 + TOLERANCE) * (1 + 1e-6)) == (trials == 30)
    assert ("left open" in note_of(storage, result)) == (not result.settled)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_whoever_proposes_settings_each_is_run_once(storage, settings_script, sampler):
    calls = settings_script({(i, s): [1.0, 1.0, 1.0] for i in CW["max_iter"] for s in CW["binary_search_steps"]})
    result = find(None, marked(3), searching("carlini_wagner", 0.9, sampler=sampler), storage)
    begun = [tuple(params.values()) for marks, params in calls]
    assert len(result.trials) == 4 and len({*begun}) == 4
    assert all(set(a).isdisjoint(b) for (a, p), (b, q) in itertools.combinations(calls, 2) if p == q)


@BIM
@pytest.mark.parametrize("target", [0.5, 0.8])
def test_the_smallest_bound_of_an_area(storage, attack, target):
    """The area is that under the exact fooling rate: at the budget it reaches the target, and not much below."""
    victim, samples, minimal = known_victim(low=0.002, high=0.02)
    result = find(victim, samples, bim(attack, target, criterion="auc"), storage)
    expected = result.criterion.smallest_bound(minimal)
    assert result.reached and expected * 0.999 <= result.budget.bound <= expected * (1 + TOLERANCE) * 1.01
    low, high = result.auc()
    assert low <= 1 - np.minimum(minimal, 0.3).mean() / 0.3 <= high


def test_the_iterations_of_an_area_are_those_that_reach_it(storage):
    """At the bound all are fooled by iterate 4, but the area lies below it, where it takes 8."""
    victim, samples, _ = known_victim(low=0.002, high=0.02)
    search = bim(target=0.8, criterion="auc")
    result = find(victim, samples, search, storage)
    bound = result.budget.bound

    def area(iterations):
        smallest = np.full(len(samples), np.inf)
        for eps in np.geomspace(bound, 0.001, 80):
            smallest[search.strike(victim, samples, eps=eps, max_iter=iterations).success.numpy()] = eps
        return search.criterion.score(smallest, bound)

    at_the_bound = search.strike(victim, samples, eps=bound, max_iter=4)
    assert at_the_bound.success.all() and area(4) < 0.7
    assert result.budget.iterations == 8 and area(8) >= 0.795  # a grid overstates each perturbation a little
    assert result.front[0] == (bound, 8)


def test_an_area_out_of_reach_is_a_finished_result(storage):
    victim, samples, _ = known_victim(low=0.1, high=0.28)
    result = find(victim, samples, bim(target=0.9, criterion="auc"), storage)
    assert not result.reached and result.budget.bound == 0.3 and result.fooling_rate == 1.0 and result.settled


@pytest.mark.parametrize("seed", range(25))
def test_an_area_is_told_within_the_tolerance_at_the_default_number_of_trials(storage, seed):
    """Whatever the victim: never missed because looks ran out, and never too large for that."""
    rng = np.random.default_rng(seed)
    n, target = int(rng.integers(1, 61)), float(rng.choice([0.05, 0.3, 0.5, 0.7, 0.9, 0.99, rng.uniform(0.01, 1)]))
    low, high = np.sort(np.exp(rng.uniform(np.log(2e-4), np.log(0.45), 2)))
    victim = TwoClasses(seed)
    samples = victim.clips(np.exp(rng.uniform(np.log(low), np.log(high), n)), seed)
    search = bim(target=target, trials=24, criterion="auc", seed=seed, max_iter=10)
    result = find(victim, samples, search, storage)
    smallest = search.criterion.smallest_bound(np.maximum(victim.minimal(samples.x), 1e-4))
    assert result.reached == (smallest <= 0.3)
    if result.reached:
        assert smallest * 0.998 <= result.budget.bound <= smallest * (1 + TOLERANCE) * 1.002


def test_an_area_whose_looks_run_out_is_not_said_to_be_missed(storage):
    """One look leaves it open; so others follow until the bounds tell, whatever proposes them."""
    victim, samples, minimal = known_victim(n=30, low=0.02, high=0.16)
    for sampler in ("bounds", "random"):
        search = bim(target=0.7, trials=1, criterion="auc", sampler=sampler)
        result = find(victim, samples, search, storage, name=sampler)
        assert result.reached and result.budget.bound >= search.criterion.smallest_bound(minimal) * 0.999
        assert result.criterion.missed_by(result.fooled_at, result.budget.bound) <= 0


@pytest.mark.parametrize("attack", ["deepfool", "carlini_wagner"])
def test_the_area_of_an_attack_that_minimises(storage, attack):
    victim = FewClasses()
    samples = victim.clips(12)
    result = find(victim, samples, searching(attack, 0.5, criterion="auc", max_iter=20), storage)
    assert result.reached and result.criterion.score(result.fooled_at, result.budget.bound) == pytest.approx(0.5)


def test_the_front_holds_what_nothing_betters_and_the_budget_leads_it(storage):
    victim, samples, _ = known_victim()
    result = find(victim, samples, bim(), storage)
    assert result.front[0] == (result.budget.bound, result.budget.iterations)
    bounds, iterations = zip(*result.front, strict=True)
    assert list(bounds) == sorted(bounds) and list(iterations) == sorted(iterations, reverse=True)
    for bound, fewest in result.front:
        outcome = bim().strike(victim, samples, eps=bound, max_iter=fewest)
        assert outcome.success.double().mean() >= 0.9


class Killed(Exception):
    """Stands for a kill."""


def killing(monkeypatch, call):
    """Let the attack die at its ``call``-th call; the list of calls made."""
    original, calls = Search._run, []

    def run(search, spec, network, samples, params):
        calls.append(params)
        if len(calls) == call:
            raise Killed
        return original(search, spec, network, samples, params)

    monkeypatch.setattr(Search, "_run", run)
    return calls


@BIM
def test_a_killed_study_is_continued(tmp_path, monkeypatch, attack):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    victim, samples, _ = known_victim()
    with monkeypatch.context() as patch:
        calls = killing(patch, -1)
        undisturbed = find(victim, samples, bim(attack), optuna.storages.InMemoryStorage())
    with monkeypatch.context() as patch:
        killing(patch, len(calls) // 2)
        with pytest.raises(Killed):
            find(victim, samples, bim(attack), open_storage(url))
    done = [t.params["eps"] for t in loaded(open_storage(url)).trials if t.state == TrialState.COMPLETE]
    assert 1 < len(done) < len(undisturbed.trials)
    loaded(open_storage(url)).ask()  # a process killed outright, before it could say who it is, leaves a trial running
    monkeypatch.setattr(processes, "_NAMELESS", 0.5)

    with monkeypatch.context() as patch:
        calls = killing(patch, -1)
        result = find(victim, samples, bim(attack), open_storage(url))
    probes = [trial["eps"] for trial in result.trials if trial["step"] == "probe"]
    assert len(set(probes)) == len(probes)  # what was done is not done again, but to confirm it
    assert not {call["eps"] for call in calls} & set(done) - {result.budget.bound}
    assert result.budget == undisturbed.budget and result.success.tolist() == undisturbed.success.tolist()
    assert [t["bound"] for t in result.trials] == [t["bound"] for t in undisturbed.trials]
    states = [trial.state for trial in loaded(open_storage(url)).trials]
    assert states.count(TrialState.FAIL) == 2 and TrialState.RUNNING not in states
    assert result.cut_short == 1 and result.passes >= undisturbed.passes

    with monkeypatch.context() as patch:
        calls = killing(patch, -1)
        again = find(victim, samples, bim(attack), open_storage(url))
    assert again.budget == result.budget and not calls
    assert len(again.trials) == len(result.trials)


def test_what_a_trial_cut_short_has_spent_counts_as_far_as_it_told(storage, script):
    thresholds = np.geomspace(0.001, 0.2, 10)
    calls = script(lambda marks, eps, max_iter: (thresholds[marks.astype(int)] <= eps, marks.astype(int) * 0, marks))
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, 10)
        with pytest.raises(Killed):
            find(None, marked(10), bim(), storage)
    spent = 2 * sum(len(marks) for marks, _ in calls) + 2 * sum(script.looks)
    told = [(trial.state, trial.user_attrs["passes"]) for trial in loaded(storage).trials]
    assert sum(passes for _, passes in told) == spent and told[-1][0] == TrialState.FAIL and told[-1][1] > 0
    result = find(None, marked(10), bim(), storage)
    assert result.passes == 2 * sum(len(marks) for marks, _ in calls) + 2 * sum(script.looks) and result.cut_short == 1


@pytest.mark.parametrize("sampler", ["bounds", "tpe", "random"])
def test_more_trials_go_on_where_fewer_ended(storage, sampler):
    victim, samples, minimal = known_victim()
    needed = np.sort(minimal)[13]
    few = find(victim, samples, bim(trials=2, sampler=sampler), storage)
    more = find(victim, samples, bim(trials=60, sampler=sampler), storage)
    assert few.budget.bound > more.budget.bound
    assert needed * 0.999 <= more.budget.bound <= needed * (1.05 if sampler == "bounds" else 1.3)
    probes = [trial["eps"] for trial in more.trials if trial["step"] == "probe"]
    assert len(set(probes)) == len(probes) > 2


def test_a_fresh_search_forgets_the_earlier_study(storage):
    victim, samples, _ = known_victim()
    find(victim, samples, bim(target=0.3), storage)
    result = find(victim, samples, bim(target=0.3), storage, fresh=True)
    assert [trial["trial"] for trial in result.trials] == list(range(len(result.trials)))
    assert all(trial["passes"] for trial in result.trials[:3])


def test_optuna_speaks_as_before_after_a_search(storage):
    before = optuna.logging.get_verbosity()
    find(*known_victim()[:2], bim(trials=1), storage)
    assert optuna.logging.get_verbosity() == before


# Attacks that minimise a norm


class FewClasses(nn.Module):
    """Logits ``W (x - 0.5)``."""

    def __init__(self, classes=4, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn((classes, 16), generator=generator))

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.w.T

    def minimal(self, x, y):
        """The nearest of the boundaries to another class, in l-inf."""
        logits = self(x)
        gaps = logits.gather(1, y[:, None]) - logits
        widths = (self.w[None] - self.w[y][:, None]).abs().sum(2)
        return (gaps / widths).nan_to_num(nan=torch.inf).amin(1).detach().double().numpy()

    def clips(self, n, seed=1):
        """Samples so near the middle of the box that no boundary lies outside it."""
        generator = torch.Generator().manual_seed(seed)
        spread = torch.linspace(0.02, 0.3, n)[:, None, None, None]
        x = 0.5 + spread * (2 * torch.rand((n, *SHAPE), generator=generator) - 1)
        y = self(x).argmax(1)
        return Samples(x, y, (y + 1) % len(self.w), x)


@pytest.mark.parametrize(("target", "seed"), [(0.9, 0), (0.5, 1), (1.0, 2)])
def test_deepfools_bound_is_the_closed_form(storage, target, seed):
    victim = FewClasses(seed=seed)
    samples = victim.clips(20, seed)
    result = find(victim, samples, searching("deepfool", target, 10, 0), storage)
    expected = np.sort(victim.minimal(samples.x, samples.y))[successes_needed(target, 20) - 1]
    assert expected <= result.budget.bound <= expected * 1.03
    assert result.reached and result.fooling_rate >= target
    assert result.success.tolist() == (result.norms["linf"] <= result.budget.bound).tolist()
    assert result.budget.iterations < 10 and len(result.trials) == 1


def test_the_grid_is_all_settings_under_the_cap():
    for attack in ("jsma", "deepfool", "carlini_wagner"):
        spec = ATTACKS[attack]
        grid = searching(attack, 0.9, 99, 0).grid()
        searched = {n: s.values for n, s in spec.space.items() if hasattr(s, "values")}
        if spec.shorter_runs != "none":
            searched.pop("max_iter", None)
        assert len(grid) == np.prod([len(values) for values in searched.values()])
        assert len({tuple(settings.items()) for settings in grid}) == len(grid)
        for settings in grid:
            assert all(settings[name] in values for name, values in searched.items()) and len(settings) == len(searched)
    choices = ATTACKS["carlini_wagner"].space["max_iter"].values
    for cap, allowed in [(0, set(choices)), (max(choices) - 1, set(choices) - {max(choices)}), (7, {7})]:
        search = searching("carlini_wagner", 0.9, 99, 0, max_iter=cap)
        assert {settings["max_iter"] for settings in search.grid()} == allowed
        assert search.longest() == max(allowed) if cap != max(choices) - 1 else search.longest() == cap


@pytest.mark.parametrize("attack", ["bim_a", "bim_b", "pia", "deepfool", "jsma", "carlini_wagner"])
def test_a_cap_shortens_the_longest_run_and_never_lengthens_it(attack):
    own = searching(attack, 0.9, 1, 0).longest()
    assert searching(attack, 0.9, 1, 0, max_iter=3).longest() == 3
    assert searching(attack, 0.9, 1, 0, max_iter=10**6).longest() == own > 3


@pytest.fixture
def settings_script(script, monkeypatch):
    """A norm-minimising attack whose norms and successes depend on its settings, as ``table`` says.

    Unless it is ``nested``, a run with fewer constants is another one, as one with fewer iterations is.
    """

    def install(table, nested=False):
        space = {name: Choices(values, "", nested=nested and name != "max_iter") for name, values in CW.items()}
        monkeypatch.setattr(ATTACKS["carlini_wagner"], "space", space)

        def outcome(marks, max_iter, **settings):
            norms = np.array(table[int(max_iter), *settings.values()], float)[marks.astype(int)]
            return np.isfinite(norms), np.zeros(len(marks), int), np.nan_to_num(norms, posinf=9.0)

        return script(outcome)

    return install


CW = {name: ATTACKS["carlini_wagner"].space[name].values for name in ("max_iter", "binary_search_steps")}
GRID = list(itertools.product(*CW.values()))


def test_the_headline_is_the_smallest_bound_and_the_fewest_iterations_among_equals(storage, settings_script):
    few, *_, many = CW["max_iter"]
    table = {(i, s): [1.0, 2.0, 3.0] for i in CW["max_iter"] for s in CW["binary_search_steps"]}
    first, *_, last = CW["binary_search_steps"]
    table[many, last] = [1.0, 1.00, 1.3]
    table[few, last] = [1.0, 1.04, 1.3]  # within 5% of the smallest, in fewer iterations
    table[few, first] = [1.0, 1.20, 1.3]
    settings_script(table)
    result = find(None, marked(3), searching("carlini_wagner", 0.6, 99, 0), storage)
    assert result.budget == Budget(1.04, int(few), {"binary_search_steps": last})
    assert result.success.tolist() == [True, True, False] and result.reached
    assert len(result.trials) == len(table)
    for trial in loaded(storage).trials:
        assert all(value <= 0 for value in trial.constraints.values())


@pytest.mark.parametrize("sampler", ["bounds", "tpe"])
@pytest.mark.parametrize("criterion", ["fooling_rate", "auc"])
def test_a_setting_whose_run_is_the_beginning_of_another_is_told_by_that(storage, settings_script, sampler, criterion):
    """The example of more constants is as near or nearer: only a sampler that does not know that tries fewer."""
    norms = np.linspace(0.1, 0.3, 20)
    calls = settings_script({(i, s): norms * 6 / s for i, s in GRID}, nested=True)
    result = find(None, marked(20), searching("carlini_wagner", 0.5, sampler=sampler, criterion=criterion), storage)
    run = [tuple(params.values()) for _, params in calls]
    many = max(CW["binary_search_steps"])
    assert result.settled and {(i, many) for i in CW["max_iter"]} <= {*run}
    assert result.budget.settings == {"binary_search_steps": many}
    if sampler == "bounds":
        assert [*dict.fromkeys(run)] == [(i, many) for i in CW["max_iter"]]
        assert len(result.trials) == len(CW["max_iter"])
        few = find(None, marked(20), searching("carlini_wagner", 0.5, 1), storage, "few")
        assert len(few.trials) == 1 and not few.settled


@pytest.mark.parametrize("seed", range(60))
def test_settings_are_given_up_only_if_they_better_no_other_one(storage, settings_script, seed):
    """Whatever the settings are worth, the budget is the smallest but for the tolerance."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 40))
    scale = dict(zip(GRID, rng.choice([0.8, 0.96, 1.0, 1.03, 1.3], len(GRID)), strict=True))
    hardness = rng.lognormal(0, 0.5, n)
    table = {key: hardness * scale[key] * rng.uniform(0.95, 1.05, n) for key in GRID}
    settings_script(table)
    search = searching("carlini_wagner", rng.choice([0.3, 0.5, 0.6, 0.65, 0.75, 0.9, 1.0]))
    result = find(None, marked(n), search, storage)
    bounds = {key: search.criterion.smallest_bound(norms) for key, norms in table.items()}
    chosen = (result.budget.iterations, result.budget.settings["binary_search_steps"])
    assert result.budget.bound == bounds[chosen] <= min(bounds.values()) * (1 + TOLERANCE)
    sooner = [bounds[key] for key in GRID if key[0] < chosen[0]]
    assert result.budget.bound < min(sooner, default=np.inf)
    assert result.norms["l2"] == pytest.approx(table[chosen])
    for trial in result.trials:  # one given up is known to miss what it is listed with
        exact = (table[trial["max_iter"], trial["binary_search_steps"]] <= trial["bound"]).mean()
        assert trial["fooling_rate"] <= exact <= trial["fooling_rate_at_most"]


def test_a_setting_given_up_is_no_candidate_though_enough_of_its_samples_are_fooled(storage, settings_script):
    settings_script(dict.fromkeys(GRID, np.arange(1.0, 21.0)))
    result = find(None, marked(20), searching("carlini_wagner", 0.6), storage)
    assert result.budget.bound == 12 and len(result.norms["l2"]) == 20
    assert [trial["reached"] for trial in result.trials] == [True, False, False, False]


def test_of_settings_that_better_nothing_only_the_hardest_samples_are_attacked(storage, settings_script):
    norms = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    calls = settings_script(dict.fromkeys(GRID, norms))
    result = find(None, marked(20), searching("carlini_wagner", 0.9), storage)
    assert result.budget.bound == 18 and result.budget.iterations == min(CW["max_iter"])
    assert len(calls[0][0]) == 20
    for marks, _ in calls[1:]:  # three failures lose the target
        assert sorted(norms[np.array(marks, int)]) == [15, 16, 17, 18, 19, 20]
    assert [trial["reached"] for trial in result.trials] == [True, False, False, False]


def test_of_an_area_all_samples_are_attacked_with_each_setting(storage, settings_script):
    calls = settings_script({key: np.linspace(0.1, 0.3, 20) for key in GRID})
    find(None, marked(20), searching("carlini_wagner", 0.5, criterion="auc"), storage)
    assert [len(marks) for marks, _ in calls] == [20] * len(GRID)


def test_settings_that_miss_the_target_are_no_candidates(storage, settings_script):
    table = {(i, s): [0.1, np.inf, np.inf] for i in CW["max_iter"] for s in CW["binary_search_steps"]}
    winner = (CW["max_iter"][-1], CW["binary_search_steps"][0])
    table[winner] = [5.0, 6.0, np.inf]
    settings_script(table)
    result = find(None, marked(3), searching("carlini_wagner", 0.6, 99, 0), storage)
    assert (result.budget.iterations, result.budget.settings["binary_search_steps"]) == winner
    assert result.budget.bound == 6.0
    for trial in loaded(storage).trials:
        (violation,) = trial.constraints.values()
        assert violation == (0 if tuple(trial.params.values()) == winner else 1)


def test_settings_that_all_miss_give_the_highest_rate(storage, settings_script):
    table = {(i, s): [np.inf] * 3 for i in CW["max_iter"] for s in CW["binary_search_steps"]}
    table[CW["max_iter"][0], CW["binary_search_steps"][0]] = [0.8, np.inf, np.inf]
    settings_script(table)
    samples = marked(3)
    result = find(None, samples, searching("carlini_wagner", 0.6, 99, 0), storage)
    assert not result.reached and result.fooling_rate == pytest.approx(1 / 3)
    assert result.budget.bound == 1.0  # the square root of one feature
    assert np.isnan(result.perturbation())  # what failed might have succeeded anywhere


def test_killed_settings_are_continued(tmp_path, monkeypatch, settings_script):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    grid = GRID
    calls = settings_script({key: [float(n + 1)] * 3 for n, key in enumerate(grid)})
    search = searching("carlini_wagner", 1.0, 99, 0)
    with monkeypatch.context() as patch:
        killing(patch, 3)
        with pytest.raises(Killed):
            find(None, marked(3), search, open_storage(url))
    assert len(calls) == 2
    result = find(None, marked(3), search, open_storage(url))
    tried = [(params["max_iter"], params["binary_search_steps"]) for _, params in calls]
    assert tried == grid  # each once
    assert sorted((t["max_iter"], t["binary_search_steps"]) for t in result.trials) == sorted(grid)
    assert result.budget.bound == 1.0


@pytest.mark.parametrize("norm", [1.0, np.inf])
def test_settings_are_limited_to_the_trials_asked_for_and_those_left_are_said_to_be_open(
    storage, settings_script, norm
):
    settings_script({key: [norm] * 3 for key in GRID})
    few = find(None, marked(3), searching("carlini_wagner", 1.0, 2, 0), storage)
    assert len(few.trials) == 2 and not few.settled and few.reached == (norm == 1)
    assert "left open" in note_of(storage, few)
    all_ = find(None, marked(3), searching("carlini_wagner", 1.0, len(GRID), 0), storage)
    assert all_.settled and "left open" not in note_of(storage, all_)


def test_what_a_setting_cut_short_has_spent_counts_too(storage, settings_script):
    """The second setting betters the first, so that its hardest samples are followed by the others."""
    table = dict.fromkeys(GRID, np.full(20, 1.0)) | {GRID[1]: np.full(20, 0.5)}
    calls = settings_script(table)
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, 3)
        with pytest.raises(Killed):
            find(None, marked(20), searching("carlini_wagner", 0.9), storage)
    assert [len(marks) for marks, _ in calls] == [20, 6]
    result = find(None, marked(20), searching("carlini_wagner", 0.9), storage)
    assert result.passes == 2 * sum(len(marks) for marks, _ in calls) and result.cut_short == 1


# Budgets of another victim


@BIM
def test_a_bounded_attack_transfers_by_a_run_under_the_others_budget(storage, attack):
    victim, samples, minimal = known_victim()
    search = bim(attack)
    own = find(victim, samples, search, storage)
    for bound in (0.004, 0.03, 0.1):
        success = transferred_success(victim, samples, search, Budget(bound, 10, {}), own, storage)
        assert (success == (minimal <= bound)).all()
    assert transferred_success(victim, samples, search, own.budget, own, storage).mean() == own.fooling_rate


def test_a_minimising_attack_transfers_by_its_own_run(storage, monkeypatch):
    victim = FewClasses()
    samples = victim.clips(20)
    search = searching("deepfool", 0.9, 10, 0)
    own = find(victim, samples, search, storage)
    bounds = [float(np.quantile(own.norms["linf"], q)) for q in (0.1, 0.5, 0.8)]
    for budget in [Budget(bound, iterations, {}) for bound in bounds for iterations in (1, 2, 50)]:
        fresh = search.strike(victim, samples, max_iter=budget.iterations)
        expected = (fresh.success & (fresh.linf <= budget.bound)).tolist()
        with monkeypatch.context() as patch:
            calls = killing(patch, -1)
            success = transferred_success(victim, samples, search, budget, own, storage)
            assert not calls  # read off
        assert success.tolist() == expected


def test_what_the_own_runs_do_not_tell_is_run(storage, settings_script):
    grid = [(i, s) for i in CW["max_iter"] for s in CW["binary_search_steps"]]
    unseen = (7, CW["binary_search_steps"][0])
    calls = settings_script({**{key: [1.0, 2.0, 3.0] for key in grid}, unseen: [1.0, np.inf, 5.0]})
    search = searching("carlini_wagner", 1.0, 99, 0)
    own = find(None, marked(3), search, storage)
    done = len(calls)
    seen = Budget(2.5, int(grid[0][0]), {"binary_search_steps": grid[0][1]})
    assert transferred_success(None, marked(3), search, seen, own, storage).sum() == 2
    assert len(calls) == done
    budget = Budget(4.0, 7, {"binary_search_steps": unseen[1]})
    assert transferred_success(None, marked(3), search, budget, own, storage).sum() == 1
    assert len(calls) == done + 1


def test_a_longer_run_than_the_own_ones_is_run(storage, monkeypatch):
    victim = FewClasses()
    samples = victim.clips(5)
    search = searching("deepfool", 0.4, 10, 0, max_iter=1)
    own = find(victim, samples, search, storage)
    calls = killing(monkeypatch, -1)
    transferred_success(victim, samples, search, Budget(0.3, 50, {}), own, storage)
    assert [call["max_iter"] for call in calls] == [50]


# Results


def test_what_a_search_knows_to_miss_lies_just_below_its_budget(storage):
    victim, samples, minimal = known_victim()
    result = find(victim, samples, bim(), storage)
    assert result.missed_at < np.sort(minimal)[13] <= result.budget.bound <= result.missed_at * (1 + TOLERANCE)
    for trial in result.trials:
        truth = (minimal <= trial["bound"]).mean()
        assert trial["fooling_rate"] <= truth <= trial["fooling_rate_at_most"]


def test_a_strike_within_a_budget_tells_whom_it_fools(storage):
    victim, samples, minimal = known_victim()
    outcome, fooled = strike_within(victim, samples, bim(target=0.5), Budget(float(np.median(minimal)), 40, {}))
    assert 0 < fooled.sum() < len(samples)
    assert (victim(outcome.x_adv[fooled]).argmax(1) == samples.target[fooled]).all()
    assert (outcome.x_adv - samples.x).abs().max() <= np.median(minimal) + 1e-6


def test_a_success_beyond_the_bound_is_none(storage):
    victim = FewClasses()
    samples = victim.clips(5)
    search = searching("deepfool", 0.4, 10, 0)
    outcome, fooled = strike_within(victim, samples, search, Budget(0.0, 50, {}))
    assert outcome.success.all() and not fooled.any()


def test_samples_are_taken_by_index_and_slice():
    samples = marked(5)
    assert samples.take(np.array([3, 1])).x.flatten().tolist() == [3, 1]
    taken = samples.take(slice(1, 3))
    assert len(taken) == 2 and taken.start.flatten().tolist() == [1, 2]


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x", "sqlite:////nowhere/at/all/optuna.db"])
def test_a_storage_that_cannot_be_used_is_named(url):
    with pytest.raises(InputError, match=f"--storage {url}: cannot be used"):
        open_storage(url)


def test_an_interrupted_search_tells_what_only_a_probe_has_shown(storage, script, caplog):
    def fooled(marks, eps, max_iter):
        if len(calls) > 1:
            raise KeyboardInterrupt
        return np.ones(len(marks)), np.ones(len(marks), int), np.full(len(marks), eps)

    calls = script(fooled)
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        find(None, marked(2), bim(target=1.0), storage)
    assert "interrupted; so far a bound of 0.3 reaches the target (trial 0, not confirmed yet)" in caplog.text
    assert [trial.state for trial in loaded(storage).trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_search_that_is_interrupted_at_once_tells_that_nothing_reaches(storage, script, caplog):
    def fooled(marks, eps, max_iter):
        raise KeyboardInterrupt

    script(fooled)
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        find(None, marked(2), bim(target=1.0), storage)
    assert "interrupted; so far none reaches the target" in caplog.text


def test_a_file_that_is_missing_is_no_interrupt(storage, script, tmp_path, caplog):
    script(lambda marks, eps, max_iter: (tmp_path / "gone").unlink())
    with pytest.raises(FileNotFoundError):
        find(None, marked(2), bim(target=1.0), storage)
    assert "interrupted" not in caplog.text


@BIM
@pytest.mark.parametrize("resisting", [4, 5, 7])
def test_a_proof_attacks_more_samples_only_while_those_left_could_not_lose_it(attack, resisting):
    """Of 40 samples, 5 failures lose the target. The first in the order are not the hardest."""
    victim, samples, minimal = known_victim(40)
    hardest_first = np.argsort(-minimal)
    eps = float(np.sqrt(minimal[hardest_first[resisting - 1]] * minimal[hardest_first[resisting]]))
    order = np.concatenate([hardest_first[20:23], np.delete(hardest_first, [20, 21, 22])])
    search = bim(attack)
    pursuit = Pursuit(partial(search.strike, victim, eps=eps), samples)
    shown, _ = prove(pursuit, order, 5, 36, search)
    attacked = np.flatnonzero(pursuit.iterations)
    fooled = (minimal <= eps)[attacked]
    assert {*attacked} == {*order[: {4: 40, 5: 10, 7: 10}[resisting]]}
    assert np.array(shown["success"])[attacked].tolist() == fooled.tolist()
    assert (np.array(shown["success"]).sum() >= 36) == (resisting < 5)


# A storage that is lost

END_ALL = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where pid <> pg_backend_pid() and backend_type = 'client backend'
"""


def test_a_study_deleted_while_it_is_searched_is_named(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    victim, samples, _ = known_victim()
    original = Search._run

    def run(*given):
        if "study" in optuna.get_all_study_names(url):
            optuna.delete_study(study_name="study", storage=url)
        return original(*given)

    monkeypatch.setattr(Search, "_run", run)
    with pytest.raises(InputError, match="the study study was deleted while it was searched; the same"):
        find(victim, samples, bim(), open_storage(url), url=url)


def test_a_database_that_is_lost_is_named_and_what_was_finished_is_there_when_it_is_back(postgresql, monkeypatch):
    victim, samples, _ = known_victim()
    url = postgresql.replace("postgresql://advtrack@", "postgresql://advtrack:secret@")
    admin, original, calls = create_engine(postgresql), Search._run, []

    def run(*given):
        calls.append(given)
        outcome = original(*given)
        if len(calls) in (1, 4):
            with admin.connect() as connection:
                connection.execute(text(END_ALL))
        return outcome

    monkeypatch.setattr(Search, "_run", run)
    # An idle connection is replaced; not so in the middle of a transaction.
    expected = find(victim, samples, bim(), optuna.storages.InMemoryStorage()).budget
    assert find(victim, samples, bim(), open_storage(url), "lost", url=url).budget == expected
    storage, failing = open_storage(url), []

    def lose(self, *given):
        failing.append(given)
        if len(failing) == 3:
            raise OperationalError("insert", {}, Exception("server closed the connection unexpectedly"))
        return set_user_attr(self, *given)

    set_user_attr = type(storage).set_trial_user_attr
    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "set_trial_user_attr", lose)
        with pytest.raises(InputError, match=r"postgresql://advtrack:\*\*\*@.* lost .*server closed") as told:
            find(victim, samples, bim(), storage, "again", url=url)
    assert "secret" not in str(told.value) and "\n" not in str(told.value)
    assert find(victim, samples, bim(), open_storage(url), "again", url=url).budget == expected
