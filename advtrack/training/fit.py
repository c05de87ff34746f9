"""Training of one fold, with early stopping, in a way that survives being killed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from advtrack.errors import InputError
from advtrack.training.adversarial import adversarial_backward

#: A killed run loses at most this many seconds of finished epochs.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_LABEL_SMOOTHING = 0.1


class Images(Protocol):
    """Where inputs come from: a spectrogram store, or a stand-in of a test."""

    @property
    def y(self) -> np.ndarray:
        """Labels, int64, shape (N,)."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Class names, which the labels index."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Float32 inputs in [0, 1], shape (n, 1, H, W)."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a fold is trained.

    Attributes
    ----------
    epochs : int
        At most; the one-cycle schedule spans them.
    patience : int
        Epochs without improvement on the early-stopping fold before training ends; 0 to run all epochs.
    batch_size : int
        Clips per step.
    lr : float
        Peak learning rate of the one-cycle schedule (AdamW).
    seed : int
        Of the order of clips, the augmentation and dropout.
    eps : float or None
        l-inf bound of the FGSM examples of adversarial training, in [0, 1]; None trains plainly.
    alpha : float
        Weight of the clean term of Eq. 13, in (0, 1].
    augmentation : {'all', 'roll', 'none'}
        Time roll with masks and mixup, time roll alone, or clips as they are.
    precision : {'fp32', 'bf16'}
        Of the training passes; weights, loss and evaluation are float32 in any case.
    """

    epochs: int
    patience: int
    batch_size: int
    lr: float
    seed: int
    eps: float | None = None
    alpha: float = 0.5
    augmentation: str = "all"
    precision: str = "fp32"


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: mean training loss; loss and accuracy on the early-stopping fold."""

    number: int
    train_loss: float
    stop_loss: float
    stop_accuracy: float


def fit(
    network: nn.Module,
    data: Images,
    train: np.ndarray,
    stop: np.ndarray,
    settings: Settings,
    checkpoint: Path,
    on_epoch: Callable[[Epoch], None],
) -> Epoch:
    """Train ``network`` in place and leave it with the weights of its best epoch.

    Each epoch's order, augmentation and dropout derive from (seed, epoch) alone, so that a run continued from
    ``checkpoint`` ends where an undisturbed one does. The file stays, with what is left to know of finished training,
    until the caller has put the weights into a safe place.

    Parameters
    ----------
    network : nn.Module
        On the device to train on.
    data : Images
        Inputs and labels.
    train, stop : ndarray of int
        Indices trained on, and those of the early-stopping fold.
    settings : Settings
        How.
    checkpoint : Path
        Where the state of training lies.
    on_epoch : callable
        Called after each epoch, for those before a continuation too.

    Returns
    -------
    Epoch
        The best: highest accuracy on the early-stopping fold, then lowest loss.

    Raises
    ------
    InputError
        The loss is not finite.
    """
    device = next(network.parameters()).device
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=0.05, fused=True)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    # The schedule cannot rise and fall in fewer than eight steps: a shorter training has the beginning of one.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=max(8, steps), pct_start=0.25)
    history: list[Epoch] = []
    best: dict[str, Tensor] = {}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
            schedule.load_state_dict(state["schedule"])
        history, best = [Epoch(**epoch) for epoch in state["history"]], state["best"]
        for epoch in history:
            on_epoch(epoch)

    saved = monotonic()
    while len(history) < settings.epochs and not _out_of_patience(history, settings.patience):
        number = len(history) + 1
        train_loss = _train_epoch(network, data, train, settings, number, optimiser, schedule, device)
        stop_loss, stop_accuracy = _evaluate(network, data, stop)
        history.append(Epoch(number, train_loss, stop_loss, stop_accuracy))
        if _best(history) is history[-1]:
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        on_epoch(history[-1])
        if monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "best": best}
            state |= {"schedule": _plain(schedule.state_dict()), "history": [asdict(epoch) for epoch in history]}
            _write(checkpoint, state)
            saved = monotonic()
    network.load_state_dict(best)
    network.eval()
    _write(checkpoint, {"network": best, "best": best, "history": [asdict(epoch) for epoch in history]})
    return _best(history)


def probabilities(network: nn.Module, data: Images, indices: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Class probabilities, shape (len(indices), classes), of a network in evaluation mode."""
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(data.images(indices[i : i + batch_size])).to(device)).softmax(1).cpu().numpy()
            for i in range(0, len(indices), batch_size)
        ]
    return np.concatenate(parts)


def roll(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each clip of a batch (N, C, H, W) in time, its last axis, around a circle and by a random amount."""
    width = x.shape[3]
    columns = (torch.arange(width) + torch.randint(width, (len(x), 1), generator=generator)) % width
    return x.gather(3, columns.to(x.device)[:, None, None, :].expand_as(x))


def mask(x: Tensor, generator: torch.Generator) -> Tensor:
    """Silence a random band of rows and one of columns per clip, up to a sixth each (SpecAugment, Park et al. 2019).

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    generator : torch.Generator
        On the CPU.
    """
    for axis in (2, 3):
        length = x.shape[axis]
        start = torch.randint(length, (len(x), 1), generator=generator)
        extent = torch.randint(max(length // 6, 1), (len(x), 1), generator=generator)
        position = torch.arange(length)
        hidden = ((position >= start) & (position < start + extent)).to(x.device)
        shape = (len(x), 1, length, 1) if axis == 2 else (len(x), 1, 1, length)
        x = x.masked_fill(hidden.view(shape), 0.0)
    return x


def mix(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend each clip with up to 40% of another (mixup, Zhang et al. 2018; the share is ours).

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    labels : Tensor, shape (N, classes)
        Label distributions that sum to 1.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    x, labels : Tensor
        Blended in the same shares.
    """
    share = 0.4 * torch.rand((len(x), 1), generator=generator).to(x)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return x + share[:, :, None, None] * (x[partner] - x), labels + share * (labels[partner] - labels)


def classification_loss(outputs: Any, labels: Tensor) -> Tensor:
    """Cross-entropy; GoogLeNet's auxiliary heads count 0.3 each (Szegedy et al. 2015, section 5)."""
    if isinstance(outputs, tuple):
        logits, *auxiliary = outputs
        return classification_loss(logits, labels) + 0.3 * sum(classification_loss(a, labels) for a in auxiliary)
    return functional.cross_entropy(outputs, labels, label_smoothing=_LABEL_SMOOTHING)


def _train_epoch(
    network: nn.Module,
    data: Images,
    train: np.ndarray,
    settings: Settings,
    number: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    device: torch.device,
) -> float:
    """One pass over ``train``; its mean loss."""
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + number)
    torch.manual_seed(settings.seed * 100_003 + number)  # dropout draws from the global generator
    order = train[torch.randperm(len(train), generator=generator).numpy()]
    network.train()
    total, seen = torch.zeros((), device=device), 0
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        if len(batch) == 1 and start:  # BatchNorm cannot normalise a lone sample where its map is 1 x 1
            schedule.step()
            continue
        x = torch.from_numpy(data.images(batch)).to(device)
        y = torch.from_numpy(data.y[batch]).to(device)
        labels = functional.one_hot(y, len(data.classes)).to(x.dtype)
        if settings.augmentation != "none":
            x = roll(x, generator)
        if settings.augmentation == "all":
            x, labels = mix(mask(x, generator), labels, generator)
        x = x.contiguous(memory_format=torch.channels_last)

        def loss(outputs: Any, labels: Tensor = labels) -> Tensor:
            return classification_loss(outputs, labels)

        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            if settings.eps is None:
                value = loss(network(x))
                value.backward()
            else:
                value = adversarial_backward(network, loss, x, eps=settings.eps, alpha=settings.alpha)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        total += value.detach() * len(batch)
        seen += len(batch)
    mean = float(total) / seen
    if not np.isfinite(mean):
        raise InputError(f"the loss is not finite in epoch {number} (--lr {settings.lr:g}): lower the learning rate")
    return mean


def _evaluate(network: nn.Module, data: Images, indices: np.ndarray) -> tuple[float, float]:
    """Cross-entropy and accuracy on ``indices``."""
    scores, y = probabilities(network, data, indices), data.y[indices]
    loss = -np.log(np.maximum(scores[np.arange(len(y)), y], 1e-12)).mean()
    return float(loss), float((scores.argmax(1) == y).mean())


def _best(history: list[Epoch]) -> Epoch:
    return max(history, key=lambda epoch: (epoch.stop_accuracy, -epoch.stop_loss))


def _out_of_patience(history: list[Epoch], patience: int) -> bool:
    return bool(history and patience) and len(history) - _best(history).number >= patience


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without its functions, which a loader that runs no code refuses."""
    return {name: copy.copy(value) for name, value in state.items() if not callable(value) and name != "_anneal_func"}


def _write(path: Path, state: dict[str, Any]) -> None:
    """Replace ``path`` at once, so that a kill leaves the old state or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
