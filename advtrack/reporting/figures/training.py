"""How a training went: loss and accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advtrack.reporting.figures.drawing import CALLED, LOOKS, Picture, canvas, picture, quiet_grid

#: The values of an epoch, by name, over all epochs.
Epochs = Mapping[str, list[float]]


def training_figure(name: str, title: str, trained: Mapping[str, Epochs]) -> Picture:
    """Draw the trainings of one cell, plain and adversarial in one picture.

    Parameters
    ----------
    name, title : str
        Of the picture.
    trained : mapping of {'plain', 'adversarial'} to mapping of str to list of float
        For each kind of training ``train_loss``, ``stop_loss`` and ``stop_accuracy`` (in [0, 1]) after each epoch.

    Returns
    -------
    Picture
        Left the losses, on the training clips (thin; of an adversarial training Eq. 13) and on the early-stopping
        clips; right the accuracy on these.
    """
    figure = canvas(9.0, 2.9)
    losses, accuracies = figure.subplots(1, 2)
    sentences = []
    for training, values in trained.items():
        look: dict[str, Any] = {**LOOKS[training], "markersize": 3, "markeredgewidth": 0.5}
        epochs = range(1, len(values["stop_loss"]) + 1)
        thin = {**look, "marker": "", "linewidth": 0.8}
        losses.plot(epochs, values["train_loss"], label=f"{CALLED[training]}, training clips", **thin)
        losses.plot(epochs, values["stop_loss"], label=f"{CALLED[training]}, early-stopping clips", **look)
        percent = [100 * accuracy for accuracy in values["stop_accuracy"]]
        accuracies.plot(epochs, percent, label=CALLED[training], **look)
        sentences.append(f"{CALLED[training]}: {len(epochs)} epochs, best accuracy {max(percent):.1f} %.")
    losses.set_ylabel("loss, nats", fontsize=8)
    accuracies.set_ylabel("accuracy, % of early-stopping clips", fontsize=8)
    accuracies.set_ylim(-3, 103)
    for ax in (losses, accuracies):
        ax.set_xlabel("epoch", fontsize=8)
        ax.legend(frameon=False, fontsize=7)
        quiet_grid(ax)
    return picture(name, title, " ".join(sentences), figure)
