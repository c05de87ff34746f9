"""Entry point ``attack --budget-from``: the budgets found on one victim, tried on another; nothing is searched."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import numpy as np

from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.intervals import wilson
from advtrack.reporting.records import AttackRecord
from advtrack.search.space import Budget
from advtrack.search.study import strike_within
from advtrack.stages.attacking import CODE_VERSION as ATTACK_CODE
from advtrack.stages.attacking import ONLY_SEARCHED, Attacked, Attacking, attacked_by, sample_limit, search_of
from advtrack.stages.defaults import ATTACKING, SEARCHING
from advtrack.stages.sample_table import log_struck
from advtrack.stages.searched import find_records, read_record, searched_by
from advtrack.stages.victims import only_victim
from advtrack.tracking import lookup, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 3


def run(options: Attacking) -> str:
    """Strike a victim within the budgets of another; the MLflow run that holds the fooling rates.

    Raises
    ------
    InputError
        No such victim or more than one, no budgets where the options look for them, budgets of another data set or
        representation, or options that only a search heeds.
    """
    _refuse_options_of_searches(options)
    attacked = attacked_by(options)
    budgets = _budgets(options)
    for record in budgets.values():
        _refuse_what_does_not_fit(options.budget_from, record, attacked)
    key: dict[str, object] = {"victim": attacked.victim.checkpoint_id, "seed": options.seed}
    key |= {"protocol": options.protocol, "precision": options.precision, "attacks": ATTACK_CODE}
    for attack, record in budgets.items():
        key[attack] = [record.run_id, record.bound, sample_limit(options, attack)]
    tags = attacked.tags() | {"budget_runs": ",".join(sorted({record.run_id for record in budgets.values()}))}
    with runs.stage_run(
        "transfer", CODE_VERSION, key, title=attacked.title, params=attacked.params(), tags=tags, force=options.force
    ) as stage:
        if not stage.reused:
            stage.dataset(attacked.victim.description.dataset, attacked.store.data_digest, str(attacked.store.path))
            for attack, record in budgets.items():
                _say_what_differs(attack, record, attacked)
                _strike(attack, record, attacked, stage)
    return stage.run_id


def _refuse_options_of_searches(options: Attacking) -> None:
    """Options that would play no part.

    Raises
    ------
    InputError
        One of them is given.
    """
    usual = SEARCHING | ATTACKING
    for name in sorted(ONLY_SEARCHED & usual.keys() - {"storage"}):
        if (given := getattr(options, name)) != usual[name]:
            raise InputError(
                f"--{name.replace('_', '-')} {given}: with --budget-from {options.budget_from} nothing is searched; "
                "leave one of the two out"
            )


def _budgets(options: Attacking) -> Mapping[str, AttackRecord]:
    """The records of a run, or of the victim that bears an alias or version number.

    Raises
    ------
    InputError
        There is no such victim, an alias may mean several, or there are no records.
    """
    origin = options.budget_from
    if re.fullmatch("[0-9a-f]{32}", origin):
        there = searched_by(origin) if lookup.exists(origin) else set()
        found = {attack: read_record(origin, attack) for attack in options.attacks if attack in there}
    else:
        cell = options.dataset, options.representation, options.model
        victim = only_victim(*cell, origin, option="--budget-from")
        found = find_records(victim, options.attacks)
    if not found:
        raise InputError(
            f"--budget-from {origin}: no budget of {', '.join(options.attacks)} there{_kind(origin)}; give an "
            "attack run that finished its search, or the alias or version of a victim that was attacked"
        )
    if missing := [attack for attack in options.attacks if attack not in found]:
        logger.warning("--budget-from %s: no budget of %s there; the others are tried", origin, ", ".join(missing))
    return {attack: found[attack] for attack in TABLE_ATTACKS if attack in found}


def _kind(origin: str) -> str:
    """Of which stage a run is and how it ended; nothing where there is no such run."""
    if not lookup.exists(origin):
        return ""
    run_ = lookup.get(origin)
    return f" ({lookup.tag(run_, 'stage') or 'of no stage'}, {run_.info.status})"


def _refuse_what_does_not_fit(origin: str, record: AttackRecord, attacked: Attacked) -> None:
    """A bound on other clips, or on images of another kind, says nothing of these.

    Raises
    ------
    InputError
        The budget was found on another data set or representation.
    """
    there, here = lookup.get(record.run_id), attacked.tags()
    ((_, digest, _),) = lookup.inputs(record.run_id)
    facts = {"data set": (lookup.tag(there, "dataset"), here["dataset"])}
    facts |= {"representation": (lookup.tag(there, "representation"), here["representation"])}
    facts |= {"data digest": (digest, attacked.store.data_digest[: len(digest)])}
    for name, (other, own) in facts.items():
        if other != own:
            raise InputError(
                f"--budget-from {origin}: the {name} of run {record.run_id} is {other}, that of the victim {own}; "
                "a budget means nothing there: give a run on the same, or search without --budget-from"
            )


def _say_what_differs(attack: str, record: AttackRecord, attacked: Attacked) -> None:
    """Name a budget that was found under other conditions, or that missed its target where it was found."""
    there, options = lookup.get(record.run_id), attacked.options
    facts: dict[str, tuple[object, object]]
    facts = {"image parameters (store digest)": (lookup.tag(there, "store_digest"), attacked.store.digest)}
    facts |= {"protocol": (record.protocol, options.protocol), "seed": (record.seed, options.seed)}
    if other := [f"{name} {found}, here {own}" for name, (found, own) in facts.items() if found != own]:
        logger.warning("%s: the budget of run %s is of other %s", attack, record.run_id, "; ".join(other))
    if not record.target_reached:
        logger.warning("%s: the budget of run %s did not reach its target there", attack, record.run_id)


def _strike(attack: str, record: AttackRecord, attacked: Attacked, stage: runs.StageRun) -> None:
    """Log the fooling rate within one budget, and whom it fools."""
    struck = attacked.struck(attack)
    budget = Budget(record.bound, record.iterations, record.settings)
    _, success = strike_within(attacked.victim.network, struck.samples, search_of(attacked.options, attack), budget)
    low, high = wilson(success.sum(), len(success))
    rates = {"fooling_rate": success.mean(), "low": float(low), "high": float(high)}
    stage.metrics({f"{attack}/{name}": value for name, value in rates.items()})
    stage.metrics({f"{attack}/bound": record.bound, f"{attack}/iterations": record.iterations})
    log_struck(stage, attack, np.array(attacked.store.name)[struck.indices], success)
    logger.info(
        "%s against %s: fooling rate %.3f (%.3f to %.3f) on %d clips, %s <= %.4g and %d iterations, those of run %s",
        attack, attacked.title, success.mean(), low, high, len(success), record.norm, record.bound, record.iterations,
        record.run_id,
    )  # fmt: skip
