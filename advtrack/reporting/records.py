"""What the tables are made of: one record per victim and per attack on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from advtrack.attacks.sign import Sign

Training = Literal["plain", "adversarial"]


@dataclass(frozen=True)
class StruckClips:
    """What a search showed of each clip that it struck, N in all.

    Attributes
    ----------
    names, recordings : tuple of str
        The clips, and what each was cut from.
    success : tuple of bool
        Whether the budget fools the victim on it.
    perturbation : tuple of float
        In the attack's own norm: of a success its own, of a failure what the search counts it as; NaN where nothing
        bounds that.
    fooled_at, resisted_at : tuple of float
        Between which bounds its smallest perturbation lies: it was fooled at the one (infinite: never), and not below
        the other.
    under_plain : tuple of bool
        Whether the plain victim's budget fools this (adversarially trained) victim on it; empty without such a budget.
    first_success : tuple of int
        The iteration of the first adversarial example at the budget's bound, -1 for none.
    """

    names: tuple[str, ...]
    recordings: tuple[str, ...]
    success: tuple[bool, ...]
    perturbation: tuple[float, ...]
    fooled_at: tuple[float, ...]
    resisted_at: tuple[float, ...]
    under_plain: tuple[bool, ...] = ()
    first_success: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """The result of one budget search against one victim.

    Attributes
    ----------
    attack : str
        Name of the attack.
    norm : {'l0', 'l2', 'linf'}
        The attack's own norm.
    target_reached : bool
        Whether the fooling rate, or the area under it, reached the target: see ``criterion``.
    target_fooling_rate, fooling_rate : float
        The rate (or area) asked for and the confirmed rate at the budget, in [0, 1].
    bound : float
        The budget's perturbation bound in the attack's own norm.
    missed_at : float or None
        The largest bound known to miss the target, of a search that bisects: the smallest that reaches it lies above.
    iterations : int
        The budget's iterations.
    settings : dict of str to float
        What was found beside them: JSMA's theta, Carlini-Wagner's constant search.
    perturbation : float
        Mean perturbation of the successes at the budget, own norm. If the target was not reached, failures count as
        the largest perturbation that was allowed them; NaN where nothing bounds it.
    l0, l2, linf : float
        Mean norms of the successes; NaN where nothing was fooled.
    samples : int
        Correctly classified clips attacked.
    seed, sample_limit, longest : int
        What else the search depends on: the seed, how many clips at most (0: all), and the cap on iterations. Searches
        on two victims are compared only where these are equal.
    capped : bool
        Whether that cap is lower than the most iterations that the attack may have.
    transferred_fooling_rate : float or None
        Fooling rate of this (adversarially trained) victim under the plain victim's budget.
    plain_run_id : str or None
        MLflow run that found the plain victim's budget.
    run_id : str
        MLflow run that holds the evidence.
    passes : int
        Forward plus backward passes the search spent, summed over samples.
    cut_short : int
        Trials of which not all passes are known, since they failed, or were killed, or have not ended.
    score : float
        What the criterion asks for, at the budget: the fooling rate, or the area known to lie below it up to there.
    fooling_low, fooling_high : float
        Wilson's 95% interval of the fooling rate.
    auc_low, auc_high : float
        Area under the fooling rate up to the largest bound that was searched: what it is at least and at most.
    contradictions : int
        Samples that showed other than what the search had inferred of them.
    criterion, protocol : str
        What the target is a value of, and whom the attack strikes.
    ratios : dict of str to list of float
        By norm: the ratio of table III to the plain victim's perturbation, and the ends of its 95% interval where it
        has one; a lower bound, in the own norm alone, if the target was not reached. Empty where the table has none.
    front : list of (float, int)
        Bounds and iterations that reach the target, none of which is better than another in both.
    settled : bool
        Whether every bound smaller by more than the tolerance is known to miss the target.
    code_version : int
        Of the stage that searched; 0 where it is not known.
    clips : StruckClips or None
        Clip by clip; None where it was not read.
    """

    attack: str
    norm: str
    target_reached: bool
    target_fooling_rate: float
    fooling_rate: float
    bound: float
    missed_at: float | None
    iterations: int
    settings: dict[str, float]
    perturbation: float
    l0: float
    l2: float
    linf: float
    samples: int
    seed: int
    sample_limit: int
    longest: int
    transferred_fooling_rate: float | None
    plain_run_id: str | None
    run_id: str
    passes: int
    score: float = math.nan
    fooling_low: float = math.nan
    fooling_high: float = math.nan
    auc_low: float = math.nan
    auc_high: float = math.nan
    contradictions: int = 0
    cut_short: int = 0
    criterion: str = "fooling_rate"
    protocol: str = "test"
    ratios: dict[str, list[float]] = field(default_factory=dict)
    front: list[tuple[float, int]] = field(default_factory=list)
    settled: bool = True
    code_version: int = 0
    capped: bool = False
    clips: StruckClips | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FoldRecord:
    """One trained fold, and how it did on each of its test clips.

    Attributes
    ----------
    fold, repeat : int
        Which of the protocol's folds, in which repeat of the experiment.
    run_id : str
        Its MLflow run.
    accuracy : float
        On its test clips, in [0, 1].
    recordings : tuple of str
        What each test clip was cut from.
    correct : tuple of bool
        Whether it names each test clip correctly.
    """

    fold: int
    repeat: int
    run_id: str
    accuracy: float
    recordings: tuple[str, ...] = field(default=(), repr=False)
    correct: tuple[bool, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class VictimRecord:
    """One training of one model on one representation of one data set.

    Attributes
    ----------
    dataset, representation, model : str
        Names.
    training : {'plain', 'adversarial'}
        Kind of training.
    folds : tuple of FoldRecord
        All that were trained, of all repeats.
    fold : int
        The fold that was attacked, of the first repeat.
    version : str
        Version of the registered model that was attacked.
    run_id : str
        MLflow run of the training.
    settings : dict of str to str
        Options of the training by name. The two victims of a pair have the same, but for what makes one adversarial.
    attacks : dict of str to AttackRecord
        Finished searches by attack name.
    masking : dict of str to Sign
        Signs that the victim masks its gradients, by name, there or not; empty where nobody looked.
    basis : dict of str to str
        What has to be the same wherever results are averaged or compared: data, protocol, seed, code. By name.
    data : str
        How much of the data set there was, in words: the name tells a subset from the whole no more than that.
    """

    dataset: str
    representation: str
    model: str
    training: Training
    folds: tuple[FoldRecord, ...]
    fold: int
    version: str
    run_id: str
    settings: dict[str, str]
    attacks: dict[str, AttackRecord] = field(default_factory=dict)
    masking: dict[str, Sign] = field(default_factory=dict)
    basis: dict[str, str] = field(default_factory=dict)
    data: str = ""

    @property
    def cell(self) -> tuple[str, str, str]:
        """The data set, representation and model, whatever the training."""
        return self.dataset, self.representation, self.model
