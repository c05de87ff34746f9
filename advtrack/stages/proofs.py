"""What the runs behind a victim prove of it, for its promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from advtrack.attacks import TABLE_ATTACKS
from advtrack.reporting.estimates import no_ratio_because
from advtrack.reporting.records import AttackRecord
from advtrack.stages.clips import sample_rows
from advtrack.stages.masking import read_signs
from advtrack.stages.searched import plain_records, read_record
from advtrack.stages.victims import plain_victim
from advtrack.tracking import runs
from advtrack.tracking.registry import Registered


@dataclass(frozen=True)
class Gate:
    """A threshold that an option sets on a metric."""

    metric: str
    option: str
    limit: float
    greater_is_better: bool

    def met(self, value: float) -> str:
        """Say that a value meets it."""
        return f"{self.metric} {value:.4g} {'>=' if self.greater_is_better else '<='} {self.limit:g}"

    def unmet(self, value: float) -> str:
        """Say that a value does not."""
        side = "below" if self.greater_is_better else "above"
        return f"{self.metric} {value:.4g} is {side} {self.option} {self.limit:g}"


@dataclass(frozen=True)
class Proof:
    """What is known of a victim.

    Attributes
    ----------
    metrics : dict of str to float
        ``accuracy``, ``accuracy_drop`` in percentage points, and per attack ``.../fooling_rate`` and ``.../ratio``.
    missing : dict of str to str
        Why one of them is not known, and the way out.
    masking : list of str
        What speaks against gradients that are not masked.
    run_ids : list of str
        MLflow runs that all this is read from.
    """

    metrics: dict[str, float]
    missing: dict[str, str]
    masking: list[str]
    run_ids: list[str]


def gather(victim: Registered, bounds: Mapping[str, float]) -> Proof:
    """Read what training and attacks have left.

    Parameters
    ----------
    victim : Registered
        Of whom.
    bounds : mapping of str to float
        Perturbation bounds by attack at which fooling rates are asked for; empty for the plain victim's budgets.
    """
    proof = Proof({}, {}, [], [])
    _read_accuracy(victim, proof)
    command = (
        f"run advtrack attack --dataset {victim.tags['dataset']} --representation {victim.tags['representation']} "
        f"--model {victim.tags['model']} --victim {victim.version} --attack all"
    )
    attacked = {attack: _attack_run(victim, attack) for attack in TABLE_ATTACKS}
    records = {attack: read_record(run.info.run_id, attack) for attack, run in attacked.items() if run}
    plain = {} if victim.tags["training"] == "plain" else plain_records(victim, TABLE_ATTACKS)
    for attack in TABLE_ATTACKS:
        rate, ratio = f"{attack}/fooling_rate", f"{attack}/ratio"
        if attack not in records:
            proof.missing[rate] = proof.missing[ratio] = f"no finished search ({command})"
            continue
        record, below = records[attack], plain.get(attack)
        if attack in bounds:
            proof.metrics[rate] = _fooling_rate_within(record, bounds[attack])
        elif victim.tags["training"] == "plain":
            proof.metrics[rate] = record.fooling_rate
        elif below and record.plain_run_id == below.run_id and record.transferred_fooling_rate is not None:
            proof.metrics[rate] = record.transferred_fooling_rate
        else:
            proof.missing[rate] = f"no finished search since that of the plain victim ({command})"
        if below is None:
            proof.missing[ratio] = "no search of a plain victim to hold it against"
        elif obstacle := no_ratio_because(below, record):
            proof.missing[ratio] = f"no ratio, since {obstacle}"
        else:
            proof.metrics[ratio] = record.perturbation / below.perturbation
    evidence = {run.info.run_id: run for run in attacked.values() if run}
    proof.masking.extend(_masking(evidence, command))
    proof.run_ids.extend(sorted({*evidence, *(record.run_id for record in plain.values())} - {*proof.run_ids}))
    return proof


def _read_accuracy(victim: Registered, proof: Proof) -> None:
    """Test accuracies of the victim and of its plain counterpart, from the runs of their folds."""
    plain = victim if victim.tags["training"] == "plain" else plain_victim(victim)
    accuracies = {}
    for one in {victim.version: victim, **({plain.version: plain} if plain else {})}.values():
        if run := runs.finished(one.run_id):
            accuracies[one.version] = run.data.metrics["test_accuracy"]
            proof.run_ids.append(one.run_id)
    gone = "the run {} that trained {} is deleted or not finished; train it again with --force"
    if victim.version in accuracies:
        proof.metrics["accuracy"] = accuracies[victim.version]
    else:
        proof.missing["accuracy"] = gone.format(victim.run_id, victim)
    if plain is None:
        proof.missing["accuracy_drop"] = (
            f"{victim.name}@standard is no plain victim of the same fold, spectrograms and initial weights"
        )
    elif {victim.version, plain.version} <= accuracies.keys():
        proof.metrics["accuracy_drop"] = 100 * (accuracies[plain.version] - accuracies[victim.version])
    else:
        lost = plain if victim.version in accuracies else victim
        proof.missing["accuracy_drop"] = gone.format(lost.run_id, lost)


def _attack_run(victim: Registered, attack: str) -> runs.Run | None:
    """The finished run that attacked this very victim, as its version tells; None without one."""
    run = runs.finished(victim.tags.get(f"attack.{attack}", ""))
    return run if run and runs.tag(run, "victim") == f"{victim.name}/{victim.version}" else None


def _fooling_rate_within(record: AttackRecord, bound: float) -> float:
    """The fooling rate that a search does not exclude within a bound, of the longest run."""
    rows = sample_rows(record)
    fooled = [float(row["fooled_at"]) <= bound or float(row["resisted_at"]) < bound for row in rows]
    return sum(fooled) / len(fooled)


def _masking(evidence: Mapping[str, runs.Run], command: str) -> list[str]:
    signs = read_signs(evidence.values())
    if not signs:
        return [f"--refuse-masking: no attack run has looked for masked gradients ({command})"]
    raised = [f"{name} ({sign.told()})" for name, sign in signs.items() if sign.there]
    return [f"--refuse-masking: there are signs of masked gradients: {', '.join(raised)}"] if raised else []
