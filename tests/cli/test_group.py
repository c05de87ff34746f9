"""What holds for all commands."""

import click
import pytest
from click.testing import CliRunner

from advtrack.cli import cli

OPTIONS = [
    pytest.param(name, option, id=f"{name} {option.opts[0]}")
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.fixture(autouse=True)
def _logging(monkeypatch):
    monkeypatch.setattr("advtrack.cli.group.prepare_logging", lambda: None)  # for good, and for all tests


def refusal(*arguments):
    """The line in which a command is refused."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    return line


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_option_that_is_given_twice_is_refused(command, option):
    value = [] if option.is_flag else [str(option.default)]
    twice = [argument for name in (option.opts * 2 + option.secondary_opts)[-2:] for argument in (name, *value)]
    told = refusal(command, *twice)
    assert told.startswith(f"Error: {option.opts[0]} is given 2 times; give it once")
    assert told.endswith(option.help or "once")


def test_where_an_option_takes_several_values_the_refusal_says_how():
    representations = ["--representation", "stft", "--representation", "dwt_tonnetz"]
    assert refusal("features", *representations).endswith("give it once: One of them, or all.")
    models = ["--models=vgg16", "--models", "alexnet", "--models", "resnet18"]
    assert refusal("compare", *models) == (
        "Error: --models is given 3 times; give it once: Names with commas between, or all."
    )


def test_help_is_given_whatever_stands_beside_it():
    result = CliRunner().invoke(cli, ["features", "--seed", "1", "--seed", "2", "--help"])
    assert result.exit_code == 0 and "--representation" in result.output
