"""Entry point ``attack``: a budget search per attack against one registered victim."""

from __future__ import annotations

import logging
import shlex
from dataclasses import asdict, replace

import numpy as np

from advtrack.errors import redacted
from advtrack.models.checkpoint import Victim
from advtrack.reporting.records import AttackRecord
from advtrack.search.note import publish
from advtrack.search.result import BudgetResult
from advtrack.search.space import Budget, Search, longest_run
from advtrack.search.storage import Storage, open_storage
from advtrack.search.study import search_budget, transferred_success
from advtrack.stages import masking
from advtrack.stages.attacking import CODE_VERSION, Attacked, Attacking, attacked_by, sample_limit, search_of
from advtrack.stages.clips import perturbation_ratios
from advtrack.stages.defaults import ATTACKING, SEARCHING
from advtrack.stages.evidence import log_search
from advtrack.stages.searched import KEY, log_record, plain_records, read_record, say
from advtrack.tracking import lookup, registry, runs

logger = logging.getLogger("advtrack")


def run(options: Attacking) -> str:
    """Search the budget of every attack; the MLflow run that holds the results.

    An adversarially trained victim is also struck under the budgets found on the plain one (table II), if those
    searches are done, and its perturbations are held against the plain victim's (table III).

    Raises
    ------
    InputError
        No such victim, nothing it classifies correctly, or a storage of the studies that cannot be used.
    """
    attacked = attacked_by(options)
    storage = open_storage(options.storage)
    version, victim = attacked.version, attacked.victim
    adversarial = victim.description.training["kind"] == "adversarial"
    plain = plain_records(version, options.attacks) if adversarial else {}
    keys = {attack: _attack_key(options, attack, victim, plain.get(attack)) for attack in options.attacks}
    tags = attacked.tags()
    tags |= {"plain_runs": ",".join(sorted({record.run_id for record in plain.values()}))} if plain else {}
    with runs.stage_run(
        "attack", CODE_VERSION, keys, title=attacked.title, params=attacked.params(), tags=tags, force=options.force
    ) as stage:
        if stage.reused:
            for attack in options.attacks:
                say(read_record(stage.run_id, attack), str(version))
        else:
            stage.dataset(victim.description.dataset, attacked.store.data_digest, str(attacked.store.path))
            records = {}
            for attack in options.attacks:
                record = None if options.force else _earlier(attack, keys[attack])
                record = record or _searched(attack, attacked, storage, plain.get(attack), stage)
                log_record(stage, record, keys[attack])
                say(record, str(version))
                records[attack] = record
            masking.look(stage, attacked, records)
        # The victim's version names the run that holds its results, found now or before.
        registry.tag(version, {f"attack.{attack}": stage.run_id for attack in options.attacks})
    return stage.run_id


def _searched(
    attack: str, attacked: Attacked, storage: Storage, plain: AttackRecord | None, stage: runs.StageRun
) -> AttackRecord:
    """Search an attack's budget and log what was seen; ``plain`` is its result on the plain victim, if there is one."""
    options, victim, version = attacked.options, attacked.victim, attacked.version
    search = search_of(options, attack)
    struck = attacked.struck(attack)
    study = f"{version.name}-v{version.version}-{attack}-{_study_key(options, attack, victim)}"
    title = f"{attack} on {attacked.title}"
    result = search_budget(
        victim.network,
        struck.samples,
        search,
        storage,
        study,
        title,
        fresh=options.force,
        workers=options.workers,
        url=options.storage,
    )
    transferred = None
    if plain:
        budget = Budget(plain.bound, plain.iterations, plain.settings)
        transferred = transferred_success(victim.network, struck.samples, search, budget, result, storage)
    pictures = log_search(stage, result, struck, attacked.store, victim, search, attacked.shown(attack), transferred)
    facts = {
        "victim": f"{version.name}/{version.version}",
        "mlflow_run": stage.run_id,
        "command": _command(attacked, attack),
    }
    publish(result, storage, options.storage, title, facts, pictures)
    record = _record(result, search, options, transferred, plain, stage.run_id)
    return replace(record, ratios=perturbation_ratios(plain, record)) if plain else record


def _command(attacked: Attacked, attack: str) -> str:
    """The command that makes one of the searches; a password in the storage's address is not published with it."""
    values = {**asdict(attacked.options), "attack": attack, "storage": redacted(attacked.options.storage)}
    usual = SEARCHING | ATTACKING
    del values["attacks"], values["force"]
    given = {name: value for name, value in values.items() if name not in usual or value != usual[name]}
    return "advtrack attack" + "".join(f" --{n.replace('_', '-')} {shlex.quote(str(v))}" for n, v in given.items())


def _study_key(options: Attacking, attack: str, victim: Victim) -> str:
    """Short hash of what makes two searches the same study."""
    search = search_of(options, attack)
    determined = {"victim": victim.checkpoint_id, "attack": attack, "seed": options.seed}
    determined |= {"samples": sample_limit(options, attack), "precision": options.precision}
    determined |= {"target": options.target_fooling_rate, "longest": search.longest()}
    determined |= {name: getattr(options, name) for name in ("criterion", "sampler", "tolerance", "protocol")}
    return runs.resume_key("study", CODE_VERSION, determined)[:6]


def _attack_key(options: Attacking, attack: str, victim: Victim, plain: AttackRecord | None) -> str:
    determined = {"study": _study_key(options, attack, victim), "trials": options.trials}
    determined |= {"victim": victim.checkpoint_id, "plain": plain.run_id if plain else None}
    return runs.resume_key("search", CODE_VERSION, determined)


def _earlier(attack: str, key: str) -> AttackRecord | None:
    """The same search finished in an earlier, perhaps interrupted, run."""
    for run_ in lookup.find({f"{KEY}{attack}": key}):
        logger.info("%s: already searched, reusing run %s", attack, run_.info.run_id)
        return read_record(run_.info.run_id, attack)
    return None


def _record(
    result: BudgetResult,
    search: Search,
    options: Attacking,
    transferred: np.ndarray | None,
    plain: AttackRecord | None,
    run_id: str,
) -> AttackRecord:
    fooling_low, fooling_high = result.interval()
    auc_low, auc_high = result.auc()
    norms = result.mean_norms()
    return AttackRecord(
        attack=result.attack,
        norm=result.norm,
        target_reached=result.reached,
        target_fooling_rate=result.criterion.target,
        fooling_rate=result.fooling_rate,
        bound=result.budget.bound,
        missed_at=result.missed_at,
        iterations=result.budget.iterations,
        settings=result.budget.settings,
        perturbation=result.perturbation(),
        l0=norms["l0"],
        l2=norms["l2"],
        linf=norms["linf"],
        samples=len(result.success),
        seed=search.seed,
        sample_limit=sample_limit(options, result.attack),
        longest=search.longest(),
        capped=search.longest() < longest_run(search.spec),
        transferred_fooling_rate=None if transferred is None else float(transferred.mean()),
        plain_run_id=plain.run_id if plain else None,
        run_id=run_id,
        passes=result.passes,
        score=result.score(),
        fooling_low=fooling_low,
        fooling_high=fooling_high,
        auc_low=auc_low,
        auc_high=auc_high,
        contradictions=result.contradictions,
        cut_short=result.cut_short,
        criterion=result.criterion.name,
        protocol=options.protocol,
        front=result.front,
        settled=result.settled,
        code_version=CODE_VERSION,
    )
