"""The sampler hands on what the bounds propose."""

import numpy as np
import optuna

from advtrack.search.bounds import Bounds
from advtrack.search.criterion import Criterion
from advtrack.search.sampler import BoundsSampler


def test_eps_is_the_bounds_proposal_at_that_moment():
    bounds = Bounds(1, 1e-4, 0.3, Criterion("fooling_rate", 1.0), 0.05)
    study = optuna.create_study(sampler=BoundsSampler(bounds, seed=0))
    proposed = []

    def objective(trial):
        proposed.append(bounds.proposal())
        eps = trial.suggest_float("eps", 1e-4, 0.3, log=True)
        bounds.record(np.array([0]), eps, np.array([eps >= 0.02]), np.array([1]))
        return eps

    study.optimize(objective, n_trials=5)
    assert [trial.params["eps"] for trial in study.trials] == proposed
    assert len(set(proposed)) == 5


def test_anything_else_is_random_and_repeatable():
    def drawn(seed):
        study = optuna.create_study(
            sampler=BoundsSampler(Bounds(1, 1e-4, 0.3, Criterion("fooling_rate", 1.0), 0.05), seed)
        )
        study.optimize(lambda trial: trial.suggest_float("other", 0, 1), n_trials=4)
        return [trial.params["other"] for trial in study.trials]

    assert drawn(3) == drawn(3) != drawn(4)
    assert all(0 <= value <= 1 for value in drawn(3)) and len(set(drawn(3))) == 4


def test_it_is_a_sampler_like_others():
    """Other kinds of parameters, trials that run or were pruned, and two threads."""
    bounds = Bounds(1, 1e-4, 0.3, Criterion("fooling_rate", 1.0), 0.05)
    study = optuna.create_study(sampler=BoundsSampler(bounds, seed=0))
    assert study.ask().suggest_float("eps", 1e-4, 0.3, log=True) == 0.3  # and goes on running

    def objective(trial):
        eps = trial.suggest_float("eps", 1e-4, 0.3, log=True)
        assert 1e-4 <= eps < 0.3 and 1 <= trial.suggest_int("n", 1, 9) <= 9
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            raise optuna.TrialPruned
        return eps

    study.optimize(objective, n_trials=12, n_jobs=2)
    states = [trial.state.name for trial in study.trials]
    assert states[0] == "RUNNING" and set(states[1:]) <= {"COMPLETE", "PRUNED"} and len(states) == 13


def test_reseeded_it_draws_other_values():
    def drawn(reseeded):
        sampler = BoundsSampler(Bounds(1, 1e-4, 0.3, Criterion("fooling_rate", 1.0), 0.05), 0)
        if reseeded:
            sampler.reseed_rng()
        return optuna.create_study(sampler=sampler).ask().suggest_float("other", 0, 1)

    assert drawn(False) == drawn(False) != drawn(True)
