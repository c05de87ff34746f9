"""One Optuna study per victim and attack: the smallest budget whose fooling rate reaches the target."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from optuna_dashboard import save_note
from torch import Tensor, nn
from tqdm import tqdm

from advtrack.attacks import ATTACKS
from advtrack.attacks.base import Attack, Choices, Range, in_batches
from advtrack.attacks.outcome import AttackOutcome
from advtrack.errors import InputError
from advtrack.search.bounds import Bounds, successes_needed
from advtrack.search.sampler import BoundsSampler

logger = logging.getLogger("advtrack")

#: Budgets closer than this (relative) count as equal; ours.
TOLERANCE = 0.05
_NORMS = ("l0", "l2", "linf")
_EVIDENCE = "evidence"


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
    largest : float
        The search space's largest perturbation in the attack's own norm.
    passes : int
        Forward plus backward passes of all trials and the confirmation.
    contradictions : int
        Samples whose confirmed outcome differed from the inferred one.
    trials : list of dict
        Per trial: number, state, bound, iterations, fooling_rate and settings.
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
    largest: float
    passes: int
    contradictions: int
    trials: list[dict[str, Any]]
    study_name: str

    def perturbation(self) -> float:
        """Mean perturbation in the own norm (Eq. 14): of successes; failures count as the largest if unreached."""
        own = self.norms[self.norm]
        if not self.reached:
            return float(np.where(self.success, own, self.largest).mean())
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
        Samples attacked at once.
    """

    attack: str
    target_fooling_rate: float
    trials: int
    seed: int
    max_iter: int = 0
    batch_size: int = 32

    @property
    def spec(self) -> type[Attack]:
        """The attack's class."""
        return ATTACKS[self.attack]

    def longest(self) -> int:
        """Iterations of the longest run."""
        searched = self.spec.space["max_iter"]
        largest = int(max(searched.values) if isinstance(searched, Choices) else searched.high)
        return min(largest, self.max_iter) if self.max_iter else largest

    def grid(self) -> list[dict[str, float]]:
        """All settings to try; iterations are among them only where one run does not tell of shorter ones."""
        choices: dict[str, tuple[float, ...]] = {}
        for name, searched in self.spec.space.items():
            if isinstance(searched, Choices) and (name != "max_iter" or self.spec.shorter_runs == "none"):
                choices[name] = searched.values
        if "max_iter" in choices:
            allowed = tuple(value for value in choices["max_iter"] if value <= self.longest())
            choices["max_iter"] = allowed or (float(self.longest()),)
        return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]

    def largest(self, x: Tensor) -> float:
        """The search space's largest perturbation in the attack's own norm, for inputs like ``x``."""
        eps = self.spec.space.get("eps")
        features = float(x[0].numel())
        return {"l0": features, "l2": math.sqrt(features), "linf": eps.high if isinstance(eps, Range) else 1.0}[
            self.spec.norm
        ]

    def strike(self, network: nn.Module, samples: Samples, **params: Any) -> AttackOutcome:
        """Run the attack once on these samples."""
        labels = samples.target if self.spec.targets else samples.y
        extra: dict[str, Any] = {"start": samples.start, "seed": self.seed} if self.spec.starts else {}
        whole = {
            k: int(v) if float(v).is_integer() and k in ("max_iter", "binary_search_steps") else v
            for k, v in params.items()
        }
        return in_batches(
            self.spec.native, network, samples.x, labels, self.batch_size, targeted=self.spec.targets, **whole, **extra
        )


def open_storage(url: str) -> BaseStorage:
    """Open, or create, the storage of studies.

    Raises
    ------
    InputError
        The URL names no storage, or it cannot be used.
    """
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # each database driver raises its own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--storage {url}: cannot be used ({reason}); give an Optuna storage URL") from error


def search_budget(
    network: nn.Module,
    samples: Samples,
    search: Search,
    storage: BaseStorage,
    study_name: str,
    title: str,
    fresh: bool = False,
) -> BudgetResult:
    """Find the smallest budget with which an attack fools a victim at the target rate.

    A study of this name is continued. Its two objectives are the perturbation bound and the iterations; a trial
    whose fooling rate misses the target violates the study's constraint.

    Parameters
    ----------
    network : nn.Module
        The victim.
    samples : Samples
        Correctly classified test clips.
    search : Search
        Attack, target and limits.
    storage : BaseStorage
        Of the study.
    study_name : str
        Name of the study.
    title : str
        Of the progress bar and the dashboard's note.
    fresh : bool
        Forget an earlier study of this name.
    """
    with _quiet():
        if fresh and study_name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=study_name, storage=storage)
        if search.spec.minimises:
            result = _search_settings(network, samples, search, storage, study_name, title)
        else:
            result = _search_bound(network, samples, search, storage, study_name, title)
    return result


def transferred_fooling_rate(
    network: nn.Module, samples: Samples, search: Search, budget: Budget, own: BudgetResult, storage: BaseStorage
) -> float:
    """Fooling rate of this victim under a budget found on another (table II).

    A norm-minimising attack that was already run here with the same settings is read off its trial.
    """
    if not search.spec.minimises:
        outcome = search.strike(network, samples, eps=budget.bound, max_iter=budget.iterations, **budget.settings)
        return float(outcome.success.double().mean())
    with _quiet():
        study = optuna.load_study(study_name=own.study_name, storage=storage)
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        settings = {name: value for name, value in _settings_of(trial, search).items() if name != "max_iter"}
        longest = trial.user_attrs["longest"]
        tells_shorter = search.spec.shorter_runs == "first_success" and longest > budget.iterations
        if settings == budget.settings and (tells_shorter or longest == budget.iterations):
            evidence = trial.user_attrs[_EVIDENCE]
            break
    else:
        outcome = search.strike(network, samples, max_iter=budget.iterations, **budget.settings)
        evidence = _evidence(outcome)
    within = np.array(evidence["success"]) & (np.array(evidence[search.spec.norm]) <= budget.bound)
    if search.spec.shorter_runs == "first_success":
        within &= np.array(evidence["first_success"]) <= budget.iterations
    return float(within.mean())


def example(
    network: nn.Module, samples: Samples, search: Search, result: BudgetResult
) -> tuple[int, np.ndarray] | None:
    """One adversarial example at the budget: the first fooled sample's index and image; None if none was fooled."""
    if not result.success.any():
        return None
    index = int(result.success.argmax())
    eps = {} if search.spec.minimises else {"eps": result.budget.bound}
    params = {**eps, **result.budget.settings, "max_iter": result.budget.iterations}
    outcome = search.strike(network, samples.take(slice(index, index + 1)), **params)
    return index, outcome.x_adv[0, 0].cpu().numpy()


def _search_bound(
    network: nn.Module, samples: Samples, search: Search, storage: BaseStorage, study_name: str, title: str
) -> BudgetResult:
    """Bisect eps over per-sample bounds, then confirm on every sample from scratch."""
    eps_range = search.spec.space["eps"]
    assert isinstance(eps_range, Range)
    needed, longest = successes_needed(search.target_fooling_rate, len(samples)), search.longest()
    bounds = Bounds(len(samples), eps_range.low, eps_range.high, needed)
    study = _open_study(storage, study_name, BoundsSampler(bounds, search.seed))
    done = study.get_trials(states=(TrialState.COMPLETE,))
    for trial in done:
        evidence = trial.user_attrs[_EVIDENCE]
        bounds.record(np.array(evidence["attacked"], int), trial.params["eps"], np.array(evidence["success"], bool))

    def objective(trial: Trial) -> tuple[float, float]:
        eps = trial.suggest_float("eps", eps_range.low, eps_range.high, log=True)
        attacked, success, passes = _probe(network, samples, search, bounds, eps, longest)
        reached = bounds.decision(eps)
        trial.set_user_attr(_EVIDENCE, {"attacked": attacked.tolist(), "success": success.tolist()})
        trial.set_user_attr("passes", passes)
        trial.set_user_attr("fooling_rate", bounds.successes(eps) / len(samples))
        trial.set_user_attr("reached", bool(reached))
        trial.set_constraint("target_missed_by", float(needed - bounds.successes(eps)))
        return eps, float(longest)

    tried, spent = len(done), 0
    with tqdm(total=search.trials, initial=tried, desc=title, unit="trial", leave=False) as progress:
        while True:
            while not bounds.settled(TOLERANCE) and tried < search.trials:
                study.optimize(objective, n_trials=1)
                tried += 1
                progress.update()
            _, reached = bounds.bracket()
            bound = reached if np.isfinite(reached) else eps_range.high
            outcome = search.strike(network, samples, eps=bound, max_iter=longest)
            success = outcome.success.cpu().numpy()
            bounds.record(np.arange(len(samples)), bound, success)
            spent += _spent(outcome)
            # A bound that fails the confirmation was inferred wrongly: the next larger one that is known is held to it.
            if success.sum() >= needed or bound >= eps_range.high:
                break
    iterations = _fewest_iterations(outcome, needed, search)
    if search.spec.shorter_runs == "iterates" and iterations < longest:
        outcome = search.strike(network, samples, eps=bound, max_iter=iterations)
        spent += _spent(outcome)
    budget = Budget(bound, iterations, {})
    return _conclude(study, search, samples, budget, _evidence(outcome), spent, bounds.contradictions, title)


def _probe(
    network: nn.Module, samples: Samples, search: Search, bounds: Bounds, eps: float, longest: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Attack the samples that ``eps`` leaves undecided, batch by batch, until the target is reached or lost."""
    attacked, success, passes = [], [], 0
    undecided = bounds.undecided(eps)
    for i in range(0, len(undecided), search.batch_size):
        if bounds.decision(eps) is not None:
            break
        batch = undecided[i : i + search.batch_size]
        outcome = search.strike(network, samples.take(batch), eps=eps, max_iter=longest)
        fooled = outcome.success.cpu().numpy()
        bounds.record(batch, eps, fooled)
        attacked.append(batch)
        success.append(fooled)
        passes += _spent(outcome)
    if not attacked:
        return np.empty(0, int), np.empty(0, bool), 0
    return np.concatenate(attacked), np.concatenate(success), passes


def _search_settings(
    network: nn.Module, samples: Samples, search: Search, storage: BaseStorage, study_name: str, title: str
) -> BudgetResult:
    """Run a norm-minimising attack with each setting; one run gives every sample's norm, and so the bound."""
    needed, longest = successes_needed(search.target_fooling_rate, len(samples)), search.longest()
    study = _open_study(storage, study_name, RandomSampler(search.seed))
    grid = search.grid()[: search.trials]

    def objective(trial: Trial) -> tuple[float, float]:
        settings = _suggest(trial, search)
        outcome = search.strike(network, samples, **{"max_iter": longest, **settings})
        evidence = _evidence(outcome)
        budget, success = _smallest(evidence, needed, search, settings, samples)
        trial.set_user_attr(_EVIDENCE, evidence)
        trial.set_user_attr("longest", int(settings.get("max_iter", longest)))
        trial.set_user_attr("passes", _spent(outcome))
        trial.set_user_attr("fooling_rate", float(success.mean()))
        trial.set_user_attr("reached", bool(success.sum() >= needed))
        trial.set_constraint("target_missed_by", float(needed - success.sum()))
        return budget.bound, float(budget.iterations)

    with tqdm(total=len(grid), desc=title, unit="trial", leave=False) as progress:
        for settings in grid:
            finished = [_settings_of(t, search) for t in study.get_trials(states=(TrialState.COMPLETE,))]
            if settings not in finished:
                if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):  # a killed search may leave one
                    study.enqueue_trial(settings)
                study.optimize(objective, n_trials=1)
            progress.update()
    best = _headline(study.get_trials(states=(TrialState.COMPLETE,)))
    evidence, settings = best.user_attrs[_EVIDENCE], _settings_of(best, search)
    budget, success = _smallest(evidence, needed, search, settings, samples)
    return _conclude(study, search, samples, budget, {**evidence, "success": success.tolist()}, 0, 0, title)


def _smallest(
    evidence: dict[str, list[Any]], needed: int, search: Search, settings: dict[str, float], samples: Samples
) -> tuple[Budget, np.ndarray]:
    """The budget one norm-minimising run allows, and the success of each sample within it."""
    success, norm = np.array(evidence["success"], bool), np.array(evidence[search.spec.norm])
    reached = success.sum() >= needed
    bound = float(np.sort(norm[success])[needed - 1]) if reached else search.largest(samples.x)
    within = success & (norm <= bound)
    others = {name: value for name, value in settings.items() if name != "max_iter"}
    iterations = int(settings.get("max_iter", search.longest()))
    if search.spec.shorter_runs == "first_success" and within.any():
        # Every sample within the bound is fooled by its own first success; the last of them sets the iterations.
        iterations = max(1, int(np.array(evidence["first_success"])[within].max()))
    return Budget(bound, iterations, others), within


def _fewest_iterations(outcome: AttackOutcome, needed: int, search: Search) -> int:
    """Fewest iterations that reach the target at the outcome's eps; the longest run if it does not."""
    if int(outcome.success.sum()) < needed:
        return search.longest()
    if outcome.success_at is not None:
        per_iterate = outcome.success_at.sum(0).cpu().numpy()
        return int(np.flatnonzero(per_iterate >= needed)[0]) + 1
    first = outcome.first_success[outcome.success].cpu().numpy()
    return max(1, int(np.sort(first)[needed - 1]))


def _headline(trials: list[FrozenTrial]) -> FrozenTrial:
    """Smallest bound among trials that reached the target, fewest iterations among equals; else the highest rate."""
    reached = [trial for trial in trials if trial.user_attrs["reached"]]
    if not reached:
        return max(trials, key=lambda trial: trial.user_attrs["fooling_rate"])
    smallest = min(trial.values[0] for trial in reached)
    equal = [trial for trial in reached if trial.values[0] <= smallest * (1 + TOLERANCE)]
    return min(equal, key=lambda trial: (trial.values[1], trial.values[0]))


def _conclude(
    study: Study,
    search: Search,
    samples: Samples,
    budget: Budget,
    evidence: dict[str, list[Any]],
    spent: int,
    contradictions: int,
    title: str,
) -> BudgetResult:
    """Assemble the result and publish it as the study's note."""
    first = np.array(evidence["first_success"], int)
    success = np.array(evidence["success"], bool)
    if search.spec.shorter_runs == "first_success":
        success &= first <= budget.iterations
    rate = float(success.mean())
    reached = bool(success.sum() >= successes_needed(search.target_fooling_rate, len(samples)))
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    verdict = "reaches" if reached else "misses"
    save_note(
        study,
        f"# {title}\n\nFooling rate **{rate:.3f}** {verdict} the target {search.target_fooling_rate:g} on "
        f"{len(samples)} clips, at {search.spec.norm} <= **{budget.bound:.4g}** and **{budget.iterations}** iterations"
        f"{''.join(f', {name} {value:g}' for name, value in budget.settings.items())}.\n\n"
        "Trials with a positive constraint `target_missed_by` missed the target; they are not candidates.",
    )
    return BudgetResult(
        attack=search.attack,
        norm=search.spec.norm,
        budget=budget,
        target_fooling_rate=search.target_fooling_rate,
        fooling_rate=rate,
        reached=reached,
        success=success,
        first_success=first,
        norms={name: np.array(evidence[name]) for name in _NORMS},
        largest=search.largest(samples.x),
        passes=spent + sum(trial.user_attrs["passes"] for trial in trials),
        contradictions=contradictions,
        trials=[
            {
                "trial": trial.number,
                "bound": trial.values[0],
                "iterations": int(trial.values[1]),
                "fooling_rate": trial.user_attrs["fooling_rate"],
                "reached": trial.user_attrs["reached"],
                "passes": trial.user_attrs["passes"],
                **trial.params,
            }
            for trial in trials
        ],
        study_name=study.study_name,
    )


def _open_study(storage: BaseStorage, name: str, sampler: BaseSampler) -> Study:
    """Create or join the study; trials of a process that is gone are closed."""
    study = optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, directions=["minimize", "minimize"], load_if_exists=True
    )
    study.set_metric_names(["perturbation_bound", "iterations"])
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _suggest(trial: Trial, search: Search) -> dict[str, float]:
    names = search.grid()[0]
    return {name: trial.suggest_categorical(name, sorted({s[name] for s in search.grid()})) for name in names}


def _settings_of(trial: FrozenTrial, search: Search) -> dict[str, float]:
    return {name: trial.params[name] for name in search.grid()[0]}


def _evidence(outcome: AttackOutcome) -> dict[str, list[Any]]:
    """Per-sample facts of a run, fit for a study's attributes."""
    names = ("success", "first_success", *_NORMS)
    return {name: getattr(outcome, name).cpu().numpy().tolist() for name in names}


def _spent(outcome: AttackOutcome) -> int:
    return int(outcome.forwards.sum() + outcome.backwards.sum())


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own lines would break the progress bar."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
