"""Entry point ``attack``: a budget search per attack against one registered victim."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from advtrack.attacks import TABLE_ATTACKS
from advtrack.errors import InputError
from advtrack.models import checkpoint
from advtrack.models.checkpoint import Victim
from advtrack.reporting.figures import GalleryExample, curve_figure, gallery_figure
from advtrack.reporting.records import AttackRecord
from advtrack.representations.store import SpectrogramSet
from advtrack.search.space import Budget, BudgetResult, Samples, Search
from advtrack.search.study import example, open_storage, search_budget, transferred_fooling_rate
from advtrack.stages.by_name import whole_number_for
from advtrack.stages.features import find_store
from advtrack.stages.train import choose_device, split_store
from advtrack.tracking import registry, runs
from advtrack.training.fit import probabilities

logger = logging.getLogger("advtrack")

CODE_VERSION = 1


@dataclass(frozen=True)
class Attacking:
    """Options of the stage; those of the command line of the same name.

    ``samples`` and ``max_iter`` are whole numbers with exceptions by attack, as '12,pia=4'. 0 stands for all clips
    (``samples``) and for each attack's own longest run (``max_iter``).
    """

    dataset: str
    model: str
    representation: str
    victim: str
    attacks: tuple[str, ...]
    target_fooling_rate: float
    samples: str
    trials: int
    max_iter: str
    storage: str
    seed: int
    device: str
    work_dir: str
    force: bool = False


@dataclass(frozen=True)
class Struck:
    """The test clips a victim classifies correctly, as far as they are attacked, with their indices in the store."""

    samples: Samples
    indices: np.ndarray


def run(options: Attacking) -> str:
    """Search the budget of every attack; the MLflow run that holds the results.

    An adversarially trained victim is also struck under the budgets found on the plain one (table II), if those
    searches are done.

    Raises
    ------
    InputError
        No such victim, or nothing it classifies correctly.
    """
    version = registry.resolve(options.dataset, options.representation, options.model, options.victim)
    storage = open_storage(options.storage)
    device = choose_device(options.device)
    victim = checkpoint.load(registry.download(version), device)
    training = victim.description.training
    store, _ = find_store(victim.description.dataset, options.representation, store_digest=training["store_digest"])
    plain = _plain_budgets(version, options) if training["kind"] == "adversarial" else {}
    keys = {attack: _attack_key(options, attack, victim, plain.get(attack)) for attack in options.attacks}
    tags = {"dataset": victim.description.dataset, "representation": options.representation, "model": options.model}
    tags |= {"training": training["kind"], "fold": training["fold"], "victim": f"{version.name}/{version.version}"}
    tags |= {"victim_run": version.run_id, "store_digest": store.digest}
    params = {**asdict(options), "attacks": ",".join(options.attacks), "device": str(device)}
    title = f"{version} ({training['kind']})"
    with runs.stage_run(
        "attack", CODE_VERSION, keys, title=title, params=params, tags=tags, force=options.force
    ) as stage:
        if stage.reused:
            return stage.run_id
        stage.dataset(victim.description.dataset, store.digest, str(store.path))
        for attack in options.attacks:
            found = _earlier(attack, keys[attack]) if not options.force else None
            if found is None:
                search = _search_of(options, attack)
                struck = _strike_list(victim, store, options, search, device)
                study = f"{version.name}-v{version.version}-{attack}-{_study_key(options, attack, victim)}"
                result = search_budget(
                    victim.network, struck.samples, search, storage, study, f"{attack} on {title}", fresh=options.force
                )
                transferred = None
                if attack in plain:
                    transferred = transferred_fooling_rate(
                        victim.network, struck.samples, search, plain[attack], result, storage
                    )
                _log_search(stage, result, struck, store, victim, search)
                found = _record(result, transferred, stage.run_id), result.budget
            record, budget = found
            _log_record(stage, record, budget, keys[attack])
            _say(record, str(version))
        return stage.run_id


def read_record(run_id: str, attack: str) -> tuple[AttackRecord, Budget]:
    """The result of one attack in a finished run."""
    content = json.loads(runs.read_artifact(run_id, f"{attack}/result.json"))
    settings = content.pop("settings")
    record = AttackRecord(**content)
    return record, Budget(record.bound, record.iterations, settings)


def find_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, tuple[AttackRecord, Budget]]:
    """The newest finished result of each attack against a registered victim."""
    records: dict[str, tuple[AttackRecord, Budget]] = {}
    for run_ in runs.find({"stage": "attack", "victim": f"{version.name}/{version.version}"}, status="FINISHED"):
        for attack in attacks:
            if attack not in records and runs.tag(run_, f"key.{attack}"):
                records[attack] = read_record(run_.info.run_id, attack)
    return records


def wrong_label(clip: str, label: int, classes: int, seed: int) -> int:
    """A random label other than ``label``, derived from the clip's name and the seed: the same for every victim.

    Raises
    ------
    InputError
        There is no other class.
    """
    if classes < 2:
        raise InputError("the victim knows one class only: there is nothing to be fooled into; use more classes")
    drawn = int.from_bytes(hashlib.sha256(f"{seed}/{clip}".encode()).digest()[:8], "big") % (classes - 1)
    return drawn if drawn < label else drawn + 1


def _strike_list(
    victim: Victim, store: SpectrogramSet, options: Attacking, search: Search, device: torch.device
) -> Struck:
    """Correctly classified test clips in an order that depends on the seed alone, with targets and start images."""
    training = victim.description.training
    parts = split_store(store, training["seed"])
    order = np.random.default_rng(options.seed).permutation(parts.test)
    correct = order[probabilities(victim.network, store, order).argmax(1) == store.y[order]]
    limit, own = whole_number_for("samples", options.samples, search.attack, TABLE_ATTACKS)
    if search.spec.sample_limit and not own:
        limit = min(limit or search.spec.sample_limit, search.spec.sample_limit)
    chosen = correct[: limit or len(correct)]
    if not len(chosen):
        raise InputError("the victim classifies no test clip correctly: train it longer before attacking it")
    classes = len(store.classes)
    targets = [wrong_label(str(store.name[i]), int(store.y[i]), classes, options.seed) for i in chosen]
    start = chosen
    if search.spec.starts:
        start = _starts(victim, store, parts.train(training["fold"]), targets)

    def tensor(indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(store.images(indices)).to(device)

    y, target = torch.from_numpy(store.y[chosen]).to(device), torch.tensor(targets, device=device)
    return Struck(Samples(tensor(chosen), y, target, tensor(start)), chosen)


def _starts(victim: Victim, store: SpectrogramSet, train: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Per target class, the training clip that the victim is surest of."""
    scores = probabilities(victim.network, store, train)
    best = {}
    for target in set(targets):
        own = np.flatnonzero(store.y[train] == target)
        if not len(own):
            raise InputError(
                f"no training clip of class {store.classes[target]} to start from: the data set has too few recordings"
            )
        best[target] = train[own[scores[own, target].argmax()]]
    return np.array([best[target] for target in targets])


def _plain_budgets(version: registry.Registered, options: Attacking) -> dict[str, Budget]:
    """Budgets found on the plainly trained victim of the same fold, by attack."""
    standard = registry.by_alias(version.name, registry.STANDARD)
    if standard is None or standard.tags["fold"] != version.tags["fold"]:
        return {}
    return {attack: budget for attack, (_, budget) in find_records(standard, options.attacks).items()}


def _search_of(options: Attacking, attack: str) -> Search:
    max_iter, _ = whole_number_for("max-iter", options.max_iter, attack, TABLE_ATTACKS)
    return Search(attack, options.target_fooling_rate, options.trials, options.seed, max_iter)


def _study_key(options: Attacking, attack: str, victim: Victim) -> str:
    """Short hash of what makes two searches the same study."""
    search = _search_of(options, attack)
    samples = whole_number_for("samples", options.samples, attack, TABLE_ATTACKS)
    determined = {"victim": victim.checkpoint_id, "attack": attack, "seed": options.seed, "samples": samples}
    determined |= {"target": options.target_fooling_rate, "longest": search.longest()}
    return runs.resume_key("study", CODE_VERSION, determined)[:6]


def _attack_key(options: Attacking, attack: str, victim: Victim, plain: Budget | None) -> str:
    determined = {"study": _study_key(options, attack, victim), "trials": options.trials}
    determined |= {"victim": victim.checkpoint_id, "plain": asdict(plain) if plain else None}
    return runs.resume_key("search", CODE_VERSION, determined)


def _earlier(attack: str, key: str) -> tuple[AttackRecord, Budget] | None:
    """The same search finished in an earlier, perhaps interrupted, run."""
    for run_ in runs.find({f"key.{attack}": key}):
        logger.info("%s: already searched, reusing run %s", attack, run_.info.run_id)
        return read_record(run_.info.run_id, attack)
    return None


def _record(result: BudgetResult, transferred: float | None, run_id: str) -> AttackRecord:
    return AttackRecord(
        attack=result.attack,
        norm=result.norm,
        target_reached=result.reached,
        target_fooling_rate=result.target_fooling_rate,
        fooling_rate=result.fooling_rate,
        bound=result.budget.bound,
        iterations=result.budget.iterations,
        perturbation=result.perturbation(),
        **result.mean_norms(),
        samples=len(result.success),
        transferred_fooling_rate=transferred,
        run_id=run_id,
        passes=result.passes,
    )


def _log_record(stage: runs.StageRun, record: AttackRecord, budget: Budget, key: str) -> None:
    """Metrics and the result; the tag comes last and says that the result is whole."""
    metrics = {"fooling_rate": record.fooling_rate, "bound": record.bound, "iterations": record.iterations}
    metrics |= {"perturbation": record.perturbation, "l0": record.l0, "l2": record.l2, "linf": record.linf}
    metrics |= {"samples": record.samples, "passes": record.passes}
    if record.transferred_fooling_rate is not None:
        metrics["transferred_fooling_rate"] = record.transferred_fooling_rate
    stage.metrics(
        {f"{record.attack}/{name}": float(f"{value:.6g}") for name, value in metrics.items() if value == value}
    )
    stage.text(json.dumps({**asdict(record), "settings": budget.settings}, indent=2), f"{record.attack}/result.json")
    stage.tags({f"{record.attack}.target_reached": record.target_reached, f"key.{record.attack}": key})


def _log_search(
    stage: runs.StageRun,
    result: BudgetResult,
    struck: Struck,
    store: SpectrogramSet,
    victim: Victim,
    search: Search,
) -> None:
    """The trial curve, the trials, the per-sample table and one adversarial example."""
    attack = result.attack
    for step, trial in enumerate(result.trials):
        stage.metrics({f"{attack}/trial_{k}": trial[k] for k in ("bound", "fooling_rate", "iterations")}, step)
    stage.text(_csv(result.trials), f"{attack}/trials.csv")
    points = [(trial["bound"], trial["fooling_rate"]) for trial in result.trials]
    stage.data(curve_figure(points, result.target_fooling_rate, f"{result.norm} bound"), f"{attack}/trials.png")
    rows = [
        {
            "clip": store.name[index],
            "source": store.source[index],
            "class": store.classes[store.y[index]],
            "target": store.classes[int(struck.samples.target[i])] if search.spec.targets else "",
            "success": bool(result.success[i]),
            "first_success": int(result.first_success[i]),
            **{name: float(values[i]) for name, values in result.norms.items()},
        }
        for i, index in enumerate(struck.indices)
    ]
    stage.text(_csv(rows), f"{attack}/samples.csv")
    stage.tags({f"{attack}.study": result.study_name})
    found = example(victim.network, struck.samples, search, result)
    if found is None:
        return
    i, x_adv = found
    with torch.inference_mode():
        image = torch.from_numpy(x_adv)[None, None].to(struck.samples.x.device)
        scores = victim.network(image).softmax(1)[0]
    shown = GalleryExample(
        title=f"{attack}: {store.name[struck.indices[i]]}",
        x=struck.samples.x[i, 0].cpu().numpy(),
        x_adv=x_adv,
        true_class=store.classes[int(struck.samples.y[i])],
        adversarial_class=store.classes[int(scores.argmax())],
        probability=float(scores.max()),
    )
    stage.data(gallery_figure([shown]), f"{attack}/example.png")


def _say(record: AttackRecord, victim: str) -> None:
    verdict = "reaches" if record.target_reached else "misses"
    under_plain = record.transferred_fooling_rate
    logger.info(
        "%s against %s: fooling rate %.3f %s %.2f on %d clips at %s <= %.4g, %d iterations%s",
        record.attack, victim, record.fooling_rate, verdict, record.target_fooling_rate, record.samples,
        record.norm, record.bound, record.iterations,
        "" if under_plain is None else f"; {under_plain:.3f} under the plain victim's budget",
    )  # fmt: skip


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
