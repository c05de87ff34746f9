"""All tables of the fixed records against golden files; what belongs together; the paper's claims; the summary."""

from __future__ import annotations

import itertools
import locale
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from advtrack.reporting.belonging import belonging
from advtrack.reporting.formats import to_csv, to_markdown
from advtrack.reporting.victim_tables import EPS_255

GOLDEN = Path(__file__).parent / "golden"
TABLES = ("table_I", "table_II", "table_III", "robust_accuracy", "ranking", "masking", "budgets")


def everything(findings):
    tables = "\n".join(to_markdown(table) + to_csv(table) for table in findings.tables)
    return tables, findings.claims, findings.summary, findings.left_out


def changed(records, index, **changes):
    return [*records[:index], replace(records[index], **changes), *records[index + 1 :]]


def claims(findings):
    return {claim.name: claim for claim in findings.claims}


def cell(findings, table, row, column):
    shown = findings.table(table)
    names = [one.name for one in shown.columns]
    (line,) = [line for line in shown.lines if [one.text for one in line[: len(row)]] == list(row)]
    return line[names.index(column)]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_golden_ones(found, name):
    """To make them anew, delete the folder, run this twice, and read what has changed."""
    golden = GOLDEN / f"{name}.md"
    text = to_markdown(found().table(name))
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
        pytest.fail(f"{golden} was made anew")
    assert text == golden.read_text(encoding="utf-8")


def test_the_tables_are_all_there_are(found):
    assert tuple(table.name for table in found().tables) == TABLES


def test_order_of_runs_changes_nothing(found, records):
    expected = everything(found())
    for order in itertools.islice(itertools.permutations(records), 1, None, 1500):
        assert everything(found(order)) == expected


def test_time_zone_and_locale_change_nothing(found, monkeypatch):
    expected = everything(found())
    before = locale.setlocale(locale.LC_ALL)
    try:
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        # A locale with a comma for a point, where one is installed.
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C"):
            with suppress(locale.Error):
                locale.setlocale(locale.LC_ALL, name)
            assert everything(found()) == expected
    finally:
        locale.setlocale(locale.LC_ALL, before)
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["data digest", "image size", "protocol", "seed", "training code"])
def test_a_victim_of_another_basis_is_named_and_left_out(found, records, name):
    other = changed(records, 2, basis={**records[2].basis, name: "other"})
    findings = found(other)
    (sentence,) = findings.left_out
    assert "the plain resnet56 on esc50, stft (run train-stft-resnet56-plain) is left out" in sentence
    assert f"its {name} is other, that of most others {records[2].basis[name]}" in sentence
    assert cell(findings, "table_I", ("esc50", "stft"), "resnet56").value is None
    without = found([*records[:2], *records[3:]])
    values = [[line[2].value for line in f.table("table_I").lines] for f in (findings, without)]
    assert values[0] == values[1]
    assert any(sentence in remark for remark in findings.table("table_I").remarks())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"code_version": 8}, "code version"),
        ({"protocol": "paper"}, "protocol"),
        ({"seed": 4}, "seed"),
        ({"sample_limit": 5}, "number of clips (0: all)"),
        ({"longest": 50}, "cap on iterations"),
    ],
)
def test_a_search_of_another_kind_is_named_and_left_out(found, records, change, named):
    attacks = records[1].attacks | {"bim_a": replace(records[1].attacks["bim_a"], **change)}
    findings = found(changed(records, 1, attacks=attacks))
    (sentence,) = findings.left_out
    assert sentence.startswith("bim_a on the adversarial alexnet on esc50, stft") and f"its {named} is" in sentence
    assert cell(findings, "table_II", ("esc50", "stft"), "alexnet").attacks == ("jsma",)


def test_of_equally_large_groups_no_order_decides(records):
    two = [replace(records[0], basis={"seed": "0"}), replace(records[2], basis={"seed": "1"})]
    kept = [belonging(order)[0][0].cell for order in (two, two[::-1])]
    assert kept[0] == kept[1] == records[2].cell


def test_data_sets_are_apart(records):
    other = [replace(one, dataset="urbansound8k", basis={**one.basis, "data digest": "d2"}) for one in records]
    kept, left_out = belonging([*records, *other])
    assert len(kept) == 14 and not left_out


def test_the_papers_cells_stand_in_a_column_of_their_own(found, records):
    table = found().table("table_I")
    assert [(c.name, c.role) for c in table.columns][-1] == ("Paper, best of row", "paper")
    assert [line[-1].text for line in table.lines] == ["69.77 (resnet56)", "71.79 (resnet56)"]
    assert not any(line[-1].best for line in table.lines) and "no result of these runs" in table.caption
    synthetic = found([replace(one, dataset="synthetic") for one in records], rows=[("synthetic", "stft")])
    assert all(column.role != "paper" for column in synthetic.table("table_I").columns)


def test_a_cell_names_the_runs_behind_it(found):
    stft = ("esc50", "stft")
    assert cell(found(), "table_I", stft, "alexnet").runs == (
        "train-stft-alexnet-plain",
        "train-stft-alexnet-adversarial",
    )
    both = ("attack-stft-alexnet-plain", "attack-stft-alexnet-adversarial")
    assert cell(found(), "table_II", stft, "alexnet").runs == cell(found(), "table_III", stft, "alexnet").runs == both


def test_intervals_hold_their_values_and_pairs_that_differ_by_a_factor_have_narrow_ones(found):
    for table in found().tables:
        for line in table.lines:
            for one in line:
                assert one.interval is None or one.interval[0] <= one.value <= one.interval[1]
    # Every clip takes 2.4 to 2.6 times the perturbation: the pairing leaves little to chance.
    ratio = cell(found(), "table_III", ("esc50", "stft"), "alexnet")
    assert ratio.interval == pytest.approx((2.5, 2.5), abs=0.05) and ratio.value == pytest.approx(2.5, abs=0.02)


def test_robust_accuracy_is_what_is_left_after_the_attack(found, records):
    table = found().table("robust_accuracy")
    plain = table.lines[2]
    assert [one.text for one in plain[:4]] == ["esc50", "dwt_tonnetz", "resnet56", "plain"]
    victim = records[-1]
    clips = victim.attacks["bim_a"].clips
    accuracy = victim.folds[0].accuracy
    for eps, one in zip(EPS_255, plain[5:-1], strict=True):
        expected = 100 * accuracy * np.mean(np.array(clips.fooled_at) > eps / 255)
        assert one.value == pytest.approx(expected)
    assert plain[4].value == pytest.approx(100 * accuracy) and plain[-1].text == "bim_a"
    values = [one.value for one in plain[4:-1]]
    assert values == sorted(values, reverse=True)


def test_the_ranking_says_who_is_best_and_what_may_be_chance(found, records):
    table = found().table("ranking")
    ranks = [line[4].value for line in table.lines]
    assert ranks == sorted(ranks) and ranks[0] == 1
    best = table.lines[0]
    assert [one.text for one in best[1:4]] == ["dwt_tonnetz", "resnet56", "plain"] and best[5].best
    assert all(0 < line[6].value <= 1 for line in table.lines[1:]) and best[6].value is None
    # Who is best by far, on every recording, is so beyond chance; who is equal is not.
    poor = replace(records[0], folds=tuple(replace(f, correct=(False,) * 40, accuracy=0.0) for f in records[0].folds))
    extremes = found([poor, replace(records[2]), replace(records[6])]).table("ranking").lines
    assert extremes[-1][6].value < 0.01 and extremes[1][6].value > 0.05


def test_masking_is_told_as_it_was_found(found, records):
    table = found(changed(records, 0, masking={})).table("masking")
    signs = {tuple(one.text for one in line[1:4]): [one.text for one in line[4:]] for line in table.lines}
    names = [column.name for column in table.columns[4:]]
    assert names == ["gradients vanish", "one step beats many", "unbounded fails"]
    told = "no: one step 0.65, many steps 0.95"
    assert signs["stft", "alexnet", "adversarial"] == ["yes: vanishing 0.2", told, "no"]
    assert signs["stft", "alexnet", "plain"] == ["—", "—", "—"]
    (line,) = (line for line in table.lines if [one.text for one in line[1:4]] == ["stft", "resnet56", "plain"])
    assert line[5].details == {"one step": 0.65, "many steps": 0.95}


def with_partner(records):
    """The fixed records with the one victim that they lack, and differences of accuracy that leave no doubt."""
    wrong = {("dwt_tonnetz", "plain"): 0, ("stft", "plain"): 12}
    whole = [*records, replace(records[3], representation="dwt_tonnetz")]
    return [replace(one, folds=folds_of(one, wrong.get((one.representation, one.training), 28))) for one in whole]


def folds_of(victim, wrong):
    correct = (False,) * wrong + (True,) * (40 - wrong)
    return tuple(replace(one, correct=correct, accuracy=1 - wrong / 40) for one in victim.folds)


def linked(records):
    """The same with every transferred rate that of the plain victim's present budget."""
    plain = {one.cell: one.attacks for one in records if one.training == "plain"}
    return [
        one
        if one.training == "plain"
        else replace(
            one,
            attacks={
                name: replace(search, plain_run_id=plain[one.cell][name].run_id) for name, search in one.attacks.items()
            },
        )
        for one in records
    ]


def test_claims_that_every_run_bears_out_hold(found, records):
    judged = claims(found(linked(with_partner(records))))
    assert {name: claim.verdict for name, claim in judged.items()} == {
        "dwt_tonnetz_best": "holds",
        "accuracy_drops": "holds",
        "alexnet_gains_most": judged["alexnet_gains_most"].verdict,
        "still_reached": "holds",
        "ratio_above_one": "holds",
    }
    assert "4 of 4 cells were run; lowest ratio: 1.67" in judged["ratio_above_one"].because
    assert "8 of 8 searches reach it" in judged["still_reached"].because
    assert judged["ratio_above_one"].runs


def test_claims_with_runs_missing_are_undecided(found, records):
    judged = claims(found())
    assert {judged[name].verdict for name in ("accuracy_drops", "still_reached", "ratio_above_one")} == {"undecided"}
    assert "3 of 4 cells were run" in judged["ratio_above_one"].because
    assert "2 were not run" in judged["still_reached"].because
    for claim in found([], rows=[("esc50", "stft")]).claims:
        assert claim.verdict == "undecided" and not claim.runs


def test_claims_that_a_run_refutes_fail_even_if_others_are_missing(found, records):
    search = records[1].attacks["jsma"]
    missed = replace(search, target_reached=False, fooling_rate=0.2, fooling_low=0.1, fooling_high=0.4)
    judged = claims(found(changed(records, 1, attacks=records[1].attacks | {"jsma": missed})))
    assert judged["still_reached"].verdict == "fails"
    assert "jsma on alexnet, stft with 20.0 [10.0, 40.0] %" in judged["still_reached"].because
    # Of a search that was allowed fewer iterations than the attack may have, nobody knows what more would do.
    capped = replace(missed, capped=True)
    judged = claims(found(changed(records, 1, attacks=records[1].attacks | {"jsma": capped})))
    assert judged["still_reached"].verdict == "undecided"
    assert "within 100 iterations, fewer than the attack may have." in judged["still_reached"].because
    # The robust victim as it is taken for the plain one, and the other way round.
    weaker = [
        replace(one, training={"plain": "adversarial", "adversarial": "plain"}[one.training]) for one in records[:2]
    ]
    judged = claims(found(weaker))
    assert judged["ratio_above_one"].verdict == judged["accuracy_drops"].verdict == "fails"


def test_the_best_representation_may_be_another(found, records):
    other = {"stft": "dwt_tonnetz", "dwt_tonnetz": "stft"}
    swapped = [replace(one, representation=other[one.representation]) for one in with_partner(records)]
    judged = claims(found(swapped))["dwt_tonnetz_best"]
    assert judged.verdict == "fails" and "dwt_tonnetz is behind stft by 30.0 [" in judged.because


def test_the_summary_says_the_numbers_of_the_tables(found, records):
    findings = found()
    text = " ".join(findings.summary)
    best = cell(findings, "table_I", ("esc50", "dwt_tonnetz"), "resnet56").text.partition(" ±")[0]
    assert f"On esc50, the most accurate plain model is resnet56 on dwt_tonnetz: {best} %" in text
    assert (
        "fooling it as often as the plain one takes 2.50 [2.47, 2.53] times the perturbation (mean over 2 attacks)"
        in text
    )
    assert "cells are empty or incomplete" in text
    counted = found([replace(one, data="400 clips of 10 classes") for one in records]).summary[0]
    assert counted.startswith("On esc50 (400 clips of 10 classes), the most accurate plain model is")
    assert found([], rows=[("esc50", "stft")]).summary == (
        "Nothing has been trained yet. The tables name the command that comes next for each cell.",
    )
