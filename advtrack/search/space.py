"""What is searched: a victim's samples, an attack's space of budgets, and the budget that comes out."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advtrack.attacks import ATTACKS
from advtrack.attacks.base import Attack, Choices, Range
from advtrack.attacks.batches import Precision, in_batches
from advtrack.attacks.outcome import AttackOutcome

#: Budgets closer than this (relative) count as equal; ours.
TOLERANCE = 0.05
NORMS = ("l0", "l2", "linf")
#: The attribute of a trial that keeps what its samples showed.
EVIDENCE = "evidence"
#: Facts by name, one value per sample, in the plain types that a study keeps.
Evidence = dict[str, list[Any]]


@dataclass(frozen=True)
class Samples:
    """What is attacked: correctly classified test clips, on the victim's device.

    Attributes
    ----------
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    y : Tensor, shape (N,)
        True labels.
    target : Tensor, shape (N,)
        Random wrong labels.
    start : Tensor, shape (N, C, H, W)
        A training input of the target class each, for attacks that start from one.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    start: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: np.ndarray | slice) -> Samples:
        """Some of the samples."""
        rows = indices if isinstance(indices, slice) else torch.as_tensor(indices, device=self.x.device)
        return Samples(self.x[rows], self.y[rows], self.target[rows], self.start[rows])


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
class BudgetResult:
    """What a search found.

    Attributes
    ----------
    attack, norm : str
        The attack and its own norm.
    budget : Budget
        The budget.
    target_fooling_rate, fooling_rate : float
        Asked for; confirmed at the budget.
    reached : bool
        Whether the target was reached.
    success : ndarray of bool, shape (N,)
        Per sample, at the budget.
    first_success : ndarray of int, shape (N,)
        Per sample, -1 for none.
    norms : dict of str to ndarray, shape (N,)
        l0, l2 and linf per sample; of failures, of the last iterate.
    failures_count_as : float
        The largest perturbation, own norm, that a failure was allowed; NaN where nothing bounds it.
    missed_at : float or None
        The largest bound known to miss the target, of a search that bisects.
    passes : int
        Forward plus backward passes of all trials and the confirmation.
    contradictions : int
        Samples whose confirmed outcome differed from the inferred one.
    trials : list of dict
        Per trial: number, bound, iterations, settings, and the fooling rate as far as it shows: a trial that is decided
        early leaves samples out, so that the rate lies between ``fooling_rate`` and ``fooling_rate_at_most``.
    study_name : str
        In the storage.
    """

    attack: str
    norm: str
    budget: Budget
    target_fooling_rate: float
    fooling_rate: float
    reached: bool
    success: np.ndarray
    first_success: np.ndarray
    norms: dict[str, np.ndarray]
    failures_count_as: float
    missed_at: float | None
    passes: int
    contradictions: int
    trials: list[dict[str, Any]]
    study_name: str

    def perturbation(self) -> float:
        """Mean perturbation in the own norm (Eq. 14), of successes; unreached, a lower bound: failures count too."""
        own = self.norms[self.norm]
        if not self.reached:
            return float(np.where(self.success, own, self.failures_count_as).mean())
        return float(own[self.success].mean())

    def mean_norms(self) -> dict[str, float]:
        """Mean l0, l2 and linf of the successes; NaN if there are none."""
        return {n: float(v[self.success].mean()) if self.success.any() else math.nan for n, v in self.norms.items()}


@dataclass(frozen=True)
class Search:
    """How a budget is searched.

    Attributes
    ----------
    attack : str
        Name of the attack.
    target_fooling_rate : float
        In (0, 1].
    trials : int
        At most this many.
    seed : int
        Of the attack's and the sampler's random draws.
    max_iter : int
        Cap on the attack's iterations; 0 for its own largest.
    batch_size : int
        Samples attacked at once, as long as the device's memory holds them.
    precision : {'fp32', 'bf16'}
        Of the attack's passes; see `in_batches`.
    """

    attack: str
    target_fooling_rate: float
    trials: int
    seed: int
    max_iter: int = 0
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

    def grid(self) -> list[dict[str, float]]:
        """All settings to try; iterations are among them only where one run does not tell of shorter ones."""
        choices: dict[str, tuple[float, ...]] = {}
        for name, searched in self.spec.space.items():
            if isinstance(searched, Choices) and (name != "max_iter" or self.spec.shorter_runs == "none"):
                choices[name] = searched.values
        if "max_iter" in choices:
            allowed = tuple(value for value in choices["max_iter"] if value <= self.longest())
            choices["max_iter"] = allowed or (self.longest(),)
        return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]

    def widest(self, x: Tensor) -> float:
        """The norm that no perturbation of inputs like ``x`` exceeds, in the attack's own norm."""
        features = float(x[0].numel())
        return {"l0": features, "l2": math.sqrt(features), "linf": 1.0}[self.spec.norm]

    def failures_count_as(self) -> float:
        """The largest perturbation a failure was allowed, which fooling it takes more than; NaN where nothing is known.

        That is the largest eps where eps bounds the attack, and for l0 a feature per iteration. DeepFool,
        Carlini-Wagner and PIA fail anywhere.
        """
        eps = self.spec.space.get("eps")
        if isinstance(eps, Range):
            return eps.high
        return float(self.longest()) if self.spec.norm == "l0" else math.nan

    def strike(self, network: nn.Module, samples: Samples, **params: Any) -> AttackOutcome:
        """Run the attack once on these samples."""
        labels = samples.target if self.spec.targets else samples.y
        extra: dict[str, Any] = {"start": samples.start, "seed": self.seed} if self.spec.starts else {}
        running: dict[str, Any] = {"targeted": self.spec.targets, "precision": self.precision}
        return in_batches(self.spec.native, network, samples.x, labels, self.batch_size, **running, **params, **extra)


@dataclass(frozen=True)
class Found:
    """What a search procedure hands over.

    Attributes
    ----------
    budget : Budget
        The smallest that reaches the target, or the largest tried.
    evidence : Evidence
        What the samples showed at that budget.
    missed_at : float or None
        The largest bound known to miss the target, of a search that bisects.
    passes : int
        Forward plus backward passes spent outside of trials.
    contradictions : int
        Samples whose confirmed outcome differed from the inferred one.
    """

    budget: Budget
    evidence: Evidence
    missed_at: float | None = None
    passes: int = 0
    contradictions: int = 0


def longest_run(attack: type[Attack]) -> int:
    """Most iterations in an attack's space."""
    searched = attack.space["max_iter"]
    return int(max(searched.values) if isinstance(searched, Choices) else searched.high)


def evidence_of(outcome: AttackOutcome) -> Evidence:
    """Per-sample facts of a run: success, first success and norms."""
    names = ("success", "first_success", *NORMS)
    return {name: getattr(outcome, name).cpu().numpy().tolist() for name in names}


def passes_of(outcome: AttackOutcome) -> int:
    """Forward plus backward passes of a run, over all samples."""
    return int(outcome.forwards.sum() + outcome.backwards.sum())
