"""Tables with a line per victim: budgets per attack, robust accuracy at fixed eps, signs of masked gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from advtrack.attacks.sign import Sign
from advtrack.reporting.cells import ABSENT, Cell, Column, Table
from advtrack.reporting.estimates import (
    accuracy,
    attacked_fold,
    nearest_examples,
    no_ratio_because,
    widest_attacks,
)
from advtrack.reporting.numbers import bracket, clean, fixed, scaled, significant
from advtrack.reporting.records import AttackRecord, VictimRecord
from advtrack.reporting.statistics import Bootstrap
from advtrack.reporting.tables import ratio_interval

_ABSENT = Cell(ABSENT)
#: Ours: eps of robust accuracy, in 255ths, up to the eps of adversarial training.
EPS_255 = (0.5, 1, 2, 4, 8)
VICTIM_COLUMNS = tuple(Column(name, "key") for name in ("Data set", "Representation", "Model", "Training"))


def by_name(records: Iterable[VictimRecord]) -> list[VictimRecord]:
    """Records in the order of their lines: by name, the plain victim before the adversarially trained one."""
    return sorted(records, key=lambda record: (record.cell, record.training != "plain"))


def victim_cells(record: VictimRecord) -> tuple[Cell, ...]:
    """The cells that name a victim."""
    return (*map(Cell, record.cell), Cell(record.training))


def budgets_table(records: Sequence[VictimRecord]) -> Table:
    """List every budget found: a line per victim and attack.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.

    Returns
    -------
    Table
        Norms are means over successes.
    """
    plain = {record.cell: record for record in records if record.training == "plain"}
    lines = []
    for victim in by_name(records):
        beside = plain.get(victim.cell) if victim.training == "adversarial" else None
        for name, record in sorted(victim.attacks.items()):
            transferred = record.transferred_fooling_rate
            wilson = (record.fooling_low, record.fooling_high)
            interval = None if math.isnan(record.fooling_low) else scaled(wilson, 100)
            rate = clean(100 * record.fooling_rate)
            lines.append(
                (
                    *victim_cells(victim),
                    Cell(name),
                    Cell(record.norm),
                    _number(record.bound),
                    _ABSENT if record.missed_at is None else _number(record.missed_at),
                    Cell(str(record.iterations), record.iterations),
                    Cell(fixed(rate, 1) + bracket(interval, 1), rate, interval, runs=(record.run_id,)),
                    Cell("yes" if record.target_reached else "no"),
                    _ABSENT if transferred is None else _number(100 * transferred, lambda rate: fixed(rate, 1)),
                    _ratio(beside.attacks.get(name) if beside else None, record),
                    *map(_number, (record.l0, record.l2, record.linf)),
                    Cell(str(record.samples), record.samples),
                    _passes(record),
                )
            )
    values: tuple[str, ...] = (
        "Bound",
        "Missed at",
        "Iterations",
        "Fooling rate %",
        "Target reached",
        "At plain budget %",
    )
    values += ("Ratio to plain", "Mean l0", "Mean l2", "Mean linf", "Clips", "Passes")
    return Table(
        "budgets",
        "Budgets per attack",
        "The smallest budget found for each attack on each model: its bound in the attack's own norm (for linf this is "
        "eps), the largest bound known to miss the target where a search tells, and its iterations; the fooling rate "
        "there [Wilson's 95% interval], and whether it reached the target; for adversarially trained models also the "
        "fooling rate under the plain model's budget and the perturbation ratio to the plain model [95% interval, "
        "bootstrap over recordings, the budgets as found]; mean norms of the successful perturbations of inputs in "
        "[0, 1] (l0: values changed); clips attacked, and the forward plus backward passes of the whole search (≥: "
        "trials were cut short, of which not all passes are known).",
        (*VICTIM_COLUMNS, Column("Attack", "key"), Column("Norm", "key"), *map(Column, values)),
        tuple(lines),
    )


def robust_accuracy_table(records: Sequence[VictimRecord]) -> Table:
    """How many clips a victim still names correctly, whatever an l-inf attack does within eps.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.

    Returns
    -------
    Table
        Values in percent. ``details`` hold ``undecided``, the percentage points by which the value may be too high
        because searches left clips undecided there.
    """
    lines = []
    for victim in by_name(records):
        attacks = widest_attacks(victim, "linf")
        if attacks and attacked_fold(victim).recordings:
            cells = _robust_accuracies(victim, attacks)
            lines.append((*victim_cells(victim), *cells, Cell(", ".join(attacks))))
    eps = (f"eps {value:g}/255" for value in EPS_255)
    return Table(
        "robust_accuracy",
        "Robust accuracy at fixed eps",
        "Share of the test clips, in % [95% interval, bootstrap over recordings], that the attacked fold names "
        "correctly and that none of the attacks listed fools within eps (l-inf, inputs in [0, 1]); eps 0 is its "
        "accuracy. Clips that the attacks did not strike count as those that they did. BIM has a random target, "
        "DeepFool none. Stronger attacks may find more: a value is an upper bound. 'Or from' says how low it may be "
        "where the searches left clips undecided, and the interval begins below that. Attacks that struck "
        "fewer clips than others are not among them.",
        (*VICTIM_COLUMNS, *map(Column, ("eps 0", *eps, "Attacks"))),
        tuple(lines),
    )


def masking_table(records: Sequence[VictimRecord]) -> Table:
    """Which signs of masked gradients each victim shows, and the numbers behind each.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.

    Returns
    -------
    Table
        ``details`` hold the numbers.
    """
    signs = sorted({name for record in records for name in record.masking})
    return Table(
        "masking",
        "Signs of masked gradients",
        "A model that hides its gradients resists attacks that follow them, and is no more robust for it. Each sign "
        "that is there (yes) makes the model's figures in the other tables doubtful; a dash: nobody looked. Behind it "
        "stands what was measured, on up to 20 clips and untargeted: fooling rates of FGSM (one step), of BIM-a of 40 "
        "iterations (many steps), and of the same with no bound but [0, 1] (unbounded); the mean margin, in logits, by "
        "which the true class loses after 10 iterations of BIM-b (loss short) and after 40 (loss long); the share of "
        "clips whose loss is flat (vanishing). And of the clips that the searches of PIA and BIM-a led to the same "
        "target: the share that PIA is known to fool nearer, and the medians of the smallest eps known to fool (none: "
        "fewer than half are fooled).",
        (*VICTIM_COLUMNS, *(Column(name.replace("_", " ")) for name in signs)),
        tuple(
            (
                *victim_cells(victim),
                *(_sign(victim.masking.get(name), _looked(victim)) for name in signs),
            )
            for victim in by_name(records)
        ),
    )


def _robust_accuracies(victim: VictimRecord, attacks: Sequence[str]) -> list[Cell]:
    """Accuracy without attack, and at each eps."""
    fold, searches = attacked_fold(victim), [victim.attacks[name] for name in attacks]
    runs = tuple(dict.fromkeys((fold.run_id, *(record.run_id for record in searches))))
    nearest = list(nearest_examples(searches).values())
    recordings = [recording for recording, _, _ in nearest]
    bootstrap = Bootstrap([*fold.recordings, *recordings])
    correct = accuracy([fold], bootstrap)
    fooled_at, resisted_at = (np.array([one[i] for one in nearest]) for i in (1, 2))
    cells = [_percentage(correct, correct, bootstrap, runs)]
    for eps in (value / 255 for value in EPS_255):
        resist, surely = fooled_at > eps, (fooled_at > eps) & (resisted_at >= eps)
        at_most, at_least = (correct * bootstrap.rate(recordings, share, side=1) for share in (resist, surely))
        cells.append(_percentage(at_least, at_most, bootstrap, runs))
    return cells


def _percentage(at_least: np.ndarray, at_most: np.ndarray, bootstrap: Bootstrap, runs: tuple[str, ...]) -> Cell:
    """A share of which two statistics tell what it is at least and at most; the interval spans those of both."""
    value, lowest = clean(100 * at_most[0]), clean(100 * at_least[0])
    low, high = bootstrap.interval(at_least), bootstrap.interval(at_most)
    shown = scaled((low[0], high[1]), 100) if low and high else None
    text = fixed(value, 1) + bracket(shown, 1)
    if fixed(lowest, 1) != fixed(value, 1):
        text += f", or from {fixed(lowest, 1)}"
    undecided = clean(value - lowest)
    return Cell(text, value, shown, runs=runs, details={"undecided": undecided} if undecided else {})


def _passes(record: AttackRecord) -> Cell:
    if not record.cut_short:
        return Cell(str(record.passes), record.passes)
    return Cell(f"≥ {record.passes}", record.passes, at_least=True, details={"trials cut short": record.cut_short})


def _sign(sign: Sign | None, runs: tuple[str, ...]) -> Cell:
    if sign is None:
        return _ABSENT
    text = "yes" if sign.there else "no"
    numbers = {name.replace("_", " "): clean(value) for name, value in sign.numbers.items() if math.isfinite(value)}
    return Cell(f"{text}: {sign.told()}" if sign.numbers else text, runs=runs, details=numbers)


def _looked(victim: VictimRecord) -> tuple[str, ...]:
    return tuple(sorted({record.run_id for record in victim.attacks.values()}))


def _ratio(plain: AttackRecord | None, robust: AttackRecord) -> Cell:
    if plain is None or no_ratio_because(plain, robust) is not None:
        return _ABSENT
    ratio, interval = clean(robust.perturbation / plain.perturbation), ratio_interval([(plain, robust)])
    at_least = not robust.target_reached
    text = f"{'≥ ' if at_least else ''}{fixed(ratio, 2)}{bracket(interval, 2)}"
    return Cell(text, ratio, interval, at_least=at_least, runs=(plain.run_id, robust.run_id))


def _number(value: float, form: Callable[[float], str] = significant) -> Cell:
    value = clean(value)
    return Cell(form(value), value) if math.isfinite(value) else _ABSENT
