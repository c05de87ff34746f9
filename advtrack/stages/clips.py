"""What a finished search showed clip by clip, read from its run, and what two searches show together."""

from __future__ import annotations

from dataclasses import replace

from advtrack.reporting.estimates import mean_ratio, no_ratio_because, over_struck
from advtrack.reporting.records import AttackRecord, StruckClips
from advtrack.search.space import NORMS
from advtrack.stages.sample_table import read_samples


def with_clips(record: AttackRecord) -> AttackRecord:
    """The record with what its search showed clip by clip."""
    rows = read_samples(record.run_id, record.attack)
    clips = StruckClips(
        names=tuple(row.clip for row in rows),
        recordings=tuple(row.source for row in rows),
        success=tuple(row.success for row in rows),
        perturbation=tuple(row.perturbation for row in rows),
        fooled_at=tuple(row.fooled_at for row in rows),
        resisted_at=tuple(row.resisted_at for row in rows),
        under_plain=tuple(row.under_plain for row in rows if row.under_plain is not None),
        first_success=tuple(row.first_success for row in rows),
    )
    return replace(record, clips=clips)


def perturbation_ratios(plain: AttackRecord, robust: AttackRecord) -> dict[str, list[float]]:
    """By norm, the ratio of table III and the ends of its interval, each where the table has one.

    In other norms than the attack's own nothing bounds what a failure takes: without the target, there is none.
    """
    plain, robust = with_clips(plain), with_clips(robust)
    if no_ratio_because(plain, robust):
        return {}
    bootstrap = over_struck(plain, robust)
    assert bootstrap
    ratios = {}
    for norm in NORMS if robust.target_reached else (robust.norm,):
        ratio = mean_ratio([(_in_norm(plain, norm), _in_norm(robust, norm))], bootstrap)
        ratios[norm] = [float(ratio[0]), *(bootstrap.interval(ratio) or ())]
    return ratios


def _in_norm(record: AttackRecord, norm: str) -> AttackRecord:
    """The record with its clips' perturbations in a norm; its own as they were counted."""
    assert record.clips
    if norm == record.norm:
        return record
    values = tuple(getattr(row, norm) for row in read_samples(record.run_id, record.attack))
    return replace(record, clips=replace(record.clips, perturbation=values))
