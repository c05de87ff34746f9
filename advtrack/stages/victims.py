"""Registered victims: how one is found, what makes it, and what two must have in common to be compared."""

from __future__ import annotations

from advtrack.reporting.records import Training
from advtrack.stages.features import features_command, stores
from advtrack.tracking import registry, runs


def find_victim(dataset: str, representation: str, model: str, victim: str) -> registry.Registered:
    """Find a victim by alias or version number.

    Parameters
    ----------
    dataset : str
        Name of the data set, or 'auto' where only one has such a model.
    representation, model : str
        Names.
    victim : str
        Alias or version.

    Raises
    ------
    InputError
        There is no such victim, or more than one; the message names the command to run, or the candidates.
    """
    dataset = registry.dataset_of(dataset, representation, model)
    training: Training = "adversarial" if victim == registry.ROBUST else "plain"
    command = training_command(dataset, representation, model, training)
    return registry.resolve(registry.model_name(dataset, representation, model), victim, command)


def training_command(dataset: str, representation: str, model: str, training: Training, options: str = "") -> str:
    """The command that trains a victim, with what has to go before it."""
    cell = f"--dataset {dataset} --representation {representation} --model {model}{options}"
    train = f"advtrack {'train' if training == 'plain' else 'adv-train'} {cell}"
    found = stores(dataset, representation)
    if not found:
        return f"{features_command(dataset, representation)} && {train}"
    if len(set(found.values())) == 1 or training == "adversarial":  # that one takes the plain victim's spectrograms
        return train
    return f"{train} --features-run {next(iter(found))}"


def recipe(version: registry.Registered) -> dict[str, str]:
    """What two victims must have in common to differ in nothing but their training: data, split, initial weights."""
    params = runs.get(version.run_id).data.params
    return {"store_digest": version.tags["store_digest"], "seed": params["seed"], "weights": params["weights"]}
