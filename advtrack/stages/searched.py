"""The results of finished searches: kept in their runs, and found again by the victim."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict

from advtrack.reporting.records import AttackRecord
from advtrack.stages.victims import plain_victim
from advtrack.tracking import lookup, registry, runs

logger = logging.getLogger("advtrack")

#: Begins the tags of a run that tell, attack by attack, that the search is whole, and what determines its result.
KEY = "key."

_MAY_BE_UNDEFINED = (
    "perturbation", "l0", "l2", "linf", "score", "fooling_low", "fooling_high", "auc_low", "auc_high"
)  # fmt: skip


def read_record(run_id: str, attack: str) -> AttackRecord:
    """The result of one attack in a finished run."""
    content = json.loads(lookup.read_artifact(run_id, f"{attack}/result.json"))
    # JSON has no NaN, which these are where nothing was fooled.
    undefined = {name: math.nan for name in _MAY_BE_UNDEFINED if content[name] is None}
    return AttackRecord(**{**content, **undefined})


def searched_by(run_id: str) -> set[str]:
    """The attacks whose search a run has finished, even one that was stopped in the middle of the next."""
    return set(lookup.prefixed_tags(lookup.get(run_id), KEY))


def find_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, AttackRecord]:
    """The result of each attack against a registered victim, of the search that was asked for last."""
    last = {attack: version.tags.get(f"attack.{attack}") for attack in attacks}
    return {attack: read_record(run_id, attack) for attack, run_id in last.items() if run_id}


def plain_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, AttackRecord]:
    """Results on the plainly trained victim that differs from this one in nothing but its training, by attack."""
    plain = plain_victim(version)
    return find_records(plain, attacks) if plain else {}


def log_record(stage: runs.StageRun, record: AttackRecord, key: str) -> None:
    """Metrics and the result; the tag comes last and says that the result is whole."""
    metrics = {"fooling_rate": record.fooling_rate, "bound": record.bound, "iterations": record.iterations}
    metrics |= {"perturbation": record.perturbation, "l0": record.l0, "l2": record.l2, "linf": record.linf}
    metrics |= {"samples": record.samples, "passes": record.passes, "cut_short": record.cut_short}
    metrics |= {"contradictions": record.contradictions, "score": record.score}
    metrics |= {name: getattr(record, name) for name in ("fooling_low", "fooling_high", "auc_low", "auc_high")}
    for norm, ratio_and_interval in record.ratios.items():
        metrics |= zip((f"ratio_{norm}", f"ratio_{norm}_low", f"ratio_{norm}_high"), ratio_and_interval, strict=False)
    if record.transferred_fooling_rate is not None:
        metrics["transferred_fooling_rate"] = record.transferred_fooling_rate
    stage.metrics({f"{record.attack}/{name}": value for name, value in metrics.items() if value == value})
    stage.json(asdict(record), f"{record.attack}/result.json")
    stage.tags({f"{record.attack}.settled": record.settled})
    stage.tags({f"{record.attack}.target_reached": record.target_reached, f"{KEY}{record.attack}": key})


def say(record: AttackRecord, victim: str) -> None:
    verdict = "reaches" if record.target_reached else "misses"
    under_plain = record.transferred_fooling_rate
    passes = record.passes / record.samples
    logger.info(
        "%s against %s: fooling rate %.3f (%.3f to %.3f)%s %s %.2f on %d clips at %s <= %.4g%s, %d iterations; "
        "%.0f passes a clip%s%s%s%s",
        record.attack, victim, record.fooling_rate, record.fooling_low, record.fooling_high,
        f", area below it {record.score:.3f}, which" if record.criterion == "auc" else "", verdict,
        record.target_fooling_rate, record.samples,
        record.norm, record.bound, f" (not at {record.missed_at:.4g})" if record.missed_at else "", record.iterations,
        passes, f", and more in {record.cut_short} trials cut short" if record.cut_short else "", _ratio(record),
        f"; {record.contradictions} contradictions" if record.contradictions else "",
        "" if under_plain is None else f"; {under_plain:.3f} under the plain victim's budget",
    )  # fmt: skip
    if not record.settled:
        above = f"{record.bound:.4g}" if record.target_reached else "anything"
        logger.warning(
            "%s against %s: trials ran out; the smallest bound lies between %.4g and %s; --trials allows more",
            record.attack, victim, record.missed_at or 0, above,
        )  # fmt: skip


def _ratio(record: AttackRecord) -> str:
    """The ratio of table III in words; nothing where there is none."""
    if record.norm not in record.ratios:
        return ""
    ratio, *interval = record.ratios[record.norm]
    at_least = "" if record.target_reached else "≥ "
    ends = " ({:.2f} to {:.2f})".format(*interval) if interval else ""
    return f"; {at_least}{ratio:.2f}{ends} times the plain victim's perturbation"
