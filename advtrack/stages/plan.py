"""The commands that fill the open cells of a comparison, and how long they take."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from advtrack.attacks import ATTACKS
from advtrack.reporting.records import AttackRecord, Training, VictimRecord
from advtrack.reporting.tables import FillingCommand
from advtrack.search.space import longest_run
from advtrack.stages.train import DEFAULTS, default_lr
from advtrack.stages.victims import training_command
from advtrack.tracking import registry


def filling_command(records: Sequence[VictimRecord]) -> FillingCommand:
    """Name the command that fills a cell, with the options that make its result comparable to what is there."""
    plain = {record.cell: record for record in records if record.training == "plain"}

    def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
        cell = f"--dataset {dataset} --representation {representation} --model {model}"
        beside = plain.get((dataset, representation, model)) if training == "adversarial" else None
        if not attacks:
            own_lr = str(default_lr(model, beside.settings["weights"])) if beside else ""
            options = _differing({**DEFAULTS, "lr": own_lr}, beside.settings) if beside else ""
            return training_command(dataset, representation, model, training, options)
        alias = registry.STANDARD if training == "plain" else registry.ROBUST
        options = _search_options([beside.attacks[attack] for attack in attacks]) if beside else ""
        return f"advtrack attack {cell} --victim {alias} --attack {attacks[0] if len(attacks) == 1 else 'all'}{options}"

    return command


def _search_options(records: Sequence[AttackRecord]) -> str:
    """The options of these searches that are not the defaults of the attack stage."""
    options = _differing(
        {"seed": 0, "target_fooling_rate": 0.9, "criterion": "fooling_rate", "protocol": "test"}, asdict(records[0])
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
