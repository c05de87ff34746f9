"""Entry point ``compare``: tables I to III and the report, from what the runs and the registry hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.reporting.figures import budget_figure
from advtrack.reporting.findings import Findings, compare
from advtrack.reporting.formats import to_csv, to_html, to_latex, to_markdown
from advtrack.reporting.records import VictimRecord
from advtrack.reporting.report import ReportFigure, html_report
from advtrack.stages.plan import Step, filling_command, steps
from advtrack.stages.results import victims
from advtrack.tracking import registry, runs

CODE_VERSION = 2


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
    datasets, records = _records(options)
    if not records:
        raise InputError(
            "no victim is registered for these cells; run first: "
            + filling_command(records)(datasets[0], options.representations[0], options.models[0], "plain", ())
        )
    # What was read clip by clip is not shown by repr: the runs that are named there determine it.
    key: dict[str, Any] = {"records": [repr(record) for record in records]}
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
        findings = _findings(options, datasets, records)
        for table in findings.tables:
            stage.text(to_markdown(table), f"{table.name}.md")
            stage.text(to_csv(table), f"{table.name}.csv")
            stage.text(to_latex(table), f"{table.name}.tex")
            stage.text(to_html(table), f"{table.name}.html")
        stage.json([asdict(claim) for claim in findings.claims], "claims.json")
        stage.metrics(_metrics(findings))
        for data in sorted({data for record in records for data in runs.inputs(record.run_id)}):
            stage.dataset(*data)
        stage.tags({"lineage": ",".join(sorted(_lineage(records)))[:5000]})
        html = html_report(findings, _figures(records), _facts(records, stage.run_id))
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(html, encoding="utf-8")
        stage.text(html, "report.html")
        return stage.run_id, report


def plan(options: Comparison) -> list[Step]:
    """The commands that fill the open cells of tables I to III; nothing is run or written."""
    return steps(_findings(options, *_records(options)).tables)


def read_tables(run_id: str) -> list[str]:
    """Tables I to III of a comparison run, as Markdown."""
    return [runs.read_artifact(run_id, f"table_{number}.md").decode() for number in ("I", "II", "III")]


def _records(options: Comparison) -> tuple[list[str], list[VictimRecord]]:
    """The data sets, and what there is of their cells."""
    datasets = _datasets(options)
    records = [
        record
        for dataset in datasets
        for representation in options.representations
        for model in options.models
        for record in victims(dataset, representation, model)
    ]
    return datasets, records


def _findings(options: Comparison, datasets: Sequence[str], records: Sequence[VictimRecord]) -> Findings:
    rows = [(dataset, representation) for dataset in datasets for representation in options.representations]
    return compare(records, rows, options.models, TABLE_ATTACKS, filling_command(records))


def _metrics(findings: Findings) -> dict[str, float]:
    """The values of tables I to III by name."""
    return {
        f"{table.name}/{line[0].text}/{line[1].text}/{column.name}": cell.value
        for table in findings.tables[:3]
        for line in table.lines
        for column, cell in zip(table.columns, line, strict=True)
        if column.role == "value" and cell.value is not None
    }


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


def _figures(records: Sequence[VictimRecord]) -> list[ReportFigure]:
    figures = []
    attacked = [record for record in records if record.attacks]
    for record in attacked:
        if record.training == "plain":
            pair = [other for other in attacked if other.cell == record.cell]
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


def _lineage(records: Sequence[VictimRecord]) -> set[str]:
    return {r.run_id for r in records} | {a.run_id for r in records for a in r.attacks.values()}


def _facts(records: Sequence[VictimRecord], run_id: str) -> dict[str, str]:
    facts = {"comparison run": run_id}
    for record in records:
        name = registry.model_name(record.dataset, record.representation, record.model)
        facts[f"{name} version {record.version} ({record.training})"] = f"training run {record.run_id}"
    return facts
