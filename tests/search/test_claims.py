"""A step of the search is done by one process, and by none in vain."""

import queue
from dataclasses import asdict, replace
from datetime import datetime

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from advtrack import processes
from advtrack.processes import Process
from advtrack.search import claims
from advtrack.search.claims import holder, take

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def study():
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def suggest(trial):
    return trial.suggest_float("eps", 0.1, 1.0)


@pytest.fixture
def at_each_wait(monkeypatch):
    """Let other processes do these things, one at each wait."""

    def install(*deeds):
        left = iter(deeds)
        monkeypatch.setattr(claims, "wait", lambda: next(left)())

    return install


def other_process(study):
    """A trial that another process has begun, and as yet says nothing but whose it is."""
    trial = study.ask()
    trial.set_user_attr("process", asdict(Process.this()))
    return trial


def claim(trial, eps):
    trial.study.sampler = optuna.samplers.PartialFixedSampler({"eps": eps}, optuna.samplers.RandomSampler())
    suggest(trial)
    trial.set_user_attr("step", "probe")
    trial.set_user_attr("claimed", True)


def test_of_two_that_choose_the_same_the_first_goes_on(study, at_each_wait):
    first = other_process(study)
    at_each_wait(lambda: claim(first, 0.5), lambda: study.tell(first, 1.0))
    lost_to = take(study, "probe", suggest, {"eps": 0.5})
    assert isinstance(lost_to, FrozenTrial) and lost_to.number == first.number
    assert lost_to.state == TrialState.RUNNING  # when it was seen; it may have finished since
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_the_first_that_chooses_differently_does_not_matter(study, at_each_wait):
    first = other_process(study)
    at_each_wait(lambda: claim(first, 0.4))
    trial = take(study, "probe", suggest, {"eps": 0.5})
    assert not isinstance(trial, FrozenTrial) and trial.params == {"eps": 0.5}


def test_what_is_finished_is_said_to_be(study):
    study.tell(take(study, "probe", suggest, {"eps": 0.5}), 1.0)
    done = take(study, "probe", suggest, {"eps": 0.5})
    assert isinstance(done, FrozenTrial) and (done.number, done.state) == (0, TrialState.COMPLETE)
    assert not isinstance(take(study, "confirm", suggest, {"eps": 0.5}), FrozenTrial)


@pytest.mark.parametrize("fixed", [None, {"eps": 0.5}])
def test_an_interrupt_before_the_work_leaves_no_trial(study, fixed):
    sampler = study.sampler

    def interrupted(trial):
        suggest(trial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(study, "probe", interrupted, fixed)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] and study.sampler is sampler


def test_a_trial_taken_for_dead_before_it_says_whose_it_is_is_taken_again(study):
    began = []

    def closed_once(trial):
        began.append(trial.number)
        if len(began) == 1:
            claims.fail(study, trial.number)
        return suggest(trial)

    trial = take(study, "probe", closed_once)
    assert began == [0, 1] and trial.number == 1
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_trial_without_a_name_is_given_time_whatever_its_clock_says(study, monkeypatch):
    past, future = datetime(2001, 1, 1), datetime(2101, 1, 1)
    for start in (past, future):
        study.add_trial(FrozenTrial(0, TrialState.RUNNING, None, start, None, {}, {}, {}, {}, {}, 0))
    now = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    for seconds, state in ((0, TrialState.RUNNING), (19, TrialState.RUNNING), (2, TrialState.FAIL)):
        now[0] += seconds
        claims.reap(study)
        assert [trial.state for trial in study.trials] == [state] * 2


def test_of_a_process_that_is_not_seen_from_here_the_heart_decides_by_this_ones_clock(study, monkeypatch):
    """As in two containers of one name: its number is nobody's here, and its clock is years behind."""
    trial = study.ask()
    trial.set_user_attr("process", asdict(replace(Process.this(), pid=2**22 + 1, namespace="pid:[1]")))
    now = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    for beat in (5.0, 20.0, 35.0):
        trial.set_user_attr("alive", beat)
        for seconds in (0, 119):
            now[0] += seconds
            claims.reap(study)
            assert study.trials[0].state == TrialState.RUNNING
    now[0] += 2
    claims.reap(study)
    assert study.trials[0].state == TrialState.FAIL


def test_a_trial_in_the_works_gives_signs_of_life_until_others_have_closed_it(study, monkeypatch, caplog):
    monkeypatch.setattr(processes, "_HEARTBEAT", 0.01)
    trial, told = take(study, "probe", suggest), queue.SimpleQueue()
    set_attr = trial.set_user_attr
    monkeypatch.setattr(trial, "set_user_attr", lambda *given: (told.put(given[0]), set_attr(*given)))
    with claims.working(study, trial, lambda: 7):
        assert [told.get(timeout=10) for _ in range(4)][1:3] == ["alive", "passes"]
        claims.fail(study, trial.number)
        begun = told.qsize()
        assert [told.get(timeout=10) for _ in range(begun + 3)][-2:] == ["alive"] * 2  # no more, and no complaint
        trial.set_user_attr("passes", 1)
        pytest.fail("what is closed cannot be worked on")
    (line,) = (record.getMessage() for record in caplog.records if record.name == "advtrack")
    assert line == "trial 0 was closed by another process, which took this one for dead"


ELSEWHERE = replace(Process.this(), host="elsewhere", pid=4242)


def begun_elsewhere(study):
    trial = study.ask()
    trial.set_user_attr("process", asdict(ELSEWHERE))
    trial.set_user_attr("alive", 1.0)
    return trial


def test_who_is_seen_at_a_study_holds_it(study):
    trial = other_process(study)
    assert holder(study) == Process.this()
    study.tell(trial, 1.0)
    assert holder(study) is None


@pytest.mark.parametrize("sign", ["a beat", "another trial"])
def test_who_gives_signs_of_life_elsewhere_holds_it_too(study, at_each_wait, caplog, sign):
    trial = begun_elsewhere(study)
    deeds = {"a beat": lambda: trial.set_user_attr("alive", 2.0), "another trial": lambda: begun_elsewhere(study)}
    at_each_wait(lambda: None, deeds[sign])
    with caplog.at_level("INFO"):
        assert holder(study) == ELSEWHERE
    assert "waiting for signs of life" in caplog.text


def test_who_gives_none_elsewhere_is_gone(study, monkeypatch):
    begun_elsewhere(study)
    monkeypatch.setattr(processes, "_ABANDONED", 0.3)
    assert holder(study) is None
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_between_two_trials_a_process_holds_the_study_all_the_same(study, at_each_wait):
    study.tell(other_process(study), 1.0)
    at_each_wait(lambda: None, lambda: other_process(study))
    assert holder(study) == Process.this()
