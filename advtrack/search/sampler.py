"""Who proposes the next trial: an Optuna sampler that asks the per-sample bounds, or one of Optuna's own."""

from __future__ import annotations

from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from advtrack.search.bounds import Bounds

SamplerName = Literal["bounds", "tpe", "gp", "random"]


def optuna_sampler(name: SamplerName, seed: int) -> BaseSampler:
    """One of Optuna's samplers; random where the bounds propose, who leave nothing to it but their seed's choices.

    TPE and GP learn from the constraint that a trial which misses the target violates.
    """
    return {"tpe": TPESampler, "gp": GPSampler, "random": RandomSampler, "bounds": RandomSampler}[name](seed=seed)


class BoundsSampler(BaseSampler):
    """Proposes ``eps`` by bisection over what the samples have shown; anything else at random.

    Processes that search at the same time divide the interval between them: trials that run count as known.

    Parameters
    ----------
    bounds : Bounds
        Read at each proposal; the search keeps them up to date.
    seed : int
        Of the random choices.
    """

    def __init__(self, bounds: Bounds, seed: int) -> None:
        self._bounds = bounds
        self._random = RandomSampler(seed)

    def reseed_rng(self) -> None:
        """As Optuna asks of samplers that several threads share."""
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is sampled jointly."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled jointly."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The bounds' proposal for ``eps``."""
        if param_name != "eps":
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return self._bounds.proposal([t.params["eps"] for t in running if "eps" in t.params])
