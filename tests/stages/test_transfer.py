"""What is said of a budget that another victim lends."""

from types import SimpleNamespace

import pytest

from advtrack.stages import transfer
from advtrack.tracking import runs

OWN = {"dataset": "esc50", "representation": "stft", "store_digest": "ab"}


@pytest.mark.parametrize(
    ("changes", "reached", "said"),
    [
        ({}, True, []),
        ({"dataset": "urbansound8k"}, True, ["other images: dataset urbansound8k"]),
        ({"store_digest": "cd"}, True, ["other images: store_digest cd"]),
        ({}, False, ["did not reach its target there"]),
    ],
)
def test_a_budget_of_other_images_or_that_missed_its_target_is_named(store, caplog, changes, reached, said):
    with runs.stage_run("attack", 1, {}, title="t", params={}, tags=OWN | changes) as run:
        record = SimpleNamespace(run_id=run.run_id, target_reached=reached)
    transfer._say_what_differs("bim_a", record, OWN)
    warned = [one.getMessage() for one in caplog.records if one.name == "advtrack" and one.levelname == "WARNING"]
    assert len(warned) == len(said) and all(text in line for text, line in zip(said, warned, strict=True))
