"""Entry point ``train``: the folds of one model on one representation, a registered version each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from advtrack.data.splits import Split, split
from advtrack.errors import InputError
from advtrack.models import MODELS
from advtrack.models.checkpoint import Description, save
from advtrack.models.zoo import build, check_size, check_weights
from advtrack.reporting.figures import confusion_figure
from advtrack.representations.store import SpectrogramSet
from advtrack.stages.by_name import by_name
from advtrack.stages.device import choose_device
from advtrack.stages.features import find_store
from advtrack.tracking import registry, runs
from advtrack.tracking.flavor import log_victim
from advtrack.training.fit import Epoch, Settings, fit, probabilities
from advtrack.training.metrics import confusion, macro_f1

logger = logging.getLogger("advtrack")

CODE_VERSION = 1
FOLDS = 5
#: Peak learning rates that train from scratch: the two networks without BatchNorm need smaller steps.
DEFAULT_LR = {"alexnet": 4e-4, "vgg16": 1e-4}
_OTHER_LR = 2e-3
_FINE_TUNING_LR = 2e-4


@dataclass(frozen=True)
class Training:
    """Options of the stage; those of the command line of the same name.

    ``eps`` is None for plain training. ``lr`` 0 stands for the model's own default, an empty ``features_run`` for the
    only store there is.
    """

    dataset: str
    model: str
    representation: str
    features_run: str
    weights: str
    folds: int
    epochs: int
    patience: int
    batch_size: int
    lr: float
    seed: int
    device: str
    work_dir: str
    eps: float | None = None
    alpha: float = 0.5
    augmentation: str = "all"
    precision: str = "fp32"
    force: bool = False

    @property
    def kind(self) -> str:
        """Kind of training."""
        return "plain" if self.eps is None else "adversarial"

    @property
    def stage(self) -> str:
        """Name of the entry point."""
        return "train" if self.eps is None else "adv-train"


@dataclass(frozen=True)
class Fold:
    """What a trained fold left: its MLflow run, registered version and accuracies in [0, 1]."""

    fold: int
    run_id: str
    version: str
    test_accuracy: float
    stop_accuracy: float


@dataclass(frozen=True)
class _Task:
    """What all folds of one training share."""

    options: Training
    settings: Settings
    weights: str
    store: SpectrogramSet
    parts: Split
    identity: Mapping[str, Any]
    device: torch.device


def run(options: Training) -> str:
    """Train the folds; the MLflow run that holds them.

    Raises
    ------
    InputError
        Weights the model cannot have, or no spectrograms to train on.
    """
    weights = weights_of(options.model, options.weights)
    check_weights(options.model, weights)
    store, features_run = find_store(options.dataset, options.representation, features_run=options.features_run)
    return train_folds(options, weights, store, features_run, standard=None)


def train_folds(
    options: Training, weights: str, store: SpectrogramSet, features_run: str, standard: registry.Registered | None
) -> str:
    """Train and register every fold, then point the kind's alias at one of them.

    Parameters
    ----------
    options : Training
        How.
    weights : str
        Initial weights of this model.
    store : SpectrogramSet
        Inputs.
    features_run : str
        MLflow run that made them.
    standard : Registered or None
        The plain victim whose fold the alias goes to; None for the most accurate on its early-stopping fold.

    Raises
    ------
    InputError
        Images that the model cannot take, or a version that is gone.
    """
    check_size(options.model, *store.shape[1:])
    device = choose_device(options.device)
    settings = _settings(options, weights)
    # What one fold's weights depend on: the number of folds is not among it, so more can be added later.
    determined = {"store": store.digest, "model": options.model, "weights": _weights_key(weights), **asdict(settings)}
    identity = {"dataset": options.dataset, "representation": options.representation, "model": options.model}
    identity |= {"training": options.kind, "store_digest": store.digest, "features_run": features_run}
    params = {**asdict(options), "lr": settings.lr, "weights": weights, "device": str(device)}
    params["features_run"] = features_run
    if standard:
        identity |= {"standard": f"{standard.name}/{standard.version}", "standard_run": standard.run_id}
    fold_of_alias = int(standard.tags["fold"]) if standard else None
    key = {**determined, "folds": options.folds, "standard": fold_of_alias}
    name = registry.model_name(options.dataset, options.representation, options.model)
    with runs.stage_run(
        options.stage, CODE_VERSION, key, title=name, params=params, tags=identity, force=options.force
    ) as stage:
        if stage.reused:
            folds = read_folds(stage.run_id)
        else:
            stage.dataset(options.dataset, store.data_digest, str(store.path))
            task = _Task(options, settings, weights, store, split_store(store, options.seed), identity, device)
            folds = []
            for fold in range(options.folds):
                fold_key = runs.resume_key("fold", CODE_VERSION, {**determined, "fold": fold})
                state = Path(options.work_dir) / "training" / f"{fold_key}.pt"
                with _alone(state):
                    done = None if options.force else _finished_fold(fold, fold_key, name)
                    if done:
                        folds.append(done)
                        logger.info("%s: fold %d is already trained, reusing run %s", name, fold, done.run_id)
                        continue
                    tags = {**identity, "stage": "fold", "fold": fold}
                    title = f"{options.kind} {name} fold {fold}"
                    with stage.child(title, fold_key, tags, fresh=options.force) as child:
                        child.params({**params, "fold": fold})
                        if options.force:
                            state.unlink(missing_ok=True)
                        folds.append(_train_fold(task, fold, child, state))
            stage.text(json.dumps([asdict(fold) for fold in folds], indent=2), "folds.json")
            accuracies = np.array([fold.test_accuracy for fold in folds])
            stage.metrics({"test_accuracy": accuracies.mean(), "test_accuracy_std": accuracies.std()})
        best = max(folds, key=lambda fold: fold.stop_accuracy)
        chosen = best if fold_of_alias is None else folds[fold_of_alias]
        alias = registry.STANDARD if options.eps is None else registry.ROBUST
        version, before = registry.version(name, chosen.version), registry.by_alias(name, alias)
        if version is None:
            raise InputError(f"{name} version {chosen.version} is deleted: train it again with --force")
        if before and before.tags["store_digest"] != store.digest:
            logger.warning(
                "%s@%s moves from version %s, of other spectrograms (%s x %s), to version %s (%d x %d)",
                name, alias, before.version, before.tags["height"], before.tags["width"], version.version,
                *store.shape[1:],
            )  # fmt: skip
        registry.tag(version, {"train_run": stage.run_id})
        registry.set_alias(version, alias)
        listed = ", ".join(f"{fold.test_accuracy:.1%}" for fold in folds)
        logger.info(
            "%s (%s): test accuracy per fold %s; %s@%s is fold %d", name, options.kind, listed, name, alias, chosen.fold
        )
        return stage.run_id


def _train_fold(task: _Task, fold: int, child: runs.StageRun, state: Path) -> Fold:
    """Train, test, log and register one fold; ``state`` keeps unfinished training."""
    options, store, parts, identity = task.options, task.store, task.parts, task.identity
    train, stop = with_copies(store, parts.train(fold)), parts.early_stopping(fold)
    mean, std = store.moments(train)
    torch.manual_seed(options.seed * FOLDS + fold)  # the plain and the robust victim start from the same weights
    network = build(options.model, len(store.classes), weights=task.weights, mean=mean, std=std).to(task.device)
    name = registry.model_name(options.dataset, options.representation, options.model)

    with tqdm(total=options.epochs, desc=f"{options.kind} {name} fold {fold}", unit="epoch", leave=False) as progress:

        def on_epoch(epoch: Epoch) -> None:
            progress.update()
            progress.set_postfix(loss=f"{epoch.train_loss:.3f}", stop_accuracy=f"{epoch.stop_accuracy:.3f}")
            child.metrics(
                {
                    "train_loss": epoch.train_loss,
                    "stop_loss": epoch.stop_loss,
                    "stop_accuracy": epoch.stop_accuracy,
                },
                step=epoch.number,
            )

        best = fit(network, store, train, stop, task.settings, state, on_epoch)

    y, scores = store.y[parts.test], probabilities(network, store, parts.test)
    matrix = confusion(y, scores.argmax(1), len(store.classes))
    accuracy, f1 = float((scores.argmax(1) == y).mean()), macro_f1(matrix)
    metrics = {"test_accuracy": accuracy, "test_macro_f1": f1, "best_epoch": best.number}
    child.metrics({**metrics, "best_stop_accuracy": best.stop_accuracy})
    child.data(confusion_figure(matrix, list(store.classes)), "confusion.png")
    child.text(_predictions(store, parts.test, scores), "test_predictions.csv")
    child.dataset(options.dataset, store.data_digest, str(store.path))

    training = {**asdict(task.settings), "kind": options.kind, "fold": fold, "weights": task.weights}
    training |= {"store_digest": store.digest, "test_accuracy": accuracy, "run_id": child.run_id}
    description = Description(
        options.model,
        options.representation,
        options.dataset,
        store.classes,
        store.shape,
        asdict(store.settings),
        training,
    )
    with TemporaryDirectory() as folder:
        save(Path(folder) / "checkpoint", network, description)
        model_uri = log_victim(child.run_id, Path(folder) / "checkpoint")
    tags = {**identity, "fold": fold, "accuracy": round(accuracy, 4), "stop_accuracy": round(best.stop_accuracy, 4)}
    tags |= {"height": store.settings.height, "width": store.settings.width, "seed": options.seed}
    tags |= {} if options.eps is None else {"eps": options.eps, "alpha": options.alpha}
    registered = registry.register(
        name,
        model_uri,
        child.run_id,
        tags,
        f"{options.kind} training, fold {fold}: test accuracy {accuracy:.1%}, macro-F1 {f1:.3f}",
    )
    child.tags({"version": registered.version})
    state.unlink(missing_ok=True)
    return Fold(fold, child.run_id, registered.version, accuracy, best.stop_accuracy)


def read_folds(run_id: str) -> list[Fold]:
    """The folds of a finished training run."""
    return [Fold(**fold) for fold in json.loads(runs.read_artifact(run_id, "folds.json"))]


def split_store(store: SpectrogramSet, seed: int) -> Split:
    """The paper's split of a store's original clips, as indices into the store."""
    originals = np.flatnonzero(store.scale == 1.0)
    parts = split(store.y[originals], store.source[originals], seed=seed, folds=FOLDS)
    return Split(originals[parts.test], tuple(originals[part] for part in parts.development))


def with_copies(store: SpectrogramSet, indices: np.ndarray) -> np.ndarray:
    """``indices`` of originals and of all their pitch-shifted copies: copies are trained on, nothing else."""
    clip = np.cumsum(store.scale == 1.0)  # copies follow their original; names may repeat in other folders
    return np.flatnonzero(np.isin(clip, clip[indices]))


def weights_of(model: str, weights: str) -> str:
    """The initial weights of one model: ``weights`` is one word for all, with exceptions as 'imagenet,resnet56=none'.

    Raises
    ------
    InputError
        An exception is not of the form MODEL=WEIGHTS.
    """
    values = by_name("weights", weights, MODELS)
    return values.get(model, values.get("", "none"))


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Keep other processes of this working folder from training the same fold meanwhile."""
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process trains this fold: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _settings(options: Training, weights: str) -> Settings:
    own_lr = _FINE_TUNING_LR if weights != "none" else DEFAULT_LR.get(options.model, _OTHER_LR)
    lr = options.lr or own_lr
    return Settings(
        epochs=options.epochs,
        patience=options.patience,
        batch_size=options.batch_size,
        lr=lr,
        seed=options.seed,
        eps=options.eps,
        alpha=Settings.alpha if options.eps is None else options.alpha,  # plain training does not depend on it
        augmentation=options.augmentation,
        precision=options.precision,
    )


def _weights_key(weights: str) -> str:
    """A file of weights counts by its state, not its name alone."""
    if weights in ("none", "imagenet"):
        return weights
    state = Path(weights).stat()
    return f"{Path(weights).absolute()} {state.st_size} {state.st_mtime_ns}"


def _finished_fold(fold: int, fold_key: str, name: str) -> Fold | None:
    """The fold of this key that was trained and registered before, if its version is still there."""
    for found in runs.find({"fold_key": fold_key}, status="FINISHED"):
        version = runs.tag(found, "version")
        if version and registry.version(name, version):
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
