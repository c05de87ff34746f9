"""The registry in a real MLflow store: versions, aliases, and how a victim is found or asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from advtrack.errors import InputError
from advtrack.tracking import registry, runs
from advtrack.tracking.registry import by_alias, dataset_of, resolve, set_alias, versions


def test_every_registration_is_a_version_of_its_own(registered, store):
    first, second = registered(fold=0, accuracy=0.8), registered(fold=1)
    assert (first.name, first.version, second.version) == ("synthetic-stft-alexnet", "1", "2")
    assert first.tags == {"fold": "0", "protocol": "paper", "accuracy": "0.8"} and first.run_id != second.run_id
    assert [v.version for v in versions(first.name)] == ["2", "1"]
    assert store.get_model_version(first.name, "1").description == "a fold"
    assert str(second) == "synthetic-stft-alexnet version 2"


def test_versions_are_in_the_order_of_numbers(registered):
    for fold in range(11):
        registered(fold=fold)
    assert [v.version for v in versions("synthetic-stft-alexnet")] == [str(n) for n in range(11, 0, -1)]
    assert versions("nothing") == []


def test_an_alias_moves(registered):
    first, second = registered(alias="standard"), registered()
    assert by_alias(first.name, "standard") == first
    set_alias(second, "standard")
    assert by_alias(first.name, "standard") == second
    assert by_alias(first.name, "robust") is None is by_alias("nothing", "standard")


def test_tags_are_set_on_one_version(registered):
    first, second = registered(), registered()
    registry.tag(first, {"champion_since": 1, "fold": 7})
    assert registry.version(first.name, "1").tags == {"fold": "7", "protocol": "paper", "champion_since": "1"}
    assert registry.version(first.name, second.version).tags == {"fold": "0", "protocol": "paper"}
    assert registry.version(first.name, "3") is None


def test_a_victim_is_found_by_alias_and_by_version(registered):
    first, second = registered(alias="standard"), registered(alias="robust")
    assert resolve(first.name, "standard", "") == resolve(first.name, "1", "") == first
    assert resolve(first.name, "robust", "") == second


def test_an_unknown_version_lists_those_there_are_or_the_command(registered):
    name = registered().name
    registered()
    with pytest.raises(InputError, match=r"--victim 7: .* has the versions 2, 1; choose one of them$"):
        resolve(name, "7", "do it")
    with pytest.raises(InputError, match=r"--victim 7: nothing has no versions; run first: do it$"):
        resolve("nothing", "7", "do it")
    with pytest.raises(InputError, match=r"--victim robust: no registered victim .*@robust; run first: do it$"):
        resolve(name, "robust", "do it")


def test_several_data_sets_are_listed(registered):
    registered("synthetic", alias="standard")
    registered("esc10", alias="standard")
    registered("urbansound8k", representation="dwt", alias="standard")
    registered("urbansound8k", model="resnet18", alias="standard")
    with pytest.raises(InputError, match=r"say --dataset esc10 or --dataset synthetic$"):
        dataset_of("auto", "stft", "alexnet")
    assert dataset_of("esc10", "stft", "alexnet") == "esc10"
    assert dataset_of("auto", "dwt", "alexnet") == "urbansound8k"
    assert dataset_of("auto", "dwt", "vgg16") == "synthetic"


def test_representations_that_end_alike_are_told_apart(registered):
    registered("esc10", representation="stft_tonnetz")
    registered("synthetic", representation="stft")
    assert registry.datasets_of("stft", "alexnet") == ["synthetic"]
    assert registry.datasets_of("stft_tonnetz", "alexnet") == ["esc10"]
    assert registry.datasets_of("tonnetz", "alexnet") == []


def test_a_run_that_repeats_another_moves_no_alias_and_marks_its_versions(registered):
    first = registered(alias="standard")
    with runs.rerunning("other"):
        second = registered(alias="standard")
        registry.tag(first, {"fold": 7})
        registry.tag(second, {"fold": 8})
    assert by_alias(first.name, "standard") == first  # with the tags it had
    assert registry.version(first.name, second.version).tags == {"fold": "8", "protocol": "paper", "rerun_of": "other"}
    registry.tag(registry.version(first.name, second.version), {"fold": 9})  # as any other from now on
    assert registry.version(first.name, second.version).tags["fold"] == "9"


def test_a_deleted_version_is_nowhere_and_takes_its_alias_with_it(registered, store):
    first, second = registered(alias="standard"), registered()
    store.delete_model_version(first.name, first.version)
    assert by_alias(first.name, "standard") is None is registry.version(first.name, first.version)
    assert [v.version for v in versions(first.name)] == [second.version]
    with pytest.raises(InputError, match=r"has the versions 2; choose one of them"):
        resolve(first.name, first.version, "do it")
    assert registered().version == "3"  # numbers are not given twice


def test_two_processes_register_at_once(registered, tmp_path):
    """In one SQLite file, and a model that neither of them has seen."""
    registered()
    program = (
        "from advtrack.tracking import registry; import sys\n"
        "for fold in range(5):\n"
        "    registry.register('crowded', 'runs:/' + sys.argv[1] + '/victim', sys.argv[1], {'fold': fold}, 'a fold')"
    )
    command = [sys.executable, "-c", program, versions("synthetic-stft-alexnet")[0].run_id]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(int(v.version) for v in versions("crowded")) == list(range(1, 11))
    assert sorted(v.tags["fold"] for v in versions("crowded")) == sorted("01234" * 2)


@pytest.mark.parametrize(("value", "limit", "greater"), [(0.5, 0.5, True), (0.5, 0.5, False), (0.6, 0.5, True)])
def test_a_threshold_is_met_on_its_very_value(value, limit, greater):
    assert registry.meets(value, limit, greater)


@pytest.mark.parametrize("greater", [True, False])
def test_a_value_on_the_wrong_side_or_of_no_number_meets_nothing(greater):
    assert not registry.meets(0.4 if greater else 0.6, 0.5, greater)
    assert not registry.meets(float("nan"), 0.5, greater)
