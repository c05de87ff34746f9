"""The libraries that the benchmarks hold our attacks against, each called in its own way on the same tensors.

    pip install --no-deps -r benchmarks/requirements.txt

Their requirements contradict ours (torchattacks asks for requests 2.25), hence ``--no-deps``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import art.attacks.evasion as art
import foolbox
import numpy as np
import torch
import torchattacks
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

sys.modules.setdefault("visdom", ModuleType("visdom"))  # adv-lib imports its plotting server, which no attack needs
import adv_lib.attacks as adv_lib  # noqa: E402

#: ``attack(network, x, y) -> x_adv``; ``y`` are target labels if the attack is targeted.
PeerAttack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class Passes:
    """Forward and backward passes that a network was taken through, in samples."""

    forwards: int = 0
    backwards: int = 0
    #: How many batches of each size.
    forward_sizes: Counter[int] = field(default_factory=Counter)
    backward_sizes: Counter[int] = field(default_factory=Counter)


@contextmanager
def counted(network: nn.Module) -> Iterator[Passes]:
    """Count the passes through ``network``. A row of zeros that goes backwards counts like any other."""
    passes = Passes()

    def forward(module: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> None:
        passes.forwards += len(logits)
        passes.forward_sizes[len(logits)] += 1
        if logits.requires_grad:
            logits.register_hook(backward)

    def backward(gradient: Tensor) -> None:
        passes.backwards += len(gradient)
        passes.backward_sizes[len(gradient)] += 1

    handle = network.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


def art_classifier(network: nn.Module, x: Tensor, classes: int) -> PyTorchClassifier:
    """ART's view of a network."""
    return PyTorchClassifier(network, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=(0.0, 1.0))


def _art(make: Callable[[PyTorchClassifier, int], Any], classes: int) -> PeerAttack:
    def attack(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        made = make(art_classifier(network, x, classes), len(x))
        labels = np.eye(classes, dtype=np.float32)[y.cpu().numpy()]
        return torch.from_numpy(made.generate(x.cpu().numpy(), labels)).to(x.device)

    return attack


def _foolbox(made: Any, targeted: bool, eps: float | Tensor | None = None) -> PeerAttack:
    def attack(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        criterion = foolbox.criteria.TargetedMisclassification(y) if targeted else foolbox.criteria.Misclassification(y)
        if eps is None:
            return made(model, x, criterion, epsilons=None)[1]
        return made.run(model, x, criterion, epsilon=eps)

    return attack


def _torchattacks(make: Callable[[nn.Module], Any], targeted: bool) -> PeerAttack:
    def attack(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        made = make(network)
        if targeted:
            made.set_mode_targeted_by_label(quiet=True)
        return made(x, y)

    return attack


def bim(eps: float | Tensor, iterations: int, targeted: bool, classes: int) -> dict[str, PeerAttack]:
    """BIM with steps of eps / 8, without a random start: all iterations, the last iterate; eps for all or each."""
    each = eps.view(-1, 1, 1, 1) if isinstance(eps, Tensor) else eps
    for_art = each.cpu().numpy() if isinstance(each, Tensor) else each
    return {
        "ART": _art(
            lambda classifier, batch: art.BasicIterativeMethod(
                classifier, for_art, for_art / 8, iterations, targeted, batch, verbose=False
            ),
            classes,
        ),
        "Foolbox": _foolbox(
            foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=1 / 8, steps=iterations), targeted, each
        ),
        "torchattacks": _torchattacks(lambda network: torchattacks.BIM(network, each, each / 8, iterations), targeted),
        "adv-lib": lambda network, x, y: adv_lib.pgd_linf(
            network, x, y, eps, targeted, iterations, random_init=False, relative_step_size=1 / 8
        ),
    }


def deepfool(norm: str, iterations: int, classes: int) -> dict[str, PeerAttack]:
    """DeepFool over all classes with 2% overshoot. ART and torchattacks know the l2 norm only."""
    one = foolbox.attacks.LinfDeepFoolAttack if norm == "linf" else foolbox.attacks.L2DeepFoolAttack
    found = {
        "Foolbox": _foolbox(one(steps=iterations, candidates=classes, overshoot=0.02), targeted=False),
        "adv-lib": lambda network, x, y: adv_lib.df(
            network, x, y, steps=iterations, overshoot=0.02, norm=float("inf") if norm == "linf" else 2
        ),
    }
    if norm == "l2":
        found["ART"] = _art(
            lambda classifier, batch: art.DeepFool(classifier, iterations, 0.02, classes, batch, verbose=False), classes
        )
        found["torchattacks"] = _torchattacks(lambda network: torchattacks.DeepFool(network, iterations), False)
    return found


def carlini_wagner(
    iterations: int, constants: int, targeted: bool, classes: int, rates: tuple[float, ...] = (0.1,)
) -> dict[str, PeerAttack]:
    """C&W in l2 with as many iterations and constants as ours; torchattacks has a single constant.

    The libraries' own learning rates and first constants are made for thousands of iterations. Each peer is called with
    rate and constant 0.01, their usual ones, and with higher rates and 1, which get further in so few.
    """
    settings = [(0.01, 0.01, ""), *((rate, 1.0, f" (lr {rate:g}, c 1)") for rate in rates)]
    return {
        f"{name}{note}": attack
        for rate, const, note in settings
        for name, attack in _carlini_wagner(iterations, constants, targeted, classes, rate, const).items()
    }


def _carlini_wagner(
    iterations: int, constants: int, targeted: bool, classes: int, rate: float, const: float
) -> dict[str, PeerAttack]:
    return {
        "ART": _art(
            lambda classifier, batch: art.CarliniL2Method(
                classifier, 0.0, targeted, rate, constants, iterations, const, batch_size=batch, verbose=False
            ),
            classes,
        ),
        "Foolbox": _foolbox(
            foolbox.attacks.L2CarliniWagnerAttack(constants, iterations, rate, initial_const=const), targeted
        ),
        "torchattacks": _torchattacks(lambda network: torchattacks.CW(network, const, 0, iterations, rate), targeted),
        "adv-lib": lambda network, x, y: adv_lib.carlini_wagner_l2(
            network, x, y, targeted, 0, rate, const, constants, iterations
        ),
    }


def jsma(gamma: float, classes: int) -> dict[str, PeerAttack]:
    """JSMA with theta 1: both peers change two features a step."""
    return {
        "ART": _art(
            lambda classifier, batch: art.SaliencyMapMethod(classifier, 1.0, gamma, batch, verbose=False), classes
        ),
        "torchattacks": _torchattacks(lambda network: torchattacks.JSMA(network, 1.0, gamma), True),
    }
