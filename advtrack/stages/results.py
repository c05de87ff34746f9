"""What the runs and the registry hold of one cell: its victims, their folds, and the searches on them."""

from __future__ import annotations

import logging

from advtrack.attacks import TABLE_ATTACKS
from advtrack.reporting.records import FoldRecord, Training, VictimRecord
from advtrack.stages.clips import with_clips
from advtrack.stages.defaults import TRAINING
from advtrack.stages.fold import Fold
from advtrack.stages.masking import read_signs
from advtrack.stages.predictions import read_predictions
from advtrack.stages.searched import find_records
from advtrack.stages.train import read_folds
from advtrack.stages.victims import recipe
from advtrack.tracking import lookup, registry

logger = logging.getLogger("advtrack")


def victims(dataset: str, representation: str, model: str) -> list[VictimRecord]:
    """The plainly and the adversarially trained victim of one cell, with their attacks, as far as they are there."""
    name = registry.model_name(dataset, representation, model)
    kinds: tuple[tuple[str, Training], ...] = ((registry.STANDARD, "plain"), (registry.ROBUST, "adversarial"))
    plain = registry.by_alias(name, registry.STANDARD)
    records = []
    for alias, training in kinds:
        version = registry.by_alias(name, alias)
        if version is None or plain is None:
            continue
        if recipe(version) != recipe(plain):
            logger.warning(
                "%s is left out: its spectrograms, split or initial weights are not those of %s@standard", version, name
            )
            continue
        attacks = {name: with_clips(record) for name, record in find_records(version, TABLE_ATTACKS).items()}
        params = lookup.get(version.run_id).data.params
        records.append(
            VictimRecord(
                dataset=dataset,
                representation=representation,
                model=model,
                training=training,
                folds=tuple(_fold(fold) for fold in read_folds(version.tags["train_run"])),
                fold=int(version.tags["fold"]),
                version=version.version,
                run_id=version.tags["train_run"],
                settings={name: params[name] for name in TRAINING},
                attacks=attacks,
                masking=read_signs(map(lookup.get, {record.run_id for record in attacks.values()})),
                basis=_basis(version),
                data="{clips} clips of {classes} classes".format(**version.tags) if "clips" in version.tags else "",
            )
        )
    return records


def _basis(version: registry.Registered) -> dict[str, str]:
    """What all results on one data set have to have in common."""
    ((_, digest, _),) = lookup.inputs(version.run_id)
    training = lookup.prefixed_tags(lookup.get(version.tags["train_run"]), "")
    return {
        "data digest": digest,
        "image size": f"{version.tags['height']} x {version.tags['width']}",
        "protocol": version.tags["protocol"],
        "seed": version.tags["seed"],
        "training code": training["code_version"],
    }


def _fold(fold: Fold) -> FoldRecord:
    """A fold with what it said of each test clip."""
    rows = read_predictions(fold.run_id)
    return FoldRecord(
        fold.fold,
        fold.repeat,
        fold.run_id,
        fold.test_accuracy,
        tuple(row["source"] for row in rows),
        tuple(row["class"] == row["predicted"] for row in rows),
    )
