"""Confusion and F1 against counts by hand and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from advtrack.training.metrics import confusion, macro_f1

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40).map(np.array)


def test_by_hand():
    matrix = confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)
    assert matrix.tolist() == [[2, 1], [0, 1]]
    assert macro_f1(matrix) == pytest.approx((4 / 5 + 2 / 3) / 2)


@given(PAIRS)
def test_as_scikit_learn(pairs):
    y, predicted = pairs.T
    matrix = confusion(y, predicted, 4)
    assert (matrix == confusion_matrix(y, predicted, labels=range(4))).all()
    expected = f1_score(y, predicted, labels=range(4), average="macro", zero_division=0)
    assert macro_f1(matrix) == pytest.approx(expected)
