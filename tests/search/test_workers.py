"""Processes that search together, on every kind of storage, and what is left of one that is killed."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from torch import nn

from advtrack.errors import InputError
from advtrack.search.criterion import Criterion
from advtrack.search.space import Search
from advtrack.search.storage import open_storage
from advtrack.search.study import search_budget

SEARCHER = Path(__file__).with_name("searcher.py")
# 22 of 24 samples are needed; they lie evenly in the logarithm between 10**-2.7 and 10**-0.7.
NEEDED = 10 ** np.linspace(-2.7, -0.7, 24)[21]
TOLERANCE = 0.05


@pytest.fixture(params=["sqlite"])
def url(request, tmp_path):
    if request.param == "postgresql":
        address = request.getfixturevalue("postgresql")
        storage = open_storage(address)
        for name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        return address
    return f"{request.param}:///{tmp_path / 'studies'}"


every_storage = pytest.mark.parametrize("url", ["sqlite", "journal", "postgresql"], indirect=True)


def heed_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in whatever a shell has sent to the background


@pytest.fixture
def hold(tmp_path):
    """While this file is there, no pass ends of those who were told of it."""
    path = tmp_path / "hold"
    path.touch()
    return path


def begin(url, attack="bim_a", seconds=0.0, workers=1, hold="never"):
    command = [sys.executable, str(SEARCHER), url, attack, str(seconds), str(workers), str(hold)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    assert process.stdout.readline().strip() == "begun", process.communicate()[1]
    return process


def result_of(process):
    # Not by communicate(), which knows nothing of what readline() has read ahead.
    out, err = process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=60) == 0, err
    return json.loads(out)


def trials_of(url):
    return optuna.load_study(study_name="study", storage=open_storage(url)).trials


def check(url, found, dead=0):
    """The budget is right; every step was done once; what was left undone is marked so."""
    bound, _, settings, rate, passes, cut_short = found
    assert NEEDED * 0.999 <= bound <= NEEDED * (1 + TOLERANCE) and not settings and rate >= 0.9
    trials = trials_of(url)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    steps = Counter((trial.user_attrs["step"], *trial.params.values()) for trial in done)
    assert max(steps.values()) == 1
    begun = [trial for trial in trials if "passes" in trial.user_attrs]
    assert passes == sum(trial.user_attrs["passes"] for trial in begun) and cut_short == len(begun) - len(done)
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    return states


@every_storage
def test_processes_share_one_search(url):
    together = [begin(url, seconds=0.05) for _ in range(2)]
    results = [result_of(process) for process in together]
    assert results[0][:4] == results[1][:4]
    check(url, max(results, key=lambda found: found[4]))
    trials = len(trials_of(url))
    assert result_of(begin(url))[:4] == results[0][:4] and len(trials_of(url)) == trials  # not done again


@every_storage
def test_a_killed_process_costs_the_others_its_trial_only(url, hold):
    doomed, other = [begin(url, hold=hold) for _ in range(2)]
    wait_for(lambda: at_work(url) == {doomed.pid, other.pid})
    doomed.kill()
    doomed.wait()
    hold.unlink()
    states = check(url, result_of(other))
    assert states[TrialState.FAIL] >= 1


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def tried(url):
    try:
        return trials_of(url)
    except KeyError:  # the study is not there yet
        return []


def running(url):
    return [trial for trial in tried(url) if trial.state == TrialState.RUNNING and "process" in trial.user_attrs]


def at_work(url):
    return {trial.user_attrs["process"]["pid"] for trial in running(url)}


def owners(url):
    return {trial.user_attrs["process"]["pid"] for trial in trials_of(url) if "process" in trial.user_attrs}


def alive(pids):
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_study_that_a_process_is_at_is_not_forgotten(url, hold):
    process = begin(url, hold=hold)
    wait_for(lambda: at_work(url) == {process.pid})
    search = Search("bim_a", Criterion("fooling_rate", 0.9), 30, 0, max_iter=12)
    again = partial(search_budget, nn.Identity(), None, search, open_storage(url), "study", "title", fresh=True)
    with pytest.raises(InputError, match=rf"--force would take the study from process {process.pid} on .* to join it"):
        again()
    hold.unlink()
    check(url, result_of(process))


def test_workers_end_with_the_search(url, hold):
    process = begin(url, workers=2, hold=hold)
    wait_for(lambda: len(at_work(url)) == 2)
    hold.unlink()
    check(url, result_of(process))
    assert len(owners(url)) == 2 and not alive(owners(url))


def test_workers_end_with_a_process_that_is_killed(url, hold):
    process = begin(url, workers=2, hold=hold)
    wait_for(lambda: len(at_work(url)) == 2)
    pids = owners(url)
    process.kill()
    process.wait()
    wait_for(lambda: not alive(pids))
    check(url, result_of(begin(url)))


@pytest.mark.parametrize("url", ["journal"], indirect=True)
def test_settings_are_shared_out_too(url):
    together = [begin(url, attack="jsma", seconds=0.005) for _ in range(2)]
    results = [result_of(process) for process in together]
    assert results[0][:4] == results[1][:4]
    done = [trial for trial in trials_of(url) if trial.state == TrialState.COMPLETE]
    settings = Counter(tuple(trial.params.values()) for trial in done)
    assert max(settings.values()) == 1 and len(settings) == 2  # each theta once
    assert {trial.state for trial in trials_of(url)} <= {TrialState.COMPLETE, TrialState.FAIL}


def finished(url):
    return {trial.number: trial.values for trial in tried(url) if trial.state == TrialState.COMPLETE}


@every_storage
def test_an_interrupt_and_a_kill_cost_a_trial_each_and_no_result(url):
    process = begin(url, seconds=0.05)
    wait_for(lambda: finished(url))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in err and "interrupted; so far a bound of" in err
    assert not running(url)
    before = finished(url)

    process = begin(url, seconds=0.05)
    wait_for(lambda: len(finished(url)) > len(before) and running(url))
    process.kill()
    process.wait()
    before |= finished(url)

    states = check(url, result_of(begin(url)))
    assert before.items() <= finished(url).items() and 1 <= states[TrialState.FAIL] <= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("attack", ["bim_a", "carlini_wagner"])
@every_storage
def test_whoever_is_killed_whenever_the_search_ends_well(url, attack):
    """Four times, one of three processes at work, two of which have a worker, is killed and another one begun."""
    random = np.random.default_rng(0)
    seconds = 0.05 if attack == "bim_a" else 0.02
    together, before = [begin(url, attack, seconds, workers) for workers in (1, 2, 2)], {}
    for _ in range(4):
        wait_for(lambda: running(url) or together[0].poll() is not None)
        time.sleep(random.uniform(0, 1))
        doomed = together.pop(0)
        doomed.kill()
        doomed.wait()
        before |= finished(url)
        together.append(begin(url, attack, seconds, workers=1))
    results = [result_of(process) for process in together]
    assert all(result[:4] == results[0][:4] for result in results)
    trials = trials_of(url)
    assert before.items() <= finished(url).items()
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    done = Counter(
        (trial.user_attrs["step"], *trial.params.values()) for trial in trials if trial.state == TrialState.COMPLETE
    )
    assert max(done.values()) == 1
    wait_for(lambda: not alive(owners(url)), 30)
    if attack == "bim_a":
        check(url, max(results, key=lambda found: found[4]))
