"""The state of unfinished training on disk: the old one or the new one, whenever the process is killed."""

from __future__ import annotations

import logging
import os
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from advtrack.errors import InputError, reason
from advtrack.training.history import Epoch

logger = logging.getLogger("advtrack")

#: Writing goes on beside at most this share of training: of epochs that are shorter than that allows, not each is
#: written.
_SHARE_OF_TIME = 1 / 10


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
    """The file that holds network, optimiser, schedule and progress; leaving it as a context ends all writing.

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
        self._writer = ThreadPoolExecutor(1)
        # What is being written, or was last: it tells when the next writing is due.
        self._written: Future[float] | None = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        with self._writer:
            self._settle()

    def read(self, device: torch.device) -> Progress:
        """Take up the state of the file, if there is one; a damaged one is named, and training begins anew."""
        if not self.path.exists():
            return Progress()
        try:
            state = self._load(device)
            progress = Progress([Epoch(**epoch) for epoch in state["history"]], state["best"], state["losses"].cpu())
        except OSError:
            raise
        except Exception as error:  # every reader has its own exception types; all mean the same
            logger.warning("%s is damaged (%s): this fold is trained from the start", self.path, reason(error))
            return Progress()
        self._network.load_state_dict(state["network"])
        if "optimiser" in state:
            self._optimiser.load_state_dict(state["optimiser"])
            self._schedule.load_state_dict(state["schedule"])
        return progress

    def write(self, progress: Progress) -> None:
        """Keep the state as it is.

        Raises
        ------
        InputError
            The disk is full, or the folder cannot be written.
        """
        self._begin_writing(progress)
        self._settle()

    def write_behind(self, progress: Progress) -> None:
        """Keep the state as it is, while training goes on; unless the last writing takes, or took, too long for that.

        Raises
        ------
        InputError
            The last one failed.
        """
        if self._written is None or (self._written.done() and monotonic() >= self._written.result()):
            self._begin_writing(progress)

    def finish(self, progress: Progress) -> None:
        """Leave the network with its best weights, and keep what is left to know of finished training."""
        self._settle()
        self._network.load_state_dict(progress.best)
        self._network.eval()
        self._replace({"network": progress.best, **_of(progress)})

    def _load(self, device: torch.device) -> dict[str, Any]:
        with zipfile.ZipFile(self.path) as archive:  # torch itself does not look at the checksums
            if spoilt := archive.testzip():
                raise ValueError(f"the checksum of {spoilt} is wrong")
        state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        own = self._network.state_dict()
        if {name: t.shape for name, t in state["network"].items()} != {name: t.shape for name, t in own.items()}:
            raise ValueError("it is of another network")
        return state

    def _begin_writing(self, progress: Progress) -> None:
        """Copy the state, which training goes on to change, and leave the copy to the writer."""
        self._settle()
        begun = monotonic()
        state = {"network": self._network.state_dict(), "optimiser": self._optimiser.state_dict()}
        copy = _on_cpu({**state, "schedule": _plain(self._schedule.state_dict()), **_of(progress)})
        # A GPU copies in its turn, before the steps that follow: the writer waits for that, and training does not.
        arrived = torch.cuda.Event() if torch.cuda.is_initialized() else None
        if arrived:
            arrived.record()

        def write() -> float:
            if arrived:
                arrived.synchronize()
            self._replace(copy)
            return begun + (monotonic() - begun) / _SHARE_OF_TIME

        self._written = self._writer.submit(write)

    def _settle(self) -> None:
        """Wait for the writer, and hear whether it failed."""
        if self._written:
            self._written.result()

    def _replace(self, state: dict[str, Any]) -> None:
        partial = self.path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            # torch fails once more as it closes a file that could not be written, and says no longer why.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise InputError(
                f"{self.path.parent} cannot be written ({cause.strerror or reason(cause)}): make room, and the same "
                "command goes on from the last state that was; or choose another folder (--work-dir)"
            ) from error


def _of(progress: Progress) -> dict[str, Any]:
    history = [asdict(epoch) for epoch in progress.history]
    return {"history": history, "best": progress.best, "losses": progress.losses}


def _on_cpu(state: Any) -> Any:
    """Plain values whose tensors are copies in the CPU's memory; those of a GPU get there by and by."""
    if isinstance(state, Tensor):
        return state.to("cpu", non_blocking=True, copy=True)
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without its functions, which a loader that runs no code refuses."""
    return {name: value for name, value in state.items() if not callable(value) and name != "_anneal_func"}
