"""Pictures and sounds of a comparison, from what the runs keep."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from advtrack.attacks import TABLE_ATTACKS
from advtrack.data.clip import decode
from advtrack.data.credit import credit, find_clip
from advtrack.reporting.cells import Table
from advtrack.reporting.examples import Example, unpack
from advtrack.reporting.figures.drawing import Picture
from advtrack.reporting.figures.examples import overview_figure
from advtrack.reporting.figures.rates import rates_figure
from advtrack.reporting.figures.tradeoff import tradeoff_figure
from advtrack.reporting.figures.training import Epochs, training_figure
from advtrack.reporting.gallery import Shown, clips_of
from advtrack.reporting.records import VictimRecord
from advtrack.reporting.sound import Sound, to_mp3
from advtrack.tracking import lookup

# A process takes a second to start, and draws two or three figures in that time.
_FIGURES_A_PROCESS = 5


def shown_examples(records: Sequence[VictimRecord]) -> list[Shown]:
    """The examples that the attack runs keep, of victims that were attacked."""

    def kept(record: VictimRecord) -> dict[str, list[Example]]:
        return {
            name: unpack(lookup.read_artifact(attack.run_id, f"{name}/examples.npz"))
            for name, attack in record.attacks.items()
        }

    return [Shown(record, kept(record)) for record in records if record.attacks]


def pictures(records: Sequence[VictimRecord], shown: Sequence[Shown], robust_accuracy: Table) -> list[Picture]:
    """Draw all figures, each data set's first and then each cell's; in several processes if that pays."""
    jobs: list[Callable[[], Picture | None]] = []
    for dataset in dict.fromkeys(record.dataset for record in records):
        if overview := _overview(dataset, [one for one in shown if one.victim.dataset == dataset]):
            jobs.append(overview)
        title = f"Accuracy and robustness on {dataset}"
        jobs.append(partial(tradeoff_figure, f"tradeoff-{dataset}", title, robust_accuracy, dataset))
    cells = list(dict.fromkeys(record.cell for record in records))
    for cell in cells:
        victims = [record for record in records if record.cell == cell and record.attacks]
        if victims:
            title = f"Fooling rates: {_title(cell)}"
            jobs.append(partial(rates_figure, f"rates-{'-'.join(cell)}", title, victims, TABLE_ATTACKS))
    for cell in cells:
        trained: dict[str, Epochs] = {record.training: _epochs(record) for record in records if record.cell == cell}
        jobs.append(partial(training_figure, f"training-{'-'.join(cell)}", f"Training: {_title(cell)}", trained))
    return [picture for picture in _drawn(jobs) if picture]


def sounds(records: Sequence[VictimRecord], shown: Sequence[Shown]) -> dict[tuple[str, str], Sound]:
    """The clips of the gallery by data set and name, as far as they still lie where they were read."""
    found = {}
    for dataset in dict.fromkeys(one.victim.dataset for one in shown):
        training = lookup.get(next(record.run_id for record in records if record.dataset == dataset))
        ((_, _, folder),) = lookup.inputs(lookup.tag(training, "features_run") or "")
        for clip in clips_of(shown, dataset):
            if file := find_clip(Path(folder), clip):
                found[dataset, clip] = Sound(to_mp3(*decode(file)), credit(dataset, file))
    return found


def _overview(dataset: str, shown: Sequence[Shown]) -> partial[Picture] | None:
    """Fig. 29, of the plain model with the most representations, and of these the most accurate."""
    plain = [one for one in shown if one.victim.training == "plain"]
    by_model = {model: [one for one in plain if one.victim.model == model] for model in {o.victim.model for o in plain}}
    if not by_model:
        return None

    def merit(model: str) -> tuple[int, float, str]:
        accuracies = [fold.accuracy for one in by_model[model] for fold in one.victim.folds]
        return len(by_model[model]), sum(accuracies) / max(len(accuracies), 1), model

    best = max(by_model, key=merit)
    clip = clips_of(by_model[best], dataset)[0]
    images = {one.victim.representation: one.of(clip) for one in by_model[best]}
    true_class = next(iter(next(iter(images.values())).values())).true_class
    title = f"One clip under all attacks: {clip} ({true_class}) of {dataset}, {best}, plain"
    return partial(overview_figure, f"examples-{dataset}", title, images)


def _epochs(record: VictimRecord) -> Epochs:
    """How the training of the attacked fold went."""
    run_id = next(fold.run_id for fold in record.folds if fold.fold == record.fold)
    return {name: lookup.history(run_id, name) for name in ("train_loss", "stop_loss", "stop_accuracy")}


def _drawn(jobs: Sequence[Callable[[], Picture | None]]) -> list[Picture | None]:
    processes = min(os.cpu_count() or 1, len(jobs) // _FIGURES_A_PROCESS)
    if processes < 2:
        return [job() for job in jobs]
    # A fork would copy the threads' locks of torch and MLflow.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return [drawing.result() for drawing in [pool.submit(job) for job in jobs]]


def _title(cell: tuple[str, str, str]) -> str:
    dataset, representation, model = cell
    return f"{model} on {representation} of {dataset}"
