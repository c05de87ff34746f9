"""Finding a victim, and the commands that make one that is missing."""

import pytest

from advtrack.errors import InputError
from advtrack.stages.features import features_command
from advtrack.stages.victims import find_victim, only_victim, training_command
from advtrack.tracking import runs

STFT = "--dataset esc50 --representation stft"


@pytest.fixture
def extracted(store, tmp_path):
    """Leave a finished features run with these parameters, and its store; the run."""

    def make(representation="stft", **params):
        folder = tmp_path / f"{representation}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "manifest.json").touch()
        tags = {"dataset": "esc50", "representation": representation, "store": folder, "store_digest": folder.name}
        with runs.stage_run("features", 1, {"store": folder.name}, title="", params=params, tags=tags) as stage:
            return stage.run_id

    return make


def test_a_victim_is_found(registered):
    first, second = registered(alias="standard"), registered(alias="robust")
    assert find_victim("auto", "stft", "alexnet", "standard") == first
    assert find_victim("synthetic", "stft", "alexnet", "2") == second


@pytest.mark.parametrize(
    ("dataset", "victim", "expected"),
    [
        ("esc50", "standard", f"advtrack features {STFT} --data-dir FOLDER && advtrack train {STFT} --model alexnet"),
        (
            "auto",
            "robust",
            "advtrack features --dataset synthetic --representation stft && "
            "advtrack train --dataset synthetic --representation stft --model alexnet && "
            "advtrack adv-train --dataset synthetic --representation stft --model alexnet",
        ),
    ],
)
def test_a_missing_victim_names_all_that_makes_it(store, dataset, victim, expected):
    with pytest.raises(InputError, match="no registered victim") as caught:
        find_victim(dataset, "stft", "alexnet", victim)
    assert str(caught.value).endswith(f"run first: {expected}")


def test_an_alias_is_in_doubt_once_two_image_sizes_are_there(registered):
    size = {"training": "plain", "height": 32, "width": 32}
    small = registered(alias="standard", store_digest="small", **size)
    assert only_victim("auto", "stft", "alexnet", "standard") == small
    registered(alias="robust", store_digest="large", training="adversarial")
    assert only_victim("auto", "stft", "alexnet", "standard") == small
    large = registered(alias="standard", store_digest="large", **size)
    with pytest.raises(InputError, match=r"say which version: 3 \(\d+ x \d+, paper protocol\), 1 \("):
        only_victim("auto", "stft", "alexnet", "standard")
    assert only_victim("auto", "stft", "alexnet", large.version) == large


def test_a_missing_champion_is_promoted_not_trained(store):
    with pytest.raises(InputError, match=r"@champion; run first: advtrack promote --dataset esc50"):
        find_victim("esc50", "stft", "alexnet", "champion")


def test_a_missing_robust_victim_is_trained_after_its_plain_one(registered):
    cell = "--dataset esc50 --representation stft --model alexnet"
    with pytest.raises(InputError, match=f"&& advtrack train {cell} && advtrack adv-train {cell}$"):
        find_victim("esc50", "stft", "alexnet", "robust")
    registered("esc50", alias="standard")
    with pytest.raises(InputError, match=f"FOLDER && advtrack adv-train {cell}$"):
        find_victim("esc50", "stft", "alexnet", "robust")


def test_what_is_extracted_is_not_asked_for_again(extracted):
    extracted()
    assert training_command("esc50", "stft", "alexnet", "plain") == f"advtrack train {STFT} --model alexnet"


def test_of_several_stores_one_is_named_but_not_where_the_plain_victim_decides(extracted):
    extracted()
    newest = extracted()
    assert training_command("esc50", "stft", "alexnet", "plain").endswith(f" --model alexnet --features-run {newest}")
    robust = training_command("esc50", "stft", "alexnet", "adversarial", " --seed 3")
    assert robust == f"advtrack adv-train {STFT} --model alexnet --seed 3"


def test_another_representation_is_extracted_like_the_one_there_is(extracted):
    extracted(data_dir="clips", height=32, width=48, augment=False, top_db=80.0, reference_db=None, work_dir="work")
    command = "advtrack features --dataset esc50 --representation dwt --data-dir clips --height 32 --width 48"
    assert features_command("esc50", "dwt") == command
    assert training_command("esc50", "dwt", "vgg16", "plain").startswith(f"{command} && advtrack train")
