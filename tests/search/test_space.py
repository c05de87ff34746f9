"""What is searched, and what a failure counts as."""

import math

import pytest
import torch

from advtrack.attacks import ATTACKS
from advtrack.search.criterion import Criterion
from advtrack.search.space import Search, pareto


def searching(attack, **changes):
    return Search(attack, Criterion("fooling_rate", 0.9), 9, 0, **changes)


def test_failures_count_as_what_they_were_allowed():
    assert searching("bim_a").failures_count_as() == 0.3
    assert searching("jsma", max_iter=40).failures_count_as() == 40  # one feature an iteration
    assert all(math.isnan(searching(name).failures_count_as()) for name in ("deepfool", "carlini_wagner", "pia"))


def test_the_largest_is_what_is_allowed_or_what_there_is():
    x = torch.zeros(1, 1, 4, 4)
    assert searching("bim_b").largest(x) == 0.3
    assert searching("jsma", max_iter=7).largest(x) == 7 and searching("jsma").largest(x) == 16
    assert searching("carlini_wagner").largest(x) == 4 and searching("deepfool").largest(x) == 1


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_an_attack_that_goes_on_has_a_form_that_does_not(attack):
    spec = ATTACKS[attack]
    assert (spec.until_success is not None) == (spec.shorter_runs == "iterates")


def test_pareto_keeps_what_nothing_betters():
    points = [(3, 1), (1, 9), (2, 4), (2, 5), (1, 9), (4, 1), (3, 4)]
    assert pareto(points) == [(1, 9), (2, 4), (3, 1)]
    assert pareto([]) == []
