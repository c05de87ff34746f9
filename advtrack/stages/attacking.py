"""What is asked of an attack, and the victim and the clips that it strikes."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.attacks.batches import Precision
from advtrack.errors import redacted
from advtrack.models import checkpoint
from advtrack.models.checkpoint import Victim
from advtrack.representations.store import SpectrogramSet
from advtrack.search.criterion import Criterion, CriterionName
from advtrack.search.sampler import SamplerName
from advtrack.search.space import Search
from advtrack.stages.by_name import whole_number_for
from advtrack.stages.defaults import ATTACKING, SEARCHING
from advtrack.stages.device import choose_device
from advtrack.stages.features import find_store
from advtrack.stages.samples import PAPER_BATCH, Protocol, Struck, shown_list, strike_list
from advtrack.stages.victims import only_victim
from advtrack.tracking import registry

logger = logging.getLogger("advtrack")

#: Of the attacks and their search; raised when their results change.
CODE_VERSION = 20
#: Options that play a part in a search alone.
ONLY_SEARCHED = {"target_fooling_rate", "trials", "max_iter", "criterion", "tolerance", "sampler", "workers", "storage"}


@dataclass(frozen=True)
class Attacking:
    """Options of the stage; those of the command line of the same name.

    ``samples`` and ``max_iter`` are whole numbers with exceptions by attack, as '12,pia=4'. 0 stands for all clips
    (``samples``; see `sample_limit`) and for each attack's own longest run (``max_iter``). With ``budget_from``, an
    MLflow run or an alias, nothing is searched: the budgets found there are tried on this victim.
    """

    dataset: str
    model: str
    representation: str
    victim: str
    attacks: tuple[str, ...]
    samples: str
    storage: str
    seed: int
    device: str
    target_fooling_rate: float = SEARCHING["target_fooling_rate"]
    trials: int = SEARCHING["trials"]
    max_iter: str = SEARCHING["max_iter"]
    precision: Precision = SEARCHING["precision"]
    criterion: CriterionName = SEARCHING["criterion"]
    tolerance: float = SEARCHING["tolerance"]
    sampler: SamplerName = SEARCHING["sampler"]
    protocol: Protocol = SEARCHING["protocol"]
    workers: int = ATTACKING["workers"]
    budget_from: str = ATTACKING["budget_from"]
    force: bool = False


@dataclass(frozen=True)
class Attacked:
    """The victim of a run, and what is asked of it."""

    options: Attacking
    version: registry.Registered
    victim: Victim
    store: SpectrogramSet
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
        """What a run says of its options, but for those that play no part in it."""
        told = asdict(self.options) | {"device": str(self.device), "storage": redacted(self.options.storage)}
        without = ONLY_SEARCHED if self.options.budget_from else {"budget_from"}
        told = {name: value for name, value in told.items() if name not in without}
        return {**told, "training": self.victim.description.training["kind"]}

    def struck(self, attack: str) -> Struck:
        """Whom an attack strikes."""
        options, limit, spec = self.options, sample_limit(self.options, attack), ATTACKS[attack]
        return strike_list(self.victim, self.store, spec, limit, options.seed, self.device, options.protocol)

    def shown(self, attack: str) -> Struck:
        """On whom an attack is shown."""
        return shown_list(self.victim, self.store, ATTACKS[attack], self.options.seed, self.device)


def attacked_by(options: Attacking) -> Attacked:
    """Load the victim that the options name.

    Raises
    ------
    InputError
        There is none.
    """
    version = only_victim(options.dataset, options.representation, options.model, options.victim)
    device = choose_device(options.device)
    victim = checkpoint.load(registry.download(version), device)
    digest = victim.description.training["store_digest"]
    store, _ = find_store(victim.description.dataset, options.representation, store_digest=digest)
    _say_caps(options)
    return Attacked(options, version, victim, store, device)


def _say_caps(options: Attacking) -> None:
    """Name the attacks that strike fewer clips than are asked for of all."""
    for attack in options.attacks:
        asked, _ = whole_number_for("samples", options.samples, attack, TABLE_ATTACKS)
        if (limit := sample_limit(options, attack)) and limit < asked:
            told = attack, options.samples, limit, attack, asked
            logger.info("%s: --samples %s is capped at its %d clips; %s=%d takes more", *told)


def sample_limit(options: Attacking, attack: str) -> int:
    """How many clips an attack strikes at most, 0 for all: a costly one has a limit that a number by its name lifts."""
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
