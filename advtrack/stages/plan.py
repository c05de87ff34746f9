"""The commands that fill the open cells of a comparison, and how long they take."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.reporting.cells import Table
from advtrack.reporting.records import AttackRecord, Training, VictimRecord
from advtrack.reporting.tables import FillingCommand
from advtrack.search.space import longest_run
from advtrack.stages.fold import FOLDS
from advtrack.stages.train import DEFAULTS, default_lr
from advtrack.stages.victims import training_command
from advtrack.tracking import registry, runs


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
    history = {stage: runs.find({"stage": stage}, status="FINISHED") for stage in ("features", "fold", "attack")}
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


def filling_command(records: Sequence[VictimRecord]) -> FillingCommand:
    """Name the command that fills a cell, with the options that make its result comparable to what is there."""
    plain = {record.cell: record for record in records if record.training == "plain"}

    @cache  # several tables ask for the same, and finding stores takes a while
    def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
        cell = f"--dataset {dataset} --representation {representation} --model {model}"
        # What belongs together has the seed of the others, and its attacks their options.
        others = [plain[cell] for cell in sorted(plain) if cell[0] == dataset]
        beside = plain.get((dataset, representation, model)) if training == "adversarial" else None
        if not attacks:
            if beside:
                own_lr = str(default_lr(model, beside.settings["weights"]))
                options = _differing({**DEFAULTS, "lr": own_lr}, beside.settings)
            else:
                options = _differing({"seed": DEFAULTS["seed"]}, others[0].settings) if others else ""
            return training_command(dataset, representation, model, training, options)
        alias = registry.STANDARD if training == "plain" else registry.ROBUST
        like = next((one.attacks for one in [beside, *others] if one and one.attacks.keys() & set(attacks)), {})
        options = _search_options([like[attack] for attack in attacks if attack in like]) if like else ""
        return f"advtrack attack {cell} --victim {alias} --attack {attacks[0] if len(attacks) == 1 else 'all'}{options}"

    return command


def _search_options(records: Sequence[AttackRecord]) -> str:
    """The options of these searches that are not the defaults of the attack stage."""
    options = _differing(
        {"seed": 0, "target_fooling_rate": 0.9, "criterion": "fooling_rate", "protocol": "test"},
        vars(records[0]),
    )
    limits = [(r.attack, r.sample_limit) for r in records if r.sample_limit != (ATTACKS[r.attack].sample_limit or 0)]
    caps = [(r.attack, r.longest) for r in records if r.longest != longest_run(ATTACKS[r.attack])]
    for option, values in (("samples", limits), ("max-iter", caps)):
        if values:
            options += f" --{option} " + ",".join(f"{attack}={value}" for attack, value in values)
    return options


def _differing(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Options whose values are not the defaults, as they are written on a command line."""
    named = ((name.replace("_", "-"), values[name]) for name, default in defaults.items() if values[name] != default)
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in named)


def _turn(command: str) -> int:
    """When a command can be given: after those that it needs."""
    stage, options = _parsed(command)
    if stage == "attack":
        return 3 if options["victim"] == registry.STANDARD else 4
    return ("features", "train", "adv-train").index(stage)


def _parsed(command: str) -> tuple[str, dict[str, str]]:
    """The stage that a command of ours names, and its options."""
    _, stage, *rest = shlex.split(command)
    return stage, {name.removeprefix("--"): value for name, value in zip(rest[::2], rest[1::2], strict=True)}


def _estimate(command: str, history: Mapping[str, Sequence[Any]]) -> tuple[float | None, str]:
    """How long a command takes by the median of the runs most like it, and which these are."""
    stage, options = _parsed(command)
    training = "adversarial" if stage == "adv-train" or options.get("victim") == registry.ROBUST else "plain"
    levels: tuple[tuple[str, ...], ...] = (("dataset", "representation", "model"), ("model",))
    if stage == "features":
        kind, units, tags, levels = "features", 1, {}, (("dataset", "representation"), ("dataset",))
    elif stage == "attack":
        kind, tags = "attack", {"training": training}
        units = len(TABLE_ATTACKS) if options["attack"] == "all" else 1
    else:
        kind, tags = "fold", {"training": training}
        units = FOLDS * int(options.get("epochs", DEFAULTS["epochs"]))
    for names in levels:
        wanted = tags | {name: options[name] for name in names}
        alike = [run for run in history[kind] if all(runs.tag(run, name) == value for name, value in wanted.items())]
        if pace := [runs.seconds(run) / count for run in alike if (count := _units(kind, run))]:
            noun = "run" if len(pace) == 1 else "runs"
            return statistics.median(pace) * units, f"by {len(pace)} {kind} {noun} of {', '.join(wanted.values())}"
    return None, f"no {kind} run like it was made"


def _units(kind: str, run: Any) -> int:
    """By how much a run's time is divided: the epochs of a fold, the attacks that were searched in an attack run."""
    if kind == "fold":
        return int(run.data.params["epochs"])
    if kind == "attack":  # those found in an earlier run took no time
        return sum(name.endswith(".study") for name in runs.prefixed_tags(run, ""))
    return 1


def _duration(seconds: float | None) -> str:
    return "unknown time" if seconds is None else f"about {timedelta(seconds=round(seconds))}"
