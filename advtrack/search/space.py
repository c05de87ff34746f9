"""What is searched: a victim's samples, an attack's space of budgets, and the budget that comes out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advtrack.attacks import ATTACKS
from advtrack.attacks.base import Attack, Choices, Range
from advtrack.attacks.batches import Precision, batchwise, in_batches
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import boundary_distance
from advtrack.processes import interruptible
from advtrack.search.criterion import Criterion
from advtrack.search.sampler import SamplerName

NORMS = ("l0", "l2", "linf")
# Looks, in a longest run, at whether more iterations are needed.
_STAGES = 10
#: Facts by name, one value per sample, in the plain types that a study keeps.
Evidence = dict[str, list[Any]]


@dataclass(frozen=True)
class Samples:
    """What is attacked: correctly classified clips, on the victim's device.

    Attributes
    ----------
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    y : Tensor, shape (N,)
        True labels.
    target : Tensor, shape (N,)
        Random wrong labels.
    start : Tensor, shape (N, C, H, W), or None
        A training input of the target class each, for an attack that starts from one.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    start: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: np.ndarray | slice) -> Samples:
        """Some of the samples."""
        rows = indices if isinstance(indices, slice) else torch.as_tensor(indices, device=self.x.device)
        start = None if self.start is None else self.start[rows]
        return Samples(self.x[rows], self.y[rows], self.target[rows], start)


@dataclass(frozen=True)
class Budget:
    """The smallest budget found, or the largest tried if the target was out of reach.

    Attributes
    ----------
    bound : float
        Perturbation bound in the attack's own norm.
    iterations : int
        Iterations allowed (of each constant, for Carlini-Wagner).
    settings : dict
        Settings found beside the budget (JSMA's theta, Carlini-Wagner's constant search).
    """

    bound: float
    iterations: int
    settings: dict[str, float]


@dataclass(frozen=True)
class Search:
    """How a budget is searched.

    Attributes
    ----------
    attack : str
        Name of the attack.
    criterion : Criterion
        What the budget has to reach.
    trials : int
        At most this many; confirmations come on top. For an area, which is one of all samples, a trial that the bounds
        propose counts as the share of the samples that it attacks, and what they leave open is looked at further.
    seed : int
        Of the attack's and the sampler's random draws.
    max_iter : int
        Cap on the attack's iterations; 0 for its own largest.
    tolerance : float
        Perturbation bounds closer than this (relative) count as equal. 5% by default is ours.
    sampler : {'bounds', 'tpe', 'gp', 'random'}
        Who proposes: what the samples have shown, or one of Optuna's samplers. What the samples have shown decides in
        any case whom a trial still has to attack.
    batch_size : int
        Samples attacked at once, as long as the device's memory holds them.
    precision : {'fp32', 'bf16'}
        Of the attack's passes; see `in_batches`.
    """

    attack: str
    criterion: Criterion
    trials: int
    seed: int
    max_iter: int = 0
    tolerance: float = 0.05
    sampler: SamplerName = "bounds"
    batch_size: int = 32
    precision: Precision = "fp32"

    @property
    def spec(self) -> type[Attack]:
        """The attack's class."""
        return ATTACKS[self.attack]

    def longest(self) -> int:
        """Iterations of the longest run."""
        largest = longest_run(self.spec)
        return min(largest, self.max_iter) if self.max_iter else largest

    def stage(self) -> int:
        """Iterations between two looks at whether a run has to go on: a tenth of the longest.

        In bfloat16 there is one look: what has not been fooled by then is attacked again in float32, each time.
        """
        return self.longest() if self.precision == "bf16" else max(self.longest() // _STAGES, 1)

    def grid(self) -> list[dict[str, float]]:
        """All settings to try, the first of them first: what one run tells of others comes before them.

        Iterations are among them only where one run does not tell of shorter ones.
        """
        choices: dict[str, tuple[float, ...]] = {}
        for name, searched in self.spec.space.items():
            if isinstance(searched, Choices) and (name != "max_iter" or self.spec.shorter_runs == "none"):
                choices[name] = tuple(sorted(searched.values, reverse=True)) if searched.nested else searched.values
        if "max_iter" in choices:
            allowed = tuple(value for value in choices["max_iter"] if value <= self.longest())
            choices["max_iter"] = allowed or (self.longest(),)
        return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]

    def tells(self, done: Mapping[str, float | None], other: Mapping[str, float]) -> bool:
        """Whether a run with a setting, as far as it is chosen, shows that another one comes to no better a budget.

        It is the same, or the beginning of that run.
        """
        return all(
            other[name] == value
            or (value is not None and other[name] < value and getattr(self.spec.space[name], "nested", False))
            for name, value in done.items()
        )

    def failures_count_as(self) -> float:
        """The largest perturbation a failure was allowed, which fooling it takes more than; NaN where nothing is known.

        That is the largest eps where eps bounds the attack, and for l0 a feature per iteration. DeepFool,
        Carlini-Wagner and PIA fail anywhere.
        """
        eps = self.spec.space.get("eps")
        if isinstance(eps, Range):
            return eps.high
        return float(self.longest()) if self.spec.norm == "l0" else math.nan

    def largest(self, x: Tensor) -> float:
        """The largest perturbation of inputs like ``x`` that is searched, in the attack's own norm.

        Where nothing bounds the attack, that is the norm that no perturbation exceeds.
        """
        allowed = self.failures_count_as()
        features = float(x[0].numel())
        widest = {"l0": features, "l2": math.sqrt(features), "linf": 1.0}[self.spec.norm]
        return widest if math.isnan(allowed) else min(allowed, widest)

    def strike(self, network: nn.Module, samples: Samples, **params: Any) -> AttackOutcome:
        """Run the attack once on these samples."""
        return self._run(self.spec, network, samples, params)

    def scout(self, network: nn.Module, samples: Samples, **params: Any) -> AttackOutcome:
        """Run the attack up to each sample's first success, also if it is one that would go on.

        Unless an area is asked for: what is lost again does not count there.
        """
        stops = self.spec.until_success if self.criterion.name == "fooling_rate" else None
        return self._run(stops or self.spec, network, samples, params)

    def distance(self, network: nn.Module, samples: Samples, x_adv: Tensor) -> np.ndarray:
        """How far from success iterates are, in l-inf, as far as their gradients tell: `boundary_distance`."""
        labels = samples.target if self.spec.targets else samples.y

        def measured(batch: slice) -> Tensor:
            return boundary_distance(network, x_adv[batch], labels[batch], self.spec.targets)

        with interruptible():
            return torch.cat(batchwise(measured, x_adv, self.batch_size)).double().cpu().numpy()

    def _run(self, spec: type[Attack], network: nn.Module, samples: Samples, params: dict[str, Any]) -> AttackOutcome:
        labels = samples.target if spec.targets else samples.y
        extra: dict[str, Any] = {"start": samples.start, "seed": self.seed} if spec.starts else {}
        running: dict[str, Any] = {"targeted": spec.targets, "precision": self.precision}
        with interruptible():
            return in_batches(spec.native, network, samples.x, labels, self.batch_size, **running, **params, **extra)


@dataclass(frozen=True)
class Found:
    """What a search procedure hands over.

    Attributes
    ----------
    budget : Budget
        The smallest that reaches the target, or the largest tried.
    reached : bool
        Whether it does.
    evidence : Evidence
        What the samples showed at that budget.
    fooled_at, resisted_at : ndarray, shape (N,)
        Between which bounds each sample's minimal perturbation lies, as far as the search went: it was fooled at the
        one (infinite: never), and not below the other.
    front : list of (float, int)
        Bounds and iterations that reach the target, none of which is better than another in both. But for the budget
        itself, and for a fooling rate of BIM-b, they are what the trials showed, not confirmed.
    missed_at : float or None
        The largest bound known to miss the target, of a search that bisects.
    contradictions : int
        Samples that showed other than what had been inferred.
    settled : bool
        Whether every bound of the space that is smaller by more than the tolerance is known to miss the target; of a
        target that was not reached, whether the largest bound is known to miss it. Known is what longest runs show: of
        an attack that minimises, one with each of its settings.
    """

    budget: Budget
    reached: bool
    evidence: Evidence
    fooled_at: np.ndarray
    resisted_at: np.ndarray
    front: list[tuple[float, int]]
    missed_at: float | None = None
    contradictions: int = 0
    settled: bool = True


def pareto(points: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    """The points that no other one equals or betters in both values, by the first of them."""
    front: list[tuple[float, int]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def longest_run(attack: type[Attack]) -> int:
    """Most iterations in an attack's space."""
    searched = attack.space["max_iter"]
    return int(max(searched.values) if isinstance(searched, Choices) else searched.high)


def evidence_of(outcome: AttackOutcome) -> Evidence:
    """Per-sample facts of a run: success, first success and norms."""
    facts = {name: getattr(outcome, name) for name in ("success", "first_success", *NORMS)}
    return {name: values.cpu().numpy().tolist() for name, values in facts.items()}


def passes_of(outcome: AttackOutcome) -> int:
    """Forward plus backward passes of a run, over all samples."""
    return int(outcome.forwards.sum() + outcome.backwards.sum())
