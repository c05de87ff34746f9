"""What a trained network gets right."""

from __future__ import annotations

import numpy as np


def confusion(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, int [classes, classes]: row the true class, column the predicted one."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (y, predicted), 1)
    return matrix


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 over the classes of a confusion matrix; a class neither present nor predicted counts 0."""
    hits = np.diag(matrix)
    return float((2 * hits / np.maximum(matrix.sum(0) + matrix.sum(1), 1)).mean())
