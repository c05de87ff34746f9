"""Pairs of a plain and an adversarially trained victim, and the commands for what a pair lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from advtrack.reporting.records import Training, VictimRecord


class FillingCommand(Protocol):
    """Names the command that produces what a cell lacks."""

    def __call__(
        self, dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]
    ) -> str:
        """Return the command that runs ``attacks`` on this victim, or trains it where ``attacks`` is empty."""


class Victims:
    """The records by name, and what still has to be run for a pair of them.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.
    attacks : sequence of str
        All attacks that a complete cell averages over.
    command : FillingCommand
        Names the command for what is missing.

    Raises
    ------
    ValueError
        Two records of one name: a table would depend on their order.
    """

    def __init__(self, records: Sequence[VictimRecord], attacks: Sequence[str], command: FillingCommand) -> None:
        self.attacks, self.command = tuple(attacks), command
        self._victims: dict[tuple[tuple[str, str, str], Training], VictimRecord] = {}
        for record in records:
            name = (record.cell, record.training)
            if other := self._victims.get(name):
                place = ", ".join((*record.cell, record.training))
                raise ValueError(f"two records for {place}: runs {other.run_id} and {record.run_id}")
            self._victims[name] = record

    def pair(self, dataset: str, representation: str, model: str) -> tuple[VictimRecord | None, VictimRecord | None]:
        """The plain and the adversarially trained victim of one cell."""
        place = (dataset, representation, model)
        return self._victims.get((place, "plain")), self._victims.get((place, "adversarial"))

    def attacked_pair(
        self, dataset: str, representation: str, model: str
    ) -> tuple[VictimRecord | None, VictimRecord | None]:
        """The same where attacks can be compared: a robust victim of another fold is not of this pair."""
        plain, robust = self.pair(dataset, representation, model)
        alike = plain and robust and plain.fold == robust.fold
        return plain, robust if alike else None

    def to_train(self, dataset: str, representation: str, model: str) -> tuple[str, ...]:
        """The commands that train what a cell lacks."""
        plain, robust = self.attacked_pair(dataset, representation, model)
        victims: dict[Training, VictimRecord | None] = {"plain": plain, "adversarial": robust}
        return tuple(
            self.command(dataset, representation, model, training, ())
            for training, victim in victims.items()
            if victim is None
        )

    def to_compare(self, unfinished: Sequence[str], dataset: str, representation: str, model: str) -> tuple[str, ...]:
        """The commands that fill a cell in which these attacks are missing: trainings, then attacks on either."""
        if not unfinished:
            return ()
        plain, robust = self.attacked_pair(dataset, representation, model)
        unbudgeted = tuple(attack for attack in self.attacks if plain is None or attack not in plain.attacks)
        wanted = self.attacks if robust is None else tuple(unfinished)
        steps = [*self.to_train(dataset, representation, model)]
        steps += [self.command(dataset, representation, model, "plain", unbudgeted)] if unbudgeted else []
        return (*steps, self.command(dataset, representation, model, "adversarial", wanted))
