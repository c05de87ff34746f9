"""Entry point ``compare``: tables I to III and the report, from what the runs and the registry hold."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.reporting.figures import budget_figure
from advtrack.reporting.formats import to_csv, to_markdown
from advtrack.reporting.records import AttackRecord, Training, VictimRecord
from advtrack.reporting.report import ReportFigure, html_report
from advtrack.reporting.tables import FillingCommand, per_attack_table, table_one, table_three, table_two
from advtrack.search.space import longest_run
from advtrack.stages.attack import find_records
from advtrack.stages.train import DEFAULTS, default_lr, read_folds
from advtrack.stages.victims import recipe, training_command
from advtrack.tracking import registry, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """Options of the stage; those of the command line of the same name."""

    dataset: str
    representations: tuple[str, ...]
    models: tuple[str, ...]
    work_dir: str
    force: bool = False


def run(options: Comparison) -> tuple[str, Path]:
    """Build the tables and the report; the MLflow run and the report's file.

    Raises
    ------
    InputError
        No victim is registered for any cell.
    """
    datasets = _datasets(options)
    records = [
        record
        for dataset in datasets
        for representation in options.representations
        for model in options.models
        for record in _victims(dataset, representation, model)
    ]
    if not records:
        raise InputError(
            "no victim is registered for these cells; run first: "
            + _commands(records)(datasets[0], options.representations[0], options.models[0], "plain", ())
        )
    key: dict[str, Any] = {"records": [asdict(record) for record in records]}
    key |= {"datasets": datasets, "representations": options.representations, "models": options.models}
    tags = {"datasets": ",".join(datasets), "victims": len(records)}
    params = {**asdict(options), "representations": ",".join(options.representations)}
    params["models"] = ",".join(options.models)
    with runs.stage_run(
        "compare", CODE_VERSION, key, title=" and ".join(datasets), params=params, tags=tags, force=options.force
    ) as stage:
        report = Path(options.work_dir).absolute() / "report.html"
        if stage.reused:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_bytes(runs.read_artifact(stage.run_id, "report.html"))
            return stage.run_id, report
        rows = [(dataset, representation) for dataset in datasets for representation in options.representations]
        command = _commands(records)
        tables = (
            table_one(records, rows, options.models, command),
            table_two(records, rows, options.models, TABLE_ATTACKS, command),
            table_three(records, rows, options.models, TABLE_ATTACKS, command),
        )
        budgets = per_attack_table(records)
        for table in tables:
            stage.text(to_markdown(table), f"table_{table.number}.md")
            stage.text(to_csv(table), f"table_{table.number}.csv")
        stage.text(to_markdown(budgets), "budgets.md")
        stage.text(to_csv(budgets), "budgets.csv")
        stage.metrics(
            {
                f"table_{table.number}/{row.dataset}/{row.representation}/{model}": cell.value
                for table in tables
                for row in table.rows
                for model, cell in zip(table.models, row.cells, strict=True)
                if cell.value is not None
            }
        )
        for data in sorted({data for record in records for data in runs.inputs(record.run_id)}):
            stage.dataset(*data)
        stage.tags({"lineage": ",".join(sorted(_lineage(records)))[:5000]})
        html = html_report(tables, budgets, _figures(records), _facts(records, stage.run_id))
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(html, encoding="utf-8")
        stage.text(html, "report.html")
        return stage.run_id, report


def read_tables(run_id: str) -> list[str]:
    """Tables I to III of a comparison run, as Markdown."""
    return [runs.read_artifact(run_id, f"table_{number}.md").decode() for number in ("I", "II", "III")]


def _datasets(options: Comparison) -> list[str]:
    """The data set asked for, or (auto) all that have a victim for one of the cells."""
    if options.dataset != "auto":
        return [options.dataset]
    found = {
        dataset
        for representation in options.representations
        for model in options.models
        for dataset in registry.datasets_of(representation, model)
    }
    return sorted(found) or ["synthetic"]


def _victims(dataset: str, representation: str, model: str) -> list[VictimRecord]:
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
        accuracies = {
            fold.fold: fold.test_accuracy for fold in read_folds(version.tags["train_run"]) if fold.repeat == 0
        }
        attacks, params = find_records(version, TABLE_ATTACKS), runs.get(version.run_id).data.params
        records.append(
            VictimRecord(
                dataset=dataset,
                representation=representation,
                model=model,
                training=training,
                fold_accuracies=accuracies,
                fold=int(version.tags["fold"]),
                version=version.version,
                run_id=version.tags["train_run"],
                settings={name: params.get(name, default) for name, default in DEFAULTS.items()},
                attacks=attacks,
                masking=_masking(attacks),
            )
        )
    return records


def _masking(attacks: Mapping[str, AttackRecord]) -> tuple[str, ...]:
    """The signs of masked gradients in the runs that attacked a victim."""
    found = {
        run_id: runs.prefixed_tags(runs.get(run_id), "masking.") for run_id in {a.run_id for a in attacks.values()}
    }
    return tuple(sorted({name for signs in found.values() for name, value in signs.items() if value == "True"}))


def _commands(records: Sequence[VictimRecord]) -> FillingCommand:
    """Name the command that fills a cell, with the options that make its result comparable to what is there."""
    plain = {_cell(record): record for record in records if record.training == "plain"}

    def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
        cell = f"--dataset {dataset} --representation {representation} --model {model}"
        beside = plain.get((dataset, representation, model)) if training == "adversarial" else None
        if not attacks:
            own_lr = str(default_lr(model, beside.settings["weights"])) if beside else ""
            options = _differing({**DEFAULTS, "lr": own_lr}, beside.settings) if beside else ""
            return training_command(dataset, representation, model, training, options)
        alias = registry.STANDARD if training == "plain" else registry.ROBUST
        options = _search_options([beside.attacks[attack] for attack in attacks]) if beside else ""
        return f"advtrack attack {cell} --victim {alias} --attack {attacks[0] if len(attacks) == 1 else 'all'}{options}"

    return command


def _search_options(records: Sequence[AttackRecord]) -> str:
    """The options of these searches that are not the defaults of the attack stage."""
    options = _differing(
        {"seed": 0, "target_fooling_rate": 0.9, "criterion": "fooling_rate", "protocol": "test"}, asdict(records[0])
    )
    limits = [(r.attack, r.sample_limit) for r in records if r.sample_limit != (ATTACKS[r.attack].sample_limit or 0)]
    caps = [(r.attack, r.longest) for r in records if r.longest != longest_run(ATTACKS[r.attack])]
    for option, values in (("samples", limits), ("max-iter", caps)):
        if values:
            options += f" --{option} " + ",".join(f"{attack}={value}" for attack, value in values)
    return options


def _differing(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Options whose values are not the defaults, as they are written on a command line."""
    named = ((name.replace("_", "-"), values[name]) for name, default in defaults.items() if values[name] != default)
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in named)


def _figures(records: Sequence[VictimRecord]) -> list[ReportFigure]:
    figures = []
    attacked = [record for record in records if record.attacks]
    for record in attacked:
        if record.training == "plain":
            pair = [other for other in attacked if _cell(other) == _cell(record)]
            title = f"Budgets: {record.model} on {record.representation} of {record.dataset}"
            alt = "Perturbation bound and fooling rate per attack, plainly and adversarially trained victim"
            figures.append(ReportFigure(title, alt, budget_figure(pair)))
    for record in attacked:
        for attack in record.attacks.values():
            path = f"{attack.attack}/example.png"
            if path in runs.artifacts(attack.run_id, attack.attack):  # an attack that fools nobody has no example
                title = f"{attack.attack} against {record.training} {record.model} on {record.representation}"
                alt = "Legitimate spectrogram, adversarial spectrogram and their amplified difference"
                figures.append(ReportFigure(title, alt, runs.read_artifact(attack.run_id, path)))
    return figures


def _cell(record: VictimRecord) -> tuple[str, str, str]:
    """The cell of a record, whatever its training."""
    return record.dataset, record.representation, record.model


def _lineage(records: Sequence[VictimRecord]) -> set[str]:
    return {r.run_id for r in records} | {a.run_id for r in records for a in r.attacks.values()}


def _facts(records: Sequence[VictimRecord], run_id: str) -> dict[str, str]:
    facts = {"comparison run": run_id}
    for record in records:
        name = registry.model_name(record.dataset, record.representation, record.model)
        facts[f"{name} version {record.version} ({record.training})"] = f"training run {record.run_id}"
    return facts
