"""The paper's claims, held against what was found here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from advtrack.intervals import CONFIDENCE
from advtrack.reporting.cells import Cell, Table
from advtrack.reporting.estimates import accuracy, fooled_under_plain
from advtrack.reporting.numbers import bracket, clean, fixed, scaled
from advtrack.reporting.records import AttackRecord, Training, VictimRecord
from advtrack.reporting.statistics import Bootstrap

Verdict = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    """What the paper says, and whether it is so here.

    Attributes
    ----------
    name : str
        Short and unique, in letters, digits and underscores.
    statement : str
        The claim, in a sentence.
    source : str
        Where the paper makes it.
    dataset : str
        The data set it was held against.
    verdict : {'holds', 'fails', 'undecided'}
        Undecided: the intervals leave it open, or runs are missing.
    because : str
        The numbers that decide it, or what is missing, in a sentence.
    runs : tuple of str
        MLflow runs it was judged by.
    """

    name: str
    statement: str
    source: str
    dataset: str
    verdict: Verdict
    because: str
    runs: tuple[str, ...] = ()


def judge(
    dataset: str,
    records: Sequence[VictimRecord],
    representations: Sequence[str],
    models: Sequence[str],
    attacks: Sequence[str],
    tables: Mapping[str, Table],
) -> tuple[Claim, ...]:
    """Hold the paper's claims against the results on one data set.

    A claim is judged among the representations and models of the tables. It holds if all the 95% intervals it rests on
    say so, and fails if one of them says the opposite; of a best one they are those of its differences to each of the
    others, made wider for their number (Bonferroni). What was not run leaves a claim undecided, unless what was run
    refutes it.

    Parameters
    ----------
    dataset : str
        The data set.
    records : sequence of VictimRecord
        Victims that belong together.
    representations, models, attacks : sequence of str
        What the tables are about.
    tables : mapping of str to Table
        Tables I and III by name.
    """
    victims = {(r.representation, r.model, r.training): r for r in records if r.dataset == dataset}
    places = list(product(representations, models))
    return (
        _best_representation(dataset, victims, representations, models),
        _every_cell(
            "accuracy_drops",
            "Adversarial training lowers the accuracy of every model.",
            "section VIII, table I",
            dataset,
            places,
            _cells(tables["table_I"], dataset),
            _drop,
            0.0,
            "drop in percentage points",
        ),
        _gains_most(dataset, victims, representations, models, attacks),
        _still_reached(dataset, victims, places, attacks),
        _every_cell(
            "ratio_above_one",
            "Every adversarially trained model takes more perturbation than the plain one (ratio above 1).",
            "section VIII, table III",
            dataset,
            places,
            _cells(tables["table_III"], dataset),
            lambda cell: None if cell.value is None else (cell.value, cell.interval, cell.at_least),
            1.0,
            "ratio",
        ),
    )


def _best_representation(
    dataset: str,
    victims: Mapping[tuple[str, str, Training], VictimRecord],
    representations: Sequence[str],
    models: Sequence[str],
) -> Claim:
    about = (
        "dwt_tonnetz_best",
        "Models are most accurate on the scalogram with tonnetz (dwt_tonnetz).",
        "abstract; section VIII, table I",
        dataset,
    )
    trained = [m for m in models if all((r, m, "plain") in victims for r in representations)]
    groups = {r: [victims[r, m, "plain"] for m in trained] for r in representations}
    told = [fold for group in groups.values() for victim in group for fold in victim.folds]
    if not told or not all(fold.recordings for fold in told):
        return Claim(*about, "undecided", "No model was trained on all representations.")
    bootstrap = Bootstrap(recording for fold in told for recording in fold.recordings)
    statistics = {
        name: np.mean([accuracy(victim.folds, bootstrap, side=side) for victim in groups[name]], axis=0)
        for side, name in enumerate(sorted(groups))
    }
    runs = tuple(victim.run_id for group in groups.values() for victim in group)
    over = f"mean accuracy over {_listed(trained)}" + ("" if len(trained) == len(models) else ", all that were trained")
    return _champion(about, "dwt_tonnetz", statistics, bootstrap, over, runs, len(trained) == len(models), higher=True)


def _gains_most(
    dataset: str,
    victims: Mapping[tuple[str, str, Training], VictimRecord],
    representations: Sequence[str],
    models: Sequence[str],
    attacks: Sequence[str],
) -> Claim:
    about = (
        "alexnet_gains_most",
        "Adversarial training protects AlexNet most: the plain models' budgets fool it least often.",
        "section VIII, table II",
        dataset,
    )
    found: dict[str, list[AttackRecord]] = {}
    for model in models:
        robust = [victims.get((r, model, "adversarial")) for r in representations]
        searched = [victim.attacks.get(name) for victim in robust if victim for name in attacks]
        whole = [one for one in searched if one and one.clips and one.clips.under_plain]
        if len(whole) == len(representations) * len(attacks):
            found[model] = whole
    if not found:
        return Claim(*about, "undecided", "No model was attacked with all attacks on all representations.")
    bootstrap = Bootstrap(
        r for searches in found.values() for one in searches if one.clips for r in one.clips.recordings
    )
    statistics = {
        model: fooled_under_plain(found[model], bootstrap, side=side) for side, model in enumerate(sorted(found))
    }
    runs = tuple(dict.fromkeys(one.run_id for searches in found.values() for one in searches))
    over = f"mean fooling rate over {_listed(representations)} and {len(attacks)} attacks"
    return _champion(about, "alexnet", statistics, bootstrap, over, runs, len(found) == len(models), higher=False)


def _champion(
    about: tuple[str, str, str, str],
    name: str,
    statistics: Mapping[str, np.ndarray],
    bootstrap: Bootstrap,
    over: str,
    runs: tuple[str, ...],
    whole: bool,
    *,
    higher: bool,
) -> Claim:
    """Judge whether one is better than all others by the intervals of its paired differences to each."""
    shown = "; ".join(f"{one} {fixed(100 * statistic[0], 1)} %" for one, statistic in statistics.items())
    rivals = [one for one in statistics if one != name]
    if name not in statistics or not rivals:
        lacking = name if name not in statistics else "a rival"
        return Claim(*about, "undecided", f"Runs of {lacking} are missing ({over}: {shown}).", runs)
    sign = 1 if higher else -1
    confidence = 1 - (1 - CONFIDENCE) / len(rivals)
    leads = {one: sign * (statistics[name] - statistics[one]) for one in rivals}
    intervals = {one: bootstrap.interval(lead, confidence=confidence) for one, lead in leads.items()}
    closest = min(rivals, key=lambda one: leads[one][0])
    verdict = _verdict(intervals.values(), 0.0, whole)
    lead, interval = clean(100 * leads[closest][0]), scaled(intervals[closest], 100)
    where = "ahead of"
    if lead < 0:
        lead, interval, where = -lead, interval and (-interval[1], -interval[0]), "behind"
    because = (
        f"{over[0].upper()}{over[1:]}: {shown}. {name} is {where} {closest} by "
        f"{fixed(lead, 1)}{bracket(interval, 1)} percentage points."
    )
    return Claim(*about, verdict, because, runs)


def _every_cell(
    name: str,
    statement: str,
    source: str,
    dataset: str,
    places: Sequence[tuple[str, str]],
    cells: Mapping[tuple[str, str], Cell],
    measured: Callable[[Cell], tuple[float, tuple[float, float] | None, bool] | None],
    above: float,
    unit: str,
) -> Claim:
    """Judge whether a quantity lies above a value in every cell."""
    about = (name, statement, source, dataset)
    found = {place: told for place in places if place in cells and (told := measured(cells[place])) is not None}
    if not found:
        return Claim(*about, "undecided", "Nothing of it was run.")
    # A lower bound says nothing of how low the quantity may not be from above.
    intervals = [
        interval and (interval[0], np.inf if at_least else interval[1]) for _, interval, at_least in found.values()
    ]
    verdict = _verdict(intervals, above, len(found) == len(places))
    place = min(found, key=lambda place: found[place][0])
    value, interval, at_least = found[place]
    because = (
        f"{len(found)} of {len(places)} cells were run; lowest {unit}: {'at least ' if at_least else ''}"
        f"{fixed(value, 2)}{bracket(interval, 2)} ({place[1]} on {place[0]})."
    )
    return Claim(*about, verdict, because, tuple(dict.fromkeys(run for place in found for run in cells[place].runs)))


def _still_reached(
    dataset: str,
    victims: Mapping[tuple[str, str, Training], VictimRecord],
    places: Sequence[tuple[str, str]],
    attacks: Sequence[str],
) -> Claim:
    about = (
        "still_reached",
        "However large the perturbation may be, every attack fools every adversarially trained model on 90 % of the "
        "clips.",
        "abstract; section VIII",
        dataset,
    )
    robust = [victims[(*place, "adversarial")] for place in places if (*place, "adversarial") in victims]
    searched = [(victim, one) for victim in robust for one in victim.attacks.values() if one.target_fooling_rate >= 0.9]
    if not searched:
        return Claim(*about, "undecided", "No adversarially trained model was attacked.")
    missed = [(victim, one) for victim, one in searched if not one.target_reached]
    whole = len(searched) == len(places) * len(attacks)
    verdict: Verdict = "holds" if whole and not missed else "undecided"
    # More iterations than a search was allowed might reach it.
    if any(one.fooling_high < 0.9 and not one.capped for _, one in missed):
        verdict = "fails"
    because = f"{len(searched) - len(missed)} of {len(searched)} searches reach it"
    because += "" if whole else f", and {len(places) * len(attacks) - len(searched)} were not run"
    if missed:
        victim, worst = min(missed, key=lambda pair: (pair[1].fooling_rate, pair[0].cell, pair[1].attack))
        interval = scaled((worst.fooling_low, worst.fooling_high), 100)
        because += (
            f"; lowest: {worst.attack} on {victim.model}, {victim.representation} with "
            f"{fixed(100 * worst.fooling_rate, 1)}{bracket(interval, 1)} % within {worst.longest} iterations"
            f"{', fewer than the attack may have' if worst.capped else ''}"
        )
    return Claim(*about, verdict, because + ".", tuple(dict.fromkeys(one.run_id for _, one in searched)))


def _verdict(intervals: Iterable[tuple[float, float] | None], above: float, whole: bool) -> Verdict:
    """Whether all intervals lie above a value, or one below it."""
    known = list(intervals)
    if any(interval and interval[1] < above for interval in known):
        return "fails"
    if whole and all(interval and interval[0] > above for interval in known):
        return "holds"
    return "undecided"


def _drop(cell: Cell) -> tuple[float, tuple[float, float] | None, bool] | None:
    if "drop" not in cell.details:
        return None
    told = "drop low" in cell.details
    interval = (cell.details["drop low"], cell.details["drop high"]) if told else None
    return cell.details["drop"], interval, False


def _cells(table: Table, dataset: str) -> dict[tuple[str, str], Cell]:
    """The cells of a data set by representation and model."""
    return {
        (line[1].text, column.name): cell
        for line in table.lines
        if line[0].text == dataset
        for column, cell in zip(table.columns, line, strict=True)
        if column.role == "value"
    }


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
