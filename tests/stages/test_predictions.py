"""What folds say together, held against a bootstrap that is written out."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from advtrack.reporting.statistics import Bootstrap
from advtrack.stages import predictions

CLASSES = ("dog", "rain", "sea")


@pytest.fixture
def folds(monkeypatch):
    """Two folds that tested the same 60 clips of 30 recordings."""
    rng = np.random.default_rng(0)
    true = rng.choice(CLASSES, 60)
    tables = {}
    for run_id in ("one", "two"):
        predicted = np.where(rng.random(60) < 0.7, true, rng.choice(CLASSES, 60))
        tables[run_id] = [
            {"source": str(i // 2), "class": str(true[i]), "predicted": str(predicted[i])} for i in range(60)
        ]
    monkeypatch.setattr(predictions, "read_predictions", tables.get)
    return tables


def macro_f1(table, drawn, right, wrong):
    """With a third of the unseen clips in each class; of those named wrongly, each lacks its class twice."""
    true = [*(row["class"] for row in table), *CLASSES, *CLASSES]
    predicted = [*(row["predicted"] for row in table), *CLASSES, *["none"] * 3]
    weight = [*(drawn[int(row["source"])] for row in table), *[right / 3] * 3, *[2 * wrong / 3] * 3]
    return f1_score(true, predicted, labels=CLASSES, average="macro", sample_weight=weight)


@pytest.mark.parametrize("run_ids", [["one"], ["one", "two"]])
def test_intervals_are_those_of_weighted_recordings(folds, run_ids):
    matrix, metrics = predictions.pooled(run_ids, CLASSES)
    tables = [folds[run_id] for run_id in run_ids]
    rows = [row for table in tables for row in table]
    expected = confusion_matrix([r["class"] for r in rows], [r["predicted"] for r in rows], labels=CLASSES)
    assert np.array_equal(matrix, expected)

    rng, accuracies, scores = np.random.default_rng(1), [], []
    for _ in range(400):
        drawn = rng.exponential(size=30)
        right, wrong = rng.gamma(0.5, size=2)  # two recordings that nobody has seen, of two clips in each fold
        weights = [[*(drawn[int(row["source"])] for row in table), 2 * right, 2 * wrong] for table in tables]
        hits = [[*(row["class"] == row["predicted"] for row in table), True, False] for table in tables]
        accuracies.append(np.average(np.concatenate(hits), weights=np.concatenate(weights)))
        scores.append(np.mean([macro_f1(table, drawn, 2 * right, 2 * wrong) for table in tables]))
    bootstrap = Bootstrap(map(str, range(30)))
    for name, values in (("test_accuracy", accuracies), ("test_macro_f1", scores)):
        low, high = bootstrap.interval(np.array([np.mean(values), *values]))
        assert metrics[f"{name}_low"] == pytest.approx(low, abs=0.03)
        assert metrics[f"{name}_high"] == pytest.approx(high, abs=0.03)


def test_of_one_recording_there_is_no_interval(monkeypatch):
    row = {"source": "a", "class": "dog", "predicted": "dog"}
    monkeypatch.setattr(predictions, "read_predictions", lambda run_id: [row])
    matrix, metrics = predictions.pooled(["one"], CLASSES)
    assert matrix.sum() == 1 and metrics == {}
