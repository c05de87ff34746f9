"""How a table is put: lines of cells, each with its number and its printed text, under named columns.

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
    interval : tuple of float or None
        Lower and upper end of the value's 95% interval, in its unit and as clean.
    missing : tuple of str
        The commands that fill the cell, or complete it, in the order they have to be given.
    best : bool
        Whether this is the best of the cells that it is held against.
    at_least : bool
        Whether the value is a lower bound.
    attacks : tuple of str
        Attacks that the value averages over.
    runs : tuple of str
        MLflow runs that the value comes from.
    details : mapping of str to float
        Further numbers by name: what the value was made of.
    notes : tuple of str
        What a reader has to know about this cell.
    """

    text: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    missing: tuple[str, ...] = ()
    best: bool = False
    at_least: bool = False
    attacks: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column: names of what the line is about ('key'), our results ('value'), or what the paper prints ('paper')."""

    name: str
    role: Literal["key", "value", "paper"] = "value"


@dataclass(frozen=True)
class Table:
    """A table, whatever the format.

    Attributes
    ----------
    name : str
        Short and unique, in letters, digits and underscores: what its files are called.
    title, caption : str
        What stands above and below it.
    columns : tuple of Column
        Key columns come first.
    lines : tuple of tuple of Cell
        The cells, line by line.
    notes : tuple of str
        What a reader has to know about the table as a whole.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> int:
        """How many leading columns name the line."""
        return sum(column.role == "key" for column in self.columns)

    def place(self, line: tuple[Cell, ...], column: int) -> str:
        """Name a cell by its line and column."""
        return ", ".join([*(cell.text for cell in line[: self.keys]), self.columns[column].name])

    def remarks(self) -> tuple[str, ...]:
        """The notes of the table and of its cells, each with the name of its place."""
        remarks = [f"{note}." for note in self.notes]
        for line in self.lines:
            for i, cell in enumerate(line):
                remarks += [f"{self.place(line, i)}: {note}." for note in cell.notes]
        return tuple(remarks)

    def commands(self) -> dict[str, tuple[str, ...]]:
        """The commands that come next for open cells, each with the places that wait for it."""
        waiting: dict[str, list[str]] = {}
        for line in self.lines:
            for i, cell in enumerate(line):
                if cell.missing:
                    waiting.setdefault(cell.missing[0], []).append(self.place(line, i))
        return {command: tuple(places) for command, places in waiting.items()}
