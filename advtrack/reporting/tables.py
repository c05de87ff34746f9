"""Tables I, II and III: from records to cells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from advtrack.reporting.cells import ABSENT, Cell, Column, Table
from advtrack.reporting.estimates import (
    accuracy,
    folds_by_number,
    fooled_under_plain,
    mean_ratio,
    no_ratio_because,
    over_struck,
    over_tests,
)
from advtrack.reporting.numbers import bracket, clean, fixed, scaled
from advtrack.reporting.pairs import Victims
from advtrack.reporting.paper import CAPTION, HEADING, paper_cell
from advtrack.reporting.records import AttackRecord, FoldRecord, VictimRecord

_BRACKETS = "[...]: 95% interval, bootstrap over recordings"


def table_one(victims: Victims, rows: Sequence[tuple[str, str]], models: Sequence[str]) -> Table:
    """Table I: test accuracy, and what adversarial training costs of it.

    Parameters
    ----------
    victims : Victims
        One per data set, representation, model and training.
    rows : sequence of (dataset, representation)
        Rows, as they shall appear.
    models : sequence of str
        Columns, as they shall appear.

    Returns
    -------
    Table
        Values in percent. ``details`` hold ``folds`` and ``spread`` (of several repeats also ``repeats`` and
        ``repeat spread``), and of the drop ``drop``, ``drop low``, ``drop high`` and ``drop folds``.
    """

    def cell(dataset: str, representation: str, model: str) -> Cell:
        plain, robust = victims.pair(dataset, representation, model)
        if plain is None or not plain.folds:
            return Cell(ABSENT, missing=victims.to_train(dataset, representation, model))
        ours = folds_by_number(plain)
        mean = clean(100 * statistics.fmean(fold.accuracy for fold in ours.values()))
        bootstrap = over_tests(*ours.values())
        interval = scaled(bootstrap.interval(accuracy(ours.values(), bootstrap)), 100) if bootstrap else None
        details = _spreads(ours)
        text = fixed(mean, 1) + bracket(interval, 1)
        if "spread" in details:
            text += f" ± {fixed(details['spread'], 1)}"
        text += f" ({len(ours)})"
        if "repeat spread" in details:
            text += f", repeats ± {fixed(details['repeat spread'], 1)} ({details['repeats']:.0f})"
        # Only folds trained both ways: otherwise the drop would mix the training with the difficulty of the folds.
        theirs = folds_by_number(robust) if robust else {}
        both = sorted(ours.keys() & theirs.keys())
        if robust is None or not both:
            missing = (victims.command(dataset, representation, model, "adversarial", ()),)
            return Cell(f"{text}; drop {ABSENT}", mean, interval, missing, runs=(plain.run_id,), details=details)
        pairs = [(ours[number], theirs[number]) for number in both]
        drop = clean(100 * statistics.fmean(before.accuracy - after.accuracy for before, after in pairs))
        spread = _drop_interval(pairs)
        details |= {"drop": drop, "drop folds": len(both)}
        details |= {"drop low": spread[0], "drop high": spread[1]} if spread else {}
        return Cell(
            f"{text}; drop {fixed(drop, 1)}{bracket(spread, 1)} ({len(both)})",
            mean,
            interval,
            runs=(plain.run_id, robust.run_id),
            details=details,
            notes=_trained_unlike(plain, robust),
        )

    return _table(
        "table_I",
        "Table I: accuracy and its drop after adversarial training",
        f"Mean test accuracy of the plain model in % {_BRACKETS}; ± standard deviation over folds (number of folds), "
        "and over repeats where there are several; then the mean drop after adversarial training in percentage points, "
        "clip by clip (number of folds trained both ways). Bold: highest accuracy of the row.",
        rows,
        models,
        lambda place: _mark_best([cell(*place, model) for model in models], max, 1),
    )


def table_two(victims: Victims, rows: Sequence[tuple[str, str]], models: Sequence[str]) -> Table:
    """Table II: how often the plain model's budgets still fool the adversarially trained one.

    Parameters
    ----------
    victims, rows, models
        As for `table_one`.

    Returns
    -------
    Table
        Values in percent; ``details`` hold the rate of each attack.
    """

    def cell(dataset: str, representation: str, model: str) -> Cell:
        plain, robust = victims.attacked_pair(dataset, representation, model)
        counted: dict[str, AttackRecord] = {}
        unfinished, notes = [], []
        for attack in victims.attacks:
            record = robust.attacks.get(attack) if robust else None
            source = plain.attacks.get(attack) if plain else None
            if record is None or record.transferred_fooling_rate is None or source is None:
                unfinished.append(attack)
            elif record.plain_run_id != source.run_id:
                unfinished.append(attack)
                notes.append(f"{attack} is left out, the plain model's budget has changed since")
            else:
                counted[attack] = record
                if not source.target_reached:
                    reached = fixed(100 * source.fooling_rate, 1)
                    notes.append(f"{attack} fooled the plain model itself on only {reached} % at this budget")
        missing = victims.to_compare(unfinished, dataset, representation, model)
        if plain is None or robust is None or not counted:
            return Cell(ABSENT, missing=missing, notes=tuple(notes))
        rates = {attack: clean(100 * (record.transferred_fooling_rate or 0)) for attack, record in counted.items()}
        mean = clean(statistics.fmean(rates.values()))
        told = all(record.clips is not None and record.clips.under_plain for record in counted.values())
        bootstrap = over_struck(*counted.values()) if told else None
        interval = None
        if bootstrap:
            interval = scaled(bootstrap.interval(fooled_under_plain(counted.values(), bootstrap)), 100)
        return Cell(
            f"{fixed(mean, 1)}{bracket(interval, 1)} ({len(rates)}/{len(victims.attacks)})",
            mean,
            interval,
            missing,
            attacks=tuple(rates),
            runs=_runs(*((plain.attacks[attack], record) for attack, record in counted.items())),
            details=rates,
            notes=(*notes, *_trained_unlike(plain, robust)),
        )

    return _table(
        "table_II",
        "Table II: fooling rate of the adversarially trained model under the plain model's budgets",
        f"Mean over attacks in % {_BRACKETS} (attacks in the mean / attacks in all). Bold: lowest of the row, among "
        "cells that average over the same attacks.",
        rows,
        models,
        lambda place: _mark_best([cell(*place, model) for model in models], min, 1),
    )


def table_three(victims: Victims, rows: Sequence[tuple[str, str]], models: Sequence[str]) -> Table:
    """Table III: how much more perturbation the adversarially trained model takes (Eq. 14).

    Parameters
    ----------
    victims, rows, models
        As for `table_one`.

    Returns
    -------
    Table
        Ratios; ``details`` hold the ratio of each attack.
    """

    def cell(dataset: str, representation: str, model: str) -> Cell:
        plain, robust = victims.attacked_pair(dataset, representation, model)
        pairs: dict[str, tuple[AttackRecord, AttackRecord]] = {}
        unfinished, notes = [], []
        for attack in victims.attacks:
            below = plain.attacks.get(attack) if plain else None
            above = robust.attacks.get(attack) if robust else None
            if below is None or above is None:
                unfinished.append(attack)
            elif obstacle := no_ratio_because(below, above):
                notes.append(f"{attack} is left out, {obstacle}")
            else:
                pairs[attack] = (below, above)
        missing = victims.to_compare(unfinished, dataset, representation, model)
        if plain is None or robust is None or not pairs:
            return Cell(ABSENT, missing=missing, notes=tuple(notes))
        ratios = {attack: clean(above.perturbation / below.perturbation) for attack, (below, above) in pairs.items()}
        mean = clean(statistics.geometric_mean(ratios.values()))
        interval = ratio_interval(list(pairs.values()))
        at_least = any(not above.target_reached for _, above in pairs.values())
        return Cell(
            f"{'≥ ' if at_least else ''}{fixed(mean, 2)}{bracket(interval, 2)} ({len(ratios)}/{len(victims.attacks)})",
            mean,
            interval,
            missing,
            at_least=at_least,
            attacks=tuple(ratios),
            runs=_runs(*pairs.values()),
            details=ratios,
            notes=(*notes, *_trained_unlike(plain, robust)),
        )

    return _table(
        "table_III",
        "Table III: perturbation ratio, adversarially trained over plain",
        "Mean perturbation at each model's own budget in the attack's own norm, adversarially trained over plain "
        f"(Eq. 14); geometric mean over attacks {_BRACKETS}, the same recordings for both models, whose budgets stay "
        "as found (attacks in the mean / attacks in all). No interval: within the budgets every clip takes the "
        "same, as of BIM-b. ≥: an attack did not reach its target on the adversarially trained model, and its failures "
        "count as the largest perturbation that was allowed them. Left out of the mean: attacks that did not reach "
        "their target on the plain model, those that did not on the other and whose perturbation nothing bounds, and "
        "perturbations that are zero. Bold: highest of the row, among cells that average over the same attacks, unless "
        "a ≥ behind it leaves the order open.",
        rows,
        models,
        lambda place: _mark_best([cell(*place, model) for model in models], max, 2),
    )


def ratio_interval(pairs: Sequence[tuple[AttackRecord, AttackRecord]]) -> tuple[float, float] | None:
    """The interval of a perturbation ratio over some attacks; None where a search tells nothing of its clips."""
    bootstrap = over_struck(*(record for pair in pairs for record in pair))
    return scaled(bootstrap.interval(mean_ratio(pairs, bootstrap))) if bootstrap else None


def _table(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[tuple[str, str]],
    models: Sequence[str],
    line: Callable[[tuple[str, str]], tuple[Cell, ...]],
) -> Table:
    """Put the rows together; the paper's column comes last, if it has any of them."""
    lines = [(*map(Cell, place), *line(place)) for place in rows]
    columns = [Column("Data set", "key"), Column("Representation", "key"), *map(Column, models)]
    papers = [paper_cell(name, *place) for place in rows]
    if any(cell.value is not None for cell in papers):
        lines = [(*cells, paper) for cells, paper in zip(lines, papers, strict=True)]
        columns.append(Column(HEADING, "paper"))
        caption = f"{caption} {CAPTION}"
    return Table(name, title, caption, tuple(columns), tuple(lines))


def _spreads(folds: Mapping[tuple[int, int], FoldRecord]) -> dict[str, float]:
    """How many folds and repeats there are, and how far their accuracies spread, in percentage points."""
    repeats: dict[int, list[float]] = {}
    for (repeat, _), fold in sorted(folds.items()):
        repeats.setdefault(repeat, []).append(100 * fold.accuracy)
    spreads: dict[str, float] = {"folds": len(folds)}
    if len(folds) > 1:
        spreads["spread"] = clean(statistics.stdev(one for values in repeats.values() for one in values))
    if len(repeats) > 1:
        spreads["repeats"] = len(repeats)
        spreads["repeat spread"] = clean(statistics.stdev(map(statistics.fmean, repeats.values())))
    return spreads


def _drop_interval(pairs: Sequence[tuple[FoldRecord, FoldRecord]]) -> tuple[float, float] | None:
    before, after = zip(*pairs, strict=True)
    bootstrap = over_tests(*before, *after)
    if bootstrap is None:
        return None
    return scaled(bootstrap.interval(accuracy(before, bootstrap) - accuracy(after, bootstrap, side=1)), 100)


def _runs(*pairs: tuple[AttackRecord, AttackRecord]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(record.run_id for pair in pairs for record in pair))


def _trained_unlike(plain: VictimRecord, robust: VictimRecord) -> tuple[str, ...]:
    """Say in what else than being adversarial the two trainings differ."""
    return tuple(
        f"the two models were trained with other {name.replace('_', ' ')}: {value} and {robust.settings[name]}"
        for name, value in plain.settings.items()
        if robust.settings[name] != value
    )


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
