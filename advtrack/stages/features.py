"""Entry point ``features``: clips to a spectrogram store."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advtrack import data
from advtrack.data import clip, synthetic
from advtrack.errors import InputError
from advtrack.reporting.figures import class_figure
from advtrack.representations.store import MANIFEST, SpectrogramSet, extract, open_store
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
    work_dir: str
    force: bool = False


def run(options: Features) -> str:
    """Extract one representation of one data set; the MLflow run that did it.

    Raises
    ------
    InputError
        The data set's folder is not as its layout asks, or has files that cannot be read.
    """
    dataset = data.load(options.dataset, data_folder(options.dataset, options.data_dir, options.work_dir))
    digest = clip.digest(dataset)
    key = {"digest": digest, "representation": options.representation, "augment": options.augment}
    key |= {"height": options.height, "width": options.width, "work_dir": str(Path(options.work_dir).absolute())}
    identity: dict[str, Any] = {"dataset": dataset.name, "representation": options.representation}
    identity |= {"data_digest": digest}
    identity |= {"height": options.height, "width": options.width, "augment": options.augment}
    folder = Path(options.work_dir).absolute() / "stores" / _folder_name(identity)
    force = options.force or not (folder / MANIFEST).exists()
    with runs.stage_run(
        "features", CODE_VERSION, key, title=folder.name, params=asdict(options), tags=identity, force=force
    ) as stage:
        if stage.reused:
            return stage.run_id
        stage.dataset(dataset.name, digest, str(dataset.clips[0].path.parent))
        clip.check(dataset)
        if options.force:
            shutil.rmtree(folder, ignore_errors=True)
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
        stage.data((folder / MANIFEST).read_bytes(), MANIFEST)
        stage.data(class_figure(*_one_of_each(store), options.representation), "classes.png")
        logger.info("features: %d images of %s in %s", len(store.y), options.representation, folder)
        return stage.run_id


def data_folder(dataset: str, data_dir: str, work_dir: str) -> Path:
    """Where the clips lie: ``data_dir``, or for 'synthetic' without one, clips generated under ``work_dir``.

    Raises
    ------
    InputError
        A real data set without a folder.
    """
    if data_dir:
        return Path(data_dir)
    if dataset == "synthetic":
        return synthetic.generate(Path(work_dir) / "synthetic")
    raise InputError(f"--data-dir: {dataset} needs the folder of its release, e.g. --data-dir path/to/{dataset}")


def find_store(
    dataset: str, representation: str, *, features_run: str = "", store_digest: str = ""
) -> tuple[SpectrogramSet, str]:
    """The store that a finished ``features`` run made, and that run.

    Parameters
    ----------
    dataset, representation : str
        Names.
    features_run : str
        The run meant; empty for the only one there is.
    store_digest : str
        Digest of the store meant; empty for any.

    Raises
    ------
    InputError
        There is none, or there are several to choose from.
    """
    tags = {"stage": "features", "dataset": dataset, "representation": representation}
    tags |= {"store_digest": store_digest} if store_digest else {}
    stores: dict[Path, str] = {}
    for found in runs.find(tags, status="FINISHED"):
        folder = Path(runs.tag(found, "store") or "")
        if (folder / MANIFEST).exists() and features_run in ("", found.info.run_id):
            stores.setdefault(folder, found.info.run_id)
    if not stores:
        which = f" of run {features_run}" if features_run else f" with digest {store_digest}" if store_digest else ""
        folder_option = "" if dataset == "synthetic" else " --data-dir FOLDER"
        raise InputError(
            f"no spectrograms of {dataset} as {representation}{which}; run first: "
            f"advtrack features --dataset {dataset} --representation {representation}{folder_option}"
        )
    if len(stores) > 1:
        candidates = ", ".join(f"{run_id} ({folder.name})" for folder, run_id in sorted(stores.items()))
        raise InputError(
            f"several stores of {dataset} as {representation}: choose one with --features-run: {candidates}"
        )
    ((folder, run_id),) = stores.items()
    return open_store(folder), run_id


def _folder_name(identity: dict[str, Any]) -> str:
    augmented = "-augmented" if identity["augment"] else ""
    size = f"{identity['height']}x{identity['width']}"
    return f"{identity['dataset']}-{identity['representation']}-{size}{augmented}-{str(identity['data_digest'])[:8]}"


def _one_of_each(store: SpectrogramSet) -> tuple[list, list[str]]:
    """The first image of each class, for a look at what was extracted."""
    firsts = [int((store.y == label).argmax()) for label in range(len(store.classes))]
    return [image[0] for image in store.images(firsts)], list(store.classes)
