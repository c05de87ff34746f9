"""Which epoch is the best."""

import pytest

from advtrack.training.history import Epoch, best


@pytest.mark.parametrize(
    ("accuracies", "losses", "expected"),
    [
        ([0.5, 0.9, 0.7], [1.0, 2.0, 0.1], 2),
        ([0.5, 0.9, 0.9], [1.0, 0.5, 0.4], 3),
        ([0.9, 0.9, 0.9], [0.4, 0.4, 0.4], 1),
    ],
)
def test_best_is_by_accuracy_then_loss_then_the_first(accuracies, losses, expected):
    history = [Epoch(i + 1, 0.0, loss, acc) for i, (acc, loss) in enumerate(zip(accuracies, losses, strict=True))]
    assert best(history).number == expected
