"""The commands that fill the open cells of a comparison, and how long they take."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from advtrack.attacks import TABLE_ATTACKS
from advtrack.data.splits import PAPER_FOLDS
from advtrack.reporting.cells import Table
from advtrack.stages.defaults import FOLDS, TRAINING
from advtrack.stages.train import own_defaults
from advtrack.tracking import lookup, registry


@dataclass(frozen=True)
class Step:
    """A command still to be given.

    Attributes
    ----------
    command : str
        As it is typed.
    fills : tuple of str
        Cells that wait for it.
    seconds : float or None
        How long it takes, as far as runs like it tell; None where there are none.
    basis : str
        Which runs tell so, or that none do.
    """

    command: str
    fills: tuple[str, ...]
    seconds: float | None
    basis: str


def steps(tables: Iterable[Table]) -> list[Step]:
    """All commands that fill the open cells of some tables, in an order in which they can be given."""
    waiting: dict[str, list[str]] = {}
    for table in tables:
        for line in table.lines:
            for i, cell in enumerate(line):
                for command in cell.missing:
                    for single in command.split(" && "):
                        waiting.setdefault(single, []).append(f"{table.name}: {table.place(line, i)}")
    # All runs at once, not a look-up per command.
    history = {stage: lookup.find({"stage": stage}, status="FINISHED") for stage in ("features", "fold", "attack")}
    return [
        Step(command, tuple(dict.fromkeys(waiting[command])), *_estimate(command, history))
        for command in sorted(waiting, key=_turn)  # stable: otherwise as the tables come
    ]


def as_text(plan: Sequence[Step]) -> str:
    """The plan as it is printed: a command a line, below it its time and what it is for, and the sum."""
    if not plan:
        return "Every cell is filled."
    lines = []
    for step in plan:
        places = step.fills[0] if len(step.fills) == 1 else f"{len(step.fills)} cells, first {step.fills[0]}"
        lines += [step.command, f"    {_duration(step.seconds)} ({step.basis}); for {places}"]
    known = [step.seconds for step in plan if step.seconds is not None]
    unknown = f", and {len(plan) - len(known)} of unknown time" if len(known) < len(plan) else ""
    total = f"{_duration(sum(known))} for {len(known)} of them{unknown}" if known else "no time can be told"
    return "\n".join([*lines, "", f"{len(plan)} commands: {total}."])


def _turn(command: str) -> int:
    """When a command can be given: after those that it needs."""
    stage, options = _parsed(command)
    if stage == "attack":
        return 3 if _training(stage, options) == "plain" else 4
    return ("features", "train", "adv-train").index(stage)


def _parsed(command: str) -> tuple[str, dict[str, str]]:
    """The stage that a command of ours names, and its options."""
    _, stage, *rest = shlex.split(command)
    return stage, {name.removeprefix("--"): value for name, value in zip(rest[::2], rest[1::2], strict=True)}


def _training(stage: str, options: Mapping[str, str]) -> str:
    """How the victim of a command is or was trained."""
    if stage != "attack":
        return "adversarial" if stage == "adv-train" else "plain"
    if options["victim"].isdigit():
        cell = (options[part] for part in ("dataset", "representation", "model"))
        found = registry.version(registry.model_name(*cell), options["victim"])
        return found.tags["training"] if found else "plain"
    return "adversarial" if options["victim"] == registry.ROBUST else "plain"


def _estimate(command: str, history: Mapping[str, Sequence[Any]]) -> tuple[float | None, str]:
    """How long a command takes by the median of the runs most like it, and which these are."""
    stage, options = _parsed(command)
    tags = {"training": _training(stage, options)}
    levels: tuple[tuple[str, ...], ...] = (("dataset", "representation", "model"), ("model",))
    if stage == "features":
        kind, units, tags, levels = "features", 1, {}, (("dataset", "representation"), ("dataset",))
    elif stage == "attack":
        kind, units = "attack", len(TABLE_ATTACKS) if options["attack"] == "all" else 1
    else:
        kind, units = "fold", _folds(options, history["fold"]) * _epochs(options)
    for names in levels:
        wanted = tags | {name: options[name] for name in names}
        alike = [run for run in history[kind] if all(lookup.tag(run, name) == value for name, value in wanted.items())]
        if pace := [lookup.seconds(run) / count for run in alike if (count := _units(kind, run))]:
            noun = "run" if len(pace) == 1 else "runs"
            return statistics.median(pace) * units, f"by {len(pace)} {kind} {noun} of {', '.join(wanted.values())}"
    return None, f"no {kind} run like it was made"


def _folds(options: Mapping[str, str], history: Sequence[Any]) -> int:
    """How many folds a training has, over all repeats; of a publisher's as many as runs have shown."""
    given, number = options.get("folds", FOLDS["folds"]), PAPER_FOLDS
    if given != "all":
        number = int(given) if given.isdigit() else len(given.split(","))
    elif options.get("protocol", TRAINING["protocol"]) == "official":
        wanted = {"dataset": options["dataset"], "protocol": "official"}
        alike = [run for run in history if all(lookup.tag(run, name) == value for name, value in wanted.items())]
        number = len({lookup.tag(run, "fold") for run in alike}) or PAPER_FOLDS
    return number * int(options.get("repeats", FOLDS["repeats"]))


def _epochs(options: Mapping[str, str]) -> int:
    own = own_defaults(options["model"], options.get("weights", TRAINING["weights"]))
    return int(options.get("epochs", TRAINING["epochs"])) or int(own["epochs"])


def _units(kind: str, run: Any) -> int:
    """By how much a run's time is divided: the epochs of a fold, the attacks that were searched in an attack run."""
    if kind == "fold":
        return int(run.data.params["epochs"])
    if kind == "attack":  # those found in an earlier run took no time
        return sum(name.endswith(".study") for name in lookup.prefixed_tags(run, ""))
    return 1


def _duration(seconds: float | None) -> str:
    return "unknown time" if seconds is None else f"about {timedelta(seconds=round(seconds))}"
