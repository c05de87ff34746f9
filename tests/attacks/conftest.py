"""Tiny victims whose behaviour is known, and a meter of the passes made through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

SHAPE = (1, 4, 4)
CLASSES = 4


@dataclass
class Passes:
    """Samples that went through a network forwards, and gradients that came back through it."""

    forwards: int = 0
    backwards: int = 0


@pytest.fixture
def linear_victim() -> Callable[..., nn.Sequential]:
    """Logits ``W x + b``: the minimal perturbation between two classes has a closed form."""

    def build(
        classes: int = CLASSES,
        shape: tuple[int, ...] = SHAPE,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> nn.Sequential:
        generator = torch.Generator().manual_seed(seed)
        layer = nn.Linear(prod(shape), classes).to(dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=dtype))
            # Centred on mid-grey, so that no class swallows the whole box.
            layer.bias.copy_(-0.5 * layer.weight.sum(1))
        return nn.Sequential(nn.Flatten(), layer)

    return build


@pytest.fixture
def mlp_victim() -> Callable[..., nn.Sequential]:
    """A smooth two-layer network with dropout and batch normalisation, left in training mode."""

    def build(
        classes: int = CLASSES,
        shape: tuple[int, ...] = SHAPE,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        hidden: int = 24,
    ) -> nn.Sequential:
        generator = torch.Generator().manual_seed(seed)
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(prod(shape), hidden),
            nn.BatchNorm1d(hidden),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        ).to(dtype)
        with torch.no_grad():
            for layer in (network[1], network[5]):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=dtype))
            network[1].bias.copy_(-0.5 * network[1].weight.sum(1))
            network[5].bias.zero_()
        return network

    return build


@pytest.fixture
def clips() -> Callable[..., Tensor]:
    """Random inputs of shape (n, *shape) in [margin, 1 - margin]."""

    def draw(
        n: int,
        shape: tuple[int, ...] = SHAPE,
        dtype: torch.dtype = torch.float64,
        seed: int = 1,
        margin: float = 0.0,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return margin + (1 - 2 * margin) * torch.rand((n, *shape), generator=generator, dtype=dtype)

    return draw


@pytest.fixture
def predict() -> Callable[[nn.Module, Tensor], Tensor]:
    """Classes that a network in evaluation mode gives, shape (N,); its modes are put back."""

    def labels(network: nn.Module, x: Tensor) -> Tensor:
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        with torch.no_grad():
            y = network(x).argmax(1)
        for module, training in modes:
            module.training = training
        return y

    return labels


@pytest.fixture
def other_labels() -> Callable[..., Tensor]:
    """A random label per sample that differs from ``y``, shape (N,)."""

    def draw(y: Tensor, classes: int = CLASSES, seed: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (y + torch.randint(1, classes, y.shape, generator=generator)) % classes

    return draw


@pytest.fixture
def count_passes() -> Callable[..., object]:
    """``with count_passes(network) as passes:`` counts samples by hooks, independently of the attacks' own count."""

    @contextmanager
    def counting(network: nn.Module) -> Iterator[Passes]:
        passes = Passes()

        def after_backward(gradient: Tensor) -> None:
            passes.backwards += len(gradient)

        def after_forward(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
            passes.forwards += len(logits)
            if logits.requires_grad:
                logits.register_hook(after_backward)

        handle = network.register_forward_hook(after_forward)
        try:
            yield passes
        finally:
            handle.remove()

    return counting


@pytest.fixture
def art_classifier() -> Callable[..., PyTorchClassifier]:
    """An ART classifier around a network on the CPU, in evaluation mode, for inputs in [0, 1]."""

    def wrap(
        network: nn.Module, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES, **params: object
    ) -> PyTorchClassifier:
        settings: dict[str, object] = {"clip_values": (0.0, 1.0), "device_type": "cpu", **params}
        return PyTorchClassifier(
            network.eval(), loss=nn.CrossEntropyLoss(), input_shape=shape, nb_classes=classes, **settings
        )

    return wrap
