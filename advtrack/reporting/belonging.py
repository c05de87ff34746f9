"""Which results belong together: only what was done on the same data, in the same way, is averaged or compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from advtrack.reporting.records import AttackRecord, VictimRecord

_OF_A_SEARCH = ("protocol", "criterion", "target_fooling_rate", "seed", "code_version")
# What may differ from attack to attack, since some cost more than others.
_OF_ITS_ATTACK = ("sample_limit", "longest")
_SAID = {"sample_limit": "number of clips (0: all)", "longest": "cap on iterations"}


def belonging(records: Sequence[VictimRecord]) -> tuple[list[VictimRecord], tuple[str, ...]]:
    """Keep, for each data set, the largest group of victims and of searches that belong together.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order.

    Returns
    -------
    list of VictimRecord
        Those that belong together, with the searches that do, sorted by name.
    tuple of str
        For each victim or search left out, which it is and why.
    """
    kept, left_out = [], []
    records = sorted(records, key=lambda record: (record.cell, record.training != "plain", record.run_id))
    for dataset in sorted({record.dataset for record in records}):
        candidates = [record for record in records if record.dataset == dataset]
        basis = _most_common(record.basis for record in candidates)
        victims = []
        for record in candidates:
            if differing := _differing(record.basis, basis):
                left_out.append(f"{_name(record)} (run {record.run_id}) is left out: {differing}")
            else:
                victims.append(record)
        searches = [attack for record in victims for attack in record.attacks.values()]
        common = _most_common(_named(_OF_A_SEARCH, attack) for attack in searches)
        its = {
            name: _most_common(_named(_OF_ITS_ATTACK, attack) for attack in searches if attack.attack == name)
            for name in {attack.attack for attack in searches}
        }
        for record in victims:
            attacks = {}
            for name, attack in sorted(record.attacks.items()):
                if differing := _differing(_named(_OF_A_SEARCH + _OF_ITS_ATTACK, attack), common | its[name]):
                    left_out.append(f"{name} on {_name(record)} (run {attack.run_id}) is left out: {differing}")
                else:
                    attacks[name] = attack
            kept.append(replace(record, attacks=attacks))
    return kept, tuple(left_out)


def _most_common(bases: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The basis that most have; of equally many the last by value, so that no order decides."""
    counts = Counter(tuple(sorted(basis.items())) for basis in bases)
    return dict(max(counts.items(), key=lambda item: (item[1], item[0]))[0]) if counts else {}


def _differing(basis: Mapping[str, str], common: Mapping[str, str]) -> str:
    """Say in what a basis differs from the common one; nothing if it does not."""
    names = sorted(basis.keys() | common.keys())
    return ", ".join(
        f"its {name} is {basis.get(name, 'unknown')}, that of most others {common.get(name, 'unknown')}"
        for name in names
        if basis.get(name) != common.get(name)
    )


def _named(fields: Sequence[str], attack: AttackRecord) -> dict[str, str]:
    return {_SAID.get(name, name.replace("_", " ")): str(getattr(attack, name)) for name in fields}


def _name(record: VictimRecord) -> str:
    return f"the {record.training} {record.model} on {record.dataset}, {record.representation}"
