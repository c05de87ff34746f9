"""The commands for open cells: the command line takes them, and they ask for what belongs to the cells beside them."""

from __future__ import annotations

import shlex

import pytest

from advtrack.attacks import TABLE_ATTACKS
from advtrack.cli import cli
from advtrack.reporting.records import AttackRecord, FoldRecord, VictimRecord
from advtrack.stages import filling
from advtrack.stages.filling import filling_command
from advtrack.tracking import runs

OFFICIAL = {"protocol": "official", "folds": "fold1,fold3", "repeats": 2, "seed": 7, "epochs": 9, "lr": 0.0004}
ALEXNET, VGG = ("esc50", "stft", "alexnet"), ("esc50", "stft", "vgg16")


def parsed(command):
    """The stage and the options of each command of a line, as the command line reads them."""
    found = []
    for single in command.split(" && "):
        program, stage, *arguments = shlex.split(single)
        assert program == "advtrack"
        found.append((stage, cli.commands[stage].make_context(stage, arguments).params))
    return found


def made(stage, params):
    """A finished run that was given these options."""
    with runs.stage_run(stage, 1, params, title="", params=params, tags={"store_digest": "d1"}) as run:
        return run.run_id


@pytest.fixture
def searched(store):
    """Leave a run that searched these attacks with some options; their records."""

    def make(*attacks, **options):
        run = made("attack", {"attacks": ",".join(attacks), **filling._SEARCHING, **options})
        values = {
            "norm": "linf", "target_reached": True, "target_fooling_rate": 0.9, "fooling_rate": 0.9, "bound": 0.01,
            "missed_at": None, "iterations": 9, "settings": {}, "perturbation": 0.01, "l0": 1.0, "l2": 1.0,
            "linf": 0.01, "samples": 9, "seed": 0, "sample_limit": 0, "longest": 9, "transferred_fooling_rate": None,
            "plain_run_id": None, "passes": 9,
        }  # fmt: skip
        return {attack: AttackRecord(attack=attack, run_id=run, **values) for attack in attacks}

    return make


@pytest.fixture
def trained(store):
    """Leave a training that was given some options; the record of its victim."""

    def make(cell=ALEXNET, training="plain", attacks=None, code="1", **options):
        run = made("train", {"cell": cell, "training": training, **filling._TRAINING, **filling._HARDENING, **options})
        folds, basis = (FoldRecord(1, 0, "fold", 0.5),), {"training code": code}
        return VictimRecord(*cell, training, folds, 1, "1", run, {}, attacks or {}, basis=basis)

    return make


@pytest.fixture
def extracted(tmp_path):
    """Leave a store of spectrograms; the run that made it."""

    def make(name, **tags):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
        tags = {"dataset": "esc50", "representation": "stft", "store": tmp_path / name, "store_digest": name} | tags
        with runs.stage_run("features", 1, {"store": name}, title="", params={}, tags=tags) as run:
            return run.run_id

    return make


def test_a_robust_victim_is_trained_like_the_plain_one_and_like_other_robust_ones(trained, extracted):
    extracted("d1")
    hardened = trained(VGG, "adversarial", eps=0.01, random_eps=True)
    command = filling_command([trained(**OFFICIAL), hardened])(*ALEXNET, "adversarial", ())
    ((stage, options),) = parsed(command)
    assert stage == "adv-train"
    # The rate is AlexNet's own.
    assert {name: options[name] for name in OFFICIAL} == {**OFFICIAL, "lr": 0.0}
    assert (options["eps"], options["random_eps"], options["alpha"]) == (0.01, True, 0.5)


def test_another_network_is_trained_like_the_one_beside_it_but_at_its_own_rate_and_with_its_own_weights(
    trained, extracted
):
    extracted("d1")
    command = filling_command([trained(**{**OFFICIAL, "lr": 0.1, "weights": "imagenet"})])
    ((_, options),) = parsed(command(*VGG, "plain", ()))
    assert {name: options[name] for name in OFFICIAL} == {**OFFICIAL, "lr": 0.0}
    assert options["weights"] == "imagenet"
    ((_, options),) = parsed(command("esc50", "stft", "resnet56", "plain", ()))
    assert options["weights"] == "none"
    ((_, options),) = parsed(command(*ALEXNET, "adversarial", ()))
    assert options["lr"] == 0.1


def test_a_network_that_ran_its_own_number_of_epochs_leaves_others_theirs(trained, extracted):
    extracted("d1")
    command = filling_command([trained(**{**OFFICIAL, "epochs": 60})])  # AlexNet's own
    assert parsed(command(*VGG, "plain", ()))[0][1]["epochs"] == 0
    assert parsed(command(*ALEXNET, "adversarial", ()))[0][1]["epochs"] == 0


def test_what_does_not_belong_with_the_others_has_no_say(trained, extracted):
    extracted("d1")
    records = [trained(seed=5, code="old"), trained(VGG, seed=3), trained(("esc50", "stft", "resnet18"), seed=3)]
    ((_, options),) = parsed(filling_command(records)(*ALEXNET, "plain", ()))
    assert options["seed"] == 3


def test_of_several_stores_the_one_of_the_same_clips_is_named(trained, extracted):
    same = extracted("d1", data_digest="clips")
    extracted("d2", data_digest="other clips")
    command = filling_command([trained()])
    assert parsed(command(*VGG, "plain", ()))[0][1]["features_run"] == same
    assert parsed(command(*ALEXNET, "adversarial", ()))[0][1]["features_run"] == ""


def test_a_store_of_another_image_size_is_not_taken(trained, extracted):
    extracted("d1", height=128, width=128)
    extracted("d2", representation="dwt", height=32, width=32)
    command = filling_command([trained()])(*VGG[:1], "dwt", "vgg16", "plain", ())
    (first, _), (second, options) = parsed(command)
    assert (first, second, options["features_run"]) == ("features", "train", "newest")


def test_an_attack_strikes_as_it_struck_the_plain_victim(trained, searched):
    jsma = searched("jsma", samples="5", max_iter="20", target_fooling_rate=0.5, protocol="paper", trials=3)
    others = searched("bim_a", "pia", samples="8,pia=4", target_fooling_rate=0.5, protocol="paper", seed=2)
    command = filling_command([trained(attacks=jsma | others), trained(training="adversarial")])
    (first, second) = parsed(command(*ALEXNET, "adversarial", ("jsma", "pia")))
    assert [(stage, one["attack_name"], one["victim"]) for stage, one in (first, second)] == [
        ("attack", "jsma", "robust"), ("attack", "pia", "robust"),
    ]  # fmt: skip
    assert (first[1]["samples"], first[1]["max_iter"], first[1]["trials"]) == ("5", "20", 3)
    assert (second[1]["samples"], second[1]["seed"], second[1]["trials"]) == ("8,pia=4", 2, 24)
    assert {one["protocol"] for _, one in (first, second)} == {"paper"}
    # What nobody has searched yet has the target of the others.
    ((_, options),) = parsed(command(*ALEXNET, "plain", ("deepfool",)))
    assert options["target_fooling_rate"] == 0.5


def test_all_attacks_at_once_where_that_says_it_all(trained, searched):
    command = filling_command([trained(VGG, attacks=searched(*TABLE_ATTACKS, samples="8,pia=4"))])
    ((_, options),) = parsed(command(*ALEXNET, "plain", TABLE_ATTACKS))
    assert (options["attack_name"], options["victim"], options["samples"]) == ("all", "standard", "8,pia=4")


def test_where_the_alias_leaves_doubt_the_version_is_named(trained, registered):
    common = {"training": "plain", "store_digest": "d1", "height": 32, "width": 32}
    registered("esc50", protocol="official", **common)
    meant = registered("esc50", alias="standard", **common)
    command = filling_command([trained()])
    assert parsed(command(*ALEXNET, "plain", ("pia",)))[0][1]["victim"] == meant.version
    assert parsed(command(*ALEXNET, "adversarial", ("pia",)))[0][1]["victim"] == "robust"
