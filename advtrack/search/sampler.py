"""An Optuna sampler that asks the per-sample bounds where to look next."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from advtrack.search.bounds import Bounds


class BoundsSampler(BaseSampler):
    """Proposes ``eps`` by bisection over what the samples have shown; anything else at random.

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
        if param_name == "eps":
            return self._bounds.proposal()
        return self._random.sample_independent(study, trial, param_name, param_distribution)
