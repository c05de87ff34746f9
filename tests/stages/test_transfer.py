"""Which budgets another victim may lend, and what is said of them."""

from contextlib import suppress
from types import SimpleNamespace

import pytest

from advtrack.errors import InputError
from advtrack.reporting.records import AttackRecord
from advtrack.stages import transfer
from advtrack.stages.sample_table import log_struck
from advtrack.stages.searched import log_record
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


@pytest.fixture
def record():
    """A whole result of BIM-a."""
    return AttackRecord(
        attack="bim_a", norm="linf", target_reached=True, target_fooling_rate=0.9, fooling_rate=0.95, bound=0.02,
        missed_at=0.019, iterations=20, settings={}, perturbation=0.015, l0=50.0, l2=0.5, linf=0.015, samples=8, seed=0,
        sample_limit=0, longest=100, transferred_fooling_rate=None, plain_run_id=None, run_id="f" * 32, passes=400,
    )  # fmt: skip


def test_attacks_without_a_budget_there_are_named_and_none_at_all_is_refused(lent, record, caplog):
    origin = lent().run_id
    asked = SimpleNamespace(budget_from=origin, attacks=("jsma", "bim_a"))
    with pytest.raises(InputError, match=f"--budget-from {origin}: no budget of jsma, bim_a there"):
        transfer._budgets(asked)
    log_record(runs.StageRun(origin), record, "a key")
    assert transfer._budgets(asked) == {"bim_a": record}
    assert "no budget of jsma there; the others are tried" in caplog.text


@pytest.mark.parametrize(("stage", "status"), [("transfer", "FINISHED"), ("attack", "KILLED")])
def test_a_run_that_only_struck_or_was_killed_amid_its_search_has_no_budget_and_is_named(store, stage, status):
    with suppress(KeyboardInterrupt), runs.stage_run(stage, 1, {}, title="t", params={}, tags={}) as run:
        log_struck(run, "bim_a", ["c"], [True])
        if status == "KILLED":
            raise KeyboardInterrupt
    asked = SimpleNamespace(budget_from=run.run_id, attacks=("bim_a",))
    with pytest.raises(InputError, match=f"--budget-from {run.run_id}: no budget of bim_a there") as refused:
        transfer._budgets(asked)
    assert f"({stage}, {status})" in str(refused.value) and "\n" not in str(refused.value)


def test_of_a_run_that_was_killed_the_searches_before_count(store, record, caplog):
    with pytest.raises(KeyboardInterrupt), runs.stage_run("attack", 1, {}, title="t", params={}, tags={}) as run:
        log_record(run, record, "a key")
        log_struck(run, "jsma", ["c"], [True])
        raise KeyboardInterrupt
    assert transfer._budgets(SimpleNamespace(budget_from=run.run_id, attacks=("jsma", "bim_a"))) == {"bim_a": record}
    assert "no budget of jsma there" in caplog.text


def test_a_run_that_does_not_exist_has_no_budget(store):
    with pytest.raises(InputError, match=f"--budget-from {'a' * 32}: no budget of bim_a there"):
        transfer._budgets(SimpleNamespace(budget_from="a" * 32, attacks=("bim_a",)))


ALEXNET = {"dataset": "synthetic", "representation": "stft", "model": "alexnet", "attacks": ("bim_a",)}


@pytest.mark.parametrize("origin", ["nosuch", "99"])
def test_a_lender_that_does_not_exist_is_named_with_its_option(registered, origin):
    registered()
    with pytest.raises(InputError, match=f"^--budget-from {origin}: ") as refused:
        transfer._budgets(SimpleNamespace(budget_from=origin, **ALEXNET))
    assert "--victim" not in str(refused.value)


def test_an_alias_that_may_mean_several_lenders_is_refused_and_a_version_taken(registered, lent, record):
    origin = lent().run_id
    log_record(runs.StageRun(origin), record, "a key")
    for height in (32, 64):
        registered(
            alias="standard", training="plain", store_digest=height, height=height, width=48, **{"attack.bim_a": origin}
        )
    listed = r"2 \(64 x 48, paper protocol\), 1 \(32 x 48, paper protocol\)"
    with pytest.raises(InputError, match=rf"^--budget-from standard: .* say which version: {listed}$"):
        transfer._budgets(SimpleNamespace(budget_from="standard", **ALEXNET))
    assert transfer._budgets(SimpleNamespace(budget_from="1", **ALEXNET)) == {"bim_a": record}
