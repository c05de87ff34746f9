"""One fold of a training: trained, tested, logged and registered, once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from advtrack.data.splits import Split, split
from advtrack.models.checkpoint import Description, save
from advtrack.models.zoo import build
from advtrack.reporting.figures.classes import confusion_figure
from advtrack.representations.store import SpectrogramSet
from advtrack.stages.alone import alone
from advtrack.tracking import registry, runs
from advtrack.tracking.flavor import log_victim
from advtrack.training.fit import Epoch, Settings, fit, probabilities
from advtrack.training.metrics import confusion, macro_f1

logger = logging.getLogger("advtrack")

CODE_VERSION = 1
FOLDS = 5


@dataclass(frozen=True)
class Task:
    """What all folds of one training share.

    Attributes
    ----------
    dataset, representation, model, kind : str
        Names; the kind of training is 'plain' or 'adversarial'.
    weights : str
        Initial weights.
    settings : Settings
        How each fold is trained.
    store : SpectrogramSet
        Inputs.
    key : mapping
        All that a fold's weights depend on, but for its number.
    params, tags : mapping
        Logged on the run of each fold.
    device : torch.device
        Where.
    work_dir : str
        Where unfinished training lies.
    force : bool
        Train folds that are already trained.
    """

    dataset: str
    representation: str
    model: str
    kind: str
    weights: str
    settings: Settings
    store: SpectrogramSet
    key: Mapping[str, Any]
    params: Mapping[str, Any]
    tags: Mapping[str, Any]
    device: torch.device
    work_dir: str
    force: bool

    @property
    def name(self) -> str:
        """The registered model whose versions the folds are."""
        return registry.model_name(self.dataset, self.representation, self.model)


@dataclass(frozen=True)
class Fold:
    """What a trained fold left: its MLflow run, registered version and accuracies in [0, 1]."""

    fold: int
    run_id: str
    version: str
    test_accuracy: float
    stop_accuracy: float


def trained_fold(task: Task, fold: int, stage: runs.StageRun) -> Fold:
    """The fold as an earlier run left it, or trained now, in a child run of ``stage``."""
    key = runs.resume_key("fold", CODE_VERSION, {**task.key, "fold": fold})
    state = Path(task.work_dir) / "training" / f"{key}.pt"
    with alone(state.with_suffix(".lock"), "trains this fold"):
        done = None if task.force else _finished(task, fold, key)
        if done:
            logger.info("%s: fold %d is already trained, reusing run %s", task.name, fold, done.run_id)
            return done
        if task.force:
            state.unlink(missing_ok=True)
        tags = {**task.tags, "stage": "fold", "fold": fold}
        with stage.child(f"{task.kind} {task.name} fold {fold}", key, tags, fresh=task.force) as child:
            child.params({**task.params, "fold": fold})
            child.dataset(task.dataset, task.store.data_digest, str(task.store.path))
            found = _train(task, fold, child, state)
        state.unlink(missing_ok=True)
        return found


def _train(task: Task, fold: int, child: runs.StageRun, state: Path) -> Fold:
    """Train, test, log and register; ``state`` keeps unfinished training."""
    store, parts = task.store, split_store(task.store, task.settings.seed)
    train, stop = with_copies(store, parts.train(fold)), parts.early_stopping(fold)
    mean, std = store.moments(train)
    torch.manual_seed(task.settings.seed * FOLDS + fold)  # the plain and the robust victim start from the same weights
    network = build(task.model, len(store.classes), weights=task.weights, mean=mean, std=std).to(task.device)

    title = f"{task.kind} {task.name} fold {fold}"
    with tqdm(total=task.settings.epochs, desc=title, unit="epoch", leave=False) as progress:

        def on_epoch(epoch: Epoch) -> None:
            progress.update()
            progress.set_postfix(loss=f"{epoch.train_loss:.3f}", stop_accuracy=f"{epoch.stop_accuracy:.3f}")
            values = {"train_loss": epoch.train_loss, "stop_loss": epoch.stop_loss}
            child.metrics({**values, "stop_accuracy": epoch.stop_accuracy}, step=epoch.number)

        best = fit(network, store, train, stop, task.settings, state, on_epoch)

    y, scores = store.y[parts.test], probabilities(network, store, parts.test)
    matrix = confusion(y, scores.argmax(1), len(store.classes))
    accuracy, f1 = float((scores.argmax(1) == y).mean()), macro_f1(matrix)
    metrics = {"test_accuracy": accuracy, "test_macro_f1": f1, "best_epoch": best.number}
    child.metrics({**metrics, "best_stop_accuracy": best.stop_accuracy})
    child.data(confusion_figure(matrix, list(store.classes)), "confusion.png")
    child.text(_predictions(store, parts.test, scores), "test_predictions.csv")

    training = {**asdict(task.settings), "kind": task.kind, "fold": fold, "weights": task.weights}
    training |= {"store_digest": store.digest, "test_accuracy": accuracy, "run_id": child.run_id}
    description = Description(
        task.model, task.representation, task.dataset, store.classes, store.shape, asdict(store.settings), training
    )
    with TemporaryDirectory() as folder:
        save(Path(folder) / "checkpoint", network, description)
        model_uri = log_victim(child.run_id, Path(folder) / "checkpoint")
    tags = {**task.tags, "fold": fold, "accuracy": round(accuracy, 4), "stop_accuracy": round(best.stop_accuracy, 4)}
    tags |= {"height": store.settings.height, "width": store.settings.width, "seed": task.settings.seed}
    tags |= {} if task.settings.eps is None else {"eps": task.settings.eps, "alpha": task.settings.alpha}
    about = f"{task.kind} training, fold {fold}: test accuracy {accuracy:.1%}, macro-F1 {f1:.3f}"
    registered = registry.register(task.name, model_uri, child.run_id, tags, about)
    child.tags({"version": registered.version})
    return Fold(fold, child.run_id, registered.version, accuracy, best.stop_accuracy)


def split_store(store: SpectrogramSet, seed: int) -> Split:
    """The paper's split of a store's original clips, as indices into the store."""
    originals = np.flatnonzero(store.scale == 1.0)
    parts = split(store.y[originals], store.source[originals], seed=seed, folds=FOLDS)
    return Split(originals[parts.test], tuple(originals[part] for part in parts.development))


def with_copies(store: SpectrogramSet, indices: np.ndarray) -> np.ndarray:
    """``indices`` of originals and of all their pitch-shifted copies: copies are trained on, nothing else."""
    clip = np.cumsum(store.scale == 1.0)  # copies follow their original; names may repeat in other folders
    return np.flatnonzero(np.isin(clip, clip[indices]))


def _finished(task: Task, fold: int, key: str) -> Fold | None:
    """The fold of this key that was trained and registered before, if its version is still there."""
    for found in runs.find({"fold_key": key}, status="FINISHED"):
        version = runs.tag(found, "version")
        if version and registry.version(task.name, version):
            metrics = found.data.metrics
            return Fold(fold, found.info.run_id, version, metrics["test_accuracy"], metrics["best_stop_accuracy"])
    return None


def _predictions(store: SpectrogramSet, indices: np.ndarray, scores: np.ndarray) -> str:
    """One line per test clip, for paired statistics later."""
    rows: Sequence[str] = [
        f"{store.name[i]},{store.source[i]},{store.classes[store.y[i]]},{store.classes[s.argmax()]},{s.max():.6f}"
        for i, s in zip(indices, scores, strict=True)
    ]
    return "\n".join(["clip,source,class,predicted,probability", *rows]) + "\n"
