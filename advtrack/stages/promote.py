"""Entry point ``promote``: move the alias ``champion`` to a victim whose evidence meets the thresholds."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.stages.attack import find_records, plain_records
from advtrack.stages.victims import only_victim
from advtrack.tracking import registry, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 1


@dataclass(frozen=True)
class Promotion:
    """Options of the stage; those of the command line of the same name."""

    dataset: str
    model: str
    representation: str
    victim: str
    min_accuracy: float
    max_fooling_rate: float


def run(options: Promotion) -> str:
    """Promote a victim; the MLflow run that records the evidence.

    Raises
    ------
    InputError
        A threshold is not met, or the evidence for it is missing; all of them are listed.
    """
    candidate = only_victim(options.dataset, options.representation, options.model, options.victim)
    dataset = candidate.tags["dataset"]
    tags = {"model": options.model, "representation": options.representation, "dataset": dataset}
    tags |= {"victim": f"{candidate.name}/{candidate.version}", "victim_run": candidate.run_id}
    # The registry may have moved since an equal promotion, so that none is ever reused.
    with runs.stage_run(
        "promote", CODE_VERSION, {}, title=str(candidate), params=asdict(options), tags=tags, force=True
    ) as stage:
        accuracy = float(candidate.tags["accuracy"])
        found = find_records(candidate, TABLE_ATTACKS)
        if candidate.tags["training"] == "plain":
            rates = {attack: record.fooling_rate for attack, record in found.items()}
        else:
            now = {attack: record.run_id for attack, record in plain_records(candidate, TABLE_ATTACKS).items()}
            rates = {
                attack: record.transferred_fooling_rate
                for attack, record in found.items()
                if record.transferred_fooling_rate is not None and record.plain_run_id == now.get(attack)
            }
        (victim_data,) = runs.inputs(candidate.run_id)
        stage.dataset(*victim_data)
        stage.tags({"lineage": ",".join(sorted({candidate.run_id, *(record.run_id for record in found.values())}))})
        evidence = {attack: asdict(record) for attack, record in found.items()}
        stage.json({"accuracy": accuracy, "attacks": evidence}, "evidence.json")
        stage.metrics({"accuracy": accuracy, **{f"{attack}/fooling_rate": rate for attack, rate in rates.items()}})
        unmet = []
        if accuracy < options.min_accuracy:
            unmet.append(f"accuracy {accuracy:.3f} is below --min-accuracy {options.min_accuracy:g}")
        if options.max_fooling_rate < 1:
            unmet += _unproven(rates, candidate)
            unmet += [
                f"{attack} fools at a rate of {rate:.3f}, above --max-fooling-rate {options.max_fooling_rate:g}"
                for attack, rate in rates.items()
                if rate > options.max_fooling_rate
            ]
        if unmet:
            raise InputError(f"{candidate} is not promoted: {'; '.join(unmet)}")
        replaced = registry.by_alias(candidate.name, registry.CHAMPION)
        registry.set_alias(candidate, registry.CHAMPION)
        registry.tag(candidate, {"promoted_by": stage.run_id})
        stage.tags({"replaced": f"{replaced.name}/{replaced.version}" if replaced else "none"})
        logger.info("%s is now %s@%s", candidate, candidate.name, registry.CHAMPION)
        return stage.run_id


def _unproven(rates: dict[str, float], candidate: registry.Registered) -> list[str]:
    """Attacks without a rate: not tried on the candidate, or not under the budget the plain victim has now."""
    missing = [attack for attack in TABLE_ATTACKS if attack not in rates]
    if not missing:
        return []
    dataset, representation, model = (candidate.tags[name] for name in ("dataset", "representation", "model"))
    return [
        f"no finished search of {', '.join(missing)} (run advtrack attack --dataset {dataset} --representation "
        f"{representation} --model {model} --victim {candidate.version} --attack all)"
    ]
