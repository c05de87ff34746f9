"""Entry point ``features``: clips to spectrogram stores, one pass for all representations asked for."""

from __future__ import annotations

import logging
import shlex
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from advtrack import data
from advtrack.data import clip, synthetic
from advtrack.errors import InputError
from advtrack.reporting.figures.classes import class_figure
from advtrack.representations.extract import extract
from advtrack.representations.image import ImageSettings
from advtrack.representations.store import MANIFEST, SpectrogramSet, intact, open_store
from advtrack.tracking import lookup, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 3
#: In the place of a run: that of the newest store.
NEWEST = "newest"


@dataclass(frozen=True)
class Features:
    """Options of the stage; those of the command line of the same name."""

    dataset: str
    data_dir: str
    representations: tuple[str, ...]
    height: int
    width: int
    augment: bool
    top_db: float
    reference_db: float | None
    skip_bad: bool
    seed: int
    work_dir: str
    force: bool = False


def run(options: Features) -> dict[str, str]:
    """Extract representations of one data set; for each, the MLflow run that did it.

    Raises
    ------
    InputError
        The data set's folder is not as its layout asks, or has files that cannot be read.
    """
    dataset = data.load(options.dataset, data_folder(options))
    checksums = clip.checksums(dataset)
    digest = clip.digest(dataset, checksums)
    settings = ImageSettings(
        height=options.height,
        width=options.width,
        duration=dataset.duration,
        wavelet_rate=dataset.wavelet_rate,
        top_db=options.top_db,
        reference_db=options.reference_db,
    )
    common = {"digest": digest, "settings": asdict(settings), "augment": options.augment, "skip_bad": options.skip_bad}
    common |= {"work_dir": str(Path(options.work_dir).absolute())}
    with ExitStack() as stack:
        stages: dict[str, runs.StageRun] = {}
        for representation in options.representations:
            key = {**common, "representation": representation}
            tags: dict[str, Any] = {"dataset": dataset.name, "representation": representation, "data_digest": digest}
            tags |= {"height": options.height, "width": options.width, "augment": options.augment}
            force = options.force or not _intact(key)
            title = f"{dataset.name}-{representation}-{options.height}x{options.width}"
            stages[representation] = stack.enter_context(
                runs.stage_run(
                    "features", CODE_VERSION, key, title=title, params=asdict(options), tags=tags, force=force
                )
            )
        wanted = {name: stage for name, stage in stages.items() if not stage.reused}
        if wanted:
            _extract(options, dataset, checksums, settings, wanted)
    return {representation: stage.run_id for representation, stage in stages.items()}


def data_folder(options: Features) -> Path:
    """Where the clips lie: ``data_dir``, or for 'synthetic' without one, clips generated under ``work_dir``.

    Raises
    ------
    InputError
        A real data set without a folder.
    """
    if options.data_dir:
        return Path(options.data_dir)
    if options.dataset == "synthetic":
        name = "synthetic" if options.seed == 0 else f"synthetic-{options.seed}"
        return synthetic.generate(Path(options.work_dir) / name, options.seed)
    raise InputError(
        f"--data-dir: {options.dataset} needs the folder of its release, e.g. --data-dir path/to/{options.dataset}"
    )


@dataclass(frozen=True)
class Made:
    """A finished store: the ``features`` run that made it, its digest and its folder."""

    run_id: str
    digest: str
    folder: Path


def stores(dataset: str, representation: str, like: str = "") -> list[Made]:
    """The stores that are there, newest first; of equal ones the newest.

    With the digest of another representation's store, ``like``, only those of the same clips and image size, those
    first whose images are otherwise most like its.
    """
    tags = {"stage": "features", "dataset": dataset}
    found = lookup.find(tags, status="FINISHED")
    if other := next((run for run in found if like and lookup.tag(run, "store_digest") == like), None):
        found = [run for run in found if _comparable(run) == _comparable(other)]
        found = sorted(found, key=lambda run: _likeness(run, other), reverse=True)  # stable, even so
    newest: dict[str, Made] = {}
    for one in found:
        made = Made(one.info.run_id, lookup.tag(one, "store_digest") or "", Path(lookup.tag(one, "store") or ""))
        if lookup.tag(one, "representation") == representation and (made.folder / MANIFEST).exists():
            newest.setdefault(made.digest, made)
    return list(newest.values())


def _comparable(run: lookup.Run) -> tuple[str | None, ...]:
    """What victims must have in common to stand in one table: the clips and the image size."""
    return tuple(lookup.tag(run, name) for name in ("data_digest", "height", "width"))


def _likeness(run: lookup.Run, other: lookup.Run) -> int:
    """How many other options of the images two runs share."""
    theirs, others = lookup.params(run), lookup.params(other)
    return sum(theirs.get(name) == others.get(name) for name in ("augment", "top_db", "reference_db"))


def find_store(
    dataset: str, representation: str, *, features_run: str = "", store_digest: str = ""
) -> tuple[SpectrogramSet, str]:
    """The store that a finished ``features`` run made, and that run; an equal one made later stands for it.

    Parameters
    ----------
    dataset, representation : str
        Names.
    features_run : str
        The run meant, or `NEWEST`; empty for the only one there is.
    store_digest : str
        Digest of the store meant; empty for any.

    Raises
    ------
    InputError
        There is none, or there are several to choose from.
    """
    found = stores(dataset, representation)
    wanted = store_digest
    if features_run == NEWEST:
        found = found[:1]
    elif features_run:
        meant = lookup.find({"stage": "features", "dataset": dataset, "representation": representation})
        wanted = next(
            (lookup.tag(one, "store_digest") or "" for one in meant if one.info.run_id == features_run), "none"
        )
    if wanted:
        found = [one for one in found if one.digest == wanted]
    if not found:
        which = (
            f" of run {features_run}"
            if features_run not in ("", NEWEST)
            else f" with digest {store_digest}"
            if store_digest
            else ""
        )
        raise InputError(
            f"no spectrograms of {dataset} as {representation}{which}; run first: "
            + features_command(dataset, representation, store_digest)
        )
    if len(found) > 1:
        candidates = ", ".join(f"{one.run_id} ({one.folder.name})" for one in found)
        raise InputError(
            f"several stores of {dataset} as {representation}: choose one with --features-run, the last one with "
            f"{NEWEST}: {candidates}"
        )
    return open_store(found[0].folder), found[0].run_id


def features_command(dataset: str, representation: str, store_digest: str = "") -> str:
    """The command that makes a store: the one of this digest again, or one like the newest of the data set."""
    command = f"advtrack features --dataset {dataset} --representation {representation}"
    tags = {"stage": "features", "dataset": dataset} | ({"store_digest": store_digest} if store_digest else {})
    like = lookup.find(tags, status="FINISHED")
    if not like:
        return command + ("" if dataset == "synthetic" else " --data-dir FOLDER")
    defaults = {"data_dir": "", "height": "224", "width": "224", "augment": "False", "top_db": "80.0", "seed": "0"}
    given = lookup.params(like[0])
    for name, default in {**defaults, "skip_bad": "False", "work_dir": "work"}.items():
        value = given.get(name, default)
        if value != default:
            command += f" --{name.replace('_', '-')} {shlex.quote(value)}"
    reference = given.get("reference_db", "None")
    return command + ("" if reference == "None" else f" --reference {reference}")


def _extract(
    options: Features,
    dataset: clip.Dataset,
    checksums: tuple[str, ...],
    settings: ImageSettings,
    stages: dict[str, runs.StageRun],
) -> None:
    """Check the clips, extract the stores in one pass, and log each into its run."""
    bad = clip.unusable(dataset)
    if len(bad) == len(dataset.clips) or (bad and not options.skip_bad):
        for stage in stages.values():
            stage.text("\n".join(bad.values()) + "\n", "unusable.txt")
        ways = "restore them" if len(bad) == len(dataset.clips) else "--skip-bad true goes on without them"
        raise InputError(
            f"{len(bad)} of {len(dataset.clips)} clips of {dataset.name} are unusable ({ways}; the run's unusable.txt "
            f"lists all): {clip.listed(list(bad.values()))}"
        )
    if bad:
        logger.warning("going on without %d unusable clips: %s", len(bad), clip.listed(list(bad.values())))
        kept = [i for i, one in enumerate(dataset.clips) if one.path not in bad]
        checksums = tuple(checksums[i] for i in kept)
        dataset = replace(dataset, clips=tuple(dataset.clips[i] for i in kept))
    leaks = clip.leaks(dataset, checksums)
    if leaks:
        logger.warning("clips of one recording on both sides of a split would leak: %s", clip.listed(leaks))
    stores = extract(
        dataset,
        list(stages),
        Path(options.work_dir).absolute() / "stores",
        settings,
        decode=clip.decode,
        checksums=checksums,
        data_digest=clip.digest(dataset, checksums),
        augment=options.augment,
        fresh=options.force,
    )
    for representation, stage in stages.items():
        store = stores[representation]
        stage.dataset(dataset.name, store.data_digest, str(dataset.clips[0].path.parent))
        stage.tags({"store": store.path, "store_digest": store.digest})
        stage.metrics({"clips": len(dataset.clips), "images": len(store), "classes": len(store.classes)})
        stage.metrics({"skipped_clips": len(bad), "leaks": len(leaks)})
        for name, lines in (("unusable.txt", list(bad.values())), ("leaks.txt", leaks)):
            if lines:
                stage.text("\n".join(lines) + "\n", name)
        stage.data((store.path / MANIFEST).read_bytes(), MANIFEST)
        stage.data(class_figure(*_one_of_each(store), representation), "classes.png")
        logger.info("features: %d images of %s in %s", len(store), representation, store.path)


def _intact(key: dict[str, Any]) -> bool:
    """Whether the store that an equal run left is still as it was written; True if there is none."""
    equal = lookup.find({"resume_key": runs.resume_key("features", CODE_VERSION, key)}, status="FINISHED")
    return not equal or intact(lookup.tag(equal[0], "store") or "")


def _one_of_each(store: SpectrogramSet) -> tuple[list, list[str]]:
    """The first image of each class, for a look at what was extracted."""
    labels = [label for label in range(len(store.classes)) if (store.y == label).any()]
    firsts = [int((store.y == label).argmax()) for label in labels]
    return [image[0] for image in store.images(firsts)], [store.classes[label] for label in labels]
