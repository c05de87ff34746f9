"""How a table is put: cells in rows, each with its number and its printed text, and the sheet they are laid out on.

A cell is worked out once and carries both, so that no two formats can disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ABSENT = "—"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    text : str
        What is printed; an em dash where there is nothing.
    value : float or None
        The number behind the text, to ten significant digits, in the table's unit.
    missing : str or None
        The command that fills the cell, or completes it.
    best : bool
        Whether this is the best cell of its row.
    at_least : bool
        Whether the value is a lower bound.
    attacks : tuple of str
        Attacks that the value averages over.
    details : mapping of str to float
        Further numbers by name: what the value was made of.
    notes : tuple of str
        What a reader has to know about this cell.
    """

    text: str
    value: float | None = None
    missing: str | None = None
    best: bool = False
    at_least: bool = False
    attacks: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The cells of one representation of one data set, in the order of the table's models."""

    dataset: str
    representation: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Sheet:
    """A table as it is laid out on a page, whatever the format.

    Attributes
    ----------
    title, caption : str
        What stands above and below it.
    header : tuple of str
        Column names.
    keys : int
        How many leading columns name the line; the others hold its values.
    lines : tuple of tuple of Cell
        The cells, line by line.
    notes : tuple of str
        Remarks on single cells.
    commands : mapping of str to tuple of str
        Commands that fill open cells, each with the cells it fills.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    keys: int
    lines: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One of the paper's tables: a row per data set and representation, a column per model."""

    number: Literal["I", "II", "III"]
    title: str
    caption: str
    models: tuple[str, ...]
    rows: tuple[Row, ...]

    def sheet(self) -> Sheet:
        """Lay the table out, with the notes and the commands of its cells gathered."""
        notes: list[str] = []
        commands: dict[str, list[str]] = {}
        for row in self.rows:
            for model, cell in zip(self.models, row.cells, strict=True):
                place = f"{row.dataset}, {row.representation}, {model}"
                notes += [f"{place}: {note}." for note in cell.notes]
                if cell.missing is not None:
                    commands.setdefault(cell.missing, []).append(place)
        return Sheet(
            title=f"Table {self.number}: {self.title}",
            caption=self.caption,
            header=("Data set", "Representation", *self.models),
            keys=2,
            lines=tuple((Cell(row.dataset), Cell(row.representation), *row.cells) for row in self.rows),
            notes=tuple(notes),
            commands={command: tuple(places) for command, places in commands.items()},
        )
