"""Fixed records of a small experiment: two models on two representations of ESC-50, both trainings, two attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from advtrack.attacks.sign import Sign
from advtrack.reporting.findings import Findings, compare
from advtrack.reporting.records import AttackRecord, FoldRecord, StruckClips, Training, VictimRecord

ROWS = [("esc50", "stft"), ("esc50", "dwt_tonnetz")]
MODELS = ["alexnet", "resnet56"]
ATTACKS = ["bim_a", "jsma"]
#: Twenty recordings, two clips of each.
RECORDINGS = tuple(f"r{i // 2:02d}" for i in range(40))
BASIS = {"data digest": "d1", "image size": "128 x 128", "protocol": "paper", "seed": "0", "training code": "1"}


def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
    return " ".join(["fill", dataset, representation, model, training, *attacks])


def fold(number: int, run: str, wrong: Sequence[int]) -> FoldRecord:
    """A fold that names the second clip of some recordings wrongly."""
    correct = tuple(i % 2 == 0 or i // 2 not in wrong for i in range(40))
    return FoldRecord(number, 0, run, sum(correct) / 40, RECORDINGS, correct)


def search(name: str, run: str, perturbations: Sequence[float], under_plain: Sequence[bool] = ()) -> AttackRecord:
    """A search whose target is reached: each clip has its own perturbation, the largest tenth are failures."""
    values = np.array(perturbations)
    bound = float(np.sort(values)[int(np.ceil(0.9 * len(values))) - 1])
    success = values <= bound
    mean = float(values[success].mean())
    own = "l0" if name == "jsma" else "linf"
    norms = {"l0": 50.0, "l2": 0.5, "linf": 0.02} | {own: mean}
    clips = StruckClips(
        tuple(f"clip{i}" for i in range(len(values))),
        RECORDINGS[: len(values)],
        tuple(success.tolist()),
        tuple(values.tolist()),
        tuple(values.tolist()),
        tuple((0.96 * values).tolist()),
        tuple(under_plain),
    )
    return AttackRecord(
        attack=name, norm=own, target_reached=True, target_fooling_rate=0.9, fooling_rate=float(success.mean()),
        bound=bound, missed_at=0.96 * bound, iterations=20, settings={}, perturbation=mean, **norms,
        samples=len(values), seed=0, sample_limit=0 if own == "linf" else 8, longest=100,
        transferred_fooling_rate=float(np.mean(under_plain)) if under_plain else None,
        plain_run_id=run.replace("adversarial", "plain"), run_id=run, passes=4000, fooling_low=0.7, fooling_high=1.0,
        auc_low=0.8, auc_high=0.85, code_version=9, clips=clips,
    )  # fmt: skip


def victim(representation: str, model: str, training: Training, wrong: Sequence[int], scale: float) -> VictimRecord:
    """A victim that errs on some recordings (in fold 1, on one more) and takes ``scale`` times some perturbation."""
    run = f"{representation}-{model}-{training}"
    # Not every clip takes the same multiple of what it takes otherwise.
    steps = np.linspace(0.5, 1.5, 20) * (1 + 0.02 * np.cos(np.arange(20) * scale))
    fooled = [i % 10 < 10 / scale for i in range(20)] if training == "adversarial" else []
    searches = [
        search("bim_a", f"attack-{run}", 0.01 * scale * steps, fooled),
        search("jsma", f"attack-{run}", 40 * scale * steps[:8], fooled[:8]),
    ]
    return VictimRecord(
        "esc50", representation, model, training, (fold(0, f"{run}-0", wrong), fold(1, f"{run}-1", [*wrong, 19])),
        0, "1", f"train-{run}", {"seed": "0", "epochs": "30"}, {one.attack: one for one in searches},
        masking={
            "gradients_vanish": Sign(training == "adversarial" and model == "alexnet", {"vanishing": 0.2}),
            "one_step_beats_many": Sign(False, {"one_step": 0.65, "many_steps": 0.95}),
            "unbounded_fails": Sign(False, {}),
        },
        basis=BASIS,
    )  # fmt: skip


RECORDS = [
    victim("stft", "alexnet", "plain", range(6), 1.0),
    victim("stft", "alexnet", "adversarial", range(12), 2.5),
    victim("stft", "resnet56", "plain", range(4), 1.2),
    victim("stft", "resnet56", "adversarial", range(10), 2.0),
    victim("dwt_tonnetz", "alexnet", "plain", range(2), 0.8),
    victim("dwt_tonnetz", "alexnet", "adversarial", range(8), 2.0),
    victim("dwt_tonnetz", "resnet56", "plain", range(1), 1.0),
]


@pytest.fixture
def records() -> list[VictimRecord]:
    """The fixed records."""
    return list(RECORDS)


@pytest.fixture
def found() -> Callable[..., Findings]:
    """Compare some records (the fixed ones) in the rows and models of the experiment."""

    def run(records: Sequence[VictimRecord] = RECORDS, **changes: Any) -> Findings:
        given: dict[str, Any] = {"rows": ROWS, "models": MODELS, "attacks": ATTACKS, "command": command, **changes}
        return compare(records, **given)

    return run
