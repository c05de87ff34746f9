"""Whether a victim seems to mask its gradients: looked at after every search, told in its run, read again by victim."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import torch

from advtrack.attacks.masking import black_box_sign, masking_signs
from advtrack.attacks.sign import Sign
from advtrack.reporting.records import AttackRecord
from advtrack.stages.attacking import Attacked, search_of
from advtrack.stages.defaults import HARDENING
from advtrack.stages.sample_table import read_samples
from advtrack.stages.searched import find_records
from advtrack.tracking import lookup, runs

logger = logging.getLogger("advtrack")

#: Clips that are looked at.
SAMPLES = 20
# The bound of that look where no search tells one: that of adversarial training.
_EPS = HARDENING["eps"]
# Tags of a run: whether a sign is there, and the numbers behind that.
_THERE, _NUMBERS = "masking.", "masking_numbers."


def look(stage: runs.StageRun, attacked: Attacked, records: Mapping[str, AttackRecord]) -> None:
    """Look for the signs, beside what the searches showed, and log each with its numbers; warn of those there are."""
    # One of them may have been searched by an earlier command.
    records = find_records(attacked.version, ("bim_a", "pia")) | dict(records)
    bim, pia = (records.get(name) for name in ("bim_a", "pia"))
    struck = attacked.struck("fgsm").samples.take(slice(SAMPLES))
    # Half of what fools nearly all fools some and not all.
    eps = bim.bound / 2 if bim else _EPS
    found = masking_signs(attacked.victim.network, struck.x, struck.y, eps=eps)
    signs, metrics = found.signs(), asdict(found) | {"samples": len(struck)}
    if pia and (sign := _black_box_sign(attacked, pia)):
        signs["black_box_beats_white_box"] = sign
        metrics |= sign.numbers
    stage.metrics({f"masking/{name}": value for name, value in metrics.items() if math.isfinite(value)})
    write_signs(stage, signs)
    if raised := [f"{name} ({sign.told()})" for name, sign in sorted(signs.items()) if sign.there]:
        logger.warning("%s may mask its gradients: %s", attacked.title, "; ".join(raised))


def _black_box_sign(attacked: Attacked, pia: AttackRecord) -> Sign | None:
    """Hold BIM-a against PIA on the clips on which that was searched; None if there is no such clip any more."""
    struck, store = attacked.struck("pia"), attacked.store
    rows = {(row.clip, row.target_class): row for row in read_samples(pia.run_id, "pia")}
    keys = [(str(store.name[i]), store.classes[t]) for i, t in zip(struck.indices, struck.samples.target, strict=True)]
    shared = [i for i, key in enumerate(keys) if key in rows]
    if not shared:
        return None
    samples = struck.samples.take(np.array(shared))
    searched = [rows[keys[i]] for i in shared]
    eps = torch.tensor([row.linf if row.success else math.inf for row in searched], device=samples.x.device)
    longest = search_of(attacked.options, "bim_a").longest()
    return black_box_sign(attacked.victim.network, samples.x, samples.target, eps, max_iter=longest)


def write_signs(stage: runs.StageRun, signs: Mapping[str, Sign]) -> None:
    """Tag a run with what was found; a number that is infinite as null."""
    stage.tags({f"{_THERE}{name}": sign.there for name, sign in signs.items()})
    for name, sign in signs.items():
        numbers = {key: value if math.isfinite(value) else None for key, value in sign.numbers.items()}
        stage.tags({f"{_NUMBERS}{name}": json.dumps(numbers)})


def read_signs(looked: Iterable[lookup.Run]) -> dict[str, Sign]:
    """Every sign that runs have looked for; of one that several have, the newest run that has it, else the newest."""
    found: dict[str, Sign] = {}
    for run in sorted(looked, key=lambda run: (run.info.start_time, run.info.run_id)):
        numbers = lookup.prefixed_tags(run, _NUMBERS)
        for name, there in lookup.prefixed_tags(run, _THERE).items():
            measured = json.loads(numbers[name])
            sign = Sign(there == "True", {key: math.inf if v is None else v for key, v in measured.items()})
            if sign.there or name not in found or not found[name].there:
                found[name] = sign
    return dict(sorted(found.items()))
