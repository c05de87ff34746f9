"""Folds in a real MLflow store: what is trained again, and what is not."""

import os
import signal
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import sleep

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from advtrack.cli import cli
from advtrack.errors import InputError
from advtrack.models.checkpoint import load
from advtrack.processes import Terminated
from advtrack.representations.image import ImageSettings
from advtrack.stages import adversarial_train, fold
from advtrack.stages import train as stage
from advtrack.stages.predictions import pooled, read_predictions
from advtrack.stages.train import Training, read_folds, train_folds, weights_digest
from advtrack.stages.victims import only_victim, recipe
from advtrack.tracking import lookup, registry
from advtrack.training import fit
from advtrack.training.history import Epoch

NAME = "sounds-stft-resnet56"


class Store:
    """Sixty noisy images of two classes."""

    digest, classes, shape = "digest", ("dog", "rain"), (1, 8, 8)
    data_digest, path = "data digest", "somewhere"
    settings = ImageSettings(height=8, width=8, duration=1.0, wavelet_rate=8000)
    y = np.arange(60) % 2
    scale = np.ones(60)
    fold = np.arange(60) // 2 % 3 + 1
    name = np.array([f"{i}.wav" for i in range(60)])
    source = np.array([f"{i}" for i in range(60)])

    def moments(self, indices):
        return 0.5, 0.3

    def images(self, indices):
        noise = np.random.default_rng(0).random((60, 1, 8, 8)).astype(np.float32)
        return (noise / 2 + self.y[:, None, None, None] / 2)[indices].astype(np.float32)


OPTIONS = Training(
    dataset="sounds", model="resnet56", representation="stft", features_run="", weights="none", folds="1", epochs=2,
    patience=0, batch_size=16, lr=1e-3, seed=0, device="cpu", work_dir="work",
)  # fmt: skip


@pytest.fixture
def train(store):
    """Train with some options changed; the MLflow run."""

    def call(**changes):
        return train_folds(replace(OPTIONS, **changes), "none", Store(), "features", standard=None)

    return call


@pytest.fixture
def epochs(monkeypatch):
    """The epochs that are trained."""
    trained, original = [], fit._train_epoch

    def spy(network, data, train, settings, progress, *others):
        trained.append(len(progress.history) + 1)
        return original(network, data, train, settings, progress, *others)

    monkeypatch.setattr(fit, "_train_epoch", spy)
    return trained


def test_a_fold_that_could_not_be_registered_is_not_trained_again(train, epochs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(registry, "register", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train()
    (failed,) = lookup.find({"stage": "fold"})
    assert failed.info.status == "FAILED" and epochs == [1, 2]
    train()
    assert epochs == [1, 2]  # its weights were kept
    (fold,) = lookup.find({"stage": "fold"})
    assert fold.info.run_id == failed.info.run_id and fold.info.status == "FINISHED"
    assert [version.version for version in registry.versions(NAME)] == ["1"]
    assert recipe(registry.by_alias(NAME, "standard")) == {
        "store_digest": "digest", "seed": "0", "weights_digest": "none", "protocol": "paper",
    }  # fmt: skip


def test_a_run_stays_unfinished_until_its_version_is_known(train, monkeypatch):
    seen = []
    original = registry.register

    def register(name, model_uri, run_id, *others):
        seen.append(lookup.get(run_id).info.status)
        return original(name, model_uri, run_id, *others)

    monkeypatch.setattr(registry, "register", register)
    train()
    assert seen == ["RUNNING"]


def test_plain_training_does_not_depend_on_alpha_nor_on_the_number_of_folds(train, epochs):
    first = train()
    assert train(alpha=0.3) == first
    train(folds="2")
    assert epochs == [1, 2, 1, 2]  # the second fold alone
    train(lr=2e-3)
    assert epochs == [1, 2] * 3


def test_a_version_that_was_deleted_is_not_reused(train, epochs, store):
    train()
    store.delete_model_version(NAME, "1")
    with pytest.raises(InputError, match=r"version 1 is deleted.*--force"):
        train()
    train(folds="2")
    assert epochs == [1, 2] * 3  # fold 0 anew, and fold 1
    assert sorted(version.version for version in registry.versions(NAME)) == ["2", "3"]


def test_force_trains_from_the_first_epoch(train, epochs):
    train()
    train(force=True)
    assert epochs == [1, 2, 1, 2]


def test_copies_are_trained_on_with_their_originals_whatever_their_names():
    store = Store()
    store.scale, store.name = np.tile([1.0, 0.9], 30), np.repeat("same.wav", 60)
    assert fold.with_copies(store, np.array([4, 8])).tolist() == [4, 5, 8, 9]


def test_images_that_a_network_cannot_take_are_refused_before_anything_runs(train):
    with pytest.raises(InputError, match=r"alexnet cannot take images of 8 x 8"):
        train(model="alexnet")
    assert not lookup.find({})


def test_a_moving_alias_is_named(train, caplog, monkeypatch):
    train()
    monkeypatch.setattr(Store, "digest", "other")
    train()
    assert f"{NAME}@standard moves from version 1, of other spectrograms (8 x 8), to version 2" in caplog.text


def test_the_clips_of_every_repeat_can_be_divided_before_the_first_is_trained(train, monkeypatch):
    original = fold.split_store

    def dividing(store, protocol, seed, number):
        if seed == 2:
            raise InputError("these clips cannot be divided")
        return original(store, protocol, seed, number)

    monkeypatch.setattr(stage, "split_store", dividing)
    with pytest.raises(InputError, match="cannot be divided"):
        train(repeats=3)
    assert not lookup.find({})


def test_an_alias_that_leaves_a_better_fold_or_another_protocol_says_so(train, caplog, monkeypatch):
    monkeypatch.setattr(fit, "_evaluate", lambda *arguments: (1.0, 0.75))
    train()
    monkeypatch.setattr(fit, "_evaluate", lambda *arguments: (1.0, 0.5))
    train(lr=2e-3)
    assert "moves from version 1, trained otherwise and better (75.0% on its early-stopping part)" in caplog.text
    train(protocol="official", folds="fold1")
    assert "moves from version 2, of the paper protocol, to version 3 (8 x 8, official protocol, 50.0%)" in caplog.text
    caplog.clear()
    train(protocol="official", folds="fold1")
    assert "moves from" not in caplog.text


def test_two_processes_train_a_fold_once(train, epochs, monkeypatch):
    """The second waits until the first, played by a thread that holds its lock, has finished the fold."""
    original, second = fold._train, []

    def meanwhile(*arguments):
        if second:
            return original(*arguments)
        second.append(Thread(target=lambda: second.append(train(folds="2"))))
        second[0].start()
        sleep(0.5)  # it has reached the lock
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fold, "_train", meanwhile)
        train()
    second[0].join()
    assert [version.version for version in registry.versions(NAME)] == ["2", "1"]


def test_a_file_of_weights_counts_by_its_bytes(tmp_path):
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    assert weights_digest(str(first)) == weights_digest(str(second))
    second.write_bytes(b"two")
    assert weights_digest(str(first)) != weights_digest(str(second))


@pytest.mark.parametrize(
    ("model", "weights", "lr", "epochs"),
    [
        ("alexnet", "none", 4e-4, 60),
        ("vgg16", "none", 1e-4, 80),
        ("resnet18", "none", 2e-3, 40),
        ("vgg16", "imagenet", 2e-4, 40),
    ],
)
def test_what_is_left_to_the_network_is_its_own(monkeypatch, store, model, weights, lr, epochs):
    """And the run says what that was."""
    seen = []
    monkeypatch.setattr("advtrack.stages.train.trained_fold", lambda task, *_: seen.append(task) or 1 / 0)
    monkeypatch.setattr("advtrack.stages.train.check_size", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        train_folds(replace(OPTIONS, model=model, lr=0.0, epochs=0), weights, Store(), "features", standard=None)
    (task,) = seen
    assert (task.settings.lr, task.settings.epochs) == (task.params["lr"], task.params["epochs"]) == (lr, epochs)


def test_every_fold_knows_its_training(train):
    """An alias may be moved to any of them by hand."""
    train(folds="2")
    assert len({version.tags["train_run"] for version in registry.versions(NAME)}) == 1


def test_a_fold_leaves_all_that_tells_what_it_is_and_how_it_came_to_be(train, store):
    train(eps=0.1)
    (fold,) = lookup.find({"stage": "fold"})
    assert (fold.data.params["epochs"], fold.data.params["fold"], fold.data.params["eps"]) == ("2", "0", "0.1")
    for name in ("train_loss", "stop_loss", "stop_accuracy"):
        assert [metric.step for metric in store.get_metric_history(fold.info.run_id, name)] == [1, 2]
    assert fold.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert fold.data.metrics["system/system_memory_usage_megabytes"] > 0
    (given,) = fold.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("sounds", "data digest")
    assert [(tag.key, tag.value) for tag in given.tags] == [("manifest_digest", "digest")]
    (version,) = registry.versions(NAME)
    told = {name: version.tags[name] for name in ("training", "fold", "repeat", "eps", "data_digest")}
    assert told == {"training": "adversarial", "fold": "0", "repeat": "0", "eps": "0.1", "data_digest": "data digest"}
    assert float(version.tags["accuracy"]) == pytest.approx(fold.data.metrics["test_accuracy"], abs=1e-4)
    assert (
        "adversarial training, fold 0 of the paper protocol, repeat 0" in store.get_model_version(NAME, "1").description
    )
    assert "`champion`" in store.get_registered_model(NAME).description


def test_adversarial_training_takes_the_plain_victims_spectrograms(store, monkeypatch):
    """However many others there are."""
    asked = []
    victim = registry.Registered(NAME, "1", "run", {
        "features_run": "theirs", "seed": "0", "weights": "none", "weights_digest": "none", "store_digest": "digest",
        "fold": "0", "protocol": "paper",
    })  # fmt: skip
    monkeypatch.setattr(adversarial_train, "find_victim", lambda *arguments: victim)
    monkeypatch.setattr(adversarial_train, "check_size", lambda *arguments: None)
    monkeypatch.setattr(
        adversarial_train, "find_store", lambda *names, features_run: (asked.append(features_run), (Store(), "r"))[1]
    )
    adversarial_train.check(replace(OPTIONS, eps=0.1))
    assert asked == ["theirs"]


def test_the_publishers_folds_are_trained_by_their_numbers_and_never_compared_with_the_papers(train, store):
    paper = train(folds="1")
    official = train(protocol="official", folds="fold2,fold3")
    assert train(protocol="official", folds="fold2,fold3") == official != paper
    folds = read_folds(official)
    assert [fold.fold for fold in folds] == [2, 3]
    for found in folds:
        tested = {row["clip"] for row in read_predictions(found.run_id)}
        assert tested == {f"{i}.wav" for i in np.flatnonzero(Store.fold == found.fold)}
        assert lookup.tag(lookup.get(found.run_id), "protocol") == "official"
    assert recipe(registry.version(NAME, "1")) != recipe(registry.version(NAME, "2"))
    with pytest.raises(
        InputError, match=r"say which version: \d \(8 x 8, official protocol\), 1 \(8 x 8, paper protocol"
    ):
        only_victim("sounds", "stft", "resnet56", "standard")
    metrics = lookup.get(official).data.metrics
    assert metrics["folds"] == 2
    for name in ("test_accuracy", "test_macro_f1"):
        values = [getattr(fold, name) for fold in folds]
        assert metrics[name] == pytest.approx(np.mean(values), rel=1e-5)
        assert metrics[f"{name}_std"] == pytest.approx(np.std(values, ddof=1), rel=1e-5)
    assert {"confusion.png", "folds.json"} <= set(lookup.files(official))
    matrix, intervals = pooled([fold.run_id for fold in folds], Store.classes)
    ends = {f"{name}_{end}" for name in ("test_accuracy", "test_macro_f1") for end in ("low", "high")}
    assert intervals == pytest.approx({name: metrics[name] for name in ends}, rel=1e-5)
    for one in (metrics, *(lookup.get(found.run_id).data.metrics for found in folds)):
        for name in ("test_accuracy", "test_macro_f1"):
            assert 0 <= one[f"{name}_low"] <= one[name] <= one[f"{name}_high"] <= 1
    assert matrix.sum() == 40 and np.trace(matrix) / 40 == pytest.approx(metrics["test_accuracy"], rel=1e-5)


def test_a_repeat_is_a_run_with_the_next_seed(train, epochs):
    repeated = read_folds(train(repeats=2))
    assert [(fold.repeat, fold.fold) for fold in repeated] == [(0, 0), (1, 0)]
    assert epochs == [1, 2] * 2
    tested = [{row["clip"] for row in read_predictions(fold.run_id)} for fold in repeated]
    assert tested[0] != tested[1]
    (second,) = read_folds(train(seed=1))
    assert second.run_id == repeated[1].run_id and epochs == [1, 2] * 2
    tags = [registry.version(NAME, fold.version).tags for fold in repeated]
    assert [(tag["repeat"], tag["seed"]) for tag in tags] == [("0", "0"), ("1", "1")]


@pytest.mark.parametrize(
    ("text", "protocol", "expected"),
    [
        ("all", "paper", (0, 1, 2, 3, 4)),
        ("2", "paper", (0, 1)),
        ("fold3,fold0,fold3", "paper", (3, 0)),
        ("all", "official", (1, 2, 3)),
        ("2", "official", (1, 2)),
        ("fold3", "official", (3,)),
    ],
)
def test_folds_are_chosen_by_number_or_by_name(text, protocol, expected):
    assert fold.chosen_folds(text, protocol, Store.fold) == expected


@pytest.mark.parametrize(
    ("text", "protocol"), [("6", "paper"), ("fold5", "paper"), ("4", "official"), ("fold0", "official")]
)
def test_folds_that_are_not_there_are_refused(text, protocol):
    with pytest.raises(InputError, match=rf"--folds {text}: the {protocol} protocol has fold\d, "):
        fold.chosen_folds(text, protocol, Store.fold)


@pytest.mark.parametrize("copy", [False, True])
def test_a_recording_under_two_folds_is_refused_before_anything_runs(train, monkeypatch, copy):
    sources, scales = Store.source, Store.scale
    # Which clips are trained on depends on the recordings: the first is planted that would be.
    for planted in range(40):
        source, scale = sources.copy(), scales.copy()
        source[planted], scale[planted] = sources[2], 0.9 if copy else 1.0  # clip 2 is of fold 2
        monkeypatch.setattr(Store, "source", source)
        monkeypatch.setattr(Store, "scale", scale)
        try:
            fold.split_store(Store(), "official", 0, 2)
        except InputError as error:
            if "in training and test" in str(error):
                break
    with pytest.raises(InputError, match=r"leak: recording 2 in training and test"):
        train(protocol="official", folds="fold2")
    assert not lookup.find({})


def weights_digest_of(fold):
    return load(registry.download(registry.version(NAME, fold.version))).checkpoint_id


def test_a_termination_marks_both_runs_and_the_same_command_continues_them(train, epochs, monkeypatch):
    undisturbed = weights_digest_of(read_folds(train(work_dir="elsewhere"))[0])
    original = fit._train_epoch

    def terminated(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_train_epoch", terminated)
        with pytest.raises(Terminated):
            train(force=True)
    killed = [run for run in lookup.find({}) if run.info.status == "KILLED"]
    assert {lookup.tag(run, "stage") for run in killed} == {"train", "fold"}
    (state,) = Path("work/training").glob("*.pt")
    assert len(torch.load(state, weights_only=True)["losses"]) == 1
    store_of_runs = MlflowClient()
    for run in lookup.find({}, status="FINISHED"):  # else they would be reused
        store_of_runs.delete_run(run.info.run_id)
    epochs.clear()
    (fold,) = read_folds(train())
    assert epochs == [1, 2] and fold.run_id in {run.info.run_id for run in killed}
    assert [one.step for one in store_of_runs.get_metric_history(fold.run_id, "train_loss")] == [1, 2]
    assert weights_digest_of(fold) == undisturbed
    assert not state.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [([], "The same command goes on from here."), (["--force"], "With --force the same command begins anew.")],
)
def test_a_command_that_is_terminated_says_so_and_ends_as_a_shell_expects(store, monkeypatch, options, told):
    def terminated(training):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(stage, "check", terminated)
    monkeypatch.setattr("advtrack.cli.group.prepare_logging", lambda: None)  # for good, and for all tests
    result = CliRunner().invoke(cli, ["train", *options])
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.output == f"Terminated. {told}\n"


def test_overfitting_to_one_step_is_logged_and_tagged(train, monkeypatch, caplog):
    script = iter([(0.5, 0.5), (0.9, 0.1), (1.0, 0.0)])
    monkeypatch.setattr(fit, "accuracies_under_attack", lambda *arguments: next(script))
    monkeypatch.setattr(fit, "_watched", lambda stop, *others: (stop, 1))
    (fold,) = read_folds(train(eps=0.1, epochs=9))
    run = lookup.get(fold.run_id)
    assert run.data.metrics["best_epoch"] == 1
    assert [run.data.metrics[name] for name in ("fgsm_accuracy", "bim_accuracy")] == [1.0, 0.0]
    assert lookup.tag(run, "overfitted_since") == "2"
    assert registry.version(NAME, fold.version).tags["overfitted_since"] == "2"
    assert (
        "since epoch 2 it withstands FGSM and no longer BIM (catastrophic overfitting); epoch 1 counts" in caplog.text
    )


def test_a_network_that_diverged_in_the_last_step_is_not_registered(train):
    with pytest.raises(InputError, match=r"not finite after epoch 1, batch 1 of 1, at a learning rate of \de\+\d\d"):
        train(epochs=1, batch_size=1000, lr=1e30)
    assert {run.info.status for run in lookup.find({})} == {"FAILED"}
    assert not registry.versions(NAME) and registry.by_alias(NAME, "standard") is None


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(train, epochs, full_disk, monkeypatch):
    original = fit._evaluate

    def evaluate(*arguments):
        room.enter_context(full_disk(5_000_000))  # less than the state takes, more than the runs
        return original(*arguments)

    with monkeypatch.context() as patch, ExitStack() as room:
        patch.setattr(fit, "_evaluate", evaluate)
        with pytest.raises(InputError, match=r"training cannot be written \(File too large\): make room"):
            train(epochs=1)
    assert {run.info.status for run in lookup.find({})} == {"FAILED"}
    assert not list(Path("work/training").glob("*.p*"))
    train(epochs=1)
    assert {run.info.status for run in lookup.find({})} == {"FINISHED"} and epochs == [1, 1]
    assert [version.version for version in registry.versions(NAME)] == ["1"]


class Dead(BaseException):
    """Stands for a kill, in that the run is left as it is."""


@pytest.fixture
def killed(monkeypatch):
    """A context in which the process dies as soon as a function has done its work; afterwards it is known as dead."""

    @contextmanager
    def kill(module, name):
        original = getattr(module, name)

        def last(*arguments, **parameters):
            original(*arguments, **parameters)
            raise Dead

        with monkeypatch.context() as patch:
            patch.setattr(module, name, last)
            patch.setattr(MlflowClient, "set_terminated", lambda *_, **__: None)  # nobody is left to do that
            with pytest.raises(Dead):
                yield
        left = {run.info.run_id: run.info.status for run in lookup.find({})}
        for run_id in left:
            if left[run_id] == "RUNNING":
                MlflowClient().set_terminated(run_id, status="KILLED")
        assert set(left.values()) == {"RUNNING"}

    return kill


def test_a_fold_killed_after_it_was_registered_is_not_registered_again(train, epochs, killed):
    with killed(registry, "register"):
        train()
    found = train()
    assert [version.version for version in registry.versions(NAME)] == ["1"] and epochs == [1, 2]
    (only,) = read_folds(found)
    assert (only.run_id, only.version) == (registry.version(NAME, "1").run_id, "1")
    assert len(lookup.find({"stage": "fold"})) == 1 and lookup.tag(lookup.get(only.run_id), "version") == "1"
    (model,) = MlflowClient().search_logged_models([lookup.get(only.run_id).info.experiment_id])
    assert (model.source_run_id, model.status, model.params["fold"]) == (only.run_id, "READY", "0")


def test_a_fold_killed_after_its_model_was_logged_is_not_finished_and_goes_on(train, epochs, killed):
    with killed(mlflow.models.Model, "log"):
        train()
    found = train()
    assert [version.version for version in registry.versions(NAME)] == ["1"] and epochs == [1, 2]
    (only,) = lookup.find({"stage": "fold"})
    assert only.info.run_id == read_folds(found)[0].run_id and only.info.status == "FINISHED"


def test_the_alias_goes_to_the_best_fold_of_all_under_the_same_conditions(train, monkeypatch):
    """Whichever command came last, and though it found its own folds already trained."""
    accuracies = {0: 0.5, 1: 0.9, 2: 0.7}
    original = fold._train

    def trained(task, repeat, number, child, state):
        epoch = Epoch(1, 1.0, 1.0, accuracies[number] + repeat)
        monkeypatch.setattr(fold, "fit", lambda *arguments: epoch)
        return original(task, repeat, number, child, state)

    def standard():
        return registry.by_alias(NAME, "standard").tags["fold"]

    monkeypatch.setattr(fold, "_train", trained)
    monkeypatch.setattr(fold, "log_victim", lambda run_id, folder: f"runs:/{run_id}/victim")
    train(folds="2", epochs=1)
    assert standard() == "1"
    train(folds="fold0", epochs=1)
    assert standard() == "1"
    train(folds="fold2", epochs=1)
    assert standard() == "1"
    train(folds="fold0", epochs=1, repeats=2)  # the second repeat is the best by far, and another split
    assert standard() == "1" and registry.by_alias(NAME, "standard").tags["repeat"] == "0"
    accuracies[1] = 0.1
    train(folds="fold1", epochs=1, force=True)
    assert standard() == "2"
    train(folds="fold0", epochs=1, lr=2e-3)  # other conditions
    assert standard() == "0"
