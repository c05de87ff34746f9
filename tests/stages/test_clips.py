"""What two searches show together, from what their runs hold clip by clip."""

from dataclasses import replace

import numpy as np
import pytest

from advtrack.reporting.records import AttackRecord
from advtrack.reporting.tables import ratio_interval
from advtrack.stages.clips import perturbation_ratios, with_clips
from advtrack.stages.sample_table import SampleRow, log_samples
from advtrack.tracking import runs

PLAIN = np.random.default_rng(0).gamma(2, 0.01, 24)


def searched(name, perturbation, success=None, allowed=0.3, **changes):
    """A run that holds the clips of a search, and the search's record; three clips from each recording."""
    success = np.ones(24, bool) if success is None else np.array(success)
    counted = np.where(success, perturbation, allowed)
    rows = [
        SampleRow(
            clip=f"c{i}", source=f"r{i // 3}", true_class="dog", target_class="", success=bool(success[i]),
            first_success=1, l0=5.0, l2=2 * perturbation[i], linf=perturbation[i], fooled_at=0.1, resisted_at=0.0,
            perturbation=counted[i],
        )
        for i in range(24)
    ]  # fmt: skip
    with runs.stage_run("attack", 1, {"name": name}, title="t", params={}, tags={}) as run:
        log_samples(run, "bim_a", rows)
    reached = bool(success.mean() >= 0.9)
    record = AttackRecord(
        attack="bim_a", norm="linf", target_reached=reached, target_fooling_rate=0.9,
        fooling_rate=float(success.mean()), bound=0.1, missed_at=None, iterations=9, settings={},
        perturbation=float((perturbation[success] if reached else counted).mean()), l0=5.0, l2=0.1, linf=0.1,
        samples=24, seed=0, sample_limit=0, longest=9, transferred_fooling_rate=None, plain_run_id=None,
        run_id=run.run_id, passes=72,
    )  # fmt: skip
    return replace(record, **changes)


def test_a_ratio_and_its_interval_are_those_of_table_three(store):
    plain = searched("plain", PLAIN)
    robust = searched("robust", PLAIN * np.random.default_rng(1).uniform(1, 3, 24))
    found = perturbation_ratios(plain, robust)
    assert set(found) == {"l0", "l2", "linf"}
    assert found["l0"] == [1]  # every clip takes the same, and so recordings do not tell how far it may be off
    ratio, *interval = found["linf"]
    assert ratio == pytest.approx(robust.perturbation / plain.perturbation)
    assert interval == pytest.approx(ratio_interval([(with_clips(plain), with_clips(robust))]))
    assert found["l2"] == pytest.approx(found["linf"])


def test_the_two_victims_are_resampled_together(store):
    """Each clip takes about twice the perturbation: of that there is little doubt, however much the clips differ."""
    twice = PLAIN * np.linspace(1.99, 2.01, 24)
    ratio, low, high = perturbation_ratios(searched("plain", PLAIN), searched("robust", twice))["linf"]
    assert 1.98 < low < ratio < high < 2.02


def test_failures_of_the_robust_victim_count_as_the_largest_in_the_own_norm_alone(store):
    success = np.arange(24) % 2 == 0
    found = perturbation_ratios(searched("plain", PLAIN), searched("robust", PLAIN, success))
    assert list(found) == ["linf"]
    assert found["linf"][0] == pytest.approx(np.where(success, PLAIN, 0.3).mean() / PLAIN.mean())


def test_there_is_no_ratio_where_the_table_has_none(store):
    robust = searched("robust", PLAIN)
    assert not perturbation_ratios(searched("plain", PLAIN, np.arange(24) % 2 == 0), robust)
    assert not perturbation_ratios(searched("other", PLAIN, seed=7), robust)
