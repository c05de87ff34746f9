"""The command line: one command per entry point of the MLproject file. It parses, calls the stage and prints."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from advtrack.attacks import TABLE_ATTACKS
from advtrack.cli.group import as_stage, cli
from advtrack.cli.options import (
    DATA_DIR,
    DATASET,
    DATASET_OR_AUTO,
    DEVICE,
    FORCE,
    ONE_MODEL,
    ONE_OR_ALL,
    ONE_REPRESENTATION,
    POSITIVE_RATE,
    PRECISION,
    RATE,
    REPRESENTATION,
    SEED,
    STORAGE,
    TRAINING,
    VICTIM,
    WORK_DIR,
    Number,
    choice,
    switch,
    together,
)
from advtrack.data import DATASETS
from advtrack.errors import InputError, redacted
from advtrack.models import MODELS
from advtrack.representations import REPRESENTATIONS
from advtrack.stages import defaults
from advtrack.tracking import UI_PORT

PRESETS = ("demo", "esc10", "paper")


@cli.command()
@click.argument("dataset", type=choice(("esc50", "urbansound8k")), default="esc50")
@click.option("--data-dir", default="", help="Folder to be made; empty: its name under data/.")
def download(dataset: str, data_dir: str) -> None:
    """Fetch a data set from its publisher, check it and unpack it."""
    from advtrack.data.download import download

    folder = download(dataset, data_dir or f"data/{dataset}")
    click.echo(f"{dataset} lies in {folder}; next: advtrack features --dataset {dataset} --data-dir {folder}")


@cli.command()
@together(DATASET, DATA_DIR, REPRESENTATION)
@click.option("--height", type=click.IntRange(4), default=224, show_default=True, help="Rows of the spectrogram.")
@click.option("--width", type=click.IntRange(4), default=224, show_default=True, help="Columns of the spectrogram.")
@click.option("--augment", type=bool, default=False, show_default=True, help="Add four pitch-shifted copies per clip.")
@click.option(
    "--top-db", type=Number(0, 300, min_open=True), default=80.0, show_default=True, help="Dynamic range in dB."
)
@click.option(
    "--reference",
    default="clip",
    show_default=True,
    help="Level shown as 1: 'clip' (the maximum of each) or a power in dB, the same for all.",
)
@click.option("--skip-bad", type=bool, default=False, show_default=True, help="Go on without unusable clips.")
@together(SEED, DEVICE, WORK_DIR, FORCE)
@as_stage
def features(representation: str, reference: str, device: str, **options: Any) -> None:
    """Turn clips into spectrogram stores, one pass for all representations."""
    from advtrack.stages.features import Features, run

    names = _all(representation, REPRESENTATIONS)
    with _several("features", len(names)):
        run(Features(representations=names, reference_db=_reference(reference), **options))


@cli.command()
@TRAINING
@as_stage
def train(**options: Any) -> None:
    """Train the folds of a model; each becomes a registered version."""
    from advtrack.stages.train import check, run

    _train("train", check, run, options)


@cli.command("adv-train")
@TRAINING
@click.option(
    "--eps", type=POSITIVE_RATE, default=defaults.HARDENING["eps"], show_default=True, help="l-inf bound of FGSM."
)
@click.option(
    "--alpha",
    type=POSITIVE_RATE,
    default=defaults.HARDENING["alpha"],
    show_default=True,
    help="Weight of the clean term (Eq. 13).",
)
@click.option(
    "--random-eps",
    type=bool,
    default=defaults.HARDENING["random_eps"],
    show_default=True,
    help="Draw eps per batch, from 0 to --eps.",
)
@as_stage
def adv_train(**options: Any) -> None:
    """Train the folds of a model adversarially, on FGSM examples (Eq. 13)."""
    from advtrack.stages.adversarial_train import check, run

    _train("adv-train", check, run, options)


@cli.command()
@together(DATASET_OR_AUTO, DATA_DIR, ONE_MODEL, ONE_REPRESENTATION, VICTIM)
@click.option(
    "--attack", "attack_name", type=choice(TABLE_ATTACKS, "all"), default="all", show_default=True, help=ONE_OR_ALL
)
@click.option(
    "--target-fooling-rate", type=POSITIVE_RATE, default=defaults.SEARCHING["target_fooling_rate"], show_default=True
)
@click.option(
    "--samples",
    default=defaults.SEARCHING["samples"],
    show_default=True,
    help="Test clips attacked; 0: all. At most 30 by jsma and 10 by pia, but for exceptions, as 60,pia=20.",
)
@click.option(
    "--criterion",
    type=choice(("fooling_rate", "auc")),
    default=defaults.SEARCHING["criterion"],
    show_default=True,
    help="What has to reach the target: the fooling rate, or the area under its curve up to the bound.",
)
@click.option(
    "--tolerance",
    type=Number(0.001, 1),
    default=defaults.SEARCHING["tolerance"],
    show_default=True,
    help="Of the perturbation bound, relative.",
)
@click.option(
    "--sampler",
    type=choice(("bounds", "tpe", "gp", "random")),
    default=defaults.SEARCHING["sampler"],
    show_default=True,
    help="Who proposes trials: what the samples have shown, or a sampler of Optuna.",
)
@click.option(
    "--protocol",
    type=choice(("test", "paper")),
    default=defaults.SEARCHING["protocol"],
    show_default=True,
    help="Strike test clips, or all clips in up to 50 shuffled batches of 100.",
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=defaults.SEARCHING["trials"],
    show_default=True,
    help="Trials per study, at most; for an area, in runs on all clips.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=defaults.ATTACKING["workers"],
    show_default=True,
    help="Processes per search.",
)
@click.option(
    "--budget-from",
    default=defaults.ATTACKING["budget_from"],
    help="An attack run, or alias or version of a victim: try its budgets on --victim instead of searching.",
)
@click.option(
    "--max-iter",
    default=defaults.SEARCHING["max_iter"],
    show_default=True,
    help="Cap on iterations, 0 for each attack's own; with exceptions by attack.",
)
@together(PRECISION, STORAGE, SEED, DEVICE, FORCE)
@as_stage
def attack(attack_name: str, data_dir: str, **options: Any) -> None:
    """Search the smallest budget of attacks that fools a registered victim at the target rate."""
    from advtrack.stages import transfer
    from advtrack.stages.attack import run
    from advtrack.stages.attacking import Attacking

    attacking = Attacking(attacks=_all(attack_name, TABLE_ATTACKS), **options)
    (transfer.run if attacking.budget_from else run)(attacking)


@cli.command()
@DATASET_OR_AUTO
@DATA_DIR
@click.option(
    "--representation", type=choice(REPRESENTATIONS, "all"), default="all", show_default=True, help=ONE_OR_ALL
)
@click.option("--models", default="all", show_default=True, help="Names with commas between, or all.")
@click.option("--audio/--no-audio", default=True, help="Clips in the report can be played.  [default: audio]")
@click.option("--plan", is_flag=True, help="Only print the commands that fill open cells, and how long they take.")
@together(SEED, DEVICE, WORK_DIR, FORCE)
@as_stage
def compare(
    representation: str, models: str, plan: bool, data_dir: str, seed: int, device: str, **options: Any
) -> None:
    """Build tables I to III and the report."""
    from advtrack.stages import plan as planning
    from advtrack.stages.compare import Comparison, read_tables, run
    from advtrack.stages.compare import plan as planned

    names = _all(models, MODELS)
    comparison = Comparison(representations=_all(representation, REPRESENTATIONS), models=names, **options)
    if plan:
        click.echo(planning.as_text(planned(comparison)))
        return
    run_id, report = run(comparison)
    click.echo("\n".join(read_tables(run_id)))
    click.echo(f"Report: {report}")


@cli.command()
@together(DATASET_OR_AUTO, DATA_DIR, ONE_MODEL, ONE_REPRESENTATION)
@click.option("--victim", default="robust", show_default=True, help="Alias or version number.")
@click.option("--min-accuracy", type=RATE, default=0.0, show_default=True, help="Test accuracy of its fold.")
@click.option(
    "--max-accuracy-drop",
    type=Number(0, 100),
    default=100.0,
    show_default=True,
    help="Percentage points of test accuracy below the plain victim; 100: not checked.",
)
@click.option(
    "--max-fooling-rate",
    type=RATE,
    default=1.0,
    show_default=True,
    help="Upper end of its interval, of every attack, within --budget; 1: not checked.",
)
@click.option(
    "--budget",
    default="",
    help="Attacks, bounds and iterations, as bim_a=0.03:100,jsma=40; empty: all attacks, under the plain victim's.",
)
@click.option(
    "--min-perturbation-ratio",
    type=Number(0),
    default=0.0,
    show_default=True,
    help="Of every attack, over the plain victim (table III); 0: not checked.",
)
@click.option(
    "--min-samples", type=click.IntRange(1), default=10, show_default=True, help="Clips struck by a search that counts."
)
@switch("--refuse-masking", "Refuse a victim that shows signs of masked gradients.")
@switch("--dry-run", "Check all, move nothing.")
@switch("--rollback", "Return champion to the version that it replaced; no thresholds are looked at.")
@together(SEED, DEVICE)
@as_stage
def promote(data_dir: str, seed: int, device: str, **options: Any) -> None:
    """Move the alias champion to a victim that meets the thresholds, or back."""
    from advtrack.stages.promote import Promotion, run

    run(Promotion(**options))


@cli.command()
@click.argument("run_id", default="")
@as_stage
def rerun(run_id: str) -> None:
    """Repeat a run from its record, and say whether it got the same result; status 1 if not."""
    from advtrack.stages.rerun import run

    verdict = run(run_id)
    repeated = f"run {run_id}, repeated as {verdict.run_id}:"
    if not verdict.differences:
        click.echo(f"{repeated} the same result, {verdict.compared} metrics, tables and digests")
        return
    click.echo(f"{repeated} {len(verdict.differences)} of {verdict.compared} metrics, tables and digests differ")
    click.echo("\n".join(verdict.differences))
    click.get_current_context().exit(1)


@cli.command()
@STORAGE
@click.option("--host", default="127.0.0.1", show_default=True, help="Where both listen.")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), default=UI_PORT, show_default=True)
@click.option("--optuna-port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@as_stage
def dashboard(**options: Any) -> None:
    """Serve the MLflow UI and the Optuna dashboard until Ctrl-C."""
    from advtrack.stages.dashboard import Dashboards, run

    run(Dashboards(**options))


@cli.command()
@click.option("--preset", type=choice(PRESETS), default="demo", show_default=True)
@click.option("--overrides", default="", help="Values of the preset to change, as 'epochs=5 models=alexnet,vgg16'.")
@click.option("--dataset", default="", type=choice(DATASETS, ""), help="Instead of the preset's.")
@together(DATA_DIR, STORAGE, SEED, DEVICE, WORK_DIR, FORCE)
@as_stage
def main(**options: Any) -> None:
    """Run every stage in order, skipping what is already done."""
    from advtrack.stages.pipeline import Pipeline, run, settings

    pipeline = Pipeline(**options)
    values = settings(pipeline)
    _check_ranges(values)
    finished = run(pipeline, values)
    click.echo("\n" + "\n".join(finished.tables))
    click.echo(f"Report:            {finished.report}")
    storage = "" if options["storage"] == defaults.STORAGE else f" --storage {redacted(options['storage'])}"
    click.echo(f"Dashboards:        {_tool('advtrack')} dashboard{storage}")


def _check_ranges(values: dict[str, Any]) -> None:
    """Hold the values of a preset against the options of the same names."""
    # An attack's --protocol is another thing: the values are those of training.
    options = {option.name: option for command in (attack, features, train, adv_train) for option in command.params}
    for name in options.keys() & values.keys():
        try:
            options[name].type.convert(values[name], options[name], None)
        except click.BadParameter as error:
            raise InputError(f"--overrides {name}={values[name]}: {error.message}") from None


def _train(stage: str, check: Callable[[Any], object], run: Callable[[Any], str], options: dict[str, Any]) -> None:
    from advtrack.stages.train import Training

    options.pop("data_dir")
    models, representations = _all(options.pop("model"), MODELS), _all(options.pop("representation"), REPRESENTATIONS)
    trainings = [Training(model=m, representation=r, **options) for r in representations for m in models]
    for training in trainings:
        check(training)
    with _several(stage, len(trainings)):
        for training in trainings:
            run(training)


def _reference(text: str) -> float | None:
    """A level in dB, or None for each clip's own maximum."""
    if text == "clip":
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= 300:
        raise InputError(f"--reference {text}: give 'clip' or a level from -300 to 300 dB")
    return number


def _several(stage: str, count: int) -> AbstractContextManager[None]:
    """One run attaches to the run that ``mlflow run`` made; several stand beside it."""
    from advtrack.tracking.runs import umbrella

    return umbrella(stage) if count > 1 else nullcontext()


def _all(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of an option that takes several, or 'all'."""
    chosen = names if text == "all" else tuple(part.strip() for part in text.split(","))
    for name in chosen:
        if name not in names:
            raise InputError(f"unknown name {name!r}: choose from {', '.join(names)}, or all")
    return tuple(dict.fromkeys(chosen))


def _tool(name: str) -> str:
    """A command that lies beside this Python, as it can be typed here."""
    import sys
    from pathlib import Path

    beside = Path(sys.executable).with_name(name)
    try:
        return str(beside.relative_to(Path.cwd()))
    except ValueError:
        return str(beside)
