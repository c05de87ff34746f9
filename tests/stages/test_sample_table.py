"""The table of samples: what a file looks like, and that it is read as it was written."""

import math
from dataclasses import replace

import numpy as np
import pytest

from advtrack.stages.sample_table import SampleRow, log_samples, log_struck, read_samples
from advtrack.tracking import lookup, runs

FOOLED = SampleRow("bark", "r1", "dog", "rain", True, 3, 9.0, 0.5, 0.02, 0.02, 0.01, 0.02)
RESISTED = SampleRow("drops", "r2", "rain", "dog", False, -1, 0.0, 0.0, 0.0, math.inf, 0.25, 0.25)


@pytest.fixture
def run(store):
    return runs.StageRun(store.create_run("0").info.run_id)


def test_a_line_holds_a_sample(run):
    log_samples(run, "bim_a", [FOOLED, RESISTED])
    assert lookup.read_artifact(run.run_id, "bim_a/samples.csv").decode().splitlines() == [
        "clip,source,class,target,success,first_success,l0,l2,linf,fooled_at,resisted_at,perturbation",
        "bark,r1,dog,rain,True,3,9.0,0.5,0.02,0.02,0.01,0.02",
        "drops,r2,rain,dog,False,-1,0.0,0.0,0.0,inf,0.25,0.25",
    ]


@pytest.mark.parametrize("under_plain", [(None, None), (True, False)])
def test_a_table_is_read_as_it_was_written(run, under_plain):
    rows = [replace(row, under_plain=fooled) for row, fooled in zip((FOOLED, RESISTED), under_plain, strict=True)]
    log_samples(run, "bim_a", rows)
    assert read_samples(run.run_id, "bim_a") == rows


def test_of_a_budget_found_elsewhere_it_says_whom_it_fools(run):
    log_struck(run, "jsma", np.array(["bark", "drops"]), np.array([True, False]))
    assert lookup.read_csv(run.run_id, "jsma/samples.csv") == [
        {"clip": "bark", "success": "True"},
        {"clip": "drops", "success": "False"},
    ]
