"""Tables I, II and III and the list of budgets: from records to cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from advtrack.reporting.cells import ABSENT, Cell, Column, Table
from advtrack.reporting.records import AttackRecord, Training, VictimRecord


class FillingCommand(Protocol):
    """Names the command that produces what a cell lacks."""

    def __call__(
        self, dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]
    ) -> str:
        """Return the command that runs ``attacks`` on this victim, or trains it where ``attacks`` is empty."""


def table_one(
    records: Sequence[VictimRecord], rows: Sequence[tuple[str, str]], models: Sequence[str], command: FillingCommand
) -> Table:
    """Table I: test accuracy, and what adversarial training costs of it.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order; one per data set, representation, model and training.
    rows : sequence of (dataset, representation)
        Rows, as they shall appear.
    models : sequence of str
        Columns, as they shall appear.
    command : FillingCommand
        Names the command for what is missing.

    Returns
    -------
    Table
        Values in percent; ``details`` hold ``folds``, ``spread``, ``drop`` and ``drop_folds``.
    """
    victims = _by_name(records)

    def cell(dataset: str, representation: str, model: str) -> Cell:
        plain, robust = _pair(victims, dataset, representation, model)
        if plain is None or not plain.folds:
            return Cell(ABSENT, missing=(command(dataset, representation, model, "plain", ()),))
        accuracies = [100 * accuracy for accuracy in _accuracies(plain).values()]
        mean = _clean(statistics.fmean(accuracies))
        details: dict[str, float] = {"folds": len(accuracies)}
        text = _fixed(mean, 1)
        if len(accuracies) > 1:
            details["spread"] = _clean(statistics.stdev(accuracies))
            text += f" ± {_fixed(details['spread'], 1)}"
        text += f" ({len(accuracies)}), drop "
        # Only folds trained both ways: otherwise the drop would mix the training with the difficulty of the folds.
        both = sorted(_accuracies(plain).keys() & _accuracies(robust).keys()) if robust else []
        if robust is None or not both:
            missing = (command(dataset, representation, model, "adversarial", ()),)
            return Cell(text + ABSENT, mean, missing=missing, details=details)
        drop = _clean(statistics.fmean(100 * (_accuracies(plain)[k] - _accuracies(robust)[k]) for k in both))
        details |= {"drop": drop, "drop_folds": len(both)}
        return Cell(
            f"{text}{_fixed(drop, 1)} ({len(both)})", mean, details=details, notes=_trained_unlike(plain, robust)
        )

    return Table(
        name="table_I",
        title="Table I: accuracy and its drop after adversarial training",
        caption="Mean test accuracy of the plain model in % ± standard deviation over folds (number of folds); then "
        "the mean drop after adversarial training in percentage points (number of folds trained both ways). Bold: "
        "highest accuracy of the row.",
        columns=(Column("Data set", "key"), Column("Representation", "key"), *map(Column, models)),
        lines=_rows(rows, models, cell, max, 1),
    )


def table_two(
    records: Sequence[VictimRecord],
    rows: Sequence[tuple[str, str]],
    models: Sequence[str],
    attacks: Sequence[str],
    command: FillingCommand,
) -> Table:
    """Table II: how often the plain model's budgets still fool the adversarially trained one.

    Parameters
    ----------
    records, rows, models, command
        As for `table_one`.
    attacks : sequence of str
        All attacks that a complete cell averages over.

    Returns
    -------
    Table
        Values in percent; ``details`` hold the rate of each attack.
    """
    victims = _by_name(records)

    def cell(dataset: str, representation: str, model: str) -> Cell:
        plain, robust = _attacked_pair(victims, dataset, representation, model)
        rates: dict[str, float] = {}
        unfinished, notes = [], []
        for attack in attacks:
            record = robust.attacks.get(attack) if robust else None
            source = plain.attacks.get(attack) if plain else None
            if record is None or record.transferred_fooling_rate is None or source is None:
                unfinished.append(attack)
            elif record.plain_run_id != source.run_id:
                unfinished.append(attack)
                notes.append(f"{attack} is left out, the plain model's budget has changed since")
            else:
                rates[attack] = _clean(100 * record.transferred_fooling_rate)
                if not source.target_reached:
                    reached = _fixed(100 * source.fooling_rate, 1)
                    notes.append(f"{attack} fooled the plain model itself on only {reached} % at this budget")
        missing: tuple[str, ...] = ()
        if unfinished:
            missing = (_next_command(victims, (dataset, representation, model), attacks, unfinished, command),)
        if not rates:
            return Cell(ABSENT, missing=missing, notes=tuple(notes))
        if plain and robust:
            notes += _trained_unlike(plain, robust)
        mean = _clean(statistics.fmean(rates.values()))
        text = f"{_fixed(mean, 1)} ({len(rates)}/{len(attacks)})"
        return Cell(text, mean, missing=missing, attacks=tuple(rates), details=rates, notes=tuple(notes))

    return Table(
        name="table_II",
        title="Table II: fooling rate of the adversarially trained model under the plain model's budgets",
        caption="Mean over attacks in % (attacks in the mean / attacks in all). Bold: lowest of the row, among cells "
        "that average over the same attacks.",
        columns=(Column("Data set", "key"), Column("Representation", "key"), *map(Column, models)),
        lines=_rows(rows, models, cell, min, 1),
    )


def table_three(
    records: Sequence[VictimRecord],
    rows: Sequence[tuple[str, str]],
    models: Sequence[str],
    attacks: Sequence[str],
    command: FillingCommand,
) -> Table:
    """Table III: how much more perturbation the adversarially trained model takes (Eq. 14).

    Parameters
    ----------
    records, rows, models, command
        As for `table_one`.
    attacks : sequence of str
        All attacks that a complete cell averages over.

    Returns
    -------
    Table
        Ratios; ``details`` hold the ratio of each attack.
    """
    victims = _by_name(records)

    def cell(dataset: str, representation: str, model: str) -> Cell:
        plain, robust = _attacked_pair(victims, dataset, representation, model)
        ratios: dict[str, float] = {}
        unfinished, notes = [], []
        at_least = False
        for attack in attacks:
            below = plain.attacks.get(attack) if plain else None
            above = robust.attacks.get(attack) if robust else None
            if below is None or above is None:
                unfinished.append(attack)
            elif obstacle := _no_ratio_because(below, above):
                notes.append(f"{attack} is left out, {obstacle}")
            else:
                ratios[attack] = _clean(above.perturbation / below.perturbation)
                at_least |= not above.target_reached
        if ratios and plain and robust:
            notes += _trained_unlike(plain, robust)
        missing: tuple[str, ...] = ()
        if unfinished:
            missing = (_next_command(victims, (dataset, representation, model), attacks, unfinished, command),)
        if not ratios:
            return Cell(ABSENT, missing=missing, notes=tuple(notes))
        mean = _clean(statistics.geometric_mean(ratios.values()))
        text = f"{'≥ ' if at_least else ''}{_fixed(mean, 2)} ({len(ratios)}/{len(attacks)})"
        return Cell(
            text,
            mean,
            missing=missing,
            at_least=at_least,
            attacks=tuple(ratios),
            details=ratios,
            notes=tuple(notes),
        )

    return Table(
        name="table_III",
        title="Table III: perturbation ratio, adversarially trained over plain",
        caption="Mean perturbation at each model's own budget in the attack's own norm, adversarially trained over "
        "plain (Eq. 14); geometric mean over attacks (attacks in the mean / attacks in all). ≥: an attack did not "
        "reach its target on the adversarially trained model, and its failures count as the largest perturbation "
        "that was allowed them. Left out of the mean: attacks that did not reach their target on the plain model, "
        "those that did not on the other and whose perturbation nothing bounds, and perturbations that are zero. "
        "Bold: highest of the row, among cells that average over the same attacks, unless a ≥ behind it leaves the "
        "order open.",
        columns=(Column("Data set", "key"), Column("Representation", "key"), *map(Column, models)),
        lines=_rows(rows, models, cell, max, 2),
    )


def per_attack_table(records: Sequence[VictimRecord]) -> Table:
    """List every budget found: a line per victim and attack, sorted by name.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.

    Returns
    -------
    Table
        Each value with its number; norms are those of successes.
    """
    victims = _by_name(records)
    lines = []
    for name in sorted(victims, key=lambda name: (*name[:3], name[3] != "plain")):
        victim = victims[name]
        plain = victims.get((*name[:3], "plain")) if victim.training == "adversarial" else None
        for attack in sorted(victim.attacks):
            record = victim.attacks[attack]
            transferred = record.transferred_fooling_rate
            lines.append(
                (
                    *(Cell(text) for text in (*name, attack, record.norm)),
                    _number(record.bound, _significant),
                    Cell(ABSENT) if record.missed_at is None else _number(record.missed_at, _significant),
                    Cell(str(record.iterations), record.iterations),
                    _number(100 * record.fooling_rate, _percent),
                    Cell("yes" if record.target_reached else "no"),
                    Cell(ABSENT) if transferred is None else _number(100 * transferred, _percent),
                    _ratio_cell(plain.attacks.get(attack) if plain else None, record),
                    Cell(", ".join(sorted(name for name, there in victim.masking.items() if there)) or ABSENT),
                    *(_number(norm, _significant) for norm in (record.l0, record.l2, record.linf)),
                    Cell(str(record.samples), record.samples),
                    Cell(str(record.passes), record.passes),
                    Cell(record.run_id),
                )
            )
    return Table(
        name="budgets",
        title="Budgets per attack",
        caption="The smallest budget found for each attack on each model: its bound in the attack's own norm, the "
        "largest bound known to miss the target where a search tells, and its iterations; the fooling rate there, and "
        "whether it reached the target; for adversarially trained models also the fooling rate under the plain model's "
        "budget and the perturbation ratio to the plain model; signs that the model masks its gradients, so that "
        "attacks which follow them tell little; mean norms of the successful perturbations of inputs in "
        "[0, 1] (l0: values changed).",
        columns=(
            *(Column(name, "key") for name in ("Data set", "Representation", "Model", "Training", "Attack", "Norm")),
            *map(Column, ("Bound", "Missed at", "Iterations")),
            *map(Column, ("Fooling rate %", "Target reached", "At plain budget %", "Ratio to plain", "Masking signs")),
            *map(Column, ("Mean l0", "Mean l2", "Mean linf", "Samples", "Passes", "Run")),
        ),
        lines=tuple(lines),
    )


def _by_name(records: Sequence[VictimRecord]) -> dict[tuple[str, str, str, str], VictimRecord]:
    """Index the records; two for one name would make a table depend on their order."""
    victims: dict[tuple[str, str, str, str], VictimRecord] = {}
    for record in records:
        name = (record.dataset, record.representation, record.model, record.training)
        if name in victims:
            raise ValueError(f"two records for {', '.join(name)}: runs {victims[name].run_id} and {record.run_id}")
        victims[name] = record
    return victims


def _accuracies(victim: VictimRecord) -> dict[tuple[int, int], float]:
    """Test accuracies by repeat and fold."""
    return {(fold.repeat, fold.fold): fold.accuracy for fold in victim.folds}


def _pair(
    victims: Mapping[tuple[str, str, str, str], VictimRecord], dataset: str, representation: str, model: str
) -> tuple[VictimRecord | None, VictimRecord | None]:
    """Return the plain and the adversarially trained victim of one cell."""
    place = (dataset, representation, model)
    return victims.get((*place, "plain")), victims.get((*place, "adversarial"))


def _attacked_pair(
    victims: Mapping[tuple[str, str, str, str], VictimRecord], dataset: str, representation: str, model: str
) -> tuple[VictimRecord | None, VictimRecord | None]:
    """The pair of one cell whose attacks can be compared: a robust victim of another fold is not of this pair."""
    plain, robust = _pair(victims, dataset, representation, model)
    return plain, robust if plain and robust and plain.fold == robust.fold else None


def _trained_unlike(plain: VictimRecord, robust: VictimRecord) -> tuple[str, ...]:
    """Say in what else than being adversarial the two trainings differ."""
    return tuple(
        f"the two models were trained with other {name.replace('_', ' ')}: {value} and {robust.settings[name]}"
        for name, value in plain.settings.items()
        if robust.settings[name] != value
    )


def _next_command(
    victims: Mapping[tuple[str, str, str, str], VictimRecord],
    place: tuple[str, str, str],
    attacks: Sequence[str],
    unfinished: Sequence[str],
    command: FillingCommand,
) -> str:
    """Name the first step still to be taken: both trainings, then attacks on the plain victim, then on the robust."""
    plain, robust = _attacked_pair(victims, *place)
    if plain is None:
        return command(*place, "plain", ())
    if robust is None:
        return command(*place, "adversarial", ())
    unbudgeted = tuple(attack for attack in attacks if attack not in plain.attacks)
    if unbudgeted:
        return command(*place, "plain", unbudgeted)
    return command(*place, "adversarial", tuple(unfinished))


def _rows(
    rows: Sequence[tuple[str, str]],
    models: Sequence[str],
    cell: Callable[[str, str, str], Cell],
    better: Callable[[list[float]], float],
    digits: int,
) -> tuple[tuple[Cell, ...], ...]:
    """Fill the rows and mark the best cells of each."""
    filled = []
    for dataset, representation in rows:
        cells = [cell(dataset, representation, model) for model in models]
        filled.append((Cell(dataset), Cell(representation), *_mark_best(cells, better, digits)))
    return tuple(filled)


def _mark_best(cells: Sequence[Cell], better: Callable[[list[float]], float], digits: int) -> tuple[Cell, ...]:
    """Mark the best of the cells that can be compared; equal as printed is equal."""
    fullest = max((len(cell.attacks) for cell in cells if cell.value is not None), default=0)
    # A mean over fewer or other attacks is another quantity: it neither wins nor loses.
    rivals = {
        i: round(cell.value, digits)
        for i, cell in enumerate(cells)
        if cell.value is not None and len(cell.attacks) == fullest
    }
    if len(rivals) < 2 or len({cells[i].attacks for i in rivals}) > 1:
        return tuple(cells)
    best = better(list(rivals.values()))
    if any(cells[i].at_least and value != best for i, value in rivals.items()):
        # A lower bound behind the best may in truth be ahead of it.
        return tuple(cells)
    return tuple(replace(cell, best=rivals.get(i) == best) for i, cell in enumerate(cells))


def _no_ratio_because(plain: AttackRecord, robust: AttackRecord) -> str | None:
    """Say why two searches have no perturbation ratio, or None where they have one."""
    if plain.norm != robust.norm:
        return f"its norms differ ({plain.norm} and {robust.norm})"
    if plain.target_fooling_rate != robust.target_fooling_rate:
        return f"its targets differ ({plain.target_fooling_rate:g} and {robust.target_fooling_rate:g})"
    for what in ("seed", "sample_limit", "longest", "criterion", "protocol"):
        if getattr(plain, what) != getattr(robust, what):
            return f"its searches differ in {what} ({getattr(plain, what)} and {getattr(robust, what)})"
    if not plain.target_reached:
        # Its perturbation is only a lower bound, so the ratio would be bounded from above, not from below.
        return f"it reached only {_fixed(100 * plain.fooling_rate, 1)} % on the plain model"
    if not robust.target_reached and math.isnan(robust.perturbation):
        # A failure of such an attack tells of no perturbation that it takes at least.
        return f"it reached only {_fixed(100 * robust.fooling_rate, 1)} % on the adversarially trained model"
    for name, record in (("plain", plain), ("adversarially trained", robust)):
        if not (math.isfinite(record.perturbation) and record.perturbation > 0):
            return f"its perturbation of the {name} model is zero or undefined"
    return None


def _ratio_cell(plain: AttackRecord | None, robust: AttackRecord) -> Cell:
    if plain is None or _no_ratio_because(plain, robust) is not None:
        return Cell(ABSENT)
    ratio = _clean(robust.perturbation / plain.perturbation)
    at_least = not robust.target_reached
    return Cell(f"{'≥ ' if at_least else ''}{_fixed(ratio, 2)}", ratio, at_least=at_least)


def _fixed(value: float, digits: int) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _percent(value: float) -> str:
    return _fixed(value, 1)


def _significant(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _number(value: float, form: Callable[[float], str]) -> Cell:
    value = _clean(value)
    return Cell(form(value), value) if math.isfinite(value) else Cell(ABSENT)


def _clean(value: float) -> float:
    """Drop the noise of floating-point sums, so that every format rounds the same number the same way."""
    return float(f"{value:.10g}")
