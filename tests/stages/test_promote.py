"""Promotion in a real MLflow store: what proves a victim, what refuses it, and the way back."""

import math
from dataclasses import replace

import pytest

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.reporting.records import AttackRecord
from advtrack.stages.promote import Promotion, run
from advtrack.tracking import registry, runs

NAME = "sounds-stft-alexnet"
OPTIONS = Promotion("sounds", "alexnet", "stft", "robust")
RECORD = AttackRecord(
    "", "linf", True, 0.9, 0.95, 0.01, None, 10, {}, 0.008, 9.0, 0.5, 0.008, 20, 0, 0, 400, None, None, "", 1000
)
# Per clip: from which bound on it is fooled, and up to which it resists.
SAMPLES = [(0.005, 0.004), (0.01, 0.009), (0.02, 0.015), (math.inf, 0.3)]


@pytest.fixture
def fold(store):
    """Register a trained fold; its version."""

    def make(training, accuracy, alias=None, fold=0, **tags):
        made = store.create_run("0").info.run_id
        runs.StageRun(made).metrics({"test_accuracy": accuracy})
        runs.StageRun(made).dataset("sounds", "data", "somewhere")
        store.set_terminated(made)
        given = {"dataset": "sounds", "representation": "stft", "model": "alexnet", "training": training, "fold": fold}
        given |= {"accuracy": accuracy, "store_digest": "s", "seed": 0, "weights_digest": "none"}
        given |= {"protocol": "paper", **tags}
        version = registry.register(NAME, f"runs:/{made}/victim", made, given, "a fold")
        if alias:
            registry.set_alias(version, alias)
        return version

    return make


@pytest.fixture
def attacked(store):
    """Leave a finished search of some attacks on a version; its run."""

    def make(version, attacks=TABLE_ATTACKS, masking=("gradients_vanish", False), plain_run=None, **values):
        made = store.create_run("0").info.run_id
        stage = runs.StageRun(made)
        stage.tags({"victim": f"{version.name}/{version.version}", f"masking.{masking[0]}": masking[1]})
        for attack in attacks:
            record = replace(RECORD, attack=attack, norm=ATTACKS[attack].norm, run_id=made, plain_run_id=plain_run)
            record = replace(record, **values)
            stage.json(vars(record), f"{attack}/result.json")
            rows = "".join(f"{fooled},{resisted}\n" for fooled, resisted in SAMPLES)
            stage.text(f"fooled_at,resisted_at\n{rows}", f"{attack}/samples.csv")
        store.set_terminated(made)
        registry.tag(version, {f"attack.{attack}": made for attack in attacks})
        return made

    return make


@pytest.fixture
def pair(fold, attacked):
    """A plain and a robust victim, both attacked: 80 and 76%, fooled at a rate of 0.5, a ratio of 2."""
    plain, robust = fold("plain", 0.8, "standard"), fold("adversarial", 0.76, "robust")
    first = attacked(plain)
    attacked(robust, plain_run=first, transferred_fooling_rate=0.5, perturbation=0.016)
    return plain, robust


def champion():
    found = registry.by_alias(NAME, "champion")
    return found.version if found else None


def refused(options):
    before = champion()
    with pytest.raises(InputError) as caught:
        run(options)
    assert champion() == before and "\n" not in str(caught.value)
    return str(caught.value)


ALL_MET = replace(
    OPTIONS, min_accuracy=0.76, max_accuracy_drop=4.1, max_fooling_rate=0.5, min_perturbation_ratio=2.0,
    refuse_masking=True,
)  # fmt: skip


def test_a_victim_that_meets_all_thresholds_becomes_champion_and_says_why(pair):
    plain, robust = pair
    promotion = run(ALL_MET)
    assert champion() == robust.version
    told = registry.version(NAME, robust.version).tags
    assert (told["promoted_by"], told["replaced"]) == (promotion, "none")
    for reason in (
        "accuracy 0.76 >= 0.76",
        "accuracy_drop 4 <= 4.1",
        "pia/fooling_rate 0.5 <= 0.5",
        "pia/ratio 2 >= 2",
    ):
        assert reason in told["promoted_for"]
    attacks = {
        robust.tags.get("attack.pia") or told["attack.pia"],
        registry.by_alias(NAME, "standard").tags["attack.pia"],
    }
    assert set(told["evidence_runs"].split(",")) == {plain.run_id, robust.run_id, *attacks}
    recorded = runs.get(promotion)
    assert runs.tag(recorded, "why") == told["promoted_for"] and recorded.info.status == "FINISHED"
    assert recorded.data.metrics["accuracy_drop"] == pytest.approx(4)


def test_every_threshold_that_is_not_met_is_listed(pair):
    strict = replace(
        ALL_MET, min_accuracy=0.77, max_accuracy_drop=3.9, max_fooling_rate=0.49, min_perturbation_ratio=2.01
    )
    message = refused(strict)
    assert "accuracy 0.76 is below --min-accuracy 0.77" in message
    assert "accuracy_drop 4 is above --max-accuracy-drop 3.9" in message
    for attack in TABLE_ATTACKS:
        assert f"{attack}/fooling_rate 0.5 is above --max-fooling-rate 0.49" in message
        assert f"{attack}/ratio 2 is below --min-perturbation-ratio 2.01" in message
    (failed,) = runs.find({"stage": "promote"})
    assert failed.info.status == "FAILED" and "--min-accuracy 0.77" in runs.tag(failed, "failure")


def test_fooling_rates_at_given_budgets_are_read_off_the_search(pair):
    """Of four clips, one resists to the end, and one is undecided between 0.015 and 0.02."""
    for bound, rate in ((0.001, 0), (0.005, 0.25), (0.015, 0.5), (0.018, 0.75), (0.02, 0.75), (0.4, 1)):
        asked = replace(OPTIONS, budget=f"bim_a={bound}")
        if rate:
            assert f"bim_a/fooling_rate {rate:g} is above" in refused(replace(asked, max_fooling_rate=rate - 0.01))
        run(replace(asked, max_fooling_rate=min(rate, 0.999)) if rate < 1 else asked)


@pytest.mark.parametrize("budget", ["0.03", "bim_a=0", "bim_a=x", "bim_a=nan", "fgsm2=1"])
def test_a_budget_that_is_none_is_refused(pair, budget):
    assert f"--budget {budget}" in refused(replace(OPTIONS, budget=budget))


def test_what_no_run_proves_is_not_met(fold, attacked, store):
    robust = fold("adversarial", 0.9, "robust")
    message = refused(ALL_MET)
    assert "accuracy_drop for --max-accuracy-drop: " in message and "@standard is no plain victim" in message
    assert "no finished search (run advtrack attack" in message
    assert f"--victim {robust.version} --attack all" in message and "no attack run has looked" in message
    plain = fold("plain", 0.9, "standard", fold=1)  # of another fold
    attacked(plain)
    assert "@standard is no plain victim" in refused(ALL_MET)


def test_evidence_of_deleted_failed_or_foreign_runs_does_not_count(pair, store):
    plain, robust = pair
    evidence = registry.version(NAME, robust.version).tags["attack.pia"]
    asked = replace(OPTIONS, max_fooling_rate=0.9)
    store.delete_run(evidence)
    assert "no finished search" in refused(asked)
    store.restore_run(evidence)
    store.set_terminated(evidence, "FAILED")
    assert "no finished search" in refused(asked)
    store.set_terminated(evidence, "FINISHED")
    store.set_tag(evidence, "advtrack.victim", f"{NAME}/{plain.version}")
    assert "no finished search" in refused(asked)
    store.delete_run(robust.run_id)
    assert f"the run {robust.run_id} that trained {robust} is deleted" in refused(replace(OPTIONS, min_accuracy=0.1))
    store.restore_run(robust.run_id)
    store.set_model_version_tag(NAME, robust.version, "accuracy", "0.99")  # the tag proves nothing
    assert "accuracy 0.76 is below" in refused(replace(OPTIONS, min_accuracy=0.9))


def test_a_search_older_than_the_plain_victims_proves_no_transfer(pair, attacked):
    attacked(pair[0])
    message = refused(ALL_MET)
    assert "no finished search since that of the plain victim" in message


def test_signs_of_masked_gradients_refuse_if_asked(pair, attacked):
    plain, robust = pair
    found = registry.version(NAME, plain.version).tags["attack.pia"]
    attacked(robust, masking=("unbounded_fails", True), plain_run=found, transferred_fooling_rate=0.1)
    assert "there are signs of masked gradients: unbounded_fails" in refused(replace(OPTIONS, refuse_masking=True))
    run(OPTIONS)
    assert champion() == robust.version


def test_searches_that_cannot_be_compared_have_no_ratio(pair, attacked):
    plain, robust = pair
    found = registry.version(NAME, plain.version).tags["attack.pia"]
    attacked(robust, ("jsma",), plain_run=found, transferred_fooling_rate=0.1, seed=7)
    message = refused(replace(OPTIONS, min_perturbation_ratio=0.1))
    assert "jsma/ratio for --min-perturbation-ratio: no ratio, since" in message
    assert message.endswith("its searches differ in seed (0 and 7)")


def test_a_plain_victim_is_held_against_its_own_budgets_and_has_no_drop(fold, attacked):
    plain = fold("plain", 0.8, "standard")
    attacked(plain)
    asked = replace(OPTIONS, victim="standard", max_accuracy_drop=0.0, max_fooling_rate=0.95)
    run(asked)
    assert champion() == plain.version
    assert "fooling_rate 0.95 is above" in refused(replace(asked, max_fooling_rate=0.94))
    assert "no search of a plain victim" in refused(replace(asked, min_perturbation_ratio=1.0))


def test_a_dry_run_checks_all_and_moves_nothing(pair, caplog):
    caplog.set_level("INFO", "advtrack")
    promotion = run(replace(ALL_MET, dry_run=True))
    assert champion() is None and "would become" in caplog.text
    assert "promoted_by" not in registry.version(NAME, pair[1].version).tags
    assert runs.tag(runs.get(promotion), "dry_run") == "True"
    assert "--min-accuracy" in refused(replace(ALL_MET, dry_run=True, min_accuracy=0.9))


def test_rollback_goes_back_promotion_by_promotion(fold):
    """Also over a version that was champion twice."""
    first, second = fold("plain", 0.8, "standard"), fold("plain", 0.7)
    for victim in (first, second, first):
        run(replace(OPTIONS, victim=victim.version))
    back = replace(OPTIONS, rollback=True)
    run(replace(back, dry_run=True))
    assert champion() == first.version
    undone = run(back)
    assert champion() == second.version
    assert registry.version(NAME, first.version).tags["rolled_back_by"] == undone
    run(back)
    assert champion() == first.version
    assert "replaced nothing; it is the first champion" in refused(back)
    run(replace(OPTIONS, victim=second.version))  # and on from there
    run(back)
    assert champion() == first.version


def test_there_may_be_nothing_to_go_back_to(fold, store):
    back = replace(OPTIONS, rollback=True)
    assert "has no champion" in refused(back)
    first, second = fold("plain", 0.8), fold("plain", 0.7)
    registry.set_alias(first, "champion")  # by hand
    assert "no promotion of" in refused(back)
    run(replace(OPTIONS, victim=second.version))
    store.delete_model_version(NAME, first.version)
    assert f"{NAME} version 1, which {second} replaced, is deleted" in refused(back)
    store.delete_model_version(NAME, second.version)
    assert "has no champion" in refused(back)
