"""What a search leaves in its MLflow run: curves, tables and adversarial examples."""

from __future__ import annotations

import numpy as np
import torch

from advtrack.models.checkpoint import Victim
from advtrack.reporting.examples import Example, pack
from advtrack.reporting.figures.examples import example_figure
from advtrack.reporting.figures.rates import curve_figure
from advtrack.representations.store import SpectrogramSet
from advtrack.search.result import BudgetResult
from advtrack.search.space import Search
from advtrack.search.study import strike_within
from advtrack.stages.sample_table import SampleRow, log_samples
from advtrack.stages.samples import Struck
from advtrack.tracking import runs


def log_search(
    stage: runs.StageRun,
    result: BudgetResult,
    struck: Struck,
    store: SpectrogramSet,
    victim: Victim,
    search: Search,
    shown: Struck,
    under_plain: np.ndarray | None = None,
) -> dict[str, bytes]:
    """Log trials, curve, Pareto front, per-sample table and the examples of the clips ``shown``; the pictures, by name.

    ``under_plain`` is what the plain victim's budget does to each sample, bool (N,), if there is one.
    """
    attack = result.attack
    for step, trial in enumerate(result.trials):
        stage.metrics({f"{attack}/trial_{k}": trial[k] for k in ("bound", "fooling_rate", "iterations")}, step)
    stage.csv(result.trials, f"{attack}/trials.csv")
    names = ("bound", "fooling_rate", "fooling_rate_at_most")
    stage.csv([dict(zip(names, point, strict=True)) for point in result.curve()], f"{attack}/curve.csv")
    front = [{"bound": bound, "iterations": iterations} for bound, iterations in result.front]
    stage.csv(front, f"{attack}/front.csv")
    stage.json(result.norm_quantiles(), f"{attack}/norms.json")
    log_samples(stage, attack, _samples(result, struck, store, search, under_plain))
    stage.tags({f"{attack}.study": result.study_name})
    examples = _examples(result, shown, store, victim, search)
    stage.data(pack(examples), f"{attack}/examples.npz")
    pictures = {
        "curve.png": curve_figure(result.curve(), result.criterion.target, f"{result.norm} bound"),
        "examples.png": example_figure(attack, examples),
    }
    for name, content in pictures.items():
        stage.data(content, f"{attack}/{name}")
    return pictures


def _samples(
    result: BudgetResult, struck: Struck, store: SpectrogramSet, search: Search, under_plain: np.ndarray | None
) -> list[SampleRow]:
    counted = np.where(result.success, result.norms[result.norm], result.failures_count_as)
    return [
        SampleRow(
            clip=str(store.name[index]),
            source=str(store.source[index]),
            true_class=store.classes[store.y[index]],
            target_class=store.classes[int(struck.samples.target[i])] if search.spec.targets else "",
            success=bool(result.success[i]),
            first_success=int(result.first_success[i]),
            **{name: float(values[i]) for name, values in result.norms.items()},
            fooled_at=float(result.fooled_at[i]),
            resisted_at=float(result.resisted_at[i]),
            perturbation=float(counted[i]),
            under_plain=None if under_plain is None else bool(under_plain[i]),
        )
        for i, index in enumerate(struck.indices)
    ]


def _examples(
    result: BudgetResult, shown: Struck, store: SpectrogramSet, victim: Victim, search: Search
) -> list[Example]:
    """What the budget does to the clips that all victims are shown with, success or not."""
    outcome, fooled = strike_within(victim.network, shown.samples, search, result.budget)
    with torch.inference_mode():
        scores = [victim.network(images).softmax(1).cpu().numpy() for images in (shown.samples.x, outcome.x_adv)]
    return [
        Example(
            clip=str(store.name[index]),
            true_class=store.classes[store.y[index]],
            target_class=store.classes[int(shown.samples.target[i])] if search.spec.targets else "",
            classes=store.classes,
            x=shown.samples.x[i, 0].cpu().numpy(),
            difference=(outcome.x_adv - shown.samples.x)[i, 0].cpu().numpy(),
            probabilities=np.stack([scores[0][i], scores[1][i]]),
            fooled=bool(fooled[i]),
        )
        for i, index in enumerate(shown.indices)
    ]
