"""Whether a victim seems to mask its gradients: looked at after every search, told in its run, read again by victim."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np

from advtrack.attacks.masking import TOLERATED, masking_signs
from advtrack.attacks.sign import Sign
from advtrack.reporting.records import AttackRecord
from advtrack.stages.attacking import Attacked
from advtrack.stages.defaults import HARDENING
from advtrack.stages.sample_table import SampleRow, read_samples
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
    if bim and pia:
        white, black = (read_samples(record.run_id, record.attack) for record in (bim, pia))
        if sign := black_box_sign(white, black):
            signs["black_box_beats_white_box"] = sign
            metrics |= sign.numbers
    stage.metrics({f"masking/{name}": value for name, value in metrics.items() if math.isfinite(value)})
    write_signs(stage, signs)
    if raised := [f"{name} ({sign.told()})" for name, sign in sorted(signs.items()) if sign.there]:
        logger.warning("%s may mask its gradients: %s", attacked.title, "; ".join(raised))


def black_box_sign(white: Iterable[SampleRow], black: Iterable[SampleRow]) -> Sign | None:
    """Hold PIA against BIM-a on the clips that both led to the same target; None if there is no such clip.

    PIA is known to be the better one on a clip where it found an example within an eps in which the longest run of
    BIM-a found none. The medians are of the smallest eps known to fool each clip, infinite where half are not fooled.
    """
    by_clip = {(row.clip, row.target_class): row for row in white}
    shared = [(by_clip[key], row) for row in black if (key := (row.clip, row.target_class)) in by_clip]
    if not shared:
        return None
    pia = np.array([row.linf if row.success else math.inf for _, row in shared])
    nearer = float((pia < [row.resisted_at for row, _ in shared]).mean())
    bim_a_median = float(np.median([row.fooled_at for row, _ in shared]))
    medians = {"pia_median_eps": float(np.median(pia)), "bim_a_median_eps": bim_a_median}
    return Sign(nearer > TOLERATED, {"black_box_nearer": nearer, **medians, "clips": len(shared)})


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
