"""Entry point ``rerun``: repeat a stage's run from its record, and hold the two results against each other."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from tempfile import TemporaryDirectory
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from advtrack import data
from advtrack.data import clip
from advtrack.errors import InputError
from advtrack.models import checkpoint
from advtrack.models.zoo import check_weights
from advtrack.representations.store import intact
from advtrack.stages import adversarial_train, attack, compare, features, fold, train, transfer
from advtrack.stages.attacking import Attacking
from advtrack.tracking import connection, lookup, registry, runs

logger = logging.getLogger("advtrack")


@dataclass(frozen=True)
class _Stage:
    """How a stage is called again: the class of its options, the call that returns the run, the version of its code."""

    options: type
    call: Callable[[Any], str]
    code_version: int


_STAGES = {
    "features": _Stage(features.Features, lambda o: features.run(o)[o.representations[0]], features.CODE_VERSION),
    "train": _Stage(train.Training, train.run, fold.CODE_VERSION),
    "adv-train": _Stage(train.Training, adversarial_train.run, fold.CODE_VERSION),
    "attack": _Stage(Attacking, attack.run, attack.CODE_VERSION),
    "transfer": _Stage(Attacking, transfer.run, transfer.CODE_VERSION),
    "compare": _Stage(compare.Comparison, lambda o: compare.run(o)[0], compare.CODE_VERSION),
}


@dataclass(frozen=True)
class Verdict:
    """What came of a rerun.

    Attributes
    ----------
    run_id : str
        The fresh run.
    compared : int
        Metrics, tables and digests that were held against each other.
    differences : list of str
        Those that are not the same, with both values.
    """

    run_id: str
    compared: int
    differences: list[str]


def run(run_id: str) -> Verdict:
    """Repeat a run, in a run of its own that moves no alias, and say whether it got the same.

    Raises
    ------
    InputError
        No such run, or none that can be repeated; its data is gone or changed, or the code is of another version.
    """
    record = _repeatable(run_id)
    stage = _STAGES[lookup.tag(record, "stage") or ""]
    with TemporaryDirectory() as folder:
        options = _options(record, stage.options, folder)
        _check_data(record, options)
        with runs.rerunning(run_id):
            fresh_id = stage.call(options)
        fresh = lookup.get(fresh_id)
        before, now = _results(record), _results(fresh)
    differences = [
        f"{name}: {before.get(name, 'nothing')} before, {now.get(name, 'nothing')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    runs.StageRun(fresh_id).tags({"same_result": not differences})
    runs.StageRun(fresh_id).json({"rerun_of": run_id, "before": before, "now": now}, "rerun.json")
    return Verdict(fresh_id, len(before.keys() | now.keys()), differences)


def _repeatable(run_id: str) -> lookup.Run:
    """A finished run of a stage, by the code of today."""
    if not lookup.exists(run_id):
        raise InputError(f"RUN_ID {run_id!r}: there is no such run in {connection.shown_uri()}")
    record = lookup.get(run_id)
    name = lookup.tag(record, "stage")
    if record.info.lifecycle_stage == "deleted":
        raise InputError(f"{run_id} is deleted: restore it with mlflow runs restore --run-id {run_id}")
    if earlier := lookup.tag(record, "reused_from"):
        raise InputError(f"{run_id} only reused another run: repeat that one, advtrack rerun {earlier}")
    if name == "fold":
        raise InputError(f"{run_id} is a fold: repeat its training, advtrack rerun {lookup.parent(record)}")
    if name not in _STAGES:
        raise InputError(f"{run_id} is of stage {name}: only runs of {', '.join(_STAGES)} can be repeated")
    if record.info.status != "FINISHED":
        raise InputError(f"{run_id} is {record.info.status}: only a finished run has a result to hold another against")
    version, current = lookup.tag(record, "code_version"), _STAGES[name].code_version
    if version != str(current):
        raise InputError(
            f"{run_id} was made by version {version} of the code of {name}, this is version {current}, whose results "
            "differ: repeat it with the code of then"
        )
    return record


def _options(record: lookup.Run, cls: type, folder: str) -> Any:
    """The options of a run as they were resolved, but for where unfinished work lies: that starts from nothing."""
    name, number = (lookup.tag(record, "victim") or "/").split("/")
    instead: dict[str, Any] = {"force": True, "work_dir": folder, "storage": f"sqlite:///{folder}/optuna.db"}
    instead |= {"victim": number, "dataset": lookup.tag(record, "dataset")} if name else {}
    instead |= {"standard": (lookup.tag(record, "standard") or registry.STANDARD).rpartition("/")[2]}
    instead |= {"representations": (lookup.tag(record, "representation"),)} if cls is features.Features else {}
    texts, hints, values = lookup.params(record), get_type_hints(cls), {}
    for field in fields(cls):
        if field.name in instead:
            values[field.name] = instead[field.name]
        elif field.name in texts:
            values[field.name] = _read(texts[field.name], hints[field.name])
        elif field.default is MISSING:
            raise InputError(f"{record.info.run_id} has no record of its parameter {field.name}: it cannot be repeated")
    return cls(**values)


def _read(text: str, hint: Any) -> Any:
    """A parameter as MLflow keeps it, in the type of the option."""
    if get_origin(hint) is UnionType:
        return None if text == "None" else _read(text, get_args(hint)[0])
    if get_origin(hint) is tuple:
        return tuple(text.split(","))
    if hint is bool:
        return text == "True"
    return hint(text) if hint in (int, float) else text


def _check_data(record: lookup.Run, options: Any) -> None:
    """See to it that the run's data and initial weights are there and as they were.

    Raises
    ------
    InputError
        It is gone or changed.
    """
    if isinstance(options, features.Features):
        folder = features.data_folder(options)
        dataset = data.load(options.dataset, folder)
        now, then = clip.digest(dataset, clip.checksums(dataset)), lookup.tag(record, "data_digest")
        if now != then:
            raise InputError(f"{folder} has changed: its digest is {now}, that of run {record.info.run_id} was {then}")
    elif digest := lookup.tag(record, "store_digest"):
        dataset_name, representation = (lookup.tag(record, name) or "" for name in ("dataset", "representation"))
        store, _ = features.find_store(dataset_name, representation, store_digest=digest)
        if not intact(store.path):
            raise InputError(f"{store.path} is damaged: run the features stage again to rebuild it")
    if isinstance(options, train.Training):
        check_weights(options.model, options.weights)
        now, then = train.weights_digest(options.weights), lookup.tag(record, "weights_digest")
        if now != then:
            raise InputError(
                f"--weights {options.weights}: the file has changed, its digest is {now}, that of run "
                f"{record.info.run_id} was {then}"
            )


def _results(record: lookup.Run) -> dict[str, str]:
    """What must be the same: metrics, tables, the digest of spectrograms, and of each fold the same and its weights."""
    found = {
        name: repr(runs.rounded(value)) for name, value in record.data.metrics.items() if not name.startswith("system/")
    }
    for path in lookup.files(record.info.run_id):
        if path.endswith(".csv"):
            found[path] = hashlib.sha256(lookup.read_artifact(record.info.run_id, path)).hexdigest()[:16]
    if lookup.tag(record, "stage") == "features":
        found["store_digest"] = lookup.tag(record, "store_digest") or ""
    if lookup.tag(record, "stage") in ("train", "adv-train"):
        for number, one in enumerate(train.read_folds(record.info.run_id)):
            found |= {f"fold {number}: {name}": value for name, value in _results(lookup.get(one.run_id)).items()}
            found[f"fold {number}: weights"] = _weights(record, one.version)
    return found


def _weights(record: lookup.Run, number: str) -> str:
    """Digest of the weights of a registered version."""
    cell = [lookup.tag(record, name) or "" for name in ("dataset", "representation", "model")]
    version = registry.version(registry.model_name(*cell), number)
    return checkpoint.load(registry.download(version)).checkpoint_id if version else "deleted"
