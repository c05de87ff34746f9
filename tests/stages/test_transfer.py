"""Which budgets another victim may lend, and what is said of them."""

from types import SimpleNamespace

import pytest

from advtrack.errors import InputError
from advtrack.stages import transfer
from advtrack.tracking import runs

DIGEST = "0123456789" * 4


def attacked(**options):
    store = SimpleNamespace(data_digest=DIGEST, digest="ab")
    tags = {"dataset": "esc50", "representation": "stft"}
    asked = SimpleNamespace(**{"protocol": "test", "seed": 0, "budget_from": "standard"} | options)
    return SimpleNamespace(store=store, tags=lambda: tags, options=asked)


@pytest.fixture
def lent(store):
    """Leave a finished search; its record."""

    def make(digest=DIGEST, reached=True, protocol="test", seed=0, **tags):
        tags = {"dataset": "esc50", "representation": "stft", "store_digest": "ab"} | tags
        with runs.stage_run("attack", 1, {}, title="t", params={}, tags=tags, force=True) as run:
            run.dataset(tags["dataset"], digest, "a/place")
        return SimpleNamespace(run_id=run.run_id, target_reached=reached, protocol=protocol, seed=seed)

    return make


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": "urbansound8k"}, "the data set of run {} is urbansound8k, that of the victim esc50"),
        ({"representation": "dwt"}, "the representation of run {} is dwt, that of the victim stft"),
        ({"digest": "f" * 40}, "the data digest of run {} is fff"),
    ],
)
def test_a_budget_of_other_clips_or_of_images_of_another_kind_is_refused(lent, changes, told):
    record = lent(**changes)
    with pytest.raises(InputError, match="--budget-from standard: the ") as refused:
        transfer._refuse_what_does_not_fit("standard", record, attacked())
    assert told.format(record.run_id) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"store_digest": "cd"}, ["image parameters (store digest) cd, here ab"]),
        ({"protocol": "paper", "seed": 3}, ["protocol paper, here test; seed 3, here 0"]),
        ({"reached": False}, ["did not reach its target there"]),
    ],
)
def test_a_budget_found_under_other_conditions_or_that_missed_its_target_is_named(lent, caplog, changes, said):
    record = lent(**changes)
    transfer._refuse_what_does_not_fit("standard", record, attacked())
    transfer._say_what_differs("bim_a", record, attacked())
    warned = [one.getMessage() for one in caplog.records if one.name == "advtrack" and one.levelname == "WARNING"]
    assert len(warned) == len(said) and all(text in line for text, line in zip(said, warned, strict=True))


def test_attacks_without_a_budget_there_are_named_and_none_at_all_is_refused(lent, monkeypatch, caplog):
    record = lent()
    monkeypatch.setattr(transfer, "read_record", lambda run_id, attack: record)
    asked = SimpleNamespace(budget_from=record.run_id, attacks=("jsma", "bim_a"))
    with pytest.raises(InputError, match=f"--budget-from {record.run_id}: no budget of jsma, bim_a there"):
        transfer._budgets(asked)
    runs.StageRun(record.run_id).text("{}", "bim_a/result.json")
    assert transfer._budgets(asked) == {"bim_a": record}
    assert "no budget of jsma there; the others are tried" in caplog.text
