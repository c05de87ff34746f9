"""Runs repeated from their records: the same, not the same, and not to be repeated."""

from __future__ import annotations

import shutil

import pytest
import torch
import torchvision
from mlflow.tracking import MlflowClient

from advtrack.tracking import lookup, registry

pytestmark = pytest.mark.slow
NAME = "esc50-stft-resnet18"
CELL = ("--dataset", "esc50", "--model", "resnet18")
TRAIN = ("train", *CELL, "--folds", "1", "--epochs", "2")


@pytest.fixture(scope="module")
def place(few_clips, lasting):
    """A working folder with a run of each stage, on a copy of the clips."""
    shutil.copytree(few_clips, lasting.folder / "clips")
    for command in (
        ("features", "--dataset", "esc50", "--data-dir", "clips", "--height", "32", "--width", "32"),
        TRAIN,
        ("adv-train", *CELL, "--folds", "1", "--epochs", "1"),
        ("attack", *CELL, "--attack", "bim_a", "--max-iter", "5", "--trials", "4"),
        ("compare", "--dataset", "esc50"),
    ):
        result = lasting.advtrack(*command)
        assert result.exit_code == 0, result.output
    return lasting


def made(stage):
    return lookup.find({"stage": stage}, status="FINISHED")[0].info.run_id


def refused(place, run_id):
    result = place.advtrack("rerun", run_id)
    assert result.exit_code == 2, result.output
    return result.output.splitlines()[-1]


@pytest.fixture
def spoil():
    """Change a tag of a run for this test."""
    changed = []

    def change(run_id, name, value):
        changed.append((run_id, name, lookup.tag(lookup.get(run_id), name)))
        MlflowClient().set_tag(run_id, f"advtrack.{name}", value)

    yield change
    for run_id, name, before in changed:
        MlflowClient().set_tag(run_id, f"advtrack.{name}", before)


@pytest.mark.parametrize("stage", ["features", "train", "adv-train", "attack", "compare"])
def test_a_run_repeated_is_the_same_and_disturbs_nothing(place, stage):
    def state():
        aliases = {alias: registry.by_alias(NAME, alias) for alias in ("standard", "robust", "champion")}
        others = {one.info.run_id: one.info.end_time for one in lookup.find({})}
        return aliases, others

    before = state()
    result = place.advtrack("rerun", made(stage))
    assert result.exit_code == 0, result.output
    assert "the same result" in result.stdout
    assert state() == before
    fresh = lookup.get(result.stdout.split("repeated as ")[1].split(":")[0])
    assert lookup.tag(fresh, "rerun_of") == made(stage) and lookup.tag(fresh, "same_result") == "True"
    assert fresh.info.status == "FINISHED" and fresh.info.run_id != made(stage)


def test_training_that_is_done_is_not_taken_from_a_repeated_run(place):
    trained = made("train")
    assert place.advtrack("rerun", trained).exit_code == 0
    result = place.advtrack(*TRAIN)
    assert result.exit_code == 0 and registry.by_alias(NAME, "standard").tags["train_run"] == trained
    assert "rerun_of" in registry.versions(NAME)[0].tags


def test_another_result_is_told_with_both_values_and_status_one(place):
    trained = made("train")
    right = lookup.get(trained).data.metrics["test_accuracy"]
    MlflowClient().log_metric(trained, "test_accuracy", 0.123)
    result = place.advtrack("rerun", trained)
    MlflowClient().log_metric(trained, "test_accuracy", right)
    assert result.exit_code == 1
    verdict, difference = result.stdout.splitlines()
    assert "1 of " in verdict and difference == f"test_accuracy: 0.123 before, {right!r} now"


def test_what_cannot_be_repeated_is_named(place):
    trained, fold = made("train"), made("fold")
    assert refused(place, "0" * 32) == (
        f"Error: RUN_ID '{'0' * 32}': there is no such run in sqlite:///{place.folder}/mlflow.db"
    )
    assert "no such run" in refused(place, "nonsense")
    assert refused(place, fold).endswith(f"is a fold: repeat its training, advtrack rerun {made('adv-train')}")
    assert place.advtrack("promote", *CELL).exit_code == 0
    assert "of stage promote: only runs of features, train, " in refused(place, made("promote"))
    MlflowClient().set_terminated(trained, "FAILED")
    assert "is FAILED: only a finished run" in refused(place, trained)
    MlflowClient().set_terminated(trained, "FINISHED")
    MlflowClient().delete_run(trained)
    assert f"mlflow runs restore --run-id {trained}" in refused(place, trained)
    MlflowClient().restore_run(trained)


def test_a_run_of_other_code_is_refused(place, spoil):
    spoil(made("attack"), "code_version", "0")
    assert "made by version 0 of the code of attack, this is version" in refused(place, made("attack"))


def test_adversarial_training_is_repeated_beside_the_plain_victim_that_it_had(place):
    """Wherever ``standard`` points by now: here at another fold and seed."""
    moved = registry.version(NAME, lookup.tag(lookup.get(made("adv-train")), "standard").split("/")[1])
    assert place.advtrack("train", *CELL, "--folds", "fold1", "--epochs", "1", "--seed", "1").exit_code == 0
    assert registry.by_alias(NAME, "standard").version != moved.version
    result = place.advtrack("rerun", made("adv-train"))
    registry.set_alias(moved, "standard")
    assert result.exit_code == 0 and "the same result" in result.stdout, result.output


def test_weights_that_have_changed_are_named(place):
    file = place.folder / "w.pt"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    standard = registry.by_alias(NAME, "standard")
    result = place.advtrack("train", *CELL, "--folds", "fold0", "--epochs", "1", "--weights", "w.pt")
    assert result.exit_code == 0, result.output
    trained = made("train")
    file.write_bytes(file.read_bytes() + b"0")
    told = refused(place, trained)
    file.unlink()
    assert "--weights w.pt: the file has changed, its digest is" in told and trained in told
    assert "--weights w.pt: no such file" in refused(place, trained)
    MlflowClient().delete_run(trained)
    registry.set_alias(standard, "standard")


def test_clips_that_have_changed_or_are_gone_are_named(place):
    clips = place.folder / "clips"
    first = clips / "audio" / "0.wav"
    first.write_bytes((clips / "audio" / "2.wav").read_bytes())
    assert "clips has changed: its digest is" in refused(place, made("features"))
    shutil.rmtree(clips)
    assert "clips" in refused(place, made("features"))


def test_spectrograms_that_are_damaged_or_gone_are_named(place):
    """The last test here: it leaves none."""
    (store,) = (place.folder / "work" / "stores").iterdir()
    shard = next(store.glob("*.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert f"{store} is damaged" in refused(place, made("train"))
    shutil.rmtree(store)
    assert "no spectrograms of esc50 as stft with digest" in refused(place, made("attack"))
