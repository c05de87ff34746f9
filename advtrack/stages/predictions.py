"""What folds predicted of their test clips: a table in the run of each, and what all of them say together."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence

import numpy as np

from advtrack.reporting.statistics import Bootstrap
from advtrack.representations.store import SpectrogramSet
from advtrack.tracking import runs
from advtrack.training.metrics import confusion

_PATH = "test_predictions.csv"


def log_predictions(run: runs.StageRun, store: SpectrogramSet, indices: np.ndarray, scores: np.ndarray) -> None:
    """Log one line per test clip, for paired statistics later.

    Parameters
    ----------
    run : StageRun
        Of the fold.
    store : SpectrogramSet
        Where the clips are from.
    indices : ndarray of int, shape (N,)
        The test clips.
    scores : ndarray, shape (N, classes)
        Their probabilities.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["clip", "source", "class", "predicted", "probability"])
    for i, score in zip(indices, scores, strict=True):
        true, predicted = store.classes[store.y[i]], store.classes[score.argmax()]
        writer.writerow([store.name[i], store.source[i], true, predicted, f"{score.max():.6f}"])
    run.text(buffer.getvalue(), _PATH)


def read_predictions(run_id: str) -> list[dict[str, str]]:
    """The table of a fold, by column."""
    return list(csv.DictReader(io.StringIO(runs.read_artifact(run_id, _PATH).decode())))


def pooled(run_ids: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
    """Confusion matrix of the test clips of all folds, and the 95% interval of their accuracy as metrics.

    A clip that several folds tested counts in each. The interval is a bootstrap over recordings: folds are too few for
    one (a percentile bootstrap over five covers 83%), and those of the paper's protocol share their test clips.
    """
    rows = [row for run_id in run_ids for row in read_predictions(run_id)]
    number = {name: index for index, name in enumerate(classes)}
    y, predicted = (np.array([number[row[column]] for row in rows]) for column in ("class", "predicted"))
    recordings = [row["source"] for row in rows]
    bootstrap = Bootstrap(recordings)
    interval = bootstrap.interval(bootstrap.mean(recordings, y == predicted), rate=True)
    names = ("test_accuracy_low", "test_accuracy_high")
    return confusion(y, predicted, len(classes)), dict(zip(names, interval or (), strict=False))


def mean_and_spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Metrics of a value that each fold has: its mean, and of several folds their standard deviation."""
    spread = {f"{name}_std": statistics.stdev(values)} if len(values) > 1 else {}
    return {name: statistics.fmean(values), **spread}
