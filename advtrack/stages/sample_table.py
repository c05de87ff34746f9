"""The per-sample table of an attack run: what a search showed of each sample, or whom a budget fooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from advtrack.tracking import lookup, runs

# Columns whose names are others than those of the fields.
_COLUMNS = {"true_class": "class", "target_class": "target"}


@dataclass(frozen=True)
class SampleRow:
    """What a search showed of one sample.

    Attributes
    ----------
    clip, source : str
        The clip, and what it was cut from.
    true_class, target_class : str
        Names of its class and of its target, empty for an untargeted attack.
    success : bool
        Whether the budget fools the victim on it.
    first_success : int
        The iteration of its first adversarial example at the budget's bound, -1 for none.
    l0, l2, linf : float
        Norms of its perturbation.
    fooled_at, resisted_at : float
        Between which bounds its smallest perturbation lies: it was fooled at the one (infinite: never), and not below
        the other.
    perturbation : float
        In the attack's own norm: of a success its own, of a failure what the search counts it as; NaN where nothing
        bounds that.
    under_plain : bool or None
        Whether the plain victim's budget fools this (adversarially trained) victim on it; None without such a budget.
    """

    clip: str
    source: str
    true_class: str
    target_class: str
    success: bool
    first_success: int
    l0: float
    l2: float
    linf: float
    fooled_at: float
    resisted_at: float
    perturbation: float
    under_plain: bool | None = None


def log_samples(stage: runs.StageRun, attack: str, rows: Iterable[SampleRow]) -> None:
    """Log what a search showed, a line per sample; there is no column of a plain victim's budget if there is none."""
    stage.csv([_line(row) for row in rows], _path(attack))


def log_struck(stage: runs.StageRun, attack: str, clips: np.ndarray, success: np.ndarray) -> None:
    """Log whom a budget fools that was not searched on this victim: clips and success alone."""
    lines = [{"clip": clip, "success": bool(fooled)} for clip, fooled in zip(clips, success, strict=True)]
    stage.csv(lines, _path(attack))


def read_samples(run_id: str, attack: str) -> list[SampleRow]:
    """What a search showed, as `log_samples` left it in a run."""
    return [_row(line) for line in lookup.read_csv(run_id, _path(attack))]


def _path(attack: str) -> str:
    return f"{attack}/samples.csv"


def _line(row: SampleRow) -> dict[str, object]:
    return {_COLUMNS.get(name, name): value for name, value in asdict(row).items() if value is not None}


def _row(line: dict[str, str]) -> SampleRow:
    return SampleRow(
        clip=line["clip"],
        source=line["source"],
        true_class=line["class"],
        target_class=line["target"],
        success=line["success"] == "True",
        first_success=int(line["first_success"]),
        l0=float(line["l0"]),
        l2=float(line["l2"]),
        linf=float(line["linf"]),
        fooled_at=float(line["fooled_at"]),
        resisted_at=float(line["resisted_at"]),
        perturbation=float(line["perturbation"]),
        under_plain=line["under_plain"] == "True" if "under_plain" in line else None,
    )
