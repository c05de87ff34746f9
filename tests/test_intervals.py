"""Wilson's interval, against SciPy's."""

import numpy as np
import pytest
from scipy.stats import binomtest

from advtrack.intervals import wilson


@pytest.mark.parametrize("trials", [1, 5, 10, 33])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_the_interval_of_each_rate_is_scipys(trials, confidence):
    counts = np.arange(trials + 1)
    low, high = wilson(counts, trials, confidence)
    expected = [binomtest(count, trials).proportion_ci(confidence, "wilson") for count in counts]
    assert low == pytest.approx([one.low for one in expected], abs=1e-12)
    assert high == pytest.approx([one.high for one in expected], abs=1e-12)
    assert low[0] == 0 and high[-1] == 1
    assert [float(end) for end in wilson(trials, trials, confidence)] == [low[-1], 1]


def test_by_default_it_is_at_95_percent():
    assert wilson(17, 20) == wilson(17, 20, 0.95)
