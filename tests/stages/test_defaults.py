"""The command line and the stages have the same defaults."""

from dataclasses import MISSING, fields

import pytest

from advtrack.cli import cli
from advtrack.stages.attacking import Attacking
from advtrack.stages.defaults import ATTACKING, FOLDS, HARDENING, SEARCHING, TRAINING
from advtrack.stages.train import Training


@pytest.mark.parametrize(
    ("command", "values", "options"),
    [
        ("train", FOLDS | TRAINING, Training),
        ("adv-train", FOLDS | TRAINING | HARDENING, Training),
        ("attack", SEARCHING | ATTACKING, Attacking),
    ],
)
def test_what_is_not_told_is_the_same_everywhere(command, values, options):
    on_the_command_line = {option.name: option.default for option in cli.commands[command].params}
    assert {name: on_the_command_line[name] for name in values} == values
    # Without an eps, the stage trains plainly.
    in_stages = {one.name: one.default for one in fields(options) if one.default is not MISSING and one.name != "eps"}
    shared = in_stages.keys() & values.keys()
    assert shared and {name: in_stages[name] for name in shared} == {name: values[name] for name in shared}
