"""Training of one fold, with early stopping, in a way that survives being killed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from advtrack.errors import InputError
from advtrack.processes import interrupts_put_off, terminable
from advtrack.training.adversarial import accuracies_under_attack, adversarial_backward
from advtrack.training.history import Epoch, best, goes_on
from advtrack.training.reading import Batches, Images, ahead
from advtrack.training.state import Checkpoint, Progress

_LABEL_SMOOTHING, _WEIGHT_DECAY = 0.1, 0.05
#: Clips that adversarial training is attacked on, at most: an accuracy of them has a standard error of 9% or less.
_MOST_WATCHED = 32


@dataclass(frozen=True)
class Settings:
    """How a fold is trained.

    Attributes
    ----------
    epochs : int
        At most; the schedule spans them.
    patience : int
        Epochs without improvement on the early-stopping part before training ends; 0 to run all epochs.
    batch_size : int
        Clips per step.
    lr : float
        Peak learning rate (AdamW).
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
    schedule : {'one_cycle', 'cosine'}
        The learning rate rises to its peak in a quarter of the steps and falls, or falls from the first.
    freeze_epochs : int
        First epochs in which only the head is trained, where the rest is pretrained.
    random_eps : bool
        Draw the size of FGSM's step for each batch, evenly from 0 to ``eps``.
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
    schedule: str = "one_cycle"
    freeze_epochs: int = 0
    random_eps: bool = False


def fit(
    network: nn.Module,
    data: Images,
    train: np.ndarray,
    stop: np.ndarray,
    settings: Settings,
    checkpoint: Path,
    on_epoch: Callable[[Epoch], None],
    pretrained: Collection[str] = (),
) -> Epoch:
    """Train ``network`` in place and leave it with the weights of its best epoch.

    Each batch's clips, augmentation and dropout derive from (seed, epoch, batch) alone, so that a run continued from
    ``checkpoint`` ends where an undisturbed one does. The file is written after every epoch, while the next one is
    trained (not after each, if writing takes more than a tenth of an epoch), and on SIGTERM and SIGINT after the batch
    at hand. It stays, with what is left to know of finished training, until the caller has put the weights into a safe
    place.

    Parameters
    ----------
    network : nn.Module
        On the device to train on.
    data : Images
        Inputs and labels.
    train, stop : ndarray of int
        Indices trained on, and those of the early-stopping part.
    settings : Settings
        How.
    checkpoint : Path
        Where the state of training lies.
    on_epoch : callable
        Called after each epoch, for those before a continuation too.
    pretrained : collection of str
        Parameters that stay as they are in the first ``freeze_epochs``.

    Returns
    -------
    Epoch
        The best: highest accuracy on the early-stopping part, then lowest loss; of adversarial training, of those that
        were attacked, and before any catastrophic overfitting.

    Raises
    ------
    InputError
        The loss, or the network after an epoch, is not finite; or ``checkpoint`` cannot be written.
    KeyboardInterrupt
        SIGINT came, or SIGTERM (`Terminated`); the same call goes on from there.
    """
    device = next(network.parameters()).device
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=_WEIGHT_DECAY, fused=True)
    schedule = _schedule(optimiser, settings, settings.epochs * len(_batches(data, train, settings, epoch=1).sizes))
    watched, every = _watched(stop, len(train), settings)
    with Checkpoint(checkpoint, network, optimiser, schedule) as state:
        progress = state.read(device)
        for epoch in progress.history:
            on_epoch(epoch)
        with terminable(), interrupts_put_off() as interrupted:
            while goes_on(progress.history, settings.epochs, settings.patience) and not interrupted():
                number = len(progress.history) + 1
                _freeze(network, pretrained if number <= settings.freeze_epochs else ())
                trained = _train_epoch(network, data, train, settings, progress, optimiser, schedule, interrupted)
                if trained is None:
                    break
                train_loss, last_step = trained
                stop_loss, stop_accuracy = _evaluate(network, data, stop)
                if not (np.isfinite(stop_loss) and _finite(network)):
                    raise InputError(f"the network is not finite after {last_step}: lower the peak (--lr)")
                epoch = Epoch(number, train_loss, stop_loss, stop_accuracy)
                # The last one is attacked as well, so that there is one.
                last = not goes_on([*progress.history, epoch], settings.epochs, settings.patience)
                if settings.eps is not None and (number % every == 0 or last):
                    one, several = _watch(network, data, watched, settings.eps)
                    epoch = replace(epoch, fgsm_accuracy=one, bim_accuracy=several)
                progress.history.append(epoch)
                progress.losses = torch.zeros(0)
                if best(progress.history) is epoch:
                    progress.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                on_epoch(epoch)
                state.write_behind(progress)
            if interrupted():
                state.write(progress)
        _freeze(network, ())
        state.finish(progress)
    return best(progress.history)


def probabilities(network: nn.Module, data: Images, indices: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Class probabilities, shape (len(indices), classes), of a network in evaluation mode."""
    device = next(network.parameters()).device
    network.eval()

    def read(start: int) -> Tensor:
        return torch.from_numpy(data.images(indices[start : start + batch_size]))

    with torch.inference_mode():
        parts = [network(x.to(device)).softmax(1) for x in ahead(read, range(0, len(indices), batch_size))]
    return torch.cat(parts).cpu().numpy()


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
    progress: Progress,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    interrupted: Callable[[], bool],
) -> tuple[float, str] | None:
    """The epoch that comes next, from the batch on where it is; its mean loss and which step was its last.

    None if it was broken off.
    """
    device, number = next(network.parameters()).device, len(progress.history) + 1
    batches = _batches(data, train, settings, number)
    # The GPU writes losses into pinned memory when it gets there: nobody waits for it, and those that are not
    # finite are seen some batches later.
    losses = torch.zeros(len(batches.sizes), pin_memory=device.type == "cuda")
    done = len(progress.losses)
    losses[:done] = progress.losses
    rates = [float(rate) for rate in schedule.get_last_lr()] * done
    for x, labels in batches.read(done, device):
        seeds = (settings.seed, number, done + 1)
        torch.manual_seed(int(np.random.default_rng((*seeds, 1)).integers(2**63)))  # of dropout
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            value = _backward(network, x, labels, settings, seeds)
        losses[done].copy_(value.detach(), non_blocking=True)
        rates += map(float, schedule.get_last_lr())
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        done += 1
        _refuse_infinite(losses, rates, number)
        if interrupted():
            break
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        _refuse_infinite(losses, rates, number)
    if done < len(losses):
        progress.losses = losses[:done].clone()
        return None
    return float(np.average(losses.numpy(), weights=batches.sizes)), _step(number, done, done, rates[-1])


def _batches(data: Images, train: np.ndarray, settings: Settings, epoch: int) -> Batches:
    return Batches(data, train, settings.batch_size, settings.augmentation, settings.seed, epoch)


def _schedule(optimiser: torch.optim.Optimizer, settings: Settings, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    # It cannot rise and fall in fewer than eight steps: a shorter training has the beginning of one.
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=max(8, steps), pct_start=0.25)


def _freeze(network: nn.Module, names: Collection[str]) -> None:
    """Training mode, in which these parameters stay, and the statistics of BatchNorm between them."""
    network.train()
    for module_name, module in network.named_modules():
        own = [f"{module_name}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        if own and all(name in names for name in own):
            module.eval()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in names)


def _backward(network: nn.Module, x: Tensor, labels: Tensor, settings: Settings, seeds: tuple[int, ...]) -> Tensor:
    """Accumulate the weights' gradient of a batch; its loss."""

    def loss(outputs: Any) -> Tensor:
        return classification_loss(outputs, labels)

    if settings.eps is not None:
        share = np.random.default_rng((*seeds, 2)).random() if settings.random_eps else 1.0
        return adversarial_backward(network, loss, x, eps=settings.eps * share, alpha=settings.alpha)
    value = loss(network(x))
    value.backward()
    return value


def _refuse_infinite(losses: Tensor, rates: list[float], epoch: int) -> None:
    """Stop at the first loss that is not finite, as far as they are known."""
    if not losses.isfinite().all():
        batch = int((~losses.isfinite()).nonzero()[0])
        step = _step(epoch, batch + 1, len(losses), rates[batch])
        raise InputError(f"the loss is not finite in {step}: lower the peak (--lr)")


def _step(epoch: int, batch: int, batches: int, rate: float) -> str:
    return f"epoch {epoch}, batch {batch} of {batches}, at a learning rate of {rate:.3g}"


def _finite(network: nn.Module) -> bool:
    """Whether all weights and statistics are, asked of the device once."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in network.state_dict().values()]).all())


def _evaluate(network: nn.Module, data: Images, indices: np.ndarray) -> tuple[float, float]:
    """Cross-entropy and accuracy on ``indices``."""
    scores, y = probabilities(network, data, indices), data.y[indices]
    loss = -np.log(np.maximum(scores[np.arange(len(y)), y], 1e-12)).mean()
    return float(loss), float((scores.argmax(1) == y).mean())


def _watched(stop: np.ndarray, trained: int, settings: Settings) -> tuple[np.ndarray, int]:
    """Whom adversarial training is attacked on, and every how many epochs, so that it costs little beside them."""
    watched = np.random.default_rng(settings.seed).permutation(stop)[:_MOST_WATCHED]
    return watched, math.ceil(len(watched) / max(8, trained // 20))


def _watch(network: nn.Module, data: Images, indices: np.ndarray, eps: float) -> tuple[float, float]:
    """The accuracies under FGSM and BIM."""
    device = next(network.parameters()).device
    x, y = torch.from_numpy(data.images(indices)).to(device), torch.from_numpy(data.y[indices]).to(device)
    return accuracies_under_attack(network, x, y, eps)
