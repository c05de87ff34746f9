"""The registry in a real MLflow store: versions, aliases, and how a victim is found or asked for."""

import pytest

from advtrack.errors import InputError
from advtrack.tracking import registry
from advtrack.tracking.registry import Registered, by_alias, model_name, register, resolve, set_alias, versions


@pytest.fixture
def train(store):
    """Register a version as training does; the version."""

    def make(dataset="synthetic", representation="stft", model="alexnet", alias=None, **tags):
        run = store.create_run("0").info.run_id
        name = model_name(dataset, representation, model)
        version = register(name, f"runs:/{run}/victim", run, {"fold": 0, **tags}, "a fold")
        if alias:
            set_alias(version, alias)
        return version

    return make


def test_every_registration_is_a_version_of_its_own(train, store):
    first, second = train(fold=0, accuracy=0.8), train(fold=1)
    assert (first.name, first.version, second.version) == ("synthetic-stft-alexnet", "1", "2")
    assert first.tags == {"fold": "0", "accuracy": "0.8"} and first.run_id != second.run_id
    assert [v.version for v in versions(first.name)] == ["2", "1"]
    assert store.get_model_version(first.name, "1").description == "a fold"
    assert str(second) == "synthetic-stft-alexnet version 2"


def test_versions_are_in_the_order_of_numbers(train):
    for fold in range(11):
        train(fold=fold)
    assert [v.version for v in versions("synthetic-stft-alexnet")] == [str(n) for n in range(11, 0, -1)]
    assert versions("nothing") == []


def test_an_alias_moves(train):
    first, second = train(alias="standard"), train()
    assert by_alias(first.name, "standard") == first
    set_alias(second, "standard")
    assert by_alias(first.name, "standard") == second
    assert by_alias(first.name, "robust") is None is by_alias("nothing", "standard")


def test_tags_are_set_on_one_version(train):
    first, second = train(), train()
    registry.tag(first, {"champion_since": 1, "fold": 7})
    assert resolve("synthetic", "stft", "alexnet", "1").tags == {"fold": "7", "champion_since": "1"}
    assert resolve("synthetic", "stft", "alexnet", second.version).tags == {"fold": "0"}


def test_a_victim_is_found_by_alias_and_by_version(train):
    first, second = train(alias="standard"), train(alias="robust")
    assert resolve("synthetic", "stft", "alexnet", "standard") == first
    assert resolve("synthetic", "stft", "alexnet", "robust") == second
    assert resolve("synthetic", "stft", "alexnet", "1") == first
    assert resolve("auto", "stft", "alexnet", "2") == second


@pytest.mark.parametrize(
    ("dataset", "victim", "command"),
    [
        ("esc10", "standard", "advtrack train --dataset esc10 --representation stft --model alexnet"),
        ("auto", "standard", "advtrack train --dataset synthetic --representation stft --model alexnet"),
        ("esc10", "robust", "advtrack adv-train --dataset esc10 --representation stft --model alexnet"),
    ],
)
def test_a_missing_victim_names_the_command_that_makes_it(store, dataset, victim, command):
    with pytest.raises(InputError, match="no registered victim") as caught:
        resolve(dataset, "stft", "alexnet", victim)
    assert str(caught.value).endswith(f"run first: {command}") and f"--victim {victim}:" in str(caught.value)


def test_only_the_missing_kind_is_asked_for(train):
    train("esc10", alias="standard")
    with pytest.raises(InputError, match=r"esc10-stft-alexnet@robust; run first: advtrack adv-train --dataset esc10"):
        resolve("auto", "stft", "alexnet", "robust")


def test_an_unknown_version_lists_those_there_are(train):
    train()
    train()
    with pytest.raises(InputError, match=r"--victim 7: synthetic-stft-alexnet has versions 2, 1; run first:"):
        resolve("synthetic", "stft", "alexnet", "7")
    with pytest.raises(InputError, match=r"esc10-stft-alexnet has no versions; run first: advtrack train"):
        resolve("esc10", "stft", "alexnet", "7")


def test_several_data_sets_are_listed(train):
    train("synthetic", alias="standard")
    train("esc10", alias="standard")
    train("urbansound8k", representation="dwt", alias="standard")
    train("urbansound8k", model="resnet18", alias="standard")
    with pytest.raises(InputError, match=r"say --dataset esc10 or --dataset synthetic$"):
        resolve("auto", "stft", "alexnet", "standard")
    assert resolve("esc10", "stft", "alexnet", "standard").name == "esc10-stft-alexnet"
    assert resolve("auto", "dwt", "alexnet", "standard").name == "urbansound8k-dwt-alexnet"


def test_representations_that_end_alike_are_told_apart(train):
    train("esc10", representation="stft_tonnetz")
    train("synthetic", representation="stft")
    assert registry.datasets_of("stft", "alexnet") == ["synthetic"]
    assert registry.datasets_of("stft_tonnetz", "alexnet") == ["esc10"]
    assert registry.datasets_of("tonnetz", "alexnet") == []


def test_a_version_is_a_plain_value():
    assert Registered("a", "1", "r", {}) == Registered("a", "1", "r", {})
