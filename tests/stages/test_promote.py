"""Promotion in a real MLflow store: what proves a victim, what refuses it, and the way back."""

import json
import math
from dataclasses import replace

import pytest

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.intervals import wilson
from advtrack.reporting.records import AttackRecord
from advtrack.search.space import longest_run
from advtrack.stages import attack as searching
from advtrack.stages import fold as training_code
from advtrack.stages.promote import Promotion, run
from advtrack.stages.sample_table import SampleRow, log_samples
from advtrack.tracking import lookup, registry, runs

NAME = "sounds-stft-alexnet"
OPTIONS = Promotion("sounds", "alexnet", "stft", "robust")
RECORD = AttackRecord(
    attack="", norm="linf", target_reached=True, target_fooling_rate=0.9, fooling_rate=0.95, bound=0.01, missed_at=None,
    iterations=10, settings={}, perturbation=0.008, l0=9.0, l2=0.5, linf=0.008, samples=40, seed=0, sample_limit=0,
    longest=400, transferred_fooling_rate=None, plain_run_id=None, run_id="", passes=1000,
    code_version=searching.CODE_VERSION,
)  # fmt: skip
# They differ in the bounds from which on they are fooled, and up to which they resist.
SAMPLES = 10 * [
    SampleRow("clip", "recording", "dog", "", fooled < 1, 1, 9.0, 0.1, 0.01, fooled, resisted, 0.01)
    for fooled, resisted in [(0.005, 0.004), (0.01, 0.009), (0.02, 0.015), (math.inf, 0.3)]
]


@pytest.fixture
def fold(store):
    """Register a trained fold; its version."""

    trained = store.create_run("0").info.run_id
    runs.StageRun(trained).tags({"code_version": training_code.CODE_VERSION})
    store.set_terminated(trained)

    def make(training, accuracy, alias=None, fold=0, **tags):
        made = store.create_run("0").info.run_id
        runs.StageRun(made).metrics({"test_accuracy": accuracy})
        runs.StageRun(made).dataset("sounds", "data", "somewhere")
        store.set_terminated(made)
        given = {"dataset": "sounds", "representation": "stft", "model": "alexnet", "training": training, "fold": fold}
        given |= {"accuracy": accuracy, "store_digest": "s", "seed": 0, "weights_digest": "none"}
        given |= {"protocol": "paper", "train_run": trained, "conditions": "c", **tags}
        if training == "adversarial" and (beside := registry.by_alias(NAME, "standard")):
            given.setdefault("standard", f"{NAME}/{beside.version}")
        version = registry.register(NAME, f"runs:/{made}/victim", made, given, "a fold")
        if alias:
            registry.set_alias(version, alias)
        return version

    return make


@pytest.fixture
def attacked(store):
    """Leave a finished search of some attacks on a version; its run."""

    def make(version, attacks=TABLE_ATTACKS, masking=("gradients_vanish", False), plain_run=None, **values):
        digest = values.pop("store_digest", version.tags["store_digest"])
        made = store.create_run("0").info.run_id
        stage = runs.StageRun(made)
        stage.tags({"victim": f"{version.name}/{version.version}", f"masking.{masking[0]}": masking[1]})
        stage.tags({f"masking_numbers.{masking[0]}": "{}"})
        stage.tags({"store_digest": digest})
        stage.metrics({"masking/samples": 20})
        for attack in attacks:
            record = replace(RECORD, attack=attack, norm=ATTACKS[attack].norm, run_id=made, plain_run_id=plain_run)
            record = replace(record, **{"longest": longest_run(ATTACKS[attack]), **values})
            stage.json(vars(record), f"{attack}/result.json")
            log_samples(stage, attack, SAMPLES)
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


def stopped(monkeypatch, options, after, by):
    """Run until a call of the registry has been made, and no further."""

    def call(*given):
        after(*given)
        raise by

    with monkeypatch.context() as patch, pytest.raises(by):
        patch.setattr(registry, after.__name__, call)
        run(options)


def refused(options):
    before = champion()
    with pytest.raises(InputError) as caught:
        run(options)
    assert champion() == before and "\n" not in str(caught.value)
    return str(caught.value)


ALL_MET = replace(
    OPTIONS, min_accuracy=0.76, max_accuracy_drop=4.1, max_fooling_rate=0.65, min_perturbation_ratio=2.0,
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
        "pia/fooling_rate_high 0.648 (0.5 of 40 clips, linf <= 0.01, 10 iterations) <= 0.65",
        "pia/ratio 2 (40 clips) >= 2",
    ):
        assert reason in told["promoted_for"]
    attacks = {
        robust.tags.get("attack.pia") or told["attack.pia"],
        registry.by_alias(NAME, "standard").tags["attack.pia"],
    }
    assert set(told["evidence_runs"].split(",")) == {plain.run_id, robust.run_id, *attacks}
    recorded = lookup.get(promotion)
    assert lookup.tag(recorded, "why") == told["promoted_for"] and recorded.info.status == "FINISHED"
    assert recorded.data.metrics["accuracy_drop"] == pytest.approx(4)


def test_every_threshold_that_is_not_met_is_listed(pair):
    strict = replace(
        ALL_MET, min_accuracy=0.77, max_accuracy_drop=3.9, max_fooling_rate=0.64, min_perturbation_ratio=2.01
    )
    message = refused(strict)
    assert "accuracy 0.76 is below --min-accuracy 0.77" in message
    assert "accuracy_drop 4 is above --max-accuracy-drop 3.9" in message
    for attack in TABLE_ATTACKS:
        assert f"{attack}/fooling_rate_high 0.648 (0.5 of 40 clips, " in message
        assert f"{attack}/ratio 2 (40 clips) is below --min-perturbation-ratio 2.01" in message
    assert message.count("iterations) is above --max-fooling-rate 0.64") == len(TABLE_ATTACKS)
    (failed,) = lookup.find({"stage": "promote"})
    assert failed.info.status == "FAILED" and lookup.tag(failed, "failure") == message and len(message) > 500
    unmet = json.loads(lookup.read_artifact(failed.info.run_id, "evidence.json"))["unmet"]
    assert len(unmet) == 14 and message.endswith("; ".join(unmet))


def test_fooling_rates_at_given_budgets_are_read_off_the_search(pair):
    """Of four clips, one resists to the end, and one is undecided between 0.015 and 0.02; and there are forty."""
    for bound, fooled in ((0.001, 0), (0.005, 10), (0.015, 20), (0.018, 30), (0.02, 30), (0.4, 40)):
        high = float(wilson(fooled, 40)[1])
        asked = replace(OPTIONS, budget=f"bim_a={bound}")
        told = refused(replace(asked, max_fooling_rate=high - 0.001))
        assert f"({fooled / 40:.4g} of 40 clips, linf <= {bound}, 100 iterations) is above" in told
        if high < 1:
            run(replace(asked, max_fooling_rate=high))


def test_a_budget_is_proven_by_runs_of_as_many_iterations(pair, attacked):
    attacked(pair[1], longest=50)
    asked = replace(OPTIONS, max_fooling_rate=0.99)
    for budget in ("bim_a=0.015", "bim_a=0.015:51", "bim_a=0.015:400"):
        told = refused(replace(asked, budget=budget))
        assert "up to 50 iterations, not " in told and "--budget bim_a=0.015:50" in told
    for budget in ("bim_a=0.015:50", "bim_a=0.015:1"):
        run(replace(asked, budget=budget))
        told = registry.version(NAME, pair[1].version).tags["promoted_for"]
        assert "(0.5 of 40 clips, linf <= 0.015, 50 iterations)" in told
        run(replace(OPTIONS, victim="standard"))


@pytest.mark.parametrize(
    "budget", ["0.03", "bim_a=0", "bim_a=x", "bim_a=nan", "fgsm2=1", "bim_a=0.1:", "bim_a=0.1:0", "bim_a=0.1:2.5"]
)
def test_a_budget_that_is_none_is_refused(pair, budget):
    assert f"--budget {budget}" in refused(replace(OPTIONS, budget=budget, max_fooling_rate=0.9))


def test_a_budget_without_a_rate_is_refused(pair):
    told = refused(replace(OPTIONS, budget="bim_a=0.03"))
    assert told == "--budget bim_a=0.03: it is where --max-fooling-rate is held; give that as well"


@pytest.mark.parametrize(
    ("weakness", "told"),
    [
        ({"samples": 9}, "it struck 9 clips, of --min-samples 10"),
        ({"settled": False}, "it is not settled"),
        ({"code_version": 3}, "it is by version 3 of the code, this is"),
        ({"code_version": 0}, "it is by version unknown of the code"),
        ({"protocol": "paper"}, "it also struck clips that were trained on"),
    ],
)
def test_evidence_that_is_weak_proves_nothing(pair, attacked, weakness, told):
    plain, robust = pair
    found = registry.version(NAME, plain.version).tags["attack.pia"]
    attacked(robust, plain_run=found, transferred_fooling_rate=0.0, **weakness)
    for asked in ({"max_fooling_rate": 0.99}, {"max_fooling_rate": 0.99, "budget": "bim_a=0.001"},
                  {"min_perturbation_ratio": 0.1}):  # fmt: skip
        message = refused(replace(OPTIONS, **asked))
        assert told in message and "advtrack attack" in message
    assert "no attack run that counts" in refused(replace(OPTIONS, refuse_masking=True))
    attacked(robust, plain_run=attacked(plain, **weakness), transferred_fooling_rate=0.0)
    for asked in ({"max_fooling_rate": 0.99}, {"min_perturbation_ratio": 0.1}):
        message = refused(replace(OPTIONS, **asked))
        assert "on the plain victim, the search in run" in message and told in message
    run(replace(OPTIONS, max_fooling_rate=0.99, budget="bim_a=0.001", refuse_masking=True))


def test_all_that_is_weak_is_told_at_once(pair, attacked):
    attacked(pair[1], samples=1, settled=False, code_version=3, store_digest="other")
    message = refused(replace(OPTIONS, max_fooling_rate=0.9, budget="bim_a=0.3,pia=0.3"))
    for told in ("version 3 of the code", "on other spectrograms", "not settled", "struck 1 clips"):
        assert message.count(told) == 1


def test_few_clips_prove_little(pair, attacked):
    """None of 10 is fooled, and it may be 28%."""
    plain, robust = pair
    found = registry.version(NAME, plain.version).tags["attack.pia"]
    attacked(robust, plain_run=found, transferred_fooling_rate=0.0, samples=10)
    assert "0.2775 (0 of 10 clips" in refused(replace(OPTIONS, max_fooling_rate=0.05))
    run(replace(OPTIONS, max_fooling_rate=0.3))
    assert "struck 10 clips, of --min-samples 11" in refused(replace(OPTIONS, max_fooling_rate=0.3, min_samples=11))


@pytest.mark.parametrize("weakness", [{"target_fooling_rate": 0.1}, {"target_reached": False}])
def test_budgets_that_ask_little_of_the_plain_victim_prove_nothing(pair, attacked, weakness):
    plain, robust = pair
    attacked(robust, plain_run=attacked(plain, **weakness), transferred_fooling_rate=0.0, **weakness)
    for asked in ({"max_fooling_rate": 0.9}, {"min_perturbation_ratio": 0.1}):
        assert "it has to reach one of at least 0.9" in refused(replace(OPTIONS, **asked))


def test_masking_that_few_clips_were_looked_at_for_is_not_excluded(pair, store):
    run(replace(OPTIONS, refuse_masking=True, dry_run=True))
    evidence = registry.version(NAME, pair[1].version).tags["attack.pia"]
    store.log_metric(evidence, "masking/samples", 9)
    assert "that counts has looked for masked gradients on 10 clips" in refused(replace(OPTIONS, refuse_masking=True))
    assert "on 20 clips" in refused(replace(OPTIONS, refuse_masking=True, min_samples=30))
    run(replace(OPTIONS, refuse_masking=True, min_samples=9))


def test_an_accuracy_by_other_code_does_not_count(fold, store):
    earlier = store.create_run("0").info.run_id
    runs.StageRun(earlier).tags({"code_version": training_code.CODE_VERSION - 1})
    store.set_terminated(earlier)
    fold("plain", 0.8, "standard")
    fold("adversarial", 0.8, "robust", train_run=earlier)
    for asked in ({"min_accuracy": 0.1}, {"max_accuracy_drop": 50.0}):
        assert f"was trained by version {training_code.CODE_VERSION - 1} of" in refused(replace(OPTIONS, **asked))


def test_what_no_run_proves_is_not_met(fold, attacked, store):
    robust = fold("adversarial", 0.9, "robust")
    message = refused(ALL_MET)
    assert "accuracy_drop for --max-accuracy-drop: " in message and "was trained, is gone; train both again" in message
    assert "no finished search (run advtrack attack" in message
    assert f"--victim {robust.version} --attack all" in message and "no attack run that counts" in message
    plain = fold("plain", 0.9, "standard", fold=1)  # of another fold
    attacked(plain)
    assert "was trained, is gone; train both again" in refused(ALL_MET)


def test_a_drop_is_that_from_the_plain_victim_that_it_was_trained_beside(fold):
    """Whatever has been trained, and is the standard, since."""
    plain, robust = fold("plain", 0.8, "standard"), fold("adversarial", 0.76, "robust")
    asked = replace(OPTIONS, victim=robust.version, max_accuracy_drop=3.9)
    fold("plain", 0.5, "standard", conditions="of one epoch")  # the same fold
    assert "accuracy_drop 4 is above --max-accuracy-drop 3.9" in refused(asked)
    fold("plain", 0.9, "standard", fold=1, conditions="of one epoch")
    run(replace(asked, max_accuracy_drop=4.1))
    other = fold("adversarial", 0.7, fold=1, standard=f"{NAME}/{plain.version}")
    assert "is gone; train both again" in refused(replace(asked, victim=other.version))
    fold("plain", 0.72, fold=1)
    run(replace(asked, victim=other.version))


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
    below = registry.version(NAME, plain.version).tags["attack.pia"]
    store.set_tag(evidence, "advtrack.victim", f"{NAME}/{robust.version}")
    store.delete_run(below)
    for asked in (replace(OPTIONS, max_fooling_rate=0.9), replace(OPTIONS, min_perturbation_ratio=0.1)):
        assert "on the plain victim, no finished search" in refused(asked)
    store.restore_run(below)
    run(replace(OPTIONS, max_fooling_rate=0.9, min_perturbation_ratio=0.1, dry_run=True))
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


def test_a_plain_victim_is_asked_at_given_budgets_and_has_no_drop(fold, attacked):
    """Its own budgets would fool it as often as was searched for."""
    plain = fold("plain", 0.8, "standard")
    attacked(plain, target_fooling_rate=0.1, fooling_rate=0.1)
    asked = replace(OPTIONS, victim="standard", max_accuracy_drop=0.0, max_fooling_rate=0.65)
    for one in (asked, replace(asked, max_fooling_rate=1.0, min_perturbation_ratio=1.0)):
        assert "there is no plain victim to hold it against" in refused(one)
    run(replace(asked, budget="bim_a=0.015,pia=0.015"))
    assert champion() == plain.version


def test_a_dry_run_checks_all_and_moves_nothing(pair, caplog):
    caplog.set_level("INFO", "advtrack")
    promotion = run(replace(ALL_MET, dry_run=True))
    assert champion() is None and "would become" in caplog.text
    assert "promoted_by" not in registry.version(NAME, pair[1].version).tags
    assert lookup.tag(lookup.get(promotion), "dry_run") == "True"
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
    assert f"no version is on record that {first} replaced" in refused(back)
    run(replace(OPTIONS, victim=second.version))  # and on from there
    run(back)
    assert champion() == first.version


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, SystemError])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_promotion_that_was_stopped_after_the_alias_moved_is_taken_back(
    fold, store, monkeypatch, stopped_by, deleted
):
    """Whatever became of its run; and the same command again loses nothing."""
    victims = [fold("plain", 0.8, fold=number) for number in range(3)]
    for victim in victims:
        run(replace(OPTIONS, victim=victim.version))
    again = replace(OPTIONS, victim="2")
    stopped(monkeypatch, again, registry.set_alias, stopped_by)
    assert champion() == "2" and registry.version(NAME, "2").tags["replaced"] == "3"
    if deleted:
        store.delete_run(lookup.find({"stage": "promote"})[0].info.run_id)
    else:
        run(again)
    back = replace(OPTIONS, rollback=True)
    for version in ("3", "2", "1"):
        run(back)
        assert champion() == version
    assert "no version is on record that" in refused(back)


def test_a_promotion_that_was_stopped_before_the_alias_moved_counts_as_none(fold, monkeypatch):
    victims = [fold("plain", 0.8, fold=number) for number in range(3)]
    for victim in victims:
        run(replace(OPTIONS, victim=victim.version))
    stopped(monkeypatch, replace(OPTIONS, victim="1"), registry.tag_model, KeyboardInterrupt)
    assert champion() == "3"
    back = replace(OPTIONS, rollback=True)
    run(back)
    assert champion() == "2"
    stopped(monkeypatch, replace(OPTIONS, victim="3"), registry.tag_model, KeyboardInterrupt)
    run(replace(OPTIONS, victim="3"))  # completed
    for version in ("2", "1"):
        run(back)
        assert champion() == version


@pytest.mark.parametrize("moment", ["set_alias", "tag_model"])
def test_two_promotions_at_once_lose_no_champion(fold, monkeypatch, moment):
    """The other one begins after this one has read the line, and ends before this one goes on."""
    victims = [fold("plain", 0.8, fold=number) for number in range(3)]
    run(replace(OPTIONS, victim="1"))
    original = getattr(registry, moment)

    def meanwhile(*arguments):
        monkeypatch.setattr(registry, moment, original)
        run(replace(OPTIONS, victim="2"))
        return original(*arguments)

    monkeypatch.setattr(registry, moment, meanwhile)
    run(replace(OPTIONS, victim="3"))
    assert champion() == "3"
    back = replace(OPTIONS, rollback=True)
    run(back)
    if moment == "set_alias":  # this one's line was on record already
        assert champion() == "2" and registry.version(NAME, victims[2].version).tags["replaced"] == "2"
        run(back)
    assert champion() == "1"


def test_a_rollback_that_was_stopped_goes_no_further_than_it_had(fold, monkeypatch):
    for number in range(3):
        run(replace(OPTIONS, victim=fold("plain", 0.8, fold=number).version))
    back = replace(OPTIONS, rollback=True)
    stopped(monkeypatch, back, registry.set_alias, KeyboardInterrupt)
    assert champion() == "2"
    run(back)
    assert champion() == "1"


def test_the_champion_promoted_again_replaces_nothing(fold, caplog):
    caplog.set_level("INFO", "advtrack")
    for number in range(2):
        run(replace(OPTIONS, victim=fold("plain", 0.8, fold=number).version))
    before = registry.version(NAME, "2").tags
    again = run(replace(OPTIONS, victim="2", min_accuracy=0.5))
    assert f"{NAME} version 2 is {NAME}@champion already" in caplog.text
    assert lookup.tag(lookup.get(again), "replaced") is None and registry.version(NAME, "2").tags == before
    assert "--min-accuracy" in refused(replace(OPTIONS, victim="2", min_accuracy=0.9))  # evidence counts all the same
    run(replace(OPTIONS, rollback=True))
    assert champion() == "1"


def test_there_may_be_nothing_to_go_back_to(fold, store):
    back = replace(OPTIONS, rollback=True)
    assert "has no champion" in refused(back)
    first, second = fold("plain", 0.8), fold("plain", 0.7)
    registry.set_alias(first, "champion")  # by hand
    assert f"no version is on record that {first} replaced" in refused(back)
    run(replace(OPTIONS, victim=second.version))
    store.delete_model_version(NAME, first.version)
    assert f"{NAME} version 1, which {second} replaced, is deleted" in refused(back)
    store.delete_model_version(NAME, second.version)
    assert "has no champion" in refused(back)
