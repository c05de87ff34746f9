"""Entry point ``attack``: a budget search per attack against one registered victim."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.attacks.batches import Precision
from advtrack.models import checkpoint
from advtrack.models.checkpoint import Victim
from advtrack.reporting.figures import GalleryExample, curve_figure, gallery_figure
from advtrack.reporting.records import AttackRecord
from advtrack.representations.store import SpectrogramSet
from advtrack.search.space import Budget, BudgetResult, Search
from advtrack.search.study import Storage, example, open_storage, redacted, search_budget, transferred_fooling_rate
from advtrack.stages.alone import alone
from advtrack.stages.by_name import whole_number_for
from advtrack.stages.device import choose_device
from advtrack.stages.features import find_store
from advtrack.stages.samples import Struck, strike_list
from advtrack.stages.victims import only_victim, recipe
from advtrack.tracking import registry, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 4


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
    precision: Precision = "fp32"
    force: bool = False


def run(options: Attacking) -> str:
    """Search the budget of every attack; the MLflow run that holds the results.

    An adversarially trained victim is also struck under the budgets found on the plain one (table II), if those
    searches are done.

    Raises
    ------
    InputError
        No such victim, or nothing it classifies correctly.
    """
    version = only_victim(options.dataset, options.representation, options.model, options.victim)
    storage = open_storage(options.storage)
    device = choose_device(options.device)
    victim = checkpoint.load(registry.download(version), device)
    training = victim.description.training
    store, _ = find_store(victim.description.dataset, options.representation, store_digest=training["store_digest"])
    plain = plain_records(version, options.attacks) if training["kind"] == "adversarial" else {}
    attacked = _Attacked(options, version, victim, store, storage, device)
    keys = {attack: _attack_key(options, attack, victim, plain.get(attack)) for attack in options.attacks}
    tags = {"dataset": victim.description.dataset, "representation": options.representation, "model": options.model}
    tags |= {"training": training["kind"], "fold": training["fold"], "victim": f"{version.name}/{version.version}"}
    tags |= {"victim_run": version.run_id, "store_digest": store.digest}
    tags |= {"plain_runs": ",".join(sorted({record.run_id for record in plain.values()}))} if plain else {}
    params = {**asdict(options), "attacks": ",".join(options.attacks), "device": str(device)}
    params["storage"] = redacted(options.storage)
    with runs.stage_run(
        "attack", CODE_VERSION, keys, title=attacked.title, params=params, tags=tags, force=options.force
    ) as stage:
        if not stage.reused:
            stage.dataset(victim.description.dataset, store.data_digest, str(store.path))
            for attack in options.attacks:
                with alone(_lock(options.storage, keys[attack]), f"searches the budget of {attack}"):
                    record = None if options.force else _earlier(attack, keys[attack])
                    record = record or _searched(attack, attacked, plain.get(attack), stage)
                    _log_record(stage, record, keys[attack])
                _say(record, str(version))
        # The victim's version names the run that holds its results, found now or before.
        registry.tag(version, {f"attack.{attack}": stage.run_id for attack in options.attacks})
    return stage.run_id


@dataclass(frozen=True)
class _Attacked:
    """The victim of a run, and where its searches take place."""

    options: Attacking
    version: registry.Registered
    victim: Victim
    store: SpectrogramSet
    storage: Storage
    device: torch.device

    @property
    def title(self) -> str:
        """The victim as runs and progress bars name it."""
        return f"{self.version} ({self.victim.description.training['kind']})"


def _searched(attack: str, attacked: _Attacked, plain: AttackRecord | None, stage: runs.StageRun) -> AttackRecord:
    """Search an attack's budget and log what was seen; ``plain`` is its result on the plain victim, if there is one."""
    options, victim, version = attacked.options, attacked.victim, attacked.version
    search = _search_of(options, attack)
    limit = _sample_limit(options, attack)
    struck = strike_list(victim, attacked.store, search.spec, limit, options.seed, attacked.device)
    study = f"{version.name}-v{version.version}-{attack}-{_study_key(options, attack, victim)}"
    title = f"{attack} on {attacked.title}"
    result = search_budget(victim.network, struck.samples, search, attacked.storage, study, title, fresh=options.force)
    transferred = None
    if plain:
        budget = Budget(plain.bound, plain.iterations, plain.settings)
        transferred = transferred_fooling_rate(victim.network, struck.samples, search, budget, result, attacked.storage)
    _log_search(stage, result, struck, attacked.store, victim, search)
    return _record(result, search, limit, transferred, plain.run_id if plain else None, stage.run_id)


def read_record(run_id: str, attack: str) -> AttackRecord:
    """The result of one attack in a finished run."""
    content = json.loads(runs.read_artifact(run_id, f"{attack}/result.json"))
    # JSON has no NaN, which these are where nothing was fooled.
    undefined = {name: math.nan for name in ("perturbation", "l0", "l2", "linf") if content[name] is None}
    return AttackRecord(**{**content, **undefined})


def find_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, AttackRecord]:
    """The result of each attack against a registered victim, of the search that was asked for last."""
    last = {attack: version.tags.get(f"attack.{attack}") for attack in attacks}
    return {attack: read_record(run_id, attack) for attack, run_id in last.items() if run_id}


def _lock(storage: str, key: str) -> Path:
    """A file that processes of this machine which search the same budget in the same storage have in common."""
    place = hashlib.sha256(f"{Path.cwd()} {storage} {key}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"advtrack-{os.getuid()}" / f"{place}.lock"


def plain_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, AttackRecord]:
    """Results on the plainly trained victim that differs from this one in nothing but its training, by attack."""
    standard = registry.by_alias(version.name, registry.STANDARD)
    if standard is None or standard.tags["fold"] != version.tags["fold"] or recipe(standard) != recipe(version):
        return {}
    return find_records(standard, attacks)


def _sample_limit(options: Attacking, attack: str) -> int:
    """How many clips an attack strikes at most, 0 for all: a costly one has its own limit unless told otherwise."""
    limit, own = whole_number_for("samples", options.samples, attack, TABLE_ATTACKS)
    default = ATTACKS[attack].sample_limit
    return min(limit or default, default) if default and not own else limit


def _search_of(options: Attacking, attack: str) -> Search:
    max_iter, _ = whole_number_for("max-iter", options.max_iter, attack, TABLE_ATTACKS)
    return Search(
        attack, options.target_fooling_rate, options.trials, options.seed, max_iter, precision=options.precision
    )


def _study_key(options: Attacking, attack: str, victim: Victim) -> str:
    """Short hash of what makes two searches the same study."""
    search = _search_of(options, attack)
    determined = {"victim": victim.checkpoint_id, "attack": attack, "seed": options.seed}
    determined |= {"samples": _sample_limit(options, attack), "precision": options.precision}
    determined |= {"target": options.target_fooling_rate, "longest": search.longest()}
    return runs.resume_key("study", CODE_VERSION, determined)[:6]


def _attack_key(options: Attacking, attack: str, victim: Victim, plain: AttackRecord | None) -> str:
    determined = {"study": _study_key(options, attack, victim), "trials": options.trials}
    determined |= {"victim": victim.checkpoint_id, "plain": plain.run_id if plain else None}
    return runs.resume_key("search", CODE_VERSION, determined)


def _earlier(attack: str, key: str) -> AttackRecord | None:
    """The same search finished in an earlier, perhaps interrupted, run."""
    for run_ in runs.find({f"key.{attack}": key}):
        logger.info("%s: already searched, reusing run %s", attack, run_.info.run_id)
        return read_record(run_.info.run_id, attack)
    return None


def _record(
    result: BudgetResult,
    search: Search,
    sample_limit: int,
    transferred: float | None,
    plain_run_id: str | None,
    run_id: str,
) -> AttackRecord:
    return AttackRecord(
        attack=result.attack,
        norm=result.norm,
        target_reached=result.reached,
        target_fooling_rate=result.target_fooling_rate,
        fooling_rate=result.fooling_rate,
        bound=result.budget.bound,
        missed_at=result.missed_at,
        iterations=result.budget.iterations,
        settings=result.budget.settings,
        perturbation=result.perturbation(),
        **result.mean_norms(),
        samples=len(result.success),
        seed=search.seed,
        sample_limit=sample_limit,
        longest=search.longest(),
        transferred_fooling_rate=transferred,
        plain_run_id=plain_run_id,
        run_id=run_id,
        passes=result.passes,
    )


def _log_record(stage: runs.StageRun, record: AttackRecord, key: str) -> None:
    """Metrics and the result; the tag comes last and says that the result is whole."""
    metrics = {"fooling_rate": record.fooling_rate, "bound": record.bound, "iterations": record.iterations}
    metrics |= {"perturbation": record.perturbation, "l0": record.l0, "l2": record.l2, "linf": record.linf}
    metrics |= {"samples": record.samples, "passes": record.passes}
    if record.transferred_fooling_rate is not None:
        metrics["transferred_fooling_rate"] = record.transferred_fooling_rate
    stage.metrics({f"{record.attack}/{name}": value for name, value in metrics.items() if value == value})
    stage.json(asdict(record), f"{record.attack}/result.json")
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
    points = [(trial["bound"], trial["fooling_rate"], trial["fooling_rate_at_most"]) for trial in result.trials]
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
        "%s against %s: fooling rate %.3f %s %.2f on %d clips at %s <= %.4g%s, %d iterations%s",
        record.attack, victim, record.fooling_rate, verdict, record.target_fooling_rate, record.samples,
        record.norm, record.bound, f" (not at {record.missed_at:.4g})" if record.missed_at else "", record.iterations,
        "" if under_plain is None else f"; {under_plain:.3f} under the plain victim's budget",
    )  # fmt: skip


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
