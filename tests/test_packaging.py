"""What is told twice must be told alike: requirements, entry points, versions, checks; and what the wheel holds."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import advtrack
from advtrack.attacks import TABLE_ATTACKS
from advtrack.cli import PRESETS, cli
from advtrack.data import DATASETS
from advtrack.models import MODELS
from advtrack.representations import REPRESENTATIONS

ROOT = Path(__file__).parents[1]
# The dashboards compute nothing: a run of their own would say nothing.
COMMANDS = sorted(cli.commands.keys() - {"dashboard"})


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def options_of(command: str) -> dict[str, click.Parameter]:
    """A command's arguments and options that take a value, by the name of their MLproject parameter."""
    options = [p for p in cli.commands[command].params if not getattr(p, "is_flag", False)]
    return {option.opts[0].removeprefix("--").replace("-", "_"): option for option in options}


def placed(option: click.Parameter) -> str:
    """What stands before an option's value; nothing before an argument's."""
    return f"{option.opts[0]} " if isinstance(option, click.Option) else ""


def values_parsed(command: str, arguments: list[str]) -> dict[str, Any]:
    return cli.commands[command].make_context(command, arguments).params


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def test_conda_yaml_requires_what_pyproject_requires() -> None:
    *others, last = read_yaml("conda.yaml")["dependencies"]
    assert last == {"pip": project()["dependencies"]}
    assert others == [f"python{project()['requires-python']}", "pip"]


def test_version_is_told_alike() -> None:
    assert advtrack.__version__ == project()["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {project()['version']}" in changelog


def test_mlproject_has_an_entry_point_for_each_command() -> None:
    mlproject = read_yaml("MLproject")
    assert mlproject["name"] == "advtrack"
    assert mlproject["conda_env"] == "conda.yaml"
    assert sorted(mlproject["entry_points"]) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_mlproject_parameters_are_the_options_with_their_defaults(command: str) -> None:
    parameters = read_yaml("MLproject")["entry_points"][command]["parameters"]
    assert {name: str(parameter["default"]) for name, parameter in parameters.items()} == {
        name: str(option.default) for name, option in options_of(command).items()
    }
    # MLflow would make a 'path' absolute and download a 'uri'.
    assert {parameter["type"] for parameter in parameters.values()} <= {"string", "float"}


@pytest.mark.parametrize("command", COMMANDS)
def test_mlproject_command_passes_each_parameter_to_its_option(command: str) -> None:
    line = read_yaml("MLproject")["entry_points"][command]["command"]
    passed = [f"{placed(option)}{{{name}}}" for name, option in options_of(command).items()]
    assert line == " ".join([f"python -m advtrack {command}", *passed])


@pytest.mark.parametrize("command", COMMANDS)
def test_mlproject_defaults_mean_what_no_options_mean(command: str) -> None:
    entry = read_yaml("MLproject")["entry_points"][command]
    # As MLflow fills a command in: each value quoted for the shell, so that an empty one stays an argument.
    quoted = {name: shlex.quote(str(parameter["default"])) for name, parameter in entry["parameters"].items()}
    _, _, _, _, *arguments = shlex.split(entry["command"].format(**quoted))
    assert values_parsed(command, arguments) == values_parsed(command, [])


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from advtrack.cli import cli; cli(['attack', '--help'], standalone_mode=False); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(finished.stderr.split())
    heavy = {"torch", "torchvision", "mlflow", "optuna", "librosa", "numpy", "scipy", "art", "matplotlib"}
    assert not loaded & heavy
    assert "--target-fooling-rate" in finished.stdout


def test_presets_are_those_of_the_command_line() -> None:
    assert sorted(PRESETS) == sorted(file.stem for file in (ROOT / "advtrack" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_complete_and_names_what_exists(preset: str) -> None:
    values = read_yaml(f"advtrack/presets/{preset}.yaml")
    demo = read_yaml("advtrack/presets/demo.yaml")
    assert {name: type(value) for name, value in values.items()} == {name: type(v) for name, v in demo.items()}
    assert values["dataset"] in DATASETS
    known = {"models": MODELS, "representations": REPRESENTATIONS, "attacks": TABLE_ATTACKS}
    for name, names in known.items():
        assert values[name] == ["all"] or set(values[name]) <= set(names)


def test_readme_names_the_two_commands_and_every_entry_point() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        recipe(target)
    for command in COMMANDS:
        assert f"`{command}`" in readme


def test_links_between_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_commit_hooks_and_ci_run_what_make_runs() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("lint")
    assert (ROOT / ".ci" / "run").read_text("utf-8").splitlines()[-1] == "make test"


def test_wheel_holds_code_presets_licence_and_console_script(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools writes beside what it builds
    shutil.copytree(ROOT / "advtrack", source / "advtrack", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (metadata,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        information = metadata.removesuffix("METADATA")
        scripts = archive.read(f"{information}entry_points.txt").decode()
    code = {path.relative_to(source).as_posix() for path in (source / "advtrack").rglob("*") if path.is_file()}
    assert held - {name for name in held if name.startswith(information)} == code
    assert {f"advtrack/presets/{preset}.yaml" for preset in PRESETS} <= held
    assert f"{information}licenses/LICENSE" in held
    assert "advtrack = advtrack.__main__:main" in scripts
