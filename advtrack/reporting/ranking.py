"""Victims ranked by accuracy and by robustness, each held against the best one clip by clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from advtrack.reporting.cells import ABSENT, Cell, Column, Table
from advtrack.reporting.estimates import accuracy, nearest_examples, over_tests, widest_attacks
from advtrack.reporting.numbers import bracket, clean, fixed, scaled, significant
from advtrack.reporting.records import VictimRecord
from advtrack.reporting.statistics import Bootstrap, holm, sign_flip
from advtrack.reporting.victim_tables import EPS_255, VICTIM_COLUMNS, by_name, victim_cells

_CAP = max(EPS_255) / 255


@dataclass(frozen=True)
class _Scores:
    """What a victim is ranked by, clip by clip: its value and interval, and the score and recording of each clip."""

    value: float
    interval: tuple[float, float] | None
    clips: Mapping[str, tuple[str, float]]
    runs: tuple[str, ...]


def ranking_table(records: Sequence[VictimRecord]) -> Table:
    """Rank the victims of each data set.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.

    Returns
    -------
    Table
        By accuracy, the best first. The p-values are those of paired sign-flip tests over recordings, corrected after
        Holm for all pairs of the data set: the best one was chosen by the same data.
    """
    lines: list[tuple[Cell, ...]] = []
    for dataset in sorted({record.dataset for record in records}):
        victims = [record for record in by_name(records) if record.dataset == dataset and record.folds]
        accurate = _ranked([_accuracy(victim) for victim in victims], percent=True)
        robust = _ranked(_distances(victims), percent=False)
        order = sorted(range(len(victims)), key=lambda i: (accurate[i][0].value, victims[i].cell, victims[i].training))
        lines += [(*victim_cells(victims[i]), *accurate[i], *robust[i]) for i in order]
    return Table(
        "ranking",
        "Models ranked by accuracy and by robustness",
        "Accuracy: mean over folds in % [95% interval, bootstrap over recordings]. Robustness: mean over the clips "
        f"attacked of the l-inf norm of the nearest adversarial example found, at most {max(EPS_255):g}/255, by the "
        "attacks that were run on most models and struck the most clips. p: how likely so large a difference to the "
        "best model is by chance, clip by clip on what both were held against, by random sign flips over recordings; "
        "corrected after Holm for all pairs of models of the data set. Above 0.05 the order may be chance. Bold: best "
        "of the data set.",
        (
            *VICTIM_COLUMNS,
            *map(Column, ("Accuracy rank", "Accuracy %", "p (accuracy)")),
            *map(Column, ("Robustness rank", "Nearest example, l-inf", "p (robustness)")),
        ),
        tuple(lines),
    )


def _accuracy(victim: VictimRecord) -> _Scores:
    """Mean accuracy, and what each recording contributes to it."""
    value = float(np.mean([fold.accuracy for fold in victim.folds]))
    bootstrap = over_tests(*victim.folds)
    if bootstrap is None:
        return _Scores(value, None, {}, (victim.run_id,))
    # Clips of one recording are taken together: the test sums over recordings anyway.
    clips = {recording: (recording, 0.0) for recording in bootstrap.recordings}
    for fold in victim.folds:
        for recording, correct in zip(fold.recordings, fold.correct, strict=True):
            share = correct / len(fold.correct) / len(victim.folds)
            clips[recording] = (recording, clips[recording][1] + share)
    interval = bootstrap.interval(accuracy(victim.folds, bootstrap))
    return _Scores(value, interval, clips, (victim.run_id,))


def _distances(victims: Sequence[VictimRecord]) -> list[_Scores | None]:
    """Of each victim that bore the attacks which most bore, how far its clips' nearest examples are."""
    borne = [widest_attacks(victim, "linf") for victim in victims]
    counts = Counter(attacks for attacks in borne if attacks)
    most = max(counts, key=lambda attacks: (counts[attacks], len(attacks), attacks), default=())
    scores: list[_Scores | None] = []
    for victim, attacks in zip(victims, borne, strict=True):
        if not most or not set(most) <= set(attacks):
            scores.append(None)
            continue
        searches = [victim.attacks[name] for name in most]
        clips = {name: (one[0], min(one[1], _CAP)) for name, one in nearest_examples(searches).items()}
        recordings, values = zip(*clips.values(), strict=True)
        bootstrap = Bootstrap(recordings)
        mean = _CAP * bootstrap.rate(recordings, np.array(values) / _CAP)
        runs = tuple(dict.fromkeys(record.run_id for record in searches))
        scores.append(_Scores(float(mean[0]), bootstrap.interval(mean), clips, runs))
    return scores


def _ranked(scores: Sequence[_Scores | None], *, percent: bool) -> list[tuple[Cell, Cell, Cell]]:
    """Rank, value and p-value of each."""
    present = [i for i, score in enumerate(scores) if score is not None]
    values = {i: clean(score.value) for i in present if (score := scores[i]) is not None}
    best = max(present, key=lambda i: (values[i], -i), default=None)
    p_values = _against(best, {i: score.clips for i in present if (score := scores[i]) is not None})
    cells = []
    for i, score in enumerate(scores):
        if score is None:
            cells.append((Cell(ABSENT), Cell(ABSENT), Cell(ABSENT)))
            continue
        rank = 1 + sum(other > values[i] for other in values.values())
        factor, digits = (100, 1) if percent else (1, 4)
        value, interval = clean(factor * score.value), scaled(score.interval, factor)
        text = fixed(value, digits) + bracket(interval, digits)
        shown = Cell(text, value, interval, best=rank == 1 and len(present) > 1, runs=score.runs)
        p = p_values.get(i)
        cells.append((Cell(str(rank), rank), shown, Cell(ABSENT) if p is None else Cell(significant(p), clean(p))))
    return cells


def _against(best: int | None, clips: Mapping[int, Mapping[str, tuple[str, float]]]) -> dict[int, float]:
    """P-values of the differences to the best one, corrected for all pairs."""
    pairs = [(i, j) for i, j in combinations(sorted(clips), 2) if clips[i].keys() & clips[j].keys()]
    if best is None or not pairs:
        return {}
    column = {
        recording: n for n, recording in enumerate(sorted({r for one in clips.values() for r, _ in one.values()}))
    }
    differences = np.zeros((len(column), len(pairs)))
    for k, (i, j) in enumerate(pairs):
        for name in sorted(clips[i].keys() & clips[j].keys()):
            recording, score = clips[i][name]
            differences[column[recording], k] += score - clips[j][name][1]
    corrected = holm(sign_flip(differences))
    return {i + j - best: float(p) for (i, j), p in zip(pairs, corrected, strict=True) if best in (i, j)}
