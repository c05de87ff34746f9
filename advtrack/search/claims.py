"""Trials of one study taken by any number of processes: each step by one of them, and none kept by a dead one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import PartialFixedSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from advtrack.processes import Process, Watch, beating, interruptible

logger = logging.getLogger("advtrack")

#: The attributes of a trial that say what it is for, and, from when work on it begins, what that has spent so far.
STEP, PASSES = "step", "passes"
# That all of what tells it from others is set; who runs it; when that process last said that it does.
_CLAIMED, _PROCESS, _BEAT = "claimed", "process", "alive"
# Seconds between two looks at what other processes do.
_POLL = 0.1
# How many in a row find nobody at a study that is free: between two trials a process holds none for a moment.
_LOOKS = 10
_watch = Watch()


def take(
    study: Study, step: str, suggest: Callable[[Trial], Any], fixed: Mapping[str, Any] | None = None
) -> Trial | FrozenTrial:
    """Begin a trial for a step of the search, unless one with the same parameters has finished or is running.

    Of processes that choose the same at the same moment, the one whose trial is the first goes on. An interrupt leaves
    no trial behind.

    Parameters
    ----------
    study : Study
        Its sampler chooses what is not ``fixed``.
    step : str
        What the trial is for.
    suggest : callable
        Asks the trial for its parameters.
    fixed : mapping, optional
        Parameters that are not chosen.

    Returns
    -------
    Trial or FrozenTrial
        The trial to work on; or the other one, as it was seen, if it is running after a moment's wait.
    """
    if fixed:
        for other in _trials(study, TrialState.RUNNING):
            if _is(other, step, fixed):
                wait()
                return other
    sampler = study.sampler
    if fixed:
        study.sampler = PartialFixedSampler(dict(fixed), sampler)
    try:
        trial = study.ask()
        with _failing(study, trial):
            trial.set_user_attr(_PROCESS, asdict(Process.this()))
            trial.set_user_attr(_BEAT, time.time())
            trial.set_user_attr(STEP, step)
            suggest(trial)
            trial.set_user_attr(_CLAIMED, True)
            same = _the_same(study, trial)
    except UpdateFinishedTrialError:  # closed by a process that took this one for dead before it could say who it is
        return take(study, step, suggest, fixed)
    finally:
        study.sampler = sampler
    if same is None:
        return trial
    fail(study, trial.number)
    if same.state == TrialState.RUNNING:
        wait()
    return same


def _the_same(study: Study, trial: Trial) -> FrozenTrial | None:
    """An earlier trial of the same step with the same parameters, a finished one if there is any."""
    while True:
        reap(study)
        earlier = [o for o in _trials(study, TrialState.RUNNING, TrialState.COMPLETE) if o.number < trial.number]
        if all(_CLAIMED in other.user_attrs for other in earlier):
            break
        wait()
    same = [other for other in earlier if _is(other, trial.user_attrs[STEP], trial.params)]
    return max(same, key=lambda other: other.state == TrialState.COMPLETE, default=None)


def _is(trial: FrozenTrial, step: str, params: Mapping[str, Any]) -> bool:
    """Whether a trial is for this step with these parameters; one that does not say yet is not."""
    return trial.user_attrs.get(STEP) == step and trial.params == params and _CLAIMED in trial.user_attrs


def _trials(study: Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


@contextmanager
def _failing(study: Study, trial: Trial) -> Iterator[None]:
    """Close a trial that an error or an interrupt ends."""
    try:
        yield
    except BaseException:
        fail(study, trial.number)
        raise


@contextmanager
def working(study: Study, trial: Trial, spent: Callable[[], int]) -> Iterator[None]:
    """Give signs of life for a trial, and tell what it has ``spent``, in passes.

    One that an error ends has failed, one that others have closed is lost.
    """

    def beat() -> None:
        with suppress(UpdateFinishedTrialError):  # closed by another process; this one learns that when it is done
            trial.set_user_attr(_BEAT, time.time())
            trial.set_user_attr(PASSES, spent())

    try:
        with _failing(study, trial), beating(beat, f"trial {trial.number}"):
            trial.set_user_attr(PASSES, 0)
            try:
                yield
            finally:
                beat()
    except UpdateFinishedTrialError:
        logger.warning("trial %d was closed by another process, which took this one for dead", trial.number)


def underway(study: Study, step: str) -> list[FrozenTrial]:
    """Running trials of a step."""
    return [trial for trial in _trials(study, TrialState.RUNNING) if trial.user_attrs.get(STEP) == step]


def wait() -> None:
    """Let other processes get on."""
    with interruptible():
        time.sleep(_POLL)


def fail(study: Study, number: int) -> None:
    """Close a trial that came to nothing, if it is not closed yet."""
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def holder(study: Study) -> Process | None:
    """Who is at a study, as far as that can be seen: of processes elsewhere, signs of life have to come first.

    Without them, what they hold counts as abandoned after a while, and is closed.
    """
    before: dict[int, object] | None = None
    free = 0
    while free < _LOOKS:
        reap(study)
        running = _trials(study, TrialState.RUNNING)
        beats = {trial.number: trial.user_attrs.get(_BEAT) for trial in running}
        for trial in running:
            process = _process(trial)
            shown = before is not None and before.get(trial.number) != beats[trial.number]
            if process and (shown or process.here()):
                return process
        if before is None and running:
            logger.info("waiting for signs of life of other processes, or for two minutes without any")
        before = beats
        free = 0 if running else free + 1
        wait()
    return None


def reap(study: Study) -> None:
    """Close the running trials of processes that are gone."""
    for trial in _trials(study, TrialState.RUNNING):
        if _abandoned(study, trial):
            fail(study, trial.number)


def _abandoned(study: Study, trial: FrozenTrial) -> bool:
    return _watch.abandoned((study.study_name, trial.number), _process(trial), trial.user_attrs.get(_BEAT))


def _process(trial: FrozenTrial) -> Process | None:
    """Who runs a trial, once that is said."""
    told = trial.user_attrs.get(_PROCESS)
    return Process(**told) if told else None
