"""What the Optuna dashboard shows of a finished study: a note, attributes and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.storages import BaseStorage as Storage
from optuna.study import Study
from optuna_dashboard import save_note
from optuna_dashboard.artifact import get_artifact_path

from advtrack.search.result import BudgetResult
from advtrack.search.storage import artifact_directory
from advtrack.search.study import finished_study, quiet


def publish(
    result: BudgetResult,
    storage: Storage,
    url: str,
    title: str,
    facts: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> None:
    """Tell the dashboard what a study found: a note, since it knows no constraints and would show others as best.

    Parameters
    ----------
    result : BudgetResult
        It names the study.
    storage, url
        Of the study; pictures lie in `artifact_directory`.
    title : str
        Of the note.
    facts : mapping
        Attributes of the study; also listed in the note.
    pictures : mapping of str to bytes
        Image files by name.
    """
    verdict = "reaches" if result.reached else "misses"
    asked = "A fooling rate of" if result.criterion.name == "fooling_rate" else "The area below it, up to there, of"
    settings = "".join(f", {name} {value:g}" for name, value in result.budget.settings.items())
    low, high = result.interval()
    directory = artifact_directory(url)
    with quiet():
        study = finished_study(storage, result.study_name)
        for name, value in facts.items():
            study.set_user_attr(name, value)
        shown = "".join(f"\n![{name}]({path})\n" for name, path in _uploaded(study, directory, pictures).items())
        save_note(
            study,
            f"# {title}\n\nFooling rate **{result.fooling_rate:.3f}** ({low:.3f} to {high:.3f}, "
            f"{len(result.success)} clips) at {result.norm} <= **{result.budget.bound:.4g}** and "
            f"**{result.budget.iterations}** iterations{settings}. {asked} {result.score():.3f} {verdict} the target, "
            f"{result.criterion.target:g}."
            f"{'' if result.settled else _open(result)}"
            "\n\nTrials with a positive constraint `target_missed_by` missed the target or were given up; they are no "
            "candidates.\n\n" + "".join(f"- {name}: `{value}`\n" for name, value in facts.items()) + shown,
        )


def _open(result: BudgetResult) -> str:
    above = f"and {result.budget.bound:.4g}" if result.reached else "and anything"
    return f" The trials left open where the smallest bound lies: between {result.missed_at or 0:.4g} {above}."


def _uploaded(study: Study, directory: Path, pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Keep pictures as the study's artifacts, once each; where the dashboard serves them."""
    files = {name: f"{hashlib.sha256(content).hexdigest()[:12]}-{name}" for name, content in pictures.items()}
    known = {one.filename: one.artifact_id for one in get_all_artifact_meta(study)}
    directory.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(directory)
    with TemporaryDirectory() as folder:
        for name, content in pictures.items():
            if files[name] not in known:
                file = Path(folder) / files[name]
                file.write_bytes(content)
                known[files[name]] = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=study)
    return {name: get_artifact_path(study, known[files[name]]) for name in pictures}
