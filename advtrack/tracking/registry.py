"""The model registry: versions per fold and kind of training, aliases, and how a victim is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import MetricThreshold
from mlflow.models.evaluation import EvaluationResult
from mlflow.models.evaluation.validation import ModelValidationFailedException
from mlflow.tracking import MlflowClient

from advtrack.errors import InputError
from advtrack.tracking.lookup import whole
from advtrack.tracking.runs import repeating, rerun_of

#: Aliases of the plainly and the adversarially trained victim; ``champion`` is moved by ``promote`` only.
STANDARD, ROBUST, CHAMPION = "standard", "robust", "champion"

_ABOUT = (
    "Audio classifiers by advtrack, named after data set, representation and network: a version per trained fold, "
    "plain or adversarial. `standard` and `robust` are the two compared, `champion` is the one promoted."
)


@dataclass(frozen=True)
class Registered:
    """One version of a registered model.

    Attributes
    ----------
    name, version : str
        As in the registry.
    run_id : str
        The fold's run.
    tags : mapping
        training, fold, accuracy and the lineage of the version.
    """

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def model_name(dataset: str, representation: str, model: str) -> str:
    """Name of the registered model of one table cell."""
    return f"{dataset}-{representation}-{model}"


def register(name: str, model_uri: str, run_id: str, tags: Mapping[str, Any], description: str) -> Registered:
    """Make a new version of ``name`` from a logged model."""
    client = MlflowClient()
    model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/") else None
    try:
        client.create_registered_model(name, description=_ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    texts = {k: str(v) for k, v in tags.items()} | repeating()
    # A tracking server takes no version of a model without the model's own identifier.
    created = client.create_model_version(
        name, model_uri, run_id, tags=texts, description=description, model_id=model_id
    )
    return _registered(created)


def describe(name: str, description: str) -> None:
    """Say on a registered model's page what it is, if there is such a model."""
    try:
        MlflowClient().update_registered_model(name, description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def set_alias(victim: Registered, alias: str) -> None:
    """Point ``alias`` at a version; a run that repeats another moves none."""
    if not rerun_of():
        MlflowClient().set_registered_model_alias(victim.name, alias, victim.version)


def by_alias(name: str, alias: str) -> Registered | None:
    """The version an alias points at, or None."""
    try:
        return _registered(MlflowClient().get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def version(name: str, number: str) -> Registered | None:
    """One version of a registered model, or None."""
    return next((found for found in versions(name) if found.version == number), None)


def version_of_run(name: str, run_id: str) -> Registered | None:
    """The newest version of a registered model that came out of a run, or None."""
    return next((found for found in versions(name) if found.run_id == run_id), None)


def versions(name: str) -> list[Registered]:
    """All versions of a registered model, newest first."""
    found = whole(lambda page: MlflowClient().search_model_versions(f"name='{name}'", page_token=page))
    return sorted((_registered(v) for v in found), key=lambda v: -int(v.version))


def datasets_of(representation: str, model: str) -> list[str]:
    """Data sets that have a registered model for this representation and network."""
    suffix = f"-{representation}-{model}"
    names = [one.name for one in whole(lambda page: MlflowClient().search_registered_models(page_token=page))]
    return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))


def dataset_of(dataset: str, representation: str, model: str) -> str:
    """A data set's name; for 'auto' the only one that has such a model, 'synthetic' if there is none.

    Raises
    ------
    InputError
        'auto' where several have one.
    """
    if dataset != "auto":
        return dataset
    candidates = datasets_of(representation, model)
    if len(candidates) > 1:
        options = " or ".join(f"--dataset {candidate}" for candidate in candidates)
        raise InputError(f"--dataset auto: {model} on {representation} is registered for several, say {options}")
    return candidates[0] if candidates else "synthetic"


def resolve(name: str, victim: str, command: str, option: str = "--victim") -> Registered:
    """Find a version by alias or number.

    Parameters
    ----------
    name : str
        Of the registered model.
    victim : str
        Alias or version.
    command : str
        What makes such a victim, for the message.
    option : str
        Where the victim was named, for the message.

    Raises
    ------
    InputError
        There is none.
    """
    if victim.isdigit():
        if found := version(name, victim):
            return found
        numbers = ", ".join(one.version for one in versions(name))
        if numbers:
            raise InputError(f"{option} {victim}: {name} has the versions {numbers}; choose one of them")
        raise InputError(f"{option} {victim}: {name} has no versions; run first: {command}")
    if found := by_alias(name, victim):
        return found
    raise InputError(f"{option} {victim}: no registered victim {name}@{victim}; run first: {command}")


def download(victim: Registered) -> Path:
    """Local folder with the checkpoint of a version."""
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{victim.name}/{victim.version}"))
    (checkpoint,) = (folder / "artifacts").iterdir()
    return checkpoint


def tag(victim: Registered, values: Mapping[str, Any]) -> None:
    """Set tags of a version; a run that repeats another sets those of its own versions only."""
    if rerun_of() and victim.tags.get("rerun_of") != rerun_of():
        return
    for key, value in values.items():
        MlflowClient().set_model_version_tag(victim.name, victim.version, key, str(value))


def model_tag(name: str, key: str) -> str:
    """A tag of a registered model; empty without one."""
    try:
        return str(MlflowClient().get_registered_model(name).tags.get(key, ""))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""


def tag_model(name: str, values: Mapping[str, Any]) -> None:
    """Set tags of a registered model."""
    for key, value in values.items():
        MlflowClient().set_registered_model_tag(name, key, str(value))


def meets(value: float, limit: float, greater_is_better: bool) -> bool:
    """Whether a metric passes MLflow's validation against a threshold; NaN never does."""
    threshold = MetricThreshold(threshold=limit, greater_is_better=greater_is_better)
    try:
        mlflow.validate_evaluation_results({"metric": threshold}, EvaluationResult({"metric": value}, {}))
    except ModelValidationFailedException:
        return False
    return True


def _registered(found: ModelVersion) -> Registered:
    return Registered(found.name, str(found.version), found.run_id or "", dict(found.tags))
