"""Entry point ``features``: clips to a spectrogram store."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advtrack import data
from advtrack.data import clip, synthetic
from advtrack.errors import InputError
from advtrack.reporting.figures import class_figure
from advtrack.representations.store import SpectrogramSet, extract, open_store
from advtrack.tracking import runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 1


@dataclass(frozen=True)
class Features:
    """Options of the stage; those of the command line of the same name."""

    dataset: str
    data_dir: str
    representation: str
    height: int
    width: int
    augment: bool
    seed: int
    work_dir: str
    force: bool = False


def run(options: Features) -> str:
    """Extract one representation of one data set; the MLflow run that did it.

    Raises
    ------
    InputError
        The data set's folder is not as its layout asks, or has files that cannot be read.
    """
    dataset = data.load(options.dataset, data_folder(options.dataset, options.data_dir, options.work_dir, options.seed))
    digest = clip.digest(dataset)
    key = {"digest": digest, "representation": options.representation, "augment": options.augment}
    key |= {"height": options.height, "width": options.width, "work_dir": str(Path(options.work_dir).absolute())}
    identity: dict[str, Any] = {"dataset": dataset.name, "representation": options.representation}
    identity |= {"data_digest": digest}
    identity |= {"height": options.height, "width": options.width, "augment": options.augment}
    folder = Path(options.work_dir).absolute() / "stores" / _folder_name(identity)
    force = options.force or not (folder / "manifest.json").exists()
    with runs.stage_run("features", CODE_VERSION, key, params=asdict(options), tags=identity, force=force) as stage:
        if stage.reused:
            return stage.run_id
        stage.dataset(dataset.name, digest, str(dataset.clips[0].path.parent))
        clip.check(dataset)
        store = extract(
            dataset,
            options.representation,
            folder,
            height=options.height,
            width=options.width,
            augment=options.augment,
            decode=clip.decode,
            digest=digest,
        )
        stage.tags({"store": folder, "store_digest": store.digest})
        stage.metrics({"clips": len(dataset.clips), "images": len(store.y), "classes": len(store.classes)})
        stage.data((folder / "manifest.json").read_bytes(), "manifest.json")
        stage.data(class_figure(*_one_of_each(store), options.representation), "classes.png")
        logger.info("features: %d images of %s in %s", len(store.y), options.representation, folder)
        return stage.run_id


def data_folder(dataset: str, data_dir: str, work_dir: str, seed: int) -> Path:
    """Where the clips lie: ``data_dir``, or for 'synthetic' without one, clips generated under ``work_dir``.

    Raises
    ------
    InputError
        A real data set without a folder.
    """
    if data_dir:
        return Path(data_dir)
    if dataset == "synthetic":
        return synthetic.generate(Path(work_dir) / f"synthetic-{seed}", seed)
    raise InputError(f"--data-dir: {dataset} needs the folder of its release, e.g. --data-dir path/to/{dataset}")


def find_store(
    *, dataset: str, representation: str, height: int = 0, width: int = 0, store_digest: str = ""
) -> tuple[SpectrogramSet, str]:
    """The store that a finished ``features`` run made, and that run.

    Parameters
    ----------
    dataset, representation : str
        Names.
    height, width : int
        Of the spectrogram; 0 for the only size there is.
    store_digest : str
        Of the one store meant; empty for any.

    Raises
    ------
    InputError
        There is none, or there are several to choose from.
    """
    wanted = {"height": height, "width": width, "store_digest": store_digest}
    tags = {"stage": "features", "dataset": dataset, "representation": representation}
    tags |= {name: str(value) for name, value in wanted.items() if value}
    by_store = defaultdict(list)
    for found in runs.find(tags, status="FINISHED"):
        folder = Path(runs.tag(found, "store") or "")
        if (folder / "manifest.json").exists():
            by_store[folder].append(found)
    if not by_store:
        size = f" --height {height}" if height else ""
        size += f" --width {width}" if width else ""
        digest = f" with digest {store_digest}" if store_digest else ""
        raise InputError(
            f"no spectrograms of {dataset} as {representation}{digest}; "
            f"run first: advtrack features --dataset {dataset} --representation {representation}{size}"
            f"{'' if dataset == 'synthetic' else ' --data-dir FOLDER'}"
        )
    if len(by_store) > 1:
        candidates = ", ".join(sorted(folder.name for folder in by_store))
        raise InputError(
            f"several stores of {dataset} as {representation} ({candidates}): say which with --height and --width, "
            "and remove those of data you no longer use"
        )
    ((folder, found_runs),) = by_store.items()
    return open_store(folder), found_runs[0].info.run_id


def _folder_name(identity: dict[str, Any]) -> str:
    augmented = "-augmented" if identity["augment"] else ""
    size = f"{identity['height']}x{identity['width']}"
    return f"{identity['dataset']}-{identity['representation']}-{size}{augmented}-{str(identity['data_digest'])[:8]}"


def _one_of_each(store: SpectrogramSet) -> tuple[list, list[str]]:
    """The first image of each class, for a look at what was extracted."""
    firsts = [int((store.y == label).argmax()) for label in range(len(store.classes))]
    return [image[0] for image in store.images(firsts)], list(store.classes)
