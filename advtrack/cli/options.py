"""The options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from advtrack.data import DATASETS, PROTOCOLS
from advtrack.models import MODELS
from advtrack.representations import REPRESENTATIONS
from advtrack.stages import defaults


def choice(names: tuple[str, ...], *extra: str) -> click.Choice:
    return click.Choice([*names, *extra])


class Number(click.FloatRange):
    """A float in a range. click lets 'nan' through, which no range holds."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Folds(click.ParamType):
    """'all', a number, or names such as 'fold1,fold3'; which there are depends on the data set."""

    name = "folds"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = str(value)
        if not re.fullmatch(r"all|[1-9]\d*|fold\d+(,fold\d+)*", text):
            self.fail(f"{text!r} is neither 'all', nor how many, nor which, as 'fold1,fold3'.", param, ctx)
        return text


RATE = Number(0, 1)
POSITIVE_RATE = Number(0, 1, min_open=True)

DATASET = click.option("--dataset", type=choice(DATASETS), default="synthetic", show_default=True)
DATASET_OR_AUTO = click.option(
    "--dataset",
    type=choice(DATASETS, "auto"),
    default="auto",
    show_default=True,
    help="auto: the one with a registered model.",
)
DATA_DIR = click.option("--data-dir", default="", help="Folder of the data set's release, read by features and main.")
SEED = click.option("--seed", type=click.IntRange(0, 2**31), default=defaults.SEED, show_default=True)
DEVICE = click.option("--device", type=choice(("auto", "cpu", "cuda")), default=defaults.DEVICE, show_default=True)
WORK_DIR = click.option(
    "--work-dir", default="work", show_default=True, help="Where stores, unfinished training and the report go."
)
FORCE = click.option("--force", is_flag=True, help="Redo what is already done.")
FEATURES_RUN = click.option(
    "--features-run",
    default="",
    help="MLflow run that made the spectrograms, or newest; empty: the only one that fits.",
)
ONE_OR_ALL = "One of them, or all."
REPRESENTATION = click.option(
    "--representation", type=choice(REPRESENTATIONS, "all"), default="stft", show_default=True, help=ONE_OR_ALL
)
ONE_REPRESENTATION = click.option("--representation", type=choice(REPRESENTATIONS), default="stft", show_default=True)
MODEL = click.option("--model", type=choice(MODELS, "all"), default="alexnet", show_default=True, help=ONE_OR_ALL)
ONE_MODEL = click.option("--model", type=choice(MODELS), default="alexnet", show_default=True)
VICTIM = click.option("--victim", default="standard", show_default=True, help="Alias or version number.")
PRECISION = click.option(
    "--precision",
    type=choice(("fp32", "bf16")),
    default=defaults.PRECISION,
    show_default=True,
    help="Of the passes; bf16 is fast on GPUs and on CPUs with AMX. An attack's successes are proven in fp32.",
)
STORAGE = click.option("--storage", default=defaults.STORAGE, show_default=True, help="Optuna storage of the studies.")


def switch(name: str, help: str) -> Callable[[Any], Any]:
    """An option that may stand alone, or take true or false as the parameters of MLproject do."""
    return click.option(name, type=bool, is_flag=False, flag_value=True, default=False, show_default=True, help=help)


def together(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


TRAINING = together(
    DATASET,
    DATA_DIR,
    MODEL,
    REPRESENTATION,
    FEATURES_RUN,
    click.option(
        "--weights",
        default=defaults.TRAINING["weights"],
        show_default=True,
        help="imagenet, none or a file; with exceptions by model, as imagenet,resnet56=none.",
    ),
    click.option(
        "--protocol",
        type=choice(PROTOCOLS),
        default=defaults.TRAINING["protocol"],
        show_default=True,
        help="30% test and five folds in the rest, or the publisher's folds as test sets.",
    ),
    click.option(
        "--folds",
        type=Folds(),
        default=defaults.FOLDS["folds"],
        show_default=True,
        help="How many, or which, as fold1,fold3.",
    ),
    click.option(
        "--repeats",
        type=click.IntRange(1),
        default=defaults.FOLDS["repeats"],
        show_default=True,
        help="Of all folds, each with a seed of its own: --seed and those after it.",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(0),
        default=defaults.TRAINING["epochs"],
        show_default=True,
        help="0: the model's own (40; from scratch 60 of alexnet and 80 of vgg16).",
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        default=defaults.TRAINING["patience"],
        show_default=True,
        help="Epochs without improvement before a fold stops; 0: the best epoch of all counts.",
    ),
    click.option("--batch-size", type=click.IntRange(2), default=defaults.TRAINING["batch_size"], show_default=True),
    click.option(
        "--lr", type=Number(0), default=defaults.TRAINING["lr"], show_default=True, help="Peak; 0: the model's own."
    ),
    click.option(
        "--schedule",
        type=choice(("one_cycle", "cosine")),
        default=defaults.TRAINING["schedule"],
        show_default=True,
        help="Of the learning rate: up and down, or down.",
    ),
    click.option(
        "--freeze-epochs",
        type=click.IntRange(0),
        default=defaults.TRAINING["freeze_epochs"],
        show_default=True,
        help="First epochs that train the head alone, with pretrained weights.",
    ),
    click.option(
        "--augmentation",
        type=choice(("all", "roll", "none")),
        default=defaults.TRAINING["augmentation"],
        show_default=True,
        help="Time roll with masks and mixup, time roll alone, or none.",
    ),
    PRECISION,
    SEED,
    DEVICE,
    WORK_DIR,
    FORCE,
)
