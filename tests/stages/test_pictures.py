"""What a comparison shows: which figures in which order, drawn by one process or two, and which clips are played."""

from __future__ import annotations

import os
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile

from advtrack.reporting.examples import Example, pack
from advtrack.reporting.figures.training import training_figure
from advtrack.reporting.gallery import Shown
from advtrack.reporting.records import AttackRecord, FoldRecord, VictimRecord
from advtrack.reporting.victim_tables import robust_accuracy_table
from advtrack.stages import pictures
from advtrack.tracking import lookup, runs

LOSSES = {"train_loss": [2.0, 1.0], "stop_loss": [2.1, 1.2], "stop_accuracy": [0.2, 0.55]}


def example(clip="a.wav"):
    x = np.linspace(0, 1, 64).reshape(8, 8)
    scores = np.array([[0.7, 0.3], [0.1, 0.9]])
    return Example(clip, "dog", "rain", ("dog", "rain"), x, np.full_like(x, -0.004), scores, True)


def attacked(run_id, name="bim_a"):
    values = {
        "norm": "linf", "target_reached": True, "target_fooling_rate": 0.9, "fooling_rate": 0.9, "bound": 0.01,
        "missed_at": None, "iterations": 9, "settings": {}, "perturbation": 0.01, "l0": 1.0, "l2": 1.0, "linf": 0.01,
        "samples": 9, "seed": 0, "sample_limit": 0, "longest": 9, "transferred_fooling_rate": None,
        "plain_run_id": None, "passes": 9,
    }  # fmt: skip
    return {name: AttackRecord(attack=name, run_id=run_id, **values)}


def victim(representation="stft", model="alexnet", run_id="run", attacks=None, training="plain", accuracy=0.5):
    folds = (FoldRecord(1, 0, "another", accuracy), FoldRecord(3, 0, f"fold of {run_id}", accuracy))
    return VictimRecord("esc50", representation, model, training, folds, 3, "1", run_id, {}, attacks or {})


@pytest.fixture
def two_processes(monkeypatch):
    """A machine of two cores, on which even two figures are worth two processes."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(pictures, "_FIGURES_A_PROCESS", 1)


def test_two_processes_draw_the_same_figures_in_the_same_order(two_processes, monkeypatch):
    jobs = [partial(training_figure, f"training-{i}", f"Title {i}", {"plain": LOSSES}) for i in range(3)]
    together = pictures._drawn([*jobs, os.getpid])
    assert together.pop() != os.getpid()
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone = pictures._drawn([*jobs, os.getpid])
    assert alone.pop() == os.getpid()
    assert together == alone and [one.name for one in alone] == ["training-0", "training-1", "training-2"]


def test_a_figure_that_fails_in_another_process_fails_here(two_processes):
    with pytest.raises(ValueError, match="no figure"):
        pictures._drawn([os.getpid, partial(float, "no figure")])  # a job that another process can import by name


def test_few_figures_are_not_worth_a_process(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert set(pictures._drawn([os.getpid] * 9)) == {os.getpid()}


def test_figures_are_those_of_the_data_set_then_of_each_cell(monkeypatch):
    asked = []
    monkeypatch.setattr(lookup, "history", lambda run_id, name: asked.append(run_id) or LOSSES[name])
    records = [victim(attacks=attacked("a")), victim(run_id="r", training="adversarial"), victim("dwt")]
    shown = [Shown(records[0], {"bim_a": [example()]})]
    drawn = pictures.pictures(records, shown, robust_accuracy_table(records))
    names = ["examples-esc50", "training-esc50-stft-alexnet", "training-esc50-dwt-alexnet"]
    assert [one.name for one in drawn if not one.name.startswith(("tradeoff", "rates"))] == names
    assert set(asked) == {"fold of run", "fold of r"}  # of the fold that was attacked


def test_the_overview_is_of_the_plain_model_with_the_most_representations_then_the_most_accurate():
    one, two = {"bim_a": [example()]}, {"bim_a": [example("b.wav")]}
    shown = [
        Shown(victim("stft", "vgg16", accuracy=0.9), one),
        Shown(victim("stft", "alexnet", accuracy=0.3), two),
        Shown(victim("dwt", "alexnet", accuracy=0.3), two),
        Shown(victim("stft", "resnet18", accuracy=0.4), two),
        Shown(victim("dwt", "resnet18", accuracy=0.4), two),
        Shown(victim("stft", "resnet34", accuracy=0.8, training="adversarial"), two),
    ]
    job = pictures._overview("esc50", shown)
    assert "b.wav (dog) of esc50, resnet18, plain" in job.args[1] and set(job.args[2]) == {"stft", "dwt"}
    assert pictures._overview("esc50", shown[-1:]) is None


def test_examples_are_shown_of_the_victims_that_were_attacked(store):
    with runs.stage_run("attack", 1, {}, title="", params={}, tags={}) as stage:
        stage.data(pack([example()]), "bim_a/examples.npz")
    (shown,) = pictures.shown_examples([victim(attacks=attacked(stage.run_id)), victim("dwt")])
    assert shown.victim.representation == "stft" and set(shown.examples) == {"bim_a"}
    assert shown.of("a.wav")["bim_a"].target_class == "rain"


def test_clips_are_played_as_long_as_they_lie_where_they_were_read(store, tmp_path):
    folder = tmp_path / "ESC-50" / "audio"
    folder.mkdir(parents=True)
    (tmp_path / "ESC-50" / "meta").mkdir()
    (tmp_path / "ESC-50" / "meta" / "esc50.csv").write_text("filename,esc10\n1-7-A-0.wav,True\n")
    soundfile.write(folder / "1-7-A-0.wav", np.sin(np.arange(22_050) / 20) / 2, 22_050)
    with runs.stage_run("features", 1, {}, title="", params={}, tags={}) as features:
        features.dataset("esc50", "digest", str(folder))
    with runs.stage_run("train", 1, {}, title="", params={}, tags={"features_run": features.run_id}) as training:
        pass
    record = victim(run_id=training.run_id)
    shown = [Shown(record, {"bim_a": [example("1-7-A-0.wav"), example("gone.wav")]})]
    ((key, sound),) = pictures.sounds([record], shown).items()
    assert key == ("esc50", "1-7-A-0.wav") and "CC BY 3.0" in sound.credit and len(sound.mp3) > 1000
    shutil.rmtree(folder)
    assert pictures.sounds([record], shown) == {}
