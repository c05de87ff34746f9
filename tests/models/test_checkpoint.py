"""A victim on disk: the same logits back, no code inside, anything else refused in one line."""

import json

import pytest
import torch

from advtrack.errors import InputError
from advtrack.models.checkpoint import Description, load, save
from advtrack.models.zoo import build

CLASSES = ("bark", "rain", "siren")


@pytest.fixture
def saved(tmp_path):
    """A folder with a saved network whose BatchNorm has seen data, and that network."""
    torch.manual_seed(0)
    network = build("resnet56", 3, mean=0.4, std=0.3)
    network(torch.rand(2, 1, 8, 8))
    description = Description(
        "resnet56",
        "stft",
        "synthetic",
        CLASSES,
        (1, 8, 8),
        {"duration": 5.0},
        {"protocol": "paper", "fold": 1, "eps": None},
    )
    save(tmp_path / "deep" / "victim", network, description)
    return tmp_path / "deep" / "victim", network.eval(), description


def test_round_trip_is_exact(saved):
    folder, network, description = saved
    victim = load(folder)
    assert all(torch.equal(a, b) for a, b in zip(victim.network.parameters(), network.parameters(), strict=True))
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(victim.network(x), network.to(memory_format=torch.channels_last)(x))
    assert victim.description == description
    assert not victim.network.training


def test_channels_last_weights_are_saved_by_value(saved, tmp_path):
    _, network, description = saved
    network.to(memory_format=torch.channels_last)
    save(tmp_path / "again", network, description)
    again = load(tmp_path / "again").network
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_identifier_follows_the_weights_alone(saved, tmp_path):
    folder, network, description = saved
    save(tmp_path / "copy", network, description)
    assert load(tmp_path / "copy").checkpoint_id == load(folder).checkpoint_id
    with torch.no_grad():
        network.body.fc.bias[0] += 1
    save(tmp_path / "other", network, description)
    assert load(tmp_path / "other").checkpoint_id != load(folder).checkpoint_id


def test_files_are_safetensors_and_json(saved):
    folder, network, _ = saved
    weights = (folder / "weights.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert set(header) - {"__metadata__"} == set(network.state_dict())
    numbers = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    assert len(weights) == 8 + int.from_bytes(weights[:8], "little") + numbers  # no room for anything else
    assert json.loads((folder / "victim.json").read_text())["classes"] == list(CLASSES)
    assert {file.name for file in folder.iterdir()} == {"weights.safetensors", "victim.json"}


def truncate(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def rewrite(**fields):
    def change(folder):
        file = folder / "victim.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        truncate,
        lambda folder: (folder / "weights.safetensors").write_bytes(b"garbage"),
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "victim.json").unlink(),
        lambda folder: (folder / "victim.json").write_text("{"),
        lambda folder: (folder / "victim.json").write_text("[]"),
        lambda folder: (folder / "victim.json").write_text("{}"),
        lambda folder: (folder / "victim.json").write_bytes(b"\xff\xfe\x00"),
        rewrite(model="perceptron"),
        rewrite(model="resnet18"),
        rewrite(classes=["bark", "rain"]),
        rewrite(surprise=1),
        rewrite(shape=3),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(saved, spoil):
    folder, _, _ = saved
    spoil(folder)
    with pytest.raises(InputError, match="victim: not a readable checkpoint") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_in_one_line(tmp_path, saved, full_disk):
    _, network, description = saved
    with (
        full_disk(1_000_000),
        pytest.raises(InputError, match=r"again cannot be written \(.*File too large.*make room"),
    ):
        save(tmp_path / "again", network, description)
