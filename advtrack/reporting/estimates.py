"""What records say of one victim or of a pair, as statistics over weighted recordings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from advtrack.reporting.records import AttackRecord, FoldRecord, StruckClips, VictimRecord
from advtrack.reporting.statistics import Bootstrap


def folds_by_number(victim: VictimRecord) -> dict[tuple[int, int], FoldRecord]:
    """A victim's folds by repeat and number."""
    return {(fold.repeat, fold.fold): fold for fold in victim.folds}


def attacked_fold(victim: VictimRecord) -> FoldRecord:
    """The fold that attacks strike."""
    return folds_by_number(victim)[0, victim.fold]


def over_tests(*folds: FoldRecord) -> Bootstrap | None:
    """Weights of the recordings that these folds were tested on; None if one does not tell them."""
    if not folds or not all(fold.recordings for fold in folds):
        return None
    return Bootstrap(recording for fold in folds for recording in fold.recordings)


def accuracy(folds: Iterable[FoldRecord], bootstrap: Bootstrap, *, side: int = 0) -> np.ndarray:
    """Test accuracy, mean over folds; victims that are compared have a side each (`Bootstrap.rate`)."""
    return np.mean([bootstrap.rate(fold.recordings, fold.correct, side=side) for fold in folds], axis=0)


def over_struck(*records: AttackRecord) -> Bootstrap | None:
    """Weights of the recordings whose clips these searches struck; None if one does not tell them."""
    clips = [record.clips for record in records]
    if not clips or any(one is None for one in clips):
        return None
    return Bootstrap(recording for one in clips if one for recording in one.recordings)


def fooled_under_plain(records: Iterable[AttackRecord], bootstrap: Bootstrap, *, side: int = 0) -> np.ndarray:
    """Fooling rate of an adversarially trained victim under the plain one's budgets, mean over attacks (table II).

    Victims that are compared have a side each (`Bootstrap.rate`).
    """
    rates = [bootstrap.rate(_clips(r).recordings, _clips(r).under_plain, side=side) for r in records]
    return np.mean(rates, axis=0)


def mean_ratio(pairs: Sequence[tuple[AttackRecord, AttackRecord]], bootstrap: Bootstrap) -> np.ndarray:
    """Perturbation ratio of pairs of searches, plain and robust victim; geometric mean over attacks (table III)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [np.log(_perturbation(robust, bootstrap) / _perturbation(plain, bootstrap)) for plain, robust in pairs]
        return np.exp(np.mean(logs, axis=0))


def _perturbation(record: AttackRecord, bootstrap: Bootstrap) -> np.ndarray:
    """Mean perturbation that Eq. 14 takes: of the successes, or of all where the target was not reached."""
    clips = _clips(record)
    counts = np.array(clips.success) | (not record.target_reached)
    values = np.where(counts, clips.perturbation, 0.0)
    return bootstrap.total(clips.recordings, values) / bootstrap.total(clips.recordings, counts)


def _clips(record: AttackRecord) -> StruckClips:
    if record.clips is None:
        raise ValueError(f"the clips of {record.attack} in run {record.run_id} were not read")
    return record.clips


def nearest_examples(records: Sequence[AttackRecord]) -> dict[str, tuple[str, float, float]]:
    """The nearest adversarial example that any of the attacks found, by clip that all of them struck.

    Parameters
    ----------
    records : sequence of AttackRecord
        Searches on one victim, of attacks with one norm.

    Returns
    -------
    dict of str to (str, float, float)
        By clip: its recording, the norm of the nearest example (infinite: none was found), and the largest norm below
        which there is none that these attacks would find.
    """
    found: list[Mapping[str, tuple[str, float, float]]] = [
        {
            name: (recording, fooled, resisted)
            for name, recording, fooled, resisted in zip(
                _clips(r).names, _clips(r).recordings, _clips(r).fooled_at, _clips(r).resisted_at, strict=True
            )
        }
        for r in records
    ]
    shared = set.intersection(*(set(one) for one in found)) if found else set()
    return {
        name: (found[0][name][0], min(one[name][1] for one in found), min(one[name][2] for one in found))
        for name in sorted(shared)
    }


def widest_attacks(victim: VictimRecord, norm: str) -> tuple[str, ...]:
    """The attacks of a norm that struck the most clips of a victim, by name: costly ones strike a few only."""
    told = {name: r.samples for name, r in victim.attacks.items() if r.norm == norm and r.clips is not None}
    return tuple(sorted(name for name, samples in told.items() if samples == max(told.values())))


def no_ratio_because(plain: AttackRecord, robust: AttackRecord) -> str | None:
    """Say why two searches have no perturbation ratio, or None where they have one."""
    if plain.norm != robust.norm:
        return f"its norms differ ({plain.norm} and {robust.norm})"
    if plain.target_fooling_rate != robust.target_fooling_rate:
        return f"its targets differ ({plain.target_fooling_rate:g} and {robust.target_fooling_rate:g})"
    for what in ("seed", "sample_limit", "longest", "criterion", "protocol", "code_version"):
        if getattr(plain, what) != getattr(robust, what):
            name = what.replace("_", " ")
            return f"its searches differ in {name} ({getattr(plain, what)} and {getattr(robust, what)})"
    if not plain.target_reached:
        # Its perturbation is only a lower bound, so the ratio would be bounded from above, not from below.
        return f"it reached only {100 * plain.fooling_rate:.1f} % on the plain model"
    if not robust.target_reached and math.isnan(robust.perturbation):
        # A failure of such an attack tells of no perturbation that it takes at least.
        return f"it reached only {100 * robust.fooling_rate:.1f} % on the adversarially trained model"
    for name, record in (("plain", plain), ("adversarially trained", robust)):
        if not (math.isfinite(record.perturbation) and record.perturbation > 0):
            return f"its perturbation of the {name} model is zero or undefined"
    return None
