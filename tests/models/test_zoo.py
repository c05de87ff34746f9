"""The six networks: shapes, normalisation inside, and initial weights from files and the net."""

import hashlib
import http.server
import os
import pickle
import threading
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from advtrack.errors import InputError
from advtrack.models import MODELS
from advtrack.models.zoo import Network, build, check_size, check_weights


@pytest.fixture(scope="module")
def rgb_state():
    """A state dict like torchvision's ResNet-18, of ImageNet's shape."""
    torch.manual_seed(5)
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.fixture
def no_proxy(monkeypatch):
    """The loopback address is reached directly."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(tmp_path, no_proxy):
    """A loopback HTTP server of the files in ``tmp_path / 'served'``: that folder and the address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def imagenet_url(monkeypatch):
    """Put another address in the place of torchvision's for ResNet-18."""

    def point(url):
        weights = torchvision.models.get_weight("ResNet18_Weights.IMAGENET1K_V1")
        monkeypatch.setattr(weights.value, "url", url)

    return point


class Bomb:
    """Pickled code that would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_the_normalisation_inside(model):
    torch.manual_seed(1)
    network = build(model, 7, mean=0.3, std=0.2).eval()
    x, seen = torch.rand(2, 1, 64, 64), []
    network.body.register_forward_pre_hook(lambda body, arguments: seen.extend(arguments))
    with torch.no_grad():
        logits = network(x)
        assert torch.allclose(seen[0], (x - 0.3) / 0.2, atol=1e-6)
        assert torch.equal(logits, network.body((x - 0.3) / 0.2))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 1


def test_normalisation_is_of_the_checkpoint_and_not_trained():
    network = Network(nn.Identity(), 0.25, 0.5)
    assert torch.allclose(network(torch.tensor([0.25, 0.75])), torch.tensor([0.0, 1.0]))
    assert set(network.state_dict()) == {"mean", "std"} and not list(network.parameters())


def test_random_weights_come_from_the_global_generator():
    torch.manual_seed(3)
    first = build("resnet18", 4)
    second = build("resnet18", 4)
    torch.manual_seed(3)
    again = build("resnet18", 4)
    weights = [network.body.conv1.weight for network in (first, second, again)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_rgb_filters_are_summed_and_a_head_of_other_size_stays_new(tmp_path, rgb_state, suffix):
    file = tmp_path / f"weights.{suffix}"
    save_file(rgb_state, file) if suffix == "safetensors" else torch.save(rgb_state, file)
    torch.manual_seed(9)
    own_head = build("resnet18", 7).body.fc.weight
    torch.manual_seed(9)
    body = build("resnet18", 7, weights=str(file)).body
    assert torch.equal(body.conv1.weight, rgb_state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(body.layer3[0].conv2.weight, rgb_state["layer3.0.conv2.weight"])
    assert torch.equal(body.fc.weight, own_head)


def test_grey_image_gets_the_same_logits_as_from_the_rgb_network(tmp_path, rgb_state):
    save_file(rgb_state, tmp_path / "w.safetensors")
    colour = torchvision.models.resnet18(weights=None).eval()
    colour.load_state_dict(rgb_state)
    grey = build("resnet18", 1000, weights=str(tmp_path / "w.safetensors")).eval()
    x = torch.rand(1, 1, 40, 40)
    with torch.no_grad():
        assert torch.allclose(grey(x), colour(x.expand(1, 3, 40, 40)), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_images_that_a_network_cannot_take_are_refused(model):
    network = build(model, 2)
    smallest = next(side for side in range(1, 225) if _takes(network, side))
    check_size(model, smallest, 3 * smallest)
    if smallest > 1:
        with pytest.raises(InputError, match=f"{model} cannot take images of {smallest - 1} x 224"):
            check_size(model, smallest - 1, 224)


def _takes(network, side):
    try:
        network(torch.zeros(2, 1, side, side))
    except RuntimeError:
        return False
    return True


def test_own_weights_load_whole(tmp_path):
    network = build("resnet56", 5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    body = build("resnet56", 5, weights=str(tmp_path / "w.safetensors")).body
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), network.body.parameters(), strict=True))


def test_weights_of_another_network_are_refused(tmp_path, rgb_state):
    save_file(rgb_state, tmp_path / "w.safetensors")
    unfit = r"\S+ (is missing|has shape .+, not .+) \(\d+ in all\)"
    with pytest.raises(InputError, match=rf"w\.safetensors: does not fit this network: {unfit}"):
        build("resnet56", 5, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_file_of_something_else_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all" * 9)
    with pytest.raises(InputError, match="not a state dict"):
        build("resnet56", 5, weights=str(tmp_path / name))


@pytest.mark.parametrize(
    "content", [[1, 2], {0: torch.ones(1)}, {"conv1.weight": 5}, {"state_dict": {}}, torch.ones(2)]
)
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth"):
        build("resnet56", 5, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("by", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, by):
    by({"conv1.weight": Bomb(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"without code$"):  # and not with torch's advice to run it
        build("resnet56", 5, weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


def test_weights_without_counters_of_batches_fit(tmp_path):
    """torch leaves them out of files of old, and so does a converter that knows no integers."""
    state = build("resnet56", 5).body.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "w.safetensors")
    body = build("resnet56", 5, weights=str(tmp_path / "w.safetensors")).body
    assert all(torch.equal(tensor, body.state_dict()[name]) for name, tensor in kept.items())


@pytest.mark.parametrize(
    "change", [Tensor.to_sparse, lambda tensor: tensor.to(torch.complex64), lambda tensor: tensor.to("meta")]
)
def test_tensors_that_are_no_dense_real_numbers_are_refused(tmp_path, change):
    state = build("resnet56", 5).body.state_dict()
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    torch.save(state | {name: change(state[name])}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"{name} is no dense tensor of real numbers \(1 in all\)"):
        build("resnet56", 5, weights=str(tmp_path / "w.pth"))


def test_weights_of_few_bits_fit(tmp_path, rgb_state):
    """Also where filters of three colours are summed, which few bits cannot do."""
    few = {name: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for name, t in rgb_state.items()}
    torch.save(few, tmp_path / "w.pth")
    body = build("resnet18", 5, weights=str(tmp_path / "w.pth")).body
    assert torch.equal(body.conv1.weight, few["conv1.weight"].float().sum(1, keepdim=True))


def test_weights_too_large_for_the_network_are_refused(tmp_path):
    state = build("resnet56", 3).body.state_dict()
    name = sorted(name for name in state if name.endswith("running_var"))[0]
    torch.save(state | {name: torch.full_like(state[name], 1e300, dtype=torch.float64)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"{name} holds NaN or infinite values \(1 in all\)"):
        build("resnet56", 3, weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    state = build("resnet56", 3).body.state_dict()
    name = sorted(name for name in state if name.endswith("running_var"))[0]
    state[name][0] = value
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    with pytest.raises(InputError, match=rf"weights.pt: {name} holds NaN or infinite values \(1 in all\)"):
        build("resnet56", 3, weights=str(file))


def test_weights_that_cannot_be_are_refused_beforehand(tmp_path):
    with pytest.raises(InputError, match=r"resnet56 has no ImageNet weights.*--weights imagenet,resnet56=none"):
        check_weights("resnet56", "imagenet")
    with pytest.raises(InputError, match="nowhere: no such file"):
        check_weights("alexnet", str(tmp_path / "nowhere"))
    check_weights("resnet56", "none")
    check_weights("alexnet", "imagenet")


def test_imagenet_weights_are_downloaded_checked_and_kept(server, hub, imagenet_url, rgb_state):
    folder, address = server
    torch.save(rgb_state, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    (folder / "new.pth").rename(folder / f"resnet18-{digest}.pth")
    imagenet_url(f"{address}/resnet18-{digest}.pth")
    network = build("resnet18", 4, weights="imagenet")
    body, names = network.body, {name for name, _ in network.named_parameters()}
    assert network.pretrained & names == names - {"body.fc.weight", "body.fc.bias"}
    assert torch.equal(body.conv1.weight, rgb_state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(body.bn1.weight, rgb_state["bn1.weight"])
    (folder / f"resnet18-{digest}.pth").unlink()
    build("resnet18", 4, weights="imagenet")  # from the cache
    assert (hub / f"resnet18-{digest}.pth").is_file()


def test_a_download_with_another_checksum_is_refused(server, hub, imagenet_url):
    folder, address = server
    (folder / "resnet18-01234567.pth").write_bytes(b"tampered with")
    imagenet_url(f"{address}/resnet18-01234567.pth")
    with pytest.raises(InputError, match=f"cannot download {address}/resnet18-01234567.pth"):
        build("resnet18", 4, weights="imagenet")
    assert not list(hub.glob("*.pth"))


def test_a_missing_download_names_address_and_ways_out(server, hub, imagenet_url):
    _, address = server
    imagenet_url(f"{address}/gone-01234567.pth")
    with pytest.raises(InputError, match=rf"{address}/gone-01234567\.pth .*404.*{hub}.*--weights none"):
        build("resnet18", 4, weights="imagenet")


def test_offline_names_address_and_ways_out(hub, imagenet_url, no_proxy):
    imagenet_url("http://127.0.0.1:9/resnet18-01234567.pth")  # refuses connections
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:9/resnet18-01234567\.pth .*refused.*{hub}.*--weights none"):
        build("resnet18", 4, weights="imagenet")


def test_a_file_put_into_the_cache_runs_no_code(hub, imagenet_url, tmp_path):
    hub.mkdir(parents=True)
    torch.save({"conv1.weight": Bomb(tmp_path / "ran")}, hub / "resnet18-01234567.pth")
    imagenet_url("http://127.0.0.1:9/resnet18-01234567.pth")
    with pytest.raises(InputError, match="resnet18-01234567"):
        build("resnet18", 4, weights="imagenet")
    assert not (tmp_path / "ran").exists()
