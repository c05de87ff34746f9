"""Entry point ``adv-train``: the folds of one model trained adversarially (Eq. 13), beside their plain ones."""

from __future__ import annotations

from advtrack.errors import InputError
from advtrack.models.zoo import check_size, check_weights
from advtrack.representations.store import SpectrogramSet
from advtrack.stages.features import find_store
from advtrack.stages.fold import chosen_folds
from advtrack.stages.train import Training, check_folds, train_folds, weights_digest, weights_of
from advtrack.stages.victims import find_victim, recipe
from advtrack.tracking import registry


def run(options: Training) -> str:
    """Train the folds adversarially; the MLflow run that holds them.

    The alias ``robust`` goes to the fold that ``standard`` points at, so that the two victims compared differ in
    nothing but their training.

    Raises
    ------
    InputError
        As `check`.
    """
    store, features_run, standard = check(options)
    return train_folds(options, weights_of(options.model, options.weights), store, features_run, standard=standard)


def check(options: Training) -> tuple[SpectrogramSet, str, registry.Registered]:
    """Refuse what cannot be trained, before anything is: the spectrograms, the run that made them, the plain victim.

    Raises
    ------
    InputError
        The plain victim is missing, is of another protocol, another seed, other weights or other spectrograms, or its
        fold would not be trained.
    """
    weights = weights_of(options.model, options.weights)
    check_weights(options.model, weights)
    standard = find_victim(options.dataset, options.representation, options.model, options.standard)
    features_run = options.features_run or standard.tags["features_run"]
    store, _ = find_store(options.dataset, options.representation, features_run=features_run)
    same = {"protocol": options.protocol, "seed": options.seed, "weights_digest": weights_digest(weights)}
    for name, given in same.items():
        if str(given) != recipe(standard)[name]:
            option = name.removesuffix("_digest")
            wanted = f"--{option} {standard.tags[option]}"
            raise InputError(
                f"--{option} {getattr(options, option)}: {standard}, the plain victim, has {wanted}, and the two are "
                f"to differ in nothing but their training; give {wanted}, or train the plain one again"
            )
    if standard.tags["store_digest"] != store.digest:
        raise InputError(
            f"--features-run {features_run}: {standard} was trained on other spectrograms; run first: advtrack train "
            f"--dataset {options.dataset} --representation {options.representation} --model {options.model} "
            f"--features-run {features_run}"
        )
    fold = int(standard.tags["fold"])
    if fold not in chosen_folds(options.folds, options.protocol, store.fold):
        raise InputError(f"--folds {options.folds}: the plain victim is fold {fold}; add it, as --folds fold{fold}")
    check_size(options.model, *store.shape[1:])
    check_folds(options, store)
    return store, features_run, standard
