"""Entry point ``main``: every stage in order, skipping what is already done."""

from __future__ import annotations

import importlib.resources
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.models import MODELS
from advtrack.models.zoo import check_size, check_weights
from advtrack.representations import REPRESENTATIONS
from advtrack.representations.image import ImageSettings
from advtrack.search.storage import open_storage
from advtrack.stages import adversarial_train, attack, compare, features, train
from advtrack.stages.attacking import Attacking
from advtrack.stages.by_name import whole_number_for
from advtrack.stages.device import choose_device
from advtrack.stages.train import weights_of
from advtrack.stages.victims import find_victim
from advtrack.tracking import lookup, registry, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 1


@dataclass(frozen=True)
class Pipeline:
    """Options of the stage; those of the command line of the same name.

    ``overrides`` changes values of the preset: 'epochs=5 models=alexnet,vgg16'.
    """

    preset: str
    overrides: str
    dataset: str
    data_dir: str
    seed: int
    device: str
    storage: str
    work_dir: str
    force: bool = False


@dataclass(frozen=True)
class Finished:
    """What the pipeline ends with: the tables as Markdown and the report's file."""

    tables: list[str]
    report: Path


def run(options: Pipeline, values: Mapping[str, Any]) -> Finished:
    """Run the whole experiment of a preset, whose ``values`` come from ``settings``.

    Raises
    ------
    InputError
        A value of the preset is unknown or out of place.
    """
    open_storage(options.storage)
    for model in values["models"]:
        check_weights(model, weights_of(model, values["weights"]))
        for representation in values["representations"]:
            rows, columns = ImageSettings(values["height"], values["width"], 1, 1).shape(representation)
            check_size(model, rows, columns)
    everywhere: dict[str, Any] = {"dataset": values["dataset"], "seed": options.seed, "force": options.force}
    everywhere |= {"device": choose_device(options.device).type}
    cells = [(representation, model) for representation in values["representations"] for model in values["models"]]
    with runs.stage_run(
        "main", CODE_VERSION, {}, title=options.preset, params=values, tags={"preset": options.preset}, force=True
    ) as stage:
        stores = features.run(
            features.Features(
                **_chosen(values, "dataset", "representations", "height", "width", "augment", "top_db"),
                reference_db=None,
                skip_bad=False,
                data_dir=options.data_dir,
                seed=options.seed,
                work_dir=options.work_dir,
                force=options.force,
            )
        )
        done = list(stores.values())
        for representation, model in cells:
            training = _chosen(values, "weights", "folds", "epochs", "patience", "batch_size", "lr", "augmentation")
            training |= {"model": model, "representation": representation}
            training |= _chosen(values, "protocol", "repeats", "schedule", "freeze_epochs", "precision", "alpha")
            plain = train.Training(
                features_run=stores[representation], work_dir=options.work_dir, **training, **everywhere
            )
            done += [train.run(plain), adversarial_train.run(replace(plain, eps=values["eps"]))]
        for representation, model in cells:
            searching = _chosen(values, "attacks", "target_fooling_rate", "samples", "trials", "max_iter")
            searching |= {"model": model, "representation": representation, "storage": options.storage}
            for alias in (registry.STANDARD, registry.ROBUST):
                victim = find_victim(values["dataset"], representation, model, alias).version
                done.append(attack.run(Attacking(victim=victim, **searching, **everywhere)))
        run_id, report = compare.run(
            compare.Comparison(
                **_chosen(values, "dataset", "representations", "models"),
                work_dir=options.work_dir,
                force=options.force,
            )
        )
        for data in sorted({data for one in done for data in lookup.inputs(one)}):
            stage.dataset(*data)
        stage.metrics(lookup.get(run_id).data.metrics)
        stage.tags({"lineage": ",".join([*done, run_id])})
        stage.text(json.dumps(dict(values), indent=2), "preset.json")
        return Finished(compare.read_tables(run_id), report)


def settings(options: Pipeline) -> dict[str, Any]:
    """The preset's values with what the options override.

    Raises
    ------
    InputError
        An override that is no value of the preset, or not of its kind.
    """
    text = importlib.resources.files("advtrack.presets").joinpath(f"{options.preset}.yaml").read_text("utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    if options.dataset:
        values["dataset"] = options.dataset
    overridden: set[str] = set()
    for override in options.overrides.split():
        name, equals, value = override.partition("=")
        if not equals or name not in values or name == "dataset":
            known = ", ".join(sorted(set(values) - {"dataset"}))
            raise InputError(f"--overrides {override}: give NAME=VALUE, NAME one of {known}")
        if name in overridden:
            raise InputError(f"--overrides {override}: {name} is given twice; give it once")
        overridden.add(name)
        values[name] = _typed(override, value, values[name])
    for name, known_names in (("models", MODELS), ("representations", REPRESENTATIONS), ("attacks", TABLE_ATTACKS)):
        listed = list(known_names) if values[name] == ["all"] else values[name]
        for one in listed:
            if one not in known_names:
                raise InputError(f"--overrides {name}: unknown {one!r}, choose from {', '.join(known_names)}")
        values[name] = tuple(dict.fromkeys(listed))
    for attack_name in values["attacks"]:
        for option in ("samples", "max_iter"):
            whole_number_for(option.replace("_", "-"), values[option], attack_name, TABLE_ATTACKS)
    return values


def _chosen(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _typed(override: str, text: str, like: Any) -> Any:
    """A value read as the kind that the preset has."""
    try:
        if isinstance(like, list):
            return text.split(",")
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(like)(text)
    except (ValueError, KeyError):
        raise InputError(f"--overrides {override}: {text!r} is not a {type(like).__name__}") from None
