"""Entry point ``promote``: move the alias ``champion`` to a victim whose evidence meets the thresholds, or back."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.search.space import longest_run
from advtrack.stages import champions
from advtrack.stages.by_name import by_name
from advtrack.stages.proofs import Gate, Proof, gather
from advtrack.stages.victims import only_victim
from advtrack.tracking import lookup, registry, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 3


@dataclass(frozen=True)
class Promotion:
    """Options of the stage; those of the command line of the same name.

    ``budget`` is empty for the plain victim's budgets, or names attacks, bounds and iterations, as
    'bim_a=0.03:100,jsma=40'; without iterations, it is those of the attack's longest run.
    """

    dataset: str
    model: str
    representation: str
    victim: str
    min_accuracy: float = 0.0
    max_accuracy_drop: float = 100.0
    max_fooling_rate: float = 1.0
    budget: str = ""
    min_perturbation_ratio: float = 0.0
    min_samples: int = 10
    refuse_masking: bool = False
    dry_run: bool = False
    rollback: bool = False


def run(options: Promotion) -> str:
    """Promote a victim, or take the last promotion back; the MLflow run that records it.

    Raises
    ------
    InputError
        A threshold is not met, or the evidence for it is missing; all of them are listed. Nothing to go back to.
    """
    if options.rollback:
        return _rollback(options)
    budgets = _budgets(options.budget)
    if budgets and options.max_fooling_rate == 1:
        raise InputError(f"--budget {options.budget}: it is where --max-fooling-rate is held; give that as well")
    candidate = only_victim(options.dataset, options.representation, options.model, options.victim)
    # The registry may have moved since an equal promotion, so that none is ever reused.
    with runs.stage_run(
        "promote", CODE_VERSION, {}, title=str(candidate), params=asdict(options), tags=_tags(candidate), force=True
    ) as stage:
        proof = gather(candidate, budgets, options.min_samples)
        gates = _gates(options, budgets)
        unmet = _unmet(gates, proof) + (proof.masking if options.refuse_masking else [])
        stage.dataset(*lookup.inputs(candidate.run_id)[0])
        stage.json({**asdict(proof), "gates": [asdict(gate) for gate in gates], "unmet": unmet}, "evidence.json")
        stage.metrics({name: value for name, value in proof.metrics.items() if value == value})
        stage.tags({"evidence_runs": ",".join(proof.run_ids), "lineage": ",".join(proof.run_ids)})
        if unmet:
            raise InputError(f"{candidate} is not promoted: {'; '.join(unmet)}")
        why = [gate.met(proof) for gate in gates]
        why += ["no sign of masked gradients"] if options.refuse_masking else []
        _move(options, stage, candidate, proof, "; ".join(why) or "no threshold was set")
        return stage.run_id


def _move(options: Promotion, stage: runs.StageRun, candidate: registry.Registered, proof: Proof, why: str) -> None:
    line = champions.line(candidate.name)
    before, alias = line[-1] if line else "none", f"{candidate.name}@{registry.CHAMPION}"
    stage.tags({"why": why, "dry_run": options.dry_run})
    if before == candidate.version:
        logger.info("%s is %s already: %s", candidate, alias, why)
        return
    if options.dry_run:
        logger.info("%s would become %s in the place of version %s: %s", candidate, alias, before, why)
        return
    told = {"promoted_by": stage.run_id, "promoted_for": why, "evidence_runs": ",".join(proof.run_ids)}
    registry.tag(candidate, {**told, "replaced": before})
    replaced = champions.succeed(candidate) or "none"
    registry.tag(candidate, {"replaced": replaced})  # not the one from before if another promotion came between
    stage.tags({"replaced": replaced})
    logger.info("%s is now %s in the place of version %s: %s", candidate, alias, replaced, why)


def _rollback(options: Promotion) -> str:
    """Return ``champion`` to the version that it replaced; one promotion further back each time."""
    dataset = registry.dataset_of(options.dataset, options.representation, options.model)
    name = registry.model_name(dataset, options.representation, options.model)
    champion, remaining = registry.by_alias(name, registry.CHAMPION), champions.line(name)[:-1]
    if champion is None:
        raise InputError(f"--rollback: {name} has no champion to take back; advtrack promote makes one")
    if not remaining:
        raise InputError(f"--rollback: no version is on record that {champion} replaced; promote another")
    earlier = registry.version(name, remaining[-1])
    if earlier is None:
        raise InputError(
            f"--rollback: {name} version {remaining[-1]}, which {champion} replaced, is deleted; promote another"
        )
    tags = {**_tags(earlier), "replaced": champion.version, "dry_run": options.dry_run}
    with runs.stage_run(
        "rollback", CODE_VERSION, {}, title=str(earlier), params=asdict(options), tags=tags, force=True
    ) as stage:
        if options.dry_run:
            logger.info("%s would become %s@%s again", earlier, name, registry.CHAMPION)
            return stage.run_id
        champions.return_to(earlier, remaining)
        registry.tag(champion, {"rolled_back_by": stage.run_id})
        logger.info("%s is %s@%s again, instead of version %s", earlier, name, registry.CHAMPION, champion.version)
        return stage.run_id


def _tags(victim: registry.Registered) -> dict[str, Any]:
    """What a run says of the version that is, or would be, the champion."""
    tags = {name: victim.tags[name] for name in ("dataset", "representation", "model", "training")}
    return {**tags, "victim": f"{victim.name}/{victim.version}", "victim_run": victim.run_id}


def _gates(options: Promotion, budgets: Collection[str]) -> list[Gate]:
    """The thresholds that were set; a value that everything meets sets none."""
    gates = []
    if options.min_accuracy > 0:
        gates.append(Gate("accuracy", "--min-accuracy", options.min_accuracy, greater_is_better=True))
    if options.max_accuracy_drop < 100:
        gates.append(Gate("accuracy_drop", "--max-accuracy-drop", options.max_accuracy_drop, greater_is_better=False))
    if options.max_fooling_rate < 1:
        gates += [
            Gate(f"{attack}/fooling_rate_high", "--max-fooling-rate", options.max_fooling_rate, greater_is_better=False)
            for attack in budgets or TABLE_ATTACKS
        ]
    if options.min_perturbation_ratio > 0:
        option, limit = "--min-perturbation-ratio", options.min_perturbation_ratio
        gates += [Gate(f"{attack}/ratio", option, limit, greater_is_better=True) for attack in TABLE_ATTACKS]
    return gates


def _unmet(gates: Sequence[Gate], proof: Proof) -> list[str]:
    """Every threshold that is not met, and what is missing to tell, each with its reason once."""
    unmet: list[str] = []
    missing: dict[tuple[str, str], list[str]] = {}
    for gate in gates:
        if gate.metric not in proof.metrics:
            reason = proof.missing[gate.metric]
            missing.setdefault((gate.option, reason), []).append(gate.metric)
        elif not registry.meets(proof.metrics[gate.metric], gate.limit, gate.greater_is_better):
            unmet.append(gate.unmet(proof))
    return unmet + [f"{', '.join(metrics)} for {option}: {reason}" for (option, reason), metrics in missing.items()]


def _budgets(text: str) -> dict[str, tuple[float, int]]:
    """Budgets by attack: the bound in the attack's own norm, and iterations.

    Raises
    ------
    InputError
        Not of the form ATTACK=BOUND or ATTACK=BOUND:ITERATIONS, or no positive numbers.
    """
    if not text:
        return {}
    budgets = {}
    for attack, value in by_name("budget", text, TABLE_ATTACKS).items():
        bound, colon, iterations = value.partition(":")
        if not attack or not _positive(bound) or (colon and not (iterations.isdecimal() and int(iterations))):
            raise InputError(
                f"--budget {text}: give attacks, bounds above 0 and iterations, as bim_a=0.03:100, or without the "
                "iterations for the attack's longest run, as jsma=40"
            )
        budgets[attack] = (float(bound), int(iterations) if colon else longest_run(ATTACKS[attack]))
    return budgets


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
