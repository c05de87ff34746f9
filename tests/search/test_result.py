"""Statistics of a budget, against closed forms, simulation and SciPy's definitions."""

import numpy as np
import pytest

from advtrack.search.criterion import Criterion
from advtrack.search.result import BudgetResult
from advtrack.search.space import Budget


def result_of(success, norm, reached=True, fooled_at=None, resisted_at=None):
    success = np.array(success)
    n = len(success)
    return BudgetResult(
        attack="bim_a",
        norm="linf",
        criterion=Criterion("fooling_rate", 0.5),
        budget=Budget(1.0, 5, {}),
        fooling_rate=float(success.mean()),
        reached=reached,
        success=success,
        first_success=np.zeros(n, int),
        norms={name: np.array(norm, float) for name in ("l0", "l2", "linf")},
        fooled_at=np.full(n, np.inf) if fooled_at is None else np.array(fooled_at),
        resisted_at=np.zeros(n) if resisted_at is None else np.array(resisted_at),
        largest=10.0,
        failures_count_as=9.0,
        missed_at=None,
        front=[],
        passes=0,
        cut_short=0,
        contradictions=0,
        trials=[],
        study_name="s",
    )


def test_perturbation_is_of_successes_or_counts_failures_as_the_largest():
    assert result_of([True, False, True], [1, 5, 3]).perturbation() == 2
    assert result_of([True, False, True], [1, 5, 3], reached=False).perturbation() == pytest.approx(13 / 3)
    assert result_of([False, False], [1, 5], reached=False).perturbation() == 9
    assert result_of([True, False, True], [1, 5, 3]).mean_norms() == {"l0": 2, "l2": 2, "linf": 2}
    assert all(np.isnan(list(result_of([False], [1], reached=False).mean_norms().values())))


def test_quantiles_are_of_the_successes():
    found = result_of([True] * 5 + [False], [1, 2, 3, 4, 5, 99]).norm_quantiles()
    assert found["l2_q50"] == 3 and found["linf_q25"] == 2 and len(found) == 15
    assert result_of([False], [1]).norm_quantiles() == {}


def test_the_curve_lies_between_what_is_known_and_what_is_not_excluded():
    result = result_of([True] * 3, [1, 1, 1], fooled_at=[2.0, 4.0, np.inf], resisted_at=[1.0, 1.0, 3.0])
    third = pytest.approx(1 / 3)
    assert result.curve() == [
        (1.0, 0.0, pytest.approx(2 / 3)),
        (2.0, third, pytest.approx(2 / 3)),
        (3.0, third, 1.0),
        (4.0, pytest.approx(2 / 3), 1.0),
    ]
    low, high = result.auc()
    assert low == pytest.approx(1 - (2 + 4 + 10) / 30) and high == pytest.approx(1 - (1 + 1 + 3) / 30)


def test_a_curve_of_exact_distances_has_no_doubt():
    exact = [2.0, 4.0, np.inf]
    result = result_of([True] * 3, [1, 1, 1], fooled_at=exact, resisted_at=exact)
    assert [least == most for _, least, most in result.curve()] == [True, True]
    assert result.auc()[0] == result.auc()[1]
