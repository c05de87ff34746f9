"""What the finished trials of a bounded attack's search tell, and what is left to prove."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from advtrack.attacks.base import Range
from advtrack.search.bounds import Bounds
from advtrack.search.claims import STEP
from advtrack.search.criterion import Verdict
from advtrack.search.space import Budget, Evidence, Found, Search, pareto

#: Steps of the search: a look at the undecided samples, and the proof on all of them.
PROBE, CONFIRM = "probe", "confirm"
#: The attribute of a trial that holds what it showed of each sample.
EVIDENCE = "evidence"


def eps_range(search: Search) -> Range:
    """The interval of eps that is searched."""
    searched = search.spec.space["eps"]
    assert isinstance(searched, Range)
    return searched


@dataclass
class Known:
    """Where a search stands.

    Attributes
    ----------
    search : Search
        What is searched.
    bounds : Bounds
        Of each sample.
    trials : float
        What counts against the trials that are allowed; see `Search`.
    confirmations : list of FrozenTrial
        The proofs, whether they held or failed.
    reached : list of (float, int)
        Of trials that reached the target: eps and iterations. Where samples have to be fooled together, proofs alone.
    """

    search: Search
    bounds: Bounds
    trials: float = 0
    confirmations: list[FrozenTrial] = field(default_factory=list)
    reached: list[tuple[float, int]] = field(default_factory=list)

    @classmethod
    def of(cls, study: Study, samples: int, search: Search) -> Known:
        """Read the finished trials, in their order."""
        eps = eps_range(search)
        known = cls(search, Bounds(samples, eps.low, eps.high, search.criterion, search.tolerance))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            known._read(trial)
        return known

    def _read(self, trial: FrozenTrial) -> None:
        evidence = trial.user_attrs[EVIDENCE]
        if trial.user_attrs[STEP] == CONFIRM:
            self.confirmations.append(trial)
        elif self.search.criterion.name == "fooling_rate" or self.search.sampler != "bounds":
            self.trials += 1
        else:  # of an area, the share of the samples that the bounds left it to attack
            self.trials += len(evidence["attacked"]) / len(self.bounds.fooled_at)
        # A look at a fooling rate follows each sample up to its first example, which the attack may lose again.
        together = self.search.spec.shorter_runs == "iterates" and self.search.criterion.name == "fooling_rate"
        if trial.user_attrs["reached"] and (trial.user_attrs[STEP] == CONFIRM or not together):
            self.reached.append((trial.values[0], int(trial.values[1])))
        self.learn(trial.params["eps"], evidence)

    def learn(self, eps: float, evidence: Evidence) -> None:
        """Take in what a run at ``eps`` has shown."""
        attacked, fooled = np.array(evidence["attacked"], int), np.array(evidence["fooled"], bool)
        # What a shorter run failed to fool, the longest may.
        shown = fooled | (np.array(evidence["iterations"], int) == self.search.longest())
        first = np.array(evidence["first_success"], float)
        self.bounds.record(attacked[shown], eps, fooled[shown], first[shown])
        if self.search.criterion.name == "fooling_rate" and self.bounds.verdict(eps) is Verdict.OPEN:
            self.bounds.give_up(eps)

    def over(self) -> bool:
        """Whether there were as many trials as are allowed."""
        return self.trials >= self.search.trials

    def open(self) -> bool:
        """Whether the bounds leave open an area up to the largest eps, which is looked at further in any case."""
        return self.search.criterion.name == "auc" and self.bounds.verdict(self.bounds.high) is Verdict.OPEN

    def to_confirm(self, enough: bool) -> float | None:
        """The eps to be proven, if it is time: the bracket is settled, or a failed proof is as good as another look.

        It is the largest that settles it, which takes the fewest iterations. If there were ``enough`` looks, it is the
        smallest known to reach the target, or if none is, the largest of all. It has not failed before.
        """
        bounds, lost = self.bounds, self._lost()
        if len(self.confirmations) >= self.search.trials:  # a victim that goes on to contradict itself
            return bounds.high
        looks = self.search.criterion.name == "fooling_rate" and not self.over()
        last = bounds.settled() or (looks and bounds.worth_proving() and bounds.conclusive() > lost)
        if not last and not enough:
            return None
        reached = bounds.bracket()[1]
        if reached <= lost:
            return min((eps for eps in bounds.tried() if eps > lost), default=bounds.high)
        return bounds.conclusive() if last else float(np.clip(reached, bounds.low, bounds.high))

    def confirmed(self, eps: float) -> FrozenTrial | None:
        """The confirmation that ends the search: of ``eps`` or below, or the failed one of the largest."""
        enough = [trial for trial in self.confirmations if self._holds(trial) and trial.params["eps"] <= eps]
        if not enough and eps == self.bounds.high == self._lost():
            enough = [trial for trial in self.confirmations if trial.params["eps"] == eps]
        return min(enough, key=lambda trial: (trial.params["eps"], trial.number), default=None)

    def found(self, confirmed: FrozenTrial) -> Found:
        """The result that a confirmation proves."""
        bounds, reached = self.bounds, self._holds(confirmed)
        budget = Budget(confirmed.params["eps"], int(confirmed.values[1]), {})
        # Trials may show a point that betters the budget; but it is not proven.
        missed = max(self._lost(), bounds.bracket()[0])
        smallest = max(missed, bounds.low) * (1 + bounds.tolerance) * (1 + 1e-9)
        others = [(eps, n) for eps, n in self.reached if eps > budget.bound or (eps > missed and n > budget.iterations)]
        evidence = confirmed.user_attrs[EVIDENCE]
        fooled_at = bounds.fooled_at
        if self.search.criterion.name == "fooling_rate":
            # Whoever has an example has one for every eps from its distance on. An area is that of the runs themselves.
            distances = np.array(evidence[self.search.spec.norm], float)
            fooled_at = np.minimum(fooled_at, np.where(evidence["success"], distances, np.inf))
        return Found(
            budget,
            reached,
            evidence,
            fooled_at,
            np.minimum(bounds.resisted_at, fooled_at),
            pareto([(budget.bound, budget.iterations), *others]) if reached else [],
            min(bounds.bracket()[0], bounds.high) or None,
            bounds.contradictions,
            budget.bound <= smallest if reached else missed >= bounds.high,
        )

    def _lost(self) -> float:
        """The largest eps whose confirmation failed, 0 for none."""
        return max((t.params["eps"] for t in self.confirmations if not self._holds(t)), default=0.0)

    def _holds(self, confirmation: FrozenTrial) -> bool:
        """Whether a confirmation proves its eps: of an area, which rests on other trials too, as long as they hold."""
        proven = bool(confirmation.user_attrs["reached"])
        if self.search.criterion.name == "auc":
            return proven and self.bounds.verdict(confirmation.params["eps"]) is Verdict.REACHED
        return proven
