"""The plan of a comparison, pasted command by command, fills every cell with results that belong together."""

from __future__ import annotations

import shlex

import pytest

from advtrack.stages.features import stores
from advtrack.tracking import runs

SEARCH = ("--samples", "3", "--trials", "2", "--max-iter", "5", "--target-fooling-rate", "0.5", "--seed", "2")


@pytest.mark.slow
def test_pasting_the_plan_fills_every_cell(lasting, few_clips):
    def call(*arguments):
        result = lasting.advtrack(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    for height in ("48", "32"):
        size = ("--height", height, "--width", "32")
        call("features", "--dataset", "esc50", "--data-dir", str(few_clips), *size)
    first = stores("esc50", "stft")[-1].run_id
    here = ("--dataset", "esc50", "--model", "resnet18")
    folds = ("--protocol", "official", "--folds", "fold2,fold4", "--repeats", "2", "--seed", "3")
    call("train", *here, *folds, "--epochs", "2", "--features-run", first)
    call("attack", *here, "--attack", "bim_a", *SEARCH)
    asked = ("compare", "--plan", "--models", "resnet18,resnet56", "--representation", "stft")
    plan = [line for line in call(*asked).splitlines() if line.startswith("advtrack ")]
    for command in plan:
        call(*shlex.split(command)[1:])
    assert call(*asked).strip() == "Every cell is filled."
    assert "left out" not in call("compare", *asked[2:])
    trained = [runs.params(run) for stage in ("train", "adv-train") for run in runs.find({"stage": stage})]
    assert len(trained) == 4
    for name, value in (("protocol", "official"), ("folds", "fold2,fold4"), ("repeats", "2"), ("seed", "3")):
        assert {one[name] for one in trained} == {value}
