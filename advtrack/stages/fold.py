"""One fold of a training: trained, tested, logged and registered, once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from advtrack.data.splits import Split, folds_of, official_split, paper_split, refuse_leaks
from advtrack.errors import InputError
from advtrack.models.checkpoint import Description, save
from advtrack.models.zoo import build
from advtrack.reporting.figures.classes import confusion_figure
from advtrack.representations.store import SpectrogramSet
from advtrack.stages.alone import alone
from advtrack.stages.predictions import log_predictions, pooled
from advtrack.tracking import lookup, registry, runs
from advtrack.tracking.flavor import log_victim
from advtrack.training.fit import Settings, fit, probabilities
from advtrack.training.history import Epoch, overfitted_since
from advtrack.training.metrics import macro_f1

logger = logging.getLogger("advtrack")

CODE_VERSION = 6


@dataclass(frozen=True)
class Task:
    """What all folds of one training share.

    Attributes
    ----------
    dataset, representation, model, kind : str
        Names; the kind of training is 'plain' or 'adversarial'.
    weights : str
        Initial weights.
    protocol : str
        Whose folds they are.
    settings : Settings
        How each fold of the first repeat is trained; the seeds of the others follow.
    store : SpectrogramSet
        Inputs.
    key : mapping
        All that a fold's weights depend on, but for its number and the settings.
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
    protocol: str
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

    @property
    def conditions(self) -> str:
        """What folds have in common that differ in their number alone, whichever commands trained them."""
        return runs.resume_key("folds", CODE_VERSION, {**self.key, **asdict(self.settings)})


@dataclass(frozen=True)
class Fold:
    """What a trained fold left: its MLflow run, registered version, accuracies and macro-F1 in [0, 1]."""

    repeat: int
    fold: int
    run_id: str
    version: str
    test_accuracy: float
    test_macro_f1: float
    stop_accuracy: float


def trained_fold(task: Task, repeat: int, fold: int, stage: runs.StageRun) -> Fold:
    """The fold as an earlier run left it, or trained now, in a child run of ``stage``.

    A repeat is the same with another seed, which draws split, initial weights and all else anew.
    """
    task = replace(task, settings=replace(task.settings, seed=task.settings.seed + repeat))
    key = runs.resume_key("fold", CODE_VERSION, {**task.key, **asdict(task.settings), "fold": fold})
    state = Path(task.work_dir) / "training" / f"{key}.pt"
    with alone(state.with_suffix(".lock"), "trains this fold"):
        done = None if task.force else _finished(task, repeat, fold, key)
        if done:
            logger.info("%s: fold %d is already trained, reusing run %s", task.name, fold, done.run_id)
            return done
        if task.force:
            state.unlink(missing_ok=True)
        tags = {**task.tags, "stage": "fold", "fold": fold, "repeat": repeat}
        with stage.child(_title(task, repeat, fold), key, tags, fresh=task.force) as child:
            child.params({**task.params, "seed": task.settings.seed, "fold": fold, "repeat": repeat})
            child.dataset(task.dataset, task.store.data_digest, str(task.store.path), task.store.digest)
            # A command that was killed may have registered it and come no further.
            registered = registry.version_of_run(task.name, child.run_id)
            if registered is None:
                registered = _train(task, repeat, fold, child, state)
            child.tags({"version": registered.version})
            found = _as_logged(lookup.get(child.run_id), repeat, fold, registered.version)
        state.unlink(missing_ok=True)
        return found


def _title(task: Task, repeat: int, fold: int) -> str:
    return f"{task.kind} {task.name} fold {fold}" + (f" repeat {repeat}" if repeat else "")


def _train(task: Task, repeat: int, fold: int, child: runs.StageRun, state: Path) -> registry.Registered:
    """Train, test, log and register; ``state`` keeps unfinished training."""
    store, parts = task.store, split_store(task.store, task.protocol, task.settings.seed, fold)
    train = with_copies(store, parts.train)
    mean, std = store.moments(train)
    # The plain and the robust victim start from the same weights.
    torch.manual_seed(task.settings.seed * 1_000 + fold)
    network = build(task.model, len(store.classes), weights=task.weights, mean=mean, std=std).to(task.device)

    # Those before an interruption are there already.
    history: list[Epoch] = []
    logged = child.last_step("train_loss")
    with tqdm(total=task.settings.epochs, desc=_title(task, repeat, fold), unit="epoch", leave=False) as progress:

        def on_epoch(epoch: Epoch) -> None:
            progress.update()
            progress.set_postfix(loss=f"{epoch.train_loss:.3f}", stop_accuracy=f"{epoch.stop_accuracy:.3f}")
            values = {name: value for name, value in asdict(epoch).items() if name != "number" and value is not None}
            if epoch.number > logged:
                child.metrics(values, step=epoch.number)
            history.append(epoch)

        best = fit(network, store, train, parts.stop, task.settings, state, on_epoch, network.pretrained)
    overfitted = overfitted_since(history) or (best.number if best.collapsed else None)
    if overfitted:
        logger.warning(
            "%s: since epoch %d it withstands FGSM and no longer BIM (catastrophic overfitting); epoch %d counts. A "
            "smaller --eps, or --random-eps, may help",
            _title(task, repeat, fold), overfitted, best.number,
        )  # fmt: skip
        child.tags({"overfitted_since": overfitted})

    y, scores = store.y[parts.test], probabilities(network, store, parts.test)
    log_predictions(child, store, parts.test, scores)
    matrix, intervals = pooled([child.run_id], store.classes)
    accuracy, f1 = float((scores.argmax(1) == y).mean()), macro_f1(matrix)
    metrics = {"test_accuracy": accuracy, "test_macro_f1": f1, "best_epoch": best.number}
    child.metrics({**metrics, **intervals, "best_stop_accuracy": best.stop_accuracy})
    child.data(confusion_figure(matrix, list(store.classes)), "confusion.png")

    training = {**asdict(task.settings), "kind": task.kind, "fold": fold, "weights": task.weights}
    training |= {"protocol": task.protocol, "repeat": repeat, "split_digest": parts.digest}
    training |= {"store_digest": store.digest, "test_accuracy": accuracy, "run_id": child.run_id}
    description = Description(
        task.model, task.representation, task.dataset, store.classes, store.shape, asdict(store.settings), training
    )
    with TemporaryDirectory() as folder:
        save(Path(folder) / "checkpoint", network, description)
        model_uri = log_victim(child.run_id, Path(folder) / "checkpoint")
    tags = {**task.tags, "fold": fold, "repeat": repeat, "data_digest": store.data_digest}
    tags |= {"accuracy": round(accuracy, 4), "stop_accuracy": round(best.stop_accuracy, 4)}
    tags |= {"conditions": task.conditions}
    tags |= {"clips": int((store.scale == 1.0).sum()), "classes": len(store.classes)}
    tags |= {"height": store.settings.height, "width": store.settings.width, "seed": task.settings.seed}
    tags |= {} if task.settings.eps is None else {"eps": task.settings.eps, "alpha": task.settings.alpha}
    tags |= {"overfitted_since": overfitted} if overfitted else {}
    about = f"{task.kind} training, fold {fold} of the {task.protocol} protocol, repeat {repeat}: "
    about += f"test accuracy {accuracy:.1%}, macro-F1 {f1:.3f}"
    return registry.register(task.name, model_uri, child.run_id, tags, about)


def chosen_folds(text: str, protocol: str, published: np.ndarray) -> tuple[int, ...]:
    """The numbers of the folds that ``--folds`` asks for: all, how many (the first), or which, as 'fold1,fold3'.

    Raises
    ------
    InputError
        The protocol has no such folds.
    """
    there = folds_of(protocol, published)
    named = tuple(dict.fromkeys(int(number) for number in re.findall(r"fold(\d+)", text)))
    chosen = there if text == "all" else named or there[: int(text)]
    if not set(chosen) <= set(there) or (text.isdigit() and int(text) > len(there)):
        listed = ", ".join(f"fold{fold}" for fold in there)
        raise InputError(f"--folds {text}: the {protocol} protocol has {listed}; give all, how many, or which of these")
    return chosen


def split_store(store: SpectrogramSet, protocol: str, seed: int, fold: int) -> Split:
    """Who of a store's original clips is on which side, as indices into the store.

    Raises
    ------
    InputError
        The clips cannot be divided so, or a recording would straddle.
    """
    originals = np.flatnonzero(store.scale == 1.0)
    labels, sources = store.y[originals], store.source[originals]
    if protocol == "paper":
        parts = paper_split(labels, sources, seed=seed, fold=fold)
    else:
        parts = official_split(labels, sources, store.fold[originals], seed=seed, fold=fold)
    found = Split(originals[parts.train], originals[parts.stop], originals[parts.test])
    refuse_leaks(store.source, replace(found, train=with_copies(store, found.train)))
    return found


def with_copies(store: SpectrogramSet, indices: np.ndarray) -> np.ndarray:
    """``indices`` of originals and of all their pitch-shifted copies: copies are trained on, nothing else."""
    clip = np.cumsum(store.scale == 1.0)  # copies follow their original; names may repeat in other folders
    return np.flatnonzero(np.isin(clip, clip[indices]))


def _finished(task: Task, repeat: int, fold: int, key: str) -> Fold | None:
    """The fold of this key that was trained and registered before, if its version is still there."""
    for found in lookup.find({"fold_key": key}, status="FINISHED"):
        version = lookup.tag(found, "version")
        if version and registry.version(task.name, version):
            return _as_logged(found, repeat, fold, version)
    return None


def _as_logged(run: lookup.Run, repeat: int, fold: int, version: str) -> Fold:
    """A fold with its accuracies as MLflow has them, rounded, be it trained now or reused."""
    names = ("test_accuracy", "test_macro_f1", "best_stop_accuracy")
    return Fold(repeat, fold, run.info.run_id, version, *(run.data.metrics[name] for name in names))
