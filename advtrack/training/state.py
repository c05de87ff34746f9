"""The state of unfinished training on disk: the old one or the new one, whenever the process is killed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from advtrack.training.history import Epoch

#: Writing takes at most this share of the time: of epochs that are shorter than that allows, not each is written.
_SHARE_OF_TIME = 1 / 30


@dataclass
class Progress:
    """How far training is.

    Attributes
    ----------
    history : list of Epoch
        Finished epochs.
    best : dict of str to Tensor
        Weights after the best of them.
    losses : Tensor, shape (batches done,)
        Of the batches of the epoch that is begun.
    """

    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))


class Checkpoint:
    """The file that holds network, optimiser, schedule and progress.

    Random states are not among them: order, augmentation and dropout derive from the seed and the numbers of epoch and
    batch.

    Parameters
    ----------
    path : Path
        Of the file.
    network : Module
        With the weights to go on from; they are replaced by those of the file.
    optimiser, schedule
        Likewise.
    """

    def __init__(
        self,
        path: Path,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.path, self._network, self._optimiser, self._schedule = path, network, optimiser, schedule
        self._due = 0.0

    def read(self, device: torch.device) -> Progress:
        """Take up the state of the file, if there is one."""
        if not self.path.exists():
            return Progress()
        state = torch.load(self.path, map_location=device, weights_only=True)
        self._network.load_state_dict(state["network"])
        if "optimiser" in state:
            self._optimiser.load_state_dict(state["optimiser"])
            self._schedule.load_state_dict(state["schedule"])
        return Progress([Epoch(**epoch) for epoch in state["history"]], state["best"], state["losses"].cpu())

    def write(self, progress: Progress) -> None:
        """Keep the state as it is."""
        state = {"network": self._network.state_dict(), "optimiser": self._optimiser.state_dict()}
        self._replace({**state, "schedule": _plain(self._schedule.state_dict())}, progress)

    def write_if_due(self, progress: Progress) -> None:
        """Keep the state, unless the last writing took too long for that."""
        if monotonic() >= self._due:
            begun = monotonic()
            self.write(progress)
            self._due = monotonic() + (monotonic() - begun) / _SHARE_OF_TIME

    def finish(self, progress: Progress) -> None:
        """Leave the network with its best weights, and keep what is left to know of finished training."""
        self._network.load_state_dict(progress.best)
        self._network.eval()
        self._replace({"network": progress.best}, progress)

    def _replace(self, state: dict[str, Any], progress: Progress) -> None:
        state |= {"history": [asdict(epoch) for epoch in progress.history], "best": progress.best}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save({**state, "losses": progress.losses}, partial)
        partial.replace(self.path)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without its functions, which a loader that runs no code refuses."""
    return {name: value for name, value in state.items() if not callable(value) and name != "_anneal_func"}
