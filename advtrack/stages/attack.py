"""Entry point ``attack``: a budget search per attack against one registered victim."""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.attacks.batches import Precision
from advtrack.attacks.masking import TOLERATED, masking_signs
from advtrack.errors import redacted
from advtrack.models import checkpoint
from advtrack.models.checkpoint import Victim
from advtrack.reporting.records import AttackRecord
from advtrack.representations.store import SpectrogramSet
from advtrack.search.criterion import Criterion, CriterionName
from advtrack.search.result import BudgetResult
from advtrack.search.sampler import SamplerName
from advtrack.search.space import Budget, Search
from advtrack.search.study import Storage, open_storage, publish, search_budget, transferred_success
from advtrack.stages.by_name import whole_number_for
from advtrack.stages.clips import perturbation_ratios, sample_rows
from advtrack.stages.device import choose_device
from advtrack.stages.evidence import log_search
from advtrack.stages.features import find_store
from advtrack.stages.samples import PAPER_BATCH, Protocol, Struck, shown_list, strike_list
from advtrack.stages.victims import only_victim, plain_victim
from advtrack.tracking import registry, runs

logger = logging.getLogger("advtrack")

CODE_VERSION = 11
DEFAULT_TRIALS = 24
_MAY_BE_UNDEFINED = ("perturbation", "l0", "l2", "linf", "fooling_low", "fooling_high", "auc_low", "auc_high")
# Clips that are looked at for signs of masked gradients.
_MASKING_SAMPLES = 20
# The bound of that look where no search tells one: that of adversarial training.
_MASKING_EPS = 8 / 255


@dataclass(frozen=True)
class Attacking:
    """Options of the stage; those of the command line of the same name.

    ``samples`` and ``max_iter`` are whole numbers with exceptions by attack, as '12,pia=4'. 0 stands for all clips
    (``samples``) and for each attack's own longest run (``max_iter``). With ``budget_from``, an MLflow run or an alias,
    nothing is searched: the budgets found there are tried on this victim.
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
    criterion: CriterionName = "fooling_rate"
    tolerance: float = 0.05
    sampler: SamplerName = "bounds"
    protocol: Protocol = "test"
    workers: int = 1
    budget_from: str = ""
    force: bool = False


def run(options: Attacking) -> str:
    """Search the budget of every attack; the MLflow run that holds the results.

    An adversarially trained victim is also struck under the budgets found on the plain one (table II), if those
    searches are done, and its perturbations are held against the plain victim's (table III).

    Raises
    ------
    InputError
        No such victim, or nothing it classifies correctly.
    """
    attacked = attacked_by(options)
    version, victim = attacked.version, attacked.victim
    adversarial = victim.description.training["kind"] == "adversarial"
    plain = plain_records(version, options.attacks) if adversarial else {}
    keys = {attack: _attack_key(options, attack, victim, plain.get(attack)) for attack in options.attacks}
    tags = attacked.tags()
    tags |= {"plain_runs": ",".join(sorted({record.run_id for record in plain.values()}))} if plain else {}
    with runs.stage_run(
        "attack", CODE_VERSION, keys, title=attacked.title, params=attacked.params(), tags=tags, force=options.force
    ) as stage:
        if not stage.reused:
            stage.dataset(victim.description.dataset, attacked.store.data_digest, str(attacked.store.path))
            records = {}
            for attack in options.attacks:
                record = None if options.force else _earlier(attack, keys[attack])
                record = record or _searched(attack, attacked, plain.get(attack), stage)
                _log_record(stage, record, keys[attack])
                _say(record, str(version))
                records[attack] = record
            _log_masking(stage, attacked, records)
        # The victim's version names the run that holds its results, found now or before.
        registry.tag(version, {f"attack.{attack}": stage.run_id for attack in options.attacks})
    return stage.run_id


@dataclass(frozen=True)
class Attacked:
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

    def tags(self) -> dict[str, Any]:
        """What a run says of its victim."""
        description, training = self.victim.description, self.victim.description.training
        return {
            "dataset": description.dataset,
            "representation": self.options.representation,
            "model": self.options.model,
            "training": training["kind"],
            "fold": training["fold"],
            "victim": f"{self.version.name}/{self.version.version}",
            "victim_run": self.version.run_id,
            "store_digest": self.store.digest,
        }

    def params(self) -> dict[str, Any]:
        """What a run says of its options."""
        told = {"device": str(self.device), "storage": redacted(self.options.storage)}
        return {**asdict(self.options), **told, "training": self.victim.description.training["kind"]}

    def struck(self, attack: str) -> Struck:
        """Whom an attack strikes."""
        options, limit = self.options, sample_limit(self.options, attack)
        spec = ATTACKS[attack]
        return strike_list(self.victim, self.store, spec, limit, options.seed, self.device, options.protocol)

    def shown(self, attack: str) -> Struck:
        """On whom an attack is shown."""
        return shown_list(self.victim, self.store, ATTACKS[attack], self.options.seed, self.device)


def attacked_by(options: Attacking) -> Attacked:
    """Load the victim that the options name.

    Raises
    ------
    InputError
        There is none, or the storage of the studies cannot be used.
    """
    version = only_victim(options.dataset, options.representation, options.model, options.victim)
    storage = open_storage(options.storage)
    device = choose_device(options.device)
    victim = checkpoint.load(registry.download(version), device)
    digest = victim.description.training["store_digest"]
    store, _ = find_store(victim.description.dataset, options.representation, store_digest=digest)
    return Attacked(options, version, victim, store, storage, device)


def _searched(attack: str, attacked: Attacked, plain: AttackRecord | None, stage: runs.StageRun) -> AttackRecord:
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
        attacked.storage,
        study,
        title,
        fresh=options.force,
        workers=options.workers,
        url=options.storage,
    )
    transferred = None
    if plain:
        budget = Budget(plain.bound, plain.iterations, plain.settings)
        transferred = transferred_success(victim.network, struck.samples, search, budget, result, attacked.storage)
    pictures = log_search(stage, result, struck, attacked.store, victim, search, attacked.shown(attack), transferred)
    facts = {
        "victim": f"{version.name}/{version.version}",
        "mlflow_run": stage.run_id,
        "command": _command(attacked, attack),
    }
    publish(result, attacked.storage, options.storage, title, facts, pictures)
    record = _record(result, search, options, transferred, plain, stage.run_id)
    return replace(record, ratios=perturbation_ratios(plain, record)) if plain else record


def _command(attacked: Attacked, attack: str) -> str:
    """The command that makes one of the searches."""
    values = {**asdict(attacked.options), "attack": attack, "storage": redacted(attacked.options.storage)}
    own = {field.name: field.default for field in fields(Attacking)} | {"trials": DEFAULT_TRIALS, "seed": 0}
    own |= {"target_fooling_rate": 0.9, "samples": "0", "max_iter": "0", "device": "auto", "force": values["force"]}
    own |= {"storage": "sqlite:///optuna.db"}
    values.pop("attacks")
    given = {name: value for name, value in values.items() if value != own.get(name, MISSING)}
    return "advtrack attack" + "".join(f" --{n.replace('_', '-')} {shlex.quote(str(v))}" for n, v in given.items())


def black_box_nearer(white: Iterable[Mapping[str, str]], black: Iterable[Mapping[str, str]]) -> float:
    """Share of the clips struck by both attacks on which the black box is known to be the better one; NaN for none.

    There it found an example of the same target within a bound in which the longest run of the other found none.
    """
    resisted = {(row["clip"], row["target"]): float(row["resisted_at"]) for row in white}
    shared = [row for row in black if (row["clip"], row["target"]) in resisted]
    nearer = [row["success"] == "True" and float(row["linf"]) < resisted[row["clip"], row["target"]] for row in shared]
    return float(np.mean(nearer)) if nearer else math.nan


def _log_masking(stage: runs.StageRun, attacked: Attacked, records: Mapping[str, AttackRecord]) -> None:
    """Look whether the victim masks its gradients, beside what the searches showed; say so if it does."""
    # One of them may have been searched by an earlier command.
    records = find_records(attacked.version, ("bim_a", "pia")) | dict(records)
    bim, pia = (records.get(name) for name in ("bim_a", "pia"))
    struck = attacked.struck("fgsm").samples.take(slice(_MASKING_SAMPLES))
    # Half of what fools nearly all fools some and not all.
    eps = bim.bound / 2 if bim else _MASKING_EPS
    signs = masking_signs(attacked.victim.network, struck.x, struck.y, eps=eps)
    flags = signs.flags()
    metrics = asdict(signs) | {"eps": eps, "samples": len(struck)}
    if bim and pia:
        metrics["black_box_nearer"] = black_box_nearer(sample_rows(bim), sample_rows(pia))
        flags["black_box_beats_white_box"] = metrics["black_box_nearer"] > TOLERATED
    stage.metrics({f"masking/{name}": float(value) for name, value in metrics.items() if value == value})
    stage.tags({f"masking.{name}": flag for name, flag in flags.items()})
    if raised := sorted(name for name, flag in flags.items() if flag):
        logger.warning("%s may mask its gradients: %s", attacked.title, ", ".join(raised))


def read_record(run_id: str, attack: str) -> AttackRecord:
    """The result of one attack in a finished run."""
    content = json.loads(runs.read_artifact(run_id, f"{attack}/result.json"))
    # JSON has no NaN, which these are where nothing was fooled.
    undefined = {name: math.nan for name in _MAY_BE_UNDEFINED if content.get(name, 0) is None}
    return AttackRecord(**{**content, **undefined})


def find_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, AttackRecord]:
    """The result of each attack against a registered victim, of the search that was asked for last."""
    last = {attack: version.tags.get(f"attack.{attack}") for attack in attacks}
    return {attack: read_record(run_id, attack) for attack, run_id in last.items() if run_id}


def plain_records(version: registry.Registered, attacks: Sequence[str]) -> dict[str, AttackRecord]:
    """Results on the plainly trained victim that differs from this one in nothing but its training, by attack."""
    plain = plain_victim(version)
    return find_records(plain, attacks) if plain else {}


def sample_limit(options: Attacking, attack: str) -> int:
    """How many clips an attack strikes at most, 0 for all: a costly one has its own limit unless told otherwise."""
    limit, own = whole_number_for("samples", options.samples, attack, TABLE_ATTACKS)
    default = ATTACKS[attack].sample_limit
    return min(limit or default, default) if default and not own else limit


def search_of(options: Attacking, attack: str) -> Search:
    """How the options search the budget of an attack."""
    max_iter, _ = whole_number_for("max-iter", options.max_iter, attack, TABLE_ATTACKS)
    return Search(
        attack,
        Criterion(options.criterion, options.target_fooling_rate),
        options.trials,
        options.seed,
        max_iter,
        options.tolerance,
        options.sampler,
        precision=options.precision,
        **({"batch_size": PAPER_BATCH} if options.protocol == "paper" else {}),
    )


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
    for run_ in runs.find({f"key.{attack}": key}):
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
        transferred_fooling_rate=None if transferred is None else float(transferred.mean()),
        plain_run_id=plain.run_id if plain else None,
        run_id=run_id,
        passes=result.passes,
        fooling_low=fooling_low,
        fooling_high=fooling_high,
        auc_low=auc_low,
        auc_high=auc_high,
        contradictions=result.contradictions,
        criterion=result.criterion.name,
        protocol=options.protocol,
        front=result.front,
        settled=result.settled,
        code_version=CODE_VERSION,
    )


def _log_record(stage: runs.StageRun, record: AttackRecord, key: str) -> None:
    """Metrics and the result; the tag comes last and says that the result is whole."""
    metrics = {"fooling_rate": record.fooling_rate, "bound": record.bound, "iterations": record.iterations}
    metrics |= {"perturbation": record.perturbation, "l0": record.l0, "l2": record.l2, "linf": record.linf}
    metrics |= {"samples": record.samples, "passes": record.passes, "contradictions": record.contradictions}
    metrics |= {name: getattr(record, name) for name in ("fooling_low", "fooling_high", "auc_low", "auc_high")}
    for norm, (ratio, low, high) in record.ratios.items():
        metrics |= {f"ratio_{norm}": ratio, f"ratio_{norm}_low": low, f"ratio_{norm}_high": high}
    if record.transferred_fooling_rate is not None:
        metrics["transferred_fooling_rate"] = record.transferred_fooling_rate
    stage.metrics({f"{record.attack}/{name}": value for name, value in metrics.items() if value == value})
    stage.json(asdict(record), f"{record.attack}/result.json")
    stage.tags({f"{record.attack}.settled": record.settled})
    stage.tags({f"{record.attack}.target_reached": record.target_reached, f"key.{record.attack}": key})


def _say(record: AttackRecord, victim: str) -> None:
    verdict = "reaches" if record.target_reached else "misses"
    under_plain = record.transferred_fooling_rate
    passes = record.passes / record.samples
    logger.info(
        "%s against %s: fooling rate %.3f (%.3f to %.3f) %s %.2f on %d clips at %s <= %.4g%s, %d iterations; "
        "%.0f passes a clip%s%s%s",
        record.attack, victim, record.fooling_rate, record.fooling_low, record.fooling_high, verdict,
        record.target_fooling_rate, record.samples,
        record.norm, record.bound, f" (not at {record.missed_at:.4g})" if record.missed_at else "", record.iterations,
        passes, _ratio(record), f"; {record.contradictions} contradictions" if record.contradictions else "",
        "" if under_plain is None else f"; {under_plain:.3f} under the plain victim's budget",
    )  # fmt: skip
    if not record.settled:
        above = f"{record.bound:.4g}" if record.target_reached else "anything"
        logger.warning(
            "%s against %s: trials ran out; the smallest bound lies between %.4g and %s; --trials allows more",
            record.attack, victim, record.missed_at or 0, above,
        )  # fmt: skip


def _ratio(record: AttackRecord) -> str:
    """The ratio of table III in words; nothing where there is none."""
    if record.norm not in record.ratios:
        return ""
    ratio, low, high = record.ratios[record.norm]
    at_least = "" if record.target_reached else "≥ "
    return f"; {at_least}{ratio:.2f} ({low:.2f} to {high:.2f}) times the plain victim's perturbation"
