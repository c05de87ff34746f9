"""Whatever a user can get wrong ends in one clear line and exit status 2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mlflow.tracking import MlflowClient

from advtrack.data import synthetic
from advtrack.tracking import lookup


def one_line(result, *words):
    """The result is a refusal: status 2, one line of error that holds these words, no traceback."""
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in errors[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return synthetic.generate(tmp_path_factory.mktemp("clips") / "esc")


@pytest.fixture
def copy(clips, tmp_path) -> Path:
    """A folder in the ESC-50 layout that may be spoilt."""
    return Path(shutil.copytree(clips, tmp_path / "esc"))


def extract(place, folder):
    return place.advtrack(
        "features", "--dataset", "esc50", "--data-dir", str(folder), "--height", "16", "--width", "16"
    )


def test_no_data_folder(empty):
    one_line(extract(empty, empty.folder / "nowhere"), "nowhere")


def test_a_real_data_set_needs_its_folder(empty):
    one_line(empty.advtrack("features", "--dataset", "esc50"), "--data-dir")


def test_a_missing_column(empty, copy):
    table = copy / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("src_file", "source"))
    one_line(extract(empty, copy), "esc50.csv", "src_file")


def test_a_file_that_is_named_and_absent(empty, copy):
    gone = sorted((copy / "audio").iterdir())[0]
    gone.unlink()
    one_line(extract(empty, copy), gone.name)


def test_a_corrupt_file_fails_the_run_and_keeps_it(empty, copy):
    spoilt = sorted((copy / "audio").iterdir())[3]
    spoilt.write_bytes(b"no sound at all")
    one_line(extract(empty, copy), spoilt.name)
    (run,) = lookup.find({"stage": "features"})
    assert run.info.status == "FAILED"
    assert spoilt.name in lookup.tag(run, "failure")


def test_bad_clips_may_be_left_out_and_leaks_are_reported(empty, copy):
    first, second, third, fourth, fifth, *_ = sorted((copy / "audio").iterdir())
    fifth.unlink()
    fifth.mkdir()
    first.write_bytes(b"no sound at all")
    second.write_bytes(second.read_bytes()[:-50])
    shutil.copy(third, fourth)
    options = ["--dataset", "esc50", "--data-dir", str(copy), "--height", "16", "--width", "16", "--skip-bad", "true"]
    result = empty.advtrack("features", *options)
    assert result.exit_code == 0, result.output
    (run,) = lookup.find({"stage": "features"}, status="FINISHED")
    assert (run.data.metrics["clips"], run.data.metrics["skipped_clips"]) == (117, 3)
    skipped = lookup.read_artifact(run.info.run_id, "unusable.txt").decode()
    assert first.name in skipped and f"{second.name} is damaged or cut off" in skipped and fifth.name in skipped
    assert (
        f"{third.name}, {fourth.name} are the same bytes" in lookup.read_artifact(run.info.run_id, "leaks.txt").decode()
    )


def test_all_bad_clips_are_listed_before_anything_is_done(empty, copy):
    spoilt = sorted((copy / "audio").iterdir())[:14]
    for path in spoilt[1:]:
        path.write_bytes(b"")
    spoilt[0].unlink()
    one_line(extract(empty, copy), "14 of 120 clips", spoilt[0].name, "and 4 more")
    (run,) = lookup.find({"stage": "features"}, status="FAILED")
    listed = lookup.read_artifact(run.info.run_id, "unusable.txt").decode().splitlines()
    assert all(path.name in line for path, line in zip(spoilt, listed, strict=True))


def test_nothing_usable_is_said_so_even_if_bad_clips_may_be_left_out(empty, copy):
    for path in (copy / "audio").iterdir():
        path.write_bytes(b"")
    options = ["--dataset", "esc50", "--data-dir", str(copy), "--height", "16", "--width", "16", "--skip-bad", "true"]
    one_line(empty.advtrack("features", *options), "120 of 120 clips of esc50 are unusable (restore them")


def test_samples_that_are_no_numbers(empty, copy):
    spoilt = sorted((copy / "audio").iterdir())[5]
    soundfile.write(spoilt, np.full(22_050, np.nan, np.float32), 22_050, format="WAV", subtype="FLOAT")
    one_line(extract(empty, copy), spoilt.name)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "--model", "lenet"], "--model"),
        (["adv-train", "--eps", "notafloat"], "--eps"),
        (["adv-train", "--eps", "nan"], "--eps"),
        (["train", "--folds", "0"], "--folds"),
        (["attack", "--attack", "magic"], "--attack"),
        (["main", "--preset", "huge"], "--preset"),
    ],
)
def test_options_are_checked_before_anything_runs(untouched, arguments, word):
    result = untouched.advtrack(*arguments)
    one_line(result, word)
    assert len(result.output.splitlines()) == 1
    assert not (untouched.folder / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("folds=0", "folds=0"),
        ("trials=0", "trials=0"),
        ("eps=5", "eps=5"),
        ("models=lenet", "lenet"),
        ("epochs=few", "few"),
        ("colour=red", "colour"),
        ("samples=many", "many"),
        ("precision=foo", "foo"),
    ],
)
def test_overrides_are_held_against_the_options(empty, override, word):
    one_line(empty.advtrack("main", "--overrides", override), word)


def test_nothing_registered_names_the_command_to_run_first(empty):
    features = "run first: advtrack features --dataset synthetic --representation stft"
    one_line(empty.advtrack("attack", "--model", "alexnet"), f"{features} && advtrack train", "--model alexnet")
    one_line(empty.advtrack("train"), features)
    cell = "--dataset synthetic --representation stft --model alexnet"
    one_line(empty.advtrack("promote"), f"{features} && advtrack train {cell} && advtrack adv-train {cell}")
    one_line(empty.advtrack("compare", "--models", "alexnet"), f"{features} && advtrack train")


@pytest.mark.parametrize("stage", ["features", "train", "adv-train", "attack", "compare", "promote", "main"])
def test_every_stage_refuses_a_folder_or_a_gpu_that_is_not_there(untouched, stage):
    import torch

    one_line(untouched.advtrack(stage, "--data-dir", "nowhere"), "--data-dir nowhere: no such folder")
    if not torch.cuda.is_available():
        one_line(untouched.advtrack(stage, "--device", "cuda"), "--device cuda")
    assert not (untouched.folder / "mlflow.db").exists()


def test_main_refuses_a_storage_and_images_before_anything_runs(empty):
    one_line(
        empty.advtrack("main", "--storage", "sqlite:////nowhere/optuna.db"), "--storage sqlite:////nowhere/optuna.db"
    )
    one_line(empty.advtrack("main", "--overrides", "height=32 width=32"), "alexnet cannot take images of 32 x 32")
    assert not lookup.find({})


def test_passwords_are_not_repeated(empty):
    result = empty.advtrack("main", "--storage", "mysql://me:secret@127.0.0.1:9/optuna")
    one_line(result, "--storage mysql://me:***@127.0.0.1:9/optuna")
    assert "secret" not in result.output


def test_what_only_a_search_heeds_is_refused_where_nothing_is_searched(empty):
    given = ["attack", "--budget-from", "standard", "--representation", "stft"]
    for option, value in ("--trials", "5"), ("--workers", "2"), ("--criterion", "auc"):
        one_line(
            empty.advtrack(*given, option, value), f"{option} {value}: with --budget-from standard nothing is searched"
        )


def test_all_networks_are_checked_before_the_first_trains(empty, clips):
    extract(empty, clips)  # 16 x 16
    train = ["train", "--dataset", "esc50", "--model", "all", "--epochs", "1"]
    one_line(empty.advtrack(*train), "alexnet cannot take images of 16 x 16")
    wide = ["features", "--dataset", "esc50", "--data-dir", str(clips), "--height", "64", "--width", "64", "--force"]
    assert empty.advtrack(*wide, "--work-dir", "wide").exit_code == 0
    (run,) = [run for run in lookup.find({"stage": "features"}) if lookup.tag(run, "height") == "64"]
    refused = empty.advtrack(*train, "--features-run", run.info.run_id, "--weights", "none,resnet56=imagenet")
    one_line(refused, "--weights imagenet,resnet56=none")
    assert not lookup.find({"stage": "train"})


def test_bad_usage_is_told_to_the_run_that_mlflow_made(empty, monkeypatch):
    made = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    one_line(empty.advtrack("adv-train", "--eps", "notafloat"), "'notafloat' is not a valid number")
    assert "notafloat" in lookup.tag(lookup.get(made), "failure")


def test_a_tracking_server_that_is_down_is_named(tmp_path):
    """In a process of its own: the address is read from the environment."""
    program = "from advtrack.cli import cli; cli()"
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, "attack"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "http://127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    """A tracking store under a file: no permission bits are needed, which the superuser would ignore."""
    (tmp_path / "file").write_text("")
    program = "from advtrack.cli import cli; cli()"
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/file/mlflow.db"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, "attack"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "cannot be used" in done.stderr and "Traceback" not in done.stderr
