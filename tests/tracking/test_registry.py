"""The registry in a real MLflow store: versions, aliases, and how a victim is found or asked for."""

import pytest

from advtrack.errors import InputError
from advtrack.tracking import registry
from advtrack.tracking.registry import by_alias, dataset_of, resolve, set_alias, versions


def test_every_registration_is_a_version_of_its_own(registered, store):
    first, second = registered(fold=0, accuracy=0.8), registered(fold=1)
    assert (first.name, first.version, second.version) == ("synthetic-stft-alexnet", "1", "2")
    assert first.tags == {"fold": "0", "accuracy": "0.8"} and first.run_id != second.run_id
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
    assert registry.version(first.name, "1").tags == {"fold": "7", "champion_since": "1"}
    assert registry.version(first.name, second.version).tags == {"fold": "0"}
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
