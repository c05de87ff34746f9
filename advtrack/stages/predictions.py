"""What folds predicted of their test clips: a table in the run of each, and what all of them say together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from advtrack.reporting.statistics import Bootstrap
from advtrack.representations.store import SpectrogramSet
from advtrack.tracking import lookup, runs
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
    rows = [
        {
            "clip": store.name[i],
            "source": store.source[i],
            "class": store.classes[store.y[i]],
            "predicted": store.classes[score.argmax()],
            "probability": f"{score.max():.6f}",
        }
        for i, score in zip(indices, scores, strict=True)
    ]
    run.csv(rows, _PATH)


def read_predictions(run_id: str) -> list[dict[str, str]]:
    """The table of a fold, by column."""
    return lookup.read_csv(run_id, _PATH)


def pooled(run_ids: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
    """Confusion matrix of the test clips of one or more folds, and as metrics the 95% intervals of what they say.

    A clip that several folds tested counts in each. The intervals, of the accuracy and of the folds' mean macro-F1, are
    bootstraps over recordings: folds are too few for one (a percentile bootstrap over five covers 83%), and the paper's
    share their test clips.
    """
    folds = [read_predictions(run_id) for run_id in run_ids]
    rows = [row for fold in folds for row in fold]
    bootstrap = Bootstrap(row["source"] for row in rows)
    right = [row["class"] == row["predicted"] for row in rows]
    accuracy = bootstrap.rate([row["source"] for row in rows], right)
    f1 = np.mean([_macro_f1(bootstrap, fold, classes) for fold in folds], axis=0)
    metrics: dict[str, float] = {}
    for name, statistic in (("test_accuracy", accuracy), ("test_macro_f1", f1)):
        if interval := bootstrap.interval(statistic):
            metrics |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    number = {name: index for index, name in enumerate(classes)}
    y, predicted = (np.array([number[row[column]] for row in rows]) for column in ("class", "predicted"))
    return confusion(y, predicted, len(classes)), metrics


def _macro_f1(bootstrap: Bootstrap, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> np.ndarray:
    """The statistic of a fold's macro-F1 (as `macro_f1`)."""
    recordings = [row["source"] for row in rows]
    true, predicted = (np.array([row[column] for row in rows]) for column in ("class", "predicted"))
    # A score is a rate among true and predicted clips: each class has its share of what nobody has seen.
    ones, zeros = bootstrap.unseen(2 * len(rows) / len(set(recordings)) / len(classes))
    scores = []
    for name in classes:
        hits = bootstrap.total(recordings, (true == name) & (predicted == name))
        counts = bootstrap.total(recordings, (true == name) * 1.0 + (predicted == name))
        counts[0] = max(counts[0], 1)  # the score of a class that is neither there nor predicted is 0
        scores.append((2 * hits + ones) / (counts + ones + zeros))
    return np.mean(scores, axis=0)


def mean_and_spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Metrics of a value that each fold has: its mean, and of several folds their standard deviation."""
    spread = {f"{name}_std": statistics.stdev(values)} if len(values) > 1 else {}
    return {name: statistics.fmean(values), **spread}
