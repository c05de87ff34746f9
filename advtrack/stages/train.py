"""Entry point ``train``: the folds of one model on one representation, a registered version each."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advtrack.errors import InputError
from advtrack.models import MODELS
from advtrack.models.zoo import check_size, check_weights
from advtrack.reporting.figures.classes import confusion_figure
from advtrack.representations.store import SpectrogramSet
from advtrack.stages.by_name import by_name
from advtrack.stages.defaults import FOLDS, HARDENING, PRECISION, TRAINING
from advtrack.stages.device import choose_device
from advtrack.stages.features import find_store
from advtrack.stages.fold import CODE_VERSION, Fold, Task, chosen_folds, split_store, trained_fold
from advtrack.stages.predictions import mean_and_spread, pooled
from advtrack.tracking import lookup, registry, runs
from advtrack.training.fit import Settings

logger = logging.getLogger("advtrack")

# Peak learning rates and epochs. From scratch, the two networks without BatchNorm need smaller steps, and more of them.
_FROM_SCRATCH = {"alexnet": (4e-4, 60), "vgg16": (1e-4, 80)}
_OTHERS, _FINE_TUNING = (2e-3, 40), (2e-4, 40)


@dataclass(frozen=True)
class Training:
    """Options of the stage; those of the command line of the same name.

    ``eps`` is None for plain training. ``epochs`` and ``lr`` 0 stand for the model's own, an empty ``features_run``
    for the only store there is. ``standard`` is the plain victim that an adversarial training stands beside, an alias
    or a version.
    """

    dataset: str
    model: str
    representation: str
    features_run: str
    weights: str
    folds: str
    epochs: int
    patience: int
    batch_size: int
    lr: float
    seed: int
    device: str
    work_dir: str
    eps: float | None = None
    alpha: float = HARDENING["alpha"]
    augmentation: str = TRAINING["augmentation"]
    precision: str = PRECISION
    protocol: str = TRAINING["protocol"]
    repeats: int = FOLDS["repeats"]
    schedule: str = TRAINING["schedule"]
    freeze_epochs: int = TRAINING["freeze_epochs"]
    random_eps: bool = HARDENING["random_eps"]
    standard: str = registry.STANDARD
    force: bool = False

    @property
    def kind(self) -> str:
        """Kind of training."""
        return "plain" if self.eps is None else "adversarial"

    @property
    def stage(self) -> str:
        """Name of the entry point."""
        return "train" if self.eps is None else "adv-train"


def run(options: Training) -> str:
    """Train the folds; the MLflow run that holds them.

    Raises
    ------
    InputError
        As `check`.
    """
    store, features_run = check(options)
    return train_folds(options, weights_of(options.model, options.weights), store, features_run, standard=None)


def check(options: Training) -> tuple[SpectrogramSet, str]:
    """Refuse what cannot be trained, before anything is: the spectrograms, and the run that made them.

    Raises
    ------
    InputError
        Weights the model cannot have, no spectrograms to train on, images too small for the model, or folds that the
        data set does not have or that leak.
    """
    check_weights(options.model, weights_of(options.model, options.weights))
    store, features_run = find_store(options.dataset, options.representation, features_run=options.features_run)
    check_size(options.model, *store.shape[1:])
    check_folds(options, store)
    return store, features_run


def check_folds(options: Training, store: SpectrogramSet) -> None:
    """Refuse folds that the data set does not have or that leak, before anything is trained.

    Raises
    ------
    InputError
        There are such.
    """
    for fold in chosen_folds(options.folds, options.protocol, store.fold):
        for repeat in range(options.repeats):  # each divides the clips anew
            split_store(store, options.protocol, options.seed + repeat, fold)


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
        The plain victim whose fold the alias goes to; None for the best on its early-stopping part of all folds that
        were trained under these conditions.

    Raises
    ------
    InputError
        Images that the model cannot take, folds that are not there, or a version that is gone.
    """
    check_size(options.model, *store.shape[1:])
    check_folds(options, store)
    settings, numbers = _settings(options, weights), chosen_folds(options.folds, options.protocol, store.fold)
    # What one fold's weights depend on: the number of folds is not among it, so more can be added later.
    determined = {"store": store.digest, "model": options.model, "weights": weights_digest(weights)}
    determined |= {"protocol": options.protocol}
    tags = {"dataset": options.dataset, "representation": options.representation, "model": options.model}
    tags |= {
        "training": options.kind,
        "protocol": options.protocol,
        "store_digest": store.digest,
        "features_run": features_run,
    }
    tags |= {"weights": weights, "weights_digest": weights_digest(weights)}
    if standard:
        tags |= {"standard": f"{standard.name}/{standard.version}", "standard_run": standard.run_id}
    device = choose_device(options.device)
    params = {
        **asdict(options),
        "lr": settings.lr,
        "epochs": settings.epochs,
        "weights": weights,
        "device": str(device),
    }
    params |= {"features_run": features_run, "training": options.kind}
    del params["standard"]  # a tag tells which version that was
    task = Task(
        options.dataset,
        options.representation,
        options.model,
        options.kind,
        weights,
        options.protocol,
        settings,
        store,
        determined,
        params,
        tags,
        device,
        options.work_dir,
        options.force,
    )
    fold_of_alias = int(standard.tags["fold"]) if standard else None
    key = {**determined, **asdict(settings), "folds": numbers, "repeats": options.repeats, "standard": fold_of_alias}
    with runs.stage_run(
        options.stage, CODE_VERSION, key, title=task.name, params=params, tags=tags, force=options.force
    ) as stage:
        if stage.reused:
            folds = read_folds(stage.run_id)
        else:
            stage.dataset(options.dataset, store.data_digest, str(store.path), store.digest)
            folds = [trained_fold(task, k, number, stage) for k in range(options.repeats) for number in numbers]
            stage.text(json.dumps([asdict(fold) for fold in folds], indent=2), "folds.json")
            stage.metrics({"folds": len(folds), **mean_and_spread("test_accuracy", [f.test_accuracy for f in folds])})
            stage.metrics(mean_and_spread("test_macro_f1", [fold.test_macro_f1 for fold in folds]))
            matrix, intervals = pooled([fold.run_id for fold in folds], store.classes)
            stage.metrics(intervals)
            stage.data(confusion_figure(matrix, store.classes), "confusion.png")
        for fold in folds:
            if version := registry.version(task.name, fold.version):
                registry.tag(version, {"train_run": stage.run_id})
        first = {fold.fold: fold.version for fold in folds if fold.repeat == 0}
        alias = registry.STANDARD if options.eps is None else registry.ROBUST
        chosen = _best_fold(task, first) if fold_of_alias is None else _version(task, first[fold_of_alias])
        _point(alias, task, chosen)
        listed = ", ".join(f"{fold.test_accuracy:.1%}" for fold in folds)
        logger.info(
            "%s (%s): test accuracy per fold %s; %s@%s is fold %d",
            task.name, options.kind, listed, task.name, alias, int(chosen.tags["fold"]),
        )  # fmt: skip
        return stage.run_id


def read_folds(run_id: str) -> list[Fold]:
    """The folds of a finished training run."""
    return [Fold(**fold) for fold in json.loads(lookup.read_artifact(run_id, "folds.json"))]


def weights_of(model: str, weights: str) -> str:
    """The initial weights of one model: ``weights`` is one word for all, with exceptions as 'imagenet,resnet56=none'.

    Raises
    ------
    InputError
        An exception is not of the form MODEL=WEIGHTS.
    """
    values = by_name("weights", weights, MODELS)
    return values.get(model, values.get("", "none"))


def _best_fold(task: Task, trained: Mapping[int, str]) -> registry.Registered:
    """The best on its early-stopping part of all folds under the conditions of ``task``, also of earlier commands.

    Of a fold that was trained more than once the newest version counts.
    """
    known: dict[str, registry.Registered] = {}
    for one in registry.versions(task.name):
        same = one.tags.get("conditions") == task.conditions and one.tags.get("rerun_of", "") == runs.rerun_of()
        if same and "train_run" in one.tags:
            known.setdefault(one.tags["fold"], one)
    if not known:
        return _version(task, next(iter(trained.values())))
    return max(known.values(), key=lambda one: (float(one.tags["stop_accuracy"]), -int(one.tags["fold"])))


def _version(task: Task, number: str) -> registry.Registered:
    if version := registry.version(task.name, number):
        return version
    raise InputError(f"{task.name} version {number} is deleted: train it again with --force")


def _point(alias: str, task: Task, version: registry.Registered) -> None:
    """Move an alias to a version, and say so if it leaves other images, another protocol or a better fold."""
    before = registry.by_alias(task.name, alias)
    if before and before.version != version.version:
        why = ""
        if before.tags["store_digest"] != task.store.digest:
            why = f"of other spectrograms ({before.tags['height']} x {before.tags['width']})"
        elif before.tags["protocol"] != task.protocol:
            why = f"of the {before.tags['protocol']} protocol"
        elif float(before.tags["stop_accuracy"]) > float(version.tags["stop_accuracy"]):
            why = f"trained otherwise and better ({float(before.tags['stop_accuracy']):.1%} on its early-stopping part)"
        if why:
            logger.warning(
                "%s@%s moves from version %s, %s, to version %s (%d x %d, %s protocol, %.1f%%), as aliases follow the "
                "last training",
                task.name, alias, before.version, why, version.version, *task.store.shape[1:], task.protocol,
                100 * float(version.tags["stop_accuracy"]),
            )  # fmt: skip
    registry.set_alias(version, alias)


def own_defaults(model: str, weights: str) -> dict[str, Any]:
    """A model's peak learning rate and epochs, by the names of their options."""
    lr, epochs = _FINE_TUNING if weights != "none" else _FROM_SCRATCH.get(model, _OTHERS)
    return {"lr": lr, "epochs": epochs}


def _settings(options: Training, weights: str) -> Settings:
    own = own_defaults(options.model, weights)
    return Settings(
        epochs=options.epochs or own["epochs"],
        patience=options.patience,
        batch_size=options.batch_size,
        lr=options.lr or own["lr"],
        seed=options.seed,
        eps=options.eps,
        alpha=Settings.alpha if options.eps is None else options.alpha,  # plain training does not depend on it
        augmentation=options.augmentation,
        precision=options.precision,
        schedule=options.schedule,
        freeze_epochs=0 if weights == "none" else options.freeze_epochs,  # what is drawn at random is all trained
        random_eps=options.random_eps,
    )


def weights_digest(weights: str) -> str:
    """What tells initial weights apart: a file counts by its bytes, wherever it lies."""
    if weights in ("none", "imagenet"):
        return weights
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
