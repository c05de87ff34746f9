"""The whole experiment in small, and what it leaves in MLflow, the registry and Optuna."""

from __future__ import annotations

import json
import shlex

import mlflow
import numpy as np
import optuna
import pytest
from mlflow.tracking import MlflowClient

from advtrack.attacks import TABLE_ATTACKS
from advtrack.data import clip
from advtrack.stages.sample_table import read_samples
from advtrack.tracking import lookup, registry
from advtrack.training.fit import probabilities

NAME = "synthetic-stft-resnet18"


def test_main_prints_the_tables_the_report_and_how_to_look_at_it(finished):
    place, result = finished
    assert result.exit_code == 0, result.output
    for line in ("Table I:", "Table II:", "Table III:", "Report:", "advtrack dashboard"):
        assert line in result.output
    assert (place.folder / "work" / "report.html").stat().st_size > 10_000


def test_every_stage_is_one_finished_run_every_fold_one_under_it_and_there_are_no_others(finished):
    client = MlflowClient()
    made = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {run.info.status for run in made} == {"FINISHED"}
    folds = [run for run in made if lookup.tag(run, "stage") == "fold"]
    stages = [run for run in made if lookup.tag(run, "stage") != "fold"]
    named = ["main", "features", "train", "adv-train", "attack", "attack", "compare"]
    assert sorted(lookup.tag(run, "stage") for run in stages) == sorted(named)
    assert all(lookup.tag(run, "code_version") for run in stages)
    trainings = {run.info.run_id for run in stages if lookup.tag(run, "stage") in ("train", "adv-train")}
    assert len(folds) == 2 and {lookup.parent(run) for run in folds} == trainings
    assert all("mlflow.parentRunId" not in run.data.tags for run in stages)


def test_aliases_point_at_the_same_fold_of_both_trainings(finished):
    standard, robust = registry.by_alias(NAME, "standard"), registry.by_alias(NAME, "robust")
    assert standard and robust and standard.version != robust.version
    assert (standard.tags["training"], robust.tags["training"]) == ("plain", "adversarial")
    assert standard.tags["fold"] == robust.tags["fold"]


def test_lineage_leads_from_the_attack_to_the_data(finished):
    attack = lookup.find({"stage": "attack", "training": "plain"})[0]
    fold = lookup.get(lookup.tag(attack, "victim_run"))
    features = lookup.get(lookup.tag(fold, "features_run"))
    assert features.inputs.dataset_inputs[0].dataset.name == "synthetic"
    assert features.data.metrics["images"] == 120
    assert lookup.tag(features, "data_digest") == features.inputs.dataset_inputs[0].dataset.digest
    for run in lookup.find({}, status="FINISHED"):
        if lookup.tag(run, "code_version"):  # every stage and fold logs what data it is about
            assert lookup.inputs(run.info.run_id)[0][:2] == ("synthetic", lookup.tag(features, "data_digest"))
            assert run.data.params and run.data.metrics


def test_each_attack_leaves_a_study_a_result_and_a_per_sample_table(finished):
    place, _ = finished
    studies = optuna.get_all_study_names(f"sqlite:///{place.folder / 'optuna.db'}")
    assert len(studies) == 2 * len(TABLE_ATTACKS)
    attack = lookup.find({"stage": "attack", "training": "plain"})[0].info.run_id
    for name in TABLE_ATTACKS:
        result = json.loads(lookup.read_artifact(attack, f"{name}/result.json"))
        fooled = [row.success for row in read_samples(attack, name)]
        assert result["samples"] == len(fooled)
        assert result["fooling_rate"] == pytest.approx(sum(fooled) / len(fooled))
        assert result["target_reached"] == (result["fooling_rate"] >= 0.9)


def test_a_search_leaves_its_curve_its_front_and_the_signs_of_masking(finished):
    attack = lookup.find({"stage": "attack", "training": "plain"})[0]
    for name in TABLE_ATTACKS:
        result = json.loads(lookup.read_artifact(attack.info.run_id, f"{name}/result.json"))
        kept = set(lookup.files(attack.info.run_id, name))
        assert {
            f"{name}/{file}" for file in ("curve.csv", "curve.png", "front.csv", "norms.json", "trials.csv")
        } <= kept
        assert result["fooling_low"] <= result["fooling_rate"] <= result["fooling_high"]
        assert result["auc_low"] <= result["auc_high"]
        front = lookup.read_artifact(attack.info.run_id, f"{name}/front.csv").decode().splitlines()[1:]
        assert bool(front) == result["target_reached"]
    signs = {"one_step_beats_many", "unbounded_fails", "more_iterations_do_not_help", "gradients_vanish"}
    assert signs <= lookup.prefixed_tags(attack, "masking.").keys()
    numbers = {name: json.loads(text) for name, text in lookup.prefixed_tags(attack, "masking_numbers.").items()}
    assert numbers["one_step_beats_many"]["many_steps"] == attack.data.metrics["masking/many_steps"]
    black_box = numbers["black_box_beats_white_box"]
    assert black_box["clips"] > 0 and black_box.keys() >= {"black_box_nearer", "pia_median_eps"}
    assert 0 <= attack.data.metrics["masking/one_step"] <= 1


def test_a_study_tells_the_dashboard_what_it_found(finished):
    place, _ = finished
    attack = lookup.find({"stage": "attack", "training": "plain"})[0]
    name = lookup.tag(attack, "bim_a.study")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{place.folder / 'optuna.db'}")
    assert study.user_attrs["mlflow_run"] == attack.info.run_id
    assert study.user_attrs["command"].startswith("advtrack attack --dataset synthetic --model resnet18")
    note = " ".join(map(str, study._storage.get_study_system_attrs(study._study_id).values()))
    assert "the target" in note and attack.info.run_id in note and "![curve.png](/artifacts/" in note
    files = [path.read_bytes() for path in (place.folder / "optuna-artifacts").iterdir()]
    assert lookup.read_artifact(attack.info.run_id, "bim_a/curve.png") in files


def test_perturbations_of_a_robust_victim_are_held_against_the_plain_one(finished):
    plain, robust = (lookup.find({"stage": "attack", "training": kind})[0] for kind in ("plain", "adversarial"))
    # DeepFool and PIA have one where they fool enough of both.
    attack = next(name for name in ("deepfool", "pia") if f"{name}/ratio_l2" in robust.data.metrics)
    for norm in ("l0", "l2", "linf"):
        ratio, low, high = (robust.data.metrics[f"{attack}/ratio_{norm}{end}"] for end in ("", "_low", "_high"))
        assert low <= ratio <= high
        norms = [attacked.data.metrics[f"{attack}/{norm}"] for attacked in (robust, plain)]
        assert ratio == pytest.approx(norms[0] / norms[1], rel=1e-4)  # of rounded numbers


def test_table_two_is_the_mean_of_the_transferred_rates(finished):
    robust = lookup.find({"stage": "attack", "training": "adversarial"})[0].info.run_id
    rates = [
        json.loads(lookup.read_artifact(robust, f"{name}/result.json"))["transferred_fooling_rate"]
        for name in TABLE_ATTACKS
    ]
    comparison = lookup.find({"stage": "compare"})[0].info.run_id
    header, line = lookup.read_artifact(comparison, "table_II.csv").decode().splitlines()[:2]
    value = dict(zip(header.split(","), line.split(","), strict=False))["resnet18"]
    assert float(value) == pytest.approx(100 * np.mean(rates), rel=1e-6)


def test_a_models_page_has_its_row_of_the_tables(finished):
    described = MlflowClient().get_registered_model(NAME).description
    comparison = lookup.find({"stage": "compare"})[0].info.run_id
    for number in ("I", "II", "III"):
        line = lookup.read_artifact(comparison, f"table_{number}.md").decode().splitlines()[4]
        cell = line.split("|")[3].strip()
        # MLflow's Markdown takes [...] (2) for a link.
        assert cell.replace("[", r"\[") in described, (number, described)
    assert comparison in described


def test_the_second_call_does_nothing_again(finished, overrides):
    place, _ = finished
    before = {run.info.run_id for run in lookup.find({"stage": "attack"})}
    result = place.advtrack("main", "--overrides", overrides)
    assert result.exit_code == 0, result.output
    assert {run.info.run_id for run in lookup.find({"stage": "attack"})} == before
    assert len(lookup.find({"stage": "fold"})) == 2


def test_the_users_own_example_works_once_a_model_is_trained(finished):
    place, _ = finished
    arguments = ["--model", "resnet18", "--attack", "deepfool", "--samples", "6,pia=2,jsma=3"]
    result = place.advtrack("attack", *arguments, "--max-iter", "10,jsma=20,pia=10", "--trials", "6")
    assert result.exit_code == 0, result.output
    assert lookup.find({"stage": "attack"})[0].data.metrics["deepfool/fooling_rate"] > 0


def test_the_search_asked_for_last_is_the_one_shown(finished):
    place, _ = finished
    search = ["attack", "--model", "resnet18", "--attack", "deepfool", "--max-iter", "10", "--samples"]

    def shown():
        version = registry.by_alias(NAME, "standard")
        return lookup.get(version.tags["attack.deepfool"]).data.metrics["deepfool/samples"]

    for samples in (3, 2, 3):  # the last of them is only reused
        assert place.advtrack(*search, str(samples)).exit_code == 0
        assert shown() == samples


def test_a_pair_that_differs_in_more_than_its_training_is_refused(finished):
    place, _ = finished
    result = place.advtrack("adv-train", "--dataset", "synthetic", "--model", "resnet18", "--seed", "1")
    assert result.exit_code == 2 and "--seed 1" in result.output and "give --seed 0" in result.output


def test_the_registered_model_takes_waveforms(finished):
    place, _ = finished
    version = registry.by_alias(NAME, "standard")
    victim_run = lookup.get(version.run_id)
    lines = lookup.read_artifact(victim_run.info.run_id, "test_predictions.csv").decode().splitlines()
    expected = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    waveform, rate = clip.decode(place.folder / "work" / "synthetic" / "audio" / expected["clip"])
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@standard")
    (answer,) = model.predict({"waveform": waveform[None].astype(np.float32)}, params={"sampling_rate": rate})
    assert answer["label"] == expected["predicted"]
    # The store keeps float16 images, the served model computes its own in float32.
    assert answer["probabilities"][answer["label"]] == pytest.approx(float(expected["probability"]), abs=5e-3)


def test_promotion_lists_every_unmet_threshold_then_moves_the_champion(finished):
    place, _ = finished
    refused = place.advtrack("promote", "--model", "resnet18", "--min-accuracy", "1", "--max-fooling-rate", "0")
    assert refused.exit_code == 2
    assert "--min-accuracy 1" in refused.output and "for --max-fooling-rate: the search in run" in refused.output
    assert "it struck 6 clips, of --min-samples 10" in refused.output
    assert registry.by_alias(NAME, "champion") is None
    assert lookup.find({"stage": "promote"})[0].info.status == "FAILED"
    accepted = place.advtrack("promote", "--model", "resnet18")
    assert accepted.exit_code == 0, accepted.output
    assert registry.by_alias(NAME, "champion").version == registry.by_alias(NAME, "robust").version


def test_a_name_given_twice_counts_once(finished):
    place, _ = finished
    result = place.advtrack("compare", "--models", "resnet18,resnet18", "--representation", "stft")
    assert result.exit_code == 0 and result.output.count("resnet18 |") == 3


def test_a_report_that_cannot_be_written_is_one_line(finished):
    place, _ = finished
    (place.folder / "file").write_text("in the way")
    result = place.advtrack("compare", "--models", "resnet18", "--work-dir", "file")
    assert result.exit_code == 2 and "file" in result.output.splitlines()[-1] and "Traceback" not in result.output


def test_missing_cells_name_the_command_that_fills_them(finished):
    place, _ = finished
    result = place.advtrack("compare", "--models", "resnet18,alexnet", "--representation", "stft")
    assert result.exit_code == 0, result.output
    train = "advtrack train --dataset synthetic --representation stft --model alexnet"
    assert f"`{train} --folds 1 --epochs 6 --batch-size 16 --augmentation roll`" in result.output
    result = place.advtrack("compare", "--models", "resnet18", "--representation", "dwt")
    assert result.exit_code == 2  # nothing of it is there
    features = "advtrack features --dataset synthetic --representation dwt --height 32 --width 32"
    assert f"{features} && advtrack train" in result.output


def test_predictions_of_a_victim_are_those_of_its_network(finished):
    """Test accuracy in the registry is reproduced from the checkpoint and the store."""
    from advtrack.models import checkpoint
    from advtrack.stages.features import find_store
    from advtrack.stages.fold import split_store

    version = registry.by_alias(NAME, "standard")
    victim = checkpoint.load(registry.download(version))
    store, _ = find_store("synthetic", "stft")
    test = split_store(store, "paper", 0, 0).test
    accuracy = (probabilities(victim.network, store, test).argmax(1) == store.y[test]).mean()
    assert accuracy == pytest.approx(float(version.tags["accuracy"]), abs=1e-4)


def test_budgets_found_on_one_victim_are_tried_on_another(finished):
    place, _ = finished
    robust = registry.by_alias(NAME, "robust").tags["attack.bim_b"]
    plain = registry.by_alias(NAME, "standard").tags["attack.bim_b"]
    asked = ["attack", "--model", "resnet18", "--victim", "robust", "--samples", "6,pia=2,jsma=3"]
    for origin in (plain, "standard"):
        result = place.advtrack(*asked, "--attack", "bim_b", "--budget-from", origin)
        assert result.exit_code == 0, result.output
    found = lookup.find({"stage": "transfer"})
    assert len(found) == 1  # the same budgets
    record = json.loads(lookup.read_artifact(robust, "bim_b/result.json"))
    assert found[0].data.metrics["bim_b/fooling_rate"] == pytest.approx(record["transferred_fooling_rate"], rel=1e-5)
    assert registry.by_alias(NAME, "robust").tags["attack.bim_b"] == robust  # its own search remains the one shown
    for origin, named in (("0" * 32, "no budget of bim_b"), ("nobody", "nobody"), ("99", "99")):
        result = place.advtrack(*asked, "--attack", "bim_b", "--budget-from", origin)
        assert result.exit_code == 2 and named in result.output and len(result.output.splitlines()) == 1


def test_the_papers_protocol_strikes_more_than_the_test_clips(finished):
    place, _ = finished
    search = [
        "attack",
        "--model",
        "resnet18",
        "--attack",
        "deepfool",
        "--max-iter",
        "5",
        "--target-fooling-rate",
        "0.5",
    ]
    clips = {}
    for protocol in ("test", "paper"):
        result = place.advtrack(*search, "--protocol", protocol)
        assert result.exit_code == 0, result.output
        clips[protocol] = lookup.find({"stage": "attack"})[0].data.metrics["deepfool/samples"]
    assert clips["paper"] > 2 * clips["test"]


def test_the_command_in_the_note_finds_the_finished_search(finished, caplog):
    place, _ = finished
    attack = lookup.find({"stage": "attack", "training": "adversarial"})[0]
    name = lookup.tag(attack, "bim_b.study")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{place.folder / 'optuna.db'}")
    trials = len(study.trials)
    caplog.set_level("INFO", "advtrack")
    result = place.advtrack(*shlex.split(study.user_attrs["command"])[1:])
    assert result.exit_code == 0, result.output
    assert "bim_b: already searched" in caplog.text and len(study.trials) == trials
