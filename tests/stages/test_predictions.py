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


@pytest.mark.parametrize("run_ids", [["one"], ["one", "two"]])
def test_intervals_are_those_of_resampled_recordings(folds, run_ids):
    matrix, metrics = predictions.pooled(run_ids, CLASSES)
    tables = [folds[run_id] for run_id in run_ids]
    rows = [row for table in tables for row in table]
    expected = confusion_matrix([r["class"] for r in rows], [r["predicted"] for r in rows], labels=CLASSES)
    assert np.array_equal(matrix, expected)

    rng, accuracies, scores = np.random.default_rng(1), [], []
    for _ in range(400):
        drawn = np.bincount(rng.integers(30, size=30), minlength=30)
        weights = [[drawn[int(row["source"])] for row in table] for table in tables]
        columns = [[[row[name] for row in table] for name in ("class", "predicted")] for table in tables]
        right = [np.equal(*column) for column in columns]
        accuracies.append(np.average(np.concatenate(right), weights=np.concatenate(weights)))
        scores.append(
            np.mean(
                [
                    f1_score(*column, labels=CLASSES, average="macro", sample_weight=weight, zero_division=0)
                    for column, weight in zip(columns, weights, strict=True)
                ]
            )
        )
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
