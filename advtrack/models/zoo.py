"""A model's name to its network: one input channel, normalisation inside, logits out."""

from __future__ import annotations

import pickle
import urllib.error
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from advtrack.errors import InputError, reason
from advtrack.models.resnet56 import ResNet56

_WEIGHTS = {
    "googlenet": "GoogLeNet_Weights.IMAGENET1K_V1",
    "alexnet": "AlexNet_Weights.IMAGENET1K_V1",
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet34": "ResNet34_Weights.IMAGENET1K_V1",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
}


class Network(nn.Module):
    """A classifier of images in [0, 1] with its normalisation inside, so that attacks stay in [0, 1].

    Parameters
    ----------
    body : nn.Module
        Maps normalised images of shape (N, 1, H, W) to logits.
    mean, std : float
        Of the training images.
    pretrained : collection of str
        Parameters of the body, but for its head, that were not drawn at random.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: float = 0.0, std: float = 1.0, pretrained: Collection[str] = ()) -> None:
        super().__init__()
        self.body = body
        self.pretrained = frozenset(f"body.{name}" for name in pretrained)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(self, x: Tensor) -> Any:
        """Logits, shape (N, classes); GoogLeNet in training mode adds those of its auxiliary heads (a named tuple)."""
        return self.body((x - self.mean) / self.std)


def check_weights(model: str, weights: str) -> None:
    """Refuse weights that ``model`` cannot have, before anything trains.

    Raises
    ------
    InputError
        ResNet-56 with ImageNet weights, or a weights file that is not there.
    """
    if weights == "imagenet" and model not in _WEIGHTS:
        raise InputError(
            f"--weights imagenet: {model} has no ImageNet weights; train it from scratch, as in --weights "
            f"imagenet,{model}=none"
        )
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise InputError(f"--weights {weights}: no such file; give 'imagenet', 'none' or a file of weights")


def check_size(model: str, height: int, width: int) -> None:
    """Refuse images that ``model`` cannot take, before anything trains.

    Raises
    ------
    InputError
        They are too small for its layers.
    """
    with torch.device("meta"):  # shapes without numbers: no memory, no time
        try:
            _body(model, 2)(torch.empty(2, 1, height, width))
        except RuntimeError as error:
            raise InputError(
                f"{model} cannot take images of {height} x {width}: extract larger ones (features --height --width)"
            ) from error


def build(model: str, classes: int, *, weights: str = "none", mean: float = 0.0, std: float = 1.0) -> Network:
    """Build a network.

    Parameters
    ----------
    model : str
        A name of ``advtrack.models.MODELS``.
    classes : int
        Length of the logits.
    weights : str
        'none' (random initialisation from torch's global generator), 'imagenet' (torchvision's, downloaded on first
        use), or the path of a state dict (safetensors, or torch's format without pickled code) for this network or
        for torchvision's three-channel one.
    mean, std : float
        Normalisation, of images in [0, 1].

    Raises
    ------
    InputError
        Weights that do not exist, do not fit, or cannot be downloaded.
    """
    check_weights(model, weights)
    body = _body(model, classes)
    if model in ("alexnet", "vgg16"):
        _initialise(body)
    if weights == "none":
        return Network(body, mean, std)
    source = _download(model) if weights == "imagenet" else _read_weights(Path(weights))
    return Network(body, mean, std, _transfer(source, body, weights))


def _body(model: str, classes: int) -> nn.Module:
    """The network with one input channel. torchvision's builders where it has them."""
    if model == "resnet56":
        return ResNet56(classes)
    with warnings.catch_warnings():  # torchvision announces a future default for GoogLeNet's initialisation
        warnings.simplefilter("ignore", FutureWarning)
        options: dict[str, Any] = {"init_weights": True} if model in ("googlenet", "vgg16") else {}
        body = getattr(torchvision.models, model)(weights=None, num_classes=classes, **options)
    name, first = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))
    size, stride, padding = first.kernel_size[0], first.stride[0], int(first.padding[0])  # all are square
    single = nn.Conv2d(1, first.out_channels, size, stride, padding, bias=first.bias is not None)
    parent, _, attribute = name.rpartition(".")
    setattr(body.get_submodule(parent), attribute, single)
    if model == "googlenet":
        body.transform_input = False
    return body


def _initialise(body: nn.Module) -> None:
    """Initial weights of He et al. 2015 throughout: without BatchNorm, torchvision's own fade over eight layers and
    more, and training from scratch stays at chance for many epochs."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _download(model: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_weight(_WEIGHTS[model])
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (pickle.UnpicklingError, EOFError) as error:  # torch.hub trusts a file that is there already
        raise InputError(
            f"--weights imagenet: {_cached(weights.url)} is not a state dict in torch format without code; delete it"
        ) from error
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"--weights imagenet: cannot download {weights.url} ({error}); put that file into "
            f"{_cached(weights.url).parent}, or train with --weights none"
        ) from error


def _cached(url: str) -> Path:
    """Where torch.hub keeps the file of an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # every reader has its own exception types; all mean the same to the user
        # Of code in the file torch says how to run it.
        why = "" if isinstance(error, pickle.UnpicklingError) else f" ({reason(error)})"
        raise InputError(
            f"--weights {path}: not a state dict in safetensors or torch format without code{why}"
        ) from error


def _transfer(source: dict[str, Tensor], body: nn.Module, weights: str) -> set[str]:
    """Copy what fits: RGB filters of the first convolution are summed, heads of other class counts stay new.

    The names of what is no head.
    """
    own = body.state_dict()
    source = {str(name).removeprefix("body."): t for name, t in source.items() if isinstance(t, Tensor)}
    heads = {n for n in own if n.startswith(("fc", "classifier.6", "aux"))}
    # Counters of batches, which older files and some converters leave out; nothing here reads them.
    counters = {n for n in own if n.endswith("num_batches_tracked")}
    fitted, unfit = {}, []
    for name, tensor in own.items():
        given = source.get(name)
        if why := _unfit(given, tensor):
            unfit += [] if name in heads | counters else [f"{name} {why}"]
        else:
            assert given is not None
            given = given.to(tensor.dtype)
            fitted[name] = given if given.shape == tensor.shape else given.sum(1, keepdim=True)
    if unfit:
        raise InputError(f"--weights {weights}: does not fit this network: {unfit[0]} ({len(unfit)} in all)")
    if spoilt := sorted(name for name, given in fitted.items() if not given.isfinite().all()):
        raise InputError(f"--weights {weights}: {spoilt[0]} holds NaN or infinite values ({len(spoilt)} in all)")
    body.load_state_dict({**own, **fitted})
    return own.keys() - heads


def _unfit(given: Tensor | None, tensor: Tensor) -> str:
    """Why a tensor cannot take the place of another one, nothing if it can: as it is, or RGB filters as their sum."""
    if given is None:
        return "is missing"
    if given.layout != torch.strided or given.is_complex() or given.is_quantized or given.is_meta:
        return "is no dense tensor of real numbers"
    rgb = given.ndim == 4 and tuple(tensor.shape) == (given.shape[0], 1, *given.shape[2:]) and given.shape[1] == 3
    if given.shape != tensor.shape and not rgb:
        return f"has shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
    return ""
