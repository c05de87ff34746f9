"""Entry point ``compare``: tables I to III and the report, from what the runs and the registry hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advtrack import __version__
from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.reporting.cells import ABSENT, Cell, Column, Table
from advtrack.reporting.findings import Findings, compare
from advtrack.reporting.formats import to_csv, to_html, to_latex, to_markdown
from advtrack.reporting.gallery import gallery
from advtrack.reporting.records import VictimRecord
from advtrack.reporting.report import html_report
from advtrack.reporting.victim_tables import VICTIM_COLUMNS, by_name, victim_cells
from advtrack.stages.filling import filling_command
from advtrack.stages.pictures import pictures, shown_examples, sounds
from advtrack.stages.plan import Step, steps
from advtrack.stages.results import victims
from advtrack.tracking import lookup, registry, runs

CODE_VERSION = 6


@dataclass(frozen=True)
class Comparison:
    """Options of the stage; those of the command line of the same name."""

    dataset: str
    representations: tuple[str, ...]
    models: tuple[str, ...]
    work_dir: str
    audio: bool = True
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
    key |= {"audio": options.audio}
    tags = {"datasets": ",".join(datasets), "victims": len(records)}
    with runs.stage_run(
        "compare",
        CODE_VERSION,
        key,
        title=" and ".join(datasets),
        params=asdict(options),
        tags=tags,
        force=options.force,
    ) as stage:
        report = Path(options.work_dir).absolute() / "report.html"
        if stage.reused:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_bytes(lookup.read_artifact(stage.run_id, "report.html"))
            return stage.run_id, report
        findings = _findings(options, datasets, records)
        for table in findings.tables:
            stage.text(to_markdown(table), f"{table.name}.md")
            stage.text(to_csv(table), f"{table.name}.csv")
            stage.text(to_latex(table), f"{table.name}.tex")
            stage.text(to_html(table, lookup.address), f"{table.name}.html")
        stage.json([asdict(claim) for claim in findings.claims], "claims.json")
        stage.metrics(_metrics(findings))
        for data in sorted({data for record in records for data in lookup.inputs(record.run_id)}):
            stage.dataset(*data)
        stage.tags({"lineage": ",".join(sorted(_lineage(records)))[:5000]})
        shown = shown_examples(records)
        drawn = pictures(records, shown, findings.table("robust_accuracy"))
        for picture in drawn:
            stage.data(picture.png, f"figures/{picture.name}.png")
            stage.data(picture.svg, f"figures/{picture.name}.svg")
        played = sounds(records, shown) if options.audio else {}
        html = html_report(
            findings, drawn, gallery(shown, played), _runs_table(records), _facts(), lookup.address, stage.run_id
        )
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(html, encoding="utf-8")
        stage.text(html, "report.html")
        _describe_models(findings, stage.run_id)
        return stage.run_id, report


def plan(options: Comparison) -> list[Step]:
    """The commands that fill the open cells of tables I to III; nothing is run or written."""
    return steps(_findings(options, *_records(options)).tables)


def read_tables(run_id: str) -> list[str]:
    """Tables I to III of a comparison run, as Markdown."""
    return [lookup.read_artifact(run_id, f"table_{number}.md").decode() for number in ("I", "II", "III")]


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


def _lineage(records: Sequence[VictimRecord]) -> set[str]:
    return {r.run_id for r in records} | {a.run_id for r in records for a in r.attacks.values()}


def _runs_table(records: Sequence[VictimRecord]) -> Table:
    """Each victim with its data, seed and code, and the runs that made and attacked it."""
    names = list(dict.fromkeys(name for record in records for name in record.basis))
    lines = []
    for record in by_name(records):
        attacks = tuple(dict.fromkeys(attack.run_id for attack in record.attacks.values()))
        codes = sorted({attack.code_version for attack in record.attacks.values()})
        lines.append(
            (
                *victim_cells(record),
                Cell(record.version),
                Cell(str(record.fold)),
                Cell(record.data or ABSENT),
                *(Cell(record.basis.get(name, "")) for name in names),
                Cell(", ".join(map(str, codes)) or ABSENT),
                Cell(_counted(len(record.folds), "fold"), len(record.folds), runs=(record.run_id,)),
                Cell(_counted(len(record.attacks), "attack"), len(record.attacks), runs=attacks),
            )
        )
    return Table(
        "runs_made",
        "Victims, and the runs that they come from",
        "Version: of the registered model DATA SET-REPRESENTATION-MODEL. Fold: the one that was attacked.",
        (*VICTIM_COLUMNS, *map(Column, ("Version", "Fold", "Data", *names, "attack code", "Training", "Attacks"))),
        tuple(lines),
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _facts() -> dict[str, str]:
    return {
        "Program": f"advtrack {__version__}",
        "Links": f"Small numbers lead to MLflow runs at {lookup.ui_address()}; advtrack dashboard serves them "
        "where no tracking server does. MLflow's own viewer of artifacts does not follow them: open the file itself.",
    }


def _describe_models(findings: Findings, run_id: str) -> None:
    """Give each registered model its cells of tables I to III as its description."""
    tables = [table for table in findings.tables if table.name.startswith("table_")]
    models = [column.name for column in tables[0].columns if column.role == "value"]
    for line, (dataset, representation, *_) in enumerate(tables[0].lines):
        for model in models:
            texts = {
                table.title: table.lines[line][[column.name for column in table.columns].index(model)].text
                for table in tables
            }
            # MLflow would make a link of [...] (2).
            escaped = {title: text.replace("[", r"\[") for title, text in texts.items()}
            said = "".join(f"| {title} | {text} |\n" for title, text in escaped.items())
            name = registry.model_name(dataset.text, representation.text, model)
            registry.describe(
                name,
                f"{model} on {representation.text} of {dataset.text}\n\n| Table | Here |\n| :--- | ---: |\n{said}\n"
                f"From the comparison in run `{run_id}`.",
            )
