"""The paper's claims, held against what was found here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    """What the paper says, and whether it is so here.

    Attributes
    ----------
    name : str
        Short and unique, in letters, digits and underscores.
    statement : str
        The claim, in a sentence.
    source : str
        Where the paper makes it.
    dataset : str
        The data set it was held against.
    verdict : {'holds', 'fails', 'undecided'}
        Undecided: the intervals leave it open, or runs are missing.
    because : str
        The numbers that decide it, or what is missing, in a sentence.
    runs : tuple of str
        MLflow runs it was judged by.
    """

    name: str
    statement: str
    source: str
    dataset: str
    verdict: Verdict
    because: str
    runs: tuple[str, ...] = ()
