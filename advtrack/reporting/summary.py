"""What the tables say, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advtrack.reporting.cells import Cell, Table
from advtrack.reporting.numbers import bracket, fixed, scaled


def summary(one: Table, two: Table, three: Table, data: Mapping[str, str]) -> tuple[str, ...]:
    """Say which model on which representation names clips best and withstands attacks best, and what that costs.

    Parameters
    ----------
    one, two, three : Table
        Tables I, II and III.
    data : mapping of str to str
        How much there was of each data set, in words, as far as it is known.

    Returns
    -------
    tuple of str
        The leaders of each data set, then each model, then how much is missing.
    """
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for table in (one, two, three):
        for line in table.lines:
            for column, cell in zip(table.columns, line, strict=True):
                if column.role == "value":
                    cells.setdefault((line[0].text, line[1].text, column.name), []).append(cell)
    if not any(cell.value is not None for found in cells.values() for cell in found):
        return ("Nothing has been trained yet. The tables name the command that comes next for each cell.",)
    sentences = []
    for dataset in dict.fromkeys(place[0] for place in cells):
        named = f"{dataset} ({data[dataset]})" if dataset in data else dataset
        sentences += _leaders(named, {place[1:]: found for place, found in cells.items() if place[0] == dataset})
    for (dataset, representation, model), found in cells.items():
        if parts := _parts(*found):
            sentences.append(f"{model} on {representation} of {dataset}: {'; '.join(parts)}.")
    waiting = sum(bool(cell.missing) for found in cells.values() for cell in found)
    if waiting:
        total = sum(map(len, cells.values()))
        sentences.append(f"{waiting} of {total} cells are empty or incomplete; the tables name the commands for them.")
    return tuple(sentences)


def _leaders(dataset: str, cells: dict[tuple[str, str], list[Cell]]) -> list[str]:
    """The most accurate plain model of a data set, and the one that adversarial training protects best."""
    leaders = []
    accuracies = {place: found[0] for place, found in cells.items() if found[0].value is not None}
    if accuracies:
        place = max(accuracies, key=lambda place: accuracies[place].value or 0)
        leaders.append(
            f"On {dataset}, the most accurate plain model is {place[1]} on {place[0]}: "
            f"{_percentage(accuracies[place])} of the test clips are named correctly."
        )
    fullest = max((len(found[1].attacks) for found in cells.values()), default=0)
    rates = {p: found[1] for p, found in cells.items() if found[1].value is not None}
    rates = {place: cell for place, cell in rates.items() if len(cell.attacks) == fullest}
    if len(rates) > 1:
        place = min(rates, key=lambda place: rates[place].value or 0)
        leaders.append(
            f"On {dataset}, adversarial training protects {place[1]} on {place[0]} best: budgets made for the plain "
            f"model fool it on {_percentage(rates[place])} of the clips."
        )
    return leaders


def _parts(accuracy: Cell, fooled: Cell, ratio: Cell) -> list[str]:
    """Say what one model achieves, what its robustness costs and what that buys."""
    parts = []
    if accuracy.value is not None:
        part = f"{_percentage(accuracy)} of the test clips are named correctly"
        drop = accuracy.details.get("drop")
        if drop is not None:
            part += f", and adversarial training {'costs' if drop >= 0 else 'adds'} {fixed(abs(drop), 1)}"
            part += " percentage points"
        parts.append(part)
    if fooled.value is not None:
        parts.append(
            f"budgets made for the plain model fool the adversarially trained one on {_percentage(fooled)} of the "
            f"clips ({_count(fooled.attacks)})"
        )
    if ratio.value is not None:
        parts.append(
            f"fooling it as often as the plain one takes {'at least ' if ratio.at_least else ''}"
            f"{fixed(ratio.value, 2)}{bracket(ratio.interval, 2)} times the perturbation ({_count(ratio.attacks)})"
        )
    return parts


def _percentage(cell: Cell) -> str:
    return f"{fixed(cell.value or 0, 1)}{bracket(scaled(cell.interval), 1)} %"


def _count(attacks: Sequence[str]) -> str:
    return f"mean over {len(attacks)} attacks" if len(attacks) > 1 else f"{attacks[0]} only"
