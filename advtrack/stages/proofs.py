"""What the runs behind a victim prove of it, for its promotion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from advtrack.attacks import TABLE_ATTACKS
from advtrack.intervals import wilson
from advtrack.reporting.estimates import no_ratio_because
from advtrack.reporting.records import AttackRecord
from advtrack.stages import attack as searching
from advtrack.stages import fold, masking
from advtrack.stages.sample_table import read_samples
from advtrack.stages.searched import read_record
from advtrack.stages.victims import plain_victim, trained_beside
from advtrack.tracking import lookup
from advtrack.tracking.registry import Registered

# The paper's target, and that of ``attack``: budgets that fool the plain victim less often ask little of another.
_TARGET = 0.9


@dataclass(frozen=True)
class Gate:
    """A threshold that an option sets on a metric."""

    metric: str
    option: str
    limit: float
    greater_is_better: bool

    def met(self, proof: Proof) -> str:
        """Say that it is met."""
        return f"{proof.told(self.metric)} {'>=' if self.greater_is_better else '<='} {self.limit:g}"

    def unmet(self, proof: Proof) -> str:
        """Say that it is not."""
        side = "below" if self.greater_is_better else "above"
        return f"{proof.told(self.metric)} is {side} {self.option} {self.limit:g}"


@dataclass(frozen=True)
class Proof:
    """What is known of a victim.

    Attributes
    ----------
    metrics : dict of str to float
        ``accuracy``, ``accuracy_drop`` in percentage points, and per attack ``.../fooling_rate`` with the upper end of
        its 95% interval, ``.../fooling_rate_high``, and ``.../ratio``.
    about : dict of str to str
        Of how many clips a metric is, and at which budget.
    missing : dict of str to str
        Why one of the metrics is not known, and the way out.
    masking : list of str
        What speaks against gradients that are not masked.
    run_ids : list of str
        MLflow runs that all this is read from.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    masking: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)

    def told(self, metric: str) -> str:
        """A metric with its value, and what that is of."""
        return f"{metric} {self.metrics[metric]:.4g}{self.about.get(metric, '')}"


@dataclass(frozen=True)
class _Search:
    """A search that counts: its result, and the run that the victim's version names for it."""

    record: AttackRecord
    run: lookup.Run


def gather(victim: Registered, budgets: Mapping[str, tuple[float, int]], min_samples: int) -> Proof:
    """Read what training and attacks have left.

    Parameters
    ----------
    victim : Registered
        Of whom.
    budgets : mapping of str to (float, int)
        Perturbation bounds and iterations by attack at which fooling rates are asked for; empty for the plain victim's
        budgets.
    min_samples : int
        Clips that a search must have struck to count.
    """
    proof = Proof()
    _read_accuracy(victim, proof)
    own = {attack: _search(victim, attack, min_samples) for attack in TABLE_ATTACKS}
    below = _searches_on_plain(victim, min_samples)
    for attack, search in own.items():
        rate, ratio = f"{attack}/fooling_rate_high", f"{attack}/ratio"
        if isinstance(search, str):
            proof.missing[rate] = proof.missing[ratio] = search
            continue
        samples = search.record.samples
        fooling = _fooling_rate(search, below[attack], budgets.get(attack), _command(victim))
        if isinstance(fooling, str):
            proof.missing[rate] = fooling
        else:
            value, bound, iterations = fooling
            _, high = wilson(round(value * samples), samples)
            proof.metrics.update({f"{attack}/fooling_rate": value, rate: float(high)})
            within = f"{search.record.norm} <= {bound:.4g}, {iterations} iterations"
            proof.about[rate] = f" ({value:.4g} of {samples} clips, {within})"
        plain = _asking(below[attack])
        if isinstance(plain, str):
            proof.missing[ratio] = plain
        elif obstacle := no_ratio_because(plain.record, search.record):
            proof.missing[ratio] = f"no ratio, since {obstacle}"
        else:
            proof.metrics[ratio] = search.record.perturbation / plain.record.perturbation
            proof.about[ratio] = f" ({samples} clips)"
    found = [search for search in own.values() if isinstance(search, _Search)]
    proof.masking.extend(_masking({one.run.info.run_id: one.run for one in found}.values(), victim, min_samples))
    found += [search for search in below.values() if isinstance(search, _Search)]
    run_ids = {one.run.info.run_id for one in found} | {one.record.run_id for one in found}
    proof.run_ids.extend(sorted(run_ids - {*proof.run_ids}))
    return proof


def _read_accuracy(victim: Registered, proof: Proof) -> None:
    """Test accuracies of the victim and of the plain one that it was trained beside, from the runs of their folds."""
    plain = victim if victim.tags["training"] == "plain" else trained_beside(victim)
    if plain is None:
        proof.missing["accuracy_drop"] = (
            f"the plain victim of its fold, beside which {victim} was trained, is gone; train both again"
        )
    accuracies = {}
    for one in {victim.version: victim, **({plain.version: plain} if plain else {})}.values():
        run = lookup.finished(one.run_id)
        if objection := _objection_to_training(one, run):
            proof.missing.setdefault("accuracy_drop", objection)
            if one is victim:
                proof.missing["accuracy"] = objection
        elif run:
            accuracies[one.version] = run.data.metrics["test_accuracy"]
            proof.run_ids.append(one.run_id)
    if victim.version in accuracies:
        proof.metrics["accuracy"] = accuracies[victim.version]
    if plain and {victim.version, plain.version} <= accuracies.keys():
        proof.metrics["accuracy_drop"] = 100 * (accuracies[plain.version] - accuracies[victim.version])


def _objection_to_training(version: Registered, run: lookup.Run | None) -> str:
    """Why the accuracy of a fold's run proves nothing; nothing if it does."""
    if run is None:
        return (
            f"the run {version.run_id} that trained {version} is deleted or not finished; train it again with --force"
        )
    training = lookup.finished(version.tags.get("train_run", ""))
    code = lookup.tag(training, "code_version") if training else "unknown"
    if code != str(fold.CODE_VERSION):
        return f"{version} was trained by version {code} of the code, this is {fold.CODE_VERSION}; train it again"
    return ""


def _search(victim: Registered, attack: str, min_samples: int) -> _Search | str:
    """The search that a version names as the last of an attack; or why there is none that counts, and the way out."""
    run = lookup.finished(victim.tags.get(f"attack.{attack}", ""))
    if run is None or lookup.tag(run, "victim") != f"{victim.name}/{victim.version}":
        return f"no finished search ({_command(victim)})"
    record = read_record(run.info.run_id, attack)
    objections = []
    if lookup.finished(record.run_id) is None:
        objections.append(f"its clips are in the run {record.run_id}, which is deleted or not finished")
    if record.code_version != searching.CODE_VERSION:
        code = record.code_version or "unknown"
        objections.append(f"it is by version {code} of the code, this is {searching.CODE_VERSION}")
    if lookup.tag(run, "store_digest") != victim.tags["store_digest"]:
        objections.append("it is on other spectrograms")
    if record.protocol != "test":
        objections.append(f"it also struck clips that were trained on (--protocol {record.protocol})")
    if not record.settled:
        objections.append("it is not settled, having had too few --trials")
    if record.samples < min_samples:
        objections.append(f"it struck {record.samples} clips, of --min-samples {min_samples}")
    if objections:
        return (
            f"the search in run {run.info.run_id} does not count, since {' and '.join(objections)} ({_command(victim)})"
        )
    return _Search(record, run)


def _command(victim: Registered) -> str:
    return (
        f"run advtrack attack --dataset {victim.tags['dataset']} --representation {victim.tags['representation']} "
        f"--model {victim.tags['model']} --victim {victim.version} --attack all"
    )


def _searches_on_plain(victim: Registered, min_samples: int) -> dict[str, _Search | str]:
    """The same of the plain victim that an adversarially trained one is held against."""
    plain = None if victim.tags["training"] == "plain" else plain_victim(victim)
    if plain is None:
        return dict.fromkeys(TABLE_ATTACKS, "there is no plain victim to hold it against")
    found = {attack: _search(plain, attack, min_samples) for attack in TABLE_ATTACKS}
    return {name: f"on the plain victim, {one}" if isinstance(one, str) else one for name, one in found.items()}


def _asking(plain: _Search | str) -> _Search | str:
    """A search on the plain victim, if its budget asks something of another victim."""
    if isinstance(plain, str):
        return plain
    record = plain.record
    if record.target_reached and record.target_fooling_rate >= _TARGET:
        return plain
    reached = "reached" if record.target_reached else "missed"
    return (
        f"the search on the plain victim {reached} a target of {record.target_fooling_rate:g}, and it has to reach one "
        f"of at least {_TARGET}"
    )


def _fooling_rate(
    search: _Search, below: _Search | str, budget: tuple[float, int] | None, command: str
) -> tuple[float, float, int] | str:
    """The fooling rate, at which bound, of how many iterations; or why it is not known, and the way out.

    At a budget that is asked for, it is that of the search's longest run, which must have as many iterations; else that
    of the strike within the plain victim's budget.
    """
    record = search.record
    if budget:
        bound, iterations = budget
        if record.longest < iterations:
            return (
                f"the runs of its search have up to {record.longest} iterations, not {iterations}; search without "
                f"--max-iter, or ask for --budget {record.attack}={bound:g}:{record.longest}"
            )
        return _fooling_rate_within(record, bound), bound, record.longest
    plain = _asking(below)
    if isinstance(plain, str):
        return f"{plain}; or give a --budget"
    if record.plain_run_id != plain.record.run_id or record.transferred_fooling_rate is None:
        return f"no finished search since that of the plain victim ({command})"
    return record.transferred_fooling_rate, plain.record.bound, plain.record.iterations


def _fooling_rate_within(record: AttackRecord, bound: float) -> float:
    """The fooling rate that a search does not exclude within a bound, of the longest run."""
    rows = read_samples(record.run_id, record.attack)
    fooled = [row.fooled_at <= bound or row.resisted_at < bound for row in rows]
    return sum(fooled) / len(fooled)


def _masking(found: Iterable[lookup.Run], victim: Registered, min_samples: int) -> list[str]:
    """What the runs of searches that count say against a victim's gradients; that none has looked at enough clips."""
    enough = min(min_samples, masking.SAMPLES)
    signs = masking.read_signs(run for run in found if run.data.metrics.get("masking/samples", 0) >= enough)
    if not signs:
        return [
            f"--refuse-masking: no attack run that counts has looked for masked gradients on {enough} clips "
            f"({_command(victim)})"
        ]
    raised = [f"{name} ({sign.told()})" for name, sign in signs.items() if sign.there]
    return [f"--refuse-masking: there are signs of masked gradients: {', '.join(raised)}"] if raised else []
