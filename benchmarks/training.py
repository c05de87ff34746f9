"""How much of the compute rate training keeps, what adversarial training costs, and what networks learn.

    python benchmarks/training.py --store work/stores/esc50-stft-128x128-... --model resnet18
    python benchmarks/training.py --store work/stores/esc50-stft-128x128-... --accuracy resnet18 alexnet

Prints tables and writes the figures as JSON. The rate is that of an epoch from the store, with its checkpoint, against
the same steps and evaluation on tensors that lie ready on the device. Adversarial training is measured in our two
passes and in the plain three. Epochs of all kinds alternate; a figure is the median. ``--accuracy`` trains networks by
the platform's own recipe instead, on the folds of a protocol, and says how long each takes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from advtrack.attacks.fgsm import fgsm_step
from advtrack.data import PROTOCOLS
from advtrack.models import MODELS
from advtrack.models.zoo import build
from advtrack.representations.store import SpectrogramSet, open_store
from advtrack.stages.defaults import HARDENING, TRAINING
from advtrack.stages.device import choose_device
from advtrack.stages.fold import chosen_folds, split_store, with_copies
from advtrack.stages.train import own_defaults
from advtrack.training import fit as training
from advtrack.training.history import Epoch
from advtrack.training.reading import Batches
from advtrack.training.state import Checkpoint

EPS = HARDENING["eps"]


class Ready:
    """Batches of an epoch that lie ready on a device."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.sizes, self.content = batches.sizes, list(batches.read(0, device))

    def read(self, first: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.content[first:]


class InMemory:
    """A store whose images have been read."""

    def __init__(self, store: SpectrogramSet) -> None:
        self.y, self.classes, self.x = store.y, store.classes, store.images(np.arange(len(store)))

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.x[indices]


def three_passes(network: nn.Module, loss: Callable[..., Tensor], x: Tensor, *, eps: float, alpha: float) -> Tensor:
    """Eq. 13 the plain way: a pass for the examples, one for the clean term, one for the adversarial."""
    probe = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(network(probe)), probe)
    value = alpha * loss(network(x)) + (1 - alpha) * loss(network(fgsm_step(x, gradient, eps)))
    value.backward()
    return value.detach()


def seconds_per_epoch(
    arguments: argparse.Namespace, device: torch.device, eps: float | None, ready: bool = False, plain: bool = False
) -> list[float]:
    """Seconds of each epoch but the first, which warms up."""
    store = open_store(arguments.store)
    fold = chosen_folds("all", arguments.protocol, store.fold)[0]
    parts = split_store(store, arguments.protocol, 0, fold)
    train = with_copies(store, parts.train)
    network = build(arguments.model, len(store.classes)).to(device)
    options = settings(arguments, arguments.model, epochs=arguments.epochs + 1, eps=eps)
    ends: list[float] = []

    def ended(epoch: Epoch) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(perf_counter())

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data: Any = store
        if ready:
            data = InMemory(store)
            once = Ready(training._batches(data, train, options, 1), device)
            stack.enter_context(patch.object(training, "_batches", lambda *_, **__: once))
            stack.enter_context(patch.object(Checkpoint, "write_behind", lambda *_: None))
        if plain:
            stack.enter_context(patch.object(training, "adversarial_backward", three_passes))
            stack.enter_context(patch.object(training, "_watch", lambda *_: (1.0, 1.0)))
        training.fit(network, data, train, parts.stop, options, Path(folder) / "state.pt", ended)
    return np.diff(ends).tolist()


def settings(arguments: argparse.Namespace, model: str, **changes: Any) -> training.Settings:
    """The platform's own, with what the options change."""
    values = {name: TRAINING[name] for name in ("patience", "batch_size", "seed")}
    return training.Settings(**{**values, **own_defaults(model, "none"), "precision": arguments.precision, **changes})


def speed(arguments: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Medians of the seconds per epoch, and what is asked of them."""
    kinds: dict[str, dict[str, Any]] = {
        "epoch_s": {"eps": None},
        "ready_s": {"eps": None, "ready": True},
        "adversarial_s": {"eps": EPS},
        "three_pass_s": {"eps": EPS, "plain": True},
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(arguments.turns):
        for name, kind in kinds.items():
            seconds[name] += seconds_per_epoch(arguments, device, **kind)
    found = {name: median(values) for name, values in seconds.items()}
    return found | {
        "rate": found["ready_s"] / found["epoch_s"],
        "adversarial_over_clean": found["adversarial_s"] / found["epoch_s"],
        "three_pass_over_clean": found["three_pass_s"] / found["epoch_s"],
    }


def accuracy(arguments: argparse.Namespace, device: torch.device, model: str) -> Iterator[dict[str, Any]]:
    """Test accuracy and seconds of each fold, as they come."""
    store = open_store(arguments.store)
    for fold in chosen_folds(arguments.folds, arguments.protocol, store.fold):
        parts = split_store(store, arguments.protocol, 0, fold)
        train = with_copies(store, parts.train)
        mean, std = store.moments(train)
        torch.manual_seed(fold)
        network = build(model, len(store.classes), mean=mean, std=std).to(device)
        eps = arguments.eps or None
        begun = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "state.pt"
            best = training.fit(
                network, store, train, parts.stop, settings(arguments, model, eps=eps), checkpoint, lambda epoch: None
            )
        taken = perf_counter() - begun
        right = training.probabilities(network, store, parts.test).argmax(1) == store.y[parts.test]
        yield {"model": model, "fold": fold, "accuracy": float(right.mean()), "epoch": best.number, "seconds": taken}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="a folder that the features stage has made")
    parser.add_argument("--model", choices=MODELS, default="resnet18", help="whose speed is measured")
    parser.add_argument("--accuracy", nargs="+", choices=MODELS, default=[], help="networks to train instead")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="official")
    parser.add_argument("--folds", default="all", help="as of advtrack train")
    parser.add_argument("--eps", type=float, default=0.0, help="train adversarially, for --accuracy")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--epochs", type=int, default=2, help="of each kind and turn, for the speed")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/training.json"))
    arguments = parser.parse_args()

    device = choose_device(arguments.device)
    about = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    found: dict[str, Any] = {"store": arguments.store.name, "device": about, "protocol": arguments.protocol}
    print(f"{arguments.store.name} on {about}")
    if not arguments.accuracy:
        found[arguments.model] = speed(arguments, device)
        for name, value in found[arguments.model].items():
            print(f"  {name:24} {value:.3f}")
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    found["folds"] = []
    for model in arguments.accuracy:
        for one in accuracy(arguments, device, model):
            found["folds"].append(one)
            told = f"{one['accuracy']:6.1%}  epoch {one['epoch']:3}  {one['seconds']:.0f} s"
            print(f"  {model:10} fold {one['fold']:2}  {told}", flush=True)
            arguments.out.write_text(json.dumps(found, indent=2) + "\n")  # what is known so far
        own = [one for one in found["folds"] if one["model"] == model]
        accuracies = [one["accuracy"] for one in own]
        spread = f" ± {stdev(accuracies):.1%}" if len(own) > 1 else ""
        taken = fmean(one["seconds"] for one in own)
        print(f"  {model:10} mean of {len(own)}: {fmean(accuracies):.1%}{spread}, {taken:.0f} s a fold")


if __name__ == "__main__":
    main()
