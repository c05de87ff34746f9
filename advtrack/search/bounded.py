"""Attacks whose perturbation ``eps`` bounds beforehand: bisection over per-sample bounds, then a confirmation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import Tensor, nn
from tqdm import tqdm

from advtrack.attacks.base import Range
from advtrack.attacks.norms import perturbation_norms
from advtrack.search.bounds import Bounds
from advtrack.search.claims import PASSES, STEP, reap, take, underway, wait, working
from advtrack.search.criterion import successes_needed
from advtrack.search.pursuit import Pursuit
from advtrack.search.sampler import BoundsSampler
from advtrack.search.space import NORMS, Budget, Evidence, Found, Samples, Search, pareto

#: Steps of the search: a look at the undecided samples, and the proof on all of them.
_PROBE, _CONFIRM = "probe", "confirm"
_EVIDENCE = "evidence"
# Looks, in a longest run, at whether more iterations are needed.
_STAGES = 10
# Ours, seen on ResNet-18 and AlexNet: after k iterations at an eps that is large enough, the distance to the boundary
# has fallen to about (11 / k)^2 of it.
_SETTLING = 11.0


@dataclass
class _Known:
    """What the study's finished trials tell."""

    bounds: Bounds
    #: What counts against the trials that are allowed; see `Search`.
    trials: float
    confirmations: list[FrozenTrial]
    #: Of trials that reached the target: eps and iterations.
    reached: list[tuple[float, int]]


def search_bound(network: nn.Module, samples: Samples, search: Search, study: Study, title: str | None) -> Found:
    """Bisect eps over per-sample bounds, then confirm on every sample from scratch.

    Parameters
    ----------
    network, samples, search
        Victim, what is attacked, and how.
    study : Study
        Its finished trials count; new ones are added to it, also by other processes at the same time.
    title : str or None
        Of the progress bar; None for none.
    """
    sampler, exhausted, repeated = study.sampler, False, search.sampler == "bounds"
    with tqdm(total=search.trials, desc=title, unit="trial", leave=False, disable=title is None) as progress:
        while True:
            reap(study)
            known = _known(study, samples, search)
            progress.update(int(known.trials) - progress.n)
            over = known.trials >= search.trials
            # An area that the bounds leave open is looked at further: it is neither reached nor missed.
            open_ = search.criterion.name == "auc" and known.bounds.decision(known.bounds.high) is None
            eps = _to_confirm(known, search, enough=exhausted or (over and not open_))
            if eps is not None:
                if confirmed := _confirmed(known, eps):
                    return _found(known, confirmed)
                _confirm(network, samples, search, study, known.bounds, eps)
                exhausted = False
            elif not over and known.trials + len(underway(study, _PROBE)) >= search.trials:
                wait()
            else:
                # A sampler that proposes what is known already, or nothing that tells in time, is helped out.
                helped = repeated or over
                study.sampler = BoundsSampler(known.bounds, search.seed) if helped else sampler
                known_already = not _probe(network, samples, search, study, known.bounds)
                # What the bounds propose again, on a victim that contradicts itself, teaches nothing more.
                exhausted = helped and known_already
                repeated = known_already or search.sampler == "bounds"


def _eps(search: Search) -> Range:
    searched = search.spec.space["eps"]
    assert isinstance(searched, Range)
    return searched


def _known(study: Study, samples: Samples, search: Search) -> _Known:
    """Read the finished trials, in their order."""
    eps = _eps(search)
    bounds = Bounds(len(samples), eps.low, eps.high, search.criterion, search.tolerance)
    known = _Known(bounds, 0, [], [])
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if trial.user_attrs[STEP] == _PROBE:
            known.trials += _counted(trial, len(samples), search)
        else:
            known.confirmations.append(trial)
        if trial.user_attrs["reached"]:
            known.reached.append((trial.values[0], int(trial.values[1])))
        _learn(known.bounds, trial.params["eps"], trial.user_attrs[_EVIDENCE], search.longest())
    return known


def _counted(trial: FrozenTrial, samples: int, search: Search) -> float:
    """As how much of a trial one counts: of an area, as the share of the samples that the bounds left it to attack."""
    if search.criterion.name == "fooling_rate" or search.sampler != "bounds":
        return 1.0
    return len(trial.user_attrs[_EVIDENCE]["attacked"]) / samples


def _learn(bounds: Bounds, eps: float, evidence: Evidence, longest: int) -> None:
    """Take in what a run at ``eps`` has shown."""
    attacked, fooled = np.array(evidence["attacked"], int), np.array(evidence["fooled"], bool)
    # What a shorter run failed to fool, the longest may.
    shown = fooled | (np.array(evidence["iterations"], int) == longest)
    first = np.array(evidence["first_success"], float)
    bounds.record(attacked[shown], eps, fooled[shown], first[shown])
    if bounds.criterion.name == "fooling_rate" and bounds.decision(eps) is None:
        bounds.give_up(eps)


def _suggest_eps(trial: Trial, search: Search) -> None:
    eps = _eps(search)
    trial.suggest_float("eps", eps.low, eps.high, log=eps.log)


def _probe(network: nn.Module, samples: Samples, search: Search, study: Study, bounds: Bounds) -> bool:
    """Attack samples that an eps leaves undecided, until the target is reached or lost.

    False if what was tried before is proposed again.
    """
    trial = take(study, _PROBE, partial(_suggest_eps, search=search))
    if isinstance(trial, FrozenTrial):  # another process is at it, or has just finished it, unless it is known already
        return trial.params["eps"] not in bounds.tried()
    eps, longest = trial.params["eps"], search.longest()
    pursuit = Pursuit(partial(search.scout, network, eps=eps), samples)
    with working(study, trial, lambda: pursuit.passes):
        _pursue(pursuit, bounds, eps, search, partial(search.distance, network))
        evidence = _evidence(pursuit, np.flatnonzero(pursuit.iterations), pursuit.fooled)
        _learn(bounds, eps, evidence, longest)
        reached = bounds.decision(eps) is True
        iterations = _iterations(bounds.iterations(eps), search) if reached else longest
        _tell(study, trial, search, evidence, bounds.fooled_at, bounds.resisting(), iterations, pursuit.passes)
    return True


def _pursue(
    pursuit: Pursuit, bounds: Bounds, eps: float, search: Search, distance: Callable[[Samples, Tensor], np.ndarray]
) -> None:
    """Take undecided samples further until too few are left to lose the target, or as many as lose it have resisted.

    So few failures lose it that a hopeless eps, which costs whole runs, shows on the hardest samples. When too few of
    them are left, others join, and catch up. Where no proof is needed, as many that are hopelessly far are enough.
    """
    waiting, longest, stage = bounds.undecided(eps), search.longest(), _stage(search)
    if search.criterion.name == "auc":  # an area is one of all samples
        pursuit.advance(waiting, longest)
        return
    samples = len(bounds.fooled_at)
    failures = samples - successes_needed(search.criterion.target, samples) + 1 - int((bounds.resisted_at >= eps).sum())
    # At the largest eps most are expected to be fooled soon.
    left, joining = waiting[:0], failures if eps < bounds.high else len(waiting)
    while (pursuit.iterations[left] == longest).sum() < failures and (len(left) >= failures or len(waiting)):
        if len(left) < failures:
            joined, waiting = np.split(waiting, [joining])
            left, joining = np.append(left, joined), 2 * joining
            continue
        spent = pursuit.iterations[left]
        pursuit.advance(left[spent == spent.min()], min(stage, longest - spent.min()))
        left = left[~pursuit.fooled[left]]
        k = pursuit.iterations[left].min(initial=longest)
        look = search.sampler == "bounds" and max(2 * stage, _SETTLING) <= k < longest
        if look and len(left) >= failures and bounds.may_give_up(eps):
            away = distance(pursuit.samples.take(left), pursuit.x_adv[left]) / eps
            pursuit.passes += 2 * len(left)
            if (away > search.tolerance + (_SETTLING / k) ** 2).sum() >= failures:
                return


def _stage(search: Search) -> int:
    """Iterations between two looks at whether more are needed.

    In bfloat16 there is one look: what has not been fooled by then is attacked again in float32, each time.
    """
    return search.longest() if search.precision == "bf16" else max(search.longest() // _STAGES, 1)


def _evidence(pursuit: Pursuit, attacked: np.ndarray, fooled: np.ndarray) -> Evidence:
    """What a trial shows of the bounds of the samples ``attacked``, by their indices."""
    shown = {"fooled": fooled, "first_success": pursuit.first_success, "iterations": pursuit.iterations}
    return {"attacked": attacked.tolist(), **{name: values[attacked].tolist() for name, values in shown.items()}}


def _iterations(fewest: np.ndarray, search: Search) -> int:
    """How many iterations reach the target, if these are the fewest that fool each sample; at most the longest run."""
    if search.criterion.name == "fooling_rate":
        enough = search.criterion.smallest_bound(fewest)
    elif search.spec.shorter_runs == "iterates":
        enough = search.longest()
    else:  # every sample's smallest perturbation counts
        enough = fewest[np.isfinite(fewest)].max(initial=1)
    return int(min(max(enough, 1), search.longest()))


def _to_confirm(known: _Known, search: Search, enough: bool) -> float | None:
    """The eps to be proven, if it is time: the bracket is settled, or a proof that fails is as good as another look.

    It is the largest that settles it, which takes the fewest iterations. If there were ``enough`` looks, it is the
    smallest known to reach the target, or if none is, the largest of all. It has not failed before.
    """
    bounds, lost = known.bounds, _lost(known)
    if len(known.confirmations) >= search.trials:  # a victim that goes on to contradict itself
        return bounds.high
    looks = search.criterion.name == "fooling_rate"
    last = bounds.settled() or (looks and bounds.almost_settled() and bounds.conclusive() > lost)
    if not last and not enough:
        return None
    reached = bounds.bracket()[1]
    if reached <= lost:
        return min((eps for eps in bounds.tried() if eps > lost), default=bounds.high)
    return bounds.conclusive() if last else float(np.clip(reached, bounds.low, bounds.high))


def _lost(known: _Known) -> float:
    """The largest eps whose confirmation failed, 0 for none."""
    return max((t.params["eps"] for t in known.confirmations if not t.user_attrs["reached"]), default=0.0)


def _confirmed(known: _Known, eps: float) -> FrozenTrial | None:
    """The confirmation that ends the search: of ``eps`` or below, or the failed one of the largest."""
    enough = [trial for trial in known.confirmations if trial.user_attrs["reached"] and trial.params["eps"] <= eps]
    if not enough and eps == known.bounds.high == _lost(known):
        enough = [trial for trial in known.confirmations if trial.params["eps"] == eps]
    return min(enough, key=lambda trial: (trial.params["eps"], trial.number), default=None)


def _confirm(network: nn.Module, samples: Samples, search: Search, study: Study, bounds: Bounds, eps: float) -> None:
    """Attack the samples from scratch, in full precision, until the target is reached or lost.

    Where the bounds do not expect it to be reached, the hardest go first, as many as lose it if all of them resist. If
    they do, and a larger eps is left to be proven, the others are not attacked.
    """
    trial = take(study, _CONFIRM, partial(_suggest_eps, search=search), {"eps": eps})
    if isinstance(trial, FrozenTrial):
        return
    area, search = search.criterion.name == "auc", replace(search, precision="fp32")
    pursuit = Pursuit(partial(search.strike, network, eps=eps), samples)
    with working(study, trial, lambda: pursuit.passes):
        needed = len(samples) if area else successes_needed(search.criterion.target, len(samples))
        sure = area or eps >= bounds.high or bounds.decision(eps) is True
        first = len(samples) if sure else len(samples) - needed + 1
        lead, others = np.split(bounds.hardest_first(), [first])
        prove = _prove_together if search.spec.shorter_runs == "iterates" else _prove_each
        shown, iterations = prove(pursuit, lead, others, needed, search)
        success, attacked = np.array(shown["success"], bool), np.flatnonzero(pursuit.iterations)
        # Who was fooled at an iterate of its own does not count if not enough of them are at one together.
        reached = not area and success.sum() >= needed
        evidence = shown | _evidence(pursuit, attacked, pursuit.first_success >= 0 if reached else success)
        fooled_at = np.where(success, eps, np.inf)
        if area:
            bounds.record(attacked, eps, success, pursuit.first_success)
            fooled_at = bounds.fooled_at
        possible = np.where(pursuit.iterations > 0, fooled_at, eps)
        _tell(study, trial, search, evidence, fooled_at, possible, iterations, pursuit.passes)


def _prove_each(
    pursuit: Pursuit, lead: np.ndarray, others: np.ndarray, needed: int, search: Search
) -> tuple[Evidence, int]:
    """Whom an attack fools that keeps each sample's first example, and the fewest iterations that reach the target."""
    spent, longest = 0, search.longest()
    while spent < longest and pursuit.fooled.sum() < needed:
        spent = min(spent + _stage(search), longest)
        pursuit.reach(lead[~pursuit.fooled[lead]], spent)
        if pursuit.fooled[lead].any():
            pursuit.reach(others[~pursuit.fooled[others]], spent)
    iterations = _iterations(np.where(pursuit.fooled, pursuit.first_success, np.inf), search)
    norms = {
        name: values.cpu().numpy().tolist()
        for name, values in perturbation_norms(pursuit.x_adv, pursuit.samples.x).items()
    }
    return {"success": (pursuit.fooled & (pursuit.first_success <= iterations)).tolist(), **norms}, iterations


def _prove_together(
    pursuit: Pursuit, lead: np.ndarray, others: np.ndarray, needed: int, search: Search
) -> tuple[Evidence, int]:
    """Whom an attack fools that runs on, and when: at the first iterate that reaches the target, or fools most."""
    longest = search.longest()
    at = {name: np.zeros((len(pursuit.samples), longest)) for name in ("success", *NORMS)}

    def reach(rows: np.ndarray, iterations: int) -> None:
        for part, begun, outcome in pursuit.reach(rows, iterations):
            for name, values in at.items():
                values[part, begun:iterations] = getattr(outcome, f"{name}_at").cpu().numpy()

    spent = best = 0
    fooled = np.zeros(longest, int)
    # An area is that of the longest runs.
    stage = longest if search.criterion.name == "auc" else _stage(search)
    while spent < longest and fooled[best] < needed:
        spent = min(spent + stage, longest)
        reach(lead, spent)
        if at["success"][lead].any():
            reach(others, spent)
        fooled = at["success"].sum(0)
        best = int((fooled >= min(needed, fooled.max())).argmax())
    if search.criterion.name == "auc":
        best = longest - 1
    shown = {name: values[:, best].tolist() for name, values in at.items()}
    return {**shown, "success": at["success"][:, best].astype(bool).tolist()}, best + 1


def _tell(
    study: Study,
    trial: Trial,
    search: Search,
    evidence: Evidence,
    fooled_at: np.ndarray,
    resisted_at: np.ndarray,
    iterations: int,
    passes: int,
) -> None:
    """Finish a trial."""
    eps = trial.params["eps"]
    missed_by = search.criterion.missed_by(fooled_at, eps)
    trial.set_user_attr(_EVIDENCE, evidence)
    trial.set_user_attr(PASSES, passes)
    trial.set_user_attr("fooling_rate", float((fooled_at <= eps).mean()))
    trial.set_user_attr("fooling_rate_at_most", float((resisted_at <= eps).mean()))
    trial.set_user_attr("reached", bool(missed_by <= 0))
    trial.set_constraint("target_missed_by", missed_by)
    study.tell(trial, (eps, float(iterations)), skip_if_finished=True)


def _found(known: _Known, confirmed: FrozenTrial) -> Found:
    bounds, reached = known.bounds, confirmed.user_attrs["reached"]
    budget = Budget(confirmed.params["eps"], int(confirmed.values[1]), {})
    # Trials may show a point that betters the budget; but it is not proven.
    missed = max(_lost(known), bounds.bracket()[0])
    smallest = max(missed, bounds.low) * (1 + bounds.tolerance) * (1 + 1e-9)
    others = [(eps, n) for eps, n in known.reached if eps > budget.bound or (eps > missed and n > budget.iterations)]
    return Found(
        budget,
        reached,
        confirmed.user_attrs[_EVIDENCE],
        bounds.fooled_at,
        bounds.resisted_at,
        pareto([(budget.bound, budget.iterations), *others]) if reached else [],
        bounds.bracket()[0] or None,
        bounds.contradictions,
        budget.bound <= smallest if reached else missed >= bounds.high,
    )
