"""What the attack stage decides by itself: how many are attacked, and which searches are the same."""

import json
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from advtrack.reporting.records import AttackRecord
from advtrack.search.criterion import Criterion
from advtrack.search.result import BudgetResult
from advtrack.search.space import Budget, Search
from advtrack.stages import attack as stage
from advtrack.stages import attacking, rerun, searched
from advtrack.stages.attacking import Attacked, Attacking, sample_limit
from advtrack.tracking import lookup, runs


@pytest.fixture
def victim():
    return SimpleNamespace(checkpoint_id="v1")


def options(**changes):
    base = Attacking(
        dataset="synthetic",
        model="alexnet",
        representation="stft",
        victim="standard",
        attacks=("bim_a",),
        target_fooling_rate=0.9,
        samples="0",
        trials=9,
        max_iter="0",
        storage="sqlite:///optuna.db",
        seed=0,
        device="cpu",
    )
    return replace(base, **changes)


@pytest.mark.parametrize(("samples", "expected"), [("0", 10), ("12", 10), ("4", 4), ("0,pia=12", 12), ("3,pia=5", 5)])
def test_a_costly_attack_has_fewer_samples_unless_told_otherwise(samples, expected):
    assert sample_limit(options(samples=samples), "pia") == expected


@pytest.mark.parametrize(("samples", "expected"), [("0", 0), ("12", 12), ("0,bim_a=3", 3), ("0,pia=12", 0)])
def test_others_have_all_unless_told_otherwise(samples, expected):
    assert sample_limit(options(samples=samples), "bim_a") == expected


@pytest.mark.parametrize(
    ("samples", "attack", "limit", "said"),
    [
        ("40", "jsma", 30, ["jsma: --samples 40 is capped at its 30 clips; jsma=40 takes more"]),
        ("12,jsma=40", "pia", 10, ["pia: --samples 12,jsma=40 is capped at its 10 clips; pia=12 takes more"]),
        ("12,jsma=40", "jsma", 40, []),
        ("30", "jsma", 30, []),
        ("0", "pia", 10, []),
        ("40", "bim_a", 40, []),
    ],
)
def test_a_number_for_all_is_capped_for_a_costly_attack_and_that_is_said(
    monkeypatch, caplog, samples, attack, limit, said
):
    monkeypatch.setattr(attacking, "strike_list", lambda victim, store, spec, limit, *others: limit)
    caplog.set_level("INFO", "advtrack")
    asked = options(samples=samples, attacks=(attack,))
    attacking._say_caps(asked)
    assert caplog.messages == said
    assert Attacked(asked, None, None, None, None).struck(attack) == limit


# What a run says


def params_of(**changes):
    victim = SimpleNamespace(description=SimpleNamespace(training={"kind": "plain"}))
    return Attacked(options(**changes), None, victim, None, torch.device("cpu")).params()


def test_a_run_tells_the_options_that_count_for_it_and_no_others():
    every = {field.name for field in fields(Attacking)} | {"training"}
    assert params_of().keys() == every - {"budget_from"}
    struck = params_of(budget_from="standard", samples="7", storage="nonsense")
    assert struck.keys() == {
        "dataset", "model", "representation", "victim", "attacks", "samples", "seed", "device", "precision", "protocol",
        "budget_from", "force", "training",
    }  # fmt: skip
    assert (struck["budget_from"], struck["samples"], struck["device"]) == ("standard", "7", "cpu")


def test_what_a_run_tells_is_enough_to_repeat_it(store, tmp_path):
    asked = options(budget_from="standard", victim="3", samples="7", seed=2)
    tags = {"dataset": "synthetic", "victim": "synthetic-stft-alexnet/3"}
    params = params_of(budget_from="standard", victim="3", samples="7", seed=2)
    with runs.stage_run("transfer", 1, {}, title="t", params=params, tags=tags) as run:
        pass
    again = rerun._options(lookup.get(run.run_id), Attacking, str(tmp_path))
    storage = f"sqlite:///{tmp_path}/optuna.db"
    assert again == replace(asked, storage=storage, force=True, trials=again.trials)


# Which searches are the same


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"samples": "5"},
        {"samples": "0,bim_a=5"},
        {"target_fooling_rate": 0.8},
        {"max_iter": "7"},
        {"criterion": "auc"},
        {"sampler": "tpe"},
        {"tolerance": 0.1},
        {"protocol": "paper"},
    ],
)
def test_what_changes_a_study_changes_its_key(victim, changes):
    assert stage._study_key(options(**changes), "bim_a", victim) != stage._study_key(options(), "bim_a", victim)


@pytest.mark.parametrize(
    "changes",
    [{"trials": 99}, {"force": True}, {"victim": "3"}, {"samples": "0,pia=5"}, {"storage": "x"}, {"workers": 2}],
)
def test_what_does_not_keeps_it(victim, changes):
    assert stage._study_key(options(**changes), "bim_a", victim) == stage._study_key(options(), "bim_a", victim)


def test_victims_and_attacks_have_their_own_studies(victim):
    other = SimpleNamespace(checkpoint_id="v2")
    keys = {stage._study_key(options(), attack, v) for attack in ("bim_a", "bim_b") for v in (victim, other)}
    assert len(keys) == 4


def test_a_result_is_also_of_the_trials_and_the_plain_budget(victim):
    keys = {
        stage._attack_key(options(trials=trials), "bim_a", victim, plain)
        for trials in (9, 10)
        for plain in (None, SimpleNamespace(run_id="one"), SimpleNamespace(run_id="another"))
    }
    assert len(keys) == 6


# Records


def test_a_record_is_the_result():
    norms = {"l0": np.array([1.0, 3.0]), "l2": np.array([2.0, 4.0]), "linf": np.array([0.1, 0.3])}
    result = BudgetResult(
        attack="bim_a",
        norm="linf",
        criterion=Criterion("fooling_rate", 0.9),
        budget=Budget(0.3, 7, {}),
        fooling_rate=0.5,
        reached=False,
        success=np.array([True, False]),
        first_success=np.array([1, -1]),
        norms=norms,
        fooled_at=np.array([0.15, np.inf]),
        resisted_at=np.array([0.0, 0.3]),
        largest=0.3,
        failures_count_as=0.3,
        missed_at=None,
        front=[],
        passes=40,
        cut_short=2,
        contradictions=1,
        trials=[],
        study_name="study",
    )
    search = Search("bim_a", Criterion("fooling_rate", 0.9), trials=9, seed=3, max_iter=50)
    plain = SimpleNamespace(run_id="plain run")
    record = stage._record(result, search, options(samples="2"), np.array([True, False, False, False]), plain, "run")
    assert (record.seed, record.sample_limit, record.longest, record.plain_run_id) == (3, 2, 50, "plain run")
    assert (record.attack, record.norm, record.bound, record.iterations) == ("bim_a", "linf", 0.3, 7)
    assert (record.target_reached, record.fooling_rate, record.transferred_fooling_rate) == (False, 0.5, 0.25)
    assert (record.l0, record.l2, record.linf) == (1, 2, 0.1) and record.perturbation == pytest.approx(0.2)
    assert (record.samples, record.passes, record.run_id) == (2, 40, "run")
    assert record.fooling_low == pytest.approx(0.0945, abs=1e-4) and record.fooling_high == pytest.approx(
        0.9055, abs=1e-4
    )
    assert (record.auc_low, record.auc_high) == (0.25, 0.5)
    assert (record.contradictions, record.cut_short, record.protocol) == (1, 2, "test")


@pytest.mark.parametrize(("reached", "said"), [(True, "between 0.05 and 0.2;"), (False, "between 0.05 and anything;")])
def test_what_trials_left_open_is_said_and_tagged(store, caplog, reached, said):
    record = AttackRecord(
        attack="bim_a", norm="linf", target_reached=reached, target_fooling_rate=0.9, fooling_rate=0.9, bound=0.2,
        missed_at=0.05, iterations=9, settings={}, perturbation=0.1, l0=1.0, l2=1.0, linf=0.1, samples=4, seed=0,
        sample_limit=0, longest=9, transferred_fooling_rate=None, plain_run_id=None, run_id="r", passes=72,
        settled=False,
    )  # fmt: skip
    caplog.set_level("INFO", "advtrack")
    with runs.stage_run("attack", 1, {}, title="t", params={}, tags={}) as run:
        searched.log_record(run, record, "key")
    searched.say(record, "victim")
    assert said in caplog.text and lookup.tag(lookup.get(run.run_id), "bim_a.settled") == "False"
    assert "cut short" not in caplog.text
    searched.say(replace(record, settled=True, cut_short=2), "victim")
    assert caplog.text.count("ran out") == 1 and "18 passes a clip, and more in 2 trials cut short" in caplog.text


def test_a_record_comes_back_from_its_run_undefined_norms_and_all(store):
    with runs.stage_run("attack", 1, {}, title="t", params={}, tags={}) as run:
        record = AttackRecord(
            attack="jsma", norm="l0", target_reached=False, target_fooling_rate=0.9, fooling_rate=0.0, bound=64.0,
            missed_at=None, iterations=9, settings={"theta": 1.0}, perturbation=9.0, l0=math.nan, l2=math.nan,
            linf=math.nan, samples=4, seed=0, sample_limit=0, longest=9, transferred_fooling_rate=None,
            plain_run_id=None, run_id="r", passes=72,
        )  # fmt: skip
        searched.log_record(run, record, "key")
    found = searched.read_record(run.run_id, "jsma")
    assert math.isnan(found.l2) and replace(found, l0=0, l2=0, linf=0) == replace(record, l0=0, l2=0, linf=0)
    json.loads(lookup.read_artifact(run.run_id, "jsma/result.json"), parse_constant=lambda name: 1 / 0)
