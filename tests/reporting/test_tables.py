"""Tables I to III against values worked out by hand."""

import csv
import io
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from advtrack.reporting.cells import ABSENT, Cell, Table
from advtrack.reporting.formats import to_csv, to_markdown
from advtrack.reporting.pairs import Victims
from advtrack.reporting.records import AttackRecord, FoldRecord, Training, VictimRecord
from advtrack.reporting.tables import table_one, table_three, table_two
from advtrack.reporting.victim_tables import budgets_table

ROWS = [("esc10", "stft"), ("esc10", "dwt")]
MODELS = ["alexnet", "resnet18"]
ATTACKS = ["bim_a", "jsma"]


def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
    return " ".join(["fill", dataset, representation, model, training, *attacks])


def attack(name: str, perturbation: float, transferred: float | None = None, **changes: Any) -> AttackRecord:
    record = AttackRecord(
        attack=name,
        norm="l0" if name == "jsma" else "linf",
        target_reached=True,
        target_fooling_rate=0.9,
        fooling_rate=0.925,
        bound=0.0125,
        missed_at=0.012,
        iterations=40,
        settings={},
        perturbation=perturbation,
        l0=2048.4,
        l2=0.25,
        linf=0.01,
        samples=80,
        seed=0,
        sample_limit=0,
        longest=100,
        transferred_fooling_rate=transferred,
        plain_run_id=f"run-{name}",
        run_id=f"run-{name}",
        passes=6400,
    )
    return replace(record, **changes)


def victim(
    representation: str, model: str, training: Training, folds: dict[int, float], *attacks: AttackRecord
) -> VictimRecord:
    return VictimRecord(
        dataset="esc10",
        representation=representation,
        model=model,
        training=training,
        folds=tuple(FoldRecord(k, 0, f"run-{k}", accuracy) for k, accuracy in folds.items()),
        fold=0,
        version="1",
        run_id=f"run-{representation}-{model}-{training}",
        settings=dict.fromkeys(("seed", "epochs"), "0"),
        attacks={record.attack: record for record in attacks},
    )


RECORDS = [
    victim("stft", "alexnet", "plain", {0: 0.70, 1: 0.80, 2: 0.90}, attack("bim_a", 0.01), attack("jsma", 100)),
    victim("stft", "alexnet", "adversarial", {0: 0.65, 1: 0.77}, attack("bim_a", 0.02, 0.4), attack("jsma", 800, 0.5)),
    victim("stft", "resnet18", "plain", {0: 0.85}, attack("bim_a", 0.01), attack("jsma", 100)),
    victim("stft", "resnet18", "adversarial", {0: 0.86}, attack("bim_a", 0.03, 0.5), attack("jsma", 300, 0.525)),
    victim("dwt", "alexnet", "plain", {0: 0.75, 1: 0.85}, attack("bim_a", 0.01)),
    victim("dwt", "alexnet", "adversarial", {0: 0.75, 1: 0.80}, attack("bim_a", 0.025, 0.3)),
]


def tables(records: list[VictimRecord]) -> list[Table]:
    return [make(Victims(records, ATTACKS, command), ROWS, MODELS) for make in (table_one, table_two, table_three)]


def cells(table: Table) -> list[list[Cell]]:
    return [list(line[table.keys :]) for line in table.lines]


def texts(table: Table) -> list[list[str]]:
    return [[f"*{cell.text}*" if cell.best else cell.text for cell in row] for row in cells(table)]


def with_attack(records: list[VictimRecord], index: int, record: AttackRecord) -> list[VictimRecord]:
    """Return the records with one attack of one victim replaced."""
    changed = replace(records[index], attacks=records[index].attacks | {record.attack: record})
    return [*records[:index], changed, *records[index + 1 :]]


def test_table_one_by_hand() -> None:
    # Drops over common folds: (5 + 3) / 2 = 4 and 85 - 86 = -1; spread of 70, 80, 90 is 10, of 75, 85 is 7.07.
    assert texts(tables(RECORDS)[0]) == [
        ["80.0 ± 10.0 (3); drop 4.0 (2)", "*85.0 (1); drop -1.0 (1)*"],
        ["80.0 ± 7.1 (2); drop 2.5 (2)", ABSENT],
    ]


def test_table_two_by_hand() -> None:
    assert texts(tables(RECORDS)[1]) == [
        ["*45.0 (2/2)*", "51.2 (2/2)"],
        ["30.0 (1/2)", ABSENT],
    ]


def test_table_three_by_hand() -> None:
    # Geometric means: sqrt(2 * 8) = 4 and sqrt(3 * 3) = 3.
    assert texts(tables(RECORDS)[2]) == [
        ["*4.00 (2/2)*", "3.00 (2/2)"],
        ["2.50 (1/2)", ABSENT],
    ]


def test_order_of_records_changes_nothing() -> None:
    expected = [to_csv(table) for table in tables(RECORDS)], to_markdown(budgets_table(RECORDS))
    for order in itertools.islice(itertools.permutations(RECORDS), 0, None, 37):
        shuffled = list(order)
        assert ([to_csv(table) for table in tables(shuffled)], to_markdown(budgets_table(shuffled))) == expected


def test_two_records_of_one_victim_are_refused() -> None:
    with pytest.raises(ValueError, match="two records for esc10, stft, alexnet, plain"):
        tables([*RECORDS, RECORDS[0]])


def test_missing_cells_name_all_that_fills_them_in_order() -> None:
    train, attack_it = "fill esc10 dwt resnet18 plain", "fill esc10 dwt resnet18 plain bim_a jsma"
    harden, attack_that = "fill esc10 dwt resnet18 adversarial", "fill esc10 dwt resnet18 adversarial bim_a jsma"
    one, two, three = (cells(table)[1] for table in tables(RECORDS))
    assert [cell.missing for cell in one] == [(), (train, harden)]
    # JSMA has to find the plain model's budget before it can be tried on the robust one.
    jsma = ("fill esc10 dwt alexnet plain jsma", "fill esc10 dwt alexnet adversarial jsma")
    assert [cell.missing for cell in two] == [jsma, (train, harden, attack_it, attack_that)]
    assert [cell.missing for cell in three] == [cell.missing for cell in two]
    assert tables(RECORDS)[1].commands() == {jsma[0]: ("esc10, dwt, alexnet",), train: ("esc10, dwt, resnet18",)}

    trained = [*RECORDS, victim("dwt", "resnet18", "plain", {0: 0.8}, attack("bim_a", 0.01), attack("jsma", 90))]
    missing = [cells(table)[1][1].missing for table in tables(trained)]
    assert missing == [(harden,), (harden, attack_that), (harden, attack_that)]

    robust = [*trained, victim("dwt", "resnet18", "adversarial", {0: 0.7}, attack("bim_a", 0.02, 0.4))]
    left = ("fill esc10 dwt resnet18 adversarial jsma",)
    assert [cells(table)[1][1].missing for table in tables(robust)] == [(), left, left]


def test_drop_needs_a_fold_in_common() -> None:
    other = replace(RECORDS[3], folds=(FoldRecord(4, 0, "run", 0.8),))
    cell = cells(tables([*RECORDS[:3], other, *RECORDS[4:]])[0])[0][1]
    assert cell.text == "85.0 (1); drop —"
    assert cell.missing == ("fill esc10 stft resnet18 adversarial",)
    assert cell.best


def test_no_best_where_there_is_no_rival_or_no_common_ground() -> None:
    for table in tables(RECORDS):
        assert not any(cell.best for cell in cells(table)[1])
    one_attack_less = replace(RECORDS[3], attacks={"bim_a": RECORDS[3].attacks["bim_a"]})
    table = tables([*RECORDS[:3], one_attack_less, *RECORDS[4:]])[1]
    assert not any(cell.best for cell in cells(table)[0])


def test_ties_as_printed_are_all_best() -> None:
    records = [replace(RECORDS[0], folds=(FoldRecord(0, 0, "run", 0.84996),)), *RECORDS[1:]]
    assert [cell.best for cell in cells(tables(records)[0])[0]] == [True, True]


def test_unreached_on_the_robust_victim_is_a_lower_bound() -> None:
    records = with_attack(RECORDS, 1, attack("jsma", 800, 0.5, target_reached=False, fooling_rate=0.6))
    table = tables(records)[2]
    assert texts(table)[0] == ["*≥ 4.00 (2/2)*", "3.00 (2/2)"]
    assert cells(table)[0][0].at_least
    behind = with_attack(RECORDS, 3, attack("jsma", 300, 0.5, target_reached=False, fooling_rate=0.6))
    # At least 3 may be more than 4: the order is open.
    assert texts(tables(behind)[2])[0] == ["4.00 (2/2)", "≥ 3.00 (2/2)"]


def test_unreached_on_the_plain_victim_is_left_out_and_named() -> None:
    records = with_attack(RECORDS, 0, attack("jsma", 100, target_reached=False, fooling_rate=0.3))
    _, two, three = tables(records)
    assert cells(three)[0][0].text == "2.00 (1/2)"
    assert cells(three)[0][0].missing == ()
    assert "esc10, stft, alexnet: jsma is left out, it reached only 30.0 % on the plain model." in three.remarks()
    assert cells(two)[0][0].notes == ("jsma fooled the plain model itself on only 30.0 % at this budget",)


@pytest.mark.parametrize("perturbation", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("index", [0, 1])
def test_undefined_perturbations_are_left_out_and_named(index: int, perturbation: float) -> None:
    cell = cells(tables(with_attack(RECORDS, index, attack("bim_a", perturbation, 0.4)))[2])[0][0]
    assert cell.text == "8.00 (1/2)"
    assert cell.attacks == ("jsma",)
    assert "zero or undefined" in cell.notes[0]


@pytest.mark.parametrize(
    "change", [{"norm": "l2"}, {"target_fooling_rate": 0.5}, {"seed": 1}, {"sample_limit": 7}, {"longest": 50}]
)
def test_searches_that_do_not_belong_together_are_left_out(change: dict[str, Any]) -> None:
    cell = cells(tables(with_attack(RECORDS, 1, attack("bim_a", 0.02, 0.4, **change)))[2])[0][0]
    assert cell.attacks == ("jsma",)
    assert "differ" in cell.notes[0]


def test_a_robust_victim_of_another_fold_makes_no_pair() -> None:
    records = [RECORDS[0], replace(RECORDS[1], fold=3)]
    for table in tables(records)[1:]:
        cell = cells(table)[0][0]
        assert cell.value is None and cell.missing[0] == "fill esc10 stft alexnet adversarial"


def test_trainings_that_differ_otherwise_are_noted() -> None:
    records = [RECORDS[0], replace(RECORDS[1], settings={"seed": "0", "epochs": "60"})]
    for table in tables(records):
        assert "the two models were trained with other epochs: 0 and 60" in cells(table)[0][0].notes


def test_a_rate_under_a_budget_that_has_changed_since_is_left_out() -> None:
    stale = attack("bim_a", 0.02, 0.4, plain_run_id="an earlier run")
    cell = cells(tables(with_attack(RECORDS, 1, stale))[1])[0][0]
    assert cell.text == "50.0 (1/2)" and cell.missing == ("fill esc10 stft alexnet adversarial bim_a",)
    assert "changed since" in cell.notes[0]


def test_an_unreached_perturbation_that_nothing_bounds_is_left_out_and_named() -> None:
    unreached = attack("bim_a", math.nan, 0.4, target_reached=False, fooling_rate=0.5)
    cell = cells(tables(with_attack(RECORDS, 1, unreached))[2])[0][0]
    assert (cell.text, cell.at_least) == ("8.00 (1/2)", False)
    assert cell.notes == ("bim_a is left out, it reached only 50.0 % on the adversarially trained model",)


def test_a_mean_is_clean_of_floating_point_noise() -> None:
    # In floating point the mean is 63.74999999999999: printed as it is, 63.7; read back from ten digits, 63.8.
    records = [victim("stft", "alexnet", "plain", {0: 0.6375, 1: 0.6375})]
    cell = cells(tables(records)[0])[0][0]
    assert cell.value == 63.75 and cell.text.startswith("63.8 ")

    cell = cells(tables(records)[0])[0][0]
    sheet = budgets_table(RECORDS)
    assert [line[2].text + " " + line[3].text + " " + line[4].text for line in sheet.lines[2:6]] == [
        "alexnet plain bim_a",
        "alexnet plain jsma",
        "alexnet adversarial bim_a",
        "alexnet adversarial jsma",
    ]
    line = dict(zip((c.name for c in sheet.columns), sheet.lines[5], strict=True))
    assert {name: cell.text for name, cell in line.items()} == {
        "Data set": "esc10",
        "Representation": "stft",
        "Model": "alexnet",
        "Training": "adversarial",
        "Attack": "jsma",
        "Norm": "l0",
        "Bound": "0.0125",
        "Missed at": "0.012",
        "Iterations": "40",
        "Fooling rate %": "92.5",
        "Target reached": "yes",
        "At plain budget %": "50.0",
        "Ratio to plain": "8.00",
        "Mean l0": "2048",
        "Mean l2": "0.25",
        "Mean linf": "0.01",
        "Clips": "80",
        "Passes": "6400",
    }
    read = list(csv.DictReader(io.StringIO(to_csv(sheet))))[5]
    assert (read["Mean l0"], read["Ratio to plain"], read["Target reached"]) == ("2048.4", "8", "yes")


def test_per_attack_table_where_nothing_was_fooled() -> None:
    nothing = attack("bim_a", math.nan, target_reached=False, fooling_rate=0.0, l0=math.nan, l2=math.nan, linf=math.nan)
    sheet = budgets_table([victim("stft", "alexnet", "plain", {0: 0.7}, nothing)])
    line = dict(zip((c.name for c in sheet.columns), sheet.lines[0], strict=True))
    assert [line[name].text for name in ("Mean l0", "Mean l2", "Mean linf", "Fooling rate %", "Target reached")] == [
        ABSENT,
        ABSENT,
        ABSENT,
        "0.0",
        "no",
    ]
    assert "nan" not in to_csv(sheet)


def test_nothing_at_all() -> None:
    for table in tables([]):
        assert {cell.text for row in cells(table) for cell in row} == {ABSENT}
        assert to_markdown(table)
    assert to_markdown(budgets_table([]))
