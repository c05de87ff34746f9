"""The command that fills an open cell of a comparison: like those that filled the cells beside it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import cache

from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.models.zoo import check_weights
from advtrack.reporting.belonging import belonging
from advtrack.reporting.pairs import FillingCommand
from advtrack.reporting.records import Training, VictimRecord
from advtrack.stages.defaults import FOLDS, HARDENING, SEARCHING, TRAINING
from advtrack.stages.train import own_defaults
from advtrack.stages.victims import in_doubt, training_command
from advtrack.tracking import lookup, registry

# Options that make two results comparable, with the values they have unless told otherwise, as runs record them.
_TRAINING, _HARDENING, _SEARCHING = (
    {name: str(value) for name, value in options.items()} for options in (FOLDS | TRAINING, HARDENING, SEARCHING)
)


def filling_command(records: Sequence[VictimRecord]) -> FillingCommand:
    """Name the command that fills a cell, with the options that make its result belong to what is there.

    Parameters
    ----------
    records : sequence of VictimRecord
        All victims there are; those that do not belong with the others have no say.
    """
    kept, _ = belonging(records)

    @cache  # several tables ask for the same, and finding runs and stores takes a while
    def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
        cell = (dataset, representation, model)
        # The nearest first: this very cell, then the same network, and plain victims before robust ones.
        near = sorted(
            (record for record in kept if record.dataset == dataset),
            key=lambda one: (one.cell != cell, one.model != model, one.training != "plain", one.cell),
        )
        return _attacking(cell, training, attacks, near) if attacks else _training(cell, training, near)

    return command


def _training(cell: tuple[str, str, str], training: Training, near: Sequence[VictimRecord]) -> str:
    """The command that trains a victim like the nearest plain one, and adversarially like the nearest robust one."""
    plain = next((record for record in near if record.training == "plain"), None)
    if plain is None:
        return training_command(*cell, training)
    given, model = _given(plain.run_id, _TRAINING), cell[2]
    own = {name: str(value) for name, value in own_defaults(plain.model, given["weights"]).items()}
    if plain.model != model:
        given["weights"] = _weights_for(model, given["weights"])
    if plain.model != model:
        own["lr"] = given["lr"]
    given |= {name: _TRAINING[name] for name, value in own.items() if given[name] == value}
    options = _differing(_TRAINING, given)
    robust = next((record for record in near if record.training == "adversarial"), None)
    if training == "adversarial" and robust:
        options += _differing(_HARDENING, _given(robust.run_id, _HARDENING))
    store = lookup.tag(lookup.get(plain.run_id), "store_digest") or ""
    return training_command(*cell, training, options, like=store)


def _attacking(
    cell: tuple[str, str, str], training: Training, attacks: Sequence[str], near: Sequence[VictimRecord]
) -> str:
    """The commands that attack a victim, each attack as it struck the nearest victim; in one if that says it all."""
    alias = registry.STANDARD if training == "plain" else registry.ROBUST
    pointed_at = registry.by_alias(registry.model_name(*cell), alias)
    there = any(record.cell == cell and record.training == training for record in near)
    victim = pointed_at.version if there and pointed_at and in_doubt(pointed_at) else alias
    place = "--dataset {} --representation {} --model {}".format(*cell)
    options = {attack: _searching(attack, near) for attack in attacks}
    together = set(attacks) == set(TABLE_ATTACKS) and len(set(options.values())) == 1
    return " && ".join(
        f"advtrack attack {place} --victim {victim} --attack {name}{options[attack]}"
        for attack, name in ([(attacks[0], "all")] if together else [(attack, attack) for attack in attacks])
    )


def _searching(attack: str, near: Sequence[VictimRecord]) -> str:
    """The options of the nearest search by an attack; without one, those of the nearest by any."""
    searches = [record.attacks[attack] for record in near if attack in record.attacks]
    searches += [one for record in near for one in record.attacks.values()]
    return _differing(_SEARCHING, _given(searches[0].run_id, _SEARCHING)) if searches else ""


def _weights_for(model: str, weights: str) -> str:
    """The initial weights of another network, as far as it can have them."""
    if weights != "imagenet":  # a file is of one network
        return "none"
    try:
        check_weights(model, weights)
    except InputError:
        return "none"
    return weights


def _given(run_id: str, defaults: Mapping[str, str]) -> dict[str, str]:
    """The options that a run was given."""
    params = lookup.params(lookup.get(run_id))
    return {name: params[name] for name in defaults}


def _differing(defaults: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Options whose values are not the defaults, as they are written on a command line."""
    named = ((name.replace("_", "-"), values[name]) for name, default in defaults.items() if values[name] != default)
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in named)
