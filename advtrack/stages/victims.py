"""Registered victims: how one is found, what makes it, and what two must have in common to be compared."""

from __future__ import annotations

from advtrack.errors import InputError
from advtrack.reporting.records import Training
from advtrack.stages.features import NEWEST, features_command, stores
from advtrack.tracking import registry


def find_victim(
    dataset: str, representation: str, model: str, victim: str, option: str = "--victim"
) -> registry.Registered:
    """Find a victim by alias or version number.

    Parameters
    ----------
    dataset : str
        Name of the data set, or 'auto' where only one has such a model.
    representation, model : str
        Names.
    victim : str
        Alias or version.
    option : str
        Where the victim was named, for the message.

    Raises
    ------
    InputError
        There is no such victim, or more than one; the message names the command to run, or the candidates.
    """
    dataset = registry.dataset_of(dataset, representation, model)
    training: Training = "adversarial" if victim == registry.ROBUST else "plain"
    name = registry.model_name(dataset, representation, model)
    if victim == registry.CHAMPION:
        command = f"advtrack promote --dataset {dataset} --representation {representation} --model {model}"
    elif training == "adversarial" and registry.by_alias(name, registry.STANDARD):
        command = training_command(dataset, representation, model, training)
    else:
        command = training_command(dataset, representation, model, "plain")
        if training == "adversarial":
            command += f" && advtrack adv-train --dataset {dataset} --representation {representation} --model {model}"
    return registry.resolve(name, victim, command, option)


def only_victim(
    dataset: str, representation: str, model: str, victim: str, option: str = "--victim"
) -> registry.Registered:
    """Find a victim as `find_victim` does, where an alias must leave no doubt.

    Raises
    ------
    InputError
        As there; or victims of the same kind were trained on other spectrograms (another image size, other clips), or
        in another protocol, too.
    """
    found = find_victim(dataset, representation, model, victim, option)
    if not victim.isdigit() and (kinds := in_doubt(found)):
        listed = ", ".join(
            f"{one.version} ({one.tags['height']} x {one.tags['width']}, {one.tags['protocol']} protocol)"
            for one in kinds
        )
        raise InputError(
            f"{option} {victim}: {found.name} has victims on several sets of spectrograms or protocols; "
            f"say which version: {listed}"
        )
    return found


def in_doubt(found: registry.Registered) -> list[registry.Registered]:
    """The victims that an alias may mean as well as the one that it points at, that one first; none without doubt."""
    kinds = {(found.tags["store_digest"], found.tags["protocol"]): found}
    for one in registry.versions(found.name):  # newest first
        if one.tags["training"] == found.tags["training"]:
            kinds.setdefault((one.tags["store_digest"], one.tags["protocol"]), one)
    return list(kinds.values()) if len(kinds) > 1 else []


def training_command(
    dataset: str, representation: str, model: str, training: Training, options: str = "", like: str = ""
) -> str:
    """The command that trains a victim, with what has to go before it.

    Parameters
    ----------
    dataset, representation, model, training : str
        The victim.
    options : str
        Further options, as they are written behind the command.
    like : str
        Digest of the store of a victim that this one is to be compared with; empty without one.
    """
    cell = f"--dataset {dataset} --representation {representation} --model {model}{options}"
    train = f"advtrack {'train' if training == 'plain' else 'adv-train'} {cell}"
    there = stores(dataset, representation)
    alike = stores(dataset, representation, like) if like else there
    if not alike:
        # Beside stores of other clips or sizes it has to say which one it means.
        train += f" --features-run {NEWEST}" if there and training == "plain" else ""
        return f"{features_command(dataset, representation, like)} && {train}"
    # An adversarial training takes the plain victim's spectrograms.
    if training == "adversarial" or len(there) == 1:
        return train
    return f"{train} --features-run {alike[0].run_id}"


def recipe(version: registry.Registered) -> dict[str, str]:
    """What two victims must have in common to differ in nothing but their training: data, split, initial weights."""
    return {name: version.tags[name] for name in ("store_digest", "seed", "weights_digest", "protocol")}


def plain_victim(version: registry.Registered) -> registry.Registered | None:
    """The plainly trained victim that differs from this one in nothing but its training, if ``standard`` is that."""
    standard = registry.by_alias(version.name, registry.STANDARD)
    if standard is None or standard.tags["fold"] != version.tags["fold"] or recipe(standard) != recipe(version):
        return None
    return standard


def trained_beside(version: registry.Registered) -> registry.Registered | None:
    """The plain victim, of the same fold, beside which an adversarially trained one was trained.

    Wherever ``standard`` points since, its accuracy is what adversarial training started from. Where ``standard`` was
    another fold then, it is the newest of this fold that was trained like that.
    """
    beside = registry.version(version.name, version.tags.get("standard", "").rpartition("/")[2])
    if beside is None:
        return None
    alike = ("training", "conditions", "repeat")
    return next(
        (
            one
            for one in (beside, *registry.versions(version.name))
            if one.tags["fold"] == version.tags["fold"] and all(one.tags.get(n) == beside.tags.get(n) for n in alike)
        ),
        None,
    )
